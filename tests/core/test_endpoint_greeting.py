"""How a provider is greeted, by whom and how often, and what the real peers do first: plays of one endpoint.

The orders of frames are those of the real peers: xiaozhi-server, manager-api, the official broker, mcphub, xiaozhi-client.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from plays import INITIALIZED, Actor, Play, answer, call, failure, initialize, notification, request, tool_named, welcome

from mcp_endpoint.settings.schema import EndpointSettings, Limits

CALCULATOR = tool_named("calculator")


def ready_pair(**capabilities: Any) -> tuple[Play, Actor, Actor]:
    """A tool and a device that have shaken hands."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1))
    tool.says(welcome(tool.hear()["id"], **capabilities))
    device.says(INITIALIZED)
    tool.hears(INITIALIZED)
    device.hear()
    return play, tool, device


# -- the handshakes of real peers ------------------------------------------------------------------------------------------


@pytest.mark.row("E22", "E23", "E24", "E25", "E26", "D7")
def test_the_official_brokers_frames_pass_with_id_zero() -> None:
    """The five frames of the product document, in order and verbatim: id 0 stays 0, the notification has no reply, the rest has its own."""
    _, tool, device = (play := Play()), play.tool(), play.device()
    device.says(
        b'{"id":0,"jsonrpc":"2.0","method":"initialize","params":{"protocolVersion":"2024-11-05",'
        b'"capabilities":{"sampling":{},"roots":{"listChanged":false}},"clientInfo":{"name":"xz-mcp-broker","version":"0.0.1"}}}'
    )
    device.says(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    device.says(b'{"id":1,"jsonrpc":"2.0","method":"tools/list","params":{}}')
    device.says(b'{"id":2,"jsonrpc":"2.0","method":"ping","params":{}}')
    device.says(
        b'{"id":10,"jsonrpc":"2.0","method":"tools/call","params":{"name":"calculator",'
        b'"arguments":{"python_expression":"130000 * 130000"},"serialNumber":null}}'
    )
    assert [frame["id"] for frame in map(json.loads, tool.heard) if "id" in frame] == [1, 2, 3, 4]
    tool.hears(
        b'{"id":1,"jsonrpc":"2.0","method":"initialize","params":{"protocolVersion":"2024-11-05",'
        b'"capabilities":{"sampling":{},"roots":{"listChanged":false}},"clientInfo":{"name":"xz-mcp-broker","version":"0.0.1"}}}',
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
        b'{"id":2,"jsonrpc":"2.0","method":"tools/list","params":{}}',
        b'{"id":3,"jsonrpc":"2.0","method":"ping","params":{}}',
        b'{"id":4,"jsonrpc":"2.0","method":"tools/call","params":{"name":"calculator",'
        b'"arguments":{"python_expression":"130000 * 130000"},"serialNumber":null}}',
    )
    tool.says(welcome(1, version="2024-11-05"), answer(2, tools=[CALCULATOR]), answer(3))
    tool.says(answer(4, content=[{"type": "text", "text": "16900000000"}]))
    device.hears(welcome(0, version="2024-11-05"), answer(1, tools=[CALCULATOR]), answer(2))
    device.hears(answer(10, content=[{"type": "text", "text": "16900000000"}]))
    device.hears_nothing()


@pytest.mark.row("U8", "U15")
def test_xiaozhi_server_speaks_back_to_back_and_uses_its_ids_again() -> None:
    """initialize, initialized and tools/list without waiting; each cursor page has id 2 again; calls are numbered 1, 2, 3 anew."""
    play = Play()
    tool = play.tool()
    play.wait(1)
    device = play.device()
    hello = initialize(1, client="XiaozhiMCPEndpointClient", sampling={}, roots={"listChanged": True})
    device.says(hello, notification("notifications/initialized"), request(2, "tools/list"))
    tool.hears(hello, INITIALIZED, request(2, "tools/list"))
    tool.says(welcome(1), answer(2, tools=[tool_named("a")], nextCursor="c1"))
    device.hears(welcome(1), answer(2, tools=[tool_named("a")], nextCursor="c1"))
    for page, cursor in enumerate(["c1", "c2", "c3"], start=3):
        device.says(request(2, "tools/list", cursor=cursor))
        tool.hears(request(page, "tools/list", cursor=cursor))
        tool.says(answer(page, tools=[tool_named(cursor)], nextCursor=f"c{page - 1}" if page < 5 else None))
        device.hears(answer(2, tools=[tool_named(cursor)], nextCursor=f"c{page - 1}" if page < 5 else None))
    device.says(call(1, "a"), call(2, "c1"))
    tool.hears(call(6, "a"), call(7, "c1"))
    tool.says(answer(7), answer(6))
    device.hears(answer(2), answer(1))
    tool.hears_nothing()
    device.hears_nothing()


@pytest.mark.row("D21")
def test_manager_api_waits_at_each_step_and_sends_null_params() -> None:
    """initialize, wait, initialized, tools/list with `"params": null`, wait, gone: the tool hears no null."""
    play = Play()
    tool, manager = play.tool(), play.device()
    manager.says(initialize(1, client="xz-mcp-broker"))
    tool.hears(initialize(1, client="xz-mcp-broker"))
    tool.says(welcome(1))
    manager.hears(welcome(1))
    manager.says(b'{"jsonrpc":"2.0","method":"notifications/initialized","params":null}')
    tool.hears(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    manager.says(b'{"jsonrpc":"2.0","id":2,"method":"tools/list","params":null}')
    tool.hears(b'{"jsonrpc":"2.0","id":2,"method":"tools/list"}')
    tool.says(answer(2, tools=[CALCULATOR]))
    manager.hears(answer(2, tools=[CALCULATOR]))
    manager.leaves()
    tool.hears_nothing()


@pytest.mark.parametrize("tools", [0, 2])
@pytest.mark.row("D21")
def test_manager_api_is_answered_with_no_tool_and_with_two(tools: int) -> None:
    """Its null params disturb nothing when the endpoint answers for itself."""
    play = Play()
    for n in range(tools):
        play.tool(f"s{n}")
    for n, actor in enumerate(list(play.endpoint.providers)):
        actor.link.is_greeted(f"s{n}", [f"t{n}"])  # type: ignore[attr-defined]
    manager = play.device()
    manager.says(initialize(1, client="xz-mcp-broker"))
    assert manager.hear()["result"]["protocolVersion"] == "2024-11-05"
    manager.says(b'{"jsonrpc":"2.0","method":"notifications/initialized","params":null}')
    manager.says(b'{"jsonrpc":"2.0","id":2,"method":"tools/list","params":null}')
    manager.hears(answer(2, tools=[tool_named(f"t{n}") for n in range(tools)]))
    manager.hears_nothing()


@pytest.mark.row("D12")
def test_mcphub_announces_changes_at_open_before_it_was_spoken_to() -> None:
    """`list_changed` before initialize is remembered: nobody hears it, and the tools are learned once the provider is ready."""
    play = Play()
    tool, device = play.tool(), play.device()
    tool.says(notification("notifications/tools/list_changed"))
    device.hears_nothing()
    tool.hears_nothing()
    device.says(initialize(1), INITIALIZED, request(2, "tools/list"))
    tool.hears(initialize(1), INITIALIZED, request(2, "tools/list"))
    tool.says(welcome(1))
    listing = tool.hear()
    assert (listing["method"], listing["id"]) == ("tools/list", 3)
    tool.says(answer(2, tools=[CALCULATOR]), answer(3, tools=[CALCULATOR]))
    device.hears(welcome(1), answer(2, tools=[CALCULATOR]))
    play.wait(5)
    device.hears_nothing()
    tool.hears_nothing()


@pytest.mark.row("U13")
def test_xiaozhi_client_answers_initialized_without_an_id() -> None:
    """That reply answers nothing; it is dropped and counted and harms nobody."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1), INITIALIZED, request(2, "tools/list"))
    tool.says(welcome(1), {"jsonrpc": "2.0", "result": {}}, answer(2, tools=[]))
    device.hears(welcome(1), answer(2, tools=[]))
    device.hears_nothing()
    assert play.counters.noise == 1


def test_the_first_manager_api_lists_without_initialize() -> None:
    """A list without any handshake is served as it is by a tool that does not insist on one."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, "tools/list"))
    tool.hears(request(1, "tools/list"))
    tool.says(answer(1, tools=[CALCULATOR]))
    device.hears(answer(1, tools=[CALCULATOR]))
    tool.hears_nothing()


# -- the broker does not speak before there is a need ------------------------------------------------------------------------


def test_a_new_provider_hears_nothing_before_somebody_asks() -> None:
    """A tool alone, or with devices that have not spoken, is left in peace."""
    play = Play()
    tool, device = play.tool(), play.device()
    play.wait(3600)
    tool.hears_nothing()
    device.hears_nothing()


def test_the_first_consumers_initialize_is_carried_as_it_is() -> None:
    """The tool sees who asks: the consumer's own words, id apart; and the consumer sees the tool's own answer, byte for byte."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(b'{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2099-01-01","x":1.00}}')
    tool.hears(b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2099-01-01","x":1.00}}')
    tool.says(b'{"id":1,"result":{"protocolVersion":"2031-01-01","capabilities":{"n":1.00}},"jsonrpc":"2.0"}')
    device.hears(b'{"id":"i","result":{"protocolVersion":"2031-01-01","capabilities":{"n":1.00}},"jsonrpc":"2.0"}')


def test_the_endpoint_greets_itself_where_it_is_set_so() -> None:
    """`greet = "endpoint"`: the tool hears the endpoint, which declares sampling, elicitation and roots; the consumer hears the result."""
    play = Play(EndpointSettings(greet="endpoint"))
    tool, device = play.tool(), play.device()
    device.says(initialize("i", client="robot"))
    greeting = tool.hear()
    assert greeting["method"] == "initialize"
    assert greeting["params"]["clientInfo"]["name"] == "mcp-endpoint-server"
    assert greeting["params"]["capabilities"] == {"sampling": {}, "elicitation": {}, "roots": {}}
    tool.says(welcome(greeting["id"], version="2024-11-05"))
    device.hears(welcome("i", version="2024-11-05"))
    tool.hears(INITIALIZED)
    tool.lists(["a"])
    device.says(INITIALIZED, request(2, "tools/list"))
    assert tool.hear()["method"] == "tools/list"
    tool.hears_nothing()


# -- once in its life --------------------------------------------------------------------------------------------------------


@pytest.mark.row("D22")
def test_a_second_devices_handshake_never_reaches_the_tool() -> None:
    """One initialize and one initialized per tool: later devices are answered from the one result, whenever they come."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1))
    second.says(initialize(1), INITIALIZED)
    tool.hears(initialize(1))
    tool.says(welcome(1))
    first.hears(welcome(1))
    second.hears({**welcome(1), "result": {**welcome(1)["result"], "protocolVersion": "2024-11-05"}})
    tool.heard.clear()
    first.says(INITIALIZED)
    third = play.device()
    third.says(initialize("x"), INITIALIZED)
    assert third.hear()["id"] == "x"
    first.says(initialize(9), INITIALIZED)
    assert first.hear()["id"] == 9
    methods = [json.loads(frame)["method"] for frame in tool.heard]
    assert "initialize" not in methods
    assert methods.count("notifications/initialized") == 1


@pytest.mark.row("D22")
def test_between_initialize_and_initialized_another_device_harms_nobody() -> None:
    """A second device's request before the first one's `initialized`: the endpoint says it, once, and the first one's goes no further."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1))
    tool.hears(initialize(1))
    tool.says(welcome(1))
    first.hears(welcome(1))
    second.says(request("a", "x/y"))
    tool.hears(INITIALIZED, request(2, "x/y"))
    first.says(INITIALIZED, request("b", "x/y"))
    tool.hears(request(3, "x/y"))
    tool.says(answer(3), answer(2))
    first.hears(answer("b"))
    second.hears(answer("a"))
    tool.hears_nothing()


def test_the_first_consumers_initialized_is_the_one_the_tool_hears() -> None:
    """It passes with its own bytes, and only the first of them."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1))
    tool.hears(initialize(1))
    tool.says(welcome(1))
    device.says(b'{"jsonrpc":"2.0","method":"notifications/initialized","params":{"x":1.00}}', INITIALIZED)
    tool.hears(b'{"jsonrpc":"2.0","method":"notifications/initialized","params":{"x":1.00}}')
    tool.hears_nothing()


def test_a_greeter_may_ping_between_initialize_and_initialized() -> None:
    """MCP allows pings there; they are not taken for the first request."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1))
    tool.hear()
    tool.says(welcome(1))
    device.says(request(2, "ping"))
    tool.hears(request(2, "ping"))
    device.says(INITIALIZED)
    tool.hears(INITIALIZED)


@pytest.mark.parametrize(
    ("asked", "told", "heard"),
    [
        ("2024-11-05", "2025-06-18", "2024-11-05"),
        ("2025-03-26", "2025-06-18", "2025-03-26"),
        ("2025-06-18", "2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-06-18", "2025-06-18"),
        ("1999-01-01", "2025-06-18", "2025-06-18"),
        ("", "2024-11-05", "2024-11-05"),
    ],
)
def test_later_devices_are_answered_with_the_result_and_the_version_they_asked(asked: str, told: str, heard: str) -> None:
    """The result's own bytes, with `protocolVersion` set to the one asked if we know it and it is not newer."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1))
    tool.hear()
    body = b'{"capabilities":{"n":1.00},"protocolVersion":"%b", "serverInfo":{"name":"\\u4f60"}}'
    tool.says(b'{"jsonrpc":"2.0","id":1,"result":' + body % told.encode() + b"}")
    second.says(initialize("s", version=asked))
    second.hears(b'{"jsonrpc":"2.0","id":"s","result":' + body % heard.encode() + b"}")


# -- while initializing ------------------------------------------------------------------------------------------------------


@pytest.mark.row("D22")
def test_frames_of_others_wait_in_order_while_the_tool_is_initializing() -> None:
    """The first consumer's frames pass (it speaks back to back); everybody else's wait and follow in order once the tool is ready."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1), INITIALIZED)
    tool.hears(initialize(1), INITIALIZED)
    second.says(request(1, "m", n=1), notification("n", n=2), request(2, "m", n=3), request(3, "ping", n=4))
    first.says(request(2, "m", n=0))
    tool.hears(request(2, "m", n=0))
    tool.hears_nothing()
    tool.says(welcome(1))
    assert [tool.hear()["params"]["n"] for _ in range(4)] == [1, 2, 3, 4]
    tool.hears_nothing()


def test_what_waits_for_a_greeting_is_bounded() -> None:
    """Beyond `queued_bytes_per_link` a request is refused as busy and a notification is dropped; what had room is carried."""
    play = Play(limits=Limits(queued_bytes_per_link=10_000))
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1), INITIALIZED)
    second.says(request(1, "m", x="x" * 7000), request(2, "m", x="x" * 7000), notification("n", x="x" * 7000))
    second.hears_error(2, -32005, delivered=False)
    second.hears_nothing()
    tool.heard.clear()
    tool.says(welcome(1))
    assert tool.hear()["id"] == 2
    tool.hears_nothing()
    assert play.counters.dropped_notifications == 1
    second.says(request(3, "m", x="x" * 7000))
    assert tool.hear()["id"] == 3


def test_waiting_frames_of_consumers_that_cancelled_or_left_are_not_carried() -> None:
    """What nobody waits for any more is not said to the tool when it becomes ready."""
    play = Play()
    tool, first, second, third = play.tool(), play.device(), play.device(), play.device()
    first.says(initialize(1), INITIALIZED)
    second.says(request(1, "m"), request(2, "m"), notification("notifications/cancelled", requestId=1))
    third.says(request(1, "m"), notification("n"))
    third.leaves()
    tool.heard.clear()
    tool.says(welcome(1))
    tool.hears(request(2, "m"))
    tool.hears_nothing()


def test_a_waiting_request_keeps_its_deadline() -> None:
    """Waiting for a greeting is part of the time a request may take; it was not delivered."""
    play = Play(EndpointSettings(call_timeout=3.0))
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1), INITIALIZED)
    second.says(request(1, "m"), notification("n"))
    play.wait(3.1)
    second.hears_error(1, -32006, delivered=False)
    tool.heard.clear()
    tool.says(welcome(1))
    tool.hears(notification("n"))
    tool.hears_nothing()


def test_an_initialize_cannot_be_cancelled() -> None:
    """MCP forbids it: the cancel does nothing, and the answer comes."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1), notification("notifications/cancelled", requestId=1))
    tool.hears(initialize(1))
    tool.hears_nothing()
    tool.says(welcome(1))
    device.hears(welcome(1))


# -- silence, errors, death ----------------------------------------------------------------------------------------------------


def test_a_silent_tool_leaves_initializes_answered_as_on_an_empty_endpoint() -> None:
    """After 8 s everybody who waits is answered by the endpoint; nothing is cancelled at the tool; its late result makes it ready."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1, version="2025-03-26"))
    play.wait(3)
    second.says(initialize("two"))
    play.wait(4.9)
    first.hears_nothing()
    play.wait(0.2)
    for device, id, version in ((first, 1, "2025-03-26"), (second, "two", "2024-11-05")):
        frame = device.hear()
        assert frame["id"] == id
        assert frame["result"]["protocolVersion"] == version
        assert frame["result"]["serverInfo"]["name"] == "mcp-endpoint-server"
    tool.hears(initialize(1, version="2025-03-26"))
    play.wait(60)
    tool.hears_nothing()
    tool.says(welcome(1))
    first.says(call(3, "a"))
    heard = [tool.hear() for _ in range(len(tool.heard))]
    assert [frame for frame in heard if "id" not in frame] == [INITIALIZED]
    assert [frame["params"] for frame in heard if frame["method"] == "tools/call"] == [{"name": "a", "arguments": {}}]
    third = play.device()
    third.says(initialize("three"))
    assert third.hear()["result"]["serverInfo"]["name"] == "calc"


@pytest.mark.row("D5")
def test_a_tool_that_dies_while_initializing_leaves_initializes_answered() -> None:
    """Everybody who waits for its result is answered as for an empty endpoint, at once."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1))
    second.says(initialize(2))
    tool.leaves()
    for device, id in ((first, 1), (second, 2)):
        frame = device.hear()
        assert frame["id"] == id and frame["result"]["serverInfo"]["name"] == "mcp-endpoint-server"
        device.hears_nothing()
    assert play.endpoint.ledger.in_flight == 0


def test_an_error_to_initialize_reaches_its_consumer_and_makes_the_tool_bare() -> None:
    """The one whose initialize was carried hears the tool's own error; others are answered by the endpoint; nobody greets again."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize("x"))
    second.says(initialize(2), INITIALIZED, request(3, "tools/list"))
    tool.hears(initialize(1))
    tool.says(failure(1, -32601, "what?"))
    assert tool.hear()["method"] == "server/discover"
    tool.says(failure(2, -32601, "what again?"))
    first.hears(failure("x", -32601, "what?"))
    assert second.hear()["result"]["serverInfo"]["name"] == "mcp-endpoint-server"
    tool.hears(request(3, "tools/list"))
    first.says(initialize("again"), request(4, "turn"))
    assert first.hear()["result"]["serverInfo"]["name"] == "mcp-endpoint-server"
    tool.hears(request(4, "turn"))
    play.wait(60)
    tool.hears(notification("notifications/cancelled", requestId=3, reason="timed out"))
    assert {"label": "tool", "why": "it answered initialize with an error"} in [fields for event, fields in play.told if event == "bare"]


@pytest.mark.parametrize("result", [{}, {"protocolVersion": 5}, {"capabilities": {}}, [], None, 7])
def test_a_result_that_is_none_makes_the_tool_bare(result: Any) -> None:
    """A result without `protocolVersion` is no greeting; the one who asked still sees what the tool said."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(5))
    tool.hear()
    tool.says({"jsonrpc": "2.0", "id": 1, "result": result})
    device.hears({"jsonrpc": "2.0", "id": 5, "result": result})
    assert play.endpoint.describe(play.now)["tools"][0]["state"] == "bare"


def test_a_greeter_that_leaves_does_not_spoil_the_greeting() -> None:
    """The device that began the handshake leaves in it: the tool becomes ready for the next, and `initialized` is ours then."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1))
    tool.hears(initialize(1))
    first.leaves()
    tool.hears_nothing()  # never a cancel of initialize
    second.says(initialize("s"), INITIALIZED, request(2, "x/y"))
    tool.says(welcome(1))
    assert second.hear()["id"] == "s"
    heard = [tool.hear() for _ in range(len(tool.heard))]
    assert heard[0] == INITIALIZED
    assert [frame["method"] for frame in heard].count("notifications/initialized") == 1
    assert heard[-1]["method"] == "x/y"


def test_a_greeter_that_leaves_before_initialized_is_stood_in_for() -> None:
    """Between initialize and initialized the device goes; the next request is preceded by our `initialized`."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1))
    tool.hear()
    tool.says(welcome(1))
    first.leaves()
    second.says(INITIALIZED)
    tool.hears_nothing()
    second.says(request(7, "x/y"))
    tool.hears(INITIALIZED, request(2, "x/y"))


# -- without a handshake -----------------------------------------------------------------------------------------------------


def test_a_tool_that_insists_on_a_handshake_gets_one_and_the_list_is_asked_again() -> None:
    """tools/list answered with an error, no initialize ever sent: greet, ask once more, show only the second answer."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request("l", "tools/list"))
    tool.hears(request(1, "tools/list"))
    tool.says(failure(1, -32600, "not initialized"))
    device.hears_nothing()
    greeting = tool.hear()
    assert greeting["method"] == "initialize" and greeting["params"]["clientInfo"]["name"] == "mcp-endpoint-server"
    tool.says(welcome(greeting["id"]))
    frames = [tool.hear() for _ in range(len(tool.heard))]
    assert frames[0] == INITIALIZED
    for frame in frames[1:]:
        assert frame["method"] == "tools/list"
        tool.says(answer(frame["id"], tools=[tool_named("a")]))
    device.hears(answer("l", tools=[tool_named("a")]))
    device.hears_nothing()


@pytest.mark.parametrize("method", ["tools/call", "resources/read", "你"])
def test_invalid_params_without_a_handshake_are_tried_again_after_one(method: str) -> None:
    """Servers of the SDK of early 2025 answer -32602 to anything before initialize: greet and repeat once."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(9, method, name="a", arguments={"x": 1}))
    tool.hears(request(1, method, name="a", arguments={"x": 1}))
    tool.says(failure(1, -32602))
    greeting = tool.hear()
    tool.says(welcome(greeting["id"]))
    tool.hears(INITIALIZED)
    frames = [tool.hear() for _ in range(len(tool.heard))]
    repeated = next(frame for frame in frames if frame["method"] == method)
    assert repeated["params"] == {"name": "a", "arguments": {"x": 1}}
    tool.says(failure(repeated["id"], -32602, "really"))
    device.hears(failure(9, -32602, "really"))
    device.hears_nothing()


def test_other_errors_without_a_handshake_are_the_answer() -> None:
    """Only a list's error, or -32602, looks like a server that insists."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(9, "turn"))
    tool.hear()
    tool.says({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "?"}})
    device.hears(failure(9, -32601, "?"))
    device.says(request(9, "turn"))
    tool.hear()
    tool.says({"jsonrpc": "2.0", "id": 2, "error": "odd"})
    device.hears({"jsonrpc": "2.0", "id": 9, "error": "odd"})
    tool.hears_nothing()


def test_a_tool_that_worked_without_a_handshake_is_not_suspected_later() -> None:
    """Once it answered anything, -32602 means what it says."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, "turn"))
    tool.says(answer(1))
    device.says(request(2, "turn"))
    tool.says(failure(2, -32602))
    device.hears(answer(1), failure(2, -32602))
    tool.heard.clear()
    tool.hears_nothing()


def test_after_an_initialize_an_error_is_the_answer() -> None:
    """The repetition is only for a tool that was never sent an initialize."""
    _, tool, device = ready_pair()
    device.says(request(2, "tools/list"))
    tool.hears(request(2, "tools/list"))
    tool.says(failure(2, -32602))
    device.hears(failure(2, -32602))
    tool.hears_nothing()


def test_a_tool_that_dies_during_the_repetition_leaves_one_answer() -> None:
    """Greeted because it insisted, gone before the second answer: the request is answered once."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request("l", "tools/list"))
    tool.says(failure(1, -1))
    tool.leaves()
    play.wait(30)
    frame = device.hear()
    assert frame["id"] == "l"
    device.hears_nothing()


# -- when the endpoint must know -----------------------------------------------------------------------------------------------


@pytest.mark.row("U11", "D4")
def test_a_second_provider_makes_the_endpoint_greet_both() -> None:
    """Two providers are one server: both are greeted once (`initialize`, `initialized`, all pages of the list), nobody is sent away."""
    play = Play()
    first = play.tool()
    first.hears_nothing()
    second = play.tool()
    for tool, name in ((first, "one"), (second, "two")):
        greeting = tool.hear()
        assert greeting["method"] == "initialize"
        tool.says(welcome(greeting["id"], name))
        tool.hears(INITIALIZED)
        listing = tool.hear()
        tool.says(answer(listing["id"], tools=[tool_named(f"{name}1")], nextCursor="more"))
        listing = tool.hear()
        assert listing["params"] == {"cursor": "more"}
        tool.says(answer(listing["id"], tools=[tool_named(f"{name}2")]))
        tool.hears_nothing()
    assert first.close_reason is None and second.close_reason is None
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    assert [tool["name"] for tool in device.hear()["result"]["tools"]] == ["one1", "one2", "two1", "two2"]


def test_a_ready_provider_is_not_greeted_again_when_a_second_comes() -> None:
    """It is only asked for its tools; the newcomer is greeted."""
    play, tool, device = ready_pair()
    other = play.tool()
    other.is_greeted("other", ["b"])
    tool.lists(["a"])
    tool.hears_nothing()
    device.says(request(2, "tools/list"))
    device.hears(
        notification("notifications/tools/list_changed"),
        answer(2, tools=[tool_named("a"), tool_named("b")]),
    )


def test_a_provider_that_appears_while_a_consumer_is_initialised_is_greeted() -> None:
    """Its consumers will not initialise again, so the endpoint does."""
    play = Play()
    device = play.ready_device()
    tool = play.tool()
    tool.is_greeted("calc", ["add"])
    device.hears(notification("notifications/tools/list_changed"))
    device.says(request(2, "tools/list"))
    assert tool.hear()["method"] == "tools/list"


def test_a_second_initialize_of_the_same_greeting_waits_and_ends_well() -> None:
    """A consumer that says initialize twice at once gets two answers."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1), initialize(2, version="2025-03-26"))
    tool.hears(initialize(1))
    tool.hears_nothing()
    tool.says(welcome(1))
    device.hears(welcome(1))
    frame = device.hear()
    assert frame["id"] == 2 and frame["result"]["protocolVersion"] == "2025-03-26"
    device.hears_nothing()


@pytest.mark.parametrize("how", ["silent", "error", "nonsense"])
def test_a_provider_that_does_not_take_a_greeting_is_bare(how: str) -> None:
    """Silence for 5 s or an error: no catalog, never greeted again, and what the catalog cannot place goes to it."""
    play = Play()
    device = play.ready_device()
    tool = play.tool()
    greeting = tool.hear()
    if how == "error":
        tool.says(failure(greeting["id"], -32601))
        tool.says(failure(tool.hear()["id"], -32601))  # server/discover
    elif how == "nonsense":
        tool.says(answer(greeting["id"], hello=1))
    else:
        play.wait(4.9)
        assert play.endpoint.describe(play.now)["tools"][0]["state"] == "initializing"
        play.wait(0.2)
    assert play.endpoint.describe(play.now)["tools"][0]["state"] == "bare"
    device.says(request(1, "turn"), request(2, "tools/list"), call(3, "a"))
    before = 2 if how == "error" else 1  # it was asked for server/discover, too
    tool.hears(request(before + 1, "turn"), request(before + 2, "tools/list"), call(before + 3, "a"))
    other = play.device()
    other.says(initialize())
    other.hear()
    second = play.tool()
    second.is_greeted("s", ["b"])
    play.wait(3)
    tool.hears_nothing()


def test_a_late_result_makes_a_bare_provider_ready() -> None:
    """It took longer than 5 s to start, that is all: its tools are learned and announced."""
    play = Play()
    device = play.ready_device()
    tool = play.tool()
    greeting = tool.hear()
    play.wait(20)
    tool.says(welcome(greeting["id"]))
    tool.hears(INITIALIZED)
    tool.lists(["a"])
    assert play.endpoint.describe(play.now)["tools"][0]["state"] == "ready"
    device.hears(notification("notifications/tools/list_changed"))


def test_a_late_result_of_a_carried_initialize_is_announced_like_an_arrival() -> None:
    """The consumer was answered as on an empty endpoint; that there are tools now, it hears like any arrival."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1))
    greeting = tool.hear()
    play.wait(8.1)
    assert device.hear()["result"]["serverInfo"]["name"] == "mcp-endpoint-server"
    device.says(INITIALIZED)
    play.wait(10)
    tool.says(welcome(greeting["id"]))
    tool.hears(INITIALIZED)
    tool.lists(["a"])
    device.hears(notification("notifications/tools/list_changed"))


def test_the_older_providers_are_pinged_when_one_attaches() -> None:
    """A half-open socket is found within the ping timeout; the newcomer itself is not pinged."""
    play = Play()
    actors = []
    for n in range(4):
        actors.append(play.tool(f"s{n}"))
        assert [actor.pings for actor in actors] == list(range(n, -1, -1))
    assert all(actor.close_reason is None for actor in actors)


def test_an_initialize_waits_eight_seconds_however_many_tools_are_silent() -> None:
    """Silent tools that come one after the other do not add up: the consumer is answered as on an empty endpoint after 8 s."""
    play = Play()
    play.tool()
    play.tool()
    device = play.device()
    device.says(initialize(1))
    play.wait(4)
    play.tool()
    play.wait(3.9)
    device.hears_nothing()
    play.wait(0.2)
    assert device.hear()["result"]["serverInfo"]["name"] == "mcp-endpoint-server"
    play.wait(60)
    device.hears_nothing()


def test_an_ambiguous_initialize_is_refused_and_the_next_is_carried() -> None:
    """A frame with two ids goes nowhere, and the tool is still new."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"initialize","params":{}}')
    device.hears_error(2, -32600, delivered=False)
    tool.hears_nothing()
    device.says(initialize(3))
    assert tool.hear()["method"] == "initialize"
    assert play.endpoint.ledger.in_flight == 1


def test_an_ambiguous_frame_that_waited_is_refused_when_its_turn_comes() -> None:
    """It is looked into when it is carried; what waits behind it is not lost."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1), INITIALIZED)
    second.says(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}', request(3, "m"))
    tool.heard.clear()
    tool.says(welcome(1))
    second.hears_error(2, -32600, delivered=False)
    assert tool.hear()["method"] == "m"
    tool.hears_nothing()


def test_a_reconnected_tool_that_insists_on_a_handshake_gets_one() -> None:
    """Its old socket hangs and had worked without a handshake; the new one does not: it is greeted, and so is the old one now."""
    play = Play()
    old, device = play.tool(), play.device()
    device.says(request(1, "turn"))
    old.says(answer(1))
    device.hears(answer(1))
    old.heard.clear()
    new = play.tool()
    device.says(call(2, "add"))
    new.hears(call(1, "add"))
    new.says(failure(1, -32602))
    new.is_greeted("calc", ["add"])
    old.is_greeted("calc", ["add"])
    assert new.hear()["params"]["name"] == "add"
    device.hears_nothing()


def test_a_bare_tool_after_tools_with_names_works_as_any() -> None:
    """Names are remembered while a device stays; what they do not cover is carried to whoever is there."""
    play = Play()
    device = play.device()
    for actor in play.merged(one=["a"], other=["b"]):
        actor.leaves()
    tool = play.tool()
    for n in (1, 2):
        device.says(request(n, "turn"))
        tool.hears(request(n, "turn"))
        tool.says(answer(n))
        device.hears(answer(n))
    device.says(call(3, "a"))
    tool.hears_nothing()
    play.wait(4.1)
    device.hears_error(3, -32001)


def test_roots_changes_are_told_to_ready_tools_only() -> None:
    """A tool that is being greeted will ask for the roots when it needs them."""
    play = Play()
    one, _ = play.merged(one=["a"], other=["b"])
    third = play.tool("third")
    third.hear()
    device = play.ready_device()
    device.says(notification("notifications/roots/list_changed"))
    one.hears(notification("notifications/roots/list_changed"))
    third.hears_nothing()


def test_requests_sent_together_to_a_tool_that_insists_are_all_repeated() -> None:
    """They were all carried before any initialize was sent: one greeting, and each is asked once more, in order."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, "tools/list"), call(2, "add"), request(3, "ping"))
    tool.says(failure(1, -32602), failure(2, -32602), answer(3))
    device.hears(answer(3))
    device.hears_nothing()
    tool.heard.popleft(), tool.heard.popleft(), tool.heard.popleft()
    tool.is_greeted("calc", ["add"])
    repeated = [tool.hear(), tool.hear()]
    assert [frame["method"] for frame in repeated] == ["tools/list", "tools/call"]
    tool.hears_nothing()
    for frame in repeated:
        tool.says(failure(frame["id"], -32602, "really"))
    device.hears(failure(1, -32602, "really"), failure(2, -32602, "really"))
    assert play.endpoint.ledger.in_flight == 0


def test_an_initialized_without_an_initialize_is_not_carried() -> None:
    """Everything but the handshake is carried: a tool that was never sent an initialize hears of none, and later of exactly one."""
    play = Play()
    tool, device, other = play.tool(), play.device(), play.device()
    device.says(INITIALIZED, INITIALIZED)
    other.says(INITIALIZED)
    tool.hears_nothing()
    device.says(initialize(1), INITIALIZED)
    tool.hears(initialize(1), INITIALIZED)
    tool.hears_nothing()
