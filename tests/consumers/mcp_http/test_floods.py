"""What one endpoint's clients open and do not read, and what it costs the others: nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from consumers.mcp_http.test_stateless import FORM, ask, called, headers, said, stage
from consumers.web import BOTH, EVENTS, JSON, OTHER, TOKEN, Tool, Web, call, request, served, text
from running import BOUND

SMALL = 4 * 1024
"""Bytes a client's socket takes, so that little is enough to fill it."""


@asynccontextmanager
async def deaf(web: Web, session: str, token: str = TOKEN, body: Any = None, **more: str) -> AsyncIterator[socket.socket]:
    """A stream whose client reads the head of the answer and nothing more: of a session, or of the request `body`."""
    named = web.headers(session, BOTH if body else EVENTS, token, more)
    content = json.dumps(body).encode() if body else b""
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items()) + f"content-length: {len(content)}\r\n"
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        verb = "POST" if body else "GET"
        async with asyncio.timeout(BOUND):
            await loop.sock_connect(peer, ("127.0.0.1", web.server.port))
            await loop.sock_sendall(peer, f"{verb} /mcp HTTP/1.1\r\nHost: 127.0.0.1:{web.server.port}\r\n{head}\r\n".encode() + content)
            got = b""
            while b"\r\n\r\n" not in got:
                got += await loop.sock_recv(peer, 1)
            assert got.startswith(b"HTTP/1.1 200"), got
        yield peer


class Reporter(Tool):
    """A tool whose resources may be subscribed to."""

    def _react(self, frame: dict[str, Any]) -> None:
        if frame.get("method") != "initialize":
            super()._react(frame)
            return
        had = {"tools": {}, "resources": {"subscribe": True}}
        about = {"protocolVersion": "2025-11-25", "capabilities": had, "serverInfo": {"name": "reporter", "version": "1"}}
        self.say({"id": frame["id"], "result": about})


async def test_streams_nobody_reads_cost_another_endpoint_nothing() -> None:
    """Four streams that are not read, and a tool that tells them much: what another endpoint's tool says reaches its own clients."""
    async with served(limits={"http_replay_bytes": 200_000, "http_answer_bytes": 100_000}) as web:
        loud, quiet = Tool(web.broker), Tool(web.broker, endpoint="away")
        quiet.answers = lambda frame: text("here") if frame.get("method") == "tools/call" else None
        bystander = await web.begin(token=OTHER)
        deafs = [await web.begin() for _ in range(4)]
        async with deaf(web, deafs[0]), deaf(web, deafs[1]), deaf(web, deafs[2]), deaf(web, deafs[3]):
            store = web.room.sessions.store
            for number in range(40):
                loud.say({"method": "notifications/message", "params": {"level": "info", "data": f"{number}" + "x" * 90_000}})
                assert 0 <= store.used <= store.most
                answer: Any = await web.post(call(number), session=bystander, token=OTHER, accept=(JSON, EVENTS)[number % 2])
                assert answer.status_code == 200 and b"here" in answer.content
            assert store.held_by("signed:away") < 100_000


async def test_a_subscription_nobody_reads_keeps_no_more_than_there_is_room_for() -> None:
    async with served(limits={"http_replay_bytes": 200_000, "http_answer_bytes": 100_000}) as web:
        loud = Reporter(web.broker)
        loud.answers = lambda frame: {} if frame.get("method") == "resources/subscribe" else None
        body = said("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["file:///a"]}})
        store, counted = web.room.sessions.store, []
        async with deaf(web, "", body=body, **headers(body)):
            for number in range(40):
                about = {"uri": "file:///a", "_meta": {"n": f"{number}" + "x" * 90_000}}
                loud.say({"method": "notifications/resources/updated", "params": about})
                counted.append(store.used)
                assert 0 <= store.used <= store.most
            assert max(counted) > 90_000
        async with asyncio.timeout(BOUND):
            while store.used:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)


async def test_progress_nobody_reads_keeps_no_more_than_there_is_room_for() -> None:
    async with served(limits={"http_replay_bytes": 200_000, "http_answer_bytes": 100_000}) as web:
        loud = Tool(web.broker)
        body = said("tools/call", {"name": "echo", "arguments": {}}, token="mine")
        store = web.room.sessions.store

        async def talks() -> None:
            token = (await loud.hears("tools/call"))["params"]["_meta"]["progressToken"]
            for number in range(40):
                about = {"progressToken": token, "progress": number, "message": "x" * 90_000}
                loud.say({"method": "notifications/progress", "params": about})
                assert 0 <= store.used <= store.most

        talking = asyncio.ensure_future(talks())
        async with deaf(web, "", body=body, **headers(body)):
            await talking
            id = (await loud.hears("tools/call"))["id"]
            loud.say({"id": id, "result": text("x" * 90_000)})
            assert 0 < store.used <= store.most
        async with asyncio.timeout(BOUND):
            while store.used:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)


