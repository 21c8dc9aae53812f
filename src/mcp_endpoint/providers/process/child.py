"""A child process that is spoken to in lines and never outlives its owner."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, cast

import msgspec

from ...errors import EndpointError
from ...protocol.jsonrpc import Malformed, Unreadable, parse_lenient, too_large

STDIN_SECONDS: Final = 2.0
"""A child gets so long to leave by itself after its stdin was closed (the order of the MCP specification, lifecycle, shutdown)."""
TERM_SECONDS: Final = 2.0
"""Then so long after SIGTERM went to its process group."""
KILL_SECONDS: Final = 2.0
"""Then so long until the death by SIGKILL has been noticed; only a process the kernel cannot end uses it up."""
LINE_BYTES: Final = 8 * 1024 * 1024
"""Longest line from a child; longer ones are cut (the broker takes no more from a provider)."""
QUEUED_BYTES: Final = 8 * 1024 * 1024
"""What waits for a child that does not read; beyond it `send` waits."""
CUT_BYTES: Final = 200
"""So much of the beginning of a line that is too long is kept, to be shown and to see whose answer it is."""
END_BYTES: Final = 128
"""And so much of its end: some SDKs write the id last."""
_READ_BYTES: Final = 256 * 1024

INHERITED: Final = frozenset(
    (
        *("HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TEMP", "TERM", "TMP", "TMPDIR", "TZ", "USER"),
        *("APPDATA", "COMSPEC", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA", "PATHEXT", "PROCESSOR_ARCHITECTURE", "PROGRAMDATA"),
        *("PROGRAMFILES", "SYSTEMDRIVE", "SYSTEMROOT", "USERNAME", "USERPROFILE", "WINDIR"),
    )
)
"""Environment variables every child gets: what a program needs to start, never a secret. Anything else has to be named."""
INHERITED_PREFIX: Final = "LC_"


def environment(ours: Mapping[str, str], named: Mapping[str, str]) -> dict[str, str]:
    """What a child finds in its environment: the inherited few of `ours`, and `named` over them."""
    kept = {key: value for key, value in ours.items() if key.upper() in INHERITED or key.startswith(INHERITED_PREFIX)}
    return kept | dict(named)


class Command(msgspec.Struct, frozen=True):
    """What to start: a program with its arguments, never a shell line."""

    program: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    """The child's whole environment (see `environment`)."""
    cwd: str | None = None
    """The folder it starts in; None is ours."""

    def found(self) -> str:
        """The path of the program.

        Raises EndpointError when the program or the folder is not there.
        """
        if self.cwd is not None and not Path(self.cwd).is_dir():
            raise EndpointError(
                f"the folder {self.cwd!r} (cwd) does not exist; create it or correct the path",
                f"目录 {self.cwd!r}（cwd）不存在，请创建或改正路径",
            )
        # A program given with a folder is looked up from `cwd`, as the child itself would.
        program = self.program if os.path.dirname(self.program) == "" else os.path.join(self.cwd or "", self.program)
        path = shutil.which(program, path=self.env.get("PATH", os.defpath))
        if path is None:
            raise EndpointError(
                f"the program {self.program!r} was not found; install it, correct its name or give its full path",
                f"找不到程序 {self.program!r}，请安装、改正名称或写完整路径",
            )
        return os.path.abspath(path)


class Line(NamedTuple):
    """One line without its end; `whole` is False for one that was too long, of which only the beginning and the end are kept."""

    data: bytes
    whole: bool = True
    end: bytes = b""


def message(line: Line, *, ours: bool = True) -> bytes | None:
    """The JSON-RPC message in a line, by the rule of `parse_lenient` (see there for `ours`); None for what a server only printed.

    Raises Unreadable for an answer that nobody can read, or that is too long.
    """
    try:
        if line.whole:
            return parse_lenient(line.data, ours=ours)[1]
    except Unreadable:
        raise
    except Malformed:
        return None
    if unreadable := too_large(line.data, line.end, LINE_BYTES):
        raise unreadable
    return None


