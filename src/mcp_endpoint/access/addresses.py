"""Builds the addresses that people copy: for the console, for a tool and for a device.

manager-api and xiaozhi-server derive other addresses from these texts, so their form is part of the contract: the console's
`<base>/mcp_endpoint/health?key=…` has the same base as `<base>/mcp_endpoint/mcp/?token=…` and `<base>/mcp_endpoint/call/?token=…`; the key
is the last thing in its address; and the base is reachable for the reader, never a wildcard address such as 0.0.0.0.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from ..settings.schema import Server
from .tokens import SINGLE_MODULE, TokenCodec, refused_by_xiaozhi

ROOM: Final = "/mcp_endpoint"
PROBE: Final = "mcp-endpoint-check-"
"""Prefix of the endpoint names of `mcp-endpoint check`, followed by a random part; listings of endpoints leave them out."""
UNKNOWN_HOST: Final = "SERVER-ADDRESS"
"""Stands where the server cannot know the address: in a container it does not see how it is reached."""
FREE_FORM: Final = "X-Free-Form-Endpoint"
"""Response header of the handshake: the endpoint that a free-form token leads to."""
ANYWHERE: Final = frozenset({"", "0.0.0.0", "::"})

_ELSEWHERE: Final = ("192.0.2.1", 9)  # RFC 5737 TEST-NET-1: connecting a UDP socket sends nothing, it only selects a route


class Hint(NamedTuple):
    """One sentence for the operator, in both languages."""

    en: str
    zh: str


class Pair(NamedTuple):
    """The two addresses of one endpoint."""

    tool: str
    device: str


def base_of(server: Server, port: int, *, contained: bool) -> str:
    """`http(s)://host[:port][/prefix]` without a trailing slash: the public base URL of the server listening on `port`."""
    if server.public_url:
        return server.public_url.rstrip("/").removesuffix(ROOM)
    host = server.host
    if host in ANYWHERE:
        host = UNKNOWN_HOST if contained else _own_address()
    if ":" in host:
        host = f"[{host}]"
    return f"{'https' if server.tls_cert else 'http'}://{host}:{port}"


def base_seen(server: Server, scheme: str, host: str) -> str:
    """The same for a page that a browser has opened at `host` (its `Host` header): `public_url`, or what the browser itself has used."""
    return server.public_url.rstrip("/").removesuffix(ROOM) or f"{scheme}://{host}"


def console_address(base: str, key: str) -> str:
    """The value of the console's parameter server.mcp_endpoint (manager-api: the key is everything after `key=`)."""
    return f"{base}{ROOM}/health?key={quote(key, safe='')}"


def endpoint_addresses(base: str, token: str) -> Pair:
    """The addresses that the tool and the device of `token` connect to."""
    websocket = "ws" + base.removeprefix("http")
    shown = quote(token, safe="")
    return Pair(f"{websocket}{ROOM}/mcp/?token={shown}", f"{websocket}{ROOM}/call/?token={shown}")


def device_side(address: str) -> str:
    """The device address of an endpoint, given that of either side; addresses of other servers are returned unchanged."""
    path, mark, query = address.partition("?")
    return re.sub(rf"{ROOM}/mcp(/?)$", rf"{ROOM}/call\1", path) + mark + query


def token_in(text: str) -> str:
    """The token in a copied text: a bare token, percent-encoded or not, or a whole address; parsed as the server parses it."""
    copied = text.strip().strip("\"'")
    query = urlsplit(copied).query if "://" in copied else f"token={copied}"
    return dict(parse_qsl(query)).get("token", "")


def free_form(shown: str) -> Hint:
    """The warning for users of a free-form token; `shown` is the printable name of its endpoint."""
    en = "if you copied it from the console or from this server, it was cut off or made with another key"
    return Hint(
        f"free-form token, endpoint {shown}; {en}",
        f"自定义令牌，接入点 {shown}；如果它是从智控台或本服务器复制的，说明复制不完整，或令牌由其他密钥生成",
    )


