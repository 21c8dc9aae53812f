"""Decides about WebSocket upgrade requests: each becomes an admission or an HTTP refusal, and counts links against their limits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol
from urllib.parse import parse_qsl

from loguru import logger
from websockets.datastructures import Headers

from ..access.admission import ORIGIN, Authenticator, Refusal, Side, neighbourhood
from ..access.tokens import Grant
from ..core.broker import Broker
from ..core.shares import Shares
from ..errors import CROWDED_OUT, CloseReason
from ..log import LineQuota
from ..protocol import methods
from ..settings.schema import Config
from .budget import Budget
from .keepalive import Keepalive

PATHS: Final[Mapping[str, Side]] = {
    "/mcp_endpoint/mcp/": "tool",
    "/mcp_endpoint/mcp": "tool",
    "/mcp_endpoint/call/": "device",
    "/mcp_endpoint/call": "device",
}
SERVER_ID_CHARS: Final = 128
"""Longest `server_id` that is read; the catalog cuts names to 64."""
RETRY_SECONDS: Final = 5
"""Retry-After when there is no room for a peer."""


class Admission(NamedTuple):
    """An accepted upgrade: which side and which endpoint."""

    side: Side
    grant: Grant
    server_id: str
    """The name a tool process gave itself, or empty."""
    address: str
    """The peer's address, for the log."""
    stateless: bool = False
    """Whether it asked for the MCP 2026-07-28 lifecycle (`revision=2026-07-28` in its address)."""


class Unfinished(Protocol):
    """What the acceptor needs of a socket without a complete head."""

    def crowded_out(self) -> None:
        """Close to make room for a newer one; removes itself from `unfinished`."""


class Closable(Protocol):
    """What the acceptor needs of an open link."""

    def close_reason(self, close_reason: CloseReason) -> None:
        """Start the closing handshake."""

    def cut(self) -> None:
        """Drop the socket at once."""


class Acceptor:
    """Accepts and counts links; one per server."""

    def __init__(self, config: Config, broker: Broker, authenticator: Authenticator) -> None:
        self.config = config
        self.broker = broker
        self.authenticator = authenticator
        self.keepalive = Keepalive(config.websocket, config.limits)
        self.budget = Budget(config.limits, self.keepalive)
        self.open: dict[Closable, str] = {}
        """Links whose socket exists, including closing ones → their endpoint."""
        self._shares: Shares[Closable] = Shares()
        """Links that are not closing, by endpoint."""
        self._closing: dict[Closable, None] = {}
        """Links that are closing, oldest first."""
        self.unfinished: dict[Unfinished, None] = {}
        """Sockets without a complete HTTP head, from their TCP accept on, oldest first."""
        self.most_sockets = config.websocket.max_connections + config.limits.http_requests + config.limits.unfinished_handshakes
        """Most sockets of peers at a time: links, requests being answered and all others."""
        self.refuse_new = False
        """While the server drains, every upgrade is refused with 503."""
        self.counters: Counter[str] = Counter()
        """`links_accepted`, `refused_STATUS`, `links_closed_CODE`: counts since the start."""
        self._refusals = LineQuota(time.monotonic)

    @property
    def links(self) -> int:
        """Number of sockets that are links."""
        return len(self.open)

    def now_unfinished(self, one: Unfinished) -> None:
        """`one` waits for a head; if too many do, close the oldest."""
        self.unfinished.pop(one, None)
        if len(self.unfinished) >= self.config.limits.unfinished_handshakes:
            next(iter(self.unfinished)).crowded_out()
        self.unfinished[one] = None

    def close_all(self, close_reason: CloseReason) -> None:
        """Close every link with the same reason."""
        for link in list(self.open):
            link.close_reason(close_reason)

    def log_refusal(self, refusal: Refusal, peer: str) -> None:
        """Log a refusal, unless the network of `peer` has had too many within a minute."""
        client, via, _ = peer.partition(" via ")
        left_out = self._refusals.take(neighbourhood(client if via else peer.rpartition(":")[0].strip("[]")))
        if left_out is not None:
            logger.info("已拒绝连接 / connection refused", peer=peer, status=refusal.status, reason=refusal.why, **left_out)

    def came(self, link: Closable, endpoint: str) -> None:
        """A link of this endpoint has opened."""
        self.open[link] = endpoint
        self._shares.add(endpoint, link)

    def closes(self, link: Closable) -> None:
        """A link is closing: it no longer counts for its endpoint."""
        if link in self.open:
            self._shares.remove(self.open[link], link)
            self._closing[link] = None

    def gone(self, link: Closable) -> None:
        """The socket of a link is closed."""
        self.open.pop(link, None)
        self._closing.pop(link, None)

    def _has_room(self, endpoint: str) -> bool:
        """Whether another link of this endpoint fits; the endpoint with most links may have to close one."""
        most = self.config.websocket.max_connections
        if len(self.open) - len(self._closing) >= most:
            crowded = self._shares.gives_way(endpoint)
            if crowded is None:
                return False
            crowded.close_reason(CROWDED_OUT)
        if len(self.open) > most and self._closing:  # a slow closing handshake is cut short
            oldest = next(iter(self._closing))
            del self._closing[oldest]
            oldest.cut()
        return True

    def decide(self, target: str, headers: Headers, peer: tuple[str, int], local: str, *, tls: bool = False) -> Admission | Refusal:
        """Decide about an upgrade request for `target` with these headers, from `peer` to our address `local`."""
        source = self.authenticator.source(peer, local, headers.get_all, tls=tls)
        shown = source.shown
        path, _, query = target.partition("?")
        side = PATHS.get(path)
        if side is None:
            return Refusal(404, "not found", NOT_FOUND, "no such path", shown)
        if self.refuse_new:
            return Refusal(503, "restarting", RESTART, "draining", shown, (("Retry-After", str(RETRY_SECONDS)),))
        if not self.authenticator.origins.allow(headers.get_all, tls=self.authenticator.is_tls(peer[0], headers.get_all, tls=tls)):
            return Refusal(403, "origin not allowed", ORIGIN, "origin not allowed", shown)
        fields = parse_qsl(query, keep_blank_values=True)
        grant = self.authenticator.admit(fields, headers.get_all, source, side)
        if isinstance(grant, Refusal):
            return grant
        if not self._has_room(grant.endpoint):
            return Refusal(503, "full", FULL, "max_connections reached", shown, (("Retry-After", str(RETRY_SECONDS)),))
        server_id = next((value for name, value in fields if name == "server_id"), "")
        return Admission(side, grant, server_id[:SERVER_ID_CHARS], shown, ("revision", methods.STATELESS_REVISION) in fields)


NOT_FOUND: Final = (
    "没有这个地址：工具端用 /mcp_endpoint/mcp/，设备端用 /mcp_endpoint/call/"
    " / No such address: tools connect to /mcp_endpoint/mcp/, devices to /mcp_endpoint/call/"
)
FULL: Final = "连接数已满 / No room for another connection (websocket.max_connections)"
RESTART: Final = "服务器正在重启 / The server is restarting"
