"""What the parts of an endpoint share: who is there, what waits, what is owed."""

from __future__ import annotations

from ..settings.schema import EndpointSettings
from .catalog import Catalog
from .delivery import Delivery
from .ledger import Ledger
from .lifecycle import Lifecycle
from .roster import Roster
from .waiting import WaitingRequests


class EndpointPart:
    """A part of one endpoint. Parts keep one reference to what they share: most endpoints are idle, and there are many."""

    __slots__ = ("delivery",)

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery

    @property
    def roster(self) -> Roster:
        """Who is attached."""
        return self.delivery.roster

    @property
    def waiting(self) -> WaitingRequests:
        """What waits."""
        return self.delivery.waiting

    @property
    def lifecycle(self) -> Lifecycle:
        """How far the providers are."""
        return self.delivery.lifecycle

    @property
    def ledger(self) -> Ledger:
        """What is owed to whom."""
        return self.delivery.ledger

    @property
    def catalog(self) -> Catalog:
        """The tools."""
        return self.delivery.lifecycle.catalog

    @property
    def settings(self) -> EndpointSettings:
        """What is set for this endpoint."""
        return self.delivery.lifecycle.settings
