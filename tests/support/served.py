"""Somebody else's HTTP application on a port of its own, in this loop; it can be ended the hard way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from running import BOUND
from starlette.types import ASGIApp


@asynccontextmanager
async def served(app: ASGIApp, port: int = 0) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """An application on a port; the second of the pair ends it the hard way."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, ws="none", timeout_graceful_shutdown=0))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(BOUND):
        while not server.started:
            await asyncio.sleep(0)
            assert not task.done()

    def kill() -> None:
        server.should_exit = server.force_exit = True
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]

    try:
        yield server.servers[0].sockets[0].getsockname()[1], kill
    finally:
        kill()
        await asyncio.wait_for(task, BOUND)
