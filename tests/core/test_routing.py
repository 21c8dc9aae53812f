"""Several providers are one server: lists, names, replicas and changes, as plays of one endpoint."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plays import INITIALIZED, Actor, Play, answer, call, failure, initialize, notification, request, tool_named, welcome

from mcp_endpoint.settings.schema import EndpointSettings, Limits

CHANGED = notification("notifications/tools/list_changed")


def listed(device: Actor, cursor: str | None = None) -> Any:
    """What the device is given for tools/list."""
    device.heard.clear()
    device.says(request("list", "tools/list", cursor=cursor) if cursor is not None else request("list", "tools/list"))
    frame = device.hear()
    assert frame["id"] == "list"
    return frame["result"]


def names(device: Actor) -> list[str]:
    """The names the device is given for tools/list."""
    return [tool["name"] for tool in listed(device)["tools"]]


def reaches(device: Actor, name: str, *actors: Actor) -> Actor:
    """Which tool a call of `name` reaches; it answers."""
    device.heard.clear()
    for actor in actors:
        actor.heard.clear()
    device.says(call("reach", name))
    [reached] = [actor for actor in actors if actor.heard]
    frame = reached.hear()
    reached.says(answer(frame["id"], called=frame["params"]["name"]))
    device.hears(answer("reach", called=frame["params"]["name"]))
    return reached


# -- one list, and calls where it says -----------------------------------------------------------------------------------------


@pytest.mark.row("U11", "D4")
def test_both_tools_are_listed_and_callable() -> None:
    """Two servers on one address: one list in the order in which they attached, each call where its tool is, neither displaced."""
    play = Play()
    calc, weather = play.merged(calc=["add", "sub"], weather=["rain"])
    device = play.ready_device()
    assert names(device) == ["add", "sub", "rain"]
    device.says(call(1, "rain", city="北京"), call(1, "add", a=1))
    weather.hears(call(3, "rain", city="北京"))
    calc.hears(call(3, "add", a=1))
    weather.says(answer(3, wet=True))
    calc.says(answer(3, sum=2))
    device.hears(answer(1, wet=True), answer(1, sum=2))
    assert calc.close_reason is None and weather.close_reason is None


def test_a_listed_definition_keeps_the_providers_bytes() -> None:
    """A tool is exported as its provider described it: numbers, escapes, order and unknown members survive; only a name changes."""
    play = Play()
    one, other = play.tool("one"), play.tool("other")
    definition = b'{"x":1.00,"description":"\\u4f60","inputSchema":{"name":"same"},"name": "same" ,"z":12345678901234567890123}'
    for actor in (one, other):
        actor.says(welcome(actor.hear()["id"]))
        actor.hears(INITIALIZED)
        actor.says(b'{"jsonrpc":"2.0","id":%d,"result":{"tools":[%b]}}' % (actor.hear()["id"], definition))
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    renamed = definition.replace(b'"name": "same"', b'"name": "other__same"')
    assert device.hears_bytes() == b'{"jsonrpc":"2.0","id":1,"result":{"tools":[' + definition + b"," + renamed + b"]}}"


def test_a_translated_name_is_spliced_into_the_call() -> None:
    """The tool hears its own name; every other byte of the call is as it came, also other members called name."""
    play = Play()
    _, other = play.merged(one=["same"], other=["same"])
    device = play.ready_device()
    device.says(
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"name":"other__same","n":1.00},"name" : "other__same" }}'
    )
    other.hears(b'{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"arguments":{"name":"other__same","n":1.00},"name" : "same" }}')
    device.says(
        b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"n\\u0061me":"other\\u005f_same","_meta":{"progressToken":"t"},"x":1.0}}'
    )
    other.hears(b'{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"n\\u0061me":"same","_meta":{"progressToken":4},"x":1.0}}')


def test_a_call_with_two_names_is_refused() -> None:
    """With `name` twice two readers could understand two tools: -32602, and nobody hears it."""
    play = Play()
    one, other = play.merged(one=["a"], other=["a"])
    device = play.ready_device()
    device.says(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"other__a"}}')
    device.hears_error(1, -32602, delivered=False)
    one.hears_nothing()
    other.hears_nothing()


def test_an_unknown_tool_is_named_in_the_error() -> None:
    """A device tells its user the message of an error, and nothing else of it."""
    play = Play()
    play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    device.says(call(1, "开灯" + "x" * 999))
    told = device.hear()["error"]
    assert told["code"] == -32602 and "Unknown tool: 开灯xxx" in told["message"] and len(told["message"]) < 500


@pytest.mark.parametrize("params", ['{"name":"unknown"}', "{}", '{"name":5}', '{"name":null}', "[]", '{"name":["a"]}', '"a"', "null"])
def test_a_call_the_catalog_cannot_place_is_refused_without_a_bare_provider(params: str) -> None:
    """Nobody has it: -32602, at once, and nobody hears it."""
    play = Play()
    one, other = play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    device.says(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%b}' % params.encode(), request(2, "tools/call"))
    device.hears_error(1, -32602, delivered=False)
    device.hears_error(2, -32602, delivered=False)
    one.hears_nothing()
    other.hears_nothing()


def test_ping_is_answered_here_among_several_and_carried_to_one() -> None:
    """JSON-RPC `ping` tests the tool while there is one; among several the endpoint answers."""
    play = Play()
    one, other = play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    device.says(request("p", "ping"))
    device.hears(answer("p"))
    one.hears_nothing()
    other.hears_nothing()
    other.leaves()
    device.says(request("q", "ping"))
    one.hears(request(3, "ping"))


def test_capabilities_are_the_union() -> None:
    """A consumer hears of everything that some provider can do."""
    play = Play()
    one, other = play.tool("one"), play.tool("other")
    one.is_greeted("one", ["a"], prompts={"listChanged": True})
    other.is_greeted("other", ["b"], prompts={"x": 1}, resources={"subscribe": True}, odd=5)
    device = play.device()
    device.says(initialize(1, version="2025-03-26"))
    frame = device.hear()
    assert frame["result"]["protocolVersion"] == "2025-03-26"
    assert frame["result"]["capabilities"] == {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True, "x": 1},
        "resources": {"subscribe": True},
    }
    other_device = play.device()
    other_device.says(initialize(1, version="2042-01-01"))
    assert other_device.hear()["result"]["protocolVersion"] == "2025-11-25"


def test_what_the_catalog_cannot_place_goes_to_the_newest_bare_provider() -> None:
    """A tool without a handshake keeps its place among the others: unknown calls, methods and notifications are its."""
    play = Play()
    first, second, ready = play.tool(), play.tool(), play.tool("ready")
    ready.is_greeted("ready", ["a"])
    play.wait(5.1)
    device = play.ready_device()
    first.heard.clear()
    second.heard.clear()
    device.says(call(1, "turn"), request(2, "odd/method"), notification("hurry"), call(3, "a"), request(4, "ping"))
    second.hears(call(2, "turn"), request(3, "odd/method"), notification("hurry"))
    ready.hears(call(3, "a"))
    device.hears(answer(4))
    first.hears_nothing()
    second.leaves()
    device.hears_error(1, -32003)
    device.hears_error(2, -32003)
    device.says(call(5, "turn"))
    first.hears(call(2, "turn"))


def test_consumers_notifications_among_several_ready_providers() -> None:
    """`roots/list_changed` concerns all of them; what concerns none of them is dropped and counted."""
    play = Play()
    one, other = play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    device.says(notification("notifications/roots/list_changed"), notification("odd"), INITIALIZED)
    for actor in (one, other):
        actor.hears(notification("notifications/roots/list_changed"))
        actor.hears_nothing()
    assert play.counters.dropped_notifications == 1


def test_notifications_of_one_of_several_providers() -> None:
    """Progress and log lines find the one consumer they belong to; what belongs to nobody in particular goes to all."""
    play = Play()
    one, other = play.merged(one=["a"], other=["b"])
    device, second = play.ready_device(), play.ready_device()
    device.says(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"b","_meta":{"progressToken":"t"}}}')
    token = other.hear()["params"]["_meta"]["progressToken"]
    one.says(notification("notifications/progress", progressToken=token, progress=1))
    device.hears_nothing()
    other.says(notification("notifications/progress", progressToken=token, progress=1), notification("notifications/message", data=1))
    device.hears(notification("notifications/progress", progressToken="t", progress=1), notification("notifications/message", data=1))
    second.hears_nothing()
    one.says(notification("notifications/resources/updated", uri="x"))
    for actor in (device, second):
        actor.hears(notification("notifications/resources/updated", uri="x"))


# -- while catalogs are learned -------------------------------------------------------------------------------------------------


def test_a_providers_tools_count_when_its_greeting_and_list_are_complete() -> None:
    """A list waits for who is still being greeted, for all pages, and comes at once when the last is complete."""
    play = Play()
    one, other = play.tool("one"), play.tool("other")
    device = play.device()
    device.says(initialize(0))
    one.is_greeted("one", ["a"])
    assert device.hear()["id"] == 0
    device.says(request(1, "tools/list"))
    device.hears_nothing()
    greeting = other.hear()
    other.says(welcome(greeting["id"]))
    other.hears(INITIALIZED)
    other.says(answer(other.hear()["id"], tools=[tool_named("b")], nextCursor="2"))
    device.hears_nothing()
    other.lists(["c"])
    device.hears(answer(1, tools=[tool_named("a"), tool_named("b"), tool_named("c")]))


@pytest.mark.row("U15")
def test_a_merged_list_waits_five_seconds_and_names_who_is_missing() -> None:
    """One dead provider does not hide the others: after 5 s what has answered goes out, the rest is named in `_meta`."""
    play = Play()
    one = play.tool("one")
    play.tool("dead")
    slow = play.tool("slow")
    one.is_greeted("one", ["a"])
    slow.says(welcome(slow.hear()["id"]))
    device = play.ready_device()
    play.wait(1)
    device.says(request(1, "tools/list"))
    play.wait(4.9)
    device.hears_nothing()
    play.wait(0.2)
    frame = device.hear()
    assert frame["result"]["tools"] == [tool_named("a")]
    assert list(frame["result"]["_meta"].values()) == [["slow"]]  # the dead one is bare after 5 s of silence: it has no catalog
    slow.heard.popleft()
    slow.lists(["s"])
    assert names(device) == ["a", "s"]
    assert "_meta" not in listed(device)


def test_a_list_a_provider_does_not_answer_is_waited_for_eight_seconds() -> None:
    """The endpoint's own tools/list has the deadline of lists; nothing is cancelled, and the provider is asked again when needed."""
    play = Play()
    one, mute = play.tool("one"), play.tool("mute")
    one.is_greeted("one", ["a"])
    mute.says(welcome(mute.hear()["id"]))
    mute.hears(INITIALIZED)
    assert mute.hear()["method"] == "tools/list"
    play.wait(8.1)
    mute.hears_nothing()
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    mute.lists(["m"])
    device.hears(answer(1, tools=[tool_named("a"), tool_named("m")]))


