"""A tool of the stateless era between its link and the core: what is said in one era is heard in the other."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest
from plays import INITIALIZED, Play, answer, call, failure, initialize, notification, request, tool_named, welcome

from mcp_endpoint.core.translator import Translator
from mcp_endpoint.protocol import stateless
from mcp_endpoint.protocol.methods import (
    ASKER,
    CAPABILITIES_KEY,
    CLIENT_KEY,
    LATEST,
    LEVEL_KEY,
    SERVER_KEY,
    SUBSCRIPTION_KEY,
    VERSION_KEY,
)
from mcp_endpoint.protocol.methods import (
    STATELESS_REVISION as REVISION,
)
from mcp_endpoint.protocol.stateless import MOST_SENT, ROUNDS

SERVER = b'{"name":"us","version":"1"}'
ENVELOPE = {VERSION_KEY: REVISION, CLIENT_KEY: {"name": "c", "version": "1"}, CAPABILITIES_KEY: {"elicitation": {}}}
DEEP = b'{"_meta":' * 600 + b"1" + b"}" * 600


# == a tool of the stateless era ===========================================================================================


class Stage:
    """A translator, what its tool hears (`wire`), and what the heart hears (`heart`)."""

    def __init__(self, refused: bytes = b"") -> None:
        self.wire: deque[Any] = deque()
        self.heart: deque[Any] = deque()
        self.owed = 0
        self.queued = 7
        self.close_reason: Any = None
        self.pinged = False
        self.translator = Translator(self, self._heard, self._owes, "1.0", refused=refused)

    def send(self, first: Any, second: Any = b"") -> None:
        self.wire.append(json.loads(bytes(first) + bytes(second)))

    def close(self, code: int, reason: str) -> None:
        self.close_reason = (code, reason)

    def ping(self) -> None:
        self.pinged = True

    def _heard(self, frame: bytes, now: float) -> None:
        assert self.translator.speaking or self.translator.plain
        self.heart.append(json.loads(frame))

    def _owes(self) -> None:
        self.owed += 1

    def says(self, frame: Any) -> None:
        """The heart says it."""
        self.translator.send(json.dumps(frame, separators=(",", ":")).encode())
        if self.owed:
            self.owed = 0
            self.translator.flush(2.0)

    def hears(self, frame: Any) -> None:
        """The tool says it."""
        self.translator.hear(frame if isinstance(frame, bytes) else json.dumps(frame, separators=(",", ":")).encode(), 1.0)

    def discovered(self, **capabilities: Any) -> Stage:
        """Greeted, and over with it."""
        self.says(initialize(1))
        self.wire.popleft()
        self.hears(answer(1, supportedVersions=[REVISION], capabilities=capabilities, resultType="complete"))
        self.heart.popleft()
        return self


def required(id: Any, state: str | None = None, **questions: Any) -> dict[str, Any]:
    result: dict[str, Any] = {"resultType": "input_required"}
    if questions:
        result["inputRequests"] = questions
    if state is not None:
        result["requestState"] = state
    return answer(id, **result)


def elicit(message: str) -> dict[str, Any]:
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": {"type": "object"}}}


ACCEPTED = {"action": "accept", "content": {"name": "Ada"}}


def test_a_handshake_becomes_a_discovery() -> None:
    stage = Stage()
    stage.says(initialize(1))
    asked = stage.wire.popleft()
    assert (asked["id"], asked["method"]) == (1, "server/discover")
    meta = asked["params"]["_meta"]
    assert meta[VERSION_KEY] == REVISION and meta[CLIENT_KEY]["name"] == "mcp-endpoint-server"
    assert set(meta[CAPABILITIES_KEY]) == {"sampling", "elicitation", "roots"}
    about = {SERVER_KEY: {"name": "calc", "version": "2"}}
    stage.hears(answer(1, supportedVersions=["2030-01-01", REVISION], capabilities={"tools": {}}, instructions="be kind", _meta=about))
    told = stage.heart.popleft()
    assert told == answer(
        1, protocolVersion=LATEST, capabilities={"tools": {}}, serverInfo={"name": "calc", "version": "2"}, instructions="be kind"
    )


def test_a_tool_may_say_its_name_where_drafts_had_it_or_not_at_all() -> None:
    for result, name in (({"serverInfo": {"name": "old", "version": ""}}, "old"), ({}, "")):
        stage = Stage()
        stage.says(initialize(1))
        stage.hears(answer(1, supportedVersions=[REVISION], **result))
        assert stage.heart.popleft()["result"]["serverInfo"]["name"] == name


@pytest.mark.parametrize("reply", [failure(1, -32601), answer(1), *(answer(1, supportedVersions=one) for one in (["2025-11-25"], 7))])
def test_a_tool_that_does_not_know_discovery_gets_the_handshake(reply: Any) -> None:
    """It asked for the other era but is not of it: from now on nothing is translated."""
    stage = Stage()
    stage.says(initialize(1))
    stage.wire.popleft()
    stage.hears(reply)
    assert stage.translator.plain and stage.wire.popleft() == initialize(1)
    stage.hears(welcome(1))
    assert stage.heart.popleft() == welcome(1)
    stage.says(request(2, "ping"))
    assert stage.wire.popleft() == request(2, "ping")


def test_a_tool_that_refused_the_handshake_and_knows_no_discovery_is_told_to_have_refused() -> None:
    stage = Stage(refused=b'{"code":-32601,"message":"what?"}')
    assert not stage.translator.give_up()
    stage.says(initialize(4))
    stage.wire.popleft()
    stage.hears(failure(4, -32600))
    assert stage.heart.popleft() == failure(4, -32601, "what?")
    assert stage.translator.plain and not stage.wire


def test_a_silent_discovery_is_given_up_for_the_handshake_once() -> None:
    stage = Stage()
    assert not stage.translator.give_up()
    stage.says(initialize(1))
    stage.wire.popleft()
    assert stage.translator.give_up() and not stage.translator.give_up()
    assert stage.wire.popleft() == initialize(1)


def test_the_link_behind_is_the_link() -> None:
    stage = Stage()
    assert stage.translator.queued == 7
    stage.translator.ping()
    stage.translator.close(1001, "bye")
    assert stage.pinged and stage.close_reason == (1001, "bye")


def test_each_request_carries_the_envelope_and_its_answer_passes_as_it_came() -> None:
    stage = Stage().discovered(tools={})
    stage.says(request(2, "tools/call", name="a", _meta={"progressToken": 2}))
    asked = stage.wire.popleft()
    assert asked["params"]["name"] == "a" and asked["params"]["_meta"]["progressToken"] == 2
    assert asked["params"]["_meta"][VERSION_KEY] == REVISION
    stage.hears(b'{"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","x":1}}')
    assert stage.heart.popleft() == answer(2, resultType="complete", x=1)


@pytest.mark.parametrize("frame", [request(2, "tools/list"), {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": [1]}])
def test_a_request_without_parameters_gets_some(frame: Any) -> None:
    stage = Stage().discovered()
    stage.says(frame)
    assert set(stage.wire.popleft()["params"]) == {"_meta"}


def test_a_consumer_of_the_same_era_is_heard_in_its_own_words() -> None:
    """Its envelope, its answers and the tool's questions pass as they are."""
    stage = Stage().discovered()
    stage.says(request(2, "tools/call", name="a", requestState="s", inputResponses={"k": ACCEPTED}, _meta={ASKER: ENVELOPE, "t": 1}))
    asked = stage.wire.popleft()
    assert asked["params"] == {"name": "a", "requestState": "s", "inputResponses": {"k": ACCEPTED}, "_meta": {**ENVELOPE, "t": 1}}
    stage.hears(required(2, "state", who=elicit("Who?")))
    assert stage.heart.popleft() == required(2, "state", who=elicit("Who?"))


