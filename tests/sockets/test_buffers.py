"""Memory of large messages."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mcp_endpoint.sockets.buffers import keep_large_buffers

FAULTS = """
import resource
from mcp_endpoint.sockets.buffers import keep_large_buffers
if {keep}:
    assert keep_large_buffers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    one, two, three = b"1" * 1_000_000, b"2" * 2_000_000, b"3" * 1_500_000
    del one, two, three
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds")
def test_large_buffers_cost_no_page_faults_once_they_have_been_used() -> None:
    faults = int(subprocess.run([sys.executable, "-c", FAULTS.format(keep=True)], capture_output=True, check=True, timeout=60).stdout)
    assert faults < 5_000  # a few for the first use; 150,000 when each buffer is returned


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds")
def test_the_thresholds_are_set_in_this_process() -> None:
    assert keep_large_buffers()


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert keep_large_buffers() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_large_buffers() is False
