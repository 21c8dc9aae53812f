"""A frame that came in is read where it came in; the other parts of this process get it as it was read."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from consumers.web import Web, call
from running import BOUND, KEY, running
from upstream import upstream
from url_server import Small

from mcp_endpoint.protocol import jsonrpc, methods
from mcp_endpoint.protocol.methods import STATELESS_REVISION as REVISION
from mcp_endpoint.settings.schema import Config, Providers
from mcp_endpoint.settings.schema import Server as Settings

SMALL = Path(__file__).parents[1] / "support" / "small_server.py"
READERS = ("_frame_decoder", "_members_decoder")
"""Decoders of `jsonrpc` that read a whole frame."""
MOST = 4


class Counted:
    """A decoder, and what it has read since `heard` was emptied."""

    def __init__(self, decoder: Any, heard: list[bytes]) -> None:
        self.decoder = decoder
        self.heard = heard

    def decode(self, data: bytes) -> Any:
        self.heard.append(bytes(data))
        return self.decoder.decode(data)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    found: list[bytes] = []
    for name in READERS:
        monkeypatch.setattr(jsonrpc, name, Counted(getattr(jsonrpc, name), found))
    return found


@pytest.fixture(params=["by URL", "as a process"])
async def web(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Web]:
    async with AsyncExitStack() as stack:
        if request.param == "by URL":
            entry = {"url": (await stack.enter_async_context(upstream(Small()))).url, "type": "http"}
        else:
            entry = {"command": sys.executable, "args": [str(SMALL), "small", "pour"]}
        (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"small": entry}}))
        config = Config(server=Settings(key=KEY), providers=Providers(file="mcp.json"))
        server = await stack.enter_async_context(running(config, root=tmp_path))
        client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=BOUND, trust_env=False)
        yield Web(server, await stack.enter_async_context(client))


async def test_a_call_over_http_to_a_managed_server_is_read_once_each_way(web: Web, heard: list[bytes]) -> None:
    session = await web.begin("2025-06-18")
    for number in (1, 2):  # the first one is there when the server has told its tools
        heard.clear()
        answer = await web.post(call(number, "pour"), session=session)
        assert answer.json()["result"]["content"], answer.text
    print(len(heard), heard)
    assert len(heard) <= MOST, heard


async def test_a_call_without_a_session_too(web: Web, heard: list[bytes]) -> None:
    meta = {methods.VERSION_KEY: REVISION, methods.CLIENT_KEY: {"name": "c", "version": "1"}, methods.CAPABILITIES_KEY: {}}
    headers = {"mcp_protocol_version": REVISION, "mcp_method": "tools/call", "mcp_name": "pour"}
    for number in (1, 2):  # the first one introduces its exchange to the endpoint
        heard.clear()
        answer = await web.post(call(number, "pour", meta), **headers)
        assert answer.json()["result"]["content"], answer.text
    print(len(heard), heard)
    assert len(heard) <= MOST + 4, heard  # its parameters lose their envelope, and its result is given one
