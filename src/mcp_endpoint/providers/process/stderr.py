"""Keeps the last lines of a server's stderr, in bounded memory and without its secrets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ...log import escape, redact
from .child import Lines

LINES_KEPT: Final = 50
LINE_BYTES: Final = 500
"""Bytes of a line that are kept."""


class StderrTail:
    """Takes stderr in chunks of any size; `mask` removes the server's secrets from a line."""

    def __init__(self, mask: Callable[[str], str], on_line: Callable[[str], None] = lambda line: None) -> None:
        """`on_line` is called with each complete line, ready to be printed."""
        self._mask = mask
        self._on_line = on_line
        self._lines = Lines(LINE_BYTES)
        self._kept: deque[str] = deque(maxlen=LINES_KEPT)

    def feed(self, data: bytes) -> None:
        """Take the next chunk."""
        for line in self._lines.feed(data):
            text = redact(self._mask(line.data.decode("utf-8", "replace"))) + ("" if line.whole else "…")
            if text.strip():
                self._kept.append(escape(text))
                self._on_line(self._kept[-1])

    def last(self, most: int = LINES_KEPT) -> list[str]:
        """The last lines, oldest first."""
        return list(self._kept)[-most:]
