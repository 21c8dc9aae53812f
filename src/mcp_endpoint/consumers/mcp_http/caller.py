"""The caller of an admitted HTTP request, and the interface of the protocol eras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from starlette.requests import Request
from starlette.responses import Response

from ...core.broker import Broker
from ...settings.schema import Limits


class Caller(NamedTuple):
    """An admitted request's endpoint, role and address. Token, role, Origin, Host and path were checked before."""

    broker: Broker
    limits: Limits
    name: str
    """The endpoint's internal name: `agent:ID`, `signed:NAME` or `opaque:TOKEN`. Not for printing."""
    shown: str
    """The endpoint's printable name."""
    only: str
    """The only label whose tools are visible (`/mcp/{endpoint}/{label}`), "" for all."""
    role: Literal["device", "operator"]
    """From a token that may use tools, or from the server's own key."""
    address: str
    """The client's address, for the log."""

    @property
    def place(self) -> tuple[str, str, str]:
        """What sessions and signed states are bound to: they are not valid at another endpoint, label or role."""
        return (self.name, self.only, self.role)


class Era(Protocol):
    """The revisions of one protocol family at `/mcp`; one per server.

    The body has been read (at most `consumer_message_bytes`) and the request admitted; its JSON has been examined only as far as needed to
    select the era.
    """

    async def answer(self, request: Request, body: bytes, caller: Caller) -> Response:
        """Answer one request of any method; `body` has been read. Never raises for what a client sent."""

    async def stop(self) -> None:
        """Close every stream and link. Called once."""

    def describe(self) -> Mapping[str, Any]:
        """The status for an operator, ready for JSON, without secrets."""
