"""What a hostile peer can make the endpoint keep in memory is bounded, and who exceeds a bound is told."""

from __future__ import annotations

from typing import Any

import pytest
from plays import INITIALIZED, Play, answer, call, initialize, notification, request, tool_named, welcome

from mcp_endpoint import errors
from mcp_endpoint.core.broker import Broker
from mcp_endpoint.core.catalog import NAMES_PER_TOOL
from mcp_endpoint.core.delivery import KEPT_BYTES
from mcp_endpoint.core.endpoint import METHOD_CHARS
from mcp_endpoint.core.lifecycle import NAME_CHARS, WELCOME_BYTES, read_hello, read_welcome
from mcp_endpoint.settings.schema import EndpointSettings, Limits

BIG = "x" * 900


def test_a_method_of_any_length_is_not_kept() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, "m" * (METHOD_CHARS + 1)))
    device.hears_error(1, errors.INVALID_REQUEST.number)
    tool.hears_nothing()
    device.says(request(2, "m" * METHOD_CHARS))
    assert tool.hear()["method"] == "m" * METHOD_CHARS


def test_parked_calls_hold_no_more_than_a_links_queue() -> None:
    play = Play(limits=Limits(queued_bytes_per_link=1000))
    tool, device = play.tool(), play.device()
    tool.leaves()
    device.says(call(1, "a", text=BIG), call(2, "a", text=BIG))
    device.hears_error(2, errors.BUSY.number, delivered=False)
    play.wait(5)
    device.hears_error(1, errors.NO_PROVIDER.number)


def test_calls_that_wait_for_the_catalog_hold_no_more_than_a_links_queue() -> None:
    play = Play(limits=Limits(queued_bytes_per_link=1000))
    first, second = play.tool("a"), play.tool("b")
    device = play.device()
    device.says(call(1, "a", text=BIG), call(2, "a", text=BIG))
    device.hears_error(2, errors.BUSY.number, delivered=False)
    first.is_greeted("a", ["a"])
    second.is_greeted("b", [])
    assert first.hear()["params"]["name"] == "a"


def test_a_large_request_to_a_tool_without_handshake_is_said_once() -> None:
    """Only small ones are kept to be said again after a greeting."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(call(1, "a", text="x" * KEPT_BYTES))
    number = tool.hear()["id"]
    tool.says({"jsonrpc": "2.0", "id": number, "error": {"code": -32602, "message": "initialize first"}})
    assert device.hear()["error"]["message"] == "initialize first"
    tool.hears_nothing()


def test_a_call_behind_the_list_that_brought_the_greeting_is_said_again_too() -> None:
    """A device that sends both at once sees only the second answers."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(1, "tools/list"), call(2, "add"))
    assert [tool.hear()["method"] for _ in range(2)] == ["tools/list", "tools/call"]
    for number in (1, 2):
        tool.says({"jsonrpc": "2.0", "id": number, "error": {"code": -32602, "message": "initialize first"}})
    device.hears_nothing()
    tool.is_greeted("calc", ["add"])
    assert [tool.hear()["method"] for _ in range(2)] == ["tools/list", "tools/call"]
    device.hears_nothing()


def test_small_frames_that_wait_are_counted_too() -> None:
    play = Play(limits=Limits(in_flight_per_endpoint=3))
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(0), INITIALIZED)
    tool.hear()
    for _ in range(5):
        second.says(notification("n"))
    assert play.counters.dropped_notifications == 2


def test_a_question_too_big_for_a_device_or_its_queue_is_refused() -> None:
    play = Play()
    tool, device = play.tool(), play.device(answer_bytes=2000)
    device.says(initialize(1, sampling={}, **{"": {}}), INITIALIZED)
    tool.says(welcome(tool.hear()["id"]))
    tool.hears(INITIALIZED)
    device.hear()
    device.says(call(2, "add"))
    tool.hear()
    refused: list[Any] = [request(1, "sampling/createMessage", text="x" * 2000), request(2, "anything/else")]
    for frame in refused:
        tool.says(frame)
        tool.hears_error(frame["id"], errors.METHOD_NOT_FOUND.number)
    device.queued = Limits().queued_bytes_per_link + 1
    tool.says(request(3, "sampling/createMessage"))
    tool.hears_error(3, errors.METHOD_NOT_FOUND.number)
    device.queued = 0
    tool.says(request(4, "sampling/createMessage"))
    assert device.hear()["method"] == "sampling/createMessage"


def test_what_peers_say_of_themselves_is_cut() -> None:
    hello = read_hello(b'{"protocolVersion":"%b","clientInfo":{"name":"%b"},"capabilities":{"a":{},"roots":{}}}' % (b"v" * 999, b"n" * 999))
    assert len(hello.version) == NAME_CHARS and hello.capabilities == {"roots"}
    assert read_welcome(b'{"protocolVersion":"1","x":"%b"}' % (b"x" * WELCOME_BYTES)) is None
    found = read_welcome(b'{"protocolVersion":"1","serverInfo":{"name":"%b"}}' % (b"n" * 999))
    assert found is not None and len(found.name) == NAME_CHARS


