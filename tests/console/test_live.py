"""Records as they come: at once, in order, none twice, none missed; and a browser that falls behind hears of how many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from console import BEARER, OURS, Visitor, console, tool, toolbox
from recorded import call, recorded
from running import BOUND

from mcp_endpoint.console.records import BURST
from mcp_endpoint.settings.schema import Config, Limits, Recorder


class Events:
    """A stream of events, as a browser reads it."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, str, Any]:
        """The next event: its id, its name and its data."""
        found: dict[str, str] = {}
        async with asyncio.timeout(BOUND):
            async for line in self._lines:
                if not line and found:
                    return found.get("id", ""), found["event"], json.loads(found["data"])
                name, _, value = line.partition(": ")
                if name:
                    found[name] = value
        raise AssertionError("the stream has ended")


@asynccontextmanager
async def following(visitor: Visitor, query: str = "", **headers: str) -> AsyncIterator[Events]:
    async with visitor.stream("GET", f"/console/live{query}", headers=BEARER | headers) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        yield Events(response)


async def test_a_new_record_is_told_at_once_and_only_where_the_filter_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (_, visitor, writer):
        writer.write(call("old"))
        async with following(visitor) as all_of_them, following(visitor, "?q=tool:fan") as fans:
            assert await all_of_them.next() == ("1", "ready", 1)
            assert await fans.next() == ("1", "ready", 1)
            writer.write(call("lamp"))
            id, _, data = await all_of_them.next()
            assert id == "2" and [one["what"] for one in data["records"]] == ["lamp"]
            writer.write(call("fan"))
            assert [one["what"] for one in (await all_of_them.next())[2]["records"]] == ["fan"]
            assert [one["id"] for one in (await fans.next())[2]["records"]] == [3]


async def test_a_browser_that_comes_back_hears_what_it_missed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (_, visitor, writer):
        writer.write(*(call(number=number) for number in range(5)))
        async with following(visitor, "?after=1", **{"Last-Event-ID": "3"}) as events:
            assert [one["id"] for one in (await events.next())[2]["records"]] == [4, 5]
        async with following(visitor, "?after=4") as events:
            assert [one["id"] for one in (await events.next())[2]["records"]] == [5]


async def test_of_a_burst_the_newest_are_told_and_how_many_more_there_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (_, visitor, writer), following(visitor) as events:
        await events.next()
        writer.write(*(call(number=number) for number in range(BURST * 3)))
        id, _, data = await events.next()
        assert (id, data["missed"]) == (str(BURST * 3), BURST * 2)
        assert [one["id"] for one in data["records"]] == list(range(BURST * 2 + 1, BURST * 3 + 1))


async def test_there_are_only_so_many_streams_and_one_that_left_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(limits=Limits(console_streams=1))
    async with recorded(tmp_path, monkeypatch, config) as (server, visitor, _):
        async with following(visitor) as events:
            await events.next()
            refused = await visitor.get("/console/live", headers=BEARER)
            assert refused.status_code == 503 and refused.headers["retry-after"]
        (room,) = (one for one in server._rooms if one.name == "console")
        async with asyncio.timeout(BOUND):
            while room.shell._live.full:  # type: ignore[attr-defined]  # noqa: ASYNC110 - the server sees the end of a connection by itself
                await asyncio.sleep(0.01)
        async with following(visitor) as events:
            await events.next()


async def test_a_stop_ends_every_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (server, visitor, _), following(visitor) as events:
        await events.next()
        server.should_exit = True
        with pytest.raises(AssertionError, match="has ended"):
            await events.next()


async def test_what_is_wrong_with_a_filter_is_told_and_nobody_follows_without_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with recorded(tmp_path, monkeypatch) as (_, visitor, _):
        async with following(visitor, "?q=tol:x") as events:
            _, name, data = await events.next()
            assert name == "problem" and "tool:" in data["en"]
        assert (await visitor.get("/console/live", headers=OURS)).status_code == 401


async def test_a_call_of_a_device_stands_in_the_stream_and_on_its_page(tmp_path: Path) -> None:
    """With the real recorder, whose writer is a process of its own."""
    config = Config(recorder=Recorder(on=True))
    async with console(config, root=tmp_path) as (server, visitor), toolbox(server.port, [tool("lamp")]):
        assert (await visitor.get("/console/records.json", headers=BEARER)).status_code == 200
        (room,) = (one for one in server._rooms if one.name == "recorder")
        async with asyncio.timeout(BOUND):
            await room._ready.wait()  # type: ignore[attr-defined]
        async with following(visitor, "?q=tool:lamp") as events:
            await events.next()
            wanted = {"endpoint": "single_module", "tool": "lamp", "arguments": {"on": True}}
            assert (await visitor.post("/console/call", json=wanted, headers=BEARER)).json()["ok"]
            (one,) = (await events.next())[2]["records"]
            assert (one["tool"], one["status"], one["endpoint"]) == ("lamp", "ok", "single_module")
        shown = (await visitor.get(f"/console/records/{one['id']}.json", headers=BEARER)).json()
        assert json.loads(shown["request"]["body"])["params"]["arguments"] == {"on": True}
        assert shown["call"] == {"endpoint": "single_module", "tool": "lamp", "arguments": '{"on": true}'}
