"""MCP servers reached by URL, all of them real: made with the official package, or hostile ones made of bare sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from mcp.server import MCPServer
from served import served
from starlette.types import ASGIApp, Receive, Scope, Send
from upstream import Seen, Upstream, reply, says, upstream
from url_server import JSON, MAINTENANCE, Small, rpc_error

from mcp_endpoint.consumers.local import Failed, Local
from mcp_endpoint.core.broker import Broker
from mcp_endpoint.credentials.store import CredentialStore, credential_store
from mcp_endpoint.providers.entry import ServerEntry
from mcp_endpoint.providers.remote import server as module
from mcp_endpoint.providers.remote import transport as carrying
from mcp_endpoint.providers.remote.server import RemoteServer as Kept
from mcp_endpoint.settings.schema import CredentialSettings, EndpointSettings, Limits

BOUND = 20.0
KEYS = [f"sk-{letter * 40}" for letter in "abc"]


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []
    number = logger.add(lambda line: lines.append(f"{line} {line.record['extra']}"), level="DEBUG")
    yield lines
    logger.remove(number)


class Quiet:
    def tell(self, event: str, shown: str, **fields: object) -> None: ...


def new_broker(limits: Limits | None = None) -> Broker:
    loop = asyncio.get_running_loop()
    return Broker(EndpointSettings(), limits or Limits(), clock=loop.time, call_at=loop.call_at, epoch=time.time, watch=Quiet())


def entry(url: str, **options: Any) -> ServerEntry:
    return ServerEntry(**({"name": "far", "label": "far", "wire": "any", "url": url} | options))


def local(broker: Broker, server: ServerEntry) -> Local:
    return Local(broker, server.endpoint, server.shown, broker.limits)


def adder(name: str = "far", said: str = "", entered: asyncio.Event | None = None) -> MCPServer:
    server = MCPServer(name)

    @server.tool(annotations={"readOnlyHint": True})  # type: ignore[arg-type]
    def add(a: int, b: int) -> str:
        """Adds."""
        return f"{said}{a + b}"

    @server.tool()
    async def wait() -> str:
        """Never ends."""
        if entered is not None:
            entered.set()
        await asyncio.Event().wait()
        return ""

    return server


@asynccontextmanager
async def kept(broker: Broker, server: ServerEntry, ring: CredentialStore | None = None) -> AsyncIterator[Kept]:
    one = Kept(server, broker, ring, draw=lambda: 1.0)
    await one.start()
    try:
        yield one
    finally:
        await asyncio.wait_for(one.stop(), BOUND)


async def until(holds: Callable[[], object]) -> None:
    """What has no event to wait for is looked at, for a bounded time."""
    async with asyncio.timeout(BOUND):
        while not holds():  # noqa: ASYNC110 - states of a server that keeps itself to itself
            await asyncio.sleep(0.005)


async def becomes(one: Kept, state: str) -> dict[str, Any]:
    await until(lambda: one.describe()["state"] == state)
    return one.describe()


async def answered(inside: Local) -> str:
    """Call `add` until the server is connected again; nothing tells when that is."""
    async with asyncio.timeout(BOUND):
        while True:
            try:
                return text(await inside.call("add", {"a": 1, "b": 2}))
            except Failed as failed:
                assert failed.code in (-32001, -32003, -32602), failed
                await asyncio.sleep(0.02)


def text(result: bytes) -> str:
    found: str = json.loads(result)["content"][0]["text"]
    return found


# -- wires and eras -----------------------------------------------------------------------------------------------------------


@pytest.mark.row("H8")
@pytest.mark.parametrize(("wire", "path"), [("http", "/mcp"), ("any", "/mcp"), ("sse", "/sse"), ("any", "/sse")])
async def test_a_server_is_listed_and_called_over_the_wire_it_speaks(wire: str, path: str) -> None:
    broker = new_broker()
    app = adder().sse_app() if path == "/sse" else adder().streamable_http_app()
    async with served(app) as (port, _), kept(broker, entry(f"http://127.0.0.1:{port}{path}", wire=wire)) as one:
        described = await becomes(one, "running")
        assert described["wire"] == ("sse" if path == "/sse" else "http")
        assert described["host"] == f"127.0.0.1:{port}"
        assert described["milliseconds"] > 0
        inside = local(broker, one.server)
        assert [tool.name for tool in await inside.tools()] == ["add", "wait"]
        assert text(await inside.call("add", {"a": 1, "b": 2})) == "3"
        assert one.describe()["greeting"] == "ready"


async def test_a_server_of_the_old_wire_is_found_also_where_its_address_does_not_say_so() -> None:
    """It refuses the first message of the new wire with 405, and is then asked for its stream (MCP 2025-03-26)."""
    broker = new_broker()
    async with served(adder().sse_app(sse_path="/mcp")) as (port, _), kept(broker, entry(f"http://127.0.0.1:{port}/mcp")) as one:
        assert (await becomes(one, "running"))["wire"] == "sse"
        assert text(await local(broker, one.server).call("add", {"a": 1, "b": 2})) == "3"


class Stateless:
    """A server that knows revision 2026-07-28 only, in front of one that knows both; keeps the headers it was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            if headers.get("mcp-protocol-version") != "2026-07-28":
                body = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32022,"message":"no","data":{"supported":["2026-07-28"]}}}'
                start = {"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]}
                await send(start)
                await send({"type": "http.response.body", "body": body})
                return
            self.headers.append(headers)
        await self.app(scope, receive, send)


async def test_a_server_that_knows_no_handshake_gets_the_headers_its_revision_demands() -> None:
    broker = new_broker()
    behind = Stateless(adder().streamable_http_app())
    async with served(behind) as (port, _), kept(broker, entry(f"http://127.0.0.1:{port}/mcp")) as one:
        await becomes(one, "running")
        assert text(await local(broker, one.server).call("add", {"a": 1, "b": 2})) == "3"
        [called] = [headers for headers in behind.headers if headers["mcp-method"] == "tools/call"]
        assert called["mcp-name"] == "add"


async def test_arguments_that_a_tool_wants_in_headers_are_there(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        frame = json.loads(seen.body)
        answers: dict[str, Any] = {
            "server/discover": {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}},
            "tools/list": {"resultType": "complete", "tools": [{"name": "look", "inputSchema": schema}]},
            "tools/call": {"resultType": "complete", "content": [{"type": "text", "text": "ok"}]},
        }
        if frame["method"] in answers:
            result: dict[str, Any] = {"result": answers[frame["method"]]}
        else:
            result = {"error": {"code": -32022, "message": "no", "data": {"supported": ["2026-07-28"]}}}
        body = json.dumps({"jsonrpc": "2.0", "id": frame.get("id")} | result).encode()
        writer.write(reply(200 if "result" in result else 400, body, "Content-Type: application/json"))

    broker = new_broker()
    async with upstream(script) as behind, kept(broker, entry(behind.url, wire="http")) as one:
        await becomes(one, "running")
        inside = local(broker, one.server)
        assert [tool.name for tool in await inside.tools()] == ["look"]
        assert text(await inside.call("look", {"region": "北京"})) == "ok"
        [call] = [seen for seen in behind.seen if b"tools/call" in seen.body]
        assert call.all("mcp-param-region")[0].startswith("=?base64?")


# -- death and return --------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_not_there_delays_nobody_and_is_found_when_it_comes() -> None:
    broker = new_broker()
    async with upstream(says(reply(200))) as free:
        port = free.port
    async with kept(broker, entry(f"http://127.0.0.1:{port}/mcp")) as one:
        described = await becomes(one, "waiting")
        assert "cannot be reached" in described["why"]
        inside = local(broker, one.server)
        assert await inside.tools() == []
        async with served(adder().streamable_http_app(), port):
            await becomes(one, "running")
            assert text(await inside.call("add", {"a": 1, "b": 2})) == "3"


@pytest.mark.row("H9")
@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_call_whose_server_dies_is_answered_and_the_server_found_again(path: str) -> None:
    broker = new_broker()
    entered = asyncio.Event()
    app = adder(entered=entered).sse_app if path == "/sse" else adder(entered=entered).streamable_http_app
    async with served(app()) as (port, kill), kept(broker, entry(f"http://127.0.0.1:{port}{path}")) as one:
        await becomes(one, "running")
        inside = local(broker, one.server)
        calling = asyncio.create_task(inside.call("wait", {}))
        async with asyncio.timeout(BOUND):
            await entered.wait()
            kill()
            with pytest.raises(Failed) as caught:
                await calling
        assert not caught.value.undelivered
        app = adder().sse_app if path == "/sse" else adder().streamable_http_app
        async with served(app(), port):
            assert await answered(inside) == "3"


@pytest.mark.row("H9")
async def test_replicas_answer_for_each_other() -> None:
    broker = new_broker()
    async with (
        served(adder(said="one ").streamable_http_app()) as (first, kill_first),
        served(adder(said="two ").streamable_http_app()) as (second, _),
        kept(broker, entry(f"http://127.0.0.1:{second}/mcp", name="second")) as other,
        kept(broker, entry(f"http://127.0.0.1:{first}/mcp", name="first")) as one,
    ):
        await becomes(other, "running")
        await becomes(one, "running")
        inside = local(broker, one.server)
        assert [tool.name for tool in await inside.tools()] == ["add", "wait"]
        said = text(await inside.call("add", {"a": 1, "b": 2}))
        kill_first()
        for _ in range(5):
            assert text(await inside.call("add", {"a": 1, "b": 2})) == "two 3"
        assert said in ("one 3", "two 3")


@pytest.mark.row("H9")
async def test_an_answer_that_breaks_off_is_given_by_a_replica_if_the_tool_only_reads() -> None:
    looked: list[bytes] = []

    async def breaks(seen: Seen, writer: asyncio.StreamWriter) -> None:
        looked.append(seen.body)
        writer.write(head("text/event-stream") + b"data: ")
        await writer.drain()
        writer.close()

    async def answers(seen: Seen, writer: asyncio.StreamWriter) -> None:
        result = {"content": [{"type": "text", "text": "seen"}]}
        body = json.dumps({"jsonrpc": "2.0", "id": json.loads(seen.body)["id"], "result": result}).encode()
        writer.write(reply(200, body, "Content-Type: application/json"))

    broker = new_broker()
    tools = ({"name": "look", "inputSchema": {}, "annotations": {"readOnlyHint": True}}, {"name": "do", "inputSchema": {}})
    async with (
        upstream(plays(answers, tools)) as good,
        upstream(plays(breaks, tools)) as bad,
        kept(broker, entry(good.url, wire="http", name="good")) as one,
        kept(broker, entry(bad.url, wire="http", name="bad")) as other,
    ):
        await becomes(one, "running")
        await becomes(other, "running")
        inside = local(broker, one.server)
        await inside.tools()
        for _ in range(4):
            assert text(await inside.call("look", {})) == "seen"
        done = [await asyncio.gather(inside.call("do", {}), return_exceptions=True) for _ in range(2)]
        for [result] in done:
            assert isinstance(result, bytes) or (isinstance(result, Failed) and result.code == -32003 and not result.undelivered)
        assert looked


async def test_messages_pass_byte_for_byte_in_both_directions() -> None:
    """Also those that are no good MCP: whoever gets them says so."""
    said = b'{"jsonrpc":"2.0","id":1,"result":{"a":1.00,"b":12345678901234567890123456789,"c":"\\u4f60"}}'

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(200, said, "Content-Type: application/json"))

    broker = new_broker()
    async with upstream(plays(script)) as behind, kept(broker, entry(behind.url, wire="http")) as one:
        await becomes(one, "running")
        found = await local(broker, one.server).request("odd/method", ["a", 1.0])  # type: ignore[arg-type]
        assert found == said[said.index(b'{"a"') : -1]
        assert b'"params":["a",1.0]' in behind.seen[-1].body


