"""The rules of access for WebSocket and HTTP alike: which endpoint a token grants, and what a web page may request.

Headers are read through a function that returns all values of a name, because the two transports use different header classes.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Final, Literal, NamedTuple

import msgspec

from ..settings.schema import Config
from .addresses import is_loopback
from .tokens import Grant, TokenCodec, TokenRefused

Side = Literal["tool", "device"]
Values = Callable[[str], Sequence[str]]
"""All values of the header with this name; empty if absent."""
PORTS: Final = {"http": 80, "https": 443}
FILES: Final = "file://"
"""The origin of a web page in a file, where a browser does not send `null`; a WebSocket library for Arduino always sends it."""
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
"""Host names of the local machine."""

FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-IP", "Via")
"""Headers that only proxies add: a request with one of them was forwarded."""
WINDOW: Final = 60.0
"""Window in which bad tokens are counted, in seconds."""


class Refusal(NamedTuple):
    """An HTTP error response, with a reason for the log that the peer does not see."""

    status: int
    error: str
    message: str
    why: str
    address: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> bytes:
        """The JSON body that all HTTP errors of this server have."""
        return msgspec.json.encode({"error": self.error, "message": self.message})

    def answer(self) -> bytes:
        """The whole HTTP response."""
        body = self.body
        head = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", "Content-Type: application/json; charset=utf-8"]
        head += [f"Content-Length: {len(body)}", "Connection: close"]
        head += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class TwoTokens(Exception):
    """A request carries two different tokens."""


class Source(NamedTuple):
    """The origin of a request, as far as access depends on it."""

    peer: str
    """The address of the socket's peer."""
    local: str
    """The local address of the socket."""
    shown: str
    """For the log."""
    counted: str
    """The address its bad tokens count for; empty if it is exempt."""
    foreign: bool = False
    """Whether a foreign web page made the request, see `Origins`."""


class Origin(NamedTuple):
    """The origin of a web page (RFC 6454), normalized."""

    scheme: str
    host: str
    """Lower case; an IPv6 address is compressed and without brackets."""
    port: int
    """The explicit or default port; 0 for a scheme without ports."""

    @classmethod
    def of(cls, text: str) -> Origin | None:
        """Parse `SCHEME://HOST[:PORT]`; None for `null` and for everything else."""
        text = text.strip().lower()
        if text == FILES:
            return cls("file", "", 0)
        found = _ORIGIN.fullmatch(text)
        if found is None:
            return None
        scheme, host, port = found["scheme"], found["name"] or found["address"], found["port"]
        if found["address"]:
            try:
                host = ipaddress.IPv6Address(host).compressed
            except ValueError:
                return None
        return cls(scheme, host, int(port) if port else PORTS.get(scheme, 0))


