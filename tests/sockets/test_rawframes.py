"""Right and wrong frames over a real socket, in the spirit of the Autobahn|Testsuite's groups 1 to 7 and 10.

The double sends every message back as text. A case is what the peer sends, which frames it hears, and the close code that ends the link;
without a code the link must still be alive afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from sockets.peerframes import BINARY, CLOSE, CONT, PING, PONG, TEXT, closing, frame
from sockets.wire_server import configured, linked, staged

from mcp_endpoint.errors import INVALID_TEXT, TOO_BIG, TOO_MANY_FRAGMENTS

LIMIT = 70_000
FRAGMENTS = 8


class Case(NamedTuple):
    name: str
    sent: bytes
    texts: Sequence[bytes] = ()
    code: int | None = None
    pongs: Sequence[bytes] = ()
    whole: bool = False
    """Not in drops: the server closes its socket at the close frame, and what comes later would make the kernel cut the peer off."""


def text(payload: bytes | str, **options: object) -> bytes:
    return frame(TEXT, payload.encode() if isinstance(payload, str) else payload, **options)  # type: ignore[arg-type]


def pieces(*payloads: bytes, opcode: int = TEXT, between: bytes = b"") -> bytes:
    """One message in as many frames as there are payloads."""
    last = len(payloads) - 1
    return between.join(frame(CONT if number else opcode, payload, fin=number == last) for number, payload in enumerate(payloads))


KOSME = "κόσμε".encode()
ALIVE = b"still there?"

CASES = [
    # 1 Framing
    Case("1.1 an empty text", text(b""), [b""]),
    *(Case(f"1.1 a text of {size} bytes", text(b"*" * size), [b"*" * size]) for size in (1, 125, 126, 127, 128, 65_535, 65_536, LIMIT)),
    Case("1.1 a text one byte over the limit", text(b"*" * (LIMIT + 1)), code=TOO_BIG.code),
    Case("1.2 an empty binary", frame(BINARY), [b""]),
    *(Case(f"1.2 a binary of {size} bytes", frame(BINARY, b"\xfe" * size), [b"\xfe" * size]) for size in (1, 125, 126, 65_535, 65_536)),
    Case("1.2 a declared length of 2^63", text(b"", declared=2**63), code=TOO_BIG.code),
    Case("1.2 a declared length of 2^64-1", text(b"", declared=2**64 - 1), code=TOO_BIG.code),
    Case("1.2 a short length in eight bytes", text(b"wide", wide=8), [b"wide"]),
    Case("1.2 a short length in two bytes", text(b"wide", wide=2), [b"wide"]),
    Case("1.2 a mask of zeros", text(b"plain", mask=b"\0\0\0\0"), [b"plain"]),
    Case("1.2 three texts in one segment", text(b"1") + text(b"2") + text(b"3"), [b"1", b"2", b"3"]),
    # 2 Pings and pongs
    Case("2.1 a ping without payload", frame(PING), pongs=[b""]),
    Case("2.2 a ping with text", frame(PING, b"Hello"), pongs=[b"Hello"]),
    Case("2.3 a ping with bytes", frame(PING, b"\0\xff\xfe"), pongs=[b"\0\xff\xfe"]),
    Case("2.4 a ping of 125 bytes", frame(PING, b"\xfe" * 125), pongs=[b"\xfe" * 125]),
    Case("2.5 a ping of 126 bytes", frame(PING, b"\xfe" * 126), code=1002),
    Case("2.7 a pong nobody asked for", frame(PONG)),
    Case("2.8 a pong with payload", frame(PONG, b"unsolicited")),
    Case("2.9 a pong, then a ping", frame(PONG, b"x") + frame(PING, b"y"), pongs=[b"y"]),
    Case("2.10 ten pings", b"".join(frame(PING, b"%d" % n) for n in range(10)), pongs=[b"%d" % n for n in range(10)]),
    # 3 Reserved bits
    *(Case(f"3.1 reserved bits {rsv:03b} in a text", text(b"x", rsv=rsv), code=1002) for rsv in range(1, 8)),
    Case("3.2 a text, then a reserved bit", text(b"good") + text(b"bad", rsv=2), [b"good"], 1002),
    Case("3.5 reserved bits in a binary", frame(BINARY, b"x", rsv=5), code=1002),
    Case("3.6 reserved bits in a ping", frame(PING, b"x", rsv=6), code=1002),
    Case("3.7 reserved bits in a close", frame(CLOSE, rsv=7), code=1002),
    # 4 Opcodes
    *(Case(f"4.1 data opcode {opcode}", frame(opcode, b"x"), code=1002) for opcode in (3, 4, 5, 6, 7)),
    *(Case(f"4.2 control opcode {opcode}", frame(opcode, b"x"), code=1002) for opcode in (11, 12, 13, 14, 15)),
    Case("4.2 a text, an unknown opcode, a ping", text(b"good") + frame(11) + frame(PING), [b"good"], 1002),
    # 5 Fragments
    Case("5.1 a ping in two fragments", pieces(b"a", b"b", opcode=PING), code=1002),
    Case("5.2 a pong in two fragments", pieces(b"a", b"b", opcode=PONG), code=1002),
    Case("5.3 a text in two fragments", pieces(b"frag", b"ment"), [b"fragment"]),
    Case("5.5 a binary in two fragments", pieces(b"\xff", b"\xfe", opcode=BINARY), [b"\xff\xfe"]),
    Case("5.6 a ping between the fragments", pieces(b"frag", b"ment", between=frame(PING, b"p")), [b"fragment"], pongs=[b"p"]),
    Case("5.9 a continuation of nothing", frame(CONT, b"x") + text(b"y"), code=1002),
    Case("5.12 an unfinished continuation of nothing", frame(CONT, b"x", fin=False) + text(b"y"), code=1002),
    Case("5.15 a continuation after the end", pieces(b"a", b"b") + frame(CONT, b"c"), [b"ab"], 1002),
    Case("5.18 a text inside a fragmented text", frame(TEXT, b"a", fin=False) + text(b"b"), code=1002),
    Case("5.19 five fragments with pings", pieces(*[b"x"] * 5, between=frame(PING, b"p")), [b"xxxxx"], pongs=[b"p"] * 4),
    Case("5.20 empty fragments", pieces(b"", b"", b""), [b""]),
    Case(f"5.21 {FRAGMENTS} fragments", pieces(*[b"x"] * FRAGMENTS), [b"x" * FRAGMENTS]),
    Case(f"5.21 {FRAGMENTS + 1} fragments", pieces(*[b"x"] * (FRAGMENTS + 1)), code=TOO_MANY_FRAGMENTS.code),
    Case("5.22 fragments over the limit together", pieces(b"x" * LIMIT, b"y"), code=TOO_BIG.code),
    Case("5.23 a plain text after a fragmented one", pieces(b"a", b"b") + text(b"c"), [b"ab", b"c"]),
    # 6 UTF-8
    Case("6.1 an empty fragmented text", pieces(b"", b""), [b""]),
    Case("6.2 a text beyond ASCII", text("Hello-µ@ßöäüàá-UTF-8!!"), ["Hello-µ@ßöäüàá-UTF-8!!".encode()]),
    Case("6.2 fragments cut inside a character", pieces(KOSME[:1], KOSME[1:4], KOSME[4:]), [KOSME]),
    Case("6.3 a text with a surrogate", text(KOSME + b"\xed\xa0\x80edited"), code=INVALID_TEXT.code),
    Case("6.4 a surrogate behind good fragments", pieces(KOSME, b"\xed\xa0\x80", b"edited"), code=INVALID_TEXT.code),
    Case("6.5 the largest code point", text(b"\xf4\x8f\xbf\xbf"), [b"\xf4\x8f\xbf\xbf"]),
    Case("6.6 beyond the largest code point", text(b"\xf4\x90\x80\x80"), code=INVALID_TEXT.code),
    Case("6.8 a character that is cut off", text(b"\xce"), code=INVALID_TEXT.code),
    Case("6.14 a continuation byte alone", text(b"\x80"), code=INVALID_TEXT.code),
    Case("6.18 an overlong slash", text(b"\xc0\xaf"), code=INVALID_TEXT.code),
    Case("6.22 non-characters are allowed", text(b"\xef\xbf\xbe\xef\xbf\xbf"), [b"\xef\xbf\xbe\xef\xbf\xbf"]),
    Case("6.23 a bad byte behind 64 KiB of good ones", text("好".encode() * 22_000 + b"\xff"), code=INVALID_TEXT.code),
    Case("6.23 a character across the 64 KiB step", text("好".encode() * 22_000), ["好".encode() * 22_000]),
    Case("6.24 bad UTF-8 in a binary is data", frame(BINARY, b"\xce"), [b"\xce"]),
    # 7 Closing
    Case("7.1 a text, then a close", text(b"x") + closing(), [b"x"], 1000),
    Case("7.1 two closes", closing() + closing(), code=1000, whole=True),
    Case("7.1 a ping after the close", closing() + frame(PING, b"late"), code=1000, whole=True),
    Case("7.1 a text after the close", closing() + text(b"late"), code=1000, whole=True),
    Case("7.1 a close inside a fragmented text", frame(TEXT, b"a", fin=False) + closing(), code=1002),
    Case("7.3 a close without code", closing(None), code=1005),
    Case("7.3 a close of one byte", frame(CLOSE, b"\x03"), code=1002),
    Case("7.3 a close with a reason", closing(1000, "再见".encode()), code=1000),
    Case("7.3 a close with the longest reason", closing(1000, b"x" * 123), code=1000),
    Case("7.3 a close with too long a reason", closing(1000, b"x" * 124), code=1002),
    Case("7.5 a close with a reason that is not UTF-8", closing(1000, b"\xce\xba\xff"), code=1007),
    *(
        Case(f"7.7 close code {code}", closing(code), code=code)
        for code in (1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 3000, 4999)
    ),
    *(
        Case(f"7.9 close code {code}", closing(code), code=1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535)
    ),
    # 10 and beyond: masks and pieces
    Case("10.1 an unmasked text", frame(TEXT, b"x", mask=None), code=1002),
    Case("10.1 an unmasked close", frame(CLOSE, b"\x03\xe8", mask=None), code=1002),
    Case("10.1 not WebSocket at all", b"GET / HTTP/1.1\r\n\r\n", code=1002),
]


@pytest.mark.parametrize("drip", [False, True], ids=["at once", "in drops"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_frame_gets_what_rfc_6455_demands(case: Case, drip: bool) -> None:
    """Issue 4, the raw-frame table; `drip` sends byte by byte, long cases in a hundred pieces."""
    step = len(case.sent) if case.whole or not drip else max(1, len(case.sent) // 100)
    config = configured(limits={"consumer_message_bytes": LIMIT, "fragments": FRAGMENTS})
    async with staged(config) as stage, linked(stage) as peer:
        for start in range(0, len(case.sent), step):
            peer.send(case.sent[start : start + step])
            await asyncio.sleep(0)
        if case.code is None:
            peer.send(frame(PING, ALIVE))
        texts: list[bytes] = []
        pongs: list[bytes] = []
        code = None
        while True:
            first, payload = await peer.frame()
            if first == 0x81:
                texts.append(payload)
            elif first == 0x8A and payload == ALIVE:
                break
            elif first == 0x8A:
                pongs.append(payload)
            else:
                assert first == 0x88
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                break
        assert (texts, pongs, code) == ([*case.texts], [*case.pongs], case.code)
        if code is not None:
            assert (await stage.broker.left())[0] == code
            assert await peer.end() == b""
