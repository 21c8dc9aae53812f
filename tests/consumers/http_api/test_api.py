"""The HTTP API over real MCP servers: tools, servers, errors, fail-over, the request log."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt
import pytest
from consumers.web import Tool, text
from mcp.server import MCPServer
from running import BOUND, KEY, running, settled
from served import served

from mcp_endpoint.consumers.http_api.api import SECRET_NAMES
from mcp_endpoint.consumers.http_api.api import HttpApi as Room
from mcp_endpoint.consumers.http_api.jwt import Bearers
from mcp_endpoint.errors import ConfigError, EndpointError
from mcp_endpoint.serving.server import DrainingServer, create_server
from mcp_endpoint.settings.schema import Api, Config, Limits
from mcp_endpoint.settings.schema import Server as Settings

SECRET = "0123456789abcdef0123456789abcdefXYZ"
TOKEN = Bearers(SECRET, "HS256").make("tester", 3600)


def server_of(said: str, *more: str) -> MCPServer:
    server = MCPServer("far")

    @server.tool(annotations={"readOnlyHint": True})  # type: ignore[arg-type]
    def greet(name: str) -> str:
        return f"{said} greets {name}"

    for tool in more:
        server.tool(name=tool)(lambda: f"{said} did")

    @server.tool()
    def fail() -> str:
        raise ValueError("it broke")

    return server


class Front:
    """The API alone on its port, a client of it, and its request log."""

    def __init__(self, url: str, client: httpx2.AsyncClient, log: Path, server: DrainingServer) -> None:
        self.url = url
        self.client = client
        self.log = log
        self.server = server

    async def get(self, path: str, token: str | None = TOKEN, **options: Any) -> httpx2.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self.client.get(self.url + path, headers=headers, **options)

    async def call(self, method: str, args: dict[str, Any] | None = None, server: str | None = None, **options: Any) -> httpx2.Response:
        body: dict[str, Any] = {"method": method, "args": args or {}} | ({} if server is None else {"server": server})
        options.setdefault("json", body)
        headers = {"Authorization": f"Bearer {TOKEN}"} | options.pop("headers", {})
        return await self.client.post(f"{self.url}/tools", headers=headers, **options)

    async def up(self, count: int) -> None:
        async with asyncio.timeout(BOUND):
            while (await self.get("/servers")).json()["up"] != count:
                pass

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]


@asynccontextmanager
async def front(
    root: Path, *urls: str, standalone: bool = True, up: int | None = None, limits: Limits | None = None
) -> AsyncIterator[Front]:
    api = Api(secret=SECRET, urls=urls, request_log="api.jsonl")
    config = Config(api=api, limits=limits or Limits())
    async with (
        running(config, root=root, standalone="api" if standalone else "") as server,
        httpx2.AsyncClient(timeout=BOUND, trust_env=False) as client,
    ):
        found = Front(f"http://127.0.0.1:{server.port}" + ("" if standalone else "/api"), client, root / "api.jsonl", server)
        await found.up(len(urls) if up is None else up)
        yield found


def said(response: httpx2.Response) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json()["result"]["content"][0]["text"]
    return text


def is_error(response: httpx2.Response, code: int) -> str:
    assert response.status_code == code, response.text
    error = response.json()["error"]
    assert set(response.json()) == {"error"} and set(error) == {"message", "code"} and error["code"] == code
    return str(error["message"])


# -- tools ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.row("H1", "H2", "H3", "H4", "H8")
async def test_a_tool_is_found_wherever_it_is_and_called(tmp_path: Path) -> None:
    async with (
        served(server_of("one", "only_one").sse_app()) as (first, _),
        served(server_of("two").streamable_http_app()) as (second, _),
    ):
        urls = f"http://127.0.0.1:{first}/sse", f"http://127.0.0.1:{second}/mcp"
        async with front(tmp_path, *urls) as api:
            assert said(await api.call("only_one")) == "one did"
            assert {said(await api.call("greet", {"name": "you"})) for _ in range(2)} == {"one greets you", "two greets you"}
            listed = (await api.get("/tools/list")).json()
            assert listed["servers"] == {urls[0]: ["greet", "only_one", "fail"], urls[1]: ["greet", "fail"]}
            assert {tool["name"]: tool["servers"] for tool in listed["tools"]} == {
                "greet": list(urls),
                "only_one": [urls[0]],
                "fail": list(urls),
            }
            assert listed["total"] == 3
            assert listed["tools"][0]["inputSchema"]["required"] == ["name"]
            filtered = (await api.get("/tools/list", params={"server": urls[1]})).json()
            assert list(filtered["servers"]) == [urls[1]] and filtered["total"] == 2
            servers = (await api.get("/servers")).json()
            assert servers["up"] == servers["total"] == 2
            assert [(server["server"], server["status"]) for server in servers["servers"]] == [(url, "up") for url in urls]
            health = await api.get("/health", token=None)
            assert health.status_code == 200
            assert health.json()["servers"] == dict.fromkeys(urls, "up")


async def test_a_list_is_encoded_once_for_all_who_may_see_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    listed = Room._listed

    def counted(known: Any, holder: Any) -> bytes:
        encoded.append(len(known))
        return listed(known, holder)

    monkeypatch.setattr(Room, "_listed", staticmethod(counted))
    async with served(server_of("one").streamable_http_app()) as (port, _):
        urls = f"http://127.0.0.1:{port}/mcp", "http://127.0.0.1:1/mcp"
        async with front(tmp_path, *urls, up=1) as api:
            answers = [(await api.get("/tools/list")).json() for _ in range(3)]
            assert answers[0]["total"] == 2 and answers.count(answers[0]) == 3
            assert encoded == [2]
            for tools, total in (["greet"], 1), (["*l"], 1), ([], 0), (["?"], 0), (["*"], 2):
                token = Bearers(SECRET, "HS256").make("x", 60, tools)
                assert (await api.get("/tools/list", token)).json()["total"] == total
            assert encoded == [2] * 6
            assert (await api.get("/tools/list", params={"server": urls[0]})).json()["total"] == 2
            assert encoded == [2] * 6 + [1]


@pytest.mark.row("H1")
async def test_a_server_that_is_named_goes_first_and_the_others_stand_in(tmp_path: Path) -> None:
    async with (
        served(server_of("one").streamable_http_app()) as (first, _),
        served(server_of("two", "only_two").streamable_http_app()) as (second, _),
    ):
        urls = f"http://127.0.0.1:{first}/mcp", f"http://127.0.0.1:{second}/mcp"
        async with front(tmp_path, *urls) as api:
            for _ in range(3):
                response = await api.call("greet", {"name": "x"}, urls[1])
                assert said(response) == "two greets x"
                assert response.json()["server"] == urls[1]
            assert said(await api.call("only_two", server=urls[0])) == "two did"
            assert "no such server" in is_error(await api.call("greet", {"name": "x"}, "http://evil.example/mcp"), 404)


@pytest.mark.row("H3", "H9")
async def test_when_one_of_two_servers_dies_calls_go_on_and_it_is_seen_until_it_is_back(tmp_path: Path) -> None:
    async with (
        served(server_of("one").streamable_http_app()) as (first, kill),
        served(server_of("two").streamable_http_app()) as (second, _),
        front(tmp_path, f"http://127.0.0.1:{first}/mcp", f"http://127.0.0.1:{second}/mcp") as api,
    ):
        kill()
        for _ in range(6):
            assert said(await api.call("greet", {"name": "x"})) == "two greets x"
        await api.up(1)
        servers = (await api.get("/servers")).json()["servers"]
        assert [server["status"] for server in servers] == ["down", "up"]
        assert (await api.get("/health", token=None)).status_code == 200
        async with served(server_of("one").streamable_http_app(), first):
            await api.up(2)
            assert {said(await api.call("greet", {"name": "x"})) for _ in range(4)} == {"one greets x", "two greets x"}


@pytest.mark.row("H4", "H10")
async def test_when_no_server_is_there_it_says_so(tmp_path: Path) -> None:
    async with front(tmp_path, "http://127.0.0.1:1/mcp", up=0) as api:
        health = await api.get("/health", token=None)
        assert health.status_code == 503
        assert health.json()["status"] == "unhealthy"
        is_error(await api.call("greet"), 503)
        for path in ("/tools/list", "/tools/list?server=http://127.0.0.1:1/mcp"):
            assert "not connected: http://127.0.0.1:1/mcp" in is_error(await api.get(path), 503)
        assert (await api.get("/servers")).json()["servers"][0]["tools"] == []


async def test_a_tool_that_says_it_failed_is_an_answer(tmp_path: Path) -> None:
    async with served(server_of("one").streamable_http_app()) as (port, _), front(tmp_path, f"http://127.0.0.1:{port}/mcp") as api:
        response = await api.call("fail")
        assert response.status_code == 200
        assert response.json()["result"]["isError"] is True


async def test_addresses_are_shown_without_what_may_be_a_secret(tmp_path: Path) -> None:
    async with front(tmp_path, "http://user:hush@127.0.0.1:1/mcp?api_key=hush", "http://127.0.0.1:1/mcp?api_key=hush2", up=0) as api:
        for path in ("/servers", "/health", "/tools/list", "/tools/list?server=http://user:hush@127.0.0.1:1/mcp%3Fapi_key=hush"):
            assert "hush" not in (await api.get(path)).text
        for server in ("http://user:hush@127.0.0.1:1/mcp?api_key=hush", "http://user:hush@127.0.0.1:1/mcp?api-hush"):
            response = await api.call("greet", server=server)
            assert response.status_code == (404 if server.endswith("api-hush") else 503)
            assert "hush" not in response.text
        servers = (await api.get("/servers")).json()["servers"]
        assert [server["server"] for server in servers] == ["http://127.0.0.1:1/mcp", "http://127.0.0.1:1/mcp#2"]


async def test_a_client_that_hangs_up_cancels_its_call(tmp_path: Path) -> None:
    """The tool hears it, and nothing of the call is left."""
    api = Api(secret=SECRET, endpoints=("home",), request_log="api.jsonl")
    config = Config(api=api, server=Settings(key=KEY))
    async with running(config, root=tmp_path) as server, asyncio.timeout(BOUND):
        tool = Tool(server._broker, "think")
        bearer, body = f"Authorization: Bearer {TOKEN}", b'{"method":"think"}'
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = ("POST /api/tools HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", bearer, "", "")
        writer.write("\r\n".join(head).encode() + body)
        called = await tool.hears("tools/call")
        writer.close()
        cancelled = await tool.hears("notifications/cancelled")
        assert cancelled["params"]["requestId"] == called["id"]
        assert server._broker.in_flight == 0
    assert b'"status_code":499' in (tmp_path / "api.jsonl").read_bytes()


async def test_one_users_calls_do_not_take_the_place_of_anothers(tmp_path: Path) -> None:
    api = Api(secret=SECRET, endpoints=("home",), request_log="")
    config = Config(api=api, server=Settings(key=KEY), limits=Limits(in_flight_per_consumer=4))
    other = {"Authorization": f"Bearer {Bearers(SECRET, 'HS256').make('another', 60)}"}
    async with (
        running(config, root=tmp_path) as server,
        httpx2.AsyncClient(timeout=BOUND, trust_env=False, headers={"Authorization": f"Bearer {TOKEN}"}) as client,
        asyncio.timeout(BOUND),
    ):
        url, body = f"http://127.0.0.1:{server.port}/api/tools", {"method": "think"}
        tool = Tool(server._broker, "think")
        waiting = [asyncio.create_task(client.post(url, json=body)) for _ in range(2)]
        while len(calls := [frame["id"] for frame in tool.heard if frame.get("method") == "tools/call"]) < 2:
            tool.news.clear()
            await tool.news.wait()
        refused = await client.post(url, json=body)
        is_error(refused, 429)
        assert refused.headers["retry-after"] == "1"
        tool.answers = lambda frame: text("done") if frame.get("method") == "tools/call" else None
        assert said(await client.post(url, json=body, headers=other)) == "done"
        for id in calls:
            tool.say({"id": id, "result": text("late")})
        assert [said(answer) for answer in await asyncio.gather(*waiting)] == ["late", "late"]
        assert said(await client.post(url, json=body)) == "done"


class Strict(Tool):
    """A tool whose schema takes a validator all the time it may have."""

    def _react(self, frame: dict[str, Any]) -> None:
        if frame.get("method") == "tools/list":
            schema = {"properties": {"n": {"items": {"anyOf": [{"type": "string"}] * 5 + [{"type": "integer"}]}}}}
            self.say({"id": frame["id"], "result": {"tools": [{"name": "sum", "inputSchema": schema}]}})
        else:
            super()._react(frame)


async def test_a_flood_of_arguments_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    """On the old code the loop stood still for 0.2 s and more for each of the calls, all of them together."""
    api = Api(secret=SECRET, endpoints=("home",), request_log="")
    body = json.dumps({"method": "sum", "args": {"n": [1] * 60_000}}).encode()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            worst = max(worst, loop.time() - before)

    async with (
        running(Config(api=api, server=Settings(key=KEY)), root=tmp_path) as server,
        httpx2.AsyncClient(timeout=BOUND, trust_env=False, headers=headers) as client,
        asyncio.timeout(BOUND),
    ):
        Strict(server._broker).answers = lambda frame: text("done") if frame["method"] == "tools/call" else None
        url = f"http://127.0.0.1:{server.port}/api/tools"
        assert (await client.post(url, json={"method": "sum", "args": {"n": [1]}})).status_code == 200
        is_error(await client.post(url, json={"method": "sum", "args": {"n": [None]}}), 400)
        watching = asyncio.create_task(watch())
        answers = await asyncio.gather(*(client.post(url, content=body) for _ in range(25)))
        watching.cancel()
    assert {answer.status_code for answer in answers} == {200}
    assert worst < 2


async def test_a_call_can_be_followed_as_events(tmp_path: Path) -> None:
    api = Api(secret=SECRET, endpoints=("home",), request_log="api.jsonl")
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json;q=0.5, text/event-stream"}
    async with (
        running(Config(api=api, server=Settings(key=KEY)), root=tmp_path) as server,
        httpx2.AsyncClient(timeout=BOUND, trust_env=False, headers=headers) as client,
        asyncio.timeout(BOUND),
    ):
        url = f"http://127.0.0.1:{server.port}/api/tools"
        tool = Tool(server._broker, "think")
        async with client.stream("POST", url, json={"method": "think", "args": {"n": 1}}) as response:
            assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
            called = await tool.hears("tools/call")
            lines = response.aiter_lines()
            token = called["params"]["_meta"]["progressToken"]
            tool.say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1, "total": 3, "message": "一"}})
            assert [await anext(lines) for _ in range(3)] == ["event: progress", 'data: {"progress":1.0,"total":3.0,"message":"一"}', ""]
            tool.say({"id": called["id"], "result": text("done")})
            assert await anext(lines) == "event: result"
            assert json.loads((await anext(lines))[6:]) == {"result": text("done"), "server": "home"}
        # What is wrong before the tool is asked has its own status.
        is_error(await client.post(url, json={"method": "nothing"}), 404)
        is_error(await client.post(url, json={"method": 7}), 400)
        # What goes wrong later is an event.
        tool.heard.clear()
        async with client.stream("POST", url, json={"method": "think"}) as response:
            lines = response.aiter_lines()
            called = await tool.hears("tools/call")
            tool.say({"id": called["id"], "error": {"code": 7, "message": "out of tea"}})
            assert await anext(lines) == "event: error"
            assert json.loads((await anext(lines))[6:]) == {"error": {"message": "out of tea", "code": 500}}
        # Whoever hangs up cancels the call.
        tool.heard.clear()
        async with client.stream("POST", url, json={"method": "think"}) as response:
            await tool.hears("tools/call")
        await tool.hears("notifications/cancelled")
    lines_of_log = [json.loads(line) for line in (tmp_path / "api.jsonl").read_text("utf-8").splitlines()]
    assert [line["status_code"] for line in lines_of_log] == [200, 404, 400, 500, 499]


# -- who may ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.row("H5", "H10")
@pytest.mark.parametrize(("method", "path"), [("POST", "/tools"), ("GET", "/tools/list"), ("GET", "/servers")])
async def test_every_path_but_health_wants_a_token(tmp_path: Path, method: str, path: str) -> None:
    async with front(tmp_path, up=0) as api:
        body = {"method": "x"} if method == "POST" else None
        for token in (None, "wrong", Bearers(SECRET + "x", "HS256").make("x", 60), Bearers(SECRET, "HS256").make("x", -60)):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            refused = await api.client.request(method, api.url + path, headers=headers, json=body)
            is_error(refused, 401)
            assert ("No token" in refused.text) is (token is None)
            assert refused.headers["www-authenticate"] == "Bearer"
        for shown, expected in (("", True), (TOKEN, True), ("wrong", False)):
            named = {"Authorization": f"Bearer {TOKEN}"}
            two = await api.client.request(method, f"{api.url}{path}?token={shown}", json=body, headers=named)
            assert (two.status_code != 400) is expected, shown
        by_address = await api.client.request(method, f"{api.url}{path}?token={TOKEN}", json=body)
        by_header = await api.client.request(method, api.url + path, headers={"Authorization": f"Bearer {TOKEN}"}, json=body)
        assert by_address.status_code == by_header.status_code != 401


async def head(api: Front, path: str, *headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The beginning of a request whose body is to come."""
    parts = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write("\r\n".join((f"POST {parts.path}{path} HTTP/1.1", "Host: localhost", "Content-Length: 100", *headers, "", "")).encode())
    return reader, writer


