"""The overview pages: endpoints with their parties, addresses to copy, and managed servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from ..access.addresses import console_address, endpoint_addresses, hints
from ..access.tokens import NAME, SINGLE_MODULE, TokenCodec
from ..core.broker import INNER, Broker
from ..pages import NotThere, Page, Visit
from ..settings.schema import Config
from .calls import Calls

SHOWN: Final = 100
"""Most endpoints on one page; a search finds the others."""
LEFT: Final = 10
"""Endpoints without links that are shown with the last that left."""
Report = Callable[[], Mapping[str, Any]]
"""What `/stats` tells the holder of the key."""


class Overview:
    """The pages of one server."""

    def __init__(self, config: Config, broker: Broker, codec: TokenCodec, report: Report) -> None:
        self._config = config
        self._broker = broker
        self._codec = codec
        self._report = report

    def pages(self, calls: Calls) -> list[Page]:
        """The pages of the present, in the order of the navigation."""
        return [
            Page("overview", "Overview", "概览", "status.read", "overview.html", self.overview),
            Page("connect", "Connect", "接入", "addresses.read", "connect.html", self.connect),
            Page("tools", "Tools", "工具", "status.read", "tools.html", calls.facts),
            Page("servers", "Servers", "服务器", "status.read", "servers.html", self.servers),
        ]

    async def overview(self, visit: Visit) -> Mapping[str, Any]:
        """The figures, each endpoint with its tools, devices and addresses, and those that were left."""
        found = dict(self._report())
        names = [name for name in self._broker.endpoints if not name.startswith(INNER)]
        endpoints = [{**told, **self._addresses(visit, name)} for name, told in zip(names, found.pop("endpoint_details"), strict=True)]
        find = visit.query.get("find", "").strip()
        matching = [one for one in endpoints if find.lower() in _words(one)]
        return {
            **found,
            "endpoints_shown": matching[:SHOWN],
            "endpoints_matching": len(matching),
            "find": find,
            "left": found["left"][:LEFT],
            "default": SINGLE_MODULE,
            "hints": self._hints(visit),
        }

    async def connect(self, visit: Visit) -> Mapping[str, Any]:
        """The addresses of one endpoint, as texts to copy, as a QR code and as ready blocks for clients."""
        shown = visit.query.get("endpoint") or SINGLE_MODULE
        name = next((one.name for one in self._broker.endpoints.values() if one.shown == shown and not one.name.startswith(INNER)), "")
        if not name and not NAME.fullmatch(shown):
            raise NotThere(
                "An endpoint's name is 1 to 64 letters, digits, _ and -",
                "接入点名称为 1 到 64 个字母、数字、_ 和 -",
            )
        addresses = self._addresses(visit, name or f"agent:{shown}")
        if "addresses" not in addresses:
            raise NotThere(
                "Whoever chose the token of this endpoint has its address: the server keeps no token",
                "此接入点的地址在自取令牌的人手中：服务器不保存令牌",
            )
        console = console_address(visit.address, self._config.server.key) if shown == SINGLE_MODULE else ""
        return {
            "endpoint": shown,
            "endpoints": sorted({one.shown for one in self._broker.endpoints.values() if not one.name.startswith((INNER, "opaque:"))}),
            **addresses,
            "console": console,
            "blocks": blocks(shown, addresses["addresses"]),
            "hints": self._hints(visit),
        }

    async def servers(self, visit: Visit) -> Mapping[str, Any]:
        """Managed servers, targets that are dialled, gateways and pools of keys; None for what is not configured."""
        rooms = self._report().get("rooms", {})
        return {
            "providers": rooms.get("providers"),
            "dial": rooms.get("dial", {}).get("targets"),
            "gateways": rooms.get("gateway"),
            "keys": rooms.get("keys"),
            "api": rooms.get("api"),
        }

    def without_records(self) -> list[Page]:
        """What stands in the place of the pages of records where nothing is recorded: how to begin."""

        async def nothing(visit: Visit) -> Mapping[str, Any]:
            return {"recorded": False}

        return [Page("records", "Records", "记录", "records.read", "records_off.html", nothing)]

    def _addresses(self, visit: Visit, name: str) -> dict[str, Any]:
        """The addresses of an endpoint by its full name, for whoever may know them; none of one whose token somebody has chosen."""
        kind, _, shown = name.partition(":")
        if kind not in ("agent", "signed") or not visit.may("addresses.read"):
            return {}
        token = self._codec.make_xiaozhi(shown) if kind == "agent" else self._codec.make_signed(shown)
        pair = endpoint_addresses(visit.address, token)
        http = f"{visit.address}/mcp"
        return {
            "addresses": {
                "tool": pair.tool,
                "device": pair.device,
                "http": http,
                "http_with_token": f"{http}?token={quote(token, safe='')}",
                "token": token,
            }
        }

    def _hints(self, visit: Visit) -> list[dict[str, str]]:
        token = self._codec.make_xiaozhi(SINGLE_MODULE)
        return [hint._asdict() for hint in hints(self._config.server, visit.address, token, contained=False)]


def _words(endpoint: Mapping[str, Any]) -> str:
    """What a search looks at: the endpoint's name, its tools and their functions, its devices."""
    tools = [word for tool in endpoint["tools"] for word in (tool["label"], *tool["functions"])]
    return "\n".join([endpoint["endpoint"], *tools, *(one["client"] for one in endpoint["devices"])]).lower()


