"""A device for the terminal: it connects to an endpoint, lists the tools there and calls one of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from . import __version__, tls
from .addresses import Hint
from .dial import checked, dial
from .errors import EndpointError

REVISION: Final = "2025-06-18"
ANSWER_SECONDS: Final = 310.0
"""Longer than any deadline of the server: it answers, or the link is gone."""
TICK_SECONDS: Final = 1.0
"""How often somebody who waits is shown that the call still runs."""
PAGES: Final = 1_000
"""Most pages of a list that are asked for, so that an endless one ends."""

Progress = Callable[[float, str], None]
"""Is told the seconds waited so far and, where the tool reports its progress, what it said."""


class Tool(NamedTuple):
    """One tool as the endpoint describes it."""

    name: str
    description: str
    arguments: tuple[str, ...]
    """Names of its arguments; those that are required end in `*`."""


class Device:
    """An initialised link on the device side of an endpoint."""

    def __init__(self, link: ClientConnection, progress: Progress) -> None:
        self._link = link
        self._progress = progress
        self._number = 0

    async def initialize(self) -> dict[str, Any]:
        """Shake hands; what the endpoint says of itself."""
        about = {"name": "mcp-endpoint", "version": __version__}
        result = await self.request("initialize", {"protocolVersion": REVISION, "capabilities": {}, "clientInfo": about})
        await self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return result

    async def tools(self) -> list[Tool]:
        """All tools, all pages."""
        found: list[Tool] = []
        cursor: object = None
        for _ in range(PAGES):
            page = await self.request("tools/list", {} if cursor is None else {"cursor": cursor})
            found += [_tool(described) for described in page.get("tools", ())]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        return found

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The result of one tool call, also one that says `isError`."""
        return await self.request("tools/call", {"name": name, "arguments": arguments})

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The result of a request. Raises EndpointError for an error answer and for a link that ends."""
        self._number += 1
        number = self._number
        params = params | {"_meta": {"progressToken": number}}
        await self._send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
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
            if message.get("method") == "notifications/progress":
                self._progress(waited, _progress(message.get("params")))
            elif "method" in message and "id" in message:  # a tool asks a device that has nothing to offer
                await self._send({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
            elif message.get("id") == number:
                return _result(message)

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self._link.send(msgspec.json.encode(message).decode())
        except ConnectionClosed as closed:
            raise _ended(closed) from closed

    async def _receive(self) -> dict[str, Any]:
        try:
            frame = await asyncio.wait_for(self._link.recv(decode=False), TICK_SECONDS)
        except ConnectionClosed as closed:
            raise _ended(closed) from closed
        message = json.loads(frame)
        return message if isinstance(message, dict) else {}


@asynccontextmanager
async def attached(url: str, certificate: str = "", progress: Progress = lambda _, __: None) -> AsyncIterator[Device]:
    """A device at `url`, its handshake done. `certificate` is the file a server of ours on this machine serves with.

    Raises EndpointError if nobody listens there, or if who listens refuses.
    """
    link = await dial(checked(url), tls=tls.trusting(certificate) if certificate else None)
    try:
        device = Device(link, progress)
        await device.initialize()
        yield device
    finally:
        await link.close()


def text_of(result: dict[str, Any]) -> str:
    """The result of a tool call as a person reads it: its texts, everything else as JSON."""
    parts = []
    for content in result.get("content", ()):
        if isinstance(content, dict) and content.get("type") == "text":
            parts.append(str(content.get("text", "")))
        else:
            parts.append(json.dumps(content, ensure_ascii=False))
    return "\n".join(parts) if parts else json.dumps(result.get("structuredContent", result), ensure_ascii=False)


def _tool(described: Any) -> Tool:
    known = described if isinstance(described, dict) else {}
    schema = known.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    required = schema.get("required") if isinstance(schema, dict) else None
    names = tuple(f"{name}*" if name in (required or ()) else name for name in properties or ())
    return Tool(str(known.get("name", "")), str(known.get("description", "")), names)


def _progress(params: Any) -> str:
    if not isinstance(params, dict):
        return ""
    done, total, message = params.get("progress"), params.get("total"), params.get("message")
    share = "" if done is None else f"{done}" if total is None else f"{done}/{total}"
    return " ".join(part for part in (share, str(message or "")) if part)


def _result(message: dict[str, Any]) -> dict[str, Any]:
    error = message.get("error")
    if isinstance(error, dict):
        data = error.get("data")
        said, why = _languages(error.get("message")), _languages(data.get("hint") if isinstance(data, dict) else None)
        raise EndpointError(
            f"error {error.get('code')}: {said.en}" + (f" ({why.en})" if why.en else ""),
            f"错误 {error.get('code')}：{said.zh}" + (f"（{why.zh}）" if why.zh else ""),
        )
    result = message.get("result")
    return result if isinstance(result, dict) else {"structuredContent": result}


def _ended(closed: ConnectionClosed) -> EndpointError:
    goodbye = f"{closed.rcvd.code} {closed.rcvd.reason}".strip() if closed.rcvd else "connection lost"
    return EndpointError(f"the server ended the connection: {goodbye}", f"服务器结束了连接：{goodbye}")


def _languages(text: object) -> Hint:
    """What a server says in both languages, `中文 / English`; somebody else's words stand for both."""
    words = "" if text is None else str(text)
    zh, _, en = words.partition(" / ")
    return Hint(en or words, zh)