async def test_no_body_is_read_without_a_token_and_only_so_many_at_a_time(tmp_path: Path) -> None:
    bearer = f"Authorization: Bearer {TOKEN}"
    async with front(tmp_path, up=0, limits=Limits(http_bodies=2, body_seconds=0.5)) as api, asyncio.timeout(BOUND):
        reader, writer = await head(api, "/tools", "Authorization: Bearer wrong")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 "), "answered although no byte of the body has come"
        writer.close()
        slow, slow_writer = await head(api, "/tools", bearer, "Expect: 100-continue")
        assert (await slow.readline()).startswith(b"HTTP/1.1 100 "), "its body is being read"
        is_error(await api.call("x"), 503)
        assert b" 408 " in (await slow.read()).split(b"\r\n")[1]
        slow_writer.close()
        is_error(await api.call("x"), 503)
    assert [line["status_code"] for line in api.lines()[-4:]] == [401, 503, 408, 503]


async def test_a_token_sees_and_calls_what_it_permits(tmp_path: Path) -> None:
    bearers = Bearers(SECRET, "HS256")
    async with (
        served(server_of("one", "only_one").streamable_http_app()) as (first, _),
        served(server_of("two", "only_two").streamable_http_app()) as (second, _),
    ):
        urls = f"http://127.0.0.1:{first}/mcp", f"http://127.0.0.1:{second}/mcp"
        async with front(tmp_path, *urls) as api:

            def by(token: str) -> dict[str, dict[str, str]]:
                return {"headers": {"Authorization": f"Bearer {token}"}}

            some = bearers.make("x", 60, ["only_*", "greet"], [urls[1]])
            listed = (await api.get("/tools/list", some)).json()
            assert listed["servers"] == {urls[1]: ["greet", "only_two"]} and listed["total"] == 2
            servers = (await api.get("/servers", some)).json()
            assert servers["total"] == servers["up"] == 1
            assert [(one["server"], one["tools"]) for one in servers["servers"]] == [(urls[1], ["greet", "only_two"])]
            assert {said(await api.call("greet", {"name": "x"}, **by(some))) for _ in range(3)} == {"two greets x"}
            assert "claim tools" in is_error(await api.call("fail", **by(some)), 403)
            assert "claim servers" in is_error(await api.call("only_one", **by(some)), 403)
            assert "claim servers" in is_error(await api.call("greet", {"name": "x"}, urls[0], **by(some)), 403)
            assert "claim servers" in is_error(await api.get("/tools/list", some, params={"server": urls[0]}), 403)
            is_error(await api.call("only_three", **by(some)), 404)
            odd = jwt.encode({"exp": 9_999_999_999, "tools": "greet"}, SECRET, "HS256")
            for answer in (await api.get("/tools/list", odd), await api.get("/servers", odd), await api.call("greet", **by(odd))):
                assert "claim tools" in is_error(answer, 403)


