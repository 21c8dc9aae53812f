"""The frames of a peer, taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sockets.peerframes import BINARY, CONT, PING, PONG, TEXT, closing, frame
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from mcp_endpoint.errors import INVALID_TEXT, TOO_BIG, TOO_MANY_FRAGMENTS, CloseReason
from mcp_endpoint.sockets.frames import (
    END_BYTES,
    FRAMES_PER_TURN,
    PASSED_OVER_TIMES,
    PROTOCOL_LOGGER,
    SOUGHT_PER_TURN,
    Frames,
    close_frame,
    ping_frame,
    text_head,
)

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

    def failed(self, close_reason: CloseReason, frame: bytes) -> None:
        assert self.end is None
        self.end = (close_reason.code, frame)
        self.reason = close_reason.reason

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
    return st.one_of(
        st.binary(max_size=most), st.text(max_size=most // 4).map(str.encode), st.integers(0, most).map(lambda size: b"a" * size)
    )


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
    lie = st.builds(
        frame, st.sampled_from([TEXT, CONT, PING]), any_bytes(20), declared=st.sampled_from([126, 127, 200, 201, 65_535, 65_536, 2**63])
    )
    return st.one_of(plain, plain, plain, piece, piece, piece, control, close, odd, lie, st.binary(max_size=20))


@given(st.lists(any_frame(), max_size=12).map(b"".join), st.data())
def test_the_same_bytes_in_any_pieces_give_the_same_messages_and_the_same_close_code_as_the_library(
    stream: bytes, data: st.DataObject
) -> None:
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


# Plain frames


def test_a_plain_frame_makes_no_protocol() -> None:
    ear = Ear().feed(frame(TEXT, b"a") + frame(BINARY, b"b") + frame(TEXT, b"c" * 126), frame(TEXT, b"half")[:3])
    assert ear.heard == [b"a", b"b", b"c" * 126]
    assert ear._protocol is None


def test_an_unusual_frame_makes_a_protocol_that_is_gone_with_it() -> None:
    ear = Ear().feed(frame(PING, b"x"))
    assert ear.replies == [b"\x8a\x01x"] and ear._protocol is None
    ear.feed(frame(TEXT, b"first", fin=False))
    assert ear._protocol is not None
    ear.feed(frame(PONG) + frame(CONT, b", last"))
    assert ear.heard == [b"first, last"] and ear._protocol is None


def test_text_is_known_to_be_utf8_and_binary_only_if_it_is_ascii_or_in_fragments() -> None:
    ear = Ear().feed(frame(TEXT, "é".encode()), frame(BINARY, b"ascii"), frame(BINARY, "é".encode()), frame(BINARY, b"\xff"))
    ear.feed(frame(BINARY, "é".encode(), fin=False) + frame(CONT))
    assert ear.known_utf8 == [True, True, False, False, True]


@pytest.mark.parametrize("wide", [0, 2, 8])
def test_a_frame_over_the_limit_is_refused_by_its_declared_length_before_any_of_it_is_kept(wide: int) -> None:
    limit = 100 if wide == 0 else LIMIT
    head = frame(TEXT, declared=limit + 1, wide=wide)
    for cut in range(2 + wide, len(head) + 1):
        ear = Ear(limit).feed(head[:cut])
        assert ear.end is not None and ear.end[0] == TOO_BIG.code, cut
        assert ear._held is None
    for cut in range(2 + wide):
        assert Ear(limit).feed(head[:cut]).end is None


class Patient(Ear):
    """One that passes over what is too large and begins with `{`."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[tuple[bytes, bytes]] = []
        self.start_messages(type(self).hear, self, LIMIT, FRAGMENTS, self)

    @staticmethod
    def begins(party: Patient, beginning: bytes) -> bool:
        assert len(beginning) == END_BYTES
        return beginning.startswith(b"{")

    @staticmethod
    def passed(party: Patient, beginning: bytes, end: bytes, now: float) -> None:
        assert now == 7.0
        party.ends.append((beginning, end))


@pytest.mark.parametrize("kind", [TEXT, BINARY])
@pytest.mark.parametrize("step", [1, 7, 250, 10_000])
def test_an_answer_above_the_limit_is_passed_over_in_any_pieces(kind: int, step: int) -> None:
    """Its ends are told, nothing else of it is kept, and what comes before and after it is heard."""
    large = b"{" + bytes(n % 251 for n in range(LIMIT * PASSED_OVER_TIMES - 2)) + b"}"
    stream = frame(TEXT, b"before") + frame(kind, large) + frame(PING, b"x") + frame(TEXT, b"after")
    stream += frame(kind, large[:-1]) + frame(TEXT, b"last")
    ear = Patient()
    for start in range(0, len(stream), step):
        ear.feed(stream[start : start + step])
        assert ear._held_bytes <= END_BYTES + 300 or ear._held is None
    assert ear.heard == [b"before", b"after", b"last"] and ear.end is None
    assert ear.ends == [(large[:END_BYTES], large[-END_BYTES:]), (large[:END_BYTES], large[-END_BYTES - 1 : -1])]
    assert ear._protocol is None and ear._owed == 0


