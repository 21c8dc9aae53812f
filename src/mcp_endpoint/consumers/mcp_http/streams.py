"""Server-sent events that survive a lost connection: a stream keeps what it said until there is no room for it.

Rules of this module (MCP 2025-11-25, Transports, "Resumability and Redelivery"):

1. Every event has an id of its own in its session: the number of its stream, a dash, and its place in that stream.
2. Of several connections to one stream the newest is spoken to; when it goes, the one before it is.
3. What waits for HTTP clients and what is kept for a resumption stays below `http_replay_bytes`, all clients together (`Store`). When
   there is no room, the endpoint that holds most pays: first with what was written, then with what its clients do not read. A stream that
   had to forget says so instead of leaving a gap, and a connection that was not read ends.
4. A frame is taken without waiting and without raising, whatever happens to the stream: who sends it serves others too.
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
"""Silence after which a connection gets a comment: proxies cut what is silent for 60 s, some for 30 s."""
RETRY_MILLISECONDS: Final = 1_000
"""After what time a client comes back to a stream whose connection ended."""
CONNECTIONS: Final = 4
"""Connections one stream has at most; one more ends the oldest."""
ANSWERS_KEPT: Final = 2
"""Answers of the largest size that fit in the store however small `http_replay_bytes` is, so that a client that reads gets its own."""
PIECE: Final = 16 * 1024
"""Bytes that are handed to a connection at a time: what it has not taken yet is counted in the store, what the socket holds is not."""
HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
COMMENT: Final = b": still here\n\n"


class Holder(Protocol):
    """What keeps bytes for the clients of one endpoint."""

    @property
    def owner(self) -> str:
        """The endpoint's name."""

    def spare(self) -> None:
        """Let go of what nobody waits for."""

    def drop(self) -> None:
        """Let go of everything."""


class Store:
    """How many bytes wait for all HTTP clients of a server, and who pays when they are too many: the endpoint that holds most."""

    def __init__(self, most: int, at_least: int = 0) -> None:
        """At most `most` bytes are kept; what somebody may still read is never dropped below `at_least` bytes."""
        self.most = most
        self.used = 0
        self._unread = max(most, at_least)
        self._held: dict[str, dict[Holder, int]] = {}
        """Endpoint → who holds how many bytes there."""
        self._sums: dict[str, int] = {}
        """Endpoint → bytes held there."""

    @classmethod
    def of(cls, limits: Limits) -> Store:
        """The store of one server."""
        return cls(limits.http_replay_bytes, ANSWERS_KEPT * limits.http_answer_bytes)

    def take(self, holder: Holder, size: int) -> None:
        """A holder keeps so many bytes more. Afterwards there is room: some holder, perhaps this one, was told to let go."""
        self._count(holder, size)
        if self.used > self.most:
            self._make_room()

    def free(self, holder: Holder, size: int) -> None:
        """A holder keeps so many bytes less."""
        self._count(holder, -size)

    def held_by(self, owner: str) -> int:
        """Bytes held at one endpoint."""
        return self._sums.get(owner, 0)

    def _count(self, holder: Holder, size: int) -> None:
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
        """Until a quarter is free, so that a flood is sorted out once per so many bytes and not once per event."""
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


class _Event:
    """One event: what is its stream's own, and what other streams may keep too."""

    __slots__ = ("id", "rest")

    def __init__(self, id: bytes, rest: bytes) -> None:
        self.id = id
        self.rest = rest

    def __len__(self) -> int:
        return len(self.id) + len(self.rest)


def _bytes(events: list[_Event]) -> int:
    return sum(map(len, events))


def event_of(frame: bytes, kind: bytes = b"message") -> bytes:
    """A frame as an event that has no id yet."""
    return b"event: %b\ndata: %b\n\n" % (kind, jsonrpc.one_line(frame))


