"""The room of managed servers: reads their file, runs them, and bridges them to the endpoints they serve.

Each label has an internal endpoint, `server:LABEL`; its servers are providers there (several with one label are replicas). An outer
endpoint gets a bridge to each label that serves it when its first consumer attaches, and loses it with the last. The file is checked
several times a second; an edit affects only the entries that changed. An invalid entry does not run and is shown in state `error`; an
unreadable file changes nothing.
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
from .entry import ServerEntry
from .mcp_json import Entries
from .process import usage
from .process.server import ProcessServer, sessions

LOOK_SECONDS: Final = 0.2
"""Interval at which the file is checked, so that an edit takes effect within a second, including a server's start."""
SETTLING_SECONDS: Final = 4.0
"""How long endpoints delay the initialize of a server that is being started; below their `own_initialize_seconds`."""
SETTLE_LOOK_SECONDS: Final = 0.02
"""Interval at which it is checked whether one has started."""


class ManagedServer(Protocol):
    """One managed server: a process (`process.server`) or a server reached by URL (`remote.server`)."""

    server: ServerEntry

    async def start(self) -> None:
        """Start it, without waiting until it is ready."""

    async def stop(self) -> None:
        """Stop it for good, within a few seconds."""

    def change_tools(self, server: ServerEntry) -> None:
        """Apply an entry that differs only in `tools` and `endpoints`."""

    def describe(self) -> dict[str, Any]:
        """Its status, ready for JSON, without secrets.

        `state` is `starting`, `running`, `waiting` (for the next attempt), `stopped` (given up until its entry is saved again) or `off`.
        An invalid entry has no server and the state `error`.
        """


def condition(kept: ManagedServer) -> dict[str, Any]:
    """The condition of a managed server: `state`, `reason`, `since` (UTC), `wire`, and `last_error`, which stays after recovery."""
    described = kept.describe()
    return {
        "state": described["state"],
        "reason": described.get("why") or described.get("why_bare") or "",
        "since": datetime.fromtimestamp(time.time() - described.get("seconds", 0.0), UTC).isoformat(timespec="seconds"),
        "wire": described.get("wire", kept.server.wire),
        "last_error": described.get("last_error", ""),
    }


class _InnerConsumer:
    """A consumer that stays at an internal endpoint, so that its servers are initialized and listed as soon as they attach."""

    queued = 0

    def __init__(self, broker: Broker, server: ServerEntry, clock: Callable[[], float]) -> None:
        self._broker = broker
        self._party = broker.attach_consumer(server.endpoint, server.shown, self, in_process=True)
        self._party.receive(self._party, jsonrpc.request(b"0", methods.INITIALIZE, msgspec.json.encode(hello({}))), clock(), True)
        self._party.receive(self._party, jsonrpc.notification(methods.INITIALIZED), clock(), True)

    def send(self, first: Part, second: Part = b"") -> None:
        """Ignore every frame."""

    def ping(self) -> None:
        """Nothing: it is part of the process."""

    def close(self, code: int, reason: str) -> None:
        """Nothing: only `leave` detaches it."""

    def leave(self) -> None:
        self._broker.detach(self._party, *GOING_AWAY)


class _Group:
    """The servers of one label: their endpoint, the outer endpoints they serve, and the bridges there."""

    def __init__(self, server: ServerEntry, keeper: _InnerConsumer, settles: float) -> None:
        self.server = server
        self.patterns: tuple[str, ...] = ()
        self.keeper = keeper
        self.settles = settles
        """Until then its first server may still be starting; 0 afterwards."""
        self.timeout: float | None = None
        self.bridges: dict[str, Bridge] = {}

    def serves(self, shown: str) -> bool:
        """Whether it serves the endpoint with this printable name."""
        return not shown.startswith(PROBE) and any(fnmatchcase(shown, pattern) for pattern in self.patterns)

    def part(self) -> None:
        """Close every bridge."""
        for bridge in self.bridges.values():
            bridge.close()
        self.bridges.clear()

    def leave(self) -> None:
        """Close everything for good."""
        for bridge in self.bridges.values():
            bridge.retire()
        self.bridges.clear()
        self.keeper.leave()


class _InvalidEntry(NamedTuple):
    """An invalid entry of the file."""

    why: str
    since: float

    def condition(self) -> dict[str, Any]:
        """As `condition` of a server."""
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds")
        return {"state": "error", "reason": self.why, "since": since, "wire": "", "last_error": self.why}


def _disturbs(before: ServerEntry, after: ServerEntry) -> bool:
    """Whether the change needs a restart: other endpoints and other tool names do not."""
    return replace(before, endpoints=None, tools={}) != replace(after, endpoints=None, tools={})


def _bilingual(error: EndpointError) -> str:
    """An error in both languages, with its place."""
    where = f"{error.place}: " if error.place else ""
    return f"{where}{error.zh} / {where}{error.en}"


