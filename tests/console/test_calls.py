"""The tools of an endpoint from the console: listed, called, and left alone soon after."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from console import BEARER, OURS, PAGE, console, tool, toolbox

from mcp_endpoint.console import calls as module
from mcp_endpoint.console.calls import Calls
from mcp_endpoint.console.forms import Wrong
from mcp_endpoint.pages import NotThere
from mcp_endpoint.settings.schema import Limits

ADD = tool("add", "adds\nboth", a={"type": "integer"}, b={"type": "integer", "default": 2})


async def test_a_tool_is_called_by_its_form_and_by_a_program_and_the_time_is_told(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (server, visitor), toolbox(server.port, [ADD, tool("fails")]) as calls:
        await visitor.log_in()
        page = (await visitor.get("/console/tools?endpoint=single_module&tool=add", headers=PAGE)).text
        assert 'name="arg.a"' in page and 'value="2"' in page
        token = page.partition('name="form_token" value="')[2].partition('"')[0]
        form = {"form_token": token, "endpoint": "single_module", "tool": "add", "arg.a": "40", "arg.b": "2"}
        shown = await visitor.post("/console/call", data=form, headers=PAGE | OURS)
        assert shown.status_code == 200 and "&#34;text&#34;" in shown.text and " ms<" in shown.text
        told = (await visitor.post("/console/call", json={"endpoint": "single_module", "tool": "fails"}, headers=BEARER)).json()
        assert not told["ok"] and told["result"]["isError"] and told["milliseconds"] >= 0
        assert [one["name"] for one in calls] == ["add", "fails"] and calls[0]["arguments"] == {"a": 40, "b": 2}
        unknown = (await visitor.post("/console/call", json={"endpoint": "kitchen", "tool": "nothing"}, headers=BEARER)).json()
        assert not unknown["ok"] and unknown["error"]["code"] == -32001 and unknown["error"]["zh"].startswith("工具端未连接")
        wrong = await visitor.post("/console/call", data=form | {"arg.a": "x"}, headers=PAGE | OURS)
        assert wrong.status_code == 400 and "a is not a whole number" in wrong.text


@pytest.mark.parametrize("body", [b"", b"[]", b'{"endpoint": "a"}', b'{"endpoint": "a", "tool": "b", "arguments": []}', b"\xff"])
def test_a_call_that_is_none_is_told(body: bytes) -> None:
    with pytest.raises(Wrong):
        Calls.of_json(body)


async def test_an_endpoint_without_tools_says_the_next_command_and_is_left_as_it_was(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (server, visitor):
        page = (await visitor.get("/console/tools?endpoint=kitchen", headers=PAGE | BEARER)).text
        assert "mcp-endpoint pipe" in page
        (room,) = (one for one in server._rooms if one.name == "console")
        room.shell._calls.close()  # type: ignore[attr-defined]
        assert not server._broker.endpoints


class Broker:
    """A broker that counts who comes and goes."""

    endpoints: ClassVar[dict[str, Any]] = {}


async def test_the_console_is_at_a_bounded_number_of_endpoints_and_leaves_the_one_unused_for_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    calls = Calls(Broker(), Limits())  # type: ignore[arg-type]
    with calls._at("a"), calls._at("b"), pytest.raises(NotThere), calls._at("c"):
        raise AssertionError("both are in use")
    with calls._at("a"):
        pass
    with calls._at("c"):
        assert [shown for _, shown in calls._places] == ["a", "c"]
    with pytest.raises(NotThere), calls._at("opaque-12345678"):
        raise AssertionError("the token of free choice is not known")
    calls.close()
    assert not calls._places


async def test_a_consumer_that_nobody_uses_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
    calls = Calls(Broker(), Limits())  # type: ignore[arg-type]
    with calls._at("a"):
        pass
    place = calls._places["agent:a", "a"]
    assert place.leaving is not None
    place.leaving._run()
    assert not calls._places
