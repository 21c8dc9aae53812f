"""A tool call's response as server-sent events: progress, then the result or an error.

The format is that of HTML's "Server-sent events". There are three events with JSON data:

    progress  {"progress": number, "total": number, "message": text}, the last two if the tool sends them
    result    the body of a `POST /tools` response with status 200; the last event
    error     the body of a response with any other status; the last event
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
"""Progress events that wait for a slow reader; the oldest are dropped."""
EVENT_BYTES: Final = 16 * 1024
"""Larger progress events are dropped."""
QUIET_SECONDS: Final = 15.0
"""Idle time after which a comment is sent, so that proxies keep the connection."""
MEDIA_TYPE: Final = "text/event-stream"
HEADERS: Final = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))


class Progress(msgspec.Struct, omit_defaults=True):
    """The parameters of a progress notification."""

    progress: float
    total: float | None = None
    message: str | None = None


_progress: Final = msgspec.json.Decoder(Progress)

Answer = tuple[int, bytes]
"""HTTP status and JSON body."""


class EventStream:
    """The streamed response of one call, as an ASGI application."""

    def __init__(self) -> None:
        self.begun = False
        """Whether the call was sent to the tool: earlier failures get an HTTP status of their own."""
        self._waiting: deque[bytes] = deque(maxlen=EVENTS)
        self._news = asyncio.Event()
        self._call: asyncio.Task[Answer] | None = None
        self._ended: Callable[[Answer | None], None] = lambda answer: None

    def on_progress(self, params: bytes) -> None:
        """Take the parameters of a progress notification; invalid ones are dropped."""
        with contextlib.suppress(msgspec.DecodeError):
            event = _event(b"progress", msgspec.json.encode(_progress.decode(params)))
            if len(event) <= EVENT_BYTES:
                self._waiting.append(event)
                self._news.set()

    def begin(self) -> None:
        """The call is sent to the tool."""
        self.begun = True
        self._news.set()

    async def start(self, call: Coroutine[Any, Any, Answer], ended: Callable[[Answer | None], None]) -> None:
        """Start the call and wait until it is sent to the tool. Raises the call's exception if it fails before that.

        `ended` is called with the response when it was sent, with None if the client disconnected. Cancelling this cancels the call.
        """
        self._ended = ended
        self._call = asyncio.create_task(call)
        self._call.add_done_callback(lambda task: self._news.set())
        try:
            while not (self.begun or self._call.done()):
                await self._wait_news()
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
                        await self._wait_news()
                except TimeoutError:
                    self._waiting.append(b": still working\n\n")
            while self._waiting:
                await send({"type": "http.response.body", "body": self._waiting.popleft(), "more_body": True})
        status, body = call.result()
        kind = b"result" if status == 200 else b"error"
        await send({"type": "http.response.body", "body": _event(kind, body), "more_body": False})
        return status, body

    async def _wait_news(self) -> None:
        await self._news.wait()
        self._news.clear()

    async def _stop(self) -> None:
        if self._call is not None and not self._call.done():
            self._call.cancel()
            await asyncio.wait((self._call,))


def _event(kind: bytes, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind, one_line(data))
