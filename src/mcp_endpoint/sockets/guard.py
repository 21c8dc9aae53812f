"""uvicorn's HTTP protocol with the limits it lacks: size and time of a request head, its Host, pipelining, and unread responses.

A head must be complete within `handshake_seconds` (408) and `handshake_bytes` (431), and must contain exactly one well-formed Host (400)
that this server answers to (421). Above `unfinished_handshakes` sockets without a complete head the oldest is closed: an honest client
needs only milliseconds. This holds for plain requests and for upgrades, and for every request of a persistent connection.

Requests are answered in order (RFC 9112 §9.3.2). While one waits for the response before it, reading is paused; bytes that have already
arrived are kept unparsed. A response that makes no progress for `stalled_seconds` ends the connection; an idle event stream has no bytes
waiting and is left alone. All bytes kept here count in the budget of all connections.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from typing import Any, ClassVar, Final

import httptools
from loguru import logger
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ..access.addresses import is_loopback
from ..access.admission import Refusal, host_of
from ..asgi import CUT
from ..settings.schema import Config
from .handshake import Acceptor
from .keepalive import NEVER, STEPS
from .link import READ_PER_TURN, WebSocketLink, reset

LINGER_SECONDS: Final = 2.0
"""How long a refused peer may take to read the response before the socket is closed."""
PIECE: Final = 1024
"""Bytes given to the parser at a time: it cannot be stopped in between, and this many bytes hold about forty requests at most."""
BODY_PIECE: Final = 64 * 1024
"""The same within a body of known length, where no other request can begin."""
PARTS_PER_TURN: Final = 256
"""Body parts that one connection may have parsed per turn; a chunk may be one byte."""
HIGH_WATER: Final = 16 * 1024
"""Response bytes the transport may hold before the application waits: small responses leave in one piece, large ones are watched."""
TLS_BYTES: Final = 96 * 1024
"""Approximate cost of a socket during its TLS handshake: buffers of the event loop and of OpenSSL."""
REQUEST_BYTES: Final = 4 * 1024
"""Approximate cost of a pipelined request that waits."""


class Hosts:
    """The Host headers this server answers to; protects against DNS rebinding.

    Names of the local machine are always accepted, because no such name leads a browser here from elsewhere. Otherwise: with
    `[security] allowed_hosts` exactly those; listening on loopback only the host of `public_url`; listening elsewhere also names that no
    public name server can assign: an IP address, a name without a dot, a `.local` name.
    """

    def __init__(self, config: Config) -> None:
        self._listed = tuple(host.lower() for host in config.security.allowed_hosts)
        self._public = host_of(config.server.public_url).lower()
        self._inside = is_loopback(config.server.host)

    def allows(self, host: str) -> bool:
        """Whether a Host header with this value, with or without a port, is accepted."""
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


class Flow(FlowControl):
    """uvicorn's flow control; reading resumes through the guard, which may hold unparsed bytes."""

    def __init__(self, transport: asyncio.Transport, guard: Guard) -> None:
        super().__init__(transport)
        self._guard = guard

    def resume_reading(self) -> None:
        """Deferred to the next turn: uvicorn calls it in the middle of its step to the next request."""
        if self.read_paused:
            self._guard.loop.call_soon(self._guard.read_on)