async def test_whoever_asks_too_often_hears_how_long_to_wait(tmp_path: Path) -> None:
    api = Api(secret=SECRET, request_log="", requests_per_minute=2)
    other = Bearers(SECRET, "HS256").make("another", 60)
    async with (
        running(Config(api=api), root=tmp_path, standalone="api") as server,
        httpx2.AsyncClient(timeout=BOUND, trust_env=False) as client,
    ):
        asking = Front(f"http://127.0.0.1:{server.port}", client, tmp_path, server)
        for token in (TOKEN, Bearers(SECRET, "HS256").make("tester", 60)):
            assert (await asking.get("/servers", token)).status_code == 200
        refused = await asking.call("x")
        is_error(refused, 429)
        assert 0 < int(refused.headers["retry-after"]) <= 30
        assert (await asking.get("/servers", other)).status_code == 200
        assert (await asking.get("/health", None)).status_code == 503, "no token, no user, no count"


# -- what is wrong ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row("H10")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"{}",
        b'{"method":7}',
        b'{"method":""}',
        b'{"method":"greet","args":[]}',
        b'{"method":"greet","arguments":{"name":"x"}}',
        b'{"method":"greet","args":{"name":"x"},"server":""}',
        b'{"method":"greet","server":7}',
        b'{"method":"greet","args":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
        b"\xff\xfe",
        b'{"method":"\xff"}',
        b'{"method":"greet","args":{}}',
        b'{"method":"greet","args":{"name":7}}',
        b'{"method":"greet"}',
    ],
)
async def test_a_request_that_is_not_what_it_should_be(tmp_path: Path, body: bytes) -> None:
    async with served(server_of("one").streamable_http_app()) as (port, _), front(tmp_path, f"http://127.0.0.1:{port}/mcp") as api:
        is_error(await api.call("", content=body, json=None), 400)
        assert said(await api.call("greet", {"name": "x"})) == "one greets x"


