"""`python main.py` as a process of its own: the first start, the signals, every mistake a person can make."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from running import BOUND, KEY, MAIN, Program, full_pipe, get, program
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.log import LINES_A_MINUTE

SECONDS_TO_ANSWER = 1.0
CALLS = 20


async def close_reason(link: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(BOUND):
            while True:
                await link.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


async def answer_slowly(link: ClientConnection) -> int:
    """A tool that takes a second over each call, as many at once as come; the close code it heard."""

    async def answer(number: int) -> None:
        await asyncio.sleep(SECONDS_TO_ANSWER)
        await link.send(json.dumps({"jsonrpc": "2.0", "id": number, "result": {"content": []}}))

    try:
        async with asyncio.TaskGroup() as calls:
            async for frame in link:
                calls.create_task(answer(json.loads(frame)["id"]))
    except* ConnectionClosed:
        pass
    return link.close_code or 0


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Program]:
    async with program(tmp_path, "--root", str(tmp_path), "serve", "--port", "0") as running:
        await running.listens()
        yield running


def tool(running: Program) -> connect:
    return connect(f"ws://127.0.0.1:{running.port}/mcp_endpoint/mcp/?token={running.token}")


def device(running: Program) -> connect:
    return connect(f"ws://127.0.0.1:{running.port}/mcp_endpoint/call/?token={running.token}")


async def calls_in_flight(running: Program, count: int) -> None:
    async with asyncio.timeout(BOUND):
        while json.loads((await get(running.port, "/stats")).body)["in_flight"] < count:
            pass


async def ask(link: ClientConnection, count: int) -> None:
    for number in range(count):
        await link.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "slow", "arguments": {}}}))


@pytest.mark.row("E21", "E6", "E30")
async def test_the_seeds_own_commands_give_a_listening_server(tmp_path: Path) -> None:
    """E21: the example is copied by hand, then `python main.py`. E30's layout is met by the rooms of design §2, main.py, data/, logs/."""
    for name in ("main.py", "mcp-endpoint-server.cfg", "requirements.txt"):
        shutil.copy(MAIN.parent / name, tmp_path)
    shutil.copytree(MAIN.parent / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (tmp_path / "data").mkdir()
    shutil.copy(tmp_path / "mcp-endpoint-server.cfg", tmp_path / "data/.mcp-endpoint-server.cfg")
    async with program(tmp_path, main=tmp_path / "main.py", environ={"MES_SERVER_PORT": "0"}) as running:
        await running.listens()
        assert json.loads((await get(running.port, "/health")).body)["status"] == "ok"
        assert (await get(running.port, "/stats")).status == 200
        running.process.terminate()
        assert await running.ends() == 0
    assert "listening" in (tmp_path / "logs/mcp_server.log").read_text("utf-8")


@pytest.mark.row("E6", "E17", "U2")
async def test_a_first_start_makes_the_file_and_a_key_that_lasts(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        async with program(tmp_path, "--root", str(tmp_path), "serve", "--port", "0") as running:
            await running.listens()
            keys.append(running.key)
            running.process.terminate()
            assert await running.ends() == 0
    assert keys[0] == keys[1]
    assert len(keys[0]) == 32
    live = tmp_path / "data/.mcp-endpoint-server.cfg"
    assert keys[0] in live.read_text("utf-8")
    if os.name == "posix":
        assert live.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "logs/mcp_server.log").exists()


@pytest.mark.row("D28", "U6", "E28")
async def test_the_addresses_are_printed_once_and_no_secret_reaches_the_log(started: Program) -> None:
    async with tool(started), device(started) as asking:
        await ask(asking, 1)
        await calls_in_flight(started, 1)
        await get(started.port, f"/mcp_endpoint/health?key={started.key}")
        await get(started.port, "/mcp_endpoint/health?key=not-the-right-key-at-all")
    started.process.terminate()
    assert await started.ends() == 0
    assert started.printed.count(started.key) == 1
    assert started.printed.count("token=") == 1
    for log in (started.log, (started.root / "logs/mcp_server.log").read_text("utf-8")):
        assert "single_module" in log
        for secret in (started.key, started.token, "token=", "not-the-right-key-at-all"):
            assert secret not in log


@pytest.mark.row("D1", "E27")
async def test_a_stop_lets_twenty_calls_of_a_second_finish_then_says_1012_and_ends_with_0(started: Program) -> None:
    async with tool(started) as answering, device(started) as asking:
        slow = asyncio.create_task(answer_slowly(answering))
        await ask(asking, CALLS)
        await calls_in_flight(started, CALLS)
        started.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(BOUND):
            answers = [json.loads(await asking.recv()) for _ in range(CALLS)]
        assert sorted(answer["id"] for answer in answers) == list(range(CALLS))
        assert all(answer["result"] == {"content": []} for answer in answers)
        assert await close_reason(asking) == 1012
        assert await asyncio.wait_for(slow, BOUND) == 1012
    assert await started.ends() == 0


async def test_an_interrupt_from_the_keyboard_stops_as_orderly(started: Program) -> None:
    async with device(started) as asking:
        started.process.send_signal(signal.SIGINT)
        assert await close_reason(asking) == 1012
    assert await started.ends() == 0
    assert "Traceback" not in started.log


async def test_a_second_signal_ends_at_once(started: Program) -> None:
    loop = asyncio.get_running_loop()
    async with tool(started), device(started) as asking:
        await ask(asking, 1)
        await calls_in_flight(started, 1)
        started.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(BOUND):
            while (await get(started.port, "/ready")).status == 200:
                pass
        began = loop.time()
        started.process.send_signal(signal.SIGTERM)
        assert json.loads(await asyncio.wait_for(asking.recv(), BOUND))["error"]["code"] == -32003
        assert await close_reason(asking) == 1012
        assert await started.ends() == 0
        assert loop.time() - began < 5  # drain_seconds is 25


async def test_a_data_folder_that_cannot_be_written_means_a_key_for_this_run_and_a_warning(tmp_path: Path) -> None:
    # A file where the folder belongs cannot be written into by anybody, also not by root.
    (tmp_path / "data").touch()
    async with program(tmp_path, "--root", str(tmp_path), "serve", "--port", "0") as running:
        await running.listens()
        assert len(running.key) == 32
        async with device(running) as asking:
            await asking.send('{"jsonrpc":"2.0","id":1,"method":"ping"}')
            assert json.loads(await asyncio.wait_for(asking.recv(), BOUND))["result"] == {}
        running.process.terminate()
        assert await running.ends() == 0
        assert "WARNING" in running.log
        assert running.key not in running.log


# -- many of them, and their end ---------------------------------------------------------------------------------------------


def room_for(descriptors: int) -> None:
    """Raise this process's own limit of open files: it plays all the peers."""
    resource = pytest.importorskip("resource", reason="limits of open files are set by the resource module, which POSIX has")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))