def test_what_is_required_becomes_requests_and_their_answers_a_second_try() -> None:
    stage = Stage().discovered()
    stage.says(request(2, "tools/call", name="a", _meta={"progressToken": 2}))
    stage.wire.popleft()
    stage.hears(required(2, "state", who=elicit("Who?"), roots={"method": "roots/list"}))
    who, roots = stage.heart
    assert (who["method"], who["params"]["message"]) == ("elicitation/create", "Who?")
    assert (roots["method"], roots["params"]) == ("roots/list", {})
    assert stage.translator.number_of(json.dumps(who["id"]).encode()) == 2
    stage.says(answer(who["id"], **ACCEPTED))
    assert not stage.wire, "the other question is open yet"
    stage.says(answer(roots["id"], roots=[]))
    again = stage.wire.popleft()
    assert (again["id"], again["method"]) == ("2.1", "tools/call")
    assert again["params"]["inputResponses"] == {"who": ACCEPTED, "roots": {"roots": []}}
    assert (again["params"]["requestState"], again["params"]["name"]) == ("state", "a")
    assert again["params"]["_meta"]["progressToken"] == 2
    stage.hears(answer("2.1", content=[], resultType="complete"))
    assert stage.heart.pop() == answer(2, content=[], resultType="complete")


def test_a_second_round_is_asked_anew() -> None:
    stage = Stage().discovered()
    stage.says(request(2, "prompts/get", name="a"))
    stage.hears(required(2, "one", step=elicit("First?")))
    stage.says(answer(stage.heart.pop()["id"], **ACCEPTED))
    stage.hears(required("2.1", step=elicit("Second?")))
    second = stage.heart.pop()
    assert second["params"]["message"] == "Second?"
    stage.says(answer(second["id"], **ACCEPTED))
    again = stage.wire.pop()
    assert again["id"] == "2.2" and "requestState" not in again["params"]


