"""The life of a provider: which steps there are, what is read of both sides' introductions, and how a greeting goes, as plays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plays import INITIALIZED, Actor, Play, answer, call, failure, initialize, notification, request, tool_named, welcome

from mcp_endpoint import errors
from mcp_endpoint.core.lifecycle import Hello, own_welcome, read_hello, read_welcome, welcome_from
from mcp_endpoint.core.parties import State, Welcome
from mcp_endpoint.protocol.methods import HANDSHAKE_REVISIONS, LATEST
from mcp_endpoint.settings.schema import EndpointSettings, Limits

# -- what is read of an introduction -----------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = ["protocolVersion", "capabilities", "clientInfo", "serverInfo", "name", "tools", "sampling"]
HOSTILE = st.recursive(ANYTHING, lambda inner: st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=5), max_leaves=12)


def test_a_consumer_says_its_version_its_name_and_what_it_can() -> None:
    capabilities = b'{"sampling":{},"roots":{"listChanged":true}}'
    params = b'{"protocolVersion":"2024-11-05","capabilities":%b,"clientInfo":{"name":"\\u4f60","version":1}}' % capabilities
    assert read_hello(params) == Hello("2024-11-05", "你", frozenset({"sampling", "roots"}))


@pytest.mark.row("E27")
@pytest.mark.parametrize(
    "params",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"5",
        b"{}",
        b'{"protocolVersion":5,"capabilities":[],"clientInfo":"x"}',
        b'{"protocolVersion":null,"capabilities":null,"clientInfo":null}',
        b'{"capabilities":"sampling","clientInfo":{"name":["x"]}}',
        b'{"clientInfo":{"name":null}}',
    ],
)
def test_what_is_malformed_in_a_consumers_introduction_counts_as_absent(params: bytes) -> None:
    assert read_hello(params) == Hello("", "", frozenset())


def test_what_is_well_said_counts_beside_what_is_not() -> None:
    assert read_hello(b'{"protocolVersion":[],"clientInfo":{"name":"x","version":{}},"capabilities":{"roots":{}}}') == Hello(
        "", "x", frozenset({"roots"})
    )


def test_a_capability_that_is_null_is_not_declared() -> None:
    """Peers that write what is absent as null must not be asked for it."""
    assert read_hello(b'{"capabilities":{"sampling":null,"roots":{}}}').capabilities == {"roots"}
    read = read_welcome(b'{"protocolVersion":"2025-06-18","capabilities":{"prompts":null,"tools":{}}}')
    assert read is not None
    assert read.capabilities.keys() == {"tools"}


def test_an_introduction_nested_to_the_parsers_limit_breaks_nothing() -> None:
    deep = b'{"protocolVersion":"2025-06-18","capabilities":%b}' % (b"[" * 20_000 + b"]" * 20_000)
    assert read_welcome(deep) is None
    assert welcome_from(Welcome(deep, "2025-06-18", "calc", {}), "2024-11-05") == deep


@pytest.mark.row("E27")
@given(HOSTILE)
def test_any_json_at_all_can_be_an_introduction(value: Any) -> None:
    data = json.dumps(value).encode()
    hello = read_hello(data)
    assert isinstance(hello.version, str)
    assert isinstance(hello.name, str)
    assert all(isinstance(name, str) for name in hello.capabilities)
    read = read_welcome(data)
    assert (read is not None) == (isinstance(value, dict) and isinstance(value.get("protocolVersion"), str))
    if read is not None:
        assert read.body == data
        assert isinstance(read.name, str)
        assert isinstance(read.capabilities, dict)
        assert json.loads(own_welcome("2025-06-18", [read, read], "1"))["capabilities"]["tools"]["listChanged"] is True
        for asked in (*HANDSHAKE_REVISIONS, "", "x"):
            told = json.loads(welcome_from(read, asked))
            assert {**told, "protocolVersion": 0} == {**value, "protocolVersion": 0}


def test_a_provider_says_its_version_its_name_and_what_it_offers() -> None:
    body = (
        b'{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"prompts":{}},"serverInfo":{"name":"calc"},"x":1.00}'
    )
    assert read_welcome(body) == Welcome(body, "2025-06-18", "calc", {"tools": {"listChanged": True}, "prompts": {}})
    for odd in (
        b'{"protocolVersion":"?","capabilities":[],"serverInfo":5}',
        b'{"protocolVersion":"?","capabilities":null,"serverInfo":{}}',
    ):
        assert read_welcome(odd) == Welcome(odd, "?", "", {})
    assert read_welcome(b'{"protocolVersion":"?"}') == Welcome(b'{"protocolVersion":"?"}', "?", "", {})


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b"{}",
        b'{"protocolVersion":null}',
        b'{"protocolVersion":5}',
        b'{"capabilities":{}}',
        b'{"protocolVersion":"a","protocolVersion":"b"}',
        b'{"protocolVersion":"a","x":1,"x":1}',
    ],
)
def test_what_has_no_one_version_is_no_result_of_initialize(body: bytes) -> None:
    assert read_welcome(body) is None


@pytest.mark.parametrize(
    ("has", "asked", "told"),
    [
        ("2025-06-18", "2024-11-05", "2024-11-05"),
        ("2025-06-18", "2025-06-18", "2025-06-18"),
        ("2025-06-18", "2025-11-25", "2025-06-18"),
        ("2025-06-18", "", "2025-06-18"),
        ("2025-06-18", "1999-01-01", "2025-06-18"),
        ("2024-11-05", "2025-03-26", "2024-11-05"),
        ("2030-01-01", "2025-11-25", "2025-11-25"),
    ],
)
def test_another_consumer_gets_the_version_it_asked_for_if_it_is_known_and_not_newer(has: str, asked: str, told: str) -> None:
    """Every other byte is the provider's (§3.2)."""
    body = b'{"x":1.00,"protocolVersion" : "%b","capabilities":{"protocolVersion":"%b"}}'
    read = read_welcome(body % (has.encode(), has.encode()))
    assert read is not None
    assert welcome_from(read, asked) == body % (told.encode(), has.encode())


