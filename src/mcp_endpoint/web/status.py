"""The status routes: health, readiness, statistics, metrics and the HTML page.

Without a key they tell whether the server is alive and ready, and how many links there are. The names of endpoints, tools and devices are
shown only with the server's key (`Authorization: Bearer KEY` or `?key=KEY`, compared in constant time).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from .. import __version__
from ..access.addresses import ROOM, base_seen, console_address, endpoint_addresses, hints, is_loopback
from ..access.admission import FORWARDED, Origins, refused_page
from ..access.tokens import SINGLE_MODULE, TokenCodec
from ..errors import NOT_ALLOWED
from ..protocol.jsonrpc import VERSION
from ..settings.schema import Config
from . import page
from .metrics import OLD_NAMES

NO_STORE: Final = {"Cache-Control": "no-store"}


@dataclass(slots=True)
class View:
    """The data behind the routes; the server sets `state`."""

    config: Config
    snapshot: Callable[[bool], Mapping[str, Any]]
    """The broker's figures, ready for JSON; True adds the endpoints one by one."""
    scrape: Callable[[], tuple[bytes, str]]
    """The Prometheus page with its content type."""
    uptime: Callable[[], float]
    """Seconds since the start."""
    codec: TokenCodec
    """Makes the tokens of the displayed addresses."""
    state: Literal["ready", "draining"] = "ready"


