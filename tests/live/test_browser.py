"""Pages in a real browser: one of another site reads nothing and attaches nothing, ours are as they were."""

from __future__ import annotations

import asyncio
import html
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from browser import browsing, chromium, shown
from running import KEY, running
from served import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from upstream import Upstream, reply, says, upstream

from mcp_endpoint.serving.server import DrainingServer
from mcp_endpoint.settings.schema import Api, Config, CredentialSettings, GatewaySettings, Limits, Providers, Security

PAGE = Path(__file__).with_name("foreign_page.html")
SMALL = Path(__file__).parents[1] / "support" / "small_server.py"
KEYS = 40
ATTEMPTS = 19
BROWSER_BOUND = 60.0
"""Seconds for a browser to start and a page to try everything, on a busy machine."""


@asynccontextmanager
async def ours(root: Path, *, origins: tuple[str, ...] = ("*",), status: int = 403) -> AsyncIterator[tuple[DrainingServer, Upstream]]:
    """A server with a managed server, an API and a gateway whose upstream answers everything with `status`."""
    (root / "mcp.json").write_text(
        json.dumps({"mcpServers": {"clock": {"command": sys.executable, "args": ["-I", "-S", str(SMALL), "clock", "who"]}}})
    )
    (root / "keys.txt").write_text("".join(f"key-number-{number}\n" for number in range(KEYS)))
    async with upstream(says(reply(status, b"said by the upstream", "Content-Type: text/plain"))) as behind:
        config = Config(
            security=Security(allowed_origins=origins),
            providers=Providers(file="mcp.json"),
            api=Api(secret="0123456789abcdef0123456789abcdefXYZ", request_log=""),
            gateway=(GatewaySettings(name="air", target=f"{behind.url}/", credentials="keys", place="query:api_key"),),
            credentials={"keys": CredentialSettings(file="keys.txt")},
            limits=Limits(),
        )
        async with running(config, root=root) as server:
            yield server, behind


class Site:
    """Another site, with a page that is after a server of ours."""

    def __init__(self) -> None:
        self.port = 0
        self.aim = 0
        """The port of our server."""
        self.told: asyncio.Future[dict[str, dict[str, str]]] = asyncio.get_running_loop().create_future()

    async def page(self, request: Request) -> Response:
        return HTMLResponse(PAGE.read_text("utf-8").replace("PORT", str(self.aim)))

    async def tell(self, request: Request) -> Response:
        self.told.set_result(await request.json())
        return Response()


@asynccontextmanager
async def theirs() -> AsyncIterator[Site]:
    site = Site()
    async with served(Starlette(routes=[Route("/", site.page), Route("/told", site.tell, methods=["POST"])])) as (site.port, _):
        yield site


def done(found: dict[str, str]) -> dict[str, str]:
    """What a page was not refused."""
    return {name: what for name, what in found.items() if what != "refused"}


@pytest.mark.parametrize("host", ["localhost", "foreign.localhost"])
async def test_a_page_of_another_site_reads_nothing_attaches_nothing_and_spends_no_key(tmp_path: Path, host: str) -> None:
    chromium()
    async with ours(tmp_path) as (server, behind), theirs() as site:
        site.aim = server.port
        async with browsing(tmp_path / "profile", f"http://{host}:{site.port}/"):
            found = await asyncio.wait_for(site.told, BROWSER_BOUND)
        assert len(found["page"]) == len(found["sandbox"]) == ATTEMPTS
        assert done(found["page"]) == done(found["sandbox"]) == {}
        assert not behind.seen
        assert not [name for name in server._broker.endpoints if name.startswith("opaque:")]
        (gateway,) = (room for room in server._rooms if room.name == "gateway")
        assert gateway.describe()["air"]["keys"]["available"] == KEYS
    assert not [*(tmp_path / "data").glob("*.bans.json")]


async def test_the_same_page_listed_by_its_name_reads_and_attaches(tmp_path: Path) -> None:
    """So the page is able to do what it is refused above."""
    chromium()
    async with theirs() as site, ours(tmp_path, origins=("*", f"http://localhost:{site.port}"), status=200) as (server, behind):
        site.aim = server.port
        async with browsing(tmp_path / "profile", f"http://localhost:{site.port}/"):
            found = await asyncio.wait_for(site.told, BROWSER_BOUND)
        page = found["page"]
        for host in ("127.0.0.1", "localhost"):
            assert '"serverInfo"' in page[f"device at {host}:{server.port}"]
            assert page[f"tool at {host}:{server.port}"].startswith("attached")
        assert "mcp_endpoint_links" in page["metrics"] and "clock" in page["api"]
        assert '"serverInfo"' in page["mcp"]
        assert page["gateway"] == page["gateway, a preflight"] == "200 said by the upstream"
        # A picture says only that it is from elsewhere, not from where.
        asked = {seen.target.partition("?")[0] for seen in behind.seen}
        assert asked == {f"/{name}" for name in ("fetch", "json", "blind", "form", "beacon")}
        assert done(found["sandbox"]) == {}


async def test_our_own_page_is_shown_with_the_key_and_without(tmp_path: Path) -> None:
    chromium()
    async with ours(tmp_path) as (server, _):
        address = f"http://127.0.0.1:{server.port}"
        page = html.unescape(await shown(tmp_path / "one", f"{address}/"))
        assert "MCP Endpoint Server" in page and 'type="password"' in page and KEY not in page
        page = html.unescape(await shown(tmp_path / "two", f"{address}/mcp_endpoint/?key={KEY}"))
        assert f"/mcp_endpoint/health?key={KEY}" in page and "clock" in page
        assert "mcp_endpoint_links" in await shown(tmp_path / "three", f"{address}/metrics")
