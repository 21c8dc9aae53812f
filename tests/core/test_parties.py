"""Who meets at an endpoint: which steps a provider's life has, the numbers of what is pending, and when a call is open."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from plays import Play, answer, request

from mcp_endpoint.core.parties import MAX_ID, TRANSITIONS, Call, Counters, Pending, State, Step, is_open


def a_call(consumer: Any = None) -> Call:
    return Call(consumer, b'"a"', b'"a"', "m", 0.0, 1.0)


@pytest.mark.parametrize(("state", "step"), list(itertools.product(State, Step)))
def test_every_state_knows_where_a_step_leads_or_that_there_is_none(state: State, step: Step) -> None:
    """new → initializing → ready | bare, and gone from everywhere, once (§3.2)."""
    expected = {
        (State.NEW, Step.GREET): State.INITIALIZING,
        (State.INITIALIZING, Step.RESULT): State.READY,
        (State.INITIALIZING, Step.FAIL): State.BARE,
        (State.BARE, Step.RESULT): State.READY,
        **{(before, Step.LEAVE): State.GONE for before in State if before is not State.GONE},
    }
    provider = Play().tool().party
    provider.state = state
    if (state, step) in expected:
        provider.move(step)
        assert provider.state is expected[state, step]
    else:
        with pytest.raises(KeyError):
            provider.move(step)
        assert provider.state is state


def test_a_provider_is_initialised_at_most_once_on_every_way_through_the_table() -> None:
    """No way leads back to where a greeting begins (MCP, Lifecycle)."""

    def ways(state: State, lifecycle: int) -> int:
        found = [lifecycle]
        for (before, step), after in TRANSITIONS.items():
            if before is state:
                found.append(ways(after, lifecycle + (step is Step.GREET)))
        return max(found)

    assert ways(State.NEW, 0) == 1
    assert set(TRANSITIONS.values()) | {State.NEW} == set(State)


def test_numbers_begin_again_at_one_below_two_to_the_31_and_skip_what_is_pending() -> None:
    pending = Pending(8)
    first = [pending.add(a_call()) for _ in range(3)]
    assert first == [1, 2, 3]
    del pending.calls[2]
    pending._last = MAX_ID - 1  # as after two thousand million calls
    assert [pending.add(a_call()) for _ in range(4)] == [MAX_ID, 2, 4, 5]
    assert MAX_ID == 2**31 - 1
    assert all(number == call.number for number, call in pending.calls.items())
    pending.calls[MAX_ID - 1] = a_call()
    pending._last = MAX_ID - 2
    assert pending.add(a_call()) == 6  # both of the last are pending


def test_only_so_many_given_up_calls_are_remembered() -> None:
    """The last 1,024; what is older counts as unknown (§3.1, rule 4)."""
    pending = Pending(2)
    for number in [pending.add(a_call()) for _ in range(4)]:
        pending.give_up(number)
    assert not pending.calls
    assert [pending.was_late(number) for number in (1, 2, 3, 4, 5, 3)] == [False, False, True, True, False, False]


def test_a_call_is_open_until_its_answer() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, "m"))
    (owed,) = device.party.owed
    assert is_open(owed)
    tool.says(answer(1))
    assert not is_open(owed) and not is_open(a_call())


def test_a_provider_settles_until_it_has_told_its_tools() -> None:
    provider = Play().tool().party
    assert not provider.settling and not provider.answered
    provider.move(Step.GREET)
    assert provider.settling
    provider.move(Step.RESULT)
    provider.listing = a_call()
    assert provider.settling and not provider.answered
    provider.listed = True
    assert not provider.settling and provider.answered


def test_the_counters_are_all_zero_at_the_start_and_told_by_name() -> None:
    told = Counters().as_dict()
    assert list(told) == sorted(told)
    assert set(told.values()) == {0}
    assert {"requests", "answers", "late_answers", "unknown_answers", "busy", "timed_out"} <= told.keys()
