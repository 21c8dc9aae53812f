"""Every way in which the processes behind a real pipe can end or fall silent, at each step of a device's session.

Each request has its one answer, the device's socket stays open, and the tool is usable again in the same device session.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from peers import HERE, Device, Tool, address, broker, device, text_of, tool, until
from process_watch import ProcessWatch
from running import BOUND, Program
from websockets.asyncio.client import connect

from mcp_endpoint.access.tokens import TokenCodec

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform == "win32", reason="processes are stopped and woken by signals of POSIX"),
]

PING_SECONDS: Final = 2.5
"""After so much silence a half-open link is known to be dead."""
DEADLINE: Final = 6
"""Seconds a tool has for anything; well above PING_SECONDS."""
NUMBERS: Final = itertools.count(1)
METHODS: Final = ("initialize", "tools/list", "tools/call")
CONSOLE: Final = "xz-mcp-broker"
"""manager-api's name: its lists are not held."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    limits = {
        "MES_ENDPOINT_CALL_TIMEOUT": str(DEADLINE),
        "MES_LIMITS_INITIALIZE_SECONDS": str(DEADLINE),
        "MES_LIMITS_LIST_SECONDS": str(DEADLINE),
        "MES_LIMITS_GRACE_SECONDS": "30",
        "MES_LIMITS_GRACE_CALL_SECONDS": str(BOUND),
        "MES_WEBSOCKET_PING_INTERVAL": "0.5",
        "MES_WEBSOCKET_PING_TIMEOUT": "2",
    }
    async with broker(tmp_path_factory.mktemp("processes"), **limits) as running:
        yield running
        assert "Traceback" not in running.log
        await until(lambda stats: stats["endpoints"] == 0 and stats["in_flight"] == 0, running)


Story = Callable[["Home", str], Awaitable[None]]


class Home:
    """An endpoint of one test, and the tool that belongs there."""

    def __init__(self, running: Program, process_watch: ProcessWatch, quiet: Path) -> None:
        self.running = running
        self.process_watch = process_watch
        self.name = f"home-{next(NUMBERS)}"
        self.token = TokenCodec(running.key).make_signed(self.name)
        self._quiet = quiet
        self.answers_all()

    def answers_all_but(self, method: str) -> None:
        self._quiet.write_text(method, "utf-8")

    def answers_all(self) -> None:
        self.answers_all_but("")

    def tool(self) -> AbstractAsyncContextManager[Tool]:
        command = (sys.executable, "-I", "-S", HERE / "quiet_server.py", self._quiet, self.process_watch.port)
        return tool(self.running, *command, token=self.token)

    def device(self) -> AbstractAsyncContextManager[Device]:
        return device(self.running, self.token)

    async def until(self, true: Callable[[dict[str, Any]], bool]) -> None:
        """Wait for something of this endpoint's own figures."""

        def looked_at(stats: dict[str, Any]) -> bool:
            found = [each for each in stats["endpoint_details"] if each["endpoint"] == self.name]
            return bool(found) and true(found[0])

        await until(looked_at, self.running)

    async def tools_are(self, count: int) -> None:
        await self.until(lambda found: len(found["tools"]) == count)

    async def asked_for(self, count: int = 1) -> None:
        """Wait until so many requests are with a tool."""
        await self.until(lambda found: sum(each["in_flight"] for each in found["tools"]) == count)


@asynccontextmanager
async def at_home(running: Program, folder: Path) -> AsyncIterator[Home]:
    async with ProcessWatch() as process_watch:
        home = Home(running, process_watch, folder / f"quiet-{next(NUMBERS)}")
        yield home


@pytest_asyncio.fixture(loop_scope="module")
async def home(running: Program, tmp_path: Path) -> AsyncIterator[Home]:
    async with at_home(running, tmp_path) as home:
        yield home


