"""What we build on in uvicorn: typed there, documented nowhere, so held here against every version the tests run with.

`make_guard_class` and `make_link_class` go in as `http=` and `ws=`. uvicorn makes a guard per connection with keywords, the guard makes a
link when `handle_websocket_upgrade` says so, and the link stands in `server_state.connections` until its socket is gone.
"""

from __future__ import annotations

import asyncio
import inspect
import socket

import uvicorn
from sockets.peerframes import PING, TEXT, closing, frame
from sockets.wire_server import BOUND, DEVICE, KEY, Double, Peer, configured, hello, linked, request, staged, until
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from mcp_endpoint.access.admission import Authenticator
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.errors import RESTARTING
from mcp_endpoint.sockets.guard import Guard, make_guard_class
from mcp_endpoint.sockets.handshake import Acceptor
from mcp_endpoint.sockets.link import WebSocketLink, make_link_class


def test_a_link_takes_what_uvicorns_own_class_takes() -> None:
    theirs = inspect.signature(WebSocketsSansIOProtocol.__init__).parameters
    ours = inspect.signature(WebSocketLink.__init__).parameters
    assert list(ours) == list(theirs)
    assert inspect.signature(Guard.__init__).parameters.keys() == inspect.signature(HttpToolsProtocol.__init__).parameters.keys()


def test_a_link_has_every_method_uvicorn_calls_on_one() -> None:
    called = {"connection_made", "data_received", "connection_lost", "eof_received", "pause_writing", "resume_writing", "shutdown"}
    assert called <= set(dir(WebSocketsSansIOProtocol))
    assert called <= set(dir(WebSocketLink))


OUR_OWN = {"abandoned", "accepted", "review", "crowded_out", "kept", "pay", "read_on"}
"""Methods of the guard that uvicorn does not know."""


def test_the_guard_overrides_what_is_there_to_be_overridden() -> None:
    for name, member in vars(Guard).items():
        if inspect.isfunction(member) and not name.startswith("_") and name not in OUR_OWN:
            theirs = getattr(HttpToolsProtocol, name)
            assert list(inspect.signature(member).parameters) == list(inspect.signature(theirs).parameters), name
    for name in ("_unset_keepalive_if_required", "_should_upgrade", "handle_websocket_upgrade"):
        assert callable(getattr(HttpToolsProtocol, name))


async def test_the_link_is_handed_the_transport_and_the_head_and_is_among_the_connections() -> None:
    async with staged() as stage, linked(stage, DEVICE, "X-Header: kept") as peer:
        party = await stage.broker.party()
        assert stage.connections == {party.link}
        assert party.link._transport is not None and party.link._transport.get_protocol() is party.link
        peer.abort()
        await until(lambda: not stage.connections)


async def test_with_uvicorns_own_guard_a_link_works_as_well() -> None:
    """Bytes that come with the head are lost then, the rest of the contract is the same."""
    acceptor = Acceptor(configured(), Double(), Authenticator(configured(), TokenCodec(KEY)))  # type: ignore[arg-type]
    await _serve_once(
        uvicorn.Config(hello, http=HttpToolsProtocol, ws=make_link_class(acceptor), log_config=None, lifespan="off"), acceptor
    )


async def test_uvicorns_server_runs_and_stops_with_our_classes() -> None:
    acceptor = Acceptor(configured(), Double(), Authenticator(configured(), TokenCodec(KEY)))  # type: ignore[arg-type]
    settings = uvicorn.Config(hello, http=make_guard_class(acceptor), ws=make_link_class(acceptor), log_config=None, lifespan="off")
    await _serve_once(settings, acceptor)


async def _serve_once(settings: uvicorn.Config, acceptor: Acceptor) -> None:
    server = uvicorn.Server(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([listener]))
    await until(lambda: server.started)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    peer = Peer(reader, writer)
    peer.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await peer.answer()).body == b"hello"
    peer.send(request(f"{DEVICE}?token=friend"))
    assert (await peer.answer()).status == 101
    peer.send(frame(TEXT, b"x") + frame(PING))
    assert {await peer.frame(), await peer.frame()} == {(0x81, b"x"), (0x8A, b"")}
    server.should_exit = True
    assert await peer.close_reason() == tuple(RESTARTING)
    peer.send(closing(1012))
    assert await peer.end() == b""
    writer.close()
    await asyncio.wait_for(serving, BOUND)
    assert not acceptor.links
