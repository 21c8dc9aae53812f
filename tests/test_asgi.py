"""A request's body within bounds, and work that ends when nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from running import BOUND
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from mcp_endpoint.asgi import CUT, DROPPED, LARGE_BYTES, Bodies, BodyRefused, cut, unless_gone


class Client:
    """Sends pieces of a body when the test says so."""

    def __init__(self, *pieces: bytes, whole: bool = True) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.asked = asyncio.Event()
        for number, piece in enumerate(pieces, 1):
            self.say(piece, more=not whole or number < len(pieces))
        self.request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, self.receive)

    def say(self, piece: bytes, *, more: bool = True) -> None:
        self.messages.put_nowait({"type": "http.request", "body": piece, "more_body": more})

    def hang_up(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Message:
        if self.messages.empty():
            self.asked.set()
        return await self.messages.get()


def is_refused(caught: pytest.ExceptionInfo[BodyRefused], status: int) -> None:
    assert caught.value.status == status and str(caught.value) == caught.value.message
    assert ("Connection", "close") in caught.value.headers


async def test_a_body_is_read_up_to_its_largest_size() -> None:
    bodies = Bodies(1, BOUND)
    assert await bodies.read(Client(b"ab", b"cd").request, 4, "a") == b"abcd"
    assert await bodies.read(Client(b"").request, 4, "a") == b""
    large = Client(b"abcde", b"f", b"g")
    with pytest.raises(BodyRefused) as caught:
        await bodies.read(large.request, 4, "a")
    is_refused(caught, 413)
    assert large.messages.empty(), "the rest is dropped, so that the client reads its answer"


async def test_a_body_without_an_end_is_dropped_for_a_while_only() -> None:
    endless = Client(*[b"x" * 10] * (DROPPED + 5), whole=False)
    with pytest.raises(BodyRefused) as caught:
        await Bodies(1, BOUND).read(endless.request, 10, "a")
    is_refused(caught, 413)
    assert endless.messages.qsize() == 4


@pytest.mark.parametrize("how", ["read", "begin"])
async def test_a_body_that_is_too_slow_is_408(how: str) -> None:
    bodies = Bodies(1, 0.01)
    client = Client(b"half", whole=False)
    with pytest.raises(BodyRefused) as caught:
        await (bodies.read(client.request, 10, "a") if how == "read" else bodies.begin(client.request, 10, "a", BOUND))
    is_refused(caught, 408)


async def test_a_large_body_is_handed_on_as_it_comes_and_each_piece_has_its_time() -> None:
    bodies = Bodies(1, BOUND)
    assert await bodies.begin(Client(b"ab").request, 4, "a", BOUND) == (b"ab", None)
    begun, rest = await bodies.begin(Client(b"abcde", b"f", b"g").request, 4, "a", BOUND)
    assert begun == b"abcde" and rest is not None
    assert b"".join([piece async for piece in rest]) == b"fg"
    _, stalled = await bodies.begin(Client(b"abcde", whole=False).request, 4, "a", 0.01)
    assert isinstance(stalled, AsyncIterator)
    with pytest.raises(BodyRefused) as caught:
        await anext(stalled)
    is_refused(caught, 408)


async def test_only_so_many_are_read_at_a_time_and_one_holder_has_half_of_them() -> None:
    bodies = Bodies(4, BOUND)
    clients = [Client(whole=False) for _ in range(4)]
    holders = ("a", "a", "b", "b")
    reading = [asyncio.create_task(bodies.read(one.request, 9, holder)) for one, holder in zip(clients, holders, strict=True)]
    async with asyncio.timeout(BOUND):
        await asyncio.gather(*(one.asked.wait() for one in clients[:2]))
        with pytest.raises(BodyRefused) as caught:
            await bodies.read(Client(b"x").request, 9, "a")
        is_refused(caught, 503)
        assert ("Retry-After", "1") in caught.value.headers
        await asyncio.gather(*(one.asked.wait() for one in clients))
        with pytest.raises(BodyRefused):
            await bodies.read(Client(b"x").request, 9, "c")
        clients[0].say(b"x", more=False)
        clients[1].hang_up()
        assert await reading[0] == b"x"
        with pytest.raises(ClientDisconnect):
            await reading[1]
        assert await bodies.read(Client(b"y").request, 9, "a") == b"y"
        for one in clients[2:]:
            one.say(b"z", more=False)
        assert await asyncio.gather(*reading[2:]) == [b"z", b"z"]


async def test_of_large_bodies_one_is_handed_on_in_a_turn_of_the_loop() -> None:
    """On the old code all of them came in one turn, and everybody else waited for what was done with all of them."""
    bodies = Bodies(20, BOUND)
    turn = 0
    came: dict[str, list[int]] = {"large": [], "small": []}

    async def read(kind: str, size: int) -> None:
        await bodies.read(Client(b"x" * size).request, 1 << 20, "a")
        came[kind].append(turn)

    reads = [asyncio.create_task(read(kind, size)) for kind, size in (("large", LARGE_BYTES + 1), ("small", 9)) for _ in range(4)]
    while not all(task.done() for task in reads):
        turn += 1
        await asyncio.sleep(0)
    assert len(set(came["large"])) == 4
    assert len(set(came["small"])) == 1


async def test_work_ends_with_its_client() -> None:
    client = Client()
    ended = asyncio.Event()

    async def work(answer: Any) -> Any:
        try:
            return answer if answer is not None else await asyncio.Event().wait()
        finally:
            ended.set()

    assert await unless_gone(client.receive, work("done")) == "done"
    waiting = asyncio.create_task(unless_gone(client.receive, work(None)))
    client.say(b"what comes after the body is dropped")
    client.hang_up()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(waiting, BOUND)
    assert ended.is_set()


def test_an_answer_is_cut_where_the_server_offers_it_and_nothing_happens_elsewhere() -> None:
    heard: list[str] = []
    cut({"extensions": {CUT: {"cut": lambda: heard.append("cut")}}})
    assert heard == ["cut"]
    cut({})
    cut({"extensions": {}})
    assert heard == ["cut"]
