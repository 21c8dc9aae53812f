"""A device that asks for its tools once in its life gets all of them, whatever time the tools need to start. Plays of one endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from plays import INITIALIZED, Actor, Play, answer, failure, initialize, notification, request, tool_named, welcome

from mcp_endpoint.settings.schema import EndpointSettings

XIAOZHI = "XiaozhiMCPEndpointClient"


class Process(Actor):
    """A tool whose socket is open while its process still starts: it reads what came when it is up."""

    def __init__(self, play: Play, name: str, starts_in: float) -> None:
        super().__init__(play)
        self.name = name
        self.up_at = play.now + starts_in
        self.party = play.endpoint.attach_provider(self, play.now)

    def works(self) -> None:
        """Answer everything that was read; what does not come in MCP's order is refused, as the SDKs do."""
        while self.heard:
            frame = self.hear()
            method = frame["method"]
            if method == "initialize":
                self.says(welcome(frame["id"], self.name))
            elif method == "tools/list":
                self.says(answer(frame["id"], tools=[tool_named(self.name)]))
            else:
                assert method == "notifications/initialized", frame


def asks_once(play: Play) -> Actor:
    """xiaozhi-server: `initialize`, `initialized` and `tools/list` back to back."""
    device = play.device()
    device.says(initialize(1, client=XIAOZHI), INITIALIZED, request(2, "tools/list"))
    return device


def names_heard(device: Actor) -> list[str] | None:
    """The tools in the one answer to `tools/list`; None as long as there is none."""
    heard = [frame for frame in (device.hear() for _ in range(len(device.heard))) if frame.get("id") == 2]
    assert len(heard) < 2
    return sorted(tool["name"] for tool in heard[0]["result"]["tools"]) if heard else None


def lives(play: Play, tools: list[Process], device: Actor, seconds: float) -> tuple[float, list[str]]:
    """Let time pass until the device has its list; gives when, and what is in it."""
    for _ in range(round(seconds * 20)):
        for tool in tools:
            if play.now >= tool.up_at:
                tool.works()
        if (names := names_heard(device)) is not None:
            return play.now, names
        play.wait(0.05)
    raise AssertionError("no list")


@pytest.mark.parametrize("first", ["device", "tools"])
@pytest.mark.parametrize(
    "starts", [(1.0, 1.3), (2, 2.3), (4, 4.3), (6, 6.3), (10, 10.3), (0.1, 6), (0.1, 9), (0.3,), (6,), (10,), (20,), (3, 0, 12)]
)
def test_every_tool_is_in_the_one_list(first: str, starts: tuple[float, ...]) -> None:
    """Servers that a pipe starts together; with one that needs longer than every deadline of ours too."""
    play = Play()
    began = play.now
    device = asks_once(play) if first == "device" else None
    tools = [Process(play, f"t{number}", seconds) for number, seconds in enumerate(starts)]
    if device is None:
        play.wait(0.2)
        device = asks_once(play)
    at, names = lives(play, tools, device, 30)
    assert names == sorted(tool.name for tool in tools)
    assert at - began <= max(1.0, *starts) + 0.2
    assert not any(b"notifications/cancelled" in frame for tool in tools for frame in tool.heard)


@pytest.mark.parametrize("arrives", [0.5, 5, 12, 60])
@pytest.mark.parametrize("starts", [(10, 10.3), (14,)])
def test_it_does_not_matter_when_the_device_comes(starts: tuple[float, ...], arrives: float) -> None:
    play = Play()
    tools = [Process(play, f"t{number}", seconds) for number, seconds in enumerate(starts)]
    while play.now < 1000 + arrives:
        play.wait(0.1)
        for tool in tools:
            if play.now >= tool.up_at:
                tool.works()
    _, names = lives(play, tools, asks_once(play), 30)
    assert names == sorted(tool.name for tool in tools)


def test_a_tool_that_stays_silent_delays_the_list_by_fifteen_seconds_once() -> None:
    """`[endpoint] hold_seconds`, from when it attached; the next device does not wait for it."""
    play = Play()
    device = asks_once(play)
    Process(play, "mute", 1e9)
    tools = [Process(play, "a", 0.5), Process(play, "b", 3)]
    at, names = lives(play, tools, device, 30)
    assert names == ["a", "b"] and 1015 <= at < 1015.2
    at, names = lives(play, tools, asks_once(play), 1)
    assert names == ["a", "b"] and at < 1015.3
    play = Play(EndpointSettings(hold_seconds=2))
    Process(play, "mute", 1e9)
    at, names = lives(play, [Process(play, "a", 0.5)], asks_once(play), 30)
    assert names == ["a"] and 1002 <= at < 1002.2


