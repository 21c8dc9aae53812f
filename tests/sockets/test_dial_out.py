"""Links to endpoints of others, against a fake of the hosted one: it asks, refuses, restarts, falls silent and floods; we stay bounded."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
from loguru import logger
from running import BOUND, KEY, get, running
from sockets.wire_server import certificates, until
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response

from mcp_endpoint import backoff
from mcp_endpoint.core.broker import Broker
from mcp_endpoint.core.parties import Provider
from mcp_endpoint.errors import GOING_AWAY, OVER_BUDGET
from mcp_endpoint.protocol.jsonrpc import Part
from mcp_endpoint.settings.schema import Config, DialSettings, EndpointSettings, Limits, WebSocket
from mcp_endpoint.sockets import dial
from mcp_endpoint.sockets.budget import Budget
from mcp_endpoint.sockets.dial_out import LATER_SECONDS, DialOut, DialTarget, FarSide, secrets
from mcp_endpoint.sockets.keepalive import Keepalive

CANARY = "eyJhbGciOiJFUzI1NiJ9.canary-claims-6b1f.canary+signature/77=="
HOME = ("agent:home", "home")
GREETING = (
    '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{"sampling":{},'
    '"roots":{"listChanged":false}},"clientInfo":{"name":"xz-mcp-broker","version":"0.0.1"}}}',
    '{"jsonrpc":"2.0","method":"notifications/initialized"}',
    '{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}',
    '{"jsonrpc":"2.0","id":2,"method":"ping","params":{}}',
)
"""What the hosted endpoint says when a link opens, in one go."""
EAGER = Limits(hold_quiet_seconds=0.05, list_changed_seconds=0.01, merged_list_seconds=0.05)
CALL = '{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"calculator","arguments":{},"serialNumber":null}}'


class Line:
    """A link as the hosted endpoint sees it."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection

    async def says(self, *frames: str) -> None:
        for frame in frames:
            await self.connection.send(frame)

    async def hears(self) -> dict[str, Any]:
        frame = await asyncio.wait_for(self.connection.recv(), BOUND)
        assert isinstance(frame, str)
        assert "\n" not in frame
        message = json.loads(frame)
        assert isinstance(message, dict)
        return message

    async def answers(self, *ids: int) -> dict[int, dict[str, Any]]:
        """The answers to these requests, in whatever order they come; there is nothing else between them."""
        found = [await self.hears() for _ in ids]
        assert sorted(one["id"] for one in found) == sorted(ids)
        return {one["id"]: one for one in found}

    async def ended(self) -> tuple[int | None, str | None]:
        await asyncio.wait_for(self.connection.wait_closed(), BOUND)
        return self.connection.close_code, self.connection.close_reason


