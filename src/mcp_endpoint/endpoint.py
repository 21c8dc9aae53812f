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
     `_held`             a first list on an empty endpoint         until a provider came, or the drain
5. `direct` is the short way: the provider that takes everything as it is. It is reckoned anew whenever a link, a state or a name
   changes, so that the way of a frame costs two look-ups.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from msgspec import UNSET

from . import errors, jsonrpc
from .calls import NEVER, Ask, Call, Consumer, Counters, Link, is_open, number_of, number_text
from .catalog import Catalog, read_page
from .config import EndpointSettings, Limits
from .errors import Code
from .greeting import (
    CAPABILITIES_OF_ASKS,
    CAPABILITIES_OF_METHODS,
    Provider,
    State,
    Step,
    Waiting,
    own_hello,
    own_welcome,
    read_hello,
    read_welcome,
    welcome_from,
)
from .jsonrpc import Frame, Malformed, Part, id_key, members, parse, with_id

LISTS: Final = frozenset({"tools/list", "resources/list", "resources/templates/list", "prompts/list"})
INITIALIZED: Final = "notifications/initialized"
CANCELLED: Final = "notifications/cancelled"
PROGRESS: Final = "notifications/progress"
LIST_CHANGED: Final = "notifications/tools/list_changed"

_encode: Final = msgspec.json.Encoder().encode


class Watch(Protocol):
    """Who is told of what is rare enough to be told; never of a single good frame."""

    def tell(self, event: str, shown: str, **fields: object) -> None:
        """`event` is a word, `shown` the endpoint's printable name; the fields hold no secret."""


class Farewell(NamedTuple):
    """When and how the last provider left; `at` is on the heart's clock."""

    at: float
    code: int
    reason: str


class Parked(msgspec.Struct, eq=False, gc=False):
    """A request that waits for something the endpoint will know at `until` at the latest."""

    call: Call
    data: bytes
    until: float


class _CallParams(msgspec.Struct):
    name: str


class _ListParams(msgspec.Struct):
    cursor: str | None = None


class _ErrorBody(msgspec.Struct):
    code: int


_call_decoder: Final = msgspec.json.Decoder(_CallParams)
_list_decoder: Final = msgspec.json.Decoder(_ListParams)
_error_decoder: Final = msgspec.json.Decoder(_ErrorBody)


