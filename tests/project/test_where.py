"""docs/design/where.md: a call of each kind really passes through the functions that the page names, in a running server."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import sys
import urllib.request
from pathlib import Path
from types import FrameType
from typing import Any

from running import BOUND, running
from websockets.asyncio.client import ClientConnection, connect

from mcp_endpoint.settings.schema import Config

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src/mcp_endpoint"
NOT_HERE = ("| `/sse`", "| HTTP API", "| an endpoint dialled", "| managed server", "| …", "| stateless tool")
"""Rows for what this server does not have; what stands behind `or` is another way."""


def functions() -> set[tuple[str, str]]:
    """(module with its folders, qualified name) of everything that can be called."""
    found: set[tuple[str, str]] = set()

    def look(module: str, body: list[ast.stmt], before: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add((module, before + node.name))
            elif isinstance(node, ast.ClassDef):
                look(module, node.body, f"{before}{node.name}.")

    for path in SOURCE.rglob("*.py"):
        look(path.relative_to(SOURCE).with_suffix("").as_posix(), ast.parse(path.read_text("utf-8")).body, "")
    return found


def named() -> set[tuple[str, str]]:
    """The functions that the page names for a connection and for a `tools/call`, on the ways that are tried here."""
    page = (ROOT / "docs/design/where.md").read_text("utf-8")
    part = page[page.index("## A connection opens") : page.index("**Other ends**")]
    lines = [line.partition(" or `local.")[0] for line in part.splitlines() if not line.startswith(NOT_HERE)]
    names = re.findall(r"`((?:[a-z_]+/)*[a-z_]+)\.([A-Za-z_.]+)`", "\n".join(lines))
    known = functions()
    return {one for module, name in names for one in known if one[1] == name and f"/{one[0]}".endswith(f"/{module}")}


async def tool(link: ClientConnection, name: str) -> None:
    """An MCP server with one tool."""
    async for frame in link:
        asked = json.loads(frame)
        about = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": name, "version": "1"}}
        results: dict[str, Any] = {
            "initialize": about,
            "tools/list": {"tools": [{"name": name, "inputSchema": {"type": "object"}}]},
            "tools/call": {"content": [{"type": "text", "text": name}]},
        }
        if "id" in asked:
            await link.send(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": results.get(asked["method"], {})}))


async def ask(link: ClientConnection, id: int, method: str, **params: Any) -> Any:
    """The answer that a device gets."""
    await link.send(json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
    while True:
        answer = json.loads(await link.recv())
        if answer.get("id") == id:
            return answer


async def post(port: int, method: str, params: dict[str, Any], **headers: str) -> tuple[Any, str]:
    """The answer to an HTTP client, and the id of its session."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    about = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Authorization": "Bearer kitchen"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/mcp", body, about | {name.replace("_", "-"): headers[name] for name in headers}
    )

    def send() -> tuple[Any, str]:
        with urllib.request.urlopen(request, timeout=BOUND) as response:
            return json.loads(response.read()), response.headers.get("Mcp-Session-Id", "")

    return await asyncio.to_thread(send)


async def test_a_call_passes_through_the_functions_that_the_page_names() -> None:
    seen: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("mcp_endpoint."):
            seen.add((module.partition(".")[2].replace(".", "/"), frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        async with asyncio.timeout(BOUND), running(Config()) as server:
            await calls(server.port)
    finally:
        sys.setprofile(None)
    passed = named()
    assert len(passed) > 25
    assert passed <= seen, sorted(passed - seen)


async def calls(port: int) -> None:
    """A device and two HTTP clients call the tools of two servers; then one of the servers has just left."""
    address = f"ws://127.0.0.1:{port}/mcp_endpoint"
    echo = {"name": "echo", "arguments": {}}
    async with connect(f"{address}/call/?token=kitchen") as device, connect(f"{address}/mcp/?token=kitchen") as first:
        serving = asyncio.create_task(tool(first, "echo"))
        version = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "device", "version": "1"}}
        assert (await ask(device, 1, "initialize", **version))["result"]["serverInfo"]["name"] == "echo"
        assert (await ask(device, 2, "tools/call", **echo))["result"]["content"][0]["text"] == "echo"
        about, session = await post(port, "initialize", version)
        assert about["result"]
        answer, _ = await post(port, "tools/call", echo, Mcp_Session_Id=session)
        assert answer["result"]["content"][0]["text"] == "echo"
        version = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "echo"}
        answer, _ = await post(port, "tools/call", {**echo, "_meta": version}, **headers)
        assert answer["result"]["content"][0]["text"] == "echo"
        async with connect(f"{address}/mcp/?token=kitchen&server_id=other") as second:
            also = asyncio.create_task(tool(second, "more"))
            while len((await ask(device, 3, "tools/list"))["result"]["tools"]) < 2:
                pass
            assert (await ask(device, 4, "tools/call", name="more", arguments={}))["result"]["content"][0]["text"] == "more"
        await also
        await device.send(json.dumps({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "more", "arguments": {}}}))
        assert (await ask(device, 6, "tools/call", **echo))["result"]
    serving.cancel()
