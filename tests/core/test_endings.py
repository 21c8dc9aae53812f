"""Whatever dies, and wherever: one answer per request, the device's socket stays, the tool is usable again. Plays of one endpoint."""

from __future__ import annotations

import json
from typing import Any

import pytest
from plays import INITIALIZED, Actor, Play, answer, call, initialize, notification, request, tool_named, welcome

from mcp_endpoint.settings.schema import EndpointSettings, ToolSettings

CHANGED = notification("notifications/tools/list_changed")
XIAOZHI = "XiaozhiMCPEndpointClient"


def answers(device: Actor) -> dict[Any, list[Any]]:
    """All answers the device has heard, by id; its socket was not closed for it."""
    assert device.close_reason is None
    found: dict[Any, list[Any]] = {}
    while device.heard:
        frame = device.hear()
        if "method" not in frame:
            found.setdefault(frame["id"], []).append(frame)
    return found


def ready(play: Play, name: str = "calc", tools: list[Any] | None = None) -> Actor:
    """A tool that comes while somebody is there, and is ready."""
    tool = play.tool()
    tool.is_greeted(name, tools or ["add"])
    return tool


# -- the tool leaves -----------------------------------------------------------------------------------------------------------


@pytest.mark.row("U10", "D5", "D1")
def test_a_tool_that_leaves_in_mid_call_is_answered_for_at_once() -> None:
    """Calls in flight there get -32003, `delivered: true`, with a hint that says when it left and how; nobody waits for a deadline.

    U10 names -32002 or -32001; the design says -32003, because MCP gives -32002 to "resource not found" and the call was delivered.
    """
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, "m"), request("two", "m"))
    tool.leaves(1006, "connection lost")
    for id in (1, "two"):
        data = device.hears_error(id, -32003, delivered=True)
        assert "T22:" in data["hint"]
        assert "1006 connection lost" in data["hint"]
    device.hears_nothing()
    assert device.close_reason is None
    assert play.endpoint.ledger.in_flight == 0


@pytest.mark.row("U12", "D3")
def test_after_a_death_the_tool_is_usable_again_in_the_same_device_session() -> None:
    """The device asks once more on its old socket, the tool on its new one answers: no handshake of the device is needed."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1), INITIALIZED, request(2, "tools/list"))
    tool.says(welcome(1), answer(2, tools=[tool_named("add")]))
    device.says(call(1, "add"))
    tool.leaves()
    assert len(answers(device)) == 2
    tool = ready(play)
    device.says(call(2, "add"))
    tool.hears(call(3, "add"))
    tool.says(answer(3))
    device.hears(answer(2))


def test_a_tool_that_leaves_while_listing_is_answered_for() -> None:
    """A list that was carried gets -32003 like any call; a merged one that waited for it goes on without it."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, "tools/list"))
    tool.leaves()
    device.hears_error(1, -32003, delivered=True)
    play = Play()
    one, other = play.tool("one"), play.tool("other")
    one.is_greeted("one", ["a"])
    other.says(welcome(other.hear()["id"]))
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    device.hears_nothing()
    other.leaves()
    one.lists(["a"])  # alone now, it tells itself
    assert answers(device) == {1: [answer(1, tools=[tool_named("a")])]}


def test_a_listing_xiaozhi_server_waits_on_instead_of_an_error() -> None:
    """It asks once in its life and takes an error for the end: its list is held until the tool is back."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1, client=XIAOZHI), INITIALIZED, request(2, "tools/list"))
    tool.says(welcome(1))
    device.hears(welcome(1))
    tool.leaves()
    device.hears_nothing()
    assert play.endpoint.ledger.in_flight == 1
    play.wait(3)
    ready(play)
    play.wait(1.1)
    assert answers(device) == {2: [answer(2, tools=[tool_named("add")])]}


def test_a_tool_that_leaves_between_initialize_and_initialized_is_answered_for() -> None:
    """The device has its welcome, then the tool goes: the next request is answered, and the device's `initialized` harms nobody."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1))
    tool.says(welcome(1))
    tool.leaves()
    device.says(INITIALIZED, request(2, "ping"), call(3, "add"))
    device.hears(welcome(1), answer(2))
    play.wait(4.1)
    device.hears_error(3, -32001, delivered=False)
    tool = ready(play)
    device.says(call(4, "add"))
    assert tool.hear()["method"] == "tools/call"


