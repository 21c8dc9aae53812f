"""Server-sent events: cut anywhere, with any line end, larger than allowed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_endpoint.protocol.sse import HEAD_BYTES, Event, Events

WRITTEN = (
    b'\xef\xbb\xbf: a comment\nid: 1\ndata:\n\nevent: message\ndata: {"a":\ndata: 1}\n\n'
    b"event: endpoint\ndata: /messages?x=1\nretry: 1500\nodd: 1\nretry: x\n\n\n\ndata: \xd6\xd0\n\nid: 7\n\ndata: cut off"
)
READ = [
    Event("message", b"", "1", None),
    Event("message", b'{"a":\n1}', None, None),
    Event("endpoint", b"/messages?x=1", None, 1.5),
    Event("message", b"\xd6\xd0", None, None),
    Event("message", b"", "7", None),
]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, len(WRITTEN) + 20), max_size=8))
def test_events_are_the_same_wherever_the_stream_is_cut(end: bytes, cuts: list[int]) -> None:
    written = WRITTEN.replace(b"\n", end)
    places = sorted({0, len(written), *(cut for cut in cuts if cut < len(written))})
    events = Events(100)
    found = [event for start, stop in pairwise(places) for event in events.feed(written[start:stop])]
    assert found == READ


def test_an_empty_piece_between_cr_and_lf_makes_no_second_line_end() -> None:
    events = Events(100)
    assert [event for piece in (b"data: one\r", b"", b"\n", b"data: two\n\n") for event in events.feed(piece)] == [
        Event("message", b"one\ntwo", None, None)
    ]


@pytest.mark.parametrize("step", [1, 7, 4096])
@pytest.mark.parametrize("lines", [1, 3])
def test_an_event_above_the_limit_is_told_by_its_beginning_and_its_end_and_harms_no_other(step: int, lines: int) -> None:
    large = b'{"id":4,"result":"' + b"x" * 2000 + b'","last":4}'
    piece = -(-len(large) // lines)
    written = b"".join(b"data: " + large[at : at + piece] + b"\n" for at in range(0, len(large), piece))
    stream = b"data: before\n\n" + written + b"\ndata: after\n\n"
    events = Events(1000)
    found = [event for at in range(0, len(stream), step) for event in events.feed(stream[at : at + step])]
    assert [event.data for event in found if event.whole] == [b"before", b"after"]
    [cut] = [event for event in found if not event.whole]
    assert cut.data.startswith(large[:HEAD_BYTES]) if lines == 1 else cut.data.startswith(large[:100])
    assert len(cut.data) < 2 * HEAD_BYTES


def test_an_event_of_exactly_the_limit_passes() -> None:
    assert Events(10).feed(b"data: 0123456789\n\n")[0].data == b"0123456789"
    assert not Events(10).feed(b"data: 01234567890\n\n")[0].whole


def test_a_line_without_an_end_is_kept_in_bounded_memory() -> None:
    events = Events(1000)
    for _ in range(1000):
        assert events.feed(b"x" * 1000) == []
    assert len(events._line) <= 2 * HEAD_BYTES
