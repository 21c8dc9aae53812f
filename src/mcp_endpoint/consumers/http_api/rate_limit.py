"""Limits the requests per minute of each user of the HTTP API."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MINUTE: Final = 60.0
USERS: Final = 10_000
"""Most users that are remembered; the least recently seen is dropped first."""


class RateLimit:
    """A token bucket per user: a minute's requests may come at once, later ones wait for their share of a minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_minute` requests per user, 0 for no limit; `clock` returns seconds."""
        self._share = MINUTE / per_minute if per_minute else 0.0
        self._clock = clock
        self._paid: OrderedDict[str, float] = OrderedDict()
        """User → time up to which its requests have used its allowance."""

    def wait(self, user: str) -> int:
        """0 if the request is allowed, and count it; else the whole seconds to wait."""
        if not self._share:
            return 0
        now = self._clock()
        paid = max(self._paid.get(user, now), now) + self._share
        if paid - now > MINUTE + self._share / 2:
            return math.ceil(paid - now - MINUTE)
        self._paid[user] = paid
        self._paid.move_to_end(user)
        if len(self._paid) > USERS:
            self._paid.popitem(last=False)
        return 0
