"""What a peer puts on the wire, right or wrong: frames made bit by bit."""

from __future__ import annotations

import struct

from websockets.frames import Opcode
from websockets.utils import apply_mask

TEXT, BINARY, CONT, CLOSE, PING, PONG = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.CLOSE, Opcode.PING, Opcode.PONG
MASK = b"\x37\xfa\x21\x3d"  # RFC 6455 §5.7


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    declared: int | None = None,
    wide: int | None = None,
) -> bytes:
    """One frame; `declared` lies about the length, `wide` (0, 2, 8) forces the width of its field."""
    size = len(payload) if declared is None else declared
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    flag = 0x80 if mask is not None else 0
    if wide is None:
        wide = 0 if size < 126 else 2 if size < 65_536 else 8
    if wide == 0:
        head = struct.pack("!BB", first, flag | size)
    elif wide == 2:
        head = struct.pack("!BBH", first, flag | 126, size)
    else:
        head = struct.pack("!BBQ", first, flag | 127, size)
    return head + payload if mask is None else head + mask + apply_mask(payload, mask)


def closing(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """A close frame with any code and any bytes as its reason."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)