@pytest.mark.parametrize("said", [failure(2, -32601), answer(2, tools=5), answer(2), answer(2, tools=[{}, 5, {"name": 7}])])
def test_a_server_without_tools_has_an_empty_list(said: Any) -> None:
    """An error or nonsense for tools/list is a list without tools, and keeps nobody waiting."""
    play = Play()
    one, none = play.tool("one"), play.tool("none")
    one.is_greeted("one", ["a"])
    none.says(welcome(none.hear()["id"]), said)
    device = play.ready_device()
    device.says(request(1, "tools/list"))
    device.hears(answer(1, tools=[tool_named("a")]))


def test_a_call_that_comes_while_catalogs_are_learned_waits_for_them() -> None:
    """A name nobody knows yet may be the newcomer's; a name that is known goes its way at once."""
    play = Play()
    device = play.ready_device()
    one = play.tool("one")
    one.is_greeted("one", ["a"])
    other = play.tool("other")
    device.heard.clear()
    device.says(call(1, "b"), call(2, "a"), request(3, "prompts/get"))
    one.hears(call(3, "a"))
    device.hears_nothing()
    other.is_greeted("other", ["b"])
    other.hears(call(3, "b"))
    device.hears_error(3, -32601)
    play.wait(1)
    device.hears(CHANGED)
    device.hears_nothing()


