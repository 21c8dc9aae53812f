"""When nobody is there: what the endpoint answers for itself, what it holds, and why it says it has no tool. Plays of one endpoint."""

from __future__ import annotations

import pytest
from plays import INITIALIZED, Actor, Play, answer, call, failure, initialize, notification, request, tool_named, welcome

from mcp_endpoint.core.delivery import LastClose
from mcp_endpoint.settings.schema import EndpointSettings

CHANGED = notification("notifications/tools/list_changed")
XIAOZHI = "XiaozhiMCPEndpointClient"


def answers(device: Actor) -> list[object]:
    """What the device has heard besides notifications."""
    heard = [device.hear() for _ in range(len(device.heard))]
    return [frame for frame in heard if "method" not in frame]


# -- answered by the endpoint ------------------------------------------------------------------------------------------------


@pytest.mark.row("E22", "E25", "U9")
@pytest.mark.parametrize(
    ("asked", "heard"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("1.0", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
    ],
)
def test_initialize_and_ping_are_answered_by_the_endpoint(asked: str, heard: str) -> None:
    """With the revision asked for if we know it, and the capability to announce tools; ping gets `{}`; notifications get nothing."""
    device = Play().device()
    device.says(initialize(0, version=asked), INITIALIZED, request("p", "ping"), notification("odd"))
    frame = device.hear()
    assert frame["id"] == 0
    assert frame["result"]["protocolVersion"] == heard
    assert frame["result"]["capabilities"] == {"tools": {"listChanged": True}}
    assert frame["result"]["serverInfo"] == {"name": "mcp-endpoint-server", "version": "1"}
    device.hears(answer("p"))
    device.hears_nothing()


@pytest.mark.parametrize(
    "params", [b"null", b"{}", b"[]", b'{"protocolVersion":5,"clientInfo":[],"capabilities":7}', b'{"clientInfo":{"name":[]}}']
)
def test_an_odd_initialize_is_answered_like_any(params: bytes) -> None:
    """What a consumer says of itself may be missing or malformed."""
    device = Play().device()
    device.says(b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":%b}' % params)
    assert device.hear()["result"]["protocolVersion"] == "2025-11-25"
    device.says(request(2, "initialize"), request(3, "tools/list"))
    assert device.hear()["id"] == 2
    device.hears(answer(3, tools=[]))


@pytest.mark.row("U9")
def test_a_call_without_a_tool_is_refused_at_once() -> None:
    """-32001 工具端未连接 with the agent id and no `result`, for calls and other requests; nothing for notifications.

    U9 wants that error for whatever is asked; the design has `initialize`, `ping` and `tools/list` answered by the endpoint itself.
    """
    device = Play().device()
    device.says(call(1, "add"), request("r", "resources/list"), notification("tools/call"))
    for id in (1, "r"):
        data = device.hears_error(id, -32001, delivered=False)
        assert data["hint"].startswith("never connected")
    device.hears_nothing()


def test_a_list_without_a_tool_is_empty_at_once() -> None:
    """manager-api would show an error after 10 s if it heard nothing; an empty list shows 未连接 in no time."""
    device = Play().device()
    device.says(initialize(1, client="xz-mcp-broker"), INITIALIZED, request(2, "tools/list"))
    device.hear()
    device.hears(answer(2, tools=[]))


def test_a_consumer_that_was_given_an_empty_list_hears_when_there_is_one() -> None:
    """A standard client lists again when it hears list_changed."""
    play = Play()
    device = play.ready_device()
    device.says(request(2, "tools/list"))
    device.hears(answer(2, tools=[]))
    tool = play.tool()
    tool.is_greeted("calc", ["add"])
    device.hears(CHANGED)
    device.hears_nothing()


# -- the hint says why ---------------------------------------------------------------------------------------------------------


def hint(device: Actor) -> str:
    device.heard.clear()
    device.says(call("hint", "add"))
    return str(device.hears_error("hint", -32001)["hint"])


def test_the_hint_says_when_and_how_the_tool_left() -> None:
    """left at TIME with CODE, in both languages; for as long as the endpoint, or the memory of it, lives."""
    play = Play()
    device = play.device()
    play.tool().leaves(1011, "keepalive ping timeout")
    play.wait(11)
    said = hint(device)
    assert "left at 2023-11-14T22:30:00+00:00 with 1011 keepalive ping timeout" in said
    assert "断开" in said
    play = Play(last_close=LastClose(900.0, 1006, ""))
    assert "with 1006" in hint(play.device())


def test_the_hint_says_why_the_greeting_failed() -> None:
    """initialize failed: REASON."""
    play = Play()
    device = play.ready_device()
    tool = play.tool()
    tool.is_greeted("calc", ["add"])
    device.says(request(1, "tools/list"))
    tool.leaves()
    tool = play.tool()
    tool.says(failure(tool.hear()["id"], -32601))
    tool.says(failure(tool.hear()["id"], -32601))  # server/discover
    play.wait(11)
    assert "initialize failed: it answered initialize with an error" in hint(device)


def test_the_hint_says_that_tools_are_connected_under_another_token() -> None:
    """The most frequent mistake is the wrong address; only a count is told."""
    play = Play(elsewhere=lambda: 3)
    said = hint(play.device())
    assert "3 tools are connected under another token" in said and "never connected" in said
    assert "another token" not in hint(Play(elsewhere=lambda: 0).device())


# -- held lists ------------------------------------------------------------------------------------------------------------------


def holding(play: Play) -> Actor:
    """xiaozhi-server has asked for its list, once in its life, and nobody is there."""
    device = play.device()
    device.says(initialize(1, client=XIAOZHI), INITIALIZED, request(2, "tools/list"))
    assert device.hear()["id"] == 1
    device.hears_nothing()
    return device


def test_the_real_xiaozhi_servers_list_is_held_until_a_tool_is_there() -> None:
    """Held without a deadline and counted as in flight; answered when a provider is ready and none has begun greeting for 1 s."""
    play = Play()
    device = holding(play)
    assert play.endpoint.ledger.in_flight == 1
    play.wait(7200)
    device.hears_nothing()
    tool = play.tool()
    tool.is_greeted("calc", ["add"])
    play.wait(0.9)
    assert not answers(device)
    play.wait(0.2)
    assert answers(device) == [answer(2, tools=[tool_named("add")])]
    assert play.endpoint.ledger.in_flight == 0
    play.wait(60)
    assert not answers(device)


def test_a_held_list_waits_for_tools_that_come_one_after_the_other() -> None:
    """mcp_pipe starts its servers together: while one has attached within the last second the list waits."""
    play = Play()
    device = holding(play)
    for n in range(6):
        play.tool(f"s{n}").is_greeted(f"s{n}", [f"t{n}"])
        play.wait(0.7)
        assert not answers(device)
    play.wait(0.4)
    assert answers(device) == [answer(2, tools=[tool_named(f"t{n}") for n in range(6)])]


def test_a_held_list_is_not_answered_by_a_tool_that_came_and_went() -> None:
    """A provider must be ready; one that died in its greeting brought nothing."""
    play = Play()
    device = holding(play)
    play.tool().leaves()
    play.wait(10)
    assert not answers(device)
    slow = play.tool()
    play.wait(4)
    assert not answers(device)
    slow.is_greeted("slow", ["s"])
    assert answers(device) == [answer(2, tools=[tool_named("s")])]


def test_a_held_list_goes_to_a_bare_tool() -> None:
    """Whoever does not take a greeting may still know tools/list."""
    play = Play()
    device = holding(play)
    tool = play.tool()
    tool.says(failure(tool.hear()["id"], -32601))
    tool.says(failure(tool.hear()["id"], -32601))  # server/discover
    play.wait(1.1)
    frame = tool.hear()
    assert frame["method"] == "tools/list"
    tool.says(answer(frame["id"], tools=[tool_named("bare")]))
    assert answers(device) == [answer(2, tools=[tool_named("bare")])]


def test_a_held_list_that_went_to_a_bare_tool_has_no_deadline_of_ours() -> None:
    """It has always been asked once in its life: the tool may take its time, and if it dies the next one is asked."""
    play = Play()
    device = holding(play)
    tool = play.tool()
    tool.says(failure(tool.hear()["id"], -32601))
    tool.says(failure(tool.hear()["id"], -32601))  # server/discover
    play.wait(90)
    assert not answers(device)
    tool.leaves()
    play.tool().is_greeted("calc", ["add"])
    play.wait(1.1)
    assert answers(device) == [answer(2, tools=[tool_named("add")])]


def test_a_held_list_can_be_cancelled() -> None:
    """Then nobody is owed anything."""
    play = Play()
    device = holding(play)
    device.says(notification("notifications/cancelled", requestId=2))
    assert play.endpoint.ledger.in_flight == 0
    play.tool().is_greeted("calc", ["add"])
    play.wait(5)
    assert not answers(device)


def test_only_the_names_that_are_set_are_held() -> None:
    """`[endpoint] hold_empty_list_for`, with patterns; everybody else hears the empty list at once."""
    play = Play(EndpointSettings(hold_empty_list_for=("rob?t*",)))
    for client, heard in (("robot", 0), ("robat-2", 0), (XIAOZHI, 1), ("", 1), ("someone", 1)):
        device = play.ready_device(client)
        device.says(request(2, "tools/list"))
        assert len(answers(device)) == heard


def test_a_held_list_waits_while_the_catalog_of_one_that_left_is_there() -> None:
    """In grace the list is answered from what stayed; nothing is held then."""
    play = Play()
    device = play.ready_device(XIAOZHI)
    tool = play.tool()
    tool.is_greeted("calc", ["add"])
    tool.leaves()
    device.heard.clear()
    device.says(request(2, "tools/list"))
    device.hears(answer(2, tools=[tool_named("add")]))
    play.wait(10.1)
    device.says(request(2, "tools/list"))
    assert not answers(device)


def test_xiaozhi_server_before_its_tool_and_manager_api_beside_it() -> None:
    """Holding for one keeps nobody else waiting, and the tool is greeted once for all."""
    play = Play()
    device = holding(play)
    manager = play.device()
    manager.says(initialize(1, client="xz-mcp-broker"))
    assert manager.hear()["id"] == 1
    manager.says(INITIALIZED, b'{"jsonrpc":"2.0","id":2,"method":"tools/list","params":null}')
    manager.hears(answer(2, tools=[]))
    tool = play.tool()
    tool.says(welcome(tool.hear()["id"]))
    tool.hears(INITIALIZED)
    tool.lists(["add"])
    tool.hears_nothing()
    play.wait(1.1)
    assert answers(device) == [answer(2, tools=[tool_named("add")])]