class Guard(HttpToolsProtocol):
    """One HTTP connection until it is closed or upgraded to a link."""

    acceptor: ClassVar[Acceptor]
    hosts: ClassVar[Hosts]

    def __init__(
        self, config: UvicornConfig, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.due = 0
        self.raw: asyncio.Transport | None = None
        """With TLS: the transport of the socket, where encrypted output waits."""
        self.securing = False
        """Whether the TLS handshake is in progress; only then there is no `transport`."""
        self._in_head = False
        self._head_by = 0.0
        """Deadline of the head."""
        self._head_bytes = 0
        self._heads = 0
        """Number of complete heads."""
        self._body_left = 0
        """Bytes of the body still to come, as far as its length is known."""
        self._parts = 0
        """Body parts parsed in this turn."""
        self._unread = b""
        """Bytes that arrived while reading is paused."""
        self._refused = False
        self._answered: RequestResponseCycle | None = None
        """The request that is being answered; `cycle` is the one read last."""
        self._stuck = 0.0
        """Since when the response makes no progress; 0 if none waits."""
        self._stuck_bytes = 0

    # During the TLS handshake, before there is a transport.

    def accepted(self, raw: asyncio.Transport) -> None:
        """The socket was accepted and TLS has begun."""
        self.raw = raw
        self.securing = True
        raw.set_write_buffer_limits(high=HIGH_WATER)
        self.connections.add(self)
        self.acceptor.budget.keep(self, TLS_BYTES)
        self._enter()

    def abandoned(self) -> None:
        """The TLS handshake failed."""
        self._head_is_over()
        self.acceptor.keepalive.forget(self)
        self.acceptor.budget.keep(self, 0)
        self.connections.discard(self)

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.flow = Flow(transport, self)
        if self.securing:
            self.securing = False
            self._count()
        else:
            self._enter()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_over()
        self._hang_up()
        self._unread = b""
        self.pipeline.clear()
        self.acceptor.keepalive.forget(self)
        self.acceptor.budget.keep(self, 0)
        super().connection_lost(exc)
        self.flow = None  # type: ignore[assignment]  # breaks a reference cycle
        if self.scope:
            self.scope["extensions"] = {}  # as above

    def eof_received(self) -> None:
        """The peer has sent everything; the transport closes after it has written its output."""
        self._watch_answer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_answer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck = 0.0
        self._count()

    def data_received(self, data: bytes) -> None:
        limit = self.acceptor.config.limits.handshake_bytes
        at = 0
        self._parts = 0
        while at < len(data) and not (self._refused or self.flow.read_paused) and self.parser is not None:
            in_head = self._in_head
            heads = self._heads
            room = min(PIECE, limit - self._head_bytes) if in_head else min(self._body_left, BODY_PIECE) or PIECE
            piece = data[at : at + room]
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                self._upgrade(data[at + upgrade.args[0] :])
                return
            except httptools.HttpParserError:
                self._refuse(Refusal(400, "bad request", BAD_REQUEST, "not HTTP"))
                return
            if in_head and self._in_head and self._heads == heads:
                self._head_bytes += len(piece)
                if self._head_bytes >= limit:
                    self._refuse(Refusal(431, "head too large", LARGE_HEAD, "handshake_bytes"))
            at += len(piece)
            if self._parts >= PARTS_PER_TURN and at < len(data):
                self._give_turn()
        if at < len(data) and not self._refused:
            self._unread += data[at:]
            self._count()
        elif len(data) >= READ_PER_TURN and not self.flow.read_paused:
            self._give_turn()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self.scope["extensions"] = {CUT: {"cut": self._given_up}}
        self._expect_head()

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._head_is_over()
        self._heads += 1
        self._body_left = _length(self.headers)
        self._look_again()
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) != 1:
            self._refuse(Refusal(400, "bad host", ONE_HOST, f"{len(hosts)} Host headers"))
        elif not _well_formed(hosts[0].decode("latin-1")):
            self._refuse(Refusal(400, "bad host", BAD_HOST, "malformed Host"))
        elif not self.hosts.allows(hosts[0].decode("latin-1")):
            self._refuse(Refusal(421, "host not allowed", HOST, "Host not allowed"))
        else:
            super().on_headers_complete()
            if not self.pipeline:
                self._answered = self.cycle

    def on_body(self, body: bytes) -> None:
        self._parts += 1
        self._body_left = max(0, self._body_left - len(body))
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()

    # What uvicorn calls.

    def on_response_complete(self) -> None:
        self._answered = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if self.transport.is_closing() or self._unsent() > HIGH_WATER:
            self._watch_answer()
        if not (self.transport.is_closing() or self._in_head or self._refused or self.pipeline or self._unread):
            self.acceptor.now_unfinished(self)  # idle, and the first to give way

    def shutdown(self) -> None:
        if self.securing:
            self._cut("shutdown")
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_answer()

    # What the sweeper calls.

    def review(self, now: float) -> float:
        """Check the deadlines: of a head, of reading a refusal, of taking a response."""
        if self.securing:
            self._cut("handshake_seconds")
            return NEVER
        if self._refused:
            self._abort()
            return NEVER
        if self._stuck:
            unsent = self._unsent()
            if not unsent:
                self._stuck = 0.0
                self._count()
            elif unsent < self._stuck_bytes or (unsent > self._stuck_bytes and not self.flow.write_paused):
                self._stuck, self._stuck_bytes = now, unsent
            elif now - self._stuck >= self.acceptor.config.limits.stalled_seconds:
                self._cut("stalled_seconds")
                return NEVER
        if self._in_head and now >= self._head_by:
            if not self.flow.read_paused:
                self._refuse(Refusal(408, "request timeout", SLOW_HEAD, "handshake_seconds"))
                return NEVER
            self._head_by = now + self.acceptor.config.limits.handshake_seconds  # reading is paused by this side
        return self._next_look(now)

    # What the acceptor and the budget call.

    def crowded_out(self) -> None:
        """There are too many sockets with an incomplete head, and this is the oldest."""
        if self.securing:
            self._cut("unfinished_handshakes")
        elif self._in_head:
            self._refuse(Refusal(503, "full", CROWDED, "unfinished_handshakes"))
        else:
            self.acceptor.unfinished.pop(self, None)
            self.transport.close()  # idle after an answer (RFC 9112 §9.3)

    def kept(self) -> int:
        """Bytes kept for this connection."""
        if self.securing:
            return TLS_BYTES
        return len(self._unread) + REQUEST_BYTES * len(self.pipeline) + self._unsent()

    def pay(self) -> None:
        """The budget is exceeded, and this connection uses most."""
        self._cut("buffered_bytes")

    @property
    def peer(self) -> str:
        """The peer's address, for the log."""
        found = (self.transport if self.raw is None else self.raw).get_extra_info("peername")
        return "{}:{}".format(*found[:2]) if isinstance(found, tuple) else ""

    # Internal.

    def read_on(self) -> None:
        """Resume reading, first the kept bytes; not while a request waits for its turn or the application is behind with a body."""
        if self.parser is None or self.pipeline or not self.flow.read_paused:
            return
        if self.cycle is not None and len(self.cycle.body) > HIGH_WATER_LIMIT and not self.cycle.response_complete:
            return
        rest, self._unread = self._unread, b""
        FlowControl.resume_reading(self.flow)
        self.data_received(rest)
        self._count()

    def _give_turn(self) -> None:
        """Pause reading for one turn of the event loop."""
        self.flow.pause_reading()
        self.flow.resume_reading()

    def _enter(self) -> None:
        """The socket was accepted. Above the sum of all limits it is refused, so that the process keeps file descriptors."""
        self._expect_head()
        if len(self.connections) > self.acceptor.most_sockets:
            self.crowded_out()

    def _expect_head(self) -> None:
        if not self._in_head:
            self._in_head = True
            self._head_bytes = 0
            self._head_by = self.loop.time() + self.acceptor.config.limits.handshake_seconds
            self.acceptor.now_unfinished(self)
            self._look_again()

    def _head_is_over(self) -> None:
        self._in_head = False
        self.acceptor.unfinished.pop(self, None)

    def _watch_answer(self) -> None:
        """From now on the response must make progress."""
        self._stuck = self.loop.time()
        self._stuck_bytes = self._unsent()
        self._count()
        self._look_again()

    def _unsent(self) -> int:
        """Response bytes that the kernel has not taken."""
        return self.transport.get_write_buffer_size() + (0 if self.raw is None else self.raw.get_write_buffer_size())

    def _count(self) -> None:
        """Report the kept bytes to the budget; small responses in transit do not count."""
        if self.parser is not None:
            waits = self._stuck or self.flow.write_paused or self.flow.read_paused
            self.acceptor.budget.keep(self, self.kept() if waits else 0)

    def _next_look(self, now: float) -> float:
        """The time of the next check."""
        due = self._head_by if self._in_head else NEVER
        if self._stuck:
            stalled = self.acceptor.config.limits.stalled_seconds
            due = min(due, self._stuck + stalled, now + stalled / STEPS)
        return due

    def _look_again(self) -> None:
        now = self.loop.time()
        due = self._next_look(now)
        if due < NEVER:
            self.acceptor.keepalive.watch(self, due)
        else:
            self.acceptor.keepalive.forget(self)

    def _cut(self, reason: str) -> None:
        """Drop the socket: its peer does not read, so a response would not reach it."""
        self._refused = True
        self._head_is_over()
        self.acceptor.counters["http_cut"] += 1
        logger.debug("连接已切断 / the connection is cut", peer=self.peer, reason=reason)
        self._abort()

    def _given_up(self) -> None:
        """Called by the application: its client does not read."""
        if not self.transport.is_closing():
            self._cut("not read")

    def _hang_up(self) -> None:
        """Signal a disconnect to the request being answered; uvicorn signals it only to the one read last."""
        answered, self._answered = self._answered, None
        if answered is not None and not answered.response_complete:
            answered.disconnected = True
            answered.message_event.set()

    def _abort(self) -> None:
        self._hang_up()
        lowest = self.transport if self.raw is None else self.raw
        if self._stuck:
            reset(lowest)
        else:
            lowest.abort()

    def _upgrade(self, rest: bytes) -> None:
        """The head asks for another protocol: a WebSocket becomes a link, anything else stays HTTP/1.1 (RFC 9110 §7.8)."""
        if self._refused:
            return
        if not self._should_upgrade():
            self.cycle.keep_alive = False  # the parser stops after the head
            return
        if self.scope["http_version"] != "1.1":
            self._refuse(Refusal(400, "bad handshake", BAD_REQUEST, "upgrade in HTTP/1.0"))
            return
        if self.flow.write_paused or (self.cycle is not None and not self.cycle.response_complete):
            self._refuse(Refusal(400, "bad handshake", BAD_REQUEST, "upgrade before the answer to an earlier request"))
            return
        self.acceptor.keepalive.forget(self)
        self.acceptor.budget.keep(self, 0)
        transport = self.transport
        self.handle_websocket_upgrade()
        self.parser = self.flow = None  # type: ignore[assignment]  # breaks reference cycles
        self.scope["extensions"] = {}  # as above
        link = transport.get_protocol()
        if isinstance(link, WebSocketLink):
            link.raw = self.raw
        if rest and isinstance(link, asyncio.Protocol):
            link.data_received(rest)

    def _refuse(self, refusal: Refusal) -> None:
        """Send an error response and close so that it can be read. If an earlier response is in progress, close after that one."""
        self._refused = True
        self._head_is_over()
        transport = self.transport
        if transport.is_closing():
            return
        self.acceptor.counters[f"refused_{refusal.status}"] += 1
        logger.debug("已拒绝请求 / request refused", peer=self.peer, status=refusal.status, reason=refusal.why)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return
        transport.write(refusal.answer())
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()
        self.acceptor.keepalive.watch(self, self.loop.time() + LINGER_SECONDS)


