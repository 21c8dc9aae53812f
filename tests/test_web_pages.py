"""What a web page may ask for: every origin at every way in, through the running server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from running import BOUND, KEY, running
from upstream import Upstream, reply, says, upstream

from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.consumers.http_api.jwt import Bearers
from mcp_endpoint.serving.server import DrainingServer
from mcp_endpoint.settings.schema import Api, Config, GatewaySettings, Security
from mcp_endpoint.settings.schema import Server as Settings

SECRET = "0123456789abcdef0123456789abcdefXYZ"
JWT = Bearers(SECRET, "HS256").make("page", 600)
SIGNED = TokenCodec(KEY).make_signed("home")
XIAOZHI = TokenCodec(KEY).make_xiaozhi("home").replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
HELLO = (
    '{"jsonrpc":"2.0","id":1,"method":"initialize","params":'
    '{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}'
)
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
POST = ("Content-Type: application/json", "Accept: application/json, text/event-stream", f"Content-Length: {len(HELLO)}")
LISTED = "https://mine.example"

WITHOUT_SECRET = {
    "tool": ("GET /mcp_endpoint/mcp/?token=friend", UPGRADE, 101),
    "device": ("GET /mcp_endpoint/call/?token=friend", UPGRADE, 101),
    "device by header": ("GET /mcp_endpoint/call/", (*UPGRADE, "Authorization: Bearer friend"), 101),
    "mcp": ("POST /mcp", (*POST, "Authorization: Bearer friend"), 200),
    "mcp by address": ("POST /mcp?token=friend", POST, 200),
    "mcp without a session": ("GET /mcp?token=friend", ("Accept: text/event-stream",), 400),
    "sse": ("GET /sse?token=friend", ("Accept: text/event-stream",), 200),
    "sse by header": ("GET /sse", ("Accept: text/event-stream", "Authorization: Bearer friend"), 200),
    "api": ("GET /api/health", (), 503),
    "api document": ("GET /api/openapi.json", (), 200),
    "api, made up": ("GET /api/health?token=anything", (), 503),
    "api, made up in the header": ("GET /api/health/", ("Authorization: Bearer anything",), 503),
    "api, two": (f"GET /api/openapi.json?token={JWT}", ("Authorization: Bearer anything",), 200),
    "metrics": ("GET /metrics", (), 200),
    "gateway": ("GET /gateway/air/x", (), 200),
    "gateway, a form": ("POST /gateway/air/x", ("Content-Type: text/plain", "Content-Length: 0"), 200),
    # The console's pages are for its own pages, whatever another one knows.
    "console": ("GET /console/overview.json", (f"Authorization: Bearer {KEY}",), 200),
    "console, log-in by address": (f"GET /console?key={KEY}", (), 303),
    "console, a tool's call": ("POST /console/call", (*POST, f"Authorization: Bearer {KEY}"), 400),
    "gateway, with the key": (f"GET /gateway/air/x?key={KEY}", (), 200),
}
"""Way in → request line, headers, and the status for who is no page of somebody else."""
WITH_SECRET = {
    "tool": (f"GET /mcp_endpoint/mcp/?token={SIGNED}", UPGRADE, 101),
    "device": (f"GET /mcp_endpoint/call/?token={XIAOZHI}", UPGRADE, 101),
    "mcp": ("POST /mcp", (*POST, f"Authorization: Bearer {SIGNED}"), 200),
    "mcp by address": (f"POST /mcp?token={SIGNED}", POST, 200),
    "mcp of the operator": (f"POST /mcp/home?token={KEY}", POST, 200),
    "api": ("GET /api/servers", (f"Authorization: Bearer {JWT}",), 200),
    "api by address": (f"GET /api/servers?token={JWT}", (), 200),
    "api health": ("GET /api/health", (f"Authorization: Bearer {JWT}",), 503),
    "api with a wrong token": (f"GET /api/servers?token={JWT}x", (), 401),
    "metrics": ("GET /metrics", (f"Authorization: Bearer {KEY}",), 200),
    "stats": (f"GET /stats?key={KEY}", (), 200),
    "console": (f"GET /mcp_endpoint/health?key={KEY}", (), 200),
    "counts": ("GET /stats", (), 200),
    "health": ("GET /health", (), 200),
    "page": ("GET /mcp_endpoint/", ("Accept: text/html",), 200),
}
OURS: dict[str, Sequence[str]] = {
    "a program": (),
    "our page": ("Origin: http://127.0.0.1:PORT", "Sec-Fetch-Site: same-origin"),
    "our page, no Origin": ("Sec-Fetch-Site: same-origin", "Referer: http://127.0.0.1:PORT/mcp_endpoint/"),
    "an address that was typed": ("Sec-Fetch-Site: none",),
    "our page by another name of this machine": ("Origin: http://localhost:PORT", "Sec-Fetch-Site: cross-site"),
    "our page by IPv6": ("Origin: http://[0:0:0:0:0:0:0:1]:PORT",),
    "our page over TLS": ("Origin: https://localhost:PORT",),
    "our page in capitals": ("Origin: HTTP://LOCALHOST:PORT",),
    "a listed page": (f"Origin: {LISTED}", "Sec-Fetch-Site: cross-site"),
    "a listed page, its port written": (f"Origin: {LISTED.upper()}:443",),
    "an old browser on our page": ("Referer: http://127.0.0.1:PORT/stats?x=http://evil.example",),
    "a program that says something in Referer": ("Referer: my program",),
}
FOREIGN: dict[str, Sequence[str]] = {
    "a page": ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site"),
    "a sandboxed frame, a file": ("Origin: null",),
    "another port of this machine": ("Origin: http://127.0.0.1:3000", "Sec-Fetch-Site: same-site"),
    "the default port of this machine": ("Origin: http://127.0.0.1",),
    "another port by name": ("Origin: http://localhost:3000",),
    "a name below localhost": ("Origin: http://evil.localhost:PORT",),
    "another loopback address": ("Origin: http://127.0.0.2:PORT",),
    "a picture": ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"),
    "a picture of a neighbour": ("Sec-Fetch-Site: same-site",),
    "a picture in capitals": ("Sec-Fetch-Site: Cross-Site",),
    "a browser of the future": ("Sec-Fetch-Site: elsewhere",),
    "a picture in an old browser": ("Referer: https://evil.example/127.0.0.1:PORT/",),
    "user and host": ("Origin: http://127.0.0.1:PORT@evil.example",),
    "our name in front": ("Origin: http://127.0.0.1:PORT.evil.example",),
    "a listed name in front": (f"Origin: {LISTED}.evil.example",),
    "a listed name by http": ("Origin: http://mine.example",),
    "a listed name at another port": (f"Origin: {LISTED}:8443",),
    "a listed name and a dot": (f"Origin: {LISTED}.",),
    "two in one": (f"Origin: {LISTED}, https://evil.example",),
    "an empty one": ("Origin: ",),
    "another way of writing": ("Origin: http://0x7f.1:PORT",),
    "typed, it says": ("Origin: https://evil.example", "Sec-Fetch-Site: none"),
    "ours, it says": ("Origin: https://evil.example", "Sec-Fetch-Site: same-origin"),
    "ours, though from elsewhere": ("Origin: http://127.0.0.1:PORT", "Sec-Fetch-Site: cross-site"),
    "for another host, it says": ("Origin: https://evil.example", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https"),
}


async def status(
    server: DrainingServer, line: str, headers: Sequence[str], body: str = "", host: str = "127.0.0.1:PORT"
) -> tuple[int, str]:
    """The status of one request, and its head."""
    method, _, target = line.partition(" ")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers, *(() if "Upgrade: websocket" in headers else ("Connection: close",))]
    head = "\r\n".join((*lines, "", "")).replace("PORT", str(server.port))
    async with asyncio.timeout(BOUND):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write((head + body).encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        writer.close()
    found = re.match(r"HTTP/1\.1 (\d+) ", answer)
    assert found, answer
    return int(found[1]), answer


def body_of(line: str, headers: Sequence[str]) -> str:
    return HELLO if f"Content-Length: {len(HELLO)}" in headers else ""


@asynccontextmanager
async def served(
    root: Path, standalone: str = "", settings: Settings | None = None, **security: object
) -> AsyncIterator[tuple[DrainingServer, Upstream]]:
    """A server with every way in, and what its gateway leads to."""
    security.setdefault("allowed_origins", ("*", "null", LISTED))
    async with upstream(says(reply(200, b"secret of the upstream"))) as behind:
        config = Config(
            server=settings or Settings(legacy_sse=True),
            security=Security(**security),  # type: ignore[arg-type]
            gateway=(GatewaySettings(name="air", target=f"{behind.url}/"),),
            api=Api(secret=SECRET, request_log=""),
        )
        async with running(config, root=root, standalone=standalone) as server:
            yield server, behind


async def test_a_page_of_somebody_else_opens_nothing_without_a_secret(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, behind):
        for page, marks in FOREIGN.items():
            for way, (line, headers, _) in WITHOUT_SECRET.items():
                found, head = await status(server, line, (*headers, *marks), body_of(line, headers))
                assert found == 403, f"{page} at {way}: {found}"
                assert "access-control-allow-origin" not in head.lower(), f"{page} may read the refusal at {way}"
        assert not behind.seen
        assert not server._broker.endpoints


async def test_programs_our_own_pages_and_listed_ones_open_what_they_opened_before(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, behind):
        for page, marks in OURS.items():
            for way, (line, headers, expected) in (WITHOUT_SECRET | WITH_SECRET).items():
                found, _ = await status(server, line, (*headers, *marks), body_of(line, headers))
                assert found == expected, f"{page} at {way}: {found}"
        assert len(behind.seen) == 3 * len(OURS)


async def test_a_secret_opens_to_every_page(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, _):
        for page, marks in FOREIGN.items():
            for way, (line, headers, expected) in WITH_SECRET.items():
                found, _ = await status(server, line, (*headers, *marks), body_of(line, headers))
                assert found == expected, f"{page} at {way}: {found}"


async def test_two_origins_are_nobodys(tmp_path: Path) -> None:
    """websockets refuses such a handshake with 400 before we look at it."""
    both = (f"Origin: {LISTED}", "Origin: http://127.0.0.1:PORT")
    async with served(tmp_path) as (server, behind):
        for way, (line, headers, _) in WITHOUT_SECRET.items():
            found, _ = await status(server, line, (*headers, *both), body_of(line, headers))
            assert found in (400, 403), way
        assert not behind.seen


async def test_a_preflight_says_what_the_request_will_hear(tmp_path: Path) -> None:
    wanted = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,content-type")
    plain = (wanted[0], "Access-Control-Request-Headers: content-type")
    evil = ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site")
    async with served(tmp_path) as (server, behind):
        for path, asked, foreign in (
            ("/gateway/air/x", wanted, 403),
            (f"/gateway/air/x?key={KEY}", wanted, 403),
            ("/mcp?token=friend", wanted, 403),
            ("/mcp", wanted, 200),
            (f"/mcp?token={SIGNED}", plain, 200),
            ("/api/tools", wanted, 200),
            ("/api/tools", plain, 403),
            (f"/api/tools?token={JWT}", plain, 200),
            ("/metrics", wanted, 200),
            ("/health", plain, 200),
        ):
            found, head = await status(server, f"OPTIONS {path}", (*asked, *evil))
            assert (found, "access-control-allow-origin" in head.lower()) == (foreign, foreign == 200), path
            found, _ = await status(server, f"OPTIONS {path}", (*asked, f"Origin: {LISTED}"))
            assert found == 200, path
        assert not behind.seen


@pytest.mark.parametrize(("standalone", "path"), [("gateway", "/x"), ("gateway", "/"), ("gateway", "/stats"), ("api", "/health")])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_room_that_has_the_port_to_itself_is_as_careful(tmp_path: Path, standalone: str, path: str, host: str) -> None:
    async with served(tmp_path, standalone, Settings(host=host)) as (server, behind):
        for page, marks in FOREIGN.items():
            found, _ = await status(server, f"GET {path}", marks)
            assert found == 403, page
        assert not behind.seen
        assert (await status(server, f"GET {path}", ()))[0] in (200, 503)


async def test_a_name_that_only_a_star_lets_in_is_nobodys_own(tmp_path: Path) -> None:
    """With `allowed_hosts = "*"` a page may point a name of its own at this machine."""
    marks = ("Origin: http://evil.example:PORT", "Sec-Fetch-Site: same-origin")
    async with served(tmp_path, allowed_hosts=("*", "nas.example")) as (server, _):
        for way, (line, headers, expected) in WITHOUT_SECRET.items():
            found, _ = await status(server, line, (*headers, *marks), body_of(line, headers), "evil.example:PORT")
            assert found == 403, way
            named = ("Origin: http://nas.example:PORT",)
            found, _ = await status(server, line, (*headers, *named), body_of(line, headers), "nas.example:PORT")
            assert found == expected, way


async def test_a_name_of_somebody_else_is_not_answered(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, behind):
        for way, (line, headers, _) in WITHOUT_SECRET.items():
            found, _ = await status(server, line, headers, body_of(line, headers), "evil.example:PORT")
            assert found == 421, way
        assert not behind.seen


async def test_behind_a_proxy_with_tls_the_page_of_the_public_address_is_ours(tmp_path: Path) -> None:
    settings = Settings(trusted_proxies=("127.0.0.1",), public_url="https://mcp.example.com/somewhere")
    forwarded = ("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https")
    async with served(tmp_path, settings=settings, opaque_tokens="always", allowed_hosts=("*.example.com", "other.example")) as (server, _):
        for host, origin, expected in (
            ("mcp.example.com", "https://mcp.example.com", True),
            ("127.0.0.1:PORT", "https://mcp.example.com:443", True),
            ("other.example", "https://other.example", True),
            ("other.example", "http://other.example", False),
            ("mcp.example.com", "https://example.com", False),
        ):
            for way in ("tool", "mcp"):
                line, headers, good = WITHOUT_SECRET[way]
                found, _ = await status(server, line, (*headers, *forwarded, f"Origin: {origin}"), body_of(line, headers), host)
                assert found == (good if expected else 403), f"{origin} under {host} at {way}"
