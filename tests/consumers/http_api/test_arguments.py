"""Arguments are held against schemas in a process of its own, which may be busy, hang, die or be missing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from running import BOUND

from mcp_endpoint.consumers.http_api import arguments as module
from mcp_endpoint.consumers.http_api.arguments import Checker, InvalidArguments

NUMBERS = json.dumps({"name": "x", "inputSchema": {"additionalProperties": {"type": "integer"}}}).encode()
READY = "import sys, time, os\nout = sys.stdout.buffer\nout.write(bytes(4))\nout.flush()\n"


@pytest.fixture
async def checker() -> AsyncIterator[Checker]:
    found = Checker(4096)
    yield found
    await found.stop()


def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> Path:
    """A program in the place of the one that checks."""
    path = tmp_path / "program.py"
    path.write_text(text)
    monkeypatch.setattr(module, "PROGRAM", path)
    return path


async def wrong(checker: Checker) -> None:
    with pytest.raises(InvalidArguments, match=r"^n: '1' is not of type 'integer'$"):
        await asyncio.wait_for(checker.check(NUMBERS, b'{"n":"1"}'), BOUND)


@pytest.mark.row("H10")
async def test_what_does_not_fit_is_wrong_and_many_are_asked_at_a_time(checker: Checker) -> None:
    await checker.check(NUMBERS, b'{"n":1}')
    await asyncio.gather(*(wrong(checker) for _ in range(20)))


async def test_the_loop_goes_on_while_a_check_takes_all_the_time_it_may(checker: Checker) -> None:
    """On the old code the loop stood still for as long as each check took."""
    await wrong(checker)
    hostile = json.dumps({"inputSchema": {"properties": {"a": {"pattern": "^(a+)+$"}}}}).encode()
    checks = asyncio.gather(*(checker.check(hostile, b'{"a":"%bb"}' % (b"a" * 60)) for _ in range(3)))
    turns = 0
    while not checks.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 10
    await wrong(checker)


async def test_what_is_too_large_or_finds_no_room_is_left_to_the_tool(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    await checker.check(NUMBERS, b'{"n":"%b"}' % (b"x" * 4096))
    await checker.check(NUMBERS + b" " * 4096, b'{"n":"1"}')
    assert checker._process is None, "nobody was asked"
    monkeypatch.setattr(module, "QUEUED", 1)
    first = asyncio.create_task(checker.check(NUMBERS, b'{"n":"%b"}' % (b"x" * 3_000)))
    second = asyncio.create_task(checker.check(NUMBERS, b'{"n":"%b"}' % (b"x" * 3_000)))
    await second
    with pytest.raises(InvalidArguments):
        await first


@pytest.mark.parametrize("life", ["sys.stdin.buffer.read(8)\n", "time.sleep(60)\n"], ids=["dies", "hangs"])
async def test_a_process_that_does_not_answer_is_started_again(
    checker: Checker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, life: str
) -> None:
    monkeypatch.setattr(module, "HANG_SECONDS", 0.2)
    with monkeypatch.context() as patch:
        program(patch, tmp_path, READY + life)
        await asyncio.wait_for(checker.check(NUMBERS, b'{"n":"1"}'), BOUND)
    monkeypatch.setattr(module, "HANG_SECONDS", BOUND)
    await wrong(checker)


async def test_a_call_waits_only_so_long_for_its_verdict(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    await wrong(checker)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)
    await checker.check(NUMBERS, b'{"n":"1"}')


async def test_where_no_process_can_be_started_everything_is_left_to_the_tool(
    checker: Checker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(monkeypatch, tmp_path, "")
    await asyncio.wait_for(checker.check(NUMBERS, b'{"n":"1"}'), BOUND)
    assert checker._unable
    await checker.check(NUMBERS, b'{"n":"1"}')


async def test_what_waits_at_the_stop_is_not_checked_and_nothing_runs_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checker = Checker(4096)
    program(monkeypatch, tmp_path, READY + "time.sleep(60)\n")
    asked = asyncio.Event()
    wait = Checker._verdict

    async def verdict(process: asyncio.subprocess.Process) -> str:
        if checker._ready:
            asked.set()
        return await wait(process)

    monkeypatch.setattr(checker, "_verdict", verdict)
    waiting = [asyncio.create_task(checker.check(NUMBERS, b'{"n":"1"}')) for _ in range(3)]
    async with asyncio.timeout(BOUND):
        await asked.wait()
        process = checker._process
        assert process is not None
        await checker.stop()
        assert process.returncode is not None
        await asyncio.gather(*waiting)
