"""Sessions over HTTP, as clients of revisions 2024-11-05 to 2025-11-25 see them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from consumers.web import BOTH, DOORS, EVENTS, JSON, OTHER, TOKEN, Tool, Web, call, request, served, text
from running import BOUND, KEY

from mcp_endpoint.consumers.mcp_http import sessions, streams


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every POST whose answer is not there at once becomes a stream."""
    monkeypatch.setattr(sessions, "QUICK_SECONDS", 0.05)


async def until(holds: Any) -> None:
    """Wait for something that no event tells."""
    async with asyncio.timeout(BOUND):
        while not holds():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)


# The life of a session


async def test_what_all_sessions_are_told_is_read_and_kept_once() -> None:
    """A tool that tells a thousand sessions a megabyte must not stop the server for a second."""
    async with served() as web:
        tool = Tool(web.broker)
        sessions_ = [await web.begin() for _ in range(3)]
        async with web.stream(session=sessions_[0], accept=EVENTS) as stream:
            assert await stream.event() == ""
            tool.say({"method": "notifications/message", "params": {"level": "info", "data": "x" * 90_000}})
            kept = {id(web.room.sessions._open[session].own_stream()._kept[-1].rest) for session in sessions_}
            assert len(kept) == 1
            assert (await stream.frame())["params"]["data"] == "x" * 90_000
        await until(lambda: not web.room.sessions._told)


async def test_a_session_lists_calls_and_ends() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        tool.answers = lambda frame: text(frame["params"]["arguments"]["said"]) if frame.get("method") == "tools/call" else None
        session = await web.begin()
        assert len(session) >= 32 and session.isascii() and session.isprintable()
        listed = await web.post(request(1, "tools/list"), session=session)
        assert [one["name"] for one in listed.json()["result"]["tools"]] == ["echo"]
        answer = await web.post(call("a", said="你好"), session=session)
        assert answer.headers["content-type"] == JSON
        assert answer.json() == {"jsonrpc": "2.0", "id": "a", "result": text("你好")}
        gone = await web.client.delete("/mcp", headers=web.headers(session, JSON, TOKEN, {}))
        assert (gone.status_code, gone.content) == (204, b"")
        for answer in (
            await web.post(request(2, "ping"), session=session),
            await web.client.delete("/mcp", headers=web.headers(session, JSON, TOKEN, {})),
            await web.client.get("/mcp", headers=web.headers(session, EVENTS, TOKEN, {})),
        ):
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == -32600
        assert web.sessions == 0 and web.broker.consumers == 0


async def test_the_payload_passes_as_it_came() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        asked = asyncio.create_task(
            web.post(
                b'{"jsonrpc":"2.0","id":9007199254740993,"method":"tools/call","params":{"name":"echo","arguments":{"x":1.00}}}',
                session=session,
            )
        )
        number = (await tool.hears("tools/call"))["id"]
        frame = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[],"structuredContent":{"n":1.00,"b":12345678901234567890123}}}' % number
        tool.provider.says(tool.provider, frame, 0.0, True)
        assert b'"id":9007199254740993' in (await asked).content
        assert b'{"n":1.00,"b":12345678901234567890123}' in (await asked).content


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_every_revision_of_the_era_gets_itself(version: str) -> None:
    async with served() as web:
        Tool(web.broker)
        session = await web.begin(version)
        assert (await web.post(request(1, "ping"), session=session, mcp_protocol_version=version)).json()["result"] == {}


async def test_a_session_is_bound_to_what_its_token_opened() -> None:
    async with served() as web:
        session = await web.begin()
        assert (await web.post(request(1, "ping"), session=session)).status_code == 200
        assert (await web.post(request(1, "ping"), session=session, path="/mcp/home")).status_code == 200
        for more in ({"token": OTHER}, {"path": "/mcp/home/desk"}, {"path": "/mcp/home", "token": KEY}):
            answer = await web.post(request(1, "ping"), session=session, **more)
            assert answer.status_code == 404


async def test_two_sessions_of_one_endpoint_do_not_hear_each_other() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        tool.answers = lambda frame: text(str(frame["params"]["arguments"]["n"])) if frame.get("method") == "tools/call" else None
        one, two = await web.begin(), await web.begin()
        answers = await asyncio.gather(*(web.post(call(1, n=n), session=(one, two)[n % 2]) for n in range(2)))
        assert [answer.json()["result"] for answer in answers] == [text("0"), text("1")]


async def test_without_a_session_only_initialize_is_answered() -> None:
    async with served() as web:
        answer = await web.post(request(1, "tools/list"))
        assert answer.status_code == 400 and "Mcp-Session-Id" in answer.json()["error"]["message"]
        assert (await web.post(request(1, "tools/list"), session="nonsense")).status_code == 404
        assert (await web.client.get("/mcp", headers=web.headers("", EVENTS, TOKEN, {}))).status_code == 400


