"""What an attacker costs everybody else: python benchmarks/floods.py [NAME…]

For each flood a server with its default settings is started, with a device and a tool of a bystander endpoint that call all the time, and
a client that asks `/health` over fresh connections all the time. The attacker is a process of its own. Printed are the most memory above
what was in use before the flood, the times of `/health`, and the bystander's worst call. A flood is held if memory stays within
`MEMORY_MIB` over the limit that bounds it, the 99th percentile of `/health` within `HEALTH_SECONDS`, and every call is answered within
`CALL_SECONDS`. Exit code 1 if not. Loopback only; everything started here is ended here, each flood after `--seconds`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hmac
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from servers import Server, raise_limits, resident_kib
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

MEMORY_MIB = 64
HEALTH_SECONDS = 0.25
CALL_SECONDS = 0.5
EVERY_SECONDS = 0.05
JWT_HEADER = b'{"alg":"HS256","typ":"JWT"}'
SECRET = "a secret of at least thirty-two bytes"
MESSAGE = 8 * 1024 * 1024
CALL = '{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"sum","arguments":{"n":[1]}}}'
SCHEMA = {"type": "object", "properties": {"n": {"type": "array", "items": {"type": "integer", "minimum": 0}}}}
ABOUT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "floods", "version": "1"}}
INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": ABOUT}


def post(path: str, body: bytes, *lines: str) -> bytes:
    """An HTTP request with a JSON body."""
    head = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


class Tool:
    """A tool that answers what it is asked; `chatter` is sent again and again as long as it lives."""

    def __init__(self, port: int, endpoint: str, chatter: str = "") -> None:
        self.url = f"ws://127.0.0.1:{port}/mcp_endpoint/mcp/?token={endpoint}"
        self.chatter = chatter

    async def __aenter__(self) -> Tool:
        self.socket = await connect(self.url, compression=None)
        self.tasks = [asyncio.create_task(self._answer())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await self.socket.close()

    async def _answer(self) -> None:
        results = {
            "initialize": ABOUT | {"capabilities": {"tools": {}, "logging": {}}, "serverInfo": ABOUT["clientInfo"]},
            "tools/list": {"tools": [{"name": "sum", "inputSchema": SCHEMA}]},
            "tools/call": {"content": [{"type": "text", "text": "done"}]},
        }
        async for text in self.socket:
            frame = json.loads(text)
            if "id" in frame:
                result = results.get(frame["method"], {})
                await self.socket.send(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}))
            elif self.chatter and len(self.tasks) == 1:
                self.tasks.append(asyncio.create_task(self._chat()))

    async def _chat(self) -> None:
        while True:
            await self.socket.send(self.chatter)


async def unread(port: int, data: Callable[[int], bytes], count: int) -> None:
    """Connections that send as much as the server takes and read nothing; one that is cut is replaced."""

    async def one(number: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
                writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a transport that reads, which this one is
                while not writer.is_closing():
                    writer.write(data(number))
                    await asyncio.wait_for(writer.drain(), 60)
            await asyncio.sleep(0.05)

    await asyncio.gather(*(one(number) for number in range(count)))


async def pipelines(port: int) -> None:
    """Requests in one another's wake, in every form a head can have, whose answers nobody reads."""
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    chunked = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer x\r\nTransfer-Encoding: chunked\r\n"
    forms = [
        b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        post("/mcp", ping, "Authorization: Bearer flood"),
        chunked + b"\r\n28\r\n" + ping + b"\r\n0\r\n\r\n",
        chunked + b"Expect: 100-continue\r\n\r\n28\r\n" + ping + b"\r\n0\r\n\r\n",
    ]
    await unread(port, lambda number: forms[number % len(forms)] * 500, 8)


