"""How often a user may ask, with a clock of the test's own."""

from __future__ import annotations

import pytest

from mcp_endpoint.consumers.http_api import rate_limit as module
from mcp_endpoint.consumers.http_api.rate_limit import RateLimit


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_requests_may_come_at_once_and_then_each_waits_for_its_share() -> None:
    clock = Clock()
    limit = RateLimit(6, clock)
    assert [limit.wait("a") for _ in range(6)] == [0] * 6
    assert limit.wait("a") == limit.wait("a") == 10, "a refused request costs nothing"
    assert limit.wait("b") == 0, "users do not pay for each other"
    clock.now += 4
    assert limit.wait("a") == 6
    clock.now += 6
    assert limit.wait("a") == 0
    assert limit.wait("a") == 10
    clock.now += 3_600
    assert [limit.wait("a") for _ in range(7)] == [0] * 6 + [10], "what was not used long ago is not saved up"


def test_a_fraction_of_a_second_is_a_whole_one() -> None:
    limit = RateLimit(600, Clock())
    assert [limit.wait("a") for _ in range(601)] == [0] * 600 + [1]


def test_without_a_limit_nobody_waits() -> None:
    limit = RateLimit(0, Clock())
    assert not any(limit.wait("a") for _ in range(100))


def test_users_are_bounded_and_the_one_seen_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "USERS", 2)
    limit = RateLimit(2, Clock())
    for user in ("a", "b", "a", "c"):
        assert limit.wait(user) == 0
    assert limit.wait("a") > 0, "it was seen lately"
    assert limit.wait("b") == 0, "it starts anew"
