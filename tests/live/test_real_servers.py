"""Real MCP servers, of four SDK versions, behind real pipes: what devices get from them through the running program."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from peers import EXAMPLES, HERE, address, broker, device, text_of, tool, tools_are, until
from running import BOUND, Program
from websockets.asyncio.client import connect

KINDS = ("mcp-2", "mcp-1.30", "mcp-1.9", "fastmcp")
FIVE_FRAMES = (
    '{"id":0,"jsonrpc":"2.0","method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{"sampling":{},'
    '"roots":{"listChanged":false}},"clientInfo":{"name":"xz-mcp-broker","version":"0.0.1"}}}',
    '{"jsonrpc":"2.0","method":"notifications/initialized"}',
    '{"id":1,"jsonrpc":"2.0","method":"tools/list","params":{}}',
    '{"id":2,"jsonrpc":"2.0","method":"ping","params":{}}',
    '{"id":10,"jsonrpc":"2.0","method":"tools/call","params":{"name":"calculator","arguments":'
    '{"python_expression":"130000 * 130000"},"serialNumber":null}}',
)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Program]:
    async with broker(tmp_path) as running:
        yield running


def _calculator(pythons: dict[str, str], kind: str) -> tuple[str, Path]:
    return pythons[kind], HERE / "fast_server.py" if kind == "fastmcp" else EXAMPLES / "calculator.py"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.row("E2", "E22", "E23", "E24", "E25", "E26", "U1", "D7")
async def test_the_five_frames_of_the_product_document_get_their_answers(running: Program, pythons: dict[str, str], kind: str) -> None:
    """Sent as they stand there, in their order: id 0 stays 0, the notification is not answered, the product is right."""
    async with tool(running, *_calculator(pythons, kind)):
        await tools_are(1, running)
        async with connect(address(running, "call")) as socket:
            for frame in FIVE_FRAMES:
                await socket.send(frame)
            answers = [json.loads(await asyncio.wait_for(socket.recv(), BOUND)) for _ in range(4)]
            by_id = {answer["id"]: answer for answer in answers}
            assert list(by_id) == [0, 1, 2, 10] or set(by_id) == {0, 1, 2, 10}
            assert all(type(id) is int for id in by_id)
            assert by_id[0]["result"]["protocolVersion"] == "2024-11-05"
            assert "calculator" in {found["name"] for found in by_id[1]["result"]["tools"]}
            assert by_id[2]["result"] == {}
            assert "16900000000" in by_id[10]["result"]["content"][0]["text"]
            await socket.send('{"id":11,"jsonrpc":"2.0","method":"ping"}')
            assert json.loads(await asyncio.wait_for(socket.recv(), BOUND))["id"] == 11, "an answer nobody asked for"


@pytest.mark.row("U11", "D3", "D4")
async def test_three_servers_on_one_token_are_one_server(running: Program, pythons: dict[str, str]) -> None:
    """Two of them without a server_id, as mcp_pipe starts them; neither displaces another, and equal names are told apart for good."""
    async with (
        tool(running, pythons["mcp-2"], EXAMPLES / "weather_server.py"),
        tool(running, pythons["mcp-1.9"], EXAMPLES / "calculator.py"),
        tool(running, pythons["fastmcp"], HERE / "fast_server.py", server_id="fast"),
    ):
        await tools_are(3, running)
        async with device(running) as asker:
            await asker.greets()
            names = await asker.names()
            assert {"get_weather", "get_forecast", "calculator"} < names and len(names) == 4
            (second,) = names - {"get_weather", "get_forecast", "calculator"}
            assert second in ("fast__calculator", "calculator__calculator")
            assert "16900000000" in text_of(await asker.calls(1, "calculator", python_expression="130000 * 130000"))
            assert "42" in text_of(await asker.calls(2, second, python_expression="6 * 7"))
            assert text_of(await asker.calls(2, "get_weather", city="杭州"))


@pytest.mark.row("E1", "U8")
async def test_ten_devices_ask_at_once_under_equal_ids(running: Program, pythons: dict[str, str]) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(tool(running, *_calculator(pythons, "mcp-2")))
        await tools_are(1, running)
        devices = [await stack.enter_async_context(device(running)) for _ in range(10)]
        await asyncio.gather(*(each.greets() for each in devices))
        answers = await asyncio.gather(
            *(each.calls(1, "calculator", python_expression=f"{number} * 1001") for number, each in enumerate(devices, 100))
        )
        for number, answer in enumerate(answers, 100):
            assert str(number * 1001) in text_of(answer)


@pytest.mark.row("D22")
async def test_a_second_device_greets_between_the_first_ones_initialize_and_initialized(running: Program, pythons: dict[str, str]) -> None:
    """With this SDK that used to end everybody's calls in -32602."""
    async with tool(running, *_calculator(pythons, "mcp-1.9")):
        await tools_are(1, running)
        async with device(running) as first, device(running) as second:
            hello = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "first", "version": "1"}}
            await first.asks(1, "initialize", hello)
            await second.greets()
            assert "42" in text_of(await second.calls(1, "calculator", python_expression="6 * 7"))
            await first.connection.send('{"jsonrpc": "2.0", "method": "notifications/initialized"}')
            assert "42" in text_of(await first.calls(2, "calculator", python_expression="6 * 7"))