def test_what_waited_for_a_dying_tools_greeting_is_answered_once() -> None:
    """Others' requests were queued for it: they get their grace, then -32001; they were not delivered."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1), INITIALIZED, request(2, "m"))
    second.says(initialize(1), call(2, "add"), request(3, "ping"), request(4, "tools/list"), notification("n"))
    play.wait(1)
    tool.leaves()
    found = answers(first)
    assert "result" in found[1][0] and found[2][0]["error"]["code"] == -32003
    assert [len(each) for each in found.values()] == [1, 1]
    assert {id: len(found) for id, found in answers(second).items()} == {1: 1, 3: 1, 4: 1}
    play.wait(2.9)
    second.hears_nothing()
    play.wait(0.2)
    second.hears_error(2, -32001, delivered=False)


def test_a_tool_that_comes_back_in_grace_takes_the_calls_that_waited() -> None:
    """A new call waits up to 4 s for the same label; it goes to the tool that came back, once it is ready."""
    play = Play()
    device = play.ready_device()
    tool = ready(play)
    tool.leaves()
    device.says(call(1, "add"))
    play.wait(2)
    stranger = ready(play, "stranger", ["mul"])
    stranger.hears_nothing()
    play.wait(1.9)
    assert not answers(device)
    back = play.tool()
    back.is_greeted("calc", ["add"])
    back.hears(call(3, "add"))
    back.says(answer(3))
    assert list(answers(device)) == [1]


def test_a_call_waits_four_seconds_from_when_it_was_made() -> None:
    """-32001, `delivered: false`, after 4 s: well before the device gives up."""
    play = Play()
    device = play.ready_device()
    tool = ready(play)
    tool.leaves(1001, "bye")
    play.wait(3)
    device.heard.clear()
    device.says(call(1, "add"))
    play.wait(3.9)
    device.hears_nothing()
    play.wait(0.2)
    assert "1001 bye" in device.hears_error(1, -32001, delivered=False)["hint"]


def test_in_wire_mode_a_call_waits_for_any_provider_and_it_is_greeted_first() -> None:
    """While nothing is known of names, whoever comes takes the call; a consumer that initialised has it greeted before."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1), INITIALIZED)
    tool.says(welcome(1))
    tool.leaves()
    device.heard.clear()
    device.says(call(2, "add"), request(3, "odd"))
    other = play.tool()
    other.is_greeted("other name", ["add"])
    other.hears(call(3, "add"), request(4, "odd"))


def test_a_bare_pairs_call_waits_for_the_bare_tool_and_is_carried_as_it_is() -> None:
    """Peers that never heard of a handshake: the tool comes back and hears the call, and nothing else."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, "turn"))
    tool.says(answer(1))
    device.hears(answer(1))
    tool.leaves()
    device.says(request(2, "turn", deg=90))
    device.hears_nothing()
    play.wait(2)
    tool = play.tool()
    tool.hears(request(1, "turn", deg=90))
    tool.says(answer(1))
    device.hears(answer(2))
    play.wait(60)
    tool.hears_nothing()
    device.hears_nothing()


def test_lists_are_answered_from_the_catalog_that_stayed() -> None:
    """For 10 s a left provider's tools stay listed; then they are gone, and other providers were never touched."""
    play = Play()
    _, other = play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    other.leaves()
    both = [tool_named("a"), tool_named("b")]
    device.says(request(1, "tools/list"))
    device.hears(answer(1, tools=both))
    play.wait(9.9)
    device.says(request(2, "tools/list"))
    device.hears(answer(2, tools=both))
    play.wait(0.2)
    device.hears(CHANGED)
    play = Play()
    device = play.ready_device()
    tool = ready(play)
    tool.leaves()
    device.heard.clear()
    device.says(request(1, "tools/list"))
    device.hears(answer(1, tools=[tool_named("add")]))
    play.wait(10.1)
    device.says(request(2, "tools/list"))
    device.hears(CHANGED, answer(2, tools=[]))


def test_other_providers_are_untouched_by_a_death() -> None:
    """A call at the living goes on while the dead one's calls are answered."""
    play = Play()
    one, other = play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    device.says(call(1, "a"), call(2, "b"))
    other.leaves()
    device.hears_error(2, -32003, delivered=True)
    one.hears(call(3, "a"))
    one.says(answer(3))
    device.hears(answer(1))
    one.hears_nothing()


def test_a_tool_its_provider_dropped_is_not_waited_for() -> None:
    """The provider is there and has told a list without it: -32602 at once."""
    play = Play()
    one, _ = play.merged(one=["a", "b"], other=["c"])
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    device.hear()
    one.says(CHANGED)
    one.lists(["a"])
    device.hears(CHANGED)
    device.says(call(2, "b"), call(3, "b"))
    device.hears_error(2, -32602, delivered=False)
    assert "Unknown tool: b" in device.hear()["error"]["message"]


