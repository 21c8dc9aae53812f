"""The budget: what all connections together make us keep, who pays above it, and how long a message may take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sockets.peerframes import PING, TEXT, frame
from sockets.wire_server import TOOL, Peer, configured, linked, staged, until

from mcp_endpoint.errors import NOT_READING, OVER_BUDGET, SLOW_MESSAGE, CloseReason
from mcp_endpoint.settings.schema import Limits
from mcp_endpoint.sockets.budget import Budget
from mcp_endpoint.sockets.keepalive import NEVER

KIB = 1024
MIB = 1024 * KIB


class Wheel:
    """A keepalive that only notes what it is asked to watch."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def watch(self, one: Any, when: float) -> None:
        one.due = 1
        self.asked.append(when)


class Connection:
    """What the budget sees of one: how much is kept for it now, and what it was told."""

    def __init__(self, budget: Budget, name: str) -> None:
        self.budget = budget
        self.name = name
        self.size = 0
        self.crowded = False
        self.told: list[object] = []

    def keeps(self, size: int) -> None:
        self.size = size
        self.budget.keep(self, size)

    def kept(self) -> int:
        return self.size

    def pay(self) -> None:
        self.told.append("pay")
        self.keeps(0)

    def close_reason(self, close_reason: CloseReason) -> None:
        self.told.append(close_reason)


def budget(most: int = 100 * KIB, seconds: float = 60.0) -> tuple[Budget, Wheel]:
    wheel = Wheel()
    return Budget(Limits(buffered_bytes=most, message_seconds=seconds), wheel), wheel  # type: ignore[arg-type]


def test_the_fattest_pays_and_the_oldest_of_equals() -> None:
    rules, _ = budget()
    small, first, second = (Connection(rules, name) for name in ("small", "first", "second"))
    small.keeps(20 * KIB)
    first.keeps(40 * KIB)
    second.keeps(40 * KIB)
    assert rules.bytes == 100 * KIB
    small.keeps(21 * KIB)
    assert (small.told, first.told, second.told) == ([], ["pay"], [])
    assert rules.bytes == 61 * KIB


def test_who_has_become_smaller_unseen_does_not_pay_for_it() -> None:
    rules, _ = budget()
    drained, fat = Connection(rules, "drained"), Connection(rules, "fat")
    drained.keeps(60 * KIB)
    drained.size = 30 * KIB  # its peer has read on, and nobody was told
    fat.keeps(40 * KIB)
    fat.keeps(69 * KIB)
    assert (drained.told, fat.told) == ([], [])
    assert rules.bytes == 99 * KIB
    fat.keeps(71 * KIB)
    assert (drained.told, fat.told) == ([], ["pay"])


def test_a_message_has_its_time_whatever_came_before_it() -> None:
    rules, wheel = budget(seconds=60.0)
    slow, quick, late = (Connection(rules, name) for name in ("slow", "quick", "late"))
    rules.begins(slow, 100.0)
    rules.begins(quick, 100.0)
    rules.ends(quick)
    rules.begins(late, 130.0)
    rules.begins(quick, 131.0)
    assert wheel.asked == [160.0]
    assert rules.review(159.0) == 160.0
    assert rules.review(160.0) == 190.0
    assert slow.told == [SLOW_MESSAGE] and not late.told
    assert rules.review(191.0) == NEVER
    assert late.told == quick.told == [SLOW_MESSAGE]


def test_the_time_stands_still_while_it_is_we_who_do_not_read() -> None:
    rules, _ = budget(seconds=60.0)
    slow = Connection(rules, "slow")
    rules.begins(slow, 100.0)
    slow.crowded = True
    assert rules.review(160.0) == 220.0
    slow.crowded = False
    assert rules.review(220.0) == NEVER
    assert slow.told == [SLOW_MESSAGE]


# On real links


