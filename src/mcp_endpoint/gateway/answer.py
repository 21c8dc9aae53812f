"""An upstream's response on its way to the client: its chunks at once, its headers and errors without our key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import ceil

import httpx2
from loguru import logger
from starlette.types import Receive, Scope, Send

from ..asgi import disconnected
from ..exchanges import Ending
from .forward import Upstream
from .rewrite import Scrub, response_headers
from .tee import Tee


class Streamed:
    """An upstream response that is streamed to the client."""

    def __init__(
        self, upstream: Upstream, response: httpx2.Response, prefix: str, scrub: Scrub | None, stopped: Callable[[], bool], *, endless: bool
    ) -> None:
        """`stopped`: whether this server ends, and the stream with it.

        `endless`: the GET event stream of an MCP session, which ends only when one side disconnects.
        """
        self.endless = endless
        self.response = response
        self.wait: float | None = None
        """Seconds for Retry-After: set when all keys wait, because the upstream's own value is about one key only."""
        self.tee: Tee | None = None
        """Records what is sent to the client."""
        self._ending: Ending = "aborted"
        self._stopped = stopped
        self._upstream = upstream
        self._prefix = prefix
        self._scrub = scrub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait((pump, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pump, gone):
                task.cancel()
            await asyncio.wait((pump, gone))
            if self.tee is not None:
                self.tee.end(self._ending)
            await self.response.aclose()
        if not pump.cancelled():
            pump.result()

    async def _pump(self, send: Send) -> None:
        response, scrub = self.response, self._scrub
        headers, tee = self._headers(), self.tee
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        if tee is not None:
            tee.answered(response.status_code, headers)
        # A successful body is passed on unchanged. An error body may repeat the key it complains about: mask it.
        clean = scrub if response.status_code >= 400 and "content-encoding" not in response.headers else None
        try:
            async for chunk in response.aiter_raw():
                piece = chunk if clean is None else clean.feed(chunk)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if tee is not None:
                    tee.add(piece)
        except httpx2.TransportError as error:
            self._ending = "broken"
            if self._stopped() and "content-length" not in response.headers:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            # Return without the final event: uvicorn then closes the connection, so that no client takes half a response for a whole one.
            self._upstream.counts.failed += 1
            logger.warning("上游中途断开 / upstream broke off", gateway=self._upstream.settings.name, reason=type(error).__name__)
            return
        last = b"" if clean is None else clean.end()
        await send({"type": "http.response.body", "body": last, "more_body": False})
        if tee is not None:
            tee.add(last)
        self._ending = "error" if response.status_code >= 400 else "ok"

    def _headers(self) -> list[tuple[bytes, bytes]]:
        headers = response_headers(self.response.headers.raw, self.response.status_code)
        place = self._upstream.place
        if self.response.has_redirect_location:
            headers = [(n, self._upstream.target.back(v, self._prefix, place) if n == b"location" else v) for n, v in headers]
        if self.wait is not None:
            headers = [(name, value) for name, value in headers if name not in (b"retry-after", b"retry-after-ms")]
            headers.append((b"retry-after", b"%d" % ceil(self.wait)))
        return headers if self._scrub is None else [(name, self._scrub.over(value)) for name, value in headers]
