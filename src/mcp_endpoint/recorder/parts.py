"""Stores bodies in parts: messages and tools that a chat repeats in every request are stored once, by their hash.

A body is a list of pieces: bytes as they came, and between them the hashes of parts. Put together again it is byte for byte the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

import msgspec

HASH_BYTES: Final = 16
SMALLEST: Final = 64
"""Bytes of the smallest element that becomes a part; a hash and its row cost more than a smaller one."""
LONGEST_BETWEEN: Final = 16
"""Bytes between two parts of a list: a comma and blanks. What is longer is a piece of its own."""

Piece = bytes | tuple[bytes, bytes]
"""Bytes of the body; or the hashes of parts, one behind the other, and the bytes that stand between each two of these parts."""


class _Lists(msgspec.Struct, gc=False):
    messages: list[msgspec.Raw] = []
    input: list[msgspec.Raw] = []
    tools: msgspec.Raw = msgspec.Raw()


class _Chat(msgspec.Struct, gc=False):
    messages: list[msgspec.Raw] = []
    tools: msgspec.Raw = msgspec.Raw()


_decoders: Final = (msgspec.json.Decoder(_Lists), msgspec.json.Decoder(_Chat))


def hash_of(data: bytes) -> bytes:
    """The name of a part."""
    return blake2b(data, digest_size=HASH_BYTES).digest()


def divide(body: bytes) -> tuple[list[Piece], dict[bytes, bytes]]:
    """The pieces of a body, and its parts by their hashes. A body that is no JSON object with such lists is one piece."""
    pieces: list[Piece] = []
    parts: dict[bytes, bytes] = {}
    end = 0
    for start, element in _elements(body):
        if start < end:
            continue
        name = hash_of(element)
        parts[name] = element
        between = body[end:start]
        last = pieces[-1] if pieces else b""
        if isinstance(last, tuple) and len(between) <= LONGEST_BETWEEN and (between == last[1] or len(last[0]) == HASH_BYTES):
            pieces[-1] = last[0] + name, between
        else:
            pieces += between, (name, b"")
        end = start + len(element)
    pieces.append(body[end:])
    return pieces, parts


def hashes(pieces: Sequence[Piece]) -> list[bytes]:
    """The hashes of the parts that a body needs."""
    return [name for piece in pieces if isinstance(piece, tuple) for name in _each(piece[0])]


def whole(pieces: Sequence[Piece], part: Callable[[bytes], bytes]) -> bytes:
    """The body of these pieces; `part` gives what a hash stands for."""
    return b"".join(piece[1].join(map(part, _each(piece[0]))) if isinstance(piece, tuple) else piece for piece in pieces)


def _each(names: bytes) -> list[bytes]:
    return [names[start : start + HASH_BYTES] for start in range(0, len(names), HASH_BYTES)]


def _elements(body: bytes) -> list[tuple[int, bytes]]:
    """Where the elements of the repeated lists are, in the order of the body; each place holds exactly these bytes."""
    for decoder in _decoders:
        try:
            lists = decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # `input` may be a text, or the body something else
        break
    else:
        return []
    found: list[tuple[int, bytes]] = []
    # All tools are one part: they change together, if at all.
    for name, elements in ((b"messages", lists.messages), (b"input", getattr(lists, "input", [])), (b"tools", [lists.tools])):
        end = max(0, body.find(b'"%s"' % name))
        for raw in elements:
            element = bytes(raw)
            if len(element) >= SMALLEST:
                # Any place with the same bytes will do: what is cut out is what is put back.
                start = body.find(element, end)
                end = start + len(element)
                found.append((start, element))
    return sorted(found)
