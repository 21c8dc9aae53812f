"""Python's cyclic garbage collector, set so that it does not stop the server while a flood lasts.

A full collection looks at every object there is: with 5,000 sessions and 2,000 open requests it took 300 to 900 ms on a busy machine, in
which nobody was answered, and the default thresholds ask for one after 70,000 new objects. Nearly everything here is freed by its count of
references, because links, sessions and calls let go of each other when they end; what is left for the collector can wait.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 2_000
"""New objects, less those freed, after which the youngest generation is collected."""
MIDDLE: Final = 20
"""Collections of the youngest generation after which the middle one is collected."""
OLD: Final = 25
"""Collections of the middle generation after which everything is collected: after a million new objects."""


def quiet() -> None:
    """Leave out of every collection what is there at the start, and collect everything rarely.

    To be called once, by the program itself, when all its modules are imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
