"""The supervisor on its own: whatever happens to its owner, the command's whole group ends, and the command's exit status comes through."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from process_watch import PATIENCE, ProcessWatch

from mcp_endpoint.providers.process import supervisor as supervisor

ODD = Path(__file__).parents[2] / "support" / "odd_server.py"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


@asynccontextmanager
async def _leashed(
    *command: str, patience: float = PATIENCE, also: tuple[int, ...] = ()
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A supervisor of `command` and the owner's end of its pipe."""
    held, life = os.pipe()
    argv = (sys.executable, "-I", "-S", supervisor.__file__, str(held), str(patience), *command)
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, pass_fds=(held, *also)
    )
    os.close(held)
    try:
        yield process, life
    finally:
        os.close(life)
        if process.returncode is None:
            await asyncio.wait_for(process.communicate(), PATIENCE)


def _let_go(life: int) -> None:
    """Closes the pipe; the number stays taken, for the end of `_leashed` to close."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, life)
    os.close(nothing)


def _odd(port: int = 0) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", str(ODD), str(port))


async def _ask(process: asyncio.subprocess.Process, request: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request + b"\n")
    return await asyncio.wait_for(process.stdout.readline(), PATIENCE)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)])
async def test_the_exit_status_is_passed_on(script: str, status: int) -> None:
    async with _leashed("/bin/sh", "-c", script) as (process, _):
        await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == status


async def test_signals_while_it_ends_do_not_stand_in_the_place_of_the_status() -> None:
    """The interpreter's own end would take the handlers away. A signal too many asks for SIGKILL, which the command dies of anyway."""
    async with _leashed("/bin/sh", "-c", "echo begun; exec sleep 1000", patience=0.0) as (process, _):
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        ending = asyncio.ensure_future(process.wait())
        while not ending.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)  # not `send_signal`, which would take the status away
            await asyncio.wait((ending,), timeout=0.0001)
        assert process.returncode in (137, 143)


async def test_a_command_inherits_its_three_pipes_and_nothing_else() -> None:
    """An event loop that leaves it one of them under another number too would hide that the command closes its output."""
    reading, also = os.pipe()
    async with _leashed("/bin/sh", "-c", "echo up; read x", also=(also,)) as (process, _):
        os.close(also)
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"up\n"
        os.set_blocking(reading, False)
        assert os.read(reading, 1) == b"", "nobody has the other end any more"
    os.close(reading)


async def test_a_command_that_cannot_be_started_is_127() -> None:
    async with _leashed("/nowhere/at/all") as (process, _):
        _, said = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == supervisor.NOT_STARTED
        assert b"/nowhere/at/all" in said


async def test_letting_go_ends_the_group_politely() -> None:
    async with _leashed("/bin/sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do wait; read x; done") as (process, life):
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"up\n"
        _let_go(life)
        assert await asyncio.wait_for(process.stdout.read(), PATIENCE) == b"bye\n"
        await asyncio.wait_for(process.wait(), PATIENCE)
        assert process.returncode == 5


async def test_a_stubborn_group_is_killed_when_patience_is_over() -> None:
    async with ProcessWatch() as process_watch, _leashed(*_odd(process_watch.port), patience=0.05) as (process, life):
        child = await process_watch.born()
        await _ask(process, b'{"id":1,"method":"fork"}')
        helper = await process_watch.born()
        await _ask(process, b'{"id":2,"method":"stubborn"}')
        _let_go(life)
        await process_watch.ended(child)
        await process_watch.ended(helper)
        await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 137


async def test_asking_twice_kills_at_once() -> None:
    async with ProcessWatch() as process_watch, _leashed(*_odd(process_watch.port)) as (process, life):
        child = await process_watch.born()
        await _ask(process, b'{"id":2,"method":"stubborn"}')
        _let_go(life)
        process.send_signal(signal.SIGTERM)
        await process_watch.ended(child, within=PATIENCE / 2)
        await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 137


async def test_helpers_do_not_outlive_the_command() -> None:
    async with ProcessWatch() as process_watch, _leashed(*_odd(process_watch.port)) as (process, _):
        child = await process_watch.born()
        await _ask(process, b'{"id":1,"method":"fork"}')
        helper = await process_watch.born()
        await _ask(process, b'{"id":2,"method":"die","params":{"status":4}}')
        await process_watch.ended(child)
        await process_watch.ended(helper)
        await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 4


async def test_the_command_gets_back_the_signals_that_python_ignores() -> None:
    async with _leashed("/bin/sh", "-c", "kill -PIPE $$") as (process, _):
        await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_the_command_holds_only_its_own_three_files() -> None:
    async with _leashed("/bin/sh", "-c", "ls /proc/$$/fd; true") as (process, _):
        said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert {int(line) for line in said.split()} <= {0, 1, 2, 10, 255}
