"""Opens a link to an endpoint's address from outside, or says in both languages why there is none.

The address carries a token: it is never printed, only its scheme, host and path are.
"""

from __future__ import annotations

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

OPEN_SECONDS: Final = 10.0
"""For the TCP connection and the WebSocket handshake together."""
PING_SECONDS: Final = 20.0
"""Between two keepalive pings, and for the answer to one: below the idle limits of common proxies (nginx: 60 s)."""
CLOSE_SECONDS: Final = 2.0
"""For the other side to answer our close frame."""
FRAME_BYTES: Final = 8 * 1024 * 1024
"""Longest frame taken from the endpoint."""
QUEUED_FRAMES: Final = 4
"""Frames taken from the socket before somebody asks for them."""
SHOWN_CHARACTERS: Final = 300
"""So much of a foreign text is shown."""

REMEDIES: Final[Mapping[int, str]] = {
    401: "令牌无效，请重新复制接入点地址 / the token was not accepted, copy the address again",
    403: "不允许 / not allowed",
    404: "地址的路径不对 / the address has a wrong path",
    429: "失败次数过多 / too many failures from this address",
    503: "服务器已满或正在退出 / the server is full or leaving",
}
"""HTTP status of a refusal → what it means, in both languages."""


class _Refusal(msgspec.Struct):
    """The body of a refusal."""

    message: str


class NoLink(EndpointError):
    """The endpoint was not reached, or refused the link."""

    def __init__(self, en: str, zh: str, *, status: int = 0, retry_after: float = 0.0) -> None:
        """`status` is that of an HTTP refusal, 0 where nobody answered; `retry_after` is in seconds."""
        super().__init__(en, zh)
        self.status = status
        self.retry_after = retry_after


async def dial(address: str, *, tls: ssl.SSLContext | None = None) -> ClientConnection:
    """An open link to `address`, ws:// or wss://; `tls` replaces the machine's list of trusted certificates.

    Raises NoLink.
    """
    try:
        return await connect(
            address,
            ssl=tls,
            compression=None,
            open_timeout=OPEN_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=CLOSE_SECONDS,
            max_size=FRAME_BYTES,
            max_queue=QUEUED_FRAMES,
            proxy=None if is_loopback(urlsplit(address).hostname or "") else True,
        )
    except InvalidStatus as refusal:
        raise _refused(refusal, shown(address)) from None
    except (OSError, WebSocketException, EOFError, ValueError, ImportError) as error:
        # ValueError: a host name that cannot be one; ImportError: a SOCKS proxy in the environment needs the package python-socks.
        # Not chained and without the address, which holds the token.
        reason = readable((str(error) or type(error).__name__).replace(address, shown(address)))
        raise NoLink(f"cannot reach {shown(address)} ({reason})", f"无法连接 {shown(address)}") from None


def note(link: ClientConnection) -> Hint | None:
    """What the server said of the token a link was opened with; None where there is nothing to say."""
    shown = link.response.headers.get_all(FREE_FORM) if link.response is not None else []
    return free_form(readable(shown[0])) if shown else None


def checked(address: str) -> str:
    """`address`, if a link can be opened to it. Raises ConfigError."""
    try:
        parse_uri(address)
    except (InvalidURI, ValueError):
        # Not chained and not quoted: the address holds the token.
        raise ConfigError("the endpoint is not a ws:// or wss:// address", "接入点地址不是 ws:// 或 wss:// 地址") from None
    if is_placeholder(token_in(address)):
        raise ConfigError(
            "the address holds the placeholder of an example in the place of its token: copy the whole address, or run mcp-endpoint url",
            "地址中的令牌是示例里的占位符：请复制完整的地址，或运行 mcp-endpoint url",
        )
    return address


def shown(address: str) -> str:
    """The address as it may be printed: without user, token and all else behind the path."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def readable(text: str) -> str:
    """At most SHOWN_CHARACTERS of `text` in one line, with everything that could steer a terminal or turn its writing written out."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text[:SHOWN_CHARACTERS]
    )


def _said(body: bytes | bytearray | None) -> str:
    """The reason in both languages that a server of ours gives for a refusal; empty if there is none."""
    try:
        message = msgspec.json.decode(body or b"", type=_Refusal).message
    except msgspec.DecodeError:
        return ""
    return " / ".join(map(readable, message.split(" / "))) if message.count(" / ") == 1 else ""


def _refused(refusal: InvalidStatus, at: str) -> NoLink:
    status = refusal.response.status_code
    zh, _, en = (_said(refusal.response.body) or REMEDIES.get(status, "")).partition(" / ")
    asked = refusal.response.headers.get("Retry-After", "")
    return NoLink(
        f"{at} refused the link: HTTP {status} {en}".rstrip(),
        f"{at} 拒绝了连接：HTTP {status} {zh}".rstrip(),
        status=status,
        retry_after=float(asked) if asked.isascii() and asked.isdigit() else 0.0,
    )
