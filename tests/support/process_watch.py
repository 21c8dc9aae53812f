"""Sees processes live and die without asking the process table: each holds a connection to here as long as it lives."""

from __future__ import annotations

import asyncio
from types import TracebackType

PATIENCE = 20.0
"""Seconds any single wait in a test may last."""


class ProcessWatch:
    """A port that `odd_server.py` and its helpers report to."""

    def __init__(self) -> None:
        self.port = 0
        self._born: asyncio.Queue[int] = asyncio.Queue()
        self._ended: dict[int, asyncio.Event] = {}

    async def __aenter__(self) -> ProcessWatch:
        self._server = await asyncio.start_server(self._hold, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid = int(await reader.readline())
        self._ended[pid] = asyncio.Event()
        self._born.put_nowait(pid)
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        finally:
            self._ended[pid].set()
            writer.close()

    async def born(self) -> int:
        """The process id of the next one that reports."""
        return await asyncio.wait_for(self._born.get(), PATIENCE)

    async def ended(self, pid: int, within: float = PATIENCE) -> None:
        """Returns when process `pid` is dead."""
        await asyncio.wait_for(self._ended[pid].wait(), within)
