"""What operators learn of tool calls: figures for `/metrics`, and who is told of each that fails.

Numbers are kept per endpoint, and per tool and outcome within it. Peers choose these names, so there are only so many of either: what comes
later is counted as `other`. Arguments and answers are never looked at here.
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
"""Upper ends of the buckets that durations are counted in, in seconds; 25 is where a call's time is over by default."""
FOLDED: Final = 256
"""Durations that wait to be counted at most, per endpoint."""

Tell = Callable[[Call, float], None]
"""Hears of a call that has ended, and of the seconds it took; never raises."""


class EndpointCalls:
    """The calls of one endpoint."""

    __slots__ = ("_buckets", "_every", "_most", "_seconds", "_tell", "_times", "_tools", "failed", "ok")

    def __init__(self, most: int, tell: Tell, *, every: bool) -> None:
        """`most` is how many tools are counted by name; the rest as for `Calls`."""
        self._most = most
        self._tell = tell
        self._every = every
        self._tools: set[str] = set()
        self.ok: dict[str, int] = {}
        """Tool → how often a call of it went well."""
        self.failed: dict[tuple[str, str], int] = {}
        """(tool, outcome) → how often a call of it ended otherwise."""
        self._times: list[float] = []
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """(tool, outcome) → how often."""
        return {(tool, OK): count for tool, count in self.ok.items()} | self.failed

    @property
    def buckets(self) -> list[int]:
        """How many took no longer than each of BOUNDS, but longer than the one before; the last: longer than all."""
        self._fold()
        return self._buckets

    @property
    def seconds(self) -> float:
        """All durations together."""
        self._fold()
        return self._seconds

    def _fold(self) -> None:
        """Count the durations that are not counted yet: many at once cost half of one at a time."""
        times = self._times
        times.sort()
        ends = [*(bisect_right(times, bound) for bound in BOUNDS), len(times)]
        self._buckets = [count + end - begin for count, begin, end in zip(self._buckets, [0, *ends], ends, strict=False)]
        self._seconds += sum(times)
        times.clear()

    def ended(self, call: Call, now: float) -> None:
        """Count it, and tell it if it failed."""
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
        """What a tool is counted as."""
        if tool in self._tools:
            return tool
        if len(self._tools) >= self._most:
            return OTHER
        self._tools.add(tool)
        return tool


class Calls:
    """The calls of all endpoints; one per server."""

    def __init__(self, limits: Limits, tell: Tell, *, every: bool) -> None:
        """`tell` hears of calls that failed, and with `every` of those that went well too."""
        self._limits = limits
        self._tell = tell
        self._every = every
        self._endpoints: dict[str, EndpointCalls] = {}

    @property
    def endpoints(self) -> Mapping[str, EndpointCalls]:
        """By printable name, OTHER for those that came when there were enough; they outlive their links."""
        return self._endpoints

    def of(self, shown: str) -> EndpointCalls:
        """The one of an endpoint."""
        name = shown if shown in self._endpoints or len(self._endpoints) < self._limits.metric_endpoints else OTHER
        if name not in self._endpoints:
            self._endpoints[name] = EndpointCalls(self._limits.metric_tools, self._tell, every=self._every)
        return self._endpoints[name]
