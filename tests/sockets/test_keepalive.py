"""Who is silent, who does not read, who does not finish: the rules, the wheel, and both on real links."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from sockets.peerframes import PONG, TEXT, closing, frame
from sockets.wire_server import BOUND, DEVICE, TOOL, configured, connection, linked, request, staged, until

from mcp_endpoint.errors import KEEPALIVE, NOT_READING, CloseReason
from mcp_endpoint.sockets.keepalive import NEVER, REVIEWS_PER_TURN, Keepalive

PING = 0x89


class KeepaliveLink:
    """A link as the rules see it."""

    def __init__(self, **state: Any) -> None:
        self.due = 0
        self.seen = 0.0
        self.pinged = 0.0
        self.leaving = 0.0
        self.stuck = 0.0
        self.stuck_bytes = 0
        self.crowded = False
        self.bytes = 0
        self.done: list[object] = []
        vars(self).update(state)

    def unsent(self) -> int:
        return self.bytes

    def send_ping(self, now: float) -> None:
        self.pinged = now
        self.done.append("ping")

    def close_reason(self, close_reason: CloseReason) -> None:
        self.done.append(close_reason)

    def cut(self) -> None:
        self.done.append("cut")


def keepalive() -> Keepalive:
    """Pings after 30 s, 10 s to answer, 7 s to close, 20 s without progress."""
    config = configured(websocket={"ping_interval": 30.0, "ping_timeout": 10.0, "close_timeout": 7.0}, limits={"stalled_seconds": 20.0})
    return Keepalive(config.websocket, config.limits)


@pytest.mark.parametrize(
    ("state", "done", "again"),
    [
        # life and pings
        ({"seen": 100.0}, [], 130.0),
        ({"seen": 71.0}, [], 101.0),
        ({"seen": 70.0}, ["ping"], 110.0),
        ({"seen": 70.0, "pinged": 95.0}, [], 105.0),
        ({"seen": 95.0, "pinged": 95.0}, [], 125.0),
        ({"seen": 99.0, "pinged": 95.0}, [], 129.0),
        ({"seen": 60.0, "pinged": 90.0}, [KEEPALIVE], 107.0),
        # closing
        ({"leaving": 94.0, "seen": 1.0}, [], 101.0),
        ({"leaving": 93.0, "seen": 99.0}, ["cut"], NEVER),
        # not reading
        ({"stuck": 90.0, "stuck_bytes": 50, "bytes": 50, "seen": 99.0}, [], 102.5),
        ({"stuck": 80.0, "stuck_bytes": 50, "bytes": 50, "seen": 99.0}, [NOT_READING], 107.0),
        ({"stuck": 80.0, "stuck_bytes": 50, "bytes": 49, "seen": 99.0}, [], 102.5),
        ({"stuck": 99.0, "stuck_bytes": 50, "bytes": 50, "seen": 70.0}, ["ping"], 102.5),
        # what moves may have the ping behind it
        ({"stuck": 90.0, "stuck_bytes": 50, "bytes": 40, "seen": 60.0, "pinged": 90.0}, [], 102.5),
        ({"stuck": 90.0, "stuck_bytes": 50, "bytes": 50, "seen": 60.0, "pinged": 90.0}, [KEEPALIVE], 107.0),
        # not read, so not heard
        ({"stuck": 90.0, "stuck_bytes": 50, "bytes": 50, "seen": 1.0, "crowded": True}, [], 102.5),
    ],
)
def test_what_a_link_gets_at_second_100(state: dict[str, Any], done: list[object], again: float) -> None:
    link = KeepaliveLink(**state)
    assert keepalive().review(link, 100.0) == again
    assert link.done == done


def test_progress_is_remembered() -> None:
    link = KeepaliveLink(stuck=80.0, stuck_bytes=50, bytes=49, seen=99.0)
    rules = keepalive()
    rules.review(link, 100.0)
    assert (link.stuck, link.stuck_bytes) == (100.0, 49)
    assert rules.review(link, 119.0) == 120.0
    rules.review(link, 120.0)
    assert link.done == [NOT_READING]


class Seen:
    """Something on the wheel that notes when it is reviewed."""

    def __init__(self, *again: float) -> None:
        self.due = 0
        self.at: list[float] = []
        self.again = list(again)
        self.reviewed = asyncio.Event()

    def review(self, now: float) -> float:
        self.at.append(now)
        self.reviewed.set()
        return now + self.again.pop(0) if self.again else NEVER


def quick() -> Keepalive:
    config = configured(websocket={"ping_interval": 0.08}, limits={})
    return Keepalive(config.websocket, config.limits)


async def test_the_wheel_reviews_everything_once_it_is_due_and_then_stands_still() -> None:
    loop = asyncio.get_running_loop()
    wheel = quick()
    start = loop.time()
    dice = random.Random(7)
    wishes = {Seen(): start + dice.random() * 0.3 for _ in range(500)}
    for one, when in wishes.items():
        wheel.watch(one, when)
    async with asyncio.timeout(BOUND):
        for one in wishes:
            await one.reviewed.wait()
    for one, when in wishes.items():
        assert len(one.at) == 1 and one.due == 0
        assert when <= one.at[0] + 0.002
    await until(lambda: wheel._timer is None)
    assert not wheel._slots


async def test_the_last_wish_counts_and_a_forgotten_one_is_not_reviewed() -> None:
    loop = asyncio.get_running_loop()
    wheel = quick()
    moved, forgotten, twice = Seen(), Seen(), Seen(0.05)
    wheel.watch(moved, loop.time() + 50)
    wheel.watch(moved, loop.time())
    wheel.watch(moved, loop.time())
    wheel.watch(forgotten, loop.time())
    wheel.forget(forgotten)
    wheel.forget(forgotten)
    wheel.watch(twice, loop.time() - 100)
    await until(lambda: moved.at and len(twice.at) == 2)
    assert (len(moved.at), len(forgotten.at)) == (1, 0)
    assert twice.at[1] - twice.at[0] >= 0.048


async def test_many_at_once_are_reviewed_in_steps_between_which_the_loop_turns() -> None:
    loop = asyncio.get_running_loop()
    wheel = quick()
    many = [Seen() for _ in range(REVIEWS_PER_TURN * 4)]
    due = loop.time()
    for one in many:
        wheel.watch(one, due)
    turns: set[int] = set()
    async with asyncio.timeout(BOUND):
        while not all(one.at for one in many):
            turns.add(sum(bool(one.at) for one in many))
            await asyncio.sleep(0)
    assert turns >= {REVIEWS_PER_TURN, REVIEWS_PER_TURN * 2, REVIEWS_PER_TURN * 3}


async def test_a_review_that_fails_does_not_stop_the_wheel() -> None:
    class Faulty(Seen):
        def review(self, now: float) -> float:
            raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    told: list[Any] = []
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    wheel = quick()
    wheel.watch(Faulty(), loop.time())
    good = Seen()
    wheel.watch(good, loop.time() + 0.05)
    async with asyncio.timeout(BOUND):
        await good.reviewed.wait()
    assert [type(fault) for fault in told] == [ZeroDivisionError]


# Real links


SWIFT = {"ping_interval": 0.1, "ping_timeout": 0.2, "close_timeout": 0.2}


@pytest.mark.row("D18")
async def test_only_a_silent_peer_is_pinged_and_its_pong_keeps_the_link() -> None:
    async with staged(configured(websocket=SWIFT)) as stage, linked(stage) as peer:
        for _ in range(5):
            first, payload = await peer.frame()
            assert first == PING
            peer.send(frame(PONG, payload))
        peer.say("still here")
        while (heard := await peer.frame())[0] == PING:
            peer.send(frame(PONG, heard[1]))
        assert heard == (0x81, b"still here")


@pytest.mark.row("D18")
async def test_any_frame_counts_as_life() -> None:
    async with staged(configured(websocket=SWIFT | {"ping_timeout": 0.1})) as stage, linked(stage) as peer:
        for number in range(30):
            peer.say(str(number))
            while (heard := await peer.frame())[0] == PING:
                pass
            assert heard == (0x81, str(number).encode())
            await asyncio.sleep(0.02)


@pytest.mark.row("D18")
async def test_a_peer_that_does_not_answer_pings_ends_with_1011_and_is_cut_off() -> None:
    async with staged(configured(websocket=SWIFT)) as stage, linked(stage) as peer:
        assert (await peer.frame())[0] == PING
        assert await stage.broker.left() == tuple(KEEPALIVE)
        assert await peer.close_reason() == tuple(KEEPALIVE)
        assert await peer.end() == b""  # the socket is closed although we never answered
        assert not stage.acceptor.links


async def test_a_half_open_link_is_found_by_a_ping_of_the_broker() -> None:
    """Design §3.2: when a provider attaches, the older ones are pinged at once."""
    slow = {"ping_interval": 3_600.0, "ping_timeout": 0.2, "close_timeout": 0.2}
    async with staged(configured(websocket=slow)) as stage, linked(stage, TOOL) as dead, linked(stage, TOOL) as alive:
        await stage.broker.party(1)
        for party in stage.broker.parties:
            party.link.ping()
            party.link.ping()
        first, payload = await alive.frame()
        assert first == PING
        alive.send(frame(PONG, payload))
        assert await stage.broker.left(0) == tuple(KEEPALIVE)
        alive.say("only one ping came, and I am still here")
        assert (await alive.hears()).startswith("only one ping")
        assert (await dead.frame())[0] == PING
        assert stage.broker.parties[1].left is None


@pytest.mark.row("D18")
async def test_a_peer_that_does_not_answer_our_close_is_cut_off_after_close_timeout() -> None:
    async with staged(configured(websocket=SWIFT | {"ping_interval": 3_600.0})) as stage, linked(stage) as peer:
        (await stage.broker.party()).link.close(1008, "enough")
        assert await peer.close_reason() == (1008, "enough")
        assert await stage.broker.left() == (1008, "enough")
        loop = asyncio.get_running_loop()
        before = loop.time()
        peer.send(frame(TEXT, b"I do not care") * 10)
        assert await peer.end() == b""
        assert loop.time() - before < 5


async def test_a_peer_that_closes_and_then_does_not_read_is_cut_off() -> None:
    async with staged(configured(websocket=SWIFT | {"ping_interval": 3_600.0})) as stage, connection(stage) as peer:
        peer.send(request(f"{TOOL}?token=t"))
        party = await stage.broker.party()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(20):
            party.link.send(b"x" * 1_000_000)
        peer.send(closing())
        assert (await stage.broker.left())[0] == 1000
        await until(lambda: not stage.acceptor.links)


@pytest.mark.parametrize("path", [TOOL, DEVICE])
async def test_a_peer_that_takes_nothing_for_stalled_seconds_ends_with_1013(path: str) -> None:
    limits = {"stalled_seconds": 0.3, "queued_bytes_per_link": 100_000_000}
    async with staged(configured(websocket={"close_timeout": 0.2}, limits=limits)) as stage, linked(stage, path) as peer:
        party = await stage.broker.party()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(20):
            party.link.send(b"x" * 1_000_000)
        assert await stage.broker.left() == tuple(NOT_READING)
        await until(lambda: not stage.acceptor.links)


async def test_a_peer_that_reads_slowly_but_reads_is_not_stalled() -> None:
    limits = {"stalled_seconds": 1.0, "queued_bytes_per_link": 100_000_000}
    async with staged(configured(limits=limits)) as stage, linked(stage, TOOL) as peer:
        party = await stage.broker.party()
        transport: Any = peer.writer.transport
        total = 0
        transport.pause_reading()
        for _ in range(12):
            party.link.send(b"x" * 1_000_000)
        while total < 12:
            await asyncio.sleep(0.15)
            transport.resume_reading()
            first, payload = await peer.frame()
            transport.pause_reading()
            total += first == 0x81 and len(payload) == 1_000_000
        assert party.left is None
