"""What a chat repeats is kept once, and every body comes back byte for byte."""

from __future__ import annotations

import json

from mcp_endpoint.recorder.parts import divide, hash_of, hashes, whole


def test_bodies_that_are_no_chat_are_one_piece() -> None:
    for body in (b"", b"no json", b'{"messages":"text"}', b'{"messages":[{"a":1}]}', b"[" * 5_000):
        assert divide(body) == ([body], {})
    long = json.dumps({"type": "function", "function": {"name": "get_weather", "description": "the weather of a city " * 4}})
    text = ('{"input":"hello","tools":[%s,%s]}' % (long, long)).encode()
    pieces, parts = divide(text)
    assert len(parts) == 1 and len(pieces) == 3 and whole(pieces, parts.__getitem__) == text
    spaced = ('{"messages":[%s, %s,\n%s,%s%s],"tools":%s}' % (long, long, long, " " * 20, long, long)).encode()
    pieces, parts = divide(spaced)
    assert whole(pieces, parts.__getitem__) == spaced and hashes(pieces) == [hash_of(long.encode())] * 5
    twice = ('{"messages":[{"input":[%s]}],"input":[%s]}' % (long, long)).encode()
    pieces, parts = divide(twice)
    assert whole(pieces, parts.__getitem__) == twice and len(parts) == 1
