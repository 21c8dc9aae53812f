"""In-process consumers and managed providers, as plays of one endpoint: HTTP clients, the API, bridges to managed servers."""

from __future__ import annotations

import pytest
from plays import INITIALIZED, Actor, Play, answer, call, failure, initialize, notification, request, tool_named, welcome

from mcp_endpoint.core.broker import Broker
from mcp_endpoint.core.endpoint import Endpoint
from mcp_endpoint.settings.schema import EndpointSettings, Limits

CHANGED = notification("notifications/tools/list_changed")


def guest(play: Play, **options: object) -> Actor:
    """An in-process consumer after its handshake."""
    actor = play.device(in_process=True, **options)
    actor.says(initialize(elicitation={}))
    return actor


# -- the handshake of an in-process consumer ------------------------------------------------------------------------------------


def test_the_endpoint_itself_greets_the_tool_for_whoever_is_in_the_house() -> None:
    """The tool hears what the endpoint can pass on (sampling, elicitation, roots), not what this one consumer can."""
    play = Play()
    tool = play.tool()
    asker = guest(play)
    greeting = tool.hear()
    assert greeting["params"]["clientInfo"]["name"] == "mcp-endpoint-server"
    assert greeting["params"]["capabilities"] == {"sampling": {}, "elicitation": {}, "roots": {}}
    asker.hears_nothing()
    tool.says(welcome(greeting["id"], "calc"))
    tool.hears(INITIALIZED)
    assert asker.hear()["result"]["serverInfo"]["name"] == "calc"


def test_a_call_of_an_in_process_consumer_is_carried_like_any_other() -> None:
    play = Play()
    tool = play.tool()
    asker = guest(play)
    tool.is_greeted("calc", ["add"])
    asker.heard.clear()
    asker.says(call("a", "add"))
    number = tool.hear()["id"]
    tool.says(answer(number, sum=3))
    asker.hears(answer("a", sum=3))


def test_an_in_process_consumer_may_think_longer_than_a_call_may_take() -> None:
    play = Play(EndpointSettings(call_timeout=25.0), Limits(http_ask_seconds=120.0))
    tool = play.tool()
    asker = guest(play, ask_seconds=120.0)
    tool.is_greeted("calc", ["add"])
    asker.heard.clear()
    asker.says(call("a", "add"))
    number = tool.hear()["id"]
    tool.says(request("sure?", "elicitation/create", message="sure?"))
    question = asker.hear()
    play.wait(100.0)
    asker.hears_nothing()
    asker.says(answer(question["id"], action="accept"))
    tool.hears(answer("sure?", action="accept"))
    tool.says(answer(number, sum=3))
    asker.hears(answer("a", sum=3))


def test_a_request_no_in_process_consumer_answers_ends_as_it_does_for_a_device() -> None:
    play = Play()
    tool = play.tool()
    asker = guest(play, ask_seconds=120.0)
    tool.is_greeted("calc", ["add"])
    asker.heard.clear()
    asker.says(call("a", "add"))
    tool.hear()
    tool.says(request("sure?", "elicitation/create", message="sure?"))
    asker.hear()
    play.wait(121.0)
    assert tool.hear()["error"]["code"] == -32006
    assert asker.hear()["method"] == "notifications/cancelled"
    play.wait(25.0)
    asker.hears_error("a", -32006)


# -- one label only --------------------------------------------------------------------------------------------------------


def test_somebody_who_sees_one_label_has_its_tools_under_their_own_names() -> None:
    play = Play()
    calc, other = play.merged(calc=["add", "sub"], other=["add"])
    asker = guest(play, only="other")
    asker.heard.clear()
    asker.says(request(1, "tools/list"))
    assert asker.hear()["result"] == {"tools": [tool_named("add")]}
    asker.says(call(2, "add"))
    number = other.hear()["id"]
    other.says(answer(number, sum=3))
    asker.hears(answer(2, sum=3))
    calc.hears_nothing()