class Hosted:
    """The hosted endpoint; `turns` says what becomes of the next links: an HTTP status, a close code with its reason, or they are taken."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.turns: list[int | tuple[int, str]] = []
        self.headers: dict[str, str] = {}
        self.body = ""
        self.paths: list[str] = []
        self.port = 0
        self._tls = tls
        self._lines: asyncio.Queue[Line] = asyncio.Queue()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"{'ws' if self._tls is None else 'wss'}://127.0.0.1:{self.port}/mcp/?token={CANARY}"

    async def open(self) -> None:
        self._server = await serve(
            self._hold,
            "127.0.0.1",
            self.port,
            ssl=self._tls,
            process_request=self._judge,
            compression=None,
            ping_interval=None,
            close_timeout=1,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def close(self, code: int = 1012) -> None:
        assert self._server is not None
        self._server.close(code=code)
        await asyncio.wait_for(self._server.wait_closed(), BOUND)

    async def line(self) -> Line:
        """The next link that was taken."""
        return await asyncio.wait_for(self._lines.get(), BOUND)

    async def greeted(self) -> tuple[Line, list[str]]:
        """The next link that was taken, once it has answered the greeting, and the tools it has listed."""
        line = await self.line()
        await line.says(*GREETING)
        listed = (await line.answers(0, 1, 2))[1]["result"]["tools"]
        return line, [tool["name"] for tool in listed]

    def _judge(self, connection: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        if not self.turns or not isinstance(self.turns[0], int):
            return None
        response = connection.respond(HTTPStatus(self.turns.pop(0)), self.body)
        for name, value in self.headers.items():
            response.headers[name] = value
        return response

    async def _hold(self, connection: ServerConnection) -> None:
        turn = self.turns.pop(0) if self.turns else 0
        if isinstance(turn, tuple):
            await connection.close(*turn)
            return
        self._lines.put_nowait(Line(connection))
        await connection.wait_closed()


class Pauses:
    """What waits between two attempts, in the place of time."""

    def __init__(self) -> None:
        self._asked: asyncio.Queue[float] = asyncio.Queue()
        self._over = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self._asked.put_nowait(seconds)
        await self._over.acquire()

    async def next(self) -> float:
        """How long the next wait is to be; by then the target has told its state."""
        return await asyncio.wait_for(self._asked.get(), BOUND)

    def over(self) -> None:
        self._over.release()


class Watch:
    def tell(self, event: str, shown: str, **fields: object) -> None:
        assert event != "fault"


class Tool:
    """A provider at the endpoint `home`: answers at the end of the turn; `silent` ones keep calls, which `heard` holds."""

    queued = 0

    def __init__(self, broker: Broker, *names: str, silent: bool = False) -> None:
        self.names = names
        self.silent = silent
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.party: Provider = broker.attach_provider(*HOME, self, server_id=names[0])

    def send(self, first: Part, second: Part = b"") -> None:
        asyncio.get_running_loop().call_soon(self._takes, b"".join((first, second)))

    def _takes(self, frame: bytes) -> None:
        message = json.loads(frame)
        method = message["method"]
        if method == "initialize":
            info = {"name": self.names[0], "version": "1"}
            self.answers(message, {"protocolVersion": "2024-11-05", "capabilities": {"tools": {"listChanged": True}}, "serverInfo": info})
        elif method == "tools/list":
            self.answers(message, {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in self.names]})
        elif method == "tools/call":
            self.heard.put_nowait(frame)
            if not self.silent:
                self.answers(message, {"content": [{"type": "text", "text": "42"}]})
        elif method == "ping":
            self.answers(message, {})

    def answers(self, message: dict[str, Any], result: dict[str, Any]) -> None:
        frame = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}, indent=1)
        self.party.receive(self.party, frame.encode(), asyncio.get_running_loop().time(), True)

    def close(self, code: int, reason: str) -> None: ...
    def ping(self) -> None: ...


BIG = {"content": [{"type": "text", "text": "x" * 900_000}]}
"""Twenty of them are more than the kernel keeps for a socket that nobody reads."""


async def asks(line: Line, tool: Tool, result: dict[str, Any], numbers: range) -> None:
    """Calls of a silent tool, all of which it has then answered."""
    await line.says(*(CALL % number for number in numbers))
    asked = [json.loads(await asyncio.wait_for(tool.heard.get(), BOUND)) for _ in numbers]
    for message in asked:
        tool.answers(message, result)


class Side:
    """This server's side: a broker and its targets."""

    def __init__(self, *urls: str, limits: Limits | None = None, tls: ssl.SSLContext | None = None, **pings: float) -> None:
        loop = asyncio.get_running_loop()
        config = Config(
            limits=limits or Limits(hold_quiet_seconds=0.05),
            websocket=WebSocket(**pings),  # type: ignore[arg-type]
            dial=tuple(DialSettings(name=f"t{number}", url=url, endpoint="home") for number, url in enumerate(urls, 1)),
        )
        clock, call_at = loop.time, loop.call_at
        self.broker = Broker(EndpointSettings(), config.limits, clock=clock, call_at=call_at, epoch=time.time, watch=Watch())
        self.pauses = Pauses()
        self.budget = Budget(config.limits, Keepalive(config.websocket, config.limits))
        self.room = DialOut(
            *(config, self.broker, lambda name: (f"agent:{name}", name), {}),
            tls=tls,
            draw=lambda: 0.0,
            pause=self.pauses,
            keep=self.budget.keep,
        )

    @property
    def target(self) -> dict[str, Any]:
        return dict(self.room.describe()["targets"][0])

    async def __aenter__(self) -> Side:
        await self.room.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.wait_for(self.room.stop(), BOUND)
        assert not self.broker.consumers


