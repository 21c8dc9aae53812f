"""What every HTTP room needs: reading bodies within limits, and noticing a client disconnect.

Rooms check credentials first: a body is read only after access was granted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

Found = TypeVar("Found")
DROPPED: Final = 8
"""A too large body is read and discarded up to this many times the limit: a client that is still sending when its connection closes
does not see the response."""
LARGE_BYTES: Final = 64 * 1024
"""Bodies above this size take milliseconds to process."""
CLOSE: Final = (("Connection", "close"),)
"""The connection is closed, because the rest of a body remains unread."""


CUT: Final = "mcp_endpoint.cut"
"""The extension of a scope by which an application drops its connection, see `cut`."""


def cut(scope: Scope) -> None:
    """Drop the connection of a response that cannot be completed because its client does not read.

    This is not an error, and nothing that looks like the end of the response is sent.
    """
    found = scope.get("extensions", {}).get(CUT)
    if found is not None:
        found["cut"]()


class BodyRefused(Exception):
    """A body is not accepted: HTTP status, error code, message in both languages, response headers."""

    def __init__(self, status: int, error: str, message: str, headers: tuple[tuple[str, str], ...] = CLOSE) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.message = message
        self.headers = headers


class Bodies:
    """The request bodies being read by all rooms of one server, limited in number, size and time."""

    def __init__(self, most: int, seconds: float) -> None:
        """At most `most` at a time, half of them for one holder; each must be complete within `seconds`."""
        self._most = most
        self._seconds = seconds
        self._reading: Counter[str] = Counter()
        """Holder → number of their bodies being read."""
        self._turn = asyncio.Lock()

    async def read(self, request: Request, largest: int, holder: str) -> bytes:
        """The whole body, at most `largest` bytes; `holder` identifies the credentials.

        Raises BodyRefused (408 too slow, 413 too large, 503 too many) and ClientDisconnect.
        """
        with self._place(holder):
            try:
                async with asyncio.timeout(self._seconds):
                    begun, rest = await _beginning(request.stream(), largest)
                    size = len(begun)
                    if rest is None:
                        await self.in_turn(size)
                        return begun
                    while size <= DROPPED * largest and (piece := await anext(rest, None)) is not None:
                        size += len(piece)
            except TimeoutError:
                raise _too_slow() from None
            message = f"请求体超过 {largest} 字节 / The body is larger than {largest} bytes (limits.consumer_message_bytes)"
            raise BodyRefused(413, "request too large", message)

    async def begin(self, request: Request, largest: int, holder: str, idle_seconds: float) -> tuple[bytes, AsyncIterator[bytes] | None]:
        """The whole body; or, above `largest` bytes, its first part and an iterator of the rest.

        The iterator raises BodyRefused (408) if nothing arrives for `idle_seconds`. Raises BodyRefused (408 too slow, 503 too many) and
        ClientDisconnect.
        """
        with self._place(holder):
            try:
                async with asyncio.timeout(self._seconds):
                    begun, rest = await _beginning(request.stream(), largest)
            except TimeoutError:
                raise _too_slow() from None
        return begun, None if rest is None else _within(rest, idle_seconds)

    async def in_turn(self, size: int) -> None:
        """Wait for an exclusive turn of the event loop before processing many bytes, so that such work is spread over turns."""
        if size > LARGE_BYTES:
            async with self._turn:
                await asyncio.sleep(0)

    @contextmanager
    def _place(self, holder: str) -> Iterator[None]:
        if self._reading.total() >= self._most or self._reading[holder] >= max(1, self._most // 2):
            message = "正在接收的请求体过多，请稍后再试 / Too many bodies are being received, try again later (limits.http_bodies)"
            raise BodyRefused(503, "full", message, (*CLOSE, ("Retry-After", "1")))
        self._reading[holder] += 1
        try:
            yield
        finally:
            self._reading[holder] -= 1
            if not self._reading[holder]:
                del self._reading[holder]


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Found]) -> Found:
    """The result of `work`; if the client disconnects first, the work is cancelled and ClientDisconnect raised.

    The request body must have been read: later events are discarded.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.wait((working, gone))


async def disconnected(receive: Receive) -> None:
    """Return when the client has disconnected."""
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


async def _beginning(stream: AsyncIterator[bytes], largest: int) -> tuple[bytes, AsyncIterator[bytes] | None]:
    pieces: list[bytes] = []
    size = 0
    async for piece in stream:
        pieces.append(piece)
        size += len(piece)
        if size > largest:
            return b"".join(pieces), stream
    return b"".join(pieces), None


async def _within(stream: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(seconds):
                piece = await anext(stream, None)
        except TimeoutError:
            raise _too_slow() from None
        if piece is None:
            return
        yield piece


def _too_slow() -> BodyRefused:
    return BodyRefused(408, "request timeout", "请求体未及时到达 / The body did not arrive in time")
