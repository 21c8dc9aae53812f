"""What all endpoints share has a ceiling; when it is reached, the endpoint that has most gives way.

The one rule for links, sessions, requests, subscriptions and questions: a newcomer takes the place of one of the endpoint that has most, if
that endpoint still has no less than the newcomer's afterwards. Else the newcomer's endpoint has most itself, and the newcomer is refused.
So nobody who holds one token can shut out another, however much they open.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

Held = TypeVar("Held")


class Shares(Generic[Held]):
    """Who holds what, by endpoint; within one endpoint what was unused for longest comes first."""

    def __init__(self) -> None:
        self._held: dict[str, dict[Held, None]] = {}
        """Endpoint → what it holds; both in the order of use."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Held]:
        return (one for held in self._held.values() for one in held)

    def count(self, owner: str) -> int:
        """How many an endpoint holds."""
        return len(self._held.get(owner, ()))

    def of(self, owner: str) -> list[Held]:
        """What an endpoint holds."""
        return list(self._held.get(owner, ()))

    def add(self, owner: str, one: Held) -> None:
        """An endpoint holds one more."""
        self._held.setdefault(owner, {})[one] = None
        self._count += 1

    def remove(self, owner: str, one: Held) -> None:
        """An endpoint holds this no longer; nothing happens if it did not."""
        held = self._held.get(owner, {})
        if one in held:
            del held[one]
            self._count -= 1
            if not held:
                del self._held[owner]

    def touch(self, owner: str, one: Held) -> None:
        """It is in use: everything else goes before it."""
        held = self._held.get(owner, {})
        if one in held:
            del held[one], self._held[owner]
            held[one] = None
            self._held[owner] = held

    def largest(self, owner: str) -> dict[Held, None]:
        """What the endpoint with most holds: `owner` itself if none has more, else of equals the one unused for longest."""
        own = self._held.get(owner, {})
        most = max(self._held.values(), key=len, default=own)
        return most if len(most) > len(own) else own

    def gives_way(self, owner: str) -> Held | None:
        """What must go so that one more of `owner`'s may come: the newest of the endpoint with most. None: `owner`'s own must not come."""
        largest = self.largest(owner)
        return next(reversed(largest)) if len(largest) > self.count(owner) + 1 else None
