"""The route /mcp: who is accepted, to which endpoint, and which era answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from consumers.web import BOTH, CODEC, JSON, OTHER, TOKEN, Tool, Web, call, request, served, text
from running import BOUND, KEY, get
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_endpoint.access.admission import Authenticator
from mcp_endpoint.asgi import Bodies
from mcp_endpoint.consumers.mcp_http.caller import Caller
from mcp_endpoint.consumers.mcp_http.route import McpHttp, OpenRequest, is_stateless
from mcp_endpoint.settings.schema import Config, Limits
from mcp_endpoint.settings.schema import Server as Settings

HELLO = request(0, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}})


async def shown(web: Web, path: str, token: str) -> list[str]:
    """The names of the tools a client sees there."""
    session = await web.begin(path=path, token=token)
    listed = await web.post(request(1, "tools/list"), session=session, path=path, token=token)
    return [one["name"] for one in listed.json()["result"]["tools"]]


# Who and where


async def test_the_token_says_which_endpoint_and_the_path_may_say_it_again() -> None:
    async with served() as web:
        Tool(web.broker, "lamp")
        Tool(web.broker, "fan", endpoint="away")
        for path in ("/mcp", "/mcp/", "/mcp/home", "/mcp/home/"):
            assert await shown(web, path, TOKEN) == ["lamp"]
        assert await shown(web, "/mcp/away", OTHER) == ["fan"]
        answer = await web.post(HELLO, path="/mcp/away")
        assert answer.status_code == 403 and "另" not in answer.text and "another endpoint" in answer.json()["error"]


async def test_a_label_shows_the_tools_of_one_provider_under_their_own_names() -> None:
    async with served() as web:
        desk, shelf = Tool(web.broker, "lamp", "shared"), Tool(web.broker, "book", "shared", label="shelf")
        for tool in (desk, shelf):
            tool.answers = lambda frame, label=tool.label: text(label) if frame.get("method") == "tools/call" else None  # type: ignore[misc]
        assert len(await shown(web, "/mcp/home", TOKEN)) == 4
        assert await shown(web, "/mcp/home/shelf", TOKEN) == ["book", "shared"]
        for label in ("shelf", "desk"):
            path = f"/mcp/home/{label}/"
            session = await web.begin(path=path)
            answer = await web.post(call(1, "shared"), session=session, path=path)
            assert answer.json()["result"] == text(label)
        assert await shown(web, "/mcp/home/nobody", TOKEN) == []


async def test_the_token_may_come_in_the_address() -> None:
    async with served() as web:
        headers = {"content-type": JSON, "accept": JSON}
        answer = await web.client.post(f"/mcp?token={TOKEN}", content=json.dumps(HELLO), headers=headers)
        assert answer.status_code == 200
        assert (await web.client.post("/mcp?token=friend", content=json.dumps(HELLO), headers=headers)).status_code == 200


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE", "PUT"])
async def test_without_a_good_token_nothing_is_said(method: str) -> None:
    async with served() as web:
        shown = (({}, "no token"), ({"authorization": f"Bearer {TOKEN}x"}, "bad token"), ({"authorization": "Basic eDp5"}, "no token"))
        for headers, error in shown:
            answer = await web.client.request(method, "/mcp", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"] == error
        for path in ("/mcp/home/desk/more", "/mcphome"):
            assert (await web.client.request(method, path, headers={"authorization": f"Bearer {TOKEN}"})).status_code == 404


async def test_a_token_of_free_choice_comes_in_from_here_only_as_on_the_websocket() -> None:
    async with served() as web:
        assert await web.begin(token="friend")
        assert (await web.post(HELLO, token="friend", x_forwarded_for="203.0.113.9")).status_code == 401


async def test_the_servers_key_opens_every_endpoint_that_is_named() -> None:
    async with served() as web:
        Tool(web.broker, "lamp")
        answer = await web.post(HELLO, token=KEY)
        assert answer.status_code == 403 and "/mcp/ENDPOINT" in answer.json()["message"]
        for path in ("/mcp/home", "/mcp/signed:home", "/mcp/home/desk"):
            assert await shown(web, path, KEY) == ["lamp"]
        assert await shown(web, "/mcp/agent:home", KEY) == []
        assert await shown(web, "/mcp/empty", KEY) == []
        friend = await web.begin(token="friend")
        opaque = next(name for name in web.broker.endpoints if name.startswith("opaque:"))
        printed = web.broker.endpoints[opaque].shown
        assert await shown(web, f"/mcp/{printed}", KEY) == []
        assert web.sessions == 7 and friend
        for path in ("/mcp/opaque:friend", "/mcp/server:x", "/mcp/a.b", "/mcp/agent:"):
            assert (await web.post(HELLO, path=path, token=KEY)).status_code == 404
        assert KEY not in json.dumps(web.broker.snapshot(detail=True))


async def test_the_servers_own_endpoints_are_not_found_by_their_printed_name() -> None:
    async with served() as web:
        Tool(web.broker, "inside", endpoint="x")
        web.broker.endpoints["server:y"] = web.broker.endpoints.pop("signed:x")
        web.broker.endpoints["server:y"].shown = "y"
        assert await shown(web, "/mcp/y", KEY) == []
        web.broker.endpoints["signed:x"] = web.broker.endpoints.pop("server:y")


# Web pages


async def test_a_page_from_elsewhere_is_refused_and_one_that_is_allowed_may_read_its_session() -> None:
    async with served(security={"allowed_origins": ("https://app.example.com",)}) as web:
        assert (await web.post(HELLO, origin="https://evil.example")).status_code == 403
        answer = await web.post(HELLO, origin="https://app.example.com")
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "mcp-session-id" in answer.headers["access-control-expose-headers"].lower()
        wanted = {"access-control-request-method": "DELETE", "access-control-request-headers": "authorization,mcp-session-id,mcp-param-x"}
        asked = await web.client.options("/mcp", headers=wanted | {"origin": "https://app.example.com"})
        assert asked.status_code == 200
        assert "DELETE" in asked.headers["access-control-allow-methods"]
        assert "mcp-param-x" in asked.headers["access-control-allow-headers"]


async def test_a_foreign_host_name_is_refused() -> None:
    async with served() as web:
        assert (await web.post(HELLO, host="evil.example")).status_code == 421
        assert (await web.post(HELLO, host="localhost:1")).status_code == 200


# Bodies


async def test_a_body_over_the_limit_is_413_whether_its_length_is_told_or_not() -> None:
    async with served(limits={"consumer_message_bytes": 10_000}) as web:
        session = await web.begin()
        assert (await web.post(call(1, x="y" * 9_000), session=session)).status_code == 200
        answer = await web.post(call(1, x="y" * 11_000), session=session)
        assert answer.status_code == 413 and "consumer_message_bytes" in answer.json()["message"]
        assert answer.headers["connection"] == "close"

        async def pieces() -> Any:
            for _ in range(70):
                yield b"x" * 1_000

        answer = await web.client.post("/mcp", content=pieces(), headers=web.headers(session, JSON, TOKEN, {}))
        assert answer.status_code == 413


async def test_a_body_without_an_end_is_not_read_for_ever() -> None:
    async with served(limits={"consumer_message_bytes": 10_000}) as web, asyncio.timeout(BOUND):
        reader, writer = await asyncio.open_connection("127.0.0.1", web.server.port)
        writer.write(f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9999999\r\n\r\n".encode())
        writer.write(b"x" * 81_000)
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_body_that_does_not_come_is_408() -> None:
    async with served(limits={"body_seconds": 0.2}) as web, asyncio.timeout(BOUND):
        reader, writer = await asyncio.open_connection("127.0.0.1", web.server.port)
        head = f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\nhalf"
        writer.write(head.encode())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_hangs_up_while_it_sends_leaves_nothing_behind() -> None:
    async with served() as web, asyncio.timeout(BOUND):
        _, writer = await asyncio.open_connection("127.0.0.1", web.server.port)
        writer.write(f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\nhalf".encode())
        await writer.drain()
        while not web.server.server_state.tasks:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()
        while web.server.server_state.tasks:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
        assert (await get(web.server.port, "/health")).status == 200


async def test_of_too_many_requests_at_a_time_the_last_hears_503() -> None:
    async with served(limits={"http_requests": 2}) as web:
        session = await web.begin()
        async with web.stream(session=session) as one, web.stream(session=session) as two:
            await one.event()
            assert two.response.status_code == 200
            answer = await web.post(request(1, "ping"), session=session)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert (await web.post(request(1, "ping"), session=session, token=TOKEN + "x")).status_code == 401
            assert (await get(web.server.port, "/health")).status == 200
        async with asyncio.timeout(BOUND):
            while (await web.post(request(1, "ping"), session=session)).status_code == 503:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        assert len(web.room.visits) <= 1


# Eras


def asked(**headers: str) -> Request:
    """A request with these headers."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": raw})


