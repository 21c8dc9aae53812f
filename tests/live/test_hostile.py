"""Hostile peers against the running program: a clear answer or close, other endpoints go on meanwhile, and memory is bounded."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from certificates import certificate
from peers import Device, address, broker, device, until
from running import BOUND, Program
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from mcp_endpoint.access.tokens import TokenCodec

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALL_SECONDS: Final = 3
STALLED_SECONDS: Final = 2
BUFFERED_BYTES: Final = 64 * 1024 * 1024
SLOWEST: Final = 5.0
"""Seconds a call at another endpoint may take while this one is attacked; also on a machine that has other things to do."""
GROWTH_KIB: Final = 256 * 1024
"""What the program's memory may have grown by at its peak, whatever was done to it. The floods here are larger."""
FLOOD: Final = 3_000
FLOOD_KIB: Final = 96 * 1024
"""What one flood may add to the memory in use while it lasts: the budget of all connections, and half of it for everything else."""

DEEP: Final = "[" * 100_000 + "]" * 100_000
DIGITS: Final = "7" * 1_000_000
ASK: Final = '{"jsonrpc":"2.0","id":%s,"method":"echo","params":%s}'
ANSWER: Final = '{"jsonrpc":"2.0","id":%s,"result":%s}'

NUMBERS: Final = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    limits = {
        "MES_ENDPOINT_CALL_TIMEOUT": str(CALL_SECONDS),
        "MES_LIMITS_STALLED_SECONDS": str(STALLED_SECONDS),
        "MES_LIMITS_BUFFERED_BYTES": str(BUFFERED_BYTES),
        "MES_WEBSOCKET_CLOSE_TIMEOUT": "1",
    }
    async with broker(tmp_path_factory.mktemp("hostile"), **limits) as running:
        before = peak_kib(running)
        yield running
        assert peak_kib(running) - before < GROWTH_KIB
        assert "Traceback" not in running.log
        await until(lambda stats: stats["endpoints"] == 0 and stats["in_flight"] == 0, running)


def peak_kib(running: Program, field: str = "VmHWM") -> int:
    """The most memory the program ever had (`VmRSS`: has now), 0 where the system does not tell."""
    status = Path(f"/proc/{running.process.pid}/status")
    if not status.exists():
        return 0
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))


@pytest.fixture
def token(running: Program) -> str:
    """An endpoint of the test's own."""
    return TokenCodec(running.key).make_signed(f"attacked-{next(NUMBERS)}")


