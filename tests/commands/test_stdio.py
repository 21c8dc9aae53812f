"""An endpoint's tools on stdin and stdout: the official client, a hand-made one, and a server that comes and goes."""

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

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from running import BOUND, MAIN, full_pipe, program
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from mcp_endpoint.commands import stdio as module
from mcp_endpoint.commands.stdio import HELLO, Stdio, Where
from mcp_endpoint.errors import ConfigError

CALCULATOR = MAIN.parent / "examples/calculator.py"
INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def call(id: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "x"}}


class Desk:
    """A client at its desk: what it says, and what it hears, line by line."""

    def __init__(self, port: int) -> None:
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.told: list[str] = []
        where = Where(f"ws://127.0.0.1:{port}/mcp_endpoint/call/?token=hush-hush")
        self.stdio = Stdio(where, lambda line: self.heard.put_nowait(json.loads(line)), self.told.append, draw=lambda: 1.0)
        self.task = asyncio.create_task(self.stdio.run())

    async def says(self, *frames: Any) -> None:
        for frame in frames:
            await self.stdio.take(frame if isinstance(frame, bytes) else json.dumps(frame).encode())

    async def hears(self) -> Any:
        return await asyncio.wait_for(self.heard.get(), BOUND)

    async def leaves(self) -> None:
        self.stdio.end()
        await asyncio.wait_for(self.task, BOUND)


class Far:
    """A server of bare WebSockets; what is said on each link is the test's business."""

    def __init__(self) -> None:
        self.links: asyncio.Queue[ServerConnection] = asyncio.Queue()
        self.port = 0
        self.accepts: dict[str, str] = {}
        """Headers of the answer that takes a link."""

    async def link(self) -> ServerConnection:
        return await asyncio.wait_for(self.links.get(), BOUND)


@asynccontextmanager
async def far(port: int = 0) -> AsyncIterator[Far]:
    found = Far()

    async def take(link: ServerConnection) -> None:
        found.links.put_nowait(link)
        await link.wait_closed()

    def accept(link: ServerConnection, request: Request, response: Response) -> None:
        for name, value in found.accepts.items():
            response.headers[name] = value

    async with serve(take, "127.0.0.1", port, process_response=accept) as server:
        found.port = server.sockets[0].getsockname()[1]
        yield found


@asynccontextmanager
async def desk(port: int) -> AsyncIterator[Desk]:
    found = Desk(port)
    try:
        yield found
    finally:
        await found.leaves()


async def said(link: ServerConnection) -> Any:
    return json.loads(await asyncio.wait_for(link.recv(), BOUND))


async def says(link: ServerConnection, frame: Any) -> None:
    await link.send(json.dumps(frame))


# -- the real ones ---------------------------------------------------------------------------------------------------------------


