"""Which MCP servers the house can call, which tools each has, and who of those that have a tool is asked.

Servers with the same tool take turns; a server that is asked for goes first, the others stand in for it. A call is repeated elsewhere
only if it is known that nobody has run it, or if the tool says that a second time does no harm.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from ...core.broker import Broker
from ...core.catalog import is_repeatable
from ...core.parties import State
from ...errors import PROVIDER_GONE, TIMED_OUT
from ...protocol.definitions import Tool
from ...settings.schema import Limits
from ..local import Failed, Local

LIST_SECONDS: Final = 8.0
"""For one server to tell its tools; another's list does not wait longer for it."""

SHOWN_CHARS: Final = 100
"""Of a tool's name that a message repeats."""
NAMED: Final = 5
"""Servers that a message names."""
Check = Callable[[bytes, bytes], Awaitable[None]]
"""Raises Wrong if arguments (JSON) do not fit a tool as it was described (JSON): `arguments.Checker.check`."""
Where = Mapping[str, tuple[str, str]]
"""Name of a server → its endpoint, and how that may be printed."""


class Hearer(Protocol):
    """Whoever follows a call."""

    def begin(self) -> None:
        """The tool is being asked."""

    def hear(self, params: bytes) -> None:
        """Progress: the parameters of its notification, JSON."""


Permitted = Callable[[str], bool]
"""Whether whoever asks may use a server, by its name."""


def anybody(server: str) -> bool:
    """Every server may be used."""
    return True


class Unknown(Exception):
    """There is no such server, or no such tool; the text says which, for whoever asked."""


class NotPermitted(Exception):
    """Whoever asks may not use this server, or none that has the tool."""


class Done(NamedTuple):
    """What a call gave."""

    server: str
    result: bytes
    """JSON."""


class _One:
    """One server, as long as it is known."""

    def __init__(self, broker: Broker, endpoint: str, shown: str, limits: Limits) -> None:
        self.broker = broker
        self.endpoint = endpoint
        self.local = Local(broker, endpoint, shown, limits, changed=self._changed)
        self.tools: dict[str, Tool] | None = None
        self.told: frozenset[str] = frozenset()
        """The names of the tools it told last; kept while it is down."""
        self._providers: list[object] = []

    def _changed(self, method: str) -> None:
        self.tools = None

    @property
    def up(self) -> bool:
        """Whether somebody answers there."""
        found = self.broker.endpoints.get(self.endpoint)
        return found is not None and any(provider.state is not State.BARE for provider in found.providers)

    async def known(self) -> dict[str, Tool]:
        """Its tools by name; none while it is down or does not tell them in time."""
        if not self.up:
            self.tools = None
            return {}
        found = self.broker.endpoints[self.endpoint]
        providers: list[object] = [*found.providers]
        if self.tools is None or providers != self._providers:
            self._providers = providers
            try:
                async with asyncio.timeout(LIST_SECONDS):
                    tools = {tool.name: tool for tool in await self.local.tools()}
            except (Failed, TimeoutError):
                return {}
            self.tools = tools
            self.told = frozenset(tools)
        return self.tools


