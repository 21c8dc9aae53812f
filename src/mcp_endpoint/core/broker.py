"""Finds endpoints by name, attaches parties to them, and wakes them at their deadlines with one timer."""

from __future__ import annotations

import heapq
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Protocol

from msgspec.structs import replace

from .. import __version__
from ..errors import INTERNAL
from ..protocol.jsonrpc import Frame, Part
from ..settings.schema import EndpointSettings, Limits
from .delivery import LastClose
from .endpoint import Endpoint
from .figures import EndpointCalls
from .links import Link, Watch
from .parties import NEVER, Consumer, Counters, Provider, SendFrame
from .taps import Tap

FREE_FORM: Final = "opaque:"
"""Prefix of the names of free-form endpoints."""
INNER: Final = "server:"
"""Prefix of the names of internal endpoints, where managed servers are providers; no token grants one."""


class Cancellable(Protocol):
    """A timer, as returned by `call_at`."""

    def cancel(self) -> None:
        """Cancel it."""


class _Walled:
    """Wraps the link of an in-process consumer: its errors end only itself, and never reach the sender, which serves others too."""

    __slots__ = ("_link", "_soon", "_take", "_tell")

    def __init__(self, link: Link, tell: Callable[[str], None], soon: Callable[[Callable[[], None]], None]) -> None:
        """`tell` is called with the error; `soon` schedules a callback after the sender has finished."""
        self._link = link
        self._take: SendFrame | None = getattr(link, "send_frame", None)
        self._tell = tell
        self._soon = soon

    @property
    def queued(self) -> int:
        return self._link.queued

    def send(self, first: Part, second: Part = b"") -> None:
        try:
            self._link.send(first, second)
        except Exception as error:  # noqa: BLE001 - the boundary between two parties
            self._failed(error)

    def send_frame(self, frame: Frame, first: Part, second: Part) -> None:
        if self._take is None:
            self.send(first, second)
            return
        try:
            self._take(frame, first, second)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._tell(_place(error))
        self._soon(lambda: self.close(*INTERNAL))

    def close(self, code: int, reason: str) -> None:
        try:
            self._link.close(code, reason)
        except Exception as error:  # noqa: BLE001 - as above
            self._tell(_place(error))

    def ping(self) -> None:
        self._link.ping()


