"""Log files for people, in the shapes that tools know."""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from model_api import END, TOOLS, sse

from mcp_endpoint.exchanges import Exchange
from mcp_endpoint.recorder import files
from mcp_endpoint.recorder.files import Messages, entry, label_of, readable, stamp, trim, write_exchange

AT = 1_704_110_400.0
FIELDS = ["id", "timestamp", "method", "path", "headers", "body", "response_status", "response_headers", "response_body", "duration_ms"]


class Stars:
    """Rules that take out one word."""

    def body(self, data: bytes) -> bytes:
        return data.replace(b"sk-secret", b"***")

    def headers(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(name, value.replace("sk-secret", "***")) for name, value in headers]

    def path(self, path: str) -> str:
        return path.replace("sk-secret", "***")


def exchange(*chunks: bytes, kind: bytes = b"application/json", **more: Any) -> Exchange:
    made = Exchange(
        started=AT,
        ms=1234.56,
        first_ms=1.0,
        endpoint=None,
        label="openrouter",
        client="127.0.0.1",
        method="POST",
        path="/v1/chat/completions?key=sk-secret",
        status=200,
        ending="ok",
        request_headers=[(b"authorization", b"Bearer sk-secret"), (b"accept", b"a"), (b"accept", b"b")],
        request_body=b'{"model":"gpt-x","messages":[]}',
        answer_headers=[(b"content-type", kind)],
        answer_chunks=[(0.1, chunk) for chunk in chunks],
        seen_bytes=9,
        truncated=False,
    )
    return msgspec.structs.replace(made, **more)


def test_an_exchange_has_exactly_its_fields_and_no_secret(tmp_path: Path) -> None:
    path = write_exchange(tmp_path, exchange(b'{"object":', b'"chat.completion"}'), Stars())
    assert re.fullmatch(r"\d{8}_\d{6}_[0-9a-f-]{36}\.json", path.name)
    assert path.parent == tmp_path / "llm_proxy"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = path.read_text("utf-8")
    assert "sk-secret" not in written
    found = json.loads(written)
    assert list(found) == FIELDS
    assert found["id"] in path.name
    assert found["timestamp"] == stamp(AT)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", found["timestamp"])
    assert (found["method"], found["path"], found["response_status"]) == ("POST", "/v1/chat/completions?key=***", 200)
    assert found["headers"] == {"authorization": "Bearer ***", "accept": "a, b"}
    assert found["body"] == {"model": "gpt-x", "messages": []}
    assert found["response_body"] == {"object": "chat.completion"}
    assert found["response_headers"] == {"content-type": "application/json"}
    assert found["duration_ms"] == 1234.6


def test_a_stream_has_a_text_per_event_and_the_message_they_make() -> None:
    body = sse(TOOLS, end=END)
    found = entry(exchange(body[:100], body[100:], kind=b"text/event-stream"), Stars(), "id")
    assert list(found) == [*FIELDS[:-1], "response_chunks", FIELDS[-1]]
    assert [json.loads(text) for text in found["response_chunks"][:-1]] == TOOLS
    assert found["response_chunks"][-1] == "[DONE]"
    assert found["response_body"]["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


def test_a_compressed_stream_is_shown_without_its_compression() -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")]
    found = entry(exchange(gzip.compress(sse(TOOLS, end=END)), answer_headers=headers), Stars(), "id")
    assert found["response_chunks"][-1] == "[DONE]"
    assert found["response_body"]["object"] == "chat.completion"


def test_a_secret_that_two_chunks_divide_is_taken_out() -> None:
    body = b'data: {"choices":[{"index":0,"delta":{"content":"sk-secret"}}]}\n\n'
    found = entry(exchange(body[:55], body[55:], kind=b"text/event-stream"), Stars(), "id")
    assert found["response_body"]["choices"][0]["message"]["content"] == "***"
    assert "sk-secret" not in str(found)


def test_a_stream_of_another_kind_is_its_text_and_no_answer_has_no_status() -> None:
    found = entry(exchange(b"data: x\n\n", kind=b"text/event-stream", path="/v1/other"), Stars(), "id")
    assert (found["response_body"], found["response_chunks"]) == ("data: x\n\n", ["x"])
    found = entry(exchange(status=0, ending="aborted", answer_headers=[]), Stars(), "id")
    assert (found["response_status"], found["response_body"]) == (None, None)


@pytest.mark.parametrize(
    ("body", "shown"), [(b"", None), (b"null", None), (b'{"a":1}', {"a": 1}), ("你".encode(), "你"), (b"\xff\xfb", {"base64": "//s="})]
)
def test_a_body_is_its_value_its_text_or_its_bytes(body: bytes, shown: Any) -> None:
    assert readable(body) == shown


def test_messages_are_lines_under_the_side_that_sent_them(tmp_path: Path) -> None:
    messages = Messages(tmp_path, "weather", Stars(), AT)
    messages.write(AT, "request", b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"key":"sk-secret"}}')
    messages.write(AT, "response", b"  ")
    messages.write(AT + 1, "response", b"Listening")
    messages.close()
    assert messages.path.parent == tmp_path / "mcp_weather"
    assert re.fullmatch(r"\d{8}_[0-9a-f-]{36}\.jsonl", messages.path.name)
    assert stat.S_IMODE(messages.path.stat().st_mode) == 0o600
    first, second = map(json.loads, messages.path.read_text("utf-8").splitlines())
    assert list(first) == ["session_id", "timestamp", "direction", "message"]
    assert (first["direction"], first["message"]["params"]) == ("request", {"key": "***"})
    assert (second["timestamp"], second["direction"], second["message"]) == (stamp(AT + 1), "response", "Listening")
    assert first["session_id"] == second["session_id"]


@pytest.mark.parametrize(("name", "label"), [("weather", "weather"), ("my server/../x", "my_server_x"), ("天气", "server"), ("", "server")])
def test_a_label_names_one_folder(name: str, label: str) -> None:
    assert label_of(name) == label


def test_the_oldest_files_go_first(tmp_path: Path) -> None:
    (tmp_path / "llm_proxy").mkdir()
    (tmp_path / "mcp_x").mkdir()
    days = files.DAY_SECONDS
    kept = {"llm_proxy/b.json": 1.0, "mcp_x/c.jsonl": 2.0}
    for name, age in {"llm_proxy/a.json": 9.0, **kept, "other.json": 99.0, "mcp_x/other.txt": 99.0}.items():
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (AT, AT - age * days))
    trim(tmp_path, 1000, 7.0, AT)
    assert not (tmp_path / "llm_proxy/a.json").exists()
    assert all((tmp_path / name).exists() for name in kept)
    trim(tmp_path, 150, 7.0, AT)
    assert [name for name in kept if (tmp_path / name).exists()] == ["llm_proxy/b.json"]
    assert (tmp_path / "other.json").exists() and (tmp_path / "mcp_x/other.txt").exists()
    trim(tmp_path / "nothing", 1, 1.0, AT)


def test_a_file_that_cannot_be_removed_or_seen_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llm_proxy").mkdir()
    (tmp_path / "llm_proxy/a.json").write_bytes(b"x")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    trim(tmp_path, 0, 7.0, AT)
    monkeypatch.setattr(Path, "lstat", refuse)
    trim(tmp_path, 0, 7.0, AT)
    assert (tmp_path / "llm_proxy/a.json").read_bytes() == b"x"
