"""The bounded queue of events for the writer; events beyond the bound are dropped, counted, and recorded as a gap.

Two sums always hold: what was seen is what is waiting, on its way, written and dropped; and what was dropped is in a gap that was,
or will be, handed on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from .batch import GAP

OVERHEAD: Final = 256
"""Bytes that an item counts for beside its bodies: its tuple and its names."""


class Queue:
    """The items that wait, in their order."""

    def __init__(self, most: int, batch: int, clock: Callable[[], float], wake: Callable[[bool], None], unsent: Callable[[], int]) -> None:
        """`most` is the bytes that may wait, here and in the writer's pipe (`unsent`); `batch` those after which it is time. `clock` is
        seconds since 1970. `wake` is told when something waits: True if it is a whole batch.
        """
        self._most = most
        self._batch = batch
        self._clock = clock
        self._wake = wake
        self._unsent = unsent
        self._items: list[Any] = []
        self._counted = 0
        self._size = 0
        self._whole: deque[tuple[list[Any], int, int]] = deque()
        """Batches that are whole: their items, how many records these are, and their bytes."""
        self._gap: tuple[float, float, int] | None = None
        self.bytes = 0
        """What waits here."""
        self.seen = 0
        """Records that were offered."""
        self.dropped = 0
        """Of these, those that will never be in the file."""
        self.truncated = 0
        """Of these, those of which only the beginning was taken."""

    def put(self, item: tuple[Any, ...], size: int, *, truncated: bool) -> None:
        """Take a record that is `size` bytes large, or count it."""
        self.seen += 1
        self.truncated += truncated
        size += OVERHEAD
        if self.bytes + size + self._unsent() > self._most:
            self.lose(1)
            return
        self._counted += 1
        self._add(item, size)

    def note(self, item: tuple[Any, ...]) -> None:
        """Take something that is no record: a link that came or went, what is known now. It is lost where there is no room."""
        if self.bytes + OVERHEAD + self._unsent() <= self._most:
            self._add(item, OVERHEAD)

    def _add(self, item: tuple[Any, ...], size: int) -> None:
        self._items.append(item)
        self.bytes += size
        self._size += size
        if self._size >= self._batch:
            self._close()
            self._wake(True)
        elif len(self._items) == 1:
            self._wake(False)

    def _close(self) -> None:
        self._whole.append((self._items, self._counted, self._size))
        self._items, self._counted, self._size = [], 0, 0

    def lose(self, count: int) -> None:
        """So many records are gone for good."""
        if count:
            self.dropped += count
            self.reopen(self._clock(), self._clock(), count)

    def forget(self, count: int) -> None:
        """So many are gone at the end, when nobody writes a gap any more."""
        self.dropped += count

    def reopen(self, since: float, until: float, count: int) -> None:
        """A gap that nobody was told of, or one that was lost on its way."""
        if self._gap is not None:
            since, until, count = min(since, self._gap[0]), max(until, self._gap[1]), count + self._gap[2]
        self._gap = since, until, count

    def take(self) -> tuple[list[Any], int, tuple[float, float, int] | None]:
        """The next batch of what waits, how many records it holds, and the gap that is told with it: with the last of them."""
        if not self._whole:
            self._close()
        items, counted, size = self._whole.popleft()
        self.bytes -= size
        gap = None
        if not self.bytes and self._gap is not None:
            gap, self._gap = self._gap, None
            items.append((GAP, *gap))
        return items, counted, gap

    @property
    def has(self) -> bool:
        """Whether there is something to take."""
        return bool(self.bytes) or self._gap is not None