@pytest.mark.row("U12", "D4", "D3")
def test_a_tool_reconnecting_ten_times_leaves_one_answer_per_request() -> None:
    """Ten in a second, sometimes the new socket before the old one's end: the device's socket stays, each request is answered."""
    play = Play()
    device = play.ready_device()
    tool = ready(play)
    for n in range(10):
        device.says(call(n, "add"))
        if n % 2:
            old, tool = tool, play.tool()
            old.leaves()
        else:
            tool.leaves()
            tool = play.tool()
        tool.is_greeted("calc", ["add"])
        play.wait(0.1)
    device.says(call(10, "add"))
    tool.says(answer(json.loads(tool.heard[-1])["id"]))
    found = answers(device)
    assert sorted(found) == list(range(11))
    assert all(len(each) == 1 for each in found.values())
    assert "result" in found[10][0]
    assert play.endpoint.ledger.in_flight == 0


@pytest.mark.row("U11", "D4")
def test_two_tools_on_one_address_dropping_in_turn() -> None:
    """Each goes and comes while the other works: every request has one answer, and both stay callable."""
    play = Play()
    tools = dict(zip("ab", play.merged(a=["a"], b=["b"]), strict=True))
    device = play.ready_device()
    asked = 0
    for n in range(10):
        gone, stays = ("a", "b") if n % 2 else ("b", "a")
        device.says(call(2 * n, gone), call(2 * n + 1, stays))
        asked += 2
        tools[gone].leaves()
        tools[stays].says(answer(json.loads(tools[stays].heard[-1])["id"]))
        play.wait(0.3)
        tools[gone] = play.tool(gone)
        tools[gone].is_greeted(gone, [gone])
        tools[stays].heard.clear()
        device.says(call("again", gone))
        tools[gone].says(answer(json.loads(tools[gone].heard[-1])["id"]))
    found = answers(device)
    assert len(found) == asked + 1 and len(found["again"]) == 10
    assert all(len(found[n]) == 1 for n in range(asked))
    assert all("result" in frame for frame in found["again"])
    assert play.endpoint.ledger.in_flight == 0


def test_a_half_open_tool_is_pinged_when_its_successor_comes_and_its_calls_end_with_it() -> None:
    """The old socket hangs: calls there are answered when it is found dead, new calls go to the new one meanwhile."""
    play = Play()
    device = play.ready_device()
    old = ready(play)
    device.says(call(1, "add"))
    new = ready(play)
    assert old.pings == 1
    device.says(call(2, "add"))
    new.hears(call(3, "add"))
    new.says(answer(3))
    old.leaves(1011, "keepalive ping timeout")
    found = answers(device)
    assert found[2] == [answer(2)] and found[1][0]["error"]["code"] == -32003


@pytest.mark.row("U14", "D6")
def test_a_silent_tool_in_mid_call_is_timed_out_and_told() -> None:
    """25 s without an answer: -32006, `delivered: true`; the tool hears `cancelled` with its own id; its late answer is late."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(7, "slow"))
    tool.hear()
    play.wait(24.9)
    device.hears_nothing()
    play.wait(0.2)
    device.hears_error(7, -32006, delivered=True)
    tool.hears(notification("notifications/cancelled", requestId=1, reason="timed out"))
    tool.says(answer(1))
    device.hears_nothing()
    assert play.counters.late_answers == 1
    assert ("timed out", {"method": "slow", "seconds": "25"}) in play.told


def test_a_provider_that_leaves_may_leave_before_anybody_came() -> None:
    """Nothing is owed, nothing happens; every state knows how to end."""
    play = Play()
    play.tool().leaves()
    tool = play.tool()
    play.tool().leaves()
    tool.leaves()
    assert play.endpoint.empty


# -- the consumer leaves ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("D30")
def test_a_consumer_that_leaves_cancels_its_calls() -> None:
    """The tool hears `cancelled` for each call in flight, with its own ids; their answers go nowhere; nobody else is disturbed."""
    play = Play()
    tool, device, other = play.tool(), play.device(), play.device()
    device.says(request("a", "m"), request("b", "m"))
    other.says(request("a", "m"))
    for n in (1, 2, 3):
        tool.hears(request(n, "m"))
    device.leaves()
    for n in (1, 2):
        tool.hears(notification("notifications/cancelled", requestId=n, reason="the consumer left"))
    tool.says(answer(1), answer(2), answer(3, yours=True))
    other.hears(answer("a", yours=True))
    device.hears_nothing()
    other.hears_nothing()
    assert play.counters.late_answers == 2 and play.counters.unknown_answers == 0
    assert play.endpoint.ledger.in_flight == 0


@pytest.mark.row("D1")
def test_hundreds_of_hang_ups_leave_nothing_behind() -> None:
    """A device that closes right after its tool's reply, or before it, hundreds of times: the next one is served as the first."""
    play = Play()
    tool = play.tool()
    for n in range(300):
        device = play.device()
        device.says(request(1, "m"))
        asked = tool.hear()["id"]
        if n % 2:
            tool.says(answer(asked))
            device.hears(answer(1))
        device.leaves()
        tool.heard.clear()
    assert play.endpoint.ledger.in_flight == 0
    assert play.endpoint.describe(play.now)["tools"][0]["in_flight"] == 0


