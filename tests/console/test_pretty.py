"""JSON in lines."""

from __future__ import annotations

import msgspec

from mcp_endpoint.console.pretty import MOST, pretty


def test_values_and_json_are_shown_in_lines_with_every_number_as_it_came() -> None:
    assert pretty({"a": [1]}) == '{\n  "a": [\n    1\n  ]\n}'
    assert pretty(msgspec.Raw(b'{"n":1.0,"big":9007199254740993}')) == '{\n  "n": 1.0,\n  "big": 9007199254740993\n}'


def test_what_is_no_json_or_too_large_is_shown_as_it_came() -> None:
    assert pretty(b"no json \xff") == "no json \ufffd"
    large = b"[" + b"1," * MOST + b"1]"
    assert pretty(large) == large.decode()
    deep = b"[" * 3_000
    assert pretty(deep) == deep.decode()
