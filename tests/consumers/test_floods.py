"""What one endpoint's clients do not read, and what it costs the others: nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from consumers.web import EVENTS, JSON, OTHER, TOKEN, Tool, Web, call, served, text
from running import BOUND

SMALL = 4 * 1024
"""Bytes a client's socket takes, so that little is enough to fill it."""


@asynccontextmanager
async def deaf(web: Web, session: str, token: str = TOKEN) -> AsyncIterator[socket.socket]:
    """A GET stream of a session whose client reads the head of the answer and nothing more."""
    headers = web.headers(session, EVENTS, token, {})
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(BOUND):
            await loop.sock_connect(peer, ("127.0.0.1", web.server.port))
            await loop.sock_sendall(peer, f"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1:{web.server.port}\r\n{head}\r\n".encode())
            got = b""
            while b"\r\n\r\n" not in got:
                got += await loop.sock_recv(peer, 1)
            assert got.startswith(b"HTTP/1.1 200"), got
        yield peer


async def test_streams_nobody_reads_cost_another_endpoint_nothing() -> None:
    """Four streams that are not read, and a tool that tells them much: what another endpoint's tool says reaches its own clients."""
    async with served(limits={"http_replay_bytes": 200_000, "http_answer_bytes": 100_000}) as web:
        loud, quiet = Tool(web.broker), Tool(web.broker, endpoint="away")
        quiet.answers = lambda frame: text("here") if frame.get("method") == "tools/call" else None
        bystander = await web.begin(token=OTHER)
        deafs = [await web.begin() for _ in range(4)]
        async with deaf(web, deafs[0]), deaf(web, deafs[1]), deaf(web, deafs[2]), deaf(web, deafs[3]):
            store = web.room.sessions.store
            for number in range(40):
                loud.say({"method": "notifications/message", "params": {"level": "info", "data": f"{number}" + "x" * 90_000}})
                assert 0 <= store.used <= store.most
                answer: Any = await web.post(call(number), session=bystander, token=OTHER, accept=(JSON, EVENTS)[number % 2])
                assert answer.status_code == 200 and b"here" in answer.content
            assert store.held_by("signed:away") < 100_000