def test_a_tool_that_dies_and_comes_back_is_waited_for() -> None:
    """As long as a call waits for a lost tool (4 s); then the others' tools are given."""
    play = Play()
    device = asks_once(play)
    steady, weak = Process(play, "steady", 0.2), Process(play, "weak", 99)
    play.wait(2)
    steady.works()
    weak.leaves()
    play.wait(2.5)
    assert names_heard(device) is None
    again = Process(play, "weak", 1)
    _, names = lives(play, [steady, again], device, 10)
    assert names == ["steady", "weak"]
    play = Play()
    device = asks_once(play)
    steady, weak = Process(play, "steady", 0.2), Process(play, "weak", 99)
    play.wait(2)
    weak.leaves()
    at, names = lives(play, [steady], device, 10)
    assert names == ["steady"] and at < 1006.2


def test_a_tool_that_dies_again_and_again_does_not_keep_the_others_back() -> None:
    play = Play()
    device = asks_once(play)
    steady, weak = Process(play, "steady", 0.2), Process(play, "weak", 99)
    for _ in range(40):
        steady.works()
        if (names := names_heard(device)) is not None:
            break
        weak.leaves()
        weak = Process(play, "weak", 99)
        play.wait(0.9)
    assert names == ["steady"] and play.now <= 1031


def test_a_list_that_was_with_a_tool_is_held_when_the_tool_dies_beside_others() -> None:
    """A wire's list is carried; when a second tool comes it is not the first one's alone any more."""
    play = Play()
    first = Process(play, "first", 99)
    play.wait(2)
    device = asks_once(play)
    assert [frame["method"] for frame in (first.hear(), first.hear(), first.hear())][2] == "tools/list"
    second = Process(play, "second", 0)
    second.works()
    play.wait(3)
    assert names_heard(device) is None
    first.leaves()
    at, names = lives(play, [second], device, 10)
    assert names == ["second"] and at < 1009.2
    assert play.endpoint.ledger.in_flight == 0


def test_a_late_list_counts_and_nothing_is_cancelled_for_it() -> None:
    """The greeting is answered at once and the list after 12 s; every list of the tool's that is still asked for may come."""
    play = Play()
    device = asks_once(play)
    slow, fast = play.tool(), Process(play, "fast", 0)
    slow.says(welcome(slow.hear()["id"], "slow"))
    slow.hears(INITIALIZED)
    listing = slow.hear()
    fast.works()
    play.wait(12)
    slow.hears_nothing()
    assert names_heard(device) is None
    slow.says(answer(listing["id"], tools=[tool_named("slow")]))
    assert names_heard(device) == ["fast", "slow"]


def test_the_pages_behind_a_late_first_one_have_the_time_of_any_list() -> None:
    play = Play()
    device = asks_once(play)
    slow = play.tool()
    slow.says(welcome(slow.hear()["id"], "slow"))
    slow.hears(INITIALIZED)
    listing = slow.hear()
    play.wait(12)
    slow.says(answer(listing["id"], tools=[tool_named("a")], nextCursor="2"))
    page = slow.hear()
    assert page["params"] == {"cursor": "2"}
    play.wait(7)
    slow.says(answer(page["id"], tools=[tool_named("b")]))
    assert names_heard(device) == ["a", "b"]


def test_a_tool_that_says_that_its_tools_changed_is_asked_anew_for_an_overdue_list() -> None:
    """And whichever answer comes first counts."""
    play = Play()
    device = asks_once(play)
    slow = play.tool()
    slow.says(welcome(slow.hear()["id"], "slow"))
    slow.hears(INITIALIZED)
    first = slow.hear()
    play.wait(9)
    slow.says(notification("notifications/tools/list_changed"))
    second = slow.hear()
    assert second["method"] == "tools/list" and second["id"] != first["id"]
    play.wait(9)
    slow.says(notification("notifications/tools/list_changed"))
    third = slow.hear()
    slow.says(answer(first["id"], tools=[tool_named("given up")]))
    assert names_heard(device) is None
    slow.says(answer(second["id"], tools=[tool_named("a")]))
    assert names_heard(device) == ["a"]
    slow.says(answer(third["id"], tools=[tool_named("too late")]))
    assert play.counters.late_answers == 2


def test_a_device_that_asks_twice_is_answered_twice_and_one_with_a_cursor_at_once() -> None:
    play = Play()
    device = asks_once(play)
    device.says(request(3, "tools/list"))
    tool = Process(play, "a", 0)
    tool.works()
    play.wait(1.1)
    lists = [frame for frame in (device.hear() for _ in range(len(device.heard))) if frame.get("id") in (2, 3)]
    assert [frame["result"] for frame in lists] == [{"tools": [tool_named("a")]}] * 2
    other = Process(play, "b", 0)
    device.says(request(4, "tools/list", cursor="0.1"))
    other.works()
    assert 4 in [frame.get("id") for frame in (device.hear() for _ in range(len(device.heard)))]


def test_a_patient_consumer_waits_for_a_tool_that_starts_and_no_longer() -> None:
    """A bridge asks for the devices of another endpoint: no deadline, no waiting for further tools, and nothing where no tool is."""
    play = Play()
    empty = play.device(in_process=True, patient=True)
    empty.says(initialize(1), INITIALIZED, request(2, "tools/list"))
    assert names_heard(empty) == []
    slow = Process(play, "slow", 12)
    bridge = play.device(in_process=True, patient=True)
    bridge.says(initialize(1), INITIALIZED, request(2, "tools/list"))
    Process(play, "mute", 99)
    play.wait(12)
    assert names_heard(bridge) is None
    slow.works()
    assert names_heard(bridge) == ["slow"]
    bridge.says(request(3, "tools/list"))
    play.wait(6)
    assert bridge.hear()["id"] == 3