def _place(error: Exception) -> str:
    """The type and place of an error, without any data."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    return f"{type(error).__name__} in {frame.f_code.co_qualname}:{line}"


class Broker:
    """All endpoints of one server, by name. Single-threaded; nothing here waits."""

    def __init__(
        self,
        settings: EndpointSettings,
        limits: Limits,
        *,
        clock: Callable[[], float],
        call_at: Callable[[float, Callable[[], None]], Cancellable],
        epoch: Callable[[], float],
        watch: Watch,
        figures: Callable[[str], EndpointCalls | None] = lambda shown: None,
    ) -> None:
        """`clock` is monotonic, in seconds, the clock of `call_at`; `epoch` is the wall clock, read once.

        `figures` returns the call counters of an endpoint, by its printable name.
        """
        self.settings = settings
        self.limits = limits
        # Deadlines and numbers of calls are limited at the outer endpoint.
        self._inner_settings = replace(settings, call_timeout=limits.progress_seconds, tools={})
        self._inner_limits = replace(limits, in_flight_per_consumer=limits.in_flight_per_endpoint)
        self.counters = Counters()
        self.endpoints: dict[str, Endpoint] = {}
        self.providers = 0
        self.consumers = 0
        self._clock = clock
        self._call_at = call_at
        self._offset = epoch() - clock()
        self._watch = watch
        self._figures = figures
        self.tap: Tap | None = None
        """Receives all events of the endpoints; set before the first link attaches."""
        self._last_closes: OrderedDict[str, tuple[str, LastClose]] = OrderedDict()
        self._alarms: list[tuple[float, int, Endpoint]] = []
        self._alarm_number = 0
        self._timer: Cancellable | None = None
        self._timer_at = NEVER
        self._draining = False
        self.on_open: Callable[[Endpoint], None] = lambda endpoint: None
        """Called when an endpoint gets its first consumer: managed servers are attached then."""
        self.on_idle: Callable[[Endpoint], None] = lambda endpoint: None
        """Called when an endpoint has lost its last consumer: managed servers are detached then."""
        # Created once, so that an idle endpoint stays small.
        self._elsewhere = lambda: self.providers
        self._arm = self.arm

    # -- links -----------------------------------------------------------------------------------------------------------

    def attach_provider(
        self,
        name: str,
        shown: str,
        link: Link,
        *,
        server_id: str = "",
        managed: bool = False,
        stateless: bool = False,
        call_seconds: float | None = None,
    ) -> Provider:
        """Attach a provider to the endpoint `name`; `shown` is the endpoint's printable name. Other arguments as for the endpoint."""
        endpoint = self._endpoint(name, shown)
        self.providers += 1
        provider = endpoint.attach_provider(
            link, self._clock(), server_id=server_id, managed=managed, stateless=stateless, call_seconds=call_seconds
        )
        self.arm(endpoint)
        return provider

    def attach_consumer(
        self,
        name: str,
        shown: str,
        link: Link,
        *,
        answer_bytes: int | None = None,
        ask_seconds: float | None = None,
        in_process: bool = False,
        patient: bool = False,
        asks_once: bool = False,
        only: str = "",
    ) -> Consumer:
        """Attach a consumer to the endpoint `name`; other arguments as for the endpoint."""
        endpoint = self._endpoint(name, shown)
        self.consumers += 1
        if in_process:
            link = _Walled(link, lambda why: self._watch.tell("fault", shown, why=why), self._soon)
        consumer = endpoint.attach_consumer(
            link,
            self._clock(),
            answer_bytes=answer_bytes,
            ask_seconds=ask_seconds,
            in_process=in_process,
            patient=patient,
            asks_once=asks_once,
            only=only,
        )
        if len(endpoint.consumers) == 1:
            self.on_open(endpoint)
        return consumer

    def detach(self, party: Provider | Consumer, code: int, reason: str) -> None:
        """A link has closed; called exactly once per link. An endpoint without links is dropped, but its last close is remembered."""
        endpoint = party.endpoint
        assert isinstance(endpoint, Endpoint)
        endpoint.detach(party, code, reason, self._clock())
        if party.side == "tool":
            self.providers -= 1
        else:
            self.consumers -= 1
            if not endpoint.consumers:
                self.on_idle(endpoint)
        if self.endpoints.get(endpoint.name) is not endpoint:
            return  # already dropped when its managed servers were detached
        if endpoint.empty:
            del self.endpoints[endpoint.name]
            endpoint.forget()  # an alarm may still refer to it
            if endpoint.last_close is not None:
                self._last_closes[endpoint.name] = endpoint.shown, endpoint.last_close
                self._last_closes.move_to_end(endpoint.name)
                if len(self._last_closes) > self.limits.remembered_endpoints:
                    self._last_closes.popitem(last=False)
        else:
            self.arm(endpoint)

    def _soon(self, close: Callable[[], None]) -> None:
        self._call_at(self._clock(), close)

    def _endpoint(self, name: str, shown: str) -> Endpoint:
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            inner = name.startswith(INNER)
            endpoint = self.endpoints[name] = Endpoint(
                name,
                shown,
                self._inner_settings if inner else self.settings,
                self._inner_limits if inner else self.limits,
                counters=self.counters,
                watch=self._watch,
                version=__version__,
                epoch=self._offset,
                elsewhere=self._elsewhere,
                last_close=self._last_closes.get(name, (shown, None))[1],
                arm=self._arm,
                figures=self._figures(shown),
                tap=self.tap,
                draining=self._draining,
            )
        return endpoint

    # -- time ------------------------------------------------------------------------------------------------------------

    def arm(self, endpoint: Endpoint) -> None:
        """Make sure that the endpoint is woken at its deadline."""
        when = endpoint.deadline()
        if when >= endpoint.armed:
            return
        endpoint.armed = when
        self._alarm_number += 1
        heapq.heappush(self._alarms, (when, self._alarm_number, endpoint))
        self._set_timer(when)

    def _set_timer(self, when: float) -> None:
        if when >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._call_at(when, self._ring)

    def _ring(self) -> None:
        now = self._clock()
        self._timer = None
        self._timer_at = NEVER
        while self._alarms and self._alarms[0][0] <= now:
            when, _, endpoint = heapq.heappop(self._alarms)
            if when != endpoint.armed:
                continue  # superseded by an earlier alarm
            endpoint.armed = NEVER
            endpoint.expire(now)
            if not endpoint.empty:
                self.arm(endpoint)
        if self._alarms:
            self._set_timer(self._alarms[0][0])

    # -- shutdown --------------------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._draining

    def drain(self) -> None:
        """Refuse new requests; those in flight continue."""
        self._draining = True
        now = self._clock()
        for endpoint in self.endpoints.values():
            endpoint.drain(now)

    def finish(self) -> None:
        """Answer all requests in flight."""
        now = self._clock()
        for endpoint in self.endpoints.values():
            endpoint.finish(now)

    @property
    def in_flight(self) -> int:
        """Requests that have no response yet."""
        return sum(endpoint.ledger.in_flight for endpoint in self.endpoints.values())

    # -- reports ---------------------------------------------------------------------------------------------------------

    def snapshot(self, *, detail: bool) -> dict[str, Any]:
        """The state in numbers, ready for JSON; with `detail` every endpoint by its printable name, and those without links."""
        now = self._clock()
        # Internal endpoints are left out: requests in flight there came in at an outer one.
        inner = [endpoint for name, endpoint in self.endpoints.items() if name.startswith(INNER)]
        outer = [endpoint for name, endpoint in self.endpoints.items() if not name.startswith(INNER)]
        # HTTP sessions and calls of the API are consumers but not devices.
        sessions = sum(consumer.in_process for endpoint in outer for consumer in endpoint.consumers)
        found: dict[str, Any] = {
            "endpoints": len(outer),
            "tool_connections": self.providers - sum(len(endpoint.providers) for endpoint in inner),
            "device_connections": self.consumers - sum(len(endpoint.consumers) for endpoint in inner) - sessions,
            "session_connections": sessions,
            "in_flight": sum(endpoint.ledger.in_flight for endpoint in outer),
            "counters": self.counters.as_dict(),
        }
        if detail:
            found["endpoint_details"] = [endpoint.describe(now) | {"free_form": endpoint.name.startswith(FREE_FORM)} for endpoint in outer]
            found["left"] = [
                {"endpoint": shown, "last_close": last_close.describe(self._offset)}
                for name, (shown, last_close) in reversed(self._last_closes.items())
                if name not in self.endpoints and not name.startswith(INNER)
            ]
        return found
