"""A gateway to a model API between a client and an upstream, both real: paths, keys of the environment, pins, streams to the byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from loguru import logger
from running import BOUND, KEY, running
from served import served
from starlette.applications import Starlette
from upstream import Seen, Upstream, reply, says, upstream

from mcp_endpoint.asgi import Bodies
from mcp_endpoint.exchanges import Exchange
from mcp_endpoint.gateway import llm
from mcp_endpoint.gateway.llm import EnvironmentKey
from mcp_endpoint.gateway.proxy import Gateway
from mcp_endpoint.settings.schema import Config, CredentialSettings, GatewaySettings, Limits, Server

SECRET = "sk-or-0123456789abcdefghijklmnop"
OK = reply(200, b'{"object":"list","data":[]}', "Content-Type: application/json")


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []
    number = logger.add(lambda line: lines.append(f"{line} {line.record['extra']}"), level="DEBUG")
    yield lines
    logger.remove(number)


@pytest.fixture
def key_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The environment has a key for the mock upstream, at the place that is given."""

    def put(place: str) -> None:
        monkeypatch.setenv("MODEL_API_KEY", f" {SECRET}\n")
        monkeypatch.setattr(llm, "environment_key", lambda target: EnvironmentKey("MODEL_API_KEY", place))

    return put


