"""The pipe with real processes and real sockets: what a tool hears, what an endpoint hears, and what happens when either dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fake_broker import TOKEN, FakeBroker, Said, piping
from process_watch import PATIENCE, ProcessWatch
from running import Program, full_pipe, program
from websockets.asyncio.client import ClientConnection, connect

from mcp_endpoint import backoff
from mcp_endpoint.commands import pipe
from mcp_endpoint.commands.pipe import Options
from mcp_endpoint.errors import GOING_AWAY, PROVIDER_GONE, RESTARTING, TOOL_ENDED, ConfigError, EndpointError
from mcp_endpoint.providers.command import Command, environment
from mcp_endpoint.providers.process import child

HERE = Path(__file__).parents[1]
ODD = HERE / "support" / "odd_server.py"


def _odd(*args: object, **named: str) -> Command:
    return Command(sys.executable, ("-I", "-S", str(ODD), *map(str, args)), environment(os.environ, named))


@pytest.fixture
async def gate() -> AsyncIterator[FakeBroker]:
    gate = FakeBroker()
    await gate.open()
    yield gate
    await gate.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait before the next attempt is very short."""
    monkeypatch.setattr(backoff, "LONGEST_SECONDS", 0.01)


# What passes


async def test_frames_pass_both_ways_with_chinese_text_unescaped(gate: FakeBroker) -> None:
    async with piping(gate.address, _=_odd()) as said:
        wire = await gate.link()
        assert await wire.ask("echo", 城市="杭州 ☂") == {"城市": "杭州 ☂"}
        await said.line("connected", f"ws://127.0.0.1:{gate.port}/mcp_endpoint/mcp/")


async def test_a_frame_reaches_the_tool_as_one_line_whatever_stands_between_its_tokens(gate: FakeBroker) -> None:
    """Raw CR/LF between tokens become blanks (stdio pipes are line-framed)."""
    async with piping(gate.address, _=_odd()):
        wire = await gate.link()
        await wire.connection.send('{"jsonrpc":\r\n"2.0",\n\n"id":1.00,\r"method":"raw","params":["\\n"]}\n')
        assert await wire.hear() == '{"jsonrpc":  "2.0",  "id":1.00, "method":"raw","params":["\\n"]}\n'


async def test_binary_frames_are_carried_and_empty_ones_are_not(gate: FakeBroker) -> None:
    async with piping(gate.address, _=_odd()):
        wire = await gate.link()
        await wire.connection.send("")
        await wire.connection.send(" \n")
        await wire.connection.send(b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}')
        assert await wire.hear() == [1]


async def test_an_answer_of_five_mebibytes_passes_whole(gate: FakeBroker) -> None:
    count = 5 * 1024 * 1024 // 3
    async with piping(gate.address, _=_odd()):
        wire = await gate.link()
        assert await wire.ask("big", letter="你", count=count) == "你" * count
        assert await wire.ask("echo", text="好" * count) == {"text": "好" * count}


@pytest.mark.row("U13")
async def test_noise_on_stdout_is_shown_harmless_and_dropped(gate: FakeBroker) -> None:
    async with piping(gate.address, noisy=_odd()) as said:
        wire = await gate.link()
        assert await wire.ask("noise") == "after the noise"
        shown = await said.line("noisy", "dropped", "Starting up")
        assert "\x1b" not in shown
        assert "\\x1b[31mred" in shown
        await said.line("dropped", "a log line of JSON")
        await said.line("dropped", "[1, 2]")
        assert sum("dropped" in line for line in said.lines) == 4


@pytest.mark.parametrize(
    ("said", "id"),
    [
        ('{"jsonrpc":"2.0","id":#,"result":{"mean":NaN}}', 1),
        ('{"jsonrpc":"2.0","id":#,"result":"\xb2\xe2\xca\xd4"}', 1),  # 测试 in GBK
        ('{"jsonrpc":"2.0","result":Infinity}', None),
        ('{"jsonrpc":"2.0","id":#,"result":{},"result":{}}', 1),
        ('{"jsonrpc":"2.0","id":7,"id":8,"result":{}}', None),
    ],
)
async def test_an_answer_that_cannot_be_read_is_told_to_the_endpoint_and_the_operator(gate: FakeBroker, said: str, id: int | None) -> None:
    """With a null id where it shows none: the endpoint knows what is in flight."""
    async with piping(gate.address, _=_odd()) as told:
        wire = await gate.link()
        await wire.say({"jsonrpc": "2.0", "id": 1, "method": "says", "params": {"bytes": said}})
        heard = await wire.message()
        assert heard["id"] == id and heard["error"]["code"] == -32008
        await told.line("cannot be read")


