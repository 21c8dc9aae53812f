"""A real uvicorn with our guard and links on a free port, a recording double in the broker's place, and peers that send raw bytes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import trustme
import uvicorn
from sockets.peerframes import TEXT, frame

from mcp_endpoint.access.admission import Authenticator
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.asgi import cut
from mcp_endpoint.settings.schema import Config, Limits, Security, Server, WebSocket
from mcp_endpoint.sockets.guard import make_guard_class
from mcp_endpoint.sockets.handshake import Acceptor
from mcp_endpoint.sockets.link import WebSocketLink, make_link_class
from mcp_endpoint.sockets.secure import make_securing_class

KEY = "Zx93mQ0aLw4TfYb7HsRn2VuPc6DgJe15"
BOUND = 10.0
"""Seconds after which something that should have happened has not."""
BIG = 8 * 1024 * 1024
TOOL = "/mcp_endpoint/mcp/"
DEVICE = "/mcp_endpoint/call/"


async def until(true: Callable[[], object]) -> None:
    """Wait, bounded, until something nobody announces has become so."""
    async with asyncio.timeout(BOUND):
        while not true():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


class Party:
    """Who is attached, and what it has said."""

    def __init__(self, broker: Double, side: str, name: str, shown: str, link: WebSocketLink, server_id: str) -> None:
        self.broker = broker
        self.side = side
        self.name = name
        self.server_id = server_id
        self.endpoint = SimpleNamespace(shown=shown)
        self.link = link
        self.heard: list[tuple[bytes, bool]] = []
        self.left: tuple[int, str] | None = None

    def receive(self, party: Party, data: bytes, now: float, utf8: bool) -> None:
        assert party is self and type(data) is bytes
        assert self.left is None
        self.heard.append((data, utf8))
        self.broker.hear(self, data)
        self.broker.changed()


class Double:
    """What the wire sees of the broker. What `hear` does with a message is the test's choice; by default it is sent back."""

    def __init__(self) -> None:
        self.parties: list[Party] = []
        self.hear: Callable[[Party, bytes], None] = lambda party, data: party.link.send(data)
        self._change = asyncio.Event()

    def attach_provider(self, name: str, shown: str, link: WebSocketLink, *, server_id: str = "", stateless: bool = False) -> Party:
        return self._attach("tool", name, shown, link, server_id)

    def attach_consumer(self, name: str, shown: str, link: WebSocketLink) -> Party:
        return self._attach("device", name, shown, link, "")

    def _attach(self, side: str, name: str, shown: str, link: WebSocketLink, server_id: str) -> Party:
        party = Party(self, side, name, shown, link, server_id)
        self.parties.append(party)
        self.changed()
        return party

    def detach(self, party: Party, code: int, reason: str) -> None:
        assert party.left is None, "detached twice"
        party.left = (code, reason)
        self.changed()

    def changed(self) -> None:
        self._change.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait, bounded, until something has become so."""
        async with asyncio.timeout(BOUND):
            while not true():
                self._change.clear()
                await self._change.wait()

    async def party(self, number: int = 0) -> Party:
        await self.until(lambda: len(self.parties) > number)
        return self.parties[number]

    async def left(self, number: int = 0) -> tuple[int, str]:
        await self.until(lambda: len(self.parties) > number and self.parties[number].left is not None)
        found = self.parties[number].left
        assert found is not None
        return found


class Stage(NamedTuple):
    """Everything a test of the wire touches."""

    port: int
    acceptor: Acceptor
    broker: Double
    codec: TokenCodec
    server: uvicorn.Server

    @property
    def connections(self) -> set[Any]:
        return self.server.server_state.connections


def configured(
    *,
    server: Mapping[str, Any] | None = None,
    websocket: Mapping[str, Any] | None = None,
    security: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
) -> Config:
    return Config(
        server=Server(port=0, key=KEY, **(server or {})),
        websocket=WebSocket(**(websocket or {})),
        security=Security(**(security or {})),
        limits=Limits(**(limits or {})),
    )


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The HTTP application: says hello: after a signal, in 8 MiB, in eight pieces, as events or not to the end, as the path asks."""
    path = scope["path"]
    if path == "/slow":
        await scope["state"]["go"].wait()
    if path == "/big":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % BIG)]})
        await send({"type": "http.response.body", "body": b"x" * BIG})
        return
    if path == "/pieces":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % BIG)]})
        for left in range(8, 0, -1):
            await send({"type": "http.response.body", "body": b"x" * (BIG // 8), "more_body": left > 1})
        return
    if path == "/given-up":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"transfer-encoding", b"chunked")]})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        cut(scope)
        return
    if path == "/events":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await scope["state"]["go"].wait()
        await send({"type": "http.response.body", "body": b"later"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def staged(
    config: Config | None = None, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", broker: Any = None, small: bool = False
) -> AsyncIterator[Stage]:
    """A stage for `config`, listening on `host`, taken down at the end whatever is still connected.

    `small` lets its kernel keep next to nothing of what a peer does not take.
    """
    config = config or configured()
    broker = broker or Double()
    codec = TokenCodec(KEY, agents=config.security.agents)
    entrance = Acceptor(config, broker, Authenticator(config, codec))
    settings = uvicorn.Config(
        hello,
        http=make_guard_class(entrance) if tls is None else make_securing_class(entrance, tls),
        ws=make_link_class(entrance),
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(settings)
    settings.load()
    server.lifespan = settings.lifespan_class(settings)
    server.lifespan.state = {"go": asyncio.Event()}
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if small:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    listener.bind((host, 0))
    await server.startup([listener])
    try:
        yield Stage(listener.getsockname()[1], entrance, broker, codec, server)
    finally:
        server.lifespan.state["go"].set()
        for one in server.servers:
            one.close()
        for connection in list(server.server_state.connections):
            transport = connection._transport if isinstance(connection, WebSocketLink) else connection.transport
            (transport or connection.raw).abort()  # without `transport` TLS is not up yet
        await until(lambda: not (server.server_state.connections or server.server_state.tasks))
        for one in server.servers:
            await asyncio.wait_for(one.wait_closed(), BOUND)


def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context and a client's that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def request(target: str, *headers: str, key: str = "dGhlIHNhbXBsZSBub25jZQ==", host: str = "127.0.0.1") -> bytes:
    """An upgrade request as raw bytes (RFC 6455 §4.1)."""
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Peer:
    """A socket that sends what it is told, and takes frames apart without judging them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def say(self, text: str) -> None:
        self.send(frame(TEXT, text.encode()))

    async def answer(self) -> Answer:
        """The next HTTP answer."""
        async with asyncio.timeout(BOUND):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(head[0].split()[1]), headers, body)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: first byte and payload."""
        async with asyncio.timeout(BOUND):
            first, second = await self.reader.readexactly(2)
            assert second < 128, "a server does not mask"
            size = second
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8), "big")
            return first, await self.reader.readexactly(size)

    async def hears(self) -> str:
        """The next text."""
        first, payload = await self.frame()
        assert first == 0x81, (hex(first), payload)
        return payload.decode()

    async def close_reason(self) -> tuple[int, str]:
        """The code and reason of the next frame, which is a close frame."""
        first, payload = await self.frame()
        assert first == 0x88, (hex(first), payload)
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def end(self) -> bytes:
        """Whatever comes until the socket is closed."""
        async with asyncio.timeout(BOUND):
            try:
                return await self.reader.read(-1)
            except ConnectionResetError:
                return b""

    def abort(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def connection(
    stage: Stage, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", small: bool = False, **options: Any
) -> AsyncIterator[Peer]:
    """A bare TCP (or TLS) connection; `small` lets the peer's kernel take next to nothing that the peer does not read."""
    if tls is not None:
        options |= {"ssl": tls, "server_hostname": "localhost"}
    if small:
        options["sock"] = socket.socket()
        options["sock"].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        options["sock"].setblocking(False)
        await asyncio.get_running_loop().sock_connect(options["sock"], (host, stage.port))
        reader, writer = await asyncio.open_connection(limit=2**24, **options)
    else:
        reader, writer = await asyncio.open_connection(host, stage.port, limit=2**24, **options)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def linked(stage: Stage, path: str = DEVICE, *headers: str, token: str = "friend", **options: Any) -> AsyncIterator[Peer]:
    """A peer that has come in."""
    async with connection(stage, **options) as peer:
        peer.send(request(f"{path}?token={token}", *headers))
        answer = await peer.answer()
        assert answer.status == 101, answer
        yield peer


async def knock(stage: Stage, target: str, *headers: str, **options: Any) -> Answer:
    """The HTTP answer to an upgrade request."""
    async with connection(stage) as peer:
        peer.send(request(target, *headers, **options))
        return await peer.answer()
