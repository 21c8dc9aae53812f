"""Resumable event streams: events are kept for redelivery while there is room.

Rules of this module (MCP 2025-11-25, Transports, "Resumability and Redelivery"):

1. Every event has an id that is unique in its session: the number of its stream, a dash, its place in the stream.
2. Of several connections to a stream only the newest is written to; when it ends, the one before it.
3. Bytes kept for HTTP clients stay below `http_replay_bytes` in total (`Store`). If there is no room, the endpoint that holds most gives up
   bytes: first delivered events, then undelivered ones. A stream that has dropped events refuses to resume instead of leaving a gap,
   and a connection that does not read is ended.
4. Adding a frame never waits and never raises: the sender serves others too.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...asgi import cut
from ...protocol import jsonrpc
from ...settings.schema import Limits

COMMENT_SECONDS: Final = 15.0
"""Idle time after which a connection gets a comment: proxies cut idle connections after 60 s, some after 30 s."""
RETRY_MILLISECONDS: Final = 1_000
"""Reconnection time for clients (SSE `retry`)."""
CONNECTIONS: Final = 4
"""Most connections per stream; one more ends the oldest."""
ANSWERS_KEPT: Final = 2
"""The store has room for at least this many largest responses, so that a client that reads gets its own."""
PIECE: Final = 16 * 1024
"""Bytes passed to a connection at a time: what it has not taken counts in the store, what the socket holds does not."""
HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
COMMENT: Final = b": still here\n\n"


class BufferHolder(Protocol):
    """Something that keeps bytes for clients of one endpoint."""

    @property
    def owner(self) -> str:
        """The endpoint's name."""

    def spare(self) -> None:
        """Drop what nobody waits for."""

    def drop(self) -> None:
        """Drop everything."""


class Store:
    """Counts the bytes kept for all HTTP clients of a server; when there are too many, the endpoint that holds most drops some."""

    def __init__(self, most: int, at_least: int = 0) -> None:
        """At most `most` bytes are kept; undelivered events are dropped only above `at_least` bytes."""
        self.most = most
        self.used = 0
        self._unread = max(most, at_least)
        self._held: dict[str, dict[BufferHolder, int]] = {}
        """Endpoint → holder → bytes."""
        self._sums: dict[str, int] = {}
        """Endpoint → bytes."""

    @classmethod
    def of(cls, limits: Limits) -> Store:
        """The store of one server."""
        return cls(limits.http_replay_bytes, ANSWERS_KEPT * limits.http_answer_bytes)

    def take(self, holder: BufferHolder, size: int) -> None:
        """A holder keeps `size` more bytes. Afterwards there is room: holders, perhaps this one, had to drop some."""
        self._count(holder, size)
        if self.used > self.most:
            self._make_room()

    def free(self, holder: BufferHolder, size: int) -> None:
        """A holder keeps `size` fewer bytes."""
        self._count(holder, -size)

    def held_by(self, owner: str) -> int:
        """Bytes held for one endpoint."""
        return self._sums.get(owner, 0)

    def _count(self, holder: BufferHolder, size: int) -> None:
        if not size:
            return
        owner = holder.owner
        holders = self._held.setdefault(owner, {})
        holders[holder] = holders.get(holder, 0) + size
        if not holders[holder]:
            del holders[holder]
        self.used += size
        self._sums[owner] = self._sums.get(owner, 0) + size
        if not holders:
            del self._held[owner], self._sums[owner]

    def _make_room(self) -> None:
        """Drop until a quarter is free, so that the cost is paid once per that many bytes and not once per event."""
        room = self._unread * 3 // 4 if self.used > self._unread else self.most * 3 // 4
        dropping = self.used > self._unread
        fattest = [(-size, owner) for owner, size in self._sums.items()]
        heapq.heapify(fattest)
        steps: dict[str, Iterator[Callable[[], None]]] = {}
        while fattest and self.used > room:
            _, owner = heapq.heappop(fattest)
            if owner not in steps:
                held = self._held[owner]
                holders = sorted(held, key=held.__getitem__, reverse=True)
                steps[owner] = iter([*(holder.spare for holder in holders), *(holder.drop for holder in holders if dropping)])
            step = next(steps[owner], None)
            if step is not None:
                step()
                if owner in self._sums:
                    heapq.heappush(fattest, (-self._sums[owner], owner))


