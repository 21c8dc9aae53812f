"""States that clients carry for us: nobody changes them, lends them or keeps them."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest

from mcp_endpoint.consumers.mcp_http.request_state import LONGEST, PREFIX, Seals, Untrusted, fingerprint

SEALS = Seals(b"k" * 32)
PLACE = ("agent:1", "", "device")


def test_what_was_put_in_comes_out() -> None:
    """For the same request, and as long as it is young."""
    state = SEALS.close(b"round 7", b"this request", 1000.9)
    assert state.startswith(PREFIX)
    assert SEALS.open(state, b"this request", 999.9) == b"round 7"


@pytest.mark.parametrize("age", [1000.0, 1000.5, 2000.0])
def test_an_old_state_is_not_opened(age: float) -> None:
    """Its time is a bound, not a hint."""
    state = SEALS.close(b"", b"x", 1000.9)
    with pytest.raises(Untrusted, match="old"):
        SEALS.open(state, b"x", age)


def test_a_state_is_good_for_its_own_request_only() -> None:
    """Another tool, another endpoint, other arguments: another fingerprint."""
    state = SEALS.close(b"1", b"this request", 1000.0)
    with pytest.raises(Untrusted, match="another one"):
        SEALS.open(state, b"that request", 1.0)


def test_another_servers_state_is_not_opened() -> None:
    """Its secret is another one."""
    with pytest.raises(Untrusted):
        SEALS.open(Seals(b"l" * 32).close(b"1", b"x", 1000.0), b"x", 1.0)


def test_no_byte_of_a_state_can_be_changed() -> None:
    """Time and content are signed; so is the spelling."""
    state = SEALS.close(b"content", b"x", 1000.0)
    for place in range(len(PREFIX), len(state)):
        other = state[:place] + ("A" if state[place] != "A" else "B") + state[place + 1 :]
        with pytest.raises(Untrusted):
            SEALS.open(other, b"x", 1.0)


@pytest.mark.parametrize(
    "state",
    ["", "nonsense", PREFIX, *(PREFIX + tail for tail in ("AAAA", "A", "你好", "A" * LONGEST, urlsafe_b64encode(b"0" * 39).decode()))],
)
def test_what_is_no_state_is_not_opened(state: str) -> None:
    """Too short, too long, not base64, not ours."""
    with pytest.raises(Untrusted):
        SEALS.open(state, b"x", 1.0)


@pytest.mark.parametrize("tail", ["-TAMPERED", "=", "==", "\n", "!"])
def test_nothing_can_be_appended(tail: str) -> None:
    """Also not what a lenient decoder passes over."""
    with pytest.raises(Untrusted):
        SEALS.open(SEALS.close(b"1", b"x", 1000.0) + tail, b"x", 1.0)


def test_the_same_request_spelled_otherwise_is_the_same() -> None:
    """Order of keys and what changes with each round do not count."""
    first = fingerprint(PLACE, "tools/call", {"name": "a", "arguments": {"x": 1, "y": [2]}, "_meta": {"progressToken": 1}})
    second = fingerprint(PLACE, "tools/call", {"arguments": {"y": [2], "x": 1}, "inputResponses": {}, "requestState": "s", "name": "a"})
    assert first == second


@pytest.mark.parametrize(
    ("place", "method", "params"),
    [
        (("agent:2", "", "device"), "tools/call", {"name": "a"}),
        (("agent:1", "label", "device"), "tools/call", {"name": "a"}),
        (PLACE, "prompts/get", {"name": "a"}),
        (PLACE, "tools/call", {"name": "b"}),
        (PLACE, "tools/call", {"name": "a", "arguments": {}}),
    ],
)
def test_another_request_has_another_fingerprint(place: tuple[str, ...], method: str, params: dict[str, object]) -> None:
    """Place, method, name and arguments all count."""
    assert fingerprint(place, method, params) != fingerprint(PLACE, "tools/call", {"name": "a"})


def test_half_a_surrogate_pair_has_a_fingerprint() -> None:
    """JSON may hold one; it must not break the way."""
    assert fingerprint(PLACE, "tools/call", {"name": "\ud83d"})