# -- labels and names -----------------------------------------------------------------------------------------------------------


def test_a_label_is_the_server_id_else_the_servers_name_else_tool() -> None:
    """`?server_id=` wins over serverInfo.name; without both it is `tool`; other characters than A-Za-z0-9_- become _."""
    play = Play()
    actors = [play.tool(server_id) for server_id in ("", "my id/é", "", "")]
    for actor, name in zip(actors, ["first", "unused", "天气 mcp.v2", ""], strict=True):
        actor.is_greeted(name, ["same"])
    found = names(play.ready_device())
    assert found[0] == "same"
    assert [name.removesuffix("__same") for name in found[1:]] == ["my_id__", "___mcp_v2", "tool"]


@pytest.mark.row("U17")
def test_the_first_owner_keeps_the_bare_name() -> None:
    """The same name from another label becomes label__name; who attached first owns it, whoever finishes its greeting first."""
    play = Play()
    calc, weather = play.tool("calc"), play.tool("weather")
    weather.is_greeted("w", ["add", "rain"])
    calc.is_greeted("c", ["add"])
    device = play.ready_device()
    assert names(device) == ["add", "weather__add", "rain"]
    assert reaches(device, "add", calc, weather) is calc
    assert reaches(device, "weather__add", calc, weather) is weather


