"""Keys take turns, rest, are banned, and are shown to nobody."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_endpoint.credentials.pool import LONGEST_REST, Counts, Credential, CredentialPool, Verdict

NAMES = ("a", "b", "c")


def pool(*secrets: str, banned: tuple[str, ...] = ()) -> CredentialPool:
    return CredentialPool([Credential(secret) for secret in secrets], rest_seconds=60.0, banned=banned)


def taken(keys: CredentialPool, now: float = 0.0) -> str:
    credential = keys.take(now)
    assert credential is not None
    return credential.secret


@pytest.mark.row("R2")
@given(st.integers(1, 30), st.integers(0, 200))
def test_keys_take_turns(count: int, requests: int) -> None:
    keys = pool(*(f"key-{number}" for number in range(count)))
    times = Counter(taken(keys) for _ in range(requests))
    assert not times or max(times.values()) - min(times[f"key-{number}"] for number in range(count)) <= 1


def test_a_key_that_is_given_twice_counts_once() -> None:
    assert pool("a", "a", "b").counts(0.0) == Counts(2, 0, 0, 2)


@pytest.mark.row("R4")
@pytest.mark.parametrize("status", [401, 403])
def test_a_key_the_upstream_does_not_know_is_never_taken_again(status: int) -> None:
    keys = pool("a", "b")
    first = keys.take(0.0)
    assert first is not None
    assert keys.report(first, status, 0.0) is Verdict.BAN
    assert {taken(keys, 1e9) for _ in range(4)} == {"b"}
    assert keys.banned_credentials() == [first]
    assert keys.counts(0.0) == Counts(2, 0, 1, 1)


def test_a_ban_of_an_earlier_run_holds() -> None:
    keys = pool("a", "b", banned=(Credential("a").fingerprint, "somebody else's"))
    assert taken(keys) == taken(keys) == "b"
    assert keys.counts(0.0).banned == 1


@pytest.mark.row("R5")
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408, None])
def test_a_key_that_had_enough_rests_for_a_while(status: int | None) -> None:
    keys = pool("a", "b")
    first = keys.take(0.0)
    assert first is not None
    assert keys.report(first, status, 0.0) is Verdict.REST
    assert keys.counts(1.0) == Counts(2, 1, 0, 1)
    assert taken(keys, 1.0) == taken(keys, 59.9) == "b"
    assert {taken(keys, 60.0), taken(keys, 60.0)} == {"a", "b"}
    assert keys.counts(60.0) == Counts(2, 0, 0, 2)


@pytest.mark.parametrize(("told", "rests"), [(5.0, 5.0), (0.0, 0.0), (-7.0, 0.0), (1e12, LONGEST_REST)])
def test_the_upstream_says_how_long(told: float, rests: float) -> None:
    keys = pool("a", "b")
    first = keys.take(0.0)
    assert first is not None
    keys.report(first, 429, 0.0, told)
    if rests:
        assert keys.counts(rests - 0.1).resting == 1
    assert keys.counts(rests).resting == 0


@pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 422, 501])
def test_any_other_answer_says_nothing_of_the_key(status: int) -> None:
    keys = pool("a")
    first = keys.take(0.0)
    assert first is not None
    assert keys.report(first, status, 0.0) is Verdict.FINE
    assert taken(keys) == "a"


@pytest.mark.row("R5")
def test_when_all_that_are_left_rest_all_are_taken_up_again() -> None:
    keys = pool(*NAMES)
    for status in (401, 429, 503):
        credential = keys.take(0.0)
        assert credential is not None
        keys.report(credential, status, 0.0)
    assert keys.counts(0.0) == Counts(3, 2, 1, 0)
    assert {taken(keys), taken(keys)} == {"b", "c"}
    assert keys.resets == 1


def test_one_request_does_not_wake_what_it_has_tried() -> None:
    keys = pool("a", "b")
    first = keys.take(0.0)
    assert first is not None
    keys.report(first, 429, 0.0)
    second = keys.take(0.0, (first,))
    assert second is not None
    keys.report(second, 429, 0.0)
    assert keys.take(0.0, (first, second)) is None
    assert keys.resets == 0
    assert keys.take(0.0) is not None


def test_when_all_are_banned_there_is_none() -> None:
    keys = pool("a")
    first = keys.take(0.0)
    assert first is not None
    keys.report(first, 429, 0.0)
    keys.report(first, 401, 0.0)
    assert keys.counts(0.0) == Counts(1, 0, 1, 0)
    assert keys.take(0.0) is None
    assert CredentialPool([]).take(0.0) is None


@pytest.mark.row("R15")
@given(st.lists(st.tuples(st.sampled_from([200, 401, 429, None]), st.floats(0, 100)), max_size=40))
def test_the_counts_always_add_up(events: list[tuple[int | None, float]]) -> None:
    keys = pool(*NAMES)
    now = 0.0
    for status, passed in events:
        now += passed
        credential = keys.take(now)
        if credential is not None:
            keys.report(credential, status, now)
        counts = keys.counts(now)
        assert counts.total == counts.resting + counts.banned + counts.available == 3
        assert min(counts) >= 0


@pytest.mark.row("R16")
@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=8, max_size=60))
def test_no_way_of_showing_a_key_shows_it_whole(secret: str) -> None:
    credential = Credential(secret, "somebody")
    for shown in (repr(credential), str(credential), credential.shown, credential.preview, f"{[credential]}"):
        assert secret not in shown
        assert sum(len(part) for part in (credential.preview[:-3],)) <= max(20, 1) and len(credential.preview[:-3]) <= len(secret) / 2


def test_the_preview_of_a_usual_key_has_twenty_characters() -> None:
    assert Credential("sk-B8VkYmkvjQSnLQbj" + "x" * 29).preview == "sk-B8VkYmkvjQSnLQbjx..."
