"""figures: what operators learn of tool calls, in figures and in lines, and that peers cannot make either grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from loguru import logger
from plays import INITIALIZED, Play, answer, call, failure, initialize, request, welcome

from mcp_endpoint.core.figures import BOUNDS, FOLDED, OTHER, Calls
from mcp_endpoint.core.parties import Call
from mcp_endpoint.serving import server as module
from mcp_endpoint.serving.server import CallLog
from mcp_endpoint.settings.schema import Limits

Lines = list[Mapping[str, Any]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged, with its level."""
    found: Lines = []
    sink = logger.add(lambda message: found.append(message.record), level="TRACE")
    yield found
    logger.remove(sink)


class Stage:
    """A play whose endpoint has a tap, with one tool and one device that have shaken hands."""

    def __init__(self, limits: Limits | None = None, *, every: bool = False) -> None:
        self.calls = Calls(limits or Limits(), CallLog(lambda: self.play.now).tell, every=every)
        self.play = Play(limits=limits, figures=self.calls.of("kitchen"))
        self.tool, self.device = self.play.tool("calc"), self.play.device()
        self.device.says(initialize(0), INITIALIZED)
        self.tool.says(welcome(self.tool.hear()["id"]))
        self.tool.hears(INITIALIZED)
        self.device.hear()

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        return self.calls.of("kitchen").counts

    def carried(self, *calls: Any) -> list[Any]:
        """The device makes calls; their numbers at the tool."""
        self.device.says(*calls)
        return [self.tool.hear()["id"] for _ in calls]


def told(line: Mapping[str, Any]) -> tuple[str, Any]:
    return line["level"].name, {name: value for name, value in line["extra"].items() if name != "endpoint"}


def test_a_call_that_went_well_is_counted_with_its_time_and_not_told(lines: Lines) -> None:
    stage = Stage()
    (number,) = stage.carried(call(1, "add", a=1))
    stage.play.wait(0.3)
    stage.tool.says(answer(number, content=[], isError=False))
    seen = stage.calls.of("kitchen")
    assert stage.counts == {("add", "ok"): 1}
    assert seen.seconds == pytest.approx(0.3)
    assert [count for count in seen.buckets if count] == [1]
    assert BOUNDS[seen.buckets.index(1)] == 0.5
    assert lines == []


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"content": [], "isError": True}, "tool_error"),
        ({"content": ["x" * 100_000], "isError": True}, "tool_error"),
        ({"content": [], "structuredContent": {"isError": True}}, "ok"),
        ({"content": [{"text": '"isError":true'}]}, "ok"),
        ({"isError": True, "content": "y" * 100_000}, "tool_error"),
    ],
)
def test_a_tool_that_says_it_failed_is_told_apart_from_one_that_talks_of_it(said: Any, outcome: str, lines: Lines) -> None:
    stage = Stage()
    (number,) = stage.carried(call(1, "add"))
    stage.tool.says(answer(number, **said))
    assert stage.counts == {("add", outcome): 1}
    assert len(lines) == (outcome != "ok")


def test_an_answer_that_is_no_result_of_a_tool_is_an_answer() -> None:
    stage = Stage()
    (number,) = stage.carried(call(1, "add"))
    stage.tool.says(b'{"jsonrpc":"2.0","id":%d,"result":[{"isError":true}]}' % number)
    assert stage.counts == {("add", "ok"): 1}


def test_every_way_a_call_can_fail_is_one_line_without_arguments_or_answers(lines: Lines) -> None:
    stage = Stage(Limits(device_answer_bytes=1024, in_flight_per_consumer=6))
    numbers = stage.carried(*(call(number, f"tool{number}", secret="hush") for number in range(1, 6)))
    stage.tool.says(failure(numbers[0], -32001, "hush"), answer(numbers[1], content=["hush" * 500]))
    stage.device.says({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 3}})
    stage.play.wait(25.1)
    for number in range(6, 13):
        stage.device.says(call(number, "tool6", secret="hush"))
    stage.tool.leaves(1001, "bye")
    stage.device.says(call(13, "late", secret="hush"))
    stage.device.leaves()
    stage.play.wait(10)
    outcomes = [(line["extra"]["tool"], line["extra"]["outcome"], line["extra"]["provider"]) for line in lines]
    assert outcomes == [
        ("tool1", "error", "calc"),
        ("tool2", "answer_too_big", "calc"),
        ("tool3", "cancelled", "calc"),
        ("tool4", "timed_out", "calc"),
        ("tool5", "timed_out", "calc"),
        ("tool6", "busy", ""),
        *[("tool6", "provider_gone", "calc")] * 6,
        ("late", "consumer_left", ""),
    ]
    assert all(line["level"].name == "INFO" and line["extra"]["endpoint"] == "kitchen" for line in lines)
    assert [line["extra"]["milliseconds"] for line in lines[:4]] == [0, 0, 0, 25_000]
    assert "hush" not in repr([(line["message"], line["extra"]) for line in lines])
    assert sum(stage.counts.values()) == len(lines)
    assert stage.play.told == [], "what the tap tells is not told twice"


