"""What a request becomes on its way to an upstream, and an answer on its way back: addresses, headers and the key, to the byte.

Hop-by-hop headers belong to one connection (RFC 9110 §7.6.1) and stay there. Everything else is nobody's business here.
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
"""Carries this server's own key; it does not leave the house."""
HOP_BY_HOP: Final = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings"),
    )
)
MCP_ACCEPT: Final = b"application/json, text/event-stream"
"""What a Streamable HTTP server may insist on (MCP 2025-03-26, Transports)."""

_FOREIGN: Final = re.compile(rb"[^\x21-\x7e]|#")
MOST_LAYERS: Final = 8
"""How often a path may be percent-encoded over again: what is wrapped deeper hides something."""

_ESCAPE: Final = re.compile(rb"%(?:u00)?([0-9a-f]{2})", re.IGNORECASE)
"""`%2e`, and `%u002e` as some servers still read it."""
_OVERLONG: Final = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80\x81][\x80-\xbf]|\xf0\x80[\x80\x81][\x80-\xbf]")
"""A letter of ASCII in more bytes than it needs, which RFC 3629 §3 forbids and old decoders read."""
_ENDS: Final = re.compile(rb"[/\\;?#]")
"""What ends a step for one server or another, once it is decoded."""
_UNSEEN: Final = bytes((*range(0x21), 0x7F))
"""Blanks and controls, which some servers cut off a step."""


class Target(NamedTuple):
    """Where the requests of one gateway go."""

    host: bytes
    """As it stands in the Host header."""
    origin: str
    """`https://host:port`."""
    path: bytes
    query: bytes

    @classmethod
    def at(cls, target: str) -> Target:
        """The aim of a URL. Its user, password and fragment are not used."""
        parts = urlsplit(target)
        host = parts.netloc.rpartition("@")[2]
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._").encode()
        return cls(host.encode("idna" if not host.isascii() else "ascii"), f"{parts.scheme}://{host}", path, parts.query.encode())

    def join(self, path: bytes, query: bytes, place: str, secret: str) -> bytes:
        """The path and query of one request; `path` is what follows the gateway's own, `secret` the key if it goes into the query."""
        whole = self.path if path in (b"", b"/") else self.path.rstrip(b"/") + b"/" + path.lstrip(b"/")
        fields = in_query(self.query + b"&" + query, place, secret)
        # Some clients send letters as they are; a target has none but those of RFC 3986.
        return _FOREIGN.sub(lambda byte: b"%%%02X" % byte[0][0], whole + (b"?" + fields if fields else b""))

    def back(self, location: bytes, prefix: str, place: str) -> bytes:
        """A Location that leads into the target's folder leads there through the gateway at `prefix`; others stay as they are.

        The upstream may have put the request's query into it, our key too: that field is left out.
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
    """Stars instead of a key in a stream of bytes, which keeps its length; the last few bytes wait for what follows them."""

    def __init__(self, secret: str) -> None:
        self._secrets = sorted({secret.encode(), quote(secret, safe="").encode()}, key=len, reverse=True)
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What may be shown so far."""
        data = self.over(self._held + chunk)
        ready = max(0, len(data) - len(self._secrets[0]) + 1)
        self._held = data[ready:]
        return data[:ready]

    def end(self) -> bytes:
        """What was still waiting."""
        return self._held

    def over(self, data: bytes) -> bytes:
        """Something whole with stars in it."""
        for secret in self._secrets:
            data = data.replace(secret, b"*" * len(secret))
        return data


def unkeyed(query: bytes, key: bytes) -> bytes:
    """A query without `key=` and this server's own key, however spelled. With another value the word is the upstream's, and stays."""
    return b"&".join(field for field in query.split(b"&") if not _shows(field, key))


def _shows(field: bytes, key: bytes) -> bool:
    """Whether a field of a query reads `key=` and the key, as whoever looks for the key reads it."""
    name, _, value = (unquote_to_bytes(part.replace(b"+", b" ")) for part in field.partition(b"="))
    return name == b"key" and hmac.compare_digest(value, key)


def climbs(path: bytes) -> bool:
    """Whether a path, however it is spelled, has a `.` or `..` step for some server: it would leave the target's folder with our key.

    It is decoded until nothing changes; the path that is carried stays as it was.
    """
    for _ in range(MOST_LAYERS):
        plain = _OVERLONG.sub(_shortest, _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), path))
        if plain == path:
            return b"\0" in plain or any(step.translate(None, _UNSEEN) in (b".", b"..") for step in _ENDS.split(plain))
        path = plain
    return True


def _shortest(found: re.Match[bytes]) -> bytes:
    """The one byte that an overlong sequence of UTF-8 stands for."""
    *_, before, last = found[0]
    return bytes(((before & 0x01) << 6 | last & 0x3F,))


def request_headers(headers: Iterable[Header], target: Target, place: str, secret: str, *, mcp: bool) -> list[Header]:
    """The headers of a request as the upstream gets them; names are lower-case, as ASGI gives them. `mcp` adds the Accept MCP needs."""
    given = list(headers)
    dropped = HOP_BY_HOP | _named(given) | {b"host", b"content-length", KEY_HEADER}
    # What stands around a value is none of it (RFC 9110 §5.5), and not every client may send it on.
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
    """The headers of an answer as the client gets them; `date` is the server's own.

    A length goes where it means nothing: beside a transfer coding (RFC 9112 §6.3), and under 204 (RFC 9110 §8.6).
    """
    given = [(name.lower(), value) for name, value in headers]
    dropped = HOP_BY_HOP | _named(given) | {b"date"}
    if status == 204 or any(name == b"transfer-encoding" for name, _ in given):
        dropped |= {b"content-length"}
    return [(name, value) for name, value in given if name not in dropped]


def _named(headers: Iterable[Header]) -> set[bytes]:
    """The headers that `Connection` says belong to it."""
    return {part.strip().lower() for name, value in headers if name == b"connection" for part in value.split(b",")}
