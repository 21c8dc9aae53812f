"""An echo made of the very links of the server: what the Autobahn|Testsuite's fuzzing client talks to.

The broker sends JSON, always as text; an echo must give binary back as binary. So this link notes the opcode of each message, for which
it takes one frame per turn.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import uvicorn

from mcp_endpoint.access.admission import Authenticator
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.settings.schema import Config, Limits, Server, WebSocket
from mcp_endpoint.sockets import frames
from mcp_endpoint.sockets.guard import make_guard_class
from mcp_endpoint.sockets.handshake import Acceptor
from mcp_endpoint.sockets.link import WebSocketLink, make_link_class

KEY = "Zx93mQ0aLw4TfYb7HsRn2VuPc6DgJe15"
PATH = "/mcp_endpoint/mcp/?token=echo"
MIB = 1024 * 1024
LIMITS = Limits(provider_message_bytes=17 * MIB, fragments=100_000, queued_bytes_per_link=64 * MIB)
"""Group 9 sends messages of 16 MiB, and 4 MiB in 65,536 fragments."""


class EchoLink(WebSocketLink):
    """A link that knows whether the message it delivers is text."""

    __slots__ = ("opcode",)

    def _read(self, data: bytes, at: int, now: float) -> bool:
        begins = not (self._protocol is not None and self._owed)
        if begins and at < len(data) and data[at] & 0x0F in (1, 2):
            self.opcode = data[at] & 0x0F
        return super()._read(data, at, now)


class Echo:
    """Who is attached: it says back what it hears, as what it was."""

    side = "tool"
    endpoint = SimpleNamespace(shown="echo")

    def __init__(self, link: EchoLink) -> None:
        self.link = link

    def says(self, party: Echo, data: bytes, now: float, utf8: bool) -> None:
        if self.link.opcode == 1:
            self.link.send(data)
        else:
            self.link.reply(b"\x82" + frames.text_head(len(data))[1:] + data)


class Broker:
    """The broker's place; nothing is brokered."""

    def attach_provider(self, name: str, shown: str, link: EchoLink, *, server_id: str = "", stateless: bool = False) -> Echo:
        return Echo(link)

    def detach(self, party: Echo, code: int, reason: str) -> None:
        """An echo owes nobody anything."""


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """The echo on a free port of the loopback; gives the port."""
    frames.FRAMES_PER_TURN = 1  # type: ignore[misc]
    config = Config(server=Server(port=0, key=KEY), websocket=WebSocket(), limits=LIMITS)
    broker: Any = Broker()
    acceptor = Acceptor(config, broker, Authenticator(config, TokenCodec(KEY)))
    links = type("Echoes", (EchoLink, make_link_class(acceptor)), {"__slots__": (), "acceptor": acceptor})
    settings = uvicorn.Config(_nothing, http=make_guard_class(acceptor), ws=links, lifespan="off", log_config=None, access_log=False)
    settings.load()
    server = uvicorn.Server(settings)
    server.lifespan = settings.lifespan_class(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup([listener])
        try:
            yield listener.getsockname()[1]
        finally:
            await server.shutdown([listener])


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """There is no HTTP here."""
