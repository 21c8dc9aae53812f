"""What the taps say in tuples, the writer reads as structs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mcp_endpoint.recorder.batch import (
    CALL,
    FRAME,
    GAP,
    LENGTH_BYTES,
    LINK,
    SECRETS,
    Called,
    Framed,
    Gap,
    Hello,
    Linked,
    Secrets,
    Told,
    decode_batch,
    decode_hello,
    decode_told,
    encode_told,
    frame,
)


def test_each_tuple_is_read_as_its_struct() -> None:
    said = [
        (CALL, 1.5, 2.0, "9f86", 7, "house", "tools/call", "who", "", b"{}", memoryview(b'{"id":'), b"1}", 8, False),
        (LINK, 1.5, 7, "9f86", "device", "lamp", "closed", 1001, "bye"),
        (FRAME, 1.5, "9f86", None, "lamp", "in", b"{}", 2, True),
        (GAP, 1.0, 2.0, 5),
        (SECRETS, ["one"]),
    ]
    size, data = frame((3, said))
    assert int.from_bytes(size) == len(data) and len(size) == LENGTH_BYTES
    batch = decode_batch(data)
    assert batch.number == 3
    assert [type(item) for item in batch.items] == [Called, Linked, Framed, Gap, Secrets]
    for item, given in zip(batch.items, said, strict=True):
        values: tuple[Any, ...] = tuple(given)
        assert msgspec.structs.astuple(item) == tuple(bytes(one) if isinstance(one, memoryview) else one for one in values[1:])


def test_the_first_and_the_last_word_come_out_as_they_went_in() -> None:
    hello = Hello("run", "records.db", 1_000_000, 7.0, False, b"key", ["pin"])
    assert decode_hello(frame(hello)[1]) == hello
    told = Told(3, 10, 2, 4096, "满 / full")
    assert decode_told(encode_told(told)) == told


def test_what_cannot_be_said_is_refused_before_anything_is_written() -> None:
    with pytest.raises(UnicodeEncodeError):
        frame((1, [(LINK, 1.5, 7, "\ud800", "device", "", "opened", 0, "")]))