async def test_a_byte_order_mark_harms_nothing_and_a_compressed_body_is_said_to_be_one(tmp_path: Path) -> None:
    async with served(server_of("one").streamable_http_app()) as (port, _), front(tmp_path, f"http://127.0.0.1:{port}/mcp") as api:
        body = b'{"method":"greet","args":{"name":"x"}}'
        assert said(await api.call("", content=b"\xef\xbb\xbf" + body, json=None)) == "one greets x"
        is_error(await api.call("", content=gzip.compress(body), json=None, headers={"Content-Encoding": "gzip"}), 415)


@pytest.mark.row("H10")
async def test_what_is_not_there_and_what_is_too_much(tmp_path: Path) -> None:
    limits = Limits(consumer_message_bytes=4096)
    async with (
        served(server_of("one").streamable_http_app()) as (port, _),
        front(tmp_path, f"http://127.0.0.1:{port}/mcp", limits=limits) as api,
    ):
        assert "no such tool: unheard of" in is_error(await api.call("unheard of"), 404)
        assert len(is_error(await api.call("x" * 3_000), 404)) < 300
        is_error(await api.get("/unheard/of"), 404)
        is_error(await api.get("/tools/list", params={"server": "nowhere"}), 404)
        is_error(await api.get("/tools/list?server="), 400)
        is_error(await api.get("/tools/list?server=a&server=b"), 400)
        is_error(await api.call("greet", {"name": "x" * 5_000}), 413)
        for method, path, allowed in (
            ("GET", "/tools", "POST"),
            ("POST", "/servers", "GET, HEAD"),
            ("DELETE", "/health", "GET, HEAD"),
            ("PUT", "/openapi.json", "GET, HEAD"),
            ("TRACE", "/tools", "POST"),
        ):
            refused = await api.client.request(method, api.url + path, headers={"Authorization": f"Bearer {TOKEN}"})
            is_error(refused, 405)
            assert refused.headers["allow"] == allowed


