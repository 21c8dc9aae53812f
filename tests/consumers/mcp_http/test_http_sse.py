"""HTTP+SSE, as clients of revision 2024-11-05 know it."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from consumers.web import CODEC, EVENTS, JSON, OTHER, TOKEN, Tool, Web, call, request, served, text
from running import BOUND, KEY

ON = {"legacy_sse": True}


async def message(web: Web, address: str, body: Any, token: str = TOKEN, **more: str) -> int:
    """The status of one message posted to the address that a stream named."""
    return (await web.post(body, path=address, token=token, **more)).status_code


@pytest.mark.parametrize("path", ["/sse", "/sse/", "/sse/home", "/sse/home/desk"])
async def test_the_official_client_lists_calls_and_leaves(path: str) -> None:
    from mcp import ClientSession
    from mcp.client.sse import sse_client

    async with served(settings=ON) as web:
        tool = Tool(web.broker)
        tool.answers = lambda frame: text("done") if frame.get("method") == "tools/call" else None
        url = f"http://127.0.0.1:{web.server.port}{path}"
        async with (
            asyncio.timeout(BOUND),
            sse_client(url, headers={"authorization": f"Bearer {TOKEN}"}) as (read, write),
            ClientSession(read, write) as client,
        ):
            await client.initialize()
            assert [one.name for one in (await client.list_tools()).tools] == ["echo"]
            assert (await client.call_tool("echo", {})).content[0].text == "done"  # type: ignore[union-attr]
            assert web.sessions == 1
        async with asyncio.timeout(BOUND):
            while web.sessions:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        assert web.broker.consumers == 0 and web.room.sessions.store.used == 0


async def test_the_first_event_names_where_to_post_and_everything_comes_by_the_stream() -> None:
    async with served(settings=ON) as web:
        tool = Tool(web.broker)
        async with web.client.stream("GET", f"/sse?token={TOKEN}&else=1", headers={"accept": EVENTS}) as response:
            lines = response.aiter_lines()

            async def event() -> tuple[str, str]:
                kind = data = ""
                async with asyncio.timeout(BOUND):
                    async for line in lines:
                        kind = line[7:] if line.startswith("event: ") else kind
                        data = line[6:] if line.startswith("data: ") else data
                        if not line and data:
                            break
                return kind, data

            kind, address = await event()
            assert kind == "endpoint" and urlsplit(address).path == "/messages"
            fields = dict(parse_qsl(urlsplit(address).query))
            assert fields.keys() == {"session_id", "token"} and fields["token"] == TOKEN
            headers = {"content-type": JSON}
            assert (await web.client.post(address, json=call(1), headers=headers)).status_code == 202
            assert (await web.client.post(address, json=call(1), headers=headers)).status_code == 400, "its id is in flight"
            heard = await tool.hears("tools/call")
            tool.say({"method": "notifications/message", "params": {"level": "info", "data": "half"}})
            tool.say({"id": heard["id"], "result": text("done")})
            assert "half" in (await event())[1] and "done" in (await event())[1]
            assert (await web.client.post(address, json=request(1, "ping"), headers=headers)).status_code == 202
            assert json.loads((await event())[1]) == {"jsonrpc": "2.0", "id": 1, "result": {}}


async def test_a_session_is_its_tokens_and_its_transports_own() -> None:
    async with served(settings=ON) as web, web.stream(path="/sse/home", session="", accept=EVENTS) as stream:
        address = await stream.event()
        assert address is not None and address.startswith("/messages/home?session_id=")
        id = address.partition("=")[2]
        assert await message(web, address, request(1, "ping")) == 202
        for other in (address.replace("/home", ""), address):
            assert await message(web, other, request(2, "ping"), OTHER) in (403, 404)
        assert await message(web, address, request(2, "ping"), TOKEN + "x") == 401
        assert await message(web, address, request(2, "ping"), KEY) == 404
        assert await message(web, "/messages/home", request(2, "ping")) == 404
        assert (await web.post(request(2, "ping"), session=id)).status_code == 404
        modern = await web.begin()
        assert await message(web, f"/messages?session_id={modern}", request(2, "ping")) == 404
        assert await message(web, address, [request(2, "ping")]) == 400
        assert await message(web, address, b"{") == 400
        assert await message(web, address, request(2, "ping"), content_type="text/plain") == 415
        page = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "accept": EVENTS}
        assert (await web.client.get("/sse?token=anything", headers=page)).status_code == 403
        assert (await web.post(request(2, "ping"), path="/sse")).status_code == 405
        assert (await web.client.get("/messages", headers=web.headers("", EVENTS, TOKEN, {}))).status_code == 405
        assert (await web.client.get("/sse", headers=web.headers("", JSON, TOKEN, {}))).status_code == 406


async def test_its_sessions_count_with_the_others_and_give_way_as_they_do() -> None:
    async with (
        served(settings=ON, limits={"http_sessions": 2}) as web,
        web.stream(path="/sse", session="", accept=EVENTS) as one,
        web.stream(path="/sse", session="", accept=EVENTS) as two,
    ):
        await one.event(), await two.event()
        answer = await web.client.get("/sse", headers=web.headers("", EVENTS, TOKEN, {}))
        assert answer.status_code == 503
        await web.begin(token=OTHER)
        assert web.sessions == 2
        ends = [asyncio.ensure_future(stream.event()) for stream in (one, two)]
        done, waiting = await asyncio.wait(ends, timeout=BOUND, return_when=asyncio.FIRST_COMPLETED)
        assert [end.result() for end in done] == [None]
        for end in waiting:
            end.cancel()


async def test_it_is_off_unless_it_is_switched_on() -> None:
    async with served() as web:
        assert (await web.client.get("/sse", headers=web.headers("", EVENTS, CODEC.make_signed("home"), {}))).status_code == 404
        assert await message(web, "/messages?session_id=x", request(1, "ping")) == 404
