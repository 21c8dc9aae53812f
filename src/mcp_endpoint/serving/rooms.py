"""Which rooms a configuration opens beside the WebSocket links.

A room is imported only when it is opened: what it needs may not be installed.
"""

from __future__ import annotations

import asyncio
import hmac
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from loguru import logger
from starlette.routing import BaseRoute

from ..access.addresses import without_secrets
from ..access.admission import Porter
from ..access.tokens import Doors
from ..asgi import Bodies
from ..consumers.mcp_http.route import McpHttp
from ..consumers.mcp_http.stateless import Stateless
from ..consumers.mcp_http.streams import Store
from ..core.broker import INNER, Broker
from ..credentials.store import KEYS_SHOWN, Keyring, keyring
from ..errors import ConfigError, EndpointError
from ..providers.managed import Kept, Providers, condition
from ..providers.mcp_json import Server
from ..settings.schema import Config
from ..sockets.dial_out import DialOut
from ..web.room import Room

LOOK_SECONDS: Final = 0.5
"""How often the files of keys are looked at, so that an edit is in force within a second."""


class House(NamedTuple):
    """What rooms are built from; one per server."""

    config: Config
    broker: Broker
    doors: Doors
    porter: Porter
    root: Path
    """The folder that relative paths of the configuration start at."""
    environ: Mapping[str, str] = os.environ


def opened(house: House, alone: str = "") -> list[Room]:
    """The rooms of one server, in the order in which they start. `alone` is the one room of `serve --as NAME`.

    Raises EndpointError when one is configured whose packages are not installed.
    """
    rings = Keys(house)
    limits = house.config.limits
    bodies = Bodies(limits.http_bodies, limits.body_seconds)
    if alone == "gateway":
        return [_gateway(house, rings, bodies, alone=True), rings]
    if alone == "api":
        return [_api(house, None, bodies, alone=True)]
    # States signed with the server's own key are good for every process that has it.
    secret = hmac.digest(house.config.server.key.encode(), b"requestState", "sha256") if house.config.server.key else b""
    store = Store.of(limits)
    legacy = house.config.server.legacy_sse
    rooms: list[Room] = [McpHttp(house.broker, limits, house.porter, bodies, Stateless(limits, secret, store), store, legacy_sse=legacy)]
    providers = None
    if house.config.providers.file:
        providers = Providers(house.broker, house.config.providers, house.root, house.environ, _upstream(house), rings)
        rooms.append(providers)
    if house.config.gateway:
        rooms.append(_gateway(house, rings, bodies))
    if house.config.api.secret:
        rooms.append(_api(house, providers, bodies))
    if house.config.credentials:
        rooms.append(rings)
    if house.config.dial:
        rooms.append(DialOut(house.config, house.broker, lambda name: _named(house.broker, name), house.environ))
    return rooms


class Keys:
    """The room of all pools of keys: each is read once, shared by whoever draws from it, and watched for edits of its files."""

    name = "keys"
    owed = 0

    def __init__(self, house: House) -> None:
        self._house = house
        self._loop = asyncio.get_running_loop()
        self._watching: asyncio.Task[None] | None = None
        self.rings: dict[str, Keyring] = {}

    def __call__(self, name: str) -> Keyring:
        """The keys of `[credentials.NAME]`. Raises ConfigError where there is no such table, or no key."""
        if name not in self.rings:
            settings = self._house.config.credentials.get(name)
            if settings is None:
                raise ConfigError(f"there is no [credentials.{name}] in the configuration", f"配置中没有 [credentials.{name}]")
            self.rings[name] = keyring(name, settings, self._house.root, self._house.environ, self._loop.time)
        return self.rings[name]

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """None: keys are for requests of this server only."""
        return ()

    def refuses_pages(self, request: object) -> bool:
        """It has no paths."""
        return False

    async def start(self) -> None:
        """Begin to watch the files."""
        self._watching = self._loop.create_task(self._watch())

    async def stop(self) -> None:
        """Watch no longer."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))

    def describe(self) -> Mapping[str, Any]:
        """Each pool: how many keys it has, and the first of them one by one, by what may be shown of them."""
        now = self._loop.time()
        return {name: {**ring.pool.counts(now)._asdict(), "keys": ring.figures(KEYS_SHOWN)} for name, ring in self.rings.items()}

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for ring in list(self.rings.values()):
                try:
                    await ring.look()
                except Exception:  # noqa: BLE001 - the other pools are watched on
                    logger.exception("密钥文件未能检查 / the files of keys could not be looked at")


def _gateway(house: House, rings: Keys, bodies: Bodies, *, alone: bool = False) -> Room:
    config = house.config
    proxy = imported(".gateway.proxy", "http")
    named = {gateway.credentials for gateway in config.gateway if gateway.credentials}
    gateway: Room = proxy.Gateway(config, {name: rings(name) for name in sorted(named)}, house.broker, bodies, alone=alone)
    return gateway


def _api(house: House, providers: Providers | None, bodies: Bodies, *, alone: bool = False) -> Room:
    config = house.config.api
    kept: list[Kept] = []
    by_url: dict[str, tuple[str, str]] = {}
    addresses: dict[str, str] = {}
    for url in config.urls:
        name = without_secrets(url)
        if name in by_url:
            name = f"{name}#{len(by_url) + 1}"
        server = Server(name=name, label=name, wire="any", url=url)
        kept.append(_upstream(house)(server, None))
        addresses.setdefault(url, name)
        by_url[name] = server.endpoint, server.shown

    def where() -> dict[str, tuple[str, str]]:
        found = dict(by_url)
        if providers is not None:
            found |= providers.labels()
        return found | {name: _named(house.broker, name) for name in config.endpoints}

    def told() -> dict[str, dict[str, Any]]:
        found = {one.server.name: condition(one) for one in kept}
        return found if providers is None else found | providers.conditions()

    api = imported(".consumers.http_api.api", "api")
    room: Room = api.Api(house.broker, house.config, house.root, bodies, where, kept, addresses, told, alone=alone)
    return room


def _named(broker: Broker, shown: str) -> tuple[str, str]:
    """The endpoint that is printed as `shown`, by its name inside and that: the open one, else that of an agent."""
    opened = next((one for one in broker.endpoints.values() if one.shown == shown and not one.name.startswith(INNER)), None)
    return (f"agent:{shown}" if opened is None else opened.name), shown


def _upstream(house: House) -> Callable[[Server, Keyring | None], Kept]:
    """What keeps a server reached by URL; its module is imported with the first of them."""

    def make(server: Server, ring: Keyring | None) -> Kept:
        kept: Kept = imported(".providers.remote.server", "http").Upstream(server, house.broker, ring)
        return kept

    return make


PACKAGE: Final = __name__.partition(".")[0]


def imported(module: str, extra: str) -> Any:
    """A module of the room that needs the extra packages `extra`.

    Raises EndpointError when they are not installed.
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
