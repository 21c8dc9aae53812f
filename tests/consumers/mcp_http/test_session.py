"""One session over HTTP: what comes as JSON, what by a stream, and what it keeps for a client that comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from consumers.web import BOTH, EVENTS, JSON, TOKEN, Tool, Web, call, request, served, text
from running import BOUND

from mcp_endpoint.consumers.mcp_http import session as session_module
from mcp_endpoint.consumers.mcp_http import streams


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every POST whose answer is not there at once becomes a stream."""
    monkeypatch.setattr(session_module, "QUICK_SECONDS", 0.05)


async def until(holds: Any) -> None:
    """Wait for something that no event tells."""
    async with asyncio.timeout(BOUND):
        while not holds():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)


# JSON or a stream


async def test_a_client_that_takes_json_only_waits_for_its_answer(impatient: None) -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        asked = asyncio.create_task(web.post(call(1), session=session))
        heard = await tool.hears("tools/call")
        await asyncio.sleep(0.1)
        tool.say({"id": heard["id"], "result": text("late")})
        assert (await asked).headers["content-type"] == JSON
        assert (await asked).json()["result"] == text("late")


async def test_a_client_that_takes_streams_only_gets_one() -> None:
    async with served() as web:
        Tool(web.broker)
        session = await web.begin()
        async with web.stream(request(1, "ping"), session=session, accept=EVENTS) as stream:
            headers = stream.response.headers
            assert headers["content-type"].startswith(EVENTS) and headers["x-accel-buffering"] == "no"
            assert "no-cache" in headers["cache-control"]
            assert (await stream.frame())["result"] == {}
            assert await stream.event() is None
            assert stream.ids == ["1-1", "1-2"]


async def test_a_slow_answer_comes_by_a_stream_that_can_be_resumed(impatient: None) -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        async with web.stream(call(1), session=session) as stream:
            assert await stream.event() == ""
            tool.say({"id": (await tool.hears("tools/call"))["id"], "result": text("slow")})
            assert (await stream.frame())["result"] == text("slow")
            assert await stream.event() is None


async def test_peers_older_than_2025_11_25_see_no_event_without_data(impatient: None) -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin("2025-06-18")
        async with web.stream(call(1), session=session) as stream:
            tool.say({"id": (await tool.hears("tools/call"))["id"], "result": text("slow")})
            first = await stream.event()
            assert first is not None and "slow" in first


async def test_progress_and_log_lines_come_by_the_stream_of_their_call() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        async with web.stream(session=session, accept=EVENTS) as own:
            assert await own.event() == ""
            calls = [asyncio.create_task(_play(web, session, number)) for number in (1, 2)]
            await until(lambda: sum(frame.get("method") == "tools/call" for frame in tool.heard) == 2)
            heard = {frame["params"]["arguments"]["n"]: frame for frame in tool.heard if frame.get("method") == "tools/call"}
            for number, frame in heard.items():
                token = frame["params"]["_meta"]["progressToken"]
                tool.say({"method": "notifications/progress", "params": {"progressToken": token, "progress": number}})
            tool.say({"method": "notifications/message", "params": {"level": "info", "data": "for the newest"}})
            for frame in heard.values():
                tool.say({"id": frame["id"], "result": text("done")})
            one, two = await asyncio.gather(*calls)
            progress = {"jsonrpc": "2.0", "method": "notifications/progress"}
            newest = max(heard, key=lambda number: heard[number]["id"])
            told = {1: [], 2: [], newest: [{"jsonrpc": "2.0", "method": "notifications/message", "params": _told}]}  # type: ignore[var-annotated]
            assert one[0] == progress | {"params": {"progressToken": "t1", "progress": 1}}
            assert two[0] == progress | {"params": {"progressToken": "t2", "progress": 2}}
            assert one[1:-1] == told[1] and two[1:-1] == told[2]
            assert one[-1]["id"] == 1 and two[-1]["id"] == 2


_told = {"level": "info", "data": "for the newest"}