def test_a_consumer_that_leaves_takes_its_waiting_requests_along() -> None:
    """Parked, held, waiting for a list or for an initialize: nothing of it is answered or carried later."""
    play = Play()
    device = play.device()
    device.says(initialize(1, client=XIAOZHI), request(2, "tools/list"))
    tool = ready(play)
    tool.leaves()
    device.says(call(3, "add"))
    other = play.tool("x"), play.tool("y")
    device.says(request(4, "tools/list"), request(5, "odd"), initialize(6))
    device.heard.clear()
    device.leaves()
    assert play.endpoint.ledger.in_flight == 0
    for number, actor in enumerate(other):
        actor.is_greeted(f"o{number}", ["add"])
        actor.hears_nothing()
    play.wait(60)
    device.hears_nothing()


# -- deadlines ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "seconds"),
    [("tools/list", 8), ("resources/list", 8), ("prompts/list", 8), ("tools/call", 25), ("ping", 25), ("你", 25)],
)
@pytest.mark.row("D6")
def test_each_kind_of_request_has_its_deadline(method: str, seconds: float) -> None:
    """Lists 8 s, everything else 25 s: before the peers give up, which is at 10 s and 30 s."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, method))
    tool.hear()
    play.wait(seconds - 0.1)
    device.hears_nothing()
    play.wait(0.2)
    device.hears_error(1, -32006, delivered=True)
    tool.hears(notification("notifications/cancelled", requestId=1, reason="timed out"))


def test_the_call_timeout_can_be_set() -> None:
    """`[endpoint] call_timeout`."""
    play = Play(EndpointSettings(call_timeout=3.0))
    tool, device = play.tool(), play.device()
    device.says(request(1, "m"))
    play.wait(3.1)
    device.hears_error(1, -32006)
    assert tool.close_reason is None


@pytest.mark.parametrize("several", [False, True])
def test_a_tool_can_have_a_timeout_of_its_own(several: bool) -> None:
    """`[endpoint.tools."NAME"] timeout`, by the name the device knows, with one tool and with several."""
    play = Play(EndpointSettings(tools={"slow": ToolSettings(timeout=300.0)}))
    tool = play.merged(one=["slow", "quick"], other=["b"])[0] if several else play.tool()
    device = play.device()
    device.says(call(1, "slow"), call(2, "quick"))
    play.wait(25.1)
    device.hears_error(2, -32006)
    play.wait(274.8)
    device.hears_nothing()
    play.wait(0.2)
    device.hears_error(1, -32006)
    assert tool.close_reason is None


def test_progress_extends_a_call_up_to_three_hundred_seconds() -> None:
    """A tool that says how far it is may take longer: 25 s from each word, 300 s in all."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, "m", _meta={"progressToken": "t"}), request(2, "m"))
    for n in range(20):
        play.wait(14.9)
        tool.says(notification("notifications/progress", progressToken=1, progress=n))
    found = [device.hear() for _ in range(len(device.heard))]
    assert [frame["id"] for frame in found if "error" in frame] == [2]
    play.wait(2.1)
    device.hears_error(1, -32006)
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, "m", _meta={"progressToken": "t"}))
    play.wait(20)
    tool.says(notification("notifications/progress", progressToken=1, progress=1))
    play.wait(24.9)
    device.hear()
    device.hears_nothing()
    play.wait(0.2)
    device.hears_error(1, -32006)


