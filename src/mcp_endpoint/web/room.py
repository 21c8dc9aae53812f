"""The interface of a room: a component with HTTP routes on the server's port and a lifecycle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.routing import BaseRoute


class Room(Protocol):
    """A component of the server beside the WebSocket links."""

    name: str
    """Its key under `rooms` in /stats."""

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Its routes; read once, before `start`."""

    @property
    def owed(self) -> int:
        """Responses in progress that the server waits for when it stops; calls in the broker are not counted."""

    def refuses_pages(self, request: Request) -> bool:
        """Whether this request is refused to foreign web pages, whatever its headers; also called for a preflight."""

    async def start(self) -> None:
        """Start, before the first connection is accepted; does not wait for other machines. Raises EndpointError."""

    async def stop(self) -> None:
        """End everything it started, within a few seconds. Called once, also after a failed start."""

    def describe(self) -> Mapping[str, Any]:
        """The state for an operator, ready for JSON, without secrets."""
