"""The frames of a peer, taken apart."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from mcp_endpoint.errors import INVALID_TEXT, TOO_BIG, TOO_MANY_FRAGMENTS, Goodbye
from mcp_endpoint.sockets.frames import FRAMES_PER_TURN, PROTOCOL_LOGGER, Frames, close_frame, is_utf8, ping_frame, text_head
from sockets.peerframes import BINARY, CLOSE, CONT, PING, PONG, TEXT, closing, frame

LIMIT = 200
FRAGMENTS = 1_000


class Ear(Frames):
    """A peer's frames with everything that comes of them."""

    def __init__(self, limit: int = LIMIT, fragments: int = FRAGMENTS) -> None:
        super().__init__()
        self.heard: list[bytes] = []
        self.known_utf8: list[bool] = []
        self.replies: list[bytes] = []
        self.end: tuple[int, bytes] | None = None
        self.reason: str | None = None
        self.was_answered = 0
        self.stop_after: int | None = None
        self.start_messages(type(self).hear, self, limit, fragments)

    def hear(self, payload: bytes, now: float, utf8: bool) -> None:
        assert now == 7.0
        self.heard.append(payload)
        self.known_utf8.append(utf8)
        if self.stop_after == len(self.heard):
            self.stop_messages()

    def reply(self, frame: bytes) -> None:
        self.replies.append(frame)

    def ended(self, code: int, reason: str, frame: bytes) -> None:
        assert self.end is None
        self.end = (code, frame)
        self.reason = reason

    def failed(self, goodbye: Goodbye, frame: bytes) -> None:
        assert self.end is None
        self.end = (goodbye.code, frame)
        self.reason = goodbye.reason

    def answered(self) -> None:
        self.was_answered += 1

    def feed(self, *chunks: bytes) -> Ear:
        for chunk in chunks:
            more = self.take(chunk, 7.0)
            while more:
                more = self.go_on(7.0)
        return self


class Library:
    """The same, with the websockets library alone."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.protocol = Protocol(SERVER, state=OPEN, max_size=limit, logger=PROTOCOL_LOGGER)
        self.heard: list[bytes] = []
        self.replies: list[bytes] = []
        self.parts: list[bytes] = []
        self.text = False
        self.end: int | None = None

    def feed(self, *chunks: bytes) -> Library:
        for chunk in chunks:
            if self.end is None:
                self.protocol.receive_data(chunk)
                self.look()
        return self

    def look(self) -> None:
        protocol = self.protocol
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (Opcode.TEXT, Opcode.BINARY):
                self.parts = []
                self.text = event.opcode is Opcode.TEXT
            elif event.opcode is not Opcode.CONT:
                continue
            self.parts.append(bytes(event.data))
            if event.fin:
                message = b"".join(self.parts)
                if self.text:
                    try:
                        message.decode()
                    except UnicodeDecodeError:
                        # what follows this frame in the same chunk was read by the library, but a reader would have stopped here
                        self.end = 1007
                        return
                self.heard.append(message)
        self.replies += [write for write in protocol.data_to_send() if write[:1] == b"\x8a"]
        if protocol.close_sent is not None:
            self.end = int(protocol.close_sent.code)


def any_bytes(most: int) -> st.SearchStrategy[bytes]:
    return st.one_of(st.binary(max_size=most), st.text(max_size=most // 4).map(str.encode), st.integers(0, most).map(lambda size: b"a" * size))


def any_frame() -> st.SearchStrategy[bytes]:
    data = any_bytes(300)
    plain = st.builds(frame, st.sampled_from([TEXT, BINARY]), data)
    piece = st.builds(frame, st.sampled_from([TEXT, BINARY, CONT, CONT]), any_bytes(120), fin=st.booleans())
    control = st.builds(frame, st.sampled_from([PING, PONG]), any_bytes(130))
    close = st.builds(closing, st.sampled_from([1000, 1001, 1005, 1006, 1012, 2999, 3000, 4999, 5000]), any_bytes(60))
    odd = st.builds(
        frame,
        st.integers(0, 15),
        any_bytes(140),
        fin=st.booleans(),
        rsv=st.sampled_from([0, 0, 0, 1, 4]),
        mask=st.sampled_from([b"\0\0\0\0", b"\x01\x02\x03\x04", None]),
        wide=st.sampled_from([None, 8]),
    )
    lie = st.builds(frame, st.sampled_from([TEXT, CONT, PING]), any_bytes(20), declared=st.sampled_from([126, 127, 200, 201, 65_535, 65_536, 2**63]))
    return st.one_of(plain, plain, plain, piece, piece, piece, control, close, odd, lie, st.binary(max_size=20))


@given(st.lists(any_frame(), max_size=12).map(b"".join), st.data())
def test_the_same_bytes_in_any_pieces_give_the_same_messages_and_the_same_close_code_as_the_library(stream: bytes, data: st.DataObject) -> None:
    """Issue 4, differential test: 1,000 examples in `make test`, 5,000 in `make check`."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    if data.draw(st.booleans()):
        cuts = list(range(len(stream)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]
    # The library gets the bytes one by one: it is asked what it found after each, so that nothing behind a bad text counts.
    library = Library().feed(*(bytes((byte,)) for byte in stream))
    ear = Ear().feed(*chunks)
    assert ear.heard == library.heard
    assert (ear.end[0] if ear.end else None) == library.end
    assert ear.replies == library.replies
