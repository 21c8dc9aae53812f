"""The program, running: inside this process for tests that look at its parts, and as a process of its own for those that end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from mcp_endpoint.serving.server import DrainingServer, bind, create_server
from mcp_endpoint.settings.schema import Config

MAIN = Path(__file__).resolve().parents[2] / "main.py"
KEY = "Zx93mQ0aLw4TfYb7HsRn2VuPc6DgJe15"
BOUND = 20.0
"""Seconds after which something that should have happened has not."""
SOURCES: Mapping[str, str] = {"server.port": "command line", "server.host": "command line"}


def settled(config: Config) -> Config:
    """`config` on a free port of loopback, quiet, with a key."""
    server = msgspec.structs.replace(config.server, port=0, key=config.server.key or KEY, print_addresses=False)
    return msgspec.structs.replace(config, server=server)


@asynccontextmanager
async def running(config: Config, *, root: Path = Path(), standalone: str = "") -> AsyncIterator[DrainingServer]:
    """A server of `config` in this loop; stopped the orderly way at the end. `root` and `alone` as for `create_server`."""
    config = settled(config)
    sockets = bind(config.server, SOURCES)
    server = create_server(config, root=root, standalone=standalone)
    task = asyncio.create_task(server.serve(sockets))
    try:
        async with asyncio.timeout(BOUND):
            while not server.started:
                await asyncio.sleep(0)
                assert not task.done(), task.result()
        yield server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, BOUND)


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def get(port: int, path: str, *headers: str, host: str = "127.0.0.1") -> Reply:
    """One plain HTTP request on a connection of its own."""
    async with asyncio.timeout(BOUND):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write("\r\n".join((f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close", *headers, "", "")).encode())
            answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return Reply(int(first.split()[1]), fields, body)


class Program:
    """`python main.py` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, root: Path) -> None:
        self.process = process
        self.root = root
        self.printed = ""
        self.port = 0
        self.key = ""
        self.token = ""

    @property
    def log(self) -> str:
        """What it has written to its console so far."""
        return (self.root / "console").read_text("utf-8")

    async def listens(self) -> None:
        """Wait for the two printed addresses and read port, key and the single-module token from them."""
        assert self.process.stdout is not None
        async with asyncio.timeout(BOUND):
            while not (self.port and self.token):
                line = (await self.process.stdout.readline()).decode()
                assert line, f"ended early: {self.log}"
                self.printed += line
                if found := re.search(r":(\d+)\S*/health\?key=(\S+)", line):
                    self.port, self.key = int(found[1]), found[2]
                if found := re.search(r"/mcp/\?token=(\S+)", line):
                    self.token = found[1]

    async def ends(self) -> int:
        """Its exit status, once it has ended."""
        _, status = await asyncio.gather(self._rest(), asyncio.wait_for(self.process.wait(), BOUND))
        return status

    async def _rest(self) -> None:
        assert self.process.stdout is not None
        self.printed += (await asyncio.wait_for(self.process.stdout.read(), BOUND)).decode()


@asynccontextmanager
async def program(root: Path, *arguments: str, main: Path = MAIN, environ: Mapping[str, str] | None = None) -> AsyncIterator[Program]:
    """The program with its folder at `root`, killed at the end if it still runs."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MES_")}
    with (root / "console").open("w") as console:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(main),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=console,
            env=bare | dict(environ or {}),
        )
    started = Program(process, root)
    try:
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        await started.ends()


def full_pipe() -> tuple[int, int]:
    """A pipe that takes nothing more: a terminal after Ctrl-S, a pager that waits, a log driver that is stuck."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(65_536))
    os.set_blocking(writing, True)
    return reading, writing
