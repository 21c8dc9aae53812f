"""The end of a carried request: a response that needs processing, the deadline, or the provider's leaving."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET

from .. import errors
from ..protocol import jsonrpc, methods
from ..protocol.jsonrpc import Frame, Part, members, with_id
from .changes import Changes
from .delivery import Delivery
from .features import KINDS
from .lifecycle import insists
from .part import EndpointPart
from .parties import NEVER, Call, Provider, State, is_open
from .routing import REPEATABLE, Routing
from .tool_calls import outcome_of


class _ErrorData(msgspec.Struct):
    delivered: bool | None = None


class _BrokersError(msgspec.Struct):
    code: int
    data: _ErrorData | None = None


_brokers_error_decoder: Final = msgspec.json.Decoder(_BrokersError)

NAMELESS: Final = (errors.PARSE_ERROR.number, errors.UNREADABLE_ANSWER.number, errors.ANSWER_TOO_BIG.number)
"""Error codes that may come without an id: the sender could not read the request."""


def could_not_be_read(frame: Frame) -> bool:
    """Whether an error is about an unreadable message, so that it names no request."""
    try:
        return frame.error is not UNSET and _brokers_error_decoder.decode(frame.error).code in NAMELESS
    except (msgspec.DecodeError, RecursionError):
        return False


def _may_be_repeated(frame: Frame, *, harmless: bool) -> bool:
    """Whether a managed provider reports that nobody received the request; or, if repeating is harmless, that nobody will answer."""
    if frame.error is UNSET:
        return False
    try:
        error = _brokers_error_decoder.decode(frame.error)
    except (msgspec.DecodeError, RecursionError):
        return False
    if error.code == errors.PROVIDER_GONE.number:
        return harmless and error.data is not None
    return error.code == errors.NO_PROVIDER.number and error.data is not None and error.data.delivered is False


class Endings(EndpointPart):
    """Ends the carried requests of one endpoint."""

    __slots__ = ("changes", "features", "lists", "routing")

    def __init__(self, delivery: Delivery, routing: Routing, changes: Changes) -> None:
        super().__init__(delivery)
        self.routing = routing
        self.lists = routing.lists
        self.features = routing.features
        self.changes = changes

    def answered(self, provider: Provider, call: Call, frame: Frame, data: bytes, now: float) -> None:
        """A response that the endpoint itself needs, or that must be changed. Raises `Malformed` before any change."""
        consumer = call.consumer
        first: Part
        second: Part
        if frame.error is not UNSET and frame.result is not UNSET:
            # xiaozhi-server takes any response with a `result` key for success: remove it.
            spans = members(data)
            edits = [jsonrpc.without(data, "result", spans), (spans["id"].start, spans["id"].end, call.id)]
            first, second = jsonrpc.splice(data, edits), b""
            same = None
        else:
            first, second = with_id(data, frame, call.id)
            same = frame
        del provider.pending.calls[call.number]
        provider.trust()
        if consumer is None:
            self.ledger.heard(provider, data)
        if call.purpose == "greeting":
            if self.lifecycle.answered(provider, call, frame, first, second, now):
                self.changes.greeting_ended(provider, now)
        elif call.purpose == "list":
            if self.lifecycle.page_answered(provider, call, frame, now):
                self.changes.listing_ended(now)
        elif call.purpose == "offers":
            if self.features.page_answered(provider, call, frame):
                self.changes.recheck(now)
        elif consumer is not None:
            if call.again and provider.managed and _may_be_repeated(frame, harmless=call.purpose == REPEATABLE):
                provider.doubt()
                self.routing.again(call, call.again, now)
                return
            if frame.error is not UNSET and call.tried and call.method == methods.TOOLS_LIST:
                self.waiting.hold(call)  # asked as a last resort: its error is of no use
                return
            answer, data, call.data = data, call.data, b""
            if data and insists(call, frame) and provider.state in (State.NEW, State.INITIALIZING):
                call.provider = None
                if provider.state is State.NEW:
                    self.lifecycle.greet(provider, now)
                self.lifecycle.keep(provider, consumer, call, data)
                if len(self.roster.providers) > 1:
                    self.lifecycle.learn(now)
                return
            if frame.error is UNSET and call.method != methods.PING and not provider.proven:
                provider.proven = True
                self.roster.update_direct()
            if call.purpose == "whole list" and frame.result is not UNSET and provider.state is State.READY:
                self.lifecycle.overhear(provider, consumer, bytes(frame.result))
            if call.tool:
                call.outcome = outcome_of(frame, answer, ours=provider.managed)
            self.ledger.answer(call, first, second, same)

    def expired(self, provider: Provider, call: Call, now: float) -> None:
        """A provider has not answered in time."""
        if call.purpose == "greeting" and provider.translator is not None and provider.translator.give_up():
            call.deadline = now + self.ledger.limits.own_initialize_seconds  # it may still support the handshake
        elif call.purpose == "greeting":
            # Kept without a deadline: a late result still makes the provider ready.
            call.deadline = NEVER
            self.lifecycle.fail(provider, "it did not answer initialize in time")
            self.changes.greeting_ended(provider, now)
        elif call.purpose == "list" and not provider.listed and not provider.paged:
            # The same for its first list: consumers that need all tools still wait for it, others do not.
            call.deadline = NEVER
            self.ledger.watch.tell("no list", self.ledger.shown, label=provider.label)
            self.changes.recheck(now)
        elif call.purpose == "list":
            self.ledger.cancel(call, "timed out")
            self.ledger.watch.tell("no list", self.ledger.shown, label=provider.label)
            self.lifecycle.listing_ended(provider, now)
            self.changes.listing_ended(now)
        elif call.purpose == "offers":
            self.ledger.cancel(call, "timed out")
            self.features.listing_ended(provider, KINDS[call.method])
            self.changes.recheck(now)
        elif call.consumer is None:
            provider.pending.give_up(call.number)
        else:
            provider.doubt()
            self.ledger.cancel(call, "timed out")
            self.ledger.timed_out(call, delivered=True)

    def lost(self, calls: list[Call], now: float) -> None:
        """The provider of these calls has left."""
        for call in calls:
            if call.consumer is not None and is_open(call):
                if call.method == methods.TOOLS_LIST and self.lists.holds_for(call.consumer):
                    # Its consumer requests the list once only and takes an error for final: hold the list.
                    self.waiting.hold(call)
                elif call.again and call.purpose == REPEATABLE:
                    self.routing.again(call, call.again, now)
                else:
                    self.ledger.counters.provider_gone += 1
                    self.ledger.fail(call, errors.PROVIDER_GONE, self.delivery.last_close_text(), delivered=True)
