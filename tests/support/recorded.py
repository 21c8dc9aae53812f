"""A file of records without a recorder: written by a test, and shown by the console as if one wrote it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from console import Visitor, console

from mcp_endpoint.recorder.store import Record, Session, Store, files_of
from mcp_endpoint.serving import rooms
from mcp_endpoint.serving.server import DrainingServer
from mcp_endpoint.settings.schema import Config

NOW = int(time.time() * 1_000)


class Writer:
    """The room of a recorder that records nothing by itself."""

    name = "recorder"
    owed = 0
    routes: Sequence[Any] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(path, 10**9, 365)
        self.on_newest: Callable[[int], None] = lambda id: None

    def write(self, *records: Record, sessions: Sequence[Session] = ()) -> int:
        """Put records into the file, and say so."""
        newest = self.store.save(records, sessions)
        self.on_newest(newest)
        return newest

    def damage(self) -> None:
        """Write something else over the file."""
        for path in files_of(self.path):
            if path.exists():
                path.write_bytes(b"no database " * 100)

    def refuses_pages(self, request: object) -> bool:
        return False

    async def start(self) -> None:
        """It is open."""

    async def stop(self) -> None:
        self.store.close()

    def describe(self) -> Mapping[str, Any]:
        return {"raw": False, "trouble": ""}


def call(tool: str = "lamp", number: int = 0, *, answer: str = "on", **changes: Any) -> Record:
    """The record of a call."""
    said = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {"n": number}}}
    heard = {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": answer}]}}
    about: dict[str, Any] = {"at": NOW + number, "ms": 12.5, "kind": "call", "endpoint": "kitchen", "label": "box", "method": "tools/call"}
    return Record(**(about | {"tool": tool, "request": json.dumps(said).encode(), "answer": json.dumps(heard).encode()} | changes))


@asynccontextmanager
async def recorded(
    root: Path, monkeypatch: pytest.MonkeyPatch, config: Config | None = None
) -> AsyncIterator[tuple[DrainingServer, Visitor, Writer]]:
    """A server whose console shows the records that `Writer.write` is given."""
    writer = Writer(root / "records.db")
    made = rooms.open_rooms

    def opened(context: rooms.Context, standalone: str = "") -> list[Any]:
        built: list[Any] = [one for one in made(context, standalone) if one.name != "console"]
        bodies = rooms.Bodies(8, 30.0)
        return [*built, writer, rooms._console(context, bodies, [*built, writer])]  # type: ignore[list-item]

    monkeypatch.setattr("mcp_endpoint.serving.server.open_rooms", opened)
    async with console(config or Config(), root=root) as (server, visitor):
        yield server, visitor, writer
