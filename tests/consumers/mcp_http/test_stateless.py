"""MCP 2026-07-28 over HTTP: each request on its own, and questions that come back with answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from consumers.stateless_client import ACCEPTED, ALL, FORM, ask, called, era, headers, said, settled, stage, streamed
from consumers.web import BOTH, CODEC, JSON, OTHER, Tool, Web, served, text

from mcp_endpoint.consumers.mcp_http import stateless as module
from mcp_endpoint.protocol.methods import ASKER, CAPABILITIES_KEY, CLIENT_KEY, SERVER_KEY, SUBSCRIPTION_KEY, VERSION_KEY
from mcp_endpoint.protocol.methods import STATELESS_REVISION as REVISION


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer becomes a stream after a moment of silence instead of a quarter of a minute."""
    monkeypatch.setattr(module, "COMMENT_SECONDS", 0.05)


# == one request ===========================================================================================================


async def test_a_call_is_answered() -> None:
    """Its tool hears nothing of the envelope, and the answer says what the revision wants."""
    async with stage(answers=lambda frame: text("hello")) as (web, tool):
        answer = await ask(web, called({"x": 1}))
        assert answer["result"]["content"] == text("hello")["content"]
        assert answer["result"]["resultType"] == "complete" and answer["result"]["_meta"][SERVER_KEY]["name"] == "desk"
        heard = await tool.hears("tools/call")
        assert heard["params"] == {"name": "echo", "arguments": {"x": 1}}


async def test_each_request_names_its_client_and_lists_for_some_have_no_references() -> None:
    async with served(endpoint={"inline_references_for": ("weak*",)}) as web:
        tool = Tool(web.broker)
        tool.schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"type": "string"}}}
        for client, schema in (("test", tool.schema), ("weak-1", {"type": "object", "properties": {"x": {"type": "string"}}})):
            asked = said("tools/list")
            asked["params"]["_meta"][CLIENT_KEY]["name"] = client
            assert [found["inputSchema"] for found in (await ask(web, asked))["result"]["tools"]] == [schema]


async def test_discovery_says_what_the_endpoint_can() -> None:
    async with stage() as (web, _):
        result = (await ask(web, said("server/discover")))["result"]
        assert result["supportedVersions"] == [REVISION]
        assert result["capabilities"]["tools"] == {"listChanged": True}
        assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 0, "private")
        assert result["_meta"][SERVER_KEY]["name"] == "desk"


async def test_an_endpoint_without_tools_can_be_discovered_and_listed() -> None:
    async with served() as web:
        assert (await ask(web, said("server/discover")))["result"]["_meta"][SERVER_KEY]["name"] == "mcp-endpoint-server"
        assert (await ask(web, said("tools/list")))["result"]["tools"] == []


async def test_lists_are_told_with_how_long_they_are_good() -> None:
    async with stage("a", "b") as (web, _):
        result = (await ask(web, said("tools/list")))["result"]
        assert [tool["name"] for tool in result["tools"]] == ["a", "b"]
        assert (result["ttlMs"], result["cacheScope"], result["resultType"]) == (0, "private", "complete")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
async def test_only_post_is_known(method: str) -> None:
    async with served() as web:
        answer = await web.client.request(method, "/mcp", headers=web.headers("", BOTH, module_token(), {"mcp_protocol_version": REVISION}))
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def module_token() -> str:
    return CODEC.make_signed("home")


@pytest.mark.parametrize("method", [*sorted(module.REMOVED), "nothing/known"])
async def test_what_the_revision_does_not_know_is_not_found(method: str) -> None:
    """404 with -32601; whether an unknown method exists is the tool's to say."""
    async with stage() as (web, tool):
        asking = asyncio.ensure_future(ask(web, said(method, id="x"), 404))
        if method == "nothing/known":
            heard = await tool.hears(method)
            tool.say({"id": heard["id"], "error": {"code": -32601, "message": "no"}})
        assert (await asking)["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"mcp_method": "tools/list"}, -32020),
        ({"mcp_name": "other"}, -32020),
        ({"mcp_protocol_version": "2025-11-25"}, -32020),
    ],
)
async def test_headers_must_agree_with_the_body(change: Any, code: int) -> None:
    async with stage() as (web, tool):
        assert (await ask(web, called(), 400, **change))["error"]["code"] == code
        assert not tool.heard