async def test_an_event_that_is_no_message_harms_nothing() -> None:
    broker = new_broker()
    play = plays(somebody_elses)

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.method != "GET":
            if b'"initialize"' in seen.body:
                hello = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}
                body = json.dumps({"jsonrpc": "2.0", "id": json.loads(seen.body)["id"], "result": hello}).encode()
                writer.write(reply(200, body, "Content-Type: application/json", "Mcp-Session-Id: abc"))
            elif seen.method == "DELETE":
                writer.write(reply(200))
            else:
                await play(seen, writer)
            return
        writer.write(head("text/event-stream") + b"data: {}\n\ndata: nonsense\n\n")
        await writer.drain()
        await asyncio.Event().wait()

    async with upstream(script) as behind, kept(broker, entry(behind.url, wire="http")) as one:
        await becomes(one, "running")
        await until(lambda: broker.counters.noise == 2)
        assert [tool.name for tool in await local(broker, one.server).tools()] == ["pour"]
        assert one.describe()["attempts"] == 1


async def test_a_server_that_forgot_the_session_is_greeted_anew() -> None:
    broker = new_broker()
    app = adder().streamable_http_app()
    async with served(app) as (port, kill), kept(broker, entry(f"http://127.0.0.1:{port}/mcp")) as one:
        await becomes(one, "running")
        inside = local(broker, one.server)
        await inside.call("add", {"a": 1, "b": 2})
        kill()
        async with served(adder().streamable_http_app(), port):
            assert await answered(inside) == "3"


