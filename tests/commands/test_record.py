"""An MCP server that is run through `record`: its client notices nothing, and each message is in a file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from running import BOUND, MAIN

from mcp_endpoint.commands import record
from mcp_endpoint.errors import EndpointError
from mcp_endpoint.settings.schema import Config

SERVER = MAIN.parent / "examples/weather_server.py"
posix = pytest.mark.skipif(os.name != "posix", reason="signals")


def words(root: Path, *more: str) -> list[str]:
    return [str(MAIN), "--root", str(root), "record", *more]


@asynccontextmanager
async def recorded(root: Path, script: str, *options: str) -> AsyncIterator[Process]:
    """A server of a few lines, run through `record`."""
    command = words(root, "--name", "small", *options, "--", sys.executable, "-u", "-c", script)
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(BOUND):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def lines(root: Path, label: str = "small") -> list[dict[str, Any]]:
    (path,) = (root / "logs" / f"mcp_{label}").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("argv", "label"),
    [
        (["python", "/srv/weather_server.py"], "weather"),
        (["uv", "run", "python", "src/mcp/weather_server.py", "--x.py"], "weather"),
        (["npx", "-y", "@x/server-time"], "npx"),
        (["node", "dist/index.js"], "index"),
        (["/usr/bin/time-server"], "time"),
    ],
)
def test_a_server_is_called_as_its_script(argv: Sequence[str], label: str) -> None:
    assert record.label_of(argv) == label


async def test_a_real_client_lists_and_calls_and_every_message_is_in_the_file(tmp_path: Path) -> None:
    parameters = StdioServerParameters(command=sys.executable, args=words(tmp_path, "--", sys.executable, str(SERVER)))
    async with asyncio.timeout(BOUND), Client(stdio_client(parameters), mode="legacy") as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        await client.call_tool(tools[0], {"city": "北京"})
    found = lines(tmp_path, "weather")
    methods = [(line["direction"], line["message"].get("method")) for line in found]
    assert ("request", "initialize") in methods and ("request", "notifications/initialized") in methods
    assert [line["message"]["id"] for line in found if line["direction"] == "response"] == [
        line["message"]["id"] for line in found if line["direction"] == "request" and "id" in line["message"]
    ]
    assert {tuple(line) for line in found} == {("session_id", "timestamp", "direction", "message")}
    assert len({line["session_id"] for line in found}) == 1


async def test_bytes_and_exit_code_pass_as_they_are_and_secrets_stay_out_of_the_file(tmp_path: Path) -> None:
    said = b'{"id":1,"params":{"api_key":"abcdefgh12345"}}\r\n{"half'
    async with recorded(tmp_path, "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()); sys.exit(7)") as process:
        answer, complaint = await process.communicate(said)
        assert (answer, process.returncode, complaint) == (said, 7, b"")
    found = lines(tmp_path)
    assert [line["direction"] for line in found] == ["request", "request", "response", "response"]
    assert found[0]["message"]["params"]["api_key"].startswith("***")
    assert found[1]["message"] == '{"half'


async def test_raw_takes_nothing_out(tmp_path: Path) -> None:
    async with recorded(tmp_path, "print()", "--raw") as process:
        await process.communicate(b'{"password":"abcdefgh12345"}\n')
    assert lines(tmp_path)[0]["message"]["password"] == "abcdefgh12345"


@posix
async def test_what_ends_us_ends_the_server(tmp_path: Path) -> None:
    script = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); print('{}'); signal.pause()"
    async with recorded(tmp_path, script) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"{}\n"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 5


@posix
async def test_a_server_that_a_signal_ended_is_told_as_a_shell_tells_it(tmp_path: Path) -> None:
    async with recorded(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)") as process:
        assert await process.wait() == 137


async def test_a_client_that_reads_no_more_ends_the_server(tmp_path: Path) -> None:
    async with recorded(tmp_path, "import itertools\nfor n in itertools.count(): print(n, flush=True)") as process:
        assert process.stdout is not None
        await process.stdout.readline()
        process.stdout._transport.close()  # type: ignore[attr-defined]
        assert await process.wait() != 0


async def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, *words(tmp_path, "--", "no-such-program"), stdin=PIPE, stderr=PIPE)
    _, complaint = await asyncio.wait_for(process.communicate(), BOUND)
    assert process.returncode == 1
    assert "cannot be started" in complaint.decode() and "Traceback" not in complaint.decode()


def test_a_folder_that_cannot_be_written_is_told_before_the_server_starts(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(EndpointError, match="--root"):
        record.opened(tmp_path, Config(), "x", raw=False)


def test_a_full_disk_is_told_once_and_the_messages_go_on(tmp_path: Path) -> None:
    messages = record.opened(tmp_path, Config(), "x", raw=True)
    messages.close()
    told: list[str] = []
    sent: list[bytes] = []
    left = [b'{"id":1}\n{"id":2}\n', b'{"id":3}']
    record.Leg(messages, "request", told.append).carry(lambda most: left.pop(0) if left else b"", sent.append)
    assert (len(told), b"".join(sent)) == (1, b'{"id":1}\n{"id":2}\n{"id":3}')
    assert "not written any more" in told[0]
