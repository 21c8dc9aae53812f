"""A command-line MCP client: connects to an endpoint as a device, lists its tools and calls one."""

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
"""Longer than any deadline of the server: either it answers or the link is lost."""
TICK_SECONDS: Final = 1.0
"""Interval at which a waiting user is shown that the call still runs."""
PAGES: Final = 1_000
"""Most pages of a list that are requested, so that an endless list ends."""

Progress = Callable[[float, str], None]
"""Called with the seconds waited so far and the tool's progress message, if any."""

_NOTHING: Final = Raw()
_CHINESE: Final = re.compile("[一-鿿]")


class ListedTool(NamedTuple):
    """One tool, as the endpoint describes it."""

    name: str
    description: str
    arguments: tuple[str, ...]
    """Names of its arguments; required ones end in `*`."""
    raw: str
    """The complete description, as received JSON."""


class Result(NamedTuple):
    """The result of a tool call."""

    text: str
    """For people."""
    failed: bool
    """`isError`."""
    raw: str
    """The complete result, as received JSON."""


class _ReceivedFrame(msgspec.Struct):
    """A received frame; parts that are only printed are not decoded."""

    id: Any = None
    method: str = ""
    params: Any = None
    result: Raw = _NOTHING
    error: Any = None


class _Page(msgspec.Struct):
    tools: list[Raw] = []
    cursor: str | None = msgspec.field(default=None, name="nextCursor")


class Device:
    """An initialized link on the device side of an endpoint."""

    def __init__(self, link: ClientConnection, progress: Progress) -> None:
        self._link = link
        self._progress = progress
        self._number = 0
        self.note: Hint | None = None
        """The server's remark about the token."""

    async def initialize(self) -> None:
        """Do the MCP handshake."""
        await self.request(methods.INITIALIZE, hello({}, part="/terminal"))
        await self._send({"jsonrpc": VERSION, "method": methods.INITIALIZED})

    async def tools(self) -> list[ListedTool]:
        """All tools, from all pages."""
        found: list[ListedTool] = []
        cursor: str | None = None
        for _ in range(PAGES):
            answer = await self.request(methods.TOOLS_LIST, {} if cursor is None else {"cursor": cursor})
            try:
                page = msgspec.json.decode(answer, type=_Page)
            except msgspec.ValidationError as error:
                raise EndpointError(f"the list of tools is not a list: {error}", f"工具列表不是列表：{error}") from error
            found += map(_tool, page.tools)
            cursor = page.cursor
            if cursor is None:
                break
        return found

    async def call(self, name: str, arguments: dict[str, Any]) -> Result:
        """Call a tool; returns its result, also one with isError. Cancelling this coroutine cancels the call."""
        raw = (await self.request(methods.TOOLS_CALL, {"name": name, "arguments": arguments})).decode()
        result = json.loads(raw)
        return Result(text_of(result), isinstance(result, dict) and bool(result.get("isError")), raw)

    async def request(self, method: str, params: dict[str, Any]) -> bytes:
        """The JSON of a request's result. Raises EndpointError for an error response and for a closed link."""
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
            elif message.method and message.id is not None:  # a server-to-client request: no capabilities here
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

    async def _receive(self) -> _ReceivedFrame:
        try:
            frame = await asyncio.wait_for(self._link.recv(decode=False), TICK_SECONDS)
        except ConnectionClosed as closed:
            raise _ended(closed) from closed
        try:
            return msgspec.json.decode(frame, type=_ReceivedFrame)
        except msgspec.DecodeError:  # not JSON-RPC: ignore it
            return _ReceivedFrame()


@asynccontextmanager
async def attached(url: str, certificate: str = "", progress: Progress = lambda _, __: None) -> AsyncIterator[Device]:
    """An initialized device at `url`. `certificate` is the certificate file of this machine's own server.

    Raises EndpointError if no connection is possible or the server refuses it.
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
    """The result of a tool call for people: its texts, other contents by kind and size, or its structured content."""
    contents = result.get("content") if isinstance(result, dict) else None
    if isinstance(contents, list) and contents:
        return "\n".join(map(_content, contents))
    structured = result.get("structuredContent", result) if isinstance(result, dict) else result
    return json.dumps(structured, ensure_ascii=False, indent=2)


def _content(content: Any) -> str:
    """One content item of a result (MCP 2025-06-18, tool result): text in full, images and audio by kind and size."""
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


def _tool(raw: Raw) -> ListedTool:
    described = json.loads(bytes(raw))
    known = described if isinstance(described, dict) else {}
    schema = known.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    required = schema.get("required") if isinstance(schema, dict) else None
    names = tuple(f"{name}*" if name in (required or ()) else name for name in properties or ())
    return ListedTool(str(known.get("name", "")), str(known.get("description", "")), names, bytes(raw).decode())


def _progress(params: Any) -> str:
    if not isinstance(params, dict):
        return ""
    done, total, message = params.get("progress"), params.get("total"), params.get("message")
    share = "" if done is None else f"{done}" if total is None else f"{done}/{total}"
    return " ".join(part for part in (share, str(message or "")) if part)


def _failure(error: Any) -> EndpointError:
    """The exception for an error response, with its hint."""
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
    """Split a bilingual text part by part; a part in one language stands for both."""
    parts = [_halves(part) for part in ("" if text is None else str(text)).split(" · ")]
    return Hint(" · ".join(part.en for part in parts), " · ".join(part.zh for part in parts))


def _halves(part: str) -> Hint:
    first, _, second = part.partition(" / ")
    if not second or bool(_CHINESE.search(first)) == bool(_CHINESE.search(second)):
        return Hint(part, part)
    return Hint(second, first) if _CHINESE.search(first) else Hint(first, second)
