"""The routes of MCP over HTTP: authenticates a request, finds its endpoint, and selects the protocol era that answers.

`/mcp` is the endpoint of the token. `/mcp/{endpoint}` also names it, and must match the token; the server's own key gives an operator every
endpoint. `/mcp/{endpoint}/{label}` shows the tools of one provider only.

Both eras share the path. A request is stateless (MCP 2026-07-28 and later) if it says so: in `_meta` of its parameters, in
`MCP-Protocol-Version`, or by being `server/discover`. A request with a session, or an `initialize`, belongs to the other era.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from loguru import logger
from msgspec import UNSET, UnsetType
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from ...access.admission import Authenticator, Refusal
from ...access.tokens import NAME
from ...asgi import Bodies, BodyRefused
from ...core.broker import Broker
from ...core.shares import Shares
from ...protocol import methods
from ...settings.schema import Limits
from .caller import Caller, Era
from .http_sse import MESSAGES, STREAM, HttpSse
from .sessions import Sessions
from .streams import Store

MCP: Final = "/mcp"
RESTS: Final = ("", "/", "/{endpoint}", "/{endpoint}/", "/{endpoint}/{label}", "/{endpoint}/{label}/")
METHODS: Final = ("GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS")
"""All methods of a route: the eras decide which they support."""
SPACES: Final = ("agent:", "signed:")
"""Prefixes of internal names of endpoints that can be named in a path; free-form endpoints have no printable name."""


class _Look(msgspec.Struct):
    method: str | UnsetType = UNSET
    params: msgspec.Raw | UnsetType = UNSET


class _Params(msgspec.Struct):
    meta: dict[str, msgspec.Raw] | UnsetType = msgspec.field(default=UNSET, name=methods.META)


_look: Final = msgspec.json.Decoder(_Look)
_params: Final = msgspec.json.Decoder(_Params)


class McpHttp:
    """The room of MCP over HTTP."""

    name = "mcp_http"
    owed = 0

    def __init__(
        self,
        broker: Broker,
        limits: Limits,
        authenticator: Authenticator,
        bodies: Bodies,
        stateless: Era | None = None,
        store: Store | None = None,
        *,
        legacy_sse: bool = False,
    ) -> None:
        """`stateless` answers revision 2026-07-28; without it such requests get the list of supported revisions. `store` is shared.

        `legacy_sse` also serves `/sse` and `/messages`.
        """
        self._bodies = bodies
        self._broker = broker
        self._limits = limits
        self._authenticator = authenticator
        self.sessions = Sessions(broker, limits, store)
        self.visits: Shares[OpenRequest] = Shares()
        """Requests in progress, including open streams, by endpoint."""
        self._stateless: Era = stateless or self.sessions
        self._sse = HttpSse(self.sessions) if legacy_sse else None

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """All paths, for every method."""
        first = (MCP, STREAM, MESSAGES) if self._sse is not None else (MCP,)
        return [Route(path + rest, _McpApp(self), methods=list(METHODS)) for path in first for rest in RESTS]

    def refuses_pages(self, request: Request) -> bool:
        """Whether the token in the address is a free-form one."""
        return self._authenticator.is_opaque(request.query_params.get("token", ""))

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """End all sessions and streams of both eras."""
        await self.sessions.stop()
        if self._stateless is not self.sessions:
            await self._stateless.stop()

    def describe(self) -> Mapping[str, Any]:
        """The status of HTTP consumers for an operator."""
        if self._stateless is self.sessions:
            return self.sessions.describe()
        return {**self.sessions.describe(), "stateless": self._stateless.describe()}

    def _takes(self, visit: OpenRequest, caller: Caller) -> bool:
        """Whether the request fits the limit; the endpoint with most requests may have to give up one."""
        if len(self.visits) >= self._limits.http_requests:
            crowded = self.visits.gives_way(caller.name)
            if crowded is None:
                return False
            self.leaves(crowded)
            crowded.give_way()
        visit.owner = caller.name
        self.visits.add(visit.owner, visit)
        return True

    def leaves(self, visit: OpenRequest) -> None:
        """A request has ended."""
        self.visits.remove(visit.owner, visit)

    async def answer(self, request: Request, visit: OpenRequest) -> Response:
        """Answer one request."""
        caller = self._caller(request)
        if not isinstance(caller, Refusal) and not self._takes(visit, caller):
            caller = Refusal(503, "full", FULL, "http_requests reached", caller.address, LATER)
        if isinstance(caller, Refusal):
            logger.debug("已拒绝请求 / request refused", peer=caller.address, status=caller.status, reason=caller.why)
            return _answer(caller)
        body = b""
        if request.method == "POST":
            try:
                body = await self._bodies.read(request, self._limits.consumer_message_bytes, caller.name)
            except BodyRefused as refused:
                return _answer(Refusal(refused.status, refused.error, refused.message, "body", caller.address, refused.headers))
        if self._sse is not None and not request.url.path.startswith(MCP):
            return await self._sse.answer(request, body, caller)
        era = self._stateless if is_stateless(request, body) else self.sessions
        return await era.answer(request, body, caller)

    def _caller(self, request: Request) -> Caller | Refusal:
        """Authenticate a request and find its endpoint."""
        values = request.headers.getlist
        fields = request.query_params.multi_items()
        peer = request.client or ("", 0)
        local = request.scope.get("server") or ("", 0)
        source = self._authenticator.source((peer[0], peer[1]), str(local[0]), values, tls=request.scope.get("scheme") == "https")
        asked = request.path_params.get("endpoint", "")
        only = request.path_params.get("label", "")
        if self._authenticator.is_key(fields, values):
            if not asked:
                return Refusal(403, "name an endpoint", UNNAMED, "the key without an endpoint", source.shown)
            named = self._named(asked)
            if named is None:
                return Refusal(404, "not found", NOWHERE, "no such endpoint", source.shown)
            return Caller(self._broker, self._limits, *named, only, "operator", source.shown)
        opened = self._authenticator.admit(fields, values, source, "device")
        if isinstance(opened, Refusal):
            return opened
        if asked and asked != opened.shown:
            return Refusal(403, "another endpoint", ANOTHER, "the token opens another endpoint", source.shown)
        return Caller(self._broker, self._limits, opened.endpoint, opened.shown, only, "device", source.shown)

    def _named(self, asked: str) -> tuple[str, str] | None:
        """The endpoint named by an operator: by its internal name, else the open one with this printable name, else an agent's."""
        for space in SPACES:
            if asked.startswith(space):
                shown = asked.removeprefix(space)
                return (asked, shown) if NAME.fullmatch(shown) else None
        for name, endpoint in self._broker.endpoints.items():
            if endpoint.shown == asked and not name.startswith("server:"):
                return name, asked
        return (SPACES[0] + asked, asked) if NAME.fullmatch(asked) else None


