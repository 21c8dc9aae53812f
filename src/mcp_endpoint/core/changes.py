"""Continues waiting requests and notifies consumers after a change at the endpoint."""

from __future__ import annotations

from collections.abc import Iterable

from ..protocol.jsonrpc import parse
from .delivery import Delivery
from .notifications import Notifications
from .part import EndpointPart
from .parties import Provider, Waiting
from .routing import Routing


class Changes(EndpointPart):
    """Reactions of one endpoint to changes."""

    __slots__ = ("features", "lists", "notifications", "routing")

    def __init__(self, delivery: Delivery, routing: Routing, notifications: Notifications) -> None:
        super().__init__(delivery)
        self.routing = routing
        self.lists = routing.lists
        self.features = routing.features
        self.notifications = notifications

    def recheck(self, now: float) -> None:
        """Something has changed that waiting requests may depend on."""
        self.roster.update_direct()
        self.lifecycle.settle()
        if not self.roster.settling():
            for parked in self.waiting.take("unsettled"):
                self.routing.again(parked.call, parked.data, now)
        self.retry_parked(now)
        self.lists.answer_held(now)
        self.lists.tell_changes(now)

    def greeting_ended(self, provider: Provider, now: float) -> None:
        """A handshake has ended, with or without success: continue what waited for it."""
        self.roster.update_direct()
        self.lifecycle.settle()
        if self.features.used:
            self.features.ready(provider, now)
        self.redo(self.lifecycle.take_waiting(provider), now)
        self.recheck(now)

    def redo(self, waiting: Iterable[Waiting], now: float) -> None:
        """Route frames that waited for a provider, in order."""
        for frame in waiting:
            if frame.call is not None:
                self.routing.again(frame.call, frame.data, now)
            else:
                self.notifications.from_consumer(frame.consumer, parse(frame.data, utf8=True), frame.data)

    def retry_parked(self, now: float) -> None:
        """Route calls whose provider left, if there is a provider again."""
        if not self.waiting.parked or not self.roster.providers or self.roster.settling():
            return
        for parked in self.waiting.take("parked"):
            self.routing.again(parked.call, parked.data, now)

    def listing_ended(self, now: float) -> None:
        """A listing of a provider's tools has ended: consumers may need a new list."""
        self.lists.changed()
        self.recheck(now)
