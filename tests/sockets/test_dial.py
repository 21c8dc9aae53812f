"""Links from outside: opened, or refused with words in both languages that hold no token."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from certificates import certificate
from fake_broker import TOKEN, FakeBroker
from websockets.asyncio.server import serve

from mcp_endpoint.errors import ConfigError
from mcp_endpoint.sockets import dial
from mcp_endpoint.sockets.dial import NoLink


@pytest.fixture
async def gate() -> AsyncIterator[FakeBroker]:
    opened = FakeBroker()
    await opened.open()
    yield opened
    await opened.close()


async def refused(address: str) -> NoLink:
    with pytest.raises(NoLink) as caught:
        await dial.dial(address)
    error = caught.value
    assert TOKEN not in f"{error}{error.__cause__}"
    assert re.search("[一-龥]", error.zh)
    assert not re.search("[一-龥]", error.en)
    return error


async def test_a_link_carries_frames_both_ways(gate: FakeBroker) -> None:
    connection = await dial.dial(gate.address)
    wire = await gate.link()
    await connection.send("你好")
    assert await wire.connection.recv() == "你好"
    await connection.close()


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503, 502])
async def test_a_refusal_has_its_status_and_what_to_do(gate: FakeBroker, status: int) -> None:
    gate.refusals = [status]
    error = await refused(gate.address)
    assert error.status == status
    assert f"HTTP {status}" in error.en
    assert error.retry_after == 0.0


@pytest.mark.parametrize(
    ("body", "en"),
    [
        (b'{"error":"no token","message":"\xe6\xb2\xa1\xe6\x9c\x89 / No token\\u001b[31m"}', r"HTTP 401 No token\x1b[31m"),
        (b'{"message":"one language"}', "HTTP 401 the token was not accepted, copy the address again"),
        (b'{"message":5}', "HTTP 401 the token was not accepted, copy the address again"),
    ],
)
async def test_the_reason_a_server_gives_is_the_reason(gate: FakeBroker, body: bytes, en: str) -> None:
    gate.refusals, gate.body = [401], body.decode()
    assert (await refused(gate.address)).en.endswith(en)


@pytest.mark.parametrize("token", ["...", "%E2%80%A6", "<token>", "TOKEN", "YOUR_TOKEN"])
def test_the_address_of_an_example_is_refused_before_anybody_is_asked(token: str) -> None:
    with pytest.raises(ConfigError, match="placeholder") as mistake:
        dial.checked(f"ws://192.168.1.25:8004/mcp_endpoint/mcp/?token={token}")
    assert "占位符" in mistake.value.zh


async def test_a_link_says_where_a_token_of_free_choice_has_led(gate: FakeBroker) -> None:
    for headers, said in (({}, False), ({"X-Free-Form-Endpoint": "opaque-12345678"}, True)):
        gate.accepts = headers
        link = await dial.dial(gate.address)
        hint = dial.note(link)
        assert (hint is not None) is said
        if hint is not None:
            assert "free-form token, endpoint opaque-12345678; if you copied" in hint.en and "自定义令牌" in hint.zh
        await link.close()


@pytest.mark.parametrize(("asked", "seconds"), [("17", 17.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("", 0.0)])
async def test_the_time_a_server_asks_for_is_known(gate: FakeBroker, asked: str, seconds: float) -> None:
    gate.refusals, gate.headers = [503], {"Retry-After": asked}
    assert (await refused(gate.address)).retry_after == seconds


async def test_nobody_there_is_told_with_host_and_path_only() -> None:
    closed = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = closed.sockets[0].getsockname()[1]
    closed.close()
    await closed.wait_closed()
    error = await refused(f"ws://user:{TOKEN}@127.0.0.1:{port}/mcp_endpoint/mcp/?token={TOKEN}")
    assert f"ws://127.0.0.1:{port}/mcp_endpoint/mcp/ " in error.en
    assert error.status == 0


async def test_a_certificate_nobody_vouches_for_is_refused(gate: FakeBroker) -> None:
    empty = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(NoLink):
        await dial.dial(gate.address.replace("ws://", "wss://"), tls=empty)


async def test_an_address_with_tls_is_reached_by_the_machines_own_list_of_authorities(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As `pipe` and `call` dial: nobody hands over a list."""
    chain, key = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain, key)
    monkeypatch.setenv("SSL_CERT_FILE", chain)
    async with serve(lambda connection: connection.wait_closed(), "localhost", 0, ssl=tls) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        await (await dial.dial(f"wss://localhost:{port}/mcp_endpoint/mcp/?token={TOKEN}")).close()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
        error = await refused(f"wss://localhost:{port}/mcp_endpoint/mcp/?token={TOKEN}")
        assert "its certificate is not trusted" in error.en and "self-signed" in error.en
        assert "证书不受信任" in error.zh


@pytest.mark.parametrize(
    ("error", "en", "zh"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the name h.example is not known", "找不到主机 h.example"),
        (TimeoutError(), "no answer within 10 s", "10 秒内没有应答"),
        (OSError(f"no way to wss://h.example/?token={TOKEN}"), "no way to wss://h.example/", "no way to wss://h.example/"),
    ],
)
async def test_why_nobody_was_reached_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch, error: Exception, en: str, zh: str) -> None:
    def fails(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(dial, "connect", fails)
    told = await refused(f"wss://h.example/?token={TOKEN}")
    assert en in told.en and zh in told.zh


@pytest.mark.parametrize("address", ["http://h/?token=canary", "ws://?token=canary", "ws://h:port/?token=canary", "", "kitchen"])
def test_what_is_no_address_is_told_without_its_token(address: str) -> None:
    with pytest.raises(ConfigError, match="not a ws://") as caught:
        dial.checked(address)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_address_is_shown_without_what_is_secret_in_it() -> None:
    assert dial.checked("wss://h/mcp_endpoint/call/?token=t") == "wss://h/mcp_endpoint/call/?token=t"
    assert dial.shown("wss://user:secret@h:1/mcp_endpoint/call/?token=t#x") == "wss://h:1/mcp_endpoint/call/"


def test_foreign_text_is_cut_and_steers_no_terminal() -> None:
    assert dial.readable("a\x1b[31m\n你\u202e") == "a\\x1b[31m\\n你\\u202e"
    assert dial.readable("x" * 999) == "x" * dial.SHOWN_CHARACTERS