def blocks(shown: str, addresses: Mapping[str, str]) -> list[dict[str, str]]:
    """What to paste where: each with `id`, titles in both languages, what it is for, and the text."""
    name = "tools" if shown == SINGLE_MODULE else shown
    header = f"Authorization: Bearer {addresses['token']}"
    url = addresses["http"]
    return [
        {
            "id": "pipe",
            "en": "A tool: pipe",
            "zh": "工具端：pipe",
            "text": f"export MCP_ENDPOINT='{addresses['tool']}'\nmcp-endpoint pipe -- python server.py",
        },
        {
            "id": "mcp_pipe",
            "en": "A tool: mcp_pipe.py",
            "zh": "工具端：mcp_pipe.py",
            "text": f"export MCP_ENDPOINT='{addresses['tool']}'\npython mcp_pipe.py server.py",
        },
        {
            "id": "xiaozhi",
            "en": "xiaozhi-server: data/.config.yaml",
            "zh": "xiaozhi-server：data/.config.yaml",
            "text": f"mcp_endpoint: {addresses['tool']}",
        },
        {
            "id": "claude_code",
            "en": "Claude Code",
            "zh": "Claude Code",
            "text": f'claude mcp add --transport http {name} {url} --header "{header}"',
        },
        {
            "id": "claude_desktop",
            "en": "Claude Desktop: claude_desktop_config.json",
            "zh": "Claude Desktop：claude_desktop_config.json",
            "text": "{\n"
            '  "mcpServers": {\n'
            f'    "{name}": {{"command": "mcp-endpoint", "args": ["stdio", "-e", "{addresses["device"]}"]}}\n'
            "  }\n"
            "}",
        },
        {
            "id": "cursor",
            "en": "Cursor: .cursor/mcp.json",
            "zh": "Cursor：.cursor/mcp.json",
            "text": "{\n"
            '  "mcpServers": {\n'
            f'    "{name}": {{"url": "{url}", "headers": {{"Authorization": "Bearer {addresses["token"]}"}}}}\n'
            "  }\n"
            "}",
        },
        {
            "id": "sdk",
            "en": "Python SDK (pip install mcp)",
            "zh": "Python SDK（pip install mcp）",
            "text": "import asyncio\n\nimport httpx2\nfrom mcp.client import Client\n"
            "from mcp.client.streamable_http import streamable_http_client\n\n\n"
            "async def main():\n"
            f'    http = httpx2.AsyncClient(headers={{"Authorization": "Bearer {addresses["token"]}"}})\n'
            f'    async with Client(streamable_http_client("{url}", http_client=http)) as client:\n'
            "        print([tool.name for tool in (await client.list_tools()).tools])\n\n\n"
            "asyncio.run(main())",
        },
    ]
