"""The broker with a clock that stands still: endpoints by name, one timer for all deadlines, last closes that are remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plays import initialize, request

from mcp_endpoint.core.broker import Broker
from mcp_endpoint.core.parties import Consumer, Provider
from mcp_endpoint.settings.schema import EndpointSettings, Limits


class Timer:
    """A timer of the stage: where it stands, and whether it was called off."""

    def __init__(self, when: float, ring: Callable[[], None]) -> None:
        self.when = when
        self.ring = ring
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Peer:
    """A link that keeps what it hears."""

    queued = 0

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.party: Any = None

    def send(self, first: bytes | memoryview, second: bytes | memoryview = b"") -> None:
        self.heard.append(json.loads(bytes(first) + bytes(second)))

    def close(self, code: int, reason: str) -> None: ...

    def ping(self) -> None: ...


class Stage:
    """A broker, its clock and its timers."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.now = 50.0
        self.timers: list[Timer] = []
        self.told: list[str] = []
        self.broker = Broker(
            EndpointSettings(),
            limits or Limits(),
            clock=lambda: self.now,
            call_at=self.call_at,
            epoch=lambda: 1_700_000_050.0,
            watch=self,
        )

    def call_at(self, when: float, ring: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, ring))
        return self.timers[-1]

    def tell(self, event: str, shown: str, **fields: object) -> None:
        self.told.append(event)

    @property
    def live(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def tool(self, name: str = "agent:a", **options: str) -> Peer:
        peer = Peer()
        peer.party = self.broker.attach_provider(name, name.partition(":")[2], peer, **options)
        return peer

    def device(self, name: str = "agent:a", **options: int) -> Peer:
        peer = Peer()
        peer.party = self.broker.attach_consumer(name, name.partition(":")[2], peer, **options)
        return peer

    def says(self, peer: Peer, frame: dict[str, Any]) -> None:
        peer.party.receive(peer.party, json.dumps(frame).encode(), self.now, True)

    def leaves(self, peer: Peer, code: int = 1006) -> None:
        self.broker.detach(peer.party, code, "gone")

    def until(self, end: float) -> None:
        """Time passes; the one live timer rings when it is due."""
        while self.live and self.live[-1].when <= end:
            timer = self.live[-1]
            self.now = max(self.now, timer.when)
            timer.cancelled = True
            timer.ring()
        self.now = end


@pytest.mark.row("E31")
def test_parties_meet_at_a_name_and_nowhere_else() -> None:
    stage = Stage()
    tool, other = stage.tool("agent:a"), stage.tool("agent:b")
    device = stage.device("agent:a")
    assert isinstance(tool.party, Provider) and isinstance(device.party, Consumer)
    assert tool.party.endpoint is device.party.endpoint is not other.party.endpoint
    stage.says(device, request(1, "work"))
    assert [frame["method"] for frame in tool.heard] == ["work"] and not other.heard


def test_equal_names_of_different_kinds_of_tokens_are_different_endpoints() -> None:
    stage = Stage()
    tool, device = stage.tool("signed:kitchen"), stage.device("agent:kitchen")
    stage.says(device, request(1, "work"))
    assert not tool.heard and device.heard[0]["error"]["code"] == -32001


def test_an_endpoint_without_links_is_forgotten_and_its_last_close_is_not() -> None:
    stage = Stage()
    tool = stage.tool()
    stage.leaves(tool, 1001)
    assert not stage.broker.endpoints
    stage.now += 11  # past the grace
    device = stage.device()
    stage.says(device, request(1, "tools/call", name="x"))
    hint = device.heard[0]["error"]["data"]["hint"]
    assert "left at 2023-11-14T22:14:10+00:00 with 1001 gone" in hint
    stage.leaves(device)
    assert not stage.broker.endpoints and stage.broker.consumers == stage.broker.providers == 0


def test_last_closes_are_bounded_and_the_oldest_goes_first() -> None:
    stage = Stage(Limits(remembered_endpoints=2))
    for name in ("agent:a", "agent:b", "agent:c"):
        stage.leaves(stage.tool(name))
    left = stage.broker.snapshot(detail=True)["left"]
    assert [found["endpoint"] for found in left] == ["c", "b"]
    device = stage.device("agent:a")
    stage.now += 11
    stage.says(device, request(1, "tools/call", name="x"))
    assert "never connected" in device.heard[0]["error"]["data"]["hint"]


def test_the_last_close_of_an_endpoint_that_is_there_again_is_told_with_it() -> None:
    stage = Stage()
    stage.leaves(stage.tool("agent:a"))
    stage.leaves(stage.tool("agent:b"))
    stage.device("agent:b")
    snapshot = stage.broker.snapshot(detail=True)
    assert [found["endpoint"] for found in snapshot["left"]] == ["a"]
    assert snapshot["endpoint_details"][0]["last_close"]["code"] == 1006


def test_a_device_without_tools_hears_how_many_are_connected_elsewhere() -> None:
    stage = Stage()
    stage.tool("agent:single_module")
    device = stage.device("agent:a")
    stage.says(device, request(1, "tools/call", name="x"))
    assert "1 tools are connected under another token" in device.heard[0]["error"]["data"]["hint"]


def test_one_timer_stands_at_the_earliest_deadline_of_all_endpoints() -> None:
    stage = Stage()
    first, second = stage.device("agent:a"), stage.device("agent:b")
    stage.tool("agent:a"), stage.tool("agent:b")
    stage.says(first, request(1, "work"))
    assert [timer.when for timer in stage.live] == [75.0]
    stage.now = 60.0
    stage.says(second, request(1, "work"))
    assert [timer.when for timer in stage.live] == [75.0]
    stage.says(second, request(2, "tools/list"))  # due earlier than anything so far
    assert [timer.when for timer in stage.live] == [68.0]
    stage.until(70.0)
    assert [frame["error"]["code"] for frame in second.heard] == [-32006] and not first.heard
    stage.until(80.0)
    assert first.heard[0]["error"]["code"] == -32006
    stage.until(200.0)
    assert second.heard[1]["error"]["code"] == -32006
    assert not stage.live, "nothing waits any more, and no timer stands"


def test_an_alarm_of_an_endpoint_that_was_woken_earlier_does_nothing() -> None:
    stage = Stage()
    device = stage.device()
    tool = stage.tool()
    stage.says(device, request(1, "work"))
    stage.says(device, request(2, "tools/list"))
    stage.says(tool, {"jsonrpc": "2.0", "id": 1, "result": {}})
    stage.says(tool, {"jsonrpc": "2.0", "id": 2, "result": {}})
    stage.until(500.0)
    assert [frame["id"] for frame in device.heard] == [1, 2] and not stage.live


def test_an_endpoint_that_was_left_while_its_alarm_stood_is_not_armed_again() -> None:
    stage = Stage()
    device, tool = stage.device(), stage.tool()
    stage.says(device, request(1, "work"))
    stage.leaves(device)
    stage.leaves(tool)
    stage.until(500.0)
    assert not stage.live and not stage.broker.endpoints


def test_an_attaching_tool_may_bring_the_next_deadline() -> None:
    """It is greeted, because a device waits there; a greeting has five seconds."""
    stage = Stage()
    device = stage.device()
    stage.says(device, initialize(1))
    tool = stage.tool(server_id="slow")
    assert tool.heard[0]["method"] == "initialize" and stage.live[-1].when == 55.0
    stage.until(56.0)
    assert stage.told == ["bare"]


def test_a_drain_answers_what_is_held_and_refuses_what_comes() -> None:
    stage = Stage()
    device = stage.device()
    stage.says(device, initialize(1, client="XiaozhiMCPEndpointClient"))
    stage.says(device, request(2, "tools/list"))
    assert len(device.heard) == 1 and stage.broker.in_flight == 1
    stage.broker.drain()
    assert stage.broker.draining and device.heard[1]["result"] == {"tools": []} and stage.broker.in_flight == 0
    stage.says(device, request(3, "tools/list"))
    assert device.heard[2]["error"]["code"] == -32005
    late = stage.device("agent:new")
    stage.says(late, request(1, "work"))
    assert late.heard[0]["error"]["code"] == -32005


def test_what_is_still_in_flight_at_the_end_is_answered() -> None:
    stage = Stage()
    device = stage.device(answer_bytes=100_000)
    stage.tool()
    stage.says(device, request(1, "work"))
    stage.broker.drain()
    assert stage.broker.in_flight == 1
    stage.broker.finish()
    assert device.heard[0]["error"]["code"] == -32003 and stage.broker.in_flight == 0


@pytest.mark.row("E4")
def test_the_snapshot_counts_for_everybody_and_names_endpoints_only_with_detail() -> None:
    stage = Stage()
    stage.tool(), stage.device()
    plain = stage.broker.snapshot(detail=False)
    assert (plain["endpoints"], plain["tool_connections"], plain["device_connections"], plain["in_flight"]) == (1, 1, 1, 0)
    assert "endpoint_details" not in plain and "left" not in plain and plain["counters"]["requests"] == 0
    (detail,) = stage.broker.snapshot(detail=True)["endpoint_details"]
    assert detail["endpoint"] == "a" and len(detail["tools"]) == len(detail["devices"]) == 1
    json.dumps(detail)


def test_consumers_over_http_are_sessions_and_no_devices() -> None:
    stage = Stage()
    stage.device()
    stage.broker.attach_consumer("agent:a", "a", Peer(), in_process=True)
    found = stage.broker.snapshot(detail=True)
    assert (found["device_connections"], found["session_connections"]) == (1, 1)
    (detail,) = found["endpoint_details"]
    assert len(detail["devices"]) == len(detail["sessions"]) == 1


def test_two_brokers_in_one_process_share_nothing() -> None:
    one, two = Stage(), Stage()
    one.tool()
    device = two.device()
    two.says(device, request(1, "tools/call", name="x"))
    assert "never connected" in device.heard[0]["error"]["data"]["hint"]
    assert "another token" not in device.heard[0]["error"]["data"]["hint"]
    assert one.broker.counters.requests == 0


def test_an_endpoint_that_never_had_a_tool_leaves_nothing_behind() -> None:
    stage = Stage()
    stage.leaves(stage.device())
    assert stage.broker.snapshot(detail=True)["left"] == [] and not stage.broker.endpoints


ASKED = st.tuples(st.just("asks"), st.sampled_from("abc"), st.sampled_from([("tools/list", 8.0), ("work", 25.0)]))
ANSWERED = st.tuples(st.just("answers"), st.sampled_from("abc"), st.just(("", 0.0)))
WAITED = st.tuples(st.just("waits"), st.just(""), st.floats(0, 12).map(lambda seconds: ("", seconds)))


@pytest.mark.row("D6")
@given(st.lists(ASKED | ANSWERED | WAITED, max_size=20))
def test_whatever_is_asked_and_answered_one_timer_wakes_everybody_in_time(steps: list[tuple[str, str, tuple[str, float]]]) -> None:
    """No request is open longer than its time and the 20 ms by which deadlines are gathered, and timers do not pile up."""
    stage = Stage()
    tools = {name: stage.tool(f"agent:{name}") for name in "abc"}
    devices = {name: stage.device(f"agent:{name}") for name in "abc"}
    due: dict[str, float] = {}  # id → when its answer is due
    for number, (step, name, (method, seconds)) in enumerate(steps):
        if step == "asks":
            stage.says(devices[name], request(str(number), method))
            due[str(number)] = stage.now + seconds
        elif step == "answers":
            for frame in tools[name].heard:
                if "id" in frame:
                    stage.says(tools[name], {"jsonrpc": "2.0", "id": frame["id"], "result": {}})
            tools[name].heard.clear()
        else:
            stage.until(stage.now + seconds)
        assert len(stage.live) <= 1
        assert all(timer.when >= stage.now for timer in stage.live)
        answered = {frame["id"] for device in devices.values() for frame in device.heard if "id" in frame}
        assert all(when > stage.now - 0.03 for id, when in due.items() if id not in answered)
    stage.until(stage.now + 30)
    assert stage.broker.in_flight == 0
    assert sorted(frame["id"] for device in devices.values() for frame in device.heard) == sorted(due)
    stage.until(stage.now + 100)
    assert not stage.live


class Faulty(Peer):
    """An in-process link with a bug."""

    closed = 0

    def send(self, first: bytes | memoryview, second: bytes | memoryview = b"") -> None:
        raise RecursionError("too deep")

    def close(self, code: int, reason: str) -> None:
        self.closed = code
        raise KeyError("forgotten")


class FaultyReader(Faulty):
    """The mistake is where it takes what was read already."""

    def send_frame(self, frame: Any, first: Any, second: Any) -> None:
        raise RecursionError("too deep")


@pytest.mark.parametrize("kind", [Faulty, FaultyReader])
def test_a_fault_in_taking_an_answer_ends_its_consumer_and_not_who_answered(kind: type[Faulty]) -> None:
    stage = Stage()
    faulty, tool = kind(), Peer()
    consumer = stage.broker.attach_consumer("agent:a", "a", faulty, in_process=True)
    provider = stage.broker.attach_provider("agent:a", "a", tool)
    consumer.receive(consumer, b'{"jsonrpc":"2.0","id":1,"method":"odd"}', stage.now, True)
    provider.receive(provider, b'{"jsonrpc":"2.0","id":%d,"result":{}}' % tool.heard[-1]["id"], stage.now, True)
    for timer in [timer for timer in stage.timers if timer.when <= stage.now]:
        timer.ring()
    assert faulty.closed == 1011 and stage.told[0] == "fault"


def test_a_fault_of_an_in_process_consumer_ends_it_and_never_reaches_who_sent() -> None:
    stage = Stage()
    faulty, healthy, tool = Faulty(), Peer(), Peer()
    stage.broker.attach_consumer("agent:a", "a", faulty, in_process=True)
    stage.broker.attach_consumer("agent:a", "a", healthy, in_process=True)
    provider = stage.broker.attach_provider("agent:a", "a", tool)
    provider.receive(provider, b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}', stage.now, True)
    assert [frame["method"] for frame in healthy.heard] == ["notifications/message"]
    assert faulty.closed == 0, "not in the turn of who sent"
    for consumer in stage.broker.endpoints["agent:a"].consumers:
        consumer.link.ping()
        assert consumer.link.queued == 0
    for timer in [timer for timer in stage.timers if timer.when <= stage.now]:
        timer.ring()
    assert faulty.closed == 1011
    assert stage.told == ["fault", "fault"]
