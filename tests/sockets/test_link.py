"""Links, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import Callable
from typing import Any

import pytest
from loguru import logger
from sockets.peerframes import BINARY, PING, TEXT, closing, frame
from sockets.wire_server import DEVICE, TOOL, Party, Stage, certificates, configured, linked, request, staged, until

from mcp_endpoint.errors import GOING_AWAY, INTERNAL, NOT_READING, RESTARTING, TOO_BIG
from mcp_endpoint.log import setup
from mcp_endpoint.settings.schema import Logging, Server
from mcp_endpoint.sockets import link as module
from mcp_endpoint.sockets.frames import FRAMES_PER_TURN
from mcp_endpoint.sockets.link import HANDSHAKES_PER_TURN, READ_PER_TURN, Turn, WebSocketLink

MIB = 1024 * 1024


# Messages


@pytest.mark.row("D17")
async def test_text_and_binary_go_to_the_party_and_what_it_sends_comes_back_as_text() -> None:
    async with staged() as stage, linked(stage) as device, linked(stage, TOOL) as tool:
        device.say("héllo")
        assert await device.hears() == "héllo"
        tool.send(frame(BINARY, b'{"binary": true}'))
        assert await tool.hears() == '{"binary": true}'
        one, two = stage.broker.parties
        assert (one.side, one.name, one.heard) == ("device", "opaque:friend", [("héllo".encode(), True)])
        assert (two.side, two.heard) == ("tool", [(b'{"binary": true}', True)])


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 5_000, 65_535, 65_536, MIB])
async def test_messages_of_all_sizes_go_both_ways_whole(size: int, secure: bool) -> None:
    server, client = certificates() if secure else (None, None)
    text = ("字x" * size)[: size // 2]
    async with staged(tls=server) as stage, linked(stage, tls=client) as peer:
        for _ in range(3):
            peer.say(text)
            assert await peer.hears() == text


async def test_the_parts_of_a_message_become_one_frame() -> None:
    async with staged() as stage, linked(stage) as peer:
        link = (await stage.broker.party()).link
        large = b"L" * 100_000
        link.send(b'{"id":1,', b'"a":2}')
        link.send(memoryview(b"<view>")[1:5], memoryview(large))
        link.send(large, b"tail")
        link.send(large, large)
        link.send(b"")
        heard = [await peer.hears() for _ in range(5)]
        assert heard == ['{"id":1,"a":2}', "view" + "L" * 100_000, "L" * 100_000 + "tail", "L" * 200_000, ""]


async def test_frames_of_one_turn_leave_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged() as stage, linked(stage) as peer, linked(stage, TOOL) as other:
        link = (await stage.broker.party()).link
        second = (await stage.broker.party(1)).link
        pushes: list[WebSocketLink] = []
        monkeypatch.setattr(type(link), "_push", lambda self, push=WebSocketLink._push: (pushes.append(self), push(self)))
        for number in range(10):
            link.send(b"%d" % number)
            second.send(b"%d" % number)
        assert link.queued == 30
        assert pushes == []
        assert [await peer.hears() for _ in range(10)] == [await other.hears() for _ in range(10)] == [str(n) for n in range(10)]
        assert pushes == [link, second]
        assert link.queued == 0


async def test_messages_of_either_side_may_be_as_large_as_their_limit_says() -> None:
    limits = {"consumer_message_bytes": 100_000, "provider_message_bytes": 200_000}
    async with staged(configured(limits=limits)) as stage:
        for path, limit in ((DEVICE, 100_000), (TOOL, 200_000)):
            async with linked(stage, path) as peer:
                peer.say("x" * limit)
                assert len(await peer.hears()) == limit
                peer.say("x" * (limit + 1))
                assert await peer.close_reason() == tuple(TOO_BIG)
        assert (await stage.broker.left(0), await stage.broker.left(1)) == (tuple(TOO_BIG), tuple(TOO_BIG))


async def test_a_close_is_read_even_by_a_peer_in_the_middle_of_a_large_message() -> None:
    """Closing a socket with unread bytes makes the kernel throw away what the peer has not read: so only our half is closed."""
    async with staged(configured(limits={"consumer_message_bytes": 2_048})) as stage, linked(stage) as peer:
        peer.send(frame(TEXT, b"x" * 4 * MIB))
        assert await peer.close_reason() == tuple(TOO_BIG)
        assert await peer.end() == b""


# Fairness and back-pressure


async def test_a_peer_that_floods_does_not_keep_the_others_waiting() -> None:
    async with staged() as stage, linked(stage) as flood, linked(stage, TOOL) as other:
        heard: list[str] = []
        stage.broker.hear = lambda party, data: heard.append(party.side)
        await stage.broker.party(1)
        flood.send(frame(TEXT, b"x") * FRAMES_PER_TURN * 100)
        other.say("y")
        await until(lambda: len(heard) == FRAMES_PER_TURN * 100 + 1)
        assert heard.index("tool") <= FRAMES_PER_TURN * 8
        assert not stage.broker.parties[0].link._paused


async def test_a_peer_that_floods_is_not_read_until_its_turn_is_over() -> None:
    async with staged() as stage, linked(stage) as flood:
        party = await stage.broker.party()
        stage.broker.hear = lambda party, data: None
        flood.send(frame(PING, b"x") * FRAMES_PER_TURN * 3 + frame(TEXT, b"end"))
        await until(lambda: party.heard)
        pongs = 0
        while pongs < FRAMES_PER_TURN * 3:
            assert await flood.frame() == (0x8A, b"x")
            pongs += 1


@pytest.mark.parametrize("leaving", [False, True])
async def test_a_link_is_read_once_before_the_others_have_their_turn(leaving: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that we have sent a close to: uvloop alone reads a socket dozens of times in a row."""
    sizes: list[int] = []
    turns: list[int] = []
    turn = [0]

    def next_turn() -> None:
        turn[0] += 1

    def read(link: WebSocketLink, data: bytes, real: Callable[[WebSocketLink, bytes], None] = WebSocketLink.data_received) -> None:
        sizes.append(len(data))
        if len(data) >= READ_PER_TURN:
            turns.append(turn[0])
            asyncio.get_running_loop().call_soon(next_turn)
        real(link, data)

    monkeypatch.setattr(WebSocketLink, "data_received", read)
    async with staged() as stage, linked(stage, TOOL) as flood:
        party = await stage.broker.party()
        stage.broker.hear = lambda party, data: None
        if leaving:
            party.link.close_reason(GOING_AWAY)
        flood.send(frame(BINARY, b"x" * MIB) * 8)
        await until(lambda: sum(sizes) >= 8 * MIB)
        assert len(turns) == len(set(turns)) > 1


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
async def test_a_device_that_does_not_take_its_answers_is_not_read_until_it_does(secure: bool) -> None:
    server, client = certificates() if secure else (None, None)
    answer = b"a" * 100_000
    async with staged(configured(limits={"queued_bytes_per_link": 4 * MIB}), tls=server) as stage, linked(stage, tls=client) as peer:
        stage.broker.hear = lambda party, data: party.link.send(answer)
        party = await stage.broker.party()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sent = 0
        while not party.link.crowded:
            peer.say("more")
            sent += 1
            await asyncio.sleep(0)
        # What it asks from now on stays in the kernel, apart from what had been read already.
        before = len(party.heard)
        for _ in range(50):
            peer.say("and more")
            sent += 1
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(party.heard) <= before + 1
        assert 4 * MIB < party.link.queued < 6 * MIB
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(sent):
            assert (await peer.frame()) == (0x81, answer)
        assert len(party.heard) == sent
        assert not party.link.crowded


