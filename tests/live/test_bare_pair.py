"""Two peers that never heard of MCP: between them the running program is a wire, and nothing on it is made up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from peers import address, broker, until
from running import BOUND, Program
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import DataLike

from mcp_endpoint.access.tokens import TokenCodec

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUMBERS = itertools.count(1)

# What a device says, with a place for its id; spelled in every way JSON allows.
REQUESTS = (
    '{"jsonrpc":"2.0","id":%s,"method":"turn/on"}',
    '{ "method" : "灯/开" , "params" : [ 1.00, 1e5, -0.0, 12345678901234567890123456 ] ,\t"id": %s, "jsonrpc" : "2.0" }',
    '{"id":%s,"jsonrpc":"2.0","method":"x","params":{"id":77,"b":"\\u4f60好\\ud83d\\udc4d","a":{"id":"0"},"":null},"extra":{"id":[]}}',
    '{"jsonrpc":"2.0","params":"{\\"id\\":5}","method":"tools/call","id":%s,"_":0}',
    '{"jsonrpc":"2.0","method":"ping","id":%s}',
    '{"jsonrpc": "2.0", "id": %s, "method": "resources/read", "params": {"uri": "file:///杭州"}}',
)
IDS = ("0", "1", '"1"', '""', '"null"', "-1", "9007199254740993", '"a_b\\u0063"')
RESULTS = (
    '{"jsonrpc":"2.0","id":%s,"result":null}',
    '{ "result" : {"n": 1.00, "id": 3} , "id" : %s , "jsonrpc" : "2.0" , "note" : "\\u597d" }',
    '{"id":%s,"error":{"code":1.5e1,"message":"不","data":[[]]},"jsonrpc":"2.0"}',
)
NOTIFICATIONS = (
    '{"jsonrpc":"2.0","method":"blink","params":[1.0]}',
    '{ "params": {"deep":[[[{}]]]}, "method":"notifications/whatever","jsonrpc":"2.0", "x":1.10 }',
)


class Peer:
    """One end of the pair; it says and hears frames as they are."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def says(self, frame: DataLike) -> None:
        await self.socket.send(frame)

    async def hears(self, frame: str) -> None:
        """The next frame is this one."""
        assert await asyncio.wait_for(self.socket.recv(), BOUND) == frame


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    times = {"MES_WEBSOCKET_PING_INTERVAL": "60", "MES_WEBSOCKET_PING_TIMEOUT": "4", "MES_WEBSOCKET_CLOSE_TIMEOUT": "1"}
    async with broker(tmp_path_factory.mktemp("bare"), **times) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def tool(running: Program, token: str, stack: AsyncExitStack) -> Peer:
    link = connect(address(running, "mcp", token), compression=None, ping_interval=None)
    return Peer(await stack.enter_async_context(link))


async def device(running: Program, token: str, stack: AsyncExitStack) -> Peer:
    return Peer(await stack.enter_async_context(connect(address(running, "call", token), compression=None)))


async def talk(asker: Peer, answerer: Peer, first: int) -> int:
    """Everything once, each frame followed by what must be the very next one; returns the next number of the tool's link."""
    number = first
    for id, request, result in zip(IDS, itertools.cycle(REQUESTS), itertools.cycle(RESULTS), strict=False):
        await asker.says(request % id)
        await answerer.hears(request % number)
        await answerer.says(result % number)
        await asker.hears(result % id)
        number += 1
    for said in NOTIFICATIONS:
        await asker.says(said)
        await answerer.hears(said)
        await answerer.says(said)
        await asker.hears(said)
    return number


@pytest.mark.row("E2", "D8", "D9", "D12", "U7")
async def test_each_side_hears_the_others_bytes_with_only_the_id_changed(running: Program, stack: AsyncExitStack) -> None:
    """The tool's ids are small numbers of its own link; binary frames come out as text."""
    token = TokenCodec(running.key).make_signed(f"pair-{next(NUMBERS)}")
    answerer, asker = await tool(running, token, stack), await device(running, token, stack)
    number = await talk(asker, answerer, 1)
    assert await talk(asker, answerer, number) == 1 + 2 * len(IDS)
    await asker.says(b'{"jsonrpc":"2.0","id":3,"method":"binary"}')
    await answerer.hears('{"jsonrpc":"2.0","id":%d,"method":"binary"}' % (1 + 2 * len(IDS)))


@pytest.mark.row("U7", "U8")
async def test_several_devices_under_one_id_hear_their_own_answers_in_any_order(running: Program, stack: AsyncExitStack) -> None:
    token = TokenCodec(running.key).make_signed(f"pair-{next(NUMBERS)}")
    answerer = await tool(running, token, stack)
    askers = [await device(running, token, stack) for _ in range(5)]
    for number, asker in enumerate(askers, 1):
        await asker.says(REQUESTS[0] % '"same"')
        await answerer.hears(REQUESTS[0] % number)
    for number, asker in reversed(list(enumerate(askers, 1))):
        await answerer.says('{"jsonrpc":"2.0","id":%d,"result":%d}' % (number, number))
        await asker.hears('{"jsonrpc":"2.0","id":"same","result":%d}' % number)


@pytest.mark.row("U12", "U14", "D2", "D3")
async def test_a_tool_that_returns_while_its_old_socket_hangs_is_the_one_that_is_spoken_to(running: Program, stack: AsyncExitStack) -> None:
    """The old socket is open, but nobody reads it: no frame goes there, the ping at the new one's arrival finds it dead, and all the
    while the new one hears the device and nothing else."""
    token = TokenCodec(running.key).make_signed(f"pair-{next(NUMBERS)}")
    asker = await device(running, token, stack)
    old = await connect(address(running, "mcp", token), compression=None, ping_interval=None, close_timeout=0.1)
    try:
        await talk(asker, Peer(old), 1)
        old.transport.pause_reading()
        await asker.says(REQUESTS[0] % '"lost"')  # it is on its way to the old one
        new = await tool(running, token, stack)
        number = await talk(asker, new, 1)
        lost = await asyncio.wait_for(asker.socket.recv(), BOUND)
        assert '"id":"lost"' in lost and '"code":-32003' in lost and '"result"' not in lost
        await until(lambda stats: stats["tool_connections"] == 1, running)
        number = await talk(asker, new, number)
        for request in ('{"jsonrpc":"2.0","id":%s,"method":"tools/list"}', '{"jsonrpc":"2.0","id":%s,"method":"ping"}'):
            await asker.says(request % 0)
            await new.hears(request % number)
            await new.says(RESULTS[1] % number)
            await asker.hears(RESULTS[1] % 0)
            number += 1
    finally:
        old.transport.abort()
