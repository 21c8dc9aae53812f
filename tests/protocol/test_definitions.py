"""A definition of MCP's lists keeps its provider's bytes, and the place where its name stands in them."""

from __future__ import annotations

from mcp_endpoint.protocol.definitions import Tool
from mcp_endpoint.protocol.jsonrpc import members


def test_a_tool_is_its_bytes_and_the_place_of_its_name() -> None:
    definition = b'{"description": "on or off",  "name": "light"}'
    tool = Tool("light", definition, members(definition)["name"])
    assert tool.definition[tool.place.start : tool.place.end] == b'"light"'
