"""Reads regular files of bounded size, without blocking on pipes or devices, and replaces files atomically."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of a file of settings or keys; reading this much on the event loop takes a few milliseconds."""


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file. Raises OSError, also for a FIFO or device and for more than `most` bytes."""
    # Opening a FIFO blocks until there is a writer, but not with O_NONBLOCK, which has no effect on a regular file (open(2)).
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "this is not a regular file", str(path))
    with os.fdopen(handle, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(0, f"this has more than {most} bytes", str(path))
    return data


def why_not(error: OSError | UnicodeDecodeError) -> tuple[str, str]:
    """Why a file could not be read, in English and Chinese, without its path."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte {error.start})", f"不是 UTF-8 编码（第 {error.start} 字节）"
    if isinstance(error, FileNotFoundError):
        return "it does not exist", "文件不存在"
    return error.strerror or type(error).__name__, error.strerror or type(error).__name__


def write(path: Path, text: str) -> None:
    """Replace a file atomically, readable by its owner only. Raises OSError."""
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f"{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError:
        os.unlink(beside)
        raise
