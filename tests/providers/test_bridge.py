"""A bridge carries a server to one more endpoint, as plays of two endpoints of one broker."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from plays import INITIALIZED, answer, call, failure, initialize, notification, request, welcome

from mcp_endpoint.core.broker import INNER, Broker
from mcp_endpoint.providers.bridge import Bridge
from mcp_endpoint.settings.schema import EndpointSettings, Limits


class Timer:
    def cancel(self) -> None:
        pass


class Party:
    """Somebody on a link that remembers what it heard."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.heard: deque[Any] = deque()
        self.queued = 0
        self.party: Any = None

    def send(self, first: Any, second: Any = b"") -> None:
        self.heard.append(json.loads(bytes(first) + bytes(second)))

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)

    def ping(self) -> None:
        pass

    def says(self, *frames: Any) -> None:
        for frame in frames:
            self.party.receive(self.party, json.dumps(frame).encode(), self.stage.now, True)
            self.stage.turn()

    def hear(self) -> Any:
        return self.heard.popleft()


class Stage:
    """A broker with one managed server, and the endpoint `home` with a bridge to it."""

    def __init__(self, **options: Any) -> None:
        self.now = 100.0
        self.waiting: list[Callable[[], None]] = []
        self.alarms: list[tuple[float, Callable[[], None]]] = []
        self.broker = Broker(
            EndpointSettings(),
            Limits(),
            clock=lambda: self.now,
            call_at=self.call_at,
            epoch=lambda: 0.0,
            watch=self,
        )
        self.server = Party(self)
        self.server.party = self.broker.attach_provider(f"{INNER}calc", "server calc", self.server, server_id="calc")
        self.device = Party(self)
        self.device.party = self.broker.attach_consumer("agent:home", "home", self.device)
        self.bridge = self.opened("agent:home", "home", **options)

    def opened(self, name: str, shown: str, **options: Any) -> Bridge:
        return Bridge(
            self.broker,
            name,
            shown,
            inner=f"{INNER}calc",
            inner_shown="server calc",
            label="calc",
            clock=lambda: self.now,
            later=self.waiting.append,
            **options,
        )

    def call_at(self, when: float, what: Callable[[], None]) -> Timer:
        self.alarms.append((when, what))
        return Timer()

    def tell(self, event: str, shown: str, **fields: object) -> None:
        pass

    def turn(self) -> None:
        """One turn of the loop."""
        while self.waiting:
            waiting, self.waiting[:] = list(self.waiting), []
            for what in waiting:
                what()

    def passes(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [alarm for alarm in self.alarms if alarm[0] <= end]:
            first = min(due, key=lambda alarm: alarm[0])
            self.alarms.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
            self.turn()
        self.now = end

    def greet(self, **capabilities: Any) -> None:
        """The device introduces itself, and the server is greeted for it."""
        self.device.says(initialize(**capabilities))
        self.server.says(welcome(self.server.hear()["id"], "calc"))
        assert self.server.hear()["method"] == "notifications/initialized"
        self.server.says(answer(self.server.hear()["id"], tools=[{"name": "add", "inputSchema": {}}]))
        assert self.device.hear()["result"]["serverInfo"]["name"] == "calc"
        self.device.says(INITIALIZED)


def test_a_call_goes_over_the_bridge_and_its_answer_comes_back() -> None:
    stage = Stage()
    stage.greet()
    stage.device.says(call("a", "add", x=1))
    carried = stage.server.hear()
    assert carried["params"] == {"name": "add", "arguments": {"x": 1}}
    stage.server.says(answer(carried["id"], sum=3))
    assert stage.device.hear() == answer("a", sum=3)


def test_nothing_is_handed_to_the_server_before_the_next_turn() -> None:
    """A link never answers before its send has returned; the heart counts on it."""
    stage = Stage()
    stage.greet()
    frame = json.dumps(call(1, "add")).encode()
    stage.device.party.receive(stage.device.party, frame, stage.now, True)
    assert not stage.server.heard
    assert stage.bridge.waiting > 0
    stage.turn()
    assert stage.server.hear()["method"] == "tools/call"
    assert stage.bridge.waiting == 0


def test_progress_cancellation_and_messages_find_their_way() -> None:
    stage = Stage()
    stage.greet()
    stage.device.says({**call("a", "add"), "params": {"name": "add", "_meta": {"progressToken": "mine"}}})
    carried = stage.server.hear()
    token = carried["params"]["_meta"]["progressToken"]
    stage.server.says(notification("notifications/progress", progressToken=token, progress=1))
    assert stage.device.hear()["params"]["progressToken"] == "mine"
    stage.server.says(notification("notifications/message", level="info", data="x"))
    assert stage.device.hear()["method"] == "notifications/message"
    stage.device.says(notification("notifications/cancelled", requestId="a"))
    cancelled = stage.server.hear()
    assert (cancelled["method"], cancelled["params"]["requestId"]) == ("notifications/cancelled", carried["id"])
    stage.server.says(answer(carried["id"], sum=3))
    assert not stage.device.heard


def test_a_question_of_the_server_reaches_the_device_that_can_answer_it() -> None:
    stage = Stage()
    stage.greet(sampling={})
    stage.device.says(call("a", "add"))
    carried = stage.server.hear()
    stage.server.says(request("q", "sampling/createMessage", messages=[]))
    question = stage.device.hear()
    assert question["method"] == "sampling/createMessage"
    stage.device.says(answer(question["id"], role="user"))
    assert stage.server.hear() == answer("q", role="user")
    stage.server.says(answer(carried["id"], sum=3))
    assert stage.device.hear()["id"] == "a"


def test_one_server_serves_two_endpoints_and_tells_them_apart() -> None:
    stage = Stage()
    stage.greet()
    other = Party(stage)
    other.party = stage.broker.attach_consumer("agent:shop", "shop", other)
    stage.opened("agent:shop", "shop")
    other.says(initialize())
    assert other.hear()["result"]["serverInfo"]["name"] == "calc"
    stage.device.says(call(1, "add"))
    other.says(call(1, "add"))
    mine, theirs = stage.server.hear(), stage.server.hear()
    assert mine["id"] != theirs["id"]
    stage.server.says(answer(theirs["id"], whose="theirs"), answer(mine["id"], whose="mine"))
    assert stage.device.hear() == answer(1, whose="mine")
    assert other.hear() == answer(1, whose="theirs")


def test_the_deadline_is_that_of_the_endpoint_the_call_came_in_by() -> None:
    stage = Stage()
    stage.greet()
    stage.device.says(call("a", "add"))
    number = stage.server.hear()["id"]
    stage.passes(25.1)
    error = stage.device.hear()
    assert (error["id"], error["error"]["code"], error["error"]["data"]["agent_id"]) == ("a", -32006, "home")
    assert stage.server.hear()["params"]["requestId"] == number


def test_an_entry_may_give_its_calls_more_time() -> None:
    stage = Stage(call_seconds=120.0)
    stage.greet()
    stage.device.says(call("a", "add"))
    number = stage.server.hear()["id"]
    stage.passes(119.0)
    assert not stage.device.heard
    stage.server.says(answer(number, sum=3))
    assert stage.device.hear()["id"] == "a"


def test_a_server_that_dies_fails_its_calls_and_is_waited_for() -> None:
    stage = Stage()
    stage.greet()
    stage.device.says(call("a", "add"))
    stage.broker.detach(stage.server.party, 1011, "died")
    stage.turn()
    assert stage.device.hear()["error"]["code"] == -32003
    stage.device.says(call("b", "add"))
    assert not stage.device.heard
    again = Party(stage)
    again.party = stage.broker.attach_provider(f"{INNER}calc", "server calc", again, server_id="calc")
    stage.turn()
    again.says(welcome(again.hear()["id"], "calc"))
    assert again.hear()["method"] == "notifications/initialized"
    heard = [again.hear()]
    again.says(answer(heard[0]["id"], tools=[{"name": "add", "inputSchema": {}}]))
    carried = again.hear()
    assert carried["method"] == "tools/call"
    again.says(answer(carried["id"], sum=3))
    assert stage.device.hear() == answer("b", sum=3)


def test_an_error_of_the_server_is_the_servers() -> None:
    stage = Stage()
    stage.greet()
    stage.device.says(call("a", "add"))
    stage.server.says(failure(stage.server.hear()["id"], -5, "no"))
    assert stage.device.hear()["error"] == {"code": -5, "message": "no"}


def test_a_held_bridge_hands_on_in_order_when_it_is_released() -> None:
    stage = Stage(held=True)
    stage.device.says(initialize())
    assert not stage.server.heard
    stage.bridge.release()
    stage.bridge.release()
    stage.turn()
    assert stage.server.hear()["method"] == "initialize"


@pytest.mark.parametrize("end", ["close", "provider", "consumer"])
def test_a_closed_bridge_leaves_both_endpoints_once(end: str) -> None:
    stage = Stage()
    stage.greet()
    stage.device.party.receive(stage.device.party, json.dumps(call("a", "add")).encode(), stage.now, True)
    if end == "close":
        stage.bridge.close()
    elif end == "provider":
        stage.bridge._provider.link.close(1001, "going")
    else:
        stage.bridge._consumer.link.close(1001, "going")
    stage.bridge.close()
    stage.turn()
    assert stage.device.hear()["error"]["code"] == -32003
    assert not stage.server.heard
    assert not stage.broker.endpoints["agent:home"].providers
    assert not stage.broker.endpoints[f"{INNER}calc"].consumers
    stage.bridge.down(b"{}")
    stage.bridge.up(b"{}")
    stage.turn()


def test_a_link_of_a_bridge_is_always_alive_and_takes_frames_in_two_parts() -> None:
    stage = Stage()
    stage.greet()
    for party in (stage.bridge._provider, stage.bridge._consumer):
        party.link.ping()
        assert party.link.queued == 0
    text = "x" * 40_000
    stage.device.says(call("a", "add", text=text))
    carried = stage.server.hear()
    assert carried["params"]["arguments"]["text"] == text
    stage.server.says(answer(carried["id"], text=text))
    assert stage.device.hear() == answer("a", text=text)


def test_the_inner_endpoints_are_not_counted_as_somebodys() -> None:
    stage = Stage()
    stage.greet()
    stage.device.says(call("a", "add"))
    seen = stage.broker.snapshot(detail=True)
    assert (seen["endpoints"], seen["tool_connections"], seen["device_connections"], seen["in_flight"]) == (1, 1, 1, 1)
    assert [endpoint["endpoint"] for endpoint in seen["endpoint_details"]] == ["home"]


def test_a_bridge_that_retires_takes_its_tools_along_at_once() -> None:
    stage = Stage()
    stage.greet()
    stage.device.says(request("list", "tools/list"))
    stage.server.says(answer(stage.server.hear()["id"], tools=[{"name": "add", "inputSchema": {}}]))
    assert [tool["name"] for tool in stage.device.hear()["result"]["tools"]] == ["add"]
    stage.bridge.retire()
    stage.turn()
    assert not stage.broker.endpoints["agent:home"].providers
    stage.passes(1.1)
    assert stage.device.hear()["method"] == "notifications/tools/list_changed"
    stage.device.says(request("again", "tools/list"))
    assert stage.device.hear()["result"]["tools"] == []
    assert not stage.server.heard, "the server has nothing to do with it"


def test_a_bridge_that_retires_hands_nothing_on() -> None:
    stage = Stage()
    stage.greet()
    stage.bridge.retire()
    stage.device.party.receive(stage.device.party, json.dumps(call("a", "add")).encode(), stage.now, True)
    stage.turn()
    assert not stage.server.heard
    assert stage.device.hear()["error"]["code"] == -32003