async def test_a_revision_of_the_future_is_told_what_there_is() -> None:
    async with served() as web:
        body = said("server/discover")
        body["params"]["_meta"][VERSION_KEY] = "2031-01-01"
        error = (await ask(web, body, 400, mcp_protocol_version="2031-01-01"))["error"]
        assert (error["code"], error["data"]["supported"]) == (-32022, [REVISION])


async def test_a_request_without_its_envelope_is_refused() -> None:
    async with served() as web:
        bare = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        answer = await web.post(bare, accept=BOTH, mcp_protocol_version=REVISION)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)


async def test_the_body_must_be_json_and_the_answer_must_be_wanted_so() -> None:
    async with served() as web:
        body = said("tools/list")
        assert (await web.post(body, accept="text/event-stream", **headers(body))).status_code == 406
        wrong = web.headers("", BOTH, module_token(), headers(body)) | {"content-type": "text/plain"}
        assert (await web.client.post("/mcp", content=json.dumps(body), headers=wrong)).status_code == 415
        assert (await web.post(b'{"_meta', accept=BOTH, mcp_protocol_version=REVISION)).status_code == 400


async def test_notifications_are_taken_and_mean_nothing() -> None:
    """A request is cancelled by closing its answer, not by a number that any client could name."""
    async with served() as web:
        body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        answer = await web.post(body, mcp_protocol_version=REVISION)
        assert (answer.status_code, answer.content) == (202, b"")
        answer = await web.post(body, mcp_protocol_version="2031-01-01")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32022)


async def test_a_tool_that_is_not_there_is_a_result_a_model_can_read() -> None:
    """Our own error codes are never sent to a client."""
    async with served() as web:
        result = (await ask(web, called()))["result"]
        assert result["isError"] and "工具端未连接" in result["content"][0]["text"] and result["resultType"] == "complete"
        error = (await ask(web, said("prompts/get", {"name": "p"})))["error"]
        assert error["code"] not in range(-32099, -31999)


async def test_a_tools_own_error_is_told_as_it_is() -> None:
    async with stage() as (web, tool):
        asking = asyncio.ensure_future(ask(web, called()))
        heard = await tool.hears("tools/call")
        tool.say({"id": heard["id"], "error": {"code": -32050, "message": "own", "data": {"a": 1}}})
        assert (await asking)["error"] == {"code": -32050, "message": "own", "data": {"a": 1}}


async def test_one_labels_tools_are_seen_under_their_own_names() -> None:
    async with stage("a") as (web, tool):
        other = Tool(web.broker, "a", label="shelf")
        tool.answers = other.answers = lambda frame: text("done")
        body = called(name="a")
        answer = await web.post(body, path="/mcp/home/shelf", accept=BOTH, **headers(body))
        assert answer.json()["result"]["content"] == text("done")["content"]
        await other.hears("tools/call")
        assert not [frame for frame in tool.heard if frame["method"] == "tools/call"]


async def test_a_header_a_tools_schema_asks_for_is_compared() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        tool.names = ()  # its list is said by hand
        schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}

        def answers(frame: dict[str, Any]) -> dict[str, Any] | None:
            return text("ok") if frame.get("method") == "tools/call" else None

        tool.answers = answers
        react = tool._react

        def listing(frame: dict[str, Any]) -> None:
            if frame.get("method") == "tools/list":
                tool.say({"id": frame["id"], "result": {"tools": [{"name": "echo", "inputSchema": schema}]}})
            else:
                react(frame)

        tool._react = listing  # type: ignore[method-assign]
        assert "result" in await ask(web, called({"region": "eu"}), mcp_param_region="eu")
        assert (await ask(web, called({"region": "eu"}), 400, mcp_param_region="us"))["error"]["code"] == -32020
        assert (await ask(web, called({"region": "eu"}), 400))["error"]["code"] == -32020