class _StoredEvent:
    """One event: its id, and the rest, which streams may share."""

    __slots__ = ("id", "rest")

    def __init__(self, id: bytes, rest: bytes) -> None:
        self.id = id
        self.rest = rest

    def __len__(self) -> int:
        return len(self.id) + len(self.rest)


def _bytes(events: list[_StoredEvent]) -> int:
    return sum(map(len, events))


def event_of(frame: bytes, kind: bytes = b"message") -> bytes:
    """A frame as an event without an id."""
    return b"event: %b\ndata: %b\n\n" % (kind, jsonrpc.one_line(frame))


class Stream:
    """The ordered events of one POST, or of the session itself."""

    __slots__ = ("_connections", "_kept", "_lost", "_sent", "_store", "ended", "last", "number", "owner", "queued", "size", "written")

    def __init__(self, number: int, owner: str, store: Store, *, primed: bool) -> None:
        """`owner` is the endpoint. `primed`: send an event without data first, whose id the client can resume with."""
        self.number = number
        self.owner = owner
        self.last = 0
        """Place of the newest event."""
        self.written = 0
        """Place of the newest event given to a connection."""
        self.queued = 0
        """Bytes not taken by a connection."""
        self.size = 0
        """Bytes kept, taken or not."""
        self.ended = False
        self._sent = 0
        """Place of the newest event completely taken by a connection."""
        self._kept: list[_StoredEvent] = []
        """The events from place `_lost + 1` on."""
        self._lost = 0
        """Place up to which events were dropped."""
        self._store = store
        self._connections: list[Connection] = []
        if primed:
            self.keep(b"retry: %d\ndata: \n\n" % RETRY_MILLISECONDS)

    @property
    def connected(self) -> bool:
        """Whether a connection reads it."""
        return bool(self._connections)

    def add(self, frame: bytes, kind: bytes = b"message") -> None:
        """Add a JSON-RPC frame, or the data of another kind of event."""
        self.keep(event_of(frame, kind))

    def end(self) -> None:
        """Mark the end; connections get the rest and then end."""
        self.ended = True
        self._wake()

    def close(self) -> None:
        """End at once and drop everything."""
        self.end()
        self._forget(self.last)

    def spare(self) -> None:
        """Drop delivered events, and all events if nobody is connected."""
        if not self._connections:
            self._forget(self.last)
        else:  # events being written are still referenced
            self._forget(min([self._sent, *(connection.begun - 1 for connection in self._connections if connection.begun)]))

    def drop(self) -> None:
        """Drop everything and end the connections."""
        for connection in self._connections:
            connection.leave()
        self._connections.clear()
        self._forget(self.last)

    def _forget(self, place: int) -> None:
        """Drop the events up to a place."""
        gone = self._kept[: max(0, place - self._lost)]
        freed = _bytes(gone)
        self.queued -= _bytes(gone[max(0, self._sent - self._lost) :])
        del self._kept[: len(gone)]
        self._lost = max(self._lost, place)
        self._sent = max(self._sent, self._lost)
        self.written = max(self.written, self._lost)
        self.size -= freed
        self._store.free(self, freed)

    @property
    def empty(self) -> bool:
        """Whether it has ended and nothing is kept."""
        return self.ended and not self._kept and not self._connections

    def connect(self, after: int | None = None) -> Connection | None:
        """A new connection; `after` is the place of its last event. None if a needed event was dropped."""
        if after is not None:
            if after < self._lost or after > self.last:
                return None
            self.written = self._sent = after
            self.queued = _bytes(self._kept[after - self._lost :])
        while len(self._connections) >= CONNECTIONS:
            self._connections.pop(0).leave()
        connection = Connection(self)
        self._connections.append(connection)
        return connection

    def disconnect(self, connection: Connection) -> None:
        """A connection has ended, and what it was given is lost; the one before it is written to from now on."""
        if connection in self._connections:
            self.taken(connection)
            self._connections.remove(connection)
            self._wake()

    def pieces(self, connection: Connection) -> list[bytes]:
        """What to write to this connection next: one event, or several small ones. Call `taken` afterwards."""
        if self.written == self.last or not self._connections or self._connections[-1] is not connection:
            return []
        first = self.written - self._lost
        size, end = len(self._kept[first]), first + 1
        while end < len(self._kept) and size + len(self._kept[end]) <= PIECE:
            size += len(self._kept[end])
            end += 1
        connection.begun = self.written + 1
        self.written = connection.until = self._lost + end
        parts = [part for event in self._kept[first:end] for part in (event.id, event.rest)]
        return [b"".join(parts)] if size <= PIECE else parts

    def taken(self, connection: Connection) -> None:
        """The connection has taken what it was given."""
        if connection.begun:
            connection.begun = 0
            place = max(self._sent, min(connection.until, self.written))  # a newer connection may have rewound
            self.queued -= _bytes(self._kept[self._sent - self._lost : place - self._lost])
            self._sent = place

    def keep(self, rest: bytes) -> None:
        """Add one event without its id. Streams may share the bytes."""
        self.last += 1
        event = _StoredEvent(b"id: %d-%d\n" % (self.number, self.last), rest)
        self._kept.append(event)
        self.queued += len(event)
        self.size += len(event)
        self._wake()
        self._store.take(self, len(event))

    def _wake(self) -> None:
        for connection in self._connections:
            connection.wake()


