"""Parses server-sent events from a byte stream, in bounded memory (WHATWG HTML §9.2.6).

Data stays bytes: the consumer of an event decodes it, so that a wrong encoding affects one message only.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

HEAD_BYTES: Final = 512
"""Bytes kept of the beginning of an event that is too large: enough to find the id of the request."""
TAIL_BYTES: Final = 96
"""Bytes kept of its end: some servers write the id last."""
_BOM: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class Event(NamedTuple):
    """One event; with `whole` False it exceeded the limit, and only both ends of its data are kept."""

    kind: str
    data: bytes
    id: str | None
    """The id for resumption; None if the event has none."""
    retry_seconds: float | None
    """The server's reconnection time."""
    whole: bool = True


class Events:
    """The parser; `limit` is the most bytes of data in one event."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line = bytearray()
        self._first = True
        self._after_cr = False
        self._skipping = False
        self._clear()

    def _clear(self) -> None:
        self._kind = ""
        self._data: list[bytes] = []
        self._size = 0
        self._head = b""
        self._tail = b""
        self._id: str | None = None
        self._retry: float | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes."""
        if not chunk:
            return []
        if self._after_cr:  # CR LF split over two chunks is one line end
            chunk = chunk.removeprefix(b"\n")
            if not chunk:
                self._after_cr = False
                return []
        self._after_cr = chunk.endswith(b"\r")
        found: list[Event] = []
        at = 0
        for end in _LINE_END.finditer(chunk):
            self._take(chunk[at : end.start()])
            at = end.end()
            event = self._line_ended()
            if event is not None:
                found.append(event)
        self._take(chunk[at:])
        return found

    def _take(self, piece: bytes) -> None:
        """Add a piece to the current line; beyond the limit only its beginning and end are kept."""
        if self._skipping:
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
            return
        self._line += piece
        if len(self._line) > self._limit + HEAD_BYTES:
            self._skipping = True
            self._tail = bytes(self._line[-TAIL_BYTES:])
            del self._line[HEAD_BYTES:]

    def _line_ended(self) -> Event | None:
        line = bytes(self._line)
        self._line.clear()
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if self._skipping:
            self._skipping = False
            self._too_large(line.partition(b":")[2].removeprefix(b" "))
            return None
        if not line:
            return self._event()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._limit + 1:
                self._too_large(b"\n".join((*self._data, value[:HEAD_BYTES])))
                self._tail = value[-TAIL_BYTES:]
            else:
                self._data.append(value)
        elif name == b"event":
            self._kind = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self._retry = int(value) / 1000
        return None

    def _too_large(self, begins: bytes) -> None:
        self._size = self._limit + 2
        self._head = self._head or begins[:HEAD_BYTES]
        self._data.clear()

    def _event(self) -> Event | None:
        """The event that an empty line ends."""
        whole = self._size <= self._limit + 1
        data = b"\n".join(self._data) if whole else self._head + self._tail
        event = Event(self._kind or "message", data, self._id, self._retry, whole)
        worth = self._size or self._kind or self._id is not None or self._retry is not None
        self._clear()
        return event if worth else None
