"""Where a frame goes: the named place where consumers find providers, as a synchronous state machine.

Rules of this module:

1. Links attach and detach; frames come in as bytes with `now`; frames go out through `Link.send`, which never waits. Deadlines are
   asked for (`deadline`) and expired from outside (`expire`). Nothing here waits, reads a clock, logs or knows a socket.
2. Every accepted request is in `Consumer.owed` until its one answer leaves; `_answer` is the only way out of it.
3. How many providers are attached decides what the endpoint is:
     none      the endpoint answers for itself: `initialize`, `ping`, an empty (or held) list, -32001
     one       a wire: everything but the handshake is carried
     several   one server: lists are merged, calls go where the catalog says
4. A request is carried at once, or it waits in exactly one place with an end:
     `Provider.waiting`  its provider is being greeted            until the greeting's end
     `_initializes`      an initialize, until a provider is ready  `initialize_seconds`
     `_unsettled`        the catalog is being learned              `merged_list_seconds`
     `_parked`           its provider just left                    `grace_call_seconds`
     `_held`             a list of a client that asks only once    until the providers have told their tools, or the drain
5. `direct` is the short way: the provider that takes everything as it is. It is reckoned anew whenever a link, a state or a name
   changes, so that the way of a frame costs two look-ups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from .. import errors
from ..errors import Code
from ..protocol import jsonrpc
from ..protocol.definitions import Tool
from ..protocol.jsonrpc import (
    Frame,
    Malformed,
    Part,
    Unreadable,
    id_key,
    members,
    number_given_back,
    parse,
    parse_lenient,
    too_large,
    unread,
    with_id,
)
from ..settings.schema import EndpointSettings, Limits
from .catalog import Catalog, Shelf, is_repeatable
from .features import CHANGED, KINDS, MESSAGE, SHARED, UPDATED, Offers
from .ledger import CANCELLED, IS_ERROR, Ledger, Rename, Tap, id_of, most_of, number_of, number_text, outcome_of, outgoing, tool_of
from .lifecycle import INITIALIZED, NAME_CHARS, Greetings
from .links import Link, Watch
from .parties import NEVER, Call, Consumer, Counters, Parked, Provider, State, Step, Waiting, is_open
from .translator import Translator

METHOD_CHARS: Final = 256
"""Characters of a method; it is kept as long as its call."""
KEPT_BYTES: Final = 16 * 1024
"""Bytes of a request that is kept while it may have to be said again after a greeting; a larger one is said once."""
PLAIN_ID_CHARS: Final = 10
"""Digits of an id that every limit allows: nothing else needs to be asked of it."""
LISTS: Final = frozenset({"tools/list", "resources/list", "resources/templates/list", "prompts/list"})
OUT_OF_LINE: Final = SHARED | {"initialize", "tools/list"}
"""What is never simply carried: all consumers of a provider would feel it, or its consumer must have all tools."""
REPEATABLE: Final = "repeatable"
"""The purpose of a call that may run twice: its tool says that it only reads, or that a second time changes nothing."""
PROGRESS: Final = "notifications/progress"
LIST_CHANGED: Final = "notifications/tools/list_changed"

_encode: Final = msgspec.json.Encoder().encode


class Farewell(NamedTuple):
    """When and how the last provider left; `at` is on the heart's clock."""

    at: float
    code: int
    reason: str

    def when(self, epoch: float) -> str:
        """The time of day in UTC; `epoch` is what must be added to the heart's clock to get seconds since 1970."""
        return datetime.fromtimestamp(self.at + epoch, UTC).isoformat(timespec="seconds")

    def describe(self, epoch: float) -> dict[str, Any]:
        """What an operator may know of it, ready for JSON."""
        return {"at": self.when(epoch), "code": self.code, "reason": self.reason}


class _CallParams(msgspec.Struct):
    name: str


class _ListParams(msgspec.Struct):
    cursor: str | None = None


_call_decoder: Final = msgspec.json.Decoder(_CallParams)
_fields_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list_decoder: Final = msgspec.json.Decoder(_ListParams)