@pytest.mark.parametrize("fragmented", [False, True])
async def test_above_the_budget_the_link_with_most_is_closed_and_the_others_go_on(fragmented: bool) -> None:
    """Four unfinished messages of 300 kB each, one of 500: a megabyte holds three."""
    limits = {"buffered_bytes": MIB}
    whole = frame(TEXT, b"x" * 700_000, fin=not fragmented)
    async with staged(configured(limits=limits)) as stage, linked(stage, TOOL) as good:
        async with linked(stage, TOOL) as one, linked(stage, TOOL) as two, linked(stage, TOOL) as fat:
            for peer, size in ((one, 300_000), (two, 300_000)):
                peer.send(whole[:size])
            await until(lambda: stage.acceptor.budget.bytes == 600_000)
            fat.send(whole[:500_000])
            assert await fat.close_reason() == tuple(OVER_BUDGET)
            assert stage.acceptor.budget.bytes == 600_000
            one.send(whole[300_000:])
            if fragmented:
                one.send(frame(0, b"y"))
            first, payload = await one.frame()
            assert first == 0x81 and len(payload) == 700_000 + fragmented
            assert stage.acceptor.budget.bytes == 300_000
        good.say("still here")
        assert await good.hears() == "still here"
        await until(lambda: stage.acceptor.links == 1)
        assert stage.acceptor.budget.bytes == 0


async def test_queues_of_peers_that_do_not_read_count_too_and_who_does_not_read_is_cut_off() -> None:
    limits = {"buffered_bytes": 2 * MIB, "queued_bytes_per_link": 100 * MIB}
    async with staged(configured(limits=limits)) as stage, linked(stage, TOOL), linked(stage, TOOL) as sender:
        deaf = await stage.broker.party()
        other = await stage.broker.party(1)
        stage.broker.hear = lambda party, data: None
        sender.send(frame(TEXT, b"x" * 700_000)[:500_000])
        while deaf.left is None:
            deaf.link.send(b"x" * 100_000)
            await asyncio.sleep(0)
            assert stage.acceptor.budget.bytes <= 2 * MIB + 64 * KIB
        assert deaf.left == tuple(OVER_BUDGET)
        await until(lambda: stage.acceptor.links == 1)
        assert other.left is None
        assert stage.acceptor.budget.bytes == 500_000


async def test_who_stopped_reading_before_its_close_still_counts() -> None:
    """What the transport holds leaves memory only with the socket."""
    limits = {"buffered_bytes": 4 * MIB, "queued_bytes_per_link": MIB, "overfull_times": 2}
    async with staged(configured(limits=limits, websocket={"close_timeout": 0.2})) as stage, linked(stage, TOOL):
        deaf = await stage.broker.party()
        deaf.link.send(b"x" * 8 * MIB)
        assert await stage.broker.left() in (tuple(NOT_READING), tuple(OVER_BUDGET))
        await until(lambda: not stage.acceptor.links)
        assert stage.acceptor.budget.bytes == 0


async def drips(peer: Peer, data: bytes) -> None:
    """A byte now and then, until the socket is gone."""
    for at in range(len(data)):
        if peer.writer.is_closing():
            return
        peer.send(data[at : at + 1])
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["one frame", "fragments", "pings between fragments"])
async def test_a_message_that_takes_too_long_ends_its_link_though_bytes_keep_coming(kind: str) -> None:
    whole = {
        "one frame": frame(TEXT, b"x" * 100_000),
        "fragments": frame(TEXT, b"", fin=False) + frame(0, b"x", fin=False) * 10_000,
        "pings between fragments": frame(TEXT, b"x", fin=False) + frame(PING, b"") * 10_000,
    }[kind]
    async with staged(configured(limits={"message_seconds": 0.4})) as stage, linked(stage, TOOL) as quick, linked(stage, TOOL) as slow:
        dripping = asyncio.create_task(drips(slow, whole))
        assert await stage.broker.left(1) == tuple(SLOW_MESSAGE)
        quick.say("many messages, each in its time")
        assert await quick.hears()
        slow.abort()
        await dripping


async def test_many_messages_that_each_come_in_time_are_no_slow_one() -> None:
    """Each piece ends in the middle of a message, so that something is unfinished all the time."""
    one = frame(TEXT, b"x" * 50)
    loop = asyncio.get_running_loop()
    async with staged(configured(limits={"message_seconds": 1.0})) as stage, linked(stage, TOOL) as busy:
        until_then = loop.time() + 1.5
        busy.send(one[:20])
        while loop.time() < until_then:
            busy.send(one[20:] + one[:20])
            assert await busy.hears()
        assert stage.broker.parties[0].left is None
