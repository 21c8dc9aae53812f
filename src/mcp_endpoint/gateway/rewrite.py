"""Rewrites what the gateway forwards: URL, headers and key of a request, headers and Location of a response.

Hop-by-hop headers are removed (RFC 9110 §7.6.1); everything else is forwarded unchanged.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlsplit

from ..credentials.placement import as_header, fields_beside, in_query

Header = tuple[bytes, bytes]

KEY_HEADER: Final = b"x-endpoint-key"
"""Carries this server's own key; it is never forwarded."""
HOP_BY_HOP: Final = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings"),
    )
)
MCP_ACCEPT: Final = b"application/json, text/event-stream"
"""The Accept value that a Streamable HTTP server may require (MCP 2025-03-26, Transports)."""

_FOREIGN: Final = re.compile(rb"[^\x21-\x7e]|#")
MOST_LAYERS: Final = 8
"""Most rounds of percent-decoding in `climbs`; a path that is encoded more often is refused."""

_ESCAPE: Final = re.compile(rb"%(?:u00)?([0-9a-f]{2})", re.IGNORECASE)
"""`%2e`, and the non-standard `%u002e` that some servers decode."""
_OVERLONG: Final = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80\x81][\x80-\xbf]|\xf0\x80[\x80\x81][\x80-\xbf]")
"""Overlong UTF-8 of an ASCII character: forbidden by RFC 3629 §3, accepted by old decoders."""
_ENDS: Final = re.compile(rb"[/\\;?#]")
"""Characters that end a path segment on some server once they are decoded."""
_UNSEEN: Final = bytes((*range(0x21), 0x7F))
"""Blanks and control characters, which some servers strip from a segment."""


class Target(NamedTuple):
    """The upstream of one gateway."""

    host: bytes
    """The value of the Host header."""
    origin: str
    """`https://host:port`."""
    path: bytes
    query: bytes

    @classmethod
    def at(cls, target: str) -> Target:
        """Parse a URL. Its user, password and fragment are ignored."""
        parts = urlsplit(target)
        host = parts.netloc.rpartition("@")[2]
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._").encode()
        return cls(host.encode("idna" if not host.isascii() else "ascii"), f"{parts.scheme}://{host}", path, parts.query.encode())

    def join(self, path: bytes, query: bytes, place: str, secret: str) -> bytes:
        """The request target (path and query); `path` is below the gateway's own, `secret` is the key if `place` is in the query."""
        whole = self.path if path in (b"", b"/") else self.path.rstrip(b"/") + b"/" + path.lstrip(b"/")
        fields = in_query(self.query + b"&" + query, place, secret)
        # Some clients send other characters unencoded; RFC 3986 does not allow them.
        return _FOREIGN.sub(lambda byte: b"%%%02X" % byte[0][0], whole + (b"?" + fields if fields else b""))

    def back(self, location: bytes, prefix: str, place: str) -> bytes:
        """Rewrite a Location below the target's path so that it leads through the gateway at `prefix`; leave others as they are.

        The upstream may repeat the request's query in it, with the key: that field is removed.
        """
        folder = self.path.decode().rstrip("/")
        try:
            url = urlsplit(location.decode("latin-1"))
        except ValueError:
            return location
        here = url.netloc == self.host.decode() or not (url.netloc or url.scheme)
        if not here or not f"{url.path}/".startswith(f"{folder}/"):
            return location
        query = b"&".join(fields_beside(url.query.encode("latin-1"), place))
        path = f"{prefix}{url.path[len(folder) :]}" or "/"
        return path.encode("latin-1") + (b"?" + query if query else b"") + (f"#{url.fragment}" if url.fragment else "").encode("latin-1")


class Scrub:
    """Masks a key with asterisks in a byte stream without changing its length; the last bytes are held back until more arrives."""

    def __init__(self, secret: str) -> None:
        self._secrets = sorted({secret.encode(), quote(secret, safe="").encode()}, key=len, reverse=True)
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """The bytes that are ready to be sent."""
        data = self.over(self._held + chunk)
        ready = max(0, len(data) - len(self._secrets[0]) + 1)
        self._held = data[ready:]
        return data[:ready]

    def end(self) -> bytes:
        """The bytes that were held back."""
        return self._held

    def over(self, data: bytes) -> bytes:
        """`data` with the key masked."""
        for secret in self._secrets:
            data = data.replace(secret, b"*" * len(secret))
        return data


def unkeyed(query: bytes, key: bytes) -> bytes:
    """The query without a `key=` field that holds this server's key, in any encoding. `key=` with another value belongs to the upstream."""
    return b"&".join(field for field in query.split(b"&") if not _shows(field, key))


def _shows(field: bytes, key: bytes) -> bool:
    """Whether a query field decodes to `key=` and this server's key."""
    name, _, value = (unquote_to_bytes(part.replace(b"+", b" ")) for part in field.partition(b"="))
    return name == b"key" and hmac.compare_digest(value, key)


def climbs(path: bytes) -> bool:
    """Whether a path, in any encoding, has a `.` or `..` segment for some server: it would reach outside the target's path with our key.

    It is decoded until nothing changes; the forwarded path is not changed.
    """
    for _ in range(MOST_LAYERS):
        plain = _OVERLONG.sub(_shortest, _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), path))
        if plain == path:
            return b"\0" in plain or any(step.translate(None, _UNSEEN) in (b".", b"..") for step in _ENDS.split(plain))
        path = plain
    return True


def _shortest(found: re.Match[bytes]) -> bytes:
    """The ASCII byte that an overlong UTF-8 sequence encodes."""
    *_, before, last = found[0]
    return bytes(((before & 0x01) << 6 | last & 0x3F,))


def request_headers(headers: Iterable[Header], target: Target, place: str, secret: str, *, mcp: bool) -> list[Header]:
    """The request headers for the upstream; names are lower-case, as in ASGI. `mcp` adds the Accept header that MCP requires."""
    given = list(headers)
    dropped = HOP_BY_HOP | _named(given) | {b"host", b"content-length", KEY_HEADER}
    # Whitespace around a value is not part of it (RFC 9110 §5.5), and httpx2 may refuse to send it.
    kept = [(name, value.strip(b" \t")) for name, value in given if name not in dropped]
    if mcp:
        accepted = [value for name, value in kept if name == b"accept"]
        if not accepted or accepted == [b"*/*"]:
            kept = [*((name, value) for name, value in kept if name != b"accept"), (b"accept", MCP_ACCEPT)]
    bears = as_header(place, secret) if secret else None
    if bears is not None:
        transport, value = bears[0].encode(), bears[1].encode()
        kept = [*((name, old) for name, old in kept if name != transport), (transport, value)]
    return [(b"host", target.host), *kept]


def response_headers(headers: Iterable[Header], status: int = 200) -> list[Header]:
    """The response headers for the client, without `date`: uvicorn adds its own.

    Content-Length is removed where it has no meaning: beside a transfer coding (RFC 9112 §6.3) and with 204 (RFC 9110 §8.6).
    """
    given = [(name.lower(), value) for name, value in headers]
    dropped = HOP_BY_HOP | _named(given) | {b"date"}
    if status == 204 or any(name == b"transfer-encoding" for name, _ in given):
        dropped |= {b"content-length"}
    return [(name, value) for name, value in given if name not in dropped]


def _named(headers: Iterable[Header]) -> set[bytes]:
    """The headers that `Connection` names as hop-by-hop."""
    return {part.strip().lower() for name, value in headers if name == b"connection" for part in value.split(b",")}