def test_an_initialize_is_never_cancelled_at_the_tool() -> None:
    """MCP forbids it, whether the deadline passed or the consumer left."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1))
    play.wait(9)
    device.leaves()
    tool.hears(initialize(1))
    tool.hears_nothing()
    play = Play(EndpointSettings(greet="endpoint"))
    tool, device = play.tool(), play.device()
    device.says(initialize(1))
    tool.hear()
    play.wait(30)
    tool.hears_nothing()


def test_many_deadlines_close_together_cost_few_rounds() -> None:
    """Deadlines are rounded up to 20 ms, so a flood of staggered ones does not wake the endpoint for each."""
    play = Play()
    tool, device = play.tool(), play.device()
    for n in range(100):
        device.says(request(n, "m"))
        play.now += 0.001
    rounds = 0
    end = play.now + 26
    while play.endpoint.deadline() <= end:
        play.now = play.endpoint.deadline()
        play.endpoint.expire(play.now)
        rounds += 1
    assert len(answers(device)) == 100
    assert rounds < 20
    assert tool.close_reason is None


# -- the end of the server -----------------------------------------------------------------------------------------------------------


def test_a_drain_answers_what_waits_and_lets_calls_go_on() -> None:
    """Held lists get `[]`, waiting calls -32001, calls in flight go on; new requests are busy."""
    play = Play()
    xiaozhi, device = play.ready_device(XIAOZHI), play.ready_device()
    xiaozhi.says(request(2, "tools/list"))
    xiaozhi.hears_nothing()
    play.endpoint.drain(play.now)
    xiaozhi.hears(answer(2, tools=[]))
    play = Play()
    device = play.ready_device()
    tool = ready(play)
    device.heard.clear()
    device.says(call(1, "add"))
    second = ready(play, "second", ["mul"])
    second.leaves()
    device.says(call(2, "mul"))
    play.endpoint.drain(play.now)
    device.hears_error(2, -32001, delivered=False)
    device.says(call(3, "add"), initialize(4))
    device.hears_error(3, -32005, delivered=False)
    device.hears_error(4, -32005, delivered=False)
    device.says(notification("hello"))
    tool.says(answer(3))
    device.hears(answer(1))
    device.hears_nothing()


def test_a_drain_answers_initializes_and_lists_that_wait_for_a_provider() -> None:
    """What waits for a greeting that may never end is answered with what is known."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1))
    second.says(initialize(1))
    play.endpoint.drain(play.now)
    for device in (first, second):
        assert device.hear()["result"]["serverInfo"]["name"] == "mcp-endpoint-server"
    tool.says(welcome(1))
    first.hears_nothing()
    play = Play()
    one, _ = play.tool("one"), play.tool("silent")
    one.is_greeted("one", ["a"])
    device = play.ready_device()
    device.says(request(1, "tools/list"), call(2, "odd"))
    play.endpoint.drain(play.now)
    device.hears(answer(1, tools=[tool_named("a")]))
    device.hears_error(2, -32001)
    play.wait(60)
    assert not answers(device)


def test_calls_lost_in_a_drain_are_not_held() -> None:
    """Nobody will come any more: such a device gets what there is, and other calls their error."""
    play = Play()
    tool = play.tool()
    play.wait(1)
    device = play.device()
    device.says(initialize(1, client=XIAOZHI), INITIALIZED, request(2, "tools/list"))
    tool.says(welcome(1))
    device.hear()
    device.says(request(3, "m"))
    play.endpoint.drain(play.now)
    device.hears(answer(2, tools=[]))
    tool.leaves()
    device.hears_error(3, -32003)


def test_what_waited_for_a_tool_that_dies_in_a_drain_is_answered_at_once() -> None:
    """There is no grace when nobody can come."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(1))
    second.says(call(1, "add"))
    play.endpoint.drain(play.now)
    tool.leaves()
    second.hears_error(1, -32001, delivered=False)


def test_the_end_answers_what_is_still_in_flight() -> None:
    """-32003, `delivered` as it was; what the tool says afterwards goes nowhere."""
    play = Play()
    tool, device = play.tool(), play.device()
    second = play.device()
    device.says(initialize(1), INITIALIZED, request(2, "m"))
    second.says(request(3, "m"))
    play.endpoint.drain(play.now)
    device.hear()
    play.endpoint.finish(play.now)
    device.hears_error(2, -32003, delivered=True)
    second.hears_error(3, -32003, delivered=False)
    tool.says(welcome(1), answer(2), answer(3))
    device.hears_nothing()
    second.hears_nothing()
    assert play.endpoint.ledger.in_flight == 0


def test_a_call_that_may_be_tried_again_and_is_answered_well_is_not() -> None:
    play = Play()
    tools = []
    for _ in range(2):
        tool = Actor(play)
        tool.party = play.endpoint.attach_provider(tool, play.now, server_id="same", managed=True)
        tools.append(tool)
    for tool in tools:
        tool.is_greeted("same", [{**tool_named("look"), "annotations": {"readOnlyHint": True}}])
    device = play.ready_device()
    device.says(call("a", "look"))
    older, newer = tools
    newer.says(answer(newer.hear()["id"], seen="blue"))
    device.hears(answer("a", seen="blue"))
    older.hears_nothing()
