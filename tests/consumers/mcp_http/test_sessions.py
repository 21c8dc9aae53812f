"""Sessions over HTTP, as clients of revisions 2024-11-05 to 2025-11-25 see them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from consumers.web import BOTH, CODEC, EVENTS, JSON, OTHER, TOKEN, Tool, call, request, served, text
from running import BOUND, KEY

from mcp_endpoint.consumers.mcp_http import sessions


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
        await until(lambda: not web.room.sessions._last_data)


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
        tool.provider.receive(tool.provider, frame, 0.0, True)
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
        assert await web.begin(token=CODEC.make_signed("home", "device"))
        assert (await web.post(request(0, "initialize", {}), token=CODEC.make_signed("home", "tool"))).status_code == 403


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