# == what belongs to a request =============================================================================================


async def test_progress_comes_before_the_answer_on_one_stream(quick: None) -> None:
    async with stage() as (web, tool), streamed(web, called(token="p")) as stream:
        heard = await tool.hears("tools/call")
        token = heard["params"]["_meta"]["progressToken"]
        tool.say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1, "total": 2}})
        tool.say({"id": heard["id"], "result": text("done")})
        assert stream.response.headers["x-accel-buffering"] == "no"
        assert (await stream.frame())["params"] == {"progressToken": "p", "progress": 1, "total": 2}
        last = await stream.frame()
        assert (last["id"], last["result"]["resultType"]) == (7, "complete")
        assert await stream.event() is None


@pytest.mark.parametrize(("level", "told"), [(None, []), ("info", ["info", "error"]), ("error", ["error"])])
async def test_log_messages_come_if_the_request_asked_for_their_level(level: str | None, told: list[str]) -> None:
    async with stage() as (web, tool):
        body = called(level=level)
        asking = asyncio.ensure_future(web.post(body, accept=BOTH, **headers(body)))
        heard = await tool.hears("tools/call")
        for one in ("debug", "info", "error"):
            tool.say({"method": "notifications/message", "params": {"level": one, "data": "x"}})
        tool.say({"id": heard["id"], "result": text("done")})
        answer = await asking
        frames = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")] or [answer.json()]
        assert [frame["params"]["level"] for frame in frames[:-1]] == told
        assert "result" in frames[-1]


async def test_a_client_that_wants_json_only_gets_the_answer_only() -> None:
    async with stage() as (web, tool):
        asking = asyncio.ensure_future(ask(web, called(token=1), accept=JSON))
        heard = await tool.hears("tools/call")
        token = heard["params"]["_meta"]["progressToken"]
        tool.say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
        tool.say({"id": heard["id"], "result": text("done")})
        assert "result" in await asking


async def test_closing_the_answer_cancels_the_request() -> None:
    async with stage() as (web, tool):
        asking = asyncio.ensure_future(ask(web, called()))
        heard = await tool.hears("tools/call")
        asking.cancel()
        assert (await tool.hears("notifications/cancelled"))["params"]["requestId"] == heard["id"]
        await settled(lambda: not web.broker.endpoints["signed:home"].consumers)


async def test_closing_a_stream_cancels_its_request(quick: None) -> None:
    async with stage() as (web, tool):
        async with streamed(web, called(token=1)) as stream:
            heard = await tool.hears("tools/call")
            token = heard["params"]["_meta"]["progressToken"]
            tool.say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
            await stream.frame()
        assert (await tool.hears("notifications/cancelled"))["params"]["requestId"] == heard["id"]


async def test_a_silent_call_becomes_a_stream_that_shows_life(quick: None) -> None:
    """A proxy would cut a connection on which nothing happens."""
    async with stage() as (web, tool), streamed(web, called()) as stream:
        heard = await tool.hears("tools/call")
        reading = asyncio.ensure_future(stream.frame())
        await settled(lambda: stream.comments >= 2)
        tool.say({"id": heard["id"], "result": text("done")})
        assert "result" in await reading


async def test_calls_at_the_same_time_do_not_meet() -> None:
    async with stage(answers=lambda frame: text(str(frame["params"]["arguments"]["n"]))) as (web, _):
        answers = await asyncio.gather(*(ask(web, called({"n": n})) for n in range(40)))
        assert [answer["result"]["content"][0]["text"] for answer in answers] == [str(n) for n in range(40)]