@pytest.mark.row("H10")
async def test_a_tool_that_answers_with_an_error_is_500_and_its_words_are_kept(tmp_path: Path) -> None:
    from upstream import Seen, reply, upstream

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        frame = json.loads(seen.body)
        answers: dict[str, Any] = {
            "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}},
            "tools/list": {"tools": [{"name": "odd", "inputSchema": {"type": 7}}, {"name": "bare"}]},
        }
        answer = {"result": answers[frame["method"]]} if frame["method"] in answers else {"error": {"code": 7, "message": "out of tea"}}
        body = json.dumps({"jsonrpc": "2.0", "id": frame.get("id")} | answer).encode()
        writer.write(reply(200, body, "Content-Type: application/json") if "id" in frame else reply(202))

    async with upstream(script) as behind, front(tmp_path, f"{behind.url}/mcp") as api:
        assert is_error(await api.call("odd", {"any": "thing"}), 500) == "out of tea"
        assert is_error(await api.call("bare"), 500) == "out of tea"


async def test_servers_tell_since_when_and_why_they_are_as_they_are(tmp_path: Path) -> None:
    async with served(server_of("one").streamable_http_app()) as (port, kill), front(tmp_path, f"http://127.0.0.1:{port}/mcp") as api:
        [there] = (await api.get("/servers")).json()["servers"]
        assert (there["status"], there["state"], there["reason"], there["wire"], there["last_error"]) == ("up", "running", "", "http", "")
        kill()
        async with asyncio.timeout(BOUND):
            while there["state"] == "running":
                await api.call("greet", {"name": "x"})
                [there] = (await api.get("/servers")).json()["servers"]
        assert there["status"] == "down" and there["reason"] == there["last_error"] != ""
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", there["since"])