def test_somebody_who_sees_one_label_is_welcomed_in_its_name() -> None:
    play = Play()
    play.merged(calc=["add"], other=["add"])
    asker = play.device(in_process=True, only="other")
    asker.says(initialize())
    assert asker.hear()["result"]["serverInfo"]["name"] == "other"


def test_a_label_is_waited_for_while_its_tools_are_being_learnt() -> None:
    play = Play()
    tool = play.tool("calc")
    asker = play.device(in_process=True, only="calc")
    asker.says(request(1, "tools/list"))
    tool.is_greeted("whatever", ["add"])
    assert asker.hear()["result"]["tools"] == [tool_named("add")]


def test_a_label_that_is_not_here_has_no_tools_and_its_calls_say_so() -> None:
    play = Play()
    tool = play.tool("calc")
    asker = guest(play, only="other")
    tool.is_greeted("calc", ["add"])
    asker.heard.clear()
    asker.says(request(1, "tools/list"), call(2, "add"), request(3, "resources/list"), request(4, "ping"))
    asker.hears(answer(1, tools=[]))
    asker.hears_error(2, -32001, delivered=False)
    asker.hears_error(3, -32001, delivered=False)
    asker.hears(answer(4))
    tool.hears_nothing()


def test_a_label_whose_tool_just_left_is_waited_for_a_moment() -> None:
    play = Play()
    calc, _ = play.merged(calc=["add"], other=["rain"])
    asker = guest(play, only="calc")
    asker.heard.clear()
    calc.leaves()
    asker.says(request(1, "tools/list"), call(2, "add"))
    asker.hears(answer(1, tools=[tool_named("add")]))
    back = play.tool("calc")
    back.is_greeted("calc", ["add"])
    asker.heard.clear()
    number = back.hear()["id"]
    back.says(answer(number, sum=3))
    asker.hears(answer(2, sum=3))


def test_what_is_no_tool_of_a_label_is_carried_to_it_and_it_says_so_itself() -> None:
    play = Play()
    calc, other = play.merged(calc=["add"], other=["rain"])
    asker = guest(play, only="calc")
    asker.heard.clear()
    asker.says(call(1, "unheard of"), request(2, "resources/read", uri="x:1"), request(3, "tools/call"))
    for id in (1, 2, 3):
        number = calc.hear()["id"]
        calc.says(failure(number, -32602))
        asker.hears(failure(id, -32602))
    other.hears_nothing()


def test_a_bare_tool_of_that_label_tells_its_own_list() -> None:
    play = Play()
    tool = play.tool("calc")
    asker = guest(play, only="calc")
    tool.says(failure(tool.hear()["id"], -32601))
    tool.says(failure(tool.hear()["id"], -32601))  # server/discover
    asker.heard.clear()
    asker.says(request(1, "tools/list", cursor=7))
    number = tool.hear()["id"]
    tool.says(answer(number, tools=[]))
    asker.hears(answer(1, tools=[]))


def test_the_list_of_one_label_is_paged_too() -> None:
    play = Play(limits=Limits(list_page_bytes=4096, device_answer_bytes=5000))
    many = [tool_named(f"tool_{number}", "x" * 1000) for number in range(9)]
    play.merged(calc=many, other=["rain"])
    asker = guest(play, only="calc")
    asker.heard.clear()
    found, cursor = [], {}
    for number in range(9):
        asker.says(request(number, "tools/list", **cursor))
        page = asker.hear()["result"]
        found += page["tools"]
        if "nextCursor" not in page:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert found == many


# -- requests to an in-process consumer ----------------------------------------------------------------------------------------

REVISION = "2026-07-28"