def test_several_providers_offer_together_what_each_does() -> None:
    both = [
        Welcome(b"", "", "", {"tools": {"x": 1}, "prompts": {"listChanged": True}}),
        Welcome(b"", "", "", {"prompts": {"y": 2}, "resources": {}, "odd": {"z": 3}}),
    ]
    assert json.loads(own_welcome("2025-03-26", both, "7")) == {
        "protocolVersion": "2025-03-26",
        "capabilities": {
            "tools": {"x": 1, "listChanged": True},
            "prompts": {"listChanged": True, "y": 2},
            "resources": {},
            "odd": {"z": 3},
        },
        "serverInfo": {"name": "mcp-endpoint-server", "version": "7"},
    }
    assert both[0].capabilities["tools"] == {"x": 1}  # what was read is not written to


@pytest.mark.parametrize(
    ("asked", "told"), [*((known, known) for known in HANDSHAKE_REVISIONS), ("", LATEST), ("2026-01-01", LATEST), ("x", LATEST)]
)
def test_the_endpoint_alone_speaks_every_revision_that_begins_with_initialize(asked: str, told: str) -> None:
    own = json.loads(own_welcome(asked, [], "7"))
    assert own["protocolVersion"] == told
    assert own["capabilities"] == {"tools": {"listChanged": True}}


# -- a greeting --------------------------------------------------------------------------------------------------------------


def states(play: Play) -> list[str]:
    return [provider.state.value for provider in play.endpoint.providers]


def shaken() -> tuple[Play, Actor, Actor]:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(0), INITIALIZED)
    tool.says(welcome(tool.hear()["id"]))
    tool.hears(INITIALIZED)
    device.hear()
    return play, tool, device


def test_a_provider_goes_from_new_over_initializing_to_ready_and_is_gone() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    party = tool.party
    assert states(play) == ["new"]
    device.says(initialize("你"))
    assert states(play) == ["initializing"]
    tool.hears(initialize(1))
    tool.says(welcome(1))
    device.hears(welcome("你"))
    assert states(play) == ["ready"]
    device.says(INITIALIZED)
    tool.hears(INITIALIZED)
    assert party.label == "calc"
    tool.leaves()
    assert states(play) == []
    assert party.state is State.GONE


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (failure(1, -32603), "it answered initialize with an error"),
        (answer(1), "it sent no result"),
        ({"jsonrpc": "2.0", "id": 1, "result": None}, "it sent no result"),
    ],
)
def test_a_provider_that_does_not_take_a_greeting_is_bare_and_its_answer_is_told(frame: dict[str, Any], why: str) -> None:
    play = Play()
    tool, device = play.tool("mine"), play.device()
    device.says(initialize(0))
    tool.hear()
    tool.says(frame)
    device.hears({**frame, "id": 0})
    assert states(play) == ["bare"]
    assert play.told == [("bare", {"label": "mine", "why": why})]
    device.says(request(5, "m"))
    assert tool.hear()["method"] == "m"