def test_one_that_asks_once_is_held_for_as_the_known_ones_are_but_hears_at_once_that_there_is_no_tool() -> None:
    """A link to somebody else's endpoint: whoever is there may never ask again, whatever it is called."""
    play = Play()
    empty = play.device(asks_once=True)
    empty.says(initialize(1), INITIALIZED, request(2, "tools/list"))
    assert names_heard(empty) == []
    tools = [Process(play, "fast", 0.5), Process(play, "slow", 9)]
    far = play.device(asks_once=True)
    far.says(initialize(1), INITIALIZED, request(2, "tools/list"))
    assert lives(play, tools, far, 12)[1] == ["fast", "slow"]


def test_at_the_drain_a_device_that_waits_gets_what_there_is() -> None:
    play = Play()
    device = asks_once(play)
    ready = Process(play, "ready", 0)
    Process(play, "mute", 99)
    ready.works()
    play.wait(3)
    play.endpoint.drain(play.now)
    assert names_heard(device) == ["ready"]
    play = Play()
    Process(play, "mute", 99)
    play.wait(2)
    device = asks_once(play)
    play.endpoint.drain(play.now)
    assert names_heard(device) == []


def test_a_device_that_leaves_while_it_waits_leaves_nothing_behind() -> None:
    play = Play()
    device = asks_once(play)
    tools = [Process(play, "a", 5), Process(play, "b", 5)]
    play.wait(2)
    device.leaves()
    assert not play.endpoint.holding and play.endpoint.ledger.in_flight == 0
    play.wait(5)
    for tool in tools:
        tool.works()
    play.wait(20)
    assert play.endpoint.deadline() == float("inf")


def test_a_tool_that_never_answers_a_greeting_may_still_have_a_list() -> None:
    """When its time is over and nobody is ready it is asked as it is; an error is no list, and the list is held on."""
    play = Play()
    device = asks_once(play)
    odd = play.tool()
    hello = odd.hear()
    assert hello["method"] == "initialize"
    play.wait(14.9)
    odd.hears_nothing()
    play.wait(0.2)
    asked = odd.hear()
    assert asked["method"] == "tools/list"
    odd.says(failure(asked["id"], -32602))
    play.wait(60)
    odd.hears_nothing()
    assert names_heard(device) is None
    odd.says(welcome(hello["id"], "odd"))
    odd.hears(INITIALIZED)
    odd.lists(["late"])
    assert names_heard(device) == ["late"]


def test_a_bare_tool_that_refuses_its_list_is_not_asked_again() -> None:
    """The device waits for somebody who has one."""
    play = Play()
    device = asks_once(play)
    odd = play.tool()
    odd.says(failure(odd.hear()["id"], -32603))
    play.wait(1.1)
    odd.says(failure(odd.hear()["id"], -32603))
    play.tool().leaves()
    play.wait(30)
    odd.hears_nothing()
    Process(play, "good", 0).works()
    play.wait(1.1)
    assert names_heard(device) == ["good"]


def test_a_list_of_somebody_who_is_not_held_for_goes_to_the_newest_of_bare_tools() -> None:
    play = Play()
    device = play.ready_device()
    tools = [play.tool(), play.tool()]
    for tool in tools:
        tool.says(failure(tool.hear()["id"], -32603))
    device.says(request(2, "tools/list"))
    asked = tools[1].hear()
    tools[1].says(answer(asked["id"], tools=[tool_named("a")]))
    device.hears(answer(2, tools=[tool_named("a")]))


def test_a_lone_tool_that_was_silent_before_is_asked_as_it_is_by_the_next_device() -> None:
    play = Play()
    odd = play.tool()
    play.device().says(initialize(1))
    play.wait(20)
    odd.heard.clear()
    device = asks_once(play)
    asked: Any = odd.hear()
    while asked["method"] != "tools/list":
        asked = odd.hear()
    play.wait(60)
    odd.says(answer(asked["id"], tools=[tool_named("patient")]))
    assert names_heard(device) == ["patient"]


@pytest.mark.parametrize("name", [XIAOZHI, "MyMCPEndpointClient2", "nilo-server"])
def test_known_relatives_are_held_for_by_default(name: str) -> None:
    play = Play()
    device = play.ready_device(name)
    device.says(request(2, "tools/list"))
    device.hears_nothing()


@pytest.mark.parametrize("name", ["mcpendpointclient", "xz-mcp-broker", "nilo-servers", ""])
def test_others_are_answered_at_once(name: str) -> None:
    play = Play()
    device = play.ready_device(name)
    device.says(request(2, "tools/list"))
    device.hears(answer(2, tools=[]))