async def test_a_silent_server_is_asked_for_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEALTH_SECONDS", 0.05)
    monkeypatch.setattr(module, "ACCEPT_SECONDS", 3.0)
    broker = new_broker()
    async with served(adder().streamable_http_app()) as (port, kill), kept(broker, entry(f"http://127.0.0.1:{port}/mcp")) as one:
        await becomes(one, "running")
        first = one.describe()["milliseconds"]
        await until(lambda: one.describe()["milliseconds"] != first)  # it was asked, and answered
        assert one.describe()["attempts"] == 1
        kill()
        assert (await becomes(one, "waiting"))["why"]


# -- recovery ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wire", "path"), [("http", "/mcp"), ("sse", "/sse")])
async def test_an_address_that_redirects_within_its_server_is_followed(wire: str, path: str) -> None:
    """Starlette and FastAPI move `/mcp` to `/mcp/`."""
    app = adder().sse_app(sse_path="/sse/") if wire == "sse" else adder().streamable_http_app(streamable_http_path="/mcp/")
    broker = new_broker()
    async with served(app) as (port, _), kept(broker, entry(f"http://127.0.0.1:{port}{path}", wire=wire)) as one:
        await becomes(one, "running")
        inside = local(broker, one.server)
        assert [tool.name for tool in await inside.tools()] == ["add", "wait"]
        assert text(await inside.call("add", {"a": 1, "b": 2})) == "3"


@pytest.mark.row("H9")
@pytest.mark.parametrize(
    "forgotten",
    [
        None,
        reply(404, b"no such session", "Content-Type: text/plain"),
        rpc_error(-32000, "Bad Request: No valid session ID provided", 400),
        reply(400, b"Bad Request: Mcp-Session-Id", "Content-Type: text/plain"),
        rpc_error(-32001, "Session not found"),
    ],
)
async def test_calls_whose_session_was_forgotten_are_said_again_after_one_new_greeting(forgotten: bytes | None) -> None:
    old = "s1"

    def faults(seen: Seen, frame: dict[str, Any]) -> bytes | None:
        return forgotten if restarted and frame.get("method") == "tools/call" and seen.all("mcp-session-id") == [old] else None

    restarted: list[bool] = []
    broker = new_broker()
    play = Small(faults, sessions=True)
    async with upstream(play) as behind, kept(broker, entry(behind.url, wire="http")) as one, asyncio.timeout(BOUND):
        await becomes(one, "running")
        inside = local(broker, one.server)
        await inside.tools()
        restarted.append(True)
        play.greeted += forgotten is None  # it has begun anew, and knows the newest session only
        expected = play.greeted + 1
        assert [text(found) for found in await asyncio.gather(*(inside.call("pour", {}) for _ in range(5)))] == ["poured"] * 5
        assert play.greeted == expected
        assert play.called == 5
        assert one.describe()["attempts"] == 1


