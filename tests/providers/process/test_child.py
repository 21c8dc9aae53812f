"""A child in its life: what it gets, what it says, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from process_watch import PATIENCE, ProcessWatch

from mcp_endpoint.errors import EndpointError
from mcp_endpoint.providers.command import Command, environment
from mcp_endpoint.providers.process import child as module
from mcp_endpoint.providers.process.child import CUT_BYTES, END_BYTES, QUEUED_BYTES, Child, Line, Lines

ODD = Path(__file__).parents[2] / "support" / "odd_server.py"


def _command(*args: str, **named: str) -> Command:
    return Command(sys.executable, ("-I", "-S", str(ODD), *args), environment(os.environ, named))


class Talk:
    """A child and its lines."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.lines = child.lines()

    async def ask(self, method: str, **params: object) -> object:
        await self.child.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, ensure_ascii=False).encode())
        return json.loads((await self.line()).data)["result"]

    async def line(self) -> Line:
        return await asyncio.wait_for(anext(self.lines), PATIENCE)


@asynccontextmanager
async def _running(command: Command) -> AsyncIterator[Talk]:
    child = await Child.start(command)
    try:
        yield Talk(child)
    finally:
        await asyncio.wait_for(child.stop(), PATIENCE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path.resolve()


# What it gets


async def test_arguments_environment_and_folder_arrive_as_they_are(folder: Path) -> None:
    """Threat: command injection. Arguments are never read by a shell."""
    words = ("; touch x", "$(touch x)", "a\nb", "`x`", "", "天 气")
    command = Command(sys.executable, ("-I", "-S", str(ODD), "0", *words), {"NAMED": "值"}, str(folder))
    async with _running(command) as talk:
        where = await talk.ask("where")
        assert isinstance(where, dict)
        assert where["argv"] == list(words)
        assert where["cwd"] == str(folder)
        seen = await talk.ask("environment")
        assert isinstance(seen, dict)
        assert seen.pop("NAMED") == "值"
        assert not {key for key in seen if key not in ("LC_CTYPE", "__CF_USER_TEXT_ENCODING")}
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Command("no-such-program-anywhere", env={"PATH": "/bin"}), "not found"),
        (Command("./no-such-program"), "not found"),
        (Command(sys.executable, cwd="/no/such/folder"), "does not exist"),
        (Command(sys.executable, ("a\0b",)), "NUL"),
        (Command(sys.executable, env={"A=B": "x", "C\0": "y"}), "could not be started"),
    ],
)
async def test_what_cannot_be_started_is_told_in_both_languages(command: Command, words: str) -> None:
    with pytest.raises(EndpointError, match=words) as caught:
        await Child.start(command)
    assert caught.value.zh != caught.value.en