@pytest.fixture
def side_by_side(running: Program, tmp_path: Path) -> Callable[[Story], Awaitable[None]]:
    """Tells a story once for each method, at three endpoints at the same time: most of it is waiting."""

    async def one(story: Story, method: str) -> None:
        async with at_home(running, tmp_path) as home:
            await story(home, method)

    async def all_of_them(story: Story) -> None:
        async with asyncio.TaskGroup() as telling:
            for method in METHODS:
                telling.create_task(one(story, method))

    return all_of_them


@asynccontextmanager
async def asleep(pid: int) -> AsyncIterator[None]:
    """The process is stopped, its sockets stay open; woken at the end, if it still lives."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def request(asker: Device, method: str) -> dict[str, Any]:
    if method == "initialize":
        return await asker.greets(7, CONSOLE)
    return await asker.asks(7, method, {"name": "pid", "arguments": {}} if method == "tools/call" else {})


def ended_with(answer: dict[str, Any], method: str, code: int) -> None:
    """A call and a list end in an error; an initialize is answered as at an empty endpoint."""
    if method == "initialize":
        assert answer["result"]["protocolVersion"] == "2024-11-05" and answer["result"]["serverInfo"]["name"] != "quiet"
    else:
        assert answer["error"]["code"] == code and answer["error"]["data"]["delivered"] is True
        assert "result" not in answer


async def is_usable_again(asker: Device, home: Home) -> None:
    """The next call of the same session is answered by the process that is there now."""
    assert await asker.names(2) == {"pid"}
    assert text_of(await asker.calls(3, "pid")).isdigit()
    await home.until(lambda found: found["in_flight"] == 0)


@pytest.mark.row("U10", "D5", "E3")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", ["pipe closed", "pipe killed", "server killed"])
async def test_a_process_that_ends_leaves_one_answer_and_comes_back(home: Home, method: str, end: str) -> None:
    async with home.device() as asker:
        async with home.tool() as pipe:
            await home.tools_are(1)
            pid = await home.process_watch.born()
            if method != "initialize":
                await asker.greets(1, CONSOLE)
            home.answers_all_but(method)
            asking = asyncio.create_task(request(asker, method))
            await home.asked_for()
            if end == "server killed":
                os.kill(pid, signal.SIGKILL)
            elif end == "pipe killed":
                await pipe.is_killed()
            else:
                pipe.process.terminate()
            ended_with(await asking, method, -32003)
            home.answers_all()
            await home.process_watch.ended(pid)  # also when only the pipe was killed
            if end == "server killed":  # the pipe brings it back
                assert await home.process_watch.born() != pid
                await home.tools_are(1)
                await is_usable_again(asker, home)
                return
        async with home.tool():
            await home.tools_are(1)
            await is_usable_again(asker, home)


@pytest.mark.row("E12", "E13", "D18")
async def test_a_half_open_pipe_is_found_and_its_successor_serves(side_by_side: Callable[[Story], Awaitable[None]]) -> None:
    """Stopped, not closed: nothing tells of it but the pings it does not answer."""

    async def story(home: Home, method: str) -> None:
        async with home.device() as asker, home.tool() as pipe:
            await home.tools_are(1)
            if method != "initialize":
                await asker.greets(1, CONSOLE)
            async with asleep(pipe.process.pid):
                loop = asyncio.get_running_loop()
                began = loop.time()
                ended_with(await request(asker, method), method, -32003)
                assert loop.time() - began < DEADLINE
                async with home.tool():
                    await home.tools_are(1)
                    await is_usable_again(asker, home)

    await side_by_side(story)


@pytest.mark.row("U12")
async def test_a_tool_that_comes_back_beside_its_half_open_pipe_is_used_at_once(home: Home) -> None:
    """The old link need not be found dead first; nobody is sent away, and its end takes nothing from the new one."""
    async with home.device() as asker, home.tool() as pipe:
        await home.tools_are(1)
        old = await home.process_watch.born()
        await asker.greets(1, CONSOLE)
        assert await asker.names(2) == {"pid"}
        async with asleep(pipe.process.pid), home.tool():
            new = await home.process_watch.born()
            assert new != old
            await home.until(lambda found: [each["functions"] for each in found["tools"]][-1:] == [["pid"]])
            assert text_of(await asker.calls(3, "pid")) == str(new)
            await home.tools_are(1)
            assert text_of(await asker.calls(4, "pid")) == str(new)


@pytest.mark.row("U14", "D6")
async def test_a_server_that_does_not_answer_is_answered_for_and_used_again(side_by_side: Callable[[Story], Awaitable[None]]) -> None:
    async def story(home: Home, method: str) -> None:
        async with home.device() as asker, home.tool():
            await home.tools_are(1)
            if method != "initialize":
                await asker.greets(1, CONSOLE)
            home.answers_all_but(method)
            ended_with(await request(asker, method), method, -32006)
            home.answers_all()
            await is_usable_again(asker, home)

    await side_by_side(story)


@pytest.mark.row("U14", "D10")
async def test_what_a_server_says_after_its_deadline_reaches_nobody(side_by_side: Callable[[Story], Awaitable[None]]) -> None:
    """The server sleeps while it is asked and answers when it wakes; the request has been answered by then."""

    async def story(home: Home, method: str) -> None:
        async with home.device() as asker, home.tool():
            pid = await home.process_watch.born()
            await home.tools_are(1)
            if method != "initialize":
                await asker.greets(1, CONSOLE)
            async with asleep(pid):
                ended_with(await request(asker, method), method, -32006)
            await is_usable_again(asker, home)

    await side_by_side(story)


@pytest.mark.parametrize("end", ["closed", "killed"])
async def test_a_pipe_that_ends_between_initialize_and_initialized_is_replaced_unnoticed(home: Home, end: str) -> None:
    async with home.device() as asker:
        async with home.tool() as pipe:
            await home.tools_are(1)
            hello = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": CONSOLE, "version": "1"}}
            assert (await asker.asks(1, "initialize", hello))["result"]["serverInfo"]["name"] == "quiet"
            if end == "killed":
                await pipe.is_killed()
            else:
                pipe.process.terminate()
            await home.tools_are(0)
        await asker.connection.send('{"jsonrpc": "2.0", "method": "notifications/initialized"}')
        async with home.tool():
            await home.tools_are(1)
            await is_usable_again(asker, home)


@pytest.mark.row("U18")
async def test_a_call_made_while_the_tool_restarts_waits_for_it(home: Home) -> None:
    """Its server is killed; the pipe brings a new one, and the call that came meanwhile is answered by that."""
    async with home.device() as asker, home.tool():
        pid = await home.process_watch.born()
        await home.tools_are(1)
        await asker.greets(1, CONSOLE)
        assert await asker.names(2) == {"pid"}
        os.kill(pid, signal.SIGKILL)
        await home.tools_are(0)
        answer = await asker.calls(3, "pid")
        assert text_of(answer) == str(await home.process_watch.born())


async def test_a_list_xiaozhi_server_waits_for_survives_the_death_of_the_tool(home: Home) -> None:
    """It asks once in a device's session and never again."""
    async with home.device() as asker, home.tool():
        pid = await home.process_watch.born()
        await home.tools_are(1)
        await asker.greets(1)
        home.answers_all_but("tools/list")
        listing = asyncio.create_task(asker.names(2))
        await home.asked_for()
        os.kill(pid, signal.SIGKILL)
        await home.process_watch.ended(pid)
        home.answers_all()
        assert await listing == {"pid"}


