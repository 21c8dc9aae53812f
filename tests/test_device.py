"""The device for the terminal against the real server, with tools played here."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from certificates import certificate
from running import BOUND, KEY, SOURCES, running, settled
from websockets.sync.client import connect as connect_tool
from websockets.sync.server import ServerConnection, serve

from mcp_endpoint import device, tls
from mcp_endpoint.config import Config
from mcp_endpoint.config import Server as ServerSettings
from mcp_endpoint.errors import EndpointError
from mcp_endpoint.server import bind, create_server
from mcp_endpoint.tokens import Doors

TOKEN = Doors(KEY).make_signed("home")

def url(port: int, side: str = "call", token: str = TOKEN) -> str:
    return f"ws://127.0.0.1:{port}/mcp_endpoint/{side}/?token={token}"


class Scripted:
    """A WebSocket server that answers a device by a script, on a thread of its own."""

    def __init__(self, *script: Callable[[ServerConnection, dict[str, Any]], None]) -> None:
        self.heard: list[dict[str, Any]] = []
        self._script = list(script)
        self._server = serve(self._talk, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def _talk(self, link: ServerConnection) -> None:
        for frame in link:
            message = json.loads(frame)
            self.heard.append(message)
            if message.get("method") == "initialize":
                answer(link, message, {"serverInfo": {"name": "scripted"}})
            elif "method" in message and "id" in message and self._script:
                self._script.pop(0)(link, message)

    def __enter__(self) -> Scripted:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(BOUND)


def answer(link: ServerConnection, message: dict[str, Any], result: Any) -> None:
    link.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))


def answering(result: Any) -> Callable[[ServerConnection, dict[str, Any]], None]:
    return lambda link, message: answer(link, message, result)


def test_a_device_shakes_hands_before_anything_else() -> None:
    with Scripted(answering({"tools": []})) as server, device.attached(server.url) as attached:
        assert attached.tools() == []
        assert [message["method"] for message in server.heard] == ["initialize", "notifications/initialized", "tools/list"]
        assert "id" not in server.heard[1]


def test_a_list_of_several_pages_is_read_to_its_end() -> None:
    pages = [{"tools": [{"name": "a"}], "nextCursor": "2"}, {"tools": [{"name": "b"}]}]
    with Scripted(*map(answering, pages)) as server, device.attached(server.url) as attached:
        assert [tool.name for tool in attached.tools()] == ["a", "b"]
        assert server.heard[-1]["params"]["cursor"] == "2"


def test_a_list_without_end_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "PAGES", 3)
    endless = answering({"tools": [{"name": "a"}], "nextCursor": "again"})
    with Scripted(*[endless] * 9) as server, device.attached(server.url) as attached:
        assert len(attached.tools()) == 3


def test_a_tool_is_shown_with_its_arguments_and_nonsense_as_far_as_it_goes() -> None:
    described = {"name": "add", "description": "adds", "inputSchema": {"properties": {"a": {}, "b": {}}, "required": ["a"]}}
    tools = [described, 7, {"name": "odd", "inputSchema": []}]
    with Scripted(answering({"tools": tools})) as server, device.attached(server.url) as attached:
        assert attached.tools() == [("add", "adds", ("a*", "b")), ("", "", ()), ("odd", "", ())]


def test_progress_is_told_and_what_is_not_for_us_is_passed_over() -> None:
    def slowly(link: ServerConnection, message: dict[str, Any]) -> None:
        token = message["params"]["_meta"]["progressToken"]
        told = [{"progress": 1, "total": 4, "message": "warming up"}, {"progress": 2}, {}, [1]]
        for params in told:
            named = params | {"progressToken": token} if isinstance(params, dict) else params
            link.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": named}))
        link.send("[]")
        link.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}))
        link.send(json.dumps({"jsonrpc": "2.0", "id": 999, "result": {}}))
        link.send(json.dumps({"jsonrpc": "2.0", "id": "ours", "method": "sampling/createMessage", "params": {}}))
        server.heard.append(json.loads(link.recv(BOUND)))
        answer(link, message, {"content": [{"type": "text", "text": "done"}]})

    told: list[str] = []
    with Scripted(slowly) as server, device.attached(server.url, progress=lambda _, words: told.append(words)) as attached:
        assert device.text_of(attached.call("slow", {})) == "done"
    assert told == ["1/4 warming up", "2", "", ""]
    assert server.heard[-1] == {"jsonrpc": "2.0", "id": "ours", "error": {"code": -32601, "message": "Method not found"}}


def test_whoever_waits_is_shown_that_the_call_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "TICK_SECONDS", 0.01)
    ticked = threading.Event()

    def wait_for_ticks(link: ServerConnection, message: dict[str, Any]) -> None:
        assert ticked.wait(BOUND)
        answer(link, message, {})

    with Scripted(wait_for_ticks) as server, device.attached(server.url, progress=lambda _, words: words or ticked.set()) as attached:
        attached.call("slow", {})


def test_an_answer_that_never_comes_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with Scripted(lambda *_: None) as server, device.attached(server.url) as attached:
        monkeypatch.setattr(device, "TICK_SECONDS", 0.01)
        monkeypatch.setattr(device, "ANSWER_SECONDS", 0.05)
        with pytest.raises(EndpointError, match="no answer to tools/call"):
            attached.call("silent", {})


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
    ],
)
def test_an_error_is_told_in_both_languages(error: dict[str, Any], en: str, zh: str) -> None:
    def fail(link: ServerConnection, message: dict[str, Any]) -> None:
        link.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}))

    with Scripted(fail) as server, device.attached(server.url) as attached, pytest.raises(EndpointError) as failed:
        attached.call("x", {})
    assert (failed.value.en, failed.value.zh) == (en, zh)


def test_a_result_that_is_no_object_is_kept() -> None:
    with Scripted(answering([1, 2])) as server, device.attached(server.url) as attached:
        assert attached.call("x", {}) == {"structuredContent": [1, 2]}


def test_a_server_that_ends_the_link_is_told_with_its_goodbye() -> None:
    with Scripted(lambda link, _: link.close(1012, "restarting")) as server, device.attached(server.url) as attached:
        with pytest.raises(EndpointError, match="1012 restarting"):
            attached.call("x", {})
        with pytest.raises(EndpointError, match="ended the connection"):
            attached.call("x", {})


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"content": [{"type": "text", "text": "一"}, {"type": "text", "text": "two"}]}, "一\ntwo"),
        ({"content": [{"type": "image", "data": "AA=="}]}, '{"type": "image", "data": "AA=="}'),
        ({"content": [3]}, "3"),
        ({"content": [], "structuredContent": {"a": "好"}}, '{"a": "好"}'),
        ({"odd": 1}, '{"odd": 1}'),
    ],
)
def test_a_result_reads_as_text_where_it_is_text(result: dict[str, Any], text: str) -> None:
    assert device.text_of(result) == text


def test_where_nobody_listens_the_way_to_find_out_is_named() -> None:
    with pytest.raises(EndpointError, match="mcp-endpoint check"), device.attached("ws://127.0.0.1:9/"):
        pass


@pytest.mark.parametrize("wrong", ["http://127.0.0.1/", "nonsense"])
def test_an_address_that_is_none_is_told(wrong: str) -> None:
    with pytest.raises(EndpointError, match="no endpoint server answers there"), device.attached(wrong):
        pass


async def test_a_refusal_of_the_real_server_is_told_in_its_own_words() -> None:
    def refused(port: int) -> EndpointError:
        with pytest.raises(EndpointError) as error, device.attached(url(port, token="mep1.wrong")):
            pass
        return error.value

    async with running(Config()) as server:
        error = await asyncio.to_thread(refused, server.port)
    assert error.en.startswith("refused with HTTP 401. Invalid token")
    assert error.zh.startswith("被拒绝（HTTP 401）。令牌无效")


def test_a_refusal_without_our_words_is_still_told() -> None:
    def refuse(link: Any, request: Any) -> Any:
        return link.respond(403, "go away")

    with serve(lambda _: None, "127.0.0.1", 0, process_request=refuse) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(EndpointError) as refused, device.attached(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"):
            pass
        server.shutdown()
        thread.join(BOUND)
    assert refused.value.en == "refused with HTTP 403."


async def test_a_tool_is_called_through_the_real_server_over_its_own_certificate(tmp_path: Any) -> None:
    cert, key = certificate(tmp_path)
    config = settled(Config(server=ServerSettings(tls_cert=cert, tls_key=key)))
    sockets = bind(config.server, SOURCES)
    server = create_server(config, tls.serving(config.server, SOURCES))
    task = asyncio.create_task(server.serve(sockets))
    port = sockets[0].getsockname()[1]

    def talk() -> str:
        address = url(port).replace("ws://", "wss://")
        with connect_tool(address.replace("/call/", "/mcp/"), ssl=tls.trusting(cert)) as tool:

            def play() -> None:
                for frame in tool:
                    message = json.loads(frame)
                    if "id" in message:
                        result = {"content": [], "serverInfo": {"name": "t"}}
                        tool.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))

            thread = threading.Thread(target=play)
            thread.start()
            with device.attached(address, cert) as attached:
                text = device.text_of(attached.call("anything", {}))
            tool.close()
            thread.join(BOUND)
        return text

    try:
        assert await asyncio.to_thread(talk) == '{"content": [], "serverInfo": {"name": "t"}}'
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, BOUND)