@asynccontextmanager
async def hosting(*turns: int | tuple[int, str], tls: ssl.SSLContext | None = None) -> AsyncIterator[Hosted]:
    hosted = Hosted(tls)
    hosted.turns = list(turns)
    await hosted.open()
    try:
        yield hosted
    finally:
        await hosted.close()


@pytest.fixture(autouse=True)
def quick_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the close frame of a far side that does not read."""
    monkeypatch.setattr(dial, "CLOSE_SECONDS", 0.2)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Every line of the log, whatever its level."""
    lines: list[str] = []
    number = logger.add(lambda line: lines.append(f"{line} {line.record['extra']}"), level="TRACE")
    yield lines
    logger.remove(number)


# What the other side asks is answered.


async def test_the_hosted_endpoint_is_answered_as_by_a_tool_of_its_own() -> None:
    async with hosting() as hosted, Side(hosted.url) as side:
        line = await hosted.line()
        tool = Tool(side.broker, "calculator")
        await line.says(*GREETING)
        answers = await line.answers(0, 1, 2)
        assert answers[0]["result"]["protocolVersion"] == "2024-11-05"
        assert [one["name"] for one in answers[1]["result"]["tools"]] == ["calculator"]
        assert answers[2]["result"] == {}
        call = '"method":"tools/call","params":{"name":"calculator","arguments":{"a": 1.50,"名":"\\u4f60"},"serialNumber":null}}'
        await line.says(f'{{"jsonrpc":"2.0","id":10,{call}')
        assert (await line.hears())["result"]["content"][0]["text"] == "42"
        assert (await tool.heard.get()).endswith(call.encode())  # but for the id, not a byte is another
        assert hosted.paths == [f"/mcp/?token={CANARY}"]
        assert side.target["state"] == "connected"
        assert side.target["host"] == f"127.0.0.1:{hosted.port}"


async def test_the_one_list_it_asks_for_has_the_tools_that_still_start_and_it_hears_of_later_ones() -> None:
    async with hosting() as hosted, Side(hosted.url, limits=EAGER) as side:
        line = await hosted.line()
        Tool(side.broker, "first")
        slow = Tool(side.broker, "second")
        slow.send, greeted = (lambda first, second=b"": kept.append((first, second))), slow.send  # type: ignore[method-assign,misc]
        kept: list[tuple[Part, Part]] = []
        await line.says(*GREETING)
        await line.answers(0, 2)

        def starts() -> None:
            slow.send = greeted  # type: ignore[method-assign]
            for frame in kept:
                slow.send(*frame)

        asyncio.get_running_loop().call_later(0.2, starts)  # four times as long as a merged list waits that nobody holds
        while (listed := await line.hears()).get("id") != 1:
            assert listed["method"] == "notifications/tools/list_changed"
        assert sorted(one["name"] for one in listed["result"]["tools"]) == ["first", "second"]
        Tool(side.broker, "third")
        assert (await line.hears())["method"] == "notifications/tools/list_changed"


async def test_where_no_tool_is_the_list_is_empty_at_once() -> None:
    async with hosting() as hosted, Side(hosted.url):
        assert (await hosted.greeted())[1] == []


async def test_an_endpoint_opens_with_the_link_and_closes_with_it() -> None:
    """Managed servers come to an endpoint that is open."""
    async with hosting() as hosted:
        side = Side(hosted.url)
        opened: list[str] = []
        side.broker.on_open = lambda endpoint: opened.append(f"+{endpoint.shown}")
        side.broker.on_idle = lambda endpoint: opened.append(f"-{endpoint.shown}")
        async with side:
            await (await hosted.line()).connection.close(1001)
            await side.pauses.next()
            assert opened == ["+home", "-home"]


# When to come back.