@pytest.mark.row("U17")
def test_bare_names_are_exported_unchanged_also_chinese_ones() -> None:
    """What does not clash is not touched: xiaozhi-server has rules of its own for names and maps them back.

    U17 wants every exported name in `[A-Za-z0-9_-]{1,64}`; the design keeps bare names as they are, Chinese ones too, and only
    the names it makes itself obey the pattern.
    """
    play = Play()
    calc, _ = play.merged(calc=["加法", "get.weather/v2", "A" * 100, "两 个"], other=["b"])
    device = play.ready_device()
    assert names(device) == ["加法", "get.weather/v2", "A" * 100, "两 个", "b"]
    assert reaches(device, "加法", calc) is calc


@pytest.mark.row("U17")
@given(
    label=st.text(st.sampled_from("abcXYZ019_-"), min_size=1, max_size=64),
    name=st.text(st.sampled_from("abcXYZ019_-"), min_size=1, max_size=64),
)
@example(label="l" * 64, name="n" * 64)
def test_joined_names_fit_and_lead_back(label: str, name: str) -> None:
    """A joined name has at most 64 characters of the allowed alphabet, is unique, and leads back to the right tool."""
    play = Play()
    first, second = play.tool("first-owner"), play.tool(label)
    first.is_greeted("x", [name])
    second.is_greeted("y", [name, name + "x"])
    device = play.ready_device()
    found = names(device)
    assert found[0] == name and len(set(found)) == 3
    joined = found[1]
    assert len(joined) <= 64
    assert set(joined) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    if len(label) + len(name) + 2 <= 64:
        assert joined == f"{label}__{name}"
    device.says(call(1, joined))
    assert second.hear()["params"]["name"] == name