@pytest.mark.parametrize(
    "sent",
    [
        frame(TEXT, b"x" * (LIMIT + 1)),
        frame(TEXT, b"{" * (LIMIT * PASSED_OVER_TIMES + 1)),
        frame(TEXT, declared=LIMIT * PASSED_OVER_TIMES + 1),
        frame(TEXT, b"{" * (LIMIT + 1), fin=False),
        frame(TEXT, b"{", fin=False) + frame(CONT, b"x" * LIMIT),
    ],
)
def test_no_other_message_above_the_limit_is_passed_over(sent: bytes) -> None:
    """One that begins as nothing, one that is far too large, and one in fragments."""
    ear = Patient().feed(sent)
    assert ear.end == (TOO_BIG.code, close_frame(*TOO_BIG)) and not ear.ends


def test_a_link_that_closes_while_a_message_is_passed_over_still_sees_the_close() -> None:
    ear = Patient().feed(frame(TEXT, b"{" * (LIMIT * 2))[: LIMIT + 50])
    ear.stop_messages()
    ear.feed(frame(TEXT, b"{" * (LIMIT * 2))[LIMIT + 50 :], closing(1000))
    assert ear.was_answered == 1 and not ear.ends


def test_a_frame_of_exactly_the_limit_is_taken() -> None:
    assert Ear().feed(frame(TEXT, b"x" * LIMIT)).heard == [b"x" * LIMIT]
    ear = Ear().feed(frame(TEXT, b"x" * (LIMIT - 1), fin=False) + frame(CONT, b"y"))
    assert ear.heard == [b"x" * (LIMIT - 1) + b"y"]


def test_fragments_over_the_limit_together_are_refused_by_the_declared_length_of_the_last() -> None:
    ear = Ear().feed(frame(TEXT, b"x" * LIMIT, fin=False), frame(CONT, declared=1)[:2])
    assert ear.end == (TOO_BIG.code, close_frame(*TOO_BIG))


def test_fragments_are_counted() -> None:
    pieces = [frame(TEXT, fin=False)] + [frame(CONT, fin=False)] * 8
    ear = Ear(fragments=10).feed(*pieces, frame(CONT, b"x"))
    assert ear.heard == [b"x"]
    ear = Ear(fragments=10).feed(*pieces, frame(CONT, fin=False), frame(CONT, b"x"))
    assert ear.end == (TOO_MANY_FRAGMENTS.code, close_frame(*TOO_MANY_FRAGMENTS)) and not ear.heard


def test_bad_text_is_refused_whole_or_in_fragments() -> None:
    for sent in (frame(TEXT, b"\xff"), frame(TEXT, b"\xff", fin=False) + frame(CONT)):
        ear = Ear().feed(sent + frame(TEXT, b"unheard"))
        assert ear.end == (INVALID_TEXT.code, close_frame(*INVALID_TEXT)) and not ear.heard


def test_a_control_frame_over_the_limit_ends_like_any_other() -> None:
    ear = Ear().feed(frame(PING, declared=LIMIT + 1))
    assert ear.end == (TOO_BIG.code, close_frame(*TOO_BIG))


def test_drops_are_put_together_and_large_pieces_are_kept_as_they_come() -> None:
    message = frame(TEXT, b"x" * 300_000)
    ear = Ear(limit=300_000)
    for start in range(0, 200_000, 2):
        ear.feed(message[start : start + 2])
    assert ear._held is not None and len(ear._held) < 10
    ear.feed(message[200_000:250_000], message[250_000:] + frame(TEXT, b"next"))
    assert ear.heard == [b"x" * 300_000, b"next"]


# Turns


def test_no_more_than_a_turn_is_taken_at_a_time_and_nothing_is_lost() -> None:
    ear = Ear()
    many = b"".join(frame(TEXT, b"%d" % number) for number in range(FRAMES_PER_TURN * 2 + 1))
    assert ear.take(many, 7.0)
    assert len(ear.heard) == FRAMES_PER_TURN
    assert ear.take(frame(TEXT, b"later"), 7.0)  # more comes although reading should have stopped
    assert len(ear.heard) == FRAMES_PER_TURN * 2
    assert not ear.go_on(7.0)
    assert not ear.go_on(7.0)
    assert ear.heard == [b"%d" % number for number in range(FRAMES_PER_TURN * 2 + 1)] + [b"later"]


def test_pings_count_as_frames_of_a_turn() -> None:
    ear = Ear()
    assert ear.take(frame(PING) * (FRAMES_PER_TURN + 1), 7.0)
    assert len(ear.replies) == FRAMES_PER_TURN


# The end


def test_nothing_is_heard_before_messages_start_and_after_the_end() -> None:
    silent = Frames()
    assert not silent.take(frame(TEXT, b"x"), 7.0)
    silent.reply(b"")
    silent.ended(1000, "", b"")
    silent.failed(TOO_BIG, b"")
    silent.answered()
    ear = Ear().feed(closing(1001, b"bye") + frame(TEXT, b"x"), frame(TEXT, b"y"))
    assert (ear.end, ear.reason, ear.heard) == ((1001, b"\x88\x05\x03\xe9bye"), "bye", [])