@asynccontextmanager
async def front(
    behind: Upstream, root: Path, path: str = "/v1", server: Server | None = None, pool: str = ""
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client whose base is the gateway's path."""
    gateway = GatewaySettings(kind="llm", name="model", target=behind.url + path, credentials=pool)
    pools = {pool: CredentialSettings(file="keys.txt")} if pool else {}
    async with (
        running(Config(server=server or Server(), gateway=(gateway,), credentials=pools), root=root) as running_server,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{running_server.port}/gateway/model/", timeout=BOUND, trust_env=False) as client,
    ):
        yield client


async def test_the_base_url_of_an_sdk_leads_to_the_targets_own_version(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path, "/api/v1?api-version=V") as client:
        for path in ("v1/models?limit=2&api-version=W", "models", "@kitchen/v1/models"):
            assert (await client.get(path)).status_code == 200
        assert [seen.target for seen in behind.seen] == [
            "/api/v1/models?api-version=V&limit=2",
            "/api/v1/models?api-version=V",
            "/api/v1/models?api-version=V",
        ]


async def test_a_redirect_leads_through_the_gateway_and_keeps_the_pin(tmp_path: Path) -> None:
    async with upstream(says(reply(307, b"", "Location: /api/v1/models/"))) as behind, front(behind, tmp_path, "/api/v1") as client:
        assert (await client.get("@kitchen/v1/models")).headers["location"] == "/gateway/model/@kitchen/models/"


async def test_a_json_rpc_message_means_nothing_to_a_model_api(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as client:
        await client.post("v1/x", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers={"Accept": "*/*"})
        assert behind.seen[0].all("accept") == ["*/*"]


async def test_headers_of_the_client_are_carried(tmp_path: Path) -> None:
    given = {"Authorization": "Bearer mine", "HTTP-Referer": "http://localhost:8000", "X-Title": "An App", "OpenAI-Organization": "org"}
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as client:
        await client.get("v1/models", headers=given)
        assert {name: behind.seen[0].all(name.lower()) for name in given} == {name: [value] for name, value in given.items()}


@pytest.mark.parametrize(
    ("place", "header", "value"), [("bearer", "authorization", f"Bearer {SECRET}"), ("header:api-key", "api-key", SECRET)]
)
async def test_a_program_of_this_machine_without_a_key_uses_the_environments(
    tmp_path: Path, key_here: Callable[[str], None], told: list[str], place: str, header: str, value: str
) -> None:
    key_here(place)
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as client:
        await client.get("v1/models")
        await client.get("v1/models", headers={"Authorization": "Bearer"})
        await client.get("v1/models", headers={"Authorization": "Bearer mine"})
        await client.get("v1/models", headers={"api-key": "mine"})
        assert [seen.all(header) for seen in behind.seen[:2]] == [[value]] * 2
        assert [seen.all("authorization") + seen.all("api-key") for seen in behind.seen] == [[value], [value], ["Bearer mine"], ["mine"]]
    assert any("…mnop" in line for line in told)
    assert SECRET not in str(told)


@pytest.mark.parametrize(
    ("server", "headers"),
    [
        (Server(), {"X-Forwarded-For": "192.0.2.7"}),
        (Server(), {"Via": "1.1 proxy"}),
        (Server(public_url="https://models.example"), {}),
    ],
    ids=["forwarded", "via", "public"],
)
async def test_who_comes_from_elsewhere_does_not_spend_the_environments_key(
    tmp_path: Path, key_here: Callable[[str], None], server: Server, headers: dict[str, str]
) -> None:
    key_here("bearer")
    async with upstream(says(OK)) as behind, front(behind, tmp_path, server=server) as client:
        assert (await client.get("v1/models", headers=headers)).status_code == 401
        assert (await client.get("v1/models", headers={**headers, "X-Endpoint-Key": KEY})).status_code == 200
        assert behind.seen[0].all("authorization") == []


async def test_a_web_page_of_elsewhere_does_not_spend_the_environments_key(tmp_path: Path, key_here: Callable[[str], None]) -> None:
    key_here("bearer")
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as client:
        assert (await client.get("v1/models", headers={"Origin": "https://evil.example"})).status_code == 403
        assert (await client.get("v1/../models")).status_code in (200, 404)  # the client itself has taken the step
        assert (await client.get("@kitchen/%2e%2e/x")).status_code == 400
        assert all("evil" not in str(seen) for seen in behind.seen)


async def test_an_error_does_not_show_the_environments_key(tmp_path: Path, key_here: Callable[[str], None]) -> None:
    key_here("bearer")
    async with upstream(says(reply(401, f"unknown key {SECRET}".encode()))) as behind, front(behind, tmp_path) as client:
        answer = await client.get("v1/models")
        assert answer.status_code == 401
        assert SECRET not in answer.text
        assert behind.seen[0].all("authorization") == [f"Bearer {SECRET}"]


async def test_a_pool_goes_before_the_environment_and_the_clients_own_key(tmp_path: Path, key_here: Callable[[str], None]) -> None:
    key_here("header:api-key")
    (tmp_path / "keys.txt").write_text("sk-" + "p" * 40)
    async with upstream(says(OK)) as behind, front(behind, tmp_path, pool="pool") as client:
        await client.get("v1/models", headers={"Authorization": "Bearer dummy"})
        assert behind.seen[0].all("authorization") == ["Bearer sk-" + "p" * 40]
        assert behind.seen[0].all("api-key") == []


async def test_a_stream_reaches_the_client_to_the_byte_and_as_it_comes(tmp_path: Path) -> None:
    """Comments, CRLF, a letter in two pieces: each piece is at the client before the upstream sends the next."""
    pieces = (b": OPENROUTER PROCESSING\r\n\r\n", "data: 你".encode()[:-1], "你".encode()[-1:] + b"\n\n", b"data: [DONE]\n\n")
    go_on = asyncio.Event()

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await go_on.wait()
            go_on.clear()
        writer.write(b"0\r\n\r\n")

    got = []
    async with (
        upstream(script) as behind,
        front(behind, tmp_path) as client,
        asyncio.timeout(BOUND),
        client.stream("POST", "v1/chat/completions", json={"model": "m", "stream": True}) as response,
    ):
        async for piece in response.aiter_raw():
            got.append(piece)
            go_on.set()
    assert tuple(got) == pieces


# -- what is recorded ------------------------------------------------------------------------------------------------------


class Recorder:
    """Takes exchanges."""

    body_bytes = 100_000

    def __init__(self) -> None:
        self.taken: asyncio.Queue[Exchange] = asyncio.Queue()

    def exchange(self, exchange: Exchange) -> None:
        self.taken.put_nowait(exchange)

    async def next(self) -> Exchange:
        return await asyncio.wait_for(self.taken.get(), BOUND)


@asynccontextmanager
async def recorded(target: str, **settings: Any) -> AsyncIterator[tuple[httpx2.AsyncClient, Recorder]]:
    """A gateway whose exchanges somebody takes, without the rest of the server."""
    recorder = Recorder()
    config = Config(
        gateway=(GatewaySettings(kind="llm", name="model", target=target, **settings),), limits=Limits(gateway_retry_bytes=1024)
    )
    gateway = Gateway(config, {}, SimpleNamespace(draining=False), Bodies(8, BOUND), {}, recorder)  # type: ignore[arg-type]
    async with (
        served(Starlette(routes=gateway.routes)) as (port, _),
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/gateway/model/", timeout=BOUND, trust_env=False) as client,
    ):
        yield client, recorder
    await gateway.stop()


async def test_a_stream_is_recorded_with_the_times_of_its_chunks_and_the_pinned_endpoint() -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"data: 1\n\n", b"data: [DONE]\n\n"):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with upstream(script) as behind, recorded(behind.url) as (client, recorder):
        answer = await client.post("@kitchen/v1/chat/completions?a=1", content=b'{"stream":true}', headers={"Authorization": "Bearer mine"})
        exchange = await recorder.next()
    assert (exchange.endpoint, exchange.path, exchange.method) == ("kitchen", "/gateway/model/@kitchen/v1/chat/completions?a=1", "POST")
    assert (exchange.label, exchange.client, exchange.status, exchange.ending) == ("model", "127.0.0.1", 200, "ok")
    assert exchange.request_body == b'{"stream":true}'
    assert dict(exchange.request_headers)[b"authorization"] == b"Bearer mine"
    assert dict(exchange.answer_headers)[b"content-type"] == b"text/event-stream"
    assert b"".join(piece for _, piece in exchange.answer_chunks) == answer.content
    assert exchange.first_ms is not None
    assert 0 <= exchange.first_ms <= exchange.ms
    assert [offset for offset, _ in exchange.answer_chunks] == sorted(offset for offset, _ in exchange.answer_chunks)


async def test_each_way_in_which_an_exchange_ends_is_told() -> None:
    broken = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.target == "/hang":
            await asyncio.get_running_loop().create_future()
        if seen.target == "/silent":
            writer.close()
            return
        writer.write({"/broken": broken, "/error": reply(429, b"slow down")}.get(seen.target, OK))
        if seen.target == "/broken":
            writer.close()

    async with upstream(script) as behind, recorded(behind.url) as (client, recorder):
        for path, status, ending, body in (
            ("error", 429, "error", b"slow down"),
            ("broken", 200, "broken", b"half"),
            ("silent", 502, "broken", None),
        ):
            with suppress(httpx2.TransportError):
                await client.get(path)
            exchange = await recorder.next()
            assert (exchange.status, exchange.ending) == (status, ending)
            assert body is None or b"".join(piece for _, piece in exchange.answer_chunks) == body
        with pytest.raises(httpx2.TimeoutException):
            await client.get("hang", timeout=0.1)
        exchange = await recorder.next()
        assert (exchange.status, exchange.ending) == (0, "aborted")
        assert recorder.taken.empty()


async def test_a_client_that_leaves_a_stream_is_told_with_what_it_was_sent() -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n")
        await asyncio.get_running_loop().create_future()

    async with upstream(script) as behind, recorded(behind.url) as (client, recorder):
        async with client.stream("POST", "v1/chat/completions", json={}) as response:
            await anext(response.aiter_raw())
        exchange = await recorder.next()
        await asyncio.wait_for(behind.hung_up.wait(), BOUND)
    assert (exchange.status, exchange.ending, [piece for _, piece in exchange.answer_chunks]) == (200, "aborted", [b"data: 1"])


async def test_a_large_body_is_recorded_as_it_is_carried() -> None:
    async with upstream(says(OK)) as behind, recorded(behind.url) as (client, recorder):
        await client.post("v1/files", content=b"x" * 50_000)
        exchange = await recorder.next()
    assert exchange.request_body == behind.seen[0].body == b"x" * 50_000


async def test_a_gateway_that_shall_not_be_recorded_is_not() -> None:
    async with upstream(says(OK)) as behind, recorded(behind.url, record=False) as (client, recorder):
        assert (await client.get("v1/models")).status_code == 200
        assert recorder.taken.empty()