class Origins:
    """The rules for requests of web pages.

    A page is refused if `allowed_origins` does not contain its origin. A foreign page is also refused what needs no secret: free-form
    tokens, metrics without the key, a gateway. A page is foreign unless it belongs to this server or is listed by name; `*` and `null`
    list nobody by name. The browser sends the page's origin in `Origin`; if it does not (an image, a link), in `Sec-Fetch-Site`; an old
    browser in `Referer`. A page cannot forge these headers, and programs send none of them.
    """

    def __init__(self, config: Config) -> None:
        allowed = config.security.allowed_origins
        self._all = "*" in allowed
        self._null = "null" in allowed
        self._named = frozenset(origin for origin in map(Origin.of, allowed) if origin is not None)
        hosts = frozenset(host.lower() for host in config.security.allowed_hosts)
        self._hosts = hosts if "*" in hosts else None
        scheme, _, rest = config.server.public_url.partition("://")
        self._public = Origin.of(f"{scheme}://{rest.partition('/')[0]}")

    def allow(self, values: Values, *, tls: bool) -> bool:
        """Whether `allowed_origins` admits a request; a request without Origin does not come from a page."""
        origins = values("Origin")
        if self._all or not origins:
            return True
        if len(origins) != 1:
            return False
        return (self._null and origins[0] == "null") or self._known(Origin.of(origins[0]), self._own(values, tls=tls))

    def foreign(self, values: Values, *, tls: bool) -> bool:
        """Whether a foreign web page made the request."""
        origins, sites = values("Origin"), values("Sec-Fetch-Site")
        if origins:
            own = self._own(values, tls=tls)
            origin = Origin.of(origins[0]) if len(origins) == 1 else None
            if not self._known(origin, own):
                return True
            if origin != own:
                return False  # a listed page of another site: its Sec-Fetch-Site is cross-site, rightly
        if origins or sites:
            return any(site.strip().lower() not in ("same-origin", "none") for site in sites)
        pages = [page for referer in values("Referer") if (page := _PAGE.match(referer))]
        return any(not self._known(Origin.of(page[0]), self._own(values, tls=tls)) for page in pages)

    def own_page(self, values: Values, *, tls: bool) -> bool:
        """Whether a page of this server made the request: not a program, and not a page from elsewhere, listed or not."""
        origins, sites = values("Origin"), [site.strip().lower() for site in values("Sec-Fetch-Site")]
        if sites not in ([], ["same-origin"]):
            return False
        if not origins:
            return bool(sites)
        origin = Origin.of(origins[0]) if len(origins) == 1 else None
        return origin is not None and origin in (self._own(values, tls=tls), self._public)

    def _known(self, origin: Origin | None, own: Origin | None) -> bool:
        """Whether an origin belongs to this server or is listed by name."""
        if origin is None:
            return False
        if origin in (own, self._public) or origin in self._named:
            return True
        # A browser that reached this port on its own machine may use any loopback name for this server.
        here = own is not None and is_loopback(own.host) and own.port == origin.port
        return here and origin.host in LOOPBACK and origin.scheme in PORTS

    def _own(self, values: Values, *, tls: bool) -> Origin | None:
        """The origin of this server's own pages, as this request addresses it."""
        hosts = values("Host")
        own = Origin.of(f"{'https' if tls else 'http'}://{hosts[0]}") if len(hosts) == 1 else None
        if own is None or self._hosts is None:
            return own
        # Where `allowed_hosts` accepts every name, a foreign name may resolve to this server (DNS rebinding).
        return own if is_loopback(own.host) or _address(own.host) or own.host in self._hosts else None


class BadTokens:
    """Counts the bad tokens of each address within the last minute; the oldest entry is dropped first."""

    def __init__(self, most: int, addresses: int) -> None:
        self._most = most
        self._addresses = addresses
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def another(self, address: str, now: float) -> int:
        """Count one more of `address`; returns 0, or the whole seconds after which it may try again."""
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