async def _play(web: Web, session: str, number: int) -> list[Any]:
    frames = []
    async with web.stream(call(number, meta={"progressToken": f"t{number}"}, n=number), session=session) as stream:
        while not frames or "id" not in frames[-1]:
            frames.append(await stream.frame())
        assert await stream.event() is None
    return frames


async def test_a_tools_question_comes_by_the_stream_of_its_call_and_its_answer_by_a_post() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin(capabilities={"elicitation": {}})
        async with web.stream(call(1), session=session) as stream:
            heard = await tool.hears("tools/call")
            tool.say({"id": 77, "method": "elicitation/create", "params": {"message": "name?"}})
            asked = await stream.frame()
            assert (asked["method"], asked["params"]) == ("elicitation/create", {"message": "name?"})
            said = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": {"name": "Ada"}}}
            assert (await web.post(said, session=session)).status_code == 202
            assert (await tool.answered(77))["result"]["content"] == {"name": "Ada"}
            tool.say({"id": 78, "method": "elicitation/create", "params": {"message": "no longer"}})
            withdrawn = (await stream.frame())["id"]
            tool.say({"method": "notifications/cancelled", "params": {"requestId": 78}})
            assert (await stream.frame())["params"] == {"requestId": withdrawn}
            tool.say({"id": heard["id"], "result": text("Hello, Ada")})
            assert (await stream.frame())["result"] == text("Hello, Ada")


async def test_a_question_to_a_client_that_takes_json_only_comes_by_the_sessions_own_stream() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin(capabilities={"roots": {}})
        asked = asyncio.create_task(web.post(call(1), session=session))
        heard = await tool.hears("tools/call")
        tool.say({"id": "r", "method": "roots/list"})
        async with web.stream(session=session, accept=EVENTS) as own:
            question = await own.frame()
            assert question["method"] == "roots/list"
            await web.post({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -32601, "message": "none"}}, session=session)
        tool.say({"id": heard["id"], "result": text("done")})
        assert (await asked).json()["result"] == text("done")


# The session's own stream


async def test_what_belongs_to_no_call_comes_by_get_also_if_it_was_said_before() -> None:
    async with served(limits={"list_changed_seconds": 0.01}) as web:
        tool = Tool(web.broker)
        session = await web.begin()
        await web.post(request(1, "tools/list"), session=session)
        tool.names = ("echo", "more")
        tool.say({"method": "notifications/tools/list_changed"})
        async with web.stream(session=session, accept=EVENTS) as own:
            assert (await own.frame())["method"] == "notifications/tools/list_changed"
            tool.say({"method": "notifications/resources/updated", "params": {"uri": "x:y"}})
            assert (await own.frame())["params"] == {"uri": "x:y"}


async def test_what_nobody_fetches_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "BACKLOG_BYTES", 1_000)
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        for number in range(200):
            tool.say({"method": "notifications/resources/updated", "params": {"uri": f"x:{number}"}})
        assert web.room.sessions.store.used < 2_000
        async with web.stream(session=session, accept=EVENTS) as own:
            first = await own.frame()
            assert int(first["params"]["uri"][2:]) > 180


async def test_a_silent_stream_gets_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "COMMENT_SECONDS", 0.02)
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        async with web.stream(session=session, accept=EVENTS) as own:
            assert await own.event() == ""
            await asyncio.sleep(0.1)
            tool.say({"method": "notifications/resources/updated", "params": {"uri": "x:y"}})
            await own.frame()
            assert own.comments >= 1


async def test_the_newest_of_several_connections_is_spoken_to_and_five_are_one_too_many() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        async with web.stream(session=session, accept=EVENTS) as first:
            assert await first.event() == ""
            async with (
                web.stream(session=session, accept=EVENTS),
                web.stream(session=session, accept=EVENTS),
                web.stream(session=session, accept=EVENTS),
                web.stream(session=session, accept=EVENTS) as fifth,
            ):
                assert await first.event() is None
                tool.say({"method": "notifications/resources/updated", "params": {"uri": "x:1"}})
                assert (await fifth.frame())["params"] == {"uri": "x:1"}


# Resumption


