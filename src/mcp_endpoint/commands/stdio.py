"""`mcp-endpoint stdio`: offers an endpoint's tools as an MCP server on stdin and stdout, for clients that only start processes.

Each line of stdin is a frame of a device, each frame of the endpoint a line of stdout; nothing else is written there. If the link is
lost, pending requests are answered with an error and a new link is opened: the client's initialize is sent again on it, and the client
gets `notifications/tools/list_changed`. The program ends at the end of stdin (MCP, lifecycle, shutdown).

A client that begins with `server/discover` (MCP 2026-07-28) gets an error that asks for initialize, and falls back to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import queue
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

from msgspec import UNSET
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from .. import errors
from ..access import tls
from ..backoff import Backoff
from ..core.ledger import id_of
from ..line_writer import write_all
from ..protocol import jsonrpc, methods
from ..protocol.jsonrpc import Malformed, kind_of, parse, with_id
from ..serving import signals
from ..sockets.dial import SLOW_CODES, SLOW_STATUSES, NoLink, checked, dial, note, readable, shown

LINE_BYTES: Final = 1024 * 1024
"""Longest line accepted from the client: the server's own message limit."""
OUT_BYTES: Final = 1024 * 1024
"""Bytes that wait for a client that does not read; above it, reading from both sides is paused."""
LAST_LINES_SECONDS: Final = 2.0
"""Time for such a client to read the rest when the program ends."""
WAITING: Final = 256
"""Lines that wait for the link; above it, reading from the client is paused."""
HELLO: Final = b'"mcp-endpoint-stdio"'
"""The id under which the client's initialize is repeated."""

T = TypeVar("T")
Report = Callable[[str], None]


class Where(NamedTuple):
    """The device address of an endpoint."""

    address: str
    certificate: str = ""
    """The certificate file of this machine's own server."""


async def _always() -> None:
    """The `room` of a client that always reads."""


