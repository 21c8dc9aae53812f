"""The MCP servers behind the HTTP API: their tools, and which server gets a call.

Servers with the same tool take turns; a requested server is tried first, the others are its fallback. A call is repeated at another server
only if no server can have executed it, or if the tool declares itself idempotent or read-only.
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
"""Timeout of one server's list; lists of other servers do not wait longer for it."""

SHOWN_CHARS: Final = 100
"""Most characters of a tool's name in a message."""
NAMED: Final = 5
"""Most servers named in a message."""
Check = Callable[[bytes, bytes], Awaitable[None]]
"""Raises InvalidArguments if arguments (JSON) do not match a tool's definition (JSON): `arguments.Checker.check`."""
Where = Mapping[str, tuple[str, str]]
"""Name of a server → name and printable name of its endpoint."""


class Follower(Protocol):
    """Follows the progress of a call."""

    def begin(self) -> None:
        """The call is sent to the tool."""

    def on_progress(self, params: bytes) -> None:
        """A progress notification: its parameters as JSON."""


Permitted = Callable[[str], bool]
"""Whether the client may use a server, by name."""


def anybody(server: str) -> bool:
    """Permits every server."""
    return True


class Unknown(Exception):
    """No such server or tool; the text says which."""


class NotPermitted(Exception):
    """The client may not use this server, or any server with the tool."""


class Done(NamedTuple):
    """The result of a call."""

    server: str
    result: bytes
    """JSON."""


class _ServerState:
    """One known server."""

    def __init__(self, broker: Broker, endpoint: str, shown: str, limits: Limits) -> None:
        self.broker = broker
        self.endpoint = endpoint
        self.local = Local(broker, endpoint, shown, limits, changed=self._changed)
        self.tools: dict[str, Tool] | None = None
        self.last_tools: frozenset[str] = frozenset()
        """Names of the tools in its last list; kept while it is down."""
        self._providers: list[object] = []

    def _changed(self, method: str) -> None:
        self.tools = None

    @property
    def up(self) -> bool:
        """Whether a provider is available there."""
        found = self.broker.endpoints.get(self.endpoint)
        return found is not None and any(provider.state is not State.BARE for provider in found.providers)

    async def known(self) -> dict[str, Tool]:
        """Its tools by name; none while it is down or does not list them in time."""
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
            self.last_tools = frozenset(tools)
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
        """`where` returns the current servers, `check` validates arguments; a call may take `call_seconds`.

        `addresses` maps other names of a server to its name: its whole URL, which may contain a secret.
        """
        self._broker = broker
        self._limits = limits
        self._where = where
        self._check = check
        self._call_seconds = call_seconds
        self._addresses = addresses
        self._ones: dict[str, _ServerState] = {}
        self._turns: dict[str, int] = {}

    def close(self) -> None:
        """Detach from every endpoint."""
        for one in self._ones.values():
            one.local.close(1001, "going away")
        self._ones.clear()

    def _now(self) -> dict[str, _ServerState]:
        where = self._where()
        for name in [name for name in self._ones if name not in where or self._ones[name].endpoint != where[name][0]]:
            self._ones.pop(name).local.close(1000, "no longer a server")
        for name, (endpoint, shown) in where.items():
            if name not in self._ones:
                self._ones[name] = _ServerState(self._broker, endpoint, shown, self._limits)
        return {name: self._ones[name] for name in where}

    def up(self) -> dict[str, bool]:
        """The servers, and whether each is available."""
        return {name: one.up for name, one in self._now().items()}

    def named(self, given: str, permitted: Permitted = anybody) -> str:
        """The server with this name or whole URL. Raises Unknown and NotPermitted."""
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
        """The tools of each server, or of one. Raises Unknown, NotPermitted, and Failed if none of them is connected."""
        if server:
            server = self.named(server, permitted)
        ones = self._now()
        asked = {name: one for name, one in ones.items() if permitted(name) and server in ("", name)}
        if ones and not asked:
            raise NotPermitted
        if not any(one.up for one in asked.values()):
            raise _down(*asked)
        return await self._tools_of(asked)

    async def all_tools(self, permitted: Permitted = anybody) -> dict[str, dict[str, Tool]]:
        """The tools of every server, empty for one that is down."""
        return await self._tools_of({name: one for name, one in self._now().items() if permitted(name)})

    @staticmethod
    async def _tools_of(asked: Mapping[str, _ServerState]) -> dict[str, dict[str, Tool]]:
        found = await asyncio.gather(*(one.known() for one in asked.values()))
        return dict(zip(asked, found, strict=True))

    async def call(
        self, name: str, arguments: bytes, server: str = "", permitted: Permitted = anybody, follower: Follower | None = None
    ) -> Done:
        """Call a tool at one of the permitted servers that have it, at `server` first; `arguments` are a JSON object.

        `follower` is notified when the call is sent, and of its progress, which also extends the deadline, up to `progress_seconds`.

        Raises Unknown, NotPermitted, InvalidArguments, and Failed for the failure of the last attempt.
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
            if follower is not None:
                follower.begin()
            try:
                return Done(found, await self._attempt(one, name, arguments, follower))
            except TimeoutError:
                seconds = f"{self._call_seconds:g}"
                raise Failed(TIMED_OUT.number, f"{TIMED_OUT.message}: no answer within {seconds} s / {seconds} 秒内没有应答") from None
            except Failed as failed:
                last = failed
                lost = failed.code in (PROVIDER_GONE.number, TIMED_OUT.number) and is_repeatable(tool)
                if not failed.undelivered and not lost:
                    raise
        raise last

    async def _attempt(self, one: _ServerState, name: str, arguments: bytes, follower: Follower | None) -> bytes:
        """One attempt; returns the result. Raises Failed and TimeoutError."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + self._limits.progress_seconds
        deadline = asyncio.timeout(self._call_seconds)

        def on_progress(params: bytes) -> None:
            if follower is not None and not deadline.expired():
                deadline.reschedule(min(loop.time() + self._call_seconds, latest))
                follower.on_progress(params)

        async with deadline:
            return await one.local.call(name, msgspec.Raw(arguments), None if follower is None else on_progress)

    def _nowhere(self, name: str, server: str, permitted: Permitted) -> Exception:
        """Why no permitted server has the tool now."""
        ones = {found: one for found, one in self._ones.items() if permitted(found)}
        gone = [found for found, one in ones.items() if name in one.last_tools or (found == server and not one.up)]
        if gone:
            return _down(*gone)
        if any(name in one.last_tools for one in self._ones.values()) or (self._ones and not ones):
            return NotPermitted()
        if not any(one.up for one in ones.values()):
            return _down(*ones)
        shown = name if len(name) <= SHOWN_CHARS else f"{name[:SHOWN_CHARS]}…"
        return Unknown(f"没有这个工具：{shown} / There is no such tool: {shown}")


def _down(*servers: str) -> Failed:
    """The failure if no server is connected."""
    if not servers:
        return Failed(PROVIDER_GONE.number, "没有配置 MCP 服务器 / no MCP server is configured")
    names = ", ".join(servers[:NAMED])
    return Failed(PROVIDER_GONE.number, f"MCP 服务器未连接 / the MCP server is not connected: {names}")
