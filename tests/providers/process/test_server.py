"""The life of a managed process, in this process's own loop: carried, refused, ended, started again, given up."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from loguru import logger
from process_watch import PATIENCE

from mcp_endpoint import backoff
from mcp_endpoint.core.broker import Broker
from mcp_endpoint.providers.command import Command, environment
from mcp_endpoint.providers.entry import ServerEntry
from mcp_endpoint.providers.process import server as stdio
from mcp_endpoint.providers.process.child import Line, message
from mcp_endpoint.providers.process.server import CRASHES, ProcessServer, sessions
from mcp_endpoint.providers.tool_filter import ToolFilter
from mcp_endpoint.settings.schema import EndpointSettings, Limits

SMALL = Path(__file__).parents[2] / "support" / "small_server.py"
ODD = Path(__file__).parents[2] / "support" / "odd_server.py"


class Quiet:
    def tell(self, event: str, shown: str, **fields: object) -> None:
        pass


class Asker:
    """Somebody at the server's own endpoint."""

    queued = 0

    def __init__(self, broker: Broker, server: ServerEntry) -> None:
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.broker = broker
        self.party = broker.attach_consumer(server.endpoint, server.shown, self)

    def send(self, first: bytes | memoryview, second: bytes | memoryview = b"") -> None:
        self.heard.put_nowait(json.loads(b"".join((first, second))))

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)

    def ping(self) -> None:
        pass

    def tells(self, method: str, id: int = 1, **params: Any) -> None:
        frame = json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode()
        self.party.receive(self.party, frame, asyncio.get_running_loop().time(), True)

    async def hears(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.heard.get(), PATIENCE)

    async def asks(self, method: str, **params: Any) -> dict[str, Any]:
        self.tells(method, **params)
        return await self.hears()


def _server(script: Path, *words: str, **fields: Any) -> ServerEntry:
    command = Command(sys.executable, ("-I", "-S", str(script), *words), environment(os.environ, {}))
    return ServerEntry(**({"name": "one", "label": "one", "wire": "stdio", "command": command} | fields))


@asynccontextmanager
async def _kept(server: ServerEntry, limits: Limits | None = None) -> AsyncIterator[tuple[ProcessServer, Asker]]:
    loop = asyncio.get_running_loop()
    broker = Broker(EndpointSettings(), limits or Limits(), clock=loop.time, call_at=loop.call_at, epoch=time.time, watch=Quiet())
    managed = ProcessServer(server, broker, draw=lambda: 1.0)
    asker = Asker(broker, server)
    await managed.start()
    try:
        yield managed, asker
    finally:
        await asyncio.wait_for(managed.stop(), PATIENCE)
        broker.detach(asker.party, 1000, "")
        assert not broker.endpoints
        assert managed.describe()["state"] == "off"


async def _until(managed: ProcessServer, state: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        while (found := managed.describe())["state"] != state:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    return found


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "LONGEST_SECONDS", 0.01)


async def test_frames_become_lines_and_lines_become_frames() -> None:
    async with _kept(_server(ODD)) as (managed, asker):
        await _until(managed, "running")
        assert (await asker.asks("echo", text="你好\u2028", n=[1, 2]))["result"] == {"text": "你好\u2028", "n": [1, 2]}
        raw = (await asker.asks("raw", text="a\nb"))["result"]
        assert raw.count("\n") == 1, "one frame is one line"
        assert len((await asker.asks("big", letter="x", count=900_000))["result"]) == 900_000
        assert sessions([managed]) == {managed.session}


class LateLoop(uvloop.Loop):
    """A loop that is busy while a process is started: it looks at it again when the process is dead and its pipes are closed."""

    async def subprocess_exec(self, *given: Any, **named: Any) -> Any:
        transport, protocol = await super().subprocess_exec(*given, **named)
        stdin = transport.get_pipe_transport(0)
        async with asyncio.timeout(PATIENCE):
            while not stdin.is_closing():  # noqa: ASYNC110 - a transport tells nobody
                await asyncio.sleep(0.01)
        return transport, protocol


def test_a_process_that_is_dead_before_the_loop_looks_at_it_is_told_of_and_started_again(hasty: None) -> None:
    async def play() -> None:
        words = ("-I", "-S", "-c", "import sys; sys.exit('tired')")
        dead = ServerEntry(name="one", label="one", wire="stdio", command=Command(sys.executable, words, dict(os.environ)))
        async with _kept(dead) as (managed, _):
            found = await _until(managed, "stopped")
            assert "its process ended (status 1)" in found["why"]
            assert (found["starts"], found["said"][-1]) == (CRASHES, "tired")

    with asyncio.Runner(loop_factory=LateLoop) as runner:
        runner.run(play())