async def test_an_unknown_revision_is_400_and_none_is_none() -> None:
    async with served() as web:
        session = await web.begin()
        assert (await web.post(request(1, "ping"), session=session)).status_code == 200
        for version in ("1999-01-01", "nonsense", "2026-07-28"):
            answer = await web.post(request(1, "ping"), session=session, mcp_protocol_version=version)
            assert answer.status_code == 400 and "2025-11-25" in answer.json()["error"]["message"]


async def test_initialize_may_be_said_again_within_a_session() -> None:
    async with served() as web:
        session = await web.begin()
        about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "again", "version": "1"}}
        answer = await web.post(request(5, "initialize", about), session=session, mcp_protocol_version="nonsense")
        assert answer.json()["result"]["protocolVersion"] == "2025-06-18"
        assert answer.headers["mcp-session-id"] == session and web.sessions == 1


@pytest.mark.parametrize("stale", ["session-of-before-the-restart", "ended", "another endpoint's", "another label's"])
async def test_initialize_begins_a_session_whatever_stale_id_comes_with_it(stale: str) -> None:
    """A client that outlived its session, because the server was restarted, sends the old id with its new `initialize`."""
    async with served() as web:
        more = {"another endpoint's": {"token": OTHER}, "another label's": {"path": "/mcp/home/desk"}}.get(stale, {})
        id = await web.begin(**more) if more or stale == "ended" else stale
        if stale == "ended":
            await web.client.delete("/mcp", headers=web.headers(id, JSON, TOKEN, {}))
        for answer in (
            await web.post(request(1, "tools/list"), session=id),
            await web.client.delete("/mcp", headers=web.headers(id, JSON, TOKEN, {})),
            await web.client.get("/mcp", headers=web.headers(id, EVENTS, TOKEN, {})),
        ):
            assert answer.status_code == 404
        about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "again", "version": "1"}}
        answer = await web.post(request(5, "initialize", about), session=id, mcp_protocol_version="2025-06-18")
        assert answer.json()["result"]["protocolVersion"] == "2025-06-18"
        fresh = answer.headers["mcp-session-id"]
        assert fresh != id
        assert (await web.post(request(6, "ping"), session=fresh)).status_code == 200
        if more:
            assert (await web.post(request(6, "ping"), session=id, **more)).status_code == 200, "whose it is notices nothing"


# What a POST must look like


@pytest.mark.parametrize(
    ("body", "code", "id"),
    [
        (b"{", -32700, None),
        (b"\xff", -32700, None),
        (b"1", -32600, None),
        (b'{"id":1,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","result":{}}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":7}', -32600, None),
        (b'{"jsonrpc":"2.0","result":{}}', -32600, None),
        (b'{"jsonrpc":"2.0","id":7,"method":5}', -32600, 7),
        (b"[]", -32600, None),
        (b"[1", -32700, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"initialize"}]', -32600, None),
        (b'{"jsonrpc":"2.0","method":"initialize"}', -32600, None),
    ],
)
async def test_what_is_no_message_is_400_with_a_json_rpc_error(body: bytes, code: int, id: Any) -> None:
    async with served() as web:
        session = await web.begin()
        answer = await web.post(body, session=session)
        assert answer.status_code == 400
        assert (answer.json()["error"]["code"], answer.json()["id"]) == (code, id)


async def test_only_json_is_taken_and_only_what_the_client_takes_is_given() -> None:
    async with served() as web:
        session = await web.begin()
        assert (await web.post(request(1, "ping"), session=session, content_type="text/plain")).status_code == 415
        assert (await web.post(request(1, "ping"), session=session, content_type="application/json; charset=utf-8")).status_code == 200
        for accept, status in (("text/html", 406), ("*/*", 200), ("application/*;q=0.5", 200), ("", 200)):
            assert (await web.post(request(1, "ping"), session=session, accept=accept)).status_code == status
        answer = await web.client.get("/mcp", headers=web.headers(session, JSON, TOKEN, {}))
        assert answer.status_code == 406
        for method in ("PUT", "PATCH", "HEAD"):
            answer = await web.client.request(method, "/mcp", headers=web.headers(session, BOTH, TOKEN, {}))
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST, GET, DELETE")