async def test_the_official_client_lists_and_calls_a_tool_behind_it(tmp_path: Path) -> None:
    async with program(tmp_path, "--root", str(tmp_path), environ={"MES_SERVER_PORT": "0"}) as server:
        await server.listens()
        address = f"ws://127.0.0.1:{server.port}/mcp_endpoint"
        tool = f"{address}/mcp/?token={server.token}"
        pipe = await asyncio.create_subprocess_exec(
            *(sys.executable, str(MAIN), "pipe", "--endpoint", tool, "--", sys.executable, str(CALCULATOR)),
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            arguments = [str(MAIN), "stdio", "-e", f"{address}/call/?token={server.token}"]
            for mode in ("legacy", "auto"):
                link = stdio_client(StdioServerParameters(command=sys.executable, args=arguments))
                async with asyncio.timeout(BOUND), Client(link, mode=mode) as client:
                    while not (tools := (await client.list_tools()).tools):  # noqa: ASYNC110 - the tool is still on its way
                        await asyncio.sleep(0.05)
                    assert [tool.name for tool in tools] == ["calculator"]
                    result = await client.call_tool("calculator", {"python_expression": "130000 * 130000"})
                    assert "16900000000" in str(result.content)
        finally:
            pipe.terminate()
            await pipe.wait()


@pytest.mark.parametrize("accepts", [{}, {"X-Free-Form-Endpoint": "opaque-12345678"}])
async def test_whoever_uses_a_free_form_token_hears_so(accepts: dict[str, str]) -> None:
    async with far() as server:
        server.accepts = accepts
        async with desk(server.port) as client:
            await client.says(INITIALIZE)
            await said(await server.link())  # by then everything about the link has been told
            told = "".join(client.told)
    assert ("free-form token, endpoint opaque-12345678" in told) == ("自定义令牌" in told) == bool(accepts)


async def test_as_a_program_it_ends_with_stdin_and_writes_json_only(tmp_path: Path) -> None:
    async with far() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(MAIN), "stdio", "-e", f"ws://127.0.0.1:{server.port}/mcp_endpoint/call/?token=hush-hush"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(b"\n" + b"x" * (module.LINE_BYTES + 10) + b"\n" + json.dumps(call(1)).encode() + b"\r\n")
        link = await server.link()
        assert await said(link) == call(1)
        await link.send('{"jsonrpc":"2.0","id":1,\n"result":{"text":"你"}}')
        assert process.stdout is not None
        refused = json.loads(await asyncio.wait_for(process.stdout.readline(), BOUND))
        assert refused["id"] is None and refused["error"]["code"] == -32600
        line = await asyncio.wait_for(process.stdout.readline(), BOUND)
        assert json.loads(line) == {"jsonrpc": "2.0", "id": 1, "result": {"text": "你"}}
        process.stdin.close()
        out, told = await asyncio.wait_for(process.communicate(), BOUND)
        assert out == b"" and process.returncode == 0
        assert b"connected to ws://127.0.0.1" in told
        assert b"was dropped" in told
        assert b"hush-hush" not in told


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_it_while_the_client_is_silent(number: int) -> None:
    async with far() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(MAIN), "stdio", "-e", f"ws://127.0.0.1:{server.port}/mcp_endpoint/call/?token=x"),
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await server.link()
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), BOUND) == 0
        assert process.stderr is not None
        assert b"Fatal" not in await process.stderr.read()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and signals of POSIX")
async def test_a_client_that_reads_nothing_keeps_no_signal_from_ending_it_and_no_frame_from_waiting() -> None:
    """What the client does not read fills no memory: beyond `OUT_BYTES` no more is taken from the server."""
    reading, writing = full_pipe()
    try:
        async with far() as server:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(MAIN), "stdio", "-e", f"ws://127.0.0.1:{server.port}/mcp_endpoint/call/?token=x"),
                stdin=asyncio.subprocess.PIPE,
                stdout=writing,
                stderr=asyncio.subprocess.DEVNULL,
            )
            link = await server.link()
            frame = json.dumps({"jsonrpc": "2.0", "method": "x", "params": {"text": "y" * 200_000}})
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    for _ in range(1_000):
                        await link.send(frame)
            process.send_signal(signal.SIGHUP)
            assert await asyncio.wait_for(process.wait(), BOUND) == 0
    finally:
        os.close(reading)
        os.close(writing)


# -- both ways ---------------------------------------------------------------------------------------------------------------------


async def test_everything_passes_both_ways_as_it_is() -> None:
    async with far() as server, desk(server.port) as client:
        await client.says(INITIALIZE, INITIALIZED, call("a"), {"jsonrpc": "2.0", "id": 7, "result": {"action": "accept"}})
        link = await server.link()
        assert [await said(link) for _ in range(4)] == [
            INITIALIZE,
            INITIALIZED,
            call("a"),
            {"jsonrpc": "2.0", "id": 7, "result": {"action": "accept"}},
        ]
        for frame in (
            {"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2025-06-18"}},
            {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "…"}},
            {"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": {}},
            {"jsonrpc": "2.0", "id": "a", "result": {}},
        ):
            await says(link, frame)
            assert await client.hears() == frame
        await link.send("no JSON")
        await says(link, {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "x"}})
        assert (await client.hears())["id"] is None


