"""One sweeping timer for all sockets: who is silent, who does not read, who does not finish.

Times are those of the event loop's clock, in seconds. Each watched socket stands in exactly one slot of a wheel, the one of its next
review, so a sweep touches only what is due. The rules for links, in this order:

- A link that is closing is cut off when `close_timeout` has passed (RFC 6455 §7.1.1).
- A link whose outgoing bytes have not moved for `stalled_seconds` ends with 1013.
- A link that is not being read cannot be heard, so it is not pinged.
- Anything heard since the ping answers it; nothing heard for `ping_timeout` ends the link with 1011 (RFC 6455 §5.5.2).
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
"""Seconds between two sweeps at most; a review is late by no more than this."""
STEPS: Final = 8
"""Sweeps within the shortest time that is watched for."""
REVIEWS_PER_TURN: Final = 256
"""Reviews before the links themselves have their turn: ten thousand silent links are pinged in many small steps."""


class Watched(Protocol):
    """What can be put on the wheel."""

    due: int
    """The slot it stands in; 0 is none."""

    def review(self, now: float) -> float:
        """Do what is due at `now`; when to come again, NEVER to be forgotten."""


class Kept(Protocol):
    """What the rules need to know of a link. Times are 0 where the thing has not happened."""

    seen: float
    """When bytes last came from the peer."""
    pinged: float
    """When the ping that may still be unanswered was sent."""
    leaving: float
    """When the link began to close."""
    stuck: float
    """Since when the peer has taken nothing, with bytes waiting for it."""
    stuck_bytes: int
    """How many bytes waited then."""
    crowded: bool
    """Whether the peer is not read because it does not take its answers."""

    def unsent(self) -> int:
        """Bytes the kernel has not taken."""

    def send_ping(self, now: float) -> None:
        """Ping the peer and note it in `pinged`."""

    def close_reason(self, close_reason: CloseReason) -> None:
        """End the link; sets `leaving`."""

    def cut(self) -> None:
        """Drop the socket at once."""


class Keepalive:
    """The wheel of one server; its timer runs only while something is watched."""

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
        """Review `one` at `when` and not before, whatever was asked for earlier."""
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
        """Review `one` no more."""
        if one.due:
            slot = self._slots[one.due]
            slot.remove(one)
            if not slot:
                del self._slots[one.due]
            one.due = 0

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = loop.call_later(self._tick, self._sweep)  # first of all: no review can stop the sweeping
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

    def review(self, link: Kept, now: float) -> float:
        """What the rules demand of `link` at `now`; when to look again."""
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
                    link.pinged = now  # the ping may stand behind what is moving
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
