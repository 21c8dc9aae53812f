"""A small MCP server of the handshake era behind a URL, which can be made ill in any way; runs on `upstream`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from upstream import Seen, reply

JSON = "Content-Type: application/json"
MAINTENANCE = reply(200, b"<html><title>Back soon</title></html>", "Content-Type: text/html")


def rpc_error(code: int, message: str, status: int = 200) -> bytes:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    return reply(status, json.dumps(error).encode(), JSON)


class Small:
    """A server of the handshake era as a script; what `faults` returns is said in its place."""

    def __init__(
        self,
        faults: Callable[[Seen, dict[str, Any]], bytes | None] = lambda seen, frame: None,
        *,
        tool: str = "pour",
        sessions: bool = False,
    ) -> None:
        self.tool = tool
        self.faults = faults
        self.sessions = sessions
        self.greeted = 0
        self.called = 0

    async def __call__(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        frame = json.loads(seen.body) if seen.body else {}
        method = frame.get("method")
        self.greeted += method == "initialize"
        fault = self.faults(seen, frame)
        if fault is not None:
            writer.write(fault)
        elif seen.method == "GET":
            writer.write(reply(405))
        elif method == "initialize" and self.sessions:
            writer.write(reply(200, self.answer(frame), JSON, f"Mcp-Session-Id: s{self.greeted}"))
        elif "id" not in frame:
            writer.write(reply(202 if seen.method == "POST" else 200))
        elif self.sessions and seen.all("mcp-session-id") != [f"s{self.greeted}"]:
            writer.write(reply(404, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}', JSON))
        else:
            self.called += method == "tools/call"
            writer.write(reply(200, self.answer(frame), JSON))
        await writer.drain()

    def answer(self, frame: dict[str, Any]) -> bytes:
        results: dict[str, Any] = {
            "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}},
            "tools/list": {"tools": [{"name": self.tool, "inputSchema": {"type": "object"}}]},
            "tools/call": {"content": [{"type": "text", "text": "poured"}]},
        }
        return json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": results.get(frame["method"], {})}).encode()
