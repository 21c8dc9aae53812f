"""An MCP server of the 1.x SDK whose tools come in pages of two."""

from __future__ import annotations

import asyncio

from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

server = Server("pages")
TOOLS = [types.Tool(name=f"tool_{number}", description="one of five", inputSchema={"type": "object"}) for number in range(5)]


async def list_tools(request: types.ListToolsRequest) -> types.ServerResult:
    start = int(request.params.cursor) if request.params and request.params.cursor else 0
    end = start + 2
    return types.ServerResult(types.ListToolsResult(tools=TOOLS[start:end], nextCursor=str(end) if end < len(TOOLS) else None))


server.request_handlers[types.ListToolsRequest] = list_tools


async def main() -> None:
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


asyncio.run(main())