def announcement(server: Server, port: int, codec: TokenCodec, *, contained: bool) -> str:
    """The text with both addresses of a xiaozhi installation and the hints about them; printed once at the start, never logged."""
    base = base_of(server, port, contained=contained)
    token = codec.make_xiaozhi(SINGLE_MODULE)
    lines = [
        "智控台MCP参数配置 / for the console, parameter server.mcp_endpoint:",
        f"  {console_address(base, server.key)}",
        "单模块部署MCP接入点 / for a xiaozhi-server without a console:",
        f"  {endpoint_addresses(base, token).tool}",
        "任何人拿到这两个地址都能使用您的工具，请勿外传。/ Anyone who has these addresses can use your tools: keep them secret.",
    ]
    for hint in hints(server, base, token, contained=contained):
        lines += [hint.zh, hint.en]
    return "\n".join(lines)


def hints(server: Server, base: str, token: str, *, contained: bool) -> list[Hint]:
    """What would prevent the addresses of `token` below `base` from working, with the remedy."""
    found: list[Hint] = []
    host = urlsplit(base).hostname or ""
    if contained and is_loopback(server.host):
        found.append(
            Hint(
                f"The server listens on {server.host}, which cannot be reached from outside the container: "
                'set host = "0.0.0.0" under [server].',
                f'服务器只监听 {server.host}，容器外无法访问：请在 [server] 下设置 host = "0.0.0.0"。',
            )
        )
    if contained and not server.public_url:
        found.append(
            Hint(
                'Inside a container the server cannot see its own address: set public_url = "http://ADDRESS:PORT" under [server] '
                "(or MES_SERVER_PUBLIC_URL) to what others use to reach this machine.",
                '服务器在容器内，看不到自己的对外地址：请在 [server] 下设置 public_url = "http://地址:端口"'
                "（或环境变量 MES_SERVER_PUBLIC_URL），填其他机器访问本机所用的地址。",
            )
        )
    elif is_loopback(host) and not is_loopback(server.host) and not server.public_url:
        found.append(
            Hint(
                f"{host} is reachable from this machine only, and xiaozhi's console refuses it: use the machine's network address instead.",
                f"{host} 只能从本机访问，智控台也不接受它：请改用本机的对外地址。",
            )
        )
    elif is_loopback(host):
        found.append(
            Hint(
                f"{host} is reachable from this machine only, and xiaozhi's console refuses it. To open it to other machines, set "
                'host = "0.0.0.0" (or public_url) under [server].',
                f'{host} 只能从本机访问，智控台也不接受它。要让其他机器访问，请在 [server] 下设置 host = "0.0.0.0"（或 public_url）。',
            )
        )
    if refused_by_xiaozhi(token):
        found.append(
            Hint(
                'xiaozhi-server refuses this token because it happens to contain "key" or "call": remove key from the configuration, '
                "the next start makes a suitable one.",
                '此令牌恰好含有 "key" 或 "call"，xiaozhi-server 不接受它：请从配置中删除 key，下次启动会生成合适的密钥。',
            )
        )
    return found


def in_container(environ: Mapping[str, str], filesystem: Path = Path("/")) -> bool:
    """Whether this process runs in a container (Docker, Podman, Kubernetes, LXC, nspawn)."""
    return (
        (filesystem / ".dockerenv").exists()
        or (filesystem / "run/.containerenv").exists()
        or "KUBERNETES_SERVICE_HOST" in environ
        or "container" in environ
    )


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is the loopback interface."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool(address.is_loopback or (mapped and mapped.is_loopback))


def _own_address() -> str:
    """The address of this machine in its network; its host name where there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return socket.gethostname()
        address: str = probe.getsockname()[0]
        return address


def without_secrets(url: str) -> str:
    """The URL without user, query and fragment, which may contain a secret."""
    address = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"(?<=//)[^/]*@", "", address)
