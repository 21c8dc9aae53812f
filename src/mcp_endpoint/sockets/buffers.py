"""The C library keeps the memory of large messages, instead of giving it back to the kernel after each one.

Every message of 1 MB passes through buffers that are made and freed within a millisecond. By itself glibc returns them to the kernel each
time, which then hands out fresh, zeroed pages: with two pairs exchanging 1 MB the process spent two thirds of its time there. With these
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
    """Set both thresholds for this process; False where the C library is not glibc. To be called once, by the program itself."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, HEAP_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
