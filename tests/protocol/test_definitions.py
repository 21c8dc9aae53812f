"""A definition keeps its provider's bytes and the place of its name; this program has one name and one version for everybody."""

from __future__ import annotations

from mcp_endpoint import __version__
from mcp_endpoint.protocol.definitions import ALL, Tool, hello, identity
from mcp_endpoint.protocol.jsonrpc import members


def test_a_tool_is_its_bytes_and_the_place_of_its_name() -> None:
    definition = b'{"description": "on or off",  "name": "light"}'
    tool = Tool("light", definition, members(definition)["name"])
    assert tool.definition[tool.place.start : tool.place.end] == b'"light"'


def test_this_program_says_the_same_of_itself_as_a_server_and_as_a_client() -> None:
    assert identity() == {"name": "mcp-endpoint-server", "version": __version__}
    own = hello(ALL, "7", "/http")
    assert own["protocolVersion"] == "2025-11-25"
    assert own["capabilities"] == {"sampling": {}, "elicitation": {}, "roots": {}}
    assert own["clientInfo"] == {"name": "mcp-endpoint-server/http", "version": "7"}
    assert hello({})["capabilities"] == {}
