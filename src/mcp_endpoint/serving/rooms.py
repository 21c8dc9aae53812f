"""Creates the rooms that a configuration asks for.

A room's module is imported only when the room is used: its packages may not be installed.
"""

from __future__ import annotations

import asyncio
import hmac
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from loguru import logger
from starlette.routing import BaseRoute

from ..access.addresses import without_secrets
from ..access.admission import Authenticator
from ..access.directory import Directory
from ..access.tokens import TokenCodec
from ..asgi import Bodies
from ..consumers.mcp_http.route import McpHttp
from ..consumers.mcp_http.stateless import Stateless
from ..consumers.mcp_http.streams import Store
from ..core.broker import INNER, Broker
from ..credentials.store import KEYS_SHOWN, CredentialStore, credential_store
from ..errors import ConfigError, EndpointError
from ..exchanges import Exchanges
from ..gateway.llm import environment_keys
from ..providers.entry import ServerEntry
from ..providers.managed import ManagedServer, ManagedServers, condition
from ..settings.schema import Config
from ..sockets.dial_out import DialOut, Keep
from ..web.room import Room

LOOK_SECONDS: Final = 0.5
"""Interval at which the key files are checked, so that an edit takes effect within a second."""


class Context(NamedTuple):
    """What the rooms of one server are built from."""

    config: Config
    broker: Broker
    codec: TokenCodec
    authenticator: Authenticator
    root: Path
    """Base folder of relative paths in the configuration."""
    environ: Mapping[str, str] = os.environ
    keep: Keep = lambda one, size: None
    """Counts what waits for a connection that a room has made (`Budget.keep`)."""
    report: Callable[[], Mapping[str, Any]] = dict
    """The content of `/stats` for the holder of the key, for the console."""
    directory: Directory | None = None
    """Who may use the console; None is the holder of the key."""


def open_rooms(context: Context, standalone: str = "") -> list[Room]:
    """The rooms of one server, in starting order. `standalone` names the only room of `serve --as NAME`.

    Raises EndpointError if a configured room needs packages that are not installed.
    """
    rings = Keys(context)
    limits = context.config.limits
    bodies = Bodies(limits.http_bodies, limits.body_seconds)
    recorder = [_recorder(context, rings)] if context.config.recorder.on else []
    exchanges = recorder[0].taps.exchanges if recorder else None
    if standalone in ("gateway", "llm"):
        return [*recorder, _gateway(context, rings, bodies, exchanges, standalone=True), rings]
    if standalone == "api":
        return [*recorder, _api(context, None, bodies, standalone=True)]
    # States signed with the server's key are valid in every process that has the key.
    secret = hmac.digest(context.config.server.key.encode(), b"requestState", "sha256") if context.config.server.key else b""
    store = Store.of(limits)
    legacy = context.config.server.legacy_sse
    rooms: list[Room] = [
        *recorder,
        McpHttp(context.broker, limits, context.authenticator, bodies, Stateless(limits, secret, store), store, legacy_sse=legacy),
    ]
    providers = None
    if context.config.providers.file:
        providers = ManagedServers(context.broker, context.config.providers, context.root, context.environ, _upstream(context), rings)
        rooms.append(providers)
    if context.config.gateway:
        rooms.append(_gateway(context, rings, bodies, exchanges))
    if context.config.api.secret:
        rooms.append(_api(context, providers, bodies))
    if context.config.credentials:
        rooms.append(rings)
    if context.config.dial:
        named = partial(_named, context.broker)
        rooms.append(DialOut(context.config, context.broker, named, context.environ, keep=context.keep))
    if context.config.console.on:
        rooms.append(_console(context, bodies, rooms))
    return rooms


class Keys:
    """The room of the key pools: each is loaded once, shared by its users, and reloaded when its files change."""

    name = "keys"
    owed = 0

    def __init__(self, context: Context) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._watching: asyncio.Task[None] | None = None
        self.rings: dict[str, CredentialStore] = {}

    def __call__(self, name: str) -> CredentialStore:
        """The store of `[credentials.NAME]`. Raises ConfigError if there is no such table, or no key."""
        if name not in self.rings:
            settings = self._context.config.credentials.get(name)
            if settings is None:
                raise ConfigError(f"there is no [credentials.{name}] in the configuration", f"配置中没有 [credentials.{name}]")
            self.rings[name] = credential_store(name, settings, self._context.root, self._context.environ, self._loop.time)
        return self.rings[name]

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """No HTTP routes."""
        return ()

    def refuses_pages(self, request: object) -> bool:
        """False: it has no paths."""
        return False

    async def start(self) -> None:
        """Start watching the files."""
        self._watching = self._loop.create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))

    def describe(self) -> Mapping[str, Any]:
        """Each pool: its numbers of keys by state, and its first keys one by one, without their secrets."""
        now = self._loop.time()
        return {name: {**ring.pool.counts(now)._asdict(), "keys": ring.figures(KEYS_SHOWN)} for name, ring in self.rings.items()}

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for ring in list(self.rings.values()):
                try:
                    await ring.look()
                except Exception:  # noqa: BLE001 - the boundary of the watching task; other pools go on
                    logger.exception("密钥文件未能检查 / the files of keys could not be looked at")


