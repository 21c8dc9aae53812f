"""How everything inside the house lists and calls tools: a consumer made of awaitables instead of a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET

from .. import errors
from ..core.broker import Broker
from ..core.catalog import read_page
from ..core.ledger import number_of
from ..core.parties import Consumer
from ..protocol import jsonrpc, methods
from ..protocol.definitions import Tool, hello
from ..protocol.jsonrpc import Part
from ..protocol.stateless import INTERNAL
from ..settings.schema import Limits

PAGES: Final = 1_000
"""Most pages of a list that are asked for, so that an endless one ends."""


_encode: Final = msgspec.json.Encoder().encode


class Failed(Exception):
    """A request was answered with an error: a provider's own, or one of ours."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message
        self.data = data

    @property
    def undelivered(self) -> bool:
        """Whether it is known that no provider has seen the request, so that it may be repeated elsewhere."""
        return isinstance(self.data, dict) and self.data.get("source") == "broker" and self.data.get("delivered") is False


class _Error(msgspec.Struct):
    code: int = INTERNAL
    message: str = ""
    data: Any = None


class _Frame(msgspec.Struct):
    """What the endpoint sends; the result stays as it came."""

    id: Any = None
    method: str | msgspec.UnsetType = UNSET
    params: msgspec.Raw | msgspec.UnsetType = UNSET
    result: msgspec.Raw | msgspec.UnsetType = UNSET
    error: _Error | msgspec.UnsetType = UNSET


class _Token(msgspec.Struct):
    progressToken: Any = None


_decoder: Final = msgspec.json.Decoder(_Frame)
_token: Final = msgspec.json.Decoder(_Token)