async def test_who_hangs_up_has_not_cancelled_and_comes_back_for_the_answer() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        async with web.stream(call(1, meta={"progressToken": 1}), session=session) as stream:
            heard = await tool.hears("tools/call")
            tool.say({"method": "notifications/progress", "params": {"progressToken": heard["id"], "progress": 1}})
            await stream.frame()
            last = stream.ids[-1]
        await until(lambda: web.room.describe()["streams"] == 0)
        tool.say({"method": "notifications/progress", "params": {"progressToken": heard["id"], "progress": 2}})
        tool.say({"id": heard["id"], "result": text("kept")})
        assert not [frame for frame in tool.heard if frame.get("method") == "notifications/cancelled"]
        for _ in range(2):  # a second resumption gets the same
            async with web.stream(session=session, accept=EVENTS, last_event_id=last) as again:
                assert (await again.frame())["params"]["progress"] == 2
                assert (await again.frame())["result"] == text("kept")
                assert await again.event() is None


async def test_a_resumed_stream_goes_on_live() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        async with web.stream(session=session, accept=EVENTS) as own:
            assert await own.event() == ""
            tool.say({"method": "notifications/resources/updated", "params": {"uri": "x:1"}})
            await own.frame()
        async with web.stream(session=session, accept=EVENTS, last_event_id="0-1") as again:
            assert (await again.frame())["params"] == {"uri": "x:1"}
            tool.say({"method": "notifications/resources/updated", "params": {"uri": "x:2"}})
            assert (await again.frame())["params"] == {"uri": "x:2"}
            assert again.ids == ["0-2", "0-3"]


@pytest.mark.parametrize("last", ["9-1", "0-99", "nonsense", "-1", ""])
async def test_an_event_nobody_said_is_not_resumed_from(last: str) -> None:
    async with served() as web:
        session = await web.begin()
        answer = await web.client.get("/mcp", headers=web.headers(session, EVENTS, TOKEN, {"last-event-id": last}))
        assert answer.status_code == 400


async def test_events_kept_for_a_resumption_are_bounded_and_the_least_used_session_forgets_first() -> None:
    async with served(limits={"http_replay_bytes": 20_000}) as web:
        tool = Tool(web.broker)
        kept = []
        for _ in range(4):
            session = await web.begin()
            async with web.stream(call(1), session=session, accept=EVENTS) as stream:
                heard = await tool.hears("tools/call")
                tool.heard.clear()
                tool.say({"id": heard["id"], "result": text("x" * 7_000)})
                await stream.frame()
                kept.append((session, stream.ids[0]))
        assert web.room.sessions.store.used <= 20_000
        answers = [
            (await web.client.get("/mcp", headers=web.headers(session, EVENTS, TOKEN, {"last-event-id": last}))).status_code
            for session, last in kept
        ]
        assert answers[0] == 400 and answers[-1] == 200


async def test_a_session_keeps_so_many_finished_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "STREAMS_KEPT", 2)
    async with served() as web:
        session = await web.begin()
        for number in range(1, 6):
            async with web.stream(request(number, "ping"), session=session, accept=EVENTS) as stream:
                await stream.frame()
                await stream.event()
        answers = [
            (await web.client.get("/mcp", headers=web.headers(session, EVENTS, TOKEN, {"last-event-id": f"{number}-1"}))).status_code
            for number in range(1, 6)
        ]
        assert answers[:2] == [400, 400] and answers[-1] == 200


# Cancelling, failing, ending


async def test_a_cancelled_call_ends_its_post_and_its_tool_is_told() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        asked = asyncio.create_task(web.post(call("c"), session=session, accept=BOTH))
        heard = await tool.hears("tools/call")
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c", "reason": "enough"}}
        assert (await web.post(note, session=session)).status_code == 202
        assert (await asked).json()["error"]["code"] == -32800
        assert (await tool.hears("notifications/cancelled"))["params"] == {"requestId": heard["id"], "reason": "enough"}


