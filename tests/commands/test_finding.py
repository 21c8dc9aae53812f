"""A finding is marked by its remedy, and words in two languages are told apart."""

from __future__ import annotations

from mcp_endpoint.commands.finding import Finding, reason_of, split
from mcp_endpoint.errors import EndpointError


def test_what_has_no_remedy_is_well_and_what_has_one_is_a_problem_or_a_note() -> None:
    assert [Finding("a", "甲").mark, Finding("a", "甲", "b", "乙").mark, Finding("a", "甲", "b", "乙", problem=False).mark] == [
        *("ok", "PROBLEM", "note")
    ]


def test_the_reason_of_an_error_has_its_place() -> None:
    assert reason_of(EndpointError("bad", "坏", place="f:1:2")) == ("f:1:2: bad", "f:1:2: 坏")
    assert reason_of(EndpointError("bad", "坏")) == ("bad", "坏")


def test_words_of_others_with_slashes_are_split_in_the_middle() -> None:
    assert split("坏：a / b / bad: a / b") == ("bad: a / b", "坏：a / b")
    assert split("only one") == ("only one", "only one")
