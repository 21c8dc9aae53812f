"""The base class of an endpoint's parts."""

from __future__ import annotations

from ..settings.schema import EndpointSettings
from .catalog import Catalog
from .delivery import Delivery
from .ledger import Ledger
from .lifecycle import Lifecycle
from .roster import Roster
from .waiting import WaitingRequests


class EndpointPart:
    """A part of one endpoint. It keeps a single reference to the shared state: most endpoints are idle, and there are many."""

    __slots__ = ("delivery",)

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery

    @property
    def roster(self) -> Roster:
        """The attached parties."""
        return self.delivery.roster

    @property
    def waiting(self) -> WaitingRequests:
        """The waiting requests."""
        return self.delivery.waiting

    @property
    def lifecycle(self) -> Lifecycle:
        """The providers' lifecycles."""
        return self.delivery.lifecycle

    @property
    def ledger(self) -> Ledger:
        """The owed responses."""
        return self.delivery.ledger

    @property
    def catalog(self) -> Catalog:
        """The tools."""
        return self.delivery.lifecycle.catalog

    @property
    def settings(self) -> EndpointSettings:
        """The settings of the endpoint."""
        return self.delivery.lifecycle.settings