async def test_a_call_that_is_refused_is_the_last_error_of_a_server_that_goes_on() -> None:
    """Nothing is lost and it stays `running`: this is where an operator finds out why its calls fail."""

    def faults(seen: Seen, frame: dict[str, Any]) -> bytes | None:
        return reply(401, b'{"message":"who are you"}', JSON) if frame.get("method") == "tools/call" else None

    broker = new_broker()
    async with upstream(Small(faults)) as behind, kept(broker, entry(behind.url, wire="http")) as one, asyncio.timeout(BOUND):
        await becomes(one, "running")
        inside = local(broker, one.server)
        await inside.tools()
        assert one.describe()["last_error"] == ""
        with pytest.raises(Failed, match="did not take the request"):
            await inside.call("pour", {})
        told = one.describe()
        assert told["state"] == "running"
        assert "HTTP 401" in told["last_error"] and "who are you" in told["last_error"]


async def test_a_session_that_is_never_known_ends_a_call_with_the_servers_words() -> None:
    def faults(seen: Seen, frame: dict[str, Any]) -> bytes | None:
        return rpc_error(-32001, "Session not found", 404) if frame.get("method") == "tools/call" else None

    broker = new_broker()
    play = Small(faults, sessions=True)
    async with upstream(play) as behind, kept(broker, entry(behind.url, wire="http")) as one, asyncio.timeout(BOUND):
        await becomes(one, "running")
        with pytest.raises(Failed) as caught:
            await local(broker, one.server).call("pour", {})
        assert "HTTP 404" in caught.value.data["hint"] and "Session not found" in caught.value.data["hint"]
        assert caught.value.undelivered
        assert play.greeted == 2


async def test_an_old_server_that_forgot_the_session_is_greeted_anew_on_a_new_stream() -> None:
    """The address of messages holds the session on that wire; what was under way on the old stream is answered."""
    streams: list[asyncio.Queue[bytes]] = []

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.method == "GET":
            mine: asyncio.Queue[bytes] = asyncio.Queue()
            streams.append(mine)
            writer.write(head("text/event-stream") + b"event: endpoint\ndata: /m?s=%d\n\n" % len(streams))
            while True:
                await writer.drain()
                writer.write(b"data: " + await mine.get() + b"\n\n")
        if seen.target == "/m?s=1" and b'"forget"' in seen.body:
            writer.write(reply(404, b"Could not find session"))
            return
        writer.write(reply(202))
        frame = json.loads(seen.body)
        if "id" in frame and b'"hang"' not in seen.body:
            streams[int(seen.target[-1]) - 1].put_nowait(Small().answer(frame))

    broker = new_broker()
    async with upstream(script) as behind, kept(broker, entry(behind.url, wire="sse")) as one, asyncio.timeout(BOUND):
        await becomes(one, "running")
        inside = local(broker, one.server)
        await inside.tools()
        hanging = asyncio.create_task(inside.call("hang", {}))
        await until(lambda: any(b'"hang"' in seen.body for seen in behind.seen))
        assert text(await inside.call("forget", {})) == "poured"
        with pytest.raises(Failed, match="-32003"):
            await hanging
        assert len(streams) == 2
        assert one.describe()["attempts"] == 1


NO_RESULT = reply(200, b'{"jsonrpc":"2.0","id":"hello","result":{"no":"revision"}}', JSON)


@pytest.mark.row("H9")
@pytest.mark.parametrize(
    ("wire", "fault", "why"),
    [
        ("any", MAINTENANCE, "(text/html) cannot be read"),
        ("http", reply(503, b"Back soon", "Retry-After: 1"), "HTTP 503"),
        ("any", reply(500, b'{"error":"boom"}', JSON), "HTTP 500 (server error): boom"),
        ("any", reply(404, b"nothing here"), "HTTP 404"),
        ("http", rpc_error(-32603, "the database is starting"), "the database is starting"),
        ("http", NO_RESULT, "not a valid result"),
        ("http", rpc_error(-32601, "not yet"), "it answered initialize with an error: -32601 not yet"),
        ("sse", MAINTENANCE, "(text/html) cannot be read"),
        ("sse", reply(503), "HTTP 503"),
    ],
)
async def test_a_server_that_is_not_well_at_first_brings_its_tools_when_it_is(wire: str, fault: bytes, why: str) -> None:
    broker = new_broker()
    good = Small()
    async with (
        upstream(good) as beside,
        upstream(says(fault)) as behind,
        kept(broker, entry(f"{behind.url}/sse" if wire == "sse" else behind.url, wire=wire, name="ill", label="ill")) as odd,
        kept(broker, entry(beside.url)) as one,
        asyncio.timeout(BOUND),
    ):
        await becomes(one, "running")
        assert why in (await becomes(odd, "waiting"))["why"]
        behind.script = _relay_of_sse() if wire == "sse" else Small()
        inside = local(broker, odd.server)
        await becomes(odd, "running")
        assert [tool.name for tool in await inside.tools()] == ["pour"]
        assert text(await inside.call("pour", {})) == "poured"
        assert text(await local(broker, one.server).call("pour", {})) == "poured"
        assert good.greeted == 1


