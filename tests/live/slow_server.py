"""An MCP server whose tools take their time, for tests of what happens meanwhile."""

from __future__ import annotations

import os
import sys
import time

try:
    from mcp.server import MCPServer
except ImportError:  # the SDK before 2.0
    from mcp.server.fastmcp import FastMCP as MCPServer

server = MCPServer(sys.argv[1] if len(sys.argv) > 1 else "slow")


@server.tool()
def pid() -> int:
    """The process that answers."""
    return os.getpid()


@server.tool()
def sleep(seconds: float) -> str:
    """Answers after that many seconds."""
    time.sleep(seconds)
    return f"slept {seconds:g}"


if __name__ == "__main__":
    server.run()