class _McpApp:
    """One path as an ASGI application, so that Starlette passes every method."""

    def __init__(self, room: McpHttp) -> None:
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = OpenRequest(send)
        try:
            response = await self._room.answer(Request(scope, receive, send), visit)
            await response(scope, receive, visit.send)
        except ClientDisconnect:
            return  # the client disconnected while it was sending
        except asyncio.CancelledError:
            if not visit.gave_way:
                raise
            await visit.end(scope, receive)
        finally:
            self._room.leaves(visit)


class OpenRequest:
    """One request in progress, which can be cancelled in favour of another endpoint's."""

    def __init__(self, send: Send) -> None:
        self.owner = ""
        """The endpoint, once known."""
        self.gave_way = False
        self._send = send
        self._task = asyncio.current_task()
        self._begun = False

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        self._begun = True
        await self._send(message)

    def give_way(self) -> None:
        """End it: with 503, or by ending the response that has begun."""
        if self._task is not None and self._task.cancel():
            self.gave_way = True

    async def end(self, scope: Scope, receive: Receive) -> None:
        """Finish the response without waiting for the client."""
        if self._task is not None:
            self._task.uncancel()
        with contextlib.suppress(TimeoutError, RuntimeError):  # from uvicorn: the response is shorter than declared
            async with asyncio.timeout(0):
                if self._begun:
                    await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                else:
                    await _answer(Refusal(503, "full", FULL, "http_requests reached", headers=LATER))(scope, receive, self._send)


def is_stateless(request: Request, body: bytes) -> bool:
    """Whether a request belongs to the stateless era."""
    if methods.SESSION_HEADER in request.headers:
        return False
    version = request.headers.get(methods.VERSION_HEADER, "")
    if version[:4].isdigit() and version > methods.HANDSHAKE_REVISIONS[-1]:
        return True
    if methods.META.encode() not in body and methods.DISCOVER.encode() not in body and b"\\" not in body:
        return False
    try:
        look = _look.decode(body)
        if look.method == methods.DISCOVER:
            return True
        meta = _params.decode(look.params).meta if look.params is not UNSET else UNSET
    except (msgspec.DecodeError, RecursionError):
        return False
    return meta is not UNSET and methods.VERSION_KEY in meta


def _answer(refusal: Refusal) -> Response:
    return Response(refusal.body, refusal.status, dict(refusal.headers), media_type="application/json")


LATER: Final = (("Retry-After", "5"),)
FULL: Final = "正在处理的请求过多 / Too many requests are being answered (limits.http_requests)"
UNNAMED: Final = "使用服务器密钥时须指明接入点：/mcp/接入点 / With the server's key, name the endpoint: /mcp/ENDPOINT"
NOWHERE: Final = "没有这个接入点 / There is no such endpoint"
ANOTHER: Final = "此令牌不属于该接入点 / This token opens another endpoint than the one in the address"
