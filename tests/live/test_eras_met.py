"""Every pair of eras meets: the official client over HTTP and a tool of the official package behind a WebSocket, each in either era.

The tool is one server that knows both; which it is spoken to in is decided by its first request, as on stdin and stdout.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from running import BOUND, KEY, running
from websockets.asyncio.client import connect

from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.protocol.methods import STATELESS_REVISION as REVISION
from mcp_endpoint.settings.schema import Config

TOKEN = TokenCodec(KEY).make_signed("kitchen")
EMPTY: dict[str, Any] = {"type": "object", "properties": {}}
FORM: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
ERAS = ("handshake", "stateless")


class Kitchen:
    """The tool: says in which era it was asked, and does one of everything that eras do differently."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        self.tools = ["era", "steps", "wait", "ask", "think", "places", "grow"]
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.server: Server[Any] = Server(
                "kitchen",
                version="1",
                on_list_tools=self.listed,
                on_call_tool=self.called,
                on_subscriptions_listen=ListenHandler(self.bus),
            )

    async def listed(self, ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name=name, input_schema=EMPTY) for name in self.tools])

    async def called(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult | types.InputRequiredResult:
        match params.name:
            case "era":
                return said("stateless" if ctx.protocol_version >= REVISION else "handshake")
            case "steps":
                for done in (1, 2):
                    await ctx.session.report_progress(done, 2, f"step {done}")
                return said("done")
            case "wait":
                self.waiting.set()
                try:
                    await anyio.sleep_forever()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "grow":
                self.tools.append("more")
                if ctx.protocol_version >= REVISION:
                    await self.bus.publish(ToolsListChanged())
                else:
                    await ctx.session.send_tool_list_changed()
                return said("grown")
        return await self.asks(ctx, params)

    async def asks(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult | types.InputRequiredResult:
        """What needs the client, asked for as its caller's era does."""
        if ctx.protocol_version >= REVISION:
            given = (params.input_responses or {}).get("it")
            if given is None:
                return types.InputRequiredResult(input_requests={"it": QUESTIONS[params.name]}, request_state="mine")
            assert params.request_state == "mine"
        elif params.name == "ask":
            given = await ctx.session.elicit_form("Who?", FORM, related_request_id=ctx.request_id)
        elif params.name == "think":
            given = await ctx.session.create_message(SAMPLE.params.messages, max_tokens=5, related_request_id=ctx.request_id)
        else:
            given = await ctx.session.list_roots()
        match given:
            case types.ElicitResult():
                return said(f"{given.action} {given.content}")
            case types.ListRootsResult():
                return said(str(given.roots[0].uri))
            case _:
                return said(given.content.text)


def said(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


SAMPLE = types.CreateMessageRequest(
    params=types.CreateMessageRequestParams(
        messages=[types.SamplingMessage(role="user", content=types.TextContent(type="text", text="Hm?"))], max_tokens=5
    )
)
QUESTIONS: dict[str, Any] = {
    "ask": types.ElicitRequest(params=types.ElicitRequestFormParams(message="Who?", requested_schema=FORM)),
    "think": SAMPLE,
    "places": types.ListRootsRequest(params=types.RequestParams()),
}


@asynccontextmanager
async def behind_a_websocket(server: Server[Any], port: int, era: str) -> AsyncIterator[None]:
    """The server at the endpoint's tool side, its frames carried as `pipe` does."""
    more = f"&revision={REVISION}" if era == "stateless" else ""
    to_server, reading = anyio.create_memory_object_stream[SessionMessage | Exception](64)
    writing, from_server = anyio.create_memory_object_stream[SessionMessage](64)
    address = f"ws://127.0.0.1:{port}/mcp_endpoint/mcp/?token={quote(TOKEN)}{more}"
    async with to_server, reading, writing, from_server, connect(address) as socket, anyio.create_task_group() as tasks:

        async def hear() -> None:
            async for text in socket:
                await to_server.send(SessionMessage(types.jsonrpc_message_adapter.validate_json(text, by_name=False)))

        async def say() -> None:
            async for message in from_server:
                await socket.send(message.message.model_dump_json(by_alias=True, exclude_unset=True))

        tasks.start_soon(hear)
        tasks.start_soon(say)
        tasks.start_soon(server.run, reading, writing, server.create_initialization_options())
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


class World(Kitchen):
    """A running program, the tool, and a client of it."""

    client: Client
    changes: int = 0

    async def text(self, tool: str, **more: Any) -> str:
        with anyio.fail_after(BOUND):
            result = await self.client.call_tool(tool, {}, **more)
        assert not result.is_error, result
        return str(getattr(result.content[0], "text", ""))


async def elicited(context: Any, params: Any) -> types.ElicitResult:
    assert params.message == "Who?"
    return types.ElicitResult(action="accept", content={"name": "Ada"})


async def sampled(context: Any, params: Any) -> types.CreateMessageResult:
    return types.CreateMessageResult(role="assistant", content=types.TextContent(type="text", text="Aha"), model="m")


async def rooted(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///home")])


@asynccontextmanager
async def world(provider: str, consumer: str, *, answers: bool = True) -> AsyncIterator[World]:
    found = World()

    async def heard(message: Any) -> None:
        found.changes += isinstance(message, types.ToolListChangedNotification)

    asked = {"elicitation_callback": elicited, "sampling_callback": sampled, "list_roots_callback": rooted} if answers else {}
    async with (
        running(Config()) as program,
        behind_a_websocket(found.server, program.port, provider),
        httpx2.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}, timeout=BOUND, trust_env=False) as http,
    ):
        transport = streamable_http_client(f"http://127.0.0.1:{program.port}/mcp", http_client=http)
        mode = "legacy" if consumer == "handshake" else REVISION
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.client = Client(transport, mode=mode, message_handler=heard, cache=None, **asked)  # type: ignore[arg-type]
            async with found.client:
                yield found


pytestmark = [
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
    pytest.mark.parametrize("consumer", ERAS),
    pytest.mark.parametrize("provider", ERAS),
]


async def test_the_tool_is_spoken_to_in_its_own_era(provider: str, consumer: str) -> None:
    async with world(provider, consumer) as met:
        assert await met.text("era") == provider


async def test_tools_are_listed(provider: str, consumer: str) -> None:
    async with world(provider, consumer) as met:
        assert [tool.name for tool in (await met.client.list_tools()).tools] == met.tools


async def test_progress_arrives(provider: str, consumer: str) -> None:
    async with world(provider, consumer) as met:
        seen: list[tuple[float, float | None, str | None]] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            seen.append((done, total, message))

        assert await met.text("steps", progress_callback=progress) == "done"
        assert seen == [(1, 2, "step 1"), (2, 2, "step 2")]


async def test_a_call_is_cancelled_at_the_tool(provider: str, consumer: str) -> None:
    async with world(provider, consumer) as met:
        task = asyncio.ensure_future(met.client.call_tool("wait", {}))
        async with asyncio.timeout(BOUND):
            await met.waiting.wait()
            task.cancel()
            await met.cancelled.wait()
        assert await met.text("era") == provider


async def test_a_changed_list_is_announced(provider: str, consumer: str) -> None:
    async with world(provider, consumer) as met:
        await met.client.list_tools()
        if consumer == "handshake":
            await met.text("grow")
            async with asyncio.timeout(BOUND):
                while not met.changes:  # noqa: ASYNC110 - the client's handler is told in its own time
                    await asyncio.sleep(0.01)
        else:
            async with met.client.listen(tools_list_changed=True) as changes:
                await met.text("grow")
                async with asyncio.timeout(BOUND):
                    await anext(changes)
        assert "more" in [tool.name for tool in (await met.client.list_tools()).tools]


async def test_the_user_is_asked(provider: str, consumer: str) -> None:
    """Elicitation, across all eras: what no other proxy does for a tool that knows the handshake only."""
    async with world(provider, consumer) as met:
        assert await met.text("ask") == "accept {'name': 'Ada'}"


async def test_the_clients_model_is_asked(provider: str, consumer: str) -> None:
    async with world(provider, consumer) as met:
        assert await met.text("think") == "Aha"


async def test_the_clients_roots_are_asked_for(provider: str, consumer: str) -> None:
    async with world(provider, consumer) as met:
        assert await met.text("places") == "file:///home"


async def test_a_client_that_answers_nothing_is_not_asked(provider: str, consumer: str) -> None:
    """The call fails, and the next one goes on as ever."""
    async with world(provider, consumer, answers=False) as met:
        with anyio.fail_after(BOUND):
            try:
                result = await met.client.call_tool("ask", {})
            except (MCPError, RuntimeError):
                result = None
        assert result is None or result.is_error
        assert await met.text("era") == provider