def test_an_answer_to_a_second_round_that_cannot_be_read_ends_the_call() -> None:
    """It names the round; the heart hears of its own number."""
    stage = Stage().discovered()
    stage.says(request(2, "tools/call", name="a"))
    stage.hears(required(2, "busy"))
    stage.translator.hear(b'{"jsonrpc":"2.0","id":"2.1","result":{},"result":{}}', 3.0)
    failed = stage.heart.pop()
    assert failed["id"] == 2 and "a key is repeated" in failed["error"]["data"]["hint"]


def test_a_tool_that_only_wants_to_be_asked_again_is_but_not_for_ever() -> None:
    """A state without questions is how a busy server puts a request off."""
    stage = Stage().discovered()
    stage.says(request(2, "tools/call", name="a"))
    stage.hears(required(2, "busy"))
    for number in range(1, ROUNDS):
        again = stage.wire.pop()
        assert again["id"] == f"2.{number}" and "inputResponses" not in again["params"]
        stage.hears(required(again["id"], "busy"))
    stage.hears(required(stage.wire.pop()["id"], "busy"))
    assert stage.heart.pop()["error"]["code"] == -32603


def test_what_cannot_be_asked_fails_the_call() -> None:
    stage = Stage().discovered()
    stage.says(request(2, "tools/call", name="a"))
    stage.hears(required(2, x={"method": "tools/list"}))
    assert stage.heart.pop()["error"]["code"] == -32603
    assert not stage.heart


def test_a_consumer_that_does_not_answer_fails_the_call_and_nothing_more_is_asked() -> None:
    stage = Stage().discovered()
    stage.says(request(2, "tools/call", name="a"))
    stage.hears(required(2, a=elicit("A?"), b=elicit("B?")))
    first, second = stage.heart
    stage.heart.clear()
    stage.says(failure(first["id"], -32601, "cannot"))
    withdrawn, failed = stage.heart
    assert withdrawn == notification("notifications/cancelled", requestId=second["id"], reason="no longer wanted")
    assert failed["id"] == 2 and failed["error"]["code"] == stateless.MISSING_CAPABILITY
    assert failed["error"]["data"]["answered"]["message"] == "cannot"
    stage.says(answer(second["id"], **ACCEPTED))
    stage.says({"jsonrpc": "2.0", "id": first["id"]})
    assert not [frame for frame in stage.wire if frame["method"] != "server/discover" and frame["id"] != 2]


