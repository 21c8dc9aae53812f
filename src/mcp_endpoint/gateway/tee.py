"""Copies an exchange, within bounds, for the recorder, which receives it when it has ended.

A chunk is sent to the client first. Nothing is parsed here: a chunk is kept by reference, with its time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from ..exchanges import Ending, Exchange, Exchanges
from .rewrite import KEY_HEADER, Header

CHUNK_BYTES: Final = 64
"""Overhead of a chunk: many small ones must not exceed the bound."""
BODIES: Final = 16
"""All exchanges in progress keep this many times `Exchanges.body_bytes` together; beyond it only sizes are kept."""


class Recording:
    """The exchanges in progress of all gateways."""

    def __init__(self, exchanges: Exchanges, clock: Callable[[], float], epoch: Callable[[], float]) -> None:
        """`clock` is the loop's, `epoch` seconds since 1970."""
        self.exchanges = exchanges
        self.clock = clock
        self.epoch = epoch
        self.held = 0
        """Bytes kept for all of them."""

    def begin(self, label: str, client: str, method: str, headers: Sequence[Header]) -> Tee:
        """Begin an exchange."""
        return Tee(self, label, client, method, headers)


class _Body:
    """The bytes kept of one body."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.seen = 0
        self.held = 0
        self.cut = False

    def take(self, piece: bytes, overhead: int = 0) -> bytes:
        """The part of a piece that fits. Nothing is kept after the first cut, so that a body has no gaps."""
        recording = self._recording
        most = recording.exchanges.body_bytes
        room = 0 if self.cut else max(0, min(most - self.held, BODIES * most - recording.held) - overhead)
        kept = piece if len(piece) <= room else piece[:room]
        self.seen += len(piece)
        self.cut = len(kept) < len(piece)
        if kept:
            self.held += len(kept) + overhead
            recording.held += len(kept) + overhead
        return kept


class Tee:
    """One exchange in progress."""

    def __init__(self, recording: Recording, label: str, client: str, method: str, headers: Sequence[Header]) -> None:
        self._recording = recording
        self._began = recording.clock()
        self._started = recording.epoch()
        self._label = label
        self._client = client
        self._method = method
        self._request_headers = [(name, value) for name, value in headers if name != KEY_HEADER]
        self._request: list[bytes] = []
        self._asked = _Body(recording)
        self._status = 0
        self._answer_headers: Sequence[Header] = ()
        self._chunks: list[tuple[float, bytes]] = []
        self._answered = _Body(recording)
        self._first: float | None = None
        self._endpoint: str | None = None
        self._path = ""

    def of(self, endpoint: str, path: bytes, query: bytes) -> None:
        """What is asked for: the endpoint that the path pins or an empty name, the client's whole path, the query without our key."""
        self._endpoint = endpoint or None
        self._path = (path + (b"?" + query if query else b"")).decode("latin-1")

    def asked(self, piece: bytes) -> None:
        """Add a piece of the request's body."""
        if kept := self._asked.take(piece):
            self._request.append(kept)

    async def asking(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield and add the pieces of a streamed request body."""
        async for piece in pieces:
            self.asked(piece)
            yield piece

    def answered(self, status: int, headers: Sequence[Header]) -> None:
        """Set the head of the response."""
        self._status = status
        self._answer_headers = headers

    def add(self, chunk: bytes) -> None:
        """Add a chunk that was sent to the client."""
        if not chunk:
            return
        offset = self._recording.clock() - self._began
        if self._first is None:
            self._first = offset
        if kept := self._answered.take(chunk, CHUNK_BYTES):
            self._chunks.append((offset, kept))

    def end(self, ending: Ending) -> None:
        """End the exchange and give it to the recorder."""
        recording = self._recording
        recording.held -= self._asked.held + self._answered.held
        recording.exchanges.exchange(
            Exchange(
                started=self._started,
                ms=(recording.clock() - self._began) * 1000,
                first_ms=None if self._first is None else self._first * 1000,
                endpoint=self._endpoint,
                label=self._label,
                client=self._client,
                method=self._method,
                path=self._path,
                status=self._status,
                ending=ending,
                request_headers=self._request_headers,
                request_body=self._request[0] if len(self._request) == 1 else b"".join(self._request),
                answer_headers=self._answer_headers,
                answer_chunks=self._chunks,
                seen_bytes=self._asked.seen + self._answered.seen,
                truncated=self._asked.cut or self._answered.cut,
            )
        )
