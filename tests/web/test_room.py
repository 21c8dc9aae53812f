"""Every room has what the server expects of it."""

from __future__ import annotations

import inspect

import pytest

from mcp_endpoint.consumers.http_api.api import HttpApi
from mcp_endpoint.consumers.mcp_http.route import McpHttp
from mcp_endpoint.gateway.proxy import Gateway
from mcp_endpoint.providers.managed import ManagedServers
from mcp_endpoint.web.room import Room


@pytest.mark.parametrize("room", [HttpApi, McpHttp, Gateway, ManagedServers])
def test_a_room_has_every_method_in_the_shape_the_server_uses(room: type[Room]) -> None:
    for name, expected in inspect.getmembers(Room, inspect.isfunction):
        found = getattr(room, name)
        assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(expected), name
        if not name.startswith("_"):
            assert list(inspect.signature(found).parameters) == list(inspect.signature(expected).parameters), name
