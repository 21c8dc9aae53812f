"""Origins, cross-origin answers and errors of the HTTP side."""

from __future__ import annotations

from typing import Any

import pytest
from asgi import request
from starlette.applications import Starlette

from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.settings.schema import Config, Security, Server
from mcp_endpoint.web.app import create_app
from mcp_endpoint.web.status import View

KEY = "Zx93mQ0aLw4TfYb7HsRn2VuPc6DgJe15"
PREFLIGHT = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "Authorization"}


def app(debug: bool = False, **security: Any) -> Starlette:
    def broken(detail: bool) -> dict[str, Any]:
        raise RuntimeError(f"secret of {KEY}")

    return create_app(
        View(
            config=Config(server=Server(key=KEY, debug=debug), security=Security(**security)),
            snapshot=broken,
            scrape=lambda: (b"", "text/plain"),
            uptime=lambda: 1.0,
            codec=TokenCodec(KEY),
        )
    )


@pytest.mark.row("E15", "E16")
async def test_by_default_every_origin_may_read_and_a_preflight_is_answered() -> None:
    reply = await request(app(), "/health", {"Origin": "https://elsewhere.test"})
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "*")
    reply = await request(app(), "/stats", {"Origin": "https://elsewhere.test"} | PREFLIGHT, method="OPTIONS")
    assert reply.status == 200
    assert "authorization" in reply.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.row("E15", "D20")
async def test_an_origin_that_is_not_allowed_is_refused_on_http_as_on_websocket() -> None:
    """E15 asks for a missing CORS header; design §4 enforces origins on HTTP and WebSocket alike, so a foreign page hears 403."""
    guarded = app(allowed_origins=("https://a.test", "https://b.test"))
    for origin in ("https://elsewhere.test", "null", "https://a.test.elsewhere.test", "http://a.test"):
        reply = await request(guarded, "/health", {"Origin": origin})
        assert reply.status == 403
        assert "access-control-allow-origin" not in reply.headers
        assert (await request(guarded, "/health", {"Origin": origin} | PREFLIGHT, method="OPTIONS")).status == 403


@pytest.mark.row("E15", "D20")
async def test_each_origin_of_the_list_is_allowed_and_so_are_our_own_pages_and_programs() -> None:
    guarded = app(allowed_origins=("https://a.test", "https://b.test"))
    for origin in ("https://a.test", "https://b.test"):
        reply = await request(guarded, "/health", {"Origin": origin})
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, origin)
    assert (await request(guarded, "/health", {"Origin": "http://example.test"})).status == 200
    assert (await request(guarded, "/health")).status == 200


@pytest.mark.row("E16")
async def test_with_cors_switched_off_no_header_is_given() -> None:
    reply = await request(app(enable_cors=False), "/health", {"Origin": "https://elsewhere.test"})
    assert reply.status == 200
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert (await request(app(enable_cors=False), "/health", {"Origin": "https://a.test"} | PREFLIGHT, method="OPTIONS")).status == 405


async def test_an_unknown_path_and_a_wrong_method_are_small_json() -> None:
    reply = await request(app(), "/nowhere")
    assert (reply.status, reply.json()) == (404, {"error": "not found"})
    reply = await request(app(), "/health", method="DELETE")
    assert (reply.status, reply.json()) == (405, {"error": "method not allowed"})
    assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.row("E9")
@pytest.mark.parametrize("debug", [False, True])
async def test_a_fault_of_ours_shows_no_traceback_to_anybody(debug: bool) -> None:
    """E9 lets debug show more; design §6 keeps tracebacks in the log, so a peer sees none either way."""
    failing = app(debug=debug)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/stats", "query_string": b"", "headers": [], "client": None}
    with pytest.raises(RuntimeError):  # what the server logs
        await failing(scope, receive, send)
    assert sent[0]["status"] == 500
    assert sent[1]["body"] == b"Internal Server Error"
