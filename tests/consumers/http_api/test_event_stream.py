"""A call's progress and result as events, for readers that are quick, slow or gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from running import BOUND
from starlette.types import Message

from mcp_endpoint.consumers.http_api import event_stream as module
from mcp_endpoint.consumers.http_api.event_stream import EVENT_BYTES, EVENTS, Answer, EventStream

Call = Callable[[EventStream], Coroutine[Any, Any, Answer]]


class Reader:
    """A client that reads when the test lets it."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.began = asyncio.Event()
        self.gone = asyncio.Event()

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.began.set()
        await self.reads.wait()
        self.sent.append(message)

    @property
    def body(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


async def told(stream: EventStream, call: Call, reader: Reader) -> list[Answer | None]:
    """Run a call to its end; gives what was told of it."""
    ends: list[Answer | None] = []
    async with asyncio.timeout(BOUND):
        await stream.start(call(stream), ends.append)
        await stream({"type": "http"}, reader.receive, reader.send)
    return ends


async def test_progress_comes_before_the_result() -> None:
    async def call(stream: EventStream) -> Answer:
        stream.begin()
        stream.on_progress(b'{"progressToken":1,"progress":1,"total":2,"message":"half"}')
        stream.on_progress(b'{"progressToken":1,"progress":2}')
        stream.on_progress(b'{"progress":"much"}')
        stream.on_progress(b"not JSON")
        return 200, b'{\n"result":{}}'

    reader = Reader()
    assert await told(EventStream(), call, reader) == [(200, b'{\n"result":{}}')]
    head = dict(reader.sent[0]["headers"])
    assert reader.sent[0]["status"] == 200 and head[b"content-type"].startswith(b"text/event-stream")
    assert reader.body == (
        'event: progress\ndata: {"progress":1.0,"total":2.0,"message":"half"}\n\n'
        'event: progress\ndata: {"progress":2.0}\n\n'
        'event: result\ndata: { "result":{}}\n\n'
    )
    assert not reader.sent[-1]["more_body"]


async def test_a_failure_after_the_tool_was_asked_is_an_event_and_one_before_is_not() -> None:
    async def late(stream: EventStream) -> Answer:
        stream.begin()
        return 503, b'{"error":{}}'

    async def early(stream: EventStream) -> Answer:
        raise LookupError("no such tool")

    reader = Reader()
    await told(EventStream(), late, reader)
    assert reader.body == 'event: error\ndata: {"error":{}}\n\n'
    with pytest.raises(LookupError):
        await told(EventStream(), early, Reader())


async def test_a_client_that_hangs_up_ends_its_call() -> None:
    ended = asyncio.Event()

    async def call(stream: EventStream) -> Answer:
        stream.begin()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    reader = Reader()
    reader.gone.set()
    assert await told(EventStream(), call, reader) == [None]
    assert ended.is_set()


async def test_whoever_stops_waiting_before_the_tool_is_asked_ends_the_call() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def call() -> Answer:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    starting = asyncio.create_task(EventStream().start(call(), lambda answer: None))
    async with asyncio.timeout(BOUND):
        await started.wait()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert ended.is_set()


async def test_a_slow_reader_gets_the_newest_progress_and_the_result() -> None:
    done = asyncio.Event()

    async def call(stream: EventStream) -> Answer:
        stream.begin()
        await reader.began.wait()
        for number in range(EVENTS + 5):
            stream.on_progress(b'{"progress":%d}' % number)
        stream.on_progress(b'{"progress":99,"message":"%b"}' % (b"x" * EVENT_BYTES))
        done.set()
        return 200, b"{}"

    reader = Reader()
    reader.reads.clear()
    telling = asyncio.create_task(told(EventStream(), call, reader))
    async with asyncio.timeout(BOUND):
        await done.wait()
        reader.reads.set()
        await telling
    numbers = [float(part.split("}")[0]) for part in reader.body.split('"progress":')[1:]]
    assert numbers == [float(number) for number in range(5, EVENTS + 5)]
    assert reader.body.endswith("event: result\ndata: {}\n\n")


async def test_a_silent_call_is_kept_alive_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.01)
    goes_on = asyncio.Event()

    async def call(stream: EventStream) -> Answer:
        stream.begin()
        await goes_on.wait()
        return 200, b"{}"

    class Patient(Reader):
        async def send(self, message: Message) -> None:
            await super().send(message)
            if message.get("body", b"").startswith(b":"):
                goes_on.set()

    reader = Patient()
    await told(EventStream(), call, reader)
    assert reader.body.startswith(": ") and reader.body.endswith("event: result\ndata: {}\n\n")