def test_an_exported_name_means_the_same_until_the_endpoint_has_no_links() -> None:
    """The owner leaves and another server brings the name: it is never called by the old name, not even alone."""
    play = Play()
    calc, other = play.merged(calc=["add"], other=["mul"])
    device = play.ready_device()
    assert names(device) == ["add", "mul"]
    calc.leaves()
    thief = play.tool("thief")
    thief.is_greeted("thief", ["add"])
    play.wait(10.1)
    assert names(device) == ["mul", "thief__add"]
    device.says(call(1, "add"))
    device.hears_error(1, -32001, delivered=False)
    other.leaves()
    play.wait(10.1)
    assert names(device) == ["thief__add"]
    device.says(call(2, "add"))
    device.hears_error(2, -32001, delivered=False)
    assert reaches(device, "thief__add", thief) is thief
    back = play.tool("calc")
    back.is_greeted("calc", ["add"])
    assert sorted(names(device)) == ["add", "thief__add"]
    assert reaches(device, "add", back, thief) is back


def test_different_server_ids_are_never_one_server() -> None:
    """Also when they differ only in characters that a label cannot hold: both are listed, neither is a replica of the other."""
    play = Play()
    one, other = play.tool("a b"), play.tool("a/b")
    one.is_greeted("same", ["t"])
    other.is_greeted("same", ["t"])
    device = play.ready_device()
    found = names(device)
    assert len(found) == 2 and found[0] == "t"
    assert reaches(device, found[0], one, other) is one
    assert reaches(device, found[1], one, other) is other


def test_names_are_given_when_they_are_needed_and_in_the_order_of_attaching() -> None:
    """An older provider that is still being greeted does not lose its bare name to a quicker one."""
    play = Play()
    old, quick = play.tool("old"), play.tool("quick")
    quick.is_greeted("quick", ["t"])
    device = play.device()
    device.says(initialize(), call(1, "t"))
    device.hear()
    old.is_greeted("old", ["t"])
    old.hears(call(3, "t"))
    quick.hears_nothing()


# -- one provider and names of others -------------------------------------------------------------------------------------------


def test_a_lone_provider_is_translated_where_its_names_differ() -> None:
    """Wire mode, names translated: what was exported as label__name stays so when its provider is alone again."""
    play = Play()
    first, second = play.merged(first=["t"], second=["t"])
    device = play.ready_device()
    assert names(device) == ["t", "second__t"]
    first.leaves()
    play.wait(10.1)
    assert names(device) == ["second__t"]
    device.says(call(5, "second__t", x=1), request(6, "odd"), request(7, "ping"))
    second.hears(call(3, "t", x=1), request(4, "odd"), request(5, "ping"))


# -- replicas -------------------------------------------------------------------------------------------------------------------


@pytest.mark.row("U12", "D3")
def test_a_reconnecting_tool_is_served_by_its_new_socket_and_survives_the_old_ones_end() -> None:
    """Same label, same definitions: the newest answers; when the old socket's clean-up comes, the new one is untouched."""
    play = Play()
    device = play.ready_device()
    old = play.tool()
    old.is_greeted("calc", ["add"])
    assert reaches(device, "add", old) is old
    new = play.tool()
    new.is_greeted("calc", ["add"])
    assert names(device) == ["add"]
    assert reaches(device, "add", old, new) is new
    old.leaves()
    assert names(device) == ["add"]
    assert reaches(device, "add", new) is new
    play.wait(60)
    assert reaches(device, "add", new) is new


def test_the_older_replica_resumes_when_the_newest_leaves() -> None:
    """No grace is needed where another replica can answer at once."""
    play = Play()
    device = play.ready_device()
    first, second = play.tool("calc"), play.tool("calc")
    for actor in (first, second):
        actor.is_greeted("calc", ["add"])
    assert reaches(device, "add", first, second) is second
    device.says(call(1, "add"))
    second.leaves()
    device.hears_error(1, -32003, delivered=True)
    assert reaches(device, "add", first) is first


