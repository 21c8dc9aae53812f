"""The same relay as a straightforward Starlette program, so that the broker has an honest neighbour to be compared with.

python starlette_relay.py [PORT] [SECONDS]: listens on 127.0.0.1, prints the port, ends by itself. `BENCH_KEY` opens xiaozhi tokens.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import socket
import sys

import orjson
import uvicorn
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

KEY = os.environ.get("BENCH_KEY", "").encode()
tools: dict[str, WebSocket] = {}
asked: dict[WebSocket, dict[int, tuple[WebSocket, object]]] = {}
numbers = itertools.count(1)


def endpoint(token: str) -> str:
    if not KEY:
        return token
    opener = Cipher(algorithms.AES(KEY), modes.ECB()).decryptor()
    text = opener.update(base64.b64decode(token)) + opener.finalize()
    return str(orjson.loads(text[: -text[-1]])["agentId"])


async def tool(ws: WebSocket) -> None:
    name = endpoint(ws.query_params["token"])
    await ws.accept()
    tools[name] = ws
    waiting: dict[int, tuple[WebSocket, object]] = {}
    asked[ws] = waiting
    try:
        while True:
            message = orjson.loads(await ws.receive_text())
            if (who := waiting.pop(message.get("id"), None)) is not None:
                device, message["id"] = who
                await device.send_text(orjson.dumps(message).decode())
    except WebSocketDisconnect:
        if tools.get(name) is ws:
            del tools[name]
        del asked[ws]


async def device(ws: WebSocket) -> None:
    name = endpoint(ws.query_params["token"])
    await ws.accept()
    try:
        while True:
            message = orjson.loads(await ws.receive_text())
            if (peer := tools.get(name)) is None:
                continue
            if "id" in message:
                number = next(numbers)
                asked[peer][number] = ws, message["id"]
                message["id"] = number
            await peer.send_text(orjson.dumps(message).decode())
    except WebSocketDisconnect:
        return


if __name__ == "__main__":
    app = Starlette(routes=[WebSocketRoute("/mcp_endpoint/mcp/", tool), WebSocketRoute("/mcp_endpoint/call/", device)])
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    settings = uvicorn.Config(app, http="httptools", ws="websockets-sansio", loop="uvloop", log_level="error", access_log=False)
    server = uvicorn.Server(settings)
    with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
        runner.run(asyncio.wait_for(server.serve([listener]), float(sys.argv[2]) if sys.argv[2:] else 900))