async def test_a_crowded_device_with_a_turn_left_goes_on_where_it_stopped() -> None:
    answer = b"a" * (12_800_000 // FRAMES_PER_TURN)
    async with staged(configured(limits={"queued_bytes_per_link": 4 * MIB})) as stage, linked(stage) as peer:
        stage.broker.hear = lambda party, data: party.link.send(answer)
        party = await stage.broker.party()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        asked = FRAMES_PER_TURN * 2
        peer.send(frame(TEXT, b"more") * asked)
        await until(lambda: party.link.crowded)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(asked):
            assert (await peer.frame()) == (0x81, answer)


async def test_a_tool_that_does_not_read_is_read_all_the_same() -> None:
    async with staged(configured(limits={"queued_bytes_per_link": 2 * MIB})) as stage, linked(stage, TOOL) as peer:
        stage.broker.hear = lambda party, data: None
        party = await stage.broker.party()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while party.link.queued < 3 * MIB:
            party.link.send(b"x" * 100_000)
            await asyncio.sleep(0)
        peer.say("I still talk")
        await until(lambda: party.heard)
        assert not party.link.crowded


@pytest.mark.parametrize("path", [TOOL, DEVICE])
async def test_a_flood_towards_a_peer_that_does_not_read_ends_its_link_and_memory_stays_bounded(path: str) -> None:
    async with staged(configured(limits={"queued_bytes_per_link": MIB})) as stage, linked(stage, path) as peer:
        party = await stage.broker.party()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        most = 0
        while party.left is None:
            party.link.send(b"x" * 100_000)
            most = max(most, party.link.queued)
            await asyncio.sleep(0)
        assert party.left == tuple(NOT_READING)
        assert most < 5 * MIB


async def test_a_queue_that_is_overfull_ends_its_link_at_once() -> None:
    limits = {"queued_bytes_per_link": MIB, "overfull_times": 9}
    async with staged(configured(limits=limits)) as stage, linked(stage, TOOL) as peer:
        party = await stage.broker.party()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        most = 0
        while party.left is None:
            most = max(most, party.link.queued)
            party.link.send(b"x" * 100_000)
            await asyncio.sleep(0)
        assert party.left == tuple(NOT_READING)
        assert 8 * MIB < most < 9 * MIB


async def test_pongs_for_a_peer_that_does_not_read_are_bounded_too() -> None:
    async with staged(configured(limits={"queued_bytes_per_link": MIB})) as stage, linked(stage, TOOL) as peer:
        party = await stage.broker.party()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while party.link.queued < 3 * MIB:
            party.link.send(b"x" * 100_000)
            await asyncio.sleep(0)
        while party.left is None:
            peer.send(frame(PING, b"p" * 125) * FRAMES_PER_TURN)
            await asyncio.sleep(0)
        assert party.left == tuple(NOT_READING)


# The end, whatever ends it


async def test_the_peers_close_is_answered_and_told_to_the_broker() -> None:
    async with staged() as stage, linked(stage) as peer:
        (await stage.broker.party()).link.send(b"last words")
        peer.send(closing(4_001, "再见".encode()))
        assert await peer.hears() == "last words"
        assert await peer.close_reason() == (4_001, "再见")
        assert await peer.end() == b""
        assert await stage.broker.left() == (4_001, "再见")


@pytest.mark.parametrize("how", ["abort", "close", "half"])
async def test_a_socket_that_ends_without_a_close_frame_is_1006(how: str) -> None:
    async with staged() as stage, linked(stage) as peer:
        party = await stage.broker.party()
        peer.say("x")
        peer.send(frame(TEXT, b"never complete")[:5])
        assert await peer.hears() == "x"
        if how == "abort":
            peer.abort()
        elif how == "close":
            peer.writer.close()
        else:
            peer.writer.write_eof()
        code, reason = await stage.broker.left()
        assert (code, bool(reason)) == (1006, True)
        party.link.send(b"nobody hears this")
        party.link.close(*GOING_AWAY)
        party.link.ping()
        await until(lambda: not stage.acceptor.links)
        assert party.link.queued == 0
        party.link.send(b"nor this")
        party.link.cut()


async def test_our_close_comes_after_what_was_sent_and_nothing_after_it() -> None:
    async with staged() as stage, linked(stage) as peer:
        party = await stage.broker.party()
        party.link.send(b"one")
        party.link.close(1012, "restarting")
        party.link.send(b"two")
        party.link.close(1008, "again")
        party.link.ping()
        assert await peer.hears() == "one"
        assert await peer.close_reason() == (1012, "restarting")
        peer.send(frame(TEXT, b"ignored") + closing(1012))
        assert await peer.end() == b""
        assert await stage.broker.left() == (1012, "restarting")
        assert party.heard == []


async def test_the_broker_is_told_of_its_own_close_after_it_has_returned() -> None:
    async with staged() as stage, linked(stage) as peer:
        order: list[str] = []

        def hear(party: Party, data: bytes) -> None:
            party.link.close(1008, "you")
            order.append("returned" if party.left is None else "told too early")

        stage.broker.hear = hear
        peer.send(frame(TEXT, b"1") + frame(TEXT, b"2") + closing(1008))
        assert await stage.broker.left() == (1008, "you")
        assert order == ["returned"]
        assert await peer.close_reason() == (1008, "you")
        assert await peer.end() == b""


async def test_a_socket_that_ends_right_after_our_close_counts_as_our_close() -> None:
    async with staged() as stage, linked(stage):
        party = await stage.broker.party()
        party.link.close(1008, "enough")
        party.link.cut()
        assert await stage.broker.left() == (1008, "enough")


async def test_a_fault_in_the_heart_ends_its_link_with_1011_and_no_other() -> None:
    async with staged() as stage, linked(stage) as unlucky, linked(stage) as lucky:

        def hear(party: Party, data: bytes) -> None:
            if data == b"boom":
                raise ZeroDivisionError
            party.link.send(data)

        stage.broker.hear = hear
        unlucky.say("boom")
        assert await unlucky.close_reason() == tuple(INTERNAL)
        assert await stage.broker.left() == tuple(INTERNAL)
        lucky.say("fine")
        assert await lucky.hears() == "fine"


async def test_all_links_hear_the_same_close() -> None:
    async with staged() as stage, linked(stage) as one, linked(stage, TOOL) as two:
        await stage.broker.party(1)
        stage.acceptor.close_all(RESTARTING)
        for peer in (one, two):
            assert await peer.close_reason() == tuple(RESTARTING)
            peer.send(closing(1012))
            assert await peer.end() == b""
        await until(lambda: not stage.acceptor.links)
        assert stage.acceptor.counters == {"links_accepted": 2, "links_closed_1012": 2}


async def test_over_tls_a_broken_protocol_ends_with_its_reason_too() -> None:
    server, client = certificates()
    async with staged(tls=server) as stage, linked(stage, tls=client) as peer:
        peer.send(frame(TEXT, b"x", mask=None))
        assert (await peer.close_reason())[0] == 1002
        assert await peer.end() == b""
        assert (await stage.broker.left())[0] == 1002


@pytest.mark.row("D1", "D30")
async def test_many_links_that_end_in_every_way_leave_nothing_behind() -> None:
    async with staged() as stage:
        for number in range(300):
            async with linked(stage, TOOL if number % 2 else DEVICE) as peer:
                peer.say("x" * 200)
                match number % 5:
                    case 0:
                        await peer.hears()
                        peer.send(closing())
                        await peer.close_reason()
                    case 1:
                        peer.abort()
                    case 2:
                        peer.send(frame(TEXT, b"unfinished")[:7])
                        peer.writer.close()
                    case 3:
                        peer.send(b"\xff\xff\xff")
                    case 4:
                        peer.send(frame(TEXT, b"fragment", fin=False))
                        stage.acceptor.close_all(RESTARTING)
                        peer.send(closing())
            await until(lambda: not stage.acceptor.links)
        await until(lambda: not stage.connections)
        assert all(party.left for party in stage.broker.parties)
        assert {one for slot in stage.acceptor.keepalive._slots.values() for one in slot} <= {stage.acceptor.budget}
        assert not stage.acceptor.budget.bytes and not stage.acceptor.budget._begun and not stage.acceptor.unfinished
        links = [party.link for party in stage.broker.parties]
        stage.broker.parties.clear()
        assert all(link._held is link._rest is link._protocol is link._transport is link.party is None and not link._out for link in links)


async def test_a_link_keeps_nothing_of_its_handshake() -> None:
    """An idle link is to stay below 4 KiB; the request's head, its parser and the library's handshake would cost ten times that."""
    names = {"Greeter", "Protocol", "Guard", "HttpRequestParser", "Request", "Response"}

    def found() -> set[int]:
        return {id(one) for one in gc.get_objects() if type(one).__name__ in names}

    gc.collect()
    gc.disable()
    before = found()  # what other tests have left is not this link's
    try:
        async with staged() as stage, linked(stage, DEVICE, "Sec-WebSocket-Extensions: permessage-deflate") as peer:
            peer.send(frame(PING, b"x"))
            assert await peer.frame() == (0x8A, b"x")
            assert any(type(one).__name__ == "WebSocketLink" for one in gc.get_objects())
            assert not found() - before
    finally:
        gc.enable()


async def test_uvicorns_own_shutdown_says_restarting() -> None:
    async with staged() as stage, linked(stage) as peer:
        await stage.broker.party()
        for one in list(stage.connections):
            one.shutdown()
        assert await peer.close_reason() == tuple(RESTARTING)


# Many handshakes at once


async def burst(stage: Stage, count: int, behind: bytes = b"") -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Sockets that are connected first, and then send their handshakes in one turn of the loop, with `behind` right behind each."""
    before = len(stage.connections)
    peers = [await asyncio.open_connection("127.0.0.1", stage.port) for _ in range(count)]
    await until(lambda: len(stage.connections) == before + count)
    for _, writer in peers:
        writer.write(request(DEVICE + "?token=friend") + behind)
    return peers


def ended(peers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    for _, writer in peers:
        writer.close()


async def test_a_call_is_answered_in_the_midst_of_many_handshakes() -> None:
    async with staged() as stage, linked(stage) as device:
        many = 12 * HANDSHAKES_PER_TURN
        peers = await burst(stage, many)
        device.say("hello")
        assert await device.hears() == "hello"
        assert len(stage.broker.parties) < many // 2, "the others are not through yet"
        await stage.broker.party(many)
        for reader, _ in peers:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        ended(peers)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stage], Turn]:
    """No handshake has its turn until this is called: then those that wait have theirs."""
    monkeypatch.setattr(module, "HANDSHAKES_PER_TURN", 0)

    def go_on(stage: Stage) -> Turn:
        monkeypatch.undo()
        (turn,) = {one.turn for one in stage.connections if isinstance(one, WebSocketLink)}
        turn.call_soon(turn._next_arrivals)
        return turn

    return go_on


def waiters(stage: Stage) -> int:
    return sum(isinstance(one, WebSocketLink) for one in stage.connections)


async def test_what_comes_right_behind_a_handshake_that_waits_is_delivered_after_it(waiting: Callable[[Stage], Turn]) -> None:
    async with staged() as stage:
        peers = await burst(stage, 2, frame(TEXT, b"early"))
        await until(lambda: waiters(stage) == 2)
        assert not stage.broker.parties
        waiting(stage)
        await stage.broker.until(lambda: [party.heard for party in stage.broker.parties] == [[(b"early", True)]] * 2)
        peers[0][1].write(frame(TEXT, b"later"))
        await stage.broker.until(lambda: any(len(party.heard) == 2 for party in stage.broker.parties))
        ended(peers)


async def test_a_handshake_that_waits_is_refused_when_the_server_stops_meanwhile(waiting: Callable[[Stage], Turn]) -> None:
    async with staged() as stage:
        peers = await burst(stage, 1)
        await until(lambda: waiters(stage) == 1)
        stage.acceptor.refuse_new = True
        for one in list(stage.connections):
            one.shutdown()
        waiting(stage)
        assert (await peers[0][0].read()).startswith(b"HTTP/1.1 503")
        ended(peers)


async def test_whoever_goes_while_its_handshake_waits_is_forgotten(waiting: Callable[[Stage], Turn]) -> None:
    async with staged() as stage:
        peers = await burst(stage, 2)
        await until(lambda: waiters(stage) == 2)
        first = next(iter(stage.connections))
        first.cut()
        await until(lambda: first not in stage.connections)
        turn = waiting(stage)
        await stage.broker.party()
        assert not turn.arriving and len(stage.broker.parties) == 1 and stage.acceptor.links == 1
        ended(peers)


async def test_a_fault_in_one_handshake_ends_no_other(waiting: Callable[[Stage], Turn], monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged() as stage:
        peers = await burst(stage, 2)
        await until(lambda: waiters(stage) == 2)
        decide, faults = stage.acceptor.decide, [ValueError("a fault")]

        def faulty(*arguments: Any, **options: Any) -> Any:
            if faults:
                raise faults.pop()
            return decide(*arguments, **options)

        waiting(stage)
        monkeypatch.setattr(stage.acceptor, "decide", faulty)
        await stage.broker.party()
        await until(lambda: waiters(stage) == 1)
        ended(peers)


async def test_a_log_line_is_written_per_event_and_none_per_frame() -> None:
    """Each with the reason and a hint."""
    stream = io.StringIO()
    undo = setup(Logging(log_file=""), Server(log_level="DEBUG"), stream)
    try:
        async with staged() as stage, linked(stage, TOOL, token="friend&server_id=clock") as peer:
            for _ in range(10):
                peer.say("x")
                assert await peer.hears() == "x"
            peer.send(closing(1001, b"asleep"))
            await stage.broker.left()
    finally:
        undo()
    connected, left = stream.getvalue().splitlines()
    assert " INFO     工具端已连接 / tool connected endpoint=opaque-" in connected and connected.endswith(" server_id=clock")
    assert "自定义令牌" in connected and "free-form token, endpoint opaque-" in connected and "made with another key" in connected
    assert " 工具端已断开 / tool left endpoint=opaque-" in left
    assert left.endswith(" seconds=0 code=1001 reason=asleep hint=对方退出 / going away")


async def test_text_that_is_not_utf8_ends_the_link_and_both_sides_hear_what_to_do() -> None:
    """RFC 6455 §8.1: 1007. The peer reads English, the operator also Chinese."""
    lines: list[str] = []
    number = logger.add(lambda line: lines.append(str(line.record["extra"])), level="DEBUG")
    async with staged() as stage, linked(stage, TOOL) as peer:
        peer.send(frame(TEXT, "温度".encode("gbk")))
        code, reason = await peer.close_reason()
        assert code == 1007 and "send UTF-8" in reason and "PYTHONUTF8=1" in reason
        await until(lambda: any("links_closed_1007" in counter for counter in stage.acceptor.counters))
    logger.remove(number)
    assert any("请让对方以 UTF-8 发送" in line and "let the peer send UTF-8" in line for line in lines)
