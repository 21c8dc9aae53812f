"""One request goes through the keys: what is refused to all is no key's fault, what is refused to one is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_endpoint.credentials.pool import Credential, CredentialPool, KeyCounts
from mcp_endpoint.credentials.refusals import Answer
from mcp_endpoint.credentials.rotation import Rotation, route_of

HERE, ELSEWHERE = 1, 2
NOW = 0.0


def pool(count: int, **options: float) -> CredentialPool:
    return CredentialPool([Credential(f"key-{number}") for number in range(count)], **options)  # type: ignore[arg-type]


def ask(
    keys: CredentialPool,
    says: dict[int, int | Answer | None],
    *,
    route: int | None = HERE,
    retries: int = 3,
    now: float = NOW,
    repeatable: bool = False,
) -> list[int]:
    """One request, which the upstream answers by the number of the key (200 where `says` is silent); the keys it was sent with."""
    rotation = Rotation(keys, route, retries)
    sent: list[int] = []
    while (credential := rotation.take(now)) is not None:
        number = int(credential.secret[4:])
        sent.append(number)
        said = says.get(number, 200)
        answer = said if isinstance(said, Answer) else Answer(said)
        if answer.status == 200:
            rotation.worked(credential, now)
            return sent
        if not rotation.answered(credential, answer, now, repeatable=repeatable):
            break
    rotation.failed(now)
    return sent


@pytest.mark.row("R4")
@pytest.mark.parametrize("status", [401, 403])
def test_what_all_are_refused_costs_no_key(status: int) -> None:
    keys = pool(8)
    for _ in range(14):
        assert len(ask(keys, dict.fromkeys(range(8), status))) == 4
        assert keys.counts(NOW) == KeyCounts(8, 0, 0, 8)


@pytest.mark.row("R4")
@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_alone_is_refused_is_banned_at_once(status: int) -> None:
    keys = pool(3)
    assert ask(keys, {0: status}) == [0, 1]
    assert keys.counts(NOW) == KeyCounts(3, 0, 1, 2)


@pytest.mark.row("R4")
def test_of_two_dead_keys_both_are_found_out_when_a_third_works() -> None:
    keys = pool(4)
    assert ask(keys, {0: 401, 1: 401}) == [0, 1, 2]
    assert keys.counts(NOW) == KeyCounts(4, 0, 2, 2)


def test_a_key_that_works_elsewhere_is_not_banned_for_the_one_thing_it_may_not_do() -> None:
    """One model that only the first key may use: the others get 403 for it, and serve every other."""
    keys = pool(3)
    for _ in range(3):
        ask(keys, {}, route=ELSEWHERE)
    for _ in range(3):
        ask(keys, {1: 403, 2: 403})
    assert keys.counts(NOW).banned == 0
    assert keys.counts(60.0).available == 3
    ask(keys, {1: 401, 2: 401}, now=60.0, route=3)
    ask(keys, {1: 401, 2: 401}, now=60.0, route=3)
    assert keys.counts(60.0).banned == 2


@pytest.mark.parametrize("status", [401, 403])
def test_the_only_key_rests_after_a_refusal_and_is_banned_where_it_worked_before(status: int) -> None:
    keys = pool(1)
    assert ask(keys, {0: status}) == [0]
    assert keys.counts(NOW) == KeyCounts(1, 1, 0, 0)
    assert ask(keys, {0: status}) == [0], "it is the only one there is"
    ask(keys, {})
    ask(keys, {0: status}, route=ELSEWHERE)
    ask(keys, {0: status}, route=None)
    assert keys.counts(NOW).banned == 0
    ask(keys, {0: status})
    assert keys.counts(NOW) == KeyCounts(1, 0, 1, 0)


def test_where_a_request_is_sent_once_only_what_another_key_could_is_the_evidence() -> None:
    keys = pool(3)
    ask(keys, {}, retries=0)
    ask(keys, {1: 403}, retries=0)
    assert keys.counts(NOW).banned == 1
    for _ in range(3):  # the service refuses everybody now: the others are not at fault
        ask(keys, {0: 403, 1: 403, 2: 403}, retries=0)
    assert keys.counts(NOW).banned == 1
    keys = pool(2)
    ask(keys, {}, retries=0)
    ask(keys, {1: 401}, retries=0, route=ELSEWHERE)
    assert keys.counts(NOW) == KeyCounts(2, 1, 0, 1)


def test_different_refusals_are_judged_each_for_itself() -> None:
    keys = pool(3)
    for _ in range(3):
        ask(keys, {})
    ask(keys, {0: 401, 1: 403, 2: 404})
    assert keys.counts(NOW) == KeyCounts(3, 0, 2, 1)


def test_a_scope_that_is_missing_is_asked_of_another_key_and_costs_none() -> None:
    lacks = Answer(401, challenge='Bearer error="insufficient_scope"')
    keys = pool(3)
    assert ask(keys, {0: lacks}) == [0, 1]
    assert len(ask(keys, dict.fromkeys(range(3), lacks))) == 3
    assert keys.counts(NOW) == KeyCounts(3, 0, 0, 3)


@pytest.mark.parametrize("answer", [Answer(402), Answer(403, text=b"insufficient_quota")])
def test_a_key_without_money_rests_for_long(answer: Answer) -> None:
    keys = pool(2)
    assert ask(keys, {0: answer}) == [0, 1]
    assert ask(keys, {}, now=3599.0) == [1]
    assert {*ask(keys, {}, now=3600.0), *ask(keys, {}, now=3600.0)} == {0, 1}


@pytest.mark.row("R5")
def test_when_all_are_busy_they_are_asked_once_more_within_the_request() -> None:
    keys = pool(2)
    assert ask(keys, {0: 429, 1: 429}, retries=9) == [0, 1, 0, 1]
    keys = pool(1)
    assert ask(keys, {0: 500}, repeatable=True) == [0, 0]
    keys = pool(1)
    assert ask(keys, {0: None}, repeatable=True) == [0], "who is silent is not waited for twice"


@pytest.mark.row("R5")
def test_keys_that_the_service_gave_a_time_wait_for_it() -> None:
    keys = pool(2)
    assert ask(keys, {0: Answer(429, 50.0), 1: Answer(429, 20.0)}, retries=9) == [0, 1]
    assert ask(keys, {}) == []
    assert keys.wait(5.0) == 15.0
    assert ask(keys, {}, now=20.0) == [1]


def test_a_fault_is_repeated_only_where_doing_it_twice_is_doing_it_once() -> None:
    assert ask(pool(3), {0: 500}) == [0]
    assert ask(pool(3), {0: 500}, repeatable=True) == [0, 1]
    assert ask(pool(3), {0: 529}) == [0, 1]
    assert ask(pool(3), {0: 404}, repeatable=True) == [0]


def test_a_session_is_asked_of_its_owner_and_refusals_of_others_say_nothing() -> None:
    keys = pool(3)
    owner = keys.credentials[1]
    rotation = Rotation(keys, HERE, 2, owner)
    assert rotation.take(NOW) is owner
    assert rotation.answered(owner, Answer(429, 60.0), NOW, repeatable=False)
    for status in (401, 403):
        other = rotation.take(NOW)
        assert other is not None and other is not owner
        rotation.answered(other, Answer(status), NOW, repeatable=False)
    rotation.failed(NOW)
    assert keys.counts(NOW) == KeyCounts(3, 1, 0, 2)
    assert Rotation(keys, HERE, 2, owner).take(NOW) is not owner, "it was told to wait"
    rotation = Rotation(keys, HERE, 0, owner)
    assert rotation.take(61.0) is owner
    assert rotation.take(61.0) is None


def test_a_banned_key_that_is_refused_at_its_recheck_stays_banned() -> None:
    keys = pool(2, recheck_seconds=100.0)
    ask(keys, {0: 401})
    assert 0 in [*ask(keys, {0: 401}, now=100.0), *ask(keys, {0: 401}, now=100.0)]
    assert keys.counts(100.0).banned == 1
    assert all(0 not in ask(keys, {0: 401}, now=199.0) for _ in range(3))


def test_requests_side_by_side_with_one_dead_key_ban_it_once() -> None:
    keys = pool(3)
    first, second = Rotation(keys, HERE, 3), Rotation(keys, HERE, 3)
    dead = keys.credentials[0]
    assert first.take(NOW) is dead
    keys.take(NOW), keys.take(NOW)
    assert second.take(NOW) is dead
    for rotation in (first, second):
        rotation.answered(dead, Answer(401), NOW, repeatable=False)
    for rotation in (first, second):
        good = rotation.take(NOW)
        assert good is not None and good is not dead
        rotation.worked(good, NOW)
    assert keys.counts(NOW) == KeyCounts(3, 0, 1, 2)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([200, 401, 402, 403, 404, 429, 500, None]), st.integers(0, 3)), max_size=30), st.integers(2, 5))
def test_what_everybody_is_refused_bans_nobody_whatever_else_happens(events: list[tuple[int | None, int]], count: int) -> None:
    """401 and 403 are for all keys, every other answer for one."""
    keys = pool(count)
    for status, number in events:
        to = range(count) if status in (401, 403) else (number,)
        ask(keys, dict.fromkeys(to, status), route=number)
        counts = keys.counts(NOW)
        assert counts.total == counts.resting + counts.available
        assert counts.banned == 0


def test_a_route_is_what_is_asked_for() -> None:
    chat = b'{"model":"%b","messages":[%b]}'
    call = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"%b","arguments":{"n":%d}}}'

    def route(body: bytes, target: bytes = b"/x?y", method: str = "POST") -> int | None:
        return route_of(method, target, body)

    assert route(chat % (b"m", b"1")) == route(chat % (b"m", b"2")) != route(chat % (b"n", b"1"))
    assert route(call % (1, b"book", 1)) == route(call % (2, b"book", 2)) != route(call % (1, b"look", 1))
    assert route(b'{"method":"tools/list"}') != route(b'{"method":"ping"}')
    assert route(b'{"order":1}') != route(b'{"order":2}')
    assert route(b'{"method":"x","params":[1]}') != route(b'{"method":"x","params":[2]}')
    assert route(b"\xff") == route(b"\xff") != route(b"[" * 100_000)
    assert len({route(b"", b"/a"), route(b"", b"/b"), route(b"", b"/a?x"), route(b"", b"/a", "GET")}) == 4
    assert route_of("POST", b"/x", None) is None
    assert len({route_of("GET", b"/x", b"", headers) for headers in ([], [(b"origin", b"a")], [(b"origin", b"b")])}) == 3