def test_a_question_refused_while_the_questions_are_being_asked_ends_them() -> None:
    """The heart refuses at once what nobody can answer."""
    stage = Stage().discovered()
    refused = stage.translator._says

    def heart(frame: bytes, now: float) -> None:
        refused(frame, now)
        if json.loads(frame).get("method") == "elicitation/create":
            stage.translator.send(json.dumps(failure(json.loads(frame)["id"], -32601)).encode())

    stage.translator._says = heart
    stage.says(request(2, "tools/call", name="a"))
    stage.hears(required(2, a=elicit("A?"), b=elicit("B?")))
    assert [frame["method"] for frame in stage.heart] == ["elicitation/create"]
    assert stage.owed == 1
    stage.translator.flush(3.0)
    assert [frame.get("method") for frame in stage.heart] == ["elicitation/create", "notifications/cancelled", None]


def test_cancelling_reaches_the_tool_under_the_id_it_knows() -> None:
    stage = Stage().discovered()
    stage.says(request(2, "tools/call", name="a"))
    stage.says(request(3, "tools/call", name="a"))
    stage.hears(required(3, a=elicit("A?")))
    stage.says(answer(stage.heart.pop()["id"], **ACCEPTED))
    stage.wire.clear()
    stage.says(notification("notifications/cancelled", requestId=3, reason="enough"))
    assert stage.wire.pop() == notification("notifications/cancelled", requestId="3.1", reason="enough")
    stage.says(notification("notifications/cancelled", requestId=99))
    stage.says(notification("notifications/cancelled"))
    assert not stage.wire


def test_cancelling_while_the_consumer_is_asked_withdraws_the_question() -> None:
    stage = Stage().discovered()
    stage.says(request(2, "tools/call", name="a"))
    stage.hears(required(2, a=elicit("A?")))
    question = stage.heart.pop()
    stage.wire.clear()
    stage.says(notification("notifications/cancelled", requestId=2))
    assert stage.heart.pop() == notification("notifications/cancelled", requestId=question["id"], reason="no longer wanted")
    assert not stage.wire and stage.translator.number_of(json.dumps(question["id"]).encode()) == 0


def test_what_the_stateless_era_has_given_up_is_answered_here() -> None:
    stage = Stage().discovered()
    stage.says(request(2, "ping"))
    stage.says(request(3, "logging/setLevel", level="error"))
    stage.says(request(4, "logging/setLevel"))
    assert list(stage.heart) == [answer(2), answer(3), answer(4)]
    assert not stage.wire
    stage.says(request(5, "tools/list"))
    assert stage.wire.popleft()["params"]["_meta"][LEVEL_KEY] == "error"


def test_several_answers_of_our_own_are_owed_once() -> None:
    stage = Stage().discovered()
    for id in (2, 3):
        stage.translator.send(json.dumps(request(id, "ping")).encode())
    assert stage.owed == 1 and not stage.heart
    stage.translator.flush(2.0)
    assert list(stage.heart) == [answer(2), answer(3)]


def test_what_a_tool_announces_is_subscribed_to_and_told_without_its_tag() -> None:
    stage = Stage().discovered(tools={"listChanged": True}, prompts={"listChanged": False}, odd=7)
    stage.says(INITIALIZED)
    listen = stage.wire.popleft()
    assert (listen["method"], listen["params"]["notifications"]) == ("subscriptions/listen", {"toolsListChanged": True})
    tag = {"_meta": {SUBSCRIPTION_KEY: listen["id"]}}
    stage.hears(notification("notifications/subscriptions/acknowledged", notifications={}, **tag))
    stage.hears(notification("notifications/tools/list_changed", **tag))
    stage.hears(notification("notifications/resources/updated", uri="a", _meta={SUBSCRIPTION_KEY: listen["id"], "x": 1}))
    assert list(stage.heart) == [
        notification("notifications/tools/list_changed"),
        notification("notifications/resources/updated", uri="a", _meta={"x": 1}),
    ]
    stage.heart.clear()
    stage.hears(answer(listen["id"], resultType="complete"))
    assert not stage.heart