class Raw:
    """A tool that never heard of MCP: its frames are written by the test, byte for byte."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def hears(self) -> str:
        frame = await asyncio.wait_for(self.socket.recv(), BOUND)
        assert isinstance(frame, str)
        return frame

    async def answers(self, frame: str, result: str = "{}") -> None:
        await self.socket.send(ANSWER % (json.loads(frame)["id"], result))

    async def echoes(self) -> None:
        """Give back the parameters of whatever is asked."""
        with suppress(ConnectionClosed):
            async for frame in self.socket:
                message = json.loads(frame)
                if "id" in message:
                    await self.socket.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": message.get("params", {})}))


@asynccontextmanager
async def raw_tool(running: Program, token: str) -> AsyncIterator[Raw]:
    socket = await connect(address(running, "mcp", token), max_size=None, compression=None, ping_interval=None)
    try:
        yield Raw(socket)
    finally:
        if socket.close_code is None:  # the library cannot close what was cut off while it wrote
            await socket.close()


@asynccontextmanager
async def others_go_on(running: Program) -> AsyncIterator[None]:
    """Calls at another endpoint, one after the other, as long as the block lasts: all are answered, and soon."""
    token = TokenCodec(running.key).make_signed(f"bystander-{next(NUMBERS)}")
    loop = asyncio.get_running_loop()
    times: list[float] = []
    over = asyncio.Event()

    async def go_on(asker: Device) -> None:
        while not (over.is_set() and times):
            began = loop.time()
            assert (await asker.asks(1, "echo", {"n": len(times)}))["result"] == {"n": len(times)}
            times.append(loop.time() - began)

    async with raw_tool(running, token) as answering, device(running, token) as asker:
        echoing = asyncio.create_task(answering.echoes())
        going = asyncio.create_task(go_on(asker))
        try:
            yield
        finally:
            over.set()
            await going
            await answering.socket.close()
            await echoing
    assert max(times) < SLOWEST


async def close_reason(socket: ClientConnection) -> int | None:
    """The close code this socket hears."""
    await asyncio.wait_for(socket.wait_closed(), BOUND)
    return socket.close_code


def left_with(running: Program, code: int) -> int:
    """How often the log tells that a link ended with `code`."""
    return sum(f"code={code}" in line for line in running.log.splitlines())


# -- one frame ---------------------------------------------------------------------------------------------------------------


@pytest.mark.row("D16", "E27")
@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param("hello", -32700, id="garbage"),
        pytest.param("", -32700, id="nothing"),
        pytest.param('{"jsonrpc":"2.0","id":5,"method":"echo"', -32700, id="cut off"),
        pytest.param(b"\xff\xfe\x00", -32700, id="bad UTF-8 in a binary frame"),
        pytest.param(DEEP, -32700, id="an array 100,000 deep"),
        pytest.param("[" * 100_000, -32700, id="100,000 open brackets"),
        pytest.param('{"a":' * 100_000, -32700, id="100,000 open braces"),
        pytest.param("[]", -32600, id="empty array"),
        pytest.param("[" + ASK % (1, "{}") + "]", -32600, id="array of requests"),
        pytest.param(DIGITS, -32600, id="a number of a million digits"),
        pytest.param('"\\ud800"', -32600, id="half a surrogate pair"),
        pytest.param("null", -32600, id="null"),
        pytest.param(ASK % (DIGITS, "{}"), -32600, id="an id of a million digits"),
        pytest.param(ASK % ("1e400", "{}"), -32600, id="an id beyond floats"),
        pytest.param(ASK % (json.dumps("x" * 900_000), "{}"), -32600, id="an id of 900 kB"),
        pytest.param(ASK % ('{"a":1}', "{}"), -32600, id="an object for an id"),
    ],
)
async def test_a_device_that_says_what_is_no_request_is_told_so_and_stays(
    running: Program, token: str, frame: str | bytes, code: int
) -> None:
    """Answered with id null; the tool hears nothing of it, and the same socket works on."""
    async with others_go_on(running), raw_tool(running, token) as tool, device(running, token) as asker:
        told = asker.expects(None)
        await asker.connection.send(frame)
        answer = await asyncio.wait_for(told, BOUND)
        assert answer["error"]["code"] == code
        assert "result" not in answer
        asked = asyncio.create_task(asker.asks(0, "echo", {"still": "here"}))
        heard = await tool.hears()
        assert json.loads(heard)["params"] == {"still": "here"}, "the tool heard something before"
        await tool.answers(heard)
        assert (await asked)["id"] == 0


@pytest.mark.row("E26")
@pytest.mark.parametrize(
    "params",
    [
        pytest.param(f'{{"n":{DIGITS}}}', id="a number of a million digits"),
        pytest.param('{"text":"\\ud83d","other":"\\udc4d!"}', id="half surrogate pairs"),
        pytest.param('{"n":1e999,"m":-0.000,"k":12345678901234567890123456789}', id="numbers no float holds"),
        pytest.param('{"a":1,"a":2,"\\u0000":"\\u0000"}', id="a key twice and NUL"),
    ],
)
async def test_odd_payloads_are_carried_as_they_are(running: Program, token: str, params: str) -> None:
    async with raw_tool(running, token) as tool, connect(address(running, "call", token), max_size=None, compression=None) as asker:
        await asker.send(ASK % ('"a"', params))
        assert await tool.hears() == ASK % (1, params)
        await tool.socket.send('{"jsonrpc":"2.0","id":1,"result":' + params + "}")
        assert await asyncio.wait_for(asker.recv(), BOUND) == '{"jsonrpc":"2.0","id":"a","result":' + params + "}"


async def test_parameters_100000_deep_are_refused_or_carried_and_answered_once(running: Program, token: str) -> None:
    async with others_go_on(running), raw_tool(running, token) as tool, device(running, token) as asker:
        refused, answered = asker.expects(None), asker.expects(1)
        await asker.connection.send(ASK % (1, DEEP))
        asked = asyncio.create_task(asker.asks(2, "echo", {"still": "here"}))
        heard = await tool.hears()
        if DEEP in heard:
            await tool.answers(heard)
            heard = await tool.hears()
        await tool.answers(heard)
        assert (await asked)["result"] == {}
        assert refused.done() != answered.done()


@pytest.mark.row("E27")
@pytest.mark.parametrize(
    ("side", "frame", "code"),
    [
        pytest.param("call", b"\xff\xfe", 1007, id="device, bad UTF-8"),
        pytest.param("mcp", b'{"jsonrpc":"2.0","id":1,"result":"\xff"}', 1007, id="tool, bad UTF-8"),
        pytest.param("call", b" " * (1 << 20) + b"{}", 1009, id="device, over 1 MiB"),
        pytest.param("mcp", b" " * (8 << 20) + b"{}", 1009, id="tool, over 8 MiB"),
    ],
)
async def test_what_no_link_may_carry_ends_it_with_its_code_and_nobody_elses(
    running: Program, token: str, side: str, frame: bytes, code: int
) -> None:
    async with others_go_on(running), raw_tool(running, token) as tool, device(running, token) as asker:
        asked = asyncio.create_task(asker.asks(0, "echo"))
        heard = await tool.hears()
        bad = await connect(address(running, side, token), compression=None) if side == "call" else tool.socket
        with suppress(ConnectionClosed):
            await bad.send(frame, text=True)
        assert await close_reason(bad) == code
        if side == "call":
            await tool.answers(heard)
            assert (await asked)["result"] == {}
        else:
            assert (await asked)["error"]["code"] == -32003
            async with raw_tool(running, token) as again:  # in the same device session
                asked = asyncio.create_task(asker.asks(0, "echo"))
                await again.answers(await again.hears())
                assert (await asked)["result"] == {}


@pytest.mark.row("D16")
async def test_twenty_frames_that_are_none_end_a_device_and_not_its_neighbour(running: Program, token: str) -> None:
    async with raw_tool(running, token) as tool, device(running, token) as neighbour:
        async with connect(address(running, "call", token), compression=None) as bad:
            with suppress(ConnectionClosed):
                for _ in range(20):
                    await bad.send("garbage")
            heard = []
            with suppress(ConnectionClosed):
                while True:
                    heard.append(json.loads(await asyncio.wait_for(bad.recv(), BOUND)))
            assert bad.close_code == 1008
            assert len(heard) == 20 and all(answer["error"]["code"] == -32700 for answer in heard)
        asked = asyncio.create_task(neighbour.asks(0, "echo"))
        await tool.answers(await tool.hears())
        assert (await asked)["result"] == {}


@pytest.mark.row("U13", "D10")
@pytest.mark.parametrize(
    "frame",
    [
        pytest.param("Starting up…\n", id="a print"),
        pytest.param("", id="nothing"),
        pytest.param(b"\xff\xfe\x00", id="bad UTF-8 in a binary frame"),
        pytest.param("[" * 100_000, id="100,000 open brackets"),
        pytest.param(ANSWER % (DIGITS, "{}"), id="an id of a million digits"),
        pytest.param('{"jsonrpc":"2.0","id":1.5,"result":{}}', id="a fraction for an id"),
        pytest.param('{"jsonrpc":"2.0","id":"one","result":{}}', id="a word for an id"),
        pytest.param('{"jsonrpc":"2.0","id":77,"result":{}}', id="an id nobody gave"),
        pytest.param('{"jsonrpc":"2.0","result":{}}', id="no id"),
        pytest.param("null", id="null"),
        pytest.param('"\\ud800"', id="half a surrogate pair"),
    ],
)
async def test_noise_of_a_tool_reaches_nobody_and_its_answer_still_counts(running: Program, token: str, frame: str | bytes) -> None:
    async with raw_tool(running, token) as tool, device(running, token) as asker:
        asked = asyncio.create_task(asker.asks(0, "echo"))
        heard = await tool.hears()
        await tool.socket.send(frame)
        await tool.answers(heard, '{"it":"counts"}')
        assert (await asked)["result"] == {"it": "counts"}
        await tool.answers(heard, '{"it":"was said before"}')
        asked = asyncio.create_task(asker.asks(1, "echo"))
        await tool.answers(await tool.hears())
        assert (await asked)["result"] == {}
        assert not asker.notifications


@pytest.mark.row("D16")
async def test_a_tool_that_says_an_array_is_told_so_and_stays(running: Program, token: str) -> None:
    async with raw_tool(running, token) as tool, device(running, token) as asker:
        await tool.socket.send('[{"jsonrpc":"2.0","id":1,"result":{}}]')
        told = json.loads(await tool.hears())
        assert told["id"] is None and told["error"]["code"] == -32600
        asked = asyncio.create_task(asker.asks(0, "echo"))
        await tool.answers(await tool.hears())
        assert (await asked)["result"] == {}


@pytest.mark.row("D6")
async def test_an_answer_100000_deep_is_carried_or_the_call_fails_at_once(running: Program, token: str) -> None:
    async with others_go_on(running), raw_tool(running, token) as tool, device(running, token) as asker:
        future = asker.expects(0)
        await asker.connection.send(ASK % (0, "{}"))
        await tool.answers(await tool.hears(), '{"n":[1,"]"]}')
        assert (await asyncio.wait_for(future, BOUND))["result"]["n"] == [1, "]"]
        async with connect(address(running, "call", token), max_size=None, compression=None) as socket:
            await socket.send(ASK % (0, "{}"))
            await tool.answers(await tool.hears(), DEEP)
            answer = await asyncio.wait_for(socket.recv(), BOUND)
            assert DEEP in answer or '"code":-32007' in str(answer)


async def test_an_answer_above_the_limit_ends_its_call_and_no_other_of_its_tool(running: Program, token: str) -> None:
    """9 MiB, the id at the end as the SDK of TypeScript writes it: the link stays, and the reason is told at once."""
    async with raw_tool(running, token) as tool, device(running, token) as asker, device(running, token) as other:
        asked = asyncio.create_task(asker.asks(0, "echo"))
        large = json.loads(await tool.hears())["id"]
        waiting = asyncio.create_task(other.asks(0, "echo"))
        heard = await tool.hears()
        await tool.socket.send('{"result":"' + "x" * (9 << 20) + '","jsonrpc":"2.0","id":%d}' % large)
        error = (await asked)["error"]
        assert error["code"] == -32007 and "too large" in error["data"]["hint"]
        await tool.answers(heard)
        assert (await waiting)["result"] == {}


@pytest.mark.row("D23")
async def test_an_answer_a_device_cannot_take_is_told_and_its_socket_stays(running: Program, token: str) -> None:
    async with raw_tool(running, token) as tool, device(running, token) as asker:
        asked = asyncio.create_task(asker.asks(0, "echo"))
        await tool.answers(await tool.hears(), json.dumps("x" * (1 << 20)))
        assert (await asked)["error"]["code"] == -32007
        asked = asyncio.create_task(asker.asks(1, "echo"))
        await tool.answers(await tool.hears())
        assert (await asked)["result"] == {}


# -- floods and peers that do not read ----------------------------------------------------------------------------------------


async def flood(socket: ClientConnection, frame: str, count: int = FLOOD) -> None:
    """Say it with running ids as fast as the other side takes it, and never read."""
    with suppress(ConnectionClosed):
        for number in range(count):
            await socket.send(frame % number)


@asynccontextmanager
async def not_reading(address: str) -> AsyncIterator[ClientConnection]:
    """A socket whose owner takes nothing from it, neither messages nor pings nor close frames."""
    socket = await connect(address, compression=None, ping_interval=None, max_queue=None, close_timeout=0.1)
    socket.transport.pause_reading()
    try:
        yield socket
    finally:
        socket.transport.abort()


@pytest.mark.row("D2")
async def test_a_device_that_asks_3000_times_and_never_reads_is_let_go_and_its_neighbour_is_served(running: Program, token: str) -> None:
    """Each answer is 60 kB: far more than may wait for it."""
    before = left_with(running, 1013)
    big = json.dumps("y" * 60_000)

    async def answers(tool: Raw) -> None:
        with suppress(ConnectionClosed):
            async for frame in tool.socket:
                message = json.loads(frame)
                if "id" in message:
                    await tool.socket.send(ANSWER % (message["id"], big if message["method"] == "big" else "{}"))

    async with others_go_on(running), raw_tool(running, token) as tool, device(running, token) as neighbour:
        answering = asyncio.create_task(answers(tool))
        async with not_reading(address(running, "call", token)) as greedy:
            asking = asyncio.create_task(flood(greedy, '{"jsonrpc":"2.0","id":%d,"method":"big"}'))
            assert (await neighbour.asks(0, "echo"))["result"] == {}
            await until(lambda stats: left_with(running, 1013) > before, running)
            assert (await neighbour.asks(1, "echo"))["result"] == {}
        await asyncio.wait_for(asking, BOUND)
        await tool.socket.close()
        await answering


@pytest.mark.row("D2")
async def test_a_tool_that_never_reads_leaves_each_of_3000_requests_one_answer(running: Program, token: str) -> None:
    """What its queue cannot hold is refused as busy; what it was given ends with the tool or its deadline."""
    ask = '{"jsonrpc":"2.0","id":%d,"method":"echo","params":{"x":"' + "x" * 60_000 + '"}}'
    async with (
        others_go_on(running),
        not_reading(address(running, "mcp", token)),
        connect(address(running, "call", token), compression=None) as asker,
    ):
        asking = asyncio.create_task(flood(asker, ask))
        answers: list[dict[str, Any]] = []
        async with asyncio.timeout(3 * BOUND):
            while len(answers) < FLOOD:
                answers.append(json.loads(await asker.recv()))
        await asking
        assert sorted(answer["id"] for answer in answers) == list(range(FLOOD))
        assert {answer["error"]["code"] for answer in answers} <= {-32001, -32003, -32005, -32006}
        await asker.send('{"jsonrpc":"2.0","id":"last","method":"initialize"}')
        assert json.loads(await asyncio.wait_for(asker.recv(), BOUND))["id"] == "last"


@pytest.mark.row("D13")
async def test_a_tool_that_asks_3000_times_and_never_reads_harms_nobody(running: Program, token: str) -> None:
    """Its own devices are served by the tool beside it, also while it goes on asking."""
    async with others_go_on(running), raw_tool(running, token) as good, device(running, token) as asker:
        echoing = asyncio.create_task(good.echoes())
        assert (await asker.asks(0, "echo", {"n": 0}))["result"] == {"n": 0}
        async with not_reading(address(running, "mcp", token)) as bad:
            await until(lambda stats: stats["tool_connections"] >= 3, running)
            await flood(bad, '{"jsonrpc":"2.0","id":%d,"method":"sampling/createMessage","params":{"x":"' + "x" * 20_000 + '"}}')
        await until(lambda stats: stats["tool_connections"] == 2, running)
        assert (await asker.asks(1, "echo", {"n": 1}))["result"] == {"n": 1}
        assert not asker.notifications
        await good.socket.close()
        await echoing


@pytest.mark.row("D2", "D12")
async def test_notifications_for_a_device_that_never_reads_are_bounded(running: Program, token: str) -> None:
    """120 MB of them, while its neighbour hears what it is fast enough for, in order, and its answers."""
    note = '{"jsonrpc":"2.0","method":"notifications/custom","params":{"n":%d,"x":"' + "x" * 40_000 + '"}}'
    async with (
        others_go_on(running),
        raw_tool(running, token) as tool,
        device(running, token) as neighbour,
        not_reading(address(running, "call", token)),
    ):
        await until(lambda stats: stats["device_connections"] >= 3, running)
        await flood(tool.socket, note)
        asked = asyncio.create_task(neighbour.asks(0, "echo"))
        await tool.answers(await tool.hears())
        assert (await asked)["result"] == {}
        numbers = [frame["params"]["n"] for frame in neighbour.notifications]
        assert numbers and numbers == sorted(set(numbers)), "twice or out of order"


# -- HTTP ---------------------------------------------------------------------------------------------------------------------


class Deaf(asyncio.Protocol):
    """A socket that says what it has to say, reads nothing and knows when it was cut off."""

    def __init__(self, says: bytes) -> None:
        self.says = says
        self.cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        transport.write(self.says)

    def connection_lost(self, exc: Exception | None) -> None:
        self.cut.set_result(None)


async def deaf(running: Program, says: bytes) -> Deaf:
    """Connected, with room for next to no answer."""
    loop = asyncio.get_running_loop()
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.setblocking(False)
    await loop.sock_connect(one, ("127.0.0.1", running.port))
    _, protocol = await loop.create_connection(lambda: Deaf(says), sock=one)
    return protocol


@pytest.mark.row("D2")
async def test_pipelined_requests_whose_answers_nobody_reads_take_no_memory_and_end(running: Program) -> None:
    """Without a token: the program reads on only as far as its answers are taken, and lets go who takes none."""
    request = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    before = peak_kib(running, "VmRSS")
    async with others_go_on(running):
        flooding = [await deaf(running, request * 100_000) for _ in range(2)]
        await asyncio.wait_for(asyncio.gather(*(one.cut for one in flooding)), 3 * BOUND)
        assert peak_kib(running, "VmRSS") - before < FLOOD_KIB / 3


@pytest.mark.row("D2")
async def test_unfinished_messages_of_many_tools_share_one_budget(running: Program, token: str) -> None:
    """Sixteen tools with all but the end of 8 MiB each: half of them are more than `buffered_bytes`, and the first that are too many go."""
    before = peak_kib(running, "VmRSS")
    size = 8 * 1024 * 1024
    head = bytes((0x81, 0xFF)) + size.to_bytes(8, "big") + b"mask"
    async with others_go_on(running):
        tools = [await connect(address(running, "mcp", token), compression=None, ping_interval=None) for _ in range(16)]
        try:
            for tool in tools:
                tool.transport.write(head + b"x" * (size - 100_000))
            ends = [asyncio.create_task(tool.wait_closed()) for tool in tools]
            while sum(end.done() for end in ends) < 16 - BUFFERED_BYTES // size:
                await asyncio.wait_for(asyncio.wait([end for end in ends if not end.done()], return_when="FIRST_COMPLETED"), BOUND)
            assert {tool.close_code for tool, end in zip(tools, ends, strict=True) if end.done()} == {1013}
            assert peak_kib(running, "VmRSS") - before < FLOOD_KIB
            await until(lambda stats: stats["tool_connections"] == BUFFERED_BYTES // size + 1, running)
        finally:
            for tool in tools:
                tool.transport.abort()
            await asyncio.gather(*ends)


async def test_sockets_that_never_bring_tls_up_are_few_and_short_lived(tmp_path: Path) -> None:
    """Three at a time for two seconds: the fourth and every later one end one before them, and who means it comes in."""
    cert, key = certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=cert)
    environ = {"MES_SERVER_TLS_CERT": cert, "MES_SERVER_TLS_KEY": key}
    limits = {"MES_LIMITS_UNFINISHED_HANDSHAKES": "3", "MES_LIMITS_HANDSHAKE_SECONDS": "2"}
    async with broker(tmp_path, **environ, **limits) as running:
        silent = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(6)]
        ends = [asyncio.create_task(reader.read()) for reader, _ in silent]
        await asyncio.wait_for(asyncio.gather(*ends[:3]), BOUND)
        link = address(running, "call").replace("ws://127.0.0.1", "wss://localhost")
        async with connect(link, ssl=trusting, compression=None) as socket:
            await socket.send('{"jsonrpc":"2.0","id":1,"method":"ping"}')
            assert json.loads(await asyncio.wait_for(socket.recv(), BOUND))["result"] == {}
            assert await asyncio.wait_for(asyncio.gather(*ends), BOUND) == [b""] * 6
        for _, writer in silent:
            writer.close()
        running.process.send_signal(signal.SIGTERM)
        assert await running.ends() == 0
