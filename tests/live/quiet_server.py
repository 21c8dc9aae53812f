"""An MCP server on stdin and stdout that does not answer one method, as long as a file names it.

    python quiet_server.py FILE PORT

FILE holds the method that gets no answer; PORT is a place to report to: this process connects there and stays connected as long as it
lives. Only the standard library, so that it starts fast.
"""

import json
import os
import socket
import sys
from pathlib import Path

TOOL = {"name": "pid", "description": "The process that answers.", "inputSchema": {"type": "object"}}


def result(method: str) -> object:
    if method == "initialize":
        return {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": {"name": "quiet", "version": "1"}}
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": str(os.getpid())}]}
    return {}


def main() -> None:
    with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as held:
        held.sendall(b"%d\n" % os.getpid())
        for line in sys.stdin.buffer:
            request = json.loads(line)
            if "id" in request and request["method"] != Path(sys.argv[1]).read_text("utf-8"):
                print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result(request["method"])}), flush=True)


if __name__ == "__main__":
    main()