@pytest.mark.row("D22")
def test_every_other_initialize_waits_for_the_one_and_is_answered_from_its_result() -> None:
    """A stdio server must see one handshake, however many devices there are (contract 1.4)."""
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(0, version="2025-06-18"))
    second.says(initialize("b"), request(3, "m"))
    tool.hears(initialize(1, version="2025-06-18"))
    tool.hears_nothing()
    second.hears_nothing()
    tool.says(welcome(1))
    first.hears(welcome(0))
    second.hears(welcome("b", version="2024-11-05"))
    tool.hears(INITIALIZED, request(2, "m"))
    first.says(INITIALIZED)
    second.says(INITIALIZED)
    tool.hears_nothing()


def test_a_greeter_that_says_initialize_twice_has_two_answers() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1), initialize(2), initialize(1))
    tool.hears(initialize(1))
    tool.hears_nothing()
    tool.says(welcome(1))
    assert [device.hear()["id"] for _ in range(3)] == [1, 2, 1]
    device.hears_nothing()


def test_an_initialize_that_can_be_read_in_two_ways_leaves_the_provider_new() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"_meta":{},"_meta":{}}}')
    device.hears_error(1, errors.INVALID_PARAMS.number)
    tool.hears_nothing()
    play.wait(30)
    assert states(play) == ["new"]
    device.says(b'{"jsonrpc":"2.0","id":1,"method":"initialize"}')
    assert tool.hear()["method"] == "initialize"


def test_the_endpoint_greets_in_its_own_words_where_it_is_set_so() -> None:
    play = Play(EndpointSettings(greet="endpoint"))
    tool, device = play.tool(), play.device()
    tool.hears_nothing()
    device.says(initialize(0, client="someone"))
    tool.is_greeted("calc", ["add"])
    device.hears(welcome(0, version="2024-11-05"))
    later = play.device()
    later.says(initialize("x", version="2025-06-18"))
    later.hears(welcome("x"))
    tool.hears_nothing()


def test_an_initialize_on_an_endpoint_with_several_is_answered_for_all_of_them() -> None:
    play = Play()
    one, two = play.tool("one"), play.tool("two")
    one.is_greeted("one", ["a"], prompts={})
    device = play.device()
    device.says(initialize(0))
    told = device.hear()["result"]
    assert told["capabilities"] == {"prompts": {}, "tools": {"listChanged": True}}
    two.is_greeted("two", ["b"], resources={})
    device.hears(notification("notifications/tools/list_changed"))
    device.says(initialize(1))
    assert device.hear()["result"]["capabilities"].keys() == {"prompts", "resources", "tools"}


@pytest.mark.row("U11")
def test_each_further_provider_is_greeted_when_it_comes_and_the_first_only_then() -> None:
    """The endpoint must know who has which tool (§3.2); nobody need ask for it."""
    play = Play()
    one = play.tool("one")
    one.hears_nothing()
    two = play.tool("two")
    one.is_greeted("one", ["a"])
    two.is_greeted("two", ["b"])
    three = play.tool("three")
    three.is_greeted("three", ["c"])
    one.hears_nothing()
    two.hears_nothing()
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    assert [found["name"] for found in device.hear()["result"]["tools"]] == ["a", "b", "c"]


@pytest.mark.row("D6")
def test_a_silent_provider_is_bare_after_a_while_and_ready_when_it_answers_late() -> None:
    play = Play()
    tool, other = play.tool("slow"), play.tool("other")
    other.is_greeted("other", ["b"])
    greeting = tool.hear()["id"]
    play.wait(5)
    assert states(play) == ["bare", "ready"]
    assert ("bare", {"label": "slow", "why": "it did not answer initialize in time"}) in play.told
    device = play.ready_device()
    tool.says(welcome(greeting))
    assert states(play) == ["ready", "ready"]
    tool.hears(INITIALIZED)
    tool.lists(["a"])
    device.hears(notification("notifications/tools/list_changed"))
    assert tool.party.failed == ""