async def test_an_answer_above_the_limit_is_told_as_too_large(gate: FakeBroker) -> None:
    async with piping(gate.address, _=_odd()):
        wire = await gate.link()
        await wire.say({"jsonrpc": "2.0", "id": 7, "method": "huge"})
        heard = await wire.message()
        assert heard["id"] == 7 and heard["error"]["code"] == -32007 and "too large" in heard["error"]["data"]["hint"]
        assert await wire.ask("echo", text="on") == {"text": "on"}


async def test_odd_spellings_of_an_answer_pass_the_pipe(gate: FakeBroker) -> None:
    """What stands before an answer is taken off; an id stays as the tool gave it back, because another broker may use strings."""
    async with piping(gate.address, _=_odd()):
        wire = await gate.link()
        for said in (
            '\xef\xbb\xbf{"jsonrpc":"2.0","id":#,"result":1}',
            'Loading... {"jsonrpc":"2.0","id":"#","result":1}',
            '{"id":#,"result":1}',
        ):
            await wire.say({"jsonrpc": "2.0", "id": 1, "method": "says", "params": {"bytes": said}})
            heard = await wire.message()
            assert heard == {"jsonrpc": "2.0", "id": "1" if '"#"' in said else 1, "result": 1}


async def test_an_endless_line_is_dropped_and_the_link_stays(gate: FakeBroker) -> None:
    async with piping(gate.address, _=_odd()) as said:
        wire = await gate.link()
        assert await wire.ask("endless") == "after the endless line"
        line = await said.line("a line of more than 8388608 bytes was dropped")
        assert len(line) < 1000


async def test_the_tool_sees_the_allowed_and_the_named_environment_only(gate: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "s3cret")
    async with piping(gate.address, _=_odd(NAMED="yes")):
        seen = await (await gate.link()).ask("environment")
        assert isinstance(seen, dict)
        assert seen["NAMED"] == "yes"
        assert "MY_SECRET" not in seen


# Who is who


@pytest.mark.row("U11")
async def test_each_server_has_its_own_link_with_its_name_as_server_id(gate: FakeBroker) -> None:
    async with piping(gate.address, calculator=_odd(), 天气=_odd()):
        pids = set()
        for _ in range(2):
            where = await (await gate.link()).ask("where")
            assert isinstance(where, dict)
            pids.add(where["pid"])
        assert len(pids) == 2
        queries = [parse_qs(urlsplit(path).query) for path in gate.paths]
        assert all(query["token"] == [TOKEN] for query in queries)
        assert sorted(query["server_id"][0] for query in queries) == ["calculator", "天气"]


async def test_an_address_that_names_its_server_is_used_as_it_is(gate: FakeBroker) -> None:
    async with piping(gate.address + "&server_id=mine", named=_odd()):
        await gate.link()
        assert gate.paths[0].endswith("&server_id=mine")


async def test_a_server_that_cannot_be_started_leaves_the_others_alone(gate: FakeBroker) -> None:
    async with piping(gate.address, bad=Command("no-such-program"), good=_odd()) as said:
        assert await (await gate.link()).ask("echo") == {}
        await said.line("bad", "left out", "not found")


async def test_with_nothing_to_run_the_reason_is_the_error() -> None:
    with pytest.raises(EndpointError, match="not found"):
        await pipe.serve(Options("ws://127.0.0.1:1/", {"bad": Command("no-such-program")}), Said())
    with pytest.raises(EndpointError, match="nothing to run"):
        await pipe.serve(Options("ws://127.0.0.1:1/", {}), Said())


# Who dies


async def test_a_tool_that_dies_is_noticed_at_once_and_comes_back(gate: FakeBroker, soon: None) -> None:
    """The original leaves the socket open; a call then waits for nobody."""
    async with piping(gate.address, _=_odd()) as said:
        wire = await gate.link()
        assert await wire.ask("die", status=3) == "last words"
        code, reason = await wire.close_reason()
        assert (code, reason) == (TOOL_ENDED.code, f"{TOOL_ENDED.reason} (status 3)")
        await said.line("the tool's process ended (status 3)")
        assert await (await gate.link()).ask("echo") == {}


