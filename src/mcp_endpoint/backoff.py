"""Computes the wait before the next connection attempt: exponential backoff with jitter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_SECONDS: Final = 0.5
"""After the first failure; short enough that a tool is back within the broker's grace period."""
KEPT_FIRST_SECONDS: Final = 2.0
"""The same for a managed server: at least half of it, so that a server that cannot start does not overload the machine."""
LONGEST_SECONDS: Final = 60.0
"""Upper limit."""
SLOW_FIRST_SECONDS: Final = 30.0
"""After a refusal that a person has to fix first, such as a wrong token: more frequent attempts only get the address throttled."""
SLOW_LONGEST_SECONDS: Final = 300.0
"""Upper limit after refusals, and of an explicit Retry-After."""
GROWTH: Final = 1.5
"""Factor from one wait to the next; small, so that a restart of a few seconds costs a few seconds."""
JITTER: Final = 0.5
"""Jitter: fraction of the wait that is random, so that clients do not reconnect in lockstep (RFC 6455 §7.2.3)."""
WORKED_SECONDS: Final = 10.0
"""An attempt that lasted this long was successful: the count of failures is reset."""
_MANY: Final = 64


class Backoff:
    """Counts consecutive failures; `draw` returns a random number in [0, 1), `first` is the wait after the first failure."""

    def __init__(self, draw: Callable[[], float], first: float = FIRST_SECONDS) -> None:
        self._draw = draw
        self._first = first
        self.failures = 0
        """Number of consecutive failures."""

    def wait(self, lasted: float, *, slow: bool = False, at_least: float = 0.0) -> float:
        """Seconds until the next attempt, after one that lasted `lasted` seconds; `at_least` is the wait the other side asked for."""
        if lasted >= WORKED_SECONDS:
            self.failures = 0
        first, longest = (SLOW_FIRST_SECONDS, SLOW_LONGEST_SECONDS) if slow else (self._first, LONGEST_SECONDS)
        seconds = min(longest, first * GROWTH**self.failures)
        self.failures = min(self.failures + 1, _MANY)
        drawn = seconds * (1.0 - JITTER * self._draw())
        return max(drawn, min(at_least, SLOW_LONGEST_SECONDS))