def test_a_late_answer_that_is_no_result_changes_nothing() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(0))
    tool.hear()
    play.wait(8)
    assert device.hear()["result"]["serverInfo"]["name"] == "mcp-endpoint-server"
    tool.says(failure(1, -1))
    assert states(play) == ["bare"]
    device.hears_nothing()


def test_a_greeting_goes_on_when_its_greeter_has_left() -> None:
    play = Play()
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(0))
    second.says(initialize(5))
    tool.hear()
    first.leaves()
    tool.says(welcome(1))
    second.hears(welcome(5, version="2024-11-05"))
    first.hears_nothing()
    tool.hears(INITIALIZED)
    tool.lists(["a"])


def test_what_waits_for_a_greeting_has_room_and_an_end() -> None:
    play = Play(limits=Limits(queued_bytes_per_link=1200))
    tool, first, second = play.tool(), play.device(), play.device()
    first.says(initialize(0))
    tool.hear()
    fits = request(1, "m", text="x" * 600)
    second.says(fits, request(2, "m", text="x" * 600), notification("n", text="x" * 600), notification("n"))
    second.hears_error(2, errors.BUSY.number, delivered=False)
    assert (play.counters.busy, play.counters.dropped_notifications) == (1, 1)
    tool.says(welcome(1))
    tool.hears(INITIALIZED, {**fits, "id": 2}, notification("n"))


def test_what_was_cancelled_or_left_behind_waits_no_more() -> None:
    play = Play(limits=Limits(queued_bytes_per_link=1200))
    tool, first, second, third = play.tool(), play.device(), play.device(), play.device()
    first.says(initialize(0))
    tool.hear()
    second.says(initialize(1), request(2, "m", text="x" * 600))
    second.says(notification("notifications/cancelled", requestId=2))
    third.says(initialize(1), request(3, "m", text="x" * 600), notification("n"))
    third.leaves()
    second.says(request(4, "m", text="x" * 600))
    tool.says(welcome(1))
    assert second.hear()["id"] == 1
    tool.hears(INITIALIZED, request(2, "m", text="x" * 600))
    tool.hears_nothing()
    third.hears_nothing()


# -- learning tools ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("U15")
def test_all_pages_of_a_providers_tools_are_read() -> None:
    play = Play()
    one, _ = play.tool("one"), play.tool("two")
    one.says(welcome(one.hear()["id"]))
    one.hears(INITIALIZED)
    for page, cursor in enumerate(["", "c1", "c2"]):
        frame = one.hear()
        assert frame["params"] == ({"cursor": cursor} if cursor else {})
        one.says(answer(frame["id"], tools=[tool_named(f"t{page}")], **({"nextCursor": f"c{page + 1}"} if page < 2 else {})))
    one.hears_nothing()
    assert ("tools", {"label": "one", "tools": 3}) in play.told


def test_a_list_without_end_ends_at_the_limit_of_tools() -> None:
    play = Play(limits=Limits(tools_per_endpoint=2))
    one, _ = play.tool("one"), play.tool("two")
    one.says(welcome(one.hear()["id"]))
    one.hears(INITIALIZED)
    for _ in range(2):
        one.says(answer(one.hear()["id"], tools=[tool_named(f"t{_}"), *([tool_named("more")] if _ else [])], nextCursor="again"))
    one.hears_nothing()
    assert ("too many tools", {"label": "one", "left_out": 1}) in play.told


@pytest.mark.parametrize("frame", [failure(2, -32601), answer(2), answer(2, tools=5), {"jsonrpc": "2.0", "id": 2, "result": []}])
def test_a_server_without_tools_has_an_empty_list(frame: dict[str, Any]) -> None:
    play = Play()
    one, two = play.tool("one"), play.tool("two")
    one.says(welcome(one.hear()["id"]))
    one.hears(INITIALIZED)
    assert one.hear()["id"] == 2
    one.says(frame)
    two.is_greeted("two", ["b"])
    assert ("no list", {"label": "one"}) in play.told
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    device.hears(answer(1, tools=[tool_named("b")]))


@pytest.mark.row("D12")
def test_changes_while_a_list_is_on_its_way_are_asked_for_once_more() -> None:
    """One refresh in flight and one queued (§3.2)."""
    play = Play()
    one, _ = play.merged(one=["a"], two=["b"])
    changed = notification("notifications/tools/list_changed")
    one.says(changed, changed, changed)
    first = one.hear()
    one.hears_nothing()
    one.says(answer(first["id"], tools=[tool_named("a2")]))
    one.lists(["a3"])
    one.hears_nothing()
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    device.hears(answer(1, tools=[tool_named("a3"), tool_named("b")]))