META = b'{"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}'


@pytest.mark.parametrize(
    ("headers", "body", "stateless"),
    [
        ({}, b'{"method":"initialize"}', False),
        ({}, b'{"method":"tools/list"}', False),
        ({}, META, True),
        ({}, META.replace(b"/", rb"\/"), True),
        ({"mcp_protocol_version": "2025-11-25"}, META, True),
        ({"mcp_protocol_version": "2026-07-28"}, b"{", True),
        ({"mcp_protocol_version": "2099-01-01"}, b"", True),
        ({"mcp_protocol_version": "2025-11-25"}, b'{"method":"tools/list"}', False),
        ({"mcp_protocol_version": "nonsense"}, b'{"method":"tools/list"}', False),
        ({"mcp_protocol_version": "2026-07-28", "mcp_session_id": "x"}, META, False),
        ({}, b'{"method":"server/discover"}', True),
        ({}, b'{"method":"tools/list","params":{"_meta":{"progressToken":1}}}', False),
        ({}, b'{"method":"tools/list","params":{"_meta":7}}', False),
        ({}, b'{"method":"tools/list","_meta":{}}', False),
        ({}, b'{"_meta"', False),
    ],
)
def test_the_first_message_says_which_era_it_belongs_to(headers: dict[str, str], body: bytes, stateless: bool) -> None:
    assert is_stateless(asked(**headers), body) is stateless


