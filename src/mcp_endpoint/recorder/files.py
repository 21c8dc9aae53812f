"""Writes log files: an exchange with a model as one JSON file, the messages of an MCP server as JSON lines.

    logs/llm_proxy/20240101_120000_UUID.json
    logs/mcp_weather/20240101_UUID.jsonl

They are for reading and for small tools; the recorder's own file is the one that is searched. Only their owner reads them, and the oldest
go first, as the oldest records do.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from ..exchanges import Exchange
from .dialects import decoded, is_stream, said, texts_of, uncoded, value_of

MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
MODELS: Final = "llm_proxy"
"""The folder of exchanges with models."""
SERVERS: Final = "mcp_"
"""How the folder of a server's messages begins; its label follows."""
DAY_SECONDS: Final = 86_400.0

_OUTSIDE: Final = re.compile(r"[^A-Za-z0-9_-]+")
_encode: Final = msgspec.json.Encoder().encode


class Rules(Protocol):
    """What may be written, see `redact`."""

    def body(self, data: bytes, /) -> bytes:
        """Of a body."""

    def headers(self, headers: list[tuple[str, str]], /) -> list[tuple[str, str]]:
        """Of headers."""

    def path(self, path: str, /) -> str:
        """Of a path with its query."""


def stamp(at: float) -> str:
    """Local time, as the files show it; `at` is seconds since 1970."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def label_of(name: str) -> str:
    """A name as it may stand in the name of a folder."""
    return _OUTSIDE.sub("_", name).strip("_")[:64] or "server"


def write_exchange(logs: Path, exchange: Exchange, rules: Rules) -> Path:
    """Write an exchange into a file of its own below `logs`; the file. Raises OSError."""
    name = str(uuid.uuid4())
    folder = _folder(logs / MODELS)
    path = folder / f"{time.strftime('%Y%m%d_%H%M%S', time.localtime(exchange.started))}_{name}.json"
    data = msgspec.json.format(_encode(entry(exchange, rules, name)), indent=2)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE), "wb") as file:
        file.write(data + b"\n")
    return path


def entry(exchange: Exchange, rules: Rules, name: str) -> dict[str, Any]:
    """An exchange with a model as the file has it. A stream has `response_chunks`, one text per event, and the message they make."""
    request = rules.body(decoded(exchange.request_headers, exchange.request_body))
    answer = rules.body(decoded(exchange.answer_headers, b"".join(chunk for _, chunk in exchange.answer_chunks)))
    found = {
        "id": name,
        "timestamp": stamp(exchange.started),
        "method": exchange.method,
        "path": rules.path(exchange.path),
        "headers": _headers(exchange.request_headers, rules),
        "body": readable(request),
        "response_status": exchange.status or None,
        "response_headers": _headers(exchange.answer_headers, rules),
        "response_body": readable(answer),
    }
    if is_stream(exchange.answer_headers, answer):
        folded = said(exchange.path, (), request, uncoded(exchange.answer_headers), answer).answer
        found["response_body"] = readable(answer) if folded is None else folded
        found["response_chunks"] = texts_of(answer)
    return found | {"duration_ms": round(exchange.ms, 1)}


def readable(body: bytes) -> Any:
    """A body as JSON has it: its value, else its text, else its bytes in base64; None if there is none."""
    if not body:
        return None
    value = value_of(body)
    if value is not None or body.strip() == b"null":
        return value
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


class Messages:
    """The file of one session with an MCP server: a line for each message, under the side that sent it."""

    def __init__(self, logs: Path, label: str, rules: Rules, at: float) -> None:
        """Make the file below `logs`. Raises OSError."""
        self._session = str(uuid.uuid4())
        self._rules = rules
        folder = _folder(logs / f"{SERVERS}{label_of(label)}")
        self.path = folder / f"{time.strftime('%Y%m%d', time.localtime(at))}_{self._session}.jsonl"
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, MODE)

    def write(self, at: float, direction: str, message: bytes) -> None:
        """Add a message; `direction` is `request` for what the client sent, `response` for what the server sent. Raises OSError."""
        if not message.strip():
            return
        line = {
            "session_id": self._session,
            "timestamp": stamp(at),
            "direction": direction,
            "message": readable(self._rules.body(message)),
        }
        os.write(self._file, _encode(line) + b"\n")

    def close(self) -> None:
        """No more messages come."""
        os.close(self._file)


def trim(logs: Path, keep_bytes: int, keep_days: float, now: float) -> None:
    """Remove the oldest of these files until they are few enough; `now` is seconds since 1970. What cannot be removed stays."""
    files = sorted(_files(logs))
    size = sum(bytes_ for _, bytes_, _ in files)
    for changed, bytes_, path in files:
        if size <= keep_bytes and changed >= now - keep_days * DAY_SECONDS:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            size -= bytes_


def _files(logs: Path) -> Iterator[tuple[float, int, Path]]:
    for pattern in (f"{MODELS}/*.json", f"{SERVERS}*/*.jsonl"):
        for path in logs.glob(pattern):
            with contextlib.suppress(OSError):
                about = path.lstat()
                yield about.st_mtime, about.st_size, path


def _folder(path: Path) -> Path:
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    return path


def _headers(headers: Iterable[tuple[bytes, bytes]], rules: Rules) -> dict[str, str]:
    """Headers by name; several of one name become one, as HTTP has it (RFC 9110 §5.3)."""
    found: dict[str, str] = {}
    for name, value in rules.headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]):
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found
