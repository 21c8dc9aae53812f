"""Random lives of several endpoints: whatever devices and tools do to each other, in any order and at any time, the promises hold.

Every payload carries a mark of its endpoint and of who made it, so that a frame that went astray is found by whoever hears it. A life
ends with everybody gone, and then nothing may be left.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from mcp_endpoint.core.broker import Broker
from mcp_endpoint.core.endpoint import Endpoint
from mcp_endpoint.core.parties import Call, ClientRequest, Consumer, Parked, Provider, Waiting
from mcp_endpoint.core.taps import Tap
from mcp_endpoint.protocol.jsonrpc import Part
from mcp_endpoint.settings.schema import EndpointSettings, Limits

MARK = re.compile(r"<(E\d)\.([A-Z])(\d+)\.(\d+)>")  # endpoint, kind of who made it (D device, T tool, F forger), its number, a serial
XIAOZHI = "XiaozhiMCPEndpointClient"
IDS = [b"0", b"1", b"2", b"-1", b'"1"', b'""', b'"null"', b'"a"', b'"\\u0061"', b"9007199254740993"]
ASKS = {"sampling/createMessage": "sampling", "roots/list": "roots"}
WHO = st.integers(0, 1000)
GUESTS = st.sampled_from([(False, ""), (False, ""), (False, ""), (True, ""), (True, "a"), (True, "calc"), (True, "h")])
MORE = {
    "resources/read": '{"uri":"x:1","mark":"#"}',
    "resources/subscribe": '{"uri":"x:1","mark":"#"}',
    "resources/unsubscribe": '{"uri":"x:1","mark":"#"}',
    "resources/templates/list": '{"mark":"#"}',
    "prompts/list": '{"mark":"#"}',
    "prompts/get": '{"name":"p","mark":"#"}',
    "logging/setLevel": '{"level":"error","mark":"#"}',
    "completion/complete": '{"ref":{"name":"p"},"mark":"#"}',
}
OFFERED = {
    "resources/list": ("resources", "uri", "x:1"),
    "resources/templates/list": ("resourceTemplates", "uriTemplate", "x:{n}"),
    "prompts/list": ("prompts", "name", "p"),
}
DECLARED: dict[str, Any] = {"tools": {}, "resources": {"subscribe": True}, "prompts": {}, "logging": {}}
REPEATABLE = "t1"
CHARACTERS = st.sampled_from(["slow", "slow", "slow", "good", "good", "sleepy", "bare", "silent", "dying", "insisting", "odd", "garbled"])
ANSWERS_ALL = ("good", "bare", "insisting", "lost", "odd", "garbled")
BEFORE = (b"", b"\xef\xbb\xbf", b"Loading... ")
"""What a tool of odd spelling writes before its answers."""
SENSELESS = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"requestId":1}}'
NONSENSE = [b"garbage", SENSELESS, b"[]", b'{"jsonrpc":"2.0","id":null,"method":"m"}', b'{"jsonrpc":"2.0","id":[1],"method":"m"}']
NOISE = [b"noise\n", b"{}", b"[]", b'{"jsonrpc":"2.0","result":{}}', b'{"jsonrpc":"2.0","id":null}']
BOTH = frozenset({"sampling", "roots"})
FULL = 10**9


def key_of(id: bytes) -> tuple[type, Any]:
    """What two ids are equal by: type and decoded value."""
    value = json.loads(id)
    return type(value), value


class Asked:
    """One request of a device, as the device remembers it."""

    def __init__(self, id: bytes, method: str, mark: str, token: Any) -> None:
        self.id = id
        self.method = method
        self.mark = mark
        self.token = token
        self.open = True


class Listener(Tap):
    """Counts what it is told; nothing is kept, so that what a life leaves behind is the core's."""

    body_bytes = 50

    def __init__(self) -> None:
        self.calls = 0  # accepted ones that have ended
        self.frames: Counter[int] = Counter()  # to each consumer
        self.attached: set[int] = set()

    def answered(self, call: Call, first: Part, second: Part, now: float) -> None:
        assert call.consumer is not None
        self.calls += call.deadline > call.started  # else it was refused
        self.frames[id(call.consumer)] += 1

    def ended(self, call: Call, why: str, now: float) -> None:
        self.calls += 1

    def late(self, provider: Provider, number: int, data: bytes, now: float) -> None:
        assert id(provider) in self.attached

    def told(self, party: Provider | Consumer, direction: str, data: bytes, now: float) -> None:
        if direction == "out":
            self.frames[id(party)] += 1

    def linked(self, party: Provider | Consumer, event: str, code: int, reason: str, now: float) -> None:
        if event == "attached":
            self.attached.add(id(party))
            self.frames[id(party)] = 0
        else:
            self.attached.remove(id(party))


