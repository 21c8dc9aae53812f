"""How many requests each user of the HTTP API may make in a minute."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MINUTE: Final = 60.0
USERS: Final = 10_000
"""Users remembered at a time; the one seen longest ago is forgotten first."""


class RateLimit:
    """A minute's requests may come at once; after that each has to wait for its share of the minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_minute` requests for each user, 0 for any number; `clock` counts seconds."""
        self._share = MINUTE / per_minute if per_minute else 0.0
        self._clock = clock
        self._paid: OrderedDict[str, float] = OrderedDict()
        """User → until when the requests made so far have used up the user's time."""

    def wait(self, user: str) -> int:
        """0 if the request may be answered, which counts it; else the whole seconds after which one may."""
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
