"""How long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_SECONDS: Final = 0.5
"""After the first failure. Small enough that a tool is back well within the broker's grace for it."""
KEPT_FIRST_SECONDS: Final = 2.0
"""The same for a server the house keeps itself: half of it at least, so that one that cannot start takes no machine down."""
LONGEST_SECONDS: Final = 60.0
"""However often it failed."""
SLOW_FIRST_SECONDS: Final = 30.0
"""After a refusal that somebody has to mend first, such as a wrong token: asking more often only gets the address throttled."""
SLOW_LONGEST_SECONDS: Final = 300.0
"""However often it was refused, and the longest an explicit Retry-After is believed."""
GROWTH: Final = 1.5
"""Each wait is so much longer than the one before; slow growth, so that a restart of a few seconds costs a few seconds."""
JITTER: Final = 0.5
"""The share of a wait that is drawn by lot, so that many do not come back in the same moment (RFC 6455 §7.2.3)."""
WORKED_SECONDS: Final = 10.0
"""What lasted this long has worked: the count of failures starts anew."""
_MANY: Final = 64


class Backoff:
    """Counts failures in a row; `draw` gives the lot, a number in [0, 1), `first` is the wait after the first of them."""

    def __init__(self, draw: Callable[[], float], first: float = FIRST_SECONDS) -> None:
        self._draw = draw
        self._first = first
        self.failures = 0
        """How many there were in a row."""

    def wait(self, lasted: float, *, slow: bool = False, at_least: float = 0.0) -> float:
        """Seconds until the next attempt, after one that held for `lasted` seconds; `at_least` is what the other side asked for."""
        if lasted >= WORKED_SECONDS:
            self.failures = 0
        first, longest = (SLOW_FIRST_SECONDS, SLOW_LONGEST_SECONDS) if slow else (self._first, LONGEST_SECONDS)
        seconds = min(longest, first * GROWTH**self.failures)
        self.failures = min(self.failures + 1, _MANY)
        drawn = seconds * (1.0 - JITTER * self._draw())
        return max(drawn, min(at_least, SLOW_LONGEST_SECONDS))