class Stream:
    """The events of one POST, or of the session itself, in their order."""

    __slots__ = ("_connections", "_kept", "_lost", "_sent", "_store", "ended", "last", "number", "owner", "queued", "size", "written")

    def __init__(self, number: int, owner: str, store: Store, *, primed: bool) -> None:
        """`owner` is the endpoint. `primed` says that the client understands an event without data: it gives it an id to come back with."""
        self.number = number
        self.owner = owner
        self.last = 0
        """The place of the newest event."""
        self.written = 0
        """The place of the newest event that was given to a connection."""
        self.queued = 0
        """Bytes that no connection has taken yet."""
        self.size = 0
        """Bytes kept, taken or not."""
        self.ended = False
        self._sent = 0
        """The place of the newest event that a connection has taken whole."""
        self._kept: list[_Event] = []
        """The events from place `_lost + 1` on."""
        self._lost = 0
        """The place up to which events were forgotten."""
        self._store = store
        self._connections: list[Connection] = []
        if primed:
            self.keep(b"retry: %d\ndata: \n\n" % RETRY_MILLISECONDS)

    @property
    def connected(self) -> bool:
        """Whether somebody reads it."""
        return bool(self._connections)

    def say(self, frame: bytes, kind: bytes = b"message") -> None:
        """One JSON-RPC frame, or the data of another kind of event."""
        self.keep(event_of(frame, kind))

    def end(self) -> None:
        """Nothing comes after this; who reads gets the rest, and the connection ends."""
        self.ended = True
        self._wake()

    def close(self) -> None:
        """End at once, and keep nothing."""
        self.end()
        self._forget(self.last)

    def spare(self) -> None:
        """Let go of what was taken, and of everything if nobody reads."""
        if not self._connections:
            self._forget(self.last)
        else:  # what a connection is writing it holds anyway
            self._forget(min([self._sent, *(connection.begun - 1 for connection in self._connections if connection.begun)]))

    def drop(self) -> None:
        """Let go of everything: who has not read it is cut off."""
        for connection in self._connections:
            connection.leave()
        self._connections.clear()
        self._forget(self.last)

    def _forget(self, place: int) -> None:
        """Let go of the events up to a place."""
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
        """Whether it is over and nothing of it is left."""
        return self.ended and not self._kept and not self._connections

    def connect(self, after: int | None = None) -> Connection | None:
        """A new connection; `after` is the place of the last event it has. None if what it needs was forgotten."""
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
        """A connection is gone, what it was given with it; the one before it is spoken to from now on."""
        if connection in self._connections:
            self.taken(connection)
            self._connections.remove(connection)
            self._wake()

    def pieces(self, connection: Connection) -> list[bytes]:
        """What is to be written to this connection now: one event, or several small ones. `taken` says that it was."""
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
        """A connection has taken what it was given."""
        if connection.begun:
            connection.begun = 0
            place = max(self._sent, min(connection.until, self.written))  # a newer connection may have asked for some of it again
            self.queued -= _bytes(self._kept[self._sent - self._lost : place - self._lost])
            self._sent = place

    def keep(self, rest: bytes) -> None:
        """One event without its id. Many streams may keep the same bytes."""
        self.last += 1
        event = _Event(b"id: %d-%d\n" % (self.number, self.last), rest)
        self._kept.append(event)
        self.queued += len(event)
        self.size += len(event)
        self._wake()
        self._store.take(self, len(event))

    def _wake(self) -> None:
        for connection in self._connections:
            connection.wake()


class Connection:
    """One HTTP answer that carries a stream."""

    __slots__ = ("_news", "begun", "left", "patience", "stream", "until")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.left = False
        """Whether it has to end: too many newer ones came, or it was not read and there was no room."""
        self.begun = 0
        """The place of the first event it is writing, 0 if it writes none."""
        self.until = 0
        """The place of the last one."""
        self.patience: asyncio.Timeout | None = None
        """How long its client may take for what is being written."""
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There is something to look at."""
        self._news.set()

    def leave(self) -> None:
        """It has to end, even if its client takes nothing."""
        self.left = True
        self._news.set()
        if self.patience is not None and not self.patience.expired():
            self.patience.reschedule(0.0)

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
            await self._send(send, b"", more=False)
        except TimeoutError:
            cut(scope)  # without the last chunk, which says that more was to come
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
