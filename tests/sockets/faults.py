"""Bad weather between two sockets: a proxy whose faults a test switches on while bytes pass."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CHUNK = 64 * 1024


class Faults:
    """What happens to the bytes of every connection through one port; each fault can be set at any time.

    `cut_after` counts what the server's peer sends from then on; the other faults meet both directions.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = 0
        self.delay = 0.0
        """Seconds each chunk is kept."""
        self.black_hole = False
        """Whether everything vanishes, also the end of the connection."""
        self.drip = False
        """Whether bytes go out one by one."""
        self.cut_after: int | None = None
        """Bytes of the peer that still pass before the connection is cut."""
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()

    def reset(self) -> None:
        """Cut every connection off with an RST on both sides."""
        for pair in list(self._pairs):
            self._cut(pair)

    def half_close(self) -> None:
        """Tell the server that the peer sends no more; the other direction stays open."""
        for _, server in self._pairs:
            server.write_eof()

    def _cut(self, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        for writer in pair:
            raw: socket.socket | None = writer.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, peer: asyncio.StreamWriter) -> None:
        upstream, server = await asyncio.open_connection("127.0.0.1", self.upstream)
        pair = (peer, server)
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, server, pair, counted=True))
                both.create_task(self._pump(upstream, peer, pair, counted=False))
        finally:
            self._pairs.discard(pair)
            for writer in pair:
                writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        *,
        counted: bool,
    ) -> None:
        with suppress(ConnectionError, RuntimeError):  # an end is told to the other side below, whatever it was
            while data := await reader.read(CHUNK):
                if self.black_hole:
                    continue
                if self.delay:
                    await asyncio.sleep(self.delay)
                if counted and self.cut_after is not None:
                    data, whole = data[: self.cut_after], len(data)
                    self.cut_after -= len(data)
                    if len(data) < whole:
                        writer.write(data)
                        await writer.drain()
                        self._cut(pair)
                        return
                step = 1 if self.drip else len(data)
                for at in range(0, len(data), step):
                    writer.write(data[at : at + step])
                    await writer.drain()
                    if self.drip:
                        await asyncio.sleep(0)
            if not self.black_hole and writer.can_write_eof():
                writer.write_eof()


@asynccontextmanager
async def faults(port: int) -> AsyncIterator[Faults]:
    """Fair weather before the server on `port`; all its connections end with the block."""
    sky = Faults(port)
    tasks: set[asyncio.Task[None]] = set()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError):
            await sky._carry(reader, writer)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    sky.port = server.sockets[0].getsockname()[1]
    try:
        yield sky
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
