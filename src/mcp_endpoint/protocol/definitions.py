"""MCP definitions: an entry of a list (tool, prompt, resource or resource template), and this program's identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from .. import __version__
from .jsonrpc import Span
from .methods import CAPABILITIES, LATEST

NAME: Final = "mcp-endpoint-server"
"""This program's name as a server and as a client."""
ALL: Final[dict[str, object]] = {name: {} for name in CAPABILITIES.values()}
"""Capabilities of a client that answers all requests of servers."""


class Tool(NamedTuple):
    """A tool (or prompt, resource, template) as its provider described it: the bytes, and where `name` is in them."""

    name: str
    definition: bytes
    place: Span


def identity(version: str = __version__, part: str = "") -> dict[str, str]:
    """`serverInfo` or `clientInfo` of this program; `part` is added to its name."""
    return {"name": NAME + part, "version": version}


def hello(capabilities: Mapping[str, object], version: str = __version__, part: str = "") -> dict[str, object]:
    """The parameters of this program's own `initialize`."""
    return {"protocolVersion": LATEST, "capabilities": capabilities, "clientInfo": identity(version, part)}