async def test_a_program_with_a_folder_is_looked_up_from_its_own_folder(tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text("#!/bin/sh\necho here\n")
    script.chmod(0o755)
    async with _running(Command("./tool", env=environment(os.environ, {}), cwd=str(tmp_path))) as talk:
        assert await talk.line() == Line(b"here")


# What it says


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_any_chunking_gives_the_same_lines(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    limit = 20
    reader = Lines(limit)
    heard = [line for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True) for line in reader.feed(stream[start:end])]
    assert reader.last() == []
    assert [line.whole for line in heard] == [len(line) <= limit for line in lines]
    for line, sent in zip(heard, lines, strict=True):
        assert line.data == sent.removesuffix(b"\r") if line.whole else sent.startswith(line.data.rstrip(b"\r"))


def test_a_line_that_is_too_long_is_kept_no_longer_than_to_show_it() -> None:
    reader = Lines(1000)
    for _ in range(10_000):
        assert reader.feed(b"x" * 999) == []
    assert sum(len(part) for part in reader._parts) <= 1000
    assert reader.feed(b"\nnext\r\nrest") == [Line(b"x" * CUT_BYTES, False, b"x" * END_BYTES), Line(b"next")]
    assert reader.last() == [Line(b"rest")]
    assert reader.last() == []


async def test_five_mebibytes_pass_whole_in_both_directions() -> None:
    async with _running(_command()) as talk:
        assert await talk.ask("echo", text="你" * (5 * 1024 * 1024 // 3)) == {"text": "你" * (5 * 1024 * 1024 // 3)}


async def test_what_was_written_before_death_is_still_heard() -> None:
    async with _running(_command()) as talk:
        assert await talk.ask("die", status=9) == "last words"
        await asyncio.wait_for(talk.child.exited.wait(), PATIENCE)
        assert talk.child.status == 9
        with pytest.raises(StopAsyncIteration):
            await talk.line()


async def test_a_death_by_signal_is_known_by_its_number() -> None:
    async with _running(_command()) as talk:
        await talk.child.send(b'{"method": "kill"}')
        await asyncio.wait_for(talk.child.exited.wait(), PATIENCE)
        assert talk.child.status == 137


async def test_what_is_sent_to_a_dead_child_is_lost_without_harm() -> None:
    async with _running(_command()) as talk:
        await talk.child.send(b'{"method": "kill"}')
        await asyncio.wait_for(talk.child.exited.wait(), PATIENCE)
        for _ in range(10):
            await asyncio.wait_for(talk.child.send(b"x" * 1_000_000), PATIENCE)


async def test_a_child_that_does_not_read_holds_up_only_who_sends_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in ("STDIN_SECONDS", "TERM_SECONDS"):
        monkeypatch.setattr(module, wait, 0.05)
    async with _running(_command()) as talk:
        assert await talk.ask("stubborn") == "will stay"
        half = b"x" * (QUEUED_BYTES // 2)
        await asyncio.wait_for(talk.child.send(half), PATIENCE)
        sending = asyncio.ensure_future(talk.child.send(half + half))
        done, _ = await asyncio.wait((sending,), timeout=0.05)
        assert not done
        await talk.child.stop()
        await asyncio.wait_for(sending, PATIENCE)


# How it ends


async def test_a_good_child_leaves_by_itself_when_its_stdin_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STDIN_SECONDS", PATIENCE)
    async with _running(_command()) as talk:
        await talk.ask("echo")
    assert talk.child.status == 0


@pytest.mark.parametrize("deaf_to", ["stdin", "stdin and SIGTERM"])
async def test_a_bad_child_and_its_helpers_are_ended_step_by_step(monkeypatch: pytest.MonkeyPatch, deaf_to: str) -> None:
    monkeypatch.setattr(module, "STDIN_SECONDS", 0.05)
    monkeypatch.setattr(module, "TERM_SECONDS", 0.05 if "SIGTERM" in deaf_to else PATIENCE)
    async with ProcessWatch() as process_watch:
        if "SIGTERM" in deaf_to:
            async with _running(_command(str(process_watch.port))) as talk:
                pids = [await process_watch.born()]
                await talk.ask("fork")
                pids.append(await process_watch.born())
                await talk.ask("stubborn")
            assert talk.child.status == 137
            for pid in pids:
                await process_watch.ended(pid)
        else:
            async with _running(Command("/bin/sleep", ("1000",))) as talk:
                pass
            assert talk.child.status == 143


async def test_a_stop_that_is_cancelled_skips_the_waits_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in ("STDIN_SECONDS", "TERM_SECONDS"):
        monkeypatch.setattr(module, wait, PATIENCE)
    async with ProcessWatch() as process_watch:
        child = await Child.start(_command(str(process_watch.port)))
        pid = await process_watch.born()
        await child.send(b'{"id": 1, "method": "stubborn"}')
        assert (await asyncio.wait_for(anext(child.lines()), PATIENCE)).whole
        stopping = asyncio.ensure_future(child.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait((stopping,), timeout=PATIENCE / 2)
        assert stopping.cancelled()
        await process_watch.ended(pid)


async def test_a_child_that_is_stuck_writing_sees_its_stdin_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STDIN_SECONDS", PATIENCE)
    child = await Child.start(_command())
    await child.send(b'{"id": 1, "method": "big", "params": {"letter": "x", "count": 20000000}}')
    await child.send(b'{"id": 2, "method": "echo"}')
    assert child.status is None
    await asyncio.wait_for(child.stop(), PATIENCE)
    assert child.status == 0


def test_the_same_life_under_uvloop() -> None:
    """The server runs on uvloop where there is one; its transports are not asyncio's."""
    uvloop = pytest.importorskip("uvloop")

    async def life() -> int | None:
        async with _running(_command()) as talk:
            assert await talk.ask("big", letter="你", count=1_000_000) == "你" * 1_000_000
            await talk.ask("die", status=6)
            await asyncio.wait_for(talk.child.exited.wait(), PATIENCE)
        return talk.child.status

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(life()) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_nothing_is_left_open() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def one_life() -> None:
        async with _running(_command()) as talk:
            await talk.ask("echo")
        with pytest.raises(EndpointError):
            await Child.start(Command(sys.executable, env={"C\0": "y"}))

    await one_life()
    before = count()
    for _ in range(5):
        await one_life()
    assert count() == before
