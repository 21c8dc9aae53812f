"""Fair sharing of a limited resource between endpoints: at the limit, the endpoint that holds most gives up one.

The rule for links, sessions, requests, subscriptions and rounds: a new item replaces one of the endpoint that holds most, if that
endpoint still has no fewer than the new item's endpoint afterwards. Otherwise the new item is refused. So the holder of one token cannot
shut out the holder of another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

Held = TypeVar("Held")


class Shares(Generic[Held]):
    """Items by endpoint; within one endpoint the least recently used is first."""

    def __init__(self) -> None:
        self._held: dict[str, dict[Held, None]] = {}
        """Endpoint → its items; both in order of use."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Held]:
        return (one for held in self._held.values() for one in held)

    def count(self, owner: str) -> int:
        """Number of items of an endpoint."""
        return len(self._held.get(owner, ()))

    def of(self, owner: str) -> list[Held]:
        """The items of an endpoint."""
        return list(self._held.get(owner, ()))

    def add(self, owner: str, one: Held) -> None:
        """Add an item."""
        self._held.setdefault(owner, {})[one] = None
        self._count += 1

    def remove(self, owner: str, one: Held) -> None:
        """Remove an item, if it is there."""
        held = self._held.get(owner, {})
        if one in held:
            del held[one]
            self._count -= 1
            if not held:
                del self._held[owner]

    def touch(self, owner: str, one: Held) -> None:
        """Mark an item and its endpoint as most recently used."""
        held = self._held.get(owner, {})
        if one in held:
            del held[one], self._held[owner]
            held[one] = None
            self._held[owner] = held

    def largest(self, owner: str) -> dict[Held, None]:
        """The items of the endpoint with most: of `owner` if none has more, else of equals the least recently used one."""
        own = self._held.get(owner, {})
        most = max(self._held.values(), key=len, default=own)
        return most if len(most) > len(own) else own

    def gives_way(self, owner: str) -> Held | None:
        """The item to give up for a new one of `owner`: the newest of the endpoint with most. None: refuse the new one."""
        largest = self.largest(owner)
        return next(reversed(largest)) if len(largest) > self.count(owner) + 1 else None
