"""The cyclic garbage collector of the program."""

from __future__ import annotations

import json
import subprocess
import sys

from mcp_endpoint.serving import collector

SHOW = """
import gc, json
from mcp_endpoint.serving import collector
collector.quiet()
frozen = gc.get_freeze_count()
class Knot: pass
for _ in range(collector.YOUNG * 3):
    knot = Knot(); knot.self = knot
print(json.dumps([gc.get_threshold(), frozen, sum(isinstance(one, Knot) for one in gc.get_objects())]))
"""


def test_what_is_there_at_the_start_is_left_alone_and_young_garbage_is_not() -> None:
    """In a process of its own: it would change this one's collections."""
    shown = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, check=True, timeout=60).stdout
    thresholds, frozen, knots = json.loads(shown)
    assert thresholds == [collector.YOUNG, collector.MIDDLE, collector.OLD]
    assert frozen > 1_000 and knots <= collector.YOUNG
