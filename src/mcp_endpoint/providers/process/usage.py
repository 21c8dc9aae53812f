"""Reads CPU time and memory of processes from the operating system."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

PROC: Final = Path("/proc")
"""Only Linux provides this (proc(5), /proc/PID/stat)."""

# After the program's name, which may contain brackets and blanks.
_SESSION, _USER, _SYSTEM, _WAITED_USER, _WAITED_SYSTEM, _PAGES = 3, 11, 12, 13, 14, 21


class Usage(NamedTuple):
    """The sum over all living processes of a session; the times of dead ones count as soon as they were waited for."""

    cpu_seconds: float
    memory_bytes: int
    """Resident set size; shared pages count once per process."""
    processes: int


def of_sessions(sessions: Collection[int], proc: Path = PROC) -> dict[int, Usage]:
    """Usage per session; sessions without a living process are left out, all of them where the system does not provide it."""
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
        except (OSError, ValueError, IndexError):  # the process has exited
            continue
        cpu, memory, processes = found.get(session, (0.0, 0, 0))
        cpu += ticks / os.sysconf("SC_CLK_TCK")
        found[session] = Usage(cpu, memory + pages * os.sysconf("SC_PAGE_SIZE"), processes + 1)
    return found
