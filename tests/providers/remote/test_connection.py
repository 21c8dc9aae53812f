"""The two wires of MCP over HTTP, between a server of bare sockets and somebody who only listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from upstream import Seen, Upstream, reply, says, upstream

from mcp_endpoint import errors
from mcp_endpoint.backoff import Backoff
from mcp_endpoint.protocol import jsonrpc
from mcp_endpoint.providers.remote import connection as module
from mcp_endpoint.providers.remote.connection import HttpSseConnection, NotOpened, StreamableHttpConnection
from mcp_endpoint.providers.remote.failure import Failure
from mcp_endpoint.providers.remote.transport import KeyedTransport

BOUND = 20.0
MOST = 4096
JSON = "Content-Type: application/json"
EVENTS = "Content-Type: text/event-stream"
CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x"}}'
ANSWER = b'{"jsonrpc":"2.0","id":7,"result":{"n":1.00}}'
NOTICE = b'{"jsonrpc":"2.0","method":"notifications/message","params":{}}'


class Listener:
    """What the wire told, in its order."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes] = asyncio.Queue()
        self.ends: asyncio.Queue[Failure] = asyncio.Queue()
        self.noises = 0
        self.changes = 0
        self.tasks: list[asyncio.Task[None]] = []

    def received(self, data: bytes, frame: jsonrpc.Frame | None = None) -> None:
        self.came.put_nowait(data)

    def noise(self) -> None:
        self.noises += 1

    def stream_ended(self, failure: Failure) -> None:
        self.ends.put_nowait(failure)

    def changed(self) -> None:
        self.changes += 1

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.get_running_loop().create_task(work))
        return self.tasks[-1]

    def all(self) -> list[bytes]:
        return [self.came.get_nowait() for _ in range(self.came.qsize())]


@asynccontextmanager
async def wire(url: str, kind: type[Any] = StreamableHttpConnection) -> AsyncIterator[tuple[Any, Listener]]:
    listener = Listener()
    transport = KeyedTransport(None, "bearer", MOST)
    async with httpx2.AsyncClient(transport=transport, timeout=5, trust_env=False) as http:
        more = (Backoff(lambda: 1.0),) if kind is StreamableHttpConnection else ()
        made = kind(url, http, MOST, listener, listener.spawn, *more)
        try:
            async with asyncio.timeout(BOUND):
                yield made, listener
                await made.close()
        finally:
            for task in listener.tasks:
                task.cancel()
            if listener.tasks:
                await asyncio.wait(listener.tasks)


async def ask(made: Any, data: bytes = CALL) -> Failure | None:
    found: Failure | None = await made.post(data, jsonrpc.parse(data), {})
    return found


def events(*data: bytes) -> bytes:
    return b"".join(b"data: " + one + b"\n\n" for one in data)


# -- an answer that came and cannot be read ------------------------------------------------------------------------------------

UNREADABLE = [
    b'{"jsonrpc":"2.0","id":7,"result":{"n":NaN}}',
    b'{"jsonrpc":"2.0","id":7,"result":{"n":Infinity}}',
    '{"jsonrpc":"2.0","id":7,"result":"天气"}'.encode("gbk"),
    b'{"jsonrpc":"2.0","id":7,"result":"a\tb"}',
    b'{"jsonrpc":"2.0","id":7,"result":{"n":1',
    b'{"jsonrpc":"2.0","id":7,"result":{},"result":{"a":1}}',
    b'{"jsonrpc":"2.0","id":7,"id":8,"result":{}}',
    b'{"jsonrpc":"2.0","id":7}',
    b"{}",
]


@pytest.mark.parametrize("body", UNREADABLE)
@pytest.mark.parametrize("kind", ["json", "events"])
async def test_an_answer_that_cannot_be_read_ends_its_request_with_the_reason(body: bytes, kind: str) -> None:
    answer = reply(200, body, JSON) if kind == "json" else reply(200, events(NOTICE, body), EVENTS)
    async with upstream(says(answer)) as behind, wire(behind.url) as (made, listener):
        failure = await ask(made)
        assert failure is not None
        assert "cannot be read" in failure.en and "无法解析" in failure.zh
        assert failure.delivered is True
        assert listener.all() == ([NOTICE] if kind == "events" else [])


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (reply(200, b'"' + b"x" * MOST + b'"', JSON), errors.ANSWER_TOO_BIG, "too large, more than 4096 bytes"),
        (reply(200, events(b'{"result":"' + b"x" * MOST + b'"}'), EVENTS), errors.ANSWER_TOO_BIG, "too large, more than 4096 bytes"),
        (reply(200, b"<html><title>Sorry</title><script>x</script>", "Content-Type: text/html"), errors.UNREADABLE_ANSWER, "(text/html)"),
        (reply(202), None, "did not answer"),
        (reply(200, b"", JSON), None, "did not answer"),
        (reply(200, events(NOTICE), EVENTS), None, "broke off"),
        (b"HTTP/1.1 200 OK\r\n" + JSON.encode() + b'\r\nContent-Length: 99\r\nConnection: close\r\n\r\n{"a', None, "broke off"),
        (reply(200, b"[]", JSON), errors.UNREADABLE_ANSWER, "not an array"),
    ],
)
async def test_an_answer_that_is_none_ends_its_request_with_the_reason(answer: bytes, code: Any, words: str) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with upstream(script) as behind, wire(behind.url) as (made, _):
        failure = await ask(made)
        assert failure is not None
        assert words in failure.en
        assert failure.code == code
        assert "script" not in failure.en


