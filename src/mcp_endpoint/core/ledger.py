"""Requests in flight: ids on both sides, deadlines, and responses that are owed.

Rules of this module:

1. Every link has its own ids. Providers get small positive integers, counted per provider, because one tool client in use reads ids as
   32-bit integers (contract: verdure-mcp).
2. A response is looked up in the table of its own link only, and the entry is removed with the first response.
3. Expired and cancelled requests are remembered for a while, so that a late response is not counted as unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import UNSET

from .. import errors
from ..errors import Code
from ..protocol import jsonrpc, methods
from ..protocol.jsonrpc import (
    BACKSLASH,
    CR,
    LF,
    UNDERSCORE,
    Frame,
    Malformed,
    Part,
    id_key,
    members,
    one_line,
    place_in_params,
    renumbered,
    with_id,
)
from ..settings.schema import Limits
from .figures import EndpointCalls
from .links import Watch
from .parties import Call, ClientRequest, Consumer, Counters, Provider
from .taps import IN, OUT, Tap
from .tool_calls import CANCELLED_CALL, CONSUMER_LEFT, ERROR, OUTCOMES

DEVICES_ASK: Final = (methods.INITIALIZE, "server/", "tools/", "prompts/", "resources/", "completion/", "logging/")
"""Prefixes of methods that only devices send: a sender of one at the tool address has the wrong address."""
TOOL_ADDRESS: Final = Code(
    errors.METHOD_NOT_FOUND.number,
    "这是工具端的地址；使用端请用 /mcp_endpoint/call/ / This is the tool address; a device uses /mcp_endpoint/call/",
)
TOKEN_CHARS: Final = 4096
"""Longest progress token that is passed back; longer ones are ignored."""

Rename = tuple[tuple[str, ...], bytes]
"""A path below `params`, and the JSON value for the provider."""


class Ledger:
    """The owed responses of one endpoint. Consumers get responses only through `answer`."""

    __slots__ = ("counters", "figures", "in_flight", "limits", "listened", "now", "shown", "tap", "watch")

    def __init__(
        self,
        shown: str,
        limits: Limits,
        counters: Counters,
        watch: Watch,
        figures: EndpointCalls | None = None,
        tap: Tap | None = None,
    ) -> None:
        self.shown = shown
        self.limits = limits
        self.counters = counters
        self.watch = watch
        self.figures = figures
        self.tap = tap
        self.listened = figures is not None or tap is not None
        self.in_flight = 0
        self.now = 0.0  # time of the current event, for tap and figures

    def answer(self, call: Call, first: Part, second: Part = b"", frame: Frame | None = None) -> None:
        """Send a consumer the one response it is owed; later ones, and those after a cancel, are dropped.

        `frame` is the provider's response as parsed, if only its id differs in `first` and `second`.
        """
        consumer = call.consumer
        if consumer is None or consumer.owed.pop(call, call) is not None:
            return
        self.in_flight -= 1
        self.counters.answers += 1
        link = consumer.link
        if consumer.edits and (edit := consumer.edits.get(call.method)) is not None:
            edited = edit(first, second, consumer.answer_bytes)
            if edited is not None:
                first, second, frame = edited, b"", None
        size = len(first) + len(second)
        if size > consumer.answer_bytes:
            self.counters.answers_too_big += 1
            call.outcome = OUTCOMES[errors.ANSWER_TOO_BIG.number]
            hint = f"{size} bytes, the limit is {consumer.answer_bytes} / {size} 字节，上限 {consumer.answer_bytes}"
            first, second, frame = self.error(call.id, errors.ANSWER_TOO_BIG, hint, delivered=True), b"", None
        elif link.queued > self.limits.queued_bytes_per_link:
            self.counters.busy += 1
            call.outcome = OUTCOMES[errors.BUSY.number]
            hint = "this consumer does not read its answers / 使用端没有读取应答"
            first, second, frame = self.error(call.id, errors.BUSY, hint, delivered=call.provider is not None), b"", None
        send_frame = consumer.send_frame
        if send_frame is None or frame is None:
            link.send(first, second)
        else:
            send_frame(renumbered(frame, call.id), first, second)
        if call.tool and self.figures is not None:
            self.figures.ended(call, self.now)
        if self.tap is not None and not consumer.relays:
            self.tap.answered(call, first, second, self.now)

    def fail(self, call: Call, code: Code, hint: str, *, delivered: bool | None) -> None:
        """Answer a call with one of our errors; `delivered`: whether its provider may have executed it (None: unknown).

        After a first attempt `delivered` is unknown (None), never False.
        """
        if call.tried and not delivered:
            delivered = None
        call.outcome = OUTCOMES.get(code.number, ERROR)
        self.answer(call, self.error(call.id, code, hint, delivered=delivered))

    def error(self, id: bytes, code: Code, hint: str, *, delivered: bool | None = None) -> bytes:
        """Encode a response with one of our errors, and the explanation for a person."""
        return jsonrpc.error(id, code, {"source": "broker", "agent_id": self.shown, "delivered": delivered, "hint": hint})

    def heard(self, party: Provider | Consumer, data: bytes) -> None:
        """Pass a received frame to the tap that is neither a consumer's request nor its response."""
        if self.tap is not None:
            self.tap.told(party, IN, data, self.now)

    def say(self, party: Provider | Consumer, first: Part, second: Part = b"") -> None:
        """Send a frame that is neither a consumer's request nor its response."""
        if self.tap is not None:
            self.tap.told(party, OUT, b"".join((first, second)), self.now)
        party.link.send(first, second)

    def tell_provider(self, provider: Provider, data: bytes) -> None:
        """Send a notification to a provider, unless its queue is full."""
        if provider.link.queued > self.limits.queued_bytes_per_link:
            self.counters.dropped_notifications += 1
            return
        self.counters.notifications += 1
        self.say(provider, one_line(data))

    def tell_consumer(self, consumer: Consumer, data: bytes) -> None:
        """Send a notification to a consumer, unless it is too large or its queue is full."""
        if len(data) > consumer.answer_bytes or consumer.link.queued > self.limits.queued_bytes_per_link:
            self.counters.dropped_notifications += 1
            return
        self.counters.notifications += 1
        self.say(consumer, data)

    def cancel(self, call: Call, reason: str) -> None:
        """Send a cancel notification to a provider (MCP, Cancellation: never for `initialize`)."""
        assert call.provider is not None
        call.provider.pending.give_up(call.number)
        self.tell_provider(call.provider, jsonrpc.notification(methods.CANCELLED, {"requestId": call.number, "reason": reason}))

    def timed_out(self, call: Call, *, delivered: bool) -> None:
        """Answer a call whose deadline has passed."""
        self.counters.timed_out += 1
        seconds = f"{call.deadline - call.started:g}"
        if not call.tool:
            self.watch.tell("timed out", self.shown, method=call.method, seconds=seconds)
        en, zh = f"no answer within {seconds} s", f"{seconds} 秒内没有应答"
        if call.method == methods.TOOLS_CALL and delivered:
            en += ': see what the tool waits for, or give it more time: [endpoint.tools."NAME"] timeout'
            zh += '：请检查工具在等什么，或延长时限：[endpoint.tools."工具名"] timeout'
        self.fail(call, errors.TIMED_OUT, f"{en} / {zh}", delivered=delivered)

    def refuse(self, provider: Provider, id: bytes, hint: str, code: Code = errors.METHOD_NOT_FOUND) -> None:
        """Answer a provider's request with an error."""
        self.say(provider, self.error(id, code, hint))

    def accept(
        self, consumer: Consumer, id: bytes, key: bytes, method: str, now: float, seconds: float, tool: str = "", data: bytes = b""
    ) -> Call | None:
        """Accept a request, or refuse it (None) if too many are in flight. `tool` is given if somebody counts calls."""
        limits = self.limits
        owed = consumer.owed
        if len(owed) >= limits.in_flight_per_consumer or self.in_flight >= limits.in_flight_per_endpoint:
            self.refuse_busy(consumer, id, key, method, "too many requests in flight / 未完成的请求过多", tool, data)
            return None
        self.counters.requests += 1
        call = Call(consumer, id, key, method, now, now + seconds, tool=tool)
        if self.tap is not None:
            call.said = data[: self.tap.body_bytes]
        owed[call] = None
        self.in_flight += 1
        return call

    def refuse_busy(self, consumer: Consumer, id: bytes, key: bytes, method: str, hint: str, tool: str, data: bytes) -> None:
        """Refuse a request as busy."""
        self.counters.busy += 1
        first = self.error(id, errors.BUSY, hint, delivered=False)
        consumer.link.send(first)
        call = Call(consumer, id, key, method, self.now, self.now, tool=tool, outcome=OUTCOMES[errors.BUSY.number])
        if tool and self.figures is not None:
            self.figures.ended(call, self.now)
        if self.tap is not None and not consumer.relays:
            call.said = data[: self.tap.body_bytes]
            self.tap.answered(call, first, b"", self.now)

    def strike(self, call: Call) -> None:
        """Remove a call that its consumer has cancelled."""
        assert call.consumer is not None
        del call.consumer.owed[call]
        self.in_flight -= 1
        self.counters.cancelled += 1
        self._unanswered(call, CANCELLED_CALL)

    def _unanswered(self, call: Call, why: str) -> None:
        """Report a call that gets no response."""
        call.outcome = why
        if call.tool and self.figures is not None:
            self.figures.ended(call, self.now)
        if self.tap is not None and call.consumer is not None and not call.consumer.relays:
            self.tap.ended(call, why, self.now)

    def consumer_left(self, consumer: Consumer) -> None:
        """Remove everything of a consumer, and cancel its calls."""
        for call in consumer.owed:
            if call.provider is not None:
                self.cancel(call, "the consumer left")
            self._unanswered(call, CONSUMER_LEFT)
        self.in_flight -= len(consumer.owed)
        consumer.owed.clear()
        for ask in consumer.asks.values():
            self.refuse(ask.provider, ask.id, "the consumer left")
        consumer.asks.clear()

    def provider_left(self, provider: Provider, consumers: Iterable[Consumer]) -> None:
        """Withdraw a provider's requests from the consumers."""
        for consumer in consumers:
            for number in [number for number, ask in consumer.asks.items() if ask.provider is provider]:
                del consumer.asks[number]
                self.tell_consumer(consumer, jsonrpc.notification(methods.CANCELLED, {"requestId": number, "reason": "the provider left"}))

    def expire_asks(self, consumer: Consumer, now: float) -> None:
        """Expire provider requests; a consumer that does not answer counts as lacking the capability."""
        for number in [number for number, ask in consumer.asks.items() if ask.deadline <= now]:
            ask = consumer.asks.pop(number)
            consumer.declare(consumer.capabilities - {ask.capability})
            self.refuse(ask.provider, ask.id, "the consumer did not answer in time", errors.TIMED_OUT)
            self.tell_consumer(consumer, jsonrpc.notification(methods.CANCELLED, {"requestId": number, "reason": "timed out"}))

    def hand_to_consumer(self, provider: Provider, frame: Frame, data: bytes, now: float) -> ClientRequest | None:
        """Handle a provider's request: answer `ping`, pass others to the consumer with a call there if it has the capability.

        Returns what was passed on. An in-process consumer may take longer than a call's deadline: its calls there are extended.
        """
        assert frame.id is not UNSET and frame.method is not UNSET
        id = bytes(frame.id)
        key = id_key(id, self.limits.integer_id_chars, self.limits.string_id_bytes)
        if key is None:
            raise Malformed(errors.INVALID_REQUEST, "an id is an integer or a string")
        if provider.link.queued > self.limits.queued_bytes_per_link:
            self.counters.busy += 1
            return None
        if frame.method == methods.PING:
            self.say(provider, jsonrpc.result(id, b"{}"))
            return None
        capability = methods.CAPABILITIES.get(frame.method)
        asking = self._asking(provider, key)
        consumer = asking.pop() if len(asking) == 1 else None
        if consumer is None or capability is None or not self._can_be_asked(consumer, capability, data):
            if frame.method.startswith(DEVICES_ASK):
                self.refuse(provider, id, "it behaves like a device / 对方的行为像使用端", TOOL_ADDRESS)
            else:
                self.refuse(provider, id, "no consumer can be asked")
            return None
        number = consumer.last_ask + 1
        first, second = with_id(data, frame, number_text(number))
        consumer.last_ask = number
        if not consumer.asks:
            consumer.asks = {}
        ask = consumer.asks[number] = ClientRequest(provider, id, key, capability, now + consumer.ask_seconds)
        if consumer.in_process:
            for call in provider.pending.calls.values():
                if call.consumer is consumer:
                    longer = min(call.deadline + consumer.ask_seconds, call.started + self.limits.progress_seconds)
                    call.deadline = max(call.deadline, longer)
        self.counters.asked += 1
        self.say(consumer, first, second)
        return ask

    @staticmethod
    def _asking(provider: Provider, question: bytes) -> set[Consumer]:
        """The consumers that the provider may be asking: those with a call there, except those already busy with another request."""
        if provider.translator is not None:
            call = provider.pending.calls.get(provider.translator.number_of(question))
            return set() if call is None or call.consumer is None else {call.consumer}
        asking = {call.consumer for call in provider.pending.calls.values() if call.consumer is not None}
        return asking if len(asking) < 2 else {consumer for consumer in asking if not consumer.thinking}

    def _can_be_asked(self, consumer: Consumer, capability: str, data: bytes) -> bool:
        """Whether a consumer has the capability, and room for a request of this size."""
        if capability not in consumer.capabilities or len(consumer.asks) >= self.limits.in_flight_per_consumer:
            return False
        return len(data) <= consumer.answer_bytes and consumer.link.queued <= self.limits.queued_bytes_per_link

    def take_from_consumer(self, consumer: Consumer, frame: Frame, data: bytes) -> None:
        """Handle a consumer's response to a provider's request."""
        if frame.id is UNSET or (frame.result is UNSET) == (frame.error is UNSET):
            raise Malformed(errors.INVALID_REQUEST, "neither a request nor an answer", id_of(frame))
        ask = consumer.asks.get(number_of(bytes(frame.id)))
        if ask is None:
            self.heard(consumer, data)
            self.counters.unknown_answers += 1
            return
        first, second = with_id(data, frame, ask.id)
        self.heard(consumer, data)
        del consumer.asks[number_of(bytes(frame.id))]
        self.say(ask.provider, one_line(b"".join((first, second))))

    def withdraw(self, provider: Provider, consumers: Iterable[Consumer], data: bytes) -> None:
        """A provider has cancelled its request."""
        spans = members(data)
        place = place_in_params(data, spans, "requestId") if "params" in spans else None
        if place is None:
            return
        key = id_key(data[place.start : place.end], self.limits.integer_id_chars, self.limits.string_id_bytes)
        for consumer in consumers:
            for number, ask in list(consumer.asks.items()):
                if ask.provider is provider and ask.key == key:
                    del consumer.asks[number]
                    self.tell_consumer(consumer, jsonrpc.splice(data, [(place.start, place.end, number_text(number))]))
                    return