def _relay_of_sse(odd: Callable[[dict[str, Any]], bytes] = lambda frame: b"") -> Any:
    """A server of the old wire as a script; calls of the tool `odd` are answered with what `odd` returns."""
    said: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.method == "GET":
            writer.write(head("text/event-stream") + b"event: endpoint\ndata: /m\n\n")
            while True:
                await writer.drain()
                writer.write(b"data: " + await said.get() + b"\n\n")
        writer.write(reply(202))
        frame = json.loads(seen.body)
        if "id" in frame:
            said.put_nowait(odd(frame) if b'"odd"' in seen.body else Small().answer(frame))

    return script


@pytest.mark.parametrize("fault", [rpc_error(-32603, "not ready"), reply(500, b"oops"), MAINTENANCE, reply(200, b'{"result":{}}', JSON)])
async def test_a_list_that_fails_is_asked_for_again(fault: bytes) -> None:
    """A server that cannot name its tools at first is not ready; one that cannot later stays, and says why."""
    ill = [True]
    broker = new_broker()
    play = Small(lambda seen, frame: fault if ill and frame.get("method") == "tools/list" else None)
    async with upstream(play) as behind, kept(broker, entry(behind.url, wire="http")) as one, asyncio.timeout(BOUND):
        assert "tools/list failed" in (await becomes(one, "waiting"))["why"]
        changes: list[str] = []
        inside = Local(broker, one.server.endpoint, one.server.shown, broker.limits, changed=changes.append)
        assert await inside.tools() == []
        ill.clear()
        await becomes(one, "running")
        assert [tool.name for tool in await inside.tools()] == ["pour"]
        attempts = one.describe()["attempts"]
        ill.append(True)
        changes.clear()
        with contextlib.suppress(Failed):
            assert await inside.tools() == []
        assert "tools/list failed" in one.describe()["why"]
        ill.clear()
        await until(lambda: changes)
        assert [tool.name for tool in await inside.tools()] == ["pour"]
        assert (one.describe()["why"], one.describe()["attempts"]) == ("", attempts)


async def test_the_list_of_the_handshake_is_the_endpoints_first_list() -> None:
    """Asked for twice: in the handshake, and by the consumer. The endpoint itself asks the server for nothing."""
    broker = new_broker()
    async with upstream(Small()) as behind, kept(broker, entry(behind.url, wire="http", deny=("x",))) as one, asyncio.timeout(BOUND):
        await becomes(one, "running")
        assert [tool.name for tool in await local(broker, one.server).tools()] == ["pour"]
        assert len([seen for seen in behind.seen if b"tools/list" in seen.body]) == 2


