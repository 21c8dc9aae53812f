"""Rooms open before the first link is taken and close after the last call was answered, whatever another room does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from loguru import logger
from running import BOUND, get
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route

from mcp_endpoint.errors import EndpointError
from mcp_endpoint.serving import rooms
from mcp_endpoint.serving import server as module
from mcp_endpoint.settings.schema import Config, Server

KEY = "0123456789abcdef0123456789abcdef"


class Parlour:
    """A room that says what happens to it."""

    name = "parlour"
    owed = 0

    def __init__(self, heard: list[str], *, start: Exception | None = None, stop: Exception | None = None) -> None:
        self.heard = heard
        self.fails = {"start": start, "stop": stop}

    @property
    def routes(self) -> Sequence[BaseRoute]:
        async def tea(request: Request) -> PlainTextResponse:
            return PlainTextResponse("tea")

        return [Route("/parlour", tea)]

    def refuses_pages(self, request: Request) -> bool:
        return False

    async def start(self) -> None:
        self.tell("start")

    async def stop(self) -> None:
        self.tell("stop")

    def describe(self) -> Mapping[str, Any]:
        return {"cups": 2}

    def tell(self, word: str) -> None:
        self.heard.append(word)
        failure = self.fails[word]
        if failure is not None:
            raise failure


async def serve(monkeypatch: pytest.MonkeyPatch, *built: Parlour, standalone: str = "") -> tuple[module.Server, asyncio.Task[None]]:
    monkeypatch.setattr(module, "open_rooms", lambda context, standalone: list(built))
    config = Config(server=Server(port=0, key=KEY, print_addresses=False))
    server = module.create_server(config, standalone=standalone)
    sockets = module.bind(config.server, {"server.host": "default", "server.port": "default"})
    task = asyncio.create_task(server.serve(sockets))
    async with asyncio.timeout(BOUND):
        while not (server.started or task.done()):  # noqa: ASYNC110 - uvicorn's `started` is a flag and no event
            await asyncio.sleep(0)
    return server, task


async def end(server: module.Server, task: asyncio.Task[None]) -> None:
    server.handle_exit(15, None)
    async with asyncio.timeout(BOUND):
        await task


async def test_a_room_has_paths_of_its_own_and_is_described_to_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    server, task = await serve(monkeypatch, Parlour(heard))
    assert (await get(server.port, "/parlour")).body == b"tea"
    assert b'"rooms":{"parlour":{"cups":2}}' in (await get(server.port, f"/stats?key={KEY}")).body
    assert b"parlour" not in (await get(server.port, "/stats")).body
    assert heard == ["start"]
    await end(server, task)
    assert heard == ["start", "stop"]


async def test_a_room_that_has_the_port_to_itself_stands_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    server, task = await serve(monkeypatch, Parlour([]), standalone="parlour")
    assert (await get(server.port, "/parlour")).status == 200
    assert (await get(server.port, "/stats")).status == 404
    await end(server, task)


async def test_a_room_that_cannot_open_ends_the_start_and_the_others_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[str] = []
    second: list[str] = []
    _, task = await serve(monkeypatch, Parlour(first), Parlour(second, start=EndpointError("no tea", "没有茶")))
    with pytest.raises(EndpointError, match="no tea"):
        await task
    assert first == ["start", "stop"]
    assert second == ["start", "stop"]
    # The listener is closed too: a warning about it would fail this test.


async def test_a_room_that_fails_to_close_is_told_and_keeps_no_other_open(monkeypatch: pytest.MonkeyPatch) -> None:
    other: list[str] = []
    told: list[str] = []
    number = logger.add(told.append, level="ERROR")
    server, task = await serve(monkeypatch, Parlour([], stop=RuntimeError("the door jams")), Parlour(other))
    await end(server, task)
    logger.remove(number)
    assert other == ["start", "stop"]
    assert "parlour 未能正常关闭 / did not stop cleanly" in "".join(told)


def test_a_package_that_is_not_installed_is_one_clear_line_with_the_command() -> None:
    with pytest.raises(EndpointError) as caught:
        rooms.imported("a_package_nobody_has.room", "http")
    assert "a_package_nobody_has" in caught.value.en
    assert "pip install 'mcp-endpoint-server[http]'" in caught.value.zh


def test_a_mistake_of_our_own_is_not_taken_for_a_missing_package() -> None:
    with pytest.raises(ModuleNotFoundError):
        rooms.imported(".no_such_room", "http")
    assert rooms.imported(".access.tokens", "http").__name__ == "mcp_endpoint.access.tokens"