async def test_a_place_is_kept_a_while_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint sees one consumer for one request after the other, and none when nobody asks any more."""
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.1)
    async with stage(answers=lambda frame: text("ok")) as (web, _):
        consumers = web.broker.endpoints["signed:home"].consumers
        for _ in range(5):
            await ask(web, called())
            assert len(consumers) == 1
        await settled(lambda: not consumers)


async def test_of_too_many_places_the_oldest_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGERING", 3)
    async with stage(answers=lambda frame: text("ok")) as (web, _):
        await asyncio.gather(*(ask(web, called()) for _ in range(12)))
        await settled(lambda: len(web.broker.endpoints["signed:home"].consumers) == 3)


# == questions =============================================================================================================


async def begun(web: Web, tool: Tool, **more: Any) -> tuple[asyncio.Task[Any], dict[str, Any]]:
    """A call on its way, and what its tool heard."""
    before = len([frame for frame in tool.heard if frame.get("method") == "tools/call"])
    task = asyncio.ensure_future(ask(web, called(**more)))
    await settled(lambda: len([frame for frame in tool.heard if frame.get("method") == "tools/call"]) > before)
    return task, await tool.hears("tools/call")


async def test_a_question_comes_as_input_required_and_its_answer_goes_back_to_the_tool() -> None:
    """The tool knows the handshake era only: its question stays open at its link while the client thinks."""
    async with stage() as (web, tool):
        task, heard = await begun(web, tool)
        tool.say({"id": 100, "method": "elicitation/create", "params": FORM})
        result = (await task)["result"]
        assert result["resultType"] == "input_required" and isinstance(result["requestState"], str)
        ((key, question),) = result["inputRequests"].items()
        assert question == {"method": "elicitation/create", "params": FORM}
        assert web.room.describe()["stateless"]["parked_rounds"] == 1
        again = asyncio.ensure_future(ask(web, called(id="new", requestState=result["requestState"], inputResponses={key: ACCEPTED})))
        assert (await tool.answered(100))["result"] == ACCEPTED
        tool.say({"id": heard["id"], "result": text("Hello, Ada")})
        assert (await again)["result"]["content"] == text("Hello, Ada")["content"]
        assert web.room.describe()["stateless"]["parked_rounds"] == 0


async def test_questions_of_every_kind_come_together() -> None:
    async with stage() as (web, tool):
        task, heard = await begun(web, tool)
        tool.say({"id": 1, "method": "elicitation/create", "params": FORM})
        tool.say({"id": 2, "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 5}})
        tool.say({"id": 3, "method": "roots/list"})
        result = (await task)["result"]
        asked = result["inputRequests"]
        assert {one["method"] for one in asked.values()} == {"elicitation/create", "sampling/createMessage", "roots/list"}
        answers = {key: {"said": one["method"]} for key, one in asked.items()}
        again = asyncio.ensure_future(ask(web, called(requestState=result["requestState"], inputResponses=answers)))
        for id, method in ((1, "elicitation/create"), (2, "sampling/createMessage"), (3, "roots/list")):
            assert (await tool.answered(id))["result"] == {"said": method}
        tool.say({"id": heard["id"], "result": text("ok")})
        assert "content" in (await again)["result"]


async def test_a_tool_may_ask_again_and_again() -> None:
    async with stage() as (web, tool):
        task, heard = await begun(web, tool)
        states = set()
        for number in range(3):
            tool.say({"id": number, "method": "elicitation/create", "params": FORM})
            result = (await task)["result"]
            states.add(result["requestState"])
            (key,) = result["inputRequests"]
            task = asyncio.ensure_future(ask(web, called(requestState=result["requestState"], inputResponses={key: ACCEPTED})))
            await tool.answered(number)
        tool.say({"id": heard["id"], "result": text("ok")})
        assert "content" in (await task)["result"] and len(states) == 3


@pytest.mark.parametrize("given", [{}, {"other": ACCEPTED}, {"elicitation-1": 7}, None, 5])
async def test_what_is_not_answered_is_asked_again(given: Any) -> None:
    async with stage() as (web, tool):
        task, _ = await begun(web, tool)
        tool.say({"id": 1, "method": "elicitation/create", "params": FORM})
        first = (await task)["result"]
        second = (await ask(web, called(requestState=first["requestState"], inputResponses=given)))["result"]
        assert second["inputRequests"] == first["inputRequests"] and second["requestState"] != first["requestState"]


async def test_answers_without_a_state_begin_a_new_call() -> None:
    async with stage(answers=lambda frame: text("fresh")) as (web, _):
        assert "content" in (await ask(web, called(inputResponses={"who": ACCEPTED})))["result"]


async def test_a_state_is_good_once_for_its_own_request_at_its_own_endpoint() -> None:
    async with stage() as (web, tool):
        task, heard = await begun(web, tool)
        tool.say({"id": 1, "method": "elicitation/create", "params": FORM})
        result = (await task)["result"]
        (key,) = result["inputRequests"]
        right: Any = {"requestState": result["requestState"], "inputResponses": {key: ACCEPTED}}
        wrong = [
            called(**right | {"requestState": result["requestState"] + "-TAMPERED"}),
            called(**right | {"requestState": "made up"}),
            called(**right | {"requestState": 7}),
            called({"other": "arguments"}, **right),
            called(name="other", **right),
            said("prompts/get", {"name": "echo", "arguments": {}} | right),
        ]
        for body in wrong:
            assert (await ask(web, body, 400))["error"]["code"] == -32602
        body = called(**right)
        elsewhere = await web.post(body, accept=BOTH, token=OTHER, **headers(body))
        assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (400, -32602)
        assert not [frame for frame in tool.heard if frame.get("id") == 1 and "result" in frame]

        again = asyncio.ensure_future(ask(web, body))
        await tool.answered(1)
        assert (await ask(web, body, 400))["error"]["code"] == -32602
        tool.say({"id": heard["id"], "result": text("ok")})
        assert "content" in (await again)["result"]


async def test_a_client_that_thinks_too_long_is_told_so_and_the_tool_too() -> None:
    async with stage(limits={"http_ask_seconds": 0.3}) as (web, tool):
        task, _ = await begun(web, tool)
        tool.say({"id": 1, "method": "elicitation/create", "params": FORM})
        result = (await task)["result"]
        assert "error" in await tool.answered(1)
        await settled(lambda: web.room.describe()["stateless"]["parked_rounds"] == 0)
        answer = await ask(web, called(requestState=result["requestState"], inputResponses={}), 400)
        assert answer["error"]["code"] == -32602


async def test_of_parked_rounds_there_are_only_so_many() -> None:
    async with stage(limits={"parked_rounds": 1}) as (web, tool):
        task, _ = await begun(web, tool)
        tool.say({"id": 1, "method": "elicitation/create", "params": FORM})
        assert (await task)["result"]["resultType"] == "input_required"
        task, _ = await begun(web, tool)
        tool.say({"id": 2, "method": "elicitation/create", "params": FORM})
        assert (await task)["error"]["code"] == -32603
        assert "error" in await tool.answered(2)


async def test_a_question_goes_to_the_newer_call_while_the_older_client_thinks() -> None:
    async with stage() as (web, tool):
        first, _ = await begun(web, tool)
        tool.say({"id": 1, "method": "elicitation/create", "params": FORM | {"message": "first"}})
        asked = (await first)["result"]["inputRequests"]
        assert next(iter(asked.values()))["params"]["message"] == "first"
        second, _ = await begun(web, tool)
        tool.say({"id": 2, "method": "elicitation/create", "params": FORM | {"message": "second"}})
        asked = (await second)["result"]["inputRequests"]
        assert next(iter(asked.values()))["params"]["message"] == "second"


@pytest.mark.parametrize(
    ("capabilities", "question", "missing"),
    [
        ({}, ("elicitation/create", FORM), {"elicitation": {}}),
        ({"elicitation": {}}, ("sampling/createMessage", {}), {"sampling": {}}),
        ({"elicitation": {}}, ("elicitation/create", {"mode": "url", "url": "https://x"}), {"elicitation": {"url": {}}}),
        ({"elicitation": {"url": {}}}, ("elicitation/create", FORM), {"elicitation": {}}),
        ({"elicitation": 7}, ("elicitation/create", FORM), {"elicitation": {}}),
    ],
)
@pytest.mark.parametrize("how", ["error", "isError"])
async def test_a_client_is_asked_only_what_it_declared(capabilities: Any, question: tuple[str, Any], missing: Any, how: str) -> None:
    """If the tool cannot do without, the client hears what it lacks: -32021 with HTTP 400."""
    async with stage() as (web, tool):
        asking = asyncio.ensure_future(ask(web, called(capabilities=capabilities), 400))
        heard = await tool.hears("tools/call")
        tool.say({"id": 1, "method": question[0], "params": question[1]})
        assert "error" in await tool.answered(1)
        if how == "error":
            tool.say({"id": heard["id"], "error": {"code": -32603, "message": "cannot"}})
        else:
            tool.say({"id": heard["id"], "result": text("cannot") | {"isError": True}})
        error = (await asking)["error"]
        assert (error["code"], error["data"]) == (-32021, {"requiredCapabilities": missing})


async def test_a_tool_that_can_do_without_is_not_held_up() -> None:
    async with stage() as (web, tool):
        task, heard = await begun(web, tool, capabilities={})
        tool.say({"id": 1, "method": "roots/list"})
        await tool.answered(1)
        tool.say({"id": heard["id"], "result": text("without")})
        assert (await task)["result"]["content"] == text("without")["content"]


async def test_a_question_the_tool_takes_back_is_not_asked() -> None:
    async with stage() as (web, tool):
        task, heard = await begun(web, tool)
        tool.say({"id": 1, "method": "elicitation/create", "params": FORM})
        tool.say({"method": "notifications/cancelled", "params": {"requestId": 1}})
        tool.say({"id": heard["id"], "result": text("never mind")})
        assert (await task)["result"]["content"] == text("never mind")["content"]


async def test_an_answer_that_came_while_the_client_thought_is_waiting_for_it() -> None:
    """The tool gave up and went on without."""
    async with stage() as (web, tool):
        task, heard = await begun(web, tool)
        tool.say({"id": 1, "method": "elicitation/create", "params": FORM})
        result = (await task)["result"]
        tool.say({"method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}})
        tool.say({"id": heard["id"], "result": text("alone")})
        again = await ask(web, called(requestState=result["requestState"], inputResponses={}))
        assert again["result"]["content"] == text("alone")["content"]


async def test_progress_after_a_round_carries_the_new_rounds_token(quick: None) -> None:
    async with stage() as (web, tool):
        task, heard = await begun(web, tool, token="one")
        tool.say({"id": 1, "method": "elicitation/create", "params": FORM})
        result = (await task)["result"]
        (key,) = result["inputRequests"]
        body = called(requestState=result["requestState"], inputResponses={key: ACCEPTED}, token="two")
        async with streamed(web, body) as stream:
            await tool.answered(1)
            token = heard["params"]["_meta"]["progressToken"]
            tool.say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 9}})
            tool.say({"id": heard["id"], "result": text("ok")})
            assert (await stream.frame())["params"] == {"progressToken": "two", "progress": 9}
            assert "result" in await stream.frame()


# == tools of the same era =================================================================================================


class Modern(Tool):
    """A tool that knows revision 2026-07-28 only."""

    def _react(self, frame: dict[str, Any]) -> None:
        match frame.get("method"):
            case "initialize":
                self.say({"id": frame["id"], "error": {"code": -32022, "message": "no", "data": {"supported": [REVISION]}}})
            case "server/discover":
                about = {
                    "supportedVersions": [REVISION],
                    "capabilities": {"tools": {"listChanged": True}},
                    "resultType": "complete",
                }
                self.say({"id": frame["id"], "result": about})
            case "subscriptions/listen":
                tag = {"_meta": {SUBSCRIPTION_KEY: frame["id"]}}
                self.say({"method": "notifications/subscriptions/acknowledged", "params": {"notifications": {}} | tag})
            case _:
                super()._react(frame)
        self.news.set()


async def test_two_of_one_era_hear_each_others_own_words() -> None:
    """The client's envelope reaches the tool, its question keeps its key, and its state comes back within one of ours."""
    async with served() as web:
        tool = Modern(web.broker)
        task, heard = await begun(web, tool)
        meta = heard["params"]["_meta"]
        assert meta[CLIENT_KEY]["name"] == "test" and meta[CAPABILITIES_KEY] == ALL and ASKER not in meta
        asked = {"who": {"method": "elicitation/create", "params": FORM}}
        tool.say({"id": heard["id"], "result": {"resultType": "input_required", "inputRequests": asked, "requestState": "its own"}})
        result = (await task)["result"]
        assert result["inputRequests"] == asked and result["requestState"] != "its own"
        task, heard = await begun(web, tool, requestState=result["requestState"], inputResponses={"who": ACCEPTED})
        assert heard["params"]["requestState"] == "its own" and heard["params"]["inputResponses"] == {"who": ACCEPTED}
        tool.say({"id": heard["id"], "result": text("Hello") | {"resultType": "complete"}})
        assert (await task)["result"]["content"] == text("Hello")["content"]
        bad = called(requestState=result["requestState"] + "x", inputResponses={"who": ACCEPTED})
        assert (await ask(web, bad, 400))["error"]["code"] == -32602
        own = called(requestState="its own", inputResponses={"who": ACCEPTED})
        assert (await ask(web, own, 400))["error"]["code"] == -32602


