"""Somebody who stands at an endpoint for one request: what belongs to it, what is asked on its way, how it ends."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from consumers.web import BOUND, Tool, text
from msgspec import UNSET, Raw

from mcp_endpoint.consumers.mcp_http.caller import Caller
from mcp_endpoint.consumers.mcp_http.envelope import StatelessRequest
from mcp_endpoint.consumers.mcp_http.exchange import Exchange
from mcp_endpoint.core.broker import Broker
from mcp_endpoint.settings.schema import EndpointSettings, Limits


class Quiet:
    def tell(self, event: str, shown: str, **fields: object) -> None: ...


def new_broker() -> Broker:
    loop = asyncio.get_running_loop()
    return Broker(EndpointSettings(), Limits(), clock=loop.time, call_at=loop.call_at, epoch=time.time, watch=Quiet())


async def exchange(broker: Broker, **options: Any) -> Exchange:
    caller = Caller(broker, Limits(), "signed:home", "home", "", "device", "127.0.0.1")
    made = Exchange(caller, Limits(), **options)
    async with asyncio.timeout(BOUND):
        assert (await made.initialize()).result is not UNSET
    return made


def asked(**capabilities: Any) -> StatelessRequest:
    params = json.dumps({"name": "echo", "_meta": {"progressToken": "mine"}}).encode()
    return StatelessRequest(b'"x"', "tools/call", params, "tester", capabilities, "info", b'"mine"')


async def until(made: Exchange, holds: Any) -> None:
    async with asyncio.timeout(BOUND):
        while not holds():
            await made.news(1.0)


async def test_a_request_reaches_the_tool_and_its_answer_comes_back() -> None:
    broker = new_broker()
    tool = Tool(broker)
    made = await exchange(broker)
    assert b"desk" in made.welcome and b"desk" in made.server
    tool.answers = lambda frame: text("done")
    made.begin(asked())
    await until(made, lambda: made.answer is not None)
    assert made.answer is not None and b"done" in bytes(made.answer.result)
    assert made.clean
    made.close(1000, "done")
    made.close(1000, "once more")
    assert broker.consumers == 0 and made.ended


async def test_what_is_said_on_the_way_is_kept_for_its_client() -> None:
    broker = new_broker()
    tool = Tool(broker)
    made = await exchange(broker)
    made.begin(asked())
    call = await tool.hears("tools/call")
    tool.say({"method": "notifications/progress", "params": {"progressToken": call["params"]["_meta"]["progressToken"], "progress": 1}})
    tool.say({"method": "notifications/progress", "params": {"progressToken": 99, "progress": 2}})
    for level in ("debug", "error"):
        tool.say({"method": "notifications/message", "params": {"level": level, "data": "x"}})
    tool.say({"method": "notifications/of/its/own"})
    await until(made, lambda: len(made.notes) == 2)
    assert made.queued > 0
    notes = [json.loads(made.note()) for _ in range(3) if made.notes]
    assert notes[0]["params"] == {"progressToken": "mine", "progress": 1}
    assert notes[1]["params"]["level"] == "error"
    assert made.note() == b"" and made.queued == 0
    made.close(1000, "the client left")
    assert (await tool.hears("notifications/cancelled"))["params"]["requestId"] == call["id"]


async def test_what_a_tool_asks_is_kept_until_it_is_complete_and_answered() -> None:
    broker = new_broker()
    tool = Tool(broker)
    made = await exchange(broker)
    made.begin(asked(elicitation={}, roots={}))
    call = await tool.hears("tools/call")
    tool.say({"id": 1, "method": "elicitation/create", "params": {"message": "sure?"}})
    tool.say({"id": 2, "method": "roots/list"})
    await until(made, lambda: made.waits)
    assert sorted(made.questions) == ["elicitation-1", "roots-2"]
    assert not made.clean
    made.park()
    tool.say({"method": "notifications/message", "params": {"level": "error", "data": "while it is parked"}})
    made.go_on(asked(elicitation={}, roots={}), {"elicitation-1": Raw(b'{"action":"accept"}'), "roots-2": Raw(b"7")})
    assert (await tool.answered(1))["result"] == {"action": "accept"}
    await until(made, lambda: made.waits)
    assert list(made.questions) == ["roots-2"], "an answer that is none is asked for again"
    made.go_on(asked(elicitation={}, roots={}), {"roots-2": Raw(b'{"roots":[]}')})
    assert (await tool.answered(2))["result"] == {"roots": []}
    tool.say({"id": call["id"], "result": text("done")})
    await until(made, lambda: made.answer is not None)
    assert made.clean


async def test_a_question_that_is_taken_back_need_not_be_answered() -> None:
    broker = new_broker()
    tool = Tool(broker)
    made = await exchange(broker)
    made.begin(asked(elicitation={}))
    await tool.hears("tools/call")
    tool.say({"id": 1, "method": "elicitation/create", "params": {}})
    await until(made, lambda: made.questions)
    tool.say({"method": "notifications/cancelled", "params": {"requestId": 1}})
    await until(made, lambda: not made.questions)
    assert not made.waits
    made.close(1000, "")


@pytest.mark.parametrize(
    ("declared", "params"),
    [({}, {}), ({"elicitation": {"form": {}}}, {"mode": "url"}), ({"elicitation": {"url": {}}}, {}), ({"sampling": {}}, {})],
)
async def test_what_the_client_did_not_declare_is_refused_for_it(declared: dict[str, Any], params: dict[str, Any]) -> None:
    broker = new_broker()
    tool = Tool(broker)
    made = await exchange(broker)
    made.begin(asked(**declared))
    await tool.hears("tools/call")
    tool.say({"id": 1, "method": "elicitation/create", "params": params})
    assert (await tool.answered(1))["error"]["code"] == -32601
    assert list(made.undeclared) == ["elicitation"] and not made.questions
    made.close(1000, "")


async def test_whoever_listens_hears_every_notification() -> None:
    broker = new_broker()
    tool = Tool(broker)
    heard: asyncio.Queue[str] = asyncio.Queue()
    made = await exchange(broker, on_notification=lambda method, frame: heard.put_nowait(method))
    tool.say({"method": "notifications/resources/updated", "params": {"uri": "a:1"}})
    assert await asyncio.wait_for(heard.get(), BOUND) == "notifications/resources/updated"
    made.close(1000, "")


async def test_the_end_of_the_link_is_an_answer_too() -> None:
    broker = new_broker()
    tool = Tool(broker)
    made = await exchange(broker)
    asking = asyncio.create_task(made.request("tools/call", b'{"name":"echo"}'))
    await tool.hears("tools/call")
    made.close(1001, "going away")
    made.send(b'{"jsonrpc":"2.0","id":1,"result":{}}')
    made.forward(b'{"jsonrpc":"2.0","method":"x"}')
    made.ping()
    assert (await asyncio.wait_for(asking, BOUND)).error is not UNSET
    await made.news(1.0)