async def test_a_tool_that_closes_its_output_is_restarted(gate: FakeBroker, soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "STDIN_SECONDS", 0.05)
    async with piping(gate.address, _=_odd()):
        wire = await gate.link()
        await wire.say({"jsonrpc": "2.0", "id": 1, "method": "mute"})
        assert await wire.close_reason() == TOOL_ENDED
        assert await (await gate.link()).ask("echo") == {}


async def test_a_tool_that_never_answers_neither_blocks_the_link_nor_the_end(gate: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in ("STDIN_SECONDS", "TERM_SECONDS"):
        monkeypatch.setattr(child, wait, 0.05)
    async with ProcessWatch() as process_watch:
        async with piping(gate.address, _=_odd(process_watch.port)):
            wire = await gate.link()
            pid = await process_watch.born()
            await wire.say({"jsonrpc": "2.0", "id": 7, "method": "silent"})
            assert await wire.ask("stubborn") == "will stay"
            await asyncio.wait_for(await wire.connection.ping(), PATIENCE)
        assert await wire.close_reason() == GOING_AWAY
        await process_watch.ended(pid)


async def test_each_link_gets_a_fresh_process_and_the_old_one_ends_with_its_helpers(gate: FakeBroker, soon: None) -> None:
    async with ProcessWatch() as process_watch, piping(gate.address, _=_odd(process_watch.port)):
        wire = await gate.link()
        old = await process_watch.born()
        await wire.ask("fork")
        helper = await process_watch.born()
        await wire.connection.close(RESTARTING.code, RESTARTING.reason)
        await process_watch.ended(old)
        await process_watch.ended(helper)
        await gate.link()
        assert await process_watch.born() != old


@pytest.mark.row("U18")
async def test_after_a_restart_of_the_broker_the_tool_is_back_soon(gate: FakeBroker) -> None:
    """Its first waits are short; how soon it is back is their sum (U18: within three seconds)."""
    async with piping(gate.address, _=_odd()) as said:
        assert await (await gate.link()).ask("echo") == {}
        await gate.close(RESTARTING.code, RESTARTING.reason)
        first = _next_attempt(await said.line(f"{RESTARTING.code} {RESTARTING.reason}"))
        second = _next_attempt(await said.line("cannot reach"))
        await gate.open()
        wire = await gate.link()
        assert first <= backoff.FIRST_SECONDS
        assert second <= backoff.FIRST_SECONDS * backoff.GROWTH
        assert await wire.ask("echo", again="是") == {"again": "是"}


async def test_a_token_of_free_choice_is_told_of_once_it_is_linked(gate: FakeBroker) -> None:
    gate.accepts = {"X-Free-Form-Endpoint": "opaque-12345678"}
    async with piping(gate.address, _=_odd()) as said:
        await said.line("自定义令牌", "free-form token, endpoint opaque-12345678", "made with another key")


async def test_the_process_is_started_only_once_the_link_is_accepted(gate: FakeBroker, soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "SLOW_LONGEST_SECONDS", 0.01)
    gate.refusals = [503, 502, 401]
    async with ProcessWatch() as process_watch, piping(gate.address, _=_odd(process_watch.port)) as said:
        await gate.link()
        await process_watch.born()
        assert process_watch._born.empty()
        assert len(gate.paths) == 4
        await said.line("HTTP 503")
        await said.line("HTTP 401", "令牌无效")


# When it comes again


def _next_attempt(line: str) -> float:
    return float(line.rpartition("next attempt in ")[2].removesuffix(" s"))


@pytest.mark.parametrize("status", [401, 403, 404, 429])
async def test_a_refusal_that_has_to_be_mended_is_not_repeated_soon(gate: FakeBroker, status: int) -> None:
    gate.refusals = [status]
    async with piping(gate.address, _=_odd()) as said:
        assert _next_attempt(await said.line(f"HTTP {status}")) >= backoff.SLOW_FIRST_SECONDS * backoff.JITTER


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_refusal_that_passes_is_tried_again_soon(gate: FakeBroker, status: int) -> None:
    gate.refusals = [status]
    async with piping(gate.address, _=_odd()) as said:
        assert _next_attempt(await said.line(f"HTTP {status}")) <= backoff.FIRST_SECONDS
        await gate.link()


async def test_retry_after_is_obeyed(gate: FakeBroker) -> None:
    gate.refusals, gate.headers = [503], {"Retry-After": "17"}
    async with piping(gate.address, _=_odd()) as said:
        assert _next_attempt(await said.line("HTTP 503")) == 17.0


@pytest.mark.parametrize(
    ("code", "slow"), [(1000, False), (1001, False), (1008, True), (1011, False), (1012, False), (1013, False), (4003, True)]
)
async def test_close_codes_say_when_to_come_back(gate: FakeBroker, code: int, slow: bool) -> None:
    async with piping(gate.address, _=_odd()) as said:
        wire = await gate.link()
        await wire.ask("echo")
        await wire.connection.close(code, "你 \x1b")
        wait = _next_attempt(await said.line("link closed", f"({code} 你 \\x1b)"))
        assert wait >= backoff.SLOW_FIRST_SECONDS * backoff.JITTER if slow else wait <= backoff.FIRST_SECONDS


async def test_nobody_there_is_told_without_the_token() -> None:
    closed = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = closed.sockets[0].getsockname()[1]
    closed.close()
    await closed.wait_closed()
    async with piping(f"ws://127.0.0.1:{port}/mcp_endpoint/mcp/?token={TOKEN}", _=_odd()) as said:
        await said.line("cannot reach", f"ws://127.0.0.1:{port}/mcp_endpoint/mcp/ ")


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""])
async def test_something_else_on_the_port_is_told(answer: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, piping(f"ws://127.0.0.1:{port}/x?token={TOKEN}", _=_odd()) as said:
        await said.line("next attempt")


# The program

PROGRAM = "import sys; from mcp_endpoint.commands.main import main; main(arguments=sys.argv[1:])"


@asynccontextmanager
async def _program(
    *words: object, stderr: int = asyncio.subprocess.PIPE, before: str = "", **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`mcp-endpoint pipe WORDS` with these environment variables, after the Python statements `before`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", before + PROGRAM, "pipe", *map(str, words)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=os.environ | {"PYTHONPATH": str(HERE.parent / "src"), "PYTHONWARNINGS": "error", "PYTHONUTF8": "1"} | variables,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.communicate(), PATIENCE)


def _command_line(address: str, *args: object) -> tuple[object, ...]:
    return ("--endpoint", address, "--", sys.executable, "-I", "-S", ODD, *args)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_ctrl_c_and_sigterm_end_it_clean(gate: FakeBroker, number: signal.Signals) -> None:
    async with ProcessWatch() as process_watch, _program(*_command_line(gate.address, process_watch.port)) as process:
        wire = await gate.link()
        pid = await process_watch.born()
        process.send_signal(number)
        assert await wire.close_reason() == GOING_AWAY
        await process_watch.ended(pid)
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0
        assert out == b""
        assert "已结束 / ended" in err.decode()
        assert "Traceback" not in err.decode()
        assert TOKEN not in err.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and signals of POSIX")
async def test_a_stderr_that_nobody_reads_stops_no_frame_and_a_closing_terminal_ends_it_clean(gate: FakeBroker) -> None:
    """The tool's noise would be told on stderr. SIGHUP comes twice, as from a shell that ends; the child is gone too."""
    reading, writing = full_pipe()
    try:
        async with ProcessWatch() as process_watch, _program(*_command_line(gate.address, process_watch.port), stderr=writing) as process:
            wire = await gate.link()
            pid = await process_watch.born()
            for _ in range(3):
                assert await wire.ask("noise") == "after the noise"
            process.send_signal(signal.SIGHUP)
            assert await wire.close_reason() == GOING_AWAY
            process.send_signal(signal.SIGHUP)
            await process_watch.ended(pid)
            assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
async def test_a_second_signal_skips_the_waits(gate: FakeBroker) -> None:
    """Each of them would be longer than this test waits."""
    long = f"from mcp_endpoint.providers.process import child; child.STDIN_SECONDS = child.TERM_SECONDS = {100 * PATIENCE}\n"
    async with ProcessWatch() as process_watch, _program(*_command_line(gate.address, process_watch.port), before=long) as process:
        wire = await gate.link()
        pid = await process_watch.born()
        assert await wire.ask("stubborn") == "will stay"
        process.send_signal(signal.SIGTERM)
        assert await wire.close_reason() == GOING_AWAY
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        await process_watch.ended(pid)
        assert process.returncode == 0
        assert "Traceback" not in err.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
async def test_kill_9_leaves_no_orphan_behind(gate: FakeBroker) -> None:
    """Threat: tools that outlive the program that started them. Not even those that ignore SIGTERM, nor what they have forked."""
    async with ProcessWatch() as process_watch, _program(*_command_line(gate.address, process_watch.port)) as process:
        wire = await gate.link()
        tool = await process_watch.born()
        await wire.ask("fork")
        helper = await process_watch.born()
        assert await wire.ask("stubborn") == "will stay"
        process.kill()
        await process_watch.ended(tool)
        await process_watch.ended(helper)


async def test_the_command_line_names_the_server_and_hands_on_variables(gate: FakeBroker) -> None:
    words = ("--name", "天气", "--env", "KEY=k", "--env", "HANDED", sys.executable, "-I", "-S", ODD, 0, "--name", "x")
    async with _program(*words, MCP_ENDPOINT=gate.address, HANDED="on", MY_SECRET="s3cret"):
        wire = await gate.link()
        seen = await wire.ask("environment")
        assert isinstance(seen, dict)
        assert (seen["KEY"], seen["HANDED"]) == ("k", "on")
        assert "MY_SECRET" not in seen
        assert "MCP_ENDPOINT" not in seen
        where = await wire.ask("where")
        assert isinstance(where, dict)
        assert where["argv"] == ["--name", "x"]
        assert parse_qs(urlsplit(gate.paths[0]).query)["server_id"] == ["天气"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
async def test_the_command_line_runs_every_server_of_a_block(gate: FakeBroker, tmp_path: Path) -> None:
    entry = {"command": sys.executable, "args": ["-I", "-S", str(ODD)]}
    block = {"mcpServers": {"a": entry, "b": entry, "c": {**entry, "disabled": True}, "d": {"url": "http://127.0.0.1/mcp"}}}
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps(block), "utf-8")
    async with _program("--endpoint", gate.address, "--config", file) as process:
        for _ in range(2):
            assert await (await gate.link()).ask("echo") == {}
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0
        assert "c: disabled" in err.decode()
        assert "reached by URL, which is for [providers] file; left out" in err.decode()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 2, "-- COMMAND"),
        (("--config", "x.json", "--", "y"), 2, "--config FILE"),
        (("--config", "x.json", "--name", "y"), 2, "--name"),
        (("--", "x"), 78, "MCP_ENDPOINT"),
        (("--endpoint", "ws://127.0.0.1:1/", "--config", "no-such.json"), 78, "no-such.json"),
        (("--endpoint", "ws://127.0.0.1:1/", "--", "no-such-program"), 1, "no-such-program"),
    ],
)
async def test_a_mistake_on_the_command_line_is_told_and_ends_it(words: tuple[str, ...], status: int, said: str) -> None:
    async with _program(*words, MCP_ENDPOINT="") as process:
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == status
        assert said in err.decode()
        assert "Traceback" not in err.decode()


