"""The console from outside: a browser's requests over a real socket, and a tool of any name and description at an endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from running import BOUND, KEY, running
from websockets.asyncio.client import connect

from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.serving.server import DrainingServer
from mcp_endpoint.settings.schema import Config

PAGE = {"Accept": "text/html", "Accept-Language": "en"}
OURS = {"Sec-Fetch-Site": "same-origin"}
BEARER = {"Authorization": f"Bearer {KEY}"}
TOKEN = TokenCodec(KEY).make_xiaozhi("single_module")


DEFAULT = Config()


class Visitor(httpx2.AsyncClient):
    """A browser that follows no redirect by itself, and keeps cookies."""

    async def log_in(self) -> None:
        answer = await self.post("/console/login", data={"key": KEY}, headers={**PAGE, **OURS})
        assert answer.status_code == 303, answer.text


@asynccontextmanager
async def console(config: Config = DEFAULT, *, root: Path = Path()) -> AsyncIterator[tuple[DrainingServer, Visitor]]:
    """A server of `config`, and somebody who visits it."""
    async with running(config, root=root) as server, Visitor(base_url=f"http://127.0.0.1:{server.port}", timeout=BOUND) as visitor:
        yield server, visitor


@asynccontextmanager
async def toolbox(port: int, tools: Sequence[Mapping[str, Any]], token: str = TOKEN) -> AsyncIterator[list[dict[str, Any]]]:
    """A tool process with these tools; gives the calls it has had. A call's answer repeats its arguments."""
    calls: list[dict[str, Any]] = []

    async def serve() -> None:
        async for text in link:
            frame = json.loads(text)
            if "id" not in frame:
                continue
            params = frame.get("params", {})
            result: dict[str, Any] = {}
            if frame["method"] == "initialize":
                info = {"name": "toolbox", "version": "1"}
                result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
            elif frame["method"] == "tools/list":
                result = {"tools": list(tools)}
            elif frame["method"] == "tools/call":
                calls.append(params)
                result = {"content": [{"type": "text", "text": json.dumps(params.get("arguments"))}], "isError": params["name"] == "fails"}
            await link.send(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}))

    async with connect(f"ws://127.0.0.1:{port}/mcp_endpoint/mcp/?token={token.replace('+', '%2B')}") as link:
        serving = asyncio.create_task(serve())
        try:
            yield calls
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving


def tool(name: str, description: str = "", **properties: Any) -> dict[str, Any]:
    """A tool as its provider describes it."""
    return {"name": name, "description": description, "inputSchema": {"type": "object", "properties": properties}}
