"""Requests on their way: the ids on both sides, the deadlines, and what is owed to whom.

Rules of this module:

1. Every link has its own ids. What a provider sees is a small positive integer, counted per provider, because one of the fleet's
   tool clients reads ids as 32-bit integers (contract: verdure-mcp).
2. An answer is looked up in the answering link's own table only, and leaves the table with its first answer.
3. What was pending and is no more (expired, cancelled) is remembered for a while, so that a late answer is not taken for a forged one.
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
"""How methods begin that only a device asks: whoever asks them at the tool's address has come to the wrong one."""
TOOL_ADDRESS: Final = Code(
    errors.METHOD_NOT_FOUND.number,
    "这是工具端的地址；使用端请用 /mcp_endpoint/call/ / This is the tool address; a device uses /mcp_endpoint/call/",
)
TOKEN_CHARS: Final = 4096
"""Characters of a progress token that is given back as it came; a longer one is not a token anybody uses."""

Rename = tuple[tuple[str, ...], bytes]
"""A path below `params`, and the JSON that stands there for the provider."""


class Ledger:
    """What one endpoint owes to whom. `answer` is the only way out of `Consumer.owed` that a consumer hears of."""

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
        self.now = 0.0  # the time of what the endpoint is at; who listens is told of it

    def answer(self, call: Call, first: Part, second: Part = b"", frame: Frame | None = None) -> None:
        """Give a consumer the one answer it is owed; a second one, or one after a cancel, goes nowhere.

        `frame` is the provider's answer as it was read, if nothing but its id is changed in `first` and `second`.
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
        """Answer a call with one of our errors; `delivered` says whether its provider may have run it (None: nobody knows).

        Of one that was tried before nobody can say that it reached nobody.
        """
        if call.tried and not delivered:
            delivered = None
        call.outcome = OUTCOMES.get(code.number, ERROR)
        self.answer(call, self.error(call.id, code, hint, delivered=delivered))

    def error(self, id: bytes, code: Code, hint: str, *, delivered: bool | None = None) -> bytes:
        """An answer with one of our errors, and with what a person needs to know about it."""
        return jsonrpc.error(id, code, {"source": "broker", "agent_id": self.shown, "delivered": delivered, "hint": hint})

    def heard(self, party: Provider | Consumer, data: bytes) -> None:
        """A party said something that is neither a consumer's request nor the answer to one."""
        if self.tap is not None:
            self.tap.told(party, IN, data, self.now)

    def say(self, party: Provider | Consumer, first: Part, second: Part = b"") -> None:
        """Send a frame that is neither a consumer's request nor the answer to one."""
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
        """Send a notification to a consumer, unless it is too big for it or its queue is full."""
        if len(data) > consumer.answer_bytes or consumer.link.queued > self.limits.queued_bytes_per_link:
            self.counters.dropped_notifications += 1
            return
        self.counters.notifications += 1
        self.say(consumer, data)

    def cancel(self, call: Call, reason: str) -> None:
        """Tell a provider that nobody waits for a call any more (MCP, Cancellation: never for `initialize`)."""
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
        """Tell a provider that what it asked is not answered."""
        self.say(provider, self.error(id, code, hint))

    def accept(
        self, consumer: Consumer, id: bytes, key: bytes, method: str, now: float, seconds: float, tool: str = "", data: bytes = b""
    ) -> Call | None:
        """Owe a consumer one answer, or refuse at once (None) if too much is in flight. `tool` where somebody is told of it."""
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
        """Answer a request that is not accepted."""
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
        """Owe a call no answer any more: its consumer cancelled it."""
        assert call.consumer is not None
        del call.consumer.owed[call]
        self.in_flight -= 1
        self.counters.cancelled += 1
        self._unanswered(call, CANCELLED_CALL)

    def _unanswered(self, call: Call, why: str) -> None:
        """Whoever listens is told of a call that gets no answer."""
        call.outcome = why
        if call.tool and self.figures is not None:
            self.figures.ended(call, self.now)
        if self.tap is not None and call.consumer is not None and not call.consumer.relays:
            self.tap.ended(call, why, self.now)

    def consumer_left(self, consumer: Consumer) -> None:
        """Nobody is owed anything there; who worked for it is told."""
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
        """What a provider had asked needs no answer any more."""
        for consumer in consumers:
            for number in [number for number, ask in consumer.asks.items() if ask.provider is provider]:
                del consumer.asks[number]
                self.tell_consumer(consumer, jsonrpc.notification(methods.CANCELLED, {"requestId": number, "reason": "the provider left"}))

    def expire_asks(self, consumer: Consumer, now: float) -> None:
        """A consumer that lets one request of a provider expire counts as not able to answer that kind."""
        for number in [number for number, ask in consumer.asks.items() if ask.deadline <= now]:
            ask = consumer.asks.pop(number)
            consumer.capabilities -= {ask.capability}
            self.refuse(ask.provider, ask.id, "the consumer did not answer in time", errors.TIMED_OUT)
            self.tell_consumer(consumer, jsonrpc.notification(methods.CANCELLED, {"requestId": number, "reason": "timed out"}))

    def hand_to_consumer(self, provider: Provider, frame: Frame, data: bytes, now: float) -> ClientRequest | None:
        """A provider's own request: `ping` is answered here, the rest only by a consumer that can and has a call there.

        Gives what a consumer was asked. Somebody in the house may think longer than a call may take: its calls there wait for it.
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
        """For whom a provider may be asking: whoever has a call there. One that thinks about a question already is not asked another's."""
        if provider.translator is not None:
            call = provider.pending.calls.get(provider.translator.number_of(question))
            return set() if call is None or call.consumer is None else {call.consumer}
        asking = {call.consumer for call in provider.pending.calls.values() if call.consumer is not None}
        return asking if len(asking) < 2 else {consumer for consumer in asking if not consumer.thinking}

    def _can_be_asked(self, consumer: Consumer, capability: str, data: bytes) -> bool:
        """Whether a consumer declared the capability, and can take one more question of this size."""
        if capability not in consumer.capabilities or len(consumer.asks) >= self.limits.in_flight_per_consumer:
            return False
        return len(data) <= consumer.answer_bytes and consumer.link.queued <= self.limits.queued_bytes_per_link

    def take_from_consumer(self, consumer: Consumer, frame: Frame, data: bytes) -> None:
        """A consumer's answer to what a provider asked of it."""
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
        """A provider no longer wants the answer to what it asked."""
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
    """Bytes that the result of a call may have for its consumer to take the answer."""
    assert call.consumer is not None
    return call.consumer.answer_bytes - len(jsonrpc.result(call.id, b""))