class Local:
    """A consumer of one endpoint, for code that runs in the server's loop.

    It is attached with its first request and has no deadline of its own: the endpoint answers every request. Whoever is cancelled while
    it waits cancels the request. Nothing is ever asked of it: it declares no capability.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        shown: str,
        limits: Limits,
        *,
        only: str = "",
        changed: Callable[[str], None] = lambda method: None,
    ) -> None:
        """`only` is the label whose tools it sees, "" for all; `changed` hears the method of every notification."""
        self._broker = broker
        self._name = name
        self._shown = shown
        self._limits = limits
        self._only = only
        self._changed = changed
        self._consumer: Consumer | None = None
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._progress: dict[int, Callable[[bytes], None]] = {}
        """Number of a request → who hears of its progress."""
        self._last = 0
        self._welcome: asyncio.Task[bytes] | None = None

    # -- the link ----------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Nothing ever waits: an answer is taken when it is given."""
        return 0

    def ping(self) -> None:
        """It lives as long as this process."""

    def send(self, first: Part, second: Part = b"") -> None:
        """Take one frame of the endpoint."""
        data = b"".join((first, second))
        try:
            frame = _decoder.decode(data)
        except (msgspec.DecodeError, RecursionError):
            asyncio.get_running_loop().call_soon(self._hear_odd, data)  # where there is as much stack as there can be
            return
        if frame.method is not UNSET:
            if frame.method == methods.PROGRESS:
                self._hear_progress(b"" if frame.params is UNSET else bytes(frame.params))
            elif frame.id is None:
                self._changed(frame.method)
            return
        waiting = self._answers.pop(frame.id, None) if isinstance(frame.id, int) else None
        if waiting is None or waiting.done():
            return
        if frame.error is not UNSET:
            waiting.set_exception(Failed(frame.error.code, frame.error.message, frame.error.data))
        else:
            waiting.set_result(bytes(frame.result) if frame.result is not UNSET else b"null")

    def _hear_progress(self, params: bytes) -> None:
        try:
            token = _token.decode(params).progressToken
        except (msgspec.DecodeError, RecursionError):
            return
        if isinstance(token, int) and token in self._progress:
            self._progress[token](params)

    def _hear_odd(self, data: bytes) -> None:
        """An error in a form of the provider's own, half a surrogate pair, or JSON nested to the parser's limit."""
        frame = jsonrpc.parse(data, utf8=True)
        waiting = None if frame.id is UNSET else self._answers.pop(number_of(bytes(frame.id)), None)
        if waiting is None or waiting.done():
            return
        if frame.result is not UNSET:
            waiting.set_result(bytes(frame.result))
        else:
            waiting.set_exception(Failed(INTERNAL, "an error in an unknown form / 无法识别的错误"))

    def close(self, code: int, reason: str) -> None:
        """Leave the endpoint; the next request comes back. What is still waited for fails."""
        consumer, self._consumer = self._consumer, None
        self._welcome = None
        if consumer is None:
            return
        self._broker.detach(consumer, code, reason)
        lost, self._answers = self._answers, {}
        for waiting in lost.values():
            if not waiting.done():
                waiting.set_exception(Failed(errors.PROVIDER_GONE.number, reason))

    # -- asking ------------------------------------------------------------------------------------------------------------

    async def request(self, method: str, params: dict[str, Any] | None = None, progress: Callable[[bytes], None] | None = None) -> bytes:
        """The JSON of a request's result; `progress` hears the parameters (JSON) of its progress. Raises Failed for an error answer."""
        if self._consumer is None:
            self._consumer = self._broker.attach_consumer(
                self._name, self._shown, self, answer_bytes=self._limits.http_answer_bytes, in_process=True, only=self._only
            )
            self._welcome = asyncio.create_task(self._greet())
        assert self._welcome is not None
        try:
            await asyncio.shield(self._welcome)
        except Failed:
            self.close(*errors.GOING_AWAY)
            raise
        return await self._ask(method, params, progress)

    async def tools(self) -> list[Tool]:
        """All tools, all pages, as their providers described them. Raises Failed."""
        found: list[Tool] = []
        cursor: str | None = None
        for _ in range(PAGES):
            page = read_page(await self.request(methods.TOOLS_LIST, {} if cursor is None else {"cursor": cursor}))
            if page is None:
                raise Failed(INTERNAL, "the list of tools is no list / 工具列表不是列表")
            found += page[0]
            cursor = page[1]
            if cursor is None:
                break
        return found

    async def call(self, name: str, arguments: dict[str, Any] | msgspec.Raw, progress: Callable[[bytes], None] | None = None) -> bytes:
        """The JSON of a tool's result, also of one that says it failed (`isError`). `progress` as for `request`. Raises Failed."""
        return await self.request(methods.TOOLS_CALL, {"name": name, "arguments": arguments}, progress)

    async def _greet(self) -> bytes:
        result = await self._ask(methods.INITIALIZE, hello({}))
        self._say(jsonrpc.notification(methods.INITIALIZED))
        return result

    async def _ask(self, method: str, params: dict[str, Any] | None, progress: Callable[[bytes], None] | None = None) -> bytes:
        loop = asyncio.get_running_loop()
        self._last += 1
        number = self._last
        waiting: asyncio.Future[bytes] = loop.create_future()
        self._answers[number] = waiting
        if progress is not None:
            self._progress[number] = progress
            params = {**(params or {}), methods.META: {methods.PROGRESS_TOKEN: number}}
        self._say(jsonrpc.request(b"%d" % number, method, _encode(params or {})))
        if waiting.done():
            # The endpoint answered at once. Awaiting a finished future does not yield, so a caller that retries would stop the loop.
            await asyncio.sleep(0)
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._answers.pop(number, None) is not None:
                self._say(jsonrpc.notification(methods.CANCELLED, {"requestId": number, "reason": "no longer wanted"}))
            raise
        finally:
            self._progress.pop(number, None)

    def _say(self, frame: bytes) -> None:
        consumer = self._consumer
        if consumer is not None:
            consumer.receive(consumer, frame, asyncio.get_running_loop().time(), True)
