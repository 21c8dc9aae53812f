"""Death in every place, with real processes and sockets: one answer per request, and the tool is usable again in the same session."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from peers import EXAMPLES, HERE, address, broker, device, text_of, tool, tools_are, until
from running import BOUND, Program
from websockets.asyncio.client import ClientConnection, connect

CALL_SECONDS = 2


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Program]:
    async with broker(tmp_path, MES_ENDPOINT_CALL_TIMEOUT=str(CALL_SECONDS)) as running:
        yield running


async def _hear(socket: ClientConnection) -> dict[str, Any]:
    frame: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), BOUND))
    return frame


async def _serve(socket: ClientConnection, name: str = "raw") -> None:
    """A small MCP server without an SDK: it answers whatever it is asked until its socket ends."""
    async for message in socket:
        frame = json.loads(message)
        if "id" not in frame:
            continue
        result: dict[str, Any] = {}
        if frame["method"] == "initialize":
            result = {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": {"name": name, "version": "1"}}
        elif frame["method"] == "tools/list":
            result = {"tools": [{"name": f"who_{name}", "inputSchema": {"type": "object"}}]}
        elif frame["method"] == "tools/call":
            result = {"content": [{"type": "text", "text": name}]}
        await socket.send(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}))


@pytest.mark.row("U10", "D5", "D1")
@pytest.mark.parametrize("python", ["mcp-2", "mcp-1.9"])
async def test_a_tool_killed_in_a_call_answers_it_and_is_back_in_the_same_session(
    running: Program, pythons: dict[str, str], python: str
) -> None:
    async with device(running) as asker:
        async with tool(running, pythons[python], HERE / "slow_server.py") as process:
            await tools_are(1, running)
            await asker.greets()
            assert await asker.names() == {"pid", "sleep"}
            future = asker.expects(7)
            await asker.connection.send(
                '{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"sleep","arguments":{"seconds":60}}}'
            )
            await until(lambda stats: stats["in_flight"] == 1, running)
            await process.is_killed()
            answer = await asyncio.wait_for(future, BOUND)
            assert answer["error"]["code"] == -32003 and answer["error"]["data"]["delivered"] is True and "result" not in answer
        async with tool(running, pythons[python], HERE / "slow_server.py"):
            await until(lambda stats: any(found["functions"] for found in stats["endpoint_details"][0]["tools"]), running)
            assert text_of(await asker.calls(1, "sleep", seconds=0)) == "slept 0"


@pytest.mark.row("U14", "D6")
async def test_a_tool_that_hangs_is_answered_for_and_is_used_again_when_it_wakes(running: Program, pythons: dict[str, str]) -> None:
    async with tool(running, pythons["mcp-2"], HERE / "slow_server.py"), device(running) as asker:
        await tools_are(1, running)
        await asker.greets()
        pid = int(text_of(await asker.calls(1, "pid")))
        os.kill(pid, signal.SIGSTOP)
        try:
            answer = await asker.calls(2, "pid")
            assert answer["error"]["code"] == -32006 and answer["error"]["data"]["delivered"] is True
            stats = await until(lambda stats: stats["in_flight"] == 0, running)
            assert stats["endpoint_details"][0]["tools"][0]["doubtful"] is True
        finally:
            os.kill(pid, signal.SIGCONT)
        assert text_of(await asker.calls(2, "pid")) == str(pid)


@pytest.mark.row("D15", "D14")
async def test_a_device_that_leaves_cancels_its_calls(running: Program) -> None:
    async with connect(address(running, "mcp")) as raw:
        async with device(running) as asker:
            asker.expects(5)
            await asker.connection.send('{"jsonrpc":"2.0","id":5,"method":"work"}')
            assert (await _hear(raw))["id"] == 1
        heard = await _hear(raw)
        assert heard["method"] == "notifications/cancelled" and heard["params"]["requestId"] == 1


@pytest.mark.parametrize("moment", ["initialize", "notifications/initialized", "tools/list", "tools/call"])
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_tool_that_dies_at_any_moment_leaves_no_request_without_its_answer(running: Program, moment: str, end: str) -> None:
    async def dies(socket: ClientConnection) -> None:
        async for message in socket:
            frame = json.loads(message)
            if frame.get("method") == moment:
                if end == "abort":
                    socket.transport.abort()
                else:
                    await socket.close()
                return
            if frame.get("method") == "initialize":
                body = {"protocolVersion": "2024-11-05", "capabilities": {}, "serverInfo": {"name": "raw", "version": "1"}}
                await socket.send(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": body}))
            elif frame.get("method") == "tools/list":
                body = {"tools": [{"name": "who_raw", "inputSchema": {"type": "object"}}]}
                await socket.send(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": body}))

    async with device(running) as asker:
        async with connect(address(running, "mcp")) as raw:
            dying = asyncio.create_task(dies(raw))
            await tools_are(1, running)
            greeted, listed, called = asker.expects(1), asker.expects(2), asker.expects(3)
            hello = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "someone", "version": "1"}}
            await asker.connection.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}))
            await asker.connection.send('{"jsonrpc": "2.0", "method": "notifications/initialized"}')
            await asker.connection.send('{"jsonrpc": "2.0", "id": 2, "method": "tools/list"}')
            await asker.connection.send('{"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "who_raw"}}')
            await asyncio.wait_for(asyncio.gather(greeted, listed, called, dying), BOUND)
        async with connect(address(running, "mcp")) as raw:
            serving = asyncio.create_task(_serve(raw))
            await until(lambda stats: any(found["functions"] for found in stats["endpoint_details"][0]["tools"]), running)
            assert text_of(await asker.calls(4, "who_raw")) == "raw"
            await raw.close()
            await serving


@pytest.mark.row("U12", "D2", "D3")
async def test_a_tool_that_reconnects_ten_times_in_a_second_serves_on(running: Program) -> None:
    """Every new link is one more; the clean-up of an old one never takes the new one away."""
    async with device(running) as asker:
        await asker.greets()
        links = [await connect(address(running, "mcp", server_id="flapping")) for _ in range(10)]
        serving = [asyncio.create_task(_serve(link)) for link in links]
        assert text_of(await asker.calls(1, "who_raw")) == "raw"
        for number, link in enumerate(links[:-1], 2):
            call = asyncio.create_task(asker.calls(number, "who_raw"))
            await link.close()
            answer = await call
            assert "result" in answer or answer["error"]["code"] == -32003
        await tools_are(1, running)
        assert text_of(await asker.calls(99, "who_raw")) == "raw"
        await links[-1].close()
        await asyncio.gather(*serving)


@pytest.mark.row("U11", "D4")
async def test_two_tools_that_drop_in_turn_do_not_hide_each_other(running: Program) -> None:
    async with device(running) as asker, connect(address(running, "mcp", server_id="a")) as first:
        serving = [asyncio.create_task(_serve(first, "a"))]
        await asker.greets()
        for _ in range(3):
            second = await connect(address(running, "mcp", server_id="b"))
            serving.append(asyncio.create_task(_serve(second, "b")))
            assert text_of(await asker.calls(1, "who_b")) == "b"
            assert text_of(await asker.calls(1, "who_a")) == "a"
            await first.close()
            await tools_are(1, running)
            assert text_of(await asker.calls(2, "who_b")) == "b"
            back = asyncio.create_task(asker.calls(3, "who_a"))  # waits for it to come back
            first = await connect(address(running, "mcp", server_id="a"))
            serving.append(asyncio.create_task(_serve(first, "a")))
            assert text_of(await back) == "a"
            await second.close()
            await tools_are(1, running)
        await first.close()
        await asyncio.gather(*serving)


@pytest.mark.row("E2", "U12")
async def test_a_bare_pair_sees_a_pure_relay_also_while_an_old_socket_hangs(running: Program) -> None:
    """The tool never heard of MCP: it gets the device's bytes with only the id changed, and nothing the broker made up."""
    said = '{ "method":"turn" ,"jsonrpc": "2.0",\t"params":{"深":1.00,"n":12345678901234567890123, "e":"\\u4f60"}, "id": %s, "extra":[ ] }'
    async with connect(address(running, "mcp")) as hanging, device(running) as asker:
        for number, id in enumerate(("0", '"a"', "-1"), 1):
            answer = asker.expects(json.loads(id))
            await asker.connection.send(said % id)
            assert await asyncio.wait_for(hanging.recv(), BOUND) == said % number
            await hanging.send('{"id":%d,"result":{"done":1.0},"jsonrpc":"2.0"}' % number)
            assert (await asyncio.wait_for(answer, BOUND))["result"] == {"done": 1.0}
        # It comes back on a new socket; the old one stays open, and nobody reads it any more.
        async with connect(address(running, "mcp")) as back:
            await tools_are(2, running)
            answer = asker.expects(0)
            await asker.connection.send(said % 0)
            assert await asyncio.wait_for(back.recv(), BOUND) == said % 1
            await back.send('{"id":1,"result":{},"jsonrpc":"2.0"}')
            assert (await asyncio.wait_for(answer, BOUND))["result"] == {}
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(back.recv(), 0.2)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(hanging.recv(), 0.2)


async def test_a_calculator_and_its_devices_survive_a_hundred_hang_ups(running: Program, pythons: dict[str, str]) -> None:
    """A device that leaves within the moment of its answer used to end everything after about two times."""
    async with tool(running, pythons["mcp-2"], EXAMPLES / "calculator.py"):
        await tools_are(1, running)
        for number in range(100):
            async with connect(address(running, "call")) as socket:
                params = '{"name":"calculator","arguments":{"python_expression":"6 * 7"}}'
                await socket.send('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%s}' % params)
                if number % 2:
                    await asyncio.wait_for(socket.recv(), BOUND)
                socket.transport.abort()
        async with device(running) as asker:
            assert "42" in text_of(await asker.calls(1, "calculator", python_expression="6 * 7"))
            await until(lambda stats: stats["in_flight"] == 0 and stats["device_connections"] == 1, running)