class Party:
    """A link and whoever is behind it."""

    kind = ""

    def __init__(self, world: Lives, endpoint: str, number: int) -> None:
        self.world = world
        self.endpoint = endpoint
        self.number = number
        self.serial = 0
        self.queued = 0
        self.frames = 0  # it has heard
        self.gone = False
        self.close_reason: tuple[int, str] | None = None
        self.party: Any = None

    def mark(self, kind: str = "") -> str:
        self.serial += 1
        return f"<{self.endpoint}.{kind or self.kind}{self.number}.{self.serial}>"

    def send(self, first: Any, second: Any = b"") -> None:
        self.world.broken = True
        self.frames += 1
        assert not self.gone, "a link that is gone was spoken to"
        data = bytes(first) + bytes(second)
        text = data.decode()
        for endpoint, kind, number, _ in MARK.findall(text):
            assert endpoint == self.endpoint, f"{self.endpoint} heard {text}"
            assert kind != "F", f"a forged frame was delivered: {text}"
            assert self.kind != "D" or kind != "D" or int(number) == self.number, f"device {self.number} heard another's: {text}"
        for shown in re.findall(r"shown-(E\d)", text):
            assert shown == self.endpoint
        raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        frame = json.loads(data)
        assert frame["jsonrpc"] == "2.0"
        assert "error" not in frame or "result" not in frame
        self.hears(frame, raw, data)
        self.world.broken = False

    def close(self, code: int, reason: str) -> None:
        self.close_reason = (code, reason)

    def ping(self) -> None:
        pass

    def says(self, frame: bytes | dict[str, Any]) -> None:
        data = frame if isinstance(frame, bytes) else json.dumps(frame, ensure_ascii=False).encode()
        self.party.receive(self.party, data, self.world.now, False)

    def hears(self, frame: dict[str, Any], raw: dict[str, msgspec.Raw], data: bytes) -> None:
        raise AssertionError


class Device(Party):
    """A consumer that asks with doubled ids, cancels, answers questions or does not, and checks all it hears."""

    kind = "D"

    def __init__(self, world: Lives, endpoint: str, number: int) -> None:
        super().__init__(world, endpoint, number)
        self.asked: dict[tuple[type, Any], list[Asked]] = {}
        self.blurred: dict[tuple[type, Any], int] = {}  # how many are open where it is not known which
        self.marks: dict[str, Asked] = {}
        self.tokens: dict[Any, Asked] = {}
        self.greeted = False
        self.capabilities: set[str] = set()
        self.in_process = False
        self.only = ""
        self.names: set[str] = set()
        self.nulls = 0  # answers with id null it has coming
        self.questions: dict[int, str] = {}
        self.bad = 0

    def open(self) -> int:
        """How many answers it has coming, besides those to frames that were none."""
        known = sum(request.open for key, requests in self.asked.items() if key not in self.blurred for request in requests)
        return known + sum(self.blurred.values())

    def asks(self, id: bytes, method: str, params: str, *, token: Any = None) -> None:
        """Say a request; `params` has a place for the mark."""
        mark = self.mark()
        request = Asked(id, method, mark, token)
        key = key_of(id)
        self.asked.setdefault(key, []).append(request)
        if key in self.blurred:
            self.blurred[key] += 1
        self.marks[mark] = request
        self.world.askers[mark] = self
        if token is not None:
            self.tokens[token] = request
        self.says(b'{"jsonrpc":"2.0","id":%b,"method":"%b","params":%b}' % (id, method.encode(), params.replace("#", mark).encode()))

    def cancels(self, id: bytes) -> None:
        """Say cancelled; of several open requests with that id the newest is meant."""
        key = key_of(id)
        if self.blurred.get(key):
            self.blurred[key] -= 1
        elif key not in self.blurred:
            for request in reversed(self.asked.get(key, [])):
                if request.open:
                    request.open = False
                    break
        self._clear(key)
        self.says(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%b}}' % id)

    def _clear(self, key: tuple[type, Any]) -> None:
        if self.blurred.get(key) == 0:
            del self.blurred[key]
            for request in self.asked[key]:
                request.open = False
        self.asked[key] = [request for request in self.asked.get(key, []) if request.open]

    def hears(self, frame: dict[str, Any], raw: dict[str, msgspec.Raw], data: bytes) -> None:
        if "method" in frame:
            self._hears_other(frame)
            return
        assert "id" in frame
        if frame["id"] is None:
            self.nulls -= 1
            assert self.nulls >= 0 and "error" in frame, f"nobody asked for {data!r}"
            return
        id = bytes(raw["id"])
        key = key_of(id)
        candidates = [request for request in self.asked.get(key, []) if request.open and request.id == id]
        assert candidates, f"nobody asked for {data!r}"
        marks = [self.marks["".join(found)] for found in re.findall(r"(<E\d\.D\d+\.\d+>)", data.decode())]
        named = marks[0] if marks else candidates[0] if len(self.asked[key]) == 1 else None
        if named is not None:
            assert named in candidates, f"answered twice, or after a cancel, or under another id: {data!r}"
            named.open = False
        if key in self.blurred:
            assert self.blurred[key] > 0, f"one answer too many: {data!r}"
            self.blurred[key] -= 1
        elif named is None:
            self.blurred[key] = sum(request.open for request in self.asked[key]) - 1
        if "error" in frame:
            error = frame["error"]
            if "data" in error:
                assert error["data"]["agent_id"] == f"shown-{self.endpoint}"
                assert error["code"] in (-32001, -32003, -32005, -32006, -32007, -32008, -32600, -32601, -32602)
        self.greeted = self.greeted or candidates[0].method == "initialize"
        if self.only and "result" in frame and "tools" in (frame["result"] or {}):
            assert all(tool["description"] == self.only for tool in frame["result"]["tools"]), f"not its label's: {data!r}"
        self._clear(key)

    def _hears_other(self, frame: dict[str, Any]) -> None:
        method = frame["method"]
        if "id" in frame:
            assert type(frame["id"]) is int and frame["id"] not in self.questions
            assert ASKS[method] in self.capabilities, "it was asked for what it never declared"
            assert self.open(), "it was asked by a tool it does not ask"
            self.questions[frame["id"]] = method
        elif method == "notifications/progress":
            request = self.tokens[frame["params"]["progressToken"]]
            assert request.open, "progress of a request that is over"
        elif method == "notifications/tools/list_changed" and "params" not in frame:
            assert self.greeted, "it was told of changes before it introduced itself"
        elif method == "notifications/cancelled":
            self.questions.pop(frame["params"]["requestId"], None)