class ManagedServers:
    """The room of managed servers; one per broker."""

    name = "providers"
    owed = 0

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        root: Path,
        environ: Mapping[str, str],
        upstream: Callable[[ServerEntry, CredentialStore | None], ManagedServer],
        rings: Callable[[str], CredentialStore],
    ) -> None:
        """A relative file is below `root`.

        `upstream` creates a server reached by URL, `rings` returns a key pool by name; both may raise EndpointError.
        """
        self._broker = broker
        self._settings = settings
        self._file = root / settings.file
        self._environ = environ
        self._upstream = upstream
        self._rings = rings
        self._loop = asyncio.get_running_loop()
        self._kept: dict[str, ManagedServer] = {}
        self._wrong: dict[str, _InvalidEntry] = {}
        self._groups: dict[str, _Group] = {}
        self._open: dict[str, str] = {}
        """Name → printable name of the endpoints that have consumers."""
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._problem = ""

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """No HTTP routes."""
        return ()

    # -- lifecycle of the room ---------------------------------------------------------------------------------------------

    def refuses_pages(self, request: object) -> bool:
        """False: it has no paths."""
        return False

    async def start(self) -> None:
        """Start all servers of the file. Raises ConfigError for an unreadable file, EndpointError for a missing package."""
        self._stamp = self._stamped()
        self._take(mcp_json.read(self._file, self._environ))
        self._broker.on_open = self._on_open
        self._broker.on_idle = self._on_idle
        self._watching = self._loop.create_task(self._watch())

    async def stop(self) -> None:
        """Stop all servers concurrently."""
        for task in (self._watching, self._settling):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        kept, self._kept = self._kept, {}
        for name, one in kept.items():
            self._turn(name, one, None)
        for group in self._groups.values():
            group.leave()
        self._groups.clear()
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
                except Exception as error:  # noqa: BLE001 - the boundary of the watching task; the next edit must be seen
                    self._problem = f"内部错误 / internal error: {type(error).__name__}"
                    logger.opt(exception=error).error("未能读取配置 / the file could not be loaded", file=self._file.name)

    def _stamped(self) -> tuple[int, int, int] | None:
        """Changes when the file does; None without a file."""
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read_again(self) -> None:
        try:
            self._take(mcp_json.read(self._file, self._environ))
        except EndpointError as error:
            self._problem = _bilingual(error)
            logger.error("配置有误，仍用原来的服务器 / not usable, the earlier servers keep running: {}", self._problem)
        else:
            self._problem = ""

    def _take(self, found: Entries) -> None:
        """Run exactly the servers of `found`. Raises EndpointError for a missing package, before anything is changed."""
        wrong = dict(found.wrong)
        patterns = self._patterns(found.servers, wrong)
        servers: dict[str, ServerEntry] = {}
        fresh: dict[str, ManagedServer] = {}
        for name, server in found.servers.items():
            kept = self._kept.get(name)
            if name not in wrong and (kept is None or kept.describe()["state"] == "stopped" or _disturbs(kept.server, server)):
                try:
                    fresh[name] = self._made(server)
                except ConfigError as error:
                    wrong[name] = error
            if name not in wrong:
                servers[name] = server
        self._log_wrong(wrong)
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
        for label in [label for label in self._groups if label not in labels]:
            self._groups.pop(label).leave()
        for server in servers.values():
            if server.label not in self._groups:
                settles = self._loop.time() + SETTLING_SECONDS
                self._groups[server.label] = _Group(server, _InnerConsumer(self._broker, server, self._loop.time), settles)
            group = self._groups[server.label]
            group.patterns = patterns[server.label]
            timeout = max((one.timeout for one in servers.values() if one.label == server.label and one.timeout is not None), default=None)
            if timeout != group.timeout:
                group.timeout = timeout
                group.part()
        self._span()
        if self._settling is None or self._settling.done():
            self._settling = self._loop.create_task(self._settle())
        logger.info(
            "服务器 / servers", file=self._file.name, servers=len(servers), started=len(fresh), ended=len(gone), not_usable=len(wrong)
        )

    def _log_wrong(self, wrong: Mapping[str, ConfigError]) -> None:
        """Remember invalid entries, and log the new ones."""
        before, self._wrong = self._wrong, {}
        for name, error in wrong.items():
            known = before.get(name)
            if known is None or known.why != _bilingual(error):
                known = _InvalidEntry(_bilingual(error), time.time())
                logger.error("该服务器配置有误，未运行 / this server cannot be used and does not run: {}", known.why, server=name)
            self._wrong[name] = known

    async def _settle(self) -> None:
        """Release the bridges of new labels as soon as one of their servers has listed its tools or failed to start."""
        while waiting := [group for group in self._groups.values() if group.settles]:
            for group in waiting:
                if self._loop.time() >= group.settles or self._settled(group):
                    group.settles = 0.0
                    for bridge in group.bridges.values():
                        bridge.release()
            await asyncio.sleep(SETTLE_LOOK_SECONDS)

    def _settled(self, group: _Group) -> bool:
        inner = self._broker.endpoints[group.server.endpoint]  # it exists, because its consumer is attached
        if any(provider.listed or provider.state is State.BARE for provider in inner.providers):
            return True
        kept = [kept for kept in self._kept.values() if kept.server.label == group.server.label]
        return all(one.describe()["state"] in ("waiting", "stopped") for one in kept)

    def _patterns(self, servers: Mapping[str, ServerEntry], wrong: dict[str, ConfigError]) -> dict[str, tuple[str, ...]]:
        """Label → endpoints it serves; a server that contradicts an earlier one of its label is added to `wrong`."""
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

    def _made(self, server: ServerEntry) -> ManagedServer:
        ring = self._rings(server.credentials) if server.credentials else None
        return ProcessServer(server, self._broker, ring) if server.command is not None else self._upstream(server, ring)

    def _turn(self, name: str, before: ManagedServer | None, after: ManagedServer | None) -> None:
        """Stop one server, then start the other, after earlier steps for this name."""
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

    def _on_open(self, endpoint: Endpoint) -> None:
        if not endpoint.name.startswith(INNER):
            self._open[endpoint.name] = endpoint.shown
            self._span_one(endpoint.name, endpoint.shown)

    def _on_idle(self, endpoint: Endpoint) -> None:
        if self._open.pop(endpoint.name, None) is not None:
            for group in self._groups.values():
                if bridge := group.bridges.pop(endpoint.name, None):
                    bridge.close()

    def _span(self) -> None:
        for name, shown in self._open.items():
            self._span_one(name, shown)

    def _span_one(self, name: str, shown: str) -> None:
        """Open and close the bridges of one outer endpoint as needed."""
        for label, group in self._groups.items():
            if not group.serves(shown):
                if bridge := group.bridges.pop(name, None):
                    bridge.retire()
            elif name not in group.bridges:
                group.bridges[name] = Bridge(
                    self._broker,
                    name,
                    shown,
                    inner=group.server.endpoint,
                    inner_shown=group.server.shown,
                    label=label,
                    call_seconds=group.timeout,
                    held=bool(group.settles),
                    clock=self._loop.time,
                    later=self._loop.call_soon,
                )

    def labels(self) -> dict[str, tuple[str, str]]:
        """Label → name and printable name of its internal endpoint."""
        return {label: (group.server.endpoint, group.server.shown) for label, group in self._groups.items()}

    def conditions(self) -> dict[str, dict[str, Any]]:
        """Label → `condition` of its server; of several, the best."""
        found: dict[str, dict[str, Any]] = {}
        for kept in self._kept.values():
            described = condition(kept)
            if found.get(kept.server.label, {}).get("state") != "running":
                found[kept.server.label] = described
        return {name: one.condition() for name, one in self._wrong.items()} | found

    def states(self) -> Mapping[str, int]:
        """State → number of servers."""
        return Counter([*(kept.describe()["state"] for kept in self._kept.values()), *("error" for _ in self._wrong)])

    # -- reports -----------------------------------------------------------------------------------------------------------

    def describe(self) -> Mapping[str, Any]:
        """Every server with its state, resource usage and last output."""
        used = usage.of_sessions(sessions([one for one in self._kept.values() if isinstance(one, ProcessServer)]))
        return {
            "file": str(self._settings.file),
            "problem": self._problem,
            "servers": [
                *(self._described(name, kept, used) for name, kept in self._kept.items()),
                *(self._described_wrong(name, one) for name, one in self._wrong.items()),
            ],
        }

    @staticmethod
    def _described_wrong(name: str, one: _InvalidEntry) -> dict[str, Any]:
        described = one.condition()
        nothing: dict[str, Any] = {"serves": [], "endpoints": [], "tools": []}
        return {"name": name, "label": name, "wire": "", "since": described["since"], "state": "error", "why": one.why, **nothing}

    def _described(self, name: str, kept: ManagedServer, used: Mapping[int, usage.Usage]) -> dict[str, Any]:
        group = self._groups[kept.server.label]
        inner = self._broker.endpoints.get(kept.server.endpoint)
        providers = [] if inner is None else inner.describe(self._loop.time())["tools"]
        return {
            "name": name,
            "label": kept.server.label,
            "wire": kept.server.wire,
            "since": condition(kept)["since"],
            "serves": list(group.patterns),
            "endpoints": [self._open[one] for one in group.bridges],
            "tools": sorted({function for provider in providers for function in provider["functions"]}),
            **(kept.describe(used.get(kept.session or 0)) if isinstance(kept, ProcessServer) else kept.describe()),
        }
