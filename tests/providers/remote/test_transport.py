"""What every request to an upstream passes through, between a plain client and a server of bare sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio._backends._asyncio import StreamProtocol
from upstream import Seen, reply, says, upstream

from mcp_endpoint.credentials.store import CredentialStore, credential_store
from mcp_endpoint.providers.remote import transport as module
from mcp_endpoint.providers.remote.failure import Failure
from mcp_endpoint.providers.remote.transport import KeyedTransport, failure_of
from mcp_endpoint.settings.schema import CredentialSettings

KEYS = [f"sk-{letter * 40}" for letter in "abc"]
CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call"}'
JSON = "Content-Type: application/json"


def ring(root: Path, *, keys: int = 3, **settings: Any) -> CredentialStore:
    return credential_store("far", CredentialSettings(env="KEYS", **settings), root, {"KEYS": " ".join(KEYS[:keys])})


class Way:
    """A carrier, and a client that uses it."""

    def __init__(self, keys: CredentialStore | None = None, place: str = "bearer", most: int = 1000) -> None:
        self.transport = KeyedTransport(keys, place, most)
        self.http = httpx2.AsyncClient(transport=self.transport, trust_env=False, timeout=5)

    async def post(self, url: str, body: bytes = CALL, **headers: str) -> httpx2.Response:
        return await self.http.post(url, content=body, headers={"content-type": "application/json"} | headers)


@asynccontextmanager
async def way(*given: Any, **named: Any) -> AsyncIterator[Way]:
    made = Way(*given, **named)
    async with made.http:
        yield made


def error(response: httpx2.Response) -> dict[str, Any]:
    failure = failure_of(response)
    assert failure is not None
    found: dict[str, Any] = failure.error()
    return found


async def nobody() -> str:
    """An address where nobody listens."""
    async with upstream(says(reply(200))) as free:
        return free.url


async def test_a_request_and_its_answer_pass_as_they_are() -> None:
    async with upstream(says(reply(200, b'{"ok":1.00}', JSON))) as behind, way() as one:
        response = await one.post(f"{behind.url}/mcp?a=%20b", x_odd="1")
        assert response.content == b'{"ok":1.00}'
        assert one.transport.status == 200
        assert behind.seen[0].body == CALL
        assert behind.seen[0].target == "/mcp?a=%20b"


@pytest.mark.parametrize(
    ("place", "target"),
    [("bearer", "/mcp?api_key=mine&b=2"), ("header:X-Key", "/mcp?api_key=mine&b=2"), ("query:api_key", f"/mcp?b=2&api_key={KEYS[0]}")],
)
async def test_a_key_goes_to_its_place_and_nothing_else_changes(tmp_path: Path, place: str, target: str) -> None:
    async with upstream(says(reply(200, b"{}", JSON))) as behind, way(ring(tmp_path), place) as one:
        await one.post(f"{behind.url}/mcp?api_key=mine&b=2")
        [seen] = behind.seen
        assert seen.target == target
        assert seen.all("authorization") == ([f"Bearer {KEYS[0]}"] if place == "bearer" else [])
        assert seen.all("x-key") == ([KEYS[0]] if place == "header:X-Key" else [])
        assert seen.body == CALL


async def test_refused_requests_are_repeated_with_so_many_other_keys(tmp_path: Path) -> None:
    async with upstream(says(reply(401), reply(429), reply(200, b"{}", JSON))) as behind, way(ring(tmp_path)) as one:
        assert (await one.post(behind.url)).status_code == 200
        assert [seen.all("authorization")[0][7:] for seen in behind.seen] == KEYS
    async with upstream(says(reply(429))) as behind, way(ring(tmp_path, retries=1)) as one:
        found = error(await one.post(behind.url))
        assert len(behind.seen) == 2
        assert (found["code"], found["data"]["delivered"]) == (-32001, False)
        assert "HTTP 429" in found["data"]["hint"]


async def test_nobody_there_is_told_and_the_request_may_go_elsewhere() -> None:
    async with way() as one:
        found = error(await one.post(await nobody()))
        assert (found["code"], found["data"]["delivered"]) == (-32001, False)
        assert "the server cannot be reached: connection refused" in found["data"]["hint"]


@pytest.mark.parametrize(
    ("answer", "code", "delivered", "words"),
    [
        (reply(500, b"oops"), -32003, None, "HTTP 500 (server error): oops"),
        (b"garbage\r\n\r\n", -32003, None, "did not answer in HTTP"),
        (reply(418, b"tea"), -32008, None, "HTTP 418: tea"),
        (reply(200, b"{}", JSON, "Content-Encoding: br"), -32008, True, "compressed (br)"),
    ],
)
async def test_what_may_have_been_run_is_not_repeated(answer: bytes, code: int, delivered: bool | None, words: str) -> None:
    async with upstream(says(answer)) as behind, way() as one:
        found = error(await one.post(behind.url))
        assert (found["code"], found["data"]["delivered"]) == (code, delivered)
        assert words in found["data"]["hint"]


async def test_an_error_in_the_servers_own_words_passes() -> None:
    body = b'{"jsonrpc":"2.0","id":7,"error":{"code":-32022,"message":"no"}}'
    async with upstream(says(reply(503, body, "Content-Type: application/json; charset=utf-8"))) as behind, way() as one:
        response = await one.post(behind.url)
        assert (response.status_code, response.content) == (503, body)


async def test_a_session_that_the_server_forgot_is_told() -> None:
    async with upstream(says(reply(404))) as behind, way() as one:
        failure = failure_of(await one.post(behind.url))
        assert failure is not None and not failure.session_lost
        failure = failure_of(await one.post(behind.url, **{"mcp-session-id": "abc"}))
        assert failure is not None and failure.session_lost and failure.delivered is False


async def test_what_is_no_message_fails_in_the_same_way() -> None:
    url = await nobody()
    async with way() as one:
        assert "cannot be reached" in error(await one.http.get(url))["data"]["hint"]
        assert "cannot be reached" in error(await one.post(url, b"{"))["data"]["hint"]
    async with upstream(says(b"garbage\r\n\r\n")) as behind, way() as one:
        assert "did not answer" in error(await one.http.get(behind.url))["data"]["hint"]


# -- redirects -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
async def test_a_redirect_within_the_server_is_followed_with_method_body_and_key(tmp_path: Path, status: int, method: str) -> None:
    moved = reply(status, b"", "Location: /mcp/")
    async with upstream(says(moved, reply(200, b"{}", JSON))) as behind, way(ring(tmp_path), "query:api_key") as one:
        response = await one.http.request(method, f"{behind.url}/mcp", content=CALL if method == "POST" else None)
        assert response.status_code == 200
        assert [(seen.method, seen.target, seen.body) for seen in behind.seen] == [
            (method, f"/mcp?api_key={KEYS[0]}", CALL if method == "POST" else b""),
            (method, f"/mcp/?api_key={KEYS[0]}", CALL if method == "POST" else b""),
        ]


@pytest.mark.parametrize(
    "location",
    ["https://127.0.0.1:{port}/mcp", "http://localhost:{port}/mcp?k=hush", "//127.0.0.1:1/", "http://[", "http://u:hush@127.0.0.1:{port}/"],
)
async def test_a_redirect_elsewhere_is_not_followed_and_says_where(location: str) -> None:
    behind: Any

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(307, b"", "Location: " + location.format(port=behind.port)))

    async with upstream(script) as behind, way() as one:
        found = error(await one.post(f"{behind.url}/mcp"))
        assert "redirects (HTTP 307) to" in found["data"]["hint"]
        assert "hush" not in found["data"]["hint"]
        assert found["data"]["delivered"] is False
        assert len(behind.seen) == 1


async def test_a_redirect_that_would_lose_the_message_is_not_followed() -> None:
    async with upstream(says(reply(302, b"", "Location: /mcp/"))) as behind, way() as one:
        assert "would lose the message" in error(await one.post(behind.url))["data"]["hint"]
        assert len(behind.seen) == 1
    async with (
        upstream(says(reply(302, b"", "Location: /sse/"), reply(200, b"", "Content-Type: text/event-stream"))) as behind,
        way() as one,
    ):
        assert (await one.http.get(f"{behind.url}/sse")).status_code == 200


async def test_redirects_in_a_circle_end() -> None:
    async with upstream(says(reply(307, b"", "Location: /mcp"))) as behind, way() as one:
        assert "more than 5 times" in error(await one.post(behind.url))["data"]["hint"]
        assert len(behind.seen) == 6


async def test_an_answer_larger_than_the_limit_ends() -> None:
    async with upstream(says(reply(200, b" " * 1001, JSON))) as behind, way() as one:
        with pytest.raises(httpx2.StreamError, match="too large, more than 1000 bytes"):
            await one.post(behind.url)


async def test_a_stream_may_be_as_long_as_it_likes() -> None:
    events = b": word\n\n" * 1000
    listen = b'{"jsonrpc":"2.0","id":7,"method":"subscriptions/listen"}'
    async with upstream(says(reply(200, events, "Content-Type: text/event-stream"))) as behind, way() as one:
        assert (await one.post(behind.url, listen)).content == events
        assert (await one.http.get(behind.url)).content == events
        with pytest.raises(httpx2.StreamError):
            await one.post(behind.url)


def test_an_answer_is_not_read_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop takes whatever the kernel holds in one go."""
    uvloop = pytest.importorskip("uvloop")
    ahead = [0]

    def read(protocol: StreamProtocol, data: bytes, real: Callable[[StreamProtocol, bytes], None] = StreamProtocol.data_received) -> None:
        real(protocol, data)
        ahead.append(sum(map(len, protocol.read_queue)))

    async def life() -> None:
        body = b"x" * 16 * 1024 * 1024
        async with upstream(says(reply(200, body))) as behind, way(most=len(body)) as one:
            assert len((await one.post(behind.url)).content) == len(body)

    monkeypatch.setattr(StreamProtocol, "data_received", read)
    uvloop.run(asyncio.wait_for(life(), 60))
    assert max(ahead) < 1024 * 1024


