"""Writes lines to a console or a file on a thread of its own, so that nobody who writes ever waits for the one who reads.

Lines wait in a queue that is bounded in bytes. When one finds no room, or cannot be written, it is counted; so are all after it until the
queue is empty, and then one line says how many are missing at this place. A reader that is stuck (Ctrl-S, a pipe nobody reads, a full disk)
costs lines, never a call.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol, TextIO

CLOSE_SECONDS: Final = 0.5
"""How long an ending program waits for a stuck reader to take what is left."""
RETRY_SECONDS: Final = 1.0
"""How long a writer that could not write waits before it tries to say how many lines are missing."""
TELL_SECONDS: Final = 60.0
"""Least time between two complaints about the same console or file."""
FILE_MODE: Final = 0o640
"""Owner reads and writes, group reads: lines name people's tools and addresses."""
_ASIDE: Final = "%Y-%m-%d_%H-%M-%S_%f"


class Sink(Protocol):
    """Where lines go; used by one thread."""

    def write(self, line: bytes) -> None:
        """Write it all, however long that takes. Raises OSError where it cannot."""

    def close(self) -> None:
        """Give up what it holds."""


class Console:
    """A stream of the process, past Python's own buffer: whoever waits there holds a lock that the program's end needs too."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            self._descriptor = stream.fileno() if os.name == "posix" else -1  # a console of Windows wants text, not bytes
        except (io.UnsupportedOperation, ValueError):
            self._descriptor = -1

    def write(self, line: bytes) -> None:
        if self._descriptor < 0:
            self._stream.write(line.decode())
            self._stream.flush()
        else:
            write_all(self._descriptor, line)

    def close(self) -> None:
        """The stream is not ours."""


class RotatingFile:
    """A file that is set aside under the time of day when it is full; a pipe or a device is written to as it is."""

    def __init__(self, path: Path, most: int, keep: int) -> None:
        """A new file begins before one gets larger than `most` bytes; `keep` full ones stay. Raises OSError."""
        self._path = path
        self._most = most
        self._keep = keep
        self._name = re.compile(re.escape(path.stem) + r"\.\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d{6}" + re.escape(path.suffix))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._opened()
        self._torn = False

    def write(self, line: bytes) -> None:
        if self._descriptor < 0:  # the last turn failed
            self._descriptor = self._opened()
        size = os.fstat(self._descriptor).st_size
        if size and size + len(line) > self._most and self._is_ours(self._descriptor):
            self._turn()
        write_all(self._descriptor, b"\n" + line if self._torn else line, self._tear)
        self._torn = False

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _tear(self) -> None:
        """The disk was full in the middle of a line: the next one must not be glued to it."""
        self._torn = True

    def _opened(self) -> int:
        # A FIFO opened for reading too neither waits for a reader nor dies with it.
        is_fifo = self._path.exists() and stat.S_ISFIFO(self._path.stat().st_mode)
        flags = (os.O_RDWR if is_fifo else os.O_WRONLY) | os.O_APPEND | os.O_CREAT
        descriptor = os.open(self._path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0), FILE_MODE)
        if self._is_ours(descriptor):
            self._narrow(self._path)
        return descriptor

    def _is_ours(self, descriptor: int) -> bool:
        """Whether it is a file to set aside. `/dev/stdout` may lead to one that somebody else has opened, and is itself no name to move."""
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and not str(self._path).startswith(("/dev/", "/proc/"))

    def _turn(self) -> None:
        """Set the full file aside, and remove the oldest beyond those that are kept."""
        self.close()
        self._torn = False
        aside = self._path.with_name(f"{self._path.stem}.{datetime.now().strftime(_ASIDE)}{self._path.suffix}")
        self._path.rename(aside)
        self._descriptor = self._opened()
        old = sorted((one for one in self._path.parent.iterdir() if self._name.fullmatch(one.name)), reverse=True)
        for one in old[: self._keep]:
            self._narrow(one)
        for one in old[self._keep :]:
            one.unlink(missing_ok=True)

    @staticmethod
    def _narrow(path: Path) -> None:
        """Take away what others may do with a file of an older version; somebody else's file stays as it is."""
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & ~FILE_MODE:
            with contextlib.suppress(PermissionError):
                path.chmod(mode & FILE_MODE)


class LineWriter:
    """A queue of lines and the thread that writes them."""

    def __init__(self, sink: Sink, room: int, missing: Callable[[int], str], failed: Callable[[Exception], None]) -> None:
        """`room` is the bytes that may wait. `missing` words the line that says how many are not there; `failed` hears, now and then and
        on the writer's thread, why a line could not be written.
        """
        self._sink = sink
        self._room = room
        self._missing = missing
        self._failed = failed
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self._ending = False
        self._failing = False
        self._told = -TELL_SECONDS
        self._thread = threading.Thread(target=self._run, name="line writer", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Take one line with its end, or count it; never waits. For any thread."""
        line = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._lost or self._bytes + len(line) > self._room:
                self._lost += 1
            else:
                self._lines.append(line)
                self._bytes += len(line)
            self._changed.notify()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait so long for what is left to be written. A thread that is stuck is left behind: it ends with the process."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            line, lost = self._next()
            if not (line or lost):
                break
            try:
                self._sink.write(line or self._missing(lost).encode())
            except (OSError, ValueError) as error:  # ValueError: a stream of Python's that was closed
                with self._changed:
                    self._lost += lost or 1
                self._failing = True
                if time.monotonic() >= self._told + TELL_SECONDS:
                    self._told = time.monotonic()
                    self._failed(error)
            else:
                self._failing = False
        self._sink.close()

    def _next(self) -> tuple[bytes, int]:
        """The next line, or how many are missing here once the queue is empty; nothing at the end."""
        due = time.monotonic() + RETRY_SECONDS if self._failing else 0.0
        with self._changed:
            while not self._lines:
                left = due - time.monotonic()
                if self._lost and left <= 0:
                    lost, self._lost = self._lost, 0
                    return b"", lost
                if self._ending:
                    return b"", 0
                self._changed.wait(left if self._lost else None)
            line = self._lines.popleft()
            self._bytes -= len(line)
            return line, 0


def write_all(descriptor: int, line: bytes, torn: Callable[[], None] = lambda: None) -> None:
    """Write a whole line; `torn` is told when only its beginning could be written."""
    rest = memoryview(line)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # somebody else has made the terminal or pipe non-blocking
            select.select((), (descriptor,), ())
        except OSError:
            if len(rest) < len(line):
                torn()
            raise
