"""What processes cost the machine: processor time and memory, where the system tells."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

PROC: Final = Path("/proc")
"""Linux tells here (proc(5), /proc/PID/stat); elsewhere nothing is known."""

# Behind the name of the program, which may hold anything, even brackets and blanks.
_SESSION, _USER, _SYSTEM, _WAITED_USER, _WAITED_SYSTEM, _PAGES = 3, 11, 12, 13, 14, 21


class Usage(NamedTuple):
    """The sum over all living processes of a session; what its dead ones had used counts as soon as they were waited for."""

    cpu_seconds: float
    memory_bytes: int
    """Resident; what several processes share is counted for each."""
    processes: int


def of_sessions(sessions: Collection[int], proc: Path = PROC) -> dict[int, Usage]:
    """What each session uses now; one without a living process is left out, and so are all where the system does not tell."""
    found: dict[int, Usage] = {}
    if not sessions:
        return found
    try:
        names = [name for name in os.listdir(proc) if name.isdigit()]
    except OSError:
        return found
    for name in names:
        try:
            fields = (proc / name / "stat").read_bytes().rpartition(b")")[2].split()
            session = int(fields[_SESSION])
            if session not in sessions:
                continue
            ticks = sum(int(fields[place]) for place in (_USER, _SYSTEM, _WAITED_USER, _WAITED_SYSTEM))
            pages = int(fields[_PAGES])
        except (OSError, ValueError, IndexError):  # it ended meanwhile
            continue
        cpu, memory, processes = found.get(session, (0.0, 0, 0))
        cpu += ticks / os.sysconf("SC_CLK_TCK")
        found[session] = Usage(cpu, memory + pages * os.sysconf("SC_PAGE_SIZE"), processes + 1)
    return found
