"""Where an HTTP request may sit: the endpoint its token opened, and what is known of who asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from starlette.requests import Request
from starlette.responses import Response

from ...core.broker import Broker
from ...settings.schema import Limits


class Caller(NamedTuple):
    """One admitted request's place. Everything in it was checked at the door: token, role, Origin, Host, path."""

    broker: Broker
    limits: Limits
    name: str
    """The endpoint's name inside the program: `agent:ID`, `signed:NAME` or `opaque:TOKEN`. Not for printing."""
    shown: str
    """How the endpoint may be printed."""
    only: str
    """The label whose tools alone are seen and called (`/mcp/{endpoint}/{label}`), "" for all."""
    role: Literal["device", "operator"]
    """A token that may use tools, or the server's own key."""
    address: str
    """Where the request comes from, for the log."""

    @property
    def place(self) -> tuple[str, str, str]:
        """What sessions and signed states are bound to: nobody takes them to another endpoint, label or role."""
        return (self.name, self.only, self.role)


class Era(Protocol):
    """One family of protocol revisions behind the door of `/mcp`; one per server.

    The door has read the whole body (at most `consumer_message_bytes`) and admitted the request; it has not looked into the JSON beyond
    what tells the eras apart.
    """

    async def answer(self, request: Request, body: bytes, caller: Caller) -> Response:
        """The answer to one request of any method; its body is `body`, already read. Never raises for what a peer sent."""

    async def stop(self) -> None:
        """The server ends: close every stream and link. Called once."""

    def describe(self) -> Mapping[str, Any]:
        """What an operator may know of it, ready for JSON; no secret is in it."""
