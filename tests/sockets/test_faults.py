"""Bad weather between real peers and the real broker: each request gets exactly one answer, and nobody else feels it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import pytest
import websockets
from sockets.faults import Faults, faults
from sockets.wire_server import BOUND, DEVICE, TOOL, Stage, configured, staged, until
from websockets.asyncio.client import ClientConnection, connect

from mcp_endpoint.core.broker import Broker
from mcp_endpoint.settings.schema import EndpointSettings

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
CALL_SECONDS = 1.0
"""`call_timeout` of these tests."""


class Quiet:
    """A watch that nobody reads."""

    def tell(self, event: str, shown: str, **fields: object) -> None:
        """Nothing is told."""


class Scene(NamedTuple):
    stage: Stage
    broker: Broker
    sky: Faults
    """Over the tool, the device, or nobody: whoever connects through its port."""


@asynccontextmanager
async def scene(call_seconds: float = CALL_SECONDS, **websocket: Any) -> AsyncIterator[Scene]:
    loop = asyncio.get_running_loop()
    config = configured(websocket=websocket)
    settings = EndpointSettings(call_timeout=call_seconds)
    broker = Broker(settings, config.limits, clock=loop.time, call_at=loop.call_at, epoch=time.time, watch=Quiet())
    async with staged(config, broker=broker) as stage, faults(stage.port) as sky:
        yield Scene(stage, broker, sky)


class Tool:
    """A tool that answers; `heard` is set with its first call, and it waits for `go` before it answers."""

    def __init__(self, link: ClientConnection) -> None:
        self.link = link
        self.heard = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def serve(self) -> None:
        with suppress(websockets.ConnectionClosed):
            async for text in self.link:
                message = json.loads(text)
                if "id" in message:
                    self.heard.set()
                    await self.go.wait()
                    await self.link.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"text": "是" * 3000}}))


@asynccontextmanager
async def tool(port: int, token: str) -> AsyncIterator[Tool]:
    async with connect(f"ws://127.0.0.1:{port}{TOOL}?token={token}", proxy=None, close_timeout=0.2) as link:
        one = Tool(link)
        serving = asyncio.create_task(one.serve())
        try:
            yield one
        finally:
            one.go.set()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            link.transport.abort()


@asynccontextmanager
async def device(port: int, token: str) -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://127.0.0.1:{port}{DEVICE}?token={token}", proxy=None, close_timeout=0.2) as link:
        yield link
        link.transport.abort()


async def ask(link: ClientConnection, number: int) -> None:
    await link.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "x", "arguments": {}}}))


async def answer(link: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(link.recv(), BOUND))


async def hears_nothing_more(link: ClientConnection, broker: Broker) -> None:
    """A WebSocket ping comes back before anything else does, and nothing is owed."""
    await until(lambda: not broker.in_flight)
    await asyncio.wait_for(await link.ping(), BOUND)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(link.recv(), 0.01)


def freeze(sky: Faults) -> None:
    sky.black_hole = True


def shower(sky: Faults) -> None:
    sky.delay = 0.05


def drizzle(sky: Faults) -> None:
    sky.drip = True


def lightning(sky: Faults) -> None:
    sky.cut_after = 100


Fault = Callable[[Faults], None]
ENDS = [Faults.reset, Faults.half_close, lightning]
FAULTS: list[tuple[Fault, set[int | str]]] = [
    (shower, {"result"}),
    (drizzle, {"result"}),
    (freeze, {-32006, -32003}),
    *((end, {-32003}) for end in ENDS),
]


@pytest.mark.parametrize(("fault", "outcomes"), FAULTS)
async def test_bad_weather_over_a_tool_leads_to_one_answer_and_its_neighbours_feel_nothing(fault: Fault, outcomes: set[int | str]) -> None:
    async with (
        scene(CALL_SECONDS if -32006 in outcomes else 20.0, ping_interval=30.0) as (stage, broker, sky),
        tool(sky.port, "wet") as wet,
        device(stage.port, "wet") as its_device,
        tool(stage.port, "dry"),
        device(stage.port, "dry") as neighbour,
    ):
        wet.go.clear()
        await ask(its_device, 1)
        await asyncio.wait_for(wet.heard.wait(), BOUND)
        fault(sky)
        wet.go.set()
        await ask(neighbour, 7)
        assert "result" in await answer(neighbour)
        heard = await answer(its_device)
        assert heard["id"] == 1 and ("result" if "result" in heard else heard["error"]["code"]) in outcomes, heard
        await hears_nothing_more(its_device, broker)


@pytest.mark.parametrize("fault", ENDS)
async def test_bad_weather_over_a_device_leaves_nothing_owed_and_its_tool_serves_on(fault: Fault) -> None:
    async with (
        scene() as (stage, broker, sky),
        tool(stage.port, "shared") as one,
        device(sky.port, "shared") as wet,
        device(stage.port, "shared") as dry,
    ):
        one.go.clear()
        await ask(wet, 1)
        await asyncio.wait_for(one.heard.wait(), BOUND)
        fault(sky)
        if fault is lightning:
            with suppress(websockets.ConnectionClosed):
                await wet.send(b"[" + b" " * 1000)
        await until(lambda: stage.acceptor.links == 2)
        assert not broker.in_flight
        one.go.set()
        await ask(dry, 2)
        assert (await answer(dry))["id"] == 2
        await hears_nothing_more(dry, broker)


async def test_a_frozen_device_is_found_by_its_silence() -> None:
    async with scene(ping_interval=0.3, ping_timeout=0.3, close_timeout=0.3) as (stage, _, sky), device(sky.port, "cold"):
        assert stage.acceptor.links == 1
        sky.black_hole = True
        await until(lambda: not stage.connections)


async def test_a_thousand_tools_that_are_cut_off_under_load_leave_the_other_endpoints_answered() -> None:
    async with scene() as (stage, broker, _), tool(stage.port, "steady"), device(stage.port, "steady") as steady:
        answered = 0
        storm = True

        async def keep_asking() -> None:
            nonlocal answered
            while storm:
                await ask(steady, answered)
                heard = await answer(steady)
                assert heard["id"] == answered and "result" in heard
                answered += 1

        async def lose_tools(endpoint: int) -> None:
            """A hundred times: a tool comes, is asked, and is gone before it has answered."""
            async with device(stage.port, f"storm-{endpoint}") as link:
                for number in range(100):
                    victim = await connect(f"ws://127.0.0.1:{stage.port}{TOOL}?token=storm-{endpoint}", proxy=None)
                    await ask(link, number)
                    await asyncio.wait_for(victim.recv(), BOUND)
                    victim.transport.abort()
                    heard = await answer(link)
                    assert heard["id"] == number and heard["error"]["code"] == -32003, heard
                    await victim.wait_closed()

        load = asyncio.create_task(keep_asking())
        await asyncio.gather(*(lose_tools(endpoint) for endpoint in range(10)))
        storm = False
        await asyncio.wait_for(load, BOUND)
        assert answered >= 100
        await until(lambda: stage.acceptor.links == 2)
        await hears_nothing_more(steady, broker)


@asynccontextmanager
async def through_faults() -> AsyncIterator[tuple[Faults, Reader, Writer, Reader, Writer]]:
    """The proxy itself: sky, and reader and writer of the peer and of the server behind it."""
    arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda reader, writer: arrived.put_nowait((reader, writer)), "127.0.0.1", 0)
    async with faults(server.sockets[0].getsockname()[1]) as sky:
        reader, writer = await asyncio.open_connection("127.0.0.1", sky.port)
        behind = await asyncio.wait_for(arrived.get(), BOUND)
        try:
            yield sky, reader, writer, *behind
        finally:
            writer.transport.abort()
            behind[1].transport.abort()
            server.close()


async def read(reader: asyncio.StreamReader, size: int = -1) -> bytes:
    async with asyncio.timeout(BOUND):
        return await (reader.read() if size < 0 else reader.readexactly(size))


@pytest.mark.parametrize("fault", [None, shower, drizzle])
async def test_the_proxy_carries_both_directions_and_each_end(fault: Fault | None) -> None:
    async with through_faults() as (sky, reader, writer, reader_behind, writer_behind):
        if fault is not None:
            fault(sky)
        writer.write(b"to the server")
        writer.write_eof()
        assert await read(reader_behind) == b"to the server"
        writer_behind.write(b"to the peer")
        writer_behind.write_eof()
        assert await read(reader) == b"to the peer"


async def test_the_proxy_swallows_bytes_and_ends_in_a_black_hole() -> None:
    async with through_faults() as (sky, reader, writer, reader_behind, _):
        sky.black_hole = True
        writer.write(b"lost")
        writer.write_eof()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader_behind.read(1), 0.05)
        assert not reader.at_eof()


async def test_the_proxy_closes_one_half() -> None:
    async with through_faults() as (sky, reader, _, reader_behind, writer_behind):
        sky.half_close()
        assert await read(reader_behind) == b""
        writer_behind.write(b"still heard")
        assert await read(reader, 11) == b"still heard"


async def test_the_proxy_cuts_after_the_bytes_it_was_told() -> None:
    async with through_faults() as (sky, reader, writer, reader_behind, _):
        sky.cut_after = 4
        writer.write(b"12345")
        try:
            assert await read(reader_behind) == b"1234"
        except ConnectionResetError:
            assert reader_behind._buffer in (b"", b"1234")  # type: ignore[attr-defined]  # the RST may overtake them
        with suppress(ConnectionResetError):
            assert await read(reader) == b""


async def test_the_proxy_resets() -> None:
    async with through_faults() as (sky, reader, _, reader_behind, _):
        sky.reset()
        for each in (reader, reader_behind):
            with pytest.raises(ConnectionResetError):
                await read(each)
