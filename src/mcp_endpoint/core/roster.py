"""The attached parties of an endpoint, and the provider whose frames need no translation.

`sole` is the provider if there is exactly one; `direct` is the same if its frames need neither translation nor inspection: the fast path,
which costs two look-ups. Both are recomputed when a link, a state or a name changes.
"""

from __future__ import annotations

from ..settings.schema import EndpointSettings
from .catalog import Catalog
from .parties import LONG_AGO, Consumer, Provider, State
from .waiting import WaitingRequests


def is_bare(provider: Provider) -> bool:
    """Whether a provider is known to work without a handshake."""
    return provider.state is State.BARE or (provider.state is State.NEW and provider.carried)


class Roster:
    """The providers and consumers of one endpoint."""

    __slots__ = ("_attached", "_catalog", "_settings", "_waiting", "attached_at", "consumers", "direct", "providers", "sole")

    def __init__(self, settings: EndpointSettings, catalog: Catalog, waiting: WaitingRequests) -> None:
        self._settings = settings
        self._catalog = catalog
        self._waiting = waiting
        self._attached = 0
        self.attached_at = LONG_AGO  # when the newest provider attached
        self.providers: list[Provider] = []
        self.consumers: dict[Consumer, None] = {}
        self.sole: Provider | None = None
        self.direct: Provider | None = None

    def next_order(self) -> int:
        """The order number of the next provider, from 1."""
        return self._attached + 1

    def provider_came(self, provider: Provider, now: float) -> None:
        """Add a provider."""
        self._attached += 1
        self.attached_at = now
        self.providers.append(provider)
        self.update_direct()

    def provider_left(self, provider: Provider) -> None:
        """Remove a provider; call `update_direct` after its tools were removed."""
        self.providers.remove(provider)

    def consumer_came(self, consumer: Consumer) -> None:
        """Add a consumer."""
        self.consumers[consumer] = None

    def consumer_left(self, consumer: Consumer) -> None:
        """Remove a consumer."""
        del self.consumers[consumer]

    def plain(self) -> bool:
        """Whether this is a plain relay between peers without MCP's handshake: then the broker adds nothing."""
        if any(consumer.initialized for consumer in self.consumers) or self._waiting.initializes:
            return False
        if any(provider.state in (State.INITIALIZING, State.READY) for provider in self.providers):
            return False
        return len(self.providers) < 2 or any(is_bare(provider) for provider in self.providers)

    def settling(self) -> bool:
        """Whether a provider is about to become ready, so that names and lists may change."""
        return any(provider.settling for provider in self.providers)

    def bare(self) -> list[Provider]:
        """The bare providers, in order of attaching."""
        return [provider for provider in self.providers if provider.state is State.BARE]

    def update_direct(self) -> None:
        """Recompute `sole` and `direct` (the provider whose frames need no translation)."""
        self.sole = self.providers[0] if len(self.providers) == 1 else None
        self.direct = None
        provider = self.sole
        if provider is None or self._settings.tools or provider.call_seconds is not None:
            return
        if any(shelf.provider is not provider for shelf in self._catalog.shelves):
            return
        if provider.state is State.READY:
            if provider.initialized_sent and self._catalog.plain_for(provider.label):
                self.direct = provider
        elif self._catalog.owners:
            return
        elif provider.state is State.BARE or (provider.state is State.NEW and provider.proven and self.plain()):
            self.direct = provider
