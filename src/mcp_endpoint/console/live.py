"""New records as server-sent events: a browser that reconnects misses none; one that falls behind receives the number of those left out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..asgi import unless_gone
from ..errors import EndpointError
from .records import Records

SILENCE_SECONDS: Final = 15.0
"""After so much silence a comment is sent, so that no proxy cuts the stream off."""
LIFE_SECONDS: Final = 3_600.0
"""After this a stream ends and its browser comes back: whoever may no longer look is then refused."""
TOGETHER_SECONDS: Final = 0.1
"""Least time between two looks of a stream into the file: what comes in a burst is sent together."""


class Live:
    """The streams of one console."""

    def __init__(self, records: Records, most: int) -> None:
        """At most `most` streams at a time."""
        self._records = records
        self._most = most
        self._news: set[asyncio.Event] = set()
        self._closed = False

    def wake(self, newest: int) -> None:
        """There are new records in the file; the recorder says so."""
        for news in self._news:
            news.set()

    def close(self) -> None:
        """End every stream."""
        self._closed = True
        self.wake(0)
        self._records.close()

    @property
    def full(self) -> bool:
        """Whether there is no room for another stream."""
        return len(self._news) >= self._most

    def stream(self, text: str, last: int | None) -> Response:
        """The records of a filter after the id `last`, or from now on."""
        return _Stream(self, text, last)

    async def feed(self, send: Send, text: str, last: int | None) -> None:
        """Send events until the stream's time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LIFE_SECONDS
        news = asyncio.Event()
        self._news.add(news)
        try:
            if last is None:
                _, last, _ = await self._records.after(text, 2**62)
                await _say(send, f"id: {last}\nevent: ready\ndata: {last}\n\n")
            while not self._closed and loop.time() < until:
                news.clear()
                found, last, missed = await self._records.after(text, last)
                if found or missed:
                    await _say(send, _event(last, {"records": found, "missed": missed}))
                    await asyncio.sleep(TOGETHER_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SILENCE_SECONDS):
                        await news.wait()
                        continue
                await _say(send, f": {last}\n\n")
        except EndpointError as error:
            await _say(send, f"event: problem\ndata: {msgspec.json.encode({'en': error.en, 'zh': error.zh}).decode()}\n\n")
        finally:
            self._news.discard(news)


class _Stream(Response):
    """One stream, as Starlette sends it."""

    def __init__(self, live: Live, text: str, last: int | None) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._live = live
        self._text = text
        self._last = last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with contextlib.suppress(ClientDisconnect):
            await unless_gone(receive, self._live.feed(send, self._text, self._last))
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(id: int, data: Mapping[str, Any]) -> str:
    return f"id: {id}\nevent: records\ndata: {msgspec.json.encode(data).decode()}\n\n"


async def _say(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