async def test_a_tool_that_is_not_there_is_a_result_that_says_so() -> None:
    """Design §3.3: on HTTP our errors become isError results for tools/call, never codes in -32000…-32099."""
    async with served() as web:
        session = await web.begin()
        answer = (await web.post(call(1), session=session)).json()
        assert answer["result"]["isError"] is True
        assert "工具端未连接" in answer["result"]["content"][0]["text"] and "never connected" in answer["result"]["content"][0]["text"]
        tool = Tool(web.broker)
        other = await web.begin()
        asked = asyncio.create_task(web.post(request(2, "prompts/get", {"name": "x"}), session=other))
        await tool.hears("prompts/get")
        tool.leave()
        error = (await asked).json()["error"]
        assert (error["code"], error["data"]["code"]) == (-32603, -32003)


async def test_a_tools_own_errors_pass_as_they_are() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        asked = asyncio.create_task(web.post(call(1), session=session))
        error = {"code": -32042, "message": "mine", "data": {"source": "broker?"}}
        tool.say({"id": (await tool.hears("tools/call"))["id"], "error": error})
        assert (await asked).json()["error"] == error


async def test_a_session_that_ends_answers_what_it_owes_and_its_streams_end() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        asked = asyncio.create_task(web.post(call(1), session=session))
        await tool.hears("tools/call")
        async with web.stream(session=session, accept=EVENTS) as own:
            assert await own.event() == ""
            await web.client.delete("/mcp", headers=web.headers(session, JSON, TOKEN, {}))
            assert await own.event() is None
        assert (await asked).json()["error"]["code"] == -32600
        await tool.hears("notifications/cancelled")
        assert web.room.sessions.store.used == 0


async def test_the_endpoint_may_end_a_session_that_sends_nonsense() -> None:
    async with served(limits={"bad_frames": 3}) as web:
        Tool(web.broker)
        session = await web.begin()
        twice = b'{"jsonrpc":"2.0","method":"notifications/cancelled","method":"notifications/cancelled","params":{"requestId":1}}'
        answers = [(await web.post(twice, session=session)).status_code for _ in range(4)]
        assert answers == [202, 202, 202, 404]


async def test_an_id_in_flight_is_not_taken_twice() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        first = asyncio.create_task(web.post(call(1), session=session))
        heard = await tool.hears("tools/call")
        assert (await web.post(call(1), session=session)).status_code == 400
        tool.say({"id": heard["id"], "result": text("once")})
        assert (await first).json()["result"] == text("once")
        again = asyncio.create_task(web.post(request(1, "ping"), session=session))
        await until(lambda: len(tool.heard) > 4 or again.done())
        again.cancel()


async def test_what_the_endpoint_says_to_nobody_in_particular_harms_nobody() -> None:
    async with served() as web:
        id = await web.begin()
        session = web.room.sessions._open[id]
        for frame in (
            b"{",
            b'{"jsonrpc":"2.0","error":{}}',
            b'{"jsonrpc":"2.0","id":99,"result":{}}',
            b'{"jsonrpc":"2.0","id":null,"result":{}}',
        ):
            session.send(frame)
        session.send(b'{"jsonrpc":"2.0","id":99,', b'"result":{}}')
        session.ping()
        assert (await web.post(request(1, "ping"), session=id)).json()["result"] == {}
        session.close(1001, "going away")
        session.close(1001, "again")
        session.send(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}')
        assert web.sessions == 0 and web.broker.consumers == 0 and web.room.sessions.store.used == 0
        web.room.sessions.touch(session)
        assert web.sessions == 0


async def test_a_post_whose_session_ends_while_it_is_said_is_answered() -> None:
    async with served(limits={"bad_frames": 1}) as web:
        session = await web.begin("2025-03-26")
        twice = '{"jsonrpc":"2.0","method":"notifications/cancelled","method":"notifications/cancelled","params":{"requestId":1}}'
        body = f'[{{"jsonrpc":"2.0","id":1,"method":"ping"}},{twice},{{"jsonrpc":"2.0","id":2,"method":"ping"}}]'
        answers = {one["id"]: one for one in (await web.post(body.encode(), session=session)).json()}
        assert answers[1]["result"] == {} and answers[2]["error"]["code"] == -32600
        assert web.sessions == 0