@pytest.mark.row("E3")
async def test_a_device_that_is_gone_with_calls_in_flight_leaves_none_behind(home: Home) -> None:
    async with home.tool():
        await home.tools_are(1)
        home.answers_all_but("tools/call")
        async with connect(address(home.running, "call", home.token)) as socket:
            for id in (1, 1, 2):
                await socket.send('{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"pid"}}' % id)
            await home.asked_for(3)
            socket.transport.abort()
            await home.until(lambda found: found["in_flight"] == 0 and not found["devices"])
            await home.asked_for(0)
        home.answers_all()
        async with home.device() as asker:
            await asker.greets(1, CONSOLE)
            await is_usable_again(asker, home)


@pytest.mark.row("U11", "D4")
async def test_two_pipes_killed_in_turn_leave_the_other_one_alone(running: Program, home: Home, pythons: dict[str, str]) -> None:
    """One quiet server and one made with an SDK, on one token."""
    async with home.device() as asker:
        await asker.greets(1, CONSOLE)
        async with home.tool() as first, tool(running, pythons["mcp-1.30"], HERE / "slow_server.py", "sleeper", token=home.token) as second:
            await home.until(lambda found: sorted(len(each["functions"]) for each in found["tools"]) == [1, 2])
            assert len(await asker.names(2)) == 3
            await first.is_killed()
            assert text_of(await asker.calls(3, "sleep", seconds=0)) == "slept 0"
            async with home.tool():
                await home.until(lambda found: sorted(len(each["functions"]) for each in found["tools"]) == [1, 2])
                assert len(await asker.names(2)) == 3
                asking = asyncio.create_task(asker.calls(4, "sleep", seconds=60))
                await home.asked_for()
                await second.is_killed()
                assert (await asking)["error"]["code"] == -32003
                assert "pid" in await asker.names(2)
                await home.tools_are(1)
                assert (await asker.asks(5, "ping"))["result"] == {}


