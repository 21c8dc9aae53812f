"""The door: an upgrade request becomes an admission, or an HTTP refusal before 101."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final, Literal, NamedTuple, Protocol
from urllib.parse import parse_qsl

import msgspec
from websockets.datastructures import Headers

from ..addresses import is_loopback
from ..broker import Broker
from ..config import Config
from ..errors import Goodbye
from ..tokens import Doors, Opened, Refused
from .keepalive import Keepalive

Side = Literal["tool", "device"]

PATHS: Final[Mapping[str, Side]] = {
    "/mcp_endpoint/mcp/": "tool",
    "/mcp_endpoint/mcp": "tool",
    "/mcp_endpoint/call/": "device",
    "/mcp_endpoint/call": "device",
}
FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-IP", "Via")
"""Headers that only a proxy adds: a request that has one came from elsewhere."""
SERVER_ID_CHARS: Final = 128
"""Longest `server_id` that is looked at; the catalog cuts names to 64."""
WINDOW: Final = 60.0
"""Seconds over which bad tokens are counted."""
RETRY_SECONDS: Final = 5
"""What a peer is told to wait when there is no room for it."""


class Admission(NamedTuple):
    """Who may come in, and where."""

    side: Side
    opened: Opened
    server_id: str
    """The name a tool process gave itself, or empty."""
    address: str
    """Where it comes from, for the log."""


class Refusal(NamedTuple):
    """Why somebody may not come in: an HTTP answer, and a word for the log that the peer does not see."""

    status: int
    error: str
    message: str
    why: str
    address: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def answer(self) -> bytes:
        """The whole HTTP answer; its JSON has the form of all our HTTP errors."""
        body = msgspec.json.encode({"error": self.error, "message": self.message})
        head = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", "Content-Type: application/json; charset=utf-8"]
        head += [f"Content-Length: {len(body)}", "Connection: close"]
        head += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Closable(Protocol):
    """What the door needs of the links inside."""

    def goodbye(self, goodbye: Goodbye) -> None:
        """Begin the closing handshake."""


class BadTokens:
    """How often each address showed a bad token within the last minute; the longest known address is forgotten first."""

    def __init__(self, most: int, addresses: int) -> None:
        self._most = most
        self._addresses = addresses
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def another(self, address: str, now: float) -> int:
        """One more from `address`: 0, or the whole seconds after which it may try again."""
        address = _neighbourhood(address)
        began, count = self._windows.get(address, (now, 0))
        if now - began >= WINDOW:
            self._windows.pop(address)
            began, count = now, 0
        if count >= self._most:
            return int(began + WINDOW - now) + 1
        self._windows[address] = (began, count + 1)
        if len(self._windows) > self._addresses:
            self._windows.popitem(last=False)
        return 0


class Door:
    """Decides who comes in, and knows who is inside: one per server, shared by all its links."""

    def __init__(
        self,
        config: Config,
        broker: Broker,
        doors: Doors,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        """`clock` counts failed tokens, `epoch` is what tokens expire by; both in seconds."""
        self.config = config
        self.broker = broker
        self.keepalive = Keepalive(config.websocket, config.limits)
        self.open: set[Closable] = set()
        """Links whose socket is not yet gone, those that are closing too."""
        self.unfinished: dict[Any, None] = {}
        """Sockets that have not finished their HTTP head, the oldest first."""
        self.refuse_new = False
        """While the server drains nobody comes in: 503."""
        self.counters: Counter[str] = Counter()
        """`links_accepted`, `refused_STATUS`, `goodbyes_CODE`: how often since the start."""
        self.bad_tokens = BadTokens(config.limits.failed_tokens_per_minute, config.limits.failed_token_addresses)
        self._doors = doors
        self._clock = clock
        self._epoch = epoch
        self._origins = frozenset(origin.lower().rstrip("/") for origin in config.security.allowed_origins)
        self._proxies = tuple(ipaddress.ip_network(proxy, strict=False) for proxy in config.server.trusted_proxies)
        self._opaque_at_all = _opaque_at_all(config)

    @property
    def links(self) -> int:
        """How many sockets are links."""
        return len(self.open)

    def close_all(self, goodbye: Goodbye) -> None:
        """Every link hears the same goodbye."""
        for link in list(self.open):
            link.goodbye(goodbye)

    def decide(self, target: str, headers: Headers, peer: tuple[str, int], local: str, *, tls: bool = False) -> Admission | Refusal:
        """Who stands at the door with this request target and these headers, from `peer` to our address `local`."""
        shown, known = self._whereabouts(peer, headers)
        path, _, query = target.partition("?")
        side = PATHS.get(path)
        if side is None:
            return Refusal(404, "not found", NOT_FOUND, "no such path", shown)
        if self.refuse_new:
            return Refusal(503, "restarting", RESTART, "draining", shown, (("Retry-After", str(RETRY_SECONDS)),))
        if len(self.open) >= self.config.websocket.max_connections:
            return Refusal(503, "full", FULL, "max_connections reached", shown, (("Retry-After", str(RETRY_SECONDS)),))
        if not self._origin_allowed(headers, tls=tls):
            return Refusal(403, "origin not allowed", ORIGIN, "origin not allowed", shown)
        fields = parse_qsl(query, keep_blank_values=True)
        try:
            opened = self._doors.open(_token(fields, headers), self._epoch())
            if opened.kind == "opaque" and not self._opaque_allowed(headers, peer[0], local):
                raise Refused("opaque-token-not-allowed-here")
        except Refused as refused:
            wait = self.bad_tokens.another(known, self._clock()) if known else 0
            if wait:
                return Refusal(429, "too many bad tokens", TOO_MANY, refused.why, shown, (("Retry-After", str(wait)),))
            return Refusal(401, "bad token", TOKEN, refused.why, shown, (("WWW-Authenticate", "Bearer"),))
        if opened.role not in ("both", side):
            return Refusal(403, "wrong side", ROLE, f"a token for {opened.role} at the {side} address", shown)
        server_id = next((value for name, value in fields if name == "server_id"), "")
        return Admission(side, opened, server_id[:SERVER_ID_CHARS], shown)

    def _whereabouts(self, peer: tuple[str, int], headers: Headers) -> tuple[str, str]:
        """Where the peer is, for the log; and the address its bad tokens count for, empty for those who are exempt."""
        host, port = peer
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if not self._trusted(host):
            return shown, "" if is_loopback(host) else host
        for entry in reversed(",".join(headers.get_all("X-Forwarded-For")).split(",")):
            client = _address(entry)
            if not client:
                break
            if not self._trusted(client):
                return f"{client} via {host}", "" if is_loopback(client) else client
        return shown, ""

    def _trusted(self, host: str) -> bool:
        if not self._proxies:
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._proxies)

    def _origin_allowed(self, headers: Headers, *, tls: bool) -> bool:
        """A web page may connect if its origin is listed or this server's own; who is no web page sends no Origin."""
        if "*" in self._origins:
            return True
        origins = headers.get_all("Origin")
        if not origins:
            return True
        own = [f"{'https' if tls else 'http'}://{host}".lower() for host in headers.get_all("Host")]
        return len(origins) == 1 and (origins[0].lower() in self._origins or [origins[0].lower()] == own)

    def _opaque_allowed(self, headers: Headers, peer: str, local: str) -> bool:
        if self.config.security.opaque_tokens == "always":
            return True
        return self._opaque_at_all and is_loopback(peer) and is_loopback(local) and not any(name in headers for name in FORWARDED)


