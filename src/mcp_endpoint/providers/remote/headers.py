"""The HTTP headers that mirror parts of a message (MCP 2025-06-18 and 2026-07-28, Streamable HTTP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.shared.inbound import encode_header_value, mcp_param_headers, x_mcp_header_map
from msgspec import UNSET

from ...protocol import methods
from ...protocol.definitions import identity
from ...protocol.jsonrpc import Frame
from ...protocol.stateless import fields, objects, text


def envelope() -> dict[str, Any]:
    """The `_meta` members that identify the client (MCP 2026-07-28)."""
    return {methods.VERSION_KEY: methods.STATELESS_REVISION, methods.CLIENT_KEY: identity(), methods.CAPABILITIES_KEY: {}}


def headers_of(frame: Frame, chosen: str, tools: Mapping[str, Any]) -> dict[str, str]:
    """The headers of one message; `chosen` is the negotiated revision, `tools` says which arguments a call mirrors in headers."""
    known = {methods.VERSION_HEADER: chosen} if chosen else {}
    if frame.method is UNSET:  # an answer
        return known
    if frame.method == methods.INITIALIZE:
        return {}
    params = fields(frame.params)
    version = text(fields(params.get(methods.META, UNSET)).get(methods.VERSION_KEY))
    if version is None:
        return known
    headers = {methods.VERSION_HEADER: version, methods.METHOD_HEADER: frame.method}
    name = text(params.get("name")) if frame.method in (methods.TOOLS_CALL, methods.PROMPTS_GET) else text(params.get("uri"))
    if name is not None:
        headers[methods.NAME_HEADER] = encode_header_value(name)
    if frame.method == methods.TOOLS_CALL and name is not None and name in tools:
        headers |= mcp_param_headers(tools[name], objects(params.get("arguments", UNSET)))
    return headers


def tools_with_headers(frame: Frame) -> dict[str, Any]:
    """Tool name → arguments it wants in headers, from a response to tools/list."""
    if frame.result is UNSET or b"x-mcp-header" not in bytes(frame.result):
        return {}
    tools = objects(frame.result).get("tools") or ()
    return {
        tool["name"]: x_mcp_header_map(tool.get("inputSchema"))
        for tool in tools
        if isinstance(tool, dict) and isinstance(tool.get("name"), str)
    }