class Lines:
    """Cuts a stream of bytes into lines of at most `limit` bytes, in memory of the same size."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._end = b""
        """The last bytes of a line that is too long; `_parts` is then its beginning alone."""
        self._size = 0

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that `chunk` completes; each ends in LF or CR LF, which are taken off."""
        *ends, rest = chunk.split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            lines.append(self._take())
        self._keep(rest)
        return lines

    def last(self) -> list[Line]:
        """What was left without a line end when the stream closed."""
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
    """The near ends of a child's pipes. Unlike `asyncio.subprocess.Process.wait`, `exited` does not wait for whoever inherited them."""

    def __init__(self, overhear: Callable[[bytes], None] | None, hear: Callable[[Line], None] | None) -> None:
        self._overhear = overhear
        self._hear = hear
        self._lines = Lines(LINE_BYTES)
        self.stdout = asyncio.StreamReader(limit=_READ_BYTES)
        self.exited = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Casts and no checks: uvloop's transports are no subclasses of asyncio's.
        stdout = cast(asyncio.SubprocessTransport, transport).get_pipe_transport(1)
        self.stdout.set_transport(cast(asyncio.ReadTransport, stdout))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != 1:
            assert self._overhear is not None
            self._overhear(data)
        elif self._hear is None:
            self.stdout.feed_data(data)
        else:
            for line in self._lines.feed(data):
                self._hear(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            if self._hear is not None:
                for line in self._lines.last():
                    self._hear(line)
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
    """One running child. Made by `start`, ended by `stop`."""

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
        cls, command: Command, overhear: Callable[[bytes], None] | None = None, hear: Callable[[Line], None] | None = None
    ) -> Child:
        """Starts `command`, on POSIX in a process group of its own that ends with us (see `leash`).

        `overhear` is given what it writes to stderr, as it comes; without it, its stderr is ours. `hear` is given each line of its stdout,
        as it comes; without it, they are read by `lines`, and wait until then. Raises EndpointError when it cannot be started.
        """
        argv = (command.found(), *command.args)
        if any("\0" in word for word in argv):
            raise EndpointError("a command line cannot contain a NUL character", "命令行不能包含 NUL 字符")
        loop = asyncio.get_running_loop()
        stderr = None if overhear is None else asyncio.subprocess.PIPE

        def ends() -> _Ends:
            return _Ends(overhear, hear)

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
        """Set as soon as the child is dead."""
        return self._ends.exited

    @property
    def status(self) -> int | None:
        """The exit status once it is dead; 128 + the signal's number for a death by signal."""
        return self._transport.get_returncode()

    @property
    def session(self) -> int:
        """The number of the session (POSIX) that it and all it starts belong to; elsewhere its process number."""
        return self._transport.get_pid()

    @property
    def queued(self) -> int:
        """Bytes written that it has not read yet."""
        return self._stdin.get_write_buffer_size()

    def write(self, first: bytes | memoryview, second: bytes | memoryview = b"") -> None:
        """Hands a line of two parts, which must not contain a line end, to the child; a dead child loses it. Never waits."""
        if not self._stdin.is_closing():
            self._stdin.write(b"".join((first, second, b"\n")))

    async def send(self, line: bytes) -> None:
        """As `write`, and then waits while more than QUEUED_BYTES wait."""
        self.write(line)
        await self._ends.writable.wait()

    async def lines(self) -> AsyncIterator[Line]:
        """What the child writes to stdout, until it closes it."""
        lines = Lines(LINE_BYTES)
        while chunk := await self._ends.stdout.read(_READ_BYTES):
            for line in lines.feed(chunk):
                yield line
        for line in lines.last():
            yield line

    async def silence(self) -> None:
        """Returns when the child, started with `hear`, has closed its stdout."""
        await self._ends.stdout.read()

    async def stop(self) -> None:
        """Ends the child: stdin closed, SIGTERM to its group, SIGKILL, each after a bounded wait; returns when it is dead.

        Cancelled half-way, it skips the waits that are left, never the end.
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
                with contextlib.suppress(ProcessLookupError):  # dead already, which the loop has not told yet
                    self._transport.terminate()
                await self._dead_within(KILL_SECONDS)
            reading.cancel()
            self._transport.close()

    async def _read_off(self) -> None:
        """A child that is stuck writing cannot see its stdin close."""
        while await self._ends.stdout.read(_READ_BYTES):
            pass

    async def _dead_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._ends.exited.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _let_go(self) -> None:
        """The leash ends the child's group politely; where there is none (Windows), `stop` can only terminate the child."""
        if self._life is not None:
            os.close(self._life)
            self._life = None
