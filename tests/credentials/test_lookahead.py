"""The beginning of an answer is read ahead, and whoever reads the answer afterwards misses nothing."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx2
import pytest
from upstream import BOUND

from mcp_endpoint.credentials import lookahead as module
from mcp_endpoint.credentials.lookahead import Lookahead, answer_of, worked
from mcp_endpoint.credentials.refusals import LOOK_BYTES


class Body(httpx2.AsyncByteStream):
    """Pieces; an event is waited for, an exception raised."""

    def __init__(self, *pieces: bytes | asyncio.Event | Exception) -> None:
        self.pieces = pieces
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            elif isinstance(piece, Exception):
                raise piece
            else:
                yield piece

    async def aclose(self) -> None:
        self.closed = True


def response(status: int, *pieces: bytes | asyncio.Event | Exception, **headers: str) -> httpx2.Response:
    given = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return httpx2.Response(status, headers=given, stream=Body(*pieces))


async def rest(answer: httpx2.Response) -> bytes:
    return b"".join([piece async for piece in answer.aiter_raw()])


async def test_a_refusal_is_looked_at_and_arrives_whole() -> None:
    long = b"quota " * 3000
    refused = response(403, long[:1000], long[1000:9000], long[9000:], retry_after="1.5", www_authenticate="Bearer x")
    found = await answer_of(refused)
    assert (found.status, found.retry_after, found.challenge) == (403, 1.5, "Bearer x")
    assert found.text == long[:LOOK_BYTES]
    assert await rest(refused) == long


async def test_a_compressed_refusal_is_read_and_carried_as_it_is() -> None:
    packed = gzip.compress(b"quota")
    refused = response(429, packed, content_encoding="gzip")
    assert (await answer_of(refused)).text == b"quota"
    assert await rest(refused) == packed


async def test_other_answers_are_not_touched() -> None:
    body = Body(b"x")
    for answer in (httpx2.Response(500, stream=body), httpx2.Response(200, stream=body)):
        await answer_of(answer)
        assert answer.stream is body
    assert (await answer_of(httpx2.Response(403, content=b"quota"))).text == b"quota"


async def test_who_drips_is_not_waited_for_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    more = asyncio.Event()
    refused = response(401, b"be", more, b"gun")
    assert (await answer_of(refused)).text == b"be"
    more.set()
    assert await rest(refused) == b"begun"


async def test_who_breaks_off_breaks_off_for_the_reader_too() -> None:
    refused = response(401, b"be", httpx2.ReadError("gone"))
    assert (await answer_of(refused)).text == b"be"
    with pytest.raises(httpx2.ReadError):
        await rest(refused)


async def test_a_body_that_is_not_wanted_is_closed_while_its_next_piece_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    for pieces in ((b"x", asyncio.Event()), (b"x",)):
        body = Body(*pieces)
        ahead = Lookahead(body)
        assert await ahead.begin() == b"x"
        await ahead.aclose()
        assert body.closed


async def test_who_leaves_while_a_refusal_is_looked_at_leaves_no_connection_open() -> None:
    came = asyncio.Event()

    class Silent(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            came.set()
            await asyncio.Event().wait()
            yield b""

    body = Silent()
    looking = asyncio.create_task(answer_of(httpx2.Response(401, stream=body)))
    async with asyncio.timeout(BOUND):
        await came.wait()
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
    assert body.closed


@pytest.mark.parametrize(
    ("status", "body", "kind", "good"),
    [
        (200, b'{"fine":1}', "application/json", True),
        (200, b'{"error":{"code":"invalid_api_key"}}', "application/json; charset=utf-8", False),
        (200, b'{"error":"x"}', "text/event-stream", True),
        (200, b'{"error":"%b"}' % (b"x" * LOOK_BYTES), "application/json", True),
        (304, b"", "application/json", True),
        (302, b"", "text/html", False),
        (404, b"{}", "application/json", False),
    ],
)
async def test_a_key_got_through_where_the_answer_is_no_error(status: int, body: bytes, kind: str, good: bool) -> None:
    answer = response(status, body, content_type=kind, content_length=str(len(body)))
    assert await worked(answer) is good
    assert await rest(answer) == body


async def test_json_without_a_length_is_a_stream_and_is_not_waited_for() -> None:
    answer = response(200, asyncio.Event(), content_type="application/json")
    assert await worked(answer)
