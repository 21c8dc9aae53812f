"""How long to wait before the next attempt."""

from __future__ import annotations

import pytest

from mcp_endpoint.backoff import FIRST_SECONDS, LONGEST_SECONDS, SLOW_FIRST_SECONDS, SLOW_LONGEST_SECONDS, WORKED_SECONDS, Backoff


def _never() -> float:
    return 0.0


def test_waits_grow_up_to_the_longest() -> None:
    backoff = Backoff(_never)
    waits = [backoff.wait(0.0) for _ in range(100)]
    assert waits[0] == FIRST_SECONDS
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_SECONDS


def test_a_link_that_worked_starts_the_count_anew() -> None:
    backoff = Backoff(_never)
    for _ in range(20):
        backoff.wait(WORKED_SECONDS - 0.1)
    assert backoff.wait(0.0) == LONGEST_SECONDS
    assert backoff.wait(WORKED_SECONDS) == FIRST_SECONDS


@pytest.mark.row("U18")
def test_after_an_outage_of_six_seconds_the_next_wait_is_below_three() -> None:
    """A tool is back three seconds after a restarted broker, though the broker was away for some seconds."""
    backoff = Backoff(_never)
    away = 0.0
    while away < 6.0:
        wait = backoff.wait(0.0)
        away += wait
    assert wait < 3.0


def test_a_refusal_that_has_to_be_mended_is_repeated_slowly() -> None:
    backoff = Backoff(_never)
    waits = [backoff.wait(0.0, slow=True) for _ in range(100)]
    assert waits[0] == SLOW_FIRST_SECONDS
    assert waits[-1] == SLOW_LONGEST_SECONDS


def test_half_of_a_wait_is_drawn_by_lot() -> None:
    assert Backoff(lambda: 0.999999).wait(0.0) == pytest.approx(FIRST_SECONDS / 2, rel=1e-3)


def test_what_the_other_side_asks_for_is_kept_within_reason() -> None:
    backoff = Backoff(_never)
    assert backoff.wait(0.0, at_least=7.0) == 7.0
    assert backoff.wait(0.0, at_least=1e9) == SLOW_LONGEST_SECONDS