@pytest.mark.parametrize(
    ("ping", "lives"),
    [
        (rpc_error(-32603, "Method not supported: ping"), True),
        (rpc_error(-32601, "Method not found", 400), True),
        (reply(405, b"no"), True),
        (rpc_error(-32001, "Session not found", 404), False),
        (rpc_error(-32000, "Bad Request: No valid session ID provided", 400), False),
    ],
)
async def test_an_error_is_a_word_too_unless_it_says_that_the_session_is_lost(
    ping: bytes, lives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEALTH_SECONDS", 0.05)
    pings: list[Seen] = []

    def faults(seen: Seen, frame: dict[str, Any]) -> bytes | None:
        if frame.get("method") != "ping":
            return None
        pings.append(seen)
        return ping

    broker = new_broker()
    play = Small(faults, sessions=True)
    async with upstream(play) as behind, kept(broker, entry(behind.url, wire="http")) as one, asyncio.timeout(BOUND):
        await becomes(one, "running")
        await until(lambda: len(pings) >= 3)
        assert one.describe()["attempts"] == 1
        assert (play.greeted == 1) is lives


# -- reasons -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 402, 403, 418, 429, 500, 503])
async def test_a_refusal_is_told_with_its_status_and_words_at_the_handshake_and_in_a_call(status: int, told: list[str]) -> None:
    refusal = reply(status, b'{"error":{"message":"because of hush-hush and \\u001b[31m"}}', JSON, "WWW-Authenticate: Bearer")
    broker = new_broker()
    async with upstream(says(refusal)) as behind:
        async with kept(broker, entry(behind.url, secrets=frozenset(("hush-hush",)))) as one:
            why = (await becomes(one, "waiting"))["why"]
        async with kept(broker, entry(behind.url, secrets=frozenset(("hush-hush",)))) as one:
            behind.script = Small(lambda seen, frame: refusal if frame.get("method") == "tools/call" else None)
            await becomes(one, "running")
            with pytest.raises(Failed) as caught:
                await local(broker, one.server).call("pour", {})
    for words in (why, caught.value.data["hint"], "".join(told)):
        assert f"HTTP {status}" in words and "because of ***" in words
        assert "hush" not in words and "\x1b" not in words


@pytest.mark.parametrize(
    "result",
    [b'{"n":NaN}', b'{"n":-Infinity}', '"天气"'.encode("gbk"), b'"a\tb"', b'{"n":', b'{},"result":{}', b'"' + b"x" * 100_000 + b'"'],
)
async def test_an_answer_on_the_old_wire_that_cannot_be_read_ends_its_call_at_once_and_no_other(result: bytes) -> None:
    relay = _relay_of_sse(lambda frame: b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (frame["id"], result))
    broker = new_broker(Limits(provider_message_bytes=50_000))
    async with upstream(relay) as behind, kept(broker, entry(f"{behind.url}/sse", wire="sse")) as one, asyncio.timeout(BOUND):
        await becomes(one, "running")
        inside = local(broker, one.server)
        await inside.tools()
        with pytest.raises(Failed) as caught:
            await inside.call("odd", {})
        assert caught.value.code in (-32007, -32008)
        assert not caught.value.undelivered
        assert text(await inside.call("pour", {})) == "poured"
        assert one.describe()["attempts"] == 1


@pytest.mark.parametrize("wire", ["http", "sse"])
async def test_one_answer_above_the_limit_ends_its_call_and_no_other(wire: str) -> None:
    server = MCPServer("far")
    entered, go = asyncio.Event(), asyncio.Event()

    @server.tool()
    async def wait() -> str:
        entered.set()
        await go.wait()
        return "waited"

    @server.tool()
    async def large(size: int) -> str:
        return "x" * size

    app = server.sse_app() if wire == "sse" else server.streamable_http_app()
    broker = new_broker()
    async with (
        served(app) as (port, _),
        kept(broker, entry(f"http://127.0.0.1:{port}/{'sse' if wire == 'sse' else 'mcp'}", wire=wire)) as one,
        asyncio.timeout(BOUND),
    ):
        await becomes(one, "running")
        inside = local(broker, one.server)
        await inside.tools()
        waiting = asyncio.create_task(inside.call("wait", {}))
        await entered.wait()
        assert len(text(await inside.call("large", {"size": 1_500_000}))) == 1_500_000
        with pytest.raises(Failed) as caught:
            await inside.call("large", {"size": 9_000_000})
        assert caught.value.code == -32007 and "too large" in caught.value.data["hint"]
        go.set()
        assert text(await waiting) == "waited"
        assert one.describe()["attempts"] == 1


# -- what a server may see, and what of it may be seen -------------------------------------------------------------------------


async def test_allow_and_deny_hold_for_servers_by_url_too() -> None:
    broker = new_broker()
    async with served(adder().streamable_http_app()) as (port, _), kept(broker, entry(f"http://127.0.0.1:{port}/mcp", deny=("w*",))) as one:
        await becomes(one, "running")
        inside = local(broker, one.server)
        assert [tool.name for tool in await inside.tools()] == ["add"]
        with pytest.raises(Failed):
            await inside.call("wait", {})


async def test_headers_of_the_entry_go_along_and_nothing_of_it_is_shown(told: list[str]) -> None:
    broker = new_broker()
    secret: dict[str, Any] = {"headers": {"X-Secret": "hush-too"}, "secrets": frozenset(("hush-hush", "hush-too"))}
    server = entry("http://127.0.0.1:1/mcp?api_key=hush-hush", **secret)
    async with kept(broker, server) as one:
        described = json.dumps(await becomes(one, "waiting"))
    async with upstream(says(reply(401))) as behind, kept(broker, entry(f"{behind.url}/mcp?api_key=hush-hush", **secret)) as one:
        described += json.dumps(await becomes(one, "waiting"))
        assert behind.seen[0].all("x-secret") == ["hush-too"]
        assert behind.seen[0].target == "/mcp?api_key=hush-hush"
    assert "hush" not in described + "".join(told) + repr(server)


def ring(root: Path, **settings: Any) -> CredentialStore:
    return credential_store("far", CredentialSettings(env="KEYS", **settings), root, {"KEYS": " ".join(KEYS)})


@pytest.mark.parametrize("place", ["query:api_key", "header:X-Key", "bearer"])
async def test_requests_take_turns_with_the_keys_of_a_pool(tmp_path: Path, place: str, told: list[str]) -> None:
    shown: list[str] = []
    app = adder().streamable_http_app()

    async def keyed(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            query = scope["query_string"].decode().partition("api_key=")[2]
            key = {"query:api_key": query, "header:X-Key": headers.get("x-key", "")}.get(place) or headers.get("authorization", "")[7:]
            shown.append(key)
            if key == KEYS[1]:
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
        await app(scope, receive, send)

    broker = new_broker()
    keys = ring(tmp_path)
    async with served(keyed) as (port, _), kept(broker, entry(f"http://127.0.0.1:{port}/mcp", place=place), keys) as one:
        await becomes(one, "running")
        inside = local(broker, one.server)
        for number in range(6):
            assert text(await inside.call("add", {"a": number, "b": 2})) == str(number + 2)
        assert one.describe()["keys"]["banned"] == 1
    assert shown.count(KEYS[1]) == 1
    assert {KEYS[0], KEYS[2]} <= set(shown)
    for key in KEYS:
        assert key not in "".join(told)


async def test_when_every_key_is_refused_the_reason_is_said_and_none_is_banned(tmp_path: Path) -> None:
    broker = new_broker()
    async with upstream(says(reply(403))) as behind, kept(broker, entry(behind.url), ring(tmp_path)) as one:
        why = (await becomes(one, "waiting"))["why"]
        assert "403" in why
        assert one.describe()["keys"]["banned"] == 0


# -- hostile servers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (says(reply(200, b"<html>", "Content-Type: text/html")), ""),
        (says(reply(200, b"{", "Content-Type: application/json")), ""),
        (says(reply(200, b"[" * 100_000, "Content-Type: application/json")), ""),
        (says(reply(500, b"oops")), "HTTP 500"),
        (says(b"garbage\r\n\r\n"), "did not answer"),
        (says(reply(302, b"", "Location: http://169.254.169.254/latest/meta-data/")), ""),
        (says(reply(307, b"", "Location: http://127.0.0.1:1/mcp")), ""),
        (says(reply(202)), ""),
    ],
)
async def test_a_server_that_is_none_is_not_attached_or_bare_and_others_do_not_mind(script: Any, words: str) -> None:
    broker = new_broker()
    async with (
        upstream(script) as behind,
        served(adder().streamable_http_app()) as (port, _),
        kept(broker, entry(behind.url, wire="http", name="odd", label="odd")) as odd,
        kept(broker, entry(f"http://127.0.0.1:{port}/mcp")) as one,
    ):
        await becomes(one, "running")
        await until(lambda: behind.seen and odd.describe()["state"] != "starting")
        assert words in odd.describe()["why"]
        assert text(await local(broker, one.server).call("add", {"a": 1, "b": 2})) == "3"
        with pytest.raises(Failed):
            await local(broker, odd.server).call("add", {})


