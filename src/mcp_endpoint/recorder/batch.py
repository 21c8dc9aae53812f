"""The messages between the server and the writer process.

A frame is four bytes with its length and that many bytes of MessagePack. The first is a `Hello`, all others are batches: a number
and its items. What is seen is put into a batch as a tuple, tag first, so that the loop makes no objects for it; the writer reads
structs. After each batch the writer answers with a line of JSON, a `Told`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ..exchanges import Exchange

BATCH_BYTES: Final = 256 * 1024
"""A batch ends when it holds so much: more in one piece costs the loop half as much again at 32 KiB an answer (measured)."""
LENGTH_BYTES: Final = 4
CALL, EXCHANGE, LINK, FRAME, GAP, SECRETS = range(6)
"""The tags of the items."""


class Hello(msgspec.Struct, array_like=True):
    """What the writer must know before the first batch."""

    run: str
    """Names this run of the server: batches are counted within it."""
    file: str
    keep_bytes: int
    keep_days: float
    raw: bool
    """Take nothing out."""
    key: bytes
    """Of the marks that stand for secrets."""
    names: list[str]
    """More names of keys that hold a secret."""
    logs: str = ""
    """The folder of log files; empty for none."""


class Called(msgspec.Struct, array_like=True, tag=CALL, gc=False):
    """A request of a consumer that has ended."""

    at: float
    """When it came, in seconds since 1970."""
    ms: float
    endpoint: str
    session: int
    label: str
    """Of the provider that had it, empty where none had."""
    method: str
    tool: str
    outcome: str
    """Empty for a good end."""
    request: bytes
    first: bytes
    second: bytes
    """The answer, in the two parts in which it was sent."""
    size: int
    truncated: bool


class Exchanged(msgspec.Struct, array_like=True, tag=EXCHANGE, gc=False):
    """An HTTP exchange that has ended."""

    exchange: Exchange


class Linked(msgspec.Struct, array_like=True, tag=LINK, gc=False):
    """A link came or went."""

    at: float
    session: int
    endpoint: str
    side: str
    name: str
    event: str
    """`opened`, `named` (its name is known now) or `closed`."""
    code: int | None = None
    reason: str = ""


class Framed(msgspec.Struct, array_like=True, tag=FRAME, gc=False):
    """A frame that is not a call: initialize, a notification, a request of a tool, a bad frame, a late response."""

    at: float
    endpoint: str
    session: int | None
    label: str
    direction: str
    """`in` from a party, `out` to one."""
    data: bytes
    size: int
    late: bool = False


class Gap(msgspec.Struct, array_like=True, tag=GAP, gc=False):
    """Records that are missing here."""

    since: float
    until: float
    count: int


class Secrets(msgspec.Struct, array_like=True, tag=SECRETS, gc=False):
    """The secrets the server knows, from now on."""

    values: list[str]


Item = Called | Exchanged | Linked | Framed | Gap | Secrets


class Batch(msgspec.Struct, array_like=True, gc=False):
    """One batch; an empty one asks for what is due."""

    number: int
    items: list[Item]


class Told(msgspec.Struct):
    """What the writer says after each batch, and once at its start."""

    batch: int
    """Its number; at the start, the last one of this run that is in the file."""
    newest: int = 0
    """The id of the newest record."""
    stored: int = 0
    """How many records of the batch are in the file now; gaps and links are not counted."""
    bytes: int = 0
    """What the file takes on the disk."""
    trouble: str = ""
    """Why something could not be stored, English and Chinese; empty when all is well."""


_encode: Final = msgspec.msgpack.Encoder().encode
decode_hello: Final = msgspec.msgpack.Decoder(Hello).decode
decode_batch: Final = msgspec.msgpack.Decoder(Batch).decode
decode_told: Final = msgspec.json.Decoder(Told).decode
encode_told: Final = msgspec.json.Encoder().encode


def frame(message: Hello | Sequence[Any]) -> list[bytes]:
    """A frame, to be written as it is. Raises UnicodeEncodeError or OverflowError for what cannot be said."""
    data = _encode(message)
    return [len(data).to_bytes(LENGTH_BYTES), data]