@pytest.mark.parametrize("turn", [401, 403, (4401, "invalid token"), (4403, ""), (4001, ""), (4003, ""), (1008, "")])
async def test_a_refused_token_is_not_tried_fast_and_the_reason_says_what_to_do(turn: int | tuple[int, str]) -> None:
    async with hosting(turn, turn) as hosted, Side(hosted.url) as side:
        first = await side.pauses.next()
        assert first == backoff.SLOW_FIRST_SECONDS
        assert side.target["state"] == "refused"
        assert "the token was refused: copy a new address from the console" in side.target["reason"]
        assert "令牌被拒绝" in side.target["reason"]
        assert str(turn if isinstance(turn, int) else turn[0]) in side.target["reason"]
        side.pauses.over()
        assert await side.pauses.next() > first
        side.pauses.over()
        await hosted.greeted()
        assert side.target["state"] == "connected"
        assert side.target["reason"] == ""


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4004])
async def test_a_restart_over_there_is_followed_soon(code: int) -> None:
    async with hosting((code, "")) as hosted, Side(hosted.url) as side:
        assert await side.pauses.next() == backoff.FIRST_SECONDS
        assert side.target["state"] == "waiting"
        assert f"({code})" in side.target["reason"]


@pytest.mark.parametrize(("turn", "seconds"), [((1013, "later"), LATER_SECONDS), (503, 17.0), (429, 30.0)])
async def test_who_has_too_much_to_do_is_left_alone_for_a_while(turn: int | tuple[int, str], seconds: float) -> None:
    async with hosting(turn) as hosted, Side(hosted.url) as side:
        hosted.headers = {"Retry-After": "17"}
        assert await side.pauses.next() == seconds


async def test_waits_grow_until_a_link_has_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosting((1011, ""), (1011, ""), (1011, "")) as hosted, Side(hosted.url) as side:
        waits = []
        for _ in range(3):
            waits.append(await side.pauses.next())
            side.pauses.over()
        assert waits == [backoff.FIRST_SECONDS * backoff.GROWTH**times for times in range(3)]
        line = await hosted.line()
        monkeypatch.setattr(backoff, "WORKED_SECONDS", 0.0)
        await line.connection.close(1011)
        assert await side.pauses.next() == backoff.FIRST_SECONDS
        assert side.target["reconnects"] == 3


async def test_the_far_side_goes_away_and_comes_back() -> None:
    async with hosting() as hosted, Side(hosted.url) as side:
        Tool(side.broker, "calculator")
        await hosted.line()
        await hosted.close(1012)
        await side.pauses.next()
        side.pauses.over()
        await side.pauses.next()
        assert "cannot reach ws://127.0.0.1" in side.target["reason"]
        since = side.target["since"]
        await hosted.open()
        side.pauses.over()
        _, tools = await hosted.greeted()
        assert tools == ["calculator"]
        assert side.target["reconnects"] == 1
        assert side.target["since"] >= since


async def test_a_dead_target_does_not_disturb_another() -> None:
    async with hosting() as hosted, hosting(*[401] * 3) as dead, Side(dead.url, hosted.url) as side:
        Tool(side.broker, "calculator")
        await side.pauses.next()
        _, tools = await hosted.greeted()
        assert tools == ["calculator"]
        assert side.room.connected() == {"t1": False, "t2": True}


async def test_two_live_targets_have_the_same_tools_and_their_own_ids() -> None:
    async with hosting() as one, hosting() as two, Side(one.url, two.url) as side:
        Tool(side.broker, "calculator")
        for hosted in (one, two):
            assert (await hosted.greeted())[1] == ["calculator"]


# Signs of life.


async def test_pings_are_answered_and_a_link_that_answers_none_is_given_up() -> None:
    async with hosting() as hosted, Side(hosted.url, ping_interval=0.05, ping_timeout=0.2) as side:
        line = await hosted.line()
        await asyncio.wait_for(await line.connection.ping(), BOUND)
        line.connection.transport.pause_reading()
        await side.pauses.next()
        assert "1011" in side.target["reason"] and "keepalive" in side.target["reason"]
        line.connection.transport.abort()


# The end.


