"""The heart's part of the bounds: what is too big, too much or not read is refused clearly, and nobody else suffers. Plays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plays import INITIALIZED, Actor, Play, answer, call, initialize, notification, request, tool_named, welcome

from mcp_endpoint.settings.schema import MIB, Limits


def bare_pair(limits: Limits | None = None) -> tuple[Play, Actor, Actor]:
    play = Play(limits=limits)
    return play, play.tool(), play.device()


# -- answers that are too big ------------------------------------------------------------------------------------------------


@pytest.mark.row("D23")
def test_an_answer_beyond_a_devices_size_becomes_an_error_and_the_socket_stays() -> None:
    """xiaozhi-server loses its socket at 1 MiB: -32007 instead, `delivered: true`; one byte less passes."""
    play, tool, device = bare_pair()
    device.says(request(1, "m"), request(1, "m"))
    frame = b'{"jsonrpc":"2.0","id":%d,"result":"%b"}'
    room = MIB - len(frame % (1, b""))
    tool.says(frame % (1, b"x" * room))
    assert len(device.hears_bytes()) == MIB
    tool.says(frame % (2, b"x" * (room + 1)))
    hint = device.hears_error(1, -32007, delivered=True)["hint"]
    assert str(MIB + 1) in hint and str(MIB) in hint
    assert device.close_reason is None and tool.close_reason is None
    assert play.counters.answers_too_big == 1
    assert play.endpoint.ledger.in_flight == 0


def test_the_size_is_that_of_the_answer_as_the_device_gets_it() -> None:
    """The id's own bytes count: they are in the frame the device receives."""
    play = Play(limits=Limits(device_answer_bytes=1000))
    tool, device = play.tool(), play.device()
    frame = b'{"jsonrpc":"2.0","id":%b,"result":"%b"}'
    id = b'"' + b"i" * 100 + b'"'
    room = 1000 - len(frame % (id, b""))
    for number, size in ((b"1", room), (b"2", room + 1)):
        device.says(b'{"jsonrpc":"2.0","id":%b,"method":"m"}' % id)
        tool.says(frame % (number, b"x" * size))
    assert len(device.hears_bytes()) == 1000
    device.hears_error("i" * 100, -32007)


def test_another_kind_of_consumer_can_take_more() -> None:
    """An HTTP consumer's bound is its own."""
    play = Play()
    tool, consumer = play.tool(), play.device(answer_bytes=8 * MIB)
    consumer.says(request(1, "m"), request(2, "m"))
    tool.says(answer(1, x="x" * 7 * MIB), answer(2, x="x" * 8 * MIB))
    assert len(consumer.hears_bytes()) > 7 * MIB
    consumer.hears_error(2, -32007)


def test_a_notification_that_is_too_big_is_dropped() -> None:
    """It would cost a device its socket, and nobody waits for it."""
    play = Play(limits=Limits(device_answer_bytes=1000))
    tool, device = play.tool(), play.device()
    tool.says(notification("n", x="x" * 1000), notification("n", x="small"))
    device.hears(notification("n", x="small"))
    device.hears_nothing()
    assert play.counters.dropped_notifications == 1


# -- too many in flight --------------------------------------------------------------------------------------------------------


def test_a_consumer_may_have_256_requests_in_flight() -> None:
    """The 257th is busy, -32005 and not delivered; each answer makes room for one."""
    play, tool, device = bare_pair()
    device.says(*(request(n, "m") for n in range(257)))
    device.hears_error(256, -32005, delivered=False)
    assert len(tool.heard) == 256
    tool.says(answer(9))
    device.hears(answer(8))
    device.says(request("next", "m"))
    assert len(tool.heard) == 257
    device.says(request("over", "m"), notification("notifications/cancelled", requestId=0), request("again", "m"))
    device.hears_error("over", -32005)
    device.hears_nothing()
    assert play.counters.busy == 2


def test_an_endpoint_may_have_2048_requests_in_flight() -> None:
    """Many devices together: beyond it everybody hears busy, and the places of a device that leaves are free again."""
    play, tool, device = bare_pair()
    devices = [play.device() for _ in range(8)]
    for each in devices:
        each.says(*(request(n, "m") for n in range(256)))
    device.says(request("x", "m"), request("i", "initialize"), request("p", "ping"))
    for id in ("x", "i", "p"):
        device.hears_error(id, -32005, delivered=False)
    assert play.endpoint.ledger.in_flight == 2048
    devices[0].leaves()
    device.says(request("y", "m"))
    device.hears_nothing()
    assert play.endpoint.ledger.in_flight == 2048 - 256 + 1
    assert len([frame for frame in tool.heard if b'"m"' in frame]) == 2049