class Endpoint:
    """A named place where consumers find providers; its name is what a token opens to."""

    __slots__ = (
        "_announced",
        "_attached",
        "_attached_at",
        "_held",
        "_lost_at",
        "_parked",
        "_ready_at",
        "_unsettled",
        "announce",
        "arm",
        "armed",
        "catalog",
        "consumers",
        "counters",
        "direct",
        "draining",
        "elsewhere",
        "epoch",
        "farewell",
        "greetings",
        "ledger",
        "limits",
        "name",
        "offers",
        "providers",
        "settings",
        "shown",
        "sole",
        "wake",
        "watch",
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
        farewell: Farewell | None = None,
        arm: Callable[[Endpoint], None] = lambda endpoint: None,
        tap: Tap | None = None,
    ) -> None:
        """`epoch` is what must be added to `now` to get seconds since 1970; `elsewhere` counts the tools of other endpoints.

        `arm` is told when `deadline` has moved to an earlier time, `tap` of every tool call that has ended.
        """
        self.name = name
        self.shown = shown
        self.settings = settings
        self.limits = limits
        self.counters = counters
        self.watch = watch
        self.epoch = epoch
        self.elsewhere = elsewhere
        self.farewell = farewell
        self.arm = arm
        self.providers: list[Provider] = []
        self.consumers: dict[Consumer, None] = {}
        self.catalog = Catalog(limits.tools_per_endpoint, limits.list_page_bytes)
        self.offers: Offers | None = None  # until somebody wants more than tools of several providers
        self.direct: Provider | None = None
        self.ledger = Ledger(shown, limits, counters, watch, tap)
        self.greetings = Greetings(self, self.ledger, settings, limits, version)
        self.draining = False
        self.wake = NEVER
        self.armed = NEVER  # the broker's own note of when it will come back
        self.sole: Provider | None = None
        self._attached = 0
        self._unsettled: list[Parked] = []
        self._parked: list[Parked] = []
        self._held: list[Parked] = []
        self._attached_at = -NEVER  # when the newest provider came
        self._lost_at = -NEVER  # when one left that had not told its tools yet
        self._ready_at = NEVER  # since when somebody could answer the held lists
        self.announce = False
        self._announced = -NEVER

    # == links =============================================================================================================

    @property
    def empty(self) -> bool:
        """Whether nobody is attached."""
        return not self.providers and not self.consumers

    def attach_consumer(
        self,
        link: Link,
        now: float,
        *,
        answer_bytes: int | None = None,
        ask_seconds: float | None = None,
        in_house: bool = False,
        patient: bool = False,
        asks_once: bool = False,
        only: str = "",
    ) -> Consumer:
        """Somebody who asks is here.

        `answer_bytes` bounds what it can take in one answer, `ask_seconds` how long it may think about a provider's question (default:
        what a device can). For one `in_house` the endpoint greets the providers itself. The lists of a `patient` one wait for a provider
        that still starts: it asks for others, who decide how long they wait. The lists of one that
        `asks_once` wait for all tools that still start, as those of `hold_empty_list_for` do; where there is none, it hears so at once. One
        that sees `only` a label has that label's tools under their own names, and no others.
        """
        limits = self.limits
        limit = limits.device_answer_bytes if answer_bytes is None else answer_bytes
        seconds = limits.ask_seconds if ask_seconds is None else ask_seconds
        consumer = Consumer(self, link, limit, seconds, now, self.consumer_says)
        consumer.in_house = in_house
        consumer.patient = patient
        consumer.asks_once = asks_once
        consumer.only = only
        self.consumers[consumer] = None
        return consumer

    def attach_provider(
        self,
        link: Link,
        now: float,
        *,
        server_id: str = "",
        house: bool = False,
        stateless: bool = False,
        call_seconds: float | None = None,
    ) -> Provider:
        """Somebody who answers is here. Nobody is sent away for it; the others only have to show that they still live.

        One of the `house` may be believed when it says that a call did not reach anybody. A `stateless` one wants to be greeted as
        MCP 2026-07-28 does, and as before only if it cannot be. `call_seconds` is how long a call of its tools may take, where it is not
        as everywhere.
        """
        for other in self.providers:
            other.link.ping()
        self._attached += 1
        self._attached_at = now
        provider = Provider(self, link, server_id, self._attached, now, self.limits.late_answers, self.provider_says)
        provider.house = house
        provider.call_seconds = call_seconds
        if stateless:
            self.translate(provider)
        self.providers.append(provider)
        self.reckon()
        if self.sole is None:
            self._take_back_lists()
        if self.greetings.plain():
            self._retry_parked(now)
        else:
            self.greetings.learn(now)
        return provider

    def translate(self, provider: Provider, refused: bytes = b"") -> None:
        """Speak to a tool in the words of the stateless era from now on; `refused` is its error to a handshake, if it had one."""
        says = self.provider_says
        provider.translator = provider.link = Translator(
            provider.link,
            lambda frame, now: says(provider, frame, now, True),
            lambda: self.wake_at(0.0),
            self.greetings.version,
            refused=refused,
        )

    def detach(self, party: Provider | Consumer, code: int, reason: str, now: float) -> None:
        """A link is gone, for whatever reason; what it owed is answered. Delivered exactly once per link."""
        if isinstance(party, Provider):
            self._provider_left(party, code, reason, now)
        else:
            self._consumer_left(party, now)

    def _consumer_left(self, consumer: Consumer, now: float) -> None:
        del self.consumers[consumer]
        self.ledger.consumer_left(consumer)
        if self.offers is not None:
            self.offers.consumer_left(consumer, now)
        for provider in self.providers:
            if provider.greeter is consumer:
                provider.greeter = None
        self._forget_closed()

    def _forget_closed(self) -> None:
        """Take out of every queue what nobody waits for any more: a device that asks and cancels must not fill them."""
        self.greetings.forget_closed()
        for queue in (self._unsettled, self._parked, self._held):
            queue[:] = [parked for parked in queue if is_open(parked.call)]

    def _provider_left(self, provider: Provider, code: int, reason: str, now: float) -> None:
        self.providers.remove(provider)
        if now < self._expected_until(provider):
            self._lost_at = now
        provider.move(Step.LEAVE)
        if self.consumers or not provider.house:  # what the house takes away when nobody asks any more has not died
            self.farewell = Farewell(now, code, reason)
        self.catalog.leave(provider, now)
        if self.offers is not None:
            self.offers.provider_left(provider, now)
        self.ledger.provider_left(provider, self.consumers)
        self.reckon()
        waiting, provider.waiting = provider.waiting, []
        lost = list(provider.pending.calls.values())
        provider.pending.calls.clear()
        # A call refers to its provider: these two would keep it alive.
        provider.greeting = provider.listing = None
        for call in lost:
            if call.consumer is not None and is_open(call):
                if call.method == "tools/list" and self._holds_for(call.consumer):
                    # Its consumer asks once in its life and takes an error for the end: asking again is what it cannot do.
                    self._hold(call)
                elif call.again and call.purpose == REPEATABLE:
                    self._again(call, call.again, now)
                else:
                    self.counters.provider_gone += 1
                    self.ledger.fail(call, errors.PROVIDER_GONE, self._farewell_text(), delivered=True)
        self._redo(waiting, now)
        self.moved(now)
        self.wake_at(now + self.limits.grace_seconds)

    # == frames of consumers ===============================================================================================

    def consumer_says(self, consumer: Consumer, data: bytes, now: float, utf8: bool) -> None:
        """One frame of a consumer."""
        try:
            frame = parse(data, utf8)
            if frame.jsonrpc != "2.0":
                raise Malformed(errors.INVALID_REQUEST, '"jsonrpc" must be "2.0"', id_of(frame))
            if frame.method is UNSET:
                self.ledger.take_from_consumer(consumer, frame, data)
            elif frame.id is UNSET:
                self._consumer_tells(consumer, frame, data, now)
            else:
                self._consumer_asks(consumer, frame, data, now)
        except Malformed as malformed:
            usable = id_key(malformed.id, self.limits.integer_id_chars, self.limits.string_id_bytes)
            consumer.link.send(self.ledger.error(malformed.id if usable else b"null", malformed.code, malformed.why, delivered=False))
            self._bad_frame(consumer, malformed)

    def _bad_frame(self, consumer: Consumer, malformed: Malformed) -> None:
        consumer.bad_frames += 1
        self.counters.bad_frames += 1
        if consumer.bad_frames == 1:
            self.watch.tell("bad frame", self.shown, why=malformed.why)
        if consumer.bad_frames >= self.limits.bad_frames:
            consumer.link.close(*errors.TOO_MANY_BAD_FRAMES)

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
        tool = tool_of(frame, data) if method == "tools/call" and ledger.tap is not None and not consumer.relays else ""
        if self.draining:
            ledger.refuse_busy(consumer, id, "the server is stopping / 服务器正在停止", tool, now)
            return
        seconds = self.settings.call_timeout if method == "tools/call" else self._seconds_for(method)
        call = ledger.accept(consumer, id, key, method, now, seconds, tool)
        if call is None:
            return
        try:
            if self.direct is not None and (method == "tools/call" or method not in OUT_OF_LINE) and not consumer.only:
                self.carry(self.direct, call, frame, data)
            else:
                self._route(call, frame, data, now)
        except Malformed as malformed:
            self.ledger.fail(call, malformed.code, malformed.why, delivered=False)

    def _seconds_for(self, method: str) -> float:
        """How long a request may take."""
        if method == "initialize":
            return self.limits.initialize_seconds
        return self.limits.list_seconds if method in LISTS else self.settings.call_timeout

    def _route(self, call: Call, frame: Frame, data: bytes, now: float, *, patient: bool = True) -> None:
        """Find the way of a request. `patient` is False when it has waited for the catalog long enough."""
        assert call.consumer is not None
        if call.method == "initialize":
            self.greetings.initialize(call, frame, data, now)
        elif call.consumer.only:
            self._route_to_label(call.consumer.only, call, frame, data, now, patient)
        elif call.method == "tools/list" and self.providers and self._waits_for_tools(call, frame, now):
            self.greetings.learn(now)
            self._hold(call)
            self._answer_held(now)
        elif self.sole is not None:
            self._route_to_one(self.sole, call, frame, data, now, patient)
        elif self.providers:
            self._route_among(call, frame, data, now, patient)
        else:
            self._route_to_none(call, frame, data, now)

    def _again(self, call: Call, data: bytes, now: float, *, patient: bool = True) -> None:
        """Find the way of a request that waited."""
        try:
            self._route(call, parse(data, utf8=True), data, now, patient=patient)
        except Malformed as malformed:
            self.ledger.fail(call, malformed.code, malformed.why, delivered=False)

    def _route_to_none(self, call: Call, frame: Frame, data: bytes, now: float) -> None:
        assert call.consumer is not None
        if call.method == "ping":
            self.ledger.answer(call, jsonrpc.result(call.id, b"{}"))
        elif call.method == "tools/list":
            if self.catalog.shelves:
                self._answer_list(call, frame, data)
            elif self._holds_for(call.consumer) and not (call.consumer.patient or call.consumer.asks_once):
                self._hold(call)
            else:
                call.consumer.seen = self.catalog.fingerprint()
                self.ledger.answer(call, jsonrpc.result(call.id, b'{"tools":[]}'))
        elif self.farewell is not None and now < self.farewell.at + self.limits.grace_seconds:
            self._park(call, data, now)
        else:
            self._nobody(call)

    def _route_to_one(self, provider: Provider, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        assert call.consumer is not None
        if provider.state is State.INITIALIZING and provider.greeter is not call.consumer:
            self.greetings.keep(provider, call.consumer, call, data)
        elif call.method == "tools/list" and self._list_is_ours(provider):
            self._list(call, frame, data, now, patient)
        elif call.method == "tools/call":
            self._call_tool(call, frame, data, now, patient)
        elif call.method in SHARED and provider.state is State.READY:
            self._all_offers().share(provider, call, frame, data, now)
        else:
            self.carry(provider, call, frame, data)

    def _all_offers(self) -> Offers:
        """What is offered beside tools; made when it is first needed, because an idle endpoint is kept small."""
        if self.offers is None:
            self.offers = Offers(self)
        return self.offers

    def _route_among(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        if call.method == "tools/list":
            self._list(call, frame, data, now, patient)
        elif self.greetings.plain():
            self.carry(self.providers[-1], call, frame, data)
        elif call.method == "ping":
            self.ledger.answer(call, jsonrpc.result(call.id, b"{}"))
        elif call.method == "tools/call":
            self._call_tool(call, frame, data, now, patient)
        elif not self._all_offers().route(call, frame, data, now, patient):
            self._to_bare(call, frame, data, now, patient, errors.METHOD_NOT_FOUND)

    def _route_to_label(self, label: str, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        """The way of a request whose consumer sees one label only: its tools have their own names there."""
        self.greetings.learn(now)
        if patient and self.greetings.settling():
            self.wait_until_settled(call, data, now)
            return
        here = [provider for provider in self.providers if provider.label == label and provider.state is not State.NEW]
        if call.method == "ping":
            self.ledger.answer(call, jsonrpc.result(call.id, b"{}"))
        elif call.method == "tools/list" and not any(provider.state is State.BARE for provider in here):
            self.ledger.answer(call, jsonrpc.result(call.id, self.catalog.page_of(label, self._cursor(frame), most_of(call))))
        elif call.method == "tools/call":
            name = self._tool_name(frame)
            if name is not None and self._to_replica(label, name, call, frame, data, None):
                pass
            elif here:
                self._grant(call, here[-1], None)
                self.carry(here[-1], call, frame, data)
            elif any(shelf.label == label for shelf in self.catalog.shelves):
                self._park(call, data, now)
            else:
                self._nobody(call)
        elif not here:
            self._nobody(call)
        elif call.method in SHARED and here[-1].state is State.READY:
            self._all_offers().share(here[-1], call, frame, data, now)
        else:
            self.carry(here[-1], call, frame, data)

    @staticmethod
    def _tool_name(frame: Frame) -> str | None:
        """The tool a `tools/call` names."""
        try:
            return _call_decoder.decode(frame.params).name if frame.params is not UNSET else None
        except (msgspec.DecodeError, RecursionError):
            return None

    @staticmethod
    def _cursor(frame: Frame) -> str | None:
        """Where in a list its consumer is."""
        try:
            return _list_decoder.decode(frame.params).cursor if frame.params is not UNSET else None
        except (msgspec.DecodeError, RecursionError):
            return None

    def _call_tool(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        """A `tools/call` goes to the tool its name has always meant here."""
        name = self._tool_name(frame)
        settings = self.settings.tools.get(name) if name is not None else None
        seconds = None if settings is None else settings.timeout
        if name is not None and name not in self.catalog.owners and not self.greetings.settling():
            self.catalog.settle()
        owner = self.catalog.owners.get(name) if name is not None else None
        if owner is None:
            if self.sole is not None:
                self._grant(call, self.sole, seconds)
                self.carry(self.sole, call, frame, data)
            else:
                self._to_bare(call, frame, data, now, patient, errors.INVALID_PARAMS if name is None else _unknown_tool(name))
            return
        assert name is not None
        self.catalog.called[name] = None
        label, tool = owner
        if self._to_replica(label, tool, call, frame, data, seconds, None if tool == name else (("name",), _encode(tool))):
            pass
        elif any(provider.label == label and provider.listed for provider in self.providers):
            self.ledger.fail(call, _unknown_tool(name), "the provider no longer has this tool / 工具端已不再提供此工具", delivered=False)
        elif any(shelf.label == label for shelf in self.catalog.shelves) or (patient and self.greetings.settling()):
            self._park(call, data, now)
        else:
            self._nobody(call)

    def _to_replica(
        self, label: str, tool: str, call: Call, frame: Frame, data: bytes, seconds: float | None, rename: Rename | None = None
    ) -> bool:
        """To the first of those that have the tool now and were not tried; False if it is somebody else's affair."""
        replicas = [shelf for shelf in self.catalog.replicas(label, tool) if shelf.provider not in call.tried]
        if replicas:
            self._grant(call, replicas[0].provider, seconds)
            self._keep_for_replicas(call, data, replicas, tool)
            self.carry(replicas[0].provider, call, frame, data, rename=rename)
        elif call.tried:
            self.counters.provider_gone += 1
            self.ledger.fail(call, errors.PROVIDER_GONE, "every replica was tried / 所有副本都已尝试", delivered=None)
        return bool(replicas or call.tried)

    @staticmethod
    def _grant(call: Call, provider: Provider, seconds: float | None) -> None:
        """How long a call may take: what is set for the tool by its name, else for its provider, else as everywhere."""
        seconds = provider.call_seconds if seconds is None else seconds
        if seconds is not None:
            call.deadline = call.started + seconds

    def _keep_for_replicas(self, call: Call, data: bytes, replicas: list[Shelf], tool: str) -> None:
        """Keep a call as long as somebody else could still answer it: if it may run twice, or if its provider would say that it did not."""
        chosen = replicas[0]
        repeatable = len(replicas) > 1 and len(data) <= KEPT_BYTES and is_repeatable(chosen.tools[tool])
        call.purpose = REPEATABLE if repeatable else ""
        call.again = data if repeatable or (chosen.provider.house and len(replicas) > 1 and len(data) <= KEPT_BYTES) else b""
        if call.again:
            call.tried = (*call.tried, chosen.provider)

    def _to_bare(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool, otherwise: Code) -> None:
        """What the catalog cannot place goes to the newest bare provider."""
        if patient and self.greetings.settling():
            self.wait_until_settled(call, data, now)
        else:
            self.to_bare(call, frame, data, otherwise)

    def to_bare(self, call: Call, frame: Frame, data: bytes, otherwise: Code) -> None:
        """The newest bare provider may know it; `otherwise` is the error if there is none."""
        for provider in reversed(self.providers):
            if provider.state is State.BARE:
                self.carry(provider, call, frame, data)
                return
        self.ledger.fail(call, otherwise, "no provider of this endpoint has it / 此接入点没有工具端提供它", delivered=False)

    # == carrying ==========================================================================================================

    def carry(self, provider: Provider, call: Call, frame: Frame, data: bytes, *, rename: Rename | None = None) -> None:
        """Hand a request to a provider: its id becomes a number of that link, and everything else stays as it came.

        Raises `Malformed` for a frame whose keys are not unambiguous.
        """
        link = provider.link
        if link.queued > self.limits.queued_bytes_per_link:
            self.counters.busy += 1
            self.ledger.fail(call, errors.BUSY, "the tool does not read what it is sent / 工具端没有读取数据", delivered=False)
            return
        if provider is not self.direct or call.method == "tools/list":
            self._before_carrying(provider, call, data)
        number = provider.pending.add(call)
        try:
            first, second = outgoing(call, frame, data, number, rename)
        except Malformed:
            del provider.pending.calls[number]
            raise
        call.provider = provider
        if call.deadline < self.wake:
            self.wake_at(call.deadline)
        self.counters.carried += 1
        link.send(first, second)

    def _before_carrying(self, provider: Provider, call: Call, data: bytes) -> None:
        """What must be known of a request, or told to its provider, before it goes its way."""
        if provider.state is State.NEW:
            provider.carried = True
            if len(data) <= KEPT_BYTES and (not provider.proven or call.method == "tools/list"):
                call.data = data
        elif call.method != "ping" or provider.greeter is not call.consumer:
            self.greetings.finish_handshake(provider)
        if call.method == "tools/list" and call.consumer is not None:
            call.consumer.seen = b"a list that was carried"
            if _asks_for_all(data):
                call.purpose = "whole list"

    def _nobody(self, call: Call) -> None:
        self.counters.no_provider += 1
        self.ledger.fail(call, errors.NO_PROVIDER, self.why_nobody(), delivered=False)

    def why_nobody(self) -> str:
        """Why a call finds no tool, in words for whoever looks at the device."""
        failed = [provider.failed for provider in self.providers if provider.failed]
        if failed:
            return f"greeting failed: {failed[-1]} / 与工具端握手失败：{failed[-1]}"
        hint = self._farewell_text() if self.farewell is not None else "never connected / 从未连接"
        others = self.elsewhere() if not self.providers else 0
        if others:
            hint += f" · {others} tools are connected under another token / 有 {others} 个工具端连接在其他令牌下"
        return hint

    def _farewell_text(self) -> str:
        assert self.farewell is not None
        when = self.farewell.when(self.epoch)
        told = f"{self.farewell.code} {self.farewell.reason}".strip()
        return f"left at {when} with {told} / 已于 {when} 断开，代码 {told}"

    # == frames of providers ===============================================================================================

    def provider_says(self, provider: Provider, data: bytes, now: float, utf8: bool) -> None:
        """One frame of a provider. What is not JSON-RPC is what a stdio server printed: it is dropped, and not answered."""
        translator = provider.translator
        if translator is not None and not translator.speaking:
            translator.hear(data, now, utf8=utf8)
            return
        try:
            try:
                frame = parse(data, utf8)
            except Malformed:
                frame, data = parse_lenient(data, utf8)
            if frame.method is not UNSET:
                if frame.jsonrpc != "2.0":
                    raise Malformed(errors.INVALID_REQUEST, "a method without jsonrpc 2.0: a line of somebody's log")
                if frame.id is UNSET:
                    self._provider_notifies(provider, frame, data, now)
                else:
                    ask = self.ledger.hand_to_consumer(provider, frame, data, now)
                    if ask is not None:
                        self.wake_at(ask.deadline)
                return
            if frame.jsonrpc != "2.0":
                frame, data = parse_lenient(data, utf8=True)
            if frame.error is not UNSET and len(frame.error) == 4 and bytes(frame.error) == b"null":
                # JSON-RPC 1 wrote both keys on every answer: `"error": null` says that there is none.
                data = jsonrpc.splice(data, [jsonrpc.without(data, "error", members(data))])
                frame = parse(data, utf8=True)
            if frame.id is UNSET or (frame.result is UNSET and frame.error is UNSET):
                raise Malformed(errors.INVALID_REQUEST, "neither a request nor an answer")
            id = bytes(frame.id)
            number = int(id) if id.isdigit() and len(id) <= PLAIN_ID_CHARS else number_given_back(id)
            calls = provider.pending.calls
            call = calls.get(number)
            if call is None and len(calls) == 1 and id == b"null" and _could_not_be_read(frame):
                call = next(iter(calls.values()))
            if call is None:
                if provider.pending.was_late(number):
                    self.counters.late_answers += 1
                    provider.doubtful = False
                else:
                    self.counters.unknown_answers += 1
                return
            if call.consumer is None or frame.error is not UNSET or call.purpose or call.data:
                self._slow_answer(provider, call, frame, data, now)
                return
            first, second = with_id(data, frame, call.id)
        except Malformed as malformed:
            self._noise(provider, data, malformed, now)
            unreadable = unread(data, malformed)
            if isinstance(unreadable, Unreadable):
                self._end_unread(provider, unreadable, now)
            return
        del calls[number]
        provider.doubtful = False
        if call.tool and IS_ERROR in data:
            call.outcome = outcome_of(frame, data, ours=provider.house)
        self.ledger.answer(call, first, second)

    def _noise(self, provider: Provider, data: bytes, malformed: Malformed, now: float) -> None:
        provider.noise += 1
        self.counters.noise += 1
        array = malformed.code is errors.INVALID_REQUEST and data.lstrip()[:1] == b"["
        if array and provider.link.queued <= self.limits.queued_bytes_per_link:
            provider.link.send(self.ledger.error(b"null", malformed.code, malformed.why, delivered=False))
        if now >= provider.noise_told + 60:
            provider.noise_told = now
            start = data[:80].decode("utf-8", "backslashreplace")
            self.watch.tell("noise", self.shown, frames=provider.noise, why=malformed.why, start=start, label=provider.label)

    def provider_said_too_much(self, provider: Provider, beginning: bytes, end: bytes, now: float) -> None:
        """An answer above `provider_message_bytes` came, of which only the ends were kept."""
        unreadable = too_large(beginning, end, self.limits.provider_message_bytes)
        if unreadable is not None:
            self._noise(provider, beginning, unreadable, now)
            self._end_unread(provider, unreadable, now)

    def _end_unread(self, provider: Provider, unreadable: Unreadable, now: float) -> None:
        """An answer nobody can read is an answer still: whoever waits for it hears so now, and not at the deadline.

        One that does not show whose it is belongs to the only call in flight; with several of them nobody's is ended by a guess.
        """
        calls = provider.pending.calls
        number = next(iter(calls)) if unreadable.number is None and len(calls) == 1 else unreadable.number
        if number is not None:
            error = self.ledger.error(number_text(number), unreadable.code, unreadable.hint, delivered=True)
            self.provider_says(provider, error, now, True)

    def _slow_answer(self, provider: Provider, call: Call, frame: Frame, data: bytes, now: float) -> None:
        """An answer the endpoint itself has a use for, or one that must be changed. Raises `Malformed` before anything is done."""
        consumer = call.consumer
        first: Part
        second: Part
        if frame.error is not UNSET and frame.result is not UNSET:
            # An error is an error: xiaozhi-server takes any answer with a `result` key for success.
            spans = members(data)
            edits = [jsonrpc.without(data, "result", spans), (spans["id"].start, spans["id"].end, call.id)]
            first, second = jsonrpc.splice(data, edits), b""
        else:
            first, second = with_id(data, frame, call.id)
        del provider.pending.calls[call.number]
        provider.doubtful = False
        if call.purpose == "greeting":
            self.greetings.answered(provider, call, frame, first, second, now)
        elif call.purpose == "list":
            self.greetings.page_answered(provider, call, frame, now)
        elif call.purpose == "offers":
            self._all_offers().page_answered(provider, call, frame, now)
        elif consumer is not None:
            if call.again and provider.house and _may_be_repeated(frame, harmless=call.purpose == REPEATABLE):
                provider.doubtful = True
                self._again(call, call.again, now)
                return
            if frame.error is not UNSET and call.tried and call.method == "tools/list":
                self._hold(call)  # it was asked because nobody else could be; its consumer has no use for an error
                return
            answer, data, call.data = data, call.data, b""
            if data and self.greetings.insists(call, frame) and provider.state in (State.NEW, State.INITIALIZING):
                call.provider = None
                if provider.state is State.NEW:
                    self.greetings.greet(provider, now)
                self.greetings.keep(provider, consumer, call, data)
                if len(self.providers) > 1:
                    self.greetings.learn(now)
                return
            if frame.error is UNSET and call.method != "ping" and not provider.proven:
                provider.proven = True
                self.reckon()
            if call.purpose == "whole list" and frame.result is not UNSET and provider.state is State.READY:
                self.greetings.overhear(provider, consumer, bytes(frame.result))
            if call.tool:
                call.outcome = outcome_of(frame, answer, ours=provider.house)
            self.ledger.answer(call, first, second)

    # == notifications =====================================================================================================

    def _consumer_tells(self, consumer: Consumer, frame: Frame, data: bytes, now: float) -> None:
        """A notification is never answered, not even one that makes no sense (JSON-RPC 2.0 §4.1)."""
        try:
            self._consumer_notifies(consumer, frame, data, now)
        except Malformed as malformed:
            self._bad_frame(consumer, malformed)

    def _consumer_notifies(self, consumer: Consumer, frame: Frame, data: bytes, now: float) -> None:
        method = frame.method
        if method == CANCELLED:
            self._consumer_cancels(consumer, frame, data)
            return
        if frame.params is not UNSET and bytes(frame.params) == b"null":
            data = jsonrpc.splice(data, [jsonrpc.without(data, "params", members(data))])
        sole = self.sole
        if method == INITIALIZED:
            if sole is not None and sole.greeter is consumer and not sole.initialized_sent and sole.state is not State.BARE:
                sole.initialized_sent = True
                sole.link.send(jsonrpc.one_line(data))  # also when its queue is full: it is the only one
                self.reckon()
        elif method == PROGRESS:
            for provider in dict.fromkeys(ask.provider for ask in consumer.asks.values()):
                self.ledger.tell_provider(provider, data)
        elif sole is not None:
            if sole.state is State.INITIALIZING and sole.greeter is not consumer:
                self.greetings.keep(sole, consumer, None, data)
            else:
                self.ledger.tell_provider(sole, data)
        elif self.greetings.plain() and self.providers:
            self.ledger.tell_provider(self.providers[-1], data)
        elif method == "notifications/roots/list_changed":
            for provider in self.providers:
                if provider.state is State.READY:
                    self.ledger.tell_provider(provider, data)
        else:
            bare = [provider for provider in self.providers if provider.state is State.BARE]
            if bare:
                self.ledger.tell_provider(bare[-1], data)
            else:
                self.counters.dropped_notifications += 1

    def _consumer_cancels(self, consumer: Consumer, frame: Frame, data: bytes) -> None:
        """The newest call of that id gets no answer any more, and its provider hears the number it knows."""
        spans = members(data)
        place = jsonrpc.place_in_params(data, spans, "requestId") if "params" in spans else None
        key = None if place is None else id_key(data[place.start : place.end], self.limits.integer_id_chars, self.limits.string_id_bytes)
        for call in reversed(consumer.owed):
            if call.key == key and call.method != "initialize":
                break
        else:
            return
        self.ledger.strike(call)
        if call.provider is not None:
            call.provider.pending.give_up(call.number)
            assert place is not None
            self.ledger.tell_provider(call.provider, jsonrpc.splice(data, [(place.start, place.end, number_text(call.number))]))
        else:
            self._forget_closed()

    def _provider_notifies(self, provider: Provider, frame: Frame, data: bytes, now: float) -> None:
        method = frame.method
        if method == PROGRESS:
            self._progress(provider, data, now)
        elif method == CANCELLED:
            self.ledger.withdraw(provider, self.consumers, data)
        elif method == LIST_CHANGED and not (self.sole is provider and self.greetings.is_bare(provider)):
            if provider.state is State.READY:
                self.greetings.list_tools(provider, now)
            else:
                provider.list_changed = True
        else:
            self._tell_consumers(provider, method, data)

    def _tell_consumers(self, provider: Provider, method: str | msgspec.UnsetType, data: bytes) -> None:
        """What is for nobody in particular is for everybody, but for what somebody asked for or does not want to hear."""
        hearers = list(self.consumers)
        if method == MESSAGE:
            asking = {call.consumer for call in provider.pending.calls.values() if call.consumer is not None}
            if len(asking) == 1:
                hearers = list(asking)
            if self.offers is not None:
                hearers = self.offers.hearers(data, hearers)
        elif self.offers is not None:
            if method == UPDATED and self.offers.updated(provider, data):
                return
            if method in CHANGED:
                self.offers.changed(provider, str(method))
        for consumer in hearers:
            self.ledger.tell_consumer(consumer, data)

    def _progress(self, provider: Provider, data: bytes, now: float) -> None:
        """Progress goes to whoever gave the token, with its own token, and the call may take that much longer."""
        spans = members(data)
        place = jsonrpc.place_in_params(data, spans, "progressToken") if "params" in spans else None
        call = provider.pending.calls.get(number_of(data[place.start : place.end])) if place is not None else None
        if call is None or call.consumer is None or not call.token:
            self.counters.dropped_notifications += 1
            return
        assert place is not None
        call.deadline = max(call.deadline, min(now + self.settings.call_timeout, call.started + self.limits.progress_seconds))
        self.ledger.tell_consumer(call.consumer, jsonrpc.splice(data, [(place.start, place.end, call.token)]))

    # == greeting ==========================================================================================================

    def greeting_ended(self, provider: Provider, now: float) -> None:
        """A greeting has ended, well or not: whoever waited for it goes on."""
        self.reckon()
        self.greetings.settle()
        if self.offers is not None:
            self.offers.ready(provider, now)
        waiting, provider.waiting = provider.waiting, []
        provider.waiting_bytes = 0
        self._redo(waiting, now)
        self.moved(now)

    def _redo(self, waiting: Iterable[Waiting], now: float) -> None:
        for frame in waiting:
            if frame.call is not None:
                self._again(frame.call, frame.data, now)
            else:
                self.consumer_says(frame.consumer, frame.data, now, True)

    # == lists =============================================================================================================

    def _list_is_ours(self, provider: Provider) -> bool:
        """Whether one provider's own list would show names that mean something else here, or miss tools that may come back."""
        others = any(shelf.provider is not provider for shelf in self.catalog.shelves)
        if provider.state is not State.READY:
            return others
        return others or not self.catalog.plain_for(provider.label)

    def _list(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        """A list from all catalogs, as soon as they are complete or `merged_list_seconds` have passed."""
        self.greetings.learn(now)
        if patient and self.greetings.settling():
            self.wait_until_settled(call, data, now)
        else:
            self._answer_list(call, frame, data)

    def _answer_list(self, call: Call, frame: Frame, data: bytes) -> None:
        consumer = call.consumer
        bare = [provider for provider in self.providers if provider.state is State.BARE]
        if bare and not self.catalog.shelves:
            self.carry(bare[-1], call, frame, data)
            return
        missing = [provider.label or provider.server_id or "tool" for provider in self.providers if self.greetings.is_missing(provider)]
        body = self.catalog.page(self._cursor(frame), missing, most_of(call))
        assert consumer is not None
        consumer.seen = self.catalog.fingerprint()
        self.reckon()
        self.ledger.answer(call, jsonrpc.result(call.id, body))

    def moved(self, now: float) -> None:
        """Something changed that waiting requests may have waited for."""
        self.reckon()
        self.greetings.settle()
        if not self.greetings.settling():
            waiting, self._unsettled = self._unsettled, []
            for parked in waiting:
                self._again(parked.call, parked.data, now)
        self._retry_parked(now)
        self._answer_held(now)
        self._tell_changes(now)

    def _tell_changes(self, now: float) -> None:
        """`list_changed` for every consumer whose list is another than the one it knows; at most one a second."""
        if not self.announce or self.greetings.settling():
            return
        due = self._announced + self.limits.list_changed_seconds
        if now < due:
            self.wake_at(due)
            return
        self.announce = False
        fingerprint = self.catalog.fingerprint()
        if self.catalog.full:
            self.watch.tell("no names left", self.shown, names=len(self.catalog.owners))
        self.reckon()
        for consumer in self.consumers:
            if not consumer.seen and self.sole is not None:
                consumer.seen = fingerprint  # it knows no list yet, and its only provider told its tools for the first time
            if consumer.initialized and consumer.seen != fingerprint:
                self._announced = now
                consumer.seen = fingerprint
                self.ledger.tell_consumer(consumer, jsonrpc.notification(LIST_CHANGED))

    # == holding and parking ===============================================================================================

    def _holds_for(self, consumer: Consumer) -> bool:
        names = self.settings.hold_empty_list_for
        known = consumer.patient or consumer.asks_once or any(fnmatchcase(consumer.name, name) for name in names)
        return known and not self.draining

    @property
    def holding(self) -> bool:
        """Whether a list is held until the providers have told their tools."""
        return bool(self._held)

    def _waits_for_tools(self, call: Call, frame: Frame, now: float) -> bool:
        """Whether a list must be held; one that need not be has no deadline either, and one with a cursor goes on with what it got."""
        assert call.consumer is not None
        if not self._holds_for(call.consumer) or self._cursor(frame) is not None:
            return False
        call.deadline = NEVER
        if call.consumer.patient:
            return not any(provider.answered for provider in self.providers)
        sole = self.sole
        if sole is not None and (sole.answered or sole.state is not State.BARE) and not self._list_is_ours(sole):
            return now < self._quiet_at()  # it is carried, and answered whenever this one provider answers
        return now < self._held_until(now)

    def _quiet_at(self) -> float:
        """When nobody has come for a moment, nor is expected back.

        A provider that left before it told its tools is expected back as long as a call waits for a lost tool.
        """
        return max(self._attached_at + self.limits.hold_quiet_seconds, self._lost_at + self.limits.grace_call_seconds)

    def _take_back_lists(self) -> None:
        """Hold what was carried to a provider that is not alone any more, or that need not answer any more; it hears nothing of it."""
        for provider in self.providers:
            for call in [call for call in provider.pending.calls.values() if call.consumer is not None and call.deadline == NEVER]:
                provider.pending.give_up(call.number)
                self._hold(call)

    def _hold(self, call: Call) -> None:
        call.provider = None
        call.deadline = NEVER
        self._held.append(Parked(call, jsonrpc.request(b"0", "tools/list", b"{}"), NEVER))

    def _expected_until(self, provider: Provider) -> float:
        """How long a held list waits for a provider that has not answered its greeting or its first list."""
        return -NEVER if provider.answered else max(provider.since, provider.greeted) + self.settings.hold_seconds

    def _held_until(self, now: float) -> float:
        """When the held lists are answered if nothing changes; NEVER as long as there is nobody who could.

        When somebody could, and nobody is expected any more. Whoever comes and goes again and again keeps the others' tools back no longer
        than twice the time that a silent one does.
        """
        seconds = self.settings.hold_seconds
        if not any(provider.answered or provider.state is State.BARE for provider in self.providers):
            self._ready_at = NEVER
            return NEVER
        self._ready_at = min(self._ready_at, now)
        due = max(self._quiet_at(), *(self._expected_until(provider) for provider in self.providers))
        return min(due, self._ready_at + 2 * seconds)

    def _answer_held(self, now: float) -> None:
        """Answer the held lists if it is time; one of a patient consumer as soon as somebody has told its tools."""
        if not self._held:
            return
        due = self._held_until(now)
        told = any(provider.answered for provider in self.providers)
        held, self._held = self._held, []
        for parked in held:
            call = parked.call
            assert call.consumer is not None
            if now < due and not (told and call.consumer.patient):
                self._held.append(parked)
                self.wake_at(due)
                continue
            bare = [provider for provider in self.providers if provider.state is State.BARE and provider not in call.tried]
            if self.catalog.shelves:
                self._answer_list(call, parse(parked.data, utf8=True), parked.data)
            elif bare:
                call.tried = (*call.tried, bare[-1])
                self.carry(bare[-1], call, parse(parked.data, utf8=True), parked.data)
            else:
                self._held.append(parked)
        if now >= due:
            self._ready_at = NEVER

    def _park(self, call: Call, data: bytes, now: float) -> None:
        """Let a call wait a moment for its provider to come back."""
        until = call.started + self.limits.grace_call_seconds
        if now >= until or self.draining:
            self._nobody(call)
            return
        self._postpone(self._parked, call, data, now, until)

    def wait_until_settled(self, call: Call, data: bytes, now: float) -> None:
        """Let a request wait until what it is about is known, `merged_list_seconds` at most."""
        self._postpone(self._unsettled, call, data, now, min(call.started + self.limits.merged_list_seconds, call.deadline))

    def _postpone(self, queue: list[Parked], call: Call, data: bytes, now: float, until: float) -> None:
        """Let a request wait in a queue; together they may hold as many bytes as a link's queue.

        Only what has just come is weighed: what waited before has been, and is put back often.
        """
        fresh = call.started >= now
        if fresh and sum(len(parked.data) for parked in (*self._unsettled, *self._parked)) + len(data) > self.limits.queued_bytes_per_link:
            self.counters.busy += 1
            self.ledger.fail(call, errors.BUSY, "too much waits for this endpoint's tools / 等待此接入点工具的数据过多", delivered=False)
            return
        queue.append(Parked(call, data, until))
        self.wake_at(until)

    def _retry_parked(self, now: float) -> None:
        if not self._parked or not self.providers or self.greetings.settling():
            return
        waiting, self._parked = self._parked, []
        for parked in waiting:
            self._again(parked.call, parked.data, now)

    # == time ==============================================================================================================

    def deadline(self) -> float:
        """When `expire` must be called at the latest; it may be early, never late. Infinity if nothing waits."""
        return self.wake

    def wake_at(self, when: float) -> None:
        if when < self.wake:
            self.wake = when
            self.arm(self)

    def expire(self, now: float) -> None:
        """Do what time demands: answer what waited too long, forget what was kept long enough."""
        limits = self.limits
        self.wake = NEVER
        for provider in list(self.providers):
            if provider.translator is not None:
                provider.translator.flush(now)
            for call in [call for call in provider.pending.calls.values() if call.deadline <= now]:
                self._expire_call(provider, call, now)
            for waiting in list(provider.waiting):
                if waiting.call is not None and waiting.call.deadline <= now:
                    provider.waiting.remove(waiting)
                    provider.waiting_bytes -= len(waiting.data)
                    self.ledger.timed_out(waiting.call, delivered=False)
        for consumer in self.consumers:
            self.ledger.expire_asks(consumer, now)
        late, self.greetings.waiting = _due(self.greetings.waiting, now)
        for parked in late:
            self.greetings.welcome(parked.call)
        late, self._unsettled = _due(self._unsettled, now)
        for parked in late:
            self._again(parked.call, parked.data, now, patient=False)
        late, self._parked = _due(self._parked, now)
        for parked in late:
            self._nobody(parked.call)
        if self.catalog.sweep(now - limits.grace_seconds):
            self.announce = True
        self.moved(now)
        # Rounded up to 20 ms, so that a flood of staggered deadlines costs a bounded number of rounds.
        self.wake = max(self._earliest(), now + 0.02)

    def _earliest(self) -> float:
        times = [self.wake]
        for provider in self.providers:
            times += [call.deadline for call in provider.pending.calls.values()]
            times += [waiting.call.deadline for waiting in provider.waiting if waiting.call is not None]
        for consumer in self.consumers:
            times += [ask.deadline for ask in consumer.asks.values()]
        for queue in (self.greetings.waiting, self._unsettled, self._parked):
            times += [parked.until for parked in queue]
        times += [shelf.left + self.limits.grace_seconds for shelf in self.catalog.shelves if shelf.left is not None]
        return min(times)

    def _expire_call(self, provider: Provider, call: Call, now: float) -> None:
        if call.purpose == "greeting" and provider.translator is not None and provider.translator.give_up():
            call.deadline = now + self.limits.greeting_seconds  # it may know the handshake yet
        elif call.purpose == "greeting":
            # It stays in the table without a deadline: a result that comes late still makes the provider ready.
            call.deadline = NEVER
            self.greetings._fail(provider, "it did not answer initialize in time")
            self.greeting_ended(provider, now)
        elif call.purpose == "list" and not provider.listed and not provider.paged:
            # The same with its first list: whoever must have all tools still waits for it, the others do not.
            call.deadline = NEVER
            self.watch.tell("no list", self.shown, label=provider.label)
            self.moved(now)
        elif call.purpose == "list":
            self.ledger.cancel(call, "timed out")
            self.watch.tell("no list", self.shown, label=provider.label)
            self.greetings.listing_ended(provider, now)
        elif call.purpose == "offers":
            self.ledger.cancel(call, "timed out")
            self._all_offers().listing_ended(provider, KINDS[call.method], now)
        elif call.consumer is None:
            provider.pending.give_up(call.number)
        else:
            provider.doubtful = True
            self.ledger.cancel(call, "timed out")
            self.ledger.timed_out(call, delivered=True)

    # == the end ===========================================================================================================

    def drain(self, now: float) -> None:
        """Take no new work: what is held or parked is answered, what is with a provider goes on unless a person must answer first."""
        self.draining = True
        for consumer in [consumer for consumer in self.consumers if consumer.thinking]:
            for call in list(consumer.owed):
                if call.provider is not None:
                    self.ledger.cancel(call, "the server is stopping")
                self.ledger.fail(call, errors.PROVIDER_GONE, "the server is stopping / 服务器正在停止", delivered=call.provider is not None)
        self._take_back_lists()
        for queue in (self._held, self._parked, self._unsettled, self.greetings.waiting):
            waiting = list(queue)
            queue.clear()
            for parked in waiting:
                if parked.call.method == "initialize":
                    self.greetings.welcome(parked.call)
                elif parked.call.method == "tools/list":
                    self.ledger.answer(parked.call, jsonrpc.result(parked.call.id, self.catalog.page(None, [], most_of(parked.call))))
                else:
                    self._nobody(parked.call)

    def forget(self) -> None:
        """Nobody is here any more: keep nothing of what they brought."""
        self.catalog.shelves.clear()
        self.catalog.changed()
        self.offers = None

    def finish(self) -> None:
        """Answer whatever is still owed: nobody will come back for it."""
        for consumer in self.consumers:
            for call in list(consumer.owed):
                self.counters.provider_gone += 1
                hint = "the server is stopping / 服务器正在停止"
                self.ledger.fail(call, errors.PROVIDER_GONE, hint, delivered=call.provider is not None)

    # == looking in ========================================================================================================

    def reckon(self) -> None:
        """Find out anew who is alone here, and whether it takes everything as it is."""
        self.sole = self.providers[0] if len(self.providers) == 1 else None
        self.direct = None
        provider = self.sole
        if provider is None or self.settings.tools or provider.call_seconds is not None:
            return
        if any(shelf.provider is not provider for shelf in self.catalog.shelves):
            return
        if provider.state is State.READY:
            if provider.initialized_sent and self.catalog.plain_for(provider.label):
                self.direct = provider
        elif self.catalog.owners:
            return
        elif provider.state is State.BARE or (provider.state is State.NEW and provider.proven and self.greetings.plain()):
            self.direct = provider

    def tool_named(self, name: str, only: str) -> Tool | None:
        """The tool that a name means here, for a consumer that sees `only` one label ("": all)."""
        self.catalog.settle()
        label, own = (only, name) if only else self.catalog.owners.get(name, ("", ""))
        replicas = self.catalog.replicas(label, own)
        return replicas[0].tools[own] if replicas else None

    def describe(self, now: float) -> dict[str, Any]:
        """What an operator may know of this endpoint, ready for JSON; no secret is in it."""
        described: dict[str, Any] = {
            "endpoint": self.shown,
            "in_flight": self.ledger.in_flight,
            "tools": [
                {
                    "label": provider.label or provider.server_id,
                    "state": _shown_state(provider),
                    "connected_seconds": round(now - provider.since, 1),
                    "in_flight": len(provider.pending.calls),
                    "doubtful": provider.doubtful,
                    "functions": self._exported_by(provider),
                    "why_bare": provider.failed,
                }
                for provider in self.providers
            ],
            "devices": [_described(consumer, now) for consumer in self.consumers if not consumer.in_house],
            "sessions": [_described(consumer, now) for consumer in self.consumers if consumer.in_house],
        }
        if self.farewell is not None:
            described["last_goodbye"] = self.farewell.describe(self.epoch)
        return described

    def _exported_by(self, provider: Provider) -> list[str]:
        shelf = self.catalog.shelf_of(provider)
        if shelf is None:
            return []
        return [self.catalog.exported.get((shelf.label, name), name) for name in shelf.tools]


def _described(consumer: Consumer, now: float) -> dict[str, Any]:
    """What an operator may know of a consumer."""
    return {
        "client": consumer.name,
        "initialized": consumer.initialized,
        "connected_seconds": round(now - consumer.since, 1),
        "in_flight": len(consumer.owed),
    }


def _unknown_tool(name: str) -> Code:
    """-32602 that says which tool is not there: of an error, a device tells its user the message alone."""
    shown = name[:NAME_CHARS]
    return Code(errors.INVALID_PARAMS.number, f"没有名为 {shown} 的工具 / Unknown tool: {shown}")


class _Told(msgspec.Struct):
    delivered: bool | None = None


class _BrokersError(msgspec.Struct):
    code: int
    data: _Told | None = None


_brokers_error_decoder: Final = msgspec.json.Decoder(_BrokersError)


NAMELESS: Final = (errors.PARSE_ERROR.number, errors.UNREADABLE_ANSWER.number, errors.ANSWER_TOO_BIG.number)
"""Errors that may come without the id of their request: whoever sends them could not read what was said."""


def _could_not_be_read(frame: Frame) -> bool:
    """Whether an error is about a message that could not be read, so that it names no request."""
    try:
        return frame.error is not UNSET and _brokers_error_decoder.decode(frame.error).code in NAMELESS
    except (msgspec.DecodeError, RecursionError):
        return False


def _may_be_repeated(frame: Frame, *, harmless: bool) -> bool:
    """Whether a provider of the house says that it reached nobody; or, if a second time does no harm, that nobody will answer."""
    if frame.error is UNSET:
        return False
    try:
        error = _brokers_error_decoder.decode(frame.error)
    except (msgspec.DecodeError, RecursionError):
        return False
    if error.code == errors.PROVIDER_GONE.number:
        return harmless and error.data is not None
    return error.code == errors.NO_PROVIDER.number and error.data is not None and error.data.delivered is False


def _shown_state(provider: Provider) -> str:
    """How far a provider is, for an operator; one that stands for a managed server is no further than that server."""
    if provider.behind is None or provider.state not in (State.READY, State.BARE):
        return provider.state.value
    if not provider.behind.providers:
        return "down"
    usable = any(one.state in (State.READY, State.BARE) for one in provider.behind.providers)
    return provider.state.value if usable else State.INITIALIZING.value


def _asks_for_all(data: bytes) -> bool:
    """Whether a `tools/list` asks for the whole list: no cursor, and no parameter that some server may take for a filter."""
    params = parse(data, utf8=True).params
    if params is UNSET:
        return True
    try:
        return _fields_decoder.decode(params).keys() <= {"_meta"}
    except (msgspec.DecodeError, RecursionError):
        return bytes(params) == b"null"


def _due(queue: list[Parked], now: float) -> tuple[list[Parked], list[Parked]]:
    """What waited until `now` or longer, and the rest."""
    return [parked for parked in queue if parked.until <= now], [parked for parked in queue if parked.until > now]