async def test_a_fault_of_our_own_is_logged_and_the_process_started_again(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = iter((RuntimeError("once"),))

    def attach(*given: Any, **named: Any) -> Any:
        for fault in faults:
            raise fault
        return whole(*given, **named)

    lines: list[str] = []
    number = logger.add(lines.append, level="ERROR", format="{message} {exception}")
    async with _kept(_server(ODD)) as (managed, asker):
        whole = managed._broker.attach_provider
        monkeypatch.setattr(managed._broker, "attach_provider", attach)
        await _until(managed, "running")
        assert (await asker.asks("echo", text="here"))["result"] == {"text": "here"}
        assert managed.describe()["starts"] == 2
    logger.remove(number)
    assert "supervision of its process failed" in lines[0] and "RuntimeError" in lines[0]


async def test_what_is_no_message_stays_here_and_is_counted() -> None:
    async with _kept(_server(ODD)) as (managed, asker):
        await _until(managed, "running")
        assert (await asker.asks("noise"))["result"] == "after the noise"
        assert asker.broker.counters.noise == 4
        said = managed.describe()["said"]
        assert "[stdout, not JSON-RPC] Starting up \\x1b[31mred\\x1b[0m" in said
        assert (await asker.asks("endless"))["result"] == "after the endless line"
        assert "more than 8388608 bytes" in managed.describe()["said"][-1]


UNREADABLE = [
    '{"jsonrpc":"2.0","id":#,"result":{"mean":NaN}}',
    '{"jsonrpc":"2.0","id":#,"result":"\xb2\xe2\xca\xd4"}',  # 测试 in GBK
    '{"jsonrpc":"2.0","id":#,"result":"a\tb"}',
    '{"jsonrpc":"2.0","result":Infinity}',
    '{"jsonrpc":"2.0","id":#,"result":{},"result":{}}',
    '{"jsonrpc":"2.0","id":#,"id":#,"result":{}}',
    '{"jsonrpc":"2.0","id":#,"result":%s}' % ("[" * 20_000 + "]" * 20_000),
]


async def test_an_answer_that_cannot_be_read_ends_its_call_at_once_and_no_other() -> None:
    """Also one above 8 MiB, whose id stands at its end: the process lives on, and the reason is told to caller and operator."""
    async with _kept(_server(ODD)) as (managed, asker):
        await _until(managed, "running")
        asker.tells("silent", id=7)
        for said in UNREADABLE:
            if "#" in said:
                error = (await asker.asks("says", bytes=said))["error"]
                assert error["code"] in (-32008, -32007) and "cannot be read" in error["data"]["hint"]
        huge = await asker.asks("huge")
        assert huge["id"] == 1 and huge["error"]["code"] == -32007 and "too large" in huge["error"]["data"]["hint"]
        assert any("cannot be read" in line for line in managed.describe()["said"])
        assert managed.describe()["starts"] == 1
    async with _kept(_server(ODD)) as (managed, asker):
        await _until(managed, "running")
        assert (await asker.asks("says", bytes=UNREADABLE[3]))["error"]["code"] == -32008


@pytest.mark.parametrize("server", [_server(ODD), _server(ODD, allow=("echo",))])
async def test_odd_spellings_of_an_answer_mean_the_same_as_on_a_socket(server: ServerEntry) -> None:
    async with _kept(server) as (managed, asker):
        await _until(managed, "running")
        for said in (
            '\xef\xbb\xbf{"jsonrpc":"2.0","id":#,"result":1}',
            'Loading model... {"jsonrpc":"2.0","id":#,"result":1}',
            '{"id":#,"result":1}',
            '{"jsonrpc":"2.0","id":"#","result":1}',
            '{"jsonrpc":"2.0","id":#.0,"result":1}',
        ):
            assert (await asker.asks("says", bytes=said))["result"] == 1
        assert (await asker.asks("says", bytes='{"jsonrpc":"2.0","id":#,"result":"ab\\ud83d"}'))["result"] == "ab\ud83d"


def test_a_list_under_an_id_of_another_type_is_filtered_all_the_same() -> None:
    """A server that gives ids back as strings must not show what its entry denies."""
    tool_filter = ToolFilter((), ("hidden",))
    assert not tool_filter.checked(b'{"jsonrpc":"2.0","id":3,"method":"tools/list"}').refused
    heard = message(Line(b'{"jsonrpc":"2.0","id":"3","result":{"tools":[{"name":"hidden"},{"name":"seen"}]}}'))
    assert heard is not None
    frame, data = heard
    assert b"hidden" not in tool_filter.passed(data, frame)


async def test_what_a_dying_process_had_written_still_arrives_and_why_it_ended_is_told(hasty: None) -> None:
    async with _kept(_server(ODD)) as (managed, asker):
        await _until(managed, "running")
        answer = await asker.asks("die", status=7)
        assert answer["result"] == "last words"
        async with asyncio.timeout(PATIENCE):
            while managed.describe()["starts"] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await _until(managed, "running")
        assert asker.party.endpoint.last_close is not None
        assert "status 7" in asker.party.endpoint.last_close.reason


async def test_a_process_that_closes_its_output_is_replaced(hasty: None) -> None:
    async with _kept(_server(ODD)) as (managed, asker):
        first = (await _until(managed, "running"))["pid"]
        answer = await asker.asks("mute")
        assert answer["error"]["code"] == -32003
        async with asyncio.timeout(PATIENCE):
            while managed.describe().get("pid") in (None, first):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_the_endpoint_may_end_a_process(hasty: None) -> None:
    async with _kept(_server(ODD)) as (managed, asker):
        first = (await _until(managed, "running"))["pid"]
        (provider,) = asker.party.endpoint.providers
        provider.link.ping()
        provider.link.close(1011, "enough")
        async with asyncio.timeout(PATIENCE):
            while managed.describe().get("pid") in (None, first):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_short_lives_in_a_row_end_the_attempts_and_a_stop_ends_the_wait(hasty: None) -> None:
    gone = ServerEntry(name="one", label="one", wire="stdio", command=Command("no-such-program", env={"PATH": "/nowhere"}))
    async with _kept(gone) as (managed, _):
        found = await _until(managed, "stopped")
        assert "no-such-program" in found["why"]
        assert found["starts"] == 0
    dies = Command(sys.executable, ("-c", "import sys; sys.exit('tired')"), environment(os.environ, {}))
    async with _kept(ServerEntry(name="one", label="one", wire="stdio", command=dies)) as (managed, _):
        found = await _until(managed, "stopped")
        assert (found["starts"], found["said"][-1]) == (CRASHES, "tired")


async def test_the_first_wait_is_a_second_at_least() -> None:
    lines: list[str] = []
    number = logger.add(lines.append, level="WARNING", format="{message}")
    async with _kept(_server(ODD)) as (managed, asker):
        await _until(managed, "running")
        asker.tells("kill")
        found = await _until(managed, "waiting")
        assert "137" in found["why"]
        await _until(managed, "running")
    logger.remove(number)
    (told,) = (found[1] for line in lines if (found := re.search(r"restarted in ([0-9.]+) s", line)))
    assert 1.0 <= float(told) <= 2.0


async def test_a_tool_that_is_not_shown_is_refused_here() -> None:
    async with _kept(_server(SMALL, "small", "get_a", "set_a", allow=("get_*",))) as (managed, asker):
        await _until(managed, "running")
        assert "result" in await asker.asks(
            "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "x", "version": "1"}
        )
        assert [tool["name"] for tool in (await asker.asks("tools/list"))["result"]["tools"]] == ["get_a"]
        assert (await asker.asks("tools/call", name="set_a"))["error"]["code"] == -32602
        assert "result" in await asker.asks("tools/call", name="get_a")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_a_process_that_does_not_read_makes_calls_fail_and_no_memory_grow() -> None:
    async with _kept(_server(ODD)) as (managed, asker):
        pid = (await asker.asks("where"))["result"]["pid"] if await _until(managed, "running") else 0
        os.kill(pid, signal.SIGSTOP)
        try:
            codes = set()
            for id in range(12):
                asker.tells("echo", id, text="x" * 1_000_000)
            while not asker.heard.empty():
                codes.add((await asker.hears())["error"]["code"])
            assert codes == {-32005}
            (provider,) = asker.party.endpoint.providers
            assert 8_000_000 < provider.link.queued < 10_500_000
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_a_process_that_reads_nothing_for_too_long_is_replaced(hasty: None) -> None:
    async with _kept(_server(ODD), Limits(stalled_seconds=0.2, queued_bytes_per_link=1_000_000)) as (managed, asker):
        await _until(managed, "running")
        pid = (await asker.asks("where"))["result"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        for id in range(3):
            asker.tells("echo", id, text="x" * 1_000_000)
        answers = [await asker.hears() for _ in range(3)]
        assert {answer["error"]["code"] for answer in answers} == {-32003, -32005}
        assert asker.party.endpoint.last_close is not None
        assert asker.party.endpoint.last_close.code == 1013
        async with asyncio.timeout(PATIENCE):
            while managed.describe()["starts"] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_stop_while_it_starts_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "LAST_OUTPUT_SECONDS", 0.0)
    for turns in range(6):
        async with _kept(_server(SMALL)) as (managed, _):
            for _ in range(turns):
                await asyncio.sleep(0)
            assert managed.describe()["state"] in ("off", "starting", "running")
