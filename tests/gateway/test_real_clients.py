"""The official client through the gateway to a server made with the official package, in both eras of the protocol."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from running import BOUND, running
from served import served
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_endpoint.settings.schema import Config, CredentialSettings, GatewaySettings

KEYS = [f"sk-{letter * 40}" for letter in "ab"]


class KeyedServer:
    """An MCP server that answers only whoever shows a key it knows, and remembers which."""

    def __init__(self) -> None:
        server = MCPServer("aviation")

        @server.tool()
        def flight(number: str) -> str:
            """Where a flight is."""
            return f"{number} is on time"

        self.app: ASGIApp = server.streamable_http_app(streamable_http_path="/mcp/")
        self.keys: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            key = scope["query_string"].decode().partition("api_key=")[2]
            self.keys.append(key)
            if key not in KEYS:
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
        await self.app(scope, receive, send)


@pytest.mark.row("R17")
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_the_official_client_lists_and_calls_through_the_gateway(tmp_path: Path, mode: Literal["legacy", "2026-07-28"]) -> None:
    (tmp_path / "accounts.txt").write_text("".join(f"user|password|{key}\n" for key in KEYS))
    behind = KeyedServer()
    async with served(behind) as (port, _):
        config = Config(
            gateway=(GatewaySettings(name="air", target=f"http://127.0.0.1:{port}/mcp/", credentials="fly", place="query:api_key"),),
            credentials={"fly": CredentialSettings(accounts="accounts.txt")},
        )
        async with running(config, root=tmp_path, standalone="gateway") as server, asyncio.timeout(BOUND):
            for _ in range(2):
                async with Client(streamable_http_client(f"http://127.0.0.1:{server.port}/"), mode=mode) as client:
                    assert [tool.name for tool in (await client.list_tools()).tools] == ["flight"]
                    result = await client.call_tool("flight", {"number": "CA1501"})
                    assert "CA1501 is on time" in str(result.content)
    assert set(behind.keys) == set(KEYS)
