"""A connection to a server by URL as its endpoint sees it: a link, on which what the server said is told apart from what we asked.

A list that fails is asked for again, by an announcement in the server's name: the endpoint takes an error for a server without tools.
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
from ...protocol.jsonrpc import Frame, Malformed, Part, Unreadable, parse
from ...protocol.stateless import fields, objects
from ..tool_filter import ToolFilter
from .connection import read
from .failure import Failure, unreadable, words
from .headers import tools_with_headers
from .transport import KEY_STATUSES

LIST_SECONDS: Final = 30.0
"""A list that is not given after so long has failed; the endpoint has stopped waiting for it before (`Limits.list_seconds`)."""
FRESH_SECONDS: Final = 10.0
"""So long the list that belonged to the handshake answers the endpoint's first question for it."""
LISTS_REMEMBERED: Final = 1024
"""Lists a server was asked for and has not given yet."""
AGAIN_SECONDS: Final = 45.0
"""The longest wait before it is tried again, also where it asks for more: its tools are back within a minute of its being well."""


class Lost(Exception):
    """The connection is over."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.en)
        self.failure = failure


class ServerLink:
    """One connection as the endpoint's link: what the endpoint says waits here for the transport."""

    def __init__(
        self,
        tool_filter: ToolFilter,
        loop: asyncio.AbstractEventLoop,
        draw: Callable[[], float],
        mask: Callable[[str], str],
        counters: Counters,
    ) -> None:
        """`draw` gives the lot of `Backoff`; `mask` takes the entry's secrets out of a text."""
        self.tool_filter = tool_filter
        self._loop = loop
        self._mask = mask
        self._counters = counters
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue()
        self._queued = 0
        self.provider: Provider | None = None
        self.welcome = b""
        """The server's answer to the handshake, without an id of the endpoint's."""
        self.first_list = b""
        """The server's answer to `tools/list` in the handshake, until it was given on."""
        self.listed = 0.0
        """When it came."""
        self.version = ""
        self.tools: dict[str, Any] = {}
        """Name → which arguments a call shows in headers too."""
        self.own: dict[bytes, asyncio.Future[tuple[bytes, Frame]]] = {}
        """The requests of ours that wait for an answer."""
        self.asked: dict[bytes, tuple[asyncio.Task[None], bool]] = {}
        """The endpoint's requests that are under way; True for those of the stateless revision."""
        self.notices = 0
        self.generation = 0
        """How often it was greeted anew."""
        self.renewing: asyncio.Task[bool] | None = None
        self.lost_session: Callable[[], object] = lambda: None
        self.why_list = ""
        """Why the last list did not come, in both languages."""
        self._lists: dict[bytes, None] = {}
        self._list_backoff = Backoff(draw)
        self._list_timer: asyncio.TimerHandle | None = None
        self._listens: dict[bytes, bytes] = {}
        """Id → the request that opened the stream of announcements (MCP 2026-07-28)."""
        self._listened = 0.0
        self._backoff = Backoff(draw)
        self.over: asyncio.Future[Failure] = loop.create_future()
        self.spoke = loop.time()

    # -- the link ----------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Bytes that the transport has not taken yet."""
        return self._queued

    def send(self, first: Part, second: Part = b"") -> None:
        """Put a message in the queue, or answer it from here."""
        data = b"".join((first, second))
        frame = parse(data, utf8=True)
        id = b"" if frame.id is UNSET else bytes(frame.id)
        if frame.method == methods.INITIALIZE and id and self.welcome:
            reply = parse(self.welcome, utf8=True)
            self._loop.call_soon(self.say, b"".join(jsonrpc.with_id(self.welcome, reply, id)))
            return
        if frame.method == methods.INITIALIZED and self.version:
            return  # said already
        if frame.method == methods.LISTEN:
            self._listens = {id: data}
            self._listened = self._loop.time()
            self._put(data)
            return
        data, refused = self.tool_filter.checked(data)
        if refused:
            self._loop.call_soon(self.say, data)
        else:
            if frame.method == methods.TOOLS_LIST and id:
                self._lists[id] = None
                self._loop.call_later(LIST_SECONDS, self._list_overdue, id)
                if len(self._lists) > LISTS_REMEMBERED:
                    del self._lists[next(iter(self._lists))]
                if self._first_page(frame):
                    answer, self.first_list = self.first_list, b""
                    self._loop.call_soon(self.heard, b"".join(jsonrpc.with_id(answer, parse(answer, utf8=True), id)))
                    return
            self._put(data)

    def _first_page(self, frame: Frame) -> bool:
        """Whether the list of the handshake is what is asked for."""
        fresh = self.first_list and self._loop.time() - self.listed < FRESH_SECONDS
        return bool(fresh) and "cursor" not in fields(frame.params)

    def ping(self) -> None:
        """Whether it is there is looked at anyway."""

    def close(self, code: int, reason: str) -> None:
        """End this connection."""
        self.lost(Failure(f"closed by the endpoint: {reason}", f"接入点已关闭连接：{reason}", None))

    def _put(self, data: bytes) -> None:
        self._queued += len(data)
        self._waiting.put_nowait(data)

    async def next(self) -> bytes:
        """The next message for the server."""
        data = await self._waiting.get()
        self._queued -= len(data)
        return data

    def say(self, data: bytes) -> None:
        """A message to the endpoint, of the server or in its name."""
        if self.provider is not None:
            self.provider.receive(self.provider, data, self._loop.time(), False)

    def lost(self, failure: Failure) -> None:
        """The server is not there any more."""
        if not self.over.done():
            self.over.set_result(failure)

    def leave(self) -> None:
        """Nothing is asked again."""
        if self._list_timer is not None:
            self._list_timer.cancel()

    # -- what comes (see `connection.Ears`) --------------------------------------------------------------------------------

    def heard(self, data: bytes) -> None:
        """A message of the server."""
        self.spoke = self._loop.time()
        try:
            frame, data = read(data)
        except Malformed as malformed:
            if isinstance(malformed, Unreadable) and not malformed.number and self.own:
                for waiting in self.own.values():  # there is never more than one
                    waiting.set_exception(Lost(unreadable(malformed.why, data)))
                self.own.clear()
            else:
                self.say(data)  # the endpoint finds out whose it was
            return
        id = b"" if frame.id is UNSET else bytes(frame.id)
        if frame.method is UNSET:
            if (own := self.own.pop(id, None)) is not None:
                if not own.done():
                    own.set_result((data, frame))
                return
            if id in self._lists:
                self._list_came(id, frame)
        if frame.method == methods.TOOLS_CHANGED:
            self.first_list = b""
        self.tools |= tools_with_headers(frame)
        self.say(self.tool_filter.passed(data))

    def noise(self) -> None:
        """An event that is no message."""
        self._counters.noise += 1

    def failed(self, id: bytes, failure: Failure) -> None:
        """A request that is not answered."""
        refused = 400 <= failure.status < 500 and failure.status not in KEY_STATUSES
        if id in self._listens and not refused:
            wait = self._backoff.wait(self._loop.time() - self._listened)
            self._loop.call_later(wait, self._listen, id)
            return
        error = Failure(self._mask(failure.en), self._mask(failure.zh), failure.delivered, failure.code).error()
        self.heard(jsonrpc.failure(id, msgspec.json.encode(error)))

    def broke(self, failure: Failure) -> None:
        """The stream of the server is over, or its session."""
        if failure.session_lost:
            self.lost_session()
        else:
            self.lost(failure)

    def changed(self) -> None:
        """What changed meanwhile was announced to nobody."""
        self.say(jsonrpc.notification(methods.TOOLS_CHANGED))

    def _listen(self, id: bytes) -> None:
        if id in self._listens and not self.over.done():
            self._listened = self._loop.time()
            self._put(self._listens[id])
            self.changed()

    def _list_came(self, id: bytes, frame: Frame) -> None:
        """A list that did not come is asked for again later: the endpoint takes an error for a server without tools."""
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
            self._list_timer = self._loop.call_later(wait, self._ask_list_again)

    def _ask_list_again(self) -> None:
        self._list_timer = None
        self.changed()


def why_no_list(frame: Frame) -> str:
    """Why an answer to `tools/list` is no list, in both languages; "" if it is one, or says that the server has no tools."""
    error = objects(frame.error)
    if error.get("code") == errors.METHOD_NOT_FOUND.number:
        return ""
    if frame.error is UNSET:
        return "" if frame.result is not UNSET and read_page(frame.result, 1) is not None else "不是列表 / no list"
    told_by = error.get("data")
    hint = told_by.get("hint") if isinstance(told_by, dict) and told_by.get("source") == "broker" else None
    return hint if isinstance(hint, str) else words(f"{error.get('code')} {error.get('message')}".encode())
