"""Answers `tools/list`: what it contains, how long it waits for starting tools, and when `list_changed` is sent."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

import msgspec
from msgspec import UNSET

from ..protocol import jsonrpc, methods
from ..protocol.jsonrpc import Frame, parse
from .delivery import Delivery
from .ledger import most_of
from .lifecycle import is_missing
from .part import EndpointPart
from .parties import LONG_AGO, NEVER, Call, Consumer, Provider, State


class _ListParams(msgspec.Struct):
    cursor: str | None = None


_list_decoder: Final = msgspec.json.Decoder(_ListParams)


def cursor_of(frame: Frame) -> str | None:
    """The cursor of a list request."""
    try:
        return _list_decoder.decode(frame.params).cursor if frame.params is not UNSET else None
    except (msgspec.DecodeError, RecursionError):
        return None


class Lists(EndpointPart):
    """The tool lists of one endpoint."""

    __slots__ = ("_announced", "_lost_at", "_ready_at", "announce")

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(delivery)
        self.announce = False
        self._announced = LONG_AGO
        self._lost_at = LONG_AGO  # when a provider left before its first list
        self._ready_at = NEVER  # since when held lists could be answered

    def changed(self) -> None:
        """The tools may have changed: consumers with another list are notified."""
        self.announce = True

    def provider_left(self, provider: Provider, now: float) -> None:
        """A provider that left before its first list is expected to return."""
        if now < self._expected_until(provider):
            self._lost_at = now

    def is_ours(self, provider: Provider) -> bool:
        """Whether a sole provider's own list would be wrong: its names mean something else here, or tools that may return are missing."""
        others = any(shelf.provider is not provider for shelf in self.catalog.shelves)
        if provider.state is not State.READY:
            return others
        return others or not self.catalog.plain_for(provider.label)

    def answer_when_settled(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        """Answer a list from all catalogs, once they are complete or `merged_list_seconds` have passed."""
        self.lifecycle.learn(now)
        if patient and self.roster.settling():
            self.waiting.until_settled(call, data, now)
        else:
            self.answer(call, frame, data)

    def answer(self, call: Call, frame: Frame, data: bytes) -> None:
        """Answer a list from the catalog, or by the newest bare provider if it is empty."""
        consumer = call.consumer
        bare = self.roster.bare()
        if bare and not self.catalog.shelves:
            self.delivery.carry(bare[-1], call, frame, data)
            return
        missing = [provider.label or provider.server_id or "tool" for provider in self.roster.providers if is_missing(provider)]
        body = self.catalog.page(cursor_of(frame), missing, most_of(call))
        assert consumer is not None
        consumer.knows(self.catalog.fingerprint())
        self.roster.update_direct()
        self.ledger.answer(call, jsonrpc.result(call.id, body))

    def tell_changes(self, now: float) -> None:
        """Send `list_changed` to every consumer with an outdated list; at most once per `list_changed_seconds`."""
        if not self.announce or self.roster.settling():
            return
        due = self._announced + self.ledger.limits.list_changed_seconds
        if now < due:
            self.waiting.wake_at(due)
            return
        self.announce = False
        fingerprint = self.catalog.fingerprint()
        if self.catalog.full:
            self.ledger.watch.tell("no names left", self.ledger.shown, names=len(self.catalog.owners))
        self.roster.update_direct()
        for consumer in self.roster.consumers:
            if not consumer.seen and self.roster.sole is not None:
                consumer.knows(fingerprint)  # it has no list yet: the sole provider's first one
            if consumer.initialized and consumer.seen != fingerprint:
                self._announced = now
                consumer.knows(fingerprint)
                self.ledger.tell_consumer(consumer, jsonrpc.notification(methods.TOOLS_CHANGED))

    def holds_for(self, consumer: Consumer) -> bool:
        """Whether a consumer's lists wait for tools that are starting."""
        names = self.settings.hold_empty_list_for
        known = consumer.patient or consumer.asks_once or any(fnmatchcase(consumer.name, name) for name in names)
        return known and not self.waiting.draining

    def waits_for_tools(self, call: Call, frame: Frame, now: float) -> bool:
        """Whether a list must be held; it then has no deadline. A list with a cursor is continued."""
        assert call.consumer is not None
        if not self.holds_for(call.consumer) or cursor_of(frame) is not None:
            return False
        call.deadline = NEVER
        if call.consumer.patient:
            return not any(provider.answered for provider in self.roster.providers)
        sole = self.roster.sole
        if sole is not None and (sole.answered or sole.state is not State.BARE) and not self.is_ours(sole):
            return now < self._quiet_at()  # carried; answered when this provider answers
        return now < self._held_until(now)

    def _quiet_at(self) -> float:
        """When no provider has attached for a while, and none is expected to return.

        A provider that left before its first list is expected for `grace_call_seconds`.
        """
        return max(self.roster.attached_at + self.ledger.limits.hold_quiet_seconds, self._lost_at + self.ledger.limits.grace_call_seconds)

    def take_back(self) -> None:
        """Hold lists that were carried to a provider that is no longer sole, or need not be answered; its late response is ignored."""
        for provider in self.roster.providers:
            for call in [call for call in provider.pending.calls.values() if call.consumer is not None and call.deadline == NEVER]:
                provider.pending.give_up(call.number)
                self.waiting.hold(call)

    def _expected_until(self, provider: Provider) -> float:
        """How long a held list waits for a provider without a finished handshake or first list."""
        return LONG_AGO if provider.answered else max(provider.since, provider.greeted) + self.settings.hold_seconds

    def _held_until(self, now: float) -> float:
        """When the held lists are answered if nothing changes; NEVER while no provider could.

        That is when a provider is available and none is expected any more. A provider that keeps reconnecting delays the tools of others
        at most twice as long as a silent one.
        """
        seconds = self.settings.hold_seconds
        if not any(provider.answered or provider.state is State.BARE for provider in self.roster.providers):
            self._ready_at = NEVER
            return NEVER
        self._ready_at = min(self._ready_at, now)
        due = max(self._quiet_at(), *(self._expected_until(provider) for provider in self.roster.providers))
        return min(due, self._ready_at + 2 * seconds)

    def answer_held(self, now: float) -> None:
        """Answer the held lists when they are due; those of patient consumers as soon as any provider is listed."""
        if not self.waiting.held:
            return
        due = self._held_until(now)
        told = any(provider.answered for provider in self.roster.providers)
        for parked in self.waiting.take("held"):
            call = parked.call
            assert call.consumer is not None
            if now < due and not (told and call.consumer.patient):
                self.waiting.keep_holding(parked)
                self.waiting.wake_at(due)
                continue
            bare = [provider for provider in self.roster.bare() if provider not in call.tried]
            if self.catalog.shelves:
                self.answer(call, parse(parked.data, utf8=True), parked.data)
            elif bare:
                call.tried = (*call.tried, bare[-1])
                self.delivery.carry(bare[-1], call, parse(parked.data, utf8=True), parked.data)
            else:
                self.waiting.keep_holding(parked)
        if now >= due:
            self._ready_at = NEVER