# -- the request log ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row("H11")
async def test_every_request_leaves_one_line_of_json_without_secrets(tmp_path: Path) -> None:
    async with served(server_of("one").streamable_http_app()) as (port, _), front(tmp_path, f"http://127.0.0.1:{port}/mcp") as api:
        await api.call("greet", {"name": "你", "password": "hush-hush"}, headers={"User-Agent": "curl/7.68.0"})
        await api.get(f"/servers?token={TOKEN}", token=None)
        await api.call("", content=b"\x00\xff not json \n second line", json=None)
        await api.call("greet", {"name": "x" * 100_000})
    lines = api.lines()
    for line in lines[-4:]:
        assert set(line) == {
            *("timestamp", "request", "response", "status_code", "execution_time_ms", "remote_addr", "user_agent"),
        }
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
        assert line["remote_addr"] == "127.0.0.1"
        assert line["execution_time_ms"] >= 0
    assert lines[-4]["user_agent"] == "curl/7.68.0"
    assert lines[-4]["request"]["body"]["args"]["name"] == "你"
    assert lines[-4]["status_code"] == 200
    assert lines[-2]["status_code"] == 400
    text = api.log.read_text("utf-8")
    assert "hush-hush" not in text and TOKEN not in text and SECRET not in text
    assert len(text.splitlines()[-1]) < 40_000
    assert "password" in SECRET_NAMES
    if os.name == "posix":
        assert api.log.stat().st_mode & 0o137 == 0, "0640 or less"