def test_a_device_that_does_not_read_and_a_server_that_stops_are_reasons_too(lines: Lines) -> None:
    stage = Stage()
    one, _ = stage.carried(call(1, "a"), call(2, "b"))
    stage.device.queued = Limits().queued_bytes_per_link + 1
    stage.tool.says(answer(one))
    stage.device.queued = 0
    stage.play.endpoint.drain(stage.play.now)
    stage.device.says(call(3, "c"))
    stage.play.endpoint.finish(stage.play.now)
    assert stage.counts == {("a", "busy"): 1, ("c", "busy"): 1, ("b", "provider_gone"): 1}
    assert len(lines) == 3


def test_durations_are_counted_the_same_however_many_there_are() -> None:
    calls = Calls(Limits(), lambda call, seconds: None, every=False).of("kitchen")
    seconds = [bound * factor for bound in (*BOUNDS, 600.0) for factor in (1.0, 1.001) for _ in range(20)]
    assert len(seconds) > 2 * FOLDED, "some are counted on the way, the others when they are read"
    for number, duration in enumerate(seconds):
        calls.ended(Call(None, b"1", b"1", "tools/call", 0.0, 0.0, tool="add"), duration)
        if number == 3:
            assert calls.buckets == [4, *[0] * len(BOUNDS)]
    assert calls.buckets == [20, *[40] * (len(BOUNDS) - 1), 60]
    assert calls.seconds == pytest.approx(sum(seconds))
    assert calls.counts == {("add", "ok"): len(seconds)}


def test_at_debug_calls_that_went_well_are_told_too(lines: Lines) -> None:
    stage = Stage(every=True)
    (number,) = stage.carried(call(1, "add"))
    stage.tool.says(answer(number))
    (line,) = lines
    assert told(line) == ("DEBUG", {"tool": "add", "provider": "calc", "milliseconds": 0, "outcome": "ok"})
    assert "调用完成 / call done" in line["message"]


@pytest.mark.parametrize(
    ("params", "name"),
    [
        (b'{"arguments":{},"name":"last"}', "last"),
        (b'{ "name" : "\\u4f60" }', "你"),
        (b'{"name":"' + b"n" * 500 + b'"}', "n" * 128),
        (b'{"name":7}', "?"),
        (b'{"arguments":"' + b"x" * 20_000 + b'","name":"far"}', "?"),
        (b"[]", "?"),
    ],
)
def test_a_tool_is_known_by_its_name_wherever_that_stands(params: bytes, name: str) -> None:
    stage = Stage()
    stage.device.says(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%b}' % params)
    stage.tool.says(answer(stage.tool.hear()["id"]))
    assert stage.counts == {(name, "ok"): 1}


def test_a_call_without_parameters_and_what_is_no_call_are_no_trouble() -> None:
    stage = Stage()
    one, other = stage.carried(request(1, "tools/call"), request(2, "resources/list"))
    stage.tool.says(answer(one), answer(other))
    assert stage.counts == {("?", "ok"): 1}


def test_what_a_relay_hands_on_is_counted_where_it_came_in() -> None:
    stage = Stage()
    stage.device.party.relays = True
    (number,) = stage.carried(call(1, "add"))
    stage.tool.says(answer(number))
    assert stage.counts == {}


@pytest.mark.parametrize(
    ("error", "outcome"), [({"code": -32006}, "timed_out"), ({"code": -5}, "error"), ({"message": "no code"}, "error"), (7, "error")]
)
def test_an_error_of_a_managed_server_is_known_by_its_code(error: Any, outcome: str) -> None:
    stage = Stage()
    stage.tool.party.managed = True
    (number,) = stage.carried(call(1, "add"))
    stage.tool.says({"jsonrpc": "2.0", "id": number, "error": error})
    assert stage.counts == {("add", outcome): 1}


def test_names_that_peers_choose_cannot_make_the_figures_grow() -> None:
    stage = Stage(Limits(metric_tools=2, metric_endpoints=2))
    for number, name in enumerate(("a", "b", "c", "d", "a"), 1):
        (carried,) = stage.carried(call(number, name))
        stage.tool.says(answer(carried))
    assert stage.counts == {("a", "ok"): 2, ("b", "ok"): 1, (OTHER, "ok"): 2}
    calls = stage.calls
    assert calls.of("bath") is calls.of("bath") is not calls.of("cellar")
    assert calls.of("cellar") is calls.of("attic")
    assert list(calls.endpoints) == ["kitchen", "bath", OTHER]


def test_a_device_that_fails_on_purpose_cannot_fill_the_log(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAILED_CALLS_A_MINUTE", 3)
    stage = Stage()

    def fail(times: int) -> None:
        for number in range(times):
            (carried,) = stage.carried(call(number, "add"))
            stage.tool.says(failure(carried, -1))

    fail(10)
    assert len(lines) == 3
    stage.play.wait(60)
    fail(1)
    assert told(lines[-1])[1]["not_told"] == 7
    assert stage.counts == {("add", "error"): 11}
