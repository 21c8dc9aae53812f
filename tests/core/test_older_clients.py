"""Who gets a text for a result that only programs can read, and a list without references. Plays of one endpoint."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from plays import INITIALIZED, Actor, Play, answer, call, initialize, request

from mcp_endpoint.settings.schema import EndpointSettings, Limits

ONLY_STRUCTURED = {"structuredContent": {"celsius": 21}}
TEXT = [{"type": "text", "text": '{"celsius":21}'}]


def _met(play: Play, version: str = "2024-11-05") -> tuple[Actor, Actor]:
    """A device that asks for this revision, and a tool; both are ready."""
    device, tool = play.device(), play.tool()
    device.says(initialize(1, version=version), INITIALIZED)
    tool.is_greeted()
    device.heard.clear()
    return device, tool


def _heard(tool: Actor, device: Actor, **result: Any) -> Any:
    """What a device gets for a call that is answered with this result."""
    device.says(call(5, "weather"))
    asked = tool.hear()
    tool.says(answer(asked["id"], **result))
    return device.hear()["result"]


@pytest.mark.parametrize(
    ("rule", "version", "has_text"),
    [
        ("old", "2024-11-05", True),
        ("old", "2025-03-26", True),
        ("old", "", True),
        ("old", "2025-06-18", False),
        ("old", "2026-07-28", False),
        ("always", "2025-11-25", True),
        ("never", "2024-11-05", False),
    ],
)
def test_old_clients_get_the_json_as_text(rule: Literal["old", "always", "never"], version: str, has_text: bool) -> None:
    device, tool = _met(Play(EndpointSettings(greet="endpoint", structured_as_text=rule)), version)
    assert _heard(tool, device, **ONLY_STRUCTURED) == (ONLY_STRUCTURED | {"content": TEXT} if has_text else ONLY_STRUCTURED)
    said = {"content": [{"type": "text", "text": "warm"}], **ONLY_STRUCTURED}
    assert _heard(tool, device, **said) == said
    assert _heard(tool, device, content=[]) == {"content": []}


def test_who_never_said_what_it_knows_gets_the_answer_as_it_came() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    assert _heard(tool, device, **ONLY_STRUCTURED) == ONLY_STRUCTURED


def test_whoever_hands_on_the_answers_of_a_server_changes_nothing_in_them() -> None:
    """What is old or not is known at the outer endpoint alone, where many devices meet."""
    play = Play()
    bridge, tool = play.device(in_process=True), play.tool()
    bridge.party.relays = True
    bridge.says(initialize(1), INITIALIZED)
    tool.is_greeted()
    bridge.heard.clear()
    assert _heard(tool, bridge, **ONLY_STRUCTURED) == ONLY_STRUCTURED


@pytest.mark.parametrize("size", [100, 40_000])
@pytest.mark.parametrize("first", [True, False])
def test_a_large_answer_is_looked_at_where_it_lies(size: int, first: bool) -> None:
    device, tool = _met(Play(EndpointSettings(greet="endpoint")))
    device.says(call(5, "weather"))
    number = tool.hear()["id"]
    result = b'{"structuredContent":{"x":"%b"}}' % (b"y" * size)
    frame = b'{"jsonrpc":"2.0","id":%d,"result":%b}' if first else b'{"jsonrpc":"2.0","result":%b,"id":%d}'
    tool.says(frame % ((number, result) if first else (result, number)))
    [item] = device.hear()["result"]["content"]
    assert json.loads(item["text"]) == {"x": "y" * size}


def test_a_text_that_would_make_the_answer_too_large_is_left_out() -> None:
    device, tool = _met(Play(EndpointSettings(greet="endpoint"), Limits(device_answer_bytes=4096)))
    large = {"structuredContent": "x" * 3000}
    assert _heard(tool, device, **large) == large
    assert "content" in _heard(tool, device, structuredContent="x" * 1000)


REFERS = {"name": "a", "inputSchema": {"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}}, "$defs": {"P": {"const": "x" * 50}}}}
PLAIN = {"name": "b", "inputSchema": {"type": "object", "properties": {"$": {"type": "string"}}}}


@pytest.mark.parametrize(("client", "has_references"), [("XiaozhiMCPEndpointClient", False), ("inspector", True)])
@pytest.mark.parametrize("tools", [1, 2])
def test_named_clients_get_schemas_without_references_from_one_tool_and_from_several(client: str, has_references: bool, tools: int) -> None:
    settings = EndpointSettings(greet="endpoint", hold_empty_list_for=(), inline_references_for=("Xiaozhi*", "other"))
    play = Play(settings)
    device = play.device()
    device.says(initialize(1, client=client), INITIALIZED)
    parties = play.merged(**{f"t{number}": [REFERS, PLAIN] for number in range(tools)})
    device.heard.clear()
    device.says(request(2, "tools/list"))
    if tools == 1:
        parties[0].lists([REFERS, PLAIN])
    heard = device.hear()["result"]["tools"]
    schema = REFERS["inputSchema"] if has_references else {"type": "object", "properties": {"p": {"const": "x" * 50}}}
    assert [tool["inputSchema"] for tool in heard] == [schema, PLAIN["inputSchema"]] * tools


def test_a_list_without_references_or_one_that_would_grow_too_large_stays_as_it_is() -> None:
    play = Play(EndpointSettings(greet="endpoint", hold_empty_list_for=(), inline_references_for=("*",)), Limits(device_answer_bytes=1500))
    device, tool = _met(play)
    larger = {"name": "a", "inputSchema": {"items": [{"$ref": "#/$defs/P"}] * 20, "$defs": {"P": {"const": "x" * 80}}}}
    for tools in ([PLAIN], [larger]):
        device.says(request(2, "tools/list"))
        tool.lists(tools)
        assert device.hear()["result"]["tools"] == tools