def test_a_tool_that_announces_nothing_is_not_subscribed_to() -> None:
    stage = Stage().discovered(tools={})
    stage.says(INITIALIZED)
    assert not stage.wire


def test_resources_are_watched_through_the_one_stream() -> None:
    stage = Stage().discovered(resources={"subscribe": True})
    stage.says(request(2, "resources/subscribe", uri="a"))
    first = stage.wire.popleft()
    assert first["params"]["notifications"] == {"resourceSubscriptions": ["a"]}
    stage.says(request(3, "resources/subscribe", uri="b"))
    second, over = stage.wire
    assert second["params"]["notifications"] == {"resourceSubscriptions": ["a", "b"]}
    assert over == notification("notifications/cancelled", requestId=first["id"])
    stage.wire.clear()
    stage.says(request(4, "resources/unsubscribe", uri="a"))
    stage.wire.clear()
    stage.says(request(5, "resources/unsubscribe", uri="b"))
    assert [frame["method"] for frame in stage.wire] == ["notifications/cancelled"]
    stage.says(request(6, "resources/unsubscribe"))
    assert [frame["id"] for frame in stage.heart] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("method", ["notifications/progress", "notifications/roots/list_changed", "notifications/other"])
def test_other_words_of_a_consumer_end_here(method: str) -> None:
    stage = Stage().discovered()
    stage.says(notification(method, a=1))
    assert not stage.wire


@pytest.mark.parametrize(
    "frame",
    [
        notification("notifications/progress", progressToken=2, progress=1),
        notification("notifications/message", level="info", data="x"),
        request("q", "elicitation/create"),
        answer(77),
        {"jsonrpc": "2.0", "result": {}},
    ],
)
def test_what_needs_no_translation_is_handed_on(frame: Any) -> None:
    stage = Stage().discovered()
    stage.hears(frame)
    assert stage.heart.pop() == frame


def test_what_is_no_message_is_handed_on_as_noise() -> None:
    said: list[bytes] = []
    stage = Stage().discovered()
    stage.translator._says = lambda frame, now: said.append(frame)
    stage.hears(b"Server started")
    assert said == [b"Server started"]


def test_a_discovery_that_is_no_greeting_is_an_answer_like_any() -> None:
    """A consumer may ask for it once the tool is greeted."""
    stage = Stage().discovered()
    stage.says(request(2, "server/discover"))
    stage.hears(answer(2, supportedVersions=[]))
    assert stage.heart.pop() == answer(2, supportedVersions=[])


def test_what_is_remembered_is_bounded() -> None:
    """A heart that gives calls up without a word must not fill this memory."""
    stage = Stage().discovered()
    for id in range(2, MOST_SENT + 10):
        stage.says(request(id, "tools/list"))
        stage.wire.clear()
    assert len(stage.translator._sent) == MOST_SENT


# == in the heart ==========================================================================================================


