"""xiaozhi-server asks once: whatever time the servers behind a real pipe need to start, all their tools are in its one list."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from peers import address, broker, device
from running import BOUND, MAIN, Program

from mcp_endpoint.access.tokens import TokenCodec

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the shell of POSIX delays the servers")

SMALL = Path(__file__).parents[1] / "support" / "small_server.py"
STARTS = (("device", (1.0, 1.3)), ("tools", (2.0, 2.3)), ("device", (0.1, 9.0)))


@asynccontextmanager
async def servers(running: Program, token: str, starts: Sequence[float]) -> AsyncIterator[None]:
    """One pipe for several servers; each one's process needs so many seconds before it reads its first line."""
    started = {
        f"s{number}": {"command": "sh", "args": ["-c", f"sleep {seconds}; exec {sys.executable} -I -S {SMALL} s{number} t{number}"]}
        for number, seconds in enumerate(starts)
    }
    file = running.root / f"{token[-8:]}.json"
    file.write_text(json.dumps({"mcpServers": started}), "utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(MAIN), "pipe", "--endpoint", address(running, "mcp", token), "--config", str(file)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), BOUND)


async def session(running: Program, name: str, first: str, starts: Sequence[float]) -> set[str]:
    """One device session: greeting and list back to back; gives the names in its list."""
    token = TokenCodec(running.key).make_signed(name)
    if first == "device":
        async with device(running, token) as asker, servers(running, token, starts):
            await asker.greets()
            return await asker.names()
    async with servers(running, token, starts), device(running, token) as asker:
        await asker.greets()
        return await asker.names()


async def test_every_tool_is_in_the_one_list_however_long_its_process_needs(tmp_path: Path) -> None:
    """Three homes at once: both sides first, two servers together, and one that needs longer than every deadline of ours."""
    async with broker(tmp_path) as running:
        heard = await asyncio.gather(*(session(running, f"home-{n}", first, starts) for n, (first, starts) in enumerate(STARTS)))
        assert heard == [{"t0", "t1"}] * len(STARTS)
        assert "Traceback" not in running.log