class Twin:
    """An era that says what it was given."""

    def __init__(self) -> None:
        self.stopped = False

    async def answer(self, request: Request, body: bytes, caller: Caller) -> Response:
        return JSONResponse(
            {"method": request.method, "bytes": len(body), "endpoint": caller.shown, "only": caller.only, "role": caller.role}
        )

    async def stop(self) -> None:
        self.stopped = True

    def describe(self) -> Mapping[str, Any]:
        return {"twins": 1}


async def nowhere(message: Any) -> None:
    """An answer that nobody gets."""


async def test_a_request_of_the_other_era_is_answered_by_it() -> None:
    async with served() as web:
        config = Config(server=Settings(key=KEY), limits=Limits())
        twin = Twin()
        room = McpHttp(web.broker, config.limits, Authenticator(config, CODEC), Bodies(8, BOUND), twin)
        web.server.config.loaded_app = None
        scope = asked(authorization=f"Bearer {TOKEN}", mcp_protocol_version="2026-07-28").scope
        scope |= {"query_string": b"", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "path_params": {"label": "desk"}}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": META, "more_body": False}

        answer = await room.answer(Request(scope, receive), OpenRequest(nowhere))
        assert json.loads(bytes(answer.body)) == {
            "method": "POST",
            "bytes": len(META),
            "endpoint": "home",
            "only": "desk",
            "role": "device",
        }
        await room.start()
        assert room.describe()["stateless"] == {"twins": 1}
        await room.stop()
        assert twin.stopped
        alone = McpHttp(web.broker, config.limits, Authenticator(config, CODEC), Bodies(8, BOUND))
        assert "stateless" not in alone.describe()
        answer = await alone.answer(Request(scope, receive), OpenRequest(nowhere))
        assert answer.status_code == 415  # without that era its requests are seen as the other's
        await alone.stop()


async def test_the_official_client_lists_and_calls_in_every_mode() -> None:
    import httpx2
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client

    async with served() as web:
        Tool(web.broker).answers = lambda frame: text("done") if frame.get("method") == "tools/call" else None
        for mode in ("legacy", "auto"):
            async with httpx2.AsyncClient(headers={"authorization": f"Bearer {TOKEN}", "accept": BOTH}, trust_env=False) as http:
                link = streamable_http_client(f"http://127.0.0.1:{web.server.port}/mcp", http_client=http)
                async with asyncio.timeout(BOUND), Client(link, mode=mode) as client:
                    assert [tool.name for tool in (await client.list_tools()).tools] == ["echo"]
                    answer = await client.call_tool("echo", {})
                    assert answer.content[0].text == "done"  # type: ignore[union-attr]
        assert web.sessions == 0