async def test_a_request_log_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    config = Config(api=Api(secret=SECRET, request_log="file/api.jsonl"))
    with pytest.raises(EndpointError, match="request log cannot be written"):
        async with running(config, root=tmp_path, standalone="api"):
            pass


async def test_without_a_request_log_nothing_is_written(tmp_path: Path) -> None:
    config = Config(api=Api(secret=SECRET, request_log=""))
    async with running(config, root=tmp_path, standalone="api") as server, httpx2.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://127.0.0.1:{server.port}/health")).status_code == 503
    assert not (tmp_path / "logs").exists()


# -- in the server --------------------------------------------------------------------------------------------------------------------


async def test_the_server_offers_its_managed_servers_below_a_path_of_its_own(tmp_path: Path) -> None:
    async with (
        served(server_of("one").streamable_http_app()) as (port, _),
        front(tmp_path, f"http://127.0.0.1:{port}/mcp", standalone=False) as api,
    ):
        assert said(await api.call("greet", {"name": "you"})) == "one greets you"
        assert (await api.get("/unheard")).status_code == 404
        root = api.url.removesuffix("/api")
        rooms_told = (await api.client.get(f"{root}/stats", params={"key": KEY})).json()["rooms"]
        assert rooms_told["api"]["servers"] == {f"http://127.0.0.1:{port}/mcp": "up"}
        assert (await api.client.get(f"{root}/health")).json()["status"] == "ok"


async def test_a_sample_secret_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="example or too simple"):
        create_server(settled(Config(api=Api(secret="your-secret-key-here-and-more-of-it"))), root=tmp_path, standalone="api")