def number_text(number: int) -> bytes:
    """A number of ours as it stands in a frame."""
    return b"%d" % number


def number_of(raw: bytes) -> int:
    """The number an id of ours stands for, or 0 if these bytes cannot be one (another type, spelling or range)."""
    return int(raw) if len(raw) <= 10 and raw.isdigit() else 0


def id_of(frame: Frame) -> bytes:
    """The bytes of a frame's id, `null` if it has none."""
    return b"null" if frame.id is UNSET else bytes(frame.id)


class _Params(msgspec.Struct, gc=False):
    meta: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=UNSET, name=methods.META)


_params_decoder: Final = msgspec.json.Decoder(_Params)


def _needs_a_look(params: msgspec.Raw) -> bool:
    """Whether something in the parameters of a frame may have to be changed: a progress token, or parameters that are null."""
    try:
        return _params_decoder.decode(params).meta is not UNSET
    except msgspec.ValidationError:
        return len(params) == 4
    except RecursionError:  # the frame was read at a place where the stack had room for one more level
        raise Malformed(errors.INVALID_PARAMS, "nested too deep") from None


def outgoing(call: Call, frame: Frame, data: bytes, number: int, rename: Rename | None) -> tuple[Part, Part]:
    """A request as its provider sees it."""
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
        # A server made with the TypeScript SDK drops a frame with `"params": null`, which manager-api sends.
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
