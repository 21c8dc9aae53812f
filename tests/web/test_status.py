"""What the server tells: to everybody that it lives and how busy it is, to the holder of the key who is there."""

from __future__ import annotations

from typing import Any

import pytest
from asgi import Reply, request
from starlette.applications import Starlette

from mcp_endpoint import __version__
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.settings.schema import Config, ConsoleSettings, Server
from mcp_endpoint.web.app import create_app
from mcp_endpoint.web.status import View

KEY = "Zx93mQ0aLw4TfYb7HsRn2VuPc6DgJe15"


def snapshot(detail: bool) -> dict[str, Any]:
    counts = {"endpoints": 2, "tool_connections": 1, "device_connections": 3, "session_connections": 1}
    found: dict[str, Any] = {**counts, "in_flight": 4, "counters": {"requests": 9, "links_closed_1006": 2}}
    if detail:
        tool = {
            "label": "calc",
            "state": "ready",
            "connected_seconds": 61.0,
            "in_flight": 4,
            "doubtful": False,
            "functions": ["calculator", "<b>天气</b>"],
            "why_bare": "",
        }
        found["endpoint_details"] = [
            {"endpoint": "home", "in_flight": 4, "tools": [tool], "devices": [{}, {}], "sessions": [{}]},
            {
                "endpoint": "home",
                "in_flight": 0,
                "tools": [],
                "devices": [{}],
                "sessions": [],
                "last_close": {"at": "2026-01-02T03:04:05+00:00", "code": 1006, "reason": "<cut>"},
            },
        ]
        found["left"] = [{"endpoint": "old home", "last_close": found["endpoint_details"][1]["last_close"]}]
    return found


def view(key: str = KEY, **server: Any) -> View:
    return View(
        config=Config(server=Server(key=key, **server)),
        snapshot=snapshot,
        scrape=lambda: (b"figures 1\n", "text/plain"),
        uptime=lambda: 3_723.5,
        codec=TokenCodec(key or KEY),
    )


@pytest.fixture
def app() -> Starlette:
    return create_app(view())


async def page(app: Starlette, language: str = "en", query: str = "", **options: Any) -> Reply:
    reply = await request(app, f"/mcp_endpoint/{query}", {"Accept": "text/html,*/*", "Accept-Language": language}, **options)
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    return reply


@pytest.mark.row("E5", "D24")
async def test_health_says_that_the_process_lives_without_any_key(app: Starlette) -> None:
    reply = await request(app, "/health")
    assert (reply.status, reply.json()) == (200, {"status": "ok", "version": __version__, "uptime_seconds": 3723.5})


@pytest.mark.row("E5")
async def test_ready_turns_503_while_draining_and_health_does_not() -> None:
    """E5 asks for a health other than 200 when not ready; design §4 gives that to /ready and keeps /health for liveness."""
    seen = view()
    app = create_app(seen)
    assert (await request(app, "/ready")).status == 200
    seen.state = "draining"
    reply = await request(app, "/ready")
    assert (reply.status, reply.json()) == (503, {"status": "draining"})
    assert (await request(app, "/health")).status == 200


@pytest.mark.row("E4", "D24")
async def test_stats_tells_counts_to_everybody_and_names_to_nobody(app: Starlette) -> None:
    reply = await request(app, "/stats")
    assert reply.status == 200
    body = reply.json()
    assert (body["tool_connections"], body["device_connections"], body["in_flight"]) == (1, 3, 4)
    assert "endpoint_details" not in body
    assert "home" not in reply.text


@pytest.mark.parametrize(("url", "headers"), [(f"/stats?key={KEY}", {}), ("/stats", {"Authorization": f"Bearer {KEY}"})])
async def test_stats_tells_the_holder_of_the_key_who_is_there(app: Starlette, url: str, headers: dict[str, str]) -> None:
    reply = await request(app, url, headers)
    assert [endpoint["endpoint"] for endpoint in reply.json()["endpoint_details"]] == ["home", "home"]
    assert reply.headers["cache-control"] == "no-store"
    assert KEY not in reply.text


