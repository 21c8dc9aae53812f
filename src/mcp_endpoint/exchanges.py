"""The HTTP exchange that a room gives to the recorder when it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

Ending = Literal["ok", "error", "aborted", "broken"]
"""Complete; complete with an error status; the client left; the upstream ended early."""


class Exchange(msgspec.Struct, array_like=True, gc=False):
    """One exchange. It must not be changed afterwards: another process reads it later."""

    started: float
    """Seconds since 1970."""
    ms: float
    """Milliseconds until the last byte."""
    first_ms: float | None
    """Milliseconds until the first byte of the response body; None if there was none."""
    endpoint: str | None
    """The printed name of its endpoint, if known."""
    label: str
    """The name of the gateway."""
    client: str
    """The client's address, without a secret."""
    method: str
    path: str
    """The path as requested, with the query."""
    status: int
    """The HTTP status; 0 if there was no response."""
    ending: Ending
    request_headers: Sequence[tuple[bytes, bytes]]
    request_body: bytes
    """At most `Limits.record_body_bytes` of it."""
    answer_headers: Sequence[tuple[bytes, bytes]]
    answer_chunks: Sequence[tuple[float, bytes]]
    """Each with the seconds since `started`, as the upstream sent them (compressed, if it did), at most `record_body_bytes` together."""
    seen_bytes: int
    """Bytes of both bodies, also those that were not kept."""
    truncated: bool
    """Whether some were not kept."""


class Exchanges(Protocol):
    """A receiver of exchanges."""

    body_bytes: int
    """Bytes of each body that are kept."""

    def exchange(self, exchange: Exchange) -> None:
        """Take an ended exchange; never waits, never raises."""
