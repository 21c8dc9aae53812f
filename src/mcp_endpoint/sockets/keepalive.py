"""One timer for all sockets: pings silent links and ends those that do not answer, do not read or do not finish.

Times are those of the event loop's clock, in seconds. Each watched socket is in exactly one slot of a timing wheel, that of its next
review, so a sweep touches only what is due. The rules for links, in this order:

- A closing link is cut when `close_timeout` has passed (RFC 6455 §7.1.1).
- A link whose output makes no progress for `stalled_seconds` ends with 1013.
- A link from which reading is paused is not pinged, because its pong could not be read.
- Any bytes received after the ping answer it; none within `ping_timeout` end the link with 1011 (RFC 6455 §5.5.2).
- A link silent for `ping_interval` is pinged.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final, Protocol

from ..errors import KEEPALIVE, NOT_READING, CloseReason
from ..settings.schema import Limits, WebSocket

NEVER: Final = math.inf
COARSEST: Final = 0.5
"""Most seconds between two sweeps; a review is late by no more than this."""
STEPS: Final = 8
"""Sweeps per shortest watched time."""
REVIEWS_PER_TURN: Final = 256
"""Reviews per turn of the event loop: ten thousand silent links are pinged in many small steps."""


class Watched(Protocol):
    """Something that can be put on the wheel."""

    due: int
    """Its slot; 0 is none."""

    def review(self, now: float) -> float:
        """Do what is due at `now`; returns the time of the next review, NEVER to be forgotten."""


class KeepaliveLink(Protocol):
    """What the rules need of a link. A time is 0 where the event has not happened."""

    seen: float
    """When bytes were last received."""
    pinged: float
    """When the ping that is still unanswered was sent."""
    leaving: float
    """When closing began."""
    stuck: float
    """Since when the output makes no progress, if there is any."""
    stuck_bytes: int
    """Bytes that waited then."""
    crowded: bool
    """Whether reading is paused because the peer does not take its responses."""

    def unsent(self) -> int:
        """Bytes the kernel has not taken."""

    def send_ping(self, now: float) -> None:
        """Ping the peer and set `pinged`."""

    def close_reason(self, close_reason: CloseReason) -> None:
        """Close the link; sets `leaving`."""

    def cut(self) -> None:
        """Drop the socket at once."""


class Keepalive:
    """The timing wheel of one server; its timer runs only while something is watched."""

    def __init__(self, websocket: WebSocket, limits: Limits) -> None:
        self.close_timeout = websocket.close_timeout
        self.interval = websocket.ping_interval
        self._timeout = websocket.ping_timeout
        self._stalled = limits.stalled_seconds
        shortest = min(self.interval, self._timeout, self.close_timeout, self._stalled, limits.handshake_seconds, limits.message_seconds)
        self._tick = min(COARSEST, shortest / STEPS)
        self._slots: dict[int, set[Watched]] = {}
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, one: Watched, when: float) -> None:
        """Review `one` at `when`; replaces an earlier request."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._next = int(loop.time() / self._tick)
            self._timer = loop.call_later(self._tick, self._sweep)
        due = max(int(when / self._tick), self._next) + 1
        if one.due == due:
            return
        self.forget(one)
        one.due = due
        slot = self._slots.get(due)
        if slot is None:
            self._slots[due] = {one}
        else:
            slot.add(one)

    def forget(self, one: Watched) -> None:
        """Do not review `one` any more."""
        if one.due:
            slot = self._slots[one.due]
            slot.remove(one)
            if not slot:
                del self._slots[one.due]
            one.due = 0

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = loop.call_later(self._tick, self._sweep)  # first, so that a failing review cannot stop the timer
        left = REVIEWS_PER_TURN
        while self._next <= now / self._tick:
            slot = self._slots.get(self._next)
            while slot:
                if not left:
                    self._timer.cancel()
                    self._timer = loop.call_later(0, self._sweep)
                    return
                left -= 1
                one = slot.pop()
                one.due = 0
                when = one.review(now)
                if when < NEVER:
                    self.watch(one, when)
            self._slots.pop(self._next, None)
            self._next += 1
        if not self._slots:
            self._timer.cancel()
            self._timer = None

    def review(self, link: KeepaliveLink, now: float) -> float:
        """Apply the rules to `link` at `now`; returns the time of the next review."""
        if link.leaving:
            cut_at = link.leaving + self.close_timeout
            if now >= cut_at:
                link.cut()
                return NEVER
            return cut_at
        due = NEVER
        if link.stuck:
            unsent = link.unsent()
            if unsent < link.stuck_bytes:
                link.stuck_bytes = unsent
                link.stuck = now
                if link.pinged:
                    link.pinged = now  # the ping may wait behind output that is moving
            elif now - link.stuck >= self._stalled:
                link.close_reason(NOT_READING)
                return now + self.close_timeout
            due = min(link.stuck + self._stalled, now + self._stalled / STEPS)
        if link.crowded:
            return due
        if link.pinged:
            if link.seen >= link.pinged:
                link.pinged = 0.0
            elif now - link.pinged >= self._timeout:
                link.close_reason(KEEPALIVE)
                return now + self.close_timeout
            else:
                return min(due, link.pinged + self._timeout)
        if now - link.seen >= self.interval:
            link.send_ping(now)
            return min(due, now + self._timeout)
        return min(due, link.seen + self.interval)