def test_only_the_calls_of_whoever_is_asked_wait_for_the_answer() -> None:
    """A tool of the stateless era says for which call it asks."""
    play = Play()
    tool = play.tool(stateless=True)
    asked, other = guest(play), guest(play)
    tool.says(answer(tool.hear()["id"], supportedVersions=[REVISION], capabilities={"tools": {}}))
    tool.says(answer(tool.hear()["id"], tools=[tool_named("a")]))
    for asker in (asked, other):
        asker.heard.clear()
        asker.says(call(1, "a"))
    question = {"method": "elicitation/create", "params": {"message": "Who?"}}
    tool.says(answer(tool.hear()["id"], resultType="input_required", inputRequests={"q": question}))
    assert asked.hear()["params"]["message"] == "Who?"
    play.wait(26)
    other.hears_error(1, -32006)
    asked.heard.clear()


def test_a_tool_of_the_stateless_era_that_is_silent_is_greeted_as_before() -> None:
    play = Play()
    tool, _ = play.tool(stateless=True), guest(play)
    assert tool.hear()["method"] == "server/discover"
    play.wait(5.1)
    assert tool.hear()["method"] == "initialize"


def test_a_drain_waits_for_no_person() -> None:
    play = Play()
    tool, asker, waits = play.tool(), guest(play), guest(play)
    tool.is_greeted(tools=["a"])
    for each in (asker, waits):
        each.heard.clear()
    asker.says(call(1, "a"))
    tool.hear()
    other = play.tool("x")
    asker.says(request(2, "tools/list"))
    asker.party.thinking = True
    play.endpoint.drain(play.now)
    asker.hears_error(1, -32003, delivered=True)
    asker.hears_error(2, -32003, delivered=False)
    assert tool.hear()["method"] == "notifications/cancelled" and other.hear()["method"] == "initialize"
    waits.hears_nothing()


# -- who is there ----------------------------------------------------------------------------------------------------------


class Stage:
    """A broker whose room attaches one provider to every endpoint as long as somebody asks there."""

    def __init__(self) -> None:
        self.play = Play()
        self.broker = Broker(
            EndpointSettings(),
            Limits(),
            clock=lambda: self.play.now,
            call_at=lambda when, ring: self,
            epoch=lambda: self.play.now,
            watch=self,
        )
        self.broker.on_open = self.open
        self.broker.on_idle = self.idle
        self.brought: list[Actor] = []
        self.events: list[str] = []

    def cancel(self) -> None: ...

    def tell(self, event: str, shown: str, **fields: object) -> None: ...

    def open(self, endpoint: Endpoint) -> None:
        self.events.append("open")
        actor = Actor(self.play)
        actor.party = self.broker.attach_provider(endpoint.name, endpoint.shown, actor, managed=True)
        self.brought.append(actor)

    def idle(self, endpoint: Endpoint) -> None:
        self.events.append("idle")
        self.broker.detach(self.brought.pop().party, 1000, "nobody asks here")


def test_managed_providers_come_with_the_first_consumer_and_leave_with_the_last() -> None:
    stage = Stage()
    first = stage.broker.attach_consumer("agent:kitchen", "kitchen", Actor(stage.play))
    second = stage.broker.attach_consumer("agent:kitchen", "kitchen", Actor(stage.play), in_process=True)
    assert stage.events == ["open"]
    assert stage.broker.endpoints["agent:kitchen"].providers[0].managed
    stage.broker.detach(first, 1000, "")
    assert stage.events == ["open"]
    stage.broker.detach(second, 1000, "")
    assert stage.events == ["open", "idle"]
    assert not stage.broker.endpoints and stage.broker.providers == stage.broker.consumers == 0
    stage.broker.attach_consumer("agent:kitchen", "kitchen", Actor(stage.play))
    assert stage.events == ["open", "idle", "open"]


def test_managed_providers_that_leave_when_nobody_asks_have_not_died() -> None:
    stage = Stage()
    device = stage.broker.attach_consumer("agent:kitchen", "kitchen", Actor(stage.play))
    stage.broker.detach(device, 1000, "")
    assert stage.broker.snapshot(detail=True)["left"] == []