async def test_a_head_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with upstream(script) as behind, way() as one:
        found = error(await one.post(behind.url))
        assert "did not answer within" in found["data"]["hint"]


async def test_a_failure_says_whether_it_was_delivered_in_both_languages() -> None:
    found = Failure("why", "原因", False).error()
    assert json.loads(json.dumps(found))["data"] == {"source": "broker", "delivered": False, "hint": "原因 / why"}


async def test_what_every_key_is_refused_bans_none(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    async with upstream(says(reply(403, b"firewall"))) as behind, way(keys) as one:
        for _ in range(5):
            assert "HTTP 403" in error(await one.post(behind.url))["data"]["hint"]
        assert keys.pool.counts(0.0).available == len(KEYS)
        assert len(behind.seen) == 5 * len(KEYS)


@pytest.mark.parametrize(
    ("refusal", "banned", "resting"), [(reply(401), 1, 0), (reply(402), 0, 1), (reply(403, b'{"code":"insufficient_quota"}', JSON), 0, 1)]
)
async def test_a_key_that_alone_is_refused_is_set_aside(tmp_path: Path, refusal: bytes, banned: int, resting: int) -> None:
    keys = ring(tmp_path)
    async with upstream(says(refusal, reply(200, b"{}", JSON))) as behind, way(keys) as one:
        assert (await one.post(behind.url)).status_code == 200
        counts = keys.pool.counts(0.0)
        assert (counts.banned, counts.resting) == (banned, resting)
        for _ in range(4):
            await one.post(behind.url)
        assert [seen.all("authorization")[0][7:] for seen in behind.seen].count(KEYS[0]) == 1


async def test_when_every_key_is_banned_nothing_is_sent(tmp_path: Path) -> None:
    async with upstream(says(reply(200, b"{}", JSON), reply(401))) as behind, way(ring(tmp_path, keys=1)) as one:
        await one.post(behind.url)
        error(await one.post(behind.url))
        sent = len(behind.seen)
        found = error(await one.post(behind.url))
        assert "banned" in found["data"]["hint"]
        assert found["data"]["delivered"] is False
        assert len(behind.seen) == sent == 2


async def test_when_the_service_asks_every_key_to_wait_nothing_is_sent(tmp_path: Path) -> None:
    async with upstream(says(reply(429, b"", "Retry-After: 77"))) as behind, way(ring(tmp_path, keys=1)) as one:
        error(await one.post(behind.url))
        assert "77 s" in error(await one.post(behind.url))["data"]["hint"]
        assert len(behind.seen) == 1


async def test_a_failure_after_a_refusal_leaves_the_key_at_rest(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    async with upstream(says(reply(401), b"garbage\r\n\r\n")) as behind, way(keys) as one:
        error(await one.post(behind.url))
        assert keys.pool.counts(0.0).resting == 2
        assert len(behind.seen) == 2


async def test_an_answer_that_drips_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with upstream(script) as behind, way() as one:
        with pytest.raises(httpx2.StreamError, match="was not complete in time"):
            await one.post(behind.url)