@pytest.mark.parametrize(
    ("body", "heard"),
    [
        (b"\xef\xbb\xbf" + ANSWER, ANSWER),
        (ANSWER.replace(b'"jsonrpc":"2.0",', b""), ANSWER),
        (ANSWER.replace(b'"id":7', b'"id":"7"'), ANSWER),
        (ANSWER.replace(b'"id":7', b'"id":7.0'), ANSWER),
        (ANSWER.replace(b'"id":7', b'"id":null'), ANSWER),
        (ANSWER.replace(b'"id":7,', b""), ANSWER),
        (ANSWER[:-1] + b',"error":null}', ANSWER),
        (b'{"id":7,"result":"\\ud83d"}', b'{"jsonrpc":"2.0","id":7,"result":"\\ud83d"}'),
    ],
)
@pytest.mark.parametrize("kind", [JSON, "Content-Type: text/plain", EVENTS])
async def test_an_answer_whose_meaning_is_plain_is_taken(body: bytes, heard: bytes, kind: str) -> None:
    answer = reply(200, events(body) if kind == EVENTS else body, kind)
    async with upstream(says(answer)) as behind, wire(behind.url) as (made, listener):
        assert await ask(made) is None
        assert listener.all() == [heard]


async def test_words_that_keep_a_stream_alive_are_no_answers() -> None:
    stream = b": ping\n\nevent: ping\ndata: {}\n\nid: 0\ndata:\n\n" + events(b"keep-alive", NOTICE, ANSWER)
    async with upstream(says(reply(200, stream, EVENTS))) as behind, wire(behind.url) as (made, listener):
        assert await ask(made) is None
        assert listener.all() == [NOTICE, ANSWER]
        assert listener.noises == 1


# -- Streamable HTTP -----------------------------------------------------------------------------------------------------------


async def test_an_answer_that_breaks_off_is_asked_for_again_where_the_stream_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    first = reply(200, b"id: 41\nretry: 10\ndata:\n\n", EVENTS)
    async with upstream(says(first, reply(200, events(ANSWER), EVENTS))) as behind, wire(behind.url) as (made, listener):
        assert await ask(made) is None
        assert listener.all() == [ANSWER]
        assert [(seen.method, seen.all("last-event-id")) for seen in behind.seen] == [("POST", []), ("GET", ["41"])]


async def test_a_stream_that_breaks_off_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    async with (
        upstream(says(reply(200, b"id: 41\ndata:\n\n", EVENTS), reply(200, b": \n\n", EVENTS))) as behind,
        wire(behind.url) as (made, _),
    ):
        failure = await ask(made)
        assert failure is not None and "broke off" in failure.en
        assert len(behind.seen) == 1 + module.RESUMPTIONS


async def test_an_answer_that_never_comes_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{EVENTS}\r\n\r\n".encode())
        await writer.drain()
        await asyncio.Event().wait()

    async with upstream(script) as behind, wire(behind.url) as (made, _):
        failure = await ask(made)
        assert failure is not None and "in time" in failure.en


HELLO = b'{"jsonrpc":"2.0","id":"hello","method":"initialize","params":{}}'
WELCOME = b'{"jsonrpc":"2.0","id":"hello","result":{}}'


