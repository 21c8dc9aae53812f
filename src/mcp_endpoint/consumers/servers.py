"""Which MCP servers the house can call, which tools each has, and who of those that have a tool is asked.

Servers with the same tool take turns; a server that is asked for goes first, the others stand in for it. A call is repeated elsewhere
only if it is known that nobody has run it, or if the tool says that a second time does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from ..broker import Broker
from ..catalog import Tool, is_repeatable
from ..config import Limits
from ..errors import PROVIDER_GONE, TIMED_OUT
from ..greeting import State
from .arguments import Shape
from .local import Failed, Local

LIST_SECONDS: Final = 8.0
"""For one server to tell its tools; another's list does not wait longer for it."""

Where = Mapping[str, tuple[str, str]]
"""Name of a server → its endpoint, and how that may be printed."""


class Unknown(Exception):
    """There is no such server, or no such tool."""


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
        self._providers: list[object] = []
        self._shapes: dict[bytes, Shape] = {}

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
            self._shapes.clear()
        return self.tools

    def check(self, tool: Tool, arguments: dict[str, Any]) -> None:
        """Raises Wrong if the arguments do not fit the tool's schema."""
        if tool.definition not in self._shapes:
            self._shapes[tool.definition] = Shape(tool.definition)
        self._shapes[tool.definition].check(arguments)


class Servers:
    """The servers of one API."""

    def __init__(self, broker: Broker, limits: Limits, where: Callable[[], Where], call_seconds: float = 25.0) -> None:
        """`where` says which servers there are now; a call may take `call_seconds`."""
        self._broker = broker
        self._limits = limits
        self._where = where
        self._call_seconds = call_seconds
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

    async def tools(self, server: str = "") -> dict[str, dict[str, Tool]]:
        """The tools of each server, or of one. Raises Unknown."""
        ones = self._now()
        if server and server not in ones:
            raise Unknown(server)
        asked = {server: ones[server]} if server else ones
        found = await asyncio.gather(*(one.known() for one in asked.values()))
        return dict(zip(asked, found, strict=True))

    async def call(self, name: str, arguments: dict[str, Any], server: str = "") -> Done:
        """Call a tool wherever it is, at `server` first. Raises Unknown, Wrong, and Failed for the last attempt's failure."""
        known = await self.tools()
        if server and server not in known:
            raise Unknown(server)
        having = [found for found, tools in known.items() if name in tools]
        if not having:
            if not any(self.up().values()):
                raise Failed(PROVIDER_GONE.number, "no MCP server is connected / 没有已连接的 MCP 服务器")
            raise Unknown(name)
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
            one.check(tool, arguments)
            try:
                async with asyncio.timeout(self._call_seconds):
                    return Done(found, await one.local.call(name, arguments))
            except TimeoutError:
                seconds = f"{self._call_seconds:g}"
                raise Failed(TIMED_OUT.number, f"{TIMED_OUT.message}: no answer within {seconds} s / {seconds} 秒内没有应答") from None
            except Failed as failed:
                last = failed
                lost = failed.code in (PROVIDER_GONE.number, TIMED_OUT.number) and is_repeatable(tool)
                if not failed.undelivered and not lost:
                    raise
        raise last
