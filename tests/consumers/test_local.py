"""An in-process consumer lists and calls tools, and receives the errors of those it cannot call."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from mcp_endpoint.consumers.local import Failed, Local
from mcp_endpoint.core.broker import Broker
from mcp_endpoint.core.ledger import Part
from mcp_endpoint.settings.schema import EndpointSettings, Limits

BOUND = 10.0


class Quiet:
    def tell(self, event: str, shown: str, **fields: object) -> None: ...


def new_broker(limits: Limits) -> Broker:
    loop = asyncio.get_running_loop()
    return Broker(EndpointSettings(), limits, clock=loop.time, call_at=loop.call_at, epoch=time.time, watch=Quiet())


class Tool:
    """A provider at the endpoint `kitchen` that answers each method as it was told to; a method without an answer stays unanswered."""

    queued = 0

    def __init__(self, broker: Broker, tools: list[str], answers: dict[str, Callable[[Any], dict[str, Any]]] | None = None) -> None:
        self.broker = broker
        self.heard: list[Any] = []
        self.came = asyncio.Event()
        self.answers = {
            "initialize": lambda _: {
                "result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "calc", "version": "1"}}
            },
            "tools/list": lambda _: {"result": {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in tools]}},
        } | (answers or {})
        self.party = broker.attach_provider("agent:kitchen", "kitchen", self)

    def send(self, first: Part, second: Part = b"") -> None:
        frame = json.loads(b"".join((first, second)))
        self.heard.append(frame)
        self.came.set()
        if "id" in frame and frame["method"] in self.answers:
            reply = {"id": frame["id"]} | self.answers[frame["method"]](frame.get("params"))
            asyncio.get_running_loop().call_soon(self.says, reply)  # a link never answers from within `send`

    def says(self, frame: dict[str, Any]) -> None:
        self.party.receive(self.party, json.dumps({"jsonrpc": "2.0"} | frame).encode(), asyncio.get_running_loop().time(), False)

    def close(self, code: int, reason: str) -> None: ...

    def ping(self) -> None: ...

    async def hears(self, method: str) -> Any:
        async with asyncio.timeout(BOUND):
            while True:
                for frame in self.heard:
                    if frame.get("method") == method:
                        return frame
                self.came.clear()
                await self.came.wait()


def local(broker: Broker, limits: Limits, **options: Any) -> Local:
    return Local(broker, "agent:kitchen", "kitchen", limits, **options)


async def test_tools_are_listed_and_called_as_a_device_would() -> None:
    limits = Limits()
    broker = new_broker(limits)
    tool = Tool(broker, ["add"], {"tools/call": lambda params: {"result": {"content": [], "said": params["arguments"]}}})
    inside = local(broker, limits)
    assert [found.name for found in await inside.tools()] == ["add"]
    assert json.loads(await inside.call("add", {"a": "1"})) == {"content": [], "said": {"a": "1"}}
    assert [frame["method"] for frame in tool.heard].count("initialize") == 1
    inside.close(1000, "done")
    assert broker.consumers == 0


async def test_all_pages_of_a_list_are_read() -> None:
    limits = Limits(list_page_bytes=4096, http_answer_bytes=5000)
    broker = new_broker(limits)
    names = [f"tool_{number}_{'x' * 500}" for number in range(20)]
    Tool(broker, names[:10])
    other = Tool(broker, names[10:])
    other.party.server_id = "other"
    assert [found.name for found in await local(broker, limits).tools()] == names


async def test_a_list_that_is_none_fails() -> None:
    limits = Limits()
    broker = new_broker(limits)
    Tool(broker, [], {"tools/list": lambda _: {"result": {"tools": 7}}})
    with pytest.raises(Failed, match="list of tools is not a list"):
        await local(broker, limits, only="").tools()


async def test_an_error_of_the_tool_is_raised_with_its_code_and_data() -> None:
    limits = Limits()
    broker = new_broker(limits)
    Tool(broker, ["add"], {"tools/call": lambda _: {"error": {"code": 7, "message": "no", "data": [1]}}})
    with pytest.raises(Failed) as caught:
        await local(broker, limits).call("add", {})
    assert (caught.value.code, caught.value.message, caught.value.data) == (7, "no", [1])
    assert not caught.value.undelivered


@pytest.mark.parametrize("error", ["no", {"code": "7"}, {"code": None, "message": "no"}])
async def test_an_error_in_a_form_of_the_tools_own_is_raised_and_harms_nobody(error: Any) -> None:
    limits = Limits()
    broker = new_broker(limits)
    Tool(broker, ["add"], {"tools/call": lambda _: {"error": error}})
    inside = local(broker, limits)
    with pytest.raises(Failed) as caught:
        await inside.call("add", {})
    assert caught.value.code == -32603
    assert [found.name for found in await inside.tools()] == ["add"]


async def test_any_answer_that_was_carried_arrives_however_deep_it_is() -> None:
    """What the heart could read is read again: never an exception within the frame of a provider."""
    limits = Limits()
    broker = new_broker(limits)
    tool = Tool(broker, ["add"])
    inside = local(broker, limits)
    for depth in (*range(850, 1010), 0):
        result = b'{"n":%b}' % (b"[" * depth + b"]" * depth)
        tool.heard.clear()
        calling = asyncio.create_task(inside.call("add", {}))
        id = (await tool.hears("tools/call"))["id"]
        tool.party.receive(
            tool.party, b'{"jsonrpc":"2.0","x":0,"id":%d,"result":%b}' % (id, result), asyncio.get_running_loop().time(), False
        )
        tool.says({"id": id, "result": {"too": "deep"}})
        assert await calling in (result, b'{"too": "deep"}')


async def test_an_empty_endpoint_says_that_nobody_was_reached() -> None:
    limits = Limits()
    with pytest.raises(Failed) as caught:
        await local(new_broker(limits), limits).call("add", {})
    assert caught.value.code == -32001
    assert caught.value.undelivered


async def test_a_caller_that_retries_at_once_does_not_stop_the_loop() -> None:
    """The endpoint answers within the call: without a turn of the loop the tool could never come."""
    limits = Limits()
    broker = new_broker(limits)
    inside = local(broker, limits)
    asyncio.get_running_loop().call_later(0.05, Tool, broker, ["add"], {"tools/call": lambda _: {"result": {"content": []}}})
    for _ in range(1_000_000):
        try:
            assert await inside.call("add", {})
            break
        except Failed as failed:
            assert failed.code == -32001


async def test_a_tool_that_dies_in_mid_call_may_have_run() -> None:
    limits = Limits()
    broker = new_broker(limits)
    tool = Tool(broker, ["add"])
    inside = local(broker, limits)
    calling = asyncio.create_task(inside.call("add", {}))
    await tool.hears("tools/call")
    broker.detach(tool.party, 1006, "")
    with pytest.raises(Failed) as caught:
        await calling
    assert caught.value.code == -32003
    assert not caught.value.undelivered


async def test_whoever_stops_waiting_cancels_the_call() -> None:
    limits = Limits()
    broker = new_broker(limits)
    tool = Tool(broker, ["add"])
    inside = local(broker, limits)
    calling = asyncio.create_task(inside.call("add", {}))
    asked = await tool.hears("tools/call")
    calling.cancel()
    assert (await tool.hears("notifications/cancelled"))["params"]["requestId"] == asked["id"]
    tool.says({"id": asked["id"], "result": {}})  # too late, and nobody minds
    assert broker.in_flight == 0


async def test_leaving_fails_what_is_waited_for_and_the_next_request_comes_back() -> None:
    limits = Limits()
    broker = new_broker(limits)
    tool = Tool(broker, ["add"])
    inside = local(broker, limits)
    calling = asyncio.create_task(inside.call("add", {}))
    await tool.hears("tools/call")
    inside.close(1001, "going away")
    inside.close(1001, "and once more")
    with pytest.raises(Failed, match="going away"):
        await calling
    assert [found.name for found in await inside.tools()] == ["add"]


async def test_a_draining_server_takes_no_new_work_from_inside_either() -> None:
    limits = Limits()
    broker = new_broker(limits)
    Tool(broker, ["add"])
    broker.drain()
    inside = local(broker, limits)
    for _ in range(2):
        with pytest.raises(Failed) as caught:
            await inside.call("add", {})
        assert caught.value.code == -32005
    assert broker.consumers == 0


async def test_an_answer_larger_than_the_limit_fails_and_says_so() -> None:
    limits = Limits(http_answer_bytes=4096)
    broker = new_broker(limits)
    Tool(broker, ["add"], {"tools/call": lambda _: {"result": {"text": "x" * 5000}}})
    with pytest.raises(Failed) as caught:
        await local(broker, limits).call("add", {})
    assert caught.value.code == -32007


async def test_changes_of_the_list_are_told() -> None:
    limits = Limits(list_changed_seconds=0.001)
    broker = new_broker(limits)
    tool = Tool(broker, ["add"])
    told: asyncio.Queue[str] = asyncio.Queue()
    inside = local(broker, limits, changed=told.put_nowait)
    await inside.tools()
    tool.answers["tools/list"] = lambda _: {"result": {"tools": [{"name": "sub", "inputSchema": {}}]}}
    tool.says({"method": "notifications/tools/list_changed"})
    async with asyncio.timeout(BOUND):
        assert await told.get() == "notifications/tools/list_changed"
    assert [found.name for found in await inside.tools()] == ["sub"]


async def test_what_nobody_asked_for_goes_nowhere() -> None:
    limits = Limits()
    inside = local(new_broker(limits), limits)
    inside.send(b'{"jsonrpc":"2.0","id":1,"result":{}}')
    inside.send(b'{"jsonrpc":"2.0","id":"1",', b'"result":{}}')
    inside.send(b'{"jsonrpc":"2.0","id":1,"method":"roots/list"}')
    inside.ping()
    assert inside.queued == 0