async def test_answers_of_a_batch_wait_for_each_other_within_the_room_there_is() -> None:
    async with served(limits={"http_replay_bytes": 200_000, "http_answer_bytes": 100_000}) as web:
        tool = Tool(web.broker)
        session = await web.begin("2025-03-26")
        asked = asyncio.ensure_future(web.post([call(number) for number in range(4)], session=session))
        async with asyncio.timeout(BOUND):
            while len(calls := [frame for frame in tool.heard if frame.get("method") == "tools/call"]) < 4:
                tool.news.clear()
                await tool.news.wait()
        store = web.room.sessions.store
        for frame in calls:
            tool.say({"id": frame["id"], "result": text("x" * 90_000)})
            assert 0 < store.used <= store.most
        answers = (await asked).json()
        assert sorted(answer["id"] for answer in answers) == [0, 1, 2, 3]
        assert {"result" in answer for answer in answers} == {True, False} and store.used == 0


# Whoever has most gives way


async def test_who_holds_every_session_gives_way_to_another_endpoint_and_takes_none_of_it() -> None:
    async with served(limits={"http_sessions": 3}) as web:
        greedy = [await web.begin() for _ in range(3)]
        async with (
            web.stream(session=greedy[0], accept=EVENTS) as one,
            web.stream(session=greedy[1], accept=EVENTS),
            web.stream(session=greedy[2], accept=EVENTS),
        ):
            await one.event()
            assert (await web.post(request(0, "initialize", {}))).status_code == 503, "all of its own are in use"
            bystander = await web.begin(token=OTHER)
            assert web.sessions == 3
            assert (await web.post(request(0, "initialize", {}))).status_code == 503
            assert (await web.post(request(1, "ping"), session=bystander, token=OTHER)).status_code == 200
        async with asyncio.timeout(BOUND):
            while any(session.busy for session in web.room.sessions._open.values()):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        for _ in range(5):
            await web.begin()
        assert (await web.post(request(1, "ping"), session=bystander, token=OTHER)).status_code == 200


async def test_who_has_every_request_open_gives_way_to_another_endpoint() -> None:
    async with served(limits={"http_requests": 3}) as web:
        sessions, away = [await web.begin() for _ in range(3)], await web.begin(token=OTHER)
        async with (
            web.stream(session=sessions[0], accept=EVENTS) as one,
            web.stream(session=sessions[1], accept=EVENTS),
            web.stream(session=sessions[2], accept=EVENTS) as newest,
        ):
            await one.event(), await newest.event()
            assert (await web.post(request(1, "ping"), session=sessions[0])).status_code == 503
            assert (await web.post(request(1, "ping"), session=away, token=OTHER)).status_code == 200
            assert await newest.event() is None
            reading = asyncio.ensure_future(one.event())
            assert (await web.post(request(2, "ping"), session=away, token=OTHER)).status_code == 200
            assert not reading.done()
            reading.cancel()


async def test_a_call_that_gives_way_hears_503() -> None:
    async with served(limits={"http_requests": 2}) as web:
        tool = Tool(web.broker)
        session, away = await web.begin(), await web.begin(token=OTHER)
        calls = []
        for number in range(2):
            calls.append(asyncio.ensure_future(web.post(call(number), session=session)))
            async with asyncio.timeout(BOUND):
                while sum(frame.get("method") == "tools/call" for frame in tool.heard) <= number:
                    tool.news.clear()
                    await tool.news.wait()
        assert (await web.post(request(1, "ping"), session=away, token=OTHER)).status_code == 200
        assert (await calls[1]).status_code == 503
        for frame in [frame for frame in tool.heard if frame.get("method") == "tools/call"]:
            tool.say({"id": frame["id"], "result": text("first")})
        assert (await calls[0]).json()["result"] == text("first")


async def test_who_has_every_subscription_gives_way_to_another_endpoint() -> None:
    async with served(limits={"http_streams": 2}) as web:
        Tool(web.broker), Tool(web.broker, endpoint="away")
        body = said("subscriptions/listen", {"notifications": {}})
        async with (
            web.stream(body, session="", **headers(body)) as one,
            web.stream(body, session="", **headers(body)) as two,
        ):
            await one.frame(), await two.frame()
            assert (await ask(web, body))["error"]["code"] == -32603
            async with web.stream(body, session="", token=OTHER, **headers(body)) as three:
                assert (await three.frame())["method"] == "notifications/subscriptions/acknowledged"
                assert "result" in await two.frame()


async def test_who_has_every_question_open_gives_way_to_another_endpoint() -> None:
    async with stage(limits={"parked_rounds": 2}) as (web, tool):
        away = Tool(web.broker, endpoint="away")
        for asker, more in ((tool, {}), (tool, {}), (away, {"token": OTHER}), (tool, {})):
            asker.heard.clear()
            asking = asyncio.ensure_future(ask(web, called(), **more))
            await asker.hears("tools/call")
            asker.say({"id": 1, "method": "elicitation/create", "params": FORM})
            answer = await asking
            last = asker is tool and away.heard
            assert ("error" in answer) is bool(last), answer
        assert web.room.describe()["stateless"]["parked_rounds"] == 2
