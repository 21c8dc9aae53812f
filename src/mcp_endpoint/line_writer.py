"""Writes lines to a console or file on a separate thread, so that a blocked reader never blocks the program.

Lines wait in a queue bounded in bytes. A line that does not fit or cannot be written is counted, as are all later ones until the queue is
empty; then one line says how many are missing. A blocked reader (Ctrl-S, an unread pipe, a full disk) costs log lines, never a call.
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
"""Time that an exiting program waits for the remaining lines."""
RETRY_SECONDS: Final = 1.0
"""Time between a failed write and the attempt to write how many lines are missing."""
REPORT_SECONDS: Final = 60.0
"""Shortest time between two reports about the same target."""
FILE_MODE: Final = 0o640
"""Owner: read and write; group: read. Lines contain names and addresses of people's tools."""
_ASIDE: Final = "%Y-%m-%d_%H-%M-%S_%f"


class Sink(Protocol):
    """The target of lines; used by one thread only."""

    def write(self, line: bytes) -> None:
        """Write the whole line, however long it takes. Raises OSError."""

    def close(self) -> None:
        """Release its resources."""


class StreamSink:
    """A stream of the process, bypassing Python's buffer: a thread that waits there holds a lock that the interpreter's exit needs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            self._descriptor = stream.fileno() if os.name == "posix" else -1  # the Windows console needs text, not bytes
        except (io.UnsupportedOperation, ValueError):
            self._descriptor = -1

    def write(self, line: bytes) -> None:
        if self._descriptor < 0:
            self._stream.write(line.decode())
            self._stream.flush()
        else:
            write_all(self._descriptor, line)

    def close(self) -> None:
        """Nothing: the stream belongs to the process."""


class RotatingFile:
    """A file that is renamed with a timestamp when it is full; a pipe or device is only written to."""

    def __init__(self, path: Path, most: int, keep: int) -> None:
        """A new file begins before one exceeds `most` bytes; `keep` full ones are kept. Raises OSError."""
        self._path = path
        self._most = most
        self._keep = keep
        self._name = re.compile(re.escape(path.stem) + r"\.\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d{6}" + re.escape(path.suffix))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._open()
        self._torn = False

    def write(self, line: bytes) -> None:
        if self._descriptor < 0:  # the last rotation failed
            self._descriptor = self._open()
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
        """A line was written partly (full disk): begin the next one on a new line."""
        self._torn = True

    def _open(self) -> int:
        # A FIFO opened for reading and writing neither blocks without a reader nor breaks when the reader leaves.
        is_fifo = self._path.exists() and stat.S_ISFIFO(self._path.stat().st_mode)
        flags = (os.O_RDWR if is_fifo else os.O_WRONLY) | os.O_APPEND | os.O_CREAT
        descriptor = os.open(self._path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0), FILE_MODE)
        if self._is_ours(descriptor):
            self._narrow(self._path)
        return descriptor

    def _is_ours(self, descriptor: int) -> bool:
        """Whether the file may be renamed. `/dev/stdout` may lead to a file of another program, and is itself not a name to rename."""
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and not str(self._path).startswith(("/dev/", "/proc/"))

    def _turn(self) -> None:
        """Rename the full file, and delete the oldest beyond `keep`."""
        self.close()
        self._torn = False
        aside = self._path.with_name(f"{self._path.stem}.{datetime.now().strftime(_ASIDE)}{self._path.suffix}")
        self._path.rename(aside)
        self._descriptor = self._open()
        old = sorted((one for one in self._path.parent.iterdir() if self._name.fullmatch(one.name)), reverse=True)
        for one in old[: self._keep]:
            self._narrow(one)
        for one in old[self._keep :]:
            one.unlink(missing_ok=True)

    @staticmethod
    def _narrow(path: Path) -> None:
        """Remove excess permissions from a file of an older version; files of other owners are left as they are."""
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & ~FILE_MODE:
            with contextlib.suppress(PermissionError):
                path.chmod(mode & FILE_MODE)


class LineWriter:
    """A queue of lines with a thread that writes them."""

    def __init__(self, sink: Sink, room: int, missing: Callable[[int], str], failed: Callable[[Exception], None]) -> None:
        """`room` is the most bytes that may wait. `missing` makes the line about lost lines; `failed` is called with the error of a failed
        write, now and then, on the writer's thread.
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
        self._reported = -REPORT_SECONDS
        self._thread = threading.Thread(target=self._run, name="line writer", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Queue one line with its line end, or count it; never blocks. Thread-safe."""
        line = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._lost or self._bytes + len(line) > self._room:
                self._lost += 1
            else:
                self._lines.append(line)
                self._bytes += len(line)
            self._changed.notify()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait this long for the remaining lines. A blocked thread is abandoned: it ends with the process."""
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
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                with self._changed:
                    self._lost += lost or 1
                self._failing = True
                if time.monotonic() >= self._reported + REPORT_SECONDS:
                    self._reported = time.monotonic()
                    self._failed(error)
            else:
                self._failing = False
        self._sink.close()

    def _next(self) -> tuple[bytes, int]:
        """The next line; or the number of lost lines once the queue is empty; nothing at the end."""
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
    """Write a whole line; `torn` is called if only a part could be written."""
    rest = memoryview(line)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # another process has made the terminal or pipe non-blocking
            select.select((), (descriptor,), ())
        except OSError:
            if len(rest) < len(line):
                torn()
            raise