def make_guard_class(acceptor: Acceptor) -> type[Guard]:
    """The class for uvicorn's `http=`."""
    return type("Guard", (Guard,), {"acceptor": acceptor, "hosts": Hosts(acceptor.config)})


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    """Content-Length of the body, 0 if absent or unknown; the parser has validated the header (RFC 9112 §6.3)."""
    return next((int(value) for name, value in headers if name == b"content-length" and value.isdigit()), 0)


_HOST: Final = re.compile(
    r"(?:(?:[a-z0-9_-]+\.)*[a-z0-9_-]+\.?|\[(?P<address>[0-9a-f:.]+)(?P<zone>%[a-z0-9._~%-]+)?\])?(?::(?P<port>[0-9]{0,5}))?", re.IGNORECASE
)
"""HOST[:PORT] (RFC 9110 §7.2): labels of a name, whose last may be the root's, or an IPv6 address. An empty one names nobody."""


def _well_formed(host: str) -> bool:
    """Whether the value of a Host header has the form of RFC 9110: no user, no blank, one port, whole brackets, no empty label."""
    found = _HOST.fullmatch(host)
    if found is None or int(found["port"] or 0) > 65535:
        return False
    if found["address"] is None:
        return True
    try:
        address = ipaddress.IPv6Address(found["address"])
    except ValueError:
        return False
    return found["zone"] is None or address.is_link_local  # no URL has a zone in it, but clients that reach such an address send it


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
ONE_HOST: Final = "请求必须有且只有一个 Host / A request must have exactly one Host header"
BAD_HOST: Final = "Host 格式有误：应为 主机名[:端口] / The Host header is malformed: it is HOST[:PORT]"
HOST: Final = (
    "服务器不以此主机名提供服务：请在 [server] public_url 或 [security] allowed_hosts 中加入它"
    " / This server does not answer to that host name: add it as [server] public_url or to [security] allowed_hosts"
)