# -- who does not read -----------------------------------------------------------------------------------------------------------


def test_a_tool_that_does_not_read_gets_no_new_requests() -> None:
    """Over 8 MiB queued: -32005 at once, not delivered; when it reads again it is served again."""
    play, tool, device = bare_pair()
    tool.queued = 8 * MIB
    device.says(request(1, "m"))
    tool.hears(request(1, "m"))
    tool.queued = 8 * MIB + 1
    device.says(request(2, "m"), notification("n"))
    device.hears_error(2, -32005, delivered=False)
    tool.hears_nothing()
    assert play.counters.dropped_notifications == 1
    tool.queued = 0
    device.says(request(3, "m"))
    tool.hears(request(2, "m"))
    tool.says(answer(1), answer(2))
    device.hears(answer(1), answer(3))


def test_a_device_that_does_not_read_costs_a_bounded_queue() -> None:
    """Its answers become short errors, notifications to it are dropped; it is owed nothing more."""
    play, tool, device = bare_pair()
    other = play.device()
    device.says(request(1, "m"))
    other.says(request(1, "m"))
    device.queued = 8 * MIB + 1
    tool.says(notification("n"), answer(1, x="x" * 100_000), answer(2, x=1))
    device.hears_error(1, -32005, delivered=True)
    device.hears_nothing()
    other.hears(notification("n"), answer(1, x=1))
    assert play.endpoint.ledger.in_flight == 0


def test_a_tool_that_does_not_read_is_not_answered_without_bound() -> None:
    """Its pings and arrays are dropped while its queue is full."""
    play, tool, _ = bare_pair()
    tool.queued = 8 * MIB + 1
    tool.says(request(1, "ping"), b"[]", request(2, "roots/list"))
    tool.hears_nothing()
    assert play.counters.noise == 1


def test_the_one_initialized_reaches_a_tool_that_does_not_read() -> None:
    """Other notifications are dropped then; without this one it would never work."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1))
    tool.says(welcome(tool.hear()["id"]))
    tool.queued = 8 * MIB + 1
    device.says(INITIALIZED)
    tool.hears(INITIALIZED)


def test_what_waits_for_an_endpoints_tools_is_bounded() -> None:
    """Calls that wait for their tool hold as many bytes as a link's queue; more are busy, and places are free again."""
    play = Play(limits=Limits(queued_bytes_per_link=10_000))
    device = play.ready_device()
    tool = play.tool()
    tool.is_greeted("calc", ["add"])
    tool.leaves()
    device.heard.clear()
    device.says(call(1, "add", x="x" * 7000), call(2, "add", x="x" * 7000))
    device.hears_error(2, -32005, delivered=False)
    play.wait(4.1)
    device.hears_error(1, -32001, delivered=False)
    device.says(call(3, "add", x="x" * 7000))
    device.hears_nothing()


# -- bad frames --------------------------------------------------------------------------------------------------------------------


@pytest.mark.row("E27")
def test_after_twenty_bad_frames_a_consumer_is_sent_away() -> None:
    """Each is answered, then 1008; good frames in between do not wash them off."""
    play, tool, device = bare_pair()
    other = play.device()
    for _ in range(19):
        device.says(b"garbage")
        device.hears_error(None, -32700)
        device.says(notification("fine"))
    assert device.close_reason is None
    device.says(b"garbage")
    device.hears_error(None, -32700)
    assert device.close_reason is not None and device.close_reason[0] == 1008
    assert other.close_reason is None and tool.close_reason is None
    assert play.counters.bad_frames == 20


@pytest.mark.row("U13", "E27")
def test_noise_never_costs_a_tool_its_socket() -> None:
    """A stdio server may print as much as it likes."""
    play, tool, device = bare_pair()
    for n in range(1000):
        tool.says(b"line %d\n" % n)
    assert tool.close_reason is None and play.counters.noise == 1000
    device.says(request(1, "m"))
    tool.hears(request(1, "m"))


# -- tools ---------------------------------------------------------------------------------------------------------------------------


def test_an_endpoint_has_at_most_512_tools() -> None:
    """What goes beyond is left out, told once to the operator, and has room again when others left."""
    play = Play()
    one, _ = play.merged(one=[f"a{n}" for n in range(500)], other=[f"b{n}" for n in range(20)])
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    names = [tool["name"] for tool in device.hear()["result"]["tools"]]
    assert len(names) == 512 and names[-1] == "b11"
    assert ("too many tools", {"label": "other", "left_out": 8}) in play.told
    device.says(call(2, "b15"))
    device.hears_error(2, -32602)
    assert one.close_reason is None