@pytest.mark.row("U14")
def test_a_replica_whose_last_call_timed_out_is_second_choice_until_it_answers() -> None:
    """A tool whose process died behind its open socket is not chosen again; any answer of it, also a late one, restores it."""
    play = Play()
    device = play.ready_device()
    first, zombie = play.tool("calc"), play.tool("calc")
    for actor in (first, zombie):
        actor.is_greeted("calc", ["add"])
    device.heard.clear()
    device.says(call(1, "add"))
    asked = zombie.hear()["id"]
    play.wait(25.1)
    device.hears_error(1, -32006, delivered=True)
    zombie.heard.clear()
    assert reaches(device, "add", first, zombie) is first
    assert zombie.close_reason is None
    zombie.says(answer(asked))
    device.hears_nothing()
    assert reaches(device, "add", first, zombie) is zombie


def test_two_doubtful_replicas_are_still_called() -> None:
    """Second choice is better than none: the newest of the doubtful is called."""
    play = Play(EndpointSettings(call_timeout=1.0))
    device = play.ready_device()
    first, second = play.tool("calc"), play.tool("calc")
    for actor in (first, second):
        actor.is_greeted("calc", ["add"])
    device.says(call(1, "add"))
    play.wait(1.1)
    device.says(call(1, "add"))
    play.wait(1.1)
    assert reaches(device, "add", first, second) is second


def test_another_definition_under_the_same_label_wins_the_name_while_it_is_there() -> None:
    """A newer version of a server: its definition is listed and its provider called; the older is kept as fall-back."""
    play = Play(EndpointSettings(call_timeout=1.0))
    device = play.ready_device()
    old, new = play.tool("calc"), play.tool("calc")
    old.is_greeted("calc", [tool_named("add", "old"), "only_old"])
    new.is_greeted("calc", [tool_named("add", "new")])
    assert [(tool["name"], tool["description"]) for tool in listed(device)["tools"]] == [("add", "new"), ("only_old", "does only_old")]
    assert reaches(device, "add", old, new) is new
    assert reaches(device, "only_old", old, new) is old
    device.says(call(1, "add"))
    play.wait(1.1)
    assert reaches(device, "add", old, new) is new  # in doubt, but nobody else has this definition
    new.leaves()
    assert reaches(device, "add", old) is old
    play.wait(10.1)
    device.says(request(2, "tools/list"))
    assert old.hear()["method"] == "tools/list"  # alone again: it tells itself


# -- pages ------------------------------------------------------------------------------------------------------------------------


