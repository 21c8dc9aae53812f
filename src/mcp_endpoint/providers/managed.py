"""The servers that the house brings itself: which there are, to which endpoints they go, and what changes when their file does.

Each label has an endpoint of its own, `server:LABEL`, where its servers are providers (several of them: replicas), and which a keeper
keeps alive. An endpoint of the outside gets a bridge to every label that is meant for it as soon as somebody asks there, and loses it
with the last who asks. The file is looked at several times a second; an edit touches the entries it changed and no other. An entry that
cannot be used does not run and is shown in state `error`; a file that cannot be read changes nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from loguru import logger
from msgspec.structs import replace
from starlette.routing import BaseRoute

from ..access.addresses import PROBE
from ..core.broker import INNER, Broker
from ..core.endpoint import Endpoint
from ..core.parties import State
from ..credentials.store import CredentialStore
from ..errors import GOING_AWAY, ConfigError, EndpointError
from ..protocol import jsonrpc, methods
from ..protocol.definitions import hello
from ..protocol.jsonrpc import Part
from ..settings.schema import Providers as Settings
from . import mcp_json
from .bridge import Bridge
from .mcp_json import Found, Server
from .process import usage
from .process.server import Managed, sessions

LOOK_SECONDS: Final = 0.2
"""How often the file is looked at, so that an edit is in force within a second, start of a server included."""
SETTLING_SECONDS: Final = 4.0
"""How long endpoints wait with the greeting of a server that is just being started; less than their `greeting_seconds`."""
SETTLE_LOOK_SECONDS: Final = 0.02
"""How often it is looked whether one has started."""


class Kept(Protocol):
    """One server in the house's care: a process (`stdio.Managed`) or a server reached by URL (`upstream.Upstream`)."""

    server: Server

    async def start(self) -> None:
        """Begin; does not wait for the server."""

    async def stop(self) -> None:
        """End, within a few seconds, for good."""

    def change_tools(self, server: Server) -> None:
        """Go on as `server`, which differs from the present one in nothing but `tools` and `endpoints`."""

    def describe(self) -> dict[str, Any]:
        """What an operator may know of it, ready for JSON; no secret is in it.

        Its `state` is `starting`, `running`, `waiting` for the next attempt, `stopped` (given up, until somebody starts it again) or `off`.
        An entry that cannot be used is kept by nobody and has the state `error`.
        """


def condition(kept: Kept) -> dict[str, Any]:
    """How a managed server is: `state`, `reason`, `since` when (UTC), `wire`, and its `last_error`, also once that is over."""
    told = kept.describe()
    return {
        "state": told["state"],
        "reason": told.get("why") or told.get("why_bare") or "",
        "since": datetime.fromtimestamp(time.time() - told.get("seconds", 0.0), UTC).isoformat(timespec="seconds"),
        "wire": told.get("wire", kept.server.wire),
        "last_error": told.get("last_error", ""),
    }


class _Keeper:
    """A consumer that wants nothing: while it is there, the servers of its endpoint are greeted as they come, and their tools known."""

    queued = 0

    def __init__(self, broker: Broker, server: Server, clock: Callable[[], float]) -> None:
        self._broker = broker
        self._party = broker.attach_consumer(server.endpoint, server.shown, self, in_process=True)
        self._party.receive(self._party, jsonrpc.request(b"0", methods.INITIALIZE, msgspec.json.encode(hello({}))), clock(), True)
        self._party.receive(self._party, jsonrpc.notification(methods.INITIALIZED), clock(), True)

    def send(self, first: Part, second: Part = b"") -> None:
        """Whatever it hears, it does not mind."""

    def ping(self) -> None:
        """It is always there."""

    def close(self, code: int, reason: str) -> None:
        """Only `leave` ends it."""

    def leave(self) -> None:
        self._broker.detach(self._party, *GOING_AWAY)