class Authenticator:
    """Checks tokens; one per server, so that bad tokens of an address are counted across all entry points."""

    def __init__(
        self,
        config: Config,
        codec: TokenCodec,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        """`clock` times the counting of bad tokens, `epoch` the expiry of tokens; both in seconds."""
        self.bad_tokens = BadTokens(config.limits.failed_tokens_per_minute, config.limits.failed_token_addresses)
        self._codec = codec
        self._clock = clock
        self._epoch = epoch
        self._key = config.server.key.encode()
        self._opaque = config.security.opaque_tokens
        self.origins = Origins(config)
        self._proxies = tuple(ipaddress.ip_network(proxy, strict=False) for proxy in config.server.trusted_proxies)
        self._opaque_at_all = _opaque_at_all(config)

    def source(self, peer: tuple[str, int], local: str, values: Values, *, tls: bool = False) -> Source:
        """The source of a request from `peer` to the local address `local`, looking behind trusted proxies."""
        host, port = peer
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        foreign = self.origins.foreign(values, tls=self.is_tls(host, values, tls=tls))
        if not self._trusted(host):
            return Source(host, local, shown, "" if is_loopback(host) else host, foreign)
        for entry in reversed(",".join(values("X-Forwarded-For")).split(",")):
            client = _address(entry)
            if not client:
                break
            if not self._trusted(client):
                return Source(host, local, f"{client} via {host}", "" if is_loopback(client) else client, foreign)
        return Source(host, local, shown, "", foreign)

    def is_tls(self, host: str, values: Values, *, tls: bool) -> bool:
        """Whether the browser used TLS: to this server, or to the trusted proxy at `host`."""
        return tls or (self._trusted(host) and [value.strip() for value in values("X-Forwarded-Proto")[-1:]] == ["https"])

    def admit(self, fields: Iterable[tuple[str, str]], values: Values, source: Source, side: Side) -> Grant | Refusal:
        """What the token of a request grants to this side; `fields` are those of its query."""
        try:
            token = token_of(fields, values)
            if source.foreign and not token:
                return refused_page(source.shown)
            grant = self._codec.open(token, self._epoch())
            if grant.kind == "opaque" and source.foreign:
                return refused_page(source.shown)
            if grant.kind == "opaque" and not self._opaque_allowed(values, source):
                raise TokenRefused("opaque-token-not-allowed-here")
        except TwoTokens:
            return Refusal(400, "two tokens", TWO_TOKENS, "two tokens", source.shown)
        except TokenRefused as refused:
            return self._refused(refused.why, source)
        if grant.role not in ("both", side):
            return Refusal(403, "wrong side", ROLE, f"a token for {grant.role} at the {side} address", source.shown)
        return grant

    def is_key(self, fields: Iterable[tuple[str, str]], values: Values) -> bool:
        """Whether the token of a request is the server's own key, which grants its operator every endpoint."""
        try:
            return hmac.compare_digest(token_of(fields, values).encode("utf-8", "surrogatepass"), self._key)
        except TwoTokens:
            return False

    def is_opaque(self, token: str) -> bool:
        """Whether a token is a free-form one."""
        if self.is_key([("token", token)], lambda name: ()):
            return False
        try:
            return self._codec.open(token, self._epoch()).kind == "opaque"
        except TokenRefused:
            return False

    def wrong_key(self, source: Source) -> Refusal:
        """The answer to a wrong key (or password), which counts as a bad token."""
        return self._refused("wrong-key", source)

    def _refused(self, why: str, source: Source) -> Refusal:
        wait = self.bad_tokens.another(source.counted, self._clock()) if source.counted else 0
        if wait:
            return Refusal(429, "too many bad tokens", TOO_MANY, why, source.shown, (("Retry-After", str(wait)),))
        error, message = REASONS.get(why, ("bad token", TOKEN))
        return Refusal(401, error, message, why, source.shown, (("WWW-Authenticate", "Bearer"),))

    def _trusted(self, host: str) -> bool:
        if not self._proxies:
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._proxies)

    def _opaque_allowed(self, values: Values, source: Source) -> bool:
        if self._opaque == "always":
            return True
        local = is_loopback(source.peer) and is_loopback(source.local)
        return self._opaque_at_all and local and not any(values(name) for name in FORWARDED)


def _opaque_at_all(config: Config) -> bool:
    """Whether free-form tokens are accepted at all: the server listens on loopback, and no public URL points elsewhere."""
    if config.security.opaque_tokens != "loopback" or not is_loopback(config.server.host):
        return config.security.opaque_tokens == "always"
    public = config.server.public_url
    return not public or is_loopback(host_of(public))


def refused_page(address: str) -> Refusal:
    """The response to a foreign web page without a secret; only this server's own pages may read it."""
    return Refusal(403, "origin not allowed", PAGE, "a web page of somebody else", address, OWN_PAGES)