class Stdio:
    """One client on stdin and stdout, and its current link."""

    def __init__(
        self,
        where: Where,
        write: Callable[[bytes], None],
        report: Report,
        *,
        room: Callable[[], Awaitable[object]] = _always,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`write` takes one line without its end and never blocks; `room` waits until the client has read enough.

        `report` is called once per event; `draw` is the random number for `Backoff`.
        """
        self._where = where
        self._write = write
        self._room = room
        self._report = report
        self._draw = draw
        self._lines: asyncio.Queue[bytes] = asyncio.Queue(WAITING)
        self._ended = asyncio.Event()
        self._owed: dict[bytes, None] = {}
        """Ids of the client's pending requests."""
        self._hello = b""
        """The client's `initialize`, once received."""
        self._hello_owed = False
        """Whether its response is pending."""
        self._initialized = False

    async def take(self, line: bytes) -> None:
        """Take one line of the client; waits while too many lines wait for the link."""
        if line.strip():
            await self._lines.put(line)

    def too_long(self) -> None:
        """Answer -32600 with id null to a line longer than LINE_BYTES."""
        self._refuse(b"null", errors.INVALID_REQUEST, f"a line of more than {LINE_BYTES} bytes / 一行超过 {LINE_BYTES} 字节", False)

    def end(self) -> None:
        """Stdin has ended."""
        self._ended.set()

    async def run(self) -> None:
        """Run until stdin ends. Raises ConfigError for an invalid address."""
        checked(self._where.address)
        trusted = tls.trusting(self._where.certificate) if self._where.certificate else None
        backoff = Backoff(self._draw)
        loop = asyncio.get_running_loop()
        while not self._ended.is_set():
            began = loop.time()
            slow, least, why = False, 0.0, ""
            try:
                link = await self._or_end(dial(self._where.address, tls=trusted))
                if link is not None:
                    self._report(f"已连接 / connected to {shown(self._where.address)}")
                    if hint := note(link):
                        self._report(f"{hint.zh} / {hint.en}")
                    why, slow = await self._carry(link)
            except NoLink as error:
                why, slow, least = f"{error.zh} / {error.en}", error.status in SLOW_STATUSES, error.retry_after
            if why:
                wait = backoff.wait(loop.time() - began, slow=slow, at_least=least)
                self._report(f"{why}; {wait:.1f} 秒后重连 / next attempt in {wait:.1f} s")
                await self._or_end(self._without_link(why, loop.time() + wait))

    async def _or_end(self, what: Coroutine[Any, Any, T]) -> T | None:
        """The result of `what`, or None if stdin ends first."""
        working: asyncio.Future[Any] = asyncio.ensure_future(what)
        ending = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, ending):
                task.cancel()
            await asyncio.wait((working, ending))

    # -- without a link ----------------------------------------------------------------------------------------------------

    async def _without_link(self, why: str, until: float) -> None:
        """Answer requests with an error until the next attempt; an initialize waits for it."""
        loop = asyncio.get_running_loop()
        while (left := until - loop.time()) > 0:
            await self._room()
            try:
                line = await asyncio.wait_for(self._lines.get(), left)
            except TimeoutError:
                return
            frame, data = self._read(line)
            if frame is None or self._is_handshake(frame, data) or kind_of(frame) != "request":
                continue
            self._refuse(id_of(frame), errors.NOT_LINKED, why, False)

    def _refuse(self, id: bytes, code: errors.Code, hint: str, delivered: bool | None) -> None:
        self._write(jsonrpc.error(id, code, {"source": "broker", "delivered": delivered, "hint": hint}))

    # -- with a link ---------------------------------------------------------------------------------------------------------

    async def _carry(self, link: ClientConnection) -> tuple[str, bool]:
        """Relay both ways until either side ends; returns why ("" at the end of stdin), and whether a person has to fix it."""
        try:
            await self._or_end(self._both_ways(link))
            if self._ended.is_set():
                return "", False
            code, reason = link.close_code or 1006, readable(link.close_reason or "")
            why = f"连接已关闭 / link closed ({code} {reason})".replace(" )", ")")
            owed, self._owed = self._owed, {}
            for id in owed:
                self._refuse(id, errors.PROVIDER_GONE, why, None)
            return why, code in SLOW_CODES
        finally:
            await link.close(*errors.GOING_AWAY)

    async def _both_ways(self, link: ClientConnection) -> None:
        up = asyncio.ensure_future(self._up(link))
        try:
            await self._down(link)
        finally:
            up.cancel()
            await asyncio.wait((up,))

    async def _up(self, link: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            if self._hello:
                hello = parse(self._hello, utf8=True)
                first, second = with_id(self._hello, hello, HELLO) if not self._hello_owed else (self._hello, b"")
                await link.send(b"".join((first, second)), text=True)
            while True:
                await self._room()
                frame, data = self._read(await self._lines.get())
                if frame is None:
                    continue
                self._is_handshake(frame, data)
                if kind_of(frame) == "request":
                    if frame.method == methods.DISCOVER:
                        hint = "initialize first / 请先 initialize"
                        self._refuse(id_of(frame), errors.METHOD_NOT_FOUND, hint, False)
                        continue
                    if frame.method != methods.INITIALIZE:
                        self._owed[id_of(frame)] = None
                await link.send(data, text=True)

    async def _down(self, link: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._room()
                data = await link.recv(decode=False)
                try:
                    frame = parse(data)
                except Malformed:
                    continue
                id = id_of(frame)
                answer = kind_of(frame) == "answer"
                if answer and id == HELLO:
                    if self._initialized:
                        await link.send(jsonrpc.notification(methods.INITIALIZED), text=True)
                    self._write(jsonrpc.notification(methods.TOOLS_CHANGED))
                    continue
                if answer and id != b"null":
                    self._hello_owed = self._hello_owed and id != id_of(parse(self._hello, utf8=True))
                    self._owed.pop(id, None)
                self._write(jsonrpc.one_line(data))

    # -- the client's messages -----------------------------------------------------------------------------------------------

    def _read(self, line: bytes) -> tuple[jsonrpc.Frame | None, bytes]:
        """Parse one line; an invalid one is answered as JSON-RPC requires."""
        try:
            return parse(line), line
        except Malformed as malformed:
            self._refuse(malformed.id, malformed.code, malformed.why, False)
            return None, line

    def _is_handshake(self, frame: jsonrpc.Frame, data: bytes) -> bool:
        """Remember the client's handshake for later links; returns whether the frame belongs to it."""
        if frame.method == methods.INITIALIZE and frame.id is not UNSET:
            self._hello, self._hello_owed = data, True
            return True
        if frame.method == methods.INITIALIZED:
            self._initialized = True
            return True
        return False


def run(where: Where, report: Report) -> None:
    """Run until the end of stdin, Ctrl-C, SIGTERM or SIGHUP. Raises ConfigError for an invalid address."""
    # Not sys.stdin.buffer: the reading thread holds its lock, and the interpreter's exit would wait for that.
    stdin = io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(where, report, stdin, sys.stdout.fileno()))


class _Out:
    """Writes lines to the client on a thread, so that a client that does not read cannot block signals."""

    def __init__(self, descriptor: int, gone: Callable[[], None]) -> None:
        """`gone` is called when the client has closed its end."""
        self._descriptor = descriptor
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        self._lines.put(line + b"\n")
        self._bytes += len(line)
        if self._bytes > OUT_BYTES:
            self._has_room.clear()

    async def room(self) -> None:
        """Wait until no more than OUT_BYTES wait for the client."""
        await self._has_room.wait()

    async def close(self) -> None:
        """Wait briefly for the last lines to be written; a blocked thread is abandoned."""
        self._lines.put(b"")
        await asyncio.to_thread(self._thread.join, LAST_LINES_SECONDS)

    def _work(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            while line := self._lines.get():
                try:
                    write_all(self._descriptor, line)
                except OSError:
                    self._loop.call_soon_threadsafe(self._gone)
                    return
                self._loop.call_soon_threadsafe(self._written, len(line) - 1)

    def _written(self, size: int) -> None:
        self._bytes -= size
        if self._bytes <= OUT_BYTES:
            self._has_room.set()


async def _run(where: Where, report: Report, stdin: BinaryIO, stdout: int) -> None:
    loop = asyncio.get_running_loop()
    out = _Out(stdout, lambda: stdio.end())
    stdio = Stdio(where, out.write, report, room=out.room)

    def read() -> None:
        # A thread: asyncio cannot wait for stdin if it is a file, nor on Windows.
        with contextlib.suppress(RuntimeError, ValueError, OSError):  # the loop or stdin is closed
            while line := stdin.readline(LINE_BYTES + 1):
                if len(line) > LINE_BYTES:
                    report(f"超过 {LINE_BYTES} 字节的行已丢弃 / a line of more than {LINE_BYTES} bytes was dropped")
                    loop.call_soon_threadsafe(stdio.too_long)
                    while line and not line.endswith(b"\n"):
                        line = stdin.readline(LINE_BYTES + 1)
                    continue
                asyncio.run_coroutine_threadsafe(stdio.take(line.rstrip(b"\r\n")), loop).result()
            loop.call_soon_threadsafe(stdio.end)

    threading.Thread(target=read, daemon=True).start()
    for number in signals.ending():
        loop.add_signal_handler(number, stdio.end)
    try:
        await stdio.run()
    finally:
        signals.leaving()
        await out.close()