def test_a_method_has_at_most_256_characters() -> None:
    """It is kept as long as its call: -32600 beyond."""
    _, tool, device = bare_pair()
    device.says(request(1, "m" * 256), request(2, "m" * 257))
    device.hears_error(2, -32600)
    tool.hears(request(1, "m" * 256))
    tool.hears_nothing()


@pytest.mark.parametrize("queued", [0, 8 * MIB + 1])
def test_a_question_a_device_cannot_take_is_refused(queued: int) -> None:
    """One that is larger than its answers may be, or while it does not read: the provider hears an error at once."""
    play = Play(limits=Limits(device_answer_bytes=2000))
    tool, device = play.tool(), play.device()
    device.says(initialize(1, roots={}))
    tool.says(welcome(tool.hear()["id"]))
    device.says(INITIALIZED, call(2, "a"))
    tool.heard.clear()
    device.heard.clear()
    device.queued = queued
    tool.says(request("q", "roots/list", x="" if queued else "x" * 2000))
    tool.hears_error("q", -32601)
    device.hears_nothing()


def test_questions_to_one_consumer_are_bounded() -> None:
    """A tool cannot flood the device that is asking it: beyond `in_flight_per_consumer` it hears an error at once."""
    play = Play(limits=Limits(in_flight_per_consumer=3))
    tool, device = play.tool(), play.device()
    device.says(initialize(1, roots={}))
    tool.says(welcome(tool.hear()["id"]))
    device.says(INITIALIZED, call(2, "a"))
    tool.heard.clear()
    tool.says(*(request(n, "roots/list") for n in range(4)))
    tool.hears_error(3, -32601)
    tool.hears_nothing()
    assert sum(b"roots/list" in frame for frame in device.heard) == 3


# -- hostile bytes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.row("E27")
@pytest.mark.parametrize(
    "capabilities",
    [
        '{"x":' * 900 + "{}" + "}" * 900,
        f'{{"n":{10**200}}}',
        '{"n":1e999}',
        '{"tools":null}',
        '{"tools":[1]}',
        "[]",
        "5",
        '{"x":"\\u0000"}',
    ],
    ids=range(8),
)
def test_odd_capabilities_of_one_provider_spoil_no_welcome(capabilities: str) -> None:
    """A provider may write what it likes there: a consumer still gets one good answer."""
    play = Play()
    one, other = play.tool("one"), play.tool("other")
    one.is_greeted("one", ["a"], prompts={})
    other.says(
        b'{"jsonrpc":"2.0","id":%d,"result":{"protocolVersion":"2025-06-18","capabilities":%b}}'
        % (other.hear()["id"], capabilities.encode())
    )
    device = play.device()
    device.says(initialize(1))
    result = device.hear()["result"]
    assert result["capabilities"]["tools"] == {"listChanged": True} and "prompts" in result["capabilities"]
    device.hears_nothing()


@pytest.mark.row("E27")
@pytest.mark.parametrize(
    "tool_bytes", [b'{"name":"deep","x":%b}' % (b"[" * 900 + b"]" * 900), b'{"name":"n","name":"n"}', b'{"name":"\\u0061"}', b'{"name":""}']
)
def test_odd_definitions_spoil_no_list(tool_bytes: bytes) -> None:
    """A tool that cannot be called is left out; the others are listed and the answer is good JSON."""
    play = Play()
    one, other = play.tool("one"), play.tool("other")
    one.is_greeted("one", ["a"])
    other.says(welcome(other.hear()["id"]))
    other.hears(INITIALIZED)
    other.says(b'{"jsonrpc":"2.0","id":%d,"result":{"tools":[%b]}}' % (other.hear()["id"], tool_bytes))
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    tools = json.loads(device.hears_bytes())["result"]["tools"]
    assert tools[0] == tool_named("a") and len(tools) in (1, 2)


@pytest.mark.row("E27")
@pytest.mark.parametrize("method", ["tools/call", "tools/list", "initialize", "m"])
def test_at_the_brink_of_the_parsers_depth_every_request_has_one_answer(method: str) -> None:
    """How deep the parser goes depends on the stack it finds: what could be read may be too deep further down, and is refused then."""
    heard = refused = 0
    for depth in range(800, 1010):
        play, tool, device = bare_pair()
        nested = b"[" * depth + b"]" * depth
        device.says(b'{"jsonrpc":"2.0","id":1,"method":"%b","params":{"_meta":{"progressToken":5},"x":%b}}' % (method.encode(), nested))
        if tool.heard:
            heard += 1
            tool.says(b'{"jsonrpc":"2.0","x":1,"id":1,"result":{"protocolVersion":"2024-11-05","x":%b}}' % nested)
            if not device.heard:
                play.wait(30)
        else:
            refused += 1
        assert device.hears_bytes()
        device.hears_nothing()
    assert heard > 100 and refused > 5


