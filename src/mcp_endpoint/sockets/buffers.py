"""Tunes glibc's malloc so that the memory of large messages stays in the process.

Every message of 1 MB passes through buffers that live for less than a millisecond. By default glibc returns them to the kernel each time,
and the kernel hands out zeroed pages again: with two pairs exchanging 1 MB the process spent two thirds of its time there. With these
thresholds up to `KEPT_BYTES` of freed memory stay in the process; buffers above `HEAP_BYTES` are still mapped and unmapped one by one.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

HEAP_BYTES: Final = 4 * 1024 * 1024
KEPT_BYTES: Final = 16 * 1024 * 1024

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3


def keep_large_buffers() -> bool:
    """Set both thresholds for this process; False where the C library is not glibc. Called once, by the program."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, HEAP_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
