"""Subscriptions of MCP 2026-07-28: a stream tells what it was opened for, and nothing else."""

from __future__ import annotations

import asyncio

import pytest
from consumers.stateless_client import ask, era, headers, said, settled, stage, streamed
from consumers.web import JSON, served

from mcp_endpoint.consumers.mcp_http import subscriptions
from mcp_endpoint.protocol.methods import SUBSCRIPTION_KEY


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent stream shows life after a moment instead of a quarter of a minute."""
    monkeypatch.setattr(subscriptions, "COMMENT_SECONDS", 0.05)


async def test_a_subscription_is_acknowledged_and_tells_of_changes() -> None:
    async with stage("a") as (web, tool):
        body = said("subscriptions/listen", {"notifications": {"toolsListChanged": True, "promptsListChanged": True}}, id="sub")
        async with streamed(web, body) as stream:
            first = await stream.frame()
            assert first["method"] == "notifications/subscriptions/acknowledged"
            assert first["params"] == {"notifications": {"toolsListChanged": True}, "_meta": {SUBSCRIPTION_KEY: "sub"}}
            await ask(web, said("tools/list"))
            tool.names = ("a", "b")
            tool.say({"method": "notifications/tools/list_changed"})
            second = await stream.frame()
            assert second["method"] == "notifications/tools/list_changed"
            assert second["params"]["_meta"] == {SUBSCRIPTION_KEY: "sub"}
            assert web.room.describe()["stateless"]["subscriptions"] == 1
        await settled(lambda: web.room.describe()["stateless"]["subscriptions"] == 0)


async def test_what_was_not_asked_for_is_not_told() -> None:
    async with stage("a") as (web, tool), streamed(web, said("subscriptions/listen", {"notifications": {}})) as stream:
        assert (await stream.frame())["params"]["notifications"] == {}
        tool.names = ("a", "b")
        tool.say({"method": "notifications/tools/list_changed"})
        await settled(lambda: len([frame for frame in tool.heard if frame.get("method") == "tools/list"]) >= 1)
        await era(web).stop()
        last = await stream.frame()
        assert last["result"]["_meta"][SUBSCRIPTION_KEY] == 7 and last["result"]["resultType"] == "complete"


async def test_a_subscription_needs_a_stream() -> None:
    async with served() as web:
        body = said("subscriptions/listen", {"notifications": {}})
        assert (await web.post(body, accept=JSON, **headers(body))).status_code == 406


async def test_there_are_only_so_many_subscriptions() -> None:
    async with stage(limits={"http_streams": 1}) as (web, _):
        body = said("subscriptions/listen", {"notifications": {}})
        async with streamed(web, body) as stream:
            await stream.frame()
            assert (await ask(web, body))["error"]["code"] == -32603


async def test_a_silent_subscription_shows_life(quick: None) -> None:
    async with stage() as (web, _), streamed(web, said("subscriptions/listen", {"notifications": {}})) as stream:
        await stream.frame()
        reading = asyncio.ensure_future(stream.event())
        await settled(lambda: stream.comments >= 2)
        reading.cancel()
