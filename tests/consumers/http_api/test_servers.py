"""Which server is asked, what its tools take, and who stands in for whom."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from mcp_endpoint.consumers.http_api import servers as module
from mcp_endpoint.consumers.http_api.arguments import Checker, InvalidArguments
from mcp_endpoint.consumers.http_api.servers import Check, NotPermitted, Servers, Unknown
from mcp_endpoint.consumers.local import Failed
from mcp_endpoint.core.broker import Broker
from mcp_endpoint.core.ledger import Part
from mcp_endpoint.settings.schema import EndpointSettings, Limits

Answer = Callable[[Any], dict[str, Any] | None]


class Quiet:
    def tell(self, event: str, shown: str, **fields: object) -> None: ...


def new_broker() -> Broker:
    loop = asyncio.get_running_loop()
    return Broker(EndpointSettings(), Limits(), clock=loop.time, call_at=loop.call_at, epoch=time.time, watch=Quiet())


class Far:
    """A server at an endpoint of its own; `answer` says what a call gets, None for nothing."""

    queued = 0

    def __init__(self, broker: Broker, name: str, tools: list[dict[str, Any]], answer: Answer | None = None) -> None:
        self.broker = broker
        self.name = name
        self.tools = tools
        self.answer = answer or (lambda params: {"result": {"by": name, "arguments": params["arguments"]}})
        self.calls = 0
        self.id: Any = None
        self.token: Any = None
        """Id and progress token of the call it heard last."""
        self.party = broker.attach_provider(f"server:{name}", name, self, managed=True)

    def send(self, first: Part, second: Part = b"") -> None:
        frame = json.loads(b"".join((first, second)))
        if "id" not in frame:
            return
        about = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "x"}}
        reply: dict[str, Any] | None = {"result": about}
        if frame["method"] == "tools/list":
            reply = {"result": {"tools": self.tools}}
        elif frame["method"] == "tools/call":
            self.calls += 1
            self.id = frame["id"]
            self.token = frame["params"].get("_meta", {}).get("progressToken")
            reply = self.answer(frame["params"])
        if reply is not None:
            asyncio.get_running_loop().call_soon(self.says, {"id": frame["id"]} | reply)

    def says(self, frame: dict[str, Any]) -> None:
        self.party.receive(self.party, json.dumps({"jsonrpc": "2.0"} | frame).encode(), asyncio.get_running_loop().time(), False)

    def leave(self) -> None:
        self.broker.detach(self.party, 1006, "")

    def close(self, code: int, reason: str) -> None: ...

    def ping(self) -> None: ...


def tool(name: str, schema: Any = None, **hints: bool) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object"} if schema is None else schema, "annotations": hints}


async def anything(definition: bytes, arguments: bytes) -> None:
    """All arguments fit."""


def known(broker: Broker, *names: str, check: Check = anything) -> Servers:
    return Servers(broker, Limits(), lambda: {name: (f"server:{name}", name) for name in names}, check)


def unreached(_: Any) -> dict[str, Any]:
    return {"error": {"code": -32001, "message": "no", "data": {"source": "broker", "delivered": False}}}


def gone(_: Any) -> dict[str, Any]:
    return {"error": {"code": -32003, "message": "gone", "data": {"source": "broker", "delivered": None}}}


async def by(servers: Servers, name: str, server: str = "") -> str:
    done = await servers.call(name, b"{}", server)
    assert json.loads(done.result)["by"] == done.server
    return done.server


@pytest.mark.row("H9")
async def test_servers_with_the_same_tool_take_turns() -> None:
    broker = new_broker()
    for name in ("a", "b", "c"):
        Far(broker, name, [tool("look")] if name != "c" else [tool("other")])
    servers = known(broker, "a", "b", "c")
    assert [await by(servers, "look") for _ in range(4)] == ["a", "b", "a", "b"]
    assert await by(servers, "other") == "c"
    servers.close()
    assert broker.consumers == 0


@pytest.mark.row("H1")
async def test_the_one_that_is_named_goes_first() -> None:
    broker = new_broker()
    a, b = Far(broker, "a", [tool("look")]), Far(broker, "b", [tool("look")])
    servers = known(broker, "a", "b")
    assert [await by(servers, "look", "b") for _ in range(3)] == ["b"] * 3
    b.answer = unreached
    assert await by(servers, "look", "b") == "a"
    with pytest.raises(Unknown):
        await servers.call("look", b"{}", "http://elsewhere")
    assert a.calls == 1


@pytest.mark.row("H9")
@pytest.mark.parametrize(("answer", "hints", "repeated"), [(unreached, {}, True), (gone, {"readOnlyHint": True}, True), (gone, {}, False)])
async def test_a_call_is_repeated_only_where_it_does_no_harm(answer: Answer, hints: dict[str, bool], repeated: bool) -> None:
    broker = new_broker()
    Far(broker, "a", [tool("do", **hints)], answer)
    b = Far(broker, "b", [tool("do", **hints)])
    servers = known(broker, "a", "b")
    if repeated:
        assert await by(servers, "do") == "b"
    else:
        with pytest.raises(Failed):
            await servers.call("do", b"{}")
    assert b.calls == repeated


async def test_when_nobody_was_reached_the_last_failure_is_told() -> None:
    broker = new_broker()
    for name in ("a", "b"):
        Far(broker, name, [tool("do")], unreached)
    with pytest.raises(Failed, match="no"):
        await known(broker, "a", "b").call("do", b"{}")


async def test_a_call_that_is_not_answered_in_time_is_cancelled_and_fails() -> None:
    broker = new_broker()
    Far(broker, "a", [tool("do", readOnlyHint=True)], lambda _: None)
    b = Far(broker, "b", [tool("do", readOnlyHint=True)])
    servers = Servers(broker, Limits(), lambda: {name: (f"server:{name}", name) for name in ("a", "b")}, anything, call_seconds=0.05)
    with pytest.raises(Failed, match=r"no answer within 0\.05 s"):
        await servers.call("do", b"{}")
    assert broker.in_flight == 0
    assert b.calls == 0, "the client has waited long enough"


async def test_an_error_of_the_tool_itself_is_its_answer() -> None:
    broker = new_broker()
    Far(broker, "a", [tool("do", readOnlyHint=True)], lambda _: {"error": {"code": 7, "message": "no tea"}})
    b = Far(broker, "b", [tool("do", readOnlyHint=True)])
    with pytest.raises(Failed, match="no tea"):
        await known(broker, "a", "b").call("do", b"{}")
    assert b.calls == 0


@pytest.mark.row("H3")
async def test_a_server_is_up_as_long_as_somebody_answers_there() -> None:
    broker = new_broker()
    far = Far(broker, "a", [tool("look")])
    servers = known(broker, "a", "b")
    assert servers.up() == {"a": True, "b": False}
    assert [list(tools) for tools in (await servers.tools()).values()] == [["look"], []]
    far.leave()
    assert servers.up() == {"a": False, "b": False}
    with pytest.raises(Failed, match=r"not connected: a, b$"):
        await servers.call("anything", b"{}")
    Far(broker, "a", [tool("newer")])
    assert list((await servers.tools("a"))["a"]) == ["newer"]
    with pytest.raises(Unknown):
        await servers.tools("c")


async def test_a_changed_list_is_read_again() -> None:
    broker = new_broker()
    far = Far(broker, "a", [tool("old")])
    servers = known(broker, "a")
    assert list((await servers.tools())["a"]) == ["old"]
    far.tools = [tool("new")]
    assert list((await servers.tools())["a"]) == ["old"], "it is asked again when it says that something changed"
    far.says({"method": "notifications/tools/list_changed"})
    async with asyncio.timeout(10):
        while list((await servers.tools())["a"]) != ["new"]:  # noqa: ASYNC110 - what is awaited is the list itself
            await asyncio.sleep(0.01)


async def test_a_server_that_does_not_tell_its_tools_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIST_SECONDS", 0.3)
    broker = new_broker()
    silent = Far(broker, "a", [])
    silent.send = lambda first, second=b"": None  # type: ignore[method-assign]
    Far(broker, "b", [tool("look")])
    servers = known(broker, "a", "b")
    assert {name: list(tools) for name, tools in (await servers.tools()).items()} == {"a": [], "b": ["look"]}


async def test_servers_come_and_go() -> None:
    broker = new_broker()
    Far(broker, "a", [tool("look")])
    Far(broker, "b", [tool("look")])
    names = ["a"]
    servers = Servers(broker, Limits(), lambda: {name: (f"server:{name}", name) for name in names}, anything)
    assert list(await servers.tools()) == ["a"]
    names[:] = ["b"]
    assert list(await servers.tools()) == ["b"]
    assert broker.consumers == 1


async def test_a_known_tool_of_a_server_that_is_down_is_not_unknown() -> None:
    broker = new_broker()
    a, b = Far(broker, "a", [tool("look"), tool("only_a")]), Far(broker, "b", [tool("look")])
    servers = known(broker, "a", "b")
    with pytest.raises(Unknown):
        await servers.call("nowhere", b"{}")
    a.leave()
    assert (await servers.call("look", b"{}", "a")).server == "b"
    for asked in (("only_a", ""), ("nowhere", "a")):
        with pytest.raises(Failed, match=r"not connected: a$"):
            await servers.call(asked[0], b"{}", asked[1])
    with pytest.raises(Unknown):
        await servers.call("nowhere", b"{}", "b")
    with pytest.raises(Failed, match=r"not connected: a$"):
        await servers.tools("a")
    b.leave()
    with pytest.raises(Failed, match=r"not connected: a, b$"):
        await servers.tools()
    assert await servers.all_tools() == {"a": {}, "b": {}}


async def test_a_server_is_meant_by_its_name_or_by_its_whole_address() -> None:
    broker = new_broker()
    Far(broker, "a", [tool("look")])
    servers = Servers(
        broker, Limits(), lambda: {"http://a/mcp": ("server:a", "a")}, anything, addresses={"http://a/mcp?key=x": "http://a/mcp"}
    )
    for given in ("http://a/mcp", "http://a/mcp?key=x"):
        assert (await servers.call("look", b"{}", given)).server == "http://a/mcp"
        assert list(await servers.tools(given)) == ["http://a/mcp"]
    for given in ("http://a/mcp?key=y", "http://a/mcp?", "\ud800"):
        with pytest.raises(Unknown):
            await servers.call("look", b"{}", given)


async def test_progress_is_heard_and_gives_a_call_more_time() -> None:
    """Eight times a tenth of a second, where a call that says nothing has half a second."""
    broker = new_broker()
    far = Far(broker, "a", [tool("work")])
    servers = Servers(broker, Limits(), lambda: {"a": ("server:a", "a")}, anything, call_seconds=0.5)
    heard: list[float] = []

    def go_on(token: int) -> None:
        far.says({"method": "notifications/progress", "params": {"progressToken": token, "progress": len(heard)}})

    def answer(params: Any) -> dict[str, Any] | None:
        asyncio.get_running_loop().call_soon(go_on, params["_meta"]["progressToken"])
        return None

    class Hearer:
        begun = 0

        def begin(self) -> None:
            self.begun += 1

        def on_progress(self, params: bytes) -> None:
            said = json.loads(params)
            heard.append(said["progress"])
            if len(heard) < 8:
                asyncio.get_running_loop().call_later(0.1, go_on, far.token)
            else:
                far.says({"id": far.id, "result": {}})

    far.answer = answer
    hearer = Hearer()
    assert (await servers.call("work", b"{}", follower=hearer)).result == b"{}"
    assert heard == list(range(8)) and hearer.begun == 1
    far.answer = lambda params: None
    with pytest.raises(Failed, match=r"within 0\.5 s"):
        await servers.call("work", b"{}", follower=hearer)


async def test_only_permitted_servers_are_asked_and_seen() -> None:
    broker = new_broker()
    Far(broker, "a", [tool("look"), tool("only_a")])
    b = Far(broker, "b", [tool("look")])
    servers = known(broker, "a", "b")
    for _ in range(3):
        assert (await servers.call("look", b"{}", permitted="b".__eq__)).server == "b"
    assert list(await servers.tools(permitted="b".__eq__)) == list(await servers.all_tools("b".__eq__)) == ["b"]
    for name, server, permitted in (("look", "a", "b"), ("only_a", "", "b"), ("look", "", "c")):
        with pytest.raises(NotPermitted):
            await servers.call(name, b"{}", server, permitted.__eq__)
    for server, permitted in (("c", "b"), ("", "c")):
        with pytest.raises(NotPermitted):
            await servers.tools(server, permitted.__eq__)
    with pytest.raises(Unknown):
        await servers.call("nowhere", b"{}", permitted="b".__eq__)
    b.leave()
    with pytest.raises(Failed, match=r"not connected: b$"):
        await servers.call("nowhere", b"{}", permitted="b".__eq__)


# -- arguments -----------------------------------------------------------------------------------------------------------------


@pytest.mark.row("H10")
async def test_arguments_are_held_against_the_tools_own_schema() -> None:
    broker = new_broker()
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"], "additionalProperties": False}
    far = Far(broker, "a", [tool("count", schema)])
    checker = Checker(4096)
    servers = known(broker, "a", check=checker.check)
    for wrong in (b"{}", b'{"n":"1"}', b'{"n":0}', b'{"n":1,"m":2}'):
        with pytest.raises(InvalidArguments):
            await servers.call("count", wrong)
    assert far.calls == 0
    assert json.loads((await servers.call("count", b'{"n":7}')).result)["arguments"] == {"n": 7}
    await checker.stop()


async def test_arguments_reach_the_tool_as_they_came() -> None:
    broker = new_broker()
    Far(broker, "a", [tool("look")], lambda params: {"result": {"deep": len(json.dumps(params["arguments"]))}})
    deep = b'{"a":' * 400 + b"1e400" + b"}" * 400
    assert json.loads((await known(broker, "a").call("look", deep)).result)["deep"] > 2_000
    assert broker.in_flight == 0