def host_of(url: str) -> str:
    """The host of `//HOST[:PORT]/…`, an IPv6 address without brackets; empty if there is none."""
    host = url.partition("//")[2].partition("/")[0]
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def token_of(fields: Iterable[tuple[str, str]], values: Values) -> str:
    """The token of a request: `Authorization: Bearer` or `?token=`; an empty one is none.

    Raises TwoTokens for two different ones. A `+` of the query that was decoded to a blank makes no difference.
    """
    bearers = (value.partition(" ") for value in values("Authorization"))
    shown = [credentials.strip() for scheme, _, credentials in bearers if scheme.lower() == "bearer"]
    shown = [token for token in (*shown, *(value for name, value in fields if name == "token")) if token]
    if len({token.replace(" ", "+") for token in shown}) > 1:
        raise TwoTokens
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
    """The unit in which addresses are counted: an IPv4 address, or the IPv6 /64 of one customer."""
    if ":" not in address:
        return address
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^\s/?#@,:\[\]\\]+))(?::(?P<port>[0-9]{1,5}))?"
)
_PAGE: Final = re.compile(r"https?://[^/?#]+", re.IGNORECASE)
"""The origin a Referer begins with."""
OWN_PAGES: Final = (("Cross-Origin-Resource-Policy", "same-origin"),)
ORIGIN: Final = "来源不被允许 / This origin is not allowed (security.allowed_origins)"
PAGE: Final = (
    "其他网站的网页不能使用自定义令牌、网关和无密钥的页面：请使用签名令牌，或在 [security] allowed_origins 中按名称列出该来源（* 不算）"
    " / A web page of another site may not use free-form tokens, gateways or pages without a key: use a signed token, or list its"
    " origin by name in [security] allowed_origins (* does not count)"
)
TOKEN: Final = (
    "令牌无效：请使用服务器启动时打印的地址，或运行 mcp-endpoint url NAME 获取"
    " / Invalid token: use an address printed when the server starts, or get one with: mcp-endpoint url NAME"
)
NO_TOKEN: Final = (
    "没有令牌：请在地址中加上 ?token=，或使用请求头 Authorization: Bearer；地址可用 mcp-endpoint url NAME 获取"
    " / No token: put ?token= into the address or send Authorization: Bearer; get an address with: mcp-endpoint url NAME"
)
PLACEHOLDER: Final = (
    "地址中是示例里的占位符，而不是令牌：请把它换成您的令牌，或运行 mcp-endpoint url NAME 获取整个地址"
    " / This is the placeholder of an example, not a token: put your token there, or get the whole address with: mcp-endpoint url NAME"
)
NOT_HERE: Final = (
    "自定义令牌在这里无效：如果它是复制来的，说明复制不完整，或令牌由其他密钥生成；请运行 mcp-endpoint url NAME 获取地址"
    " / Free-form tokens are not accepted here: if you copied it, it was cut off or made with another key; get an address with:"
    " mcp-endpoint url NAME"
)
WRONG_KEY: Final = (
    "密钥错误：密钥是配置中的 [server] key，也是启动时打印的第一个地址中 key= 之后的部分"
    " / Wrong key: it is [server] key of the configuration, and what follows key= in the first address printed at the start"
)
REASONS: Final = {
    "missing": ("no token", NO_TOKEN),
    "placeholder": ("placeholder", PLACEHOLDER),
    "opaque-token-not-allowed-here": ("bad token", NOT_HERE),
    "wrong-key": ("wrong key", WRONG_KEY),
}
"""Reasons that the peer is told; for any other bad token it is told only that it is invalid."""
TWO_TOKENS: Final = (
    "请求带有两个不同的令牌：请只用 Authorization 或 ?token= 之一"
    " / The request has two different tokens: use either Authorization or ?token="
)
TOO_MANY: Final = "令牌错误次数过多，请稍后再试 / Too many bad tokens from this address, try again later"
ROLE: Final = (
    "此令牌只能用于另一端：工具端用 /mcp_endpoint/mcp/，设备端用 /mcp_endpoint/call/"
    " / This token is for the other side: tools connect to /mcp_endpoint/mcp/, devices to /mcp_endpoint/call/"
)