async def test_stats_keeps_the_old_names_of_its_members_for_one_release(app: Starlette) -> None:
    """A script that reads `last_goodbye` and `goodbyes_CODE` goes on; one that reads the new names finds the same."""
    everybody, details = (await request(app, "/stats")).json(), (await request(app, f"/stats?key={KEY}")).json()
    for body in (everybody, details):
        assert body["counters"] == {"requests": 9, "links_closed_1006": 2, "goodbyes_1006": 2}
    (never_left, left), (gone,) = details["endpoint_details"], details["left"]
    assert left["last_close"] == left["last_goodbye"] == gone["last_close"] == gone["last_goodbye"]
    assert not {"last_close", "last_goodbye"} & never_left.keys()


@pytest.mark.row("D31")
@pytest.mark.parametrize("path", ["/stats", "/metrics", "/mcp_endpoint/health"])
@pytest.mark.parametrize("key", ["", KEY[:-1], KEY + "x", KEY.lower(), "密钥", "%ff%fe"])
async def test_a_wrong_key_is_401_wherever_a_key_is_asked_for(app: Starlette, path: str, key: str) -> None:
    assert (await request(app, f"{path}?key={key}")).status == 401
    assert (await request(app, path, {"Authorization": f"Bearer {key}"})).status == 401


async def test_an_empty_key_in_the_address_leaves_the_header_and_two_that_differ_are_none(app: Starlette) -> None:
    for address, header, expected in (("", KEY, 200), (KEY, "", 200), (KEY, KEY, 200), (KEY, "wrong", 401), ("wrong", KEY, 401)):
        assert (await request(app, f"/stats?key={address}", {"Authorization": f"Bearer {header}"})).status == expected


async def test_a_server_without_a_key_knows_nobody() -> None:
    assert (await request(create_app(view(key="")), "/stats?key=")).status == 401


async def test_metrics_are_for_the_key_and_for_direct_loopback_only(app: Starlette) -> None:
    assert (await request(app, "/metrics")).status == 401
    assert (await request(app, "/metrics", {"Authorization": f"Bearer {KEY}"})).body == b"figures 1\n"
    assert (await request(app, "/metrics", client="127.0.0.1")).status == 200
    assert (await request(app, "/metrics", client="::1")).status == 200
    assert (await request(app, "/metrics", {"X-Forwarded-For": "127.0.0.1"}, client="127.0.0.1")).status == 401
    assert (await request(app, "/metrics", {"Forwarded": "for=127.0.0.1"}, client="127.0.0.1")).status == 401


@pytest.mark.row("U4")
async def test_the_root_leads_to_the_endpoint_page_and_its_json_is_the_originals(app: Starlette) -> None:
    reply = await request(app, "/")
    assert (reply.status, reply.headers["location"]) == (307, "/mcp_endpoint/")
    for query in (f"?key={KEY}", "?a=1&b=%E4%BD%A0&a=2"):
        assert (await request(app, f"/{query}")).headers["location"] == f"/mcp_endpoint/{query}"
    for path in ("/mcp_endpoint/", "/mcp_endpoint"):
        assert (await request(app, path, {"Accept": "*/*"})).json() == {
            "result": {"message": "MCP Endpoint Server", "version": __version__, "status": "running"},
            "error": None,
            "id": None,
            "jsonrpc": "2.0",
        }


@pytest.mark.row("U5")
async def test_the_health_of_the_original_satisfies_manager_api(app: Starlette) -> None:
    reply = await request(app, f"/mcp_endpoint/health?key={KEY}")
    assert reply.status == 200
    assert "success" in reply.text
    assert reply.json() == {
        "result": {
            "status": "success",
            "connections": {
                "tool_connections": 1,
                "robot_connections": 3,
                "total_connections": 4,
                "robot_connections_by_agent": {"home": 3},
            },
        },
        "error": None,
        "id": None,
        "jsonrpc": "2.0",
    }