async def test_what_is_owed_goes_out_before_the_link_is_closed_with_1001() -> None:
    async with hosting() as hosted:
        async with Side(hosted.url) as side:
            tool = Tool(side.broker, "calculator", silent=True)
            line, _ = await hosted.greeted()
            await line.says(CALL % 10)
            await asyncio.wait_for(tool.heard.get(), BOUND)
            side.broker.drain()
            side.broker.finish()
        assert "error" in (await line.answers(10))[10]
        assert await line.ended() == (1001, "going away")
        assert side.target["state"] == "stopped"


async def test_answers_that_still_wait_for_a_slow_reader_go_out_before_the_end() -> None:
    async with hosting() as hosted:
        async with Side(hosted.url) as side:
            tool = Tool(side.broker, "calculator", silent=True)
            line, _ = await hosted.greeted()
            line.connection.transport.pause_reading()
            await asks(line, tool, BIG, range(10, 30))
            asyncio.get_running_loop().call_later(0.1, line.connection.transport.resume_reading)
        await line.answers(*range(10, 30))
        assert (await line.ended())[0] == 1001


async def test_a_target_that_waits_or_dials_ends_at_once() -> None:
    async with hosting(401) as hosted, Side(hosted.url) as side:
        await side.pauses.next()
    assert side.target["state"] == "stopped"
    came: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    quiet = await asyncio.start_server(lambda reader, writer: came.put_nowait(writer), "127.0.0.1", 0)
    async with Side(f"ws://127.0.0.1:{quiet.sockets[0].getsockname()[1]}/mcp/?token={CANARY}"):
        writer = await asyncio.wait_for(came.get(), BOUND)
    writer.close()
    quiet.close()


async def test_while_the_server_drains_nobody_is_dialled() -> None:
    async with hosting() as hosted, Side(hosted.url) as side:
        line = await hosted.line()
        side.broker.drain()
        await line.connection.close(1012)
        await side.pauses.next()
        side.pauses.over()
        await asyncio.wait_for(_over(side.room.targets[0]), BOUND)
        assert len(hosted.paths) == 1


async def _over(target: DialTarget) -> None:
    assert target._task is not None
    await target._task


# What a hostile far side gets.


async def test_garbage_ends_the_link_as_it_ends_a_devices() -> None:
    async with hosting() as hosted, Side(hosted.url, limits=Limits(bad_frames=2)) as side:
        line = await hosted.line()
        await line.connection.send(b"\xff\xfe{", text=True)
        assert (await line.hears())["error"]["code"] == -32700
        await line.says("[" * 100_000)
        await line.says("no json")
        assert (await line.ended())[0] == 1008
        await side.pauses.next()
        assert "this side has ended it: 1008 too many frames" in side.target["reason"]


async def test_a_message_too_large_or_in_too_many_pieces_ends_the_link() -> None:
    async with hosting() as hosted, Side(hosted.url, limits=Limits(consumer_message_bytes=4096, fragments=10)) as side:
        line = await hosted.line()
        await line.says("x" * 4097)
        assert (await line.ended())[0] == 1009
        await side.pauses.next()
        assert "1009" in side.target["reason"]
        side.pauses.over()
        line = await hosted.line()
        await line.connection.send([b""] * 20)
        assert (await line.ended())[0] == 1008


async def test_a_far_side_that_floods_and_never_reads_is_given_up() -> None:
    limits = Limits(queued_bytes_per_link=64 * 1024, overfull_times=1, in_flight_per_consumer=20, hold_quiet_seconds=0.05)
    async with hosting() as hosted, Side(hosted.url, limits=limits) as side:
        tool = Tool(side.broker, "calculator", silent=True)
        line, _ = await hosted.greeted()
        line.connection.transport.pause_reading()
        await line.says(*(CALL % number for number in range(100)))  # 20 of them are taken
        asked = [json.loads(await asyncio.wait_for(tool.heard.get(), BOUND)) for _ in range(20)]
        assert tool.heard.empty()
        for message in asked:
            tool.answers(message, {"content": [{"type": "text", "text": "x" * 900_000}]})
        await side.pauses.next()
        assert "1013 not reading" in side.target["reason"]
        line.connection.transport.abort()