def descriptors_of(running: Program) -> int:
    """Open descriptors of the server, 0 where the system does not tell."""
    folder = Path(f"/proc/{running.process.pid}/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


async def counts(running: Program) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((await get(running.port, "/stats")).body)
    return told


@pytest.mark.row("E1")
async def test_a_thousand_links_at_once_are_held_and_every_call_is_answered(started: Program) -> None:
    """500 endpoints, each with a tool and a device: as many links as `max_connections` allows by default."""
    room_for(2_048)
    codec = TokenCodec(started.key)

    async def pair(number: int, stack: AsyncExitStack) -> tuple[ClientConnection, ClientConnection]:
        base = f"ws://127.0.0.1:{started.port}/mcp_endpoint"
        token = codec.make_signed(f"home-{number}")
        one, other = connect(f"{base}/mcp/?token={token}", open_timeout=BOUND), connect(f"{base}/call/?token={token}", open_timeout=BOUND)
        return await stack.enter_async_context(one), await stack.enter_async_context(other)

    async def round_trip(number: int, tool: ClientConnection, device: ClientConnection) -> None:
        await device.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": f"t{number}"}}))
        asked = json.loads(await tool.recv())
        assert asked["params"] == {"name": f"t{number}"}
        await tool.send(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": number}))
        assert json.loads(await device.recv()) == {"jsonrpc": "2.0", "id": number, "result": number}

    async with AsyncExitStack() as stack, asyncio.timeout(6 * BOUND):
        pairs = []
        for first in range(0, 500, 50):
            pairs += await asyncio.gather(*(pair(number, stack) for number in range(first, first + 50)))
        now = await counts(started)
        assert (now["tool_connections"], now["device_connections"]) == (500, 500)
        await asyncio.gather(*(round_trip(number, *links) for number, links in enumerate(pairs)))
        now = await counts(started)
        assert (now["in_flight"], now["counters"]["answers"]) == (0, 500)
        assert not any(name.startswith("refused") for name in now["counters"])


@pytest.mark.row("E3", "D30")
async def test_a_thousand_peers_that_come_and_go_leave_nothing_behind(started: Program) -> None:
    await counts(started)
    before = descriptors_of(started)
    for _ in range(50):
        await asyncio.gather(*(come_and_go(started, side) for side in ("mcp", "call") * 10))
    async with asyncio.timeout(BOUND):
        while (now := await counts(started))["endpoints"]:
            pass
    assert (now["tool_connections"], now["device_connections"], now["in_flight"]) == (0, 0, 0)
    assert now["counters"]["links_accepted"] == 1_000
    async with asyncio.timeout(BOUND):
        while descriptors_of(started) > before:
            await counts(started)


async def come_and_go(running: Program, side: str) -> None:
    async with connect(f"ws://127.0.0.1:{running.port}/mcp_endpoint/{side}/?token={running.token}", open_timeout=BOUND):
        pass


@pytest.mark.row("E3")
async def test_a_peer_that_is_killed_vanishes_from_the_stats(started: Program) -> None:
    address = f"ws://127.0.0.1:{started.port}/mcp_endpoint/mcp/?token={started.token}"
    script = f"from websockets.sync.client import connect\nwith connect({address!r}) as link:\n    link.recv()\n"
    peer = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stderr=subprocess.DEVNULL)
    async with asyncio.timeout(BOUND):
        while not (await counts(started))["tool_connections"]:
            pass
        peer.kill()
        await peer.wait()
        while (await counts(started))["tool_connections"]:
            pass


@pytest.mark.row("U3", "D25")
@pytest.mark.parametrize("token", ["", TokenCodec(KEY).make_xiaozhi("single_module"), "mep1.e30.AAAA", "A" * 43 + "="])
async def test_a_token_that_opens_nothing_is_refused_before_there_is_a_socket(token: str, started: Program) -> None:
    """U3 is the original's 101 followed by close 1008; design §4 refuses with HTTP 401 before 101, so that peers know at once."""
    for side in ("mcp", "call"):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://127.0.0.1:{started.port}/mcp_endpoint/{side}/?token={quote(token, safe='')}"):
                pass
        response = refused.value.response
        assert response.status_code == 401
        assert json.loads(response.body)["error"] == ("bad token" if token else "no token")
    assert token == "" or token not in started.log


async def test_print_addresses_false_prints_nothing(tmp_path: Path) -> None:
    arguments = ("serve", "--port", "0", "--set", "server.print_addresses=false")
    async with program(tmp_path, "--root", str(tmp_path), *arguments) as running:
        async with asyncio.timeout(BOUND):
            while "listening" not in running.log:  # noqa: ASYNC110 - the event is in another process
                await asyncio.sleep(0)
        running.process.terminate()
        assert await running.ends() == 0
        assert running.printed == ""


def refused(root: Path, *arguments: str, **environ: str) -> tuple[int, str]:
    """Exit status and complaint of a start that must fail."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MES_")}
    command = [sys.executable, str(MAIN), "--root", str(root), *arguments]
    ended = subprocess.run(command, env=bare | environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=BOUND, encoding="utf-8")
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


PLACE = "data/.mcp-endpoint-server.cfg"


@pytest.mark.row("E20", "D26")
@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("[server\nport = 1\n", f"{PLACE}:1:1", "[section]"),
        ('[server]\nhost = "::\nport = 1\n', f"{PLACE}:2:", "TOML"),
        ('[server]\nhost = 0.0.0.0\nname = "x"\n', f"{PLACE}:2:", "TOML"),
        ('[server]\nport = "eight"\n', f"{PLACE}:2:8", "server.port"),
        ("[server]\nport = 70000\n", f"{PLACE}:2:8", "server.port"),
        ("[server]\nprot = 8004\n", f"{PLACE}:2:1", 'did you mean "port"?'),
        ("[sever]\nport = 8004\n", f"{PLACE}:1", 'did you mean "server"?'),
        ("[websocket]\nping_interval = 0\n", f"{PLACE}:2:17", "websocket.ping_interval"),
        ('[server]\nlog_level = "LOUD"\n', f"{PLACE}:2:13", "server.log_level"),
        ('[logging]\nmax_file_size = "10 apples"\n', f"{PLACE}:2:17", "logging.max_file_size"),
        ("[server]\nhost = 127.0.0.1  # 注释\nport = viele\n", f"{PLACE}:3:8", "server.port"),
        ('[server]\ntls_cert = "cert.pem"\n', f"{PLACE}:2:12", "tls_key"),
        ("[server]\nport = 8004\nport = 8005\n", f"{PLACE}:3", ""),
    ],
)
def test_a_mistake_in_the_file_is_one_message_with_its_place_in_both_languages_and_exit_78(
    text: str, place: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / PLACE).write_text(text, "utf-8")
    status, complaint = refused(tmp_path)
    chinese, english = complaint.splitlines()
    assert status == 78
    assert chinese.startswith(place)
    assert english.startswith(place)
    assert words in english
    assert (tmp_path / PLACE).read_text("utf-8") == text


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (("serve", "--port", "banana"), {}, "command line: server.port"),
        (("serve", "--set", "server.prot=1"), {}, "command line: "),
        (("serve",), {"MES_SERVER_PORT": "-1"}, "environment MES_SERVER_PORT: "),
        (("serve", "--port", "0", "--host", "192.0.2.1"), {}, "command line: "),
        (("serve", "--port", "0", "--set", "server.tls_cert=no.pem", "--set", "server.tls_key=no.key"), {}, "command line: "),
    ],
)
def test_a_mistake_on_the_command_line_or_in_the_environment_names_it(
    arguments: tuple[str, ...], environ: dict[str, str], words: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / PLACE).write_text(f'[server]\nkey = "{KEY}"\n', "utf-8")
    status, complaint = refused(tmp_path, *arguments, **environ)
    assert status == 78
    assert words in complaint


def test_a_port_in_use_is_one_message_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / PLACE).write_text(f'[server]\nkey = "{KEY}"\n', "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as other:
        status, complaint = refused(tmp_path, "serve", "--port", str(other.getsockname()[1]))
    assert status == 1
    assert "占用" in complaint
    assert "in use" in complaint


def test_a_missing_package_is_one_line_that_says_what_to_run(tmp_path: Path) -> None:
    shutil.copy(MAIN, tmp_path)
    shutil.copytree(MAIN.parent / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (tmp_path / "src/click.py").write_text('raise ModuleNotFoundError("No module named \'click\'", name="click")\n')
    ended = subprocess.run([sys.executable, str(tmp_path / "main.py")], capture_output=True, timeout=BOUND, encoding="utf-8")
    assert ended.returncode == 1
    assert "pip install -r requirements.txt" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_python_too_old_is_told_instead_of_failing_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    scope: dict[str, Any] = {"__name__": "main", "__file__": str(MAIN)}
    exec(compile(MAIN.read_text("utf-8"), str(MAIN), "exec"), scope)
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit) as end:
        scope["start"]()
    assert "3.11" in str(end.value.code)


# -- an operator who is not there ----------------------------------------------------------------------------------------------


async def knock(port: int) -> None:
    """A handshake with a token that opens nothing."""
    with pytest.raises(InvalidStatus):
        async with connect(f"ws://127.0.0.1:{port}/mcp_endpoint/mcp/?token=mep1.e30.AAAA"):
            pass


def in_log(root: Path) -> str:
    """What the log file says so far."""
    file = root / "logs/mcp_server.log"
    return file.read_text("utf-8") if file.exists() else ""


async def port_in_log(root: Path) -> int:
    """The port, once it listens."""
    async with asyncio.timeout(BOUND):
        while not (found := re.search(r"listening.* port=(\d+)", in_log(root))):  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(0.01)
    return int(found[1])


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
@pytest.mark.row("E28")
async def test_a_console_that_nobody_reads_costs_lines_and_no_call_and_the_end_comes_in_time(tmp_path: Path) -> None:
    """Both stdout and stderr take nothing, from before the start on; strangers knock, and a device and its tool go on."""
    (reading, out), (reading_too, error) = full_pipe(), full_pipe()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.mcp-endpoint-server.cfg").write_text(f'[server]\nkey = "{KEY}"\nport = 0\n[logging]\nqueue_size = 2000\n')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(MAIN), "--root", str(tmp_path), "serve"), stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=error
    )
    try:
        port = await port_in_log(tmp_path)
        base, token = f"ws://127.0.0.1:{port}/mcp_endpoint", TokenCodec(KEY).make_signed("home")
        async with connect(f"{base}/mcp/?token={token}") as answering, connect(f"{base}/call/?token={token}") as asking:
            for number in range(30):
                await asyncio.gather(
                    *(knock(port) for _ in range(10)), asking.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "x"}))
                )
                heard = json.loads(await asyncio.wait_for(answering.recv(), BOUND))
                await answering.send(json.dumps({"jsonrpc": "2.0", "id": heard["id"], "result": number}))
                assert json.loads(await asyncio.wait_for(asking.recv(), BOUND))["result"] == number
            assert (await get(port, "/health")).status == 200
            for _ in range(20):
                async with connect(f"{base}/call/?token={token}"):
                    pass
        text = await asyncio.to_thread(read_until, reading_too, b"were not written")
        assert f"port={port}" in text and " 行日志未能写入" in text
        assert in_log(tmp_path).count("connection refused") == LINES_A_MINUTE
        process.terminate()
        assert await asyncio.wait_for(process.wait(), BOUND) == 0
    finally:
        if process.returncode is None:
            process.kill()
        for descriptor in (reading, out, reading_too, error):
            os.close(descriptor)
    assert "stopped" in in_log(tmp_path)


def read_until(descriptor: int, words: bytes) -> str:
    read = b""
    while words not in read:
        read += os.read(descriptor, 65_536)
    return read.lstrip(b"\0").decode()


@pytest.mark.skipif(os.name != "posix", reason="SIGHUP is POSIX")
@pytest.mark.row("D1")
async def test_a_terminal_that_closes_is_a_stop_like_any_other_and_says_so_twice_without_harm(started: Program) -> None:
    """Systemd's `SendSIGHUP=` and a shell that ends send SIGHUP beside other signals: nothing is lost by it."""
    async with tool(started) as answering, device(started) as asking:
        slow = asyncio.create_task(answer_slowly(answering))
        await ask(asking, CALLS)
        await calls_in_flight(started, CALLS)
        started.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(BOUND):
            while (await get(started.port, "/ready")).status == 200:
                pass
        started.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(BOUND):
            answers = [json.loads(await asking.recv()) for _ in range(CALLS)]
        assert sorted(answer["id"] for answer in answers) == list(range(CALLS))
        assert all(answer["result"] == {"content": []} for answer in answers)
        assert await close_reason(asking) == 1012
        assert await asyncio.wait_for(slow, BOUND) == 1012
    assert await started.ends() == 0


@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
async def test_a_terminal_that_is_gone_cannot_be_written_to_and_the_log_file_says_so_once(tmp_path: Path) -> None:
    """What is written to it fails with EIO from then on; whoever had SIGHUP ignored goes on serving."""
    master, terminal = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(MAIN), "--root", str(tmp_path), "serve", "--port", "0"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    try:
        port = await port_in_log(tmp_path)
        os.close(master)
        for _ in range(20):
            await knock(port)
        assert (await get(port, "/health")).status == 200
        process.send_signal(signal.SIGHUP)
        assert await asyncio.wait_for(process.wait(), BOUND) == 0
    finally:
        if process.returncode is None:
            process.kill()
    assert in_log(tmp_path).count("控制台无法写入 / the console cannot be written: [Errno 5]") == 1
    assert "stopped" in in_log(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="descriptors of POSIX")
async def test_without_stdin_stdout_and_stderr_it_serves_and_ends_as_always(tmp_path: Path) -> None:
    command = f"exec '{sys.executable}' '{MAIN}' --root '{tmp_path}' serve --port 0 <&- >&- 2>&-"
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", command)
    try:
        assert (await get(await port_in_log(tmp_path), "/health")).status == 200
        process.terminate()
        assert await asyncio.wait_for(process.wait(), BOUND) == 0
    finally:
        if process.returncode is None:
            process.kill()
    assert "stopped" in in_log(tmp_path)


@pytest.mark.skipif(shutil.which("nohup") is None, reason="nohup is not installed")
async def test_under_nohup_a_terminal_that_closes_is_no_reason_to_stop(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("nohup", sys.executable, str(MAIN), "--root", str(tmp_path), "serve", "--port", "0"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await port_in_log(tmp_path)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGCONT)
        for _ in range(5):
            assert (await get(port, "/ready")).status == 200
        process.terminate()
        assert await asyncio.wait_for(process.wait(), BOUND) == 0
    finally:
        if process.returncode is None:
            process.kill()


@pytest.mark.row("E28")
async def test_a_call_that_fails_is_one_line_of_json_and_a_figure_and_its_arguments_are_in_neither(tmp_path: Path) -> None:
    arguments = ("serve", "--port", "0", "--set", "logging.format=json")
    async with program(tmp_path, "--root", str(tmp_path), *arguments) as running:
        await running.listens()
        async with tool(running) as answering, device(running) as asking:
            for number, result in enumerate(({"content": [], "isError": True}, {"content": []})):
                params = {"name": "lights", "arguments": {"room": "hush-hush"}}
                await asking.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}))
                heard = json.loads(await asyncio.wait_for(answering.recv(), BOUND))
                await answering.send(json.dumps({"jsonrpc": "2.0", "id": heard["id"], "result": result}))
                await asyncio.wait_for(asking.recv(), BOUND)
            metrics = (await get(running.port, "/metrics")).body.decode()
        running.process.terminate()
        assert await running.ends() == 0
        written = running.log
    lines = [json.loads(line) for line in written.splitlines() if "call failed" in line]
    (line,) = lines
    assert isinstance(line.pop("milliseconds"), int) and line.pop("time")
    assert line == {
        "level": "INFO",
        "message": "调用失败 / call failed",
        "endpoint": "single_module",
        "tool": "lights",
        "provider": "",
        "outcome": "tool_error",
    }
    assert "hush-hush" not in written + metrics
    for outcome in ("ok", "tool_error"):
        assert f'mcp_endpoint_calls_total{{endpoint="single_module",outcome="{outcome}",tool="lights"}} 1.0' in metrics
    assert 'mcp_endpoint_call_duration_seconds_count{endpoint="single_module"} 2.0' in metrics
