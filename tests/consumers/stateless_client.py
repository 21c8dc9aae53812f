"""A client of MCP 2026-07-28 over HTTP: each request says all of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from consumers.web import BOTH, Stream, Tool, Web, served

from mcp_endpoint.consumers.mcp_http.stateless import Stateless
from mcp_endpoint.protocol.methods import CAPABILITIES_KEY, CLIENT_KEY, LEVEL_KEY, VERSION_KEY
from mcp_endpoint.protocol.methods import STATELESS_REVISION as REVISION

BOUND = 20.0
ACCEPTED = {"action": "accept", "content": {"name": "Ada"}}
ALL = {"elicitation": {}, "sampling": {}, "roots": {}}
FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}


def said(method: str, params: Any = None, *, id: Any = 7, capabilities: Any = None, level: str | None = None, token: Any = None) -> Any:
    """One request of a stateless client."""
    meta: dict[str, Any] = {
        VERSION_KEY: REVISION,
        CLIENT_KEY: {"name": "test", "version": "1"},
        CAPABILITIES_KEY: ALL if capabilities is None else capabilities,
    }
    if level is not None:
        meta[LEVEL_KEY] = level
    if token is not None:
        meta["progressToken"] = token
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {"_meta": meta} | (params or {})}


def headers(body: Any) -> dict[str, str]:
    found = {"mcp_protocol_version": REVISION, "mcp_method": body["method"]}
    params = body["params"]
    name = params.get("uri") if body["method"] == "resources/read" else params.get("name")
    return found | ({"mcp_name": name} if isinstance(name, str) else {})


async def ask(web: Web, body: Any, status: int = 200, **more: Any) -> Any:
    """Send it; its answer, which must have this status."""
    answer = await web.post(body, accept=more.pop("accept", BOTH), **(headers(body) | more))
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert found["id"] == body["id"]
    return found


def called(arguments: Any = None, *, name: str = "echo", **more: Any) -> Any:
    rounds = {key: more.pop(key) for key in ("requestState", "inputResponses") if key in more}
    return said("tools/call", {"name": name, "arguments": arguments or {}} | rounds, **more)


@asynccontextmanager
async def stage(*names: str, limits: Any = None, answers: Any = None) -> AsyncIterator[tuple[Web, Tool]]:
    async with served(limits=limits) as web:
        tool = Tool(web.broker, *names)
        if answers is not None:
            tool.answers = answers
        yield web, tool


@asynccontextmanager
async def streamed(web: Web, body: Any, **more: Any) -> AsyncIterator[Stream]:
    async with web.stream(body, session="", **(headers(body) | more)) as stream:
        yield stream


async def settled(condition: Any) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.005)


def era(web: Web) -> Stateless:
    found = web.room._stateless
    assert isinstance(found, Stateless)
    return found
