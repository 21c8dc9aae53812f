"""A key goes to its place, once, and nothing else moves."""

from __future__ import annotations

import pytest

from mcp_endpoint.credentials.placement import as_header, fields_beside, in_query


@pytest.mark.row("R3")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", b"api_key=a%2Bb"),
        (b"x=%20&&api_key=mine&api%5fkey=sly&api_keys=1", b"x=%20&api_keys=1&api_key=a%2Bb"),
    ],
)
def test_a_key_of_the_query_stands_at_its_end_once(query: bytes, expected: bytes) -> None:
    assert in_query(query, "query:api_key", "a+b") == expected


def test_a_key_elsewhere_leaves_the_query_alone() -> None:
    assert in_query(b"a=1&&api_key=2", "bearer", "s") == b"a=1&api_key=2"
    assert fields_beside(b"a=1&k=2", "query:k") == [b"a=1"]


def test_the_header_that_bears_a_key() -> None:
    assert as_header("bearer", "s") == ("authorization", "Bearer s")
    assert as_header("header:X-Key", "s") == ("x-key", "s")
    assert as_header("query:k", "s") is None