async def test_nothing_more_is_read_of_one_that_does_not_read_until_it_does() -> None:
    limits = Limits(queued_bytes_per_link=64 * 1024, overfull_times=100, hold_quiet_seconds=0.05)
    async with hosting() as hosted, Side(hosted.url, limits=limits) as side:
        tool = Tool(side.broker, "calculator", silent=True)
        line, _ = await hosted.greeted()
        line.connection.transport.pause_reading()
        with pytest.raises(TimeoutError):
            for number in range(10, 60):  # a few fill what the kernel keeps
                await line.says(CALL % number)
                tool.answers(json.loads(await asyncio.wait_for(tool.heard.get(), 0.5)), BIG)
        line.connection.transport.resume_reading()
        await asyncio.wait_for(tool.heard.get(), BOUND)


async def test_pings_of_one_that_never_reads_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "UNREAD_BYTES", 1024)
    async with hosting() as hosted, Side(hosted.url) as side:
        line = await hosted.line()
        transport = line.connection.transport
        transport.pause_reading()
        pings = Frame(Opcode.PING, b"x" * 125).serialize(mask=False) * 2_000
        over = asyncio.ensure_future(side.pauses.next())
        while not over.done():
            if transport.get_write_buffer_size() < len(pings):
                transport.write(pings)
            await asyncio.wait((over,), timeout=0.01)
        await over
        transport.abort()
        assert "broke off" in side.target["reason"]


async def test_what_is_queued_for_a_slow_reader_holds_up_reading_and_then_the_link() -> None:
    far = FarSide(Limits(queued_bytes_per_link=1024, overfull_times=2), lambda one, size: None)
    far.send(b"x" * 1000)
    assert far.may_read.is_set()
    far.send(b"x" * 100)
    assert not far.may_read.is_set()
    far.send(b"x" * 1000)
    assert far.closing is not None and far.closing.code == 1013
    far.send(b"x" * 1000)
    far.close(1001, "too late")
    assert far.closing.code == 1013


async def test_what_waits_for_a_remote_side_counts_with_the_bytes_of_all_connections() -> None:
    """Beyond `buffered_bytes` the one with most is closed."""
    limits = Limits(hold_quiet_seconds=0.05, buffered_bytes=4 * 1024 * 1024, queued_bytes_per_link=64 * 1024 * 1024)
    async with hosting() as hosted, Side(hosted.url, limits=limits) as side:
        tool = Tool(side.broker, "calculator", silent=True)
        line, _ = await hosted.greeted()
        await asks(line, tool, BIG, range(10, 12))
        assert side.budget.bytes > 900_000
        await line.answers(10, 11)
        line.connection.transport.pause_reading()
        await asks(line, tool, BIG, range(12, 32))
        await side.pauses.next()
        assert "1013 too many bytes waiting" in side.target["reason"]
        assert side.budget.bytes == 0
        line.connection.transport.abort()


async def test_an_unfinished_message_of_a_remote_side_counts_too() -> None:
    over = asyncio.Event()

    async def pieces() -> AsyncIterator[str]:
        yield '{"jsonrpc":"2.0","id":9,"method":"ping"'
        yield " " * 100_000
        await over.wait()
        yield "}"

    async with hosting() as hosted, Side(hosted.url) as side:
        line, _ = await hosted.greeted()
        sending = asyncio.create_task(line.connection.send(pieces()))
        await until(lambda: side.budget.bytes > 100_000)
        over.set()
        await sending
        assert (await line.hears())["id"] == 9
        assert side.budget.bytes == 0


async def test_one_that_is_closing_pays_with_what_it_has_queued() -> None:
    kept: list[int] = []
    far = FarSide(Limits(), lambda one, size: kept.append(size))
    far.send(b"x" * 100)
    far.close(*GOING_AWAY)
    assert far.kept() == 100
    far.pay()
    assert (far.kept(), kept) == (0, [100])
    assert far.closing == OVER_BUDGET


# What may be seen.


