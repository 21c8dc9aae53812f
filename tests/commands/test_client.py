"""The device for the terminal against the real server, with tools played here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate
from running import BOUND, KEY, SOURCES, running, settled
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from mcp_endpoint.access import tls
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.commands import client as device
from mcp_endpoint.errors import EndpointError
from mcp_endpoint.serving.server import bind, create_server
from mcp_endpoint.settings.schema import Config
from mcp_endpoint.settings.schema import Server as ServerSettings

TOKEN = TokenCodec(KEY).make_signed("home")


def url(port: int, side: str = "call", token: str = TOKEN) -> str:
    return f"ws://127.0.0.1:{port}/mcp_endpoint/{side}/?token={token}"


Step = Callable[[ServerConnection, dict[str, Any]], Awaitable[None]]


class Scripted:
    """A WebSocket server that answers a device by a script."""

    def __init__(self, *script: Step) -> None:
        self.heard: list[dict[str, Any]] = []
        self.url = ""
        self._script = list(script)

    async def _talk(self, link: ServerConnection) -> None:
        async for frame in link:
            message = json.loads(frame)
            self.heard.append(message)
            if message.get("method") == "initialize":
                await answer(link, message, {"serverInfo": {"name": "scripted"}})
            elif "method" in message and "id" in message and self._script:
                await self._script.pop(0)(link, message)

    async def __aenter__(self) -> Scripted:
        self._server = await serve(self._talk, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.wait_for(self._server.wait_closed(), BOUND)


async def answer(link: ServerConnection, message: dict[str, Any], result: Any) -> None:
    await link.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))


def answering(result: Any) -> Step:
    return lambda link, message: answer(link, message, result)


async def silent(link: ServerConnection, message: dict[str, Any]) -> None:
    """Hears and says nothing."""


async def test_a_device_shakes_hands_before_anything_else() -> None:
    async with Scripted(answering({"tools": []})) as server, device.attached(server.url) as attached:
        assert await attached.tools() == []
        assert [message["method"] for message in server.heard] == ["initialize", "notifications/initialized", "tools/list"]
        assert "id" not in server.heard[1]


async def test_a_list_of_several_pages_is_read_to_its_end() -> None:
    pages = [{"tools": [{"name": "a"}], "nextCursor": "2"}, {"tools": [{"name": "b"}]}]
    async with Scripted(*map(answering, pages)) as server, device.attached(server.url) as attached:
        assert [tool.name for tool in await attached.tools()] == ["a", "b"]
        assert server.heard[-1]["params"]["cursor"] == "2"


async def test_a_list_without_end_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "PAGES", 3)
    endless = answering({"tools": [{"name": "a"}], "nextCursor": "again"})
    async with Scripted(*[endless] * 9) as server, device.attached(server.url) as attached:
        assert len(await attached.tools()) == 3


async def test_a_tool_is_shown_with_its_arguments_and_nonsense_as_far_as_it_goes() -> None:
    described = {"name": "add", "description": "adds", "inputSchema": {"properties": {"a": {}, "b": {}}, "required": ["a"]}}
    tools = [described, 7, {"name": "odd", "inputSchema": []}]
    async with Scripted(answering({"tools": tools})) as server, device.attached(server.url) as attached:
        found = await attached.tools()
    assert [tool[:3] for tool in found] == [("add", "adds", ("a*", "b")), ("", "", ()), ("odd", "", ())]
    assert [json.loads(tool.raw) for tool in found] == tools


async def test_what_is_no_list_is_told() -> None:
    async with Scripted(answering({"tools": 7})) as server, device.attached(server.url) as attached:
        with pytest.raises(EndpointError, match="is not a list"):
            await attached.tools()


async def test_progress_is_told_and_what_is_not_for_us_is_passed_over() -> None:
    async def slowly(link: ServerConnection, message: dict[str, Any]) -> None:
        token = message["params"]["_meta"]["progressToken"]
        told = [{"progress": 1, "total": 4, "message": "warming up"}, {"progress": 2}, {}, [1]]
        for params in told:
            named = params | {"progressToken": token} if isinstance(params, dict) else params
            await link.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": named}))
        await link.send("[]")
        await link.send("noise")
        await link.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}))
        await link.send(json.dumps({"jsonrpc": "2.0", "id": 999, "result": {}}))
        await link.send(json.dumps({"jsonrpc": "2.0", "id": "ours", "method": "sampling/createMessage", "params": {}}))
        server.heard.append(json.loads(await asyncio.wait_for(link.recv(), BOUND)))
        await answer(link, message, {"content": [{"type": "text", "text": "done"}]})

    told: list[str] = []
    async with Scripted(slowly) as server, device.attached(server.url, progress=lambda _, words: told.append(words)) as attached:
        assert (await attached.call("slow", {})).text == "done"
    assert told == ["1/4 warming up", "2", "", ""]
    assert (server.heard[-1]["id"], server.heard[-1]["error"]["code"]) == ("ours", -32601)


async def test_a_result_is_kept_as_it_came() -> None:
    raw = '{"content": [{"type":"text","text":"\\u4f60好"}],  "a": 1.00, "b": 123456789012345678901234567890, "isError": true}'

    async def exactly(link: ServerConnection, message: dict[str, Any]) -> None:
        await link.send(f'{{"jsonrpc":"2.0","id":{message["id"]},"result":{raw}}}')

    async with Scripted(exactly) as server, device.attached(server.url) as attached:
        assert await attached.call("x", {}) == ("你好", True, raw)


async def test_whoever_gives_up_a_call_cancels_it_at_the_tool() -> None:
    async with (
        running(Config()) as server,
        connect(url(server.port, "mcp"), proxy=None) as tool,
        device.attached(url(server.port)) as attached,
    ):

        async def heard(method: str) -> dict[str, Any]:
            async with asyncio.timeout(BOUND):
                while (message := json.loads(await tool.recv())).get("method") != method:
                    pass
            return message

        calling = asyncio.create_task(attached.call("slow", {}))
        call = await heard("tools/call")
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert (await heard("notifications/cancelled"))["params"]["requestId"] == call["id"]
        # The link goes on: the next call has its own answer.
        again = asyncio.create_task(attached.call("quick", {}))
        await tool.send(json.dumps({"jsonrpc": "2.0", "id": (await heard("tools/call"))["id"], "result": {"content": []}}))
        assert (await asyncio.wait_for(again, BOUND)).raw == '{"content": []}'


async def test_a_handshake_that_is_given_up_is_not_cancelled() -> None:
    heard: list[str] = []
    waits = asyncio.Event()

    async def mute(link: ServerConnection) -> None:
        async for frame in link:
            heard.append(json.loads(frame)["method"])
            waits.set()

    async with serve(mute, "127.0.0.1", 0) as server:

        async def attach() -> None:
            async with device.attached(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"):
                pass

        attaching = asyncio.create_task(attach())
        await asyncio.wait_for(waits.wait(), BOUND)
        attaching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attaching
    assert heard == ["initialize"]


async def test_whoever_waits_is_shown_that_the_call_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "TICK_SECONDS", 0.01)
    ticked = asyncio.Event()

    async def wait_for_ticks(link: ServerConnection, message: dict[str, Any]) -> None:
        await asyncio.wait_for(ticked.wait(), BOUND)
        await answer(link, message, {})

    async with Scripted(wait_for_ticks) as server, device.attached(server.url, progress=lambda _, words: words or ticked.set()) as attached:
        await attached.call("slow", {})


async def test_an_answer_that_never_comes_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Scripted(silent) as server, device.attached(server.url) as attached:
        monkeypatch.setattr(device, "TICK_SECONDS", 0.01)
        monkeypatch.setattr(device, "ANSWER_SECONDS", 0.05)
        with pytest.raises(EndpointError, match="no answer to tools/call"):
            await attached.call("silent", {})


@pytest.mark.parametrize(
    ("error", "en", "zh"),
    [
        (
            {"code": -32001, "message": "工具端未连接 / No tool", "data": {"hint": "从未连接 / never"}},
            "error -32001: No tool (never)",
            "错误 -32001：工具端未连接（从未连接）",
        ),
        ({"code": 5, "message": "boom"}, "error 5: boom", "错误 5：boom"),
        ({"code": 5, "message": "boom", "data": [1]}, "error 5: boom", "错误 5：boom"),
        ({"code": 5, "message": "no a / b"}, "error 5: no a / b", "错误 5：no a / b"),
        (
            {"code": -32001, "message": "无 / none", "data": {"hint": "left / 已断开 · 2 tools elsewhere / 别处有 2 个"}},
            "error -32001: none (left · 2 tools elsewhere)",
            "错误 -32001：无（已断开 · 别处有 2 个）",
        ),
        ("just text", "error None: just text", "错误 None：just text"),
        ({}, "error None: ", "错误 None："),
    ],
)
async def test_an_error_is_told_in_both_languages(error: dict[str, Any], en: str, zh: str) -> None:
    async def fail(link: ServerConnection, message: dict[str, Any]) -> None:
        await link.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}))

    async with Scripted(fail) as server, device.attached(server.url) as attached:
        with pytest.raises(EndpointError) as failed:
            await attached.call("x", {})
    assert (failed.value.en, failed.value.zh) == (en, zh)


async def test_a_result_that_is_no_object_is_kept() -> None:
    async with Scripted(answering([1, 2])) as server, device.attached(server.url) as attached:
        assert await attached.call("x", {}) == ("[\n  1,\n  2\n]", False, "[1, 2]")


async def test_an_answer_without_any_result_is_none() -> None:
    async def nothing(link: ServerConnection, message: dict[str, Any]) -> None:
        await link.send(json.dumps({"jsonrpc": "2.0", "id": message["id"]}))

    async with Scripted(nothing) as server, device.attached(server.url) as attached:
        assert await attached.call("x", {}) == ("null", False, "null")


async def test_a_server_that_ends_the_link_is_told_with_its_close() -> None:
    async def end(link: ServerConnection, message: dict[str, Any]) -> None:
        await link.close(1012, "restarting")

    async with Scripted(end) as server, device.attached(server.url) as attached:
        with pytest.raises(EndpointError, match="1012 restarting"):
            await attached.call("x", {})
        with pytest.raises(EndpointError, match="ended the connection"):
            await attached.call("x", {})


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"content": [{"type": "text", "text": "一"}, {"type": "text", "text": "two"}]}, "一\ntwo"),
        ({"content": [{"type": "image", "data": "AA==", "mimeType": "image/png"}]}, "[image image/png, 1 bytes]"),
        ({"content": [{"type": "audio", "data": "AAAA"}]}, "[audio , 3 bytes]"),
        ({"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}}]}, "[file:///a]\ninside"),
        ({"content": [{"type": "resource", "resource": {"uri": "file:///a"}}]}, '{"type": "resource", "resource": {"uri": "file:///a"}}'),
        ({"content": [{"type": "resource_link", "uri": "file:///a", "name": "plan"}]}, "[plan: file:///a]"),
        ({"content": [3]}, "3"),
        ({"content": [], "structuredContent": {"a": "好"}}, '{\n  "a": "好"\n}'),
        ({"odd": 1}, '{\n  "odd": 1\n}'),
    ],
)
async def test_a_result_reads_as_text_where_it_is_text(result: dict[str, Any], text: str) -> None:
    assert device.text_of(result) == text


async def test_where_nobody_listens_it_is_told() -> None:
    with pytest.raises(EndpointError, match=r"cannot reach ws://127\.0\.0\.1:9/"):
        async with device.attached("ws://127.0.0.1:9/?token=secret"):
            pass


@pytest.mark.parametrize("wrong", ["http://127.0.0.1/?token=secret", "nonsense"])
async def test_an_address_that_is_none_is_told_without_being_repeated(wrong: str) -> None:
    with pytest.raises(EndpointError, match="not a ws:// or wss:// address") as error:
        async with device.attached(wrong):
            pass
    assert wrong not in str(error.value)


async def test_a_refusal_of_the_real_server_is_told() -> None:
    async with running(Config()) as server:
        with pytest.raises(EndpointError, match="HTTP 401"):
            async with device.attached(url(server.port, token="mep1.wrong")):
                pass


async def test_a_tool_is_called_through_the_real_server_over_its_own_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    config = settled(Config(server=ServerSettings(tls_cert=cert, tls_key=key)))
    sockets = bind(config.server, SOURCES)
    server = create_server(config, tls.serving(config.server, SOURCES))
    task = asyncio.create_task(server.serve(sockets))
    address = url(sockets[0].getsockname()[1]).replace("ws://", "wss://")

    async def play(tool: ClientConnection) -> None:
        async for frame in tool:
            message = json.loads(frame)
            if "id" in message:
                result = {"content": [], "serverInfo": {"name": "t"}}
                await tool.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))

    try:
        async with connect(address.replace("/call/", "/mcp/"), ssl=tls.trusting(cert)) as tool:
            playing = asyncio.create_task(play(tool))
            async with device.attached(address, cert) as attached:
                assert json.loads((await attached.call("anything", {})).raw) == {"content": [], "serverInfo": {"name": "t"}}
            playing.cancel()
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, BOUND)
