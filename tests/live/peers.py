"""The running program, tools behind real pipes, and devices that count their answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from running import BOUND, MAIN, Program, get, program
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

HERE: Final = Path(__file__).parent
EXAMPLES: Final = HERE.parents[1] / "examples"


@asynccontextmanager
async def broker(root: Path, **environ: str) -> AsyncIterator[Program]:
    """`python main.py` on a free port."""
    async with program(root, "--root", str(root), "serve", "--port", "0", environ=environ) as running:
        await running.listens()
        yield running


def address(running: Program, side: str, token: str = "", **query: str) -> str:
    extra = "".join(f"&{name}={value}" for name, value in query.items())
    return f"ws://127.0.0.1:{running.port}/mcp_endpoint/{side}/?token={token or running.token}{extra}"


class Tool:
    """A stdio MCP server behind `mcp-endpoint pipe`, in processes of their own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def is_killed(self) -> None:
        """The pipe dies without a word; its child dies with it."""
        self.process.kill()
        await asyncio.wait_for(self.process.wait(), BOUND)


@asynccontextmanager
async def tool(running: Program, *command: object, token: str = "", **query: str) -> AsyncIterator[Tool]:
    with (running.root / "pipe").open("a") as said:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(MAIN),
            "pipe",
            "--endpoint",
            address(running, "mcp", token, **query),
            "--",
            *map(str, command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=said,
            env={name: value for name, value in os.environ.items() if not name.startswith("MES_")},
        )
    try:
        yield Tool(process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), BOUND)


async def until(true: Callable[[], Any], running: Program) -> dict[str, Any]:
    """Look at `/stats` until `true` says so of it; the heart has no event for what only an operator sees."""
    async with asyncio.timeout(BOUND):
        while True:
            stats: dict[str, Any] = json.loads((await get(running.port, f"/stats?key={running.key}")).body)
            if true(stats):
                return stats
            await asyncio.sleep(0.02)


async def tools_are(count: int, running: Program) -> None:
    """Wait until that many tool links are there."""
    await until(lambda stats: stats["tool_connections"] == count, running)


class Device:
    """A device on its socket: every answer is kept, and none may come twice or unasked."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.notifications: list[dict[str, Any]] = []
        self.extra: list[dict[str, Any]] = []
        self._waiting: dict[str, list[asyncio.Future[dict[str, Any]]]] = {}
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with suppress(ConnectionClosedError):  # the test says what it thinks of that
            async for message in self.connection:
                frame = json.loads(message)
                if "id" not in frame or "method" in frame:
                    self.notifications.append(frame)
                    continue
                waiting = self._waiting.get(json.dumps(frame["id"]))
                if waiting:
                    waiting.pop(0).set_result(frame)
                else:
                    self.extra.append(frame)

    def expects(self, id: Any) -> asyncio.Future[dict[str, Any]]:
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(json.dumps(id), []).append(future)
        return future

    async def asks(self, id: Any, method: str, params: Any = None) -> dict[str, Any]:
        """Say a request as xiaozhi-server spells it, with blanks, and give its one answer."""
        future = self.expects(id)
        await self.connection.send(json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": {} if params is None else params}))
        return await asyncio.wait_for(future, BOUND + 10)

    async def calls(self, id: Any, name: str, **arguments: Any) -> dict[str, Any]:
        return await self.asks(id, "tools/call", {"name": name, "arguments": arguments})

    async def greets(self, id: Any = 1, client: str = "XiaozhiMCPEndpointClient") -> dict[str, Any]:
        hello = {
            "protocolVersion": "2024-11-05",
            "capabilities": {"roots": {}, "sampling": {}},
            "clientInfo": {"name": client, "version": "1"},
        }
        answer = await self.asks(id, "initialize", hello)
        await self.connection.send('{"jsonrpc": "2.0", "method": "notifications/initialized", "params": {}}')
        return answer

    async def names(self, id: Any = 2) -> set[str]:
        answer = await self.asks(id, "tools/list")
        return {tool["name"] for tool in answer["result"]["tools"]}

    def heard_nothing_more(self) -> None:
        """No answer came that nobody waited for, and the socket was not closed, whatever became of the tools."""
        assert not self.extra
        assert self.connection.close_code is None

    async def leaves(self) -> None:
        await self.connection.close()
        await asyncio.wait_for(self._reader, BOUND)


@asynccontextmanager
async def device(running: Program, token: str = "", **query: str) -> AsyncIterator[Device]:
    async with connect(address(running, "call", token, **query), max_size=None, compression=None) as connection:
        found = Device(connection)
        yield found
        found.heard_nothing_more()
        await found.leaves()


def text_of(answer: dict[str, Any]) -> str:
    """What a tool said, as a device shows it."""
    text: str = answer["result"]["content"][0]["text"]
    return text