async def test_a_question_without_a_state_stays_without() -> None:
    async with served() as web:
        tool = Modern(web.broker)
        task, heard = await begun(web, tool)
        asked = {"who": {"method": "elicitation/create", "params": FORM}}
        tool.say({"id": heard["id"], "result": {"resultType": "input_required", "inputRequests": asked}})
        assert "requestState" not in (await task)["result"]


# == the end ===============================================================================================================


async def test_at_the_servers_end_nobody_is_left_waiting() -> None:
    """A call in flight hears that the server ends; a parked round is over."""
    async with stage() as (web, tool):
        parked, _ = await begun(web, tool)
        tool.say({"id": 1, "method": "elicitation/create", "params": FORM})
        await parked
        flying, _ = await begun(web, tool)
        await era(web).stop()
        assert (await flying)["error"]["code"] == -32603
        assert not web.broker.endpoints["signed:home"].consumers


async def test_a_draining_server_takes_no_new_requests() -> None:
    async with stage() as (web, _):
        web.broker.drain()
        answer = await ask(web, called(), 503)
        assert answer["error"]["code"] not in range(-32099, -31999)


async def test_an_envoy_that_was_sent_away_says_so() -> None:
    async with stage() as (web, tool):
        task, _ = await begun(web, tool)
        (consumer,) = web.broker.endpoints["signed:home"].consumers
        consumer.link.close(1008, "policy")
        consumer.link.close(1008, "policy")
        assert (await task)["error"]["code"] == -32603


async def test_a_drain_does_not_wait_for_a_person() -> None:
    """Whoever is asked may take minutes; the tool hears that nobody waits any more."""
    async with stage() as (web, tool):
        task, heard = await begun(web, tool)
        tool.say({"id": 1, "method": "elicitation/create", "params": FORM})
        await task
        assert web.broker.in_flight == 1
        web.broker.drain()
        assert web.broker.in_flight == 0
        assert (await tool.hears("notifications/cancelled"))["params"]["requestId"] == heard["id"]