class Servers:
    """The servers of one API."""

    def __init__(
        self,
        broker: Broker,
        limits: Limits,
        where: Callable[[], Where],
        check: Check,
        call_seconds: float = 25.0,
        addresses: Mapping[str, str] = {},
    ) -> None:
        """`where` says which servers there are now, `check` looks at arguments; a call may take `call_seconds`.

        `addresses` are other words for a server: its whole URL, which may hold a secret, → its name.
        """
        self._broker = broker
        self._limits = limits
        self._where = where
        self._check = check
        self._call_seconds = call_seconds
        self._addresses = addresses
        self._ones: dict[str, _One] = {}
        self._turns: dict[str, int] = {}

    def close(self) -> None:
        """Leave every endpoint."""
        for one in self._ones.values():
            one.local.close(1001, "going away")
        self._ones.clear()

    def _now(self) -> dict[str, _One]:
        where = self._where()
        for name in [name for name in self._ones if name not in where or self._ones[name].endpoint != where[name][0]]:
            self._ones.pop(name).local.close(1000, "no longer a server")
        for name, (endpoint, shown) in where.items():
            if name not in self._ones:
                self._ones[name] = _One(self._broker, endpoint, shown, self._limits)
        return {name: self._ones[name] for name in where}

    def up(self) -> dict[str, bool]:
        """Which servers there are, and whether each can be asked."""
        return {name: one.up for name, one in self._now().items()}

    def named(self, given: str, permitted: Permitted = anybody) -> str:
        """The name of the server that is meant by its name or by its whole URL. Raises Unknown and NotPermitted."""
        found = given
        for address, name in self._addresses.items():
            if hmac.compare_digest(address.encode(), given.encode("utf-8", "replace")):
                found = name
                break
        if not permitted(found):
            raise NotPermitted
        if found not in self._now():
            raise Unknown("没有这个服务器，见 GET /servers / There is no such server, see GET /servers")
        return found

    async def tools(self, server: str = "", permitted: Permitted = anybody) -> dict[str, dict[str, Tool]]:
        """The tools of each server, or of one. Raises Unknown, NotPermitted, and Failed when none of them is connected."""
        if server:
            server = self.named(server, permitted)
        ones = self._now()
        asked = {name: one for name, one in ones.items() if permitted(name) and server in ("", name)}
        if ones and not asked:
            raise NotPermitted
        if not any(one.up for one in asked.values()):
            raise _down(*asked)
        return await self._told(asked)

    async def all_tools(self, permitted: Permitted = anybody) -> dict[str, dict[str, Tool]]:
        """The tools of every server, none of one that is down."""
        return await self._told({name: one for name, one in self._now().items() if permitted(name)})

    @staticmethod
    async def _told(asked: Mapping[str, _One]) -> dict[str, dict[str, Tool]]:
        found = await asyncio.gather(*(one.known() for one in asked.values()))
        return dict(zip(asked, found, strict=True))

    async def call(
        self, name: str, arguments: bytes, server: str = "", permitted: Permitted = anybody, hearer: Hearer | None = None
    ) -> Done:
        """Call a tool wherever it is among the permitted servers, at `server` first; `arguments` are a JSON object.

        `hearer` hears when the tool is asked, and its progress, which also gives the call more time: up to `progress_seconds`.

        Raises Unknown, NotPermitted, Wrong, and Failed for the last attempt's failure.
        """
        server = self.named(server, permitted) if server else ""
        known = await self.all_tools()
        having = [found for found, tools in known.items() if name in tools and permitted(found)]
        if not having:
            raise self._nowhere(name, server, permitted)
        turn = self._turns.get(name, 0) % len(having)
        self._turns[name] = turn + 1
        order = having[turn:] + having[:turn]
        if server in having:
            order.remove(server)
            order.insert(0, server)
        last = Failed(PROVIDER_GONE.number, "")
        for found in order:
            one = self._ones[found]
            tool = known[found][name]
            await self._check(tool.definition, arguments)
            if hearer is not None:
                hearer.begin()
            try:
                return Done(found, await self._ask(one, name, arguments, hearer))
            except TimeoutError:
                seconds = f"{self._call_seconds:g}"
                raise Failed(TIMED_OUT.number, f"{TIMED_OUT.message}: no answer within {seconds} s / {seconds} 秒内没有应答") from None
            except Failed as failed:
                last = failed
                lost = failed.code in (PROVIDER_GONE.number, TIMED_OUT.number) and is_repeatable(tool)
                if not failed.undelivered and not lost:
                    raise
        raise last

    async def _ask(self, one: _One, name: str, arguments: bytes, hearer: Hearer | None) -> bytes:
        """The result of one attempt. Raises Failed and TimeoutError."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + self._limits.progress_seconds
        deadline = asyncio.timeout(self._call_seconds)

        def hear(params: bytes) -> None:
            if hearer is not None and not deadline.expired():
                deadline.reschedule(min(loop.time() + self._call_seconds, latest))
                hearer.hear(params)

        async with deadline:
            return await one.local.call(name, msgspec.Raw(arguments), None if hearer is None else hear)

    def _nowhere(self, name: str, server: str, permitted: Permitted) -> Exception:
        """Why no permitted server has the tool just now."""
        ones = {found: one for found, one in self._ones.items() if permitted(found)}
        gone = [found for found, one in ones.items() if name in one.told or (found == server and not one.up)]
        if gone:
            return _down(*gone)
        if any(name in one.told for one in self._ones.values()) or (self._ones and not ones):
            return NotPermitted()
        if not any(one.up for one in ones.values()):
            return _down(*ones)
        shown = name if len(name) <= SHOWN_CHARS else f"{name[:SHOWN_CHARS]}…"
        return Unknown(f"没有这个工具：{shown} / There is no such tool: {shown}")


def _down(*servers: str) -> Failed:
    """Nobody was asked, because they are not connected."""
    if not servers:
        return Failed(PROVIDER_GONE.number, "没有配置 MCP 服务器 / no MCP server is configured")
    names = ", ".join(servers[:NAMED])
    return Failed(PROVIDER_GONE.number, f"MCP 服务器未连接 / the MCP server is not connected: {names}")
