"""Death and want, with real processes: calls are answered, what was handed over is in the file, and what was lost is counted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from peers import Device, address, broker, tools_are, until
from running import BOUND, Program
from websockets.asyncio.client import ClientConnection, connect

from mcp_endpoint.recorder.query import Reader, parse

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGSTOP and SIGKILL")
CALLS = parse("tool:who", 0)
TMPFS_BYTES = 4 * 1024 * 1024


async def echoes(socket: ClientConnection) -> None:
    """A tool that gives its arguments back."""
    async for message in socket:
        frame = json.loads(message)
        if "id" in frame and "method" in frame:
            result: dict[str, Any] = {"content": [{"type": "text", "text": json.dumps(frame.get("params"))}]}
            if frame["method"] == "initialize":
                result = {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": {"name": "echo", "version": "1"}}
            elif frame["method"] == "tools/list":
                result = {"tools": [{"name": "who", "inputSchema": {"type": "object"}}]}
            await socket.send(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}))


@asynccontextmanager
async def recording(root: Path, **environ: str) -> AsyncIterator[tuple[Program, Device]]:
    """A server that records, a tool and a device that has asked for its tools."""
    async with broker(root, MES_RECORDER_ON="true", **environ) as running, connect(address(running, "mcp"), max_size=None) as socket:
        tool = asyncio.create_task(echoes(socket))
        await tools_are(1, running)
        async with connect(address(running, "call"), max_size=None) as connection:
            asker = Device(connection)
            await asker.greets()
            assert await asker.names() == {"who"}
            yield running, asker
        tool.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await tool


def recorder(stats: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = stats["rooms"]["recorder"]
    return found


async def counted(path: Path, count: int) -> Reader:
    """The file, once it holds so many calls; it is written by a process that is nobody's child any more."""
    async with asyncio.timeout(BOUND):
        while True:
            reader = Reader(path)
            if reader.count(CALLS) >= count:
                return reader
            reader.close()
            await asyncio.sleep(0.02)


async def test_a_server_that_is_killed_leaves_every_record_that_it_had_handed_over(tmp_path: Path) -> None:
    async with recording(tmp_path) as (running, asker):
        stats = await until(lambda stats: recorder(stats)["writer"] and recorder(stats)["record_file_bytes"], running)
        writer = recorder(stats)["writer"]
        os.kill(writer, signal.SIGSTOP)
        for number in range(30):
            assert "result" in await asker.calls(number, "who", number=number)
        path = tmp_path / "data" / "records.db"
        assert Reader(path).count(CALLS) < 30
        await until(lambda stats: recorder(stats)["record_queue_bytes"] == 0, running)  # all of it is in the pipe
        running.process.kill()
        await running.process.wait()
        os.kill(writer, signal.SIGTERM)
        os.kill(writer, signal.SIGCONT)
        reader = await counted(path, 30)
    assert reader.count(CALLS) == 30
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_calls_go_on_while_the_writer_is_killed_and_its_losses_are_counted(tmp_path: Path) -> None:
    async with recording(tmp_path) as (running, asker):
        stats = await until(lambda stats: recorder(stats)["records_written"] > 0, running)
        os.kill(recorder(stats)["writer"], signal.SIGKILL)
        for number in range(20):
            assert "result" in await asker.calls(number, "who", number=number)
        stats = await until(lambda stats: recorder(stats)["writer_restarts"] == 1 and recorder(stats)["writer"], running)
        assert "result" in await asker.calls(99, "who", number=99)
        reader = await counted(tmp_path / "data" / "records.db", 1)
        await until(lambda stats: reader.count(parse("99", 0)) == 1, running)
        lost = recorder(await until(lambda stats: True, running))["records_dropped"]
        gaps = reader.page(parse("kind:gap", 0)).records
        assert sum(gap.code or 0 for gap in gaps) == lost
        assert reader.count(CALLS) + lost >= 21
    assert sqlite3.connect(tmp_path / "data" / "records.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("NOT TESTED: a full disk needs the right to mount one / 未测试：需要挂载权限")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_costs_records_and_no_call(tmp_path: Path, small_disk: Path) -> None:
    async with recording(tmp_path, MES_RECORDER_FILE=str(small_disk / "records.db")) as (running, asker):
        for number in range(100):
            assert "result" in await asker.calls(number, "who", text=f"{number}" * 20_000)
        stats = await until(lambda stats: recorder(stats)["trouble"] and recorder(stats)["records_dropped"], running)
        assert "full" in recorder(stats)["trouble"] or "I/O" in recorder(stats)["trouble"]
        assert "result" in await asker.calls(200, "who")
        assert "records cannot be written, calls go on" in running.log
    connection = sqlite3.connect(small_disk / "records.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT count(*) FROM record").fetchone()[0] > 0
    connection.close()