class Tool(Party):
    """A provider of some character; it remembers what it was asked and answers when the play lets it."""

    kind = "T"

    def __init__(
        self, world: Lives, endpoint: str, number: int, character: str, server_id: str, name: str, tools: list[str], managed: bool
    ) -> None:
        super().__init__(world, endpoint, number)
        self.character = character
        self.managed = managed
        self.label = server_id or name
        self.name = name
        self.tools = tools
        self.todo: deque[tuple[int, str, Any]] = deque()
        self.heard_ids: set[int] = set()
        self.cancelled: set[int] = set()
        self.greeting = 0
        self.done: list[int] = []
        self.initializes = self.initializeds = 0
        self.questions: dict[str, bool] = {}

    def hears(self, frame: dict[str, Any], raw: dict[str, msgspec.Raw], data: bytes) -> None:
        assert b"\n" not in data and b"\r" not in data
        if "method" not in frame:
            if frame["id"] is not None:
                assert self.questions.pop(frame["id"]), f"answered a question nobody asked: {data!r}"
            return
        assert "params" not in frame or frame["params"] is not None
        if "id" not in frame:
            if frame["method"] == "notifications/initialized":
                self.initializeds += 1
                assert self.initializes == self.initializeds == 1, "initialized twice, or before initialize"
            elif frame["method"] == "notifications/cancelled":
                cancelled = frame["params"]["requestId"]
                assert cancelled in self.heard_ids and cancelled != self.greeting, f"not its to cancel: {data!r}"
                self.cancelled.add(cancelled)
                self.todo = deque(entry for entry in self.todo if entry[0] != cancelled or self.number % 2)
            return
        id = frame["id"]
        assert type(id) is int and 0 < id < 2**31
        assert id not in self.heard_ids, "a number was used twice"
        self.heard_ids.add(id)
        if frame["method"] == "initialize":
            self.greeting = id
            self.initializes += 1
            assert self.initializes == 1, "initialized a second time"
        params = frame.get("params") or {}
        asker = self.world.askers.get(params.get("mark", ""))
        if frame["method"] == "initialize":
            assert asker is None or not asker.in_process, "the initialize of an in-process consumer was carried"
        elif frame["method"] == "tools/call" and asker is not None:
            assert not asker.only or asker.only == self.label, "somebody who sees one label called another's tool"
            again = params["mark"] in self.world.delivered
            assert not again or params["name"] == REPEATABLE or params["mark"] in self.world.excused, "called twice"
            self.world.delivered.add(params["mark"])
        self.todo.append((id, frame["method"], frame.get("params")))

    @property
    def eager(self) -> bool:
        """Whether it answers what it has now without being told to; a slow one does so in handshakes only."""
        if self.character == "slow":
            return bool(self.todo) and self.todo[0][1] in ("initialize", "tools/list")
        return bool(self.todo) and self.character in ANSWERS_ALL

    def says(self, frame: bytes | dict[str, Any]) -> None:
        """One of odd spelling gives numbers back as texts or fractions, leaves `jsonrpc` out, or begins with what is no JSON."""
        if self.character == "odd" and isinstance(frame, dict) and isinstance(frame.get("id"), int) and "method" not in frame:
            id = (str(frame["id"]), float(frame["id"]), frame["id"])[self.serial % 3]
            odd = {name: value for name, value in (frame | {"id": id}).items() if name != "jsonrpc" or self.serial % 2}
            frame = BEFORE[self.serial % 3] + json.dumps(odd, ensure_ascii=False).encode()
        super().says(frame)

    def works(self, which: int = 0) -> None:
        """Answer one of the requests it has."""
        if not self.todo:
            return
        self.todo.rotate(-(which % len(self.todo)))
        id, method, params = self.todo.popleft()
        self.done.append(id)
        mark = self.mark()
        if self.character == "bare" and method in ("initialize", "tools/list"):
            self.says({"jsonrpc": "2.0", "id": id, "result": None, "error": {"code": -32601, "message": mark}})
        elif method == "initialize":
            info = {"name": self.name, "version": mark}
            result = {"protocolVersion": "2025-06-18", "capabilities": DECLARED, "serverInfo": info}
            self.says({"id": id, "jsonrpc": "2.0", "result": result})
        elif method == "tools/list":
            hints = {"readOnlyHint": True}
            tools = [
                {"name": name, "description": self.label, "inputSchema": {}, **({"annotations": hints} if name == REPEATABLE else {})}
                for name in self.tools
            ]
            self.says({"jsonrpc": "2.0", "result": {"tools": tools}, "id": id})
        elif self.character == "garbled":
            self.says(b'{"jsonrpc":"2.0","id":%d,"result":{"mark":"%b","mean":NaN}}' % (id, mark.encode()))
        elif method == "tools/call" and self.character == "insisting" and not self.initializes:
            self.world.excused.add((params or {}).get("mark", ""))
            self.says({"jsonrpc": "2.0", "id": id, "error": {"code": -32602, "message": mark}})
        elif method == "tools/call" and self.character == "lost":
            if self.managed:  # nobody else is believed
                self.world.excused.add((params or {}).get("mark", ""))
            told = {"delivered": False, "agent_id": f"shown-{self.endpoint}"}
            self.says({"jsonrpc": "2.0", "id": id, "error": {"code": -32001, "message": mark, "data": told}})
        elif method in OFFERED:
            member, key, name = OFFERED[method]
            self.says({"jsonrpc": "2.0", "id": id, "result": {member: [{key: name, "description": mark}]}})
        else:
            self.says({"jsonrpc": "2.0", "id": id, "result": {"mark": mark, "echo": (params or {}).get("mark")}})