# With the real broker


class Device:
    """A device at the broker that `program` runs."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def says(self, **message: object) -> None:
        await self.connection.send(json.dumps({"jsonrpc": "2.0"} | message))

    async def hears(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            while True:
                message: dict[str, Any] = json.loads(await self.connection.recv())
                if wanted(message):
                    return message

    async def asks(self, number: int, method: str, **params: object) -> dict[str, Any]:
        await self.says(id=number, method=method, params=params)
        answer = await self.hears(lambda message: message.get("id") == number)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def finds_a_tool(self) -> None:
        """Greets, and returns once there is a tool."""
        await self.asks(0, "initialize", protocolVersion="2024-11-05", capabilities={}, clientInfo={"name": "test", "version": "1"})
        await self.says(method="notifications/initialized")
        if not (await self.asks(1, "tools/list"))["tools"]:
            await self.hears(lambda message: message.get("method") == "notifications/tools/list_changed")
        assert [tool["name"] for tool in (await self.asks(2, "tools/list"))["tools"]] == ["calculator"]

    async def computes(self, expression: str) -> object:
        result = await self.asks(3, "tools/call", name="calculator", arguments={"python_expression": expression})
        return json.loads(result["content"][0]["text"])["result"]


@asynccontextmanager
async def _device(broker: Program) -> AsyncIterator[Device]:
    async with connect(f"ws://127.0.0.1:{broker.port}/mcp_endpoint/call/?token={broker.token}", proxy=None) as connection:
        yield Device(connection)


@pytest.mark.row("U1", "U18")
async def test_the_broker_is_killed_and_started_again_and_the_next_call_works(tmp_path: Path) -> None:
    calculator = Command(sys.executable, (str(HERE.parent / "examples" / "calculator.py"),), environment(os.environ, {}))
    async with program(tmp_path, "--root", str(tmp_path), "serve", "--port", "0") as first:
        await first.listens()
        address = f"ws://127.0.0.1:{first.port}/mcp_endpoint/mcp/?token={first.token}"
        async with piping(address, calculator=calculator) as said:
            async with _device(first) as device:
                await device.finds_a_tool()
                assert await device.computes("130000 * 130000") == 16_900_000_000
            first.process.kill()
            # The next call waits for the tool, and the tool for its back-off: it begins with the shortest wait.
            assert _next_attempt(await said.line("link closed")) <= backoff.FIRST_SECONDS
            async with program(tmp_path, "--root", str(tmp_path), "serve", "--port", str(first.port)) as second:
                await second.listens()
                async with _device(second) as device:
                    await device.finds_a_tool()
                    assert await device.computes("6 * 7") == 42


@pytest.mark.row("U1")
async def test_a_tool_that_dies_in_a_call_is_back_for_the_same_device(tmp_path: Path) -> None:
    """The call in flight is answered at once, the next one finds the new process: the device's socket never closes for it."""
    async with program(tmp_path, "--root", str(tmp_path), "serve", "--port", "0") as broker:
        await broker.listens()
        address = f"ws://127.0.0.1:{broker.port}/mcp_endpoint/mcp/?token={broker.token}"
        async with piping(address, _=_odd()) as said, _device(broker) as device:
            await said.line("connected")
            assert await device.asks(1, "echo", city="杭州") == {"city": "杭州"}
            await device.says(id=2, method="kill")
            answer = await device.hears(lambda message: message.get("id") == 2)
            assert answer["error"]["code"] == PROVIDER_GONE.number
            assert answer["error"]["data"]["delivered"] is True
            assert await device.asks(3, "echo", again=True) == {"again": True}


