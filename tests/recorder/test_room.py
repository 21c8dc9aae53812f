"""The recorder beside a broker: all that was seen is written or counted, whatever becomes of the writer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from running import BOUND, KEY, get, running

from mcp_endpoint.errors import EndpointError
from mcp_endpoint.exchanges import Exchange
from mcp_endpoint.recorder import room as rooms
from mcp_endpoint.recorder.query import Reader, parse
from mcp_endpoint.recorder.room import Recorder
from mcp_endpoint.settings.schema import MIB, Config, Limits
from mcp_endpoint.settings.schema import Recorder as Settings

SECRET = "known-only-to-this-server"
posix = pytest.mark.skipif(os.name != "posix", reason="SIGSTOP and SIGKILL")


def exchange(number: int = 0, size: int = 100, text: str = "") -> Exchange:
    body = b'{"n":%d,"text":"%s"}' % (number, text.encode() or b"x" * size)
    return Exchange(1.8e9, 2.0, None, None, "openrouter", "here", "POST", "/v1", 200, "ok", [], body, [], [(0.1, b"ok")], len(body), False)


def made(root: Path, **limits: float) -> Recorder:
    bounds = Limits(**limits)  # type: ignore[arg-type]
    return Recorder(Settings(on=True), bounds, root / "records.db", KEY.encode(), lambda: {SECRET}, asyncio.get_running_loop().time)


@asynccontextmanager
async def recording(root: Path, **limits: float) -> AsyncIterator[Recorder]:
    room = made(root, **limits)
    await room.start()
    try:
        yield room
    finally:
        await room.stop()


def see(room: Recorder, count: int, size: int = 100) -> None:
    for number in range(count):
        room.taps.exchanges.exchange(exchange(number, size))


async def until(room: Recorder, done: Callable[[], bool]) -> None:
    """Wait until this is so; looked at whenever the writer has said something."""
    async with asyncio.timeout(BOUND):
        while not done():
            told = asyncio.Event()
            room.on_told = told.set
            await asyncio.wait((asyncio.ensure_future(told.wait()),), timeout=1.0)


def settled(room: Recorder) -> bool:
    counts = room.counters()
    return counts["records_written"] + counts["records_dropped"] == room.seen


async def test_what_is_seen_is_in_the_file_a_moment_later_without_the_secrets_of_the_server(tmp_path: Path) -> None:
    newest: list[int] = []
    async with recording(tmp_path) as room:
        room.on_newest = newest.append
        see(room, 3)
        room.taps.exchanges.exchange(exchange(text=f"it is {SECRET}"))
        await until(room, lambda: room.written == 4)
        reader = Reader(room.path)
        assert reader.count() == 4 and newest[-1] == 4 == room.newest
        last = reader.record(4)
        assert last is not None and SECRET.encode() not in last.request.body and b"***~" in last.request.body
        figures = room.describe()
        assert figures["writer"] == room.writer and figures["trouble"] == "" and figures["record_file_bytes"] > 0
        assert not room.routes and not room.refuses_pages(None)  # type: ignore[arg-type]
    assert settled(room) and room.writer is None


async def test_what_still_waits_at_the_end_is_written_also_if_the_writer_had_only_just_begun(tmp_path: Path) -> None:
    async with recording(tmp_path, record_batch_seconds=60) as room:
        await until(room, lambda: room.writer is not None)
        see(room, 50)
    assert room.written == 50 == Reader(room.path).count()


@posix
async def test_a_writer_that_stands_still_costs_the_newest_records_and_none_is_unaccounted_for(tmp_path: Path) -> None:
    async with recording(tmp_path, record_queue_bytes=MIB) as room:
        await until(
            room, lambda: room.writer is not None and room.counters()["records_written"] == 0 and room.gauges()["record_file_bytes"] > 0
        )
        assert room.writer is not None
        os.kill(room.writer, signal.SIGSTOP)
        most = 0
        for _ in range(40):
            see(room, 10, 10_000)
            most = max(most, room.gauges()["record_queue_bytes"])
            await asyncio.sleep(0)
        assert most <= MIB and room.counters()["records_dropped"] > 200
        os.kill(room.writer, signal.SIGCONT)
        await until(room, lambda: settled(room))
        see(room, 1)
        await until(room, lambda: settled(room) and room.seen == 401)
        reader = Reader(room.path)
        counts = room.counters()
        gaps = reader.page(parse("kind:gap", 0)).records
        assert reader.count(parse("kind:exchange", 0)) == counts["records_written"]
        assert sum(gap.code or 0 for gap in gaps) == counts["records_dropped"] and all(gap.status == "dropped" for gap in gaps)


@posix
async def test_a_writer_that_is_killed_is_started_again_and_what_was_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "Backoff", lambda draw: _Quick())
    async with recording(tmp_path) as room:
        see(room, 20)
        await until(room, lambda: room.written == 20)
        assert room.writer is not None
        os.kill(room.writer, signal.SIGSTOP)
        see(room, 30)
        room._flush()
        os.kill(room.writer, signal.SIGKILL)
        await until(room, lambda: room.restarts == 1 and settled(room))
        assert (room.written, room.counters()["records_dropped"]) == (20, 30)
        see(room, 5)
        await until(room, lambda: room.written == 25)
        reader = Reader(room.path)
        assert reader.count(parse("kind:exchange", 0)) == 25
        assert [gap.code for gap in reader.page(parse("kind:gap", 0)).records] == [30]


class _Quick:
    def wait(self, lasted: float) -> float:
        return 0.01


async def test_a_batch_that_cannot_be_said_is_dropped_and_the_next_one_is_written(tmp_path: Path) -> None:
    async with recording(tmp_path) as room:
        bad = exchange()
        bad.label = "\ud800"
        room.taps.exchanges.exchange(bad)
        await until(room, lambda: room.counters()["records_dropped"] == 1)
        see(room, 1)
        await until(room, lambda: room.written == 1)


async def test_a_batch_that_the_writer_never_tells_of_is_lost_with_the_next_word(tmp_path: Path) -> None:
    async with recording(tmp_path) as room:
        await until(room, room._ready.is_set)
        room._number += 1
        room._sent.append((room._number, 7, None))  # handed over, and not understood
        see(room, 2)
        await until(room, lambda: room.written == 2)
        assert room.counters()["records_dropped"] == 7 and not room._sent


async def test_a_writer_that_cannot_be_started_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    async with recording(tmp_path) as room:
        see(room, 3)
        await until(room, lambda: room.writer is None)
    assert settled(room) and room.counters()["records_dropped"] == 3


async def test_a_second_server_on_the_same_file_is_refused(tmp_path: Path) -> None:
    async with recording(tmp_path):
        second = made(tmp_path)
        with pytest.raises(EndpointError, match="another server already records"):
            await second.start()
        await second.stop()
    (tmp_path / "file").write_text("in the way")
    blocked = made(tmp_path / "file")
    with pytest.raises(EndpointError, match="cannot be written"):
        await blocked.start()
    await blocked.stop()


async def test_a_server_with_a_recorder_shows_it_in_its_figures(tmp_path: Path) -> None:
    async with running(Config(recorder=Settings(on=True, raw=True)), root=tmp_path) as server:
        metrics = (await get(server.port, "/metrics")).body.decode()
        assert "mcp_endpoint_records_written_total 0.0" in metrics and "mcp_endpoint_record_queue_bytes" in metrics
        stats = await get(server.port, f"/stats?key={KEY}")
        assert b'"recorder":{"file"' in stats.body and b'"raw":true' in stats.body
    assert (tmp_path / "data" / "records.db").exists()


def test_a_server_without_a_recorder_loads_nothing_of_it() -> None:
    code = (
        "import asyncio, sys\n"
        "from mcp_endpoint.serving.server import create_server\n"
        "from mcp_endpoint.settings.schema import Config, Server\n"
        f"async def main(): create_server(Config(server=Server(key='{KEY}')))\n"
        "asyncio.run(main())\n"
        "sys.exit(' '.join(name for name in sys.modules if name.startswith('mcp_endpoint.recorder') or name == 'sqlite3') or None)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=BOUND, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
