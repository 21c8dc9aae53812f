"""Shares: whoever has most gives way, and nobody else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcp_endpoint.core.shares import Shares


def test_the_endpoint_with_most_gives_way_with_what_it_got_last() -> None:
    shares: Shares[int] = Shares()
    for one in range(2):
        shares.add("greedy", one)
    shares.add("modest", 10)
    assert shares.gives_way("modest") is None, "an exchange of places between equals helps nobody"
    assert shares.gives_way("greedy") is None
    assert shares.gives_way("new") == 1
    shares.add("greedy", 2)
    assert shares.gives_way("modest") == 2
    shares.remove("greedy", 2)
    shares.remove("greedy", 2)
    shares.remove("nobody", 2)
    assert (len(shares), shares.count("greedy"), sorted(shares)) == (3, 2, [0, 1, 10])


def test_what_is_used_is_last_and_of_equals_the_endpoint_unused_for_longest_is_first() -> None:
    shares: Shares[int] = Shares()
    shares.add("one", 1)
    shares.add("two", 2)
    assert list(shares.largest("new")) == [1]
    shares.touch("one", 1)
    shares.touch("one", 7)
    assert list(shares.largest("new")) == [2]
    shares.add("two", 3)
    shares.touch("two", 2)
    assert list(shares.largest("two")) == list(shares.largest("one")) == shares.of("two") == [3, 2]
    shares.remove("one", 1)
    assert shares.of("one") == [] and shares.count("one") == 0
    assert not Shares[int]().largest("new") and Shares[int]().gives_way("new") is None


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(2, 9))
def test_nobody_is_shut_out_and_nobody_with_a_fair_share_gives_way(comers: list[int], most: int) -> None:
    shares: Shares[int] = Shares()
    whose: dict[int, str] = {}
    for number, comer in enumerate(comers):
        owner = f"endpoint {comer}"
        before = {name: shares.count(name) for name in map("endpoint {}".format, range(5))}
        if len(shares) >= most:
            gone = shares.gives_way(owner)
            if gone is None:
                assert before[owner] + 1 >= max(before.values())
                continue
            assert before[whose[gone]] == max(before.values()) and before[whose[gone]] - 1 >= before[owner] + 1
            shares.remove(whose[gone], gone)
        whose[number] = owner
        shares.add(owner, number)
        assert len(shares) == len(list(shares)) <= most
