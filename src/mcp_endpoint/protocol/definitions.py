"""What peers of MCP define: an entry of a list (a tool, prompt, resource or resource template), and who this program is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from .. import __version__
from .jsonrpc import Span
from .methods import CAPABILITIES, LATEST

NAME: Final = "mcp-endpoint-server"
"""What this program calls itself, as a server and as a client."""
ALL: Final[dict[str, object]] = {name: {} for name in CAPABILITIES.values()}
"""The capabilities of a client that answers whatever a server may ask."""


class Tool(NamedTuple):
    """One function (or prompt, resource, template) as its provider described it: its bytes, and where in them `name` stands."""

    name: str
    definition: bytes
    place: Span


def identity(version: str = __version__, part: str = "") -> dict[str, str]:
    """`serverInfo` or `clientInfo` of this program; `part` is added to its name."""
    return {"name": NAME + part, "version": version}


def hello(capabilities: Mapping[str, object], version: str = __version__, part: str = "") -> dict[str, object]:
    """The parameters of an `initialize` of our own."""
    return {"protocolVersion": LATEST, "capabilities": capabilities, "clientInfo": identity(version, part)}
