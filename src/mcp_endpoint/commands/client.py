"""A device for the terminal: it connects to an endpoint, lists the tools there and calls one of them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from ..access import tls
from ..access.addresses import Hint
from ..errors import METHOD_NOT_FOUND, EndpointError
from ..protocol import methods
from ..protocol.definitions import hello
from ..protocol.jsonrpc import VERSION
from ..sockets.dial import checked, dial, note

ANSWER_SECONDS: Final = 310.0
"""Longer than any deadline of the server: it answers, or the link is gone."""
TICK_SECONDS: Final = 1.0
"""How often somebody who waits is shown that the call still runs."""
PAGES: Final = 1_000
"""Most pages of a list that are asked for, so that an endless one ends."""

Progress = Callable[[float, str], None]
"""Is told the seconds waited so far and, where the tool reports its progress, what it said."""

_NOTHING: Final = Raw()
_CHINESE: Final = re.compile("[一-鿿]")


class Tool(NamedTuple):
    """One tool as the endpoint describes it."""

    name: str
    description: str
    arguments: tuple[str, ...]
    """Names of its arguments; those that are required end in `*`."""
    raw: str
    """The whole description, the JSON as it came."""


class Result(NamedTuple):
    """What a tool answered."""

    text: str
    """As a person reads it."""
    failed: bool
    """Whether the tool says that it failed (`isError`)."""
    raw: str
    """The whole result, the JSON as it came."""


class _Message(msgspec.Struct):
    """One frame of the endpoint; what is only shown stays as it came."""

    id: Any = None
    method: str = ""
    params: Any = None
    result: Raw = _NOTHING
    error: Any = None


class _Page(msgspec.Struct):
    tools: list[Raw] = []
    cursor: str | None = msgspec.field(default=None, name="nextCursor")


class Device:
    """An initialised link on the device side of an endpoint."""

    def __init__(self, link: ClientConnection, progress: Progress) -> None:
        self._link = link
        self._progress = progress
        self._number = 0
        self.note: Hint | None = None
        """What the server said of the token."""

    async def initialize(self) -> None:
        """Shake hands."""
        await self.request(methods.INITIALIZE, hello({}, part="/terminal"))
        await self._send({"jsonrpc": VERSION, "method": methods.INITIALIZED})

    async def tools(self) -> list[Tool]:
        """All tools, all pages."""
        found: list[Tool] = []
        cursor: str | None = None
        for _ in range(PAGES):
            answer = await self.request(methods.TOOLS_LIST, {} if cursor is None else {"cursor": cursor})
            try:
                page = msgspec.json.decode(answer, type=_Page)
            except msgspec.ValidationError as error:
                raise EndpointError(f"the list of tools is no list: {error}", f"工具列表不是列表：{error}") from error
            found += map(_tool, page.tools)
            cursor = page.cursor
            if cursor is None:
                break
        return found

    async def call(self, name: str, arguments: dict[str, Any]) -> Result:
        """The result of one tool call, also one that says it failed. Whoever cancels this cancels the call."""
        raw = (await self.request(methods.TOOLS_CALL, {"name": name, "arguments": arguments})).decode()
        result = json.loads(raw)
        return Result(text_of(result), isinstance(result, dict) and bool(result.get("isError")), raw)

    async def request(self, method: str, params: dict[str, Any]) -> bytes:
        """The JSON of a request's result. Raises EndpointError for an error answer and for a link that ends."""
        self._number += 1
        number = self._number
        params = params | {methods.META: {methods.PROGRESS_TOKEN: number}}
        await self._send({"jsonrpc": VERSION, "id": number, "method": method, "params": params})
        try:
            return await self._answer(method, number)
        except asyncio.CancelledError:
            if method != methods.INITIALIZE:  # which must not be cancelled (MCP, cancellation)
                why = {"requestId": number, "reason": "cancelled at the terminal"}
                await self._send({"jsonrpc": VERSION, "method": methods.CANCELLED, "params": why})
            raise

    async def _answer(self, method: str, number: int) -> bytes:
        began = time.monotonic()
        while True:
            waited = time.monotonic() - began
            if waited > ANSWER_SECONDS:
                raise EndpointError(f"no answer to {method} within {ANSWER_SECONDS:g} s", f"{method} 在 {ANSWER_SECONDS:g} 秒内没有应答")
            try:
                message = await self._receive()
            except TimeoutError:
                self._progress(waited, "")
                continue
            if message.method == methods.PROGRESS:
                self._progress(waited, _progress(message.params))
            elif message.method and message.id is not None:  # a tool asks a device that has nothing to offer
                error = {"code": METHOD_NOT_FOUND.number, "message": METHOD_NOT_FOUND.message}
                await self._send({"jsonrpc": VERSION, "id": message.id, "error": error})
            elif not message.method and message.id == number:
                if message.error is not None:
                    raise _failure(message.error)
                return bytes(message.result) or b"null"

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self._link.send(msgspec.json.encode(message).decode())
        except ConnectionClosed as closed:
            raise _ended(closed) from closed

    async def _receive(self) -> _Message:
        try:
            frame = await asyncio.wait_for(self._link.recv(decode=False), TICK_SECONDS)
        except ConnectionClosed as closed:
            raise _ended(closed) from closed
        try:
            return msgspec.json.decode(frame, type=_Message)
        except msgspec.DecodeError:  # not JSON-RPC, so nobody's answer
            return _Message()


