"""What a request to an upstream server passes through, against bare sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from upstream import Script, Seen, Upstream, reply, says, upstream

from mcp_endpoint.config import CredentialSettings
from mcp_endpoint.keyring import Keyring, keyring
from mcp_endpoint.providers import carrier as module
from mcp_endpoint.providers.carrier import Carrier, Failure

KEYS = [f"sk-{letter * 40}" for letter in "abc"]
CALL = {"jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": {}}
OK = reply(200, b'{"jsonrpc":"2.0","id":"x","result":{}}', "Content-Type: application/json")


def ring(root: Path, **settings: Any) -> Keyring:
    return keyring("far", CredentialSettings(env="KEYS", **settings), root, {"KEYS": " ".join(KEYS)})


class Way:
    """A client whose requests go through a carrier, and what the carrier told."""

    def __init__(self, client: httpx2.AsyncClient, behind: Upstream) -> None:
        self.client = client
        self.behind = behind
        self.lost: list[str] = []
        self.answered: list[tuple[bytes, Failure]] = []

    async def post(self, body: Any = CALL, **options: Any) -> httpx2.Response:
        return await self.client.post(self.behind.url + options.pop("path", "/mcp"), json=body, **options)


@asynccontextmanager
async def way(
    script: Script, keys: Keyring | None = None, place: str = "bearer", most: int = 1_000_000, apart: bool = False
) -> AsyncIterator[Way]:
    async with upstream(script) as behind:
        found = Way(None, behind)  # type: ignore[arg-type]
        told = (lambda id, failure: found.answered.append((id, failure))) if apart else None
        carrier = Carrier(keys, place, most, lambda en, zh: found.lost.append(en), told)
        async with httpx2.AsyncClient(transport=carrier, trust_env=False) as client:
            found.client = client
            yield found


def failure(answer: httpx2.Response) -> dict[str, Any]:
    body = answer.json()
    assert body["id"] == "x"
    assert body["error"]["data"]["source"] == "broker"
    found: dict[str, Any] = body["error"]
    return found


async def test_a_request_and_its_answer_pass_as_they_are() -> None:
    async with way(says(OK)) as found:
        answer = await found.post(headers={"X-Mine": "1"})
        assert answer.json()["result"] == {}
        assert json.loads(found.behind.seen[0].body) == CALL
        assert found.behind.seen[0].all("x-mine") == ["1"]


@pytest.mark.parametrize(
    ("place", "target", "header"),
    [
        ("bearer", "/mcp?a=1", ("authorization", f"Bearer {KEYS[0]}")),
        ("header:X-Key", "/mcp?a=1", ("x-key", KEYS[0])),
        ("query:api_key", f"/mcp?a=1&api_key={KEYS[0]}", None),
    ],
)
async def test_a_key_goes_to_its_place_and_replaces_what_stood_there(
    tmp_path: Path, place: str, target: str, header: tuple[str, str] | None
) -> None:
    async with way(says(OK), ring(tmp_path), place) as found:
        path = "/mcp?api_key=old&a=1" if place.startswith("query") else "/mcp?a=1"
        await found.post(path=path, headers={"Authorization": "Bearer old", "X-Key": "old"})
        seen = found.behind.seen[0]
        assert seen.target == target
        if header is not None:
            assert seen.all(header[0]) == [header[1]]


@pytest.mark.parametrize("status", [401, 403, 429, 503])
async def test_a_request_that_was_refused_is_tried_with_another_key(tmp_path: Path, status: int) -> None:
    async with way(says(reply(status), OK), ring(tmp_path)) as found:
        assert (await found.post()).json()["result"] == {}
        assert [seen.all("authorization") for seen in found.behind.seen] == [[f"Bearer {key}"] for key in KEYS[:2]]


@pytest.mark.parametrize(
    ("status", "delivered"), [(401, False), (403, False), (429, False), (503, False), (500, None), (502, None), (504, None)]
)
async def test_a_refusal_says_whether_the_server_may_have_run_it(tmp_path: Path, status: int, delivered: bool | None) -> None:
    async with way(says(reply(status)), ring(tmp_path, retries=1)) as found:
        told = failure(await found.post())
        assert told["data"]["delivered"] is delivered
        assert str(status) in told["data"]["hint"]
        assert told["code"] == (-32001 if delivered is False else -32003)
        assert len(found.behind.seen) == (2 if delivered is False else 1)


async def test_an_error_the_server_spells_out_is_its_own() -> None:
    body = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"mine"}}'
    for status in (400, 429, 500):
        async with way(says(reply(status, body, "Content-Type: application/json"))) as found:
            assert (await found.post()).json()["error"]["message"] == "mine"


async def test_when_no_key_is_left_nobody_is_asked(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    for credential in keys.pool.credentials:
        keys.pool.report(credential, 401, 0.0)
    async with way(says(OK), keys) as found:
        assert "banned" in failure(await found.post())["data"]["hint"]
        assert (await found.client.get(found.behind.url)).status_code == 502
        assert not found.behind.seen


async def test_a_server_that_is_not_there_is_lost_and_the_request_was_not_delivered() -> None:
    async with way(says(OK)) as found:
        found.behind.port = 1
        assert failure(await found.post())["data"]["delivered"] is False
        assert found.lost == ["the server cannot be reached"]


async def test_an_answer_that_breaks_off_may_have_been_run() -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with way(script) as found:
        assert failure(await found.post())["data"]["delivered"] is None
        with pytest.raises(httpx2.TransportError):
            await found.client.get(found.behind.url)
        assert (await found.post({"jsonrpc": "2.0", "method": "notifications/x"})).status_code == 202
        assert (await found.post({"jsonrpc": "2.0", "id": 1, "result": {}})).status_code == 202


async def test_a_session_that_is_over_is_told() -> None:
    async with way(says(reply(404))) as found:
        assert failure(await found.post(headers={"Mcp-Session-Id": "s"}))["data"]["delivered"] is False
        assert found.lost == ["the server has ended the session"]
        assert (await found.post()).status_code == 404


async def test_where_answers_come_back_apart_failures_do_too() -> None:
    async with way(says(reply(503)), apart=True) as found:
        assert (await found.post()).status_code == 202
        [(id, told)] = found.answered
        assert id == b'"x"' and told.delivered is False


@pytest.mark.parametrize("body", [b"x" * 5_000, b"data: " + b"x" * 5_000])
async def test_a_body_ends_at_its_limit(body: bytes) -> None:
    async with way(says(reply(200, body)), most=4_096) as found:
        with pytest.raises(httpx2.StreamError, match="larger than 4096 bytes"):
            await found.post()
        async with way(says(reply(200, body[:4_000])), most=4_096) as fine:
            assert len((await fine.post()).content) == 4_000


async def test_a_body_that_drips_ends_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with way(script) as found:
        with pytest.raises(httpx2.StreamError, match="did not end within"):
            await found.post()


async def test_a_body_that_breaks_off_is_told_as_one_answers_failure() -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async with way(script) as found:
        with pytest.raises(httpx2.StreamError, match="broke off"):
            await found.post()


async def test_what_needs_no_answer_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORD_SECONDS", 0.05)

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with way(script) as found:
        assert (await found.post({"jsonrpc": "2.0", "method": "notifications/x"})).status_code == 202


async def test_what_is_no_message_is_carried_all_the_same() -> None:
    async with way(says(reply(200, b"fine"))) as found:
        answer = await found.client.post(found.behind.url, content=b"{")
        assert answer.text == "fine"