async def streams(port: int) -> None:
    """Streams of events that nobody reads, opened again and again, and a tool that sends them large log messages without end."""
    line = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 60_000}})

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post("/mcp", json.dumps(INITIALIZE).encode(), "Authorization: Bearer flood", "Accept: application/json"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        session = head.partition("mcp-session-id: ")[2].split("\r\n")[0]
        ask = ["GET /mcp HTTP/1.1", "Host: 127.0.0.1", "Authorization: Bearer flood", "Accept: text/event-stream"]
        while True:
            _, stream = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            stream.transport.pause_reading()  # type: ignore[attr-defined]
            stream.write("\r\n".join([*ask, f"Mcp-Session-Id: {session}", "", ""]).encode())
            await asyncio.sleep(0.5)
            stream.transport.abort()

    async with Tool(port, "flood", line):
        await asyncio.gather(*(one() for _ in range(24)))


def bearer() -> str:
    """A JSON Web Token of the HTTP API (RFC 7519), HS256."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    now = int(time.time())
    claims = {"user_id": "flood", "iat": now, "exp": now + 600, "iss": "mcp-endpoint-server"}
    signed = f"{part(JWT_HEADER)}.{part(json.dumps(claims).encode())}"
    return f"{signed}.{part(hmac.digest(SECRET.encode(), signed.encode(), 'sha256'))}"


async def arguments(port: int) -> None:
    """Calls over the HTTP API whose arguments are half a million numbers, all to be compared with the tool's schema."""
    request = post("/api/tools", b'{"method":"sum","args":{"n":[%b]}}' % b",".join([b"1"] * 500_000), f"Authorization: Bearer {bearer()}")

    async def one() -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                await reader.readuntil(b"\r\n")
                writer.close()
            await asyncio.sleep(0.01)

    async with Tool(port, "flood"):
        await asyncio.gather(*(one() for _ in range(60)))


async def messages(port: int) -> None:
    """Forty tools that each send all of a message but its end; one whose link is closed comes back."""
    head = bytes((0x81, 0xFF)) + MESSAGE.to_bytes(8, "big") + b"mask"

    async def one(number: int) -> None:
        while True:
            with contextlib.suppress(OSError, WebSocketException):
                url = f"ws://127.0.0.1:{port}/mcp_endpoint/mcp/?token=flood{number}"
                socket = await connect(url, compression=None, ping_interval=None)
                socket.transport.write(head + b"x" * (MESSAGE - 100_000))
                await socket.wait_closed()
            await asyncio.sleep(0.5)

    await asyncio.gather(*(one(number) for number in range(40)))


async def sessions(port: int) -> None:
    """Sessions of one token over HTTP, opened as fast as they are given and never used."""
    request = post("/mcp", json.dumps(INITIALIZE).encode(), "Authorization: Bearer flood", "Accept: application/json")

    async def one() -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                while True:
                    writer.write(request)
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                    await reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
            await asyncio.sleep(0.05)

    async with Tool(port, "flood"):
        await asyncio.gather(*(one() for _ in range(16)))


async def silence(port: int) -> None:
    """Sockets that connect to a server with TLS and never begin with it; one that is cut is replaced."""

    async def one() -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                await reader.read()
                writer.close()
            await asyncio.sleep(1)

    await asyncio.gather(*(one() for _ in range(1500)))


@dataclass
class Flood:
    """One kind of attack. `bound_mib` is the limit of the server that allows for its memory, MiB."""

    run: Callable[[int], Awaitable[None]]
    limit: str
    bound_mib: float
    settings: dict[str, str] = field(default_factory=dict)
    tls: bool = False


FLOODS = {
    "pipelines": Flood(pipelines, "none", 0),
    "streams": Flood(streams, "http_replay_bytes", 64),
    "arguments": Flood(
        arguments,
        "half of in_flight_per_consumer × consumer_message_bytes",
        128,
        {"api.secret": SECRET, "api.endpoints": '["flood"]', "api.request_log": ""},
    ),
    "messages": Flood(messages, "buffered_bytes", 64),
    "sessions": Flood(sessions, "http_sessions", 0),
    "silence": Flood(silence, "buffered_bytes", 64, tls=True),
}


@dataclass
class Seen:
    """What everybody else felt."""

    health: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    lost: int = 0
    most_kib: int = 0


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def probe(port: int, secure: bool, seen: Seen) -> None:
    """`/health` over a fresh connection, again and again."""
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting() if secure else None)
                writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if b"200" not in await reader.readline():
                    seen.lost += 1
                writer.close()
        except (OSError, TimeoutError):
            seen.lost += 1
        seen.health.append(time.monotonic() - began)
        await asyncio.sleep(EVERY_SECONDS)


