"""The guard: uvicorn's HTTP protocol with the bounds it lacks on a request's head and its Host.

A head must be complete within `handshake_seconds` (408) and `handshake_bytes` (431), and must name exactly one Host (400) that this server
answers to (421). Of `unfinished_handshakes` sockets without a complete head the oldest gives way to the newest: who means it is done in
milliseconds. All of this holds for plain requests and for upgrades alike, and for every request of a kept connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any, ClassVar, Final, cast

import httptools
from loguru import logger
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ..addresses import is_loopback
from ..admission import Refusal, host_of
from ..config import Config
from .handshake import Door
from .keepalive import NEVER

LINGER_SECONDS: Final = 2.0
"""How long a refused peer may take to read the answer before the socket is cut off."""


class Hosts:
    """Which Host headers this server answers to, so that no web page can reach it under a name of its own (DNS rebinding).

    Names of this machine only are always right: no such name leads a browser here from elsewhere. Else, with `[security] allowed_hosts`
    exactly those; listening on loopback, nothing but `public_url`'s; listening elsewhere, also whatever no public name server can give
    away: an IP address, a name without a dot, a `.local` name.
    """

    def __init__(self, config: Config) -> None:
        self._listed = tuple(host.lower() for host in config.security.allowed_hosts)
        self._public = host_of(config.server.public_url).lower()
        self._inside = is_loopback(config.server.host)

    def allows(self, host: str) -> bool:
        """Whether the value of a Host header, with or without a port, is ours."""
        host = host.lower()
        name = host_of("//" + host).rstrip(".")
        if not name:
            return False
        if is_loopback(name):
            return True
        if self._listed:
            return any(entry in ("*", host, name) or (entry.startswith("*.") and name.endswith(entry[1:])) for entry in self._listed)
        if name == self._public:
            return True
        return not self._inside and (_is_address(name) or "." not in name or name.endswith(".local"))


class Guard(HttpToolsProtocol):
    """One HTTP connection until it is closed or becomes a link."""

    door: ClassVar[Door]
    hosts: ClassVar[Hosts]

    def __init__(
        self, config: UvicornConfig, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.due = 0
        self._in_head = False
        self._head_bytes = 0
        self._refused = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_over()
        self.door.keepalive.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        limit = self.door.config.limits.handshake_bytes
        at = 0
        while at < len(data) and not self._refused and self.parser is not None:
            in_head = self._in_head
            room = limit - self._head_bytes if in_head else limit
            piece = data[at : at + room]
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                self._upgrade(data[at + upgrade.args[0] :])
                return
            except httptools.HttpParserError:
                self._refuse(Refusal(400, "bad request", BAD_REQUEST, "not HTTP"))
                return
            if in_head and self._in_head:
                self._head_bytes += len(piece)
                if self._head_bytes >= limit:
                    self._refuse(Refusal(431, "head too large", LARGE_HEAD, "handshake_bytes"))
            at += len(piece)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._head_is_over()
        self.door.keepalive.forget(self)
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) != 1:
            self._refuse(Refusal(400, "bad host", ONE_HOST, f"{len(hosts)} Host headers"))
        elif not self.hosts.allows(hosts[0].decode("latin-1")):
            self._refuse(Refusal(421, "host not allowed", HOST, "Host not allowed"))
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()

    # What the sweeper calls.

    def review(self, now: float) -> float:
        """The time for a head, or for reading a refusal, is over."""
        if self._refused:
            self.transport.abort()
        elif self._in_head:
            self._refuse(Refusal(408, "request timeout", SLOW_HEAD, "handshake_seconds"))
        return NEVER

    # Ours.

    def crowded_out(self) -> None:
        """Too many sockets have not finished their head, and this is the oldest."""
        self._refuse(Refusal(503, "full", CROWDED, "unfinished_handshakes"))

    def _expect_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        unfinished = self.door.unfinished
        if self not in unfinished:
            if len(unfinished) >= self.door.config.limits.unfinished_handshakes:
                cast(Guard, next(iter(unfinished))).crowded_out()
            unfinished[self] = None
            self.door.keepalive.watch(self, self.loop.time() + self.door.config.limits.handshake_seconds)

    def _head_is_over(self) -> None:
        self._in_head = False
        self.door.unfinished.pop(self, None)

    def _upgrade(self, rest: bytes) -> None:
        """The head asked for another protocol: a WebSocket becomes a link, anything else stays HTTP/1.1 (RFC 9110 §7.8)."""
        if self._refused:
            return
        if not self._should_upgrade():
            self.cycle.keep_alive = False  # the parser does not go on after the head
            return
        if self.scope["http_version"] != "1.1":
            self._refuse(Refusal(400, "bad handshake", BAD_REQUEST, "upgrade in HTTP/1.0"))
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._refuse(Refusal(400, "bad handshake", BAD_REQUEST, "upgrade before the answer to an earlier request"))
            return
        transport = self.transport
        self.handle_websocket_upgrade()
        self.parser = None  # type: ignore[assignment]  # it and we hold each other
        link = transport.get_protocol()
        if rest and isinstance(link, asyncio.Protocol):
            link.data_received(rest)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer and close, so that the answer can be read. While an earlier answer is in the making, close after that one."""
        self._refused = True
        self._head_is_over()
        transport = self.transport
        if transport.is_closing():
            return
        self.door.counters[f"refused_{refusal.status}"] += 1
        peer = "{}:{}".format(*self.client) if self.client else ""
        logger.debug("已拒绝请求 / request refused", peer=peer, status=refusal.status, reason=refusal.why)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return
        transport.write(refusal.answer())
        if transport.can_write_eof():
            transport.write_eof()
            self.door.keepalive.watch(self, self.loop.time() + LINGER_SECONDS)
        else:
            transport.close()


def make_guard_class(door: Door) -> type[Guard]:
    """The class for uvicorn's `http=`."""
    return type("Guard", (Guard,), {"door": door, "hosts": Hosts(door.config)})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


BAD_REQUEST: Final = "请求有误 / Bad request"
LARGE_HEAD: Final = "请求头过大 / The request's head is too large"
SLOW_HEAD: Final = "请求头未及时到达 / The request's head did not arrive in time"
CROWDED: Final = "未完成的连接过多，请稍后再试 / Too many unfinished connections, try again later"
ONE_HOST: Final = "请求必须有且只有一个 Host / A request has exactly one Host header"
HOST: Final = (
    "服务器不以此主机名提供服务：请在 [server] public_url 或 [security] allowed_hosts 中加入它"
    " / This server does not answer to that host name: add it as [server] public_url or to [security] allowed_hosts"
)
