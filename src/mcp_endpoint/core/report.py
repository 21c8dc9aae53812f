"""Builds the status of an endpoint for operators, ready for JSON, without secrets."""

from __future__ import annotations

from typing import Any

from .catalog import Catalog
from .delivery import Delivery
from .parties import Consumer, Provider, State
from .roster import Roster


def describe(delivery: Delivery, now: float) -> dict[str, Any]:
    """One endpoint: name, parties, and the last close."""
    roster, ledger, last_close = delivery.roster, delivery.ledger, delivery.last_close_described()
    described: dict[str, Any] = {
        "endpoint": ledger.shown,
        "in_flight": ledger.in_flight,
        "tools": describe_tools(roster, delivery.lifecycle.catalog, now),
        "devices": describe_consumers(roster, now, in_process=False),
        "sessions": describe_consumers(roster, now, in_process=True),
    }
    return described if last_close is None else described | {"last_close": last_close}


def describe_tools(roster: Roster, catalog: Catalog, now: float) -> list[dict[str, Any]]:
    """Each provider: state, requests in flight, and its tools by exported name."""
    return [
        {
            "label": provider.label or provider.server_id,
            "state": _shown_state(provider),
            "connected_seconds": round(now - provider.since, 1),
            "in_flight": len(provider.pending.calls),
            "doubtful": provider.doubtful,
            "functions": _exported_by(provider, catalog),
            "why_bare": provider.failed,
        }
        for provider in roster.providers
    ]


def describe_consumers(roster: Roster, now: float, *, in_process: bool) -> list[dict[str, Any]]:
    """Each device; or, with `in_process`, each HTTP session and each caller inside this server."""
    return [_described(consumer, now) for consumer in roster.consumers if consumer.in_process is in_process]


def _exported_by(provider: Provider, catalog: Catalog) -> list[str]:
    shelf = catalog.shelf_of(provider)
    if shelf is None:
        return []
    return [catalog.exported.get((shelf.label, name), name) for name in shelf.tools]


def _described(consumer: Consumer, now: float) -> dict[str, Any]:
    """The status of a consumer."""
    return {
        "client": consumer.name,
        "initialized": consumer.initialized,
        "connected_seconds": round(now - consumer.since, 1),
        "in_flight": len(consumer.owed),
    }


def _shown_state(provider: Provider) -> str:
    """A provider's state for an operator; one of a managed server is not ahead of that server."""
    if provider.behind is None or provider.state not in (State.READY, State.BARE):
        return provider.state.value
    if not provider.behind.providers:
        return "down"
    usable = any(one.state in (State.READY, State.BARE) for one in provider.behind.providers)
    return provider.state.value if usable else State.INITIALIZING.value