# What it is told


def test_the_address_is_the_one_given_or_that_of_the_environment() -> None:
    environ = {"MCP_ENDPOINT": " 'wss://a/mcp/?token=x+y' "}
    assert pipe.endpoint_address(None, environ) == "wss://a/mcp/?token=x+y"
    assert pipe.endpoint_address("ws://b/?token=1", environ) == "ws://b/?token=1"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "no endpoint"),
        ("http://h/mcp_endpoint/mcp/?token=canary", "not a ws://"),
        ("ws://?token=canary", "not a ws://"),
        ("ws://h:port/?token=canary", "not a ws://"),
        ("ws://h/mcp_endpoint/call/?token=canary", "for devices"),
        ("ws://h/mcp_endpoint/mcp/?token=...", "placeholder"),
        ("ws://h/mcp_endpoint/mcp/?token=YOUR_TOKEN&server_id=x", "placeholder"),
    ],
)
def test_an_address_that_cannot_be_one_is_told_without_its_token(given: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        pipe.endpoint_address(given, {})
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.zh != caught.value.en


def test_named_variables_are_set_or_handed_on() -> None:
    assert pipe.named_variables(["A", "B=", "C=x=y"], {"A": "1", "D": "2"}) == {"A": "1", "B": "", "C": "x=y"}
    with pytest.raises(ConfigError, match="NONE"):
        pipe.named_variables(["NONE"], {})


def test_a_server_without_a_name_is_called_by_its_program() -> None:
    title: Callable[[str, Command], str] = pipe._title
    assert title("", Command("/usr/bin/python3", ("--key", "s3cret"))) == "python3"
    assert title("天气", Command("x")) == "天气"
