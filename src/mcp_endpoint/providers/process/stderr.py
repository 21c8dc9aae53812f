"""The last lines a server wrote to its stderr, in bounded memory and without its secrets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ...log import escape, redact
from .child import Lines

LINES_KEPT: Final = 50
LINE_BYTES: Final = 500
"""So much of a line is kept, in bytes as the server wrote it."""


class StderrTail:
    """Takes what comes from stderr in any pieces; `mask` takes the server's own secrets out of a line."""

    def __init__(self, mask: Callable[[str], str], tell: Callable[[str], None] = lambda line: None) -> None:
        """`tell` hears each line as it is complete, ready to be printed."""
        self._mask = mask
        self._tell = tell
        self._lines = Lines(LINE_BYTES)
        self._kept: deque[str] = deque(maxlen=LINES_KEPT)

    def hear(self, data: bytes) -> None:
        """The next piece."""
        for line in self._lines.feed(data):
            text = redact(self._mask(line.data.decode("utf-8", "replace"))) + ("" if line.whole else "…")
            if text.strip():
                self._kept.append(escape(text))
                self._tell(self._kept[-1])

    def last(self, most: int = LINES_KEPT) -> list[str]:
        """The last lines, oldest first."""
        return list(self._kept)[-most:]
