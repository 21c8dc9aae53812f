"""A server reached by URL and the official client over HTTP meet through the running program, over each wire and in each era."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
import uvicorn
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp.server.sse import SseServerTransport
from running import BOUND, KEY, running
from starlette.types import ASGIApp, Receive, Scope, Send
from test_eras_met import ERAS, elicited, rooted, sampled
from test_eras_met import World as Met

from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.protocol.methods import STATELESS_REVISION as REVISION
from mcp_endpoint.settings.schema import Config, Providers

TOKEN = TokenCodec(KEY).make_signed("kitchen")
WIRES = ("handshake", "stateless", "sse")

pytestmark = [
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
    pytest.mark.parametrize("consumer", ERAS),
]


async def until(so: Callable[[], Awaitable[bool]]) -> None:
    """What has no event to wait for is looked at, for a bounded time."""
    async with asyncio.timeout(BOUND):
        while not await so():  # noqa: ASYNC110 - the other side is told in its own time
            await asyncio.sleep(0.01)


class World(Met):
    """A running program, the server, and a client."""

    def has(self, tool: str) -> Callable[[], Awaitable[bool]]:
        async def so() -> bool:
            return tool in [found.name for found in (await self.client.list_tools()).tools]

        return so

    async def told(self) -> bool:
        """Whether a client of the handshake era has heard that the list changed; one that has seen the new list hears nothing of it."""
        return bool(self.changes)


def only(wire: str, app: ASGIApp) -> ASGIApp:
    """A server that knows one era, made of one that knows both."""
    refusal = {"code": -32022, "message": "no", "data": {"supported": [REVISION if wire == "stateless" else "2025-11-25"]}}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": refusal}).encode()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            stateless = dict(scope["headers"]).get(b"mcp-protocol-version") == REVISION.encode()
            if stateless != (wire == "stateless"):
                await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
                await send({"type": "http.response.body", "body": body})
                return
        await app(scope, receive, send)

    return guarded


def over_sse(server: Server[Any]) -> ASGIApp:
    """The wire of revision 2024-11-05."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transport = SseServerTransport("/messages/")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["path"].startswith("/messages/"):
            await transport.handle_post_message(scope, receive, send)
            return
        async with transport.connect_sse(scope, receive, send) as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    return app


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none", timeout_graceful_shutdown=0))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(BOUND):
        while not server.started:
            await asyncio.sleep(0)
            assert not task.done()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await asyncio.wait_for(task, BOUND)


@asynccontextmanager
async def world(root: Path, wire: str, consumer: str) -> AsyncIterator[World]:
    found = World()

    async def heard(message: Any) -> None:
        found.changes += isinstance(message, types.ToolListChangedNotification)

    app = over_sse(found.server) if wire == "sse" else only(wire, found.server.streamable_http_app())
    async with (
        listening(app) as port,
        httpx2.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}, timeout=BOUND, trust_env=False) as http,
    ):
        path = "sse" if wire == "sse" else "mcp"
        file = root / "mcp.json"
        file.write_text(json.dumps({"mcpServers": {"kitchen": {"url": f"http://127.0.0.1:{port}/{path}"}}}), "utf-8")
        async with running(Config(providers=Providers(file=str(file))), root=root) as program:
            transport = streamable_http_client(f"http://127.0.0.1:{program.port}/mcp", http_client=http)
            mode = "legacy" if consumer == "handshake" else REVISION
            asked: dict[str, Callable[..., Any]] = {
                "elicitation_callback": elicited,
                "sampling_callback": sampled,
                "list_roots_callback": rooted,
            }
            found.client = Client(transport, mode=mode, message_handler=heard, cache=None, **asked)  # type: ignore[arg-type]
            async with found.client:
                await until(found.has("era"))
                yield found


@pytest.mark.parametrize("wire", WIRES)
async def test_a_server_by_url_does_all_that_eras_do_differently(tmp_path: Path, wire: str, consumer: str) -> None:
    """List, call, progress, elicitation, sampling, roots, a changed list, cancel: in the server's era and in the client's."""
    async with world(tmp_path, wire, consumer) as met:
        assert [tool.name for tool in (await met.client.list_tools()).tools] == met.tools
        assert await met.text("era") == ("stateless" if wire == "stateless" else "handshake")

        seen: list[tuple[float, float | None, str | None]] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            seen.append((done, total, message))

        assert await met.text("steps", progress_callback=progress) == "done"
        assert seen == [(1, 2, "step 1"), (2, 2, "step 2")]
        assert await met.text("ask") == "accept {'name': 'Ada'}"
        assert await met.text("think") == "Aha"
        assert await met.text("places") == "file:///home"

        task = asyncio.ensure_future(met.client.call_tool("wait", {}))
        async with asyncio.timeout(BOUND):
            await met.waiting.wait()
            task.cancel()
            await met.cancelled.wait()

        await met.text("grow")
        if consumer == "handshake":
            await until(met.told)
        await until(met.has("more"))


async def test_what_changed_while_nobody_listened_is_found_out(tmp_path: Path, consumer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of announcements that breaks off is opened again, and the list is asked for."""
    opened, again, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    real = only

    def cut(wire: str, app: ASGIApp) -> ASGIApp:
        async def cutting(scope: Scope, receive: Receive, send: Send) -> None:
            listens = scope["type"] == "http" and dict(scope["headers"]).get(b"mcp-method") == b"subscriptions/listen"
            if not listens or opened.is_set():
                if listens:
                    again.set()
                await app(scope, receive, send)
                return
            opened.set()
            task = asyncio.ensure_future(app(scope, receive, send))
            await end.wait()
            task.cancel()
            await asyncio.wait((task,))
            await send({"type": "http.response.body", "body": b""})

        return real(wire, cutting)

    monkeypatch.setitem(globals(), "only", cut)
    async with world(tmp_path, "stateless", consumer) as met, asyncio.timeout(BOUND):
        await opened.wait()
        met.tools.append("more")
        end.set()
        await again.wait()
        if consumer == "handshake":
            await until(met.told)
        await until(met.has("more"))