class _Roof:
    """What the servers of one label share: their endpoint, whom they serve, and the bridges there."""

    def __init__(self, server: Server, keeper: _Keeper, settles: float) -> None:
        self.server = server
        self.patterns: tuple[str, ...] = ()
        self.keeper = keeper
        self.settles = settles
        """Until then its first server may still be starting; 0 once that is over."""
        self.timeout: float | None = None
        self.bridges: dict[str, Bridge] = {}

    def serves(self, shown: str) -> bool:
        """Whether it is meant for the endpoint of this printable name."""
        return not shown.startswith(PROBE) and any(fnmatchcase(shown, pattern) for pattern in self.patterns)

    def part(self) -> None:
        """Take every bridge away."""
        for bridge in self.bridges.values():
            bridge.close()
        self.bridges.clear()

    def leave(self) -> None:
        """Take everything away for good."""
        for bridge in self.bridges.values():
            bridge.retire()
        self.bridges.clear()
        self.keeper.leave()


class _Wrong(NamedTuple):
    """An entry of the file that cannot be used."""

    why: str
    since: float

    def condition(self) -> dict[str, Any]:
        """As `condition` says it of a server."""
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds")
        return {"state": "error", "reason": self.why, "since": since, "wire": "", "last_error": self.why}


def _disturbs(before: Server, after: Server) -> bool:
    """Whether a server has to be started again: which endpoints it serves and how its tools are shown is no reason to."""
    return replace(before, endpoints=None, tools={}) != replace(after, endpoints=None, tools={})


def _said(error: EndpointError) -> str:
    """An error in both languages, with its place."""
    where = f"{error.place}: " if error.place else ""
    return f"{where}{error.zh} / {where}{error.en}"


