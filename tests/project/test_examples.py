"""The example servers: safe to hand any text to, and whole when started the ways people start them."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_broker import FakeBroker, Wire, piping
from hypothesis import given
from hypothesis import strategies as st

from mcp_endpoint.providers.mcp_json import read

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


calculator = _module("calculator")
weather = _module("weather_server")


# The calculator never runs what it is given


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("130000 * 130000", 16_900_000_000),
        ("  7 // 2 - -1 ", 4),
        ("(1 + 2) * 3 % 5 ** 2", 9),
        ("sqrt(2) * math.pi", math.sqrt(2) * math.pi),
        ("round(2.675, 2) + abs(-3)", 5.67),
        ("2 ** -1", 0.5),
        ("factorial(20)", math.factorial(20)),
        ("0 ** 99999999999 + 1 ** 99999999999", 1),
    ],
)
def test_arithmetic_has_the_value_it_has_in_python(expression: str, value: float) -> None:
    assert calculator.calculator(expression) == {"success": True, "result": value}


NUMBERS = st.integers(-999, 999).map(str) | st.floats(-1e3, 1e3).map(repr)
OPERATORS = st.sampled_from(["+", "-", "*", "/", "//", "%"])
ARITHMETIC = st.recursive(NUMBERS, lambda inner: st.tuples(inner, OPERATORS, inner).map(lambda parts: f"({' '.join(parts)})"))


@given(ARITHMETIC)
def test_any_arithmetic_has_the_value_it_has_in_python(expression: str) -> None:
    answer = calculator.calculator(expression)
    if answer["success"]:
        assert answer["result"] == eval(expression, {"__builtins__": {}})
    else:
        assert answer["error"]


def test_the_largest_integer_is_a_bound_and_not_a_guess() -> None:
    assert calculator.calculator("10 ** 3000") == {"success": True, "result": 10**3000}
    assert calculator.calculator("2 ** 9999")["success"] is True
    assert calculator.calculator("2 ** 10000")["success"] is False


@pytest.mark.parametrize(
    "expression",
    [
        *("__import__('os').system('true')", "().__class__.__bases__", "open('/etc/passwd')", "[].append(1)", "(lambda: 1)()"),
        *("math.__loader__", "'a' * 9", "1 if 1 else 2", "[x for x in (1,)]", "f'{1}'", "x := 1", "sqrt(*[1])", "round(number=1)"),
        *("True", "1j", "1 < 2", "~1", "nothing", "sqrt()", "sqrt(-1)", "1 / 0", "0 ** -1", "int(1e308 * 10)"),
        *("9 ** 9 ** 9", "2 ** 99999999999", "(-8) ** 0.5", "1e999", "-1e308 * 10", "10.0 ** 999", "10 ** 3000 * 10 ** 3000"),
        *("factorial(99999)", "round(5, -10 ** 9)", "lcm(3 ** 3000, 2 ** 6000, 5 ** 2000)"),
        *("", " ", "\0", "1 +", "1;2", "import os", "-" * 999 + "1", "(" * 499 + "1" + ")" * 499, "1" * 1001, "\ud800"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(expression: str) -> None:
    """Threat: code in an expression, and an expression that takes the machine with it."""
    answer = calculator.calculator(expression)
    assert answer["success"] is False
    assert answer["error"]
    json.dumps(answer, ensure_ascii=False)


@given(st.text(alphabet="0123456789.+-*/%() ,emathsqrpow", max_size=60) | st.text(max_size=60))
def test_no_text_gets_more_than_a_number_or_a_sentence(expression: str) -> None:
    answer = calculator.calculator(expression)
    assert set(answer) == {"success", "result" if answer["success"] else "error"}


def test_no_example_can_evaluate_or_execute_text() -> None:
    for file in EXAMPLES.glob("*.py"):
        text = file.read_text("utf-8")
        assert not re.search(r"(?<!\w)(eval|exec)\(", text), file.name


# The weather is the same on every day


def test_the_weather_is_deterministic_and_knows_cities_in_both_languages() -> None:
    assert weather.get_weather("北京") == weather.get_weather(" Beijing ")
    assert weather.get_weather("Nowhere") == weather.get_weather("Nowhere")
    assert weather.get_weather("Nowhere") != weather.get_weather("Elsewhere")
    forecast = weather.get_forecast("杭州", 7)["forecast"]
    assert [day["day"] for day in forecast] == [1, 2, 3, 4, 5, 6, 7]
    assert weather.get_forecast("杭州")["forecast"] == forecast[:3]


@pytest.mark.parametrize(("city", "days"), [("", 1), (" ", 1), ("x" * 101, 1), ("杭州", 0), ("杭州", 8)])
def test_what_the_weather_cannot_tell_is_refused(city: str, days: int) -> None:
    with pytest.raises(ValueError, match="/"):
        weather.get_forecast(city, days)


# Both as people start them: promise L8 (a command in an mcpServers block) and L6 (get_weather and get_forecast, no network)


def _python_first() -> dict[str, str]:
    """An environment in which `python` is the one that runs this test."""
    return {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))}


@pytest.fixture
async def gate() -> AsyncIterator[FakeBroker]:
    gate = FakeBroker()
    await gate.open()
    yield gate
    await gate.close()


async def _greeted(wire: Wire) -> str:
    """The name of the server behind `wire`, after the handshake of MCP."""
    await wire.connection.send(
        '{"id":0,"jsonrpc":"2.0","method":"initialize","params":{"protocolVersion":"2024-11-05",'
        '"capabilities":{"sampling":{},"roots":{"listChanged":false}},"clientInfo":{"name":"xz-mcp-broker","version":"0.0.1"}}}'
    )
    hello = await wire.message()
    assert hello["id"] == 0
    assert hello["result"]["protocolVersion"] == "2024-11-05"
    await wire.connection.send('{"jsonrpc":"2.0","method":"notifications/initialized"}')
    return str(hello["result"]["serverInfo"]["name"])


async def _call(wire: Wire, name: str, **arguments: object) -> Any:
    result: Any = await wire.ask("tools/call", name=name, arguments=arguments, serialNumber=None)
    assert not result.get("isError")
    return json.loads(result["content"][0]["text"])


async def test_the_example_block_brings_both_servers_through_the_pipe(gate: FakeBroker) -> None:
    """Rows L6, L8: every tool of both servers is listed and called, each over its own link."""
    found = read(EXAMPLES / "mcp.json", _python_first())
    commands = {name: server.command for name, server in found.servers.items() if server.command is not None}
    assert set(commands) == {"calculator", "weather"}
    async with piping(gate.address, **commands):
        links = [await gate.link(), await gate.link()]
        by_name = {await _greeted(wire): wire for wire in links}
        tools: Any = {name: await wire.ask("tools/list") for name, wire in by_name.items()}
        assert {name: sorted(tool["name"] for tool in listed["tools"]) for name, listed in tools.items()} == {
            "calculator": ["calculator"],
            "weather": ["get_forecast", "get_weather"],
        }
        calc = by_name["calculator"]
        assert await _call(calc, "calculator", python_expression="130000 * 130000") == {"success": True, "result": 16_900_000_000}
        assert await _call(calc, "calculator", python_expression="10 ** 100") == {"success": True, "result": 10**100}
        assert (await _call(calc, "calculator", python_expression="1/0"))["success"] is False
        assert (await _call(by_name["weather"], "get_weather", city="杭州"))["city"] == "杭州"
        assert len((await _call(by_name["weather"], "get_forecast", city="上海", days=2))["forecast"]) == 2
        refused: Any = await by_name["weather"].ask("tools/call", name="get_forecast", arguments={"city": "上海", "days": 99})
        assert refused["isError"] is True


@pytest.mark.parametrize(("file", "tools"), [("calculator.py", {"calculator"}), ("weather_server.py", {"get_weather", "get_forecast"})])
async def test_the_official_client_starts_and_lists_them(file: str, tools: set[str]) -> None:
    """Row L8: usable from any client that starts a command."""
    from mcp import ClientSession
    from mcp.client.stdio import StdioServerParameters, stdio_client

    async with (
        stdio_client(StdioServerParameters(command=sys.executable, args=[str(EXAMPLES / file)])) as (reader, writer),
        ClientSession(reader, writer) as session,
    ):
        await session.initialize()
        listed = await session.list_tools()
        assert {tool.name for tool in listed.tools} == tools
        assert all(tool.description for tool in listed.tools)
