"""Opens a WebSocket link to the address of an endpoint; a failure becomes an error in both languages.

The address contains a token: only its scheme, host and path are ever printed.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
from websockets.uri import parse_uri

from ..access.addresses import FREE_FORM, Hint, free_form, is_loopback, token_in
from ..access.tokens import is_placeholder
from ..errors import ConfigError, EndpointError
from .frames import PROTOCOL_LOGGER

OPEN_SECONDS: Final = 10.0
"""Timeout of the TCP connection and the WebSocket handshake together."""
PING_SECONDS: Final = 20.0
"""Interval of keepalive pings, and timeout of each; below the idle limits of common proxies (nginx: 60 s)."""
CLOSE_SECONDS: Final = 2.0
"""Timeout for the answer to our close frame."""
FRAME_BYTES: Final = 8 * 1024 * 1024
"""Longest message accepted from the endpoint."""
QUEUED_FRAMES: Final = 4
"""Frames read ahead of the application."""
UNREAD_BYTES: Final = 4 * FRAME_BYTES
"""Output limit for a peer that sends but does not read: without it, pongs would pile up."""
SLOW_STATUSES: Final = frozenset((400, 401, 403, 404, 426, 429))
"""HTTP statuses that somebody has to fix first: reconnect slowly."""
SLOW_CODES: Final = frozenset((1008, 4001, 4003, 4401, 4403))
"""Close codes of the same kind: policy, replaced, revoked, and 401 or 403 of a token. After any other, also 1012, reconnect soon."""
SHOWN_CHARACTERS: Final = 300
"""Most characters of a foreign text that are shown."""

REMEDIES: Final[Mapping[int, str]] = {
    401: "令牌无效，请重新复制接入点地址 / the token was not accepted, copy the address again",
    403: "不允许 / not allowed",
    404: "地址的路径不对 / the address has a wrong path",
    429: "失败次数过多 / too many failures from this address",
    503: "服务器已满或正在退出 / the server is full or leaving",
}
"""HTTP status of a refusal → its meaning, in both languages."""


class _RefusalBody(msgspec.Struct):
    """The JSON body of a refusal."""

    message: str


class NoLink(EndpointError):
    """The endpoint could not be reached, or refused the link."""

    def __init__(self, en: str, zh: str, *, status: int = 0, retry_after: float = 0.0) -> None:
        """`status` is that of an HTTP refusal, 0 without a response; `retry_after` is in seconds."""
        super().__init__(en, zh)
        self.status = status
        self.retry_after = retry_after


class _BoundedConnection(ClientConnection):
    """A client connection that ends when its peer sends but does not read (the library writes pongs without a limit)."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > UNREAD_BYTES:
            self.transport.abort()


async def dial(
    address: str,
    *,
    tls: ssl.SSLContext | None = None,
    most: int = FRAME_BYTES,
    ping_interval: float = PING_SECONDS,
    ping_timeout: float = PING_SECONDS,
) -> ClientConnection:
    """An open link to `address` (ws:// or wss://); `tls` replaces the system's trusted certificates.

    `most` is the longest message accepted, in bytes. Raises NoLink.
    """
    secure = urlsplit(address).scheme == "wss"
    try:
        return await connect(
            address,
            ssl=(tls or True) if secure else None,
            compression=None,
            open_timeout=OPEN_SECONDS,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=CLOSE_SECONDS,
            max_size=most,
            max_queue=QUEUED_FRAMES,
            logger=PROTOCOL_LOGGER,
            create_connection=_BoundedConnection,
            proxy=None if is_loopback(urlsplit(address).hostname or "") else True,
        )
    except InvalidStatus as refusal:
        raise _refused(refusal, shown(address)) from None
    except (OSError, WebSocketException, EOFError, ValueError, ImportError) as error:
        # ValueError: a host name that cannot be one; ImportError: a SOCKS proxy in the environment needs the package python-socks.
        # Not chained and without the address, which holds the token.
        why = _why(error, address)
        raise NoLink(f"cannot reach {shown(address)} ({why.en})", f"无法连接 {shown(address)}（{why.zh}）") from None


def _why(error: Exception, address: str) -> Hint:
    """The reason for a failed connection, with the remedy where there is one."""
    text = readable((str(error) or type(error).__name__).replace(address, shown(address)))
    if isinstance(error, ssl.SSLCertVerificationError):
        detail = readable(error.verify_message)
        return Hint(
            f"its certificate is not trusted: {detail}; check the host name, the time of this machine and its list of authorities",
            f"证书不受信任：{detail}；请检查主机名、本机时间与受信任的证书列表",
        )
    if isinstance(error, socket.gaierror):
        host = readable(urlsplit(address).hostname or "")
        return Hint(
            f"the name {host} is not known: check the address and the DNS of this machine", f"找不到主机 {host}：请检查地址与本机的 DNS"
        )
    if isinstance(error, TimeoutError):
        return Hint(f"no answer within {OPEN_SECONDS:g} s", f"{OPEN_SECONDS:g} 秒内没有应答")
    return Hint(text, text)


def note(link: ClientConnection) -> Hint | None:
    """What the handshake's response says about the token; None if nothing."""
    shown = link.response.headers.get_all(FREE_FORM) if link.response is not None else []
    return free_form(readable(shown[0])) if shown else None


def checked(address: str) -> str:
    """`address`, validated. Raises ConfigError."""
    try:
        parse_uri(address)
    except (InvalidURI, ValueError):
        # Not chained and not quoted: the address holds the token.
        raise ConfigError("the endpoint is not a ws:// or wss:// address", "接入点地址不是 ws:// 或 wss:// 地址") from None
    if is_placeholder(token_in(address)):
        raise ConfigError(
            "the address contains the placeholder of an example instead of a token: copy the whole address, or run mcp-endpoint url",
            "地址中的令牌是示例里的占位符：请复制完整的地址，或运行 mcp-endpoint url",
        )
    return address


def shown(address: str) -> str:
    """The address without user and query: safe to print."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def readable(text: str) -> str:
    """At most SHOWN_CHARACTERS of `text` in one line; control and bidirectional characters are escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text[:SHOWN_CHARACTERS]
    )


def _message_of(body: bytes | bytearray | None) -> str:
    """The bilingual message in the body of a refusal by a server of this kind; empty if there is none."""
    try:
        message = msgspec.json.decode(body or b"", type=_RefusalBody).message
    except msgspec.DecodeError:
        return ""
    return " / ".join(map(readable, message.split(" / "))) if message.count(" / ") == 1 else ""


def _refused(refusal: InvalidStatus, at: str) -> NoLink:
    status = refusal.response.status_code
    zh, _, en = (_message_of(refusal.response.body) or REMEDIES.get(status, "")).partition(" / ")
    asked = refusal.response.headers.get("Retry-After", "")
    return NoLink(
        f"{at} refused the link: HTTP {status} {en}".rstrip(),
        f"{at} 拒绝了连接：HTTP {status} {zh}".rstrip(),
        status=status,
        retry_after=float(asked) if asked.isascii() and asked.isdigit() else 0.0,
    )