async def test_what_is_no_message_is_answered_here() -> None:
    async with far() as server, desk(server.port) as client:
        await client.says(b"{", b"[]", b'{"jsonrpc":"2.0","id":{}}')
        assert [(await client.hears())["error"]["code"] for _ in range(2)] == [-32700, -32600]
        await client.says({"jsonrpc": "2.0", "id": "probe", "method": "server/discover", "params": {}})
        answers = [await client.hears()]
        while answers[-1].get("id") != "probe":
            answers.append(await client.hears())
        assert answers[-1]["error"]["code"] == -32601
        await server.link()


# -- a server that comes and goes -----------------------------------------------------------------------------------------------------


async def test_what_was_asked_is_answered_when_the_link_ends_and_the_handshake_is_said_again() -> None:
    async with far() as server, desk(server.port) as client:
        await client.says(INITIALIZE, INITIALIZED, call("a"))
        link = await server.link()
        for _ in range(3):
            await said(link)
        await says(link, {"jsonrpc": "2.0", "id": 0, "result": {}})
        assert (await client.hears())["id"] == 0
        await link.close(1012, "restarting")
        lost = await client.hears()
        assert (lost["id"], lost["error"]["code"]) == ("a", -32003)
        assert lost["error"]["data"]["delivered"] is None and "1012 restarting" in lost["error"]["data"]["hint"]
        link = await server.link()
        again = await said(link)
        assert again == INITIALIZE | {"id": json.loads(HELLO)}
        await says(link, {"jsonrpc": "2.0", "id": json.loads(HELLO), "result": {}})
        assert await said(link) == INITIALIZED
        assert await client.hears() == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        await client.says(call("b"))
        assert await said(link) == call("b")


async def test_while_nobody_is_there_calls_fail_and_a_handshake_waits() -> None:
    async with far() as gone:
        port = gone.port
    async with desk(port) as client:
        await client.says(INITIALIZED | {"method": "notifications/cancelled"}, call(1))
        refused = await client.hears()
        assert (refused["id"], refused["error"]["code"], refused["error"]["data"]["delivered"]) == (1, -32001, False)
        await client.says(INITIALIZE)
        await client.says(call(2))
        assert (await client.hears())["id"] == 2
        async with far(port) as server:
            link = await server.link()
            assert await said(link) == INITIALIZE
            await says(link, {"jsonrpc": "2.0", "id": 0, "result": {}})
            assert (await client.hears())["id"] == 0
    assert "hush-hush" not in "".join(client.told)
    assert any("next attempt" in line for line in client.told)


async def test_a_link_that_ends_before_the_handshake_was_answered_leaves_it_open() -> None:
    async with far() as server, desk(server.port) as client:
        await client.says(INITIALIZE)
        link = await server.link()
        assert await said(link) == INITIALIZE
        await link.close(1011, "")
        link = await server.link()
        assert await said(link) == INITIALIZE, "under its own id: the client still waits for it"
        await says(link, {"jsonrpc": "2.0", "id": 0, "result": {}})
        assert (await client.hears())["id"] == 0


async def test_the_end_of_stdin_ends_it_wherever_it_is() -> None:
    async with far() as gone:
        port = gone.port
    waiting = Desk(port)
    async with asyncio.timeout(BOUND):
        while not waiting.told:  # noqa: ASYNC110 - what it says is a list
            await asyncio.sleep(0)
    await waiting.leaves()
    async with far() as server:
        linked = Desk(server.port)
        link = await server.link()
        await linked.leaves()
        await asyncio.wait_for(link.wait_closed(), BOUND)
        assert link.close_code == 1001


async def test_an_address_that_is_none_is_told_at_once() -> None:
    told: list[str] = []
    write: Callable[[bytes], None] = lambda line: None  # noqa: E731
    with pytest.raises(ConfigError):
        await Stdio(Where("http://127.0.0.1/"), write, told.append).run()
