"""WebSocket framing (RFC 6455 §5): plain frames are parsed here, all others by the websockets library.

A *plain* frame is final, text or binary, masked, without reserved bits, within the size limit and not part of a fragmented message: what
devices and tools send all day. Any other frame goes, byte for byte, to a `websockets.protocol.Protocol` that is created when needed and
dropped when its frame and its message are complete. So close codes, pongs, fragments and protocol errors are the library's, and a link
without them does not pay for them. This class does no I/O: the owner of the socket overrides the methods below.

Rules:
1. A declared length is checked before the first byte of its payload is buffered. Exception: where `large` says that a message above the
   limit begins like a response, and it is one plain frame, that frame is discarded and only its two ends are reported, so that the link
   survives.
2. Bytes of an incomplete frame are kept in pieces and joined once.
3. At most `FRAMES_PER_TURN` frames are taken at a time, or `SOUGHT_PER_TURN` after our close frame; `take` returns whether more wait,
   `go_on` takes the next.
4. `keeps` is called with the number of bytes kept of an incomplete message; plain frames that arrive whole never call it.
5. After `ended`, `failed` or `stop_messages` no message is delivered any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final
from typing import Protocol as Interface

from websockets.exceptions import PayloadTooBig
from websockets.frames import Close, Frame, Opcode
from websockets.frames import apply_mask as apply_mask  # type: ignore[attr-defined]  # the compiled one where there is one
from websockets.protocol import OPEN, SERVER, Protocol

from ..errors import INVALID_TEXT, TOO_BIG, TOO_MANY_FRAGMENTS, CloseReason
from ..protocol.jsonrpc import is_utf8

FRAMES_PER_TURN: Final = 32
"""Frames taken from one link before other links get their turn: about a tenth of a millisecond of work."""
SOUGHT_PER_TURN: Final = 256
"""The same for frames that are skipped after our close frame: only their headers are read."""
DRIPPED: Final = 64 * 1024
"""Bytes up to which small pieces are collected in one bytearray."""
COPIED: Final = 16 * 1024
"""Payloads below this many bytes are sliced before they are unmasked; for larger ones a memoryview is cheaper."""
SMALL_PIECE: Final = 1024
"""Pieces of an incomplete frame below this many bytes are collected, so that a peer that sends byte by byte is not expensive."""
PASSED_OVER_TIMES: Final = 8
"""A message above this many times the limit ends its link, whatever it begins with."""
END_BYTES: Final = 200
"""Bytes kept of each end of a discarded message."""
PROTOCOL_LOGGER: Final = logging.getLogger("mcp_endpoint.sockets.protocol")
"""The websockets library's logger for our links; it logs whole frames and headers at DEBUG, so `make_link_class` keeps it at ERROR."""

_TEXT: Final = 0x81
_BINARY: Final = 0x82
_OPCODES: Final = frozenset(int(opcode) for opcode in Opcode)
_CONTROL: Final = 0x08
_CONTROL_EXTENT: Final = 2 + 4 + 126
"""Longest control frame with its header; a longer one is invalid and is not waited for (RFC 6455 §5.5)."""
_MEDIUM: Final = bytes((_TEXT, 126))
SHORT: Final = 1024
SHORT_HEADS: Final = (*(bytes((_TEXT, size)) for size in range(126)), *(_MEDIUM + size.to_bytes(2, "big") for size in range(126, SHORT)))
"""The headers of text frames below `SHORT` bytes, by size."""
_LONG: Final = bytes((_TEXT, 127))


def text_head(size: int) -> bytes:
    """The header of an unmasked text frame with a payload of `size` bytes (RFC 6455 §5.2)."""
    if size < SHORT:
        return SHORT_HEADS[size]
    if size < 65_536:
        return _MEDIUM + size.to_bytes(2, "big")
    return _LONG + size.to_bytes(8, "big")


def ping_frame(data: bytes) -> bytes:
    """A ping with at most 125 bytes of `data`."""
    return Frame(Opcode.PING, data).serialize(mask=False)


def close_frame(code: int, reason: str) -> bytes:
    """A close frame; `reason` is ASCII and cut to the 123 bytes that fit (RFC 6455 §5.5.1)."""
    return Frame(Opcode.CLOSE, Close(code, reason[:123]).serialize()).serialize(mask=False)


class Large(Interface):
    """Decides about messages above the limit."""

    def begins(self, party: Any, beginning: bytes) -> bool:
        """Whether a message with this beginning is discarded instead of ending the link."""

    def passed(self, party: Any, beginning: bytes, end: bytes, now: float) -> None:
        """A message was discarded."""


