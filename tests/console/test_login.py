"""Who comes into the console: with the right key, once; nobody by another page's hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from console import BEARER, OURS, PAGE, TOKEN, console, tool, toolbox
from running import KEY

from mcp_endpoint.console.session import COOKIE, SECONDS
from mcp_endpoint.settings.schema import Config, Security, Server

PROXY = Config(server=Server(trusted_proxies=("127.0.0.1",), public_url="https://mcp.example/house"))
OUTSIDE = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}


def form_token(page: str) -> str:
    return page.partition('name="form_token" value="')[2].partition('"')[0]


async def test_the_key_is_shown_once_and_a_cookie_opens_every_page_after(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        answer = await visitor.post("/console/login", data={"key": KEY, "back": "/console/tools?endpoint=a"}, headers=PAGE | OURS)
        assert answer.status_code == 303 and answer.headers["location"] == "/console/tools?endpoint=a"
        cookie = answer.headers["set-cookie"]
        assert KEY not in cookie
        assert {part.strip().lower() for part in cookie.split(";")[1:]} >= {
            *("httponly", "samesite=strict", "path=/console", f"max-age={SECONDS}")
        }
        assert "secure" not in cookie.lower()
        page = await visitor.get("/console", headers=PAGE)
        assert page.status_code == 200
        left = await visitor.post("/console/logout", data={"form_token": form_token(page.text)}, headers=PAGE | OURS)
        assert left.status_code == 303
        assert (await visitor.get("/console", headers=PAGE)).status_code == 401


@pytest.mark.parametrize("path", ["/console", "/console/login", "/console/tools?endpoint=a&key=", "/console?key="])
async def test_a_key_in_the_address_is_taken_and_led_away_from_it(path: str, tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        bare = path.removesuffix("key=").rstrip("?&")
        answer = await visitor.get(f"{bare}{'&' if '?' in bare else '?'}key={KEY}", headers=PAGE)
        assert answer.status_code == 303 and answer.headers["location"] == bare.removesuffix("/login")
        assert (await visitor.get("/console", headers=PAGE)).status_code == 200


async def test_a_wrong_key_is_told_and_the_eleventh_within_a_minute_is_429_but_the_right_one_never(tmp_path: Path) -> None:
    async with console(PROXY, root=tmp_path) as (_, visitor):
        away = PAGE | OURS | OUTSIDE
        ways = (
            lambda: visitor.post("/console/login", data={"key": "wrong"}, headers=away),
            lambda: visitor.get("/console?key=wrong", headers=PAGE | OUTSIDE),
            lambda: visitor.get("/console/overview.json", headers=OUTSIDE | {"Authorization": "Bearer wrong"}),
        )
        for number in range(10):
            answer = await ways[number % 3]()
            assert answer.status_code == 401, number
            assert "Wrong key" in answer.text and "wrong" not in answer.headers.get("location", "")
        for way in ways:
            answer = await way()
            assert answer.status_code == 429 and int(answer.headers["retry-after"]) <= 60
        # Others who knock are the same address: the WebSocket's handshake counts with it.
        assert (await visitor.get("/mcp?token=mep1.x.y", headers=OUTSIDE)).status_code == 429
        assert (await visitor.post("/console/login", data={"key": KEY}, headers=away)).status_code == 303


async def test_behind_a_proxy_with_tls_and_a_prefix_the_cookie_is_secure_and_every_address_has_the_prefix(tmp_path: Path) -> None:
    async with console(PROXY, root=tmp_path) as (_, visitor):
        seen = PAGE | OURS | OUTSIDE | {"Host": "mcp.example", "Origin": "https://mcp.example"}
        answer = await visitor.post("/console/login", data={"key": KEY}, headers=seen)
        assert answer.headers["location"] == "/house/console"
        assert "; Secure" in answer.headers["set-cookie"] and "Path=/house/console" in answer.headers["set-cookie"]
        page = (await visitor.get("/console/overview", headers=PAGE | BEARER | OUTSIDE | {"Host": "mcp.example"})).text
        assert page.count('="/house/console') > 5 and '="/console' not in page


@pytest.mark.parametrize(
    "cookie", ["", "x", "a.b.c.d", "b3BlcmF0b3I.9999999999.AAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
)
async def test_a_cookie_that_is_not_ours_opens_nothing(cookie: str, tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        answer = await visitor.get("/console/overview.json", headers={"Cookie": f"{COOKIE}={cookie}"})
        assert answer.status_code == 401
        both = {"Authorization": "Bearer wrong"}
        await visitor.log_in()
        assert (await visitor.get("/console/overview.json", headers=both)).status_code == 401
        assert (await visitor.get("/console/overview.json", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 401


FOREIGN = {
    "another site": {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    "another site, says it is ours": {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    "another port of this machine": {"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-site"},
    "a sandboxed frame": {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    "a listed page": {"Origin": "https://mine.example", "Sec-Fetch-Site": "cross-site"},
    "a browser that says nothing": {},
    "typed": {"Sec-Fetch-Site": "none"},
}
LISTED = Config(security=Security(allowed_origins=("*", "https://mine.example")))


@pytest.mark.parametrize("whose", FOREIGN)
async def test_a_page_of_somebody_else_changes_nothing_though_the_cookie_and_the_header_come_along(whose: str, tmp_path: Path) -> None:
    async with console(LISTED, root=tmp_path) as (server, visitor), toolbox(server.port, [tool("lamp")]) as calls:
        await visitor.log_in()
        told = FOREIGN[whose] | {"X-Console": "1"}
        wanted = {"endpoint": "single_module", "tool": "lamp"}
        assert (await visitor.post("/console/call", json=wanted, headers=told)).status_code == 403
        assert (await visitor.post("/console/call", data=wanted, headers=told)).status_code == 403
        assert (await visitor.post("/console/logout", headers=told)).status_code == 403
        assert (await visitor.post("/console/login", data={"key": KEY}, headers=told)).status_code == 403
        assert not calls
        assert (await visitor.get("/console/overview.json")).status_code == 200


async def test_a_page_of_ours_must_prove_it_with_its_forms_token_or_the_header(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (server, visitor), toolbox(server.port, [tool("lamp")]) as calls:
        await visitor.log_in()
        own = {"Origin": f"http://127.0.0.1:{server.port}"}
        wanted = {"endpoint": "single_module", "tool": "lamp"}
        token = form_token((await visitor.get("/console/tools?tool=lamp", headers=PAGE)).text)
        assert (await visitor.post("/console/call", json=wanted, headers=own)).status_code == 403
        assert (await visitor.post("/console/call", data=wanted | {"form_token": "wrong"}, headers=own)).status_code == 403
        assert not calls
        assert (await visitor.post("/console/call", json=wanted, headers=own | {"X-Console": "1"})).json()["ok"]
        assert (await visitor.post("/console/call", data=wanted | {"form_token": token}, headers=own)).json()["ok"]
        assert len(calls) == 2


async def test_a_page_of_somebody_else_reads_nothing_but_a_link_leads_a_person_to_the_login(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        await visitor.log_in()
        led = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert (await visitor.get("/console", headers=PAGE | led)).status_code == 200  # a real browser keeps the cookie to itself
        for headers in ({"Sec-Fetch-Dest": "iframe"}, {"Sec-Fetch-Mode": "no-cors"}, {"Origin": "https://evil.example"}):
            assert (await visitor.get("/console", headers=PAGE | led | headers)).status_code == 403
        assert (await visitor.get(f"/console?key={KEY}", headers=PAGE | led)).status_code == 403
        preflight = {
            "Origin": "https://evil.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-console",
        }
        assert (await visitor.options("/console/call", headers=preflight)).status_code == 403


@pytest.mark.parametrize(
    ("back", "to"),
    [
        ("/console/tools?a=b", "/console/tools?a=b"),
        ("//evil.example", "/console"),
        ("https://evil.example", "/console"),
        ("/console/../evil", "/console"),
        ("/console\\@evil.example", "/console"),
        ("/consoles", "/console"),
        ("/console/\r\nSet-Cookie: a=b", "/console"),
        ("", "/console"),
    ],
)
async def test_after_the_login_a_form_leads_to_pages_of_this_console_only(back: str, to: str, tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        answer = await visitor.post("/console/login", data={"key": KEY, "back": back}, headers=PAGE | OURS)
        assert answer.headers["location"] == to


async def test_a_body_is_bounded_and_must_be_a_form(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        large = await visitor.post("/console/login", data={"key": "x" * 20_000}, headers=OURS)
        assert large.status_code == 413
        bad = await visitor.post("/console/login", content=b"key=%ff", headers=OURS)
        assert bad.status_code == 400 and bad.json()["error"] == "bad form"
        other = await visitor.post("/console/call", content=b"x", headers=BEARER | {"Content-Type": "text/plain"})
        assert other.status_code == 415
