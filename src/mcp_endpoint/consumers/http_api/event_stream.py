"""A tool call's answer as server-sent events: its progress as it comes, then its result or its error.

The form is that of HTML's "Server-sent events". There are three events, each with JSON for its data:

    progress  {"progress": number, "total": number, "message": text}, the last two where the tool says them
    result    what `POST /tools` answers with 200; the last event
    error     what it answers with any other status; the last event
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ...asgi import unless_gone
from ...protocol.jsonrpc import one_line

EVENTS: Final = 32
"""Progress events that wait for a slow reader; the newest count, older ones are dropped."""
EVENT_BYTES: Final = 16 * 1024
"""Progress above this is dropped: its message is no status line."""
QUIET_SECONDS: Final = 15.0
"""Silence after which a comment is sent, so that no proxy takes the stream for dead."""
MEDIA_TYPE: Final = "text/event-stream"
HEADERS: Final = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))


class Progress(msgspec.Struct, omit_defaults=True):
    """What a tool says of how far it is."""

    progress: float
    total: float | None = None
    message: str | None = None


_progress: Final = msgspec.json.Decoder(Progress)

Answer = tuple[int, bytes]
"""An HTTP status, and JSON."""


class EventStream:
    """The answer to one call, an ASGI application."""

    def __init__(self) -> None:
        self.begun = False
        """Whether the tool has been asked: before that a failure is an HTTP status of its own."""
        self._waiting: deque[bytes] = deque(maxlen=EVENTS)
        self._news = asyncio.Event()
        self._call: asyncio.Task[Answer] | None = None
        self._ended: Callable[[Answer | None], None] = lambda answer: None

    def hear(self, params: bytes) -> None:
        """Take the parameters of a progress notification; what is no progress is dropped."""
        with contextlib.suppress(msgspec.DecodeError):
            event = _event(b"progress", msgspec.json.encode(_progress.decode(params)))
            if len(event) <= EVENT_BYTES:
                self._waiting.append(event)
                self._news.set()

    def begin(self) -> None:
        """The tool is being asked."""
        self.begun = True
        self._news.set()

    async def start(self, call: Coroutine[Any, Any, Answer], ended: Callable[[Answer | None], None]) -> None:
        """Start the call and wait until the tool is being asked. Raises what a call raises that ended before.

        `ended` hears the answer once it was sent, None if the client hung up first. When this is cancelled, the call is too.
        """
        self._ended = ended
        self._call = asyncio.create_task(call)
        self._call.add_done_callback(lambda task: self._news.set())
        try:
            while not (self.begun or self._call.done()):
                await self._hear_news()
        except asyncio.CancelledError:
            await self._stop()
            raise
        if not self.begun:
            self._call.result()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: Answer | None = None
        try:
            answer = await unless_gone(receive, self._pump(send))
        except ClientDisconnect:
            pass
        finally:
            await self._stop()
            self._ended(answer)

    async def _pump(self, send: Send) -> Answer:
        call = self._call
        assert call is not None
        await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
        while not (call.done() and not self._waiting):
            if not self._waiting:
                try:
                    async with asyncio.timeout(QUIET_SECONDS):
                        await self._hear_news()
                except TimeoutError:
                    self._waiting.append(b": still working\n\n")
            while self._waiting:
                await send({"type": "http.response.body", "body": self._waiting.popleft(), "more_body": True})
        status, said = call.result()
        kind = b"result" if status == 200 else b"error"
        await send({"type": "http.response.body", "body": _event(kind, said), "more_body": False})
        return status, said

    async def _hear_news(self) -> None:
        await self._news.wait()
        self._news.clear()

    async def _stop(self) -> None:
        if self._call is not None and not self._call.done():
            self._call.cancel()
            await asyncio.wait((self._call,))


def _event(kind: bytes, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind, one_line(data))
