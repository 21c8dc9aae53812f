"""tool_calls: a tool is known by its name wherever that stands, and an answer that says it failed from one that talks of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_endpoint.core.tool_calls import outcome_of, tool_of
from mcp_endpoint.protocol.jsonrpc import parse


@pytest.mark.parametrize(
    ("params", "name"),
    [
        (b'{"name":"first","arguments":{}}', "first"),
        (b'{"arguments":{},"name":"last"}', "last"),
        (b'{ "name" : "\\u4f60" }', "你"),
        (b'{"name":"' + b"n" * 500 + b'"}', "n" * 128),
        (b'{"name":7}', "?"),
        (b'{"name":""}', "?"),
        (b'{"arguments":"' + b"x" * 20_000 + b'","name":"far"}', "?"),
        (b'{"name":"near","arguments":"' + b"x" * 20_000 + b'"}', "near"),
        (b'{"name":"near\\u4f60","arguments":"' + b"x" * 2_000 + b'"}', "near你"),
        (b'{"arguments":{"params":{"name":"inner"}},"name":"outer"}', "outer"),
        (b"[]", "?"),
    ],
)
def test_a_tool_is_known_by_its_name_wherever_that_stands(params: bytes, name: str) -> None:
    data = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%b}' % params
    assert tool_of(parse(data, utf8=True), data) == name


def test_a_call_without_parameters_has_no_name() -> None:
    data = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}'
    assert tool_of(parse(data, utf8=True), data) == "?"


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ({"content": [], "isError": True}, "tool_error"),
        ({"content": ["x" * 100_000], "isError": True}, "tool_error"),
        ({"isError": True, "content": "y" * 100_000}, "tool_error"),
        ({"content": "x" * 5_000, "isError": True, "structuredContent": {"isError": False}}, "tool_error"),
        ({"isError": True, "content": "x" * 5_000, "structuredContent": {"isError": False}}, "tool_error"),
        ({"content": "x" * 5_000, "structuredContent": {"isError": True}}, ""),
        ({"content": [], "isError": False}, ""),
        ({"content": [], "structuredContent": {"isError": True}}, ""),
        ({"content": [{"text": '"isError":true'}]}, ""),
        ([{"isError": True}], ""),
    ],
)
def test_a_tool_that_says_it_failed_is_told_apart_from_one_that_talks_of_it(result: Any, outcome: str) -> None:
    for separators in ((",", ":"), (", ", ": ")):
        data = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}, separators=separators).encode()
        assert outcome_of(parse(data, utf8=True), data, ours=False) == outcome


@pytest.mark.parametrize(
    ("error", "outcome"), [({"code": -32006}, "timed_out"), ({"code": -5}, "error"), ({"message": "no code"}, "error"), (7, "error")]
)
def test_an_error_of_this_broker_is_known_by_its_code_where_it_may_be_one(error: Any, outcome: str) -> None:
    data = json.dumps({"jsonrpc": "2.0", "id": 1, "error": error}).encode()
    assert outcome_of(parse(data, utf8=True), data, ours=True) == outcome
    assert outcome_of(parse(data, utf8=True), data, ours=False) == "error"
