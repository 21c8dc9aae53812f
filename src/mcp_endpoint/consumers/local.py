"""In-process consumer: code of this server lists and calls an endpoint's tools with await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from .. import errors
from ..core.broker import Broker
from ..core.catalog import read_page
from ..core.ledger import number_of
from ..core.parties import Consumer
from ..protocol import jsonrpc, methods
from ..protocol.definitions import Tool, hello
from ..protocol.jsonrpc import VERSION, Frame, Malformed, Part, kind_of, parse, whole
from ..protocol.stateless import INTERNAL
from ..settings.schema import Limits

PAGES: Final = 1_000
"""Most pages of a list that are requested, so that an endless list ends."""


_encode: Final = msgspec.json.Encoder().encode


class Failed(Exception):
    """A request was answered with an error, of a provider or of this server."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message
        self.data = data

    @property
    def undelivered(self) -> bool:
        """Whether no provider can have received the request, so that it may be sent elsewhere."""
        return isinstance(self.data, dict) and self.data.get("source") == "broker" and self.data.get("delivered") is False


class _RpcError(msgspec.Struct):
    code: int = INTERNAL
    message: str = ""
    data: Any = None


class _Token(msgspec.Struct):
    progressToken: Any = None


_error: Final = msgspec.json.Decoder(_RpcError)
_token: Final = msgspec.json.Decoder(_Token)


class Local:
    """A consumer of one endpoint, for code on the server's event loop.

    It attaches with its first request and has no deadline of its own: the endpoint answers every request. Cancelling a waiting coroutine
    cancels its request. It receives no server-to-client requests, because it declares no capability.
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
        """`only` is the label whose tools it sees, "" for all; `changed` is called with the method of every notification."""
        self._broker = broker
        self._name = name
        self._shown = shown
        self._limits = limits
        self._only = only
        self._changed = changed
        self._consumer: Consumer | None = None
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._progress: dict[int, Callable[[bytes], None]] = {}
        """Number of a request → callback for its progress."""
        self._last = 0
        self._welcome: asyncio.Task[bytes] | None = None

    # -- the link ----------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Always 0: responses are taken at once."""
        return 0

    def ping(self) -> None:
        """Nothing: it is part of the process."""

    def send(self, first: Part, second: Part = b"") -> None:
        """As `send_frame`, for a frame that is not parsed yet."""
        data = whole(first, second)
        try:
            frame = parse(data, utf8=True)
        except Malformed:
            asyncio.get_running_loop().call_soon(self._read_again, data)  # from a shallow stack: the parser's depth limit depends on it
        else:
            self.send_frame(frame, data, b"")

    def _read_again(self, data: bytes) -> None:
        """Handle a frame nested to the parser's limit."""
        self.send_frame(parse(data, utf8=True), data, b"")

    def send_frame(self, frame: Frame, first: Part, second: Part) -> None:
        """Handle one frame of the endpoint."""
        kind = kind_of(frame)
        if kind == "answer":
            self._answered(frame)
        elif frame.method == methods.PROGRESS:
            self._on_progress(b"" if frame.params is UNSET else bytes(frame.params))
        elif kind == "notification":
            self._changed(str(frame.method))

    def _answered(self, frame: Frame) -> None:
        waiting = None if frame.id is UNSET else self._answers.pop(number_of(bytes(frame.id)), None)
        if waiting is None or waiting.done():
            return
        if frame.error is UNSET:
            waiting.set_result(bytes(frame.result) if frame.result is not UNSET else b"null")
            return
        try:
            error = _error.decode(frame.error)
        except (msgspec.DecodeError, RecursionError):
            waiting.set_exception(Failed(INTERNAL, "an error in an unknown form / 无法识别的错误"))
        else:
            waiting.set_exception(Failed(error.code, error.message, error.data))

    def _on_progress(self, params: bytes) -> None:
        try:
            token = _token.decode(params).progressToken
        except (msgspec.DecodeError, RecursionError):
            return
        if isinstance(token, int) and token in self._progress:
            self._progress[token](params)

    def close(self, code: int, reason: str) -> None:
        """Detach; the next request attaches again. Pending requests fail."""
        consumer, self._consumer = self._consumer, None
        self._welcome = None
        if consumer is None:
            return
        self._broker.detach(consumer, code, reason)
        lost, self._answers = self._answers, {}
        for waiting in lost.values():
            if not waiting.done():
                waiting.set_exception(Failed(errors.PROVIDER_GONE.number, reason))

    # -- requests ----------------------------------------------------------------------------------------------------------

    async def request(self, method: str, params: dict[str, Any] | None = None, progress: Callable[[bytes], None] | None = None) -> bytes:
        """The JSON of a request's result; `progress` gets the JSON parameters of progress notifications. Raises Failed for an error."""
        if self._consumer is None:
            self._consumer = self._broker.attach_consumer(
                self._name, self._shown, self, answer_bytes=self._limits.http_answer_bytes, in_process=True, only=self._only
            )
            self._welcome = asyncio.create_task(self._initialize())
        assert self._welcome is not None
        try:
            await asyncio.shield(self._welcome)
        except Failed:
            self.close(*errors.GOING_AWAY)
            raise
        return await self._request(method, params, progress)

    async def tools(self) -> list[Tool]:
        """All tools of all pages, as their providers described them. Raises Failed."""
        found: list[Tool] = []
        cursor: str | None = None
        for _ in range(PAGES):
            page = read_page(await self.request(methods.TOOLS_LIST, {} if cursor is None else {"cursor": cursor}))
            if page is None:
                raise Failed(INTERNAL, "the list of tools is not a list / 工具列表不是列表")
            found += page[0]
            cursor = page[1]
            if cursor is None:
                break
        return found

    async def call(self, name: str, arguments: dict[str, Any] | msgspec.Raw, progress: Callable[[bytes], None] | None = None) -> bytes:
        """The JSON of a tool's result, also one with `isError`. `progress` as for `request`. Raises Failed."""
        return await self.request(methods.TOOLS_CALL, {"name": name, "arguments": arguments}, progress)

    async def _initialize(self) -> bytes:
        result = await self._request(methods.INITIALIZE, hello({}))
        self._send(jsonrpc.notification(methods.INITIALIZED))
        return result

    async def _request(self, method: str, params: dict[str, Any] | None, progress: Callable[[bytes], None] | None = None) -> bytes:
        loop = asyncio.get_running_loop()
        self._last += 1
        number = self._last
        waiting: asyncio.Future[bytes] = loop.create_future()
        self._answers[number] = waiting
        if progress is not None:
            self._progress[number] = progress
            params = {**(params or {}), methods.META: {methods.PROGRESS_TOKEN: number}}
        id, said = b"%d" % number, _encode(params or {})
        self._send(jsonrpc.request(id, method, said), Frame(VERSION, Raw(id), method, Raw(said)))
        if waiting.done():
            # The endpoint answered at once. Awaiting a finished future does not yield, so a retrying caller would block the event loop.
            await asyncio.sleep(0)
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._answers.pop(number, None) is not None:
                self._send(jsonrpc.notification(methods.CANCELLED, {"requestId": number, "reason": "no longer wanted"}))
            raise
        finally:
            self._progress.pop(number, None)

    def _send(self, data: bytes, frame: Frame | None = None) -> None:
        consumer = self._consumer
        if consumer is not None:
            consumer.receive(consumer, data, asyncio.get_running_loop().time(), True, frame)