@pytest.mark.parametrize("stays", [True, False])
def test_a_tool_that_dialled_in_keeps_its_endpoint_when_the_managed_ones_leave(stays: bool) -> None:
    stage = Stage()
    tool = stage.broker.attach_provider("agent:kitchen", "kitchen", Actor(stage.play))
    device = stage.broker.attach_consumer("agent:kitchen", "kitchen", Actor(stage.play))
    if not stays:
        stage.broker.detach(tool, 1000, "")
    stage.broker.detach(device, 1000, "")
    assert ("agent:kitchen" in stage.broker.endpoints) is stays


# -- replicas answer for each other ----------------------------------------------------------------------------------------


def repeatable(name: str, **hints: bool) -> dict[str, object]:
    return {**tool_named(name), "annotations": hints}


def replicas(play: Play, tool: dict[str, object], count: int = 2) -> list[Actor]:
    """Several managed providers with the same label and the same tool."""
    actors = []
    for _ in range(count):
        actor = Actor(play)
        actor.party = play.endpoint.attach_provider(actor, play.now, server_id="same", managed=True)
        actors.append(actor)
    for actor in actors:
        actor.is_greeted("same", [tool])
    return actors


@pytest.mark.row("H9")
@pytest.mark.parametrize("hints", [{"readOnlyHint": True}, {"idempotentHint": True}])
def test_a_call_that_may_run_twice_goes_to_a_replica_when_its_provider_dies(hints: dict[str, bool]) -> None:
    play = Play()
    older, newer = replicas(play, repeatable("look", **hints))
    device = play.ready_device()
    device.says(call("a", "look", at="sky"))
    newer.hears(call(3, "look", at="sky"))
    newer.leaves()
    older.hears(call(3, "look", at="sky"))
    older.says(answer(3, seen="blue"))
    device.hears(answer("a", seen="blue"))


@pytest.mark.parametrize("hints", [{}, {"readOnlyHint": False}, {"destructiveHint": False}])
def test_a_call_that_may_have_run_is_not_repeated(hints: dict[str, bool]) -> None:
    play = Play()
    older, newer = replicas(play, repeatable("do", **hints))
    device = play.ready_device()
    device.says(call("a", "do"))
    newer.hears(call(3, "do"))
    newer.leaves()
    device.hears_error("a", -32003, delivered=True)
    older.hears_nothing()


def test_when_every_replica_died_the_call_fails_once() -> None:
    play = Play()
    older, newer = replicas(play, repeatable("look", readOnlyHint=True))
    device = play.ready_device()
    device.says(call("a", "look"))
    newer.leaves()
    older.leaves()
    device.hears_error("a", -32003)
    device.hears_nothing()
    assert play.endpoint.ledger.in_flight == 0


def test_when_the_others_died_before_the_call_fails_once() -> None:
    play = Play()
    older, newer = replicas(play, repeatable("look", readOnlyHint=True))
    device = play.ready_device()
    device.says(call("a", "look"))
    newer.hear()
    older.leaves()
    newer.leaves()
    device.hears_nothing()
    play.wait(4.1)
    device.hears_error("a", -32001, delivered=None)  # it waited for another in vain, and may have run before


def test_a_call_whose_replicas_died_is_not_for_anybody_else() -> None:
    play = Play()
    older, newer = replicas(play, repeatable("look", readOnlyHint=True))
    other = play.tool("other")
    other.is_greeted("other", ["look"])
    device = play.ready_device()
    device.says(call("a", "look"))
    newer.hear()
    older.leaves()
    newer.leaves()
    device.hears_error("a", -32003, delivered=None)
    other.hears_nothing()


def unreached(id: object, delivered: bool | None = False, code: int = -32001) -> dict[str, object]:
    data = {"source": "broker", "delivered": delivered}
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "unreached", "data": data}}


