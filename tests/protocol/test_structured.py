"""A result that only programs can read gets a text, and every other byte of it stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_endpoint.protocol.structured import with_text


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (
            '{"structuredContent": {"t":1.00,"城":"杭\\u5dde"} }',
            '{"content":[{"type":"text","text":"{\\"t\\":1.00,\\"城\\":\\"杭\\\\u5dde\\"}"}],'
            '"structuredContent": {"t":1.00,"城":"杭\\u5dde"} }',
        ),
        (
            '{"content" : [ ], "isError":false,"structuredContent":[1]}',
            '{"content" : [{"type":"text","text":"[1]"}], "isError":false,"structuredContent":[1]}',
        ),
        ('{"structuredContent":"x","content":null}', '{"structuredContent":"x","content":[{"type":"text","text":"\\"x\\""}]}'),
    ],
)
@pytest.mark.parametrize("frame", ['{"jsonrpc":"2.0","id":1,"result":%s}', '{ "result" : %s ,\n"id":"a", "jsonrpc":"2.0"}'])
def test_the_json_becomes_the_text(frame: str, result: str, expected: str) -> None:
    assert with_text((frame % result).encode()).decode() == frame % expected


@pytest.mark.parametrize(
    "result",
    [
        '{"content":[{"type":"text","text":"said"}],"structuredContent":{}}',
        '{"content":[{}],"structuredContent":{}}',
        '{"content":7,"structuredContent":{}}',
        '{"structuredContent":null}',
        '{"content":[],"isError":true}',
        '{"content":[],"content":[],"structuredContent":{}}',
        '{"content":[],"\\ud83d":1,"structuredContent":{"a":NaN}}',
        '"structuredContent"',
        "null",
    ],
)
def test_everything_else_is_given_back_as_it_is(result: str) -> None:
    answer = b'{"jsonrpc":"2.0","id":1,"result":%b}' % result.encode()
    assert with_text(answer) is answer


@pytest.mark.parametrize("answer", [b'{"id":1,"error":{"structuredContent":1}}', b'{"id":1,"id":1,"result":{"structuredContent":1}}'])
def test_what_is_no_result_is_given_back_as_it_is(answer: bytes) -> None:
    assert with_text(answer) is answer


KEYS = st.text(max_size=80)  # longer ones, escaped, are above what is walked (KEY_BYTES)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8
)


@given(structured=json_values.filter(lambda value: value is not None), rest=st.dictionaries(KEYS, json_values, max_size=3))
def test_the_text_says_what_the_content_says(structured: Any, rest: dict[str, Any]) -> None:
    result = {**rest, "structuredContent": structured}
    result.pop("content", None)
    told = json.loads(with_text(json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()))["result"]
    [item] = told.pop("content")
    assert told == result
    assert json.loads(item["text"]) == structured and item["type"] == "text"