@pytest.mark.row("D12")
def test_a_change_said_before_the_greeting_is_remembered() -> None:
    """mcphub says it right at open (contract 1.3)."""
    play = Play()
    tool, device = play.tool(), play.device()
    tool.says(notification("notifications/tools/list_changed"))
    device.says(initialize(0), INITIALIZED)
    tool.says(welcome(tool.hear()["id"]))
    device.hear()
    assert INITIALIZED in (frames := [tool.hear() for _ in range(len(tool.heard))])
    assert any(frame["method"] == "tools/list" for frame in frames)


@pytest.mark.row("U15")
def test_a_list_does_not_wait_for_ever_for_a_provider_that_does_not_tell() -> None:
    play = Play()
    one, two = play.tool("one"), play.tool("two")
    one.is_greeted("one", ["a"])
    two.says(welcome(two.hear()["id"]))
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    device.hears_nothing()
    play.wait(5)
    told = device.hear()["result"]
    assert [tool["name"] for tool in told["tools"]] == ["a"]
    assert told["_meta"] == {"mcp-endpoint-server/missing": ["two"]}


def test_a_whole_list_that_passes_by_is_learnt() -> None:
    """What a lone provider told its consumer keeps its meaning when a second one comes."""
    play, tool, device = shaken()
    device.says(request(5, "tools/list"))
    tool.says(answer(tool.hear()["id"], tools=[tool_named("add")]))
    device.hears(answer(5, tools=[tool_named("add")]))
    second = play.tool("second")
    second.is_greeted("second", ["add"])
    device.hears(notification("notifications/tools/list_changed"))
    device.says(request(6, "tools/list"))
    assert [found["name"] for found in device.hear()["result"]["tools"]] == ["add", "second__add"]
    tool.hears_nothing()


@pytest.mark.parametrize("result", [{"tools": [], "nextCursor": "more"}, {"tools": 5}])
def test_a_list_that_is_not_whole_is_carried_and_nothing_is_learnt(result: dict[str, Any]) -> None:
    play, tool, device = shaken()
    device.says(request(5, "tools/list"))
    tool.says(answer(tool.hear()["id"], **result))
    device.hears(answer(5, **result))
    play.tool("second")
    assert tool.hear()["method"] == "tools/list"


# -- servers that insist on a handshake --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "refused", "insists"),
    [
        (request(7, "tools/list"), failure(1, -1), True),
        (call(7, "x"), failure(1, -32602), True),
        (call(7, "x"), failure(1, -32000), False),
        (call(7, "x"), answer(1), False),
        (call(7, "x"), {"jsonrpc": "2.0", "id": 1, "error": "odd"}, False),
        (call(7, "x"), {"jsonrpc": "2.0", "id": 1, "error": {"code": "-32602"}}, False),
    ],
)
def test_a_server_that_refuses_without_a_handshake_gets_one_and_the_request_again(
    asked: dict[str, Any], refused: dict[str, Any], insists: bool
) -> None:
    """The first versions of manager-api listed without initialize; only the second answer is shown (§3.2)."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(asked)
    tool.hears({**asked, "id": 1})
    tool.says(refused)
    if not insists:
        device.hears({**refused, "id": 7})
        assert states(play) == ["new"]
        return
    device.hears_nothing()
    tool.says(welcome(tool.hear()["id"]))
    frames = [tool.hear() for _ in range(len(tool.heard))]
    assert frames[0] == INITIALIZED
    again = next(frame for frame in frames if frame["method"] == asked["method"] and frame.get("params") == asked.get("params"))
    tool.says(answer(again["id"], tools=[]))
    device.hears(answer(7, tools=[]))


def test_two_bare_peers_see_a_pure_relay() -> None:
    """The broker does not speak before there is a need (§3.2)."""
    play = Play()
    tool, device = play.tool(), play.device()
    for n in range(1, 4):
        device.says(request("x", "greet", n=n))
        tool.hears(request(n, "greet", n=n))
        tool.says(answer(n, n=n))
        device.hears(answer("x", n=n))
    play.wait(60)
    tool.hears_nothing()
    device.hears_nothing()
    assert states(play) == ["new"]
    newer = play.tool()
    newer.hears_nothing()
    device.says(request("y", "greet"))
    newer.hears(request(1, "greet"))