@pytest.mark.row("D14", "E3")
@pytest.mark.parametrize("kind", ["mcp-2", "mcp-1.30"])
@pytest.mark.parametrize("how", ["cancels", "leaves", "gives it too long"])
async def test_a_server_made_with_an_sdk_hears_that_nobody_waits_any_more(
    running: Program, home: Home, pythons: dict[str, str], kind: str, how: str
) -> None:
    """Its device cancels the call under the device's own id, is gone, or the call's deadline has passed."""
    ask = '{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"wait","arguments":{}}}'
    async with tool(running, pythons[kind], HERE / "patient_server.py", token=home.token), home.device() as other:
        await home.tools_are(1)
        await other.greets(1, CONSOLE)
        async with connect(address(running, "call", home.token)) as socket:
            await socket.send(ask)
            await home.asked_for()
            assert text_of(await other.calls(2, "given_up")) == "0"  # by now the call is in the server's hands
            if how == "cancels":
                await socket.send('{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}')
            elif how == "leaves":
                socket.transport.abort()
            await home.asked_for(0)
            async with asyncio.timeout(BOUND):
                while text_of(await other.calls(3, "given_up")) != "1":
                    pass
            if how == "gives it too long":
                assert '"code":-32006' in str(await asyncio.wait_for(socket.recv(), BOUND))
            elif how == "cancels":
                await socket.send('{"jsonrpc":"2.0","id":"b","method":"ping"}')
                assert '"id":"b"' in str(await asyncio.wait_for(socket.recv(), BOUND)), "a cancelled request was answered"


@pytest.mark.row("U14", "D14")
async def test_a_server_that_dies_of_a_cancelled_call_is_brought_back(running: Program, home: Home, pythons: dict[str, str]) -> None:
    """Servers made with the SDK of 2025 do: their next message ends them. Their pipe starts another, in the same device session."""
    async with tool(running, pythons["mcp-1.9"], HERE / "patient_server.py", token=home.token), home.device() as asker:
        await home.tools_are(1)
        await asker.greets(1, CONSOLE)
        assert "wait" in await asker.names(2)
        await asker.connection.send('{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"wait","arguments":{}}}')
        await home.asked_for()
        assert text_of(await asker.calls(3, "given_up")) == "0"
        await asker.connection.send('{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}')
        async with asyncio.timeout(2 * BOUND):
            while "error" in (answer := await asker.calls(3, "given_up")):
                assert answer["error"]["code"] == -32003
        assert text_of(answer) == "0", "it is the old one"
