"""Which headers a message takes along, in either era."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mcp_endpoint.protocol.jsonrpc import Frame, parse
from mcp_endpoint.protocol.methods import VERSION_KEY
from mcp_endpoint.providers.remote.headers import envelope, headers_of, tools_with_headers

LIST = {
    "tools": [
        {"name": "look", "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}},
        7,
    ]
}


def frame(**members: Any) -> Frame:
    return parse(msgspec.json.encode({"jsonrpc": "2.0", **members}))


@pytest.mark.parametrize(
    ("message", "headers"),
    [
        (frame(id=1, method="initialize", params={}), {}),
        (frame(id=1, method="tools/list", params={}), {"mcp-protocol-version": "2025-06-18"}),
        (frame(id=1, result={}), {"mcp-protocol-version": "2025-06-18"}),
        (frame(id=1, method="tools/call", params=["a"]), {"mcp-protocol-version": "2025-06-18"}),
    ],
)
def test_the_handshake_era_repeats_the_revision_that_was_chosen(message: Frame, headers: dict[str, str]) -> None:
    assert headers_of(message, "2025-06-18", {}) == headers
    assert headers_of(message, "", {}) == {}


def test_the_stateless_era_repeats_method_name_and_what_a_tool_wants() -> None:
    tools = tools_with_headers(frame(id=1, result=LIST))
    params = {"name": "look", "arguments": {"region": "north"}, "_meta": envelope()}
    assert headers_of(frame(id=1, method="tools/call", params=params), "", tools) == {
        "mcp-protocol-version": envelope()[VERSION_KEY],
        "mcp-method": "tools/call",
        "mcp-name": "look",
        "Mcp-Param-Region": "north",
    }
    read = frame(id=1, method="resources/read", params={"uri": "file:///天", "_meta": envelope()})
    assert headers_of(read, "", tools)["mcp-name"].startswith("=?base64?")


def test_most_lists_want_nothing_in_headers() -> None:
    assert tools_with_headers(frame(id=1, result={"tools": [{"name": "x"}]})) == {}
    assert tools_with_headers(frame(id=1, error={})) == {}