def big_tools(prefix: str, count: int, size: int = 20_000) -> list[Any]:
    return [tool_named(f"{prefix}{n}", "字" * (size // 3)) for n in range(count)]


@pytest.mark.row("U15")
def test_a_merged_list_is_whole_as_long_as_its_consumer_can_take_it() -> None:
    """manager-api, the console, follows no cursor: it sees every tool in the one answer that it takes, to the last byte."""
    tools = {"one": big_tools("a", 20), "other": big_tools("b", 25)}
    sizes = []
    for limit in (1 << 20, 0, -1):
        play = Play(limits=Limits(device_answer_bytes=limit if limit > 0 else sizes[0] + limit))
        play.merged(**tools)
        device = play.ready_device("xz-mcp-broker")
        device.says(b'{"jsonrpc":"2.0","id":2,"method":"tools/list","params":null}')
        frame = device.hears_bytes()
        sizes.append(len(frame))
        result = json.loads(frame)["result"]
        assert ("nextCursor" in result) == (limit < 0)
        assert (len(result["tools"]) == 45) == (limit >= 0)
        if limit >= 0:
            device.says(request(2, "tools/list", cursor="0.1"))
            device.hears(frame)
    assert sizes[0] == sizes[1] > 800 * 1024


def test_a_merged_list_above_the_page_size_comes_in_pages() -> None:
    """If it is too much for one answer: pages of at most 256 KiB, by cursor with one id; every tool comes once, in order."""
    play = Play(limits=Limits(device_answer_bytes=300 * 1024))
    tools = {"one": big_tools("a", 20), "other": big_tools("b", 25)}
    play.merged(**tools)
    device = play.ready_device()
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        device.says(request(2, "tools/list", **({"cursor": cursor} if cursor else {})))
        frame = device.hears_bytes()
        assert len(frame) < 300 * 1024
        result = json.loads(frame)["result"]
        found += [tool["name"] for tool in result["tools"]]
        cursor = result.get("nextCursor")
        pages += 1
    assert found == [f"a{n}" for n in range(20)] + [f"b{n}" for n in range(25)]
    assert pages == 4


@pytest.mark.parametrize("cursor", ["", "x", "1", "0.0", "99.1", "-1.1", "1.99", "1.-1", "١.١", "c1"])
def test_a_cursor_that_is_not_ours_or_old_gets_the_list_from_its_start(cursor: str) -> None:
    """A device that follows pages across a change starts anew instead of failing."""
    play = Play(limits=Limits(list_page_bytes=300, device_answer_bytes=600))
    one, _ = play.merged(one=[f"a{n}" for n in range(10)], other=["b"])
    device = play.ready_device()
    first = listed(device)
    assert listed(device, cursor) == first
    issued = first["nextCursor"]
    assert listed(device, issued)["tools"][0]["name"] not in [tool["name"] for tool in first["tools"]]
    one.says(CHANGED)
    one.lists([f"c{n}" for n in range(10)])
    assert listed(device, issued)["tools"][0]["name"] == "c0"


@pytest.mark.parametrize("params", ['{"cursor":5}', '{"cursor":null}', "[]", "null", '{"cursor":{}}', '{"x":1}'])
def test_odd_parameters_of_a_merged_list_get_the_list_from_its_start(params: str) -> None:
    """Whatever a device writes there, the list is what it wants."""
    play = Play()
    play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    device.says(b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":%b}' % params.encode())
    device.hears(answer(1, tools=[tool_named("a"), tool_named("b")]))


def test_cursors_are_carried_in_wire_mode() -> None:
    """With one provider the pages are its own."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(request(2, "tools/list", cursor="opaque 你"))
    tool.hears(request(1, "tools/list", cursor="opaque 你"))
    tool.says(answer(1, tools=[], nextCursor="next"))
    device.hears(answer(2, tools=[], nextCursor="next"))


def test_an_endless_list_of_a_provider_ends() -> None:
    """A provider that always has a next page is asked until the limit of tools, and not longer than one list may take."""
    play = Play(limits=Limits(tools_per_endpoint=10))
    one, endless = play.tool("one"), play.tool("endless")
    endless.says(welcome(endless.hear()["id"]))
    endless.hears(INITIALIZED)
    for page in range(5):
        endless.says(answer(endless.hear()["id"], tools=[tool_named(f"e{page}{n}") for n in range(2)], nextCursor="again"))
    endless.hears_nothing()
    one.is_greeted("one", [])
    assert len(names(play.ready_device())) == 10
    hollow = play.tool("hollow")
    hollow.says(welcome(hollow.hear()["id"]))
    hollow.hears(INITIALIZED)
    while play.now < 1008:
        hollow.says(answer(hollow.hear()["id"], tools=[], nextCursor="again"))
        play.wait(1)
    assert hollow.hear()["method"] == "tools/list"
    cancel = hollow.hear()
    assert cancel["method"] == "notifications/cancelled" and cancel["params"]["reason"] == "timed out"
    hollow.hears_nothing()


# -- list_changed ------------------------------------------------------------------------------------------------------------------


@pytest.mark.row("D12")
def test_a_change_is_announced_after_the_list_was_refreshed() -> None:
    """The provider says list_changed: the endpoint asks it anew, and consumers hear of it if the list is another now."""
    play = Play()
    one, _ = play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    one.says(CHANGED)
    device.hears_nothing()
    one.lists(["a", "new"])
    device.hears(CHANGED)
    assert names(device) == ["a", "new", "b"]


def test_a_change_that_changed_nothing_is_not_announced() -> None:
    """Only if the list's bytes changed."""
    play = Play()
    one, _ = play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    one.says(CHANGED)
    one.lists(["a"])
    play.wait(5)
    device.hears_nothing()


def test_one_refresh_is_in_flight_and_one_queued() -> None:
    """A provider that announces a hundred times is asked twice."""
    play = Play()
    one, _ = play.merged(one=["a"], other=["b"])
    one.says(*[CHANGED] * 100)
    one.lists(["a"])
    one.lists(["a"])
    one.hears_nothing()


def test_consumers_hear_of_changes_at_most_once_a_second() -> None:
    """Quick changes are told together, after a second; the last state is always told."""
    play = Play()
    one, _ = play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    for n in range(20):
        one.says(CHANGED)
        one.lists(["a", f"n{n}"])
        play.wait(0.1)
    heard = len(device.heard)
    assert 1 <= heard <= 3
    play.wait(1.1)
    assert heard <= len(device.heard) <= 4
    play.wait(60)
    assert len(device.heard) <= 4
    assert all(json.loads(frame) == CHANGED for frame in device.heard)
    assert names(device) == ["a", "n19", "b"]
    play.wait(60)
    device.hears_nothing()


def test_only_consumers_that_initialised_hear_of_changes() -> None:
    """A consumer that has not introduced itself is not spoken to."""
    play = Play()
    one, _ = play.merged(one=["a"], other=["b"])
    device, silent = play.ready_device(), play.device()
    one.says(CHANGED)
    one.lists(["x"])
    device.hears(CHANGED)
    silent.hears_nothing()


def test_arrival_and_leaving_announce_themselves() -> None:
    """A provider that came or went changes the list: told when it is ready, and when its grace is over."""
    play = Play()
    play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    third = play.tool("third")
    device.hears_nothing()
    third.is_greeted("third", ["c"])
    device.hears(CHANGED)
    assert names(device) == ["a", "b", "c"]
    third.leaves()
    play.wait(9.9)
    device.hears_nothing()
    play.wait(0.2)
    device.hears(CHANGED)
    assert names(device) == ["a", "b"]


def test_a_provider_that_comes_back_within_grace_changes_nothing() -> None:
    """The same tools again: consumers hear nothing of it."""
    play = Play()
    _, other = play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    assert names(device) == ["a", "b"]
    other.leaves()
    play.wait(5)
    other = play.tool("other")
    other.is_greeted("other", ["b"])
    play.wait(30)
    device.hears_nothing()
    assert names(device) == ["a", "b"]


def test_in_wire_mode_a_ready_providers_change_is_refreshed_too() -> None:
    """The endpoint announces for a provider it greeted; one that a consumer greeted is asked for its list first."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1), INITIALIZED, request(2, "tools/list"))
    tool.says(welcome(1), answer(2, tools=[tool_named("a")]))
    device.hears(welcome(1), answer(2, tools=[tool_named("a")]))
    tool.heard.clear()
    tool.says(CHANGED)
    tool.lists(["a"])
    play.wait(3)
    device.hears_nothing()
    tool.says(CHANGED)
    tool.lists(["a", "b"])
    device.hears(CHANGED)


def test_a_bare_provider_among_several_does_not_announce() -> None:
    """What it has is not in the list."""
    play = Play()
    device = play.ready_device()
    bare = play.tool()
    ready = play.tool("ready")
    ready.is_greeted("ready", ["a"])
    play.wait(5.1)
    device.heard.clear()
    bare.heard.clear()
    bare.says(CHANGED)
    play.wait(3)
    device.hears_nothing()
    bare.hears_nothing()