class Providers:
    """The room of the servers; one per broker."""

    name = "providers"
    owed = 0

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        root: Path,
        environ: Mapping[str, str],
        upstream: Callable[[Server, CredentialStore | None], Kept],
        rings: Callable[[str], CredentialStore],
    ) -> None:
        """A relative file starts at `root`.

        `upstream` makes what keeps a server reached by URL, `rings` gives the keys of a pool by its name; both may raise EndpointError.
        """
        self._broker = broker
        self._settings = settings
        self._file = root / settings.file
        self._environ = environ
        self._upstream = upstream
        self._rings = rings
        self._loop = asyncio.get_running_loop()
        self._kept: dict[str, Kept] = {}
        self._wrong: dict[str, _Wrong] = {}
        self._roofs: dict[str, _Roof] = {}
        self._open: dict[str, str] = {}
        """Name → printable name of the endpoints where somebody asks."""
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._problem = ""

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """None: it answers nobody by itself."""
        return ()

    # -- the life of the room ----------------------------------------------------------------------------------------------

    def refuses_pages(self, request: object) -> bool:
        """It has no paths."""
        return False

    async def start(self) -> None:
        """Start every server of the file. Raises ConfigError for a file that cannot be read, EndpointError for a missing package."""
        self._stamp = self._stamped()
        self._take(mcp_json.read(self._file, self._environ))
        self._broker.on_open = self._opened
        self._broker.on_idle = self._idle
        self._watching = self._loop.create_task(self._watch())

    async def stop(self) -> None:
        """End them all, at the same time."""
        for task in (self._watching, self._settling):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        kept, self._kept = self._kept, {}
        for name, one in kept.items():
            self._turn(name, one, None)
        for roof in self._roofs.values():
            roof.leave()
        self._roofs.clear()
        if self._turns:
            await asyncio.wait(self._turns.values())

    # -- the file ----------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            stamp = self._stamped()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._read_again()
                except Exception as error:  # noqa: BLE001 - the next edit has to be seen too
                    self._problem = f"内部错误 / internal error: {type(error).__name__}"
                    logger.opt(exception=error).error("未能读取配置 / the file could not be taken", file=self._file.name)

    def _stamped(self) -> tuple[int, int, int] | None:
        """What changes when the file does; None while it is not there."""
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read_again(self) -> None:
        try:
            self._take(mcp_json.read(self._file, self._environ))
        except EndpointError as error:
            self._problem = _said(error)
            logger.error("配置有误，仍用原来的服务器 / not usable, the servers stay as they were: {}", self._problem)
        else:
            self._problem = ""

    def _take(self, found: Found) -> None:
        """Make it so: the servers of `found` and no others. Raises EndpointError for a missing package, before anything is done."""
        wrong = dict(found.wrong)
        patterns = self._patterns(found.servers, wrong)
        servers: dict[str, Server] = {}
        fresh: dict[str, Kept] = {}
        for name, server in found.servers.items():
            kept = self._kept.get(name)
            if name not in wrong and (kept is None or kept.describe()["state"] == "stopped" or _disturbs(kept.server, server)):
                try:
                    fresh[name] = self._made(server)
                except ConfigError as error:
                    wrong[name] = error
            if name not in wrong:
                servers[name] = server
        self._tell_wrong(wrong)
        gone = {name: kept for name, kept in self._kept.items() if name not in servers}
        for name, kept in gone.items():
            del self._kept[name]
            self._turn(name, kept, None)
        for name, kept in fresh.items():
            before = self._kept.get(name)
            self._kept[name] = kept
            self._turn(name, before, kept)
        self._kept = {name: self._kept[name] for name in servers}
        for name, kept in self._kept.items():
            if kept.server.tools != servers[name].tools:
                kept.change_tools(servers[name])
        labels = {server.label for server in servers.values()}
        for label in [label for label in self._roofs if label not in labels]:
            self._roofs.pop(label).leave()
        for server in servers.values():
            if server.label not in self._roofs:
                settles = self._loop.time() + SETTLING_SECONDS
                self._roofs[server.label] = _Roof(server, _Keeper(self._broker, server, self._loop.time), settles)
            roof = self._roofs[server.label]
            roof.patterns = patterns[server.label]
            timeout = max((one.timeout for one in servers.values() if one.label == server.label and one.timeout is not None), default=None)
            if timeout != roof.timeout:
                roof.timeout = timeout
                roof.part()
        self._span()
        if self._settling is None or self._settling.done():
            self._settling = self._loop.create_task(self._settle())
        logger.info(
            "服务器 / servers", file=self._file.name, servers=len(servers), started=len(fresh), ended=len(gone), not_usable=len(wrong)
        )

    def _tell_wrong(self, wrong: Mapping[str, ConfigError]) -> None:
        """Remember what cannot be used, and say what is new of it."""
        before, self._wrong = self._wrong, {}
        for name, error in wrong.items():
            known = before.get(name)
            if known is None or known.why != _said(error):
                known = _Wrong(_said(error), time.time())
                logger.error("该服务器配置有误，未运行 / this server cannot be used and does not run: {}", known.why, server=name)
            self._wrong[name] = known

    async def _settle(self) -> None:
        """Let the bridges of new labels go as soon as a server of theirs has told its tools, or has failed to start."""
        while waiting := [roof for roof in self._roofs.values() if roof.settles]:
            for roof in waiting:
                if self._loop.time() >= roof.settles or self._settled(roof):
                    roof.settles = 0.0
                    for bridge in roof.bridges.values():
                        bridge.release()
            await asyncio.sleep(SETTLE_LOOK_SECONDS)

    def _settled(self, roof: _Roof) -> bool:
        inner = self._broker.endpoints[roof.server.endpoint]  # its keeper is there
        if any(provider.listed or provider.state is State.BARE for provider in inner.providers):
            return True
        kept = [kept for kept in self._kept.values() if kept.server.label == roof.server.label]
        return all(one.describe()["state"] in ("waiting", "stopped") for one in kept)

    def _patterns(self, servers: Mapping[str, Server], wrong: dict[str, ConfigError]) -> dict[str, tuple[str, ...]]:
        """Label → the endpoints it serves; a server that differs from an earlier one of its label is `wrong`."""
        patterns: dict[str, tuple[str, ...]] = {}
        for name, server in servers.items():
            mine = self._settings.endpoints if server.endpoints is None else server.endpoints
            if patterns.setdefault(server.label, mine) != mine:
                wrong[name] = ConfigError(
                    f'mcpServers.{name}: servers with the label "{server.label}" need the same "endpoints"',
                    f'mcpServers.{name}：label 为 "{server.label}" 的服务器，"endpoints" 须相同',
                    place=str(self._file),
                )
        return patterns

    def _made(self, server: Server) -> Kept:
        ring = self._rings(server.credentials) if server.credentials else None
        return Managed(server, self._broker, ring) if server.command is not None else self._upstream(server, ring)

    def _turn(self, name: str, before: Kept | None, after: Kept | None) -> None:
        """End one and then begin the other, behind whatever is still being done for this name."""
        earlier = self._turns.get(name)

        async def turn() -> None:
            if earlier is not None:
                await asyncio.wait((earlier,))
            if before is not None:
                await before.stop()
            if after is not None and self._kept.get(name) is after:
                await after.start()

        task = self._turns[name] = self._loop.create_task(turn())
        task.add_done_callback(lambda done: self._turned(name, done))

    def _turned(self, name: str, done: asyncio.Task[None]) -> None:
        if self._turns.get(name) is done:
            del self._turns[name]
        if not done.cancelled() and done.exception() is not None:
            logger.opt(exception=done.exception()).error("未能启动或结束 / could not be started or ended", server=name)

    # -- endpoints ---------------------------------------------------------------------------------------------------------

    def _opened(self, endpoint: Endpoint) -> None:
        if not endpoint.name.startswith(INNER):
            self._open[endpoint.name] = endpoint.shown
            self._span_one(endpoint.name, endpoint.shown)

    def _idle(self, endpoint: Endpoint) -> None:
        if self._open.pop(endpoint.name, None) is not None:
            for roof in self._roofs.values():
                if bridge := roof.bridges.pop(endpoint.name, None):
                    bridge.close()

    def _span(self) -> None:
        for name, shown in self._open.items():
            self._span_one(name, shown)

    def _span_one(self, name: str, shown: str) -> None:
        """The bridges that one endpoint should have, and no others."""
        for label, roof in self._roofs.items():
            if not roof.serves(shown):
                if bridge := roof.bridges.pop(name, None):
                    bridge.retire()
            elif name not in roof.bridges:
                roof.bridges[name] = Bridge(
                    self._broker,
                    name,
                    shown,
                    inner=roof.server.endpoint,
                    inner_shown=roof.server.shown,
                    label=label,
                    call_seconds=roof.timeout,
                    held=bool(roof.settles),
                    clock=self._loop.time,
                    later=self._loop.call_soon,
                )

    def labels(self) -> dict[str, tuple[str, str]]:
        """Label → the endpoint of its servers, and how that may be printed."""
        return {label: (roof.server.endpoint, roof.server.shown) for label, roof in self._roofs.items()}

    def conditions(self) -> dict[str, dict[str, Any]]:
        """Label → the `condition` of its server; of several the best one's."""
        found: dict[str, dict[str, Any]] = {}
        for kept in self._kept.values():
            told = condition(kept)
            if found.get(kept.server.label, {}).get("state") != "running":
                found[kept.server.label] = told
        return {name: one.condition() for name, one in self._wrong.items()} | found

    def states(self) -> Mapping[str, int]:
        """State → how many servers are in it."""
        return Counter([*(kept.describe()["state"] for kept in self._kept.values()), *("error" for _ in self._wrong)])

    # -- looking in --------------------------------------------------------------------------------------------------------

    def describe(self) -> Mapping[str, Any]:
        """Every server with its state, what it costs and what it said last."""
        used = usage.of_sessions(sessions([one for one in self._kept.values() if isinstance(one, Managed)]))
        return {
            "file": str(self._settings.file),
            "problem": self._problem,
            "servers": [
                *(self._described(name, kept, used) for name, kept in self._kept.items()),
                *(self._described_wrong(name, one) for name, one in self._wrong.items()),
            ],
        }

    @staticmethod
    def _described_wrong(name: str, one: _Wrong) -> dict[str, Any]:
        told = one.condition()
        nothing: dict[str, Any] = {"serves": [], "endpoints": [], "tools": []}
        return {"name": name, "label": name, "wire": "", "since": told["since"], "state": "error", "why": one.why, **nothing}

    def _described(self, name: str, kept: Kept, used: Mapping[int, usage.Usage]) -> dict[str, Any]:
        roof = self._roofs[kept.server.label]
        inner = self._broker.endpoints.get(kept.server.endpoint)
        providers = [] if inner is None else inner.describe(self._loop.time())["tools"]
        return {
            "name": name,
            "label": kept.server.label,
            "wire": kept.server.wire,
            "since": condition(kept)["since"],
            "serves": list(roof.patterns),
            "endpoints": [self._open[one] for one in roof.bridges],
            "tools": sorted({function for provider in providers for function in provider["functions"]}),
            **(kept.describe(used.get(kept.session or 0)) if isinstance(kept, Managed) else kept.describe()),
        }