def routes(view: View) -> list[BaseRoute]:
    """All status routes. The WebSocket paths are handled before HTTP routing; their routes here answer plain requests."""

    origins = Origins(view.config)

    async def root(request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""  # also the key: the address stays on this server
        return RedirectResponse(f"{ROOM}/{query}")

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__, "uptime_seconds": round(view.uptime(), 3)}, headers=NO_STORE)

    async def ready(request: Request) -> Response:
        return JSONResponse({"status": view.state}, status_code=200 if view.state == "ready" else 503, headers=NO_STORE)

    async def stats(request: Request) -> Response:
        known = knows_key(request, view.config.server.key)
        if known is False:
            return _refused()
        snapshot = with_old_names(view.snapshot(bool(known)))
        body = {"status": view.state, "version": __version__, "uptime_seconds": round(view.uptime(), 3), **snapshot}
        return JSONResponse(body, headers=NO_STORE)

    async def metrics(request: Request) -> Response:
        if not knows_key(request, view.config.server.key):
            if origins.foreign(request.headers.getlist, tls=request.scope.get("scheme") == "https"):
                refusal = refused_page("")
                return Response(refusal.body, refusal.status, {**NO_STORE, **dict(refusal.headers)}, "application/json")
            if not is_direct_loopback(request):
                return _refused()
        body, content_type = view.scrape()
        return Response(body, headers={"Content-Type": content_type, **NO_STORE})

    async def root_page(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return _result({"message": "MCP Endpoint Server", "version": __version__, "status": "running"})
        return _page(view, request)

    async def endpoint_health(request: Request) -> Response:
        if not knows_key(request, view.config.server.key):
            return JSONResponse(_answer(error={"code": NOT_ALLOWED.number, "message": "密钥验证失败"}), status_code=401, headers=NO_STORE)
        return _result({"status": "success", "connections": original_counts(view.snapshot(True))})

    async def websocket_only(request: Request) -> Response:
        message = "这是 WebSocket 地址，请交给工具或设备使用 / This is a WebSocket address: give it to a tool or a device"
        return JSONResponse({"error": "upgrade required", "message": message}, status_code=426, headers={"Upgrade": "websocket"})

    table = {
        "/": root,
        "/health": health,
        "/ready": ready,
        "/stats": stats,
        "/metrics": metrics,
        ROOM: root_page,
        f"{ROOM}/": root_page,
        f"{ROOM}/health": endpoint_health,
        f"{ROOM}/mcp": websocket_only,
        f"{ROOM}/mcp/": websocket_only,
        f"{ROOM}/call": websocket_only,
        f"{ROOM}/call/": websocket_only,
    }
    return [Route(path, answer, methods=["GET"]) for path, answer in table.items()]


def knows_key(request: Request, key: str) -> bool | None:
    """True for the right key, False for a wrong one or two different ones, None without one. A server without a key accepts none."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = [*request.query_params.getlist("key"), *([bearer.strip()] if scheme.lower() == "bearer" else ())]
    if not given:
        return None
    shown = {text for text in given if text}
    return bool(key and shown) and all(hmac.compare_digest(text.encode("utf-8", "surrogateescape"), key.encode()) for text in shown)


def is_direct_loopback(request: Request) -> bool:
    """Whether the client is on this machine, without a proxy in between."""
    return request.client is not None and is_loopback(request.client.host) and not any(name in request.headers for name in FORWARDED)


def with_old_names(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """The snapshot with renamed members under their old names too, which are removed in the next release."""

    def aliased(ends: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one | {"last_goodbye": one["last_close"]} if "last_close" in one else one for one in ends]

    counters = snapshot["counters"]
    old = {
        name.replace(new, before): count for new, before in OLD_NAMES.items() for name, count in counters.items() if name.startswith(new)
    }
    lists = {name: aliased(snapshot[name]) for name in ("endpoint_details", "left") if name in snapshot}
    return {**snapshot, **lists, "counters": {**counters, **old}}


def original_counts(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """The counts under the names of the original server, which its users parse."""
    robots: dict[str, int] = {}
    for endpoint in snapshot["endpoint_details"]:  # endpoints of different kinds may share a printable name
        if endpoint["devices"]:
            robots[endpoint["endpoint"]] = robots.get(endpoint["endpoint"], 0) + len(endpoint["devices"])
    return {
        "tool_connections": snapshot["tool_connections"],
        "robot_connections": snapshot["device_connections"],
        "total_connections": snapshot["tool_connections"] + snapshot["device_connections"],
        "robot_connections_by_agent": robots,
    }


def _page(view: View, request: Request) -> Response:
    known = knows_key(request, view.config.server.key)
    facts = page.Facts(
        state=view.state,
        uptime=view.uptime(),
        snapshot=view.snapshot(bool(known)),
        known=bool(known),
        refused=known is False,
        console=view.config.console.on,
        **_shown_addresses(view, request) if known else {"addresses": (), "hints": ()},
    )
    chinese = page.prefers_chinese(request.headers.get("accept-language", ""))
    headers = {**NO_STORE, **page.HEADERS, "Content-Language": "zh-CN" if chinese else "en", "Vary": "Accept, Accept-Language"}
    return Response(page.render(facts, chinese=chinese), 401 if facts.refused else 200, headers, media_type="text/html")


def _shown_addresses(view: View, request: Request) -> dict[str, Any]:
    """The addresses for the holder of the key: below `public_url`, or below the address this browser used."""
    settings = view.config.server
    base = base_seen(settings, request.url.scheme, request.headers.get("host", ""))
    token = view.codec.make_xiaozhi(SINGLE_MODULE)
    pair = endpoint_addresses(base, token)
    console = console_address(base, settings.key)
    return {
        "addresses": (
            page.Address("for the console, parameter server.mcp_endpoint", "智控台MCP参数配置（server.mcp_endpoint）", console),
            page.Address("for a xiaozhi-server without a console, and its tools", "单模块部署MCP接入点（含其工具端）", pair.tool),
            page.Address("for other devices of the same endpoint", "同一接入点的其他使用端", pair.device),
        ),
        "hints": hints(settings, base, token, contained=False),
    }


def _answer(*, result: object = None, error: object = None) -> dict[str, object]:
    """The envelope of the original server: JSON-RPC with both `result` and `error`, one of them null."""
    return {"result": result, "error": error, "id": None, "jsonrpc": VERSION}


def _result(result: object) -> Response:
    return JSONResponse(_answer(result=result), headers=NO_STORE)


def _refused() -> Response:
    message = "密钥验证失败，请用 Authorization: Bearer 密钥 或 ?key=密钥 / Send the key as Authorization: Bearer KEY or ?key=KEY"
    headers = {**NO_STORE, "WWW-Authenticate": "Bearer"}
    return JSONResponse({"error": "not allowed", "message": message}, status_code=401, headers=headers)
