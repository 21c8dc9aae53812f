"""Other people's WebSocket clients, as device and as tool, through the real broker: initialize, list, call, ping, close."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import picows
import pytest
import websocket
import websockets
import websockets.asyncio.client
from sockets.wire_server import BOUND, DEVICE, TOOL, configured, staged, until

from mcp_endpoint.core.broker import Broker

Say = Callable[[str], Awaitable[str]]
"""Send a text and wait for the next one."""
ANSWER = "16900000000 = 一百六十九亿 " + "x" * 70_000


class Session:
    """What a client library must be able to do."""

    def __init__(
        self, send: Callable[[str], Awaitable[None]], receive: Callable[[], Awaitable[str]], ping: Callable[[], Awaitable[object]]
    ) -> None:
        self.send = send
        self.receive = receive
        self.ping = ping


@asynccontextmanager
async def by_websockets(url: str) -> AsyncIterator[Session]:
    async with websockets.asyncio.client.connect(url, proxy=None) as link:  # offers permessage-deflate

        async def receive() -> str:
            return str(await link.recv())

        async def ping() -> None:
            await (await link.ping())

        yield Session(link.send, receive, ping)
    assert (link.close_code, link.protocol.close_rcvd_then_sent) == (1000, False)


@asynccontextmanager
async def by_aiohttp(url: str) -> AsyncIterator[Session]:
    async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=15, autoping=False, max_msg_size=0) as link:

        async def ping() -> None:
            await link.ping(b"aio")
            assert (await link.receive()).type is aiohttp.WSMsgType.PONG

        yield Session(link.send_str, link.receive_str, ping)


@asynccontextmanager
async def by_websocket_client(url: str) -> AsyncIterator[Session]:
    link = await asyncio.to_thread(websocket.create_connection, url, timeout=BOUND)

    async def send(text: str) -> None:
        await asyncio.to_thread(link.send, text)

    async def receive() -> str:
        return str(await asyncio.to_thread(link.recv))

    async def ping() -> None:
        await asyncio.to_thread(link.ping, "sync")
        opcode, _ = await asyncio.to_thread(link.recv_data, True)
        assert opcode == websocket.ABNF.OPCODE_PONG

    yield Session(send, receive, ping)
    await asyncio.to_thread(link.close, timeout=3)


@asynccontextmanager
async def by_picows(url: str) -> AsyncIterator[Session]:
    heard: asyncio.Queue[str] = asyncio.Queue()
    pongs: asyncio.Queue[bytes] = asyncio.Queue()

    class Listener(picows.WSListener):  # type: ignore[misc]
        def on_ws_frame(self, transport: picows.WSTransport, one: picows.WSFrame) -> None:
            if one.msg_type == picows.WSMsgType.TEXT:
                heard.put_nowait(one.get_payload_as_utf8_text())
            elif one.msg_type == picows.WSMsgType.PONG:
                pongs.put_nowait(one.get_payload_as_bytes())
            elif one.msg_type == picows.WSMsgType.CLOSE:
                transport.disconnect()

    transport, _ = await picows.ws_connect(Listener, url)

    async def send(text: str) -> None:
        transport.send(picows.WSMsgType.TEXT, text.encode())

    async def ping() -> None:
        transport.send_ping(b"pico")
        assert await pongs.get() == b"pico"

    yield Session(send, heard.get, ping)
    transport.send_close(picows.WSCloseCode.OK, b"")
    await transport.wait_disconnected()


@asynccontextmanager
async def by_ws(url: str) -> AsyncIterator[Session]:
    """npm's `ws`, which offers permessage-deflate, in a process of its own; its lines are JSON: `text`, or null for ping and pong."""
    if not (NODE and WS.exists()):
        pytest.skip("npm's ws is not there: make check installs it where there is node and npm")
    process = await asyncio.create_subprocess_exec(
        NODE, HERE / "peer_ws.cjs", WS, url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**20
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def receive() -> Any:
        return json.loads(await stdout.readline())

    async def send(text: str | None) -> None:
        stdin.write(json.dumps(text).encode() + b"\n")
        await stdin.drain()

    async def ping() -> None:
        await send(None)
        assert await receive() is None

    try:
        assert await receive() == "open"
        yield Session(send, receive, ping)
        stdin.close()
        assert await asyncio.wait_for(process.wait(), BOUND) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


HERE = Path(__file__).parent
WS = HERE.parents[1] / ".venv-node" / "node_modules" / "ws"
NODE = shutil.which("node")
CLIENTS = {"websockets": by_websockets, "aiohttp": by_aiohttp, "websocket-client": by_websocket_client, "picows": by_picows, "ws": by_ws}


class Nobody:
    """A watch that does not look."""

    def tell(self, event: str, shown: str, **fields: object) -> None: ...


async def serve(session: Session) -> None:
    """A tool process with one tool, for as long as its link lasts."""
    while True:
        asked: dict[str, Any] = msgspec.json.decode(await session.receive())
        result: dict[str, Any]
        match asked["method"]:
            case "initialize":
                result = {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": {"name": "interop", "version": "1"}}
            case "tools/list":
                result = {"tools": [{"name": "calculator", "description": "计算", "inputSchema": {"type": "object"}}]}
            case "tools/call":
                result = {"content": [{"type": "text", "text": ANSWER}]}
            case _:
                continue
        await session.send(msgspec.json.encode({"jsonrpc": "2.0", "id": asked["id"], "result": result}).decode())


async def use(session: Session) -> None:
    """A device's life."""

    async def ask(number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
        await session.send(msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).decode())
        answer: dict[str, Any] = msgspec.json.decode(await session.receive())
        assert answer["id"] == number
        found: dict[str, Any] = answer["result"]
        return found

    hello = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "interop", "version": "1"}}
    assert (await ask(0, "initialize", hello))["serverInfo"]["name"] == "interop"
    await session.send('{"jsonrpc":"2.0","method":"notifications/initialized"}')
    assert [tool["name"] for tool in (await ask(1, "tools/list", {}))["tools"]] == ["calculator"]
    await session.ping()
    for number in (2, 1):
        found = await ask(number, "tools/call", {"name": "calculator", "arguments": {"python_expression": "130000*130000"}})
        assert found["content"][0]["text"] == ANSWER
    await session.ping()


@pytest.mark.parametrize("tool", CLIENTS)
@pytest.mark.parametrize("device", CLIENTS)
async def test_devices_and_tools_of_every_make_understand_each_other(device: str, tool: str) -> None:
    config = configured()
    loop = asyncio.get_running_loop()
    broker = Broker(config.endpoint, config.limits, clock=loop.time, call_at=loop.call_at, epoch=time.time, watch=Nobody())
    async with asyncio.timeout(BOUND * 3), staged(config, broker=broker) as stage:
        address = f"ws://127.0.0.1:{stage.port}"
        async with CLIENTS[tool](f"{address}{TOOL}?token=interop") as provider:
            serving = asyncio.create_task(serve(provider))
            async with CLIENTS[device](f"{address}{DEVICE}?token=interop") as consumer:
                await use(consumer)
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving
        await until(lambda: not stage.acceptor.links)
        assert stage.acceptor.counters["links_closed_1000"] == 2, stage.acceptor.counters