class _PassedOver:
    """A frame above the limit, whose payload is discarded as it arrives."""

    __slots__ = ("_mask", "_size", "beginning", "end")

    def __init__(self, mask: bytes, beginning: bytes) -> None:
        self._mask = mask
        self._size = 0
        self.beginning = beginning
        self.end = b""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the payload."""
        self._size += len(piece)
        self.end = (self.end + piece[-END_BYTES:])[-END_BYTES:]

    def unmasked_end(self) -> bytes:
        """The last bytes of the payload, unmasked."""
        turn = (self._size - len(self.end)) % 4
        return apply_mask(self.end, self._mask[turn:] + self._mask[:turn])


class Frames:
    """Parses the bytes of one peer into messages.

    `receive(party, payload, now, utf8)` is called for each message; `utf8`: the payload is known to be UTF-8 (always for text).
    """

    __slots__ = (
        "_fed",
        "_fragments_limit",
        "_held",
        "_held_bytes",
        "_large",
        "_limit",
        "_owed",
        "_parts",
        "_protocol",
        "_rest",
        "_rest_at",
        "_seeking",
        "_text",
        "party",
        "receive",
    )

    def __init__(self) -> None:
        self.receive: Callable[[Any, bytes, float, bool], None] | None = None
        self.party: Any = None
        self._limit = 0
        self._large: Large | None = None
        self._fragments_limit = 0
        self._held: list[bytes | bytearray] | None = None
        """Pieces of one incomplete frame."""
        self._held_bytes = 0
        self._owed = 0
        """With pieces held: bytes needed for the next step. With a protocol: bytes of its frame still to come."""
        self._rest: bytes | None = None
        """What was left at the end of the turn, from `_rest_at` on."""
        self._rest_at = 0
        self._protocol: Protocol | _PassedOver | None = None
        self._fed = 0
        """Bytes of an incomplete message that the protocol has been given."""
        self._parts: list[bytes] | None = None
        """The fragments of an incomplete message."""
        self._text = False
        self._seeking = False
        """Whether only the peer's close frame is looked for."""

    def start_messages(
        self, receive: Callable[[Any, bytes, float, bool], None], party: Any, limit: int, fragments: int, large: Large | None = None
    ) -> None:
        """From now on deliver messages of up to `limit` bytes and `fragments` fragments to `receive`; `large` decides about larger ones."""
        self.receive = receive
        self.party = party
        self._limit = limit
        self._large = large
        self._fragments_limit = fragments

    def stop_messages(self) -> None:
        """Our close frame was sent: deliver nothing more, look only for the peer's."""
        held, rest, at = self._held, self._rest, self._rest_at
        skip = 0 if held else self._owed
        self._over()
        self._seeking = True
        self._owed = skip
        if rest is not None:
            self._seek(rest, at)
        elif held is not None:
            self._seek(b"".join(held), 0)

    # What the owner of the socket overrides.

    def reply(self, frame: bytes) -> None:
        """Send `frame` (a pong)."""

    def keeps(self, size: int) -> None:
        """`size` bytes of an incomplete message are kept; 0 when it is complete or given up."""

    def ended(self, code: int, reason: str, frame: bytes) -> None:
        """The peer has closed with `code` and `reason`; send `frame`, then close the socket."""

    def failed(self, close_reason: CloseReason, frame: bytes) -> None:
        """The peer violated the protocol; send `frame`, read nothing more."""

    def answered(self) -> None:
        """The peer has answered our close frame."""

    # Bytes in, messages out.

    def take(self, data: bytes, now: float) -> bool:
        """Deliver the messages that `data` completes; True if some wait for the next turn."""
        if self._rest is not None:
            data = self._rest[self._rest_at :] + data
            self._rest = None
        elif self.receive is None:
            return self._seeking and self._seek(data, 0)
        elif self._held is not None:
            joined = self._join(data)
            if joined is None:
                self.keeps(self._held_bytes + self._fed)
                return False
            more = self._read(joined, 0, now)
            self._settle()
            return more
        return self._read(data, 0, now)

    def go_on(self, now: float) -> bool:
        """Deliver what the last turn left; True if some still waits."""
        data = self._rest
        if data is None:
            return False
        self._rest = None
        return self._read(data, self._rest_at, now)

    def _read(self, data: bytes, at: int, now: float) -> bool:
        end = len(data)
        receive = self.receive
        party = self.party
        budget = FRAMES_PER_TURN
        while at < end:
            if receive is None:
                return self._seeking and self._seek(data, at)
            if not budget:
                self._rest = data
                self._rest_at = at
                return True
            budget -= 1
            first = data[at]
            left = end - at
            if left > 5 and _TEXT <= first <= _BINARY and (size := data[at + 1] - 128) >= 0 and self._protocol is None:
                if size < 126:
                    start = at + 6
                elif size == 126 and left > 7:
                    size = data[at + 2] << 8 | data[at + 3]
                    start = at + 8
                elif size == 127 and left > 13:
                    size = int.from_bytes(data[at + 2 : at + 10], "big")
                    start = at + 14
                else:
                    self._extent(data, at, left)
                    return False
                if size > self._limit:
                    if not self._pass_over(data, at, start, size):
                        return False
                    at = start
                    continue
                stop = start + size
                if stop > end:
                    self._hold(data, at, stop - at)
                    return False
                if size < COPIED:
                    payload = apply_mask(data[start:stop], data[start - 4 : start])
                else:
                    payload = apply_mask(memoryview(data)[start:stop], data[start - 4 : start])
                if first == _BINARY:
                    receive(party, payload, now, payload.isascii())
                elif payload.isascii() or is_utf8(payload):
                    receive(party, payload, now, True)
                else:
                    self._fail(INVALID_TEXT)
                    return False
                at = stop
            else:
                used = self._unusual(data, at, now)
                if not used:
                    return False
                at += used
            receive = self.receive
        return False

    # Incomplete frames.

    def _hold(self, data: bytes, at: int, wanted: int) -> None:
        """Keep `data` from `at` on until there are `wanted` bytes."""
        piece = data[at:] if at else data
        self._held = [piece]
        self._held_bytes = len(piece)
        self._owed = wanted
        if at and not self._fed:
            self.keeps(0)  # the previous message is complete
        self.keeps(len(piece) + self._fed)

    def _join(self, data: bytes) -> bytes | None:
        """Add `data` to the held pieces; returns all of them joined as soon as the next step is possible."""
        held = self._held
        assert held is not None
        self._held_bytes += len(data)
        last = held[-1]
        if self._held_bytes < self._owed and len(data) < SMALL_PIECE:
            if isinstance(last, bytearray) and len(last) < DRIPPED:
                last += data
            else:
                held.append(bytearray(data))
            return None
        held.append(data)
        if self._held_bytes < self._owed:
            return None
        self._held = None
        self._owed = 0
        return b"".join(held)

    def _settle(self) -> None:
        """After reading held bytes: report 0 unless a part of them is held again."""
        if self._held is None:
            self.keeps(self._fed)

    # Frames above the limit.

    def _may_pass(self, first: int, size: int) -> bool:
        """Whether a frame above the limit is a candidate for being discarded."""
        return self._large is not None and self._protocol is None and _TEXT <= first <= _BINARY and size <= PASSED_OVER_TIMES * self._limit

    def _pass_over(self, data: bytes, at: int, start: int, size: int) -> bool:
        """Start discarding the plain frame at `at`; False if it ends the link, or if too few bytes have arrived to decide."""
        large = self._large
        if large is None or not self._may_pass(data[at], size):
            self._fail(TOO_BIG)
            return False
        shown = min(size, END_BYTES)
        if len(data) < start + shown:
            self._hold(data, at, start + shown - at)
            return False
        mask = data[start - 4 : start]
        beginning = apply_mask(data[start : start + shown], mask)
        if not large.begins(self.party, beginning):
            self._fail(TOO_BIG)
            return False
        self._protocol = _PassedOver(mask, beginning)
        self._owed = size
        return True

    # Everything that is not a plain frame.

    def _unusual(self, data: bytes, at: int, now: float) -> int:
        """Pass what has arrived of the frame at `at` to the protocol; returns the bytes taken, 0 if there are too few or too many."""
        left = len(data) - at
        protocol = self._protocol
        continues = protocol is not None and self._owed > 0
        if continues:
            used = min(left, self._owed)
            self._owed -= used
        else:
            size = self._extent(data, at, left)
            if not size:
                return 0
            if left < size < _CONTROL_EXTENT and data[at] & _CONTROL:
                self._hold(data, at, size)
                return 0
            used = min(left, size)
            self._owed = size - used
        if isinstance(protocol, _PassedOver):
            protocol.feed(data[at : at + used])
            if not self._owed:
                self._protocol = None
                assert self._large is not None
                self._large.passed(self.party, protocol.beginning, protocol.unmasked_end(), now)
            return used
        if protocol is None:
            protocol = self._protocol = Protocol(SERVER, state=OPEN, max_size=self._limit, logger=PROTOCOL_LOGGER)
        if not data[at] & _CONTROL or continues:
            self._fed += used
        protocol.receive_data(data[at : at + used])
        self._follow(protocol, now)
        if self._fed:
            self.keeps(self._fed)
        return used

    def _extent(self, data: bytes, at: int, left: int) -> int:
        """Bytes of the frame at `at` including its header; 0 if too few have arrived (they are held) or it is too big.

        A frame that is invalid from its second byte on, so that its length means nothing, extends to the end.
        """
        if left < 2:
            self._hold(data, at, 2)
            return 0
        first, second = data[at], data[at + 1]
        if second < 128 or first & 0x0F not in _OPCODES:
            return left
        size = second - 128
        wide = 0
        if size > 125:
            wide = 2 if size == 126 else 8
            if left < 2 + wide:
                self._hold(data, at, 2 + wide)
                return 0
            size = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
        taken = self._protocol.current_size or 0 if isinstance(self._protocol, Protocol) else 0
        if not first & _CONTROL and size > self._limit - taken and not self._may_pass(first, size):
            self._fail(TOO_BIG)
            return 0
        head = 2 + wide + 4
        if left < head:
            self._hold(data, at, head)
            return 0
        return head + size

    def _follow(self, protocol: Protocol, now: float) -> None:
        """Handle what the protocol found in the bytes it was given."""
        writes = protocol.data_to_send()
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.TEXT or event.opcode is Opcode.BINARY:
                self._parts = [bytes(event.data)]
                self._text = event.opcode is Opcode.TEXT
            elif event.opcode is Opcode.CONT:
                assert self._parts is not None
                self._parts.append(bytes(event.data))
            elif event.opcode is Opcode.CLOSE:
                closed = protocol.close_rcvd
                assert closed is not None
                self._over()
                self.ended(int(closed.code), closed.reason, writes[0])
                return
            else:
                continue
            self._fragment(event.fin, now)
            if self.receive is None:
                return
        if protocol.parser_exc is not None:
            sent = protocol.close_sent
            assert sent is not None
            self._over()
            close_reason = TOO_BIG if isinstance(protocol.parser_exc, PayloadTooBig) else CloseReason(int(sent.code), sent.reason)
            self.failed(close_reason, close_frame(*close_reason))
            return
        for frame in writes:
            self.reply(frame)
        if not self._owed and protocol.current_size is None:
            self._drop_protocol()

    def _fragment(self, final: bool, now: float) -> None:
        """Another fragment was kept: deliver the message if it was the last."""
        parts = self._parts
        assert parts is not None
        if len(parts) > self._fragments_limit:
            self._fail(TOO_MANY_FRAGMENTS)
        elif final:
            self._parts = None
            payload = b"".join(parts)
            utf8 = payload.isascii() or is_utf8(payload)
            if self._text and not utf8:
                self._fail(INVALID_TEXT)
            else:
                assert self.receive is not None
                self.receive(self.party, payload, now, utf8)

    # The end.

    def _fail(self, close_reason: CloseReason) -> None:
        self._over()
        self.failed(close_reason, close_frame(*close_reason))

    def _over(self) -> None:
        """Drop everything that is incomplete."""
        self.receive = None
        self._held = None
        self._owed = 0
        self._rest = None
        self._parts = None
        self._drop_protocol()
        self.keeps(0)

    def _drop_protocol(self) -> None:
        protocol, self._protocol = self._protocol, None
        if isinstance(protocol, Protocol):
            protocol.parser.close()  # breaks a reference cycle
            if self._fed:
                self._fed = 0
                self.keeps(0)

    def _seek(self, data: bytes, at: int) -> bool:
        """Skip frames from `at` on until the peer's close frame; True if some wait for the next turn."""
        if self._held is not None:
            data = b"".join(self._held) + data
            self._held = None
        end = len(data)
        at += self._owed
        self._owed = 0
        budget = SOUGHT_PER_TURN
        while at < end:
            if not budget:
                self._rest = data
                self._rest_at = at
                return True
            budget -= 1
            left = end - at
            size = data[at + 1] & 0x7F if left > 1 else 0
            wide = 0 if size < 126 else 2 if size == 126 else 8
            head = 2 + wide + (4 if left > 1 and data[at + 1] > 127 else 0)
            closing = data[at] & 0x0F == Opcode.CLOSE
            if closing and wide:
                # A close frame cannot be that long (RFC 6455 §5.5): do not wait for it.
                self._seeking = False
                self.answered()
                return False
            if wide and left >= head:
                size = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
            if left < head or (closing and left < head + size):
                self._hold(data, at, head)
                self._owed = 0
                return False
            if closing:
                self._seeking = False
                self.answered()
                return False
            at += head + size
        self._owed = at - end
        return False
