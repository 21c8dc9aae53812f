"""An MCP server on stdin and stdout as small as one can be, so that it starts in milliseconds.

    python small_server.py [NAME] [TOOL…]

Its tools say which process answered; `die` ends it, `tell` writes to stderr and stdout what it is given, `environment` shows a variable,
`structured` gives its arguments back and no text.
Only the standard library.
"""

import json
import os
import sys
import time
from typing import Any

NAME = sys.argv[1] if len(sys.argv) > 1 else "small"
TOOLS = sys.argv[2:] or ["who"]


def result(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    if method == "initialize":
        info = {"name": NAME, "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {"listChanged": True}}, "serverInfo": info}
    if method == "tools/list":
        return {"tools": [{"name": tool, "inputSchema": {"type": "object"}} for tool in TOOLS]}
    if method == "tools/call":
        return called(params["name"], params.get("arguments") or {})
    return {}


def called(tool: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    if tool == "die":
        os._exit(3)
    if tool == "silent":
        return None
    if tool == "slow":
        time.sleep(arguments["seconds"])
    if tool == "tell":
        print(arguments["text"], file=sys.stderr, flush=True)
        print(arguments["text"], flush=True)
    if tool == "structured":
        return {"structuredContent": arguments}
    text = os.environ.get(arguments["variable"], "") if tool == "environment" else f"{NAME} {os.getpid()}"
    return {"content": [{"type": "text", "text": text}], "isError": False}


for line in sys.stdin:
    request = json.loads(line)
    if "id" in request and "method" in request:
        body = result(request["method"], request.get("params") or {})
        if body is not None:
            print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": body}), flush=True)
