"""taps: a listener hears of every call exactly once, of everything else that is said, and of who comes and goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from plays import INITIALIZED, Actor, Play, answer, call, failure, initialize, notification, request, welcome

from mcp_endpoint.core.broker import INNER, Broker
from mcp_endpoint.core.parties import Call, Consumer, Provider
from mcp_endpoint.core.taps import Tap
from mcp_endpoint.protocol.jsonrpc import Part
from mcp_endpoint.settings.schema import EndpointSettings, Limits


class Listener(Tap):
    """Writes down what it is told."""

    body_bytes = 100

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Any]] = []
        """How a call ended, its id, and the answer or why there is none."""
        self.ends: list[Call] = []
        self.lates: list[tuple[Provider, int, bytes]] = []
        self.frames: list[tuple[str, str, bytes]] = []
        self.links: list[tuple[str, str, int, str]] = []
        self.times: list[float] = []

    def answered(self, call: Call, first: Part, second: Part, now: float) -> None:
        self.calls.append(("answered", call.id, bytes(first) + bytes(second)))
        self.ends.append(call)
        self.times.append(now)

    def ended(self, call: Call, why: str, now: float) -> None:
        self.calls.append(("ended", call.id, why))
        self.ends.append(call)
        self.times.append(now)

    def late(self, provider: Provider, number: int, data: bytes, now: float) -> None:
        self.lates.append((provider, number, data))
        self.times.append(now)

    def told(self, party: Provider | Consumer, direction: str, data: bytes, now: float) -> None:
        self.frames.append((party.side, direction, data))
        self.times.append(now)

    def linked(self, party: Provider | Consumer, event: str, code: int, reason: str, now: float) -> None:
        self.links.append((party.side, event, code, reason))
        self.times.append(now)


class Stage:
    """A play somebody listens to; one tool and one device have shaken hands, and what was heard of that is forgotten."""

    def __init__(self, limits: Limits | None = None, settings: EndpointSettings | None = None) -> None:
        self.tap = Listener()
        self.play = Play(settings, limits, tap=self.tap)
        self.tool, self.device = self.play.tool("calc"), self.play.device()
        self.device.says(initialize(0, client="esp32", sampling={}), INITIALIZED)
        self.tool.says(welcome(self.tool.hear()["id"]))
        self.tool.hears(INITIALIZED)
        self.device.hear()
        self.tap.__init__()  # type: ignore[misc]

    def carried(self, frame: Any) -> int:
        """The device asks; the number its request has at the tool."""
        self.device.says(frame)
        number: int = self.tool.hear()["id"]
        return number


def test_an_answered_call_tells_who_asked_whom_what_and_when_with_both_texts() -> None:
    stage = Stage()
    number = stage.carried(call(7, "add", a=1))
    (waiting,) = stage.device.party.owed
    stage.play.wait(0.5)
    stage.tool.says(answer(number, content=[]))
    assert stage.tap.calls == [("answered", b"7", stage.device.hears_bytes())]
    (told,) = stage.tap.ends
    assert told is waiting
    assert (told.method, told.tool, told.id, told.number, told.outcome) == ("tools/call", "add", b"7", number, "")
    assert told.said == b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"add","arguments":{"a":1}}}'
    assert told.consumer is not None and told.provider is not None
    assert (told.consumer.name, told.provider.label) == ("esp32", "calc")
    assert (told.consumer.endpoint.name, told.consumer.endpoint.shown) == ("agent:kitchen", "kitchen")
    assert (told.started, stage.tap.times[-1]) == (1000.0, 1000.5)
    assert not stage.tap.frames and not stage.tap.links


def error(stage: Stage) -> None:
    stage.tool.says(failure(stage.carried(call(1, "add")), -5))


def refused_by_the_tool_itself(stage: Stage) -> None:
    stage.tool.says(answer(stage.carried(call(1, "add")), content=[], isError=True))


def timeout(stage: Stage) -> None:
    stage.carried(call(1, "add"))
    stage.play.wait(26)


def provider_died(stage: Stage) -> None:
    stage.carried(call(1, "add"))
    stage.tool.leaves(1006, "")


def nobody_comes_back(stage: Stage) -> None:
    stage.tool.leaves(1006, "")
    stage.device.says(call(1, "add"))
    stage.play.wait(11)


def the_server_stops(stage: Stage) -> None:
    stage.carried(call(1, "add"))
    stage.play.endpoint.drain(stage.play.now)
    stage.play.endpoint.finish(stage.play.now)


def asked_while_the_server_stops(stage: Stage) -> None:
    stage.play.endpoint.drain(stage.play.now)
    stage.device.says(call(1, "add"))


def answer_too_big(stage: Stage) -> None:
    stage.device.party.answer_bytes = 200
    stage.tool.says(answer(stage.carried(call(1, "add")), content=["x" * 500]))


def device_does_not_read(stage: Stage) -> None:
    number = stage.carried(call(1, "add"))
    stage.device.queued = Limits().queued_bytes_per_link + 1
    stage.tool.says(answer(number))


def tool_does_not_read(stage: Stage) -> None:
    stage.tool.queued = Limits().queued_bytes_per_link + 1
    stage.device.says(call(1, "add"))


def unreadable(stage: Stage) -> None:
    stage.tool.says(b'{"jsonrpc":"2.0","id":%d,"result":{"x":NaN}}' % stage.carried(call(1, "add")))


def cannot_be_carried(stage: Stage) -> None:
    stage.device.says(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{},"_meta":{"progressToken":1}}}')


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (error, "error"),
        (refused_by_the_tool_itself, "tool_error"),
        (timeout, "timed_out"),
        (provider_died, "provider_gone"),
        (nobody_comes_back, "no_provider"),
        (the_server_stops, "provider_gone"),
        (asked_while_the_server_stops, "busy"),
        (answer_too_big, "answer_too_big"),
        (device_does_not_read, "busy"),
        (tool_does_not_read, "busy"),
        (unreadable, "error"),
        (cannot_be_carried, "error"),
    ],
)
def test_however_a_call_is_answered_it_is_told_once_with_what_the_device_heard(ending: Callable[[Stage], None], outcome: str) -> None:
    stage = Stage()
    ending(stage)
    assert stage.tap.calls == [("answered", b"1", stage.device.hears_bytes())]
    assert [told.outcome for told in stage.tap.ends] == [outcome]
    assert stage.tap.ends[0].said.startswith(b'{"jsonrpc":"2.0","id":1,"method":"tools/call"')
    stage.device.leaves()
    stage.play.wait(60)
    assert len(stage.tap.calls) == 1


def test_a_call_that_gets_no_answer_is_told_once_with_the_reason_and_its_late_answer_apart() -> None:
    stage = Stage()
    cancelled, left = stage.carried(call(1, "add")), stage.carried(request(2, "resources/list"))
    stage.device.says(notification("notifications/cancelled", requestId=1))
    stage.device.leaves(1001, "bye")
    assert stage.tap.calls == [("ended", b"1", "cancelled"), ("ended", b"2", "consumer_left")]
    assert [told.outcome for told in stage.tap.ends] == ["cancelled", "consumer_left"]
    assert [told.number for told in stage.tap.ends] == [cancelled, left]
    stage.tool.says(answer(cancelled, late=1))
    provider, number, data = stage.tap.lates[0]
    assert (provider, number) == (stage.tool.party, cancelled)
    assert data == b'{"jsonrpc":"2.0","id":%d,"result":{"late":1}}' % cancelled
    stage.tool.says(answer(cancelled, late=2))
    assert len(stage.tap.lates) == 1
    assert stage.tap.frames[-1] == ("tool", "in", b'{"jsonrpc":"2.0","id":%d,"result":{"late":2}}' % cancelled), "nobody asked for it"
    assert len(stage.tap.calls) == 2


def test_too_many_calls_are_told_too_and_the_request_is_kept_no_longer_than_the_tap_wants() -> None:
    stage = Stage(Limits(in_flight_per_consumer=1))
    stage.carried(call(1, "add", text="x" * 500))
    stage.device.says(call(2, "sub", text="x" * 500), request(3, "prompts/list"))
    assert [(how, id) for how, id, _ in stage.tap.calls] == [("answered", b"2"), ("answered", b"3")]
    assert [(told.method, told.tool, told.outcome) for told in stage.tap.ends] == [
        ("tools/call", "sub", "busy"),
        ("prompts/list", "", "busy"),
    ]
    (waiting,) = stage.device.party.owed
    assert [len(one.said) for one in (waiting, *stage.tap.ends)] == [100, 100, 48]


def test_nothing_is_kept_of_a_request_that_nobody_listens_to() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(call(1, "add"))
    (waiting,) = device.party.owed
    assert waiting.said == b"" and waiting.tool == ""
    tool.says(answer(tool.hear()["id"]))
    device.hear()


def test_a_call_that_is_said_again_to_a_replica_ends_once() -> None:
    tap = Listener()
    play = Play(tap=tap)
    reads = {"name": "read", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
    one, other = play.merged(a=[reads], b=[])
    other.leaves()
    second = play.tool("a")
    second.is_greeted("a", [reads])
    device = play.ready_device()
    tap.__init__()  # type: ignore[misc]
    device.says(call(1, "read"))
    second.hear()
    second.leaves()
    one.says(answer(one.hear()["id"]))
    assert tap.calls == [("answered", b"1", device.hears_bytes())]
    assert tap.ends[0].provider is one.party


# == what is told beside calls ===================================================================================================


def test_the_greeting_of_a_tool_is_told_word_for_word_both_ways() -> None:
    tap = Listener()
    play = Play(tap=tap)
    tools = play.merged(calc=["add"], clock=["now"])
    said = [frame for side, way, frame in tap.frames if (side, way) == ("tool", "in")]
    heard = [frame for side, way, frame in tap.frames if (side, way) == ("tool", "out")]
    assert len(said) == 2 * len(tools), "each answered a greeting and a list"
    assert [b'"initialize"' in frame for frame in heard].count(True) == 2
    assert sum(b"notifications/initialized" in frame for frame in heard) == 2
    assert sum(b"tools/list" in frame for frame in heard) == 2


def test_a_greeting_that_was_carried_is_a_call_of_the_device_and_frames_of_the_tool() -> None:
    tap = Listener()
    play = Play(tap=tap)
    tool, device = play.tool(), play.device()
    device.says(initialize(5))
    tool.says(welcome(tool.hear()["id"]))
    assert tap.calls == [("answered", b"5", device.hears_bytes())]
    assert [(side, way) for side, way, _ in tap.frames] == [("tool", "out"), ("tool", "in")]
    device.says(INITIALIZED)
    assert tap.frames[2:] == [("device", "in", tap.frames[2][2]), ("tool", "out", tool.hears_bytes())]


def test_notifications_are_told_on_both_legs() -> None:
    stage = Stage()
    stage.device.says(notification("notifications/roots/list_changed"))
    stage.tool.says(notification("notifications/message", level="info", data="hm"))
    assert [(side, way) for side, way, _ in stage.tap.frames] == [("device", "in"), ("tool", "out"), ("tool", "in"), ("device", "out")]
    assert stage.tap.frames[1][2] == stage.tool.hears_bytes()
    assert stage.tap.frames[3][2] == stage.device.hears_bytes()


def test_what_a_tool_asks_of_a_device_is_told_on_both_legs_and_so_is_the_answer() -> None:
    stage = Stage()
    stage.carried(call(1, "add"))
    stage.tool.says(request("q", "sampling/createMessage", messages=[]))
    asked = stage.device.hear()
    stage.device.says(answer(asked["id"], text="yes"), answer(99, text="nobody asked"))
    assert [(side, way) for side, way, _ in stage.tap.frames] == [
        ("tool", "in"),
        ("device", "out"),
        ("device", "in"),
        ("tool", "out"),
        ("device", "in"),
    ]
    assert stage.tap.frames[3][2] == stage.tool.hears_bytes()
    stage.tool.says(request("p", "ping"), request("w", "tools/list"))
    assert [(side, way) for side, way, _ in stage.tap.frames[5:]] == [("tool", "in"), ("tool", "out")] * 2
    assert [frame for _, way, frame in stage.tap.frames[5:] if way == "out"] == [stage.tool.hears_bytes(), stage.tool.hears_bytes()]


@pytest.mark.parametrize("frame", [b"not json", b"[]", b'{"jsonrpc":"1.0","id":1,"method":"x"}', b'{"jsonrpc":"2.0","id":{},"method":"x"}'])
def test_a_frame_of_a_device_that_cannot_be_read_is_told_once_and_so_is_what_it_hears(frame: bytes) -> None:
    stage = Stage()
    stage.device.says(frame)
    assert stage.tap.frames == [("device", "in", frame), ("device", "out", stage.device.hears_bytes())]
    assert not stage.tap.calls


@pytest.mark.parametrize(
    "frame",
    [
        b"Starting server ...",
        b'{"jsonrpc":"2.0"}',
        b'{"method":"x"}',
        b'{"jsonrpc":"2.0","id":{},"method":"ping"}',
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progressToken":1}}',
        b'{"jsonrpc":"2.0","id":7777,"result":{}}',
    ],
)
def test_a_frame_of_a_tool_that_means_nothing_is_told_once(frame: bytes) -> None:
    stage = Stage()
    stage.tool.says(frame)
    assert [told for told in stage.tap.frames if told[1] == "in"] == [("tool", "in", frame)]


def test_of_an_answer_that_is_too_large_the_beginning_is_told() -> None:
    stage = Stage()
    number = stage.carried(call(1, "add"))
    beginning = b'{"jsonrpc":"2.0","id":%d,"result":{"x":"' % number
    stage.play.endpoint.provider_said_too_much(stage.tool.party, beginning, b'"}}', stage.play.now)
    assert stage.tap.frames == [("tool", "in", beginning)]
    assert [(how, id) for how, id, _ in stage.tap.calls] == [("answered", b"1")]


# == links =======================================================================================================================


def test_who_comes_and_goes_is_told_with_the_code_and_the_calls_that_end_with_it_before() -> None:
    tap = Listener()
    play = Play(tap=tap)
    tool, device = play.tool(), play.device()
    assert tap.links == [("tool", "attached", 0, ""), ("device", "attached", 0, "")]
    device.says(call(1, "add"))
    play.wait(2)
    device.leaves(1001, "going away")
    assert tap.calls == [("ended", b"1", "consumer_left")]
    tool.leaves(4000, "bye")
    assert tap.links[2:] == [("device", "detached", 1001, "going away"), ("tool", "detached", 4000, "bye")]
    assert tap.times == sorted(tap.times) and tap.times[-1] == 1002.0


class Nothing:
    def cancel(self) -> None: ...
    def tell(self, event: str, shown: str, **fields: object) -> None: ...


def test_a_tap_of_the_broker_hears_of_all_endpoints_and_of_a_relayed_call_where_it_came_in() -> None:
    broker = Broker(
        EndpointSettings(), Limits(), clock=lambda: 5.0, call_at=lambda when, then: Nothing(), epoch=lambda: 0.0, watch=Nothing()
    )
    tap = broker.tap = Listener()
    parts = Play(), Play()
    ends: dict[str, tuple[Actor, Actor]] = {}
    for name, play in zip(("agent:a", f"{INNER}b"), parts, strict=True):
        tool, device = Actor(play), Actor(play)
        tool.party = broker.attach_provider(name, name[-1], tool)
        device.party = broker.attach_consumer(name, name[-1], device)
        ends[name[-1]] = tool, device
    ends["b"][1].party.relays = True
    for tool, device in ends.values():
        device.says(call(1, "add"))
        tool.says(answer(tool.hear()["id"]))
        device.hear()
        broker.detach(device.party, 1000, "")
    assert Counter(event for _, event, _, _ in tap.links) == {"attached": 4, "detached": 2}
    assert [(told.consumer.endpoint.shown, told.tool) for told in tap.ends if told.consumer is not None] == [("a", "add")]