async def test_batches_are_for_their_one_revision() -> None:
    async with served() as web:
        Tool(web.broker).answers = lambda frame: text("done") if frame.get("method") == "tools/call" else None
        old = await web.begin("2025-03-26")
        note = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
        answer = await web.post([request(1, "ping"), note, call(2)], session=old)
        assert sorted(one["id"] for one in answer.json()) == [1, 2]
        assert (await web.post([note, note], session=old)).status_code == 202
        async with web.stream([request(1, "ping"), call(2)], session=old, accept=EVENTS) as stream:
            assert sorted([(await stream.frame())["id"], (await stream.frame())["id"]]) == [1, 2]
            assert await stream.event() is None
        assert (await web.post([request(1, "ping"), request(1, "ping")], session=old)).status_code == 400
        assert (await web.post([request(n, "ping") for n in range(257)], session=old)).status_code == 400
        new = await web.begin("2025-06-18")
        answer = await web.post([request(1, "ping")], session=new)
        assert answer.status_code == 400 and "2025-03-26" in answer.json()["error"]["message"]


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
    monkeypatch.setattr(sessions, "BACKLOG_BYTES", 1_000)
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
    monkeypatch.setattr(sessions, "STREAMS_KEPT", 2)
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


# Bounds


async def test_at_the_most_sessions_the_one_unused_for_longest_gives_way_and_one_in_use_does_not() -> None:
    async with served(limits={"http_sessions": 2}) as web:
        first, second = await web.begin(), await web.begin()
        await web.post(request(1, "ping"), session=first)
        third = await web.begin()
        assert (await web.post(request(1, "ping"), session=second)).status_code == 404
        async with web.stream(session=first, accept=EVENTS) as one, web.stream(session=third, accept=EVENTS) as other:
            await one.event()
            await other.event()
            answer = await web.post(request(0, "initialize", {}))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert web.sessions == 2


async def test_a_session_nobody_uses_ends_and_one_that_is_read_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SWEEP_SECONDS", 0.02)
    async with served(limits={"http_idle_seconds": 0.1}) as web:
        read = await web.begin()
        async with web.stream(session=read, accept=EVENTS) as own:
            await own.event()
            await web.begin()
            await until(lambda: web.sessions == 1)
            assert (await web.post(request(1, "ping"), session=read)).status_code == 200
        await until(lambda: web.sessions == 0)
        assert web.room.sessions._sweep is None


async def test_an_answer_larger_than_an_http_client_gets_is_an_error_that_says_so() -> None:
    async with served(limits={"http_answer_bytes": 2_000}) as web:
        Tool(web.broker).answers = lambda frame: text("x" * 3_000) if frame.get("method") == "tools/call" else None
        session = await web.begin()
        answer = (await web.post(call(1), session=session)).json()
        assert answer["result"]["isError"] is True and "2000" in answer["result"]["content"][0]["text"]


async def test_a_draining_server_begins_no_session_and_ends_its_streams_when_it_stops() -> None:
    async with served() as web:
        session = await web.begin()
        async with web.stream(session=session, accept=EVENTS) as own:
            await own.event()
            web.broker.drain()
            answer = await web.post(request(0, "initialize", {}))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            busy = (await web.post(call(1), session=session)).json()
            assert busy["result"]["isError"] is True
            web.server.should_exit = True
            assert await own.event() is None
    assert web.sessions == 0


async def test_a_call_in_flight_is_answered_before_the_server_stops() -> None:
    async with served() as web:
        tool = Tool(web.broker)
        session = await web.begin()
        asked = asyncio.create_task(web.post(call(1), session=session))
        heard = await tool.hears("tools/call")
        web.server.should_exit = True
        await until(lambda: web.broker.draining)
        tool.say({"id": heard["id"], "result": text("in time")})
        assert (await asked).json()["result"] == text("in time")


async def test_a_call_that_outlasts_the_drain_is_told_so() -> None:
    async with served(settings={"drain_seconds": 0.05}) as web:
        tool = Tool(web.broker)
        session = await web.begin()
        asked = asyncio.create_task(web.post(call(1), session=session))
        await tool.hears("tools/call")
        web.server.should_exit = True
        result = (await asked).json()["result"]
        assert result["isError"] is True and "stopping" in result["content"][0]["text"]


async def test_a_device_token_is_enough_and_a_tools_is_not() -> None:
    async with served() as web:
        assert await web.begin(token=DOORS.make_signed("home", "device"))
        assert (await web.post(request(0, "initialize", {}), token=DOORS.make_signed("home", "tool"))).status_code == 403


async def test_a_session_whose_initialize_is_refused_is_none() -> None:
    async with served(limits={"in_flight_per_endpoint": 1}) as web:
        tool = Tool(web.broker)
        session = await web.begin()
        asked = asyncio.create_task(web.post(call(1), session=session))
        heard = await tool.hears("tools/call")
        answer = await web.post(request(0, "initialize", {}))
        assert (answer.json()["error"]["code"], answer.json()["error"]["data"]["code"]) == (-32603, -32005)
        assert web.sessions == 1
        tool.say({"id": heard["id"], "result": text("done")})
        assert (await asked).json()["result"] == text("done")


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
