"""The endpoint's link to a server by URL; separates responses to the endpoint from responses to our own requests.

A failed list is requested again, by a `list_changed` notification in the server's name: the endpoint would take an error for a server
without tools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET

from ... import errors
from ...backoff import Backoff
from ...core.catalog import read_page
from ...core.parties import Counters, Provider
from ...protocol import jsonrpc, methods
from ...protocol.jsonrpc import Frame, Malformed, Part, Unreadable, kind_of, parse, whole
from ...protocol.stateless import fields, objects
from ..tool_filter import ToolFilter
from .connection import read
from .failure import Failure, excerpt, unreadable
from .headers import tools_with_headers
from .transport import KEY_STATUSES

LIST_SECONDS: Final = 30.0
"""Timeout of a list; the endpoint has stopped waiting for it earlier (`Limits.list_seconds`)."""
FRESH_SECONDS: Final = 10.0
"""How long the list of the handshake may answer the endpoint's first request for it."""
LISTS_REMEMBERED: Final = 1024
"""Most pending lists that are remembered."""
AGAIN_SECONDS: Final = 45.0
"""Longest wait before a retry, even if the server asks for more: its tools are back within a minute of its recovery."""


class Lost(Exception):
    """The connection has ended."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.en)
        self.failure = failure


class ServerLink:
    """One connection as the endpoint's link; queues the endpoint's messages for the transport."""

    def __init__(
        self,
        tool_filter: ToolFilter,
        loop: asyncio.AbstractEventLoop,
        draw: Callable[[], float],
        mask: Callable[[str], str],
        counters: Counters,
    ) -> None:
        """`draw` is the random number for `Backoff`; `mask` removes the entry's secrets from a text."""
        self.tool_filter = tool_filter
        self._loop = loop
        self._mask = mask
        self._counters = counters
        self._waiting: asyncio.Queue[tuple[bytes, Frame]] = asyncio.Queue()
        self._queued = 0
        self.provider: Provider | None = None
        self.welcome = b""
        """The server's response to our `initialize`."""
        self.first_list = b""
        """Its response to our `tools/list`, until it was used."""
        self.listed = 0.0
        """When that arrived."""
        self.version = ""
        self.tools: dict[str, Any] = {}
        """Tool name → arguments that a call mirrors in headers."""
        self.own: dict[bytes, asyncio.Future[tuple[bytes, Frame]]] = {}
        """Our own requests that wait for a response."""
        self.in_flight: dict[bytes, tuple[asyncio.Task[None], bool]] = {}
        """The endpoint's requests in progress; True for those of the stateless revision."""
        self.notices = 0
        self.generation = 0
        """How often it was initialized again."""
        self.renewing: asyncio.Task[bool] | None = None
        self.lost_session: Callable[[], object] = lambda: None
        self.why_list = ""
        """Why the last list failed, in both languages."""
        self._lists: dict[bytes, None] = {}
        self._list_backoff = Backoff(draw)
        self._list_timer: asyncio.TimerHandle | None = None
        self._listens: dict[bytes, tuple[bytes, Frame]] = {}
        """Id → the request that opened the stream of notifications (MCP 2026-07-28)."""
        self._listened = 0.0
        self._backoff = Backoff(draw)
        self.over: asyncio.Future[Failure] = loop.create_future()
        self.last_received = loop.time()

    # -- the link ----------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Bytes that the transport has not taken."""
        return self._queued

    def send(self, first: Part, second: Part = b"") -> None:
        """As `send_frame`, for a message that is not parsed yet."""
        data = whole(first, second)
        self._take(data, parse(data, utf8=True))

    def send_frame(self, frame: Frame, first: Part, second: Part) -> None:
        """Queue a message, or answer it here."""
        self._take(whole(first, second), frame)

    def _take(self, data: bytes, frame: Frame) -> None:
        id = b"" if frame.id is UNSET else bytes(frame.id)
        if frame.method == methods.INITIALIZE and id and self.welcome:
            reply = parse(self.welcome, utf8=True)
            self._loop.call_soon(self.forward, b"".join(jsonrpc.with_id(self.welcome, reply, id)))
            return
        if frame.method == methods.INITIALIZED and self.version:
            return  # already sent
        if frame.method == methods.LISTEN:
            self._listens = {id: (data, frame)}
            self._listened = self._loop.time()
            self._put(data, frame)
            return
        taken, refused = (data, False) if self.tool_filter.open else self.tool_filter.checked(data, frame=frame)
        if refused:
            self._loop.call_soon(self.forward, taken)
        else:
            if frame.method == methods.TOOLS_LIST and id:
                self._lists[id] = None
                self._loop.call_later(LIST_SECONDS, self._list_overdue, id)
                if len(self._lists) > LISTS_REMEMBERED:
                    del self._lists[next(iter(self._lists))]
                if self._first_page(frame):
                    answer, self.first_list = self.first_list, b""
                    self._loop.call_soon(self.received, b"".join(jsonrpc.with_id(answer, parse(answer, utf8=True), id)))
                    return
            self._put(taken, frame if taken is data else parse(taken, utf8=True))

    def _first_page(self, frame: Frame) -> bool:
        """Whether the request can be answered with the list of the handshake."""
        fresh = self.first_list and self._loop.time() - self.listed < FRESH_SECONDS
        return bool(fresh) and "cursor" not in fields(frame.params)

    def ping(self) -> None:
        """Nothing: `RemoteServer._monitor` monitors the server."""

    def close(self, code: int, reason: str) -> None:
        """End this connection."""
        self.lost(Failure(f"closed by the endpoint: {reason}", f"接入点已关闭连接：{reason}", None))

    def _put(self, data: bytes, frame: Frame) -> None:
        self._queued += len(data)
        self._waiting.put_nowait((data, frame))

    async def next(self) -> tuple[bytes, Frame]:
        """Wait for the next message to the server."""
        data, frame = await self._waiting.get()
        self._queued -= len(data)
        return data, frame

    def forward(self, data: bytes, frame: Frame | None = None) -> None:
        """Pass a message to the endpoint; `frame` is the parsed `data`, if it was parsed."""
        if self.provider is not None:
            self.provider.receive(self.provider, data, self._loop.time(), False, frame)

    def lost(self, failure: Failure) -> None:
        """The connection has ended."""
        if not self.over.done():
            self.over.set_result(failure)

    def leave(self) -> None:
        """Cancel the retry timer."""
        if self._list_timer is not None:
            self._list_timer.cancel()

    # -- callbacks of the connection (see `connection.Receiver`) -----------------------------------------------------------

    def received(self, data: bytes, frame: Frame | None = None) -> None:
        """Handle a message of the server; `frame` as in `forward`."""
        self.last_received = self._loop.time()
        try:
            if frame is None:
                frame, data = read(data)
        except Malformed as malformed:
            if isinstance(malformed, Unreadable) and not malformed.number and self.own:
                for waiting in self.own.values():  # at most one
                    waiting.set_exception(Lost(unreadable(malformed.why, data)))
                self.own.clear()
            else:
                self.forward(data)  # the endpoint finds the request
            return
        id = b"" if frame.id is UNSET else bytes(frame.id)
        if kind_of(frame) == "answer":
            if (own := self.own.pop(id, None)) is not None:
                if not own.done():
                    own.set_result((data, frame))
                return
            if id in self._lists:
                self._list_came(id, frame)
        if frame.method == methods.TOOLS_CHANGED:
            self.first_list = b""
        self.tools |= tools_with_headers(frame)
        shown = self.tool_filter.passed(data, frame)
        self.forward(shown, frame if shown is data else None)

    def noise(self) -> None:
        """Count an event that is not a message."""
        self._counters.noise += 1

    def failed(self, id: bytes, failure: Failure) -> None:
        """Answer a request with an error."""
        refused = 400 <= failure.status < 500 and failure.status not in KEY_STATUSES
        if id in self._listens and not refused:
            wait = self._backoff.wait(self._loop.time() - self._listened)
            self._loop.call_later(wait, self._listen, id)
            return
        error = Failure(self._mask(failure.en), self._mask(failure.zh), failure.delivered, failure.code).error()
        self.received(jsonrpc.failure(id, msgspec.json.encode(error)))

    def stream_ended(self, failure: Failure) -> None:
        """The server's stream or session has ended."""
        if failure.session_lost:
            self.lost_session()
        else:
            self.lost(failure)

    def changed(self) -> None:
        """Let the endpoint list the tools again: notifications may have been missed."""
        self.forward(jsonrpc.notification(methods.TOOLS_CHANGED))

    def _listen(self, id: bytes) -> None:
        if id in self._listens and not self.over.done():
            self._listened = self._loop.time()
            self._put(*self._listens[id])
            self.changed()

    def _list_came(self, id: bytes, frame: Frame) -> None:
        """Handle the response to tools/list; a failed one is requested again later."""
        del self._lists[id]
        why = why_no_list(frame)
        if why:
            self._list_failed(why)
        else:
            self.why_list = ""
            self._list_backoff.failures = 0

    def _list_overdue(self, id: bytes) -> None:
        if id in self._lists and not self.over.done():
            del self._lists[id]
            self._list_failed(f"{LIST_SECONDS:g} 秒内没有应答 / no answer within {LIST_SECONDS:g} s")

    def _list_failed(self, said: str) -> None:
        self.why_list = self._mask(f"tools/list 失败 / tools/list failed: {said}")
        if self._list_timer is None:
            wait = min(self._list_backoff.wait(0.0), AGAIN_SECONDS)
            self._list_timer = self._loop.call_later(wait, self._request_list_again)

    def _request_list_again(self) -> None:
        self._list_timer = None
        self.changed()


def why_no_list(frame: Frame) -> str:
    """Why a response to `tools/list` is not a list, in both languages; "" if it is one, or the server has no tools."""
    error = objects(frame.error)
    if error.get("code") == errors.METHOD_NOT_FOUND.number:
        return ""
    if frame.error is UNSET:
        return "" if frame.result is not UNSET and read_page(frame.result, 1) is not None else "不是列表 / not a list"
    details = error.get("data")
    hint = details.get("hint") if isinstance(details, dict) and details.get("source") == "broker" else None
    return hint if isinstance(hint, str) else excerpt(f"{error.get('code')} {error.get('message')}".encode())
