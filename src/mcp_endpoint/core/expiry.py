"""Processes deadlines, and ends requests when the server stops."""

from __future__ import annotations

from .. import errors
from ..protocol import jsonrpc, methods
from .endings import Endings
from .ledger import most_of
from .parties import NEVER
from .waiting import QUEUES


def expire(at: Endings, now: float) -> None:
    """Process everything that is due: answer expired requests, drop what was kept long enough."""
    at.waiting.begin_round()
    for provider in list(at.roster.providers):
        if provider.translator is not None:
            provider.translator.flush(now)
        for call in [call for call in provider.pending.calls.values() if call.deadline <= now]:
            at.expired(provider, call, now)
        at.lifecycle.expire_waiting(provider, now)
    for consumer in at.roster.consumers:
        at.ledger.expire_asks(consumer, now)
    for parked in at.waiting.take("initializes", now):
        at.lifecycle.welcome(parked.call)
    for parked in at.waiting.take("unsettled", now):
        at.routing.again(parked.call, parked.data, now, patient=False)
    for parked in at.waiting.take("parked", now):
        at.delivery.nobody(parked.call)
    if at.catalog.sweep(now - at.ledger.limits.grace_seconds):
        at.lists.changed()
    at.changes.recheck(now)
    at.waiting.end_round(_earliest(at), now)


def _earliest(at: Endings) -> float:
    """The next deadline of requests to providers and consumers, and of shelves that are kept."""
    times = [NEVER]
    for provider in at.roster.providers:
        times += [call.deadline for call in provider.pending.calls.values()]
        times += [waiting.call.deadline for waiting in provider.waiting if waiting.call is not None]
    for consumer in at.roster.consumers:
        times += [ask.deadline for ask in consumer.asks.values()]
    times += [shelf.left + at.ledger.limits.grace_seconds for shelf in at.catalog.shelves if shelf.left is not None]
    return min(times)


def drain(at: Endings, now: float) -> None:
    """Refuse new requests; answer held and parked ones; those at a provider continue, unless a person must answer first."""
    at.waiting.drain()
    for consumer in [consumer for consumer in at.roster.consumers if consumer.thinking]:
        for call in list(consumer.owed):
            if call.provider is not None:
                at.ledger.cancel(call, "the server is stopping")
            at.ledger.fail(call, errors.PROVIDER_GONE, "the server is stopping / 服务器正在停止", delivered=call.provider is not None)
    at.lists.take_back()
    for queue in reversed(QUEUES):
        for parked in at.waiting.take(queue):
            if parked.call.method == methods.INITIALIZE:
                at.lifecycle.welcome(parked.call)
            elif parked.call.method == methods.TOOLS_LIST:
                at.ledger.answer(parked.call, jsonrpc.result(parked.call.id, at.catalog.page(None, [], most_of(parked.call))))
            else:
                at.delivery.nobody(parked.call)


def finish(at: Endings) -> None:
    """Answer all remaining requests with an error."""
    for consumer in at.roster.consumers:
        for call in list(consumer.owed):
            at.ledger.counters.provider_gone += 1
            hint = "the server is stopping / 服务器正在停止"
            at.ledger.fail(call, errors.PROVIDER_GONE, hint, delivered=call.provider is not None)
