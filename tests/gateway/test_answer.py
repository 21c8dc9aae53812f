"""An upstream's response on its way to a client: an ASGI server is played by the test."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import pytest
from starlette.types import Message

from mcp_endpoint.credentials.pool import Credential
from mcp_endpoint.gateway.answer import Streamed
from mcp_endpoint.gateway.forward import Counts, Upstream
from mcp_endpoint.gateway.rewrite import Scrub, Target
from mcp_endpoint.settings.schema import GatewaySettings

KEY = "sk-0123456789abcdef"


class Body(httpx2.AsyncByteStream):
    """What an upstream says, and how it ends."""

    def __init__(self, pieces: Sequence[bytes], end: Exception | None = None) -> None:
        self.pieces = pieces
        self.end = end
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
        if self.end is not None:
            raise self.end

    async def aclose(self) -> None:
        self.closed = True


def upstream() -> Upstream:
    target = Target.at("http://h/v1")
    settings = GatewaySettings(name="m", target="http://h/v1")
    transport = httpx2.AsyncHTTPTransport()
    return Upstream(settings, target, httpx2.URL("http://h"), "bearer", None, None, transport, OrderedDict(), Counts())


async def sent(streamed: Streamed) -> list[Message]:
    """What the client's server is told, as long as the client stays."""
    told: list[Message] = []

    async def send(message: Message) -> None:
        told.append(message)

    await streamed({}, asyncio.get_running_loop().create_future, send)
    return told


def body(messages: list[Message]) -> list[tuple[bytes, bool]]:
    return [(message["body"], message["more_body"]) for message in messages[1:]]


def streamed(pieces: Body, status: int = 200, *, stopped: bool = False, **headers: str) -> tuple[Streamed, Upstream]:
    behind = upstream()
    response = httpx2.Response(status, headers={name.replace("_", "-"): value for name, value in headers.items()}, stream=pieces)
    return Streamed(behind, response, "/gateway/m", Scrub(Credential(KEY).secret), lambda: stopped, endless=False), behind


async def test_a_response_is_sent_piece_by_piece() -> None:
    pieces = Body([b"a", b"b"])
    given, _ = streamed(pieces)
    assert body(await sent(given)) == [(b"a", True), (b"b", True), (b"", False)]
    assert pieces.closed


@pytest.mark.parametrize(("headers", "shown"), [({}, b"no key ****"), ({"content_encoding": "gzip"}, b"no key sk-0")])
async def test_an_error_shows_stars_for_the_key_unless_it_is_compressed(headers: dict[str, str], shown: bytes) -> None:
    given, _ = streamed(Body([b"no key " + KEY[:5].encode(), KEY[5:].encode()]), 401, **headers)
    assert b"".join(piece for piece, _ in body(await sent(given))).startswith(shown)


async def test_a_response_that_breaks_off_has_no_end() -> None:
    given, behind = streamed(Body([b"a"], httpx2.ReadError("")))
    assert body(await sent(given)) == [(b"a", True)]
    assert behind.counts.failed == 1


@pytest.mark.parametrize(("headers", "end"), [({}, [(b"", False)]), ({"content_length": "9"}, [])])
async def test_a_response_that_this_servers_stop_breaks_off_ends_where_it_has_no_length(
    headers: dict[str, str], end: list[tuple[bytes, bool]]
) -> None:
    given, behind = streamed(Body([b"a"], httpx2.ReadError("")), stopped=True, **headers)
    assert body(await sent(given)) == [(b"a", True), *end]
    assert behind.counts.failed == len(headers)


async def test_a_client_that_leaves_ends_the_upstreams_work() -> None:
    class Silent(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.get_running_loop().create_future()

    pieces = Silent([])
    given, _ = streamed(pieces)
    told: asyncio.Queue[Message] = asyncio.Queue()

    async def receive() -> Any:
        while (await told.get())["type"] != "http.response.body":
            pass
        return {"type": "http.disconnect"}

    async with asyncio.timeout(5):
        await given({}, receive, told.put)
    assert pieces.closed