class Connection:
    """One HTTP response that carries a stream."""

    __slots__ = ("_news", "begun", "left", "patience", "stream", "until")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.left = False
        """Whether it must end: there are too many newer ones, or its client did not read and there was no room."""
        self.begun = 0
        """Place of the first event being written, 0 if none."""
        self.until = 0
        """Place of the last event being written."""
        self.patience: asyncio.Timeout | None = None
        """Timeout of the write in progress."""
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Something has changed."""
        self._news.set()

    def leave(self) -> None:
        """End it, even if its client does not read."""
        self.left = True
        self._news.set()
        if self.patience is not None and not self.patience.expired():
            self.patience.reschedule(0.0)

    async def news(self) -> None:
        """Wait until something has changed."""
        await self._news.wait()
        self._news.clear()


class EventsResponse(Response):
    """The HTTP response of a connection, until its stream ends or its client disconnects."""

    media_type = "text/event-stream"

    def __init__(self, connection: Connection, stalled_seconds: float, headers: Mapping[str, str] | None = None) -> None:
        """A client that takes nothing for `stalled_seconds` is disconnected."""
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
            await self._send(send, b"", more=False)
        except TimeoutError:
            cut(scope)  # without the final chunk, so that the client notices
        finally:
            gone.cancel()
            self._connection.stream.disconnect(self._connection)

    async def _write(self, send: Send, gone: asyncio.Task[None]) -> None:
        connection = self._connection
        stream = connection.stream
        while not gone.done() and not connection.left:
            pieces = stream.pieces(connection)
            if pieces:
                for piece in pieces:
                    for at in range(0, len(piece), PIECE):
                        await self._send(send, piece[at : at + PIECE])
                stream.taken(connection)
            elif stream.ended:
                return
            elif silence := await self._wait(gone):
                await self._send(send, silence)

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        connection = self._connection
        try:
            async with asyncio.timeout(0 if connection.left else self._stalled_seconds) as connection.patience:
                await send({"type": "http.response.body", "body": body, "more_body": more})
        finally:
            connection.patience = None

    async def _wait(self, gone: asyncio.Task[None]) -> bytes:
        """Wait for a change; returns empty, or the comment for an idle connection."""
        news = asyncio.create_task(self._connection.news())
        try:
            done, _ = await asyncio.wait((news, gone), timeout=COMMENT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        return b"" if done else COMMENT


async def hung_up(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
