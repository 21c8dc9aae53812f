"""What the system tells of processes, and what it does not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mcp_endpoint.providers.process.usage import of_sessions


def _process(proc: Path, pid: int, name: str, session: int, ticks: tuple[int, int, int, int], pages: int) -> None:
    (proc / str(pid)).mkdir()
    fields = ["S", "1", "1", session, *[0] * 7, *ticks, *[0] * 6, pages, 0]
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, fields))}\n")


def test_all_processes_of_a_session_are_added_up(tmp_path: Path) -> None:
    _process(tmp_path, 10, "a", 10, (100, 50, 0, 0), 3)
    _process(tmp_path, 11, "b) S 1 1 99 (", 10, (0, 0, 25, 25), 4)
    _process(tmp_path, 12, "c", 12, (1, 1, 1, 1), 1)
    _process(tmp_path, 13, "d", 13, (1, 1, 1, 1), 1)
    (tmp_path / "14").mkdir()
    (tmp_path / "15").mkdir()
    (tmp_path / "15" / "stat").write_text("15 (short) S 1\n")
    (tmp_path / "self").mkdir()
    found = of_sessions({10, 12, 99}, tmp_path)
    assert set(found) == {10, 12}
    assert found[10].processes == 2
    assert found[10].memory_bytes == 7 * os.sysconf("SC_PAGE_SIZE")
    assert found[10].cpu_seconds == pytest.approx(200 / os.sysconf("SC_CLK_TCK"))


def test_where_the_system_does_not_tell_nothing_is_known(tmp_path: Path) -> None:
    assert of_sessions({10}, tmp_path / "nowhere") == {}
    assert of_sessions(()) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_this_process_uses_memory_and_time() -> None:
    session = os.getsid(0)
    used = of_sessions({session})[session]
    assert used.memory_bytes > 1_000_000
    assert used.cpu_seconds > 0
    assert used.processes >= 1
