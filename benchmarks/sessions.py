"""Ten thousand MCP sessions over HTTP, opened and dropped, several times: python benchmarks/sessions.py --sessions 10000 --rounds 4.

Each session is greeted, calls a tool once with a JSON answer and once by a stream of events, which is kept for a resumption. In all rounds
but the last the client ends each session with DELETE; in the last it just leaves, and the server ends them when nobody has used them for a
while. Afterwards nothing may be left: no consumer, no kept event, and memory back where the first round left it. Exit code 1 if not.
Loopback only; the server under test is started here and ended here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from servers import KEY, Server, raise_limits, resident_kib
from websockets.asyncio.client import connect

CLIENTS = 32
"""Connections the sessions share: a session needs none of its own."""
IDLE_SECONDS = 20
TOKEN = "sessions"
ABOUT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "sessions", "version": "1"}}
SLACK_KIB = 8 * 1024
"""What may stay between two rounds: an allocator does not give every page back."""


class Client:
    """One kept connection that speaks for many sessions."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def ask(self, method: str, body: Any, session: str = "", accept: str = "application/json") -> tuple[int, dict[str, str], bytes]:
        """One HTTP request: status, headers, body."""
        data = json.dumps(body).encode() if body is not None else b""
        head = [f"{method} /mcp HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Authorization: Bearer {TOKEN}", f"Accept: {accept}"]
        head += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        head += [f"Mcp-Session-Id: {session}"] if session else []
        self.writer.write("\r\n".join([*head, "", ""]).encode() + data)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        if headers.get("transfer-encoding") == "chunked":
            found = b""
            while size := int(await self.reader.readline(), 16):
                found += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        else:
            found = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(lines[0].split()[1]), headers, found

    async def life(self) -> str:
        """Begin a session, use it, and leave it open."""
        status, headers, _ = await self.ask("POST", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": ABOUT})
        assert status == 200, status
        session = headers["mcp-session-id"]
        await self.ask("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}, session)
        for number, accept in ((1, "application/json"), (2, "text/event-stream")):
            call = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "echo", "arguments": {"x": session}}}
            status, _, body = await self.ask("POST", call, session, accept)
            assert status == 200 and session.encode() in body, (status, body[:200])
        return session

    async def end(self, session: str) -> None:
        """End it."""
        status, _, _ = await self.ask("DELETE", None, session)
        assert status == 204, status


async def answer(address: str, ready: asyncio.Event) -> None:
    """A tool that answers everything."""
    async with connect(address) as ws:
        ready.set()
        async for text in ws:
            frame = json.loads(text)
            match frame.get("method"):
                case "initialize":
                    result: Any = ABOUT | {"capabilities": {"tools": {}}, "serverInfo": ABOUT["clientInfo"]}
                case "tools/list":
                    result = {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}
                case "tools/call":
                    result = {"content": [{"type": "text", "text": frame["params"]["arguments"]["x"]}]}
                case _:
                    continue
            await ws.send(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}))


async def one_round(port: int, sessions: int, pid: int, *, leave: bool) -> int:
    """Open so many sessions at the same time and drop them; the memory they needed, KiB."""
    open_ones: asyncio.Queue[str] = asyncio.Queue()

    async def begin(share: int) -> None:
        async with Client(port) as client:
            for _ in range(share):
                open_ones.put_nowait(await client.life())

    async def finish() -> None:
        async with Client(port) as client:
            while not open_ones.empty():
                await client.end(open_ones.get_nowait())

    await asyncio.gather(*(begin(sessions // CLIENTS + (n < sessions % CLIENTS)) for n in range(CLIENTS)))
    peak = resident_kib(pid)
    if not leave:
        await asyncio.gather(*(finish() for _ in range(CLIENTS)))
    return peak


def stats(port: int) -> dict[str, Any]:
    """What the server knows, with its key."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/stats", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as found:
        return dict(json.load(found))


async def measure(server: Server, sessions: int, rounds: int) -> list[str]:
    """All rounds; what is not as it must be."""
    ready = asyncio.Event()
    tool = asyncio.create_task(answer(f"ws://127.0.0.1:{server.port}/mcp_endpoint/mcp/?token={TOKEN}", ready))
    await asyncio.wait_for(ready.wait(), 10)
    wrong: list[str] = []
    after: list[int] = []
    print(f"idle: {server.idle_kib / 1024:.1f} MiB")
    for number in range(1, rounds + 1):
        leave = number == rounds
        began = time.monotonic()
        peak = await one_round(server.port, sessions, server.pid, leave=leave)
        until = time.monotonic() + IDLE_SECONDS + 40
        while await asyncio.to_thread(stats, server.port) and time.monotonic() < until:
            found = await asyncio.to_thread(stats, server.port)
            if not found["session_connections"]:
                break
            await asyncio.sleep(0.5)
        found = await asyncio.to_thread(stats, server.port)
        after.append(resident_kib(server.pid))
        how = "left alone" if leave else "ended by DELETE"
        per_session = (peak - (after[-2] if len(after) > 1 else server.idle_kib)) / sessions
        print(
            f"round {number}: {sessions} sessions {how}: {peak / 1024:.1f} MiB with all of them ({per_session:.1f} KiB each),"
            f" {after[-1] / 1024:.1f} MiB after, {time.monotonic() - began:.1f} s"
        )
        room = found.get("rooms", {}).get("mcp_http", {})
        left = {"consumers": found["session_connections"], "sessions": room.get("sessions"), "kept bytes": room.get("kept_bytes")}
        wrong += [f"round {number}: {name} is {value} after everybody left" for name, value in left.items() if value]
        if found["in_flight"]:
            wrong.append(f"round {number}: {found['in_flight']} calls in flight after everybody left")
    if max(after[1:], default=0) > after[0] + SLACK_KIB:
        wrong.append(f"memory grows: {[round(kib / 1024, 1) for kib in after]} MiB after each round")
    tool.cancel()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    if not Path("/proc/self/statm").exists():
        sys.exit("sessions: reads /proc, which only Linux has / 仅支持 Linux")
    raise_limits()
    settings = {"limits.http_sessions": str(options.sessions), "limits.http_idle_seconds": str(IDLE_SECONDS)}
    with Server("ours", settings=settings) as server:
        wrong = asyncio.run(measure(server, options.sessions, options.rounds))
        wrong += [line for line in server.output().splitlines() if "Traceback" in line][:5]
    for line in wrong:
        print(f"WRONG: {line}")
    print("clean" if not wrong else "not clean")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