def test_a_tool_that_has_given_the_handshake_up_serves_devices_all_the_same() -> None:
    """It answers initialize with -32022; the device notices nothing, and its first words are the tool's own."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(0, elicitation={}))
    tool.says(failure(tool.hear()["id"], -32022))
    discover = tool.hear()
    assert discover["method"] == "server/discover"
    tool.says(answer(discover["id"], supportedVersions=[REVISION], capabilities={"tools": {"listChanged": True}}))
    found = device.hear()
    assert (found["id"], found["result"]["protocolVersion"]) == (0, LATEST)
    device.says(INITIALIZED, request(1, "tools/list"))
    listen, listing = tool.hear(), tool.hear()
    assert listen["method"] == "subscriptions/listen"
    tool.says(answer(listing["id"], tools=[tool_named("a")], resultType="complete", ttlMs=0, cacheScope="private"))
    assert [one["name"] for one in device.hear()["result"]["tools"]] == ["a"]

    device.says(call(2, "a"))
    asked = tool.hear()
    tool.says(required(asked["id"], "s", who=elicit("Who?")))
    question = device.hear()
    assert question["method"] == "elicitation/create"
    device.says(answer(question["id"], **ACCEPTED))
    again = tool.hear()
    assert again["params"]["inputResponses"] == {"who": ACCEPTED}
    tool.says(notification("notifications/progress", progressToken=1, progress=1))
    tool.says(answer(again["id"], content=[], resultType="complete"))
    device.hears(answer(2, content=[], resultType="complete"))


def test_each_question_reaches_whoever_made_its_call() -> None:
    """A tool of this era asks in a call's answer, so that there is no doubt when two have calls there."""
    play = Play()
    tool = play.tool(stateless=True)
    devices = [play.device(), play.device()]
    for device in devices:
        device.says(initialize(0, elicitation={}))
    discover = tool.hear()
    tool.says(answer(discover["id"], supportedVersions=[REVISION], capabilities={"tools": {}}))
    for device in devices:
        device.hear()
        device.says(INITIALIZED, call(1, "a"))
    calls = [frame for frame in (tool.hear(), tool.hear()) if frame["method"] == "tools/call"]
    for number in (1, 0):
        tool.says(required(calls[number]["id"], who=elicit(f"Device {number}?")))
        assert devices[number].hear()["params"]["message"] == f"Device {number}?"
    devices[0].hears_nothing()


def test_a_device_that_cannot_be_asked_hears_what_it_lacks() -> None:
    play = Play()
    tool, device = play.tool(stateless=True), play.device()
    device.says(initialize(0))
    tool.says(answer(tool.hear()["id"], supportedVersions=[REVISION], capabilities={"tools": {}}))
    device.hear()
    device.says(INITIALIZED, call(1, "a"))
    tool.says(required(tool.hear()["id"], who=elicit("Who?")))
    play.wait(0.1)
    assert device.hear()["error"]["code"] == stateless.MISSING_CAPABILITY


def test_a_silent_tool_that_wanted_discovery_is_greeted_with_a_handshake() -> None:
    play = Play()
    tool, device = play.tool(stateless=True), play.device()
    device.says(initialize(0))
    assert tool.hear()["method"] == "server/discover"
    play.wait(8.1)
    hello = tool.hear()
    assert hello["method"] == "initialize"
    tool.says(welcome(hello["id"]))
    assert play.endpoint.describe(play.now)["tools"][0]["state"] == "ready"


def test_a_question_goes_to_the_one_that_is_not_thinking_already() -> None:
    """A handshake tool does not say for which call it asks. One that waits for a person's answer asks nothing else for that call."""
    play = Play()
    tool = play.tool()
    first, second = play.device(), play.device()
    for device in (first, second):
        device.says(initialize(0, elicitation={}))
    tool.says(welcome(tool.hear()["id"]))
    for device in (first, second):
        device.hear()
    first.says(INITIALIZED, call(1, "a"))
    tool.hear(), tool.hear()
    tool.says({"jsonrpc": "2.0", "id": "q1", **elicit("First?")})
    first.hear()
    second.says(INITIALIZED, call(1, "a"))
    tool.hear()
    tool.says({"jsonrpc": "2.0", "id": "q2", **elicit("Whose?")})
    assert tool.hear()["error"]["code"] == -32601
    first.party.thinking = True
    tool.says({"jsonrpc": "2.0", "id": "q3", **elicit("Second?")})
    assert second.hear()["params"]["message"] == "Second?"
    first.hears_nothing()