@pytest.mark.row("U5")
@pytest.mark.parametrize("query", ["", "?key=", "?key=wrong", "?key=success"])
async def test_a_wrong_key_never_hears_the_word_success(app: Starlette, query: str) -> None:
    reply = await request(app, f"/mcp_endpoint/health{query}")
    assert (reply.status, reply.json()["error"]) == (401, {"code": -32004, "message": "密钥验证失败"})
    assert "success" not in reply.text.lower()


@pytest.mark.parametrize("side", ["mcp", "call"])
async def test_a_browser_on_a_websocket_address_is_told_what_it_is(app: Starlette, side: str) -> None:
    for path in (f"/mcp_endpoint/{side}", f"/mcp_endpoint/{side}/"):
        reply = await request(app, f"{path}?token=abc")
        assert (reply.status, reply.headers["upgrade"]) == (426, "websocket")
        assert "abc" not in reply.text


async def test_the_page_speaks_the_language_of_the_browser(app: Starlette) -> None:
    english, chinese = await page(app, "en-GB,en;q=0.9,zh;q=0.3"), await page(app, "zh-CN,zh;q=0.9,en;q=0.8")
    assert 'lang="en"' in english.text
    assert "running" in english.text
    assert "1 h 2 min" in english.text
    assert 'lang="zh-CN"' in chinese.text
    assert "运行中" in chinese.text
    assert chinese.headers["content-language"] == "zh-CN"


async def test_without_the_key_the_page_shows_neither_addresses_nor_names(app: Starlette) -> None:
    reply = await page(app)
    assert reply.status == 200
    assert "token=" not in reply.text
    assert "home" not in reply.text
    assert "<form" in reply.text


async def test_a_wrong_key_on_the_page_is_401_and_still_readable(app: Starlette) -> None:
    reply = await page(app, query="?key=nonsense")
    assert reply.status == 401
    assert "key is wrong." in reply.text
    assert "nonsense" not in reply.text


async def test_with_the_key_the_page_shows_the_addresses_as_this_browser_reached_it(app: Starlette) -> None:
    reply = await page(app, query=f"?key={KEY}", scheme="https")
    assert f"https://example.test/mcp_endpoint/health?key={KEY}" in reply.text
    assert "wss://example.test/mcp_endpoint/mcp/?token=" in reply.text
    assert "wss://example.test/mcp_endpoint/call/?token=" in reply.text
    assert reply.headers["cache-control"] == "no-store"


async def test_public_url_comes_before_what_the_browser_used() -> None:
    reply = await page(create_app(view(public_url="https://mcp.example.org/deep/mcp_endpoint")), query=f"?key={KEY}")
    assert f"https://mcp.example.org/deep/mcp_endpoint/health?key={KEY}" in reply.text
    assert "example.test" not in reply.text


async def test_the_page_warns_of_an_address_that_only_this_machine_reaches(app: Starlette) -> None:
    reply = await request(app, f"/mcp_endpoint/?key={KEY}", {"Accept": "text/html", "Host": "127.0.0.1:8004"})
    assert "reachable from this machine only" in reply.text


async def test_foreign_text_on_the_page_is_escaped_and_nothing_is_loaded_from_outside(app: Starlette) -> None:
    reply = await request(app, f"/mcp_endpoint/?key={KEY}", {"Accept": "text/html", "Host": '"><script>'})
    assert "<script" not in reply.text
    assert "&lt;b&gt;天气&lt;/b&gt;" in reply.text
    assert "1006 &lt;cut&gt;" in reply.text
    assert reply.headers["content-security-policy"].startswith("default-src 'none'")
    assert "src=" not in reply.text


async def test_the_page_leads_to_the_console_where_there_is_one(app: Starlette) -> None:
    html = {"accept": "text/html", "accept-language": "en"}
    assert 'href="../console"' in (await request(app, "/mcp_endpoint/", html)).text
    off = view()
    off.config = Config(server=off.config.server, console=ConsoleSettings(on=False))
    assert "console" not in (await request(create_app(off), "/mcp_endpoint/", html)).text
