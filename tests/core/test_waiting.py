"""The queues of what waits: what is taken out and when, and that together they have an end."""

from __future__ import annotations

from typing import Any

from plays import Play, answer, call, notification

from mcp_endpoint import errors
from mcp_endpoint.core.parties import NEVER, Call, Parked
from mcp_endpoint.core.waiting import ROUND_SECONDS
from mcp_endpoint.settings.schema import Limits


def parked(until: float, consumer: Any = None) -> Parked:
    return Parked(Call(consumer, b"1", b"1", "m", 0.0, until), b"{}", until)


def test_what_is_due_is_taken_and_the_rest_stays() -> None:
    waiting = Play().endpoint.waiting
    early, late, forever = parked(1.0), parked(2.0), parked(NEVER)
    waiting.held = (early, late, forever)
    assert waiting.take("held", 1.0) == [early]
    assert waiting.held == (late, forever)
    assert waiting.take("held") == [late, forever]
    assert not waiting.held


def test_what_is_put_in_while_a_queue_is_walked_stays_for_the_next_time() -> None:
    waiting = Play().endpoint.waiting
    waiting.held = (parked(1.0),)
    for one in waiting.take("held"):
        waiting.keep_holding(one)
    assert len(waiting.held) == 1


def test_a_call_that_is_cancelled_while_it_is_parked_gives_its_room_back() -> None:
    play = Play(limits=Limits(queued_bytes_per_link=200))
    tool, device = play.tool(), play.device()
    tool.leaves()
    for id in range(9):
        device.says(call(id, "a", text="x" * 90), notification("notifications/cancelled", requestId=id))
    device.hears_nothing()
    device.says(call(10, "a", text="x" * 90), call(11, "a", text="x" * 90))
    device.hears_error(11, errors.BUSY.number, delivered=False)
    play.tool().says(answer(1))
    device.hears(answer(10))


def test_the_next_look_at_the_deadlines_is_never_sooner_than_a_round() -> None:
    waiting = Play().endpoint.waiting
    waiting.begin_round()
    assert waiting.wake == NEVER
    waiting.end_round(5.0, 5.0)
    assert waiting.wake == 5.0 + ROUND_SECONDS
    waiting.begin_round()
    waiting.wake_at(7.0)
    waiting.end_round(9.0, 5.0)
    assert waiting.wake == 7.0