def test_pages_end_at_the_bytes_of_one_message() -> None:
    play = Play(limits=Limits(provider_message_bytes=1000))
    one, _ = play.tool("one"), play.tool("two")
    one.says(welcome(one.hear()["id"]))
    one.hears(INITIALIZED)
    one.says(answer(one.hear()["id"], tools=[tool_named("a", BIG)], nextCursor="more"))
    assert one.hear()["params"] == {"cursor": "more"}
    one.says(answer(3, tools=[tool_named("b", BIG)], nextCursor="still more"))
    one.hears_nothing()


def test_tools_of_those_that_left_count_and_the_oldest_go_first() -> None:
    play = Play(limits=Limits(tools_per_endpoint=4))
    stays, _ = play.merged(stays=["a"], b=["b"])
    for number in range(6):
        guest = play.tool(f"guest{number}")
        guest.is_greeted("guest", [f"x{number}", f"y{number}"])
        guest.leaves()
    assert sum(len(shelf.tools) for shelf in play.endpoint.catalog.shelves) <= 4
    assert stays.party.listed


def test_the_same_tools_again_do_not_make_the_list_anew() -> None:
    play = Play()
    one, _ = play.merged(one=["a"], two=["b"])
    play.endpoint.catalog.pages()
    revision = play.endpoint.catalog.revision
    for _ in range(3):
        one.says(notification("notifications/tools/list_changed"))
        one.lists(["a"])
    assert play.endpoint.catalog.revision == revision


def test_half_a_million_names_in_one_page_are_not_all_looked_at() -> None:
    play = Play(limits=Limits(tools_per_endpoint=3))
    one, _ = play.tool("one"), play.tool("two")
    one.says(welcome(one.hear()["id"]))
    one.hears(INITIALIZED)
    one.says(answer(one.hear()["id"], tools=[tool_named(f"t{number}") for number in range(50)]))
    assert len(one.party.pages) == 4 and ("too many tools", {"label": "one", "left_out": 1}) in play.told


def test_what_waited_too_long_for_a_greeting_gives_its_room_back() -> None:
    play = Play(EndpointSettings(call_timeout=2.0), Limits(queued_bytes_per_link=1000))
    tool, greeter, device = play.tool(), play.device(), play.device()
    greeter.says(initialize(1))
    tool.hear()
    device.says(request(1, "m", large="x" * 800), request(2, "m", large="x" * 800))
    device.hears_error(2, -32005, delivered=False)
    play.wait(2.1)
    device.hears_error(1, -32006, delivered=False)
    device.says(request(3, "m", large="x" * 800))
    device.hears_nothing()
    tool.says(welcome(1))
    assert tool.hear() == INITIALIZED and tool.hear()["method"] == "m"


def test_whoever_looks_is_told_that_no_name_is_left() -> None:
    play = Play(limits=Limits(tools_per_endpoint=1))
    one, two = play.tool("one"), play.tool("two")
    one.is_greeted("one", ["t0"])
    two.is_greeted("two", [])
    device = play.ready_device()
    for number in range(NAMES_PER_TOOL + 1):
        device.says(call(number, f"t{number}"))
        one.hear()
        one.says(notification("notifications/tools/list_changed"))
        one.lists([f"t{number + 1}"])
        play.wait(1.1)
        told = ("no names left", {"names": NAMES_PER_TOOL}) in play.told
        assert told is (number >= NAMES_PER_TOOL - 1)
        if told:
            break
    assert told


@pytest.mark.row("E3")
def test_an_endpoint_everybody_left_keeps_nothing_of_what_was_brought() -> None:
    play = Play()
    alarms: list[Any] = []
    broker = Broker(
        EndpointSettings(),
        Limits(),
        clock=lambda: play.now,
        call_at=lambda when, ring: alarms.append(ring) or play,  # type: ignore[func-returns-value]
        epoch=lambda: 0.0,
        watch=play,
    )
    tool = play.tool("one")
    play.endpoint.name = "x"
    broker.endpoints["x"] = play.endpoint
    broker.providers = 1
    other = play.tool("two")
    tool.is_greeted("one", ["a"])
    other.leaves()
    assert play.endpoint.catalog.shelves
    broker.detach(tool.party, 1000, "")
    assert not play.endpoint.catalog.shelves and not broker.endpoints


@pytest.mark.parametrize("params", [b'{"\\u0063ursor":"2"}', b'{"cursor":"2"}', b'{"filter":"a"}', b"[1]", b'"all"'])
def test_a_list_that_was_asked_for_in_part_is_not_taken_for_the_whole(params: bytes) -> None:
    """One consumer cannot make the others' tools disappear."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1), INITIALIZED)
    tool.says(welcome(tool.hear()["id"]))
    tool.hears(INITIALIZED)
    device.says(b'{"jsonrpc":"2.0","id":2,"method":"tools/list","params":%b}' % params)
    tool.says(answer(tool.hear()["id"], tools=[tool_named("a")]))
    assert not play.endpoint.catalog.shelves


@pytest.mark.parametrize("params", [b"", b',"params":null', b',"params":{}', b',"params":{"_meta":{"x":1}}'])
def test_a_list_that_was_asked_for_whole_is_learned(params: bytes) -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1), INITIALIZED)
    tool.says(welcome(tool.hear()["id"]))
    tool.hears(INITIALIZED)
    device.says(b'{"jsonrpc":"2.0","id":2,"method":"tools/list"%b}' % params)
    tool.says(answer(tool.hear()["id"], tools=[tool_named("a")]))
    assert list(play.endpoint.catalog.owners) == ["a"]