class Timer:
    """What `call_at` gives."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then: Callable[[], None] | None = then

    def cancel(self) -> None:
        self.then = None


def left_over(*roots: object) -> list[object]:
    """Every call, queue entry or question that can still be reached from `roots` through the program's own objects."""
    found: list[object] = []
    seen: set[int] = set()
    stack: list[object] = list(roots)
    while stack:
        thing = stack.pop()
        if id(thing) in seen or isinstance(thing, (type, ModuleType, Party)):
            continue
        seen.add(id(thing))
        if isinstance(thing, (Call, Parked, ClientRequest, Waiting)):
            found.append(thing)
        if isinstance(thing, dict):
            stack += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set, frozenset, deque)):
            stack += thing
        elif type(thing).__module__.startswith("mcp_endpoint"):
            stack += vars(thing).values() if hasattr(thing, "__dict__") else ()
            stack += [
                getattr(thing, name) for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()) if hasattr(thing, name)
            ]
    return found


class Lives(RuleBasedStateMachine):
    """Three endpoints of one broker, on a clock that stands still between the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.devices: list[Device] = []
        self.tools: list[Tool] = []
        self.timers: list[tuple[float, int, Timer]] = []
        self.count = 0
        self.draining = False
        self.met: dict[int, Any] = {}  # every endpoint there ever was
        self.managed: list[str] = []  # managed servers at every endpoint
        self.open: set[str] = set()
        self.askers: dict[str, Device] = {}  # whose mark it is
        self.delivered: set[str] = set()  # the marks of calls some tool has heard
        self.excused: set[str] = set()  # and of those it said it had not run
        self.broken = False  # a promise was broken: the end of this life proves nothing more

    def _call_at(self, when: float, then: Callable[[], None]) -> Timer:
        self.count += 1
        timer = Timer(then)
        heapq.heappush(self.timers, (when, self.count, timer))
        return timer

    def tell(self, event: str, shown: str, **fields: object) -> None:
        assert re.fullmatch(r"shown-E\d", shown)
        json.dumps(fields)

    @initialize(
        greet=st.sampled_from(["consumer", "consumer", "endpoint"]),
        small=st.booleans(),
        tools=st.lists(CHARACTERS, max_size=3),
        devices=st.lists(st.booleans(), max_size=3),
        late=st.booleans(),
        managed=st.just([]) | st.lists(st.sampled_from(["slow", "good", "lost", "lost", "dying", "silent"]), max_size=3),
    )
    def begin(self, greet: Any, small: bool, tools: list[str], devices: list[bool], late: bool, managed: list[str]) -> None:
        bounds = {"in_flight_per_consumer": 4, "in_flight_per_endpoint": 9, "late_answers": 2, "tools_per_endpoint": 3} if small else {}
        self.broker = Broker(
            EndpointSettings(greet=greet),
            Limits(**bounds, list_page_bytes=150 if small else 2**18, queued_bytes_per_link=2**20),
            clock=lambda: self.now,
            call_at=self._call_at,
            epoch=lambda: 1.7e9,
            watch=self,
        )
        self.managed = managed
        self.broker.tap = self.listener = Listener()
        self.broker.on_open = self._opens
        self.broker.on_idle = self._idles
        # Many lives begin in the midst of one, so that the rules have something to stir.
        for number, character in enumerate(tools if late else []):
            self._tool_comes("E1", character, "", f"s{number}", ["t1", f"t{number}"])
        for polite in devices:
            self._device_comes("E1")
            if polite:
                self._introduce(self.devices[-1], "someone", "2025-11-25", BOTH, hurried=True)
        for number, character in enumerate([] if late else tools):
            self._tool_comes("E1", character, "", f"s{number}", ["t1", f"t{number}"])

    def _settle(self) -> None:
        """Let the eager tools answer until nobody has anything to do."""
        working = True
        while working:
            working = False
            for tool in list(self.tools):
                if tool.character == "dying" and tool.todo:
                    self._tool_goes(tool)
                elif tool.eager:
                    tool.works()
                    working = True

    def _wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and self.timers[0][0] <= end:
            when, _, timer = heapq.heappop(self.timers)
            if timer.then is not None:
                self.now = max(self.now, when)
                timer.then()
                self._settle()
        self.now = end

    # -- who comes and goes ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.devices) < 3 and not self.draining)
    @rule(endpoint=st.sampled_from(["E1", "E1", "E2", "E3"]), guest=GUESTS)
    def a_device_comes(self, endpoint: str, guest: tuple[bool, str]) -> None:
        self._device_comes(endpoint, *guest)

    def _device_comes(self, endpoint: str, in_process: bool = False, only: str = "") -> None:
        self.count += 1
        device = Device(self, endpoint, self.count)
        device.in_process, device.only = in_process, only
        self.devices.append(device)
        device.party = self.broker.attach_consumer(
            endpoint, f"shown-{endpoint}", device, in_process=in_process, only=only, ask_seconds=40.0 if in_process else None
        )
        self.met[id(device.party.endpoint)] = device.party.endpoint

    def _opens(self, endpoint: Endpoint) -> None:
        assert endpoint.name not in self.open
        self.open.add(endpoint.name)
        for character in self.managed:
            self._tool_comes(endpoint.name, character, "h", "house", ["t1", "t2"], managed=True)

    def _idles(self, endpoint: Endpoint) -> None:
        self.open.remove(endpoint.name)
        for tool in [tool for tool in self.tools if tool.managed and tool.endpoint == endpoint.name]:
            self._tool_goes(tool)

    @precondition(lambda self: self.managed and len(self.tools) < 5 and self.devices and not self.draining)
    @rule(who=WHO, character=st.sampled_from(["good", "lost", "slow"]))
    def one_more_managed_server_comes(self, who: int, character: str) -> None:
        self._tool_comes(self.devices[who % len(self.devices)].endpoint, character, "h", "house", ["t1", "t2"], managed=True)

    @precondition(lambda self: len(self.tools) < 4 and not self.draining)
    @rule(
        endpoint=st.sampled_from(["E1", "E1", "E1", "E2", "E3"]),
        character=CHARACTERS,
        server_id=st.sampled_from(["", "", "a", "b"]),
        name=st.sampled_from(["calc", "calc", "天气", ""]),
        tools=st.lists(st.sampled_from(["t1", "t2", "加", "x" * 70]), max_size=3, unique=True),
    )
    def a_tool_comes(self, endpoint: str, character: str, server_id: str, name: str, tools: list[str]) -> None:
        self._tool_comes(endpoint, character, server_id, name, tools)

    def _tool_comes(self, endpoint: str, character: str, server_id: str, name: str, tools: list[str], *, managed: bool = False) -> None:
        self.count += 1
        tool = Tool(self, endpoint, self.count, character, server_id, name, tools, managed)
        tool.party = self.broker.attach_provider(endpoint, f"shown-{endpoint}", tool, server_id=server_id, managed=managed)
        self.met[id(tool.party.endpoint)] = tool.party.endpoint
        self.tools.append(tool)
        self._settle()

    @precondition(lambda self: self.devices or self.tools)
    @rule(who=WHO)
    def somebody_goes(self, who: int) -> None:
        everybody: list[Any] = [*self.devices, *self.tools]
        self._goes(everybody[who % len(everybody)])
        self._settle()

    def _goes(self, party: Device | Tool) -> None:
        if party.gone:
            return
        if isinstance(party, Device):
            self._device_goes(party)
        else:
            self._tool_goes(party)

    def _device_goes(self, device: Device) -> None:
        self.devices.remove(device)
        device.gone = True
        mine = {mark for mark, request in device.marks.items() if request.open and key_of(request.id) not in device.blurred}
        self.broker.detach(device.party, 1001, "bye")
        for tool in self.tools:
            for id, _, params in tool.todo:
                forgotten = (params or {}).get("mark") in mine and id not in tool.cancelled and id != tool.greeting
                assert not forgotten or tool.queued, f"tool {tool.number} still works on {id} for a device that left"

    def _tool_goes(self, tool: Tool) -> None:
        self.tools.remove(tool)
        tool.gone = True
        self.broker.detach(tool.party, 1006, "")

    # -- what devices do -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.devices)
    @rule(
        who=WHO,
        name=st.sampled_from([XIAOZHI, "someone"]),
        version=st.sampled_from(["2024-11-05", "2025-11-25", "?"]),
        capabilities=st.sets(st.sampled_from(["sampling", "roots"])),
        hurried=st.booleans(),
    )
    def a_device_introduces_itself(self, who: int, name: str, version: str, capabilities: set[str], hurried: bool) -> None:
        self._introduce(self.devices[who % len(self.devices)], name, version, capabilities, hurried=hurried)

    def _introduce(self, device: Device, name: str, version: str, capabilities: Collection[str], *, hurried: bool) -> None:
        device.names.add(name)
        device.capabilities |= capabilities
        device.serial += 1
        declared = json.dumps({name: {} for name in capabilities})
        params = f'{{"protocolVersion":"{version}","capabilities":{declared},"clientInfo":{{"name":"{name}"}},"mark":"#"}}'
        device.asks(b"1%03d" % device.serial, "initialize", params)
        if hurried:
            device.says(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
            device.asks(b"2", "tools/list", "{}")
        self._settle()

    @precondition(lambda self: self.devices)
    @rule(
        who=WHO, frame=st.sampled_from(["notifications/initialized", "notifications/roots/list_changed", "hurry", "notifications/progress"])
    )
    def a_device_notifies(self, who: int, frame: str) -> None:
        device = self.devices[who % len(self.devices)]
        device.says({"jsonrpc": "2.0", "method": frame, "params": {"mark": device.mark("N")}})
        self._settle()

    @precondition(lambda self: self.devices)
    @rule(
        who=WHO,
        ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=4),
        what=st.sampled_from(["tools/list", "tools/list", "ping", "turn", "resources/list"]),
        params=st.sampled_from(['{"mark":"#"}', "null", "{}", '{"cursor":"1.1","mark":"#"}']),
    )
    def a_device_asks(self, who: int, ids: list[bytes], what: str, params: str) -> None:
        device = self.devices[who % len(self.devices)]
        for each in ids:
            device.asks(each, what, params)
        self._settle()

    @precondition(lambda self: self.devices)
    @rule(who=WHO, id=st.sampled_from(IDS), what=st.sampled_from(sorted(MORE)))
    def a_device_wants_more_than_tools(self, who: int, id: bytes, what: str) -> None:
        self.devices[who % len(self.devices)].asks(id, what, MORE[what])
        self._settle()

    def _calls(self, who: int, ids: list[bytes], name: str, token: bool) -> None:
        device = self.devices[who % len(self.devices)]
        for each in ids:
            device.serial += 1
            given = f"token {device.number} {device.serial}" if token else None
            meta = f',"_meta":{{"progressToken":"{given}"}}' if token else ""
            device.asks(each, "tools/call", f'{{"name":"{name}","mark":"#"{meta}}}', token=given)
        self._settle()

    @precondition(lambda self: self.devices)
    @rule(who=WHO, ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=4), token=st.booleans())
    def a_device_calls(self, who: int, ids: list[bytes], token: bool) -> None:
        self._calls(who, ids, "t1", token)

    @precondition(lambda self: self.devices)
    @rule(
        who=WHO,
        ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=3),
        name=st.sampled_from(["t1", "t2", "t2", "加", "calc__t1", "s1__t1", "a__t1", "b__t2", "h__t1", "h__t2", "nobody"]),
    )
    def a_device_calls_what_it_knows_or_not(self, who: int, ids: list[bytes], name: str) -> None:
        self._calls(who, ids, name, True)

    @precondition(lambda self: any(device.open() for device in self.devices))
    @rule(who=WHO, which=WHO, id=st.none() | st.sampled_from([*IDS, b"77", b"null", b"[]"]))
    def a_device_cancels(self, who: int, which: int, id: bytes | None) -> None:
        devices = [device for device in self.devices if device.open()]
        device = devices[who % len(devices)]
        if id is None:
            waiting = [request.id for requests in device.asked.values() for request in requests if request.method != "initialize"]
            id = waiting[which % len(waiting)] if waiting else b"77"
        if id in (b"null", b"[]"):
            device.says(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%b}}' % id)
        else:
            device.cancels(id)
        self._settle()

    @precondition(lambda self: any(device.questions for device in self.devices))
    @rule(who=WHO, refuses=st.booleans())
    def a_device_answers_a_question(self, who: int, refuses: bool) -> None:
        devices = [device for device in self.devices if device.questions]
        self._replies(devices[who % len(devices)], refuses)

    def _replies(self, device: Device, refuses: bool) -> None:
        id, _ = device.questions.popitem()
        mark = device.mark("A")
        device.says({"jsonrpc": "2.0", "id": id, **({"error": {"code": 1, "message": mark}} if refuses else {"result": {"mark": mark}})})
        self._settle()

    @precondition(lambda self: self.devices and self.tools)
    @rule(who=WHO, frame=st.sampled_from(NONSENSE), noise=st.sampled_from(NOISE), id=st.sampled_from([1, 2, 3, 99, "1", 1.0]))
    def somebody_talks_nonsense(self, who: int, frame: bytes, noise: bytes, id: Any) -> None:
        device, tool = self.devices[who % len(self.devices)], self.tools[who % len(self.tools)]
        if who % 3 == 0:
            device.bad += 1
            device.nulls += frame is not SENSELESS  # a notification is never answered
            device.says(frame)
            assert device.nulls == 0
            assert (device.close_reason is not None) == (device.bad >= 20)
        elif who % 3 == 1:
            tool.says(noise)
            assert tool.close_reason is None
        elif id not in device.questions:
            device.says({"jsonrpc": "2.0", "id": id, "result": {"mark": device.mark("F")}})

    # -- what tools do ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(tool.todo for tool in self.tools))
    @rule(who=WHO, which=WHO, all=st.booleans())
    def a_tool_answers_at_last(self, who: int, which: int, all: bool) -> None:
        tools = [tool for tool in self.tools if tool.todo]
        tool = tools[who % len(tools)]
        tool.works(which)
        while all and tool.todo:
            tool.works(which)
        self._settle()

    @precondition(lambda self: self.tools)
    @rule(who=WHO, how=st.sampled_from(["future", "other", "again", "zero", "string", "progress", "cancel", "both"]), number=WHO)
    def a_tool_forges(self, who: int, how: str, number: int) -> None:
        tool = self.tools[who % len(self.tools)]
        mark = tool.mark("F")
        id: Any = 10_000 + number
        if how == "other":
            others = {each for other in self.tools for each in other.heard_ids} - tool.heard_ids
            id = sorted(others)[number % len(others)] if others else id
        elif how == "again":
            id = tool.done[number % len(tool.done)] if tool.done else id
        elif how == "zero":
            id = -(number % 3)
        elif how == "string":
            id = f"n{number % 5}"
        if how == "progress":
            tokens = [token for device in self.devices for token in device.tokens]
            tool.says({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": id, "mark": mark}})
            for token in tokens:
                tool.says({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "mark": mark}})
        elif how == "cancel":
            tool.says({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number % 5, "mark": mark}})
        else:
            error = {"error": {"code": 1, "message": mark}} if how == "both" else {}
            tool.says({"jsonrpc": "2.0", "id": id, "result": {"mark": mark}, **error})
        self._settle()

    @precondition(lambda self: self.tools)
    @rule(
        who=WHO,
        method=st.sampled_from(
            [
                "notifications/tools/list_changed",
                "notifications/resources/list_changed",
                "notifications/resources/updated",
                "notifications/message",
                "weather",
            ]
        ),
        brought=st.lists(st.sampled_from(["t1", "t2", "new"]), max_size=3, unique=True),
    )
    def a_tool_notifies(self, who: int, method: str, brought: list[str]) -> None:
        tool = self.tools[who % len(self.tools)]
        if method == "notifications/tools/list_changed":
            tool.tools = brought
        tool.says({"jsonrpc": "2.0", "method": method, "params": {"uri": "x:1", "level": "info", "mark": tool.mark()}})
        self._settle()

    @precondition(lambda self: any(tool.todo for tool in self.tools))
    @rule(who=WHO, which=WHO)
    def a_tool_tells_its_progress(self, who: int, which: int) -> None:
        tools = [tool for tool in self.tools if tool.todo]
        tool = tools[who % len(tools)]
        id, _, params = tool.todo[which % len(tool.todo)]
        token = ((params or {}).get("_meta") or {}).get("progressToken")
        if token is not None:
            assert token == id
            tool.says({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "mark": tool.mark()}})

    @precondition(lambda self: self.tools)
    @rule(who=WHO, method=st.sampled_from(["ping", *ASKS, "odd/thing"]), twice=st.booleans(), reply=st.sampled_from(["yes", "no", "later"]))
    def a_tool_asks(self, who: int, method: str, twice: bool, reply: str) -> None:
        busy = [tool for tool in self.tools if tool.todo] or self.tools
        tool = busy[who % len(busy)]
        if tool.queued:
            return
        for _ in range(1 + twice):
            id = f"q{tool.number} {tool.serial}"
            tool.questions[id] = True
            tool.says({"jsonrpc": "2.0", "id": id, "method": method, "params": {"mark": tool.mark()}})
            assert method != "ping" or id not in tool.questions
        for device in self.devices:
            if device.questions and reply != "later":
                self._replies(device, reply == "no")
        self._settle()

    @precondition(lambda self: any(tool.questions for tool in self.tools))
    @rule(who=WHO)
    def a_tool_withdraws_its_question(self, who: int) -> None:
        tools = [tool for tool in self.tools if tool.questions]
        tool = tools[who % len(tools)]
        id, _ = tool.questions.popitem()
        tool.says({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id, "mark": tool.mark()}})

    # -- weather ---------------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.3, 1.0, 1.1, 2.5, 4.0, 5.0, 8.0, 11.0, 26.0]))
    def time_passes(self, seconds: float) -> None:
        self._wait(seconds)

    @precondition(lambda self: self.devices or self.tools)
    @rule(who=WHO, really=st.integers(0, 3))
    def somebody_stops_reading_or_goes_on(self, who: int, really: int) -> None:
        if really and not any(party.queued for party in (*self.devices, *self.tools)):
            return
        parties = [*self.devices, *self.tools]
        party = parties[who % len(parties)]
        party.queued = 0 if party.queued else FULL

    @precondition(lambda self: not self.draining and self.count > 25)
    @rule(really=st.integers(0, 9))
    def the_server_is_told_to_stop(self, really: int) -> None:
        if really == 0:
            self.draining = True
            self.broker.drain()
            self._settle()

    # -- what always holds -----------------------------------------------------------------------------------------------------

    @invariant()
    def what_is_owed_is_what_devices_wait_for(self) -> None:
        if not hasattr(self, "broker"):
            return
        assert self.broker.in_flight == sum(device.open() for device in self.devices)
        for name, endpoint in self.broker.endpoints.items():
            assert endpoint.ledger.in_flight == sum(device.open() for device in self.devices if device.endpoint == name)
        assert all(device.nulls == 0 for device in self.devices)
        assert self.open == {device.endpoint for device in self.devices}
        assert {tool.endpoint for tool in self.tools if tool.managed} <= self.open
        counters = self.broker.counters
        assert counters.answers <= counters.requests
        assert self.listener.calls + self.broker.in_flight == counters.requests
        assert all(device.frames == self.listener.frames[id(device.party)] for device in self.devices)
        json.dumps(self.broker.snapshot(detail=True))

    def teardown(self) -> None:
        if not hasattr(self, "broker") or self.broken:
            return
        for party in (*self.devices, *self.tools):
            party.queued = 0
        self._wait(700.0)
        for device in self.devices:
            if device.open():
                waiting = [request.method for requests in device.asked.values() for request in requests if request.open]
                assert XIAOZHI in device.names and device.open() <= waiting.count("tools/list"), "a request was never answered"
                ready = [tool for tool in self.tools if tool.endpoint == device.endpoint]
                assert not any(tool.character in ("good", "slow", "odd", "garbled") for tool in ready), "a list was held beside a tool"
        assert not any(tool.questions for tool in self.tools), "a question was never answered"
        if self.count % 2:
            self.broker.drain()
            self.broker.finish()
            self.what_is_owed_is_what_devices_wait_for()
            assert self.broker.in_flight == 0
            for tool in self.tools:
                while tool.todo and not self.broken:
                    tool.works()  # nobody waits for it any more
        everybody: list[Any] = [*self.devices, *self.tools] if self.count % 3 else [*self.tools, *self.devices]
        for party in everybody:
            self._goes(party)
        assert self.broker.in_flight == 0 and not self.broker.endpoints
        assert self.broker.providers == self.broker.consumers == 0
        assert self.listener.calls == self.broker.counters.requests and not self.listener.attached
        assert not left_over(*self.met.values())
        self._wait(700.0)
        assert not self.timers or all(timer.then is None for _, _, timer in self.timers)


PARTS = 3
"""The lives come in as many tests, so that each has its hard end and several cores share them."""


@pytest.mark.row("E31", "D10", "U8")
@pytest.mark.parametrize("part", range(PARTS))
def test_lives(part: int) -> None:
    lives = settings.get_profile("lives")
    machine = type(f"Lives{part}", (Lives,), {})
    if lives.derandomize:
        machine = seed(part)(machine)
    # Without hypothesis' own explanations: a life tells by itself where it went wrong, and finding more takes minutes.
    run_state_machine_as_test(
        machine,
        settings=settings(
            lives,
            max_examples=-(-lives.max_examples // PARTS),
            stateful_step_count=50,
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
        ),
    )
