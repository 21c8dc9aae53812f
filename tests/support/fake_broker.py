"""The stand-in for a broker that the tests of `pipe` use: it takes links or refuses them, and hears what the tools say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from process_watch import PATIENCE
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from mcp_endpoint.commands import pipe
from mcp_endpoint.commands.pipe import Options
from mcp_endpoint.providers.command import Command

TOKEN = "canary-token-3f9a"


class FakeBroker:
    """Stands in for a broker: takes links, or refuses them with the statuses in `refusals`, and keeps what was asked for."""

    def __init__(self) -> None:
        self.port = 0
        self.paths: list[str] = []
        self.refusals: list[int] = []
        self.headers: dict[str, str] = {}
        self.body = "no\n"
        self.accepts: dict[str, str] = {}
        """Headers of the answer that takes a link."""
        self._links: asyncio.Queue[Wire] = asyncio.Queue()
        self._server: Server | None = None

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.port}/mcp_endpoint/mcp/?token={TOKEN}"

    async def open(self) -> None:
        self._server = await serve(
            self._hold,
            "127.0.0.1",
            self.port,
            process_request=self._judge,
            process_response=self._take,
            compression=None,
            max_size=None,
            ping_interval=None,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def close(self, code: int = 1001, reason: str = "") -> None:
        assert self._server is not None
        self._server.close(code=code, reason=reason)
        await asyncio.wait_for(self._server.wait_closed(), PATIENCE)

    async def link(self, within: float = PATIENCE) -> Wire:
        """The next link that comes."""
        return await asyncio.wait_for(self._links.get(), within)

    def _judge(self, connection: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        if not self.refusals:
            return None
        response = connection.respond(HTTPStatus(self.refusals.pop(0)), self.body)
        for name, value in self.headers.items():
            response.headers[name] = value
        return response

    def _take(self, connection: ServerConnection, request: Request, response: Response) -> None:
        for name, value in self.accepts.items():
            response.headers[name] = value

    async def _hold(self, connection: ServerConnection) -> None:
        self._links.put_nowait(Wire(connection))
        await connection.wait_closed()


class Wire:
    """A link as the broker sees it."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection

    async def ask(self, method: str, **params: object) -> object:
        await self.say({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        return await self.hear()

    async def say(self, message: object) -> None:
        await self.connection.send(json.dumps(message, ensure_ascii=False))

    async def hear(self) -> object:
        """The result of the next answer."""
        return (await self.message())["result"]

    async def message(self) -> dict[str, Any]:
        frame = await asyncio.wait_for(self.connection.recv(), PATIENCE)
        assert isinstance(frame, str)
        assert "\n" not in frame
        message = json.loads(frame)
        assert isinstance(message, dict)
        return message

    async def close_reason(self) -> tuple[int | None, str | None]:
        await asyncio.wait_for(self.connection.wait_closed(), PATIENCE)
        return self.connection.close_code, self.connection.close_reason


class Said:
    """What the operator was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, text: str) -> None:
        assert TOKEN not in text
        assert "\n" not in text
        self.lines.append(text)
        self._more.set()

    async def line(self, *words: str) -> str:
        """The first line that holds all of `words`."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._more.clear()
                for line in self.lines:
                    if all(word in line for word in words):
                        return line
                await self._more.wait()


@asynccontextmanager
async def piping(address: str, **commands: Command) -> AsyncIterator[Said]:
    """A pipe for the commands, by name; a name of underscores only is no name."""
    said = Said()
    options = Options(address, {name.strip("_"): command for name, command in commands.items()})
    piping = asyncio.ensure_future(pipe.serve(options, said))
    try:
        yield said
    finally:
        piping.cancel()
        await asyncio.wait((piping,), timeout=PATIENCE)
        assert piping.done()
    assert piping.cancelled(), piping.exception()
