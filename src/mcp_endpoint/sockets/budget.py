"""The budget: what all connections together make us keep is bounded, and who makes us keep most pays.

Kept are the bytes of messages that are not complete and the bytes that wait for a peer to read. Connections tell their own number when it
changes; whole messages that only pass through are never told. Above `buffered_bytes` the connection with most is closed, and the next one,
until the rest has room again. A message that is not complete `message_seconds` after its first byte ends its link, so that nobody can keep
bytes here by sending one more now and then.
"""

from __future__ import annotations

from typing import Protocol

from ..errors import SLOW_MESSAGE, CloseReason
from ..settings.schema import Limits
from .keepalive import NEVER, Keepalive


class Kept(Protocol):
    """What the budget needs to know of a connection."""

    def kept(self) -> int:
        """Bytes kept for it at this moment."""

    def pay(self) -> None:
        """Close: it makes us keep more than any other."""


class Sender(Protocol):
    """What the budget needs to know of a link whose peer has begun a message."""

    crowded: bool
    """Whether it is we who do not read."""

    def close_reason(self, close_reason: CloseReason) -> None:
        """End the link."""


class Budget:
    """The bytes kept for the connections of one server. Times are the event loop's, in seconds."""

    def __init__(self, limits: Limits, keepalive: Keepalive) -> None:
        self.due = 0
        self.bytes = 0
        """Kept for all connections together."""
        self._most = limits.buffered_bytes
        self._seconds = limits.message_seconds
        self._keepalive = keepalive
        self._kept: dict[Kept, int] = {}
        self._begun: dict[Sender, float] = {}
        """Links in the middle of a message → when it began, the oldest first."""

    def keep(self, one: Kept, size: int) -> None:
        """Of `one`, `size` bytes are kept now."""
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
            kept[one] = one.kept()  # what waits for a reader becomes less without a word
        self.bytes = sum(kept.values())
        while self.bytes > self._most:
            fattest = max(kept, key=kept.__getitem__)
            fattest.pay()
            self.bytes -= kept.pop(fattest, 0)

    def begins(self, one: Sender, now: float) -> None:
        """The first bytes of a message have come."""
        self._begun[one] = now
        if not self.due:
            self._keepalive.watch(self, now + self._seconds)

    def ends(self, one: Sender) -> None:
        """The message is complete, or nobody waits for it any more."""
        self._begun.pop(one, None)

    def review(self, now: float) -> float:
        """End the links whose message takes too long; when to come again."""
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
