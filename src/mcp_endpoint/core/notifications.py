"""Routes notifications: progress, cancellation, log messages, changed lists, and unknown ones."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from ..protocol import jsonrpc, methods
from ..protocol.jsonrpc import Frame, Malformed, id_key, members
from .delivery import Delivery
from .features import CHANGED, SharedFeatures
from .ledger import number_of, number_text
from .part import EndpointPart
from .parties import Consumer, Provider, State
from .roster import is_bare
from .unreadable import bad_frame


class Notifications(EndpointPart):
    """Routes the notifications of one endpoint, in both directions."""

    __slots__ = ("features",)

    def __init__(self, delivery: Delivery, features: SharedFeatures) -> None:
        super().__init__(delivery)
        self.features = features

    def from_consumer(self, consumer: Consumer, frame: Frame, data: bytes) -> None:
        """Handle a consumer's notification; it is never answered, even if it is invalid (JSON-RPC 2.0 §4.1)."""
        self.ledger.heard(consumer, data)
        try:
            self._carry(consumer, frame, data)
        except Malformed as malformed:
            bad_frame(self.ledger, consumer, malformed)

    def _carry(self, consumer: Consumer, frame: Frame, data: bytes) -> None:
        method = frame.method
        if method == methods.CANCELLED:
            self._cancel(consumer, frame, data)
            return
        if frame.params is not UNSET and bytes(frame.params) == b"null":
            data = jsonrpc.splice(data, [jsonrpc.without(data, "params", members(data))])
        sole = self.roster.sole
        if method == methods.INITIALIZED:
            if sole is not None and sole.greeter is consumer and sole.state is not State.BARE:
                self.lifecycle.end_handshake(sole, jsonrpc.one_line(data))
        elif method == methods.PROGRESS:
            for provider in dict.fromkeys(ask.provider for ask in consumer.asks.values()):
                self.ledger.tell_provider(provider, data)
        elif sole is not None:
            if sole.state is State.INITIALIZING and sole.greeter is not consumer:
                self.lifecycle.keep(sole, consumer, None, data)
            else:
                self.ledger.tell_provider(sole, data)
        elif self.roster.plain() and self.roster.providers:
            self.ledger.tell_provider(self.roster.providers[-1], data)
        elif method == methods.ROOTS_CHANGED:
            for provider in self.roster.providers:
                if provider.state is State.READY:
                    self.ledger.tell_provider(provider, data)
        else:
            bare = self.roster.bare()
            if bare:
                self.ledger.tell_provider(bare[-1], data)
            else:
                self.ledger.counters.dropped_notifications += 1

    def _cancel(self, consumer: Consumer, frame: Frame, data: bytes) -> None:
        """Cancel the newest call with that id, and tell its provider, with the provider's number."""
        spans = members(data)
        place = jsonrpc.place_in_params(data, spans, "requestId") if "params" in spans else None
        key = (
            None
            if place is None
            else id_key(data[place.start : place.end], self.ledger.limits.integer_id_chars, self.ledger.limits.string_id_bytes)
        )
        for call in reversed(consumer.owed):
            if call.key == key and call.method != methods.INITIALIZE:
                break
        else:
            return
        self.ledger.strike(call)
        if call.provider is not None:
            call.provider.pending.give_up(call.number)
            assert place is not None
            self.ledger.tell_provider(call.provider, jsonrpc.splice(data, [(place.start, place.end, number_text(call.number))]))
        else:
            self.lifecycle.forget_closed()

    def from_provider(self, provider: Provider, frame: Frame, data: bytes, now: float) -> None:
        """Handle a provider's notification. Raises `Malformed`."""
        method = frame.method
        if method == methods.PROGRESS:
            self._progress(provider, data, now)
        elif method == methods.CANCELLED:
            self.ledger.withdraw(provider, self.roster.consumers, data)
        elif method == methods.TOOLS_CHANGED and not (self.roster.sole is provider and is_bare(provider)):
            self.lifecycle.list_tools(provider, now)
        else:
            self._broadcast(provider, method, data)

    def _broadcast(self, provider: Provider, method: str | msgspec.UnsetType, data: bytes) -> None:
        """Broadcast a notification; log messages and resource updates go to their subscribers only."""
        hearers = list(self.roster.consumers)
        if method == methods.MESSAGE:
            asking = {call.consumer for call in provider.pending.calls.values() if call.consumer is not None}
            if len(asking) == 1:
                hearers = list(asking)
            if self.features.used:
                hearers = self.features.hearers(data, hearers)
        elif self.features.used:
            if method == methods.UPDATED and self.features.updated(provider, data):
                return
            if method in CHANGED:
                self.features.changed(provider, str(method))
        for consumer in hearers:
            self.ledger.tell_consumer(consumer, data)

    def _progress(self, provider: Provider, data: bytes, now: float) -> None:
        """Pass progress to the consumer, with its own token, and extend the call's deadline."""
        spans = members(data)
        place = jsonrpc.place_in_params(data, spans, methods.PROGRESS_TOKEN) if "params" in spans else None
        call = provider.pending.calls.get(number_of(data[place.start : place.end])) if place is not None else None
        if call is None or call.consumer is None or not call.token:
            self.ledger.counters.dropped_notifications += 1
            return
        assert place is not None
        call.deadline = max(call.deadline, min(now + self.settings.call_timeout, call.started + self.ledger.limits.progress_seconds))
        self.ledger.tell_consumer(call.consumer, jsonrpc.splice(data, [(place.start, place.end, call.token)]))
