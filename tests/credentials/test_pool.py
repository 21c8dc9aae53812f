"""Keys take turns, rest, are banned, and are shown to nobody."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_endpoint.credentials import pool as module
from mcp_endpoint.credentials.pool import Credential, CredentialPool, KeyCounts, KeyEvent
from mcp_endpoint.credentials.refusals import LONGEST_REST

NAMES = ("a", "b", "c")
NEVER = float("inf")


def pool(*secrets: str, **options: object) -> CredentialPool:
    return CredentialPool([Credential(secret) for secret in secrets], **options)  # type: ignore[arg-type]


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
    assert pool("a", "a", "b").counts(0.0) == KeyCounts(2, 0, 0, 2)


@pytest.mark.row("R4")
def test_a_banned_key_is_never_taken_again() -> None:
    keys = pool("a", "b")
    first = keys.credentials[0]
    keys.ban(first, 401, 0.0)
    assert {taken(keys, 1e9) for _ in range(4)} == {"b"}
    assert keys.banned_credentials() == [first] and keys.is_banned(first) and first not in keys
    assert keys.counts(0.0) == KeyCounts(2, 0, 1, 1)


def test_a_ban_of_an_earlier_run_holds() -> None:
    keys = pool("a", "b", banned={Credential("a").fingerprint: NEVER, "somebody else's": NEVER})
    assert taken(keys) == taken(keys) == "b"
    assert keys.counts(0.0).banned == 1


def test_after_its_time_one_request_tries_a_banned_key_and_its_success_lifts_the_ban() -> None:
    told: list[tuple[KeyEvent, str]] = []

    def on_event(event: KeyEvent, key: Credential | None, status: int | None) -> None:
        told.append((event, key.secret if key else ""))

    keys = pool("a", "b", recheck_seconds=100.0, rest_seconds=10.0, on_event=on_event)
    first = keys.credentials[0]
    keys.ban(first, 401, 0.0)
    assert {taken(keys, 99.0) for _ in range(3)} == {"b"}
    assert Counter(taken(keys, 100.0) for _ in range(4)) == {"a": 1, "b": 3}
    keys.ban(first, 401, 100.0)
    assert {taken(keys, 199.0) for _ in range(3)} == {"b"}
    assert "a" in {taken(keys, 200.0) for _ in range(2)}
    keys.worked(first, None)
    assert keys.counts(200.0).banned == 0
    assert told == [(KeyEvent.BAN, "a"), (KeyEvent.LIFT, "a")]


@pytest.mark.row("R5")
@pytest.mark.parametrize(("spent", "rests"), [(False, 60.0), (True, 3600.0)])
def test_a_key_that_had_enough_rests_for_a_while(spent: bool, rests: float) -> None:
    keys = pool("a", "b")
    keys.rest(keys.credentials[0], 429, 0.0, spent=spent)
    assert keys.counts(1.0) == KeyCounts(2, 1, 0, 1)
    assert taken(keys, 1.0) == taken(keys, rests - 0.1) == "b"
    assert {taken(keys, rests), taken(keys, rests)} == {"a", "b"}
    assert keys.counts(rests) == KeyCounts(2, 0, 0, 2)


@pytest.mark.parametrize(("told", "rests"), [(5.0, 5.0), (0.0, 0.0), (-7.0, 0.0), (1e12, LONGEST_REST)])
def test_the_upstream_says_how_long(told: float, rests: float) -> None:
    keys = pool("a", "b")
    keys.rest(keys.credentials[0], 429, 0.0, told)
    if rests:
        assert keys.counts(rests - 0.1).resting == 1
    assert keys.counts(rests).resting == 0


@pytest.mark.row("R5")
def test_when_all_that_are_left_rest_those_that_were_told_no_time_are_taken_up_again() -> None:
    resets: list[KeyEvent] = []
    keys = pool(*NAMES, on_event=lambda event, key, status: resets.append(event))
    a, b, c = keys.credentials
    keys.ban(a, 401, 0.0)
    keys.rest(b, 429, 0.0)
    keys.rest(c, 503, 0.0, 30.0)
    assert keys.wait(0.0) is None
    assert taken(keys) == taken(keys) == "b"
    assert (keys.resets, resets.count(KeyEvent.RESET)) == (1, 1)
    keys.rest(b, 429, 0.0, 20.0)
    assert keys.take(0.0) is None
    assert (keys.wait(0.0), keys.waits(b, 0.0), keys.waits(a, 0.0), keys.waits(b, 21.0)) == (20.0, True, False, False)
    assert (keys.take(19.9), keys.wait(19.0)) == (None, 1.0)
    assert taken(keys, 20.0) == "b"
    assert taken(keys, 20.0) == "b"


@pytest.mark.parametrize("change", ["wake", "lift", "renew", "shorter"])
def test_whatever_happens_to_a_key_while_all_wait_counts_at_once(change: str) -> None:
    keys = pool("a", "b")
    first, second = keys.credentials
    for credential in (first, second):
        keys.rest(credential, 429, 0.0, 100.0)
    assert (keys.take(0.0), keys.wait(0.0), keys.take(50.0)) == (None, 100.0, None)
    if change == "wake":
        keys.wake(first)
    elif change == "lift":
        keys.ban(first, 401, 0.0)
        assert keys.wait(0.0) == 100.0
        keys.worked(first, None)
    elif change == "renew":
        keys.renew([*keys.credentials, Credential("c")], {})
    else:
        keys.rest(first, 429, 0.0, 10.0)
        assert keys.wait(0.0) == 10.0
    assert keys.take(50.0) is not None


def test_one_request_does_not_wake_what_it_has_tried() -> None:
    keys = pool("a", "b")
    first, second = keys.credentials
    keys.rest(first, 429, 0.0)
    assert keys.take(0.0, (second,)) is first
    keys.rest(first, 429, 0.0)
    assert keys.take(0.0, (first, second)) is None


def test_when_all_are_banned_there_is_none() -> None:
    keys = pool("a")
    keys.rest(keys.credentials[0], 429, 0.0)
    keys.ban(keys.credentials[0], 401, 0.0)
    assert keys.counts(0.0) == KeyCounts(1, 0, 1, 0)
    assert (keys.take(0.0), keys.wait(0.0)) == (None, None)
    assert pool().take(0.0) is None


def test_a_key_set_aside_is_freed_unless_it_has_got_another_rest_since() -> None:
    keys = pool("a", "b")
    first = keys.credentials[0]
    keys.free(first, keys.hold(first, 0.0))
    assert keys.counts(0.0).resting == 0
    held = keys.hold(first, 0.0)
    keys.rest(first, 429, 0.0, 5.0)
    keys.free(first, held)
    assert keys.waits(first, 0.0)


def test_a_time_that_the_service_named_holds_against_whatever_else_comes_of_requests_side_by_side() -> None:
    keys = pool("a", "b")
    first = keys.credentials[0]
    keys.rest(first, 429, 0.0, 500.0)
    keys.rest(first, 500, 1.0)
    keys.free(first, keys.hold(first, 2.0))
    assert keys.waits(first, 499.0)
    keys.rest(first, 429, 3.0, 10.0)
    assert not keys.waits(first, 13.0)


def test_another_list_of_keys_takes_over_and_what_is_known_of_a_key_that_stays_stays() -> None:
    keys = pool("a", "b", "c")
    a, b, c = keys.credentials
    keys.take(0.0)
    keys.worked(a, 7)
    keys.rest(b, 429, 0.0, 50.0)
    keys.ban(c, 401, 0.0)
    keys.renew([Credential(secret) for secret in ("d", "b", "a", "c")], {})
    assert [credential.secret for credential in keys.credentials] == ["d", "b", "a", "c"]
    assert keys.counts(0.0) == KeyCounts(4, 1, 0, 3)
    assert keys.waits(b, 0.0) and keys.has_worked(a, 7) and c in keys
    keys.renew([Credential("d")], {})
    for late in (lambda: keys.rest(a, 429, 0.0), lambda: keys.ban(a, 401, 0.0), lambda: keys.hold(a, 0.0), lambda: keys.worked(a, 7)):
        late()
    assert keys.counts(0.0) == KeyCounts(1, 0, 0, 1)
    assert a not in keys and not keys.has_worked(a)


def test_what_is_remembered_of_routes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUTES", 32)
    keys = pool("a", "b")
    first, second = keys.credentials
    for route in range(1000):
        keys.worked(first, route)
    assert [route for route in range(1000) if keys.has_worked(first, route)] == list(range(1000 - module.ROUTES_OF_KEY, 1000))
    assert [route for route in range(1000) if keys.another_worked(second, route)] == list(range(968, 1000))
    assert not keys.another_worked(first, 999)
    keys.forget(999)
    keys.forget(0)
    assert not keys.has_worked(first, 999) and keys.has_worked(first, 998) and keys.has_worked(first)


def test_the_figures_of_keys_say_what_each_did() -> None:
    keys = pool(*NAMES)
    a, b, c = keys.credentials
    keys.take(5.0)
    keys.answered(a, 200)
    keys.rest(b, 429, 5.0, 10.0)
    keys.ban(c, 401, 5.0)
    shown = [figure[1:] for figure in keys.figures(6.0, 3)]
    assert shown == [("available", 1, 5.0, 200, None), ("resting", 0, None, None, 15.0), ("banned", 0, None, None, None)]
    assert len(keys.figures(16.0, 2)) == 2
    assert keys.figures(16.0, 2)[1].until is None


@pytest.mark.row("R15")
@given(st.lists(st.tuples(st.sampled_from([200, 401, 429, None]), st.floats(0, 100)), max_size=40))
def test_the_counts_always_add_up(events: list[tuple[int | None, float]]) -> None:
    keys = pool(*NAMES)
    now = 0.0
    for status, passed in events:
        now += passed
        credential = keys.take(now)
        if credential is not None and status == 401:
            keys.ban(credential, status, now)
        elif credential is not None and status != 200:
            keys.rest(credential, status, now)
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
