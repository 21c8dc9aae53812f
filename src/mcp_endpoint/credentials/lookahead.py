"""Reads the beginning of an upstream's response before it is decided what to do with the whole.

Only responses that tell something about the key are read ahead: refusals, and short JSON, which may be an error with a success status.
The reader of the response still gets every byte.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import httpx2

from .refusals import LOOK_BYTES, LOOKED_AT, Answer, is_failure, plain, retry_after

LOOK_SECONDS: Final = 2.0
"""Timeout for the beginning; what arrives later is not examined."""


class Lookahead(httpx2.AsyncByteStream):
    """A response body whose beginning has already been read."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream
        self._pieces = aiter(stream)
        self._begun: list[bytes] = []
        self._next: asyncio.Future[bytes | None] | None = None
        """The read in progress. It is not cancelled when a wait times out: the rest of the body would be lost."""

    async def begin(self) -> bytes:
        """Up to `LOOK_BYTES` of the body, as far as they arrive in time. An error is left to the reader of the rest."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LOOK_SECONDS
        while sum(map(len, self._begun)) < LOOK_BYTES:
            self._next = self._next or asyncio.ensure_future(self._piece())
            await asyncio.wait((self._next,), timeout=max(0.0, until - loop.time()))
            if not self._next.done() or self._next.exception() is not None or (piece := self._next.result()) is None:
                break
            self._begun.append(piece)
            self._next = None
        return b"".join(self._begun)[:LOOK_BYTES]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._begun:
            yield piece
        self._begun = []
        while True:
            self._next = self._next or asyncio.ensure_future(self._piece())
            following = await self._next
            self._next = None
            if following is None:
                return
            yield following

    async def aclose(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait((self._next,))
        await self._stream.aclose()

    async def _piece(self) -> bytes | None:
        return await anext(self._pieces, None)


async def answer_of(response: httpx2.Response) -> Answer:
    """The response as far as it concerns the key it was sent with."""
    text = await _begin(response) if response.status_code in LOOKED_AT else b""
    challenge = response.headers.get("www-authenticate", "")
    return Answer(response.status_code, retry_after(response.headers, time.time()), challenge, text)


async def worked(response: httpx2.Response) -> bool:
    """Whether a response proves that its key is valid: it succeeded, and its body is no JSON error."""
    if not (response.is_success or response.status_code == 304):
        return False
    length = response.headers.get("content-length", "")
    if "json" not in response.headers.get("content-type", "") or not length.isdigit() or int(length[:12]) > LOOK_BYTES:
        return True
    return not is_failure(await _begin(response))


async def _begin(response: httpx2.Response) -> bytes:
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = ahead = Lookahead(response.stream)
    try:
        begun = await ahead.begin()
    except asyncio.CancelledError:  # the client left: nobody else would close it
        await response.aclose()
        raise
    return plain(begun, response.headers.get("content-encoding", ""))
