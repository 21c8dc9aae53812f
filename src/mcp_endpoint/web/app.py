"""Builds the HTTP application: routes, Origin rules, CORS, and errors as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from loguru import logger
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..access.admission import ORIGIN, OWN_PAGES, Origins, Refusal, refused_page
from .room import Room
from .status import View, routes

METHODS: Final = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
HEADERS: Final = ("*",)
"""All: MCP 2026-07-28 lets tools define headers of their own (`Mcp-Param-…`). Cookies (the console's) are never allowed."""
EXPOSED: Final = ("Mcp-Session-Id", "MCP-Protocol-Version", "WWW-Authenticate", "Retry-After")
"""Response headers that scripts of other origins may read."""


class OriginGuard:
    """Refuses requests of foreign web pages with 403 before any other processing: see `Origins`.

    Preflights are refused too: the browser must not learn that it may send what is then refused.
    """

    def __init__(self, app: ASGIApp, origins: Origins, rooms: Sequence[Room]) -> None:
        self._app = app
        self._origins = origins
        self._routes = [(route, room) for room in rooms for route in room.routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        answer = self._app if refusal is None else Response(refusal.body, refusal.status, dict(refusal.headers), "application/json")
        await answer(scope, receive, send)

    def _refusal(self, request: Request) -> Refusal | None:
        tls = request.scope.get("scheme") == "https"
        if not self._origins.allow(request.headers.getlist, tls=tls):
            return Refusal(403, "origin not allowed", ORIGIN, "origin not allowed")
        if not self._origins.foreign(request.headers.getlist, tls=tls):
            return None
        room = next((room for route, room in self._routes if route.matches(request.scope)[0] is not Match.NONE), None)
        if room is None or not room.refuses_pages(request):
            return None
        refusal = refused_page(request.client.host if request.client else "")
        logger.debug("已拒绝请求 / request refused", peer=refusal.address, status=refusal.status, reason=refusal.why)
        return refusal


class _CorsForPages(CORSMiddleware):
    """Starlette's CORS middleware, except for refusals of foreign pages: no other page may read those."""

    async def send(self, message: Message, send: Send, request_headers: Headers) -> None:
        if message["type"] == "http.response.start" and message["status"] == 403 and _is_for_own_pages(message):
            await send(message)
        else:
            await super().send(message, send, request_headers)


def create_app(view: View, rooms: Sequence[Room] = (), *, standalone: bool = False) -> Starlette:
    """The application of one server; two of them share nothing. `standalone`: no status pages, one room has the port to itself."""
    security = view.config.security
    middleware = [Middleware(OriginGuard, origins=Origins(view.config), rooms=rooms)]
    if security.enable_cors:
        middleware.append(
            Middleware(
                _CorsForPages,
                allow_origins=security.allowed_origins,
                allow_methods=METHODS,
                allow_headers=HEADERS,
                expose_headers=EXPOSED,
            )
        )
    return Starlette(
        routes=[*(() if standalone else routes(view)), *(route for room in rooms for route in room.routes)],
        middleware=middleware,
        exception_handlers={HTTPException: _refused},
    )


def _is_for_own_pages(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return all(headers.get(name) == value for name, value in OWN_PAGES)


async def _refused(request: Request, error: Exception) -> Response:
    """Starlette's own errors (404, 405) as the JSON of this server."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail.lower()}, status_code=error.status_code, headers=error.headers)
