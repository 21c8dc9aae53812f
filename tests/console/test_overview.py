"""The pages of the present: who is at which endpoint, the addresses to copy, and the servers this program brings."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from console import BEARER, PAGE, TOKEN, console, tool, toolbox
from websockets.asyncio.client import connect

from mcp_endpoint.settings.schema import Config, DialSettings, Providers, Security

SMALL = Path(__file__).parents[1] / "support" / "small_server.py"


async def test_a_server_without_tools_says_the_next_command(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        page = (await visitor.get("/console", headers=PAGE | BEARER)).text
        assert "Nobody is here yet" in page and "mcp-endpoint pipe -- python server.py" in page


async def test_each_endpoint_shows_its_tools_devices_and_addresses_and_a_search_finds_it(tmp_path: Path) -> None:
    config = Config(security=Security(opaque_tokens="always"))
    async with (
        console(config, root=tmp_path) as (server, visitor),
        toolbox(server.port, [tool("lamp")]),
        connect(f"ws://127.0.0.1:{server.port}/mcp_endpoint/call/?token=a-friend"),
    ):
        await visitor.get("/console/tools", headers=PAGE | BEARER)
        told = (await visitor.get("/console/overview.json", headers=BEARER)).json()
        shown = {one["endpoint"]: one for one in told["endpoints_shown"]}
        assert shown["single_module"]["tools"][0]["functions"] == ["lamp"]
        assert shown["single_module"]["addresses"]["tool"].startswith(f"ws://127.0.0.1:{server.port}/mcp_endpoint/mcp/?token=")
        (free,) = (one for name, one in shown.items() if name.startswith("opaque-"))
        assert free["free_form"] and "addresses" not in free and len(free["devices"]) == 1
        found = (await visitor.get("/console/overview.json?find=LAMP", headers=BEARER)).json()
        assert [one["endpoint"] for one in found["endpoints_shown"]] == ["single_module"]
        page = (await visitor.get("/console", headers=PAGE | BEARER)).text
        assert "a-friend" not in page and "free-form token" in page
        assert (await visitor.get(f"/console/connect?endpoint={free['endpoint']}", headers=PAGE | BEARER)).status_code == 404


async def test_the_addresses_work_and_stand_in_ready_blocks_and_a_qr_code(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (server, visitor):
        told = (await visitor.get("/console/connect.json?endpoint=kitchen", headers=BEARER)).json()
        addresses = told["addresses"]
        async with connect(addresses["tool"]), connect(addresses["device"]):
            assert [one.shown for one in server._broker.endpoints.values()] == ["kitchen"]
        by_name = {block["id"]: block["text"] for block in told["blocks"]}
        assert set(by_name) == {"pipe", "mcp_pipe", "xiaozhi", "claude_code", "claude_desktop", "cursor", "sdk"}
        for name in ("claude_desktop", "cursor"):
            assert "kitchen" in json.loads(by_name[name])["mcpServers"]
        compile(by_name["sdk"], "sdk", "exec")
        assert told["console"] == ""
        page = (await visitor.get("/console/connect", headers=PAGE | BEARER)).text
        assert re.search(r"<svg[^>]*qr-code", page) and "/mcp_endpoint/health?key=" in page and "style=" not in page
        signed = (await visitor.get("/console/connect.json", headers=BEARER)).json()
        assert signed["addresses"]["token"] == TOKEN


async def test_servers_and_targets_are_shown_with_their_state_and_last_words(tmp_path: Path) -> None:
    servers = {
        "clock": {"command": sys.executable, "args": ["-I", "-S", str(SMALL), "clock", "who"]},
        "broken": {"command": sys.executable, "args": ["-c", "import sys; sys.exit('no config <b>')"]},
        "wrong": {},
    }
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    config = Config(providers=Providers(file="mcp.json"), dial=(DialSettings(name="far", url="ws://127.0.0.1:1/mcp/?token=SECRETSECRET"),))
    async with console(config, root=tmp_path) as (_, visitor):
        told = (await visitor.get("/console/servers.json", headers=BEARER)).json()
        assert {one["name"] for one in told["providers"]["servers"]} == set(servers)
        page = (await visitor.get("/console/servers", headers=PAGE | BEARER)).text
        for name in (*servers, "far", "127.0.0.1:1"):
            assert name in page
        assert "SECRETSECRET" not in page and "<b>" not in page