class Endpoint:
    """A named place where consumers find providers; its name is what a token opens to."""

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
    ) -> None:
        """`epoch` is what must be added to `now` to get seconds since 1970; `elsewhere` counts the tools of other endpoints.

        `arm` is told when `deadline` has moved to an earlier time.
        """
        self.name = name
        self.shown = shown
        self.settings = settings
        self.limits = limits
        self.counters = counters
        self.watch = watch
        self.version = version
        self.epoch = epoch
        self.elsewhere = elsewhere
        self.farewell = farewell
        self.arm = arm
        self.providers: list[Provider] = []
        self.consumers: dict[Consumer, None] = {}
        self.catalog = Catalog(limits.tools_per_endpoint, limits.list_page_bytes)
        self.direct: Provider | None = None
        self.in_flight = 0
        self.draining = False
        self.wake = NEVER
        self.armed = NEVER  # the broker's own note of when it will come back
        self._sole: Provider | None = None
        self._attached = 0
        self._initializes: list[Parked] = []
        self._unsettled: list[Parked] = []
        self._parked: list[Parked] = []
        self._held: list[Parked] = []
        self._first_greeting = NEVER
        self._last_greeting = -NEVER
        self._announce = False
        self._announced = -NEVER
        self._timeouts = {"initialize": limits.initialize_seconds, **dict.fromkeys(LISTS, limits.list_seconds)}
        self._call_timeout = settings.call_timeout

    # == links =============================================================================================================

    @property
    def empty(self) -> bool:
        """Whether nobody is attached."""
        return not self.providers and not self.consumers

    def attach_consumer(self, link: Link, now: float, *, answer_bytes: int | None = None) -> Consumer:
        """Somebody who asks is here. `answer_bytes` bounds what it can take in one answer (default: what a device can)."""
        limit = self.limits.device_answer_bytes if answer_bytes is None else answer_bytes
        consumer = Consumer(self, link, limit, now, self.consumer_says)
        self.consumers[consumer] = None
        return consumer

    def attach_provider(self, link: Link, now: float, *, server_id: str = "") -> Provider:
        """Somebody who answers is here. Nobody is sent away for it; the others only have to show that they still live."""
        for other in self.providers:
            other.link.ping()
        self._attached += 1
        provider = Provider(self, link, server_id, self._attached, now, self.limits.late_answers, self.provider_says)
        self.providers.append(provider)
        self._reckon()
        if self._plain():
            self._retry_parked(now)
        elif len(self.providers) > 1 or any(consumer.initialized for consumer in self.consumers):
            self._learn(now)
        return provider

    def detach(self, party: Provider | Consumer, code: int, reason: str, now: float) -> None:
        """A link is gone, for whatever reason; what it owed is answered. Delivered exactly once per link."""
        if isinstance(party, Provider):
            self._provider_left(party, code, reason, now)
        else:
            self._consumer_left(party)

    def _consumer_left(self, consumer: Consumer) -> None:
        del self.consumers[consumer]
        for call in consumer.owed:
            if call.provider is not None:
                self._cancel(call, "the consumer left")
        self.in_flight -= len(consumer.owed)
        consumer.owed.clear()
        for ask in consumer.asks.values():
            self._refuse_ask(ask.provider, ask.id, "the consumer left")
        consumer.asks.clear()
        for provider in self.providers:
            if provider.greeter is consumer:
                provider.greeter = None

    def _provider_left(self, provider: Provider, code: int, reason: str, now: float) -> None:
        self.providers.remove(provider)
        provider.move(Step.LEAVE)
        self.farewell = Farewell(now, code, reason)
        if not self.providers:
            self._first_greeting = NEVER
        self.catalog.leave(provider, now)
        for consumer in self.consumers:
            for number in [number for number, ask in consumer.asks.items() if ask.provider is provider]:
                del consumer.asks[number]
                consumer.link.send(jsonrpc.notification(CANCELLED, {"requestId": number, "reason": "the provider left"}))
        self._reckon()
        waiting, provider.waiting = provider.waiting, deque()
        lost = list(provider.pending.calls.values())
        provider.pending.calls.clear()
        for call in lost:
            if call.consumer is not None and is_open(call):
                if call.method == "tools/list" and self._holds_for(call.consumer) and not self.providers:
                    # Its consumer asks once in its life and takes an error for the end: asking again is what it cannot do.
                    self._hold(call, now)
                else:
                    self.counters.provider_gone += 1
                    self._fail(call, errors.PROVIDER_GONE, self._farewell_text(), delivered=True)
        self._redo(waiting, now)
        self._moved(now)
        self._wake_at(now + self.limits.grace_seconds)

    # == frames of consumers ===============================================================================================

    def consumer_says(self, consumer: Consumer, data: bytes, now: float, utf8: bool) -> None:
        """One frame of a consumer."""
        try:
            frame = parse(data, utf8=utf8)
            if frame.jsonrpc != "2.0":
                raise Malformed(errors.INVALID_REQUEST, '"jsonrpc" must be "2.0"', _id_of(frame))
            if frame.method is UNSET:
                self._consumer_answers(consumer, frame, data)
            elif frame.id is UNSET:
                self._consumer_notifies(consumer, frame, data, now)
            else:
                self._consumer_asks(consumer, frame, data, now)
        except Malformed as malformed:
            self._bad_frame(consumer, malformed)

    def _bad_frame(self, consumer: Consumer, malformed: Malformed) -> None:
        consumer.bad_frames += 1
        self.counters.bad_frames += 1
        usable = id_key(malformed.id, self.limits.integer_id_chars, self.limits.string_id_bytes)
        consumer.link.send(self._error(malformed.id if usable else b"null", malformed.code, malformed.why, delivered=False))
        if consumer.bad_frames == 1:
            self.watch.tell("bad frame", self.shown, why=malformed.why)
        if consumer.bad_frames >= self.limits.bad_frames:
            consumer.link.close(*errors.TOO_MANY_BAD_FRAMES)

    def _consumer_asks(self, consumer: Consumer, frame: Frame, data: bytes, now: float) -> None:
        assert frame.id is not UNSET and frame.method is not UNSET
        limits = self.limits
        id = bytes(frame.id)
        key = id_key(id, limits.integer_id_chars, limits.string_id_bytes)
        if key is None:
            raise Malformed(errors.INVALID_REQUEST, "an id is an integer or a string, and not longer than the limits")
        if frame.result is not UNSET or frame.error is not UNSET:
            raise Malformed(errors.INVALID_REQUEST, "a request has no result and no error", id)
        method = frame.method
        if len(consumer.owed) >= limits.in_flight_per_consumer or self.in_flight >= limits.in_flight_per_endpoint or self.draining:
            self.counters.busy += 1
            hint = "the server is stopping / 服务器正在停止" if self.draining else "too many requests in flight / 未完成的请求过多"
            consumer.link.send(self._error(id, errors.BUSY, hint, delivered=False))
            return
        self.counters.requests += 1
        call = Call(consumer, id, key, method, now, now + self._timeouts.get(method, self._call_timeout))
        consumer.owed[call] = None
        self.in_flight += 1
        try:
            if self.direct is not None and method != "initialize":
                self._carry(self.direct, call, frame, data)
            else:
                self._route(call, frame, data, now)
        except Malformed as malformed:
            self._fail(call, malformed.code, malformed.why, delivered=False)

    def _route(self, call: Call, frame: Frame, data: bytes, now: float, *, patient: bool = True) -> None:
        """Find the way of a request. `patient` is False when it has waited for the catalog long enough."""
        if call.method == "initialize":
            self._initialize(call, frame, data, now)
        elif self._sole is not None:
            self._route_to_one(self._sole, call, frame, data, now, patient)
        elif self.providers:
            self._route_among(call, frame, data, now, patient)
        else:
            self._route_to_none(call, frame, data, now)

    def _again(self, call: Call, data: bytes, now: float, *, patient: bool = True) -> None:
        """Find the way of a request that waited, unless it was cancelled meanwhile."""
        if not is_open(call):
            return
        try:
            self._route(call, parse(data, utf8=True), data, now, patient=patient)
        except Malformed as malformed:
            self._fail(call, malformed.code, malformed.why, delivered=False)

    def _route_to_none(self, call: Call, frame: Frame, data: bytes, now: float) -> None:
        assert call.consumer is not None
        if call.method == "ping":
            self._answer(call, jsonrpc.result(call.id, b"{}"))
        elif call.method == "tools/list":
            if self.catalog.shelves:
                self._answer_list(call, frame, data)
            elif self._holds_for(call.consumer):
                self._hold(call, now)
            else:
                call.consumer.seen = self.catalog.fingerprint()
                self._answer(call, jsonrpc.result(call.id, b'{"tools":[]}'))
        elif self.farewell is not None and now < self.farewell.at + self.limits.grace_seconds:
            self._park(call, data, now)
        else:
            self._nobody(call)

    def _route_to_one(self, provider: Provider, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        assert call.consumer is not None
        state = provider.state
        if state is State.NEW and call.consumer.initialized:
            self._greet(provider, now)
            state = provider.state
        if state is State.INITIALIZING and provider.greeter is not call.consumer:
            self._wait(provider, call.consumer, call, data)
        elif call.method == "tools/list" and self._list_is_ours(provider):
            self._list(call, frame, data, now, patient)
        elif call.method == "tools/call":
            self._call_tool(call, frame, data, now, patient)
        else:
            self._carry(provider, call, frame, data)

    def _route_among(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        if call.method == "tools/list":
            self._list(call, frame, data, now, patient)
        elif self._plain():
            self._carry(self.providers[-1], call, frame, data)
        elif call.method == "ping":
            self._answer(call, jsonrpc.result(call.id, b"{}"))
        elif call.method == "tools/call":
            self._call_tool(call, frame, data, now, patient)
        else:
            capability = CAPABILITIES_OF_METHODS.get(call.method.partition("/")[0], "")
            for provider in reversed(self.providers):
                if provider.state is State.READY and provider.welcome is not None and capability in provider.welcome.capabilities:
                    self._carry(provider, call, frame, data)
                    return
            self._to_bare(call, frame, data, now, patient, errors.METHOD_NOT_FOUND)

    def _call_tool(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        """A `tools/call` goes to the tool its name has always meant here."""
        try:
            name = _call_decoder.decode(frame.params).name if frame.params is not UNSET else None
        except (msgspec.DecodeError, RecursionError):
            name = None
        tool_settings = self.settings.tools.get(name) if name is not None else None
        if tool_settings is not None:
            call.deadline = call.started + tool_settings.timeout
        if name is not None and name not in self.catalog.owners and not self._settling():
            self.catalog.settle()
        owner = self.catalog.owners.get(name) if name is not None else None
        if owner is None:
            if self._sole is not None:
                self._carry(self._sole, call, frame, data)
            else:
                self._to_bare(call, frame, data, now, patient, errors.INVALID_PARAMS)
            return
        label, tool = owner
        replicas = self.catalog.replicas(label, tool)
        if replicas:
            self._carry(replicas[0].provider, call, frame, data, name=None if tool == name else _encode(tool))
        elif any(provider.label == label and provider.listed for provider in self.providers):
            self._fail(call, errors.INVALID_PARAMS, "the provider no longer has this tool / 工具端已不再提供此工具", delivered=False)
        elif any(shelf.label == label for shelf in self.catalog.shelves) or (patient and self._settling()):
            self._park(call, data, now)
        else:
            self._nobody(call)

    def _to_bare(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool, otherwise: Code) -> None:
        """What the catalog cannot place goes to the newest bare provider."""
        if patient and self._settling():
            self._unsettled.append(Parked(call, data, now + self.limits.merged_list_seconds))
            self._wake_at(now + self.limits.merged_list_seconds)
            return
        for provider in reversed(self.providers):
            if provider.state is State.BARE:
                self._carry(provider, call, frame, data)
                return
        self._fail(call, otherwise, "no provider of this endpoint has it / 此接入点没有工具端提供它", delivered=False)

    # == carrying ==========================================================================================================

    def _carry(self, provider: Provider, call: Call, frame: Frame, data: bytes, *, name: bytes | None = None) -> None:
        """Hand a request to a provider: its id becomes a number of that link, and everything else stays as it came.

        Raises `Malformed` for a frame whose keys are not unambiguous.
        """
        link = provider.link
        if link.queued > self.limits.queued_bytes_per_link:
            self.counters.busy += 1
            self._fail(call, errors.BUSY, "the tool does not read what it is sent / 工具端没有读取数据", delivered=False)
            return
        if provider.state is not State.READY:
            if provider.state is State.NEW:
                provider.carried = True
                if not provider.proven or call.method == "tools/list":
                    call.data = data
        elif not provider.initialized_sent and not (call.method == "ping" and provider.greeter is call.consumer):
            self._finish_handshake(provider)
        if call.method == "tools/list" and b'"cursor"' not in data:
            call.purpose = "whole list"
        number = provider.pending.add(call)
        try:
            first, second = self._outgoing(call, frame, data, number, name)
        except Malformed:
            del provider.pending.calls[number]
            raise
        call.provider = provider
        if call.deadline < self.wake:
            self._wake_at(call.deadline)
        self.counters.carried += 1
        link.send(first, second)

    def _outgoing(self, call: Call, frame: Frame, data: bytes, number: int, name: bytes | None) -> tuple[Part, Part]:
        """A request as its provider sees it."""
        data = jsonrpc.one_line(data)
        params = frame.params
        if name is None and (params is UNSET or (len(params) > 4 and b"progressToken" not in data and b"\\u00" not in data)):
            return with_id(data, frame, number_text(number))
        spans = members(data)
        edits = [(spans["id"].start, spans["id"].end, number_text(number))]
        if params is not UNSET and bytes(params) == b"null":
            # A server made with the TypeScript SDK drops a frame with `"params": null`, which manager-api sends.
            edits.append(jsonrpc.without(data, "params", spans))
        elif params is not UNSET:
            token = jsonrpc.place_in_params(data, spans, "_meta", "progressToken")
            if token is not None and id_key(data[token.start : token.end], 20, 4096) is not None:
                call.token = data[token.start : token.end]
                edits.append((token.start, token.end, number_text(number)))
            if name is not None:
                place = jsonrpc.place_in_params(data, spans, "name")
                assert place is not None
                edits.append((place.start, place.end, name))
        return jsonrpc.splice(data, edits), b""

    def _answer(self, call: Call, first: Part, second: Part = b"") -> None:
        """Give a consumer the one answer it is owed; a second one, or one after a cancel, goes nowhere."""
        consumer = call.consumer
        if consumer is None or call not in consumer.owed:
            return
        del consumer.owed[call]
        self.in_flight -= 1
        self.counters.answers += 1
        size = len(first) + len(second)
        if size > consumer.answer_bytes:
            self.counters.answers_too_big += 1
            hint = f"{size} bytes, the limit is {consumer.answer_bytes} / {size} 字节，上限 {consumer.answer_bytes}"
            first, second = self._error(call.id, errors.ANSWER_TOO_BIG, hint, delivered=True), b""
        elif consumer.link.queued > self.limits.queued_bytes_per_link:
            self.counters.busy += 1
            hint = "this consumer does not read its answers / 使用端没有读取应答"
            first, second = self._error(call.id, errors.BUSY, hint, delivered=call.provider is not None), b""
        consumer.link.send(first, second)

    def _fail(self, call: Call, code: Code, hint: str, *, delivered: bool | None) -> None:
        self._answer(call, self._error(call.id, code, hint, delivered=delivered))

    def _error(self, id: bytes, code: Code, hint: str, *, delivered: bool | None) -> bytes:
        return jsonrpc.error(id, code, {"source": "broker", "agent_id": self.shown, "delivered": delivered, "hint": hint})

    def _nobody(self, call: Call) -> None:
        if not is_open(call):
            return
        self.counters.no_provider += 1
        self._fail(call, errors.NO_PROVIDER, self.why_nobody(), delivered=False)

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
        at, code, reason = self.farewell
        when = datetime.fromtimestamp(at + self.epoch, UTC).isoformat(timespec="seconds")
        told = f"{code} {reason}".strip()
        return f"left at {when} with {told} / 已于 {when} 断开，代码 {told}"

    # == frames of providers ===============================================================================================

    def provider_says(self, provider: Provider, data: bytes, now: float, utf8: bool) -> None:
        """One frame of a provider. What is not JSON-RPC is what a stdio server printed: it is dropped, and not answered."""
        try:
            frame = parse(data, utf8=utf8)
            if frame.method is not UNSET:
                if frame.id is UNSET:
                    self._provider_notifies(provider, frame, data, now)
                else:
                    self._provider_asks(provider, frame, data, now)
                return
            if frame.id is UNSET or (frame.result is UNSET and frame.error is UNSET):
                raise Malformed(errors.INVALID_REQUEST, "neither a request nor an answer")
            number = number_of(bytes(frame.id))
            call = provider.pending.calls.get(number)
            if call is None:
                if provider.pending.was_late(number):
                    self.counters.late_answers += 1
                    provider.doubtful = False
                else:
                    self.counters.unknown_answers += 1
                return
            consumer = call.consumer
            if consumer is None or frame.error is not UNSET or call.purpose or call.data:
                self._slow_answer(provider, call, frame, data, now)
                return
            first, second = with_id(data, frame, call.id)
        except Malformed as malformed:
            self._noise(provider, data, malformed, now)
            return
        del provider.pending.calls[number]
        provider.doubtful = False
        self._answer(call, first, second)

    def _noise(self, provider: Provider, data: bytes, malformed: Malformed, now: float) -> None:
        provider.noise += 1
        self.counters.noise += 1
        array = malformed.code is errors.INVALID_REQUEST and data.lstrip()[:1] == b"["
        if array and provider.link.queued <= self.limits.queued_bytes_per_link:
            provider.link.send(self._error(b"null", malformed.code, malformed.why, delivered=False))
        if now >= provider.noise_told + 60:
            provider.noise_told = now
            start = data[:80].decode("utf-8", "backslashreplace")
            self.watch.tell("noise", self.shown, frames=provider.noise, why=malformed.why, start=start, label=provider.label)

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
            self._greeting_answered(provider, call, frame, first, second, now)
        elif call.purpose == "list":
            self._list_answered(provider, call, frame, now)
        elif consumer is not None:
            data, call.data = call.data, b""
            if data and provider.state is State.NEW and self._wants_greeting(call, frame):
                call.provider = None
                self._greet(provider, now)
                self._wait(provider, consumer, call, data)
                if len(self.providers) > 1:
                    self._learn(now)
                return
            if frame.error is UNSET and call.method != "ping" and not provider.proven:
                provider.proven = True
                self._reckon()
            if call.purpose and frame.result is not UNSET and provider.state is State.READY:
                self._overhear_list(provider, consumer, bytes(frame.result))
            self._answer(call, first, second)

    @staticmethod
    def _wants_greeting(call: Call, frame: Frame) -> bool:
        """Whether an answer to a request without handshake looks like a server that insists on one."""
        if frame.error is UNSET:
            return False
        if call.method == "tools/list":
            return True
        try:
            return _error_decoder.decode(frame.error).code == errors.INVALID_PARAMS.number
        except (msgspec.DecodeError, RecursionError):
            return False

    def _overhear_list(self, provider: Provider, consumer: Consumer, result: bytes) -> None:
        """Learn from a whole list that was carried what its names mean from now on."""
        page = read_page(result)
        if page is not None and page[1] is None and provider.listing is None:
            self.catalog.put(provider, provider.label, provider.order, page[0])
            self.catalog.settle()
            provider.listed = True
            consumer.seen = self.catalog.fingerprint()
            self._reckon()

    def _provider_asks(self, provider: Provider, frame: Frame, data: bytes, now: float) -> None:
        """A provider's own request: `ping` is answered here, the rest only by a consumer that can and has a call there."""
        assert frame.id is not UNSET and frame.method is not UNSET
        id = bytes(frame.id)
        key = id_key(id, self.limits.integer_id_chars, self.limits.string_id_bytes)
        if key is None:
            raise Malformed(errors.INVALID_REQUEST, "an id is an integer or a string")
        if provider.link.queued > self.limits.queued_bytes_per_link:
            self.counters.busy += 1
            return
        if frame.method == "ping":
            provider.link.send(jsonrpc.result(id, b"{}"))
            return
        capability = CAPABILITIES_OF_ASKS.get(frame.method, "")
        asking = {call.consumer for call in provider.pending.calls.values() if call.consumer is not None}
        consumer = asking.pop() if len(asking) == 1 else None
        if consumer is None or capability not in consumer.capabilities or len(consumer.asks) >= self.limits.in_flight_per_consumer:
            self._refuse_ask(provider, id, "no consumer can be asked")
            return
        number = consumer.last_ask + 1
        first, second = with_id(data, frame, number_text(number))
        consumer.last_ask = number
        consumer.asks[number] = Ask(provider, id, key, capability, now + self.limits.ask_seconds)
        self._wake_at(now + self.limits.ask_seconds)
        self.counters.asked += 1
        consumer.link.send(first, second)

    def _refuse_ask(self, provider: Provider, id: bytes, hint: str, code: Code = errors.METHOD_NOT_FOUND) -> None:
        provider.link.send(self._error(id, code, hint, delivered=None))

    def _consumer_answers(self, consumer: Consumer, frame: Frame, data: bytes) -> None:
        """A consumer's answer to what a provider asked of it."""
        if frame.id is UNSET or (frame.result is UNSET) == (frame.error is UNSET):
            raise Malformed(errors.INVALID_REQUEST, "neither a request nor an answer", _id_of(frame))
        ask = consumer.asks.get(number_of(bytes(frame.id)))
        if ask is None:
            self.counters.unknown_answers += 1
            return
        first, second = with_id(data, frame, ask.id)
        del consumer.asks[number_of(bytes(frame.id))]
        ask.provider.link.send(jsonrpc.one_line(b"".join((first, second))))

    # == notifications =====================================================================================================

    def _consumer_notifies(self, consumer: Consumer, frame: Frame, data: bytes, now: float) -> None:
        method = frame.method
        if method == CANCELLED:
            self._consumer_cancels(consumer, frame, data)
            return
        if frame.params is not UNSET and bytes(frame.params) == b"null":
            data = jsonrpc.splice(data, [jsonrpc.without(data, "params", members(data))])
        sole = self._sole
        if method == INITIALIZED:
            if sole is not None and not sole.initialized_sent:
                if sole.greeter is consumer and sole.state in (State.INITIALIZING, State.READY):
                    sole.initialized_sent = True
                    self._tell_provider(sole, data)
                    self._reckon()
                elif sole.state is State.NEW and not consumer.initialized:
                    self._tell_provider(sole, data)
        elif method == PROGRESS:
            for provider in dict.fromkeys(ask.provider for ask in consumer.asks.values()):
                self._tell_provider(provider, data)
        elif sole is not None:
            if sole.state is State.INITIALIZING and sole.greeter is not consumer:
                self._wait(sole, consumer, None, data)
            else:
                self._tell_provider(sole, data)
        elif self._plain() and self.providers:
            self._tell_provider(self.providers[-1], data)
        elif method == "notifications/roots/list_changed":
            for provider in self.providers:
                if provider.state is State.READY:
                    self._tell_provider(provider, data)
        else:
            bare = [provider for provider in self.providers if provider.state is State.BARE]
            if bare:
                self._tell_provider(bare[-1], data)
            else:
                self.counters.dropped_notifications += 1

    def _tell_provider(self, provider: Provider, data: bytes) -> None:
        if provider.link.queued > self.limits.queued_bytes_per_link:
            self.counters.dropped_notifications += 1
            return
        self.counters.notifications += 1
        provider.link.send(jsonrpc.one_line(data))

    def _tell_consumer(self, consumer: Consumer, data: bytes) -> None:
        if len(data) > consumer.answer_bytes or consumer.link.queued > self.limits.queued_bytes_per_link:
            self.counters.dropped_notifications += 1
            return
        self.counters.notifications += 1
        consumer.link.send(data)

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
        del consumer.owed[call]
        self.in_flight -= 1
        self.counters.cancelled += 1
        if call.provider is not None:
            call.provider.pending.give_up(call.number)
            assert place is not None
            self._tell_provider(call.provider, jsonrpc.splice(data, [(place.start, place.end, number_text(call.number))]))

    def _cancel(self, call: Call, reason: str) -> None:
        """Tell a provider that nobody waits for a call any more (MCP, Cancellation: never for `initialize`)."""
        assert call.provider is not None
        call.provider.pending.give_up(call.number)
        self._tell_provider(call.provider, jsonrpc.notification(CANCELLED, {"requestId": call.number, "reason": reason}))

    def _provider_notifies(self, provider: Provider, frame: Frame, data: bytes, now: float) -> None:
        method = frame.method
        if method == PROGRESS:
            self._progress(provider, data, now)
        elif method == CANCELLED:
            self._provider_cancels(provider, data)
        elif method == LIST_CHANGED and not (self._sole is provider and self._is_bare(provider)):
            if provider.state is State.READY:
                self._list_provider(provider, now)
            else:
                provider.list_changed = True
        else:
            asking = {call.consumer for call in provider.pending.calls.values() if call.consumer is not None}
            if method == "notifications/message" and len(asking) == 1:
                self._tell_consumer(asking.pop(), data)
            else:
                for consumer in self.consumers:
                    self._tell_consumer(consumer, data)

    @staticmethod
    def _is_bare(provider: Provider) -> bool:
        return provider.state is State.BARE or (provider.state is State.NEW and provider.carried)

    def _progress(self, provider: Provider, data: bytes, now: float) -> None:
        """Progress goes to whoever gave the token, with its own token, and the call may take that much longer."""
        spans = members(data)
        place = jsonrpc.place_in_params(data, spans, "progressToken") if "params" in spans else None
        call = provider.pending.calls.get(number_of(data[place.start : place.end])) if place is not None else None
        if call is None or call.consumer is None or not call.token:
            self.counters.dropped_notifications += 1
            return
        assert place is not None
        call.deadline = max(call.deadline, min(now + self._call_timeout, call.started + self.limits.progress_seconds))
        self._tell_consumer(call.consumer, jsonrpc.splice(data, [(place.start, place.end, call.token)]))

    def _provider_cancels(self, provider: Provider, data: bytes) -> None:
        spans = members(data)
        place = jsonrpc.place_in_params(data, spans, "requestId") if "params" in spans else None
        if place is None:
            return
        key = id_key(data[place.start : place.end], self.limits.integer_id_chars, self.limits.string_id_bytes)
        for consumer in self.consumers:
            for number, ask in list(consumer.asks.items()):
                if ask.provider is provider and ask.key == key:
                    del consumer.asks[number]
                    self._tell_consumer(consumer, jsonrpc.splice(data, [(place.start, place.end, number_text(number))]))
                    return

    # == greeting ==========================================================================================================

    def _plain(self) -> bool:
        """Whether this is a relay between peers of which nobody speaks MCP's handshake: then the broker adds nothing of its own."""
        if any(consumer.initialized for consumer in self.consumers) or self._initializes:
            return False
        if any(provider.state in (State.INITIALIZING, State.READY) for provider in self.providers):
            return False
        return len(self.providers) < 2 or any(self._is_bare(provider) for provider in self.providers)

    def _initialize(self, call: Call, frame: Frame, data: bytes, now: float) -> None:
        consumer = call.consumer
        assert consumer is not None
        hello = read_hello(frame.params if frame.params is not UNSET else b"")
        consumer.name = hello.name
        consumer.asked_version = hello.version
        consumer.capabilities = set(hello.capabilities)
        provider = self._sole
        if provider is not None and provider.state is State.NEW and self.settings.greet == "consumer":
            greeting = Call(None, call.id, call.key, "initialize", now, call.deadline, provider, purpose="greeting")
            number = provider.pending.add(greeting)
            try:
                first, second = self._outgoing(call, frame, data, number, None)
            except Malformed:
                del provider.pending.calls[number]
                raise
            provider.move(Step.GREET)
            provider.greeting = greeting
            provider.greeter = consumer
            self._greeting_began(now)
            provider.link.send(first, second)
        elif self.providers:
            self._learn(now)
        self._initializes.append(Parked(call, b"", call.deadline))
        self._wake_at(call.deadline)
        self._settle_initializes()

    def _learn(self, now: float) -> None:
        """Greet whoever is new, and ask whoever is ready for its tools: the endpoint must know now."""
        for provider in self.providers:
            if provider.state is State.NEW:
                self._greet(provider, now)
            elif provider.state is State.READY and not provider.listed:
                self._list_provider(provider, now)

    def _greet(self, provider: Provider, now: float) -> None:
        provider.move(Step.GREET)
        deadline = now + self.limits.greeting_seconds
        provider.greeting = Call(None, b"null", b"", "initialize", now, deadline, provider, purpose="greeting")
        number = provider.pending.add(provider.greeting)
        self._greeting_began(now)
        self._wake_at(deadline)
        provider.link.send(jsonrpc.request(number_text(number), "initialize", own_hello(self.version)))

    def _greeting_began(self, now: float) -> None:
        self._last_greeting = now
        self._first_greeting = min(self._first_greeting, now)

    def _greeting_answered(self, provider: Provider, call: Call, frame: Frame, first: Part, second: Part, now: float) -> None:
        provider.greeting = None
        welcome = read_welcome(bytes(frame.result)) if frame.error is UNSET and frame.result is not UNSET else None
        in_time = provider.state is State.INITIALIZING
        if welcome is not None:
            provider.move(Step.RESULT)
            provider.failed = ""
            provider.welcome = welcome
            provider.label = self.catalog.label_for(provider.server_id, welcome.name)
        elif in_time:
            self._greeting_failed(provider, "it answered initialize with an error" if frame.error is not UNSET else "it sent no result")
        greeter = provider.greeter
        if greeter is not None and in_time:
            # The consumer whose initialize was carried sees the provider's own answer.
            for waiting in [waiting for waiting in self._initializes if waiting.call.consumer is greeter]:
                self._initializes.remove(waiting)
                greeter.initialized = greeter.initialized or welcome is not None
                if waiting.call.id == call.id:
                    self._answer(waiting.call, first, second)
                else:
                    self._welcome(waiting.call)
        if welcome is not None and (greeter is None or provider.list_changed or len(self.providers) > 1):
            self._list_provider(provider, now)
        self._moved_on(provider, now)

    def _greeting_failed(self, provider: Provider, why: str) -> None:
        provider.move(Step.FAIL)
        provider.failed = why
        if not provider.label:
            provider.label = self.catalog.label_for(provider.server_id, "")
        self.watch.tell("bare", self.shown, label=provider.label, why=why)

    def _finish_handshake(self, provider: Provider) -> None:
        """Send the one `initialized` if the first consumer has not."""
        if provider.state is State.READY and not provider.initialized_sent:
            provider.initialized_sent = True
            provider.link.send(jsonrpc.notification(INITIALIZED))
            self._reckon()

    def _moved_on(self, provider: Provider, now: float) -> None:
        """A greeting has ended, well or not: whoever waited for it goes on."""
        self._reckon()
        self._settle_initializes()
        waiting, provider.waiting = provider.waiting, deque()
        provider.waiting_bytes = 0
        self._redo(waiting, now)
        self._moved(now)

    def _redo(self, waiting: Iterable[Waiting], now: float) -> None:
        for frame in waiting:
            if frame.call is not None:
                self._again(frame.call, frame.data, now)
            elif frame.consumer in self.consumers:
                self.consumer_says(frame.consumer, frame.data, now, True)

    def _wait(self, provider: Provider, consumer: Consumer, call: Call | None, data: bytes) -> None:
        """Keep a frame until its provider is greeted; what finds no room is refused."""
        if provider.waiting_bytes + len(data) > self.limits.queued_bytes_per_link:
            if call is None:
                self.counters.dropped_notifications += 1
            else:
                self.counters.busy += 1
                self._fail(call, errors.BUSY, "too much waits for this tool's greeting / 等待工具端握手的数据过多", delivered=False)
            return
        provider.waiting_bytes += len(data)
        provider.waiting.append(Waiting(consumer, call, data))
        if call is not None:
            self._wake_at(call.deadline)

    def _settle_initializes(self) -> None:
        """Answer the waiting `initialize`s as soon as there is something to say."""
        if not self._initializes:
            return
        states = [provider.state for provider in self.providers]
        if State.INITIALIZING in states and State.READY not in states:
            return
        waiting, self._initializes = self._initializes, []
        for parked in waiting:
            self._welcome(parked.call)

    def _welcome(self, call: Call) -> None:
        """Answer one `initialize` from what is known now: one provider's result, several providers', or the endpoint's own."""
        consumer = call.consumer
        if consumer is None or not is_open(call):
            return
        welcomes = [provider.welcome for provider in self.providers if provider.state is State.READY and provider.welcome is not None]
        if self._sole is not None and welcomes:
            body = welcome_from(welcomes[0], consumer.asked_version)
        else:
            body = own_welcome(consumer.asked_version, welcomes, self.version)
        consumer.initialized = True
        # Names are not given while an older provider may still bring its tools.
        consumer.seen = b"" if self._settling() else self.catalog.fingerprint()
        self._reckon()
        self._answer(call, jsonrpc.result(call.id, body))

    # == lists =============================================================================================================

    def _list_is_ours(self, provider: Provider) -> bool:
        """Whether one provider's own list would show names that mean something else here, or miss tools that may come back."""
        others = any(shelf.provider is not provider for shelf in self.catalog.shelves)
        if provider.state is not State.READY:
            return others
        return others or not self.catalog.plain_for(provider.label)

    def _list(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        """A list from all catalogs, as soon as they are complete or `merged_list_seconds` have passed."""
        self._learn(now)
        if patient and self._settling():
            until = min(call.started + self.limits.merged_list_seconds, call.deadline)
            self._unsettled.append(Parked(call, data, until))
            self._wake_at(until)
        else:
            self._answer_list(call, frame, data)

    def _answer_list(self, call: Call, frame: Frame, data: bytes) -> None:
        consumer = call.consumer
        bare = [provider for provider in self.providers if provider.state is State.BARE]
        if bare and not self.catalog.shelves:
            self._carry(bare[-1], call, frame, data)
            return
        try:
            cursor = _list_decoder.decode(frame.params).cursor if frame.params is not UNSET else None
        except (msgspec.DecodeError, RecursionError):
            cursor = None
        missing = [provider.label or provider.server_id or "tool" for provider in self.providers if self._is_missing(provider)]
        body = self.catalog.page(cursor, missing)
        if consumer is not None:
            consumer.seen = self.catalog.fingerprint()
        self._reckon()
        self._answer(call, jsonrpc.result(call.id, body))

    @staticmethod
    def _is_missing(provider: Provider) -> bool:
        return provider.state is State.INITIALIZING or (provider.state is State.READY and not provider.listed)

    def _settling(self) -> bool:
        return any(provider.settling for provider in self.providers)

    def _list_provider(self, provider: Provider, now: float) -> None:
        """Ask a ready provider for its tools; while it answers, one more asking is remembered and no second one."""
        if provider.listing is not None:
            provider.relist = True
            return
        self._finish_handshake(provider)
        provider.list_changed = False
        provider.pages = []
        provider.listing = Call(None, b"null", b"", "tools/list", now, now + self.limits.list_seconds, provider, purpose="list")
        self._ask_page(provider, provider.listing, b"{}")

    def _ask_page(self, provider: Provider, call: Call, params: bytes) -> None:
        self._wake_at(call.deadline)
        provider.link.send(jsonrpc.request(number_text(provider.pending.add(call)), "tools/list", params))

    def _list_answered(self, provider: Provider, call: Call, frame: Frame, now: float) -> None:
        """One page of a provider's tools. A server without tools answers with an error, which is an empty list."""
        page = read_page(frame.result) if frame.error is UNSET and frame.result is not UNSET else None
        if page is None:
            self.watch.tell("no list", self.shown, label=provider.label)
        else:
            provider.pages += page[0]
            # An endless list ends at the limit of tools, and at the deadline of its first page.
            if page[1] is not None and len(provider.pages) < self.limits.tools_per_endpoint:
                self._ask_page(provider, call, _encode({"cursor": page[1]}))
                return
        left_out = self.catalog.put(provider, provider.label, provider.order, provider.pages)
        if left_out:
            self.watch.tell("too many tools", self.shown, label=provider.label, left_out=left_out)
        first_time = not provider.listed
        provider.listed = True
        self._listing_ended(provider, now)
        if first_time:
            self.watch.tell("tools", self.shown, label=provider.label, tools=len(provider.pages))

    def _listing_ended(self, provider: Provider, now: float) -> None:
        provider.listing = None
        if provider.relist:
            provider.relist = False
            self._list_provider(provider, now)
        self._announce = True
        self._moved(now)

    def _moved(self, now: float) -> None:
        """Something changed that waiting requests may have waited for."""
        self._reckon()
        self._settle_initializes()
        if not self._settling():
            waiting, self._unsettled = self._unsettled, []
            for parked in waiting:
                self._again(parked.call, parked.data, now)
        self._retry_parked(now)
        self._answer_held(now)
        self._tell_changes(now)

    def _tell_changes(self, now: float) -> None:
        """`list_changed` for every consumer whose list is another than the one it knows; at most one a second."""
        if not self._announce or self._settling():
            return
        due = self._announced + self.limits.list_changed_seconds
        if now < due:
            self._wake_at(due)
            return
        self._announce = False
        fingerprint = self.catalog.fingerprint()
        self._reckon()
        for consumer in self.consumers:
            if consumer.initialized and consumer.seen != fingerprint:
                self._announced = now
                consumer.seen = fingerprint
                self._tell_consumer(consumer, jsonrpc.notification(LIST_CHANGED))

    # == holding and parking ===============================================================================================

    def _holds_for(self, consumer: Consumer) -> bool:
        return consumer.name in self.settings.hold_empty_list_for and not self.draining

    def _hold(self, call: Call, now: float) -> None:
        call.provider = None
        call.deadline = NEVER
        self._held.append(Parked(call, jsonrpc.request(b"0", "tools/list", b"{}"), NEVER))

    def _answer_held(self, now: float) -> None:
        """Answer the held lists when a provider is ready and no other has begun greeting for a moment."""
        if not self._held:
            return
        if not any(provider.state is State.BARE or provider.listed for provider in self.providers):
            return
        due = min(self._last_greeting + self.limits.hold_quiet_seconds, self._first_greeting + self.limits.hold_total_seconds)
        if now < due:
            self._wake_at(due)
            return
        held, self._held = self._held, []
        for parked in held:
            call = parked.call
            if is_open(call):
                call.deadline = now + self.limits.list_seconds
                self._answer_list(call, parse(parked.data, utf8=True), parked.data)

    def _park(self, call: Call, data: bytes, now: float) -> None:
        """Let a call wait a moment for its provider to come back."""
        until = call.started + self.limits.grace_call_seconds
        if now >= until or self.draining:
            self._nobody(call)
            return
        self._parked.append(Parked(call, data, until))
        self._wake_at(until)

    def _retry_parked(self, now: float) -> None:
        if not self._parked or not self.providers or self._settling():
            return
        if any(provider.state is State.NEW for provider in self.providers) and not self._plain():
            return
        waiting, self._parked = self._parked, []
        for parked in waiting:
            self._again(parked.call, parked.data, now)

    # == time ==============================================================================================================

    def deadline(self) -> float:
        """When `expire` must be called at the latest; it may be early, never late. Infinity if nothing waits."""
        return self.wake

    def _wake_at(self, when: float) -> None:
        if when < self.wake:
            self.wake = when
            self.arm(self)

    def expire(self, now: float) -> None:
        """Do what time demands: answer what waited too long, forget what was kept long enough."""
        limits = self.limits
        self.wake = NEVER
        for provider in list(self.providers):
            for call in [call for call in provider.pending.calls.values() if call.deadline <= now]:
                self._expire_call(provider, call, now)
            for waiting in list(provider.waiting):
                if waiting.call is not None and waiting.call.deadline <= now:
                    provider.waiting.remove(waiting)
                    provider.waiting_bytes -= len(waiting.data)
                    self._timed_out(waiting.call, delivered=False)
        for consumer in self.consumers:
            for number in [number for number, ask in consumer.asks.items() if ask.deadline <= now]:
                ask = consumer.asks.pop(number)
                consumer.capabilities.discard(ask.capability)
                self._refuse_ask(ask.provider, ask.id, "the consumer did not answer in time", errors.TIMED_OUT)
                consumer.link.send(jsonrpc.notification(CANCELLED, {"requestId": number, "reason": "timed out"}))
        late, self._initializes = _due(self._initializes, now)
        for parked in late:
            self._welcome(parked.call)
        late, self._unsettled = _due(self._unsettled, now)
        for parked in late:
            self._again(parked.call, parked.data, now, patient=False)
        late, self._parked = _due(self._parked, now)
        for parked in late:
            self._nobody(parked.call)
        if self.catalog.sweep(now - limits.grace_seconds):
            self._announce = True
        self._moved(now)
        # Rounded up to 20 ms, so that a flood of staggered deadlines costs a bounded number of rounds.
        self.wake = max(self._earliest(), now + 0.02)

    def _earliest(self) -> float:
        times = [self.wake]
        for provider in self.providers:
            times += [call.deadline for call in provider.pending.calls.values()]
            times += [waiting.call.deadline for waiting in provider.waiting if waiting.call is not None]
        for consumer in self.consumers:
            times += [ask.deadline for ask in consumer.asks.values()]
        for queue in (self._initializes, self._unsettled, self._parked):
            times += [parked.until for parked in queue]
        times += [shelf.left + self.limits.grace_seconds for shelf in self.catalog.shelves if shelf.left is not None]
        return min(times)

    def _expire_call(self, provider: Provider, call: Call, now: float) -> None:
        if call.purpose == "greeting":
            # It stays in the table without a deadline: a result that comes late still makes the provider ready.
            call.deadline = NEVER
            self._greeting_failed(provider, "it did not answer initialize in time")
            self._moved_on(provider, now)
        elif call.purpose == "list":
            self._cancel(call, "timed out")
            self.watch.tell("no list", self.shown, label=provider.label)
            self._listing_ended(provider, now)
        else:
            provider.doubtful = True
            self._cancel(call, "timed out")
            self._timed_out(call, delivered=True)

    def _timed_out(self, call: Call, *, delivered: bool) -> None:
        if not is_open(call):
            return
        self.counters.timed_out += 1
        seconds = f"{call.deadline - call.started:g}"
        self.watch.tell("timed out", self.shown, method=call.method, seconds=seconds)
        self._fail(call, errors.TIMED_OUT, f"no answer within {seconds} s / {seconds} 秒内没有应答", delivered=delivered)

    # == the end ===========================================================================================================

    def drain(self, now: float) -> None:
        """Take no new work: what is held or parked is answered, what is with a provider goes on."""
        self.draining = True
        for queue in (self._held, self._parked, self._unsettled, self._initializes):
            waiting = list(queue)
            queue.clear()
            for parked in waiting:
                if not is_open(parked.call):
                    continue
                if parked.call.method == "initialize":
                    self._welcome(parked.call)
                elif parked.call.method == "tools/list":
                    self._answer(parked.call, jsonrpc.result(parked.call.id, self.catalog.page(None, [])))
                else:
                    self._nobody(parked.call)

    def finish(self) -> None:
        """Answer whatever is still owed: nobody will come back for it."""
        for consumer in self.consumers:
            for call in list(consumer.owed):
                self.counters.provider_gone += 1
                hint = "the server is stopping / 服务器正在停止"
                self._fail(call, errors.PROVIDER_GONE, hint, delivered=call.provider is not None)

    # == looking in ========================================================================================================

    def _reckon(self) -> None:
        """Find out anew who is alone here, and whether it takes everything as it is."""
        self._sole = self.providers[0] if len(self.providers) == 1 else None
        self.direct = None
        provider = self._sole
        if provider is None or self.settings.tools or any(shelf.provider is not provider for shelf in self.catalog.shelves):
            return
        if provider.state is State.READY:
            if provider.initialized_sent and self.catalog.plain_for(provider.label):
                self.direct = provider
        elif self.catalog.owners:
            return
        elif provider.state is State.BARE or (provider.state is State.NEW and provider.proven and self._plain()):
            self.direct = provider

    def describe(self, now: float) -> dict[str, Any]:
        """What an operator may know of this endpoint, ready for JSON; no secret is in it."""
        described: dict[str, Any] = {
            "endpoint": self.shown,
            "in_flight": self.in_flight,
            "tools": [
                {
                    "label": provider.label or provider.server_id,
                    "state": provider.state.value,
                    "connected_seconds": round(now - provider.since, 1),
                    "in_flight": len(provider.pending.calls),
                    "doubtful": provider.doubtful,
                    "functions": self._exported_by(provider),
                    "why_bare": provider.failed,
                }
                for provider in self.providers
            ],
            "devices": [
                {
                    "client": consumer.name,
                    "initialized": consumer.initialized,
                    "connected_seconds": round(now - consumer.since, 1),
                    "in_flight": len(consumer.owed),
                }
                for consumer in self.consumers
            ],
        }
        if self.farewell is not None:
            at, code, reason = self.farewell
            when = datetime.fromtimestamp(at + self.epoch, UTC).isoformat(timespec="seconds")
            described["last_goodbye"] = {"at": when, "code": code, "reason": reason}
        return described

    def _exported_by(self, provider: Provider) -> list[str]:
        shelf = self.catalog.shelf_of(provider)
        if shelf is None:
            return []
        return [self.catalog.exported.get((shelf.label, name), name) for name in shelf.tools]


def _due(queue: list[Parked], now: float) -> tuple[list[Parked], list[Parked]]:
    """What waited until `now` or longer, and the rest."""
    return [parked for parked in queue if parked.until <= now], [parked for parked in queue if parked.until > now]


def _id_of(frame: Frame) -> bytes:
    return b"null" if frame.id is UNSET else bytes(frame.id)