def most_of(call: Call) -> int:
    """Most bytes of a result, so that the response fits its consumer's limit."""
    assert call.consumer is not None
    return call.consumer.answer_bytes - len(jsonrpc.result(call.id, b""))


def number_text(number: int) -> bytes:
    """One of our numbers as bytes."""
    return b"%d" % number


def number_of(raw: bytes) -> int:
    """The number in an id of ours; 0 if it is not one (other type, spelling or range)."""
    return int(raw) if len(raw) <= 10 and raw.isdigit() else 0


def id_of(frame: Frame) -> bytes:
    """The bytes of a frame's id, `null` without one."""
    return b"null" if frame.id is UNSET else bytes(frame.id)


class _MetaParams(msgspec.Struct, gc=False):
    meta: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=UNSET, name=methods.META)


_params_decoder: Final = msgspec.json.Decoder(_MetaParams)


def _needs_a_look(params: msgspec.Raw) -> bool:
    """Whether the parameters may need an edit: they contain a progress token, or are null."""
    try:
        return _params_decoder.decode(params).meta is not UNSET
    except msgspec.ValidationError:
        return len(params) == 4
    except RecursionError:  # the parser's depth limit depends on the stack
        raise Malformed(errors.INVALID_PARAMS, "nested too deep") from None


def outgoing(call: Call, frame: Frame, data: bytes, number: int, rename: Rename | None) -> tuple[Part, Part]:
    """A request in the form for its provider."""
    if LF in data or CR in data:
        data = one_line(data)
    params = frame.params
    # Without these characters `_meta` cannot be there, not even spelled with escapes: most frames, and large ones, need no second parsing.
    plain = UNDERSCORE not in data and BACKSLASH not in data
    if params is UNSET or (rename is None and (len(params) != 4 if plain else not _needs_a_look(params))):
        return with_id(data, frame, b"%d" % number)
    spans = members(data)
    edits = [(spans["id"].start, spans["id"].end, number_text(number))]
    if bytes(params) == b"null":
        # A server with the TypeScript SDK drops a frame with `"params": null`, which manager-api sends.
        edits.append(jsonrpc.without(data, "params", spans))
    else:
        token = place_in_params(data, spans, methods.META, methods.PROGRESS_TOKEN)
        if token is not None and id_key(data[token.start : token.end], TOKEN_CHARS, TOKEN_CHARS) is not None:
            call.token = data[token.start : token.end]
            edits.append((token.start, token.end, number_text(number)))
        if rename is not None:
            place = place_in_params(data, spans, *rename[0])
            assert place is not None
            edits.append((place.start, place.end, rename[1]))
    return jsonrpc.splice(data, edits), b""
