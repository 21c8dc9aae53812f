"""Which token opens which endpoint to whom: the same rule for a WebSocket and for an HTTP request.

Headers are asked for by name through a function that gives all values of one, because the two wires have different classes for them.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Final, Literal, NamedTuple

import msgspec

from .addresses import is_loopback
from .config import Config
from .tokens import Doors, Opened, Refused

Side = Literal["tool", "device"]
Values = Callable[[str], Sequence[str]]
"""All values of the header with this name; none if it is not there."""

FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-IP", "Via")
"""Headers that only a proxy adds: a request that has one came from elsewhere."""
WINDOW: Final = 60.0
"""Seconds over which bad tokens are counted."""


class Refusal(NamedTuple):
    """Why somebody may not come in: an HTTP answer, and a word for the log that the peer does not see."""

    status: int
    error: str
    message: str
    why: str
    address: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> bytes:
        """The JSON that all our HTTP errors have."""
        return msgspec.json.encode({"error": self.error, "message": self.message})

    def answer(self) -> bytes:
        """The whole HTTP answer."""
        body = self.body
        head = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", "Content-Type: application/json; charset=utf-8"]
        head += [f"Content-Length: {len(body)}", "Connection: close"]
        head += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Whence(NamedTuple):
    """Where a request comes from."""

    peer: str
    """The address of the socket's other end."""
    local: str
    """Our own address, to which it came."""
    shown: str
    """For the log."""
    counted: str
    """The address its bad tokens count for, empty for those who are exempt."""


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
        address = neighbourhood(address)
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


class Porter:
    """Looks at tokens; one per server, so that an address is counted once whatever it knocks at."""

    def __init__(
        self,
        config: Config,
        doors: Doors,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        """`clock` counts bad tokens, `epoch` is what tokens expire by; both in seconds."""
        self.bad_tokens = BadTokens(config.limits.failed_tokens_per_minute, config.limits.failed_token_addresses)
        self._doors = doors
        self._clock = clock
        self._epoch = epoch
        self._key = config.server.key.encode()
        self._opaque = config.security.opaque_tokens
        self._origins = frozenset(origin.lower().rstrip("/") for origin in config.security.allowed_origins)
        self._proxies = tuple(ipaddress.ip_network(proxy, strict=False) for proxy in config.server.trusted_proxies)
        self._opaque_at_all = _opaque_at_all(config)

    def whence(self, peer: tuple[str, int], local: str, values: Values) -> Whence:
        """Where a request from `peer` to our address `local` comes from, if a trusted proxy brought it from elsewhere."""
        host, port = peer
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if not self._trusted(host):
            return Whence(host, local, shown, "" if is_loopback(host) else host)
        for entry in reversed(",".join(values("X-Forwarded-For")).split(",")):
            client = _address(entry)
            if not client:
                break
            if not self._trusted(client):
                return Whence(host, local, f"{client} via {host}", "" if is_loopback(client) else client)
        return Whence(host, local, shown, "")

    def origin_allowed(self, values: Values, *, tls: bool) -> bool:
        """A web page may connect if its origin is listed or this server's own; who is no web page sends no Origin."""
        if "*" in self._origins:
            return True
        origins = values("Origin")
        if not origins:
            return True
        own = [f"{'https' if tls else 'http'}://{host}".lower() for host in values("Host")]
        return len(origins) == 1 and (origins[0].lower() in self._origins or [origins[0].lower()] == own)

    def admit(self, fields: Iterable[tuple[str, str]], values: Values, whence: Whence, side: Side) -> Opened | Refusal:
        """What the token of a request opens to this side; `fields` are those of its query."""
        try:
            opened = self._doors.open(_token(fields, values), self._epoch())
            if opened.kind == "opaque" and not self._opaque_allowed(values, whence):
                raise Refused("opaque-token-not-allowed-here")
        except Refused as refused:
            return self._refused(refused.why, whence)
        if opened.role not in ("both", side):
            return Refusal(403, "wrong side", ROLE, f"a token for {opened.role} at the {side} address", whence.shown)
        return opened

    def is_key(self, fields: Iterable[tuple[str, str]], values: Values) -> bool:
        """Whether the token of a request is the server's own key, which opens every endpoint to its operator."""
        try:
            return hmac.compare_digest(_token(fields, values).encode("utf-8", "surrogatepass"), self._key)
        except Refused:
            return False

    def _refused(self, why: str, whence: Whence) -> Refusal:
        wait = self.bad_tokens.another(whence.counted, self._clock()) if whence.counted else 0
        if wait:
            return Refusal(429, "too many bad tokens", TOO_MANY, why, whence.shown, (("Retry-After", str(wait)),))
        return Refusal(401, "bad token", TOKEN, why, whence.shown, (("WWW-Authenticate", "Bearer"),))

    def _trusted(self, host: str) -> bool:
        if not self._proxies:
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._proxies)

    def _opaque_allowed(self, values: Values, whence: Whence) -> bool:
        if self._opaque == "always":
            return True
        local = is_loopback(whence.peer) and is_loopback(whence.local)
        return self._opaque_at_all and local and not any(values(name) for name in FORWARDED)


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


def _token(fields: Iterable[tuple[str, str]], values: Values) -> str:
    """The one token of a request: `?token=`, else `Authorization: Bearer`. A `+` of the query has become a blank. Two: Refused."""
    shown = [value for name, value in fields if name == "token"]
    if not shown:
        for value in values("Authorization"):
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


def neighbourhood(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 customer has."""
    if ":" not in address:
        return address
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


TOKEN: Final = (
    "令牌无效：请使用服务器启动时打印的地址，或运行 mcp-endpoint url NAME 获取"
    " / Invalid token: use an address printed when the server starts, or get one with: mcp-endpoint url NAME"
)
TOO_MANY: Final = "令牌错误次数过多，请稍后再试 / Too many bad tokens from this address, try again later"
ROLE: Final = (
    "此令牌只能用于另一端：工具端用 /mcp_endpoint/mcp/，设备端用 /mcp_endpoint/call/"
    " / This token is for the other side: tools connect to /mcp_endpoint/mcp/, devices to /mcp_endpoint/call/"
)