async def test_the_token_stands_nowhere_whatever_the_other_side_says(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a close reason, cut off in the middle, in the body of a refusal; and in no line of the websockets library."""
    cut = CANARY[:30]
    async with hosting((4401, f"token {CANARY} revoked"), (1011, f"bad {cut}"), 401, 502) as hosted, Side(hosted.url) as side:
        hosted.body = json.dumps({"message": f"不认识 {CANARY} / unknown {cut}"})
        seen = []
        for _ in range(4):
            await side.pauses.next()
            seen.append(json.dumps(side.room.describe()))
            side.pauses.over()
        await hosted.greeted()
        assert "token *** revoked" in seen[0]
    text = "".join(told + seen)
    for secret in (CANARY, cut, "canary-claims", "signature"):
        assert secret not in text
    assert "外连已连接" in text


def test_secrets_of_an_address_are_known_in_every_spelling() -> None:
    found = secrets("wss://user:pass-word@h/mcp/0123456789abcdef0/?token=a%2Bbcd%3D&v=1")
    assert set(found) == {"a%2Bbcd%3D", "a+bcd=", "0123456789abcdef0", "user", "pass-word"}


async def test_an_authority_nobody_trusts_is_told_and_a_trusted_one_is_taken() -> None:
    server, client = certificates()
    async with hosting(tls=server) as hosted:
        async with Side(hosted.url) as side:
            await side.pauses.next()
            assert "its certificate is not trusted" in side.target["reason"]
            assert "证书不受信任" in side.target["reason"]
        async with Side(hosted.url, tls=client) as side:
            await hosted.greeted()
            assert side.target["state"] == "connected"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("wss://h/?token=${NOT_SET}", "the environment variable NOT_SET is not set"),
        ("${EMPTY}", "the environment variable EMPTY is not set"),
        ("${HTTP}", "not a ws:// or wss:// address"),
        ("wss://h/?token=${DOTS}", "placeholder"),
    ],
)
async def test_an_address_that_cannot_be_one_is_an_error_of_its_target_alone(url: str, words: str) -> None:
    environ = {"EMPTY": "", "HTTP": "https://h/?token=canary", "DOTS": "..."}
    async with hosting() as hosted:
        broker = Side().broker
        config = Config(dial=(DialSettings(name="bad", url=url), DialSettings(name="good", url=hosted.url)))
        room = DialOut(config, broker, lambda name: (f"agent:{name}", name), environ)
        await room.start()
        await hosted.greeted()
        bad, good = room.describe()["targets"]
        assert (bad["state"], good["state"]) == ("error", "connected")
        assert words in bad["reason"] and "canary" not in bad["reason"]
        await room.stop()


async def test_a_fault_of_ours_ends_an_attempt_and_not_the_target(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosting() as hosted:
        side = Side(hosted.url)
        attach = side.broker.attach_consumer

        def fails(*given: Any, **named: Any) -> Any:
            monkeypatch.setattr(side.broker, "attach_consumer", attach)
            raise RuntimeError("a mistake")

        monkeypatch.setattr(side.broker, "attach_consumer", fails)
        async with side:
            await side.pauses.next()
            assert "内部错误 / internal error" in side.target["reason"]
            assert (await (await hosted.line()).ended())[0] == 1001
            side.pauses.over()
            await hosted.greeted()
            assert side.target["state"] == "connected"


async def test_a_running_server_shows_its_targets_to_the_holder_of_the_key_without_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosting() as hosted:
        monkeypatch.setenv("XIAOZHI_TOKEN", CANARY)
        url = hosted.url.replace(CANARY, "${XIAOZHI_TOKEN}")
        async with running(Config(dial=(DialSettings(name="xiaozhi", url=url, endpoint="home"),))) as server:
            line, _ = await hosted.greeted()
            stats = (await get(server.port, f"/stats?key={KEY}")).body.decode()
            metrics = (await get(server.port, "/metrics")).body.decode()
            (target,) = json.loads(stats)["rooms"]["dial"]["targets"]
            assert (target["name"], target["state"], target["endpoint"]) == ("xiaozhi", "connected", "home")
            assert 'mcp_endpoint_dial_connected{target="xiaozhi"} 1.0' in metrics
            assert CANARY not in stats + metrics
            assert json.loads((await get(server.port, "/stats")).body).get("rooms") is None
        assert (await line.ended())[0] == 1001
