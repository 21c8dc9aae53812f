"""What a room hands to the recorder: an HTTP exchange, as it was, when it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

Ending = Literal["ok", "error", "aborted", "broken"]
"""Whole; whole with a status that is an error; the client left; the upstream broke off."""


class Exchange(msgspec.Struct, array_like=True, gc=False):
    """One exchange. Whoever made it gives it away: it is read later, in another process."""

    started: float
    """Seconds since 1970."""
    ms: float
    """How long it took to the last byte, in milliseconds."""
    first_ms: float | None
    """When the first byte of the answer's body was there, in milliseconds; None if there was none."""
    endpoint: str | None
    """The endpoint it is known to belong to, by its printed name."""
    label: str
    """The name of the gateway."""
    client: str
    """Whoever asked: an address, without a secret."""
    method: str
    path: str
    """As it was asked for, with the query."""
    status: int
    """The HTTP status; 0 where there was no answer."""
    ending: Ending
    request_headers: Sequence[tuple[bytes, bytes]]
    request_body: bytes
    """At most `Limits.record_body_bytes` of it."""
    answer_headers: Sequence[tuple[bytes, bytes]]
    answer_chunks: Sequence[tuple[float, bytes]]
    """Each with the seconds since `started`, as the upstream sent them (compressed, if it did), at most `record_body_bytes` together."""
    seen_bytes: int
    """Bytes of both bodies, with those that are not here."""
    truncated: bool
    """Whether there are such."""


class Exchanges(Protocol):
    """Who takes exchanges."""

    body_bytes: int
    """How much of each body is taken."""

    def exchange(self, exchange: Exchange) -> None:
        """Take one that has ended; never waits, never raises."""
