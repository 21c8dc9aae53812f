"""Server-sent events that survive a lost connection: a stream keeps what it said until there is no room for it.

Rules of this module (MCP 2025-11-25, Transports, "Resumability and Redelivery"):

1. Every event has an id of its own in its session: the number of its stream, a dash, and its place in that stream.
2. Of several connections to one stream the newest is spoken to; when it goes, the one before it is.
3. What was not yet written anywhere is never lost while somebody reads; what was written is kept for a resumption as long as all
   streams of the server together stay below `http_replay_bytes`. A stream that had to forget says so instead of leaving a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .. import jsonrpc

COMMENT_SECONDS: Final = 15.0
"""Silence after which a connection gets a comment: proxies cut what is silent for 60 s, some for 30 s."""
RETRY_MILLISECONDS: Final = 1_000
"""After what time a client comes back to a stream whose connection ended."""
CONNECTIONS: Final = 4
"""Connections one stream has at most; one more ends the oldest."""
HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
COMMENT: Final = b": still here\n\n"


class Store:
    """How many bytes all streams of a server keep, and who makes room when they are too many."""

    def __init__(self, most: int, make_room: Callable[[], None]) -> None:
        """`make_room` is called when more than `most` bytes are kept."""
        self.most = most
        self.used = 0
        self._make_room = make_room

    def take(self, size: int) -> None:
        """So many bytes more, or less."""
        self.used += size
        if self.used > self.most:
            self._make_room()


class Stream:
    """The events of one POST, or of the session itself, in their order."""

    __slots__ = ("_connections", "_kept", "_lost", "_store", "ended", "last", "number", "queued", "size", "written")

    def __init__(self, number: int, store: Store, *, primed: bool) -> None:
        """`primed` says that the client understands an event without data, which gives it an id to come back with."""
        self.number = number
        self.last = 0
        """The place of the newest event."""
        self.written = 0
        """The place of the newest event that was written to a connection."""
        self.queued = 0
        """Bytes not yet written."""
        self.size = 0
        """Bytes kept, written or not."""
        self.ended = False
        self._kept: list[bytes] = []
        """The events from place `_lost + 1` on."""
        self._lost = 0
        """The place up to which events were forgotten."""
        self._store = store
        self._connections: list[Connection] = []
        if primed:
            self._keep(b"retry: %d\ndata: \n\n" % RETRY_MILLISECONDS)

    @property
    def connected(self) -> bool:
        """Whether somebody reads it."""
        return bool(self._connections)

    def say(self, frame: bytes) -> None:
        """One JSON-RPC frame."""
        self._keep(b"event: message\ndata: %b\n\n" % jsonrpc.one_line(frame))

    def end(self) -> None:
        """Nothing comes after this; who reads gets the rest, and the connection ends."""
        self.ended = True
        self._wake()

    def close(self) -> None:
        """End at once, and keep nothing."""
        self.end()
        self.forget(all_of_it=True)

    def forget(self, *, all_of_it: bool = False) -> None:
        """Let go of what was written, and of everything if nobody reads."""
        bound = self.last if all_of_it or not self._connections else self.written
        gone = self._kept[: bound - self._lost]
        self.queued -= sum(map(len, gone[max(0, self.written - self._lost) :]))
        freed = sum(map(len, gone))
        del self._kept[: len(gone)]
        self._lost = bound
        self.written = max(self.written, bound)
        self.size -= freed
        self._store.take(-freed)

    @property
    def empty(self) -> bool:
        """Whether it is over and nothing of it is left."""
        return self.ended and not self._kept and not self._connections

    def connect(self, after: int | None = None) -> Connection | None:
        """A new connection; `after` is the place of the last event it has. None if what it needs was forgotten."""
        if after is not None:
            if after < self._lost or after > self.last:
                return None
            self.written = after
            self.queued = sum(map(len, self._kept[after - self._lost :]))
        while len(self._connections) >= CONNECTIONS:
            self._connections.pop(0).wake(leave=True)
        connection = Connection(self)
        self._connections.append(connection)
        return connection

    def disconnect(self, connection: Connection) -> None:
        """A connection is gone; the one before it is spoken to from now on."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._wake()

    def pieces(self, connection: Connection) -> bytes:
        """What is to be written to this connection now."""
        if self.written == self.last or not self._connections or self._connections[-1] is not connection:
            return b""
        rest = b"".join(self._kept[self.written - self._lost :])
        self.written = self.last
        self.queued = 0
        return rest

    def _keep(self, event: bytes) -> None:
        self.last += 1
        event = b"id: %d-%d\n%b" % (self.number, self.last, event)
        self._kept.append(event)
        self.queued += len(event)
        self.size += len(event)
        self._wake()
        self._store.take(len(event))

    def _wake(self) -> None:
        for connection in self._connections:
            connection.wake()


class Connection:
    """One HTTP answer that carries a stream."""

    __slots__ = ("_news", "left", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.left = False
        """Whether too many newer ones came."""
        self._news = asyncio.Event()

    def wake(self, *, leave: bool = False) -> None:
        """There is something to look at."""
        self.left = self.left or leave
        self._news.set()

    async def news(self) -> None:
        """Wait until there is something to look at."""
        await self._news.wait()
        self._news.clear()


class Events(Response):
    """The HTTP answer that carries a connection until its stream ends or its client leaves."""

    media_type = "text/event-stream"

    def __init__(self, connection: Connection, stalled_seconds: float, headers: Mapping[str, str] | None = None) -> None:
        """A client that takes nothing for `stalled_seconds` has left."""
        self.status_code = 200
        self.background = None
        self.init_headers(HEADERS | dict(headers or {}))
        self._connection = connection
        self._stalled_seconds = stalled_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(hung_up(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._write(send, gone)
        except TimeoutError:
            return  # without the last chunk, which says that more was to come
        finally:
            gone.cancel()
            self._connection.stream.disconnect(self._connection)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, gone: asyncio.Task[None]) -> None:
        connection = self._connection
        stream = connection.stream
        while not gone.done() and not connection.left:
            piece = stream.pieces(connection)
            if not piece:
                if stream.ended:
                    return
                piece = await self._wait(gone)
            if piece:
                async with asyncio.timeout(self._stalled_seconds):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _wait(self, gone: asyncio.Task[None]) -> bytes:
        """Until there is something to look at: nothing, or the comment that keeps a silent connection alive."""
        news = asyncio.create_task(self._connection.news())
        try:
            done, _ = await asyncio.wait((news, gone), timeout=COMMENT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        return b"" if done else COMMENT


async def hung_up(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