def test_a_call_that_reached_nobody_is_tried_with_every_replica() -> None:
    """Whatever its tool says of itself: it has not run."""
    play = Play()
    first, second, third = replicas(play, tool_named("do"), 3)
    device = play.ready_device()
    device.says(call("a", "do"))
    third.hears(call(3, "do"))
    third.says(unreached(3))
    second.hears(call(3, "do"))
    second.says(unreached(3))
    first.hears(call(3, "do"))
    first.says(answer(3, done=True))
    device.hears(answer("a", done=True))


def test_a_call_that_may_run_twice_goes_to_a_replica_when_its_answer_broke_off() -> None:
    """The managed provider is still there, but says that nobody will answer."""
    play = Play()
    older, newer = replicas(play, repeatable("look", readOnlyHint=True))
    device = play.ready_device()
    device.says(call("a", "look"))
    newer.hears(call(3, "look"))
    newer.says(unreached(3, None, -32003))
    older.hears(call(3, "look"))
    older.says(answer(3, seen="blue"))
    device.hears(answer("a", seen="blue"))


def test_an_error_of_the_same_number_without_our_words_is_the_answer() -> None:
    play = Play()
    older, newer = replicas(play, repeatable("look", readOnlyHint=True))
    device = play.ready_device()
    device.says(call(3, "look"))
    newer.says(failure(3, -32003, "mine"))
    device.hears(failure(3, -32003, "mine"))
    older.hears_nothing()


def test_when_no_replica_was_reached_the_call_fails_once() -> None:
    play = Play()
    first, second = replicas(play, tool_named("do"))
    device = play.ready_device()
    device.says(call("a", "do"))
    second.says(unreached(3))
    first.says(unreached(3))
    device.hears(unreached("a"))
    device.hears_nothing()


@pytest.mark.parametrize(
    "told",
    [
        unreached(3, True),
        unreached(3, None),
        unreached(3, False, -32602),
        unreached(3, None, -32003),
        {"jsonrpc": "2.0", "id": 3, "error": {"code": -32001, "message": "x"}},
        {"jsonrpc": "2.0", "id": 3, "error": {"code": "odd"}},
        {"jsonrpc": "2.0", "id": 3, "result": {}},
    ],
)
def test_any_other_answer_is_the_answer(told: dict[str, object]) -> None:
    play = Play()
    first, second = replicas(play, tool_named("do"))
    device = play.ready_device()
    device.says(call(3, "do"))
    second.says(told)
    device.hears(told)
    first.hears_nothing()


@pytest.mark.parametrize("hints", [{}, {"readOnlyHint": True}])
def test_a_tool_that_dialled_in_is_not_believed_that_a_call_reached_nobody(hints: dict[str, bool]) -> None:
    play = Play()
    older, newer = play.tool("same"), play.tool("same")
    for actor in (older, newer):
        actor.is_greeted("same", [repeatable("do", **hints)])
    device = play.ready_device()
    device.says(call(3, "do"))
    newer.says(unreached(3))
    device.hears(unreached(3))
    older.hears_nothing()


def test_a_large_call_is_not_kept_for_replicas() -> None:
    play = Play()
    older, newer = replicas(play, repeatable("look", readOnlyHint=True))
    device = play.ready_device()
    device.says(call("a", "look", at="x" * 20_000))
    newer.leaves()
    device.hears_error("a", -32003, delivered=True)
    older.hears_nothing()


@pytest.mark.row("H9")
def test_replicas_answer_for_each_other_to_somebody_who_sees_one_label_too() -> None:
    play = Play()
    older, newer = replicas(play, repeatable("read", readOnlyHint=True))
    asker = guest(play, only="same")
    asker.heard.clear()
    asker.says(call(1, "read"))
    newer.hear()
    newer.leaves()
    older.says(answer(older.hear()["id"], content=[]))
    asker.hears(answer(1, content=[]))


def test_annotations_that_are_none_promise_nothing() -> None:
    play = Play()
    older, newer = replicas(play, {**tool_named("look"), "annotations": "yes"})
    device = play.ready_device()
    device.says(call("a", "look"))
    newer.leaves()
    device.hears_error("a", -32003, delivered=True)
    older.hears_nothing()
