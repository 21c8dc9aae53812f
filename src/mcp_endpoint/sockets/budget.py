"""The buffer budget: bounds the bytes kept for all connections together; above the bound the connection that uses most is closed.

Two kinds of bytes count: incomplete messages, and output that waits for a peer to read. A connection reports its number when it changes;
complete messages that only pass through are not counted. Above `buffered_bytes` the connection with most is closed, then the next, until
the total fits. A link whose message is incomplete `message_seconds` after its first byte is closed, so that nobody can hold bytes here by
sending one more now and then.
"""

from __future__ import annotations

from typing import Protocol

from ..errors import SLOW_MESSAGE, CloseReason
from ..settings.schema import Limits
from .keepalive import NEVER, Keepalive


class Buffered(Protocol):
    """What the budget needs of a connection."""

    def kept(self) -> int:
        """Bytes kept for it now."""

    def pay(self) -> None:
        """Close it: it uses more of the budget than any other."""


class Receiving(Protocol):
    """What the budget needs of a link whose peer has begun a message."""

    crowded: bool
    """Whether this server has paused reading from it."""

    def close_reason(self, close_reason: CloseReason) -> None:
        """Close the link."""


class Budget:
    """The bytes kept for the connections of one server. Times are the event loop's, in seconds."""

    def __init__(self, limits: Limits, keepalive: Keepalive) -> None:
        self.due = 0
        self.bytes = 0
        """Kept for all connections together."""
        self._most = limits.buffered_bytes
        self._seconds = limits.message_seconds
        self._keepalive = keepalive
        self._kept: dict[Buffered, int] = {}
        self._begun: dict[Receiving, float] = {}
        """Links with an incomplete message → when it began, oldest first."""

    def keep(self, one: Buffered, size: int) -> None:
        """Set the bytes kept for `one`."""
        self.bytes += size - self._kept.get(one, 0)
        if size:
            self._kept[one] = size
            if self.bytes > self._most:
                self._make_room()
        else:
            self._kept.pop(one, None)

    def _make_room(self) -> None:
        kept = self._kept
        for one in kept:
            kept[one] = one.kept()  # output shrinks without a report
        self.bytes = sum(kept.values())
        while self.bytes > self._most:
            fattest = max(kept, key=kept.__getitem__)
            fattest.pay()
            self.bytes -= kept.pop(fattest, 0)

    def begins(self, one: Receiving, now: float) -> None:
        """The first bytes of a message have arrived."""
        self._begun[one] = now
        if not self.due:
            self._keepalive.watch(self, now + self._seconds)

    def ends(self, one: Receiving) -> None:
        """The message is complete or was given up."""
        self._begun.pop(one, None)

    def review(self, now: float) -> float:
        """Close the links whose message takes too long; returns the time of the next review."""
        while self._begun:
            oldest, since = next(iter(self._begun.items()))
            if now < since + self._seconds:
                return since + self._seconds
            del self._begun[oldest]
            if oldest.crowded:
                self._begun[oldest] = now
            else:
                oldest.close_reason(SLOW_MESSAGE)
        return NEVER
