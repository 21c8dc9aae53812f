"""One endpoint: a synchronous state machine that receives every frame and routes it.

Rules of the endpoint and its parts:

1. Links attach and detach; frames come in as bytes with `now`, and go out through `Link.send`, which never waits. The caller asks for the
   next deadline (`deadline`) and calls `expire`. Nothing here waits, reads a clock, logs or uses a socket.
2. Every accepted request is in `Consumer.owed` until its one response is sent; `Ledger.answer` is the only way out.
3. The number of providers decides the behaviour:
     none      the endpoint answers itself: `initialize`, `ping`, an empty (or held) list, -32001
     one       a wire: everything except the handshake is carried
     several   one server: lists are merged, calls are routed by the catalog
4. A request is carried at once, or waits in exactly one place with a deadline (see `waiting`).
5. Each field of a part is written by that part only; others call a method for a change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET

from .. import errors
from ..protocol import jsonrpc, methods
from ..protocol.definitions import Tool
from ..protocol.jsonrpc import VERSION, WRONG_VERSION, Frame, Malformed, Unreadable, id_key, kind_of, parse, parse_lenient, with_id
from ..settings.schema import EndpointSettings, Limits
from .catalog import Catalog
from .changes import Changes
from .delivery import Delivery, LastClose
from .endings import Endings, could_not_be_read
from .expiry import drain, expire, finish
from .features import SHARED, SharedFeatures
from .figures import EndpointCalls
from .ledger import Ledger, id_of
from .lifecycle import Lifecycle
from .links import Link, Watch
from .lists import Lists
from .notifications import Notifications
from .parties import NEVER, Consumer, Counters, Provider, Step
from .report import describe
from .roster import Roster
from .routing import Routing
from .taps import ATTACHED, DETACHED, Tap
from .tool_calls import FOUND_QUICKLY, IS_ERROR, TOOL_ERROR, says_error, tool_of
from .unreadable import bad_frame, error_of, noise
from .waiting import WaitingRequests

METHOD_CHARS: Final = 256
"""Most characters of a method name; it is kept as long as its call."""
PLAIN_ID_CHARS: Final = 10
"""Digits of an id that all limits allow: no further check is needed."""
OUT_OF_LINE: Final = SHARED | {methods.INITIALIZE, methods.TOOLS_LIST}
"""Methods that are never carried directly: they affect all consumers of a provider, or need the merged list."""


class Endpoint:
    """A named place where consumers find providers; a token grants access to it."""

    __slots__ = (
        "armed",
        "catalog",
        "changes",
        "counters",
        "delivery",
        "endings",
        "features",
        "ledger",
        "lifecycle",
        "limits",
        "lists",
        "name",
        "notifications",
        "roster",
        "routing",
        "settings",
        "shown",
        "waiting",
    )

    def __init__(
        self,
        name: str,
        shown: str,
        settings: EndpointSettings,
        limits: Limits,
        *,
        counters: Counters,
        watch: Watch,
        version: str,
        epoch: float = 0.0,
        elsewhere: Callable[[], int] = lambda: 0,
        last_close: LastClose | None = None,
        arm: Callable[[Endpoint], None] = lambda endpoint: None,
        figures: EndpointCalls | None = None,
        tap: Tap | None = None,
        draining: bool = False,
    ) -> None:
        """`epoch` plus `now` gives seconds since 1970; `elsewhere` counts the tools of other endpoints.

        `arm` is called when `deadline` has become earlier, `figures` counts finished tool calls, `tap` receives all events.
        """
        self.name = name
        self.shown = shown
        self.settings = settings
        self.limits = limits
        self.counters = counters
        self.armed = NEVER  # for the broker: when it will call `expire`
        self.ledger = Ledger(shown, limits, counters, watch, figures, tap)
        self.waiting = WaitingRequests(self.ledger, arm, self, draining=draining)
        self.catalog = Catalog(limits.tools_per_endpoint, limits.list_page_bytes)
        self.roster = Roster(settings, self.catalog, self.waiting)
        self.lifecycle = Lifecycle(self.roster, self.waiting, self.catalog, self.ledger, settings, version)
        self.delivery = Delivery(
            self.roster, self.waiting, self.lifecycle, self.ledger, epoch=epoch, elsewhere=elsewhere, last_close=last_close
        )
        self.features = SharedFeatures(self.delivery)
        self.lists = Lists(self.delivery)
        self.routing = Routing(self.delivery, self.lists, self.features)
        self.notifications = Notifications(self.delivery, self.features)
        self.changes = Changes(self.delivery, self.routing, self.notifications)
        self.endings = Endings(self.delivery, self.routing, self.changes)

    # == links =============================================================================================================

    @property
    def providers(self) -> list[Provider]:
        """The providers, in order of attaching."""
        return self.roster.providers

    @property
    def consumers(self) -> dict[Consumer, None]:
        """The consumers."""
        return self.roster.consumers

    @property
    def last_close(self) -> LastClose | None:
        """When and how the last provider left."""
        return self.delivery.last_close

    @property
    def empty(self) -> bool:
        """Whether nothing is attached."""
        return not self.roster.providers and not self.roster.consumers

    def attach_consumer(
        self,
        link: Link,
        now: float,
        *,
        answer_bytes: int | None = None,
        ask_seconds: float | None = None,
        in_process: bool = False,
        patient: bool = False,
        asks_once: bool = False,
        only: str = "",
    ) -> Consumer:
        """Attach a consumer.

        `answer_bytes` limits a response, `ask_seconds` is its time to answer a provider's request (default: that of a device). For an
        `in_process` one the endpoint itself initializes the providers. Lists of a `patient` one wait for a provider that is starting: it
        acts for consumers elsewhere, whose endpoint limits the wait. Lists of one that `asks_once` wait for all tools that are starting,
        as those of `hold_empty_list_for`, but not if there are none. With `only` it sees only the tools of that label, under their own
        names.
        """
        limits = self.limits
        limit = limits.device_answer_bytes if answer_bytes is None else answer_bytes
        seconds = limits.ask_seconds if ask_seconds is None else ask_seconds
        consumer = Consumer(self, link, limit, seconds, now, self.consumer_receive)
        consumer.in_process = in_process
        consumer.patient = patient
        consumer.asks_once = asks_once
        consumer.only = only
        self.roster.consumer_came(consumer)
        if self.ledger.tap is not None:
            self.ledger.tap.linked(consumer, ATTACHED, 0, "", now)
        return consumer

    def attach_provider(
        self,
        link: Link,
        now: float,
        *,
        server_id: str = "",
        managed: bool = False,
        stateless: bool = False,
        call_seconds: float | None = None,
    ) -> Provider:
        """Attach a provider. No other provider is removed; the others are pinged, so that a dead one is found.

        A `managed` one is trusted when it says that a call reached nobody. A `stateless` one is initialized by MCP 2026-07-28, and by a
        handshake only if it does not support that. `call_seconds` is the deadline of calls to its tools, None for the default.
        """
        for other in self.roster.providers:
            other.link.ping()
        provider = Provider(self, link, server_id, self.roster.next_order(), now, self.limits.late_answers, self.provider_receive)
        provider.managed = managed
        provider.call_seconds = call_seconds
        self.ledger.now = now
        if self.ledger.tap is not None:
            self.ledger.tap.linked(provider, ATTACHED, 0, "", now)
        if stateless:
            self.lifecycle.translate(provider)
        self.roster.provider_came(provider, now)
        if self.roster.sole is None:
            self.lists.take_back()
        if self.roster.plain():
            self.changes.retry_parked(now)
        else:
            self.lifecycle.learn(now)
        return provider

    def detach(self, party: Provider | Consumer, code: int, reason: str, now: float) -> None:
        """A link has closed; what it owed is answered. Called exactly once per link."""
        self.ledger.now = now
        if isinstance(party, Provider):
            self._provider_left(party, code, reason, now)
        else:
            self._consumer_left(party, now)
        if self.ledger.tap is not None:
            self.ledger.tap.linked(party, DETACHED, code, reason, now)

    def _consumer_left(self, consumer: Consumer, now: float) -> None:
        self.roster.consumer_left(consumer)
        self.ledger.consumer_left(consumer)
        if self.features.used:
            self.features.consumer_left(consumer, now)
        self.lifecycle.consumer_left(consumer)

    def _provider_left(self, provider: Provider, code: int, reason: str, now: float) -> None:
        self.roster.provider_left(provider)
        self.lists.provider_left(provider, now)
        provider.move(Step.LEAVE)
        if self.roster.consumers or not provider.managed:  # a managed server detached without consumers has not failed
            self.delivery.provider_left(code, reason, now)
        self.catalog.leave(provider, now)
        if self.features.used:
            self.features.provider_left(provider, now)
        self.ledger.provider_left(provider, self.roster.consumers)
        self.roster.update_direct()
        waiting = self.lifecycle.provider_left(provider)
        lost = list(provider.pending.calls.values())
        provider.pending.calls.clear()
        self.endings.lost(lost, now)
        self.changes.redo(waiting, now)
        self.changes.recheck(now)
        self.waiting.wake_at(now + self.limits.grace_seconds)

    # == frames of consumers ===============================================================================================

    def consumer_receive(self, consumer: Consumer, data: bytes, now: float, utf8: bool, frame: Frame | None = None) -> None:
        """Handle one frame of a consumer."""
        ledger = self.ledger
        ledger.now = now
        try:
            if frame is None:
                frame = parse(data, utf8)
            if frame.jsonrpc != VERSION:
                raise Malformed(errors.INVALID_REQUEST, WRONG_VERSION, id_of(frame))
            kind = kind_of(frame)
            if kind == "request":
                self._consumer_asks(consumer, frame, data, now)
            elif kind == "notification":
                self.notifications.from_consumer(consumer, frame, data)
            else:
                ledger.take_from_consumer(consumer, frame, data)
        except Malformed as malformed:
            usable = id_key(malformed.id, self.limits.integer_id_chars, self.limits.string_id_bytes)
            ledger.heard(consumer, data)
            ledger.say(consumer, ledger.error(malformed.id if usable else b"null", malformed.code, malformed.why, delivered=False))
            bad_frame(ledger, consumer, malformed)

    def _consumer_asks(self, consumer: Consumer, frame: Frame, data: bytes, now: float) -> None:
        assert frame.id is not UNSET and frame.method is not UNSET
        id = bytes(frame.id)
        key: bytes | None = id
        if not (id.isdigit() and len(id) <= PLAIN_ID_CHARS):
            key = id_key(id, self.limits.integer_id_chars, self.limits.string_id_bytes)
        if key is None:
            raise Malformed(errors.INVALID_REQUEST, "an id is an integer or a string, and not longer than the limits")
        if frame.result is not UNSET or frame.error is not UNSET:
            raise Malformed(errors.INVALID_REQUEST, "a request has no result and no error", id)
        method = frame.method
        if len(method) > METHOD_CHARS:
            raise Malformed(errors.INVALID_REQUEST, "the method's name is too long", id)
        ledger = self.ledger
        calls_tool = method == methods.TOOLS_CALL
        tool = tool_of(frame, data) if calls_tool and ledger.listened and not consumer.relays else ""
        seconds = self.settings.call_timeout if calls_tool else self._seconds_for(method)
        if self.waiting.draining:
            ledger.refuse_busy(consumer, id, key, method, "the server is stopping / 服务器正在停止", tool, data)
            return
        call = ledger.accept(consumer, id, key, method, now, seconds, tool, data)
        if call is None:
            return
        try:
            direct = self.roster.direct
            if direct is not None and (calls_tool or method not in OUT_OF_LINE) and not consumer.only:
                self.delivery.carry(direct, call, frame, data)
            else:
                self.routing.route(call, frame, data, now)
        except Malformed as malformed:
            self.ledger.fail(call, malformed.code, malformed.why, delivered=False)

    def _seconds_for(self, method: str) -> float:
        """The deadline of a request, in seconds."""
        if method == methods.INITIALIZE:
            return self.limits.initialize_seconds
        return self.limits.list_seconds if method in methods.LISTS else self.settings.call_timeout

    # == frames of providers ===============================================================================================

    def provider_receive(self, provider: Provider, data: bytes, now: float, utf8: bool, frame: Frame | None = None) -> None:
        """Handle one frame of a provider. Output that is not JSON-RPC (of a stdio server) is dropped."""
        translator = provider.translator
        if translator is not None and not translator.speaking:
            translator.hear(data, now, utf8=utf8)
            return
        ledger = self.ledger
        ledger.now = now
        try:
            if frame is None:
                try:
                    frame = parse(data, utf8)
                except Malformed:
                    frame, data = parse_lenient(data, utf8)
            kind = kind_of(frame)
            if kind != "answer":
                ledger.heard(provider, data)
                if frame.jsonrpc != VERSION:
                    raise Malformed(errors.INVALID_REQUEST, "a method without jsonrpc 2.0: a line of somebody's log")
                if kind == "notification":
                    self.notifications.from_provider(provider, frame, data, now)
                else:
                    ask = ledger.hand_to_consumer(provider, frame, data, now)
                    if ask is not None:
                        self.waiting.wake_at(ask.deadline)
                return
            if frame.jsonrpc != VERSION:
                frame, data = parse_lenient(data, utf8=True)
            if frame.error is not UNSET and len(frame.error) == 4 and bytes(frame.error) == b"null":
                # JSON-RPC 1 wrote both keys in every response: `"error": null` means no error.
                data = jsonrpc.splice(data, [jsonrpc.without(data, "error", jsonrpc.members(data))])
                frame = parse(data, utf8=True)
            if frame.id is UNSET or (frame.result is UNSET and frame.error is UNSET):
                raise jsonrpc.neither(frame)
            id = bytes(frame.id)
            number = int(id) if id.isdigit() and len(id) <= PLAIN_ID_CHARS else jsonrpc.number_given_back(id)
            calls = provider.pending.calls
            call = calls.get(number)
            if call is None and len(calls) == 1 and id == b"null" and could_not_be_read(frame):
                call = next(iter(calls.values()))
            if call is None:
                jsonrpc.members(data)  # raises Malformed for a repeated id, which may name a call
                if provider.pending.was_late(number):
                    self.counters.late_answers += 1
                    provider.trust()
                    if ledger.tap is not None:
                        ledger.tap.late(provider, number, data, now)
                else:
                    self.counters.unknown_answers += 1
                    ledger.heard(provider, data)
                return
            if call.consumer is None or frame.error is not UNSET or call.purpose or call.data:
                self.endings.answered(provider, call, frame, data, now)
                return
            first, second = with_id(data, frame, call.id)
        except Malformed as malformed:
            if frame is None or kind_of(frame) == "answer":
                ledger.heard(provider, data)
            noise(ledger, provider, data, malformed, now)
            unreadable = jsonrpc.unread(data, malformed)
            if isinstance(unreadable, Unreadable):
                self._end_unread(provider, unreadable, now)
            return
        del calls[number]
        if provider.doubtful:
            provider.trust()
        if call.tool and (len(data) > FOUND_QUICKLY or data.find(IS_ERROR) >= 0) and says_error(frame, data):
            call.outcome = TOOL_ERROR
        ledger.answer(call, first, second, frame)

    def provider_said_too_much(self, provider: Provider, beginning: bytes, end: bytes, now: float) -> None:
        """A response above `provider_message_bytes` was discarded; only its ends are known."""
        self.ledger.now = now
        unreadable = jsonrpc.too_large(beginning, end, self.limits.provider_message_bytes)
        if unreadable is not None:
            self.ledger.heard(provider, beginning)
            noise(self.ledger, provider, beginning, unreadable, now)
            self._end_unread(provider, unreadable, now)

    def _end_unread(self, provider: Provider, unreadable: Unreadable, now: float) -> None:
        if (error := error_of(self.ledger, provider, unreadable)) is not None:
            self.provider_receive(provider, error, now, True)

    # == time and shutdown =================================================================================================

    def deadline(self) -> float:
        """The latest time at which `expire` must be called; it may be too early, never too late. Infinity if nothing waits."""
        return self.waiting.wake

    def expire(self, now: float) -> None:
        """Process everything that is due: answer expired requests, drop what was kept long enough."""
        self.ledger.now = now
        expire(self.endings, now)

    def drain(self, now: float) -> None:
        """Refuse new requests; answer held and parked ones; those at a provider continue, unless a person must answer first."""
        self.ledger.now = now
        drain(self.endings, now)

    def finish(self, now: float) -> None:
        """Answer all remaining requests with an error."""
        self.ledger.now = now
        finish(self.endings)

    def forget(self) -> None:
        """Nothing is attached any more: drop all state of the providers."""
        self.catalog.clear()
        self.features.forget()

    # == reports ===========================================================================================================

    @property
    def holding(self) -> bool:
        """Whether a list is held until the tools are known."""
        return bool(self.waiting.held)

    def tool_named(self, name: str, only: str) -> Tool | None:
        """The tool with this name, for a consumer that sees `only` one label ("": all)."""
        self.catalog.settle()
        label, own = (only, name) if only else self.catalog.owners.get(name, ("", ""))
        replicas = self.catalog.replicas(label, own)
        return replicas[0].tools[own] if replicas else None

    def describe(self, now: float) -> dict[str, Any]:
        """The status for an operator, ready for JSON, without secrets."""
        return describe(self.delivery, now)
