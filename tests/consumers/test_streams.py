"""Streams of events: what is kept, what is forgotten, and a client that does not read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import BOUND

from mcp_endpoint.consumers.streams import Events, Store, Stream


def store(most: int = 10**9) -> Store:
    return Store(most, lambda: None)


def test_a_frame_is_one_line_of_data_whatever_is_in_it() -> None:
    stream = Stream(3, store(), primed=False)
    connection = stream.connect()
    assert connection is not None
    stream.say(b'{"a":\r\n"b\xe2\x80\xa8"}')
    assert stream.pieces(connection) == b'id: 3-1\nevent: message\ndata: {"a":  "b\xe2\x80\xa8"}\n\n'
    assert stream.pieces(connection) == b""


def test_a_primed_stream_begins_with_an_id_and_the_time_to_come_back_after() -> None:
    stream = Stream(0, store(), primed=True)
    connection = stream.connect()
    assert connection is not None
    assert stream.pieces(connection) == b"id: 0-1\nretry: 1000\ndata: \n\n"


def test_only_the_newest_connection_is_spoken_to_and_the_one_before_it_follows() -> None:
    stream = Stream(0, store(), primed=False)
    old, new = stream.connect(), stream.connect()
    assert old is not None and new is not None
    stream.say(b"1")
    assert stream.pieces(old) == b"" and b"data: 1" in stream.pieces(new)
    stream.disconnect(new)
    stream.disconnect(new)
    stream.say(b"2")
    assert b"data: 2" in stream.pieces(old)


def test_what_was_forgotten_cannot_be_resumed_from_and_nothing_can_that_was_not_said() -> None:
    stream = Stream(0, store(), primed=False)
    connection = stream.connect()
    assert connection is not None
    for number in range(4):
        stream.say(b"%d" % number)
        stream.pieces(connection)
    assert stream.queued == 0
    stream.say(b"4")
    stream.forget()
    assert stream.queued == stream.size > 0
    assert stream.connect(3) is None and stream.connect(6) is None
    again = stream.connect(4)
    assert again is not None and b"data: 4" in stream.pieces(again)
    stream.disconnect(again)
    stream.disconnect(connection)
    stream.forget()
    assert (stream.queued, stream.size, stream.empty) == (0, 0, False)
    stream.end()
    assert stream.empty


def test_the_store_is_told_of_every_byte_and_calls_for_room() -> None:
    called = []
    kept = Store(100, lambda: called.append(kept.used))
    stream = Stream(0, kept, primed=False)
    stream.say(b"x" * 50)
    assert not called
    stream.say(b"x" * 50)
    assert called == [kept.used] and kept.used == stream.size > 100
    stream.close()
    assert kept.used == 0 and stream.ended


@given(st.lists(st.sampled_from(["say", "read", "lose", "come", "forget", "back"]), max_size=40))
def test_whoever_keeps_reading_misses_nothing_and_hears_nothing_twice(doings: list[str]) -> None:
    """A client that comes back says where it was; what it has then heard is a run without gaps, or it is refused."""
    kept = store()
    stream = Stream(0, kept, primed=False)
    connection = stream.connect()
    heard: list[int] = []
    said = 0
    for doing in doings:
        if doing == "say":
            said += 1
            stream.say(b"%d" % said)
        elif doing == "forget":
            stream.forget()
        elif doing == "lose" and connection is not None:
            stream.disconnect(connection)
            connection = None
        elif doing in ("come", "back") and connection is None:
            connection = stream.connect(len(heard) if doing == "back" else None)
            if connection is None or doing == "come":
                heard = list(range(1, stream.written + 1))  # it starts from what is there
        elif doing == "read" and connection is not None:
            heard += [int(line[6:]) for line in stream.pieces(connection).splitlines() if line.startswith(b"data: ")]
        assert heard == list(range(1, len(heard) + 1))
        assert kept.used == stream.size >= stream.queued >= 0
    stream.close()
    assert kept.used == 0


class Wire:
    """What an ASGI server gives an application."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.gone = asyncio.Event()
        self.stuck = asyncio.Event()
        self.wrote = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        self.wrote.set()
        if self.stuck.is_set() and message["type"] == "http.response.body":
            await asyncio.Event().wait()


async def run(stream: Stream, wire: Wire, seconds: float = BOUND) -> asyncio.Task[None]:
    connection = stream.connect()
    assert connection is not None
    task = asyncio.create_task(Events(connection, seconds)({}, wire.receive, wire.send))
    async with asyncio.timeout(BOUND):
        await wire.wrote.wait()
    return task


async def test_a_client_that_takes_nothing_is_given_up_and_its_events_are_kept() -> None:
    stream, wire = Stream(0, store(), primed=False), Wire()
    wire.stuck.set()
    task = await run(stream, wire, 0.05)
    stream.say(b"1")
    async with asyncio.timeout(BOUND):
        await task
    assert wire.sent[-1]["more_body"] is True and not stream.connected
    assert stream.connect(0) is not None


async def test_a_client_that_leaves_ends_the_answer_and_not_the_stream() -> None:
    stream, wire = Stream(0, store(), primed=False), Wire()
    task = await run(stream, wire)
    assert stream.connected
    wire.gone.set()
    async with asyncio.timeout(BOUND):
        await task
    assert not stream.connected and not stream.ended


async def test_the_end_of_a_stream_is_the_end_of_the_answer() -> None:
    stream, wire = Stream(0, store(), primed=False), Wire()
    task = await run(stream, wire)
    stream.say(b"1")
    stream.end()
    async with asyncio.timeout(BOUND):
        await task
    assert b"data: 1" in wire.sent[-2]["body"] and wire.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_server_that_stops_cancels_the_answer_and_nothing_stays_connected() -> None:
    stream, wire = Stream(0, store(), primed=False), Wire()
    task = await run(stream, wire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not stream.connected
