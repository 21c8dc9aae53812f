"""What stands in MCP's lists: one tool, prompt, resource or resource template."""

from __future__ import annotations

from typing import NamedTuple

from .jsonrpc import Span


class Tool(NamedTuple):
    """One function (or prompt, resource, template) as its provider described it: its bytes, and where in them `name` stands."""

    name: str
    definition: bytes
    place: Span