def _recorder(context: Context, rings: Keys) -> Any:
    """Create the recorder, which receives all events from now on. Its modules are imported here only."""
    config = context.config
    ours = (config.server.key, config.api.secret, *config.api.old_secrets, *environment_keys(context.environ))

    def known() -> set[str]:
        return {*ours, *(credential.secret for ring in rings.rings.values() for credential in ring.pool.credentials)}

    room = importlib.import_module(".recorder.room", PACKAGE)
    recorder = room.Recorder(
        config.recorder,
        config.limits,
        context.root / config.recorder.file,
        config.server.key.encode(),
        known,
        asyncio.get_running_loop().time,
        context.root / config.recorder.files if config.recorder.files else None,
    )
    context.broker.tap = recorder.taps
    return recorder


def _gateway(context: Context, rings: Keys, bodies: Bodies, exchanges: Exchanges | None, *, standalone: bool = False) -> Room:
    config = context.config
    proxy = imported(".gateway.proxy", "http")
    named = {gateway.credentials for gateway in config.gateway if gateway.credentials}
    pools = {name: rings(name) for name in sorted(named)}
    gateway: Room = proxy.Gateway(config, pools, context.broker, bodies, context.environ, exchanges, standalone=standalone)
    return gateway


def _console(context: Context, bodies: Bodies, rooms: Sequence[Room]) -> Room:
    """The console, with the pages that other rooms contribute (`pages`)."""
    from ..console.room import Console  # not loaded where it is off

    def make() -> Any:
        from ..console.calls import Calls
        from ..console.overview import Overview
        from ..console.shell import Shell

        config = context.config
        calls = Calls(context.broker, config.limits)
        overview = Overview(config, context.broker, context.codec, context.report)
        pages = overview.pages(calls)
        recorder: Any = next((one for one in rooms if one.name == "recorder"), None)
        live = None
        if recorder is None:
            pages += overview.without_records()
        else:
            from ..console.live import Live
            from ..console.records import Records

            records = Records(recorder.path, recorder.describe)
            pages += records.pages()
            live = Live(records, config.limits.console_streams)
            recorder.on_newest = live.wake
        for one in rooms:
            pages += getattr(one, "pages", ())
        return Shell(config, context.authenticator, bodies, calls, pages, context.directory, live)

    return Console(make)


def _api(context: Context, providers: ManagedServers | None, bodies: Bodies, *, standalone: bool = False) -> Room:
    config = context.config.api
    kept: list[ManagedServer] = []
    by_url: dict[str, tuple[str, str]] = {}
    addresses: dict[str, str] = {}
    for url in config.urls:
        name = without_secrets(url)
        if name in by_url:
            name = f"{name}#{len(by_url) + 1}"
        server = ServerEntry(name=name, label=name, wire="any", url=url)
        kept.append(_upstream(context)(server, None))
        addresses.setdefault(url, name)
        by_url[name] = server.endpoint, server.shown

    def where() -> dict[str, tuple[str, str]]:
        found = dict(by_url)
        if providers is not None:
            found |= providers.labels()
        return found | {name: _named(context.broker, name) for name in config.endpoints}

    def conditions() -> dict[str, dict[str, Any]]:
        found = {one.server.name: condition(one) for one in kept}
        return found if providers is None else found | providers.conditions()

    api = imported(".consumers.http_api.api", "api")
    room: Room = api.HttpApi(
        context.broker, context.config, context.root, bodies, where, kept, addresses, conditions, standalone=standalone
    )
    return room


def _named(broker: Broker, shown: str) -> tuple[str, str]:
    """Name and printable name of the endpoint printed as `shown`: of the open one, else of the agent with that id."""
    found = next((one for one in broker.endpoints.values() if one.shown == shown and not one.name.startswith(INNER)), None)
    return (f"agent:{shown}" if found is None else found.name), shown


def _upstream(context: Context) -> Callable[[ServerEntry, CredentialStore | None], ManagedServer]:
    """Returns a function that creates a server reached by URL; its module is imported on first use."""

    def make(server: ServerEntry, ring: CredentialStore | None) -> ManagedServer:
        kept: ManagedServer = imported(".providers.remote.server", "http").RemoteServer(server, context.broker, ring)
        return kept

    return make


PACKAGE: Final = __name__.partition(".")[0]


def imported(module: str, extra: str) -> Any:
    """Import a module that needs the optional packages `extra`.

    Raises EndpointError if they are not installed.
    """
    try:
        return importlib.import_module(module, PACKAGE)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == PACKAGE:
            raise
        command = f"pip install 'mcp-endpoint-server[{extra}]'"
        raise EndpointError(
            f"the package {error.name} is not installed: {command} (in a checkout: pip install -e '.[{extra}]')",
            f"未安装软件包 {error.name}：请运行 {command}（源码目录中：pip install -e '.[{extra}]'）",
        ) from error
