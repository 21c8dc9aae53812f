"""An MCP server whose tool waits for ever and notices when nobody wants its answer any more."""

from __future__ import annotations

import asyncio

try:
    from mcp.server import MCPServer
except ImportError:  # the SDK before 2.0
    from mcp.server.fastmcp import FastMCP as MCPServer

server = MCPServer("patient")
counts = {"given up": 0}


@server.tool()
async def wait() -> str:
    """Never answers."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        counts["given up"] += 1
        raise
    return "never"


@server.tool()
async def given_up() -> str:
    """How many of its calls were cancelled."""
    return str(counts["given up"])


if __name__ == "__main__":
    server.run()
