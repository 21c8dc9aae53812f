"""Prompts, resources, completion, log levels and subscriptions of several providers, as plays of one endpoint."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plays import Actor, Play, answer, failure, notification, request

from mcp_endpoint.core.features import fits
from mcp_endpoint.settings.schema import Limits


def prompt(name: str) -> dict[str, Any]:
    return {"name": name, "description": f"about {name}"}


def resource(uri: str) -> dict[str, Any]:
    return {"uri": uri, "name": uri.rpartition("/")[2]}


def template(uri: str) -> dict[str, Any]:
    return {"uriTemplate": uri, "name": "t"}


MEMBERS = {
    "prompts/list": ("prompts", prompt),
    "resources/list": ("resources", resource),
    "resources/templates/list": ("resourceTemplates", template),
}


def greeted_tools(play: Play, **capabilities: dict[str, Any]) -> list[Actor]:
    """Several greeted tools by server_id, each with its capabilities beside tools."""
    actors = [play.tool(server_id) for server_id in capabilities]
    for actor, (name, declared) in zip(actors, capabilities.items(), strict=True):
        actor.is_greeted(name, [f"tool_of_{name}"], **declared)
    return actors


def tells(actor: Actor, method: str, *names: str, cursor: str | None = None) -> None:
    """The tool is asked for what it offers, and answers with these."""
    asked = actor.hear()
    assert asked["method"] == method, asked
    member, made = MEMBERS[method]
    page = {member: [made(name) for name in names]}
    actor.says(answer(asked["id"], **page, **({"nextCursor": cursor} if cursor else {})))


def knows_resources(actor: Actor, *uris: str, templates: tuple[str, ...] = ()) -> None:
    tells(actor, "resources/list", *uris)
    tells(actor, "resources/templates/list", *templates)


def answered(actor: Actor, device: Actor, id: Any, method: str, **params: Any) -> None:
    """The request reaches this tool with these parameters, and its answer the device."""
    frame = actor.hear()
    assert (frame["method"], frame["params"]) == (method, params)
    actor.says(answer(frame["id"], done=True))
    device.hears(answer(id, done=True))


# -- lists ---------------------------------------------------------------------------------------------------------------------


def test_prompts_of_all_providers_stand_in_one_list() -> None:
    """Whoever declared prompts is asked, once; whoever did not is left alone."""
    play = Play()
    one, two, three = greeted_tools(play, one={"prompts": {}}, two={}, three={"prompts": {}})
    device = play.ready_device()
    device.says(request(1, "prompts/list"), request(2, "prompts/list"))
    device.hears_nothing()
    tells(one, "prompts/list", "greet", "bye")
    tells(three, "prompts/list", "hello")
    both = [prompt("greet"), prompt("bye"), prompt("hello")]
    device.hears(answer(1, prompts=both), answer(2, prompts=both))
    device.says(request(3, "prompts/list"))
    device.hears(answer(3, prompts=both))
    for actor in (one, two, three):
        actor.hears_nothing()


def test_resources_and_templates_are_listed_alike() -> None:
    play = Play()
    one, two = greeted_tools(play, one={"resources": {}}, two={"resources": {}})
    device = play.ready_device()
    device.says(request(1, "resources/list"))
    tells(one, "resources/list", "a:1")
    tells(two, "resources/list", "b:1", cursor="more")
    asked = two.hear()
    assert asked["params"] == {"cursor": "more"}
    two.says(answer(asked["id"], resources=[resource("b:2")]))
    device.hears(answer(1, resources=[resource("a:1"), resource("b:1"), resource("b:2")]))
    device.says(request(2, "resources/templates/list"))
    tells(one, "resources/templates/list", "a:{x}")
    two.says(failure(two.hear()["id"], -32601))
    device.hears(answer(2, resourceTemplates=[template("a:{x}")]))


def test_what_nobody_declared_nobody_has() -> None:
    play = Play()
    greeted_tools(play, one={}, two={})
    device = play.ready_device()
    for number, method in enumerate(MEMBERS):
        device.says(request(number, method))
        device.hears_error(number, -32601, delivered=False)
    device.says(request(9, "prompts/get", name="greet"), request(10, "logging/setLevel", level="info"), request(11, "unheard/of"))
    for id in (9, 10, 11):
        device.hears_error(id, -32601, delivered=False)


def test_a_provider_that_does_not_tell_holds_a_list_up_for_five_seconds() -> None:
    play = Play()
    one, two = greeted_tools(play, one={"prompts": {}}, two={"prompts": {}})
    device = play.ready_device()
    device.says(request(1, "prompts/list"))
    tells(one, "prompts/list", "greet")
    two.hear()
    play.wait(4.9)
    device.hears_nothing()
    play.wait(0.2)
    device.hears(answer(1, prompts=[prompt("greet")], _meta={"mcp-endpoint-server/missing": ["two"]}))
    play.wait(4)
    assert two.hear()["method"] == "notifications/cancelled"
    device.says(request(2, "prompts/list"))
    device.hears(answer(2, prompts=[prompt("greet")]))


def test_what_changed_is_asked_for_again() -> None:
    """Also when it changes while it is being told."""
    play = Play()
    changed = notification("notifications/prompts/list_changed")
    one, _ = greeted_tools(play, one={"prompts": {}}, two={})
    device = play.ready_device()
    device.says(request(1, "prompts/list"))
    one.says(changed)
    device.hears(changed)
    tells(one, "prompts/list", "old")
    tells(one, "prompts/list", "newer")
    device.hears(answer(1, prompts=[prompt("newer")]))
    one.says(changed)
    device.hears(changed)
    device.says(request(2, "prompts/list"))
    tells(one, "prompts/list", "newest")
    device.hears(answer(2, prompts=[prompt("newest")]))
    one.says(notification("notifications/resources/list_changed"))
    device.hears(notification("notifications/resources/list_changed"))


def test_what_a_provider_offered_leaves_with_it() -> None:
    play = Play()
    one, two, _ = greeted_tools(play, one={"prompts": {}}, two={"prompts": {}}, three={})
    device = play.ready_device()
    device.says(request(1, "prompts/list"))
    tells(one, "prompts/list", "greet")
    two.leaves()
    device.hears(answer(1, prompts=[prompt("greet")]))
    one.leaves()
    device.says(request(2, "prompts/get", name="greet"))
    device.heard.clear()


# -- names and URIs ------------------------------------------------------------------------------------------------------------


def test_a_prompt_goes_to_whoever_brought_it_under_the_name_it_knows() -> None:
    play = Play()
    one, two = greeted_tools(play, one={"prompts": {}}, two={"prompts": {}})
    device = play.ready_device()
    device.says(request(1, "prompts/get", name="two__greet", arguments={"a": "b"}))
    tells(one, "prompts/list", "greet")
    tells(two, "prompts/list", "greet", "bye")
    answered(two, device, 1, "prompts/get", name="greet", arguments={"a": "b"})
    device.says(request(2, "prompts/get", name="greet"))
    answered(one, device, 2, "prompts/get", name="greet")
    device.says(request(3, "prompts/get", name="bye"))
    answered(two, device, 3, "prompts/get", name="bye")
    device.says(request(4, "prompts/get", name="unheard of"), request(5, "prompts/get", name=7), request(6, "prompts/get"))
    for id in (4, 5, 6):
        device.hears_error(id, -32602, delivered=False)


def test_a_uri_two_providers_have_is_told_apart_by_its_scheme() -> None:
    play = Play()
    one, two = greeted_tools(play, one={"resources": {}}, my_two={"resources": {}})
    device = play.ready_device()
    device.says(request(1, "resources/list"))
    tells(one, "resources/list", "file:///a")
    tells(two, "resources/list", "file:///a")
    found = device.hear()["result"]["resources"]
    assert [item["uri"] for item in found] == ["file:///a", "my-two+file:///a"]
    device.says(request(2, "resources/read", uri="my-two+file:///a"))
    tells(one, "resources/templates/list")
    tells(two, "resources/templates/list")
    answered(two, device, 2, "resources/read", uri="file:///a")
    device.says(request(3, "resources/read", uri="file:///a"))
    answered(one, device, 3, "resources/read", uri="file:///a")


def test_an_unlisted_uri_belongs_to_the_template_it_fits() -> None:
    play = Play()
    one, two = greeted_tools(play, one={"resources": {}}, two={"resources": {}})
    device = play.ready_device()
    device.says(request(1, "resources/read", uri="note://7/text"))
    knows_resources(one, templates=("note://{id}/text",))
    knows_resources(two, templates=("note://{id}/text", "other://{x}"))
    answered(one, device, 1, "resources/read", uri="note://7/text")
    device.says(request(2, "resources/read", uri="two+note://7/text"))
    answered(two, device, 2, "resources/read", uri="note://7/text")
    device.says(request(3, "resources/read", uri="nobody:knows"))
    answered(two, device, 3, "resources/read", uri="nobody:knows")
    one.hears_nothing()


def test_a_uri_of_a_provider_that_left_is_nobodys() -> None:
    play = Play()
    one, two, three = greeted_tools(play, one={"resources": {}}, two={}, three={})
    device = play.ready_device()
    device.says(request(1, "resources/read", uri="a:1"))
    knows_resources(one, "a:1")
    answered(one, device, 1, "resources/read", uri="a:1")
    one.leaves()
    device.heard.clear()
    device.says(request(2, "resources/read", uri="a:1"))
    device.hears_error(2, -32601, delivered=False)
    two.hears_nothing()
    three.hears_nothing()


@pytest.mark.parametrize(
    ("ref", "own"),
    [
        ({"type": "ref/prompt", "name": "two__greet"}, {"type": "ref/prompt", "name": "greet"}),
        ({"type": "ref/resource", "uri": "two+a:{x}"}, {"type": "ref/resource", "uri": "a:{x}"}),
        ({"type": "ref/resource", "uri": "who:{knows}"}, {"type": "ref/resource", "uri": "who:{knows}"}),
    ],
)
def test_a_completion_goes_to_whoever_brought_what_it_completes(ref: dict[str, str], own: dict[str, str]) -> None:
    play = Play()
    able: dict[str, Any] = {"prompts": {}, "resources": {}, "completions": {}}
    one, two = greeted_tools(play, one=able, two=able)
    device = play.ready_device()
    argument = {"name": "x", "value": "y"}
    device.says(request(1, "completion/complete", ref=ref, argument=argument))
    for actor in (one, two):
        if "name" in ref:
            tells(actor, "prompts/list", "greet")
        else:
            knows_resources(actor, templates=("a:{x}",))
    answered(two, device, 1, "completion/complete", ref=own, argument=argument)


def test_a_completion_of_nothing_is_refused() -> None:
    play = Play()
    greeted_tools(play, one={"completions": {}}, two={})
    device = play.ready_device()
    device.says(request(1, "completion/complete", ref={"type": "ref/prompt", "name": "x"}), request(2, "completion/complete"))
    device.hears_error(1, -32602)
    device.hears_error(2, -32602)


def test_a_bare_tool_is_asked_for_what_nobody_else_has() -> None:
    play = Play()
    one, bare = play.tool("one"), play.tool("bare")
    one.is_greeted("one", ["a"])
    bare.says(failure(bare.hear()["id"], -32601))
    bare.says(failure(bare.hear()["id"], -32601))  # it knows the other era's greeting no better
    device = play.ready_device()
    device.says(request(1, "prompts/list"), request(2, "logging/setLevel", level="loud"))
    bare.hears(request(3, "prompts/list"), request(4, "logging/setLevel", level="loud"))


# -- subscriptions -------------------------------------------------------------------------------------------------------------


def updated(uri: str) -> dict[str, Any]:
    return notification("notifications/resources/updated", uri=uri)


def test_whoever_subscribed_hears_of_it_under_the_uri_it_knows_and_nobody_else() -> None:
    play = Play()
    one, two = greeted_tools(play, one={"resources": {"subscribe": True}}, two={"resources": {"subscribe": True}})
    first, second, third = play.ready_device(), play.ready_device(), play.ready_device()
    first.says(request(1, "resources/subscribe", uri="two+a:1"))
    knows_resources(one, "a:1")
    knows_resources(two, "a:1")
    answered(two, first, 1, "resources/subscribe", uri="a:1")
    second.says(request(1, "resources/subscribe", uri="two+a:1"))
    answered(two, second, 1, "resources/subscribe", uri="a:1")
    two.says(updated("a:1"))
    first.hears(updated("two+a:1"))
    second.hears(updated("two+a:1"))
    third.hears_nothing()
    second.says(request(2, "resources/unsubscribe", uri="two+a:1"))
    second.hears(answer(2))
    two.hears_nothing()
    two.says(updated("a:1"))
    second.hears_nothing()
    first.hears(updated("two+a:1"))
    first.says(request(2, "resources/unsubscribe", uri="two+a:1"))
    answered(two, first, 2, "resources/unsubscribe", uri="a:1")


def test_the_last_subscriber_that_leaves_unsubscribes() -> None:
    play = Play()
    tool = play.tool()
    first, second = play.device(), play.device()
    for device in (first, second):
        device.says(request(0, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "x", "version": "1"}))
    greeting = tool.hear()
    tool.says(
        answer(greeting["id"], protocolVersion="2025-06-18", capabilities={"resources": {}}, serverInfo={"name": "one", "version": "1"})
    )
    for device in (first, second):
        device.hear()
        device.says(request(1, "resources/subscribe", uri="a:1"))
    tool.heard.clear()
    first.leaves()
    tool.hears(notification("notifications/cancelled", requestId=2, reason="the consumer left"))
    tool.says(updated("a:1"))
    second.hears(updated("a:1"))
    second.leaves()
    tool.hear()
    frame = tool.hear()
    assert (frame["method"], frame["params"]) == ("resources/unsubscribe", {"uri": "a:1"})
    tool.says(answer(frame["id"]))
    assert not play.endpoint.providers[0].pending.calls


def test_an_update_nobody_is_known_to_want_is_told_to_all_as_on_a_wire() -> None:
    play = Play()
    one, two = greeted_tools(play, one={"resources": {}}, two={"resources": {}})
    device = play.ready_device()
    device.says(request(1, "resources/subscribe", uri="a:1"))
    knows_resources(one, "a:1")
    knows_resources(two)
    answered(one, device, 1, "resources/subscribe", uri="a:1")
    for frame in (updated("b:1"), notification("notifications/resources/updated"), {**updated("x"), "params": {"uri": 7}}):
        two.says(frame)
        device.hears(frame)
    one.leaves()
    device.heard.clear()
    assert play.endpoint.features.used and not play.endpoint.features.subscribers


def test_subscriptions_of_one_consumer_are_bounded() -> None:
    play = Play(limits=Limits(tools_per_endpoint=2))
    one, _ = greeted_tools(play, one={"resources": {}}, two={})
    device = play.ready_device()
    device.says(request(0, "resources/subscribe", uri="a:0"))
    knows_resources(one)
    answered(one, device, 0, "resources/subscribe", uri="a:0")
    for number, uri in ((1, "a:1"), (2, "a:0")):
        device.says(request(number, "resources/subscribe", uri=uri))
        answered(one, device, number, "resources/subscribe", uri=uri)
    device.says(request(3, "resources/subscribe", uri="a:2"))
    device.hears_error(3, -32005, delivered=False)


def test_a_subscription_to_nothing_is_carried_for_its_error() -> None:
    play = Play()
    tool = play.tool()
    device = play.device()
    device.says(request(0, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "x", "version": "1"}))
    tool.says(
        answer(tool.hear()["id"], protocolVersion="2025-06-18", capabilities={"resources": {}}, serverInfo={"name": "1", "version": "1"})
    )
    device.hear()
    device.says(request(1, "resources/subscribe"))
    tool.hear()
    assert tool.hear()["method"] == "resources/subscribe"


# -- levels --------------------------------------------------------------------------------------------------------------------


def message(level: Any, text: str = "x") -> dict[str, Any]:
    return notification("notifications/message", level=level, data=text)


def test_providers_are_told_the_lowest_level_and_consumers_hear_what_they_asked_for() -> None:
    play = Play()
    one, two = greeted_tools(play, one={"logging": {}}, two={})
    quiet, loud, silent = play.ready_device(), play.ready_device(), play.ready_device()
    quiet.says(request(1, "logging/setLevel", level="error"))
    quiet.hears(answer(1))
    frame = one.hear()
    assert (frame["method"], frame["params"]) == ("logging/setLevel", {"level": "error"})
    one.says(answer(frame["id"]))
    loud.says(request(1, "logging/setLevel", level="info"))
    loud.hears(answer(1))
    assert one.hear()["params"] == {"level": "info"}
    two.hears_nothing()
    one.says(message("warning"))
    quiet.hears_nothing()
    loud.hears(message("warning"))
    silent.hears(message("warning"))
    for level in ("emergency", "of my own", 7):
        one.says(message(level))
        for device in (quiet, loud, silent):
            device.hears(message(level))
    one.says(notification("notifications/message"))
    quiet.hears(notification("notifications/message"))


def test_a_provider_that_comes_later_hears_the_level_too() -> None:
    play = Play()
    greeted_tools(play, one={"logging": {}}, two={})
    device = play.ready_device()
    device.says(request(1, "logging/setLevel", level="error"))
    device.hears(answer(1))
    late = play.tool("late")
    greeting = late.hear()
    late.says(
        answer(greeting["id"], protocolVersion="2025-06-18", capabilities={"logging": {}}, serverInfo={"name": "late", "version": "1"})
    )
    said = [frame["method"] for frame in map(json.loads, late.heard)]
    assert "logging/setLevel" in said
    plain = play.tool("plain")
    plain.is_greeted("plain", ["x"])
    plain.hears_nothing()


def test_where_nobody_asked_for_a_level_nobody_is_told_one() -> None:
    play = Play()
    greeted_tools(play, one={}, two={})
    device = play.ready_device()
    device.says(request(1, "prompts/list"))
    late = play.tool("late")
    late.is_greeted("late", ["x"], logging={})
    late.hears_nothing()


def test_a_level_that_is_none_is_carried_for_its_error() -> None:
    play = Play()
    one, _ = greeted_tools(play, one={"logging": {}}, two={})
    device = play.ready_device()
    device.says(request(1, "logging/setLevel", level="loud"))
    frame = one.hear()
    assert frame["params"] == {"level": "loud"}
    one.says(failure(frame["id"], -32602))
    device.hears(failure(1, -32602))


def test_one_consumer_and_one_provider_settle_their_level_between_them() -> None:
    play = Play()
    tool = play.tool()
    device = play.device()
    device.says(request(0, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "x", "version": "1"}))
    tool.says(
        answer(tool.hear()["id"], protocolVersion="2025-06-18", capabilities={"logging": {}}, serverInfo={"name": "1", "version": "1"})
    )
    device.hear()
    device.says(request(1, "logging/setLevel", level="error"))
    tool.hear()
    frame = tool.hear()
    assert frame["method"] == "logging/setLevel"
    tool.says(answer(frame["id"], own=True))
    device.hears(answer(1, own=True))


def test_a_request_of_our_own_that_is_never_answered_is_given_up() -> None:
    play = Play()
    one, _ = greeted_tools(play, one={"logging": {}}, two={})
    device = play.ready_device()
    device.says(request(1, "logging/setLevel", level="error"))
    one.hear()
    play.wait(9)
    assert not play.endpoint.providers[0].pending.calls
    assert play.counters.timed_out == 0


def test_a_provider_that_reads_nothing_is_told_nothing() -> None:
    play = Play()
    one, _ = greeted_tools(play, one={"logging": {}}, two={})
    one.queued = 100 * 1024 * 1024
    device = play.ready_device()
    device.says(request(1, "logging/setLevel", level="error"))
    device.hears(answer(1))
    one.hears_nothing()


def test_several_consumers_of_one_provider_share_its_level() -> None:
    play = Play()
    tool = play.tool()
    first, second = play.device(in_process=True), play.device(in_process=True)
    for device in (first, second):
        device.says(request(0, "initialize"))
    tool.is_greeted("one", ["a"], logging={})
    for device in (first, second):
        device.heard.clear()
    first.says(request(1, "logging/setLevel", level="error"))
    first.hears(answer(1))
    assert tool.hear()["params"] == {"level": "error"}
    second.says(request(1, "logging/setLevel", level="loud"))
    assert tool.hear()["params"] == {"level": "loud"}
    tool.says(message("info"))
    second.hears(message("info"))
    first.hears_nothing()


# -- one label -----------------------------------------------------------------------------------------------------------------


def test_somebody_who_sees_one_label_subscribes_there_under_its_own_uris() -> None:
    play = Play()
    _, two = greeted_tools(play, one={"resources": {}}, two={"resources": {}})
    asker = play.device(in_process=True, only="two")
    asker.says(request(1, "resources/subscribe", uri="a:1"))
    answered(two, asker, 1, "resources/subscribe", uri="a:1")
    other = play.ready_device()
    two.says(updated("a:1"))
    asker.hears(updated("a:1"))
    other.hears_nothing()


# -- templates -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "uri", "fitting"),
    [
        ("a:1", "a:1", True),
        ("a:1", "a:12", False),
        ("a:{x}", "a:", True),
        ("a:{x}/{y}", "a:1/2", True),
        ("a:{x}/{y}", "a:12", False),
        ("a:{x}b", "a:b", True),
        ("a:{x}:a", "a:a", False),
        ("{+path}/end", "x/y/end", True),
        ("a{x}b{y}c", "abc", True),
        ("a{x}bb{y}c", "abc", False),
    ],
)
def test_a_template_fits_what_it_may_expand_to(template: str, uri: str, fitting: bool) -> None:
    assert fits(template, uri) is fitting


@given(st.lists(st.text("ab/:", max_size=4), min_size=1, max_size=6), st.text("ab/:{}", max_size=4))
def test_every_expansion_fits_its_template(literals: list[str], value: str) -> None:
    assert fits("{x}".join(literals), value.join(literals))


def test_a_hostile_template_costs_no_more_than_it_is_long() -> None:
    assert not fits("{x}a" * 5_000 + "b", "a" * 100_000)
