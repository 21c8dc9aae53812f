"""Counts tool calls for `/metrics`, and passes failed ones to the log.

Numbers are kept per endpoint, tool and outcome. Peers choose these names, so their number is limited: further ones count as `other`.
Arguments and results are never examined here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Final

from ..settings.schema import Limits
from .parties import Call

OTHER: Final = "other"
OK: Final = "ok"
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)
"""Upper bounds of the duration buckets, in seconds; 25 is the default deadline of a call."""
FOLDED: Final = 256
"""Most durations of an endpoint that wait to be counted."""

Tell = Callable[[Call, float], None]
"""Called with a finished call and its duration in seconds; must not raise."""


class EndpointCalls:
    """The calls of one endpoint."""

    __slots__ = ("_buckets", "_every", "_most", "_seconds", "_tell", "_times", "_tools", "failed", "ok")

    def __init__(self, most: int, tell: Tell, *, every: bool) -> None:
        """`most` is the number of tools counted by name; other arguments as for `Calls`."""
        self._most = most
        self._tell = tell
        self._every = every
        self._tools: set[str] = set()
        self.ok: dict[str, int] = {}
        """Tool → number of successful calls."""
        self.failed: dict[tuple[str, str], int] = {}
        """(tool, outcome) → number of other calls."""
        self._times: list[float] = []
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """(tool, outcome) → number of calls."""
        return {(tool, OK): count for tool, count in self.ok.items()} | self.failed

    @property
    def buckets(self) -> list[int]:
        """Number of calls per bucket of BOUNDS; the last for longer ones."""
        self._fold()
        return self._buckets

    @property
    def seconds(self) -> float:
        """Sum of all durations."""
        self._fold()
        return self._seconds

    def _fold(self) -> None:
        """Count the waiting durations: counting many at once costs half as much."""
        times = self._times
        times.sort()
        ends = [*(bisect_right(times, bound) for bound in BOUNDS), len(times)]
        self._buckets = [count + end - begin for count, begin, end in zip(self._buckets, [0, *ends], ends, strict=False)]
        self._seconds += sum(times)
        times.clear()

    def ended(self, call: Call, now: float) -> None:
        """Count a finished call, and pass it on if it failed."""
        seconds = now - call.started
        self._times.append(seconds)
        if len(self._times) >= FOLDED:
            self._fold()
        if call.outcome:
            key = self._known(call.tool), call.outcome
            self.failed[key] = self.failed.get(key, 0) + 1
            self._tell(call, seconds)
            return
        try:
            self.ok[call.tool] += 1
        except KeyError:
            tool = self._known(call.tool)
            self.ok[tool] = self.ok.get(tool, 0) + 1
        if self._every:
            self._tell(call, seconds)

    def _known(self, tool: str) -> str:
        """The name under which a tool is counted."""
        if tool in self._tools:
            return tool
        if len(self._tools) >= self._most:
            return OTHER
        self._tools.add(tool)
        return tool


class Calls:
    """The calls of all endpoints; one per server."""

    def __init__(self, limits: Limits, tell: Tell, *, every: bool) -> None:
        """`tell` is called for failed calls, with `every` also for successful ones."""
        self._limits = limits
        self._tell = tell
        self._every = every
        self._endpoints: dict[str, EndpointCalls] = {}

    @property
    def endpoints(self) -> Mapping[str, EndpointCalls]:
        """By printable name, OTHER for later ones; kept after their links have closed."""
        return self._endpoints

    def of(self, shown: str) -> EndpointCalls:
        """The counters of an endpoint."""
        name = shown if shown in self._endpoints or len(self._endpoints) < self._limits.metric_endpoints else OTHER
        if name not in self._endpoints:
            self._endpoints[name] = EndpointCalls(self._limits.metric_tools, self._tell, every=self._every)
        return self._endpoints[name]