def _opaque_at_all(config: Config) -> bool:
    """Whether anybody may use a token of free choice: the socket is bound to this machine and nothing says it is reached from outside."""
    if config.security.opaque_tokens != "loopback" or not is_loopback(config.server.host):
        return config.security.opaque_tokens == "always"
    public = config.server.public_url
    return not public or is_loopback(host_of(public))


def host_of(url: str) -> str:
    """The host of `//HOST[:PORT]/…` without the brackets of an IPv6 address; empty if there is none."""
    host = url.partition("//")[2].partition("/")[0]
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _token(fields: Iterable[tuple[str, str]], headers: Headers) -> str:
    """The one token of a request: `?token=`, else `Authorization: Bearer`. A `+` of the query has become a blank."""
    shown = [value for name, value in fields if name == "token"]
    if not shown:
        for value in headers.get_all("Authorization"):
            scheme, _, credentials = value.partition(" ")
            if scheme.lower() == "bearer":
                shown.append(credentials.strip())
    if len(shown) > 1:
        raise Refused("several-tokens")
    return shown[0] if shown else ""


def _address(entry: str) -> str:
    """The address in one entry of X-Forwarded-For, with or without a port; empty if there is none."""
    entry = entry.strip().strip('"')
    if entry.startswith("["):
        entry = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    try:
        return str(ipaddress.ip_address(entry))
    except ValueError:
        return ""


def _neighbourhood(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 customer has."""
    if ":" not in address:
        return address
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


NOT_FOUND: Final = (
    "没有这个地址：工具端用 /mcp_endpoint/mcp/，设备端用 /mcp_endpoint/call/"
    " / No such address: tools connect to /mcp_endpoint/mcp/, devices to /mcp_endpoint/call/"
)
TOKEN: Final = (
    "令牌无效：请使用服务器启动时打印的地址，或运行 mcp-endpoint url NAME 获取"
    " / Invalid token: use an address printed when the server starts, or get one with: mcp-endpoint url NAME"
)
TOO_MANY: Final = "令牌错误次数过多，请稍后再试 / Too many bad tokens from this address, try again later"
ORIGIN: Final = "来源不被允许 / This origin is not allowed (security.allowed_origins)"
ROLE: Final = (
    "此令牌只能用于另一端：工具端用 /mcp_endpoint/mcp/，设备端用 /mcp_endpoint/call/"
    " / This token is for the other side: tools connect to /mcp_endpoint/mcp/, devices to /mcp_endpoint/call/"
)
FULL: Final = "连接数已满 / No room for another connection (websocket.max_connections)"
RESTART: Final = "服务器正在重启 / The server is restarting"