@asynccontextmanager
async def attached(url: str, certificate: str = "", progress: Progress = lambda _, __: None) -> AsyncIterator[Device]:
    """A device at `url`, its handshake done. `certificate` is the file a server of ours on this machine serves with.

    Raises EndpointError if nobody listens there, or if who listens refuses.
    """
    link = await dial(checked(url), tls=tls.trusting(certificate) if certificate else None)
    try:
        device = Device(link, progress)
        device.note = note(link)
        await device.initialize()
        yield device
    finally:
        await link.close()


def text_of(result: object) -> str:
    """The result of a tool call as a person reads it: its texts, what else came with it by its kind and size, or its structure."""
    contents = result.get("content") if isinstance(result, dict) else None
    if isinstance(contents, list) and contents:
        return "\n".join(map(_content, contents))
    structured = result.get("structuredContent", result) if isinstance(result, dict) else result
    return json.dumps(structured, ensure_ascii=False, indent=2)


def _content(content: Any) -> str:
    """One part of a result (MCP 2025-06-18, tool result): text as it is, pictures and sounds by name only."""
    resource = content.get("resource") if isinstance(content, dict) else None
    match content:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image" | "audio" as kind, "data": str(data)}:
            return f"[{kind} {content.get('mimeType', '')}, {len(data) * 3 // 4 - data[-2:].count('=')} bytes]"
        case {"type": "resource"} if isinstance(resource, dict) and isinstance(resource.get("text"), str):
            return f"[{resource.get('uri', 'resource')}]\n{resource['text']}"
        case {"type": "resource_link", "uri": str(uri)}:
            return f"[{content.get('name') or 'resource'}: {uri}]"
        case _:
            return json.dumps(content, ensure_ascii=False)


def _tool(raw: Raw) -> Tool:
    described = json.loads(bytes(raw))
    known = described if isinstance(described, dict) else {}
    schema = known.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    required = schema.get("required") if isinstance(schema, dict) else None
    names = tuple(f"{name}*" if name in (required or ()) else name for name in properties or ())
    return Tool(str(known.get("name", "")), str(known.get("description", "")), names, bytes(raw).decode())


def _progress(params: Any) -> str:
    if not isinstance(params, dict):
        return ""
    done, total, message = params.get("progress"), params.get("total"), params.get("message")
    share = "" if done is None else f"{done}" if total is None else f"{done}/{total}"
    return " ".join(part for part in (share, str(message or "")) if part)


def _failure(error: Any) -> EndpointError:
    """The error an endpoint or a tool answered with, its hint behind it."""
    known = error if isinstance(error, dict) else {"message": error}
    data = known.get("data")
    said, why = _languages(known.get("message")), _languages(data.get("hint") if isinstance(data, dict) else None)
    return EndpointError(
        f"error {known.get('code')}: {said.en}" + (f" ({why.en})" if why.en else ""),
        f"错误 {known.get('code')}：{said.zh}" + (f"（{why.zh}）" if why.zh else ""),
    )


def _ended(closed: ConnectionClosed) -> EndpointError:
    close_reason = f"{closed.rcvd.code} {closed.rcvd.reason}".strip() if closed.rcvd else "connection lost"
    return EndpointError(f"the server ended the connection: {close_reason}", f"服务器结束了连接：{close_reason}")


def _languages(text: object) -> Hint:
    """What a server says in both languages, part by part; what is in one language only stands for both."""
    parts = [_halves(part) for part in ("" if text is None else str(text)).split(" · ")]
    return Hint(" · ".join(part.en for part in parts), " · ".join(part.zh for part in parts))


def _halves(part: str) -> Hint:
    first, _, second = part.partition(" / ")
    if not second or bool(_CHINESE.search(first)) == bool(_CHINESE.search(second)):
        return Hint(part, part)
    return Hint(second, first) if _CHINESE.search(first) else Hint(first, second)
