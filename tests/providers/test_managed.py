"""The room of the servers, in this process's own loop: who is made, kept, replaced and left, and what stands in its way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from plays import answer, initialize, request, welcome
from process_watch import PATIENCE

from mcp_endpoint.access.addresses import PROBE
from mcp_endpoint.core.broker import Broker
from mcp_endpoint.credentials.store import CredentialStore
from mcp_endpoint.errors import ConfigError, EndpointError
from mcp_endpoint.providers import managed as module
from mcp_endpoint.providers.entry import ServerEntry
from mcp_endpoint.providers.managed import ManagedServer, ManagedServers
from mcp_endpoint.settings.schema import EndpointSettings, Limits
from mcp_endpoint.settings.schema import Providers as Settings

SMALL = Path(__file__).parents[1] / "support" / "small_server.py"


class Quiet:
    def tell(self, event: str, shown: str, **fields: object) -> None:
        pass


class Far:
    """A server reached by URL, played: it has one tool, named by the last part of its address."""

    queued = 0
    quick = True

    def __init__(self, server: ServerEntry, broker: Broker, told: list[str]) -> None:
        self.server = server
        self.broker = broker
        self.told = told
        self.state = "off"
        self.party: Any = None
        self.may_stop = asyncio.Event()
        self.may_stop.set()

    async def start(self) -> None:
        self.told.append(f"start {self.server.url}")
        self.state = "starting"
        if self.quick:
            self.connect()

    def connect(self) -> None:
        self.state = "running"
        self.party = self.broker.attach_provider(self.server.endpoint, self.server.shown, self, server_id=self.server.label)

    def change_tools(self, server: ServerEntry) -> None:
        self.told.append(f"change {server.url}")
        self.server = server

    async def stop(self) -> None:
        await self.may_stop.wait()
        self.told.append(f"stop {self.server.url}")
        self.state = "off"
        if self.party is not None:
            self.broker.detach(self.party, 1001, "")

    def describe(self) -> dict[str, Any]:
        return {"state": self.state}

    def send(self, first: bytes | memoryview, second: bytes | memoryview = b"") -> None:
        frame = json.loads(b"".join((first, second)))
        tool = {"name": self.server.url.rpartition("/")[2], "inputSchema": {}}
        replies: dict[str, Callable[[Any], Any]] = {
            "initialize": lambda id: welcome(id, "far"),
            "tools/list": lambda id: answer(id, tools=[tool]),
            "tools/call": lambda id: answer(id, said=self.server.url),
        }
        reply = replies.get(frame.get("method"))
        if reply is not None:
            data = json.dumps(reply(frame["id"])).encode()
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: self.party.receive(self.party, data, loop.time(), True))

    def ping(self) -> None:
        pass

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)


class Device:
    """A device at an endpoint of the broker."""

    queued = 0

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.changes = 0
        self.party = broker.attach_consumer(f"signed:{name}", name, self)

    def send(self, first: bytes | memoryview, second: bytes | memoryview = b"") -> None:
        frame = json.loads(b"".join((first, second)))
        if "id" in frame:
            self.heard.put_nowait(frame)
        else:
            self.changes += 1

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)

    def ping(self) -> None:
        pass

    async def asks(self, frame: dict[str, Any]) -> dict[str, Any]:
        self.party.receive(self.party, json.dumps(frame).encode(), asyncio.get_running_loop().time(), True)
        return await asyncio.wait_for(self.heard.get(), PATIENCE)

    async def greets(self) -> None:
        assert "result" in await self.asks(initialize())

    async def names(self) -> set[str]:
        return {tool["name"] for tool in (await self.asks(request(2, "tools/list")))["result"]["tools"]}

    def leaves(self) -> None:
        self.broker.detach(self.party, 1000, "")


class Stage:
    """A room with its file, and what was asked of it."""

    def __init__(self, root: Path, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        self.file = root / "mcp.json"
        self.told: list[str] = []
        self.far: dict[str, Far] = {}
        self.broker = Broker(EndpointSettings(), Limits(), clock=loop.time, call_at=loop.call_at, epoch=time.time, watch=Quiet())
        self.room = ManagedServers(self.broker, Settings(file="mcp.json", **settings), root, {}, self.made, self.ring)
        self.missing = False

    def made(self, server: ServerEntry, ring: CredentialStore | None) -> ManagedServer:
        if self.missing:
            raise EndpointError("not installed", "未安装")
        far = self.far[server.name] = Far(server, self.broker, self.told)
        return far

    def ring(self, name: str) -> CredentialStore:
        raise ConfigError(f"there is no [credentials.{name}]", "没有")

    def writes(self, **urls: str | dict[str, Any]) -> None:
        servers = {name: {"url": f"http://{entry}"} if isinstance(entry, str) else entry for name, entry in urls.items()}
        self.file.write_text(json.dumps({"mcpServers": servers}))

    def server(self, name: str) -> dict[str, Any]:
        """What the room tells of one server."""
        return next(one for one in self.room.describe()["servers"] if one["name"] == name)

    def states(self) -> dict[str, str]:
        return {one["name"]: one["state"] for one in self.room.describe()["servers"]}

    async def until(self, true: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not true():  # noqa: ASYNC110 - the room tells nobody
                await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(root: Path, **urls: Any) -> AsyncIterator[Stage]:
    stage = Stage(root)
    stage.writes(**urls)
    await stage.room.start()
    try:
        yield stage
    finally:
        await asyncio.wait_for(stage.room.stop(), PATIENCE)
        assert not any(name.startswith("server:") for name in stage.broker.endpoints)


async def test_a_device_finds_the_servers_that_are_for_its_endpoint(tmp_path: Path) -> None:
    async with opened(tmp_path, a="x/add", b={"url": "http://x/sub", "endpoints": "shop"}) as stage:
        home, shop = Device(stage.broker, "home"), Device(stage.broker, "shop")
        await home.greets()
        await shop.greets()
        assert (await home.names(), await shop.names()) == ({"add"}, {"add", "sub"})
        described = stage.room.describe()
        assert [(one["name"], one["endpoints"], one["tools"], one["state"]) for one in described["servers"]] == [
            ("a", ["home", "shop"], ["add"], "running"),
            ("b", ["shop"], ["sub"], "running"),
        ]
        home.leaves()
        shop.leaves()
        assert [one["endpoints"] for one in stage.room.describe()["servers"]] == [[], []]
        assert set(stage.broker.endpoints) == {"server:a", "server:b"}
        assert not stage.room.routes


async def test_the_probe_of_check_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path, a="x/add") as stage:
        probe = Device(stage.broker, f"{PROBE}1")
        await probe.greets()
        assert await probe.names() == set()
        probe.leaves()


async def test_the_first_greeting_waits_for_a_server_that_is_about_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Far, "quick", False)
    async with opened(tmp_path, a="x/add") as stage:
        device = Device(stage.broker, "home")
        greeting = asyncio.create_task(device.greets())
        await stage.until(lambda: stage.far["a"].state == "starting")
        assert not greeting.done()
        stage.far["a"].connect()
        await greeting
        assert await device.names() == {"add"}
        device.leaves()


@pytest.mark.parametrize("how", ["waiting", "never"])
async def test_but_not_for_one_that_cannot_start_or_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(Far, "quick", False)
    monkeypatch.setattr(module, "SETTLING_SECONDS", 0.2 if how == "never" else 600.0)
    async with opened(tmp_path, a="x/add") as stage:
        device = Device(stage.broker, "home")
        greeting = asyncio.create_task(device.greets())
        await stage.until(lambda: stage.far["a"].state == "starting")
        if how == "waiting":
            stage.far["a"].state = "waiting"
        await asyncio.wait_for(greeting, PATIENCE)
        assert await device.names() == set()
        stage.far["a"].connect()
        await stage.until(lambda: device.changes)
        assert await device.names() == {"add"}
        device.leaves()


async def test_an_edit_touches_what_it_changed_and_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path, a="x/add", b="x/sub", c="x/mul") as stage:
        device = Device(stage.broker, "home")
        await device.greets()
        assert await device.names() == {"add", "sub", "mul"}
        stage.told.clear()
        first = stage.far["a"]
        stage.writes(a={"url": "http://x/add", "endpoints": ["*"], "tools": {"add": {"name": "plus"}}}, b="x/neg", d="x/div")
        await stage.until(lambda: len(stage.told) == 5)
        starts = ["start http://x/div", "start http://x/neg", "stop http://x/mul", "stop http://x/sub"]
        assert sorted(stage.told) == ["change http://x/add", *starts]
        assert stage.told.index("stop http://x/sub") < stage.told.index("start http://x/neg")
        assert stage.far["a"] is first
        await stage.until(lambda: device.changes)
        async with asyncio.timeout(PATIENCE):
            while await device.names() != {"add", "neg", "div"}:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        device.leaves()


async def test_of_several_quick_edits_only_the_last_is_started(tmp_path: Path) -> None:
    async with opened(tmp_path, a="x/one") as stage:
        await stage.until(lambda: stage.told == ["start http://x/one"])
        stage.far["a"].may_stop.clear()
        first = stage.far["a"]
        for url in ("x/two", "x/three"):
            before = stage.far["a"]
            stage.writes(a=url)
            await stage.until(lambda before=before: stage.far["a"] is not before)
        first.may_stop.set()
        await stage.until(lambda: stage.told[-1] == "start http://x/three")
        assert stage.told == ["start http://x/one", "stop http://x/one", "stop http://x/two", "start http://x/three"]


async def test_a_timeout_that_changes_takes_new_bridges_and_an_endpoint_that_is_taken_away_loses_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path, a="x/add") as stage:
        device = Device(stage.broker, "home")
        await device.greets()
        assert await device.names() == {"add"}
        (provider,) = device.party.endpoint.providers
        stage.writes(a={"url": "http://x/add", "timeout": 7})
        await stage.until(lambda: [one.call_seconds for one in device.party.endpoint.providers] == [7.0])
        assert provider not in device.party.endpoint.providers
        stage.writes(a={"url": "http://x/add", "timeout": 7, "endpoints": "shop"})
        await stage.until(lambda: not device.party.endpoint.providers)
        device.leaves()


async def test_replicas_need_the_same_endpoints(tmp_path: Path) -> None:
    pair = {"a": {"url": "http://x/add", "label": "pair"}, "b": {"url": "http://y/add", "label": "pair", "endpoints": "shop"}}
    async with opened(tmp_path, **pair) as stage:
        assert stage.states()["b"] == "error"
        assert 'same "endpoints"' in stage.server("b")["why"]
    pair["b"]["endpoints"] = "*"
    async with opened(tmp_path, **pair) as stage:
        device = Device(stage.broker, "home")
        await device.greets()
        assert await device.names() == {"add"}
        assert len(stage.broker.endpoints["server:pair"].providers) == 2
        device.leaves()


async def test_a_file_that_cannot_be_taken_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, a="x/add") as stage:
        await stage.until(lambda: stage.told == ["start http://x/add"])
        stage.missing = True
        stage.writes(b="x/sub")
        await stage.until(lambda: stage.room.describe()["problem"] == "未安装 / not installed")
        stage.missing = False
        stage.file.unlink()
        await stage.until(lambda: "cannot be read" in stage.room.describe()["problem"])
        if hasattr(os, "mkfifo"):
            os.mkfifo(stage.file)
            await stage.until(lambda: "not a regular file" in stage.room.describe()["problem"])
            stage.file.unlink()
        assert stage.told == ["start http://x/add"]
        stage.writes(a="x/add")
        await stage.until(lambda: not stage.room.describe()["problem"])
        assert stage.told == ["start http://x/add"]


async def test_an_entry_that_cannot_be_used_is_one_server_that_does_not_run(tmp_path: Path) -> None:
    nobodys_pool = {"command": sys.executable, "args": [str(SMALL)], "credentials": "none", "place": "env:KEY"}
    async with opened(tmp_path, good="x/add", unset={"command": "${NOBODY_SET_ME}"}, poor=nobodys_pool) as stage:
        await stage.until(lambda: stage.told == ["start http://x/add"])
        assert stage.states() | {"good": ""} == {"good": "", "unset": "error", "poor": "error"}
        assert "mcp.json:" in stage.server("unset")["why"] and "NOBODY_SET_ME" in stage.server("unset")["why"]
        assert "[credentials.none]" in stage.server("poor")["why"]
        assert stage.room.conditions()["unset"]["state"] == "error"
        assert stage.room.states()["error"] == 2
        assert not stage.room.describe()["problem"]
        device = Device(stage.broker, "home")
        await device.greets()
        assert await device.names() == {"add"}
        device.leaves()
        # A mistake in a later edit ends the server it is in and no other; the next edit brings it back.
        stage.writes(good="x/add", unset="x/sub")
        await stage.until(lambda: stage.told == ["start http://x/add", "start http://x/sub"])
        stage.writes(good="x/add", unset={"url": 3})
        await stage.until(lambda: stage.told[2:] == ["stop http://x/sub"])
        assert "url is a number, expected a text" in stage.server("unset")["why"]
        stage.writes(good="x/add", unset="x/sub")
        await stage.until(lambda: stage.told[3:] == ["start http://x/sub"])
        assert "error" not in stage.room.states()


async def test_one_that_was_given_up_begins_anew_when_the_file_is_saved(tmp_path: Path) -> None:
    async with opened(tmp_path, a="x/add", b="x/sub") as stage:
        await stage.until(lambda: len(stage.told) == 2)
        stage.far["a"].state = "stopped"
        stage.told.clear()
        stage.file.write_text(stage.file.read_text() + " ")
        await stage.until(lambda: stage.told == ["stop http://x/add", "start http://x/add"])


async def test_a_server_that_cannot_be_ended_or_begun_hurts_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: Far) -> None:
        if "bad" in self.server.url:
            raise RuntimeError("no")

    monkeypatch.setattr(Far, "start", fails)
    async with opened(tmp_path, a="x/bad") as stage:
        await stage.until(lambda: not stage.room._turns)
        assert stage.room.describe()["servers"][0]["state"] == "off"


async def test_a_process_is_described_with_what_it_costs(tmp_path: Path) -> None:
    async with opened(tmp_path, small={"command": sys.executable, "args": ["-I", "-S", str(SMALL)]}) as stage:
        await stage.until(lambda: stage.room.describe()["servers"][0].get("greeting") == "ready")
        await stage.until(lambda: stage.room.describe()["servers"][0]["tools"])
        found = stage.room.describe()["servers"][0]
        assert (found["wire"], found["serves"], found["tools"], found["program"]) == ("stdio", ["*"], ["who"], Path(sys.executable).name)
        assert ("memory_bytes" in found) is (sys.platform == "linux")


async def test_a_room_that_never_started_can_be_closed(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with pytest.raises(ConfigError):
        await stage.room.start()
    await stage.room.stop()


def states(stage: Stage) -> dict[str, list[str]]:
    """Endpoint → the states of its tools, as an operator sees them."""
    return {one["endpoint"]: [tool["state"] for tool in one["tools"]] for one in stage.broker.snapshot(detail=True)["endpoint_details"]}


async def test_a_server_that_went_away_is_down_at_every_endpoint_until_it_can_be_called_again(tmp_path: Path) -> None:
    async with opened(tmp_path, a="x/add") as stage:
        home, shop = Device(stage.broker, "home"), Device(stage.broker, "shop")
        for device in (home, shop):
            await device.greets()
            assert await device.names() == {"add"}
        assert states(stage) == {"home": ["ready"], "shop": ["ready"]}
        far = stage.far["a"]
        stage.broker.detach(far.party, 1006, "")
        assert states(stage) == {"home": ["down"], "shop": ["down"]}
        far.connect()
        assert states(stage) == {"home": ["initializing"], "shop": ["initializing"]}
        await stage.until(lambda: states(stage)["home"] == ["ready"])
        far.state = "waiting"
        assert stage.room.states() == {"waiting": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="processes of POSIX")
async def test_a_process_that_was_killed_is_not_ready_anywhere_and_its_end_stays_known(tmp_path: Path) -> None:
    async with opened(tmp_path, small={"command": sys.executable, "args": ["-I", "-S", str(SMALL)]}) as stage:
        home = Device(stage.broker, "home")
        await home.greets()
        assert await home.names() == {"who"}
        assert stage.room.conditions()["small"] | {"since": ""} == {
            "state": "running",
            "reason": "",
            "since": "",
            "wire": "stdio",
            "last_error": "",
        }
        os.killpg(stage.room.describe()["servers"][0]["pid"], signal.SIGKILL)
        await stage.until(lambda: states(stage)["home"] == ["down"])
        told = stage.room.conditions()["small"]
        assert told["state"] in ("waiting", "starting") and told["reason"] == told["last_error"] != ""
        assert abs(time.time() - datetime.fromisoformat(told["since"]).timestamp()) < PATIENCE
        await stage.until(lambda: states(stage)["home"] == ["ready"])
        again = stage.room.conditions()["small"]
        assert (again["state"], again["reason"], again["last_error"]) == ("running", "", told["last_error"])


async def test_of_the_servers_of_one_label_the_one_that_runs_speaks(tmp_path: Path) -> None:
    async with opened(tmp_path, a={"url": "http://x/add", "label": "x"}, b={"url": "http://y/add", "label": "x"}) as stage:
        await stage.until(lambda: len(stage.told) == 2)
        for one, other, seen in (("waiting", "running", "running"), ("running", "waiting", "running"), ("stopped", "waiting", "waiting")):
            stage.far["a"].state, stage.far["b"].state = one, other
            assert stage.room.conditions()["x"]["state"] == seen
        assert stage.room.states() == {"stopped": 1, "waiting": 1}