async def test_a_redirect_to_another_address_is_not_followed() -> None:
    broker = new_broker()
    async with upstream(says(reply(200, b"secret"))) as inner:
        moved = reply(307, b"", f"Location: {inner.url}/mcp")
        async with upstream(says(moved)) as behind, kept(broker, entry(behind.url, wire="http")) as one:
            await until(lambda: behind.seen and one.describe()["state"] != "starting")
            with pytest.raises(Failed):
                await local(broker, one.server).call("add", {})
        assert not inner.seen


async def test_a_server_that_hangs_in_the_handshake_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELLO_SECONDS", 0.2)

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    broker = new_broker()
    for wire in ("http", "sse"):
        async with upstream(script) as behind, kept(broker, entry(behind.url, wire=wire)) as one:
            await until(lambda: behind.seen and one.describe()["state"] == "waiting")


async def test_an_endless_answer_ends_at_the_limit(tmp_path: Path) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        frame = json.loads(seen.body)
        if frame["method"] == "tools/call":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}
        if frame["method"] == "tools/list":
            result = {"tools": [{"name": "pour", "inputSchema": {}}]}
        body = json.dumps({"jsonrpc": "2.0", "id": frame.get("id"), "result": result}).encode()
        writer.write(reply(200, body, "Content-Type: application/json") if "id" in frame else reply(202))

    broker = new_broker(Limits(provider_message_bytes=1_000_000))
    async with upstream(script) as behind, kept(broker, entry(behind.url, wire="http")) as one:
        await becomes(one, "running")
        inside = local(broker, one.server)
        async with asyncio.timeout(BOUND):
            assert [tool.name for tool in await inside.tools()] == ["pour"]
            with pytest.raises(Failed):
                await inside.call("pour", {})
        assert isinstance(behind, Upstream)
        assert [tool.name for tool in await inside.tools()] == ["pour"]


def plays(
    call: Callable[[Seen, asyncio.StreamWriter], Any], tools: tuple[dict[str, Any], ...] = ({"name": "pour", "inputSchema": {}},)
) -> Any:
    """A server of the handshake era without sessions; `call` answers what is no greeting and no list."""

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        frame = json.loads(seen.body) if seen.body else {}
        results: dict[str, Any] = {
            "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}},
            "tools/list": {"tools": list(tools)},
            "ping": {},
        }
        if seen.method == "GET":
            writer.write(reply(405))
        elif "id" not in frame:
            writer.write(reply(202))
        elif (result := results.get(frame["method"])) is not None:
            body = json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}).encode()
            writer.write(reply(200, body, "Content-Type: application/json"))
        else:
            await call(seen, writer)
        await writer.drain()

    return script


