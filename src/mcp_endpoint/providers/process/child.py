"""A child process that communicates in lines and never outlives its owner."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, NamedTuple, cast

from ...errors import EndpointError
from ...protocol.jsonrpc import Frame, Malformed, Unreadable, parse_lenient, too_large
from ..command import Command

STDIN_SECONDS: Final = 2.0
"""Time for a child to exit after its stdin was closed (MCP, lifecycle, shutdown)."""
TERM_SECONDS: Final = 2.0
"""Time to exit after SIGTERM to its process group."""
KILL_SECONDS: Final = 2.0
"""Time until its death by SIGKILL is noticed; used up only by a process that the kernel cannot end."""
LINE_BYTES: Final = 8 * 1024 * 1024
"""Longest line from a child; longer ones are cut (the broker's limit for providers)."""
QUEUED_BYTES: Final = 8 * 1024 * 1024
"""Bytes that may wait for a child that does not read; beyond it `send` waits."""
CUT_BYTES: Final = 200
"""Bytes kept of the beginning of a line that is too long, for the log and to find the id."""
END_BYTES: Final = 128
"""Bytes kept of its end: some SDKs write the id last."""
_READ_BYTES: Final = 256 * 1024


class Line(NamedTuple):
    """One line without its end; with `whole` False only the beginning and the end of a line that was too long."""

    data: bytes
    whole: bool = True
    end: bytes = b""


def message(line: Line, *, ours: bool = True) -> tuple[Frame, bytes] | None:
    """The JSON-RPC message in a line and its bytes, parsed by `parse_lenient` (see there for `ours`); None for other output.

    Raises Unreadable for a response that is invalid or too long.
    """
    try:
        if line.whole:
            return parse_lenient(line.data, ours=ours)
    except Unreadable:
        raise
    except Malformed:
        return None
    if unreadable := too_large(line.data, line.end, LINE_BYTES):
        raise unreadable
    return None


class Lines:
    """Splits a byte stream into lines of at most `limit` bytes, using no more memory than that."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._end = b""
        """The last bytes of a line that is too long; `_parts` is then only its beginning."""
        self._size = 0

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that `chunk` completes, without their LF or CR LF."""
        *ends, rest = chunk.split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            lines.append(self._take())
        self._keep(rest)
        return lines

    def last(self) -> list[Line]:
        """The rest without a line end, when the stream has closed."""
        return [self._take()] if self._size else []

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._end:
            self._end = (self._end + part)[-END_BYTES:]
            return
        self._parts.append(part)
        if self._size > self._limit:
            long = b"".join(self._parts)
            self._parts, self._end = [long[:CUT_BYTES]], long[-END_BYTES:]

    def _take(self) -> Line:
        whole = self._size <= self._limit
        line = Line(b"".join(self._parts).removesuffix(b"\r"), whole, self._end)
        self._parts = []
        self._end = b""
        self._size = 0
        return line


class _Ends(asyncio.SubprocessProtocol):
    """Our ends of a child's pipes. `exited` does not wait for processes that inherited them, unlike `asyncio.subprocess.Process.wait`."""

    def __init__(self, on_stderr: Callable[[bytes], None] | None, on_line: Callable[[Line], None] | None) -> None:
        self._on_stderr = on_stderr
        self._on_line = on_line
        self._lines = Lines(LINE_BYTES)
        self.stdout = asyncio.StreamReader(limit=_READ_BYTES)
        self.exited = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Casts without checks: uvloop's transports are not subclasses of asyncio's.
        stdout = cast(asyncio.SubprocessTransport, transport).get_pipe_transport(1)
        self.stdout.set_transport(cast(asyncio.ReadTransport, stdout))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != 1:
            assert self._on_stderr is not None
            self._on_stderr(data)
        elif self._on_line is None:
            self.stdout.feed_data(data)
        else:
            for line in self._lines.feed(data):
                self._on_line(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            if self._on_line is not None:
                for line in self._lines.last():
                    self._on_line(line)
            self.stdout.feed_eof()
        elif fd == 0:
            self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def process_exited(self) -> None:
        self.writable.set()
        self.exited.set()


class Child:
    """A running child process. Created by `start`, ended by `stop`."""

    def __init__(self, transport: asyncio.SubprocessTransport, ends: _Ends, life: int | None) -> None:
        stdin = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
        with contextlib.suppress(RuntimeError):  # uvloop's, of a child that is dead by now: its status and last words say why
            stdin.set_write_buffer_limits(high=QUEUED_BYTES)
        self._transport = transport
        self._ends = ends
        self._stdin = stdin
        self._life = life

    @classmethod
    async def start(
        cls, command: Command, on_stderr: Callable[[bytes], None] | None = None, on_line: Callable[[Line], None] | None = None
    ) -> Child:
        """Start `command`, on POSIX in a process group that ends with this process (see `supervisor`).

        `on_stderr` gets its stderr in chunks; without it, the child inherits our stderr. `on_line` gets each line of its stdout; without
        it, they are read by `lines`. Raises EndpointError if it cannot be started.
        """
        starting = asyncio.ensure_future(cls._spawn(command, on_stderr, on_line))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # asyncio may wait for ever for a child whose start is cancelled before its pipes are connected: first started, then ended.
            with contextlib.suppress(EndpointError):
                await (await starting).stop()
            raise

    @classmethod
    async def _spawn(cls, command: Command, on_stderr: Callable[[bytes], None] | None, on_line: Callable[[Line], None] | None) -> Child:
        argv = (command.found(), *command.args)
        if any("\0" in word for word in argv):
            raise EndpointError("a command line cannot contain a NUL character", "命令行不能包含 NUL 字符")
        loop = asyncio.get_running_loop()
        stderr = None if on_stderr is None else asyncio.subprocess.PIPE

        def ends() -> _Ends:
            return _Ends(on_stderr, on_line)

        try:
            if sys.platform == "win32":
                transport, near = await loop.subprocess_exec(ends, *argv, stderr=stderr, env=command.env, cwd=command.cwd)
                return cls(transport, near, None)
            held, life = os.pipe()
            try:
                supervisor = (sys.executable, "-I", "-S", str(Path(__file__).with_name("supervisor.py")), str(held), str(TERM_SECONDS))
                transport, near = await loop.subprocess_exec(
                    ends, *supervisor, *argv, stderr=stderr, env=command.env, cwd=command.cwd, pass_fds=(held,), start_new_session=True
                )
            except BaseException:
                os.close(life)
                raise
            finally:
                os.close(held)
            return cls(transport, near, life)
        except (OSError, ValueError) as error:
            raise EndpointError(f"{command.program} could not be started: {error}", f"无法启动 {command.program}：{error}") from error

    @property
    def exited(self) -> asyncio.Event:
        """Set as soon as the process has exited."""
        return self._ends.exited

    @property
    def status(self) -> int | None:
        """The exit status; 128 + the signal's number for a death by signal; None while it runs."""
        return self._transport.get_returncode()

    @property
    def session(self) -> int:
        """Session id (POSIX) of the process and its descendants; elsewhere the process id."""
        return self._transport.get_pid()

    @property
    def queued(self) -> int:
        """Bytes written that the process has not read."""
        return self._stdin.get_write_buffer_size()

    def write(self, first: bytes | memoryview, second: bytes | memoryview = b"") -> None:
        """Write a line given in two parts, without a line end; lost if the process has exited. Never waits."""
        if not self._stdin.is_closing():
            self._stdin.write(b"".join((first, second, b"\n")))

    async def send(self, line: bytes) -> None:
        """`write`, then wait while more than QUEUED_BYTES are unread."""
        self.write(line)
        await self._ends.writable.wait()

    async def lines(self) -> AsyncIterator[Line]:
        """The lines of stdout, until it is closed."""
        lines = Lines(LINE_BYTES)
        while chunk := await self._ends.stdout.read(_READ_BYTES):
            for line in lines.feed(chunk):
                yield line
        for line in lines.last():
            yield line

    async def silence(self) -> None:
        """Return when a child started with `on_line` has closed its stdout."""
        await self._ends.stdout.read()

    async def stop(self) -> None:
        """End the child: close stdin, SIGTERM to its group, SIGKILL, each after a bounded wait; returns when it is dead.

        If cancelled, it skips the remaining waits but still ends the child.
        """
        reading = asyncio.ensure_future(self._read_off())
        try:
            self._stdin.close()
            if not await self._dead_within(STDIN_SECONDS):
                self._let_go()
                await self._dead_within(TERM_SECONDS)
        finally:
            self._let_go()
            if not self._ends.exited.is_set():
                with contextlib.suppress(ProcessLookupError):  # already dead; the loop has not noticed yet
                    self._ask_to_end()
                await self._dead_within(KILL_SECONDS)
            reading.cancel()
            self._transport.close()

    async def _read_off(self) -> None:
        """Drain stdout: a child that is blocked in a write cannot notice that its stdin was closed."""
        while await self._ends.stdout.read(_READ_BYTES):
            pass

    async def _dead_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._ends.exited.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _ask_to_end(self) -> None:
        """SIGTERM. Not by asyncio's transport, which first looks whether the child is dead, and so takes the status away from the loop."""
        if sys.platform == "win32":
            self._transport.terminate()
        else:
            os.kill(self._transport.get_pid(), signal.SIGTERM)

    def _let_go(self) -> None:
        """Close the supervisor's pipe, which ends the child's group with SIGTERM; without one (Windows) `stop` terminates the child."""
        if self._life is not None:
            os.close(self._life)
            self._life = None
