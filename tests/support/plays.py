"""A stage for the heart: devices and tools say frames and hear frames, and time passes when the play says so.

play = Play()
tool, device = play.tool(), play.device()
device.says(request(7, "greet"))
tool.hears(request(1, "greet"))

A test that fails shows the last lines of its newest play (see tests/conftest.py).
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from mcp_endpoint.core.endpoint import Endpoint
from mcp_endpoint.core.parties import Counters
from mcp_endpoint.settings.schema import EndpointSettings, Limits


def request(id: Any, method: str, **params: Any) -> dict[str, Any]:
    frame = {"jsonrpc": "2.0", "id": id, "method": method}
    return {**frame, "params": params} if params else frame


def notification(method: str, **params: Any) -> dict[str, Any]:
    frame: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    return {**frame, "params": params} if params else frame


def answer(id: Any, **result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "result": result}


def failure(id: Any, code: int, message: str = "no") -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}


def call(id: Any, name: str, **arguments: Any) -> dict[str, Any]:
    return request(id, "tools/call", name=name, arguments=arguments)


def initialize(id: Any = 0, *, client: str = "someone", version: str = "2024-11-05", **capabilities: Any) -> dict[str, Any]:
    return request(id, "initialize", protocolVersion=version, capabilities=capabilities, clientInfo={"name": client, "version": "1"})


def welcome(id: Any, name: str = "calc", version: str = "2025-06-18", **capabilities: Any) -> dict[str, Any]:
    return answer(id, protocolVersion=version, capabilities=capabilities or {"tools": {}}, serverInfo={"name": name, "version": "1"})


def tool_named(name: str, description: str = "") -> dict[str, Any]:
    return {"name": name, "description": description or f"does {name}", "inputSchema": {"type": "object"}}


INITIALIZED = notification("notifications/initialized")


LINES = 40
"""Lines of a play that are kept."""
CHARACTERS = 300
"""Characters of a frame that are shown."""


class Actor:
    """One party of the play, and its link."""

    def __init__(self, play: Play, role: str = "party") -> None:
        self.play = play
        self.name = f"{role} {play.count(role)}"
        self.heard: deque[bytes] = deque()
        self.close_reason: tuple[int, str] | None = None
        self.pings = 0
        self.queued = 0
        self.party: Any = None

    # the link
    def send(self, first: Any, second: Any = b"") -> None:
        self.heard.append(bytes(first) + bytes(second))
        self.play.note(self, "<-", self.heard[-1])

    def close(self, code: int, reason: str) -> None:
        self.close_reason = (code, reason)
        self.play.note(self, "is closed:", f"{code} {reason}".encode())

    def ping(self) -> None:
        self.pings += 1

    # the play
    def says(self, *frames: Any) -> None:
        """Say frames: bytes as they are, anything else as compact JSON."""
        for frame in frames:
            data = frame if isinstance(frame, bytes) else json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode()
            self.play.note(self, "->", data)
            self.party.receive(self.party, data, self.play.now, False)

    def hears_bytes(self) -> bytes:
        assert self.heard, "heard nothing"
        return self.heard.popleft()

    def hear(self) -> Any:
        return json.loads(self.hears_bytes())

    def hears(self, *expected: Any) -> None:
        """Exactly these frames come next."""
        for frame in expected:
            if isinstance(frame, bytes):
                assert self.hears_bytes() == frame
            else:
                assert self.hear() == frame

    def hears_nothing(self) -> None:
        assert not self.heard, [bytes(frame) for frame in self.heard]

    def hears_error(self, id: Any, code: int, **data: Any) -> dict[str, Any]:
        """The next frame is one of our errors; gives its data."""
        frame = self.hear()
        assert frame["id"] == id and type(frame["id"]) is type(id), frame
        assert "result" not in frame
        assert frame["error"]["code"] == code, frame
        found: dict[str, Any] = frame["error"]["data"]
        assert found["source"] == "broker" and found["agent_id"] == self.play.endpoint.shown
        for name, value in data.items():
            assert found[name] == value, found
        return found

    def leaves(self, code: int = 1006, reason: str = "") -> None:
        self.play.note(self, "leaves:", f"{code} {reason}".encode())
        self.play.endpoint.detach(self.party, code, reason, self.play.now)

    # what a well-behaved tool does
    def is_greeted(self, name: str = "calc", tools: list[Any] | None = None, **capabilities: Any) -> None:
        """The endpoint greets this tool, and it answers with its tools."""
        greeting = self.hear()
        assert greeting["method"] == "initialize" and greeting["params"]["clientInfo"]["name"] == "mcp-endpoint-server", greeting
        self.says(welcome(greeting["id"], name, **capabilities))
        self.hears(INITIALIZED)
        self.lists(tools)

    def lists(self, tools: list[Any] | None = None) -> None:
        listing = self.hear()
        assert listing["method"] == "tools/list", listing
        self.says(answer(listing["id"], tools=[tool_named(tool) if isinstance(tool, str) else tool for tool in tools or []]))


class Play:
    """One endpoint and its parties, on a clock that stands still until `wait`."""

    newest: Play | None = None
    """The one that a failing test shows."""

    def __init__(self, settings: EndpointSettings | None = None, limits: Limits | None = None, **options: Any) -> None:
        Play.newest = self
        self.now = 1000.0
        self._lines: deque[tuple[float, str, str, bytes]] = deque(maxlen=LINES)
        self._roles: dict[str, int] = {}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.counters = Counters()
        self.endpoint = Endpoint(
            "agent:kitchen",
            "kitchen",
            settings or EndpointSettings(),
            limits or Limits(),
            counters=self.counters,
            watch=self,
            version="1",
            epoch=1_700_000_000.0,
            **options,
        )

    def count(self, role: str) -> int:
        """The number of a new party of this role."""
        self._roles[role] = self._roles.get(role, 0) + 1
        return self._roles[role]

    def note(self, actor: Actor, way: str, data: bytes) -> None:
        self._lines.append((self.now, actor.name, way, data))

    def transcript(self) -> str:
        """What was said last: when, who, `->` to the endpoint or `<-` from it."""
        return "\n".join(
            f"{now - 1000:8.2f} s  {name:10} {way} {data[:CHARACTERS].decode('utf-8', 'replace')}" for now, name, way, data in self._lines
        )

    def tell(self, event: str, shown: str, **fields: object) -> None:
        assert shown == "kitchen"
        self.told.append((event, fields))

    def tool(self, server_id: str = "", **options: Any) -> Actor:
        actor = Actor(self, "tool")
        actor.party = self.endpoint.attach_provider(actor, self.now, server_id=server_id, **options)
        return actor

    def device(self, **options: Any) -> Actor:
        actor = Actor(self, "device")
        actor.party = self.endpoint.attach_consumer(actor, self.now, **options)
        return actor

    def ready_device(self, client: str = "someone", **capabilities: Any) -> Actor:
        """A device that has been welcomed on an endpoint where somebody can answer at once."""
        device = self.device()
        device.says(initialize(client=client, **capabilities), INITIALIZED)
        assert "result" in device.hear()
        return device

    def merged(self, **tools: list[Any]) -> list[Actor]:
        """Several greeted tools, by server_id."""
        actors = [self.tool(server_id) for server_id in tools]
        for actor, (name, names) in zip(actors, tools.items(), strict=True):
            actor.is_greeted(name, names)
        return actors

    def wait(self, seconds: float) -> None:
        """Time passes, and the endpoint is woken whenever it asked to be."""
        end = self.now + seconds
        while self.endpoint.deadline() <= end:
            self.now = max(self.now, self.endpoint.deadline())
            self.endpoint.expire(self.now)
        self.now = end
