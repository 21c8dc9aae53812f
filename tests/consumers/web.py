"""A server in this loop, a tool made of Python at one of its endpoints, and clients that speak to it over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from running import BOUND, KEY, running

from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.consumers.mcp_http.route import McpHttp
from mcp_endpoint.core.broker import Broker
from mcp_endpoint.core.parties import Provider
from mcp_endpoint.serving.server import DrainingServer
from mcp_endpoint.settings.schema import Config, EndpointSettings, Limits, Security
from mcp_endpoint.settings.schema import Server as Settings

CODEC = TokenCodec(KEY)
TOKEN = CODEC.make_signed("home")
OTHER = CODEC.make_signed("away")
JSON = "application/json"
BOTH = "application/json, text/event-stream"
EVENTS = "text/event-stream"


class Tool:
    """A provider whose link is a list: it greets, lists what it is given, and leaves calls to the test."""

    def __init__(self, broker: Broker, *names: str, endpoint: str = "home", label: str = "desk") -> None:
        self.names = names or ("echo",)
        self.label = label
        self.schema: dict[str, Any] = {"type": "object"}
        self.heard: list[dict[str, Any]] = []
        self.news = asyncio.Event()
        self.answers: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda frame: None
        self.broker = broker
        self.queued = 0
        self.provider: Provider = broker.attach_provider(f"signed:{endpoint}", endpoint, self, server_id=label)

    def ping(self) -> None:
        """It lives."""

    def close(self, code: int, reason: str) -> None:
        """The endpoint has had enough of it."""

    def leave(self) -> None:
        """It goes."""
        self.broker.detach(self.provider, 1000, "done")

    def send(self, first: bytes | memoryview, second: bytes | memoryview = b"") -> None:
        frame = json.loads(b"".join((first, second)))
        self.heard.append(frame)
        asyncio.get_running_loop().call_soon(self._react, frame)

    def _react(self, frame: dict[str, Any]) -> None:
        result: dict[str, Any] | None = None
        match frame.get("method"):
            case "initialize":
                info = {"name": self.label, "version": "1"}
                result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": True}}, "serverInfo": info}
            case "tools/list":
                result = {"tools": [{"name": name, "inputSchema": self.schema} for name in self.names]}
            case "ping":
                result = {}
            case _:
                result = self.answers(frame)
        if result is not None:
            self.say({"id": frame["id"], "result": result})
        self.news.set()

    def say(self, frame: dict[str, Any]) -> None:
        """Say one frame, of any kind."""
        text = json.dumps({"jsonrpc": "2.0"} | frame)
        self.provider.receive(self.provider, text.encode(), asyncio.get_running_loop().time(), True)

    async def hears(self, method: str) -> dict[str, Any]:
        """The newest frame of this method, once there is one."""
        async with asyncio.timeout(BOUND):
            while not (found := [frame for frame in self.heard if frame.get("method") == method]):
                self.news.clear()
                await self.news.wait()
        return found[-1]

    async def answered(self, id: int) -> dict[str, Any]:
        """What was answered to its own request `id`."""
        async with asyncio.timeout(BOUND):
            while not (found := [frame for frame in self.heard if frame.get("id") == id and "method" not in frame]):
                self.news.clear()
                await self.news.wait()
        return found[0]


def text(said: str) -> dict[str, Any]:
    """The result of a tool that says this."""
    return {"content": [{"type": "text", "text": said}]}


class Stream:
    """Events as they come, each with its id."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.ids: list[str] = []
        self.comments = 0
        self._lines = response.aiter_lines()

    async def event(self) -> str | None:
        """The data of the next event, "" for a priming one, None at the end."""
        data: str | None = None
        async with asyncio.timeout(BOUND):
            async for line in self._lines:
                if line.startswith("id: "):
                    self.ids.append(line[4:])
                elif line.startswith("data:"):
                    data = line[5:].strip()
                elif line.startswith(":"):
                    self.comments += 1
                elif not line and data is not None:
                    return data
        return None

    async def frame(self) -> Any:
        """The next event that has data, as JSON."""
        while (data := await self.event()) == "":
            pass
        assert data is not None, "the stream ended"
        return json.loads(data)


class Web:
    """One server, and a client of it."""

    def __init__(self, server: DrainingServer, client: httpx2.AsyncClient) -> None:
        self.server = server
        self.broker: Broker = server._broker
        self.client = client
        self.room = next(room for room in server._rooms if isinstance(room, McpHttp))

    @property
    def sessions(self) -> int:
        """How many there are."""
        return len(self.room.sessions)

    async def post(
        self, body: Any, *, path: str = "/mcp", session: str = "", accept: str = JSON, token: str = TOKEN, **headers: str
    ) -> httpx2.Response:
        """One POST of JSON, or of the bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=content, headers=self.headers(session, accept, token, headers))

    @staticmethod
    def headers(session: str, accept: str, token: str, more: Mapping[str, str]) -> dict[str, str]:
        """The headers of a client."""
        named = {"content-type": JSON, "accept": accept, "authorization": f"Bearer {token}"}
        if session:
            named["mcp-session-id"] = session
        return named | {name.replace("_", "-"): value for name, value in more.items()}

    @asynccontextmanager
    async def stream(
        self, body: Any = None, *, path: str = "/mcp", session: str, accept: str = BOTH, token: str = TOKEN, **headers: str
    ) -> AsyncIterator[Stream]:
        """A POST, or a GET without a body, whose answer is read as events."""
        method = "GET" if body is None else "POST"
        content = None if body is None else json.dumps(body).encode()
        async with self.client.stream(method, path, content=content, headers=self.headers(session, accept, token, headers)) as response:
            yield Stream(response)

    async def begin(self, version: str = "2025-11-25", capabilities: Any = None, **more: Any) -> str:
        """A session, initialised."""
        about = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": {"name": "test", "version": "1"}}
        answer = await self.post(request(0, "initialize", about), **more)
        assert answer.status_code == 200, answer.text
        assert answer.json()["result"]["protocolVersion"] == version
        session = str(answer.headers["mcp-session-id"])
        assert (await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, session=session, **more)).status_code == 202
        return session


def request(id: Any, method: str, params: Any = None) -> dict[str, Any]:
    """A request."""
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}


def call(id: Any, name: str = "echo", meta: Any = None, **arguments: Any) -> dict[str, Any]:
    """A tool call."""
    params: dict[str, Any] = {"name": name, "arguments": arguments}
    return request(id, "tools/call", params | ({"_meta": meta} if meta else {}))


@asynccontextmanager
async def served(
    limits: Mapping[str, Any] | None = None,
    security: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    endpoint: Mapping[str, Any] | None = None,
) -> AsyncIterator[Web]:
    """A server, stopped the orderly way at the end."""
    config = Config(
        limits=Limits(**(limits or {})),
        security=Security(**(security or {})),
        server=Settings(key=KEY, **(settings or {})),
        endpoint=EndpointSettings(**(endpoint or {})),
    )
    async with (
        running(config) as server,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=BOUND, trust_env=False) as client,
    ):
        yield Web(server, client)