@pytest.mark.parametrize("kind", ["mcp-1.9", "mcp-1.30", "mcp-2"])
async def test_a_list_without_any_handshake_is_served(running: Program, pythons: dict[str, str], kind: str) -> None:
    """The first manager-api versions asked so."""
    async with tool(running, *_calculator(pythons, kind)):
        await tools_are(1, running)
        async with device(running) as asker:
            assert await asker.names(1) == {"calculator"}
            assert "42" in text_of(await asker.calls(2, "calculator", python_expression="6 * 7"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.row("D21")
async def test_manager_api_waits_at_each_step_and_sends_params_null(running: Program, pythons: dict[str, str], kind: str) -> None:
    async with tool(running, *_calculator(pythons, kind)):
        await tools_are(1, running)
        async with device(running) as console:
            answer = await console.greets(1, "xz-mcp-broker")
            assert "error" not in answer and type(answer["id"]) is int
            future = console.expects(2)
            await console.connection.send('{"jsonrpc":"2.0","id":2,"method":"tools/list","params":null}')
            listed = await asyncio.wait_for(future, BOUND)
            assert [found["name"] for found in listed["result"]["tools"]] == ["calculator"]


@pytest.mark.row("U15")
async def test_pages_are_followed_under_one_id(running: Program, pythons: dict[str, str]) -> None:
    async with tool(running, pythons["mcp-1.30"], HERE / "pages_server.py"):
        await tools_are(1, running)
        async with device(running) as asker:
            await asker.greets()
            names: list[str] = []
            params: dict[str, str] = {}
            while True:
                result = (await asker.asks(2, "tools/list", params))["result"]
                names += [found["name"] for found in result["tools"]]
                if not result.get("nextCursor"):
                    break
                params = {"cursor": result["nextCursor"]}
            assert names == [f"tool_{number}" for number in range(5)]
            # A second server makes it one list, without the pages of the first.
            async with tool(running, *_calculator(pythons, "mcp-2"), server_id="calc"):
                await until(lambda stats: sum(len(found["functions"]) for found in stats["endpoint_details"][0]["tools"]) == 6, running)
                assert await asker.names() == {*names, "calculator"}


async def test_a_device_that_came_first_has_its_tools_as_soon_as_they_are_there(running: Program, pythons: dict[str, str]) -> None:
    """xiaozhi-server asks once; its list is answered when the tool has come."""
    async with device(running) as asker:
        await asker.greets()
        waiting = asyncio.create_task(asker.names())
        async with tool(running, *_calculator(pythons, "mcp-2")):
            assert await asyncio.wait_for(waiting, BOUND) == {"calculator"}
            assert "42" in text_of(await asker.calls(1, "calculator", python_expression="6 * 7"))
