"""An HTTP server made of bare sockets: what it was sent is kept to the byte, and what it says is the test's business."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

BOUND = 20.0


class Seen(NamedTuple):
    """One request as it came."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known.lower() == name]

    def key(self) -> str:
        """The key in the query, by whatever name the tests use."""
        found = [field.partition("=")[2] for field in self.target.partition("?")[2].split("&") if field.startswith("api_key=")]
        assert len(found) == 1, self.target
        return found[0]


Script = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """What came, and where it listens."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[Seen] = []
        self.connections = 0
        self.port = 0
        self.hung_up = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while True:
                seen = await read(reader, number)
                if seen is None:
                    break
                self.seen.append(seen)
                script = asyncio.ensure_future(self.script(seen, writer))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait((script, gone), return_when=asyncio.FIRST_COMPLETED)
                if not script.done():
                    self.hung_up.set()
                    script.cancel()
                    break
                gone.cancel()
                await asyncio.wait((gone,))
                await script
                if writer.is_closing():
                    break
        except ConnectionError:
            self.hung_up.set()
        finally:
            writer.close()


async def read(reader: asyncio.StreamReader, number: int) -> Seen | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head[:-4].split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    lengths = [int(value) for name, value in headers if name.lower() == "content-length"]
    body = b""
    if lengths:
        body = await reader.readexactly(lengths[0])
    elif any(name.lower() == "transfer-encoding" for name, _ in headers):
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    return Seen(method, target, headers, body, number)


@asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[Upstream]:
    made = Upstream(script)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


def reply(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def says(*replies: bytes) -> Script:
    """Each request gets the next of these, the last one for ever."""
    left = list(replies)

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    return script