@pytest.mark.row("E27")
@pytest.mark.parametrize(
    "answer",
    [
        b'{"jsonrpc":"2.0","id":1,"result":#}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no","data":#}}',
        b' { "jsonrpc": "2.0", "result": #, "id": 1 } ',
        b'{"jsonrpc":"2.0","result":#,"id":1}',
        b'{"jsonrpc":"2.0","id":"1","result":#}',
    ],
)
def test_an_answer_nested_too_deep_is_answered_at_once(answer: bytes) -> None:
    play, tool, device = bare_pair()
    device.says(request("x", "m"))
    tool.hear()
    tool.says(answer.replace(b"#", b"[" * 100_000 + b"]" * 100_000))
    assert "nested too deep" in device.hears_error("x", -32007, delivered=True)["hint"]
    assert play.counters.noise == 1 and play.endpoint.ledger.in_flight == 0


@pytest.mark.row("E27")
@pytest.mark.parametrize(
    "frame",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":#}',
        b'{"jsonrpc":"2.0","id":2,"result":#}',
        b"#",
    ],
)
def test_what_is_nested_too_deep_and_no_answer_to_a_call_is_noise(frame: bytes) -> None:
    _, tool, device = bare_pair()
    device.says(request("x", "m"))
    tool.hear()
    tool.says(frame.replace(b"#", b"[" * 100_000 + b"]" * 100_000))
    device.hears_nothing()
    tool.says(answer(1))
    device.hears(answer("x"))


def test_a_greeting_nested_too_deep_is_waited_for_no_longer_than_any_other() -> None:
    play = Play()
    tool, _ = play.tool(), play.tool()
    tool.says(b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (tool.hear()["id"], b"[" * 100_000 + b"]" * 100_000))
    device = play.device()
    device.says(initialize(1))
    play.wait(4.9)
    device.hears_nothing()
    play.wait(3.2)
    assert "result" in device.hear()


# -- frames of every shape ---------------------------------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.sampled_from([None, True, 0, 1, -1, 1.5, 2**63, 10**30, "", "1", "tools/list", "a", "\ud83d"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "cursor", "_meta", "id", "x"]), inner, max_size=3),
    max_leaves=5,
)
METHODS = st.sampled_from(
    [
        "initialize",
        "ping",
        "tools/list",
        "tools/call",
        "prompts/list",
        "roots/list",
        "sampling/createMessage",
        "notifications/initialized",
        "notifications/cancelled",
        "notifications/progress",
        "notifications/message",
        "notifications/tools/list_changed",
        "notifications/roots/list_changed",
    ]
)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "name": ANYTHING,
        "arguments": ANYTHING,
        "cursor": ANYTHING,
        "requestId": ANYTHING,
        "progressToken": ANYTHING,
        "_meta": ANYTHING | st.fixed_dictionaries({"progressToken": ANYTHING}),
        "protocolVersion": ANYTHING,
        "capabilities": ANYTHING,
        "clientInfo": ANYTHING,
    },
)
RESULTS = st.fixed_dictionaries(
    {},
    optional={"protocolVersion": ANYTHING, "capabilities": ANYTHING, "serverInfo": ANYTHING, "tools": ANYTHING, "nextCursor": ANYTHING},
)
FRAMES = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | ANYTHING},
    optional={
        "id": st.sampled_from([0, 1, 2, 3, 4, "1"]) | ANYTHING,
        "method": METHODS | ANYTHING,
        "params": PARAMS | ANYTHING,
        "result": RESULTS | ANYTHING,
        "error": st.just({"code": -32602, "message": "no"}) | ANYTHING,
        "x": ANYTHING,
    },
)


@pytest.mark.row("E27")
@given(tools=st.integers(0, 2), said=st.lists(st.tuples(st.integers(0, 3), FRAMES | ANYTHING), max_size=12))
def test_no_frame_of_any_shape_breaks_the_heart(tools: int, said: list[tuple[int, object]]) -> None:
    """Every field of every frame may hold anything, from either side: nothing raises, and in the end nobody is owed anything."""
    play = Play()
    actors = [play.tool(f"s{n}") for n in range(tools)] + [play.device(), play.device()]
    for who, frame in said:
        actors[who % len(actors)].says(json.dumps(frame).encode())
        for actor in actors:
            for heard in actor.heard:
                found = json.loads(heard)
                assert found["jsonrpc"] == "2.0" if "method" in found else not {"result", "error"} <= found.keys()
    play.wait(400)
    for actor in actors:
        actor.leaves()
    assert play.endpoint.ledger.in_flight == 0 and play.endpoint.empty