class Sessions:
    """A server with sessions; `streams` are what it answers to GET, one after the other."""

    def __init__(self, *streams: bytes) -> None:
        self.streams = list(streams)
        self.listening = asyncio.Event()

    async def __call__(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.method == "GET" and self.streams:
            writer.write(self.streams.pop(0))
        elif seen.method == "GET":
            self.listening.set()
            await asyncio.Event().wait()
        elif b"initialize" in seen.body:
            writer.write(reply(200, WELCOME, JSON, "Mcp-Session-Id: abc"))
        else:
            writer.write(reply(200, ANSWER, JSON))
        await writer.drain()


async def test_a_session_is_named_in_every_request_behind_the_greeting_and_ended() -> None:
    async with upstream(Sessions()) as behind:
        async with wire(behind.url) as (made, listener):
            assert await ask(made, HELLO) is None
            made.version = "2025-06-18"
            assert await ask(made) is None
            assert listener.all() == [WELCOME, ANSWER]
            assert await ask(made, HELLO) is None
        assert [(seen.method, seen.all("mcp-session-id"), seen.all("mcp-protocol-version")) for seen in behind.seen] == [
            ("POST", [], []),
            ("POST", ["abc"], ["2025-06-18"]),
            ("POST", [], []),
            ("DELETE", ["abc"], ["2025-06-18"]),
        ]


async def test_announcements_come_and_their_stream_is_opened_again() -> None:
    ends = reply(200, events(NOTICE, b'{"id":9,"result":"' + b"x" * MOST + b'"}', b"{}"), EVENTS)
    play = Sessions(ends, reply(503, b"", "Retry-After: 0"))
    async with upstream(play) as behind, wire(behind.url) as (made, listener):
        await ask(made, HELLO)
        made.listen()
        await play.listening.wait()
        welcome, notice, large, odd = listener.all()
        assert (welcome, notice, odd) == (WELCOME, NOTICE, b"{}")
        assert json.loads(large)["error"]["code"] == errors.ANSWER_TOO_BIG.number
        assert [seen.method for seen in behind.seen].count("GET") == 3


@pytest.mark.parametrize(
    "answer", [reply(405), reply(404), reply(200, b"<html>", "Content-Type: text/html"), reply(302, b"", "Location: http://x/")]
)
async def test_a_server_may_have_no_stream_of_announcements(answer: bytes) -> None:
    async with upstream(Sessions(answer)) as behind, wire(behind.url) as (made, listener):
        await ask(made, HELLO)
        made.listen()
        await asyncio.wait(listener.tasks)
        lost = b" 404 " in answer  # it does not know the session it was just given
        assert listener.ends.qsize() == int(lost)
        assert [seen.method for seen in behind.seen] == ["POST", "GET"]


# -- HTTP+SSE ------------------------------------------------------------------------------------------------------------------


class Old:
    """A server of MCP 2024-11-05: what is put into `says` comes on its stream."""

    def __init__(self, address: str = "/messages?session_id=1", posted: bytes = reply(202, b"Accepted")) -> None:
        self.address = address
        self.posted = posted
        self.says: asyncio.Queue[bytes] = asyncio.Queue()

    async def __call__(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.method == "POST":
            writer.write(self.posted)
            await writer.drain()
            return
        writer.write(f"HTTP/1.1 200 OK\r\n{EVENTS}; charset=utf-8\r\n\r\nevent: endpoint\ndata: {self.address}\n\n".encode())
        while data := await self.says.get():
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.mark.parametrize("address", ["/messages?session_id=1", "messages?session_id=1", "{url}/messages?session_id=1"])
async def test_messages_go_where_the_stream_says_and_answers_come_on_it(address: str) -> None:
    play = Old(address)
    async with upstream(play) as behind:
        play.address = address.format(url=behind.url)
        async with wire(f"{behind.url}/sse", HttpSseConnection) as (made, listener):
            await made.open()
            assert await ask(made) is None
            assert behind.seen[-1].target == "/messages?session_id=1"
            play.says.put_nowait(events(ANSWER))
            assert await listener.came.get() == ANSWER
            play.says.put_nowait(b"")
            assert "ended its stream" in (await listener.ends.get()).en


async def test_an_answer_that_is_too_large_ends_its_request_and_nothing_else() -> None:
    play = Old()
    async with upstream(play) as behind, wire(behind.url, HttpSseConnection) as (made, listener):
        await made.open()
        large = b'{"jsonrpc":"2.0","id":7,"result":"' + b"x" * MOST + b'"}'
        play.says.put_nowait(events(large, NOTICE))
        told = json.loads(await listener.came.get())
        assert (told["id"], told["error"]["code"]) == (7, errors.ANSWER_TOO_BIG.number)
        assert await listener.came.get() == NOTICE
        play.says.put_nowait(events(b'{"method":"x","params":"' + b"x" * MOST + b'"}', ANSWER))
        assert await listener.came.get() == ANSWER
        assert listener.noises == 1


async def test_an_old_server_may_answer_in_the_post_too() -> None:
    play = Old(posted=reply(200, ANSWER, JSON))
    async with upstream(play) as behind, wire(behind.url, HttpSseConnection) as (made, listener):
        await made.open()
        assert await ask(made) is None
        assert listener.all() == [ANSWER]


async def test_a_forgotten_session_of_an_old_server_is_told() -> None:
    play = Old(posted=reply(404, b"Could not find session"))
    async with upstream(play) as behind, wire(behind.url, HttpSseConnection) as (made, _):
        await made.open()
        failure = await ask(made)
        assert failure is not None and failure.session_lost and failure.delivered is False


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            reply(401, b'{"error":"invalid_token"}', JSON),
            "HTTP 401 (its key is missing or wrong: check headers or credentials): invalid_token",
        ),
        (reply(200, b"<h1>Back soon</h1>", "Content-Type: text/html"), "(text/html) cannot be read: no stream of events: Back soon"),
        (reply(200, b": \n\n", EVENTS), "before it named an address"),
        (b"HTTP/1.1 200 OK\r\n" + EVENTS.encode() + b"\r\nContent-Length: 99\r\nConnection: close\r\n\r\n:", "broke off"),
    ],
)
async def test_a_stream_that_does_not_open_says_why(answer: bytes, words: str) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with upstream(script) as behind, wire(behind.url, HttpSseConnection) as (made, _):
        with pytest.raises(NotOpened) as caught:
            await made.open()
        assert words in caught.value.failure.en
        assert isinstance(behind, Upstream)
