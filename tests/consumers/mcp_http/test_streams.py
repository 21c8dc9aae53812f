"""Streams of events: what is kept, what is forgotten, and a client that does not read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from running import BOUND

from mcp_endpoint.asgi import CUT
from mcp_endpoint.consumers.mcp_http.streams import EventsResponse, Store, Stream


def read(stream: Stream, connection: Any) -> bytes:
    return b"".join(stream.pieces(connection))


def store(most: int = 10**9) -> Store:
    return Store(most)


def test_a_frame_is_one_line_of_data_whatever_is_in_it() -> None:
    stream = Stream(3, "home", store(), primed=False)
    connection = stream.connect()
    assert connection is not None
    stream.add(b'{"a":\r\n"b\xe2\x80\xa8"}')
    assert read(stream, connection) == b'id: 3-1\nevent: message\ndata: {"a":  "b\xe2\x80\xa8"}\n\n'
    assert read(stream, connection) == b""


def test_a_primed_stream_begins_with_an_id_and_the_time_to_come_back_after() -> None:
    stream = Stream(0, "home", store(), primed=True)
    connection = stream.connect()
    assert connection is not None
    assert read(stream, connection) == b"id: 0-1\nretry: 1000\ndata: \n\n"


def test_only_the_newest_connection_is_spoken_to_and_the_one_before_it_follows() -> None:
    stream = Stream(0, "home", store(), primed=False)
    old, new = stream.connect(), stream.connect()
    assert old is not None and new is not None
    stream.add(b"1")
    assert read(stream, old) == b"" and b"data: 1" in read(stream, new)
    stream.disconnect(new)
    stream.disconnect(new)
    stream.add(b"2")
    assert b"data: 2" in read(stream, old)


def test_what_was_forgotten_cannot_be_resumed_from_and_nothing_can_that_was_not_said() -> None:
    stream = Stream(0, "home", store(), primed=False)
    connection = stream.connect()
    assert connection is not None
    for number in range(4):
        stream.add(b"%d" % number)
        read(stream, connection)
        stream.taken(connection)
    assert stream.queued == 0
    stream.add(b"4")
    stream.spare()
    assert stream.queued == stream.size > 0
    assert stream.connect(3) is None and stream.connect(6) is None
    again = stream.connect(4)
    assert again is not None and b"data: 4" in read(stream, again)
    stream.disconnect(again)
    stream.disconnect(connection)
    stream.spare()
    assert (stream.queued, stream.size, stream.empty) == (0, 0, False)
    stream.end()
    assert stream.empty


def test_when_there_is_no_room_the_endpoint_that_holds_most_pays_first_with_what_was_read() -> None:
    kept = Store(1_000)
    guest = Stream(0, "away", kept, primed=False)
    was_read, unread = Stream(1, "home", kept, primed=False), Stream(2, "home", kept, primed=False)
    reading, stuck = was_read.connect(), unread.connect()
    assert reading is not None and stuck is not None
    guest.add(b"x" * 200)
    unread.add(b"x" * 300)
    was_read.add(b"x" * 250)
    was_read.pieces(reading)
    was_read.taken(reading)
    guest.add(b"x" * 150)
    assert (was_read.size, guest.last) == (0, 2) and kept.held_by("away") == guest.size and not stuck.left
    guest.add(b"x" * 300)
    assert guest.size == 0 and unread.size > 300 and not stuck.left, "nobody reads the guest's, and now it holds most"
    unread.add(b"x" * 800)
    assert stuck.left and not unread.connected and kept.used == unread.size == 0
    assert unread.connect(1) is None, "what was dropped cannot be resumed from"


def test_what_a_connection_is_writing_is_counted_until_it_was_taken() -> None:
    kept = Store(1_000)
    stream = Stream(0, "home", kept, primed=False)
    connection = stream.connect()
    assert connection is not None
    stream.add(b"x" * 500)
    read(stream, connection)
    stream.spare()
    assert kept.used == stream.queued == stream.size > 500
    stream.taken(connection)
    stream.spare()
    assert kept.used == stream.queued == stream.size == 0


def test_however_small_the_store_is_an_answer_reaches_a_client_that_reads() -> None:
    kept = Store(100, 2_000)
    stream = Stream(0, "home", kept, primed=False)
    connection = stream.connect()
    assert connection is not None
    stream.add(b"x" * 1_000)
    assert len(read(stream, connection)) > 1_000 and not connection.left


class Book(RuleBasedStateMachine):
    """Streams of three endpoints over one small store, and everything that is done to them."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Store(2_000)
        self.streams = [Stream(number, f"endpoint {number % 3}", self.kept, primed=bool(number % 2)) for number in range(5)]
        self.connections: list[Any] = []

    @rule(number=st.integers(0, 4), size=st.integers(0, 900))
    def say(self, number: int, size: int) -> None:
        self.streams[number].add(b"x" * size)

    @rule(number=st.integers(0, 4), after=st.none() | st.integers(0, 5))
    def connect(self, number: int, after: int | None) -> None:
        connection = self.streams[number].connect(after)
        if connection is not None:
            self.connections.append(connection)

    @rule(which=st.integers(0, 30), whole=st.booleans())
    def read(self, which: int, whole: bool) -> None:
        if self.connections:
            connection = self.connections[which % len(self.connections)]
            connection.stream.taken(connection)
            connection.stream.pieces(connection)
            if whole:
                connection.stream.taken(connection)

    @rule(which=st.integers(0, 30))
    def leave(self, which: int) -> None:
        if self.connections:
            connection = self.connections.pop(which % len(self.connections))
            connection.stream.disconnect(connection)

    @rule(number=st.integers(0, 4), how=st.sampled_from(["spare", "drop", "end", "close"]))
    def end(self, number: int, how: str) -> None:
        getattr(self.streams[number], how)()

    @invariant()
    def what_is_counted_is_what_is_held(self) -> None:
        sizes = [sum(map(len, stream._kept)) for stream in self.streams]
        assert [stream.size for stream in self.streams] == sizes
        assert self.kept.used == sum(sizes) <= self.kept.most
        for stream in self.streams:
            assert 0 <= stream.queued == sum(map(len, stream._kept[stream._sent - stream._lost :]))
            assert stream._lost <= stream._sent <= stream.last and stream._lost <= stream.written <= stream.last
        for owner in {stream.owner for stream in self.streams}:
            assert self.kept.held_by(owner) == sum(stream.size for stream in self.streams if stream.owner == owner)


