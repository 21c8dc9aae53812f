"""A person reads, exports and deletes records, while a server may write to the file."""

from __future__ import annotations

import io
import json
from itertools import islice
from pathlib import Path

import pytest
from model_api import END, TOOLS, sse

from mcp_endpoint.commands import records
from mcp_endpoint.commands.main import main
from mcp_endpoint.errors import EndpointError
from mcp_endpoint.recorder.export import side_of
from mcp_endpoint.recorder.store import Record, Session, Store
from mcp_endpoint.settings.schema import Config

AT = 1_795_700_000_000


def call(tool: str = "who", **more: object) -> Record:
    fields: dict[str, object] = {"at": AT, "ms": 12.0, "endpoint": "9f86", "label": "house", "method": "tools/call"} | more
    return Record(kind="call", tool=tool, request=b'{"city":"\xe5\x8c\x97\xe4\xba\xac"}', answer=b"{}", **fields)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "data").mkdir()
    store = Store(tmp_path / "data" / "records.db", 10**9, 7)
    exchange = Record(
        at=AT,
        kind="exchange",
        model="gpt-5",
        request=side_of([b'{"a":1}'], [("host", "here")], client="127.0.0.1"),
        answer=side_of([b"not json \x1b[31m"], []),
    )
    session = Session(id=17, kind="link", endpoint="9f86", side="device", name="lamp", began=AT)
    store.save([call(), call("danger\x1b[2J", status="timed_out", code=-32006, session=17), exchange], [session])
    return store


def said(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(root, list(words))
    assert ended.value.code == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_records_are_listed_shown_and_counted(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, tmp_path, "records", "list").splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert "who  house  12 ms  ok" in lines[0] and "danger\\x1b[2J" in lines[1] and "timed_out (-32006)" in lines[1]
    assert said(capsys, tmp_path, "records", "list", "-tool:who", "--lines", "1").split()[0] == "3"
    assert json.loads(said(capsys, tmp_path, "records", "list", "北京", "status:ok", "--json"))["id"] == 1
    whole = said(capsys, tmp_path, "records", "show", "2")
    assert "session 17  device  lamp" in whole and '"city": "北京"' in whole
    whole = said(capsys, tmp_path, "records", "show", "3")
    assert "host: here" in whole and "not json \\x1b[31m" in whole
    assert json.loads(said(capsys, tmp_path, "records", "show", "1", "--json"))["tool"] == "who"
    figures = said(capsys, tmp_path, "records", "stats")
    assert "records  3" in figures and "model  gpt-5  1" in figures


def test_a_stream_is_shown_as_it_came_and_as_the_message_it_makes(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = side_of([sse(TOOLS, end=END)], [("content-type", "text/event-stream"), ("content-encoding", "gzip")])
    store.save([Record(at=AT, kind="exchange", method="POST /v1/chat/completions?a=1", request=side_of([b"{}"], []), answer=answer)])
    wanted = Record(at=AT, kind="exchange", model="gpt-5", tool="get_weather", request=side_of([b"{}"], []), answer=side_of([b"{}"], []))
    store.save([wanted])
    assert "gpt-5 → get_weather" in said(capsys, tmp_path, "records", "list", "--lines", "1")
    _, _, message = said(capsys, tmp_path, "records", "show", "4").partition("the message of the stream\n")
    assert json.loads(message)["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":"北京"}'


def test_records_leave_come_back_and_go(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported = said(capsys, tmp_path, "records", "export", "kind:call")
    assert [json.loads(line)["id"] for line in exported.splitlines()] == [1, 2]
    (tmp_path / "exported").write_text("\n" + exported, "utf-8")
    assert "2 records imported" in said(capsys, tmp_path, "records", "import", str(tmp_path / "exported"))
    assert "2 records deleted" in said(capsys, tmp_path, "records", "delete", "status:timed_out")
    assert "3 records deleted" in said(capsys, tmp_path, "records", "delete", "--all")
    assert "records  0" in said(capsys, tmp_path, "records", "stats")


def test_tail_shows_what_is_there_and_then_what_comes(store: Store) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            store.save([call("other"), call("new")])
        elif len(waits) == 3:
            store.save([call(f"many{number}") for number in range(150)])

    lines = records.tail(store.path, ["kind:call", "-tool:other"], 1, as_json=False, wait=wait)
    first, second = islice(lines, 2)
    assert "danger" in first and "new" in second and len(waits) == 2
    rest = list(islice(lines, 150))
    assert "many0 " in rest[0] and "many149 " in rest[-1]
    fresh = records.tail(store.path, [], 0, as_json=True, wait=lambda seconds: store.save([call("newest")]))
    assert json.loads(next(fresh))["tool"] == "newest"


def test_mistakes_are_told_in_two_sentences(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, hint in (
        (["records", "show", "99"], "there is no record 99"),
        (["records", "list", "tol:x"], "did you mean tool:?"),
        (["records", "import", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["records", "delete"], "give either FILTER or --all"),
        (["--root", str(tmp_path / "data"), "tail"], "no records yet"),
        (["--root", str(tmp_path / "data"), "records", "delete", "--all"], "no records yet"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(tmp_path, words)
        assert ended.value.code in (1, 2) and hint in capsys.readouterr().err
    with pytest.raises(EndpointError, match="line 2: this is no exported record"):
        records.imported(Config(), tmp_path, io.BytesIO(b"\n{}"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EndpointError, match="cannot be written"):
        records.imported(Config(), tmp_path / "file", io.BytesIO(b""))


def test_what_the_shell_kept_together_stays_together() -> None:
    assert records.filter_of(["label:my tool"]).values == ("%my tool%",)
    assert records.filter_of(["two words"]).values[0] == b"two words"
    assert records.filter_of(['tool:"a b"', "ms:>5"]).values == ("%a b%", 5.0)
