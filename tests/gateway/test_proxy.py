"""The gateway between a client and an upstream, both real: keys, streams, faults."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio._backends._asyncio import StreamProtocol
from loguru import logger
from running import BOUND, KEY, running
from upstream import Seen, Upstream, reply, says, upstream

from mcp_endpoint.gateway import proxy
from mcp_endpoint.log import CUT_SHORT
from mcp_endpoint.settings.schema import Config, CredentialSettings, GatewaySettings, Limits, Security
from mcp_endpoint.settings.schema import Server as Settings

KEYS = [f"sk-{letter * 40}" for letter in "abcdef"]
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "book", "arguments": {}}}
OK = reply(200, b'{"fine":true}', "Content-Type: application/json")


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []
    number = logger.add(lambda line: lines.append(f"{line} {line.record['extra']}"), level="DEBUG")
    yield lines
    logger.remove(number)


class Front:
    """The gateway alone on its port, and a client of it."""

    def __init__(self, url: str, client: httpx2.AsyncClient, root: Path) -> None:
        self.url = url
        self.client = client
        self.root = root

    async def post(self, path: str = "/", **options: Any) -> httpx2.Response:
        options.setdefault("json", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        return await self.client.post(self.url + path, **options)

    async def stats(self) -> dict[str, int]:
        found: dict[str, int] = (await self.client.get(self.url + "/stats")).json()["token_stats"]
        return found


@asynccontextmanager
async def front(
    behind: Upstream,
    root: Path,
    *,
    keys: int = 3,
    limits: Limits | None = None,
    standalone: bool = True,
    security: Security | None = None,
    settings: Settings | None = None,
    target: str = "",
    timeout: float = BOUND,
    place: str = "query:api_key",
    **credentials: Any,
) -> AsyncIterator[Front]:
    (root / "accounts.txt").write_text("".join(f"user|password|{key}\n" for key in KEYS[:keys]))
    pool = "fly" if keys else ""
    air = GatewaySettings(name="air", target=target or f"{behind.url}/mcp/", credentials=pool, place=place, timeout=timeout)
    config = Config(
        server=settings or Settings(),
        gateway=(air,),
        credentials={"fly": CredentialSettings(accounts="accounts.txt", **credentials)},
        limits=limits or Limits(),
        security=security or Security(),
    )
    async with (
        running(config, root=root, standalone="gateway" if standalone else "") as server,
        httpx2.AsyncClient(timeout=BOUND, trust_env=False) as client,
    ):
        yield Front(f"http://127.0.0.1:{server.port}" + ("" if standalone else "/gateway/air"), client, root)


# -- keys ------------------------------------------------------------------------------------------------------------------


@pytest.mark.row("R1", "R14", "R15")
async def test_the_status_counts_what_the_accounts_file_gave(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        health = (await gateway.client.get(gateway.url + "/")).json()
        assert health["status"] == "healthy"
        expected = {
            "total_loaded_tokens": 3,
            "temporarily_failed_tokens": 0,
            "permanently_blacklisted_tokens": 0,
            "available_tokens": 3,
        }
        assert health["token_stats"] == expected == await gateway.stats()
        assert not behind.seen


@pytest.mark.row("R2")
async def test_keys_take_turns_also_when_many_ask_at_once(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        answers = await asyncio.gather(*(gateway.post() for _ in range(30)))
        assert {answer.status_code for answer in answers} == {200}
        assert Counter(seen.key() for seen in behind.seen) == dict.fromkeys(KEYS[:3], 10)


@pytest.mark.row("R3")
async def test_the_upstream_gets_one_key_and_it_is_ours(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path, keys=1) as gateway:
        await gateway.post("/?api_key=mine&q=%E4%BD%A0")
        assert behind.seen[0].target == f"/mcp/?q=%E4%BD%A0&api_key={KEYS[0]}"


@pytest.mark.row("R4")
@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_never_used_again_not_even_after_a_restart(tmp_path: Path, status: int) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(status) if seen.key() == KEYS[1] else OK)

    async with upstream(script) as behind:
        async with front(behind, tmp_path) as gateway:
            assert [(await gateway.post()).status_code for _ in range(6)] == [200] * 6
            assert (await gateway.stats())["permanently_blacklisted_tokens"] == 1
        assert [seen.key() for seen in behind.seen].count(KEYS[1]) == 1
        async with front(behind, tmp_path) as gateway:
            assert [(await gateway.post()).status_code for _ in range(6)] == [200] * 6
            assert await gateway.stats() == {
                "total_loaded_tokens": 3,
                "temporarily_failed_tokens": 0,
                "permanently_blacklisted_tokens": 1,
                "available_tokens": 2,
            }
        assert [seen.key() for seen in behind.seen].count(KEYS[1]) == 1


@pytest.mark.row("R5")
async def test_a_key_that_had_enough_rests_as_long_as_the_upstream_says(tmp_path: Path) -> None:
    first = [True]

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        enough, first[0] = first[0], False
        writer.write(reply(429, b"", "Retry-After: 3600") if enough else OK)

    async with upstream(script) as behind, front(behind, tmp_path, rest_seconds=0.001) as gateway:
        for _ in range(6):
            assert (await gateway.post()).status_code == 200
        assert [seen.key() for seen in behind.seen].count(KEYS[0]) == 1
        assert (await gateway.stats())["temporarily_failed_tokens"] == 1


@pytest.mark.row("R5")
async def test_without_a_retry_after_it_rests_as_configured_and_comes_back(tmp_path: Path) -> None:
    async with upstream(says(reply(429), OK)) as behind, front(behind, tmp_path, rest_seconds=0.05) as gateway:
        await gateway.post()
        assert (await gateway.stats())["temporarily_failed_tokens"] == 1
        async with asyncio.timeout(BOUND):
            while (await gateway.stats())["temporarily_failed_tokens"]:
                pass
        for _ in range(3):
            await gateway.post()
        assert [seen.key() for seen in behind.seen].count(KEYS[0]) == 2


@pytest.mark.row("R5")
async def test_when_all_rest_they_are_asked_again_within_the_request_and_the_log_says_so(tmp_path: Path, told: list[str]) -> None:
    async with upstream(says(reply(429), reply(429), reply(429), OK)) as behind, front(behind, tmp_path) as gateway:
        assert (await gateway.post()).status_code == 200
        assert [seen.key() for seen in behind.seen] == [*KEYS[:3], KEYS[0]]
        assert (await gateway.stats())["available_tokens"] == 3
    assert "所有token都已失效" in "".join(told)


@pytest.mark.row("R5")
async def test_keys_that_were_told_a_time_wait_and_the_client_is_told_the_shortest(tmp_path: Path) -> None:
    times = {KEYS[0]: "300", KEYS[1]: "60.5"}

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(429, b"enough", f"Retry-After: {times[seen.key()]}"))

    async with upstream(script) as behind, front(behind, tmp_path, keys=2) as gateway:
        first = await gateway.post()
        assert (first.status_code, first.text) == (429, "enough")
        assert first.headers.get_list("retry-after") == ["61"]
        second = await gateway.post()
        assert (second.status_code, second.json()["error"]) == (429, "every key waits")
        assert 0 < int(second.headers["retry-after"]) <= 61
        assert len(behind.seen) == 2


@pytest.mark.row("R4")
@pytest.mark.parametrize("refusal", [reply(403, b"no such model"), reply(401, b"who?")], ids=["403", "401"])
async def test_a_path_the_upstream_forbids_costs_no_key(tmp_path: Path, refusal: bytes) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(refusal if "forbidden" in seen.target or b"gpt-none" in seen.body else OK)

    async with upstream(script) as behind, front(behind, tmp_path, keys=6) as gateway:
        assert (await gateway.post("/chat", json={"model": "gpt-fine"})).status_code == 200
        for number in range(14):
            assert (await gateway.client.get(f"{gateway.url}/forbidden/{number}?x")).status_code == int(refusal[9:12])
            assert (await gateway.post("/chat", json={"model": "gpt-none", "n": number})).status_code == int(refusal[9:12])
        assert (await gateway.stats())["available_tokens"] == 6
        assert not (tmp_path / "data/fly.bans.json").exists()
        assert (await gateway.post("/chat", json={"model": "gpt-fine"})).status_code == 200


@pytest.mark.row("R5")
@pytest.mark.parametrize(
    "refusal",
    [
        reply(402, b"pay"),
        reply(403, b'{"error":{"code":"insufficient_quota"}}'),
        reply(401, b"no", 'WWW-Authenticate: Bearer error="insufficient_scope"'),
        reply(529, b"overloaded"),
        reply(503, b"maintenance"),
    ],
    ids=["402", "quota", "scope", "529", "503"],
)
async def test_a_key_that_may_not_now_is_not_banned_and_another_is_asked(tmp_path: Path, refusal: bytes) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(refusal if seen.key() == KEYS[0] else OK)

    async with upstream(script) as behind, front(behind, tmp_path) as gateway:
        assert [(await gateway.post(json=CALL)).status_code for _ in range(6)] == [200] * 6
        assert (await gateway.stats())["permanently_blacklisted_tokens"] == 0
        if b"scope" not in refusal:
            assert [seen.key() for seen in behind.seen].count(KEYS[0]) == 1


async def test_an_error_in_json_under_a_good_status_is_no_evidence_against_another_key(tmp_path: Path) -> None:
    failed = reply(200, b'{"error":{"code":"invalid_api_key"}}', "Content-Type: application/json")

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(403) if seen.key() == KEYS[0] else failed)

    async with upstream(script) as behind, front(behind, tmp_path) as gateway:
        for _ in range(3):
            answer = await gateway.post()
            assert (answer.status_code, answer.json()) == (200, {"error": {"code": "invalid_api_key"}})
        assert (await gateway.stats())["permanently_blacklisted_tokens"] == 0
        assert behind.seen


@pytest.mark.row("R1")
async def test_an_edit_of_the_accounts_counts_within_a_second_and_the_pages_show_each_key(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path, keys=1) as gateway:
        await gateway.post()
        (tmp_path / "accounts.txt").write_text(f"user|password|{KEYS[4]}\n")
        async with asyncio.timeout(BOUND):
            while behind.seen[-1].key() != KEYS[4]:
                await gateway.post()
                await asyncio.sleep(0.05)
        [key] = (await gateway.client.get(gateway.url + "/stats")).json()["keys"]
        assert (key["state"], key["last_status"], key["resting_until"]) == ("available", 200, None)
        assert key["requests"] >= 1 and key["last_used"]
        assert KEYS[4] not in str(key)


@pytest.mark.row("R6")
async def test_the_client_sees_one_answer_while_keys_are_tried(tmp_path: Path) -> None:
    async with upstream(says(reply(401), reply(429), OK)) as behind, front(behind, tmp_path) as gateway:
        answer = await gateway.post()
        assert (answer.status_code, answer.json()) == (200, {"fine": True})
        assert len(behind.seen) == 3
        assert len({seen.body for seen in behind.seen}) == 1


@pytest.mark.row("R6", "R7")
@pytest.mark.parametrize("retries", [0, 2, 3])
async def test_after_so_many_keys_the_upstreams_last_word_is_the_answer(tmp_path: Path, retries: int) -> None:
    refusals = [reply(429, f"no {number}".encode()) for number in range(9)]
    async with upstream(says(*refusals)) as behind, front(behind, tmp_path, keys=6, retries=retries) as gateway:
        answer = await gateway.post()
        assert (answer.status_code, answer.text) == (429, f"no {retries}")
        assert len(behind.seen) == retries + 1


@pytest.mark.row("R6")
async def test_when_every_key_is_banned_the_answer_says_so_without_asking(tmp_path: Path) -> None:
    async with upstream(says(OK, reply(401, b"unknown key"))) as behind, front(behind, tmp_path, keys=1) as gateway:
        assert (await gateway.post()).status_code == 200
        last = await gateway.post()
        assert (last.status_code, last.text) == (401, "unknown key")
        answer = await gateway.post()
        assert answer.status_code == 503
        assert "所有token都已失效" in answer.json()["message"]
        assert len(behind.seen) == 2


async def test_a_post_that_may_have_run_is_not_repeated_a_get_is(tmp_path: Path) -> None:
    async with upstream(says(reply(500, b"broken"), OK)) as behind, front(behind, tmp_path) as gateway:
        assert (await gateway.post(json=CALL)).text == "broken"
        assert len(behind.seen) == 1
        assert (await gateway.stats())["temporarily_failed_tokens"] == 1
        assert (await gateway.post(json={"order": 1})).status_code == 200
    async with upstream(says(reply(500, b"broken"), OK)) as behind, front(behind, tmp_path) as gateway:
        assert (await gateway.client.get(gateway.url + "/x")).status_code == 200
        assert len(behind.seen) == 2


@pytest.mark.row("R6")
@pytest.mark.parametrize("fault", [reply(500), reply(502), reply(504), b"", None], ids=["500", "502", "504", "closed", "reset"])
async def test_a_request_of_mcp_that_only_reads_is_tried_again_after_a_fault(tmp_path: Path, fault: bytes | None) -> None:
    first = [True]

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        broken, first[0] = first[0], False
        writer.write((fault or b"") if broken else OK)
        if broken and fault is None:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if broken and not fault:
            writer.transport.abort()

    async with upstream(script) as behind, front(behind, tmp_path) as gateway:
        assert (await gateway.post()).status_code == 200
        assert [seen.key() for seen in behind.seen] == KEYS[:2]
        assert (await gateway.stats())["temporarily_failed_tokens"] == 1


async def test_a_key_is_not_banned_because_another_keys_session_is_refused_to_it(tmp_path: Path) -> None:
    begun = reply(200, b"{}", "Mcp-Session-Id: abc")
    script = says(begun, reply(429), reply(403), reply(401), OK)
    async with upstream(script) as behind, front(behind, tmp_path) as gateway:
        await gateway.post()
        assert (await gateway.post(json=CALL, headers={"Mcp-Session-Id": "abc"})).status_code == 200
        assert [seen.key() for seen in behind.seen] == [KEYS[0], *KEYS[:3], KEYS[0]]
        stats = await gateway.stats()
        assert (stats["permanently_blacklisted_tokens"], stats["temporarily_failed_tokens"]) == (0, 0)


async def test_a_session_stays_with_the_key_it_was_begun_with(tmp_path: Path) -> None:
    begun = reply(200, b"{}", "Mcp-Session-Id: abc")
    async with upstream(says(begun, OK)) as behind, front(behind, tmp_path) as gateway:
        await gateway.post()
        for _ in range(4):
            await gateway.post(headers={"Mcp-Session-Id": "abc"})
        await gateway.post(headers={"Mcp-Session-Id": "unheard of"})
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await gateway.post(json=initialized, headers={"Mcp-Session-Id": "abc"})
        assert [seen.key() for seen in behind.seen] == [*[KEYS[0]] * 5, KEYS[1], KEYS[0]]


async def test_of_too_many_sessions_the_one_used_longest_ago_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "SESSIONS", 2)

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        new = [f"Mcp-Session-Id: {name}" for name in seen.all("new")]
        writer.write(reply(200, b"{}", *new))

    async with upstream(script) as behind, front(behind, tmp_path) as gateway:
        for name in ("a", "b"):
            await gateway.post(headers={"New": name})
        await gateway.post(headers={"Mcp-Session-Id": "a"})
        await gateway.post(headers={"New": "c"})
        for name in ("a", "b", "c"):
            await gateway.post(headers={"Mcp-Session-Id": name})
        assert [seen.key() for seen in behind.seen[4:]] == [KEYS[0], KEYS[0], KEYS[2]]
        forgotten = behind.seen[5]  # b began with the second key; it has the next one now
        assert (forgotten.all("mcp-session-id"), behind.seen[1].key()) == (["b"], KEYS[1])


# -- carried as it is --------------------------------------------------------------------------------------------------------


@pytest.mark.row("R8")
async def test_the_clients_headers_arrive_as_they_were(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        given = {"Mcp-Method": "tools/list", "X-Mine": "a, b", "User-Agent": "me/1", "Accept": "text/plain", "Accept-Encoding": "br"}
        await gateway.post(headers=given | {"Connection": "keep-alive, X-Hop", "X-Hop": "1"})
        seen = behind.seen[0]
        for name, value in given.items():
            assert seen.all(name.lower()) == [value]
        assert seen.all("host") == [f"127.0.0.1:{behind.port}"]
        assert not seen.all("x-hop") and not seen.all("connection")


@pytest.mark.row("R9")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
async def test_every_method_on_any_path_with_body_and_query(tmp_path: Path, method: str) -> None:
    made = reply(201, b"" if method == "HEAD" else b"made", "X-Back: yes")
    async with upstream(says(made)) as behind, front(behind, tmp_path) as gateway:
        body = b"" if method in ("GET", "HEAD") else bytes(range(256))
        answer = await gateway.client.request(method, gateway.url + "/a/b%2Fc?x=1&x=2&e=", content=body)
        seen = behind.seen[0]
        assert (seen.method, seen.body) == (method, body)
        assert seen.target.startswith("/mcp/a/b%2Fc?x=1&x=2&e=&api_key=")
        assert (answer.status_code, answer.headers["x-back"]) == (201, "yes")
        assert answer.content == (b"" if method == "HEAD" else b"made")


async def test_compressed_answers_and_redirects_are_left_to_the_client(tmp_path: Path) -> None:
    packed = bytes.fromhex("1f8b0800000000000003cb48cdc9c907008610a63605000000")
    moved = reply(302, b"", "Location: http://127.0.0.1:1/elsewhere")
    async with upstream(says(reply(200, packed, "Content-Encoding: gzip"), moved)) as behind, front(behind, tmp_path) as gateway:
        async with gateway.client.stream("GET", gateway.url + "/packed") as answer:
            assert b"".join([chunk async for chunk in answer.aiter_raw()]) == packed
            assert answer.headers["content-encoding"] == "gzip"
        answer = await gateway.client.get(gateway.url + "/moved")
        assert (answer.status_code, answer.headers["location"]) == (302, "http://127.0.0.1:1/elsewhere")
        assert len(behind.seen) == 2


@pytest.mark.row("R10")
@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson", "application/octet-stream"])
async def test_what_the_upstream_has_said_is_there_before_it_ends(tmp_path: Path, kind: str) -> None:
    more = asyncio.Event()

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for text in (b"data: 1\n\n", b"data: 2\n\n"):
            writer.write(b"%x\r\n%b\r\n" % (len(text), text))
            await writer.drain()
            await more.wait()
        writer.write(b"0\r\n\r\n")

    async with (
        upstream(script) as behind,
        front(behind, tmp_path) as gateway,
        asyncio.timeout(BOUND),
        gateway.client.stream("POST", gateway.url, json={"x": 1}) as answer,
    ):
        assert answer.headers["content-type"] == kind
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"data: 1\n\n"
        more.set()
        assert b"".join([chunk async for chunk in chunks]) == b"data: 2\n\n"


@pytest.mark.row("R10")
@pytest.mark.parametrize("begun", [True, False])
async def test_a_client_that_hangs_up_stops_the_upstream(tmp_path: Path, begun: bool) -> None:
    came = asyncio.Event()

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if begun:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        came.set()
        await asyncio.Event().wait()

    async with upstream(script) as behind, front(behind, tmp_path) as gateway:
        async with asyncio.timeout(BOUND):
            asking = asyncio.create_task(gateway.post())
            await came.wait()
            asking.cancel()
            await behind.hung_up.wait()


async def test_a_request_that_is_too_large_to_be_kept_is_sent_once(tmp_path: Path) -> None:
    limits = Limits(gateway_retry_bytes=4096)
    async with upstream(says(reply(429), OK)) as behind, front(behind, tmp_path, limits=limits) as gateway:
        body = b"x" * 300_000

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 50_000):
                yield body[start : start + 50_000]

        assert (await gateway.client.post(gateway.url + "/large", content=body)).status_code == 429
        assert (await gateway.client.post(gateway.url + "/large", content=pieces())).status_code == 200
        assert [seen.body for seen in behind.seen] == [body, body]


async def test_more_requests_than_connections_wait_for_one(tmp_path: Path) -> None:
    limits = Limits(gateway_connections=2)
    async with upstream(says(OK)) as behind, front(behind, tmp_path, limits=limits) as gateway:
        answers = await asyncio.gather(*(gateway.post() for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert behind.connections <= 2


@pytest.mark.row("R18")
async def test_connections_to_the_upstream_are_used_again_and_the_log_tells_what_happened(tmp_path: Path, told: list[str]) -> None:
    async with upstream(says(reply(401), reply(429), OK)) as behind, front(behind, tmp_path, keys=6) as gateway:
        for _ in range(10):
            await gateway.post()
        assert len(behind.seen) == 12
        assert behind.connections <= 3
    lines = "".join(told)
    for words in ("keys loaded", "key banned", "key rests", "gateway open", "forwarded"):
        assert words in lines


# -- answered here ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("R12")
@pytest.mark.parametrize("id", ['"ping-test"', "0", "7", '""', "-1", "12345678901234567890"])
async def test_a_ping_is_answered_here_with_its_id_as_it_came(tmp_path: Path, id: str) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        answer = await gateway.post(content=f'{{"jsonrpc":"2.0","id":{id},"method":"ping","params":{{}}}}', json=None)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.text == f'{{"jsonrpc":"2.0","id":{id},"result":{{}}}}'
        assert not behind.seen


@pytest.mark.row("R13")
async def test_initialized_is_taken_here_with_an_empty_answer(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        answer = await gateway.post(json={"jsonrpc": "2.0", "method": "notifications/initialized", "params": {}})
        assert (answer.status_code, answer.content) == (202, b"")
        assert not behind.seen


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"jsonrpc":"2.0","method":"ping"}', b'{"method":"ping","id":1}', b"[" * 100_000])
async def test_what_only_looks_like_one_of_these_is_carried(tmp_path: Path, body: bytes) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        assert (await gateway.post(content=body, json=None)).status_code == 200
        assert behind.seen[0].body == body


# -- who may use it ----------------------------------------------------------------------------------------------------------


async def test_a_gateway_of_the_server_has_a_path_of_its_own_beside_everything_else(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path, standalone=False) as gateway:
        assert (await gateway.post("/x?y=1")).status_code == 200
        assert behind.seen[0].target == f"/mcp/x?y=1&api_key={KEYS[0]}"
        root = gateway.url.removesuffix("/gateway/air")
        assert (await gateway.client.post(f"{root}/gateway/unheard/x")).status_code == 404
        detail = (await gateway.client.get(f"{root}/stats", params={"key": KEY})).json()["rooms"]["gateway"]["air"]
        assert detail["keys"] == {"total": 3, "resting": 0, "banned": 0, "available": 3}
        assert detail["requests"] == 1


@pytest.mark.parametrize(
    ("target", "carried"),
    [
        (b'/a"b<c>?d|e^f`g{h}', "/mcp/a%22b%3Cc%3E?d|e^f`g{h}&"),
        (b"/%zz;%e4?%zz=%20+&&x", "/mcp/%zz;%e4?%zz=%20+&x&"),
        (b"http://127.0.0.1/absolute?x", "/mcp/absolute?x&"),
        (b"//elsewhere.example/x", "/mcp/elsewhere.example/x?"),
        (b"/a%20b%2Fc;v=1/d", "/mcp/a%20b%2Fc;v=1/d?"),
    ],
)
async def test_a_target_spelled_in_an_odd_way_arrives_and_costs_no_key(tmp_path: Path, target: bytes, carried: str) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(gateway.url).port)
        writer.write(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" % target)
        assert (await asyncio.wait_for(reader.read(), BOUND)).startswith(b"HTTP/1.1 200")
        writer.close()
        assert behind.seen[0].target == f"{carried}api_key={KEYS[0]}"
        assert (await gateway.stats())["available_tokens"] == 3


async def test_what_cannot_be_carried_is_the_clients_mistake_and_costs_no_key(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path, standalone=False) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(gateway.url).port)
        writer.write(b"GET /gateway/air/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Odd: a\x07b\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), BOUND)).startswith(b"HTTP/1.1 400")
        writer.close()
        assert not behind.seen


@pytest.mark.parametrize(
    "path", ["/../admin", "/%2e%2e/admin", "/a/%2E./%2e%2e/b", "/..%2fadmin", "/..;/admin", "/%252e%252e%255cadmin", "http://h/..%2fadmin"]
)
async def test_nobody_climbs_out_of_the_targets_folder_with_our_key(tmp_path: Path, path: str) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        port = httpx2.URL(gateway.url).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        assert (await asyncio.wait_for(reader.read(), BOUND)).startswith(b"HTTP/1.1 400")
        writer.close()
        assert not behind.seen


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("http://localhost:3000", 403), ("http://127.0.0.1", 403), (None, 200)],
)
async def test_a_page_from_elsewhere_may_not_spend_our_keys(tmp_path: Path, origin: str | None, status: int) -> None:
    """Also where all origins are allowed: a page shows no token here."""
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        answer = await gateway.post(headers={} if origin is None else {"Origin": origin})
        assert answer.status_code == status
        assert len(behind.seen) == (status == 200)


async def test_a_page_that_is_listed_may(tmp_path: Path) -> None:
    security = Security(allowed_origins=("https://mine.example",))
    async with upstream(says(OK)) as behind, front(behind, tmp_path, security=security) as gateway:
        assert (await gateway.post(headers={"Origin": "https://mine.example"})).status_code == 200


async def test_who_comes_through_a_proxy_shows_the_key(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path, standalone=False) as gateway:
        forwarded = {"X-Forwarded-For": "203.0.113.7"}
        assert (await gateway.post(headers=forwarded)).status_code == 401
        assert (await gateway.post(headers=forwarded | {"X-Endpoint-Key": "wrong"})).status_code == 401
        assert (await gateway.post(headers=forwarded | {"X-Endpoint-Key": KEY})).status_code == 200
        assert not behind.seen[0].all("x-endpoint-key")
        assert (await gateway.post("/x?key=wrong", headers=forwarded)).status_code == 401
        assert (await gateway.post(f"/x?a=1&key={KEY}&key=theirs", headers=forwarded)).status_code == 200
        assert behind.seen[1].target == f"/mcp/x?a=1&key=theirs&api_key={KEYS[1]}"


async def test_a_server_that_is_reached_from_outside_asks_everybody_for_the_key(tmp_path: Path) -> None:
    settings = Settings(public_url="https://mcp.example.org")
    async with upstream(says(OK)) as behind, front(behind, tmp_path, standalone=False, settings=settings) as gateway:
        assert (await gateway.post()).status_code == 401
        assert (await gateway.post(headers={"X-Endpoint-Key": KEY})).status_code == 200


async def test_a_gateway_without_keys_carries_what_the_client_shows(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path, keys=0) as gateway:
        await gateway.post("/?api_key=mine", headers={"Authorization": "Bearer mine"})
        assert behind.seen[0].target == "/mcp/?api_key=mine"
        assert behind.seen[0].all("authorization") == ["Bearer mine"]
        assert (await gateway.stats())["total_loaded_tokens"] == 0
        assert (await gateway.client.get(gateway.url + "/blacklist")).json()["blacklist_info"]["preview"] == []


def text_of_bans(root: Path) -> str:
    return (root / "data/fly.bans.json").read_text()


# -- secrets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.row("R16")
async def test_the_blacklist_shows_the_beginning_of_banned_keys(tmp_path: Path) -> None:
    async with upstream(says(reply(401), reply(401), OK)) as behind, front(behind, tmp_path) as gateway:
        await gateway.post()
        info = (await gateway.client.get(gateway.url + "/blacklist")).json()["blacklist_info"]
        assert info["total_blacklisted"] == 2
        assert info["blacklist_file"] == "fly.bans.json"
        assert info["preview"][0] == {"token_preview": KEYS[0][:20] + "...", "full_length": 43}
        assert behind.seen


@pytest.mark.row("R16")
async def test_no_key_is_ever_shown_whole(tmp_path: Path, told: list[str]) -> None:
    """Canary: logs at DEBUG, every page, every error, the file of bans."""
    shown: list[str] = []
    for script in (says(reply(401), reply(429), OK), says(reply(503)), says(b"garbage\r\n\r\n")):
        async with upstream(script) as behind, front(behind, tmp_path, keys=6) as gateway:
            for path in ("/", "/stats", "/blacklist", "/elsewhere", "/../x"):
                answer = await gateway.client.get(gateway.url + path)
                shown += [answer.text, str(answer.headers)]
            answer = await gateway.post()
            shown += [answer.text, str(answer.headers)]
    shown += told
    shown.append(text_of_bans(tmp_path))
    everything = "".join(shown)
    assert "key banned" in everything
    for key in KEYS:
        assert key not in everything


@pytest.mark.row("R16")
@pytest.mark.parametrize("place", ["query:api_key", "header:X-Key", "bearer"])
async def test_an_upstream_that_repeats_its_key_does_not_show_it_to_the_client(tmp_path: Path, place: str) -> None:
    """In a redirect, as frameworks that add a slash do, and in an error, in pieces too."""
    key = KEYS[0].encode()

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if "slash" in seen.target:
            writer.write(reply(307, b"", f"Location: {behind.url}/mcp/slash/?x=1&{place[6:]}={KEYS[0]}#f"))
        elif "long" in seen.target:
            writer.write(b"HTTP/1.1 422 No\r\nContent-Length: %d\r\n\r\nno " % (2 * len(key) + 8))
            for piece in (key[:7], key[7:], b" and ", key):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        else:
            writer.write(reply(401, b"unknown key " + key, f"WWW-Authenticate: Bearer {KEYS[0]}"))

    async with upstream(script) as behind, front(behind, tmp_path, keys=1, place=place) as gateway:
        answer = await gateway.client.get(gateway.url + "/long")
        assert (answer.status_code, answer.text) == (422, f"no {'*' * 43} and {'*' * 43}")
        answer = await gateway.client.get(gateway.url + "/slash")
        extra = "" if place.startswith("query") else f"&{place[6:]}={'*' * 43}"
        assert (answer.status_code, answer.headers["location"]) == (307, f"/slash/?x=1{extra}#f")
        answer = await gateway.post()
        assert (answer.status_code, answer.text) == (401, f"unknown key {'*' * 43}")
        assert KEYS[0] not in str(answer.headers)


@pytest.mark.row("R16")
async def test_the_pages_are_for_whoever_may_use_the_gateway(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        for path in ("/", "/stats", "/blacklist"):
            assert (await gateway.client.get(gateway.url + path, headers={"X-Forwarded-For": "203.0.113.7"})).status_code == 401
            assert (await gateway.client.head(gateway.url + path)).status_code == 200
        assert not behind.seen


@pytest.mark.row("R14", "R17")
async def test_a_client_that_asks_for_a_stream_at_the_root_gets_the_upstreams(tmp_path: Path) -> None:
    """GET / is the health page (000); of an MCP client of the handshake era (`Accept: text/event-stream`) it is its stream."""
    events = reply(200, b"data: {}\n\n", "Content-Type: text/event-stream")
    async with upstream(says(events)) as behind, front(behind, tmp_path) as gateway:
        answer = await gateway.client.get(gateway.url + "/", headers={"Accept": "text/event-stream"})
        assert answer.text == "data: {}\n\n"
        assert len(behind.seen) == 1


async def test_an_upstream_that_redirects_mcp_is_told_to_the_operator(tmp_path: Path, told: list[str]) -> None:
    moved = reply(307, b"", "Location: http://169.254.169.254/latest/meta-data/")
    async with upstream(says(moved)) as behind, front(behind, tmp_path) as gateway:
        answer = await gateway.post()
        assert (answer.status_code, answer.headers["location"]) == (307, "http://169.254.169.254/latest/meta-data/")
        assert len(behind.seen) == 1
    assert "change target" in "".join(told)


# -- faults ------------------------------------------------------------------------------------------------------------------


async def test_an_upstream_that_is_not_there_is_one_clear_error_and_costs_no_key(tmp_path: Path, told: list[str]) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path, target="http://127.0.0.1:1/") as gateway:
        answer = await gateway.post()
        assert answer.status_code == 502
        assert "cannot be reached" in answer.json()["message"]
        assert (await gateway.stats())["available_tokens"] == 3
        assert not behind.seen
    assert "upstream failed" in "".join(told)


async def test_an_upstream_that_hangs_is_given_up_while_others_are_served(tmp_path: Path) -> None:
    came = asyncio.Event()

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if "hang" in seen.target:
            came.set()
            await asyncio.Event().wait()
        writer.write(OK)

    async with upstream(script) as behind, front(behind, tmp_path, timeout=0.3) as gateway:
        hanging = asyncio.create_task(gateway.post("/hang"))
        async with asyncio.timeout(BOUND):
            await came.wait()
            assert (await gateway.post()).status_code == 200
            assert (await hanging).status_code == 504
        assert len(behind.seen) == 2, "the time is up for every key"


async def test_an_upstream_that_sends_its_head_byte_by_byte_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "CONNECT_SECONDS", 0.2)

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with upstream(script) as behind, front(behind, tmp_path, timeout=0.3) as gateway:
        assert (await gateway.post(json=CALL)).status_code == 504
        async with asyncio.timeout(BOUND):
            await behind.hung_up.wait()


async def test_too_many_at_once_are_told_to_come_back_and_cost_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "CONNECT_SECONDS", 0.1)
    came, go = asyncio.Event(), asyncio.Event()

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        came.set()
        await go.wait()
        writer.write(OK)

    async with upstream(script) as behind, front(behind, tmp_path, limits=Limits(gateway_connections=1)) as gateway:
        first = asyncio.create_task(gateway.post())
        async with asyncio.timeout(BOUND):
            await came.wait()
            assert (await gateway.post()).status_code == 503
            assert (await gateway.stats())["available_tokens"] == 3
            go.set()
            assert (await first).status_code == 200


@pytest.mark.parametrize("sent", [b"half", b"x" * 5_000], ids=["kept", "streamed"])
async def test_a_body_that_stops_coming_is_given_up(tmp_path: Path, sent: bytes) -> None:
    limits = Limits(stalled_seconds=0.2, body_seconds=0.2, gateway_retry_bytes=4096)
    async with upstream(says(OK)) as behind, front(behind, tmp_path, limits=limits) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(gateway.url).port)
        writer.write(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000\r\n\r\n" + sent)
        assert (await asyncio.wait_for(reader.readline(), BOUND)).startswith(b"HTTP/1.1 408")
        writer.close()
        assert (await gateway.stats())["available_tokens"] == 3
        assert not behind.seen


@pytest.mark.parametrize("garbage", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"\x00" * 200_000, b""])
async def test_an_upstream_that_talks_garbage_is_one_clear_error(tmp_path: Path, garbage: bytes) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        writer.close()

    async with upstream(script) as behind, front(behind, tmp_path) as gateway:
        assert (await gateway.post(json=CALL)).status_code == 502
        assert len(behind.seen) == 1
        assert (await gateway.stats())["temporarily_failed_tokens"] == 1


@pytest.mark.parametrize("status", [101, 199, 600, 999])
async def test_a_status_that_cannot_be_carried_gets_an_answer(tmp_path: Path, status: int) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(status, b"" if status < 200 else b"odd"))
        writer.close()

    async with upstream(script) as behind, front(behind, tmp_path, keys=1) as gateway:
        assert (await gateway.post(json=CALL)).status_code == 502
        assert len(behind.seen) == 1


async def test_a_path_that_hides_the_gateways_own_slash_is_refused(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path, standalone=False) as gateway:
        port = httpx2.URL(gateway.url).port
        for path in (b"/gateway%2fair/x", b"/gateway/air%2f..%2fadmin", b"/gateway/air%2fx"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" % path)
            assert (await asyncio.wait_for(reader.read(), BOUND)).startswith(b"HTTP/1.1 400"), path
            writer.close()
        assert not behind.seen


async def test_an_answer_with_a_length_beside_its_chunks_arrives_whole(tmp_path: Path) -> None:
    odd = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    async with upstream(says(odd)) as behind, front(behind, tmp_path) as gateway:
        assert (await gateway.post()).text == "hello"
        assert behind.seen


@pytest.mark.parametrize("coding", ["gzip, chunked", "xchunked"])
async def test_a_body_in_a_coding_nobody_here_knows_is_refused(tmp_path: Path, coding: str) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(gateway.url).port)
        writer.write(f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: {coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode())
        assert (await asyncio.wait_for(reader.readline(), BOUND)).startswith(b"HTTP/1.1 501")
        writer.close()
        assert not behind.seen


async def test_half_an_answer_is_not_taken_for_a_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await writer.drain()
        writer.transport.abort()

    async with upstream(script) as behind, front(behind, tmp_path) as gateway:
        with pytest.raises(httpx2.RemoteProtocolError):
            await gateway.post()
        assert len(behind.seen) == 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [CUT_SHORT]


def test_an_upstream_is_not_read_far_ahead_of_its_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop alone takes megabytes in one go."""
    uvloop = pytest.importorskip("uvloop")
    ahead = [0]

    def read(protocol: StreamProtocol, data: bytes, real: Callable[[StreamProtocol, bytes], None] = StreamProtocol.data_received) -> None:
        real(protocol, data)
        ahead.append(sum(map(len, protocol.read_queue)))

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 32 * 1024 * 1024)
        await writer.drain()
        writer.close()

    async def life() -> None:
        async with upstream(script) as behind, front(behind, tmp_path) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(gateway.url).port)
            writer.write(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert len(await reader.read()) > 32 * 1024 * 1024
            writer.close()

    monkeypatch.setattr(StreamProtocol, "data_received", read)
    uvloop.run(asyncio.wait_for(life(), BOUND * 3))
    assert max(ahead) < 1024 * 1024


async def test_an_endless_answer_costs_no_memory_and_ends_with_its_client(tmp_path: Path) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(4_000):  # 250 MiB
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with upstream(script) as behind, front(behind, tmp_path) as gateway:
        async with asyncio.timeout(BOUND), gateway.client.stream("GET", gateway.url + "/endless") as answer:
            chunks = answer.aiter_raw()
            assert await anext(chunks)
            assert not behind.hung_up.is_set()
        async with asyncio.timeout(BOUND):
            await behind.hung_up.wait()


async def test_a_client_that_hangs_up_while_it_sends_is_forgotten(tmp_path: Path) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(gateway.url).port)
        writer.write(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()
        assert (await gateway.post()).status_code == 200
        assert len(behind.seen) == 1


# -- the end -----------------------------------------------------------------------------------------------------------------


async def test_what_is_under_way_is_answered_before_it_stops_and_nothing_new_is_begun(tmp_path: Path) -> None:
    came, go = asyncio.Event(), asyncio.Event()

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        came.set()
        if not seen.all("x-late"):
            await go.wait()
        writer.write(OK)

    (tmp_path / "accounts.txt").write_text(f"user|password|{KEYS[0]}\n")
    async with upstream(script) as behind, httpx2.AsyncClient(timeout=BOUND, trust_env=False) as client:
        air = GatewaySettings(name="air", target=behind.url, credentials="fly", place="bearer")
        config = Config(gateway=(air,), credentials={"fly": CredentialSettings(accounts="accounts.txt")})
        async with running(config, root=tmp_path, standalone="gateway") as server, asyncio.timeout(BOUND):
            url = f"http://127.0.0.1:{server.port}/"
            under_way = asyncio.create_task(client.post(url, json=CALL))
            await came.wait()
            server.should_exit = True
            while (late := await client.post(url, json=CALL, headers={"X-Late": "1"})).status_code != 503:
                pass
            assert late.headers["retry-after"] == "1"
            go.set()
            assert (await under_way).status_code == 200


async def test_a_session_stream_that_never_ends_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await asyncio.Event().wait()

    async with upstream(script) as behind, asyncio.timeout(BOUND), httpx2.AsyncClient(trust_env=False) as client:
        async with front(behind, tmp_path) as gateway:
            stream = client.stream("GET", gateway.url, headers={"Accept": "text/event-stream"})
            answer = await stream.__aenter__()
            pieces = answer.aiter_raw()
            assert await anext(pieces) == b"data: 1\n\n"
            reading = asyncio.create_task(anext(pieces, b"the end"))
        assert await reading == b"the end"
        await stream.__aexit__(None, None, None)


# -- as a program ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("R7")
async def test_files_and_numbers_are_where_the_configuration_says(tmp_path: Path) -> None:
    async with upstream(says(reply(401), OK)) as behind, front(behind, tmp_path, bans="elsewhere/bans.json") as gateway:
        await gateway.post()
        assert (tmp_path / "elsewhere/bans.json").exists()
        info = (await gateway.client.get(gateway.url + "/blacklist")).json()["blacklist_info"]
        assert info["blacklist_file"] == "bans.json"
        assert len(behind.seen) == 2


@pytest.mark.row("R7")
async def test_open_to_other_machines_it_says_so_and_asks_for_no_key(tmp_path: Path, told: list[str]) -> None:
    async with upstream(says(OK)) as behind, front(behind, tmp_path, settings=Settings(host="0.0.0.0")) as gateway:
        assert (await gateway.post()).status_code == 200
    assert "whoever can reach this gateway can use its keys" in "".join(told)