@pytest.mark.parametrize("cut", range(40))
def test_after_our_close_frame_only_the_peers_is_looked_for(cut: int) -> None:
    """Whatever was on its way is passed over, also what had begun before, wherever it is cut."""
    big = frame(TEXT, b"\x88" * 150) + frame(BINARY, b"z", mask=None) + frame(PING, b"p") + frame(TEXT, b"a", fin=False)
    stream = frame(TEXT, b"one") + big + frame(TEXT, b"\x88" * 65_536) + closing()
    ear = Ear(limit=100_000)
    ear.stop_after = 1
    ear.feed(*(stream[start : start + cut] for start in range(0, len(stream), cut)) if cut else [stream])
    assert ear.heard == [b"one"]
    assert (ear.was_answered, ear.end, ear.replies) == (1, None, [])
    ear.feed(frame(TEXT, b"x") + closing())
    assert ear.was_answered == 1


@pytest.mark.parametrize("cut", [0, 1, 5, 7, 50])
@pytest.mark.parametrize(
    "begun",
    [
        frame(TEXT, b"x" * 150),
        frame(BINARY, b"x" * 100),
        frame(TEXT, b"x" * 100, fin=False),
        frame(PING, b"x" * 100),
        frame(TEXT, b"x" * 100, wide=8),
    ],
)
def test_a_frame_that_had_begun_when_we_closed_is_passed_over(begun: bytes, cut: int) -> None:
    ear = Ear().feed(begun[:cut]) if cut else Ear()
    ear.stop_messages()
    ear.feed(begun[cut:], closing()[:3])
    assert ear.was_answered == 0
    ear.feed(closing()[3:])
    assert (ear.was_answered, ear.heard, ear.replies) == (1, [], [])


def test_a_close_frame_that_had_begun_when_we_closed_is_the_answer() -> None:
    answer = closing(1000, b"see you")
    for cut in range(1, len(answer)):
        ear = Ear().feed(answer[:cut])
        ear.stop_messages()
        assert ear.feed(answer[cut:]).was_answered == 1


def test_a_close_frame_longer_than_any_may_be_is_not_waited_for() -> None:
    ear = Ear()
    ear.stop_messages()
    assert ear.feed(b"\x88\xff" + (1 << 40).to_bytes(8, "big") + b"mask").was_answered == 1
    assert ear.feed(b"junk" * 1000).was_answered == 1


def test_what_waited_for_its_turn_when_we_closed_is_passed_over() -> None:
    ear = Ear()
    assert ear.take(frame(TEXT, b"x") * (FRAMES_PER_TURN + 5) + closing(), 7.0)
    ear.stop_messages()
    assert ear.was_answered == 1
    assert not ear.go_on(7.0)
    assert len(ear.heard) == FRAMES_PER_TURN


def test_frames_passed_over_after_our_close_take_turns_too() -> None:
    ear = Ear()
    ear.stop_messages()
    assert ear.take(frame(PING, b"x") * (SOUGHT_PER_TURN * 2 + 1), 7.0)
    assert ear.go_on(7.0)
    assert ear.take(closing(), 7.0) is False
    assert (ear.was_answered, ear.replies) == (1, [])


def test_what_waited_for_many_turns_when_we_closed_takes_turns_too() -> None:
    ear = Ear()
    assert ear.take(frame(TEXT, b"x") * (FRAMES_PER_TURN + SOUGHT_PER_TURN + 1) + frame(TEXT, b"y" * 150)[:50], 7.0)
    ear.stop_messages()
    assert ear.was_answered == 0
    assert not ear.go_on(7.0)
    ear.feed(frame(TEXT, b"y" * 150)[50:], closing())
    assert (ear.was_answered, len(ear.heard)) == (1, FRAMES_PER_TURN)


def test_closing_in_the_middle_of_a_fragmented_message_is_passed_over() -> None:
    ear = Ear().feed(frame(TEXT, b"first", fin=False))
    ear.stop_messages()
    assert ear._protocol is None
    ear.feed(frame(CONT, b"last") + closing())
    assert (ear.heard, ear.was_answered) == ([], 1)


def test_a_message_in_fragments_may_be_the_last_one() -> None:
    ear = Ear()
    ear.stop_after = 1
    ear.feed(frame(TEXT, b"a", fin=False) + frame(CONT, b"b") + frame(TEXT, b"c") + closing())
    assert (ear.heard, ear.was_answered) == ([b"ab"], 1)


# Frames of ours


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_the_head_of_a_text_frame(size: int, head: bytes) -> None:
    assert text_head(size) == head == Frame(Opcode.TEXT, b"x" * size).serialize(mask=False)[: len(head)]


def test_control_frames() -> None:
    assert ping_frame(b"hi") == b"\x89\x02hi"
    assert close_frame(1000, "") == b"\x88\x02\x03\xe8"
    assert len(close_frame(1008, "x" * 500)) == 127