def head(kind: str, *more: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", f"Content-Type: {kind}", *more, "", "")).encode()


async def bomb(seen: Seen, writer: asyncio.StreamWriter) -> None:
    assert seen.all("accept-encoding") == ["identity"]
    writer.write(reply(200, gzip.compress(b" " * 5_000_000), "Content-Type: application/json", "Content-Encoding: gzip"))


async def endless_event(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(head("text/event-stream") + b"data: ")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def endless_events(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(head("text/event-stream"))
    while True:
        writer.write(b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}\n\n' * 1000)
        await writer.drain()


async def dripping_head(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def dripping_body(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(head("application/json", "Content-Length: 100000"))
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def broken_off(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(head("application/json", "Content-Length: 100000") + b"{")
    await writer.drain()
    writer.close()


async def somebody_elses(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(200, b'{"jsonrpc":"2.0","id":4711,"result":{}}', "Content-Type: application/json"))


@pytest.mark.parametrize("call", [bomb, endless_event, endless_events, dripping_head, dripping_body, broken_off])
async def test_a_call_that_is_answered_with_an_attack_fails_alone(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drips end when their time is over, the others by their size or by themselves."""
    if call in (dripping_head, dripping_body):
        monkeypatch.setattr(carrying, "ANSWER_SECONDS", 2.0)
    broker = new_broker(Limits(provider_message_bytes=200_000))
    async with (
        upstream(plays(call)) as behind,
        served(adder().streamable_http_app()) as (port, _),
        kept(broker, entry(behind.url, wire="http", name="odd", label="odd")) as odd,
        kept(broker, entry(f"http://127.0.0.1:{port}/mcp")) as one,
    ):
        await becomes(odd, "running")
        await becomes(one, "running")
        inside, good = local(broker, odd.server), local(broker, one.server)
        async with asyncio.timeout(BOUND):
            calling = asyncio.create_task(inside.call("pour", {}))
            assert text(await good.call("add", {"a": 1, "b": 2})) == "3"
            with pytest.raises(Failed) as caught:
                await calling
        assert not caught.value.undelivered
        assert [tool.name for tool in await inside.tools()] == ["pour"]
        assert odd.describe()["attempts"] == 1


@pytest.mark.parametrize("id", [b"4711", b"null", b'"1"', b"1.0"])
async def test_over_http_an_answer_belongs_to_its_request_whatever_id_it_names(id: bytes) -> None:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        error = b'{"jsonrpc":"2.0","id":%b,"error":{"code":-32603,"message":"the database is locked"}}' % id
        writer.write(reply(200, error, "Content-Type: application/json"))

    broker = new_broker()
    async with upstream(plays(script)) as behind, kept(broker, entry(behind.url, wire="http")) as one:
        await becomes(one, "running")
        async with asyncio.timeout(BOUND):
            with pytest.raises(Failed, match="the database is locked"):
                await local(broker, one.server).call("pour", {})


@pytest.mark.parametrize("address", ["http://0.0.0.0:3001/messages?session=hush", "https://127.0.0.1/messages", "//evil.example/m"])
async def test_an_old_server_may_not_send_us_elsewhere_and_hears_why_at_once(address: str) -> None:
    """The address for messages that a stream names has to be on the same server (MCP 2024-11-05, HTTP with SSE)."""

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(head("text/event-stream") + f"event: endpoint\ndata: {address}\n\n".encode())
        await writer.drain()
        await asyncio.Event().wait()

    broker = new_broker()
    async with upstream(script) as behind, kept(broker, entry(behind.url, wire="sse")) as one:
        why = (await becomes(one, "waiting"))["why"]
        assert "another origin" in why and "/m" in why
        assert "hush" not in why
        assert {seen.method for seen in behind.seen} == {"GET"}


@pytest.mark.parametrize("refusal", [reply(429, b"", "Retry-After: 30"), reply(503), reply(403)])
async def test_a_refused_key_gives_way_to_another(tmp_path: Path, refusal: bytes) -> None:
    """The call itself hears nothing of it."""
    shown: list[str] = []

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.method == "POST" and b"tools/call" in seen.body:
            shown.append(seen.key())
            if len(shown) == 1:
                writer.write(refusal)
                return
            body = json.dumps(
                {"jsonrpc": "2.0", "id": json.loads(seen.body)["id"], "result": {"content": [{"type": "text", "text": "ok"}]}}
            )
            writer.write(reply(200, body.encode(), "Content-Type: application/json"))
            return
        await plays(lambda seen, writer: None)(seen, writer)

    broker = new_broker()
    async with upstream(script) as behind, kept(broker, entry(behind.url, wire="http", place="query:api_key"), ring(tmp_path)) as one:
        await becomes(one, "running")
        inside = local(broker, one.server)
        assert text(await inside.call("pour", {})) == "ok"
        assert len(set(shown)) == 2
        assert text(await inside.call("pour", {})) == "ok"
        assert shown.count(shown[0]) == 1


async def test_a_server_with_keys_is_not_asked_for_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would cost a key's turn; such a server is looked for when a call fails."""
    monkeypatch.setattr(module, "HEALTH_SECONDS", 0.01)
    broker = new_broker()
    async with (
        upstream(plays(somebody_elses)) as behind,
        kept(broker, entry(behind.url, wire="http", place="bearer"), ring(tmp_path)) as one,
    ):
        await becomes(one, "running")
        await local(broker, one.server).tools()
        await asyncio.sleep(0.1)
        assert not [seen for seen in behind.seen if b'"ping"' in seen.body]


async def test_when_no_key_is_left_a_call_says_so_and_may_be_repeated_elsewhere(tmp_path: Path) -> None:
    async def refuse(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(429, b"", "Retry-After: 600"))

    broker = new_broker()
    async with upstream(plays(refuse)) as behind, kept(broker, entry(behind.url, wire="http", place="bearer"), ring(tmp_path)) as one:
        await becomes(one, "running")
        inside = local(broker, one.server)
        with pytest.raises(Failed) as caught:
            await inside.call("pour", {})
        assert "HTTP 429" in caught.value.data["hint"]
        with pytest.raises(Failed) as caught:
            await inside.call("pour", {})
        assert "the first for 600 s" in caught.value.data["hint"]


async def test_a_server_that_does_not_answer_the_close_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "CLOSE_SECONDS", 0.1)

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.method == "DELETE":
            await asyncio.Event().wait()
        frame = json.loads(seen.body) if seen.body else {}
        if frame.get("method") == "initialize":
            hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
            body = json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": hello}).encode()
            writer.write(reply(200, body, "Content-Type: application/json", "Mcp-Session-Id: abc"))
        else:
            writer.write(reply(202))

    broker = new_broker()
    async with upstream(script) as behind:
        async with kept(broker, entry(behind.url, wire="http")) as one:
            await becomes(one, "running")
        assert [seen.method for seen in behind.seen].count("DELETE") == 1