TestBook = Book.TestCase
TestBook.settings = settings(settings.get_profile("lives"), max_examples=20, stateful_step_count=30)


@given(st.lists(st.sampled_from(["say", "read", "lose", "come", "forget", "back"]), max_size=40))
def test_whoever_keeps_reading_misses_nothing_and_hears_nothing_twice(doings: list[str]) -> None:
    """A client that comes back says where it was; what it has then heard is a run without gaps, or it is refused."""
    kept = store()
    stream = Stream(0, "home", kept, primed=False)
    connection = stream.connect()
    heard: list[int] = []
    said = 0
    for doing in doings:
        if doing == "say":
            said += 1
            stream.add(b"%d" % said)
        elif doing == "forget":
            stream.spare()
        elif doing == "lose" and connection is not None:
            stream.disconnect(connection)
            connection = None
        elif doing in ("come", "back") and connection is None:
            connection = stream.connect(len(heard) if doing == "back" else None)
            if connection is None or doing == "come":
                heard = list(range(1, stream.written + 1))  # it starts from what is there
        elif doing == "read" and connection is not None:
            heard += [int(line[6:]) for line in read(stream, connection).splitlines() if line.startswith(b"data: ")]
            stream.taken(connection)
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
        self.cut = asyncio.Event()
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
    scope = {"extensions": {CUT: {"cut": wire.cut.set}}}
    task = asyncio.create_task(EventsResponse(connection, seconds)(scope, wire.receive, wire.send))
    async with asyncio.timeout(BOUND):
        await wire.wrote.wait()
    return task


async def test_a_client_that_takes_nothing_is_given_up_and_its_events_are_kept() -> None:
    stream, wire = Stream(0, "home", store(), primed=False), Wire()
    wire.stuck.set()
    task = await run(stream, wire, 0.05)
    stream.add(b"1")
    async with asyncio.timeout(BOUND):
        await task
    assert wire.sent[-1]["more_body"] is True and not stream.connected and wire.cut.is_set()
    assert stream.connect(0) is not None


async def test_a_client_that_leaves_ends_the_answer_and_not_the_stream() -> None:
    stream, wire = Stream(0, "home", store(), primed=False), Wire()
    task = await run(stream, wire)
    assert stream.connected
    wire.gone.set()
    async with asyncio.timeout(BOUND):
        await task
    assert not stream.connected and not stream.ended


async def test_the_end_of_a_stream_is_the_end_of_the_answer() -> None:
    stream, wire = Stream(0, "home", store(), primed=False), Wire()
    task = await run(stream, wire)
    stream.add(b"1")
    stream.end()
    async with asyncio.timeout(BOUND):
        await task
    assert b"data: 1" in wire.sent[-2]["body"] and wire.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert not wire.cut.is_set()


async def test_a_server_that_stops_cancels_the_answer_and_nothing_stays_connected() -> None:
    stream, wire = Stream(0, "home", store(), primed=False), Wire()
    task = await run(stream, wire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not stream.connected


async def test_a_client_that_does_not_read_is_cut_off_when_its_endpoint_holds_most() -> None:
    stream, wire = Stream(0, "home", store(100_000), primed=False), Wire()
    wire.stuck.set()
    task = await run(stream, wire)
    wire.wrote.clear()
    stream.add(b"x" * 30_000)
    async with asyncio.timeout(BOUND):
        await wire.wrote.wait()
    for _ in range(3):
        stream.add(b"x" * 30_000)
    async with asyncio.timeout(BOUND):
        await task
    assert wire.sent[-1]["more_body"] is True and not stream.connected and stream.size == 0