async def bystand(port: int, secure: bool, seen: Seen, ready: asyncio.Event) -> None:
    """A device and its tool at an endpoint of their own: each call is answered, and how soon."""
    scheme, context = ("wss", trusting()) if secure else ("ws", None)
    base = f"{scheme}://127.0.0.1:{port}/mcp_endpoint"
    async with AsyncExitStack() as stack:
        tool = Tool(port, "home")
        tool.socket = await stack.enter_async_context(connect(f"{base}/mcp/?token=home", compression=None, ssl=context))
        answering = asyncio.create_task(tool._answer())
        device = await stack.enter_async_context(connect(f"{base}/call/?token=home", compression=None, ssl=context))
        try:
            for number in range(1, 1_000_000):
                began = time.monotonic()
                await device.send(CALL % number)
                try:
                    async with asyncio.timeout(10):
                        while (answer := json.loads(await device.recv())).get("id") != number:
                            pass
                    seen.lost += "result" not in answer
                except TimeoutError:
                    seen.lost += 1
                seen.calls.append(time.monotonic() - began)
                ready.set()
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            answering.cancel()


async def watch(pid: int, seen: Seen) -> None:
    while True:
        seen.most_kib = max(seen.most_kib, resident_kib(pid))
        await asyncio.sleep(EVERY_SECONDS)


async def measure(name: str, server: Server, seconds: float) -> tuple[Seen, int]:
    """The flood `name` on a running server for so long; what was seen, and the memory before, KiB."""
    seen, ready, secure = Seen(), asyncio.Event(), FLOODS[name].tls
    tasks = [asyncio.create_task(bystand(server.port, secure, seen, ready))]
    await asyncio.wait_for(ready.wait(), 20)
    before = resident_kib(server.pid)
    tasks += [asyncio.create_task(probe(server.port, secure, seen)), asyncio.create_task(watch(server.pid, seen))]
    command = [sys.executable, __file__, "--attack", name, "--port", str(server.port), "--seconds", str(seconds)]
    attacker = await asyncio.create_subprocess_exec(*command)
    await attacker.wait()
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    return seen, before


def certificate(folder: str) -> dict[str, str]:
    """The settings of a server with a certificate of its own, made by openssl."""
    cert, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return {"server.tls_cert": str(cert), "server.tls_key": str(key)}


def report(name: str, seen: Seen, before: int) -> bool:
    flood = FLOODS[name]
    health = sorted(seen.health)
    p99 = health[min(len(health) - 1, int(len(health) * 0.99))]
    grown, worst = (seen.most_kib - before) / 1024, max(seen.calls)
    held = grown <= flood.bound_mib + MEMORY_MIB and p99 <= HEALTH_SECONDS and worst <= CALL_SECONDS and not seen.lost
    bound = f"{MEMORY_MIB} over {flood.bound_mib:g}, {flood.limit}"
    print(
        f"{name:10} +{grown:6.1f} MiB (at most {bound}) · /health {len(health)} × median {statistics.median(health):.3f} p99 {p99:.3f} "
        f"max {health[-1]:.3f} s · calls {len(seen.calls)} × worst {worst:.3f} s · lost {seen.lost} · {'held' if held else 'NOT HELD'}",
        flush=True,
    )
    return held


async def attack(name: str, port: int, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await FLOODS[name].run(port)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(FLOODS), help=", ".join(FLOODS))
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    raise_limits()
    if options.attack:
        asyncio.run(attack(options.attack, options.port, options.seconds))
        return 0
    if unknown := set(options.names) - set(FLOODS):
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(FLOODS)}")
    held = True
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            settings = FLOODS[name].settings | (certificate(folder) if FLOODS[name].tls else {})
            with Server("ours", settings=settings) as server:
                seen, before = asyncio.run(measure(name, server, options.seconds))
        held = report(name, seen, before) and held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
