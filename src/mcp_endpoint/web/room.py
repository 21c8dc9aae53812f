"""A room: something beside the WebSocket links that has paths on the server's port and a life of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.routing import BaseRoute


class Room(Protocol):
    """One room: its paths on the server's port, and its life."""

    name: str
    """Its key under `rooms` in /stats."""

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Its paths; asked for once, before `start`."""

    @property
    def owed(self) -> int:
        """Answers under way that the server waits for when it stops, the broker's own calls not counted."""

    def refuses_pages(self, request: Request) -> bool:
        """Whether a web page of somebody else gets nothing by this request, whatever its headers are; asked before a preflight too."""

    async def start(self) -> None:
        """Open, before the first connection is taken; does not wait for anybody outside. Raises EndpointError."""

    async def stop(self) -> None:
        """Close for good: end what it started, within a few seconds. Called once, also when the start failed half-way."""

    def describe(self) -> Mapping[str, Any]:
        """What an operator may know of it, ready for JSON; no secret is in it."""
