"""The HTTP application around the status: routes, allowed origins, cross-origin answers, errors as small JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .config import Security
from .rooms import Room
from .status import View, routes

METHODS: Final = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
HEADERS: Final = ("*",)
"""Any: revision 2026-07-28 of MCP lets tools name headers of their own (`Mcp-Param-…`), and no cookies are involved."""
EXPOSED: Final = ("Mcp-Session-Id", "MCP-Protocol-Version", "WWW-Authenticate", "Retry-After")
"""What a page's program may read of our answers."""


class OriginGuard:
    """Refuses requests of web pages from elsewhere with 403, before anything else looks at them.

    A page of this server itself may always ask; where all origins are allowed nothing is checked.
    """

    def __init__(self, app: ASGIApp, security: Security) -> None:
        self._app = app
        self._allowed = frozenset(security.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "*" not in self._allowed:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            own = f"{scope['scheme']}://{headers.get('host', '')}"
            if origin is not None and origin not in self._allowed and origin != own:
                refusal = {"error": "origin not allowed", "message": "来源不被允许 / This origin is not allowed (security.allowed_origins)"}
                await JSONResponse(refusal, status_code=403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def create_app(view: View, rooms: Sequence[Room] = (), *, alone: bool = False) -> Starlette:
    """The application of one server; nothing in it is shared with another. `alone` leaves the status out: a room has the port to itself."""
    security = view.config.security
    middleware = [Middleware(OriginGuard, security=security)]
    if security.enable_cors:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=security.allowed_origins,
                allow_methods=METHODS,
                allow_headers=HEADERS,
                expose_headers=EXPOSED,
            )
        )
    return Starlette(
        routes=[*(() if alone else routes(view)), *(route for room in rooms for route in room.routes)],
        middleware=middleware,
        exception_handlers={HTTPException: _refused},
    )


async def _refused(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (404, 405) in the form of ours."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail.lower()}, status_code=error.status_code, headers=error.headers)
