"""A managed server as its entry describes it: what to start or connect to, for whom, and what must not be shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from ..core.broker import INNER
from ..log import BLOT
from .command import Command
from .tool_filter import ToolChange

Wire = Literal["stdio", "http", "sse", "any"]
"""Transport of a server; `any` is a URL without a type: Streamable HTTP, else HTTP+SSE."""


class ServerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One valid entry, ready to be started or connected to; equal entries need no restart."""

    name: str
    label: str
    """Name of its tools and of its internal endpoint; servers with the same label are replicas."""
    wire: Wire
    command: Command | None = None
    """The command; None for a server reached by URL."""
    url: str = ""
    headers: Mapping[str, str] = {}
    endpoints: tuple[str, ...] | None = None
    """Patterns of the printable names of endpoints it serves; None: `[providers] endpoints`."""
    allow: tuple[str, ...] = ()
    """Patterns of visible tools; empty means all."""
    deny: tuple[str, ...] = ()
    """Patterns of hidden tools."""
    tools: Mapping[str, ToolChange] = {}
    """Changes to its tools, by their own names."""
    credentials: str = ""
    """Name of its key pool, `[credentials.NAME]`."""
    place: str = ""
    """Where the key goes: `query:NAME`, `header:NAME`, `bearer` or `env:NAME`."""
    timeout: float | None = None
    """Deadline of its calls in seconds; None: the default."""
    secrets: frozenset[str] = frozenset()
    """Values that must never be shown."""

    @property
    def endpoint(self) -> str:
        """Name of its internal endpoint, which no token grants."""
        return f"{INNER}{self.label}"

    @property
    def shown(self) -> str:
        """Printable name of its internal endpoint."""
        return f"server {self.label}"

    def __repr__(self) -> str:
        """Only its name: the address, a header or a variable may contain a secret."""
        return f"<Server {self.name!r}>"


def mask(server: ServerEntry) -> Callable[[str], str]:
    """Returns a function that masks a server's secrets in a text."""
    words = sorted(server.secrets, key=len, reverse=True)
    if not words:
        return str
    secret = re.compile("|".join(map(re.escape, words)))
    return lambda text: secret.sub(BLOT, text)
