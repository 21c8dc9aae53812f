"""`mcp-endpoint check`: examines an installation step by step and reports each problem with its remedy.

The steps: configuration, port, key, managed servers, a round trip through the running server, the public address, the tools. A step whose
precondition failed is skipped: without a server there is no key to verify. The key is sent to the server of this machine, and to a public
address only after a call has proved that it leads to the same server.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from websockets.exceptions import WebSocketException

from .. import __version__
from ..access import tls
from ..access.addresses import (
    ANYWHERE,
    PROBE,
    ROOM,
    UNKNOWN_HOST,
    Hint,
    Pair,
    base_of,
    console_address,
    endpoint_addresses,
    free_form,
    hints,
    is_loopback,
    token_in,
)
from ..access.admission import PLACEHOLDER
from ..access.tokens import NAME, SINGLE_MODULE, Grant, TokenCodec, TokenRefused
from ..errors import ConfigError, EndpointError
from ..protocol import methods
from ..protocol.jsonrpc import VERSION
from ..settings.load import Loaded
from ..settings.schema import Config
from ..sockets.dial import NoLink, dial
from ..web.page import REASONS
from . import check_dial, check_servers
from .finding import Finding, Reason, reason_of

SECONDS: Final = 5.0
"""Timeout of each step."""
TOKEN_SECONDS: Final = 60.0
"""Lifetime of the token of a round trip."""
BODY_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of a response that are read; the largest, /stats of a full server, is a few MB."""
REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))


class Reply(NamedTuple):
    """The response to a plain HTTP request."""

    status: int
    body: bytes
    location: str = ""


def local_base(config: Config) -> str:
    """`http(s)://host:port` of the server of `config` on this machine. Raises EndpointError where that cannot be known."""
    host, port = config.server.host, config.server.port
    if not port:
        raise EndpointError(
            "port = 0 takes any free port, so only the running server knows it: set a port under [server], or give the address",
            "port = 0 表示任意空闲端口，只有运行中的服务器知道：请在 [server] 下设置 port，或直接给出地址",
        )
    if host in ANYWHERE:
        host = "::1" if host == "::" else "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if config.server.tls_cert else 'http'}://{shown}:{port}"


def local_addresses(config: Config, given: str) -> Pair:
    """The addresses of an endpoint of this machine's server; `given` is its name or a token. Raises EndpointError."""
    if not config.server.key:
        raise EndpointError(
            "there is no key here: run this in the server's folder (--root), or give the endpoint's address",
            "这里没有密钥：请在服务器所在文件夹运行（--root），或给出接入点的地址",
        )
    codec = TokenCodec(config.server.key)
    try:
        grant = _grant_of(codec, given)
    except TokenRefused as refused:
        zh, _, en = PLACEHOLDER.partition(" / ")
        if refused.why != "placeholder":
            why, (remedy_en, remedy_zh) = _why_closed(refused)
            en = f"this token is not valid here: {refused.why}: {why.en}; {remedy_en}"
            zh = f"此令牌在这里无效：{refused.why}：{why.zh}；{remedy_zh}"
        raise EndpointError(en, zh) from refused
    return endpoint_addresses(local_base(config), codec.make_xiaozhi(given) if grant is None else given)


def mistake(error: ConfigError) -> Finding:
    """The finding for a configuration that cannot be read."""
    return Finding(*reason_of(error), f"edit the configuration, {error.place or 'see above'}", "请修改配置")


def findings(
    loaded: Loaded, asked: str | None, *, contained: bool, root: Path = Path(), environ: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """All findings about the installation of `loaded`, in the order of the steps.

    `asked` is the endpoint that should have tools: its name, a token or an address; None checks all. Relative files of the configuration
    are below `root`, and `${VAR}` in them refers to `environ`. Raises ConfigError for a certificate that cannot be read.
    """
    config = loaded.config
    yield from _configuration(loaded)
    if not config.server.key:
        yield from check_servers.of_files(config, root, environ).findings
        yield Finding(
            "there is no key yet, so no token can be made",
            "还没有密钥，无法制作令牌",
            "start the server once, which creates one: make run (or python main.py)",
            "启动一次服务器，它会自动生成密钥：make run（或 python main.py）",
        )
        return
    try:
        base = local_base(config)
    except EndpointError as error:
        yield Finding("[server] port = 0", "[server] port = 0", error.en, error.zh)
        return
    missing = _listening(loaded, base)
    if missing:
        files = check_servers.of_files(config, root, environ)
        yield from files.findings
        yield from check_dial.of_file(config, environ)
        yield (
            missing
            if not files.fatal
            else missing._replace(
                remedy_en=f"first fix what keeps the server from starting, see above; then: {missing.remedy_en}",
                remedy_zh=f"请先改正上面使服务器无法启动的问题，然后：{missing.remedy_zh}",
            )
        )
        return
    yield Finding(f"the server runs at {base}", f"服务器运行于 {base}")
    stats = _stats(config, base)
    if isinstance(stats, Finding):
        yield stats
        return
    yield from _state(stats)
    yield from check_servers.of_stats(config, stats)
    yield from check_dial.of_stats(stats)
    trip = _round_trip(config, base)
    yield trip
    if trip.mark == "ok":
        yield from _outside(config, base, contained=contained)
    yield from _tools(TokenCodec(config.server.key, agents=config.security.agents), stats, asked)


def _configuration(loaded: Loaded) -> Iterator[Finding]:
    yield Finding(f"configuration read: {loaded.path}", f"配置已读取：{loaded.path}")
    for en, zh in loaded.warnings:
        here, there = en.partition("; "), zh.partition("；")
        yield Finding(here[0], there[0], here[2] or "edit the configuration", there[2] or "请修改配置", problem=False)


# The port


def _listening(loaded: Loaded, base: str) -> Finding | None:
    """The finding if the server does not answer; None if it does."""
    config = loaded.config
    parts = urlsplit(base)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), SECONDS).close()
    except OSError:
        return _nothing(loaded, base)
    try:
        health = _get(base, "/health", _trust(config))
    except (OSError, http.client.HTTPException) as error:
        why = _message(error)
        return Finding(
            f"another program has the port: what listens at {base} does not answer like this server ({why})",
            f"端口被其他程序占用：{base} 上的程序不像本服务器那样应答（{why}）",
            *_OTHER_PROGRAM,
        )
    if _is_ours(health):
        return None
    return Finding(
        f"another program has the port: what answers at {base} is not this server (HTTP {health.status})",
        f"端口被其他程序占用：在 {base} 应答的不是本服务器（HTTP {health.status}）",
        *_OTHER_PROGRAM,
    )


def answers(config: Config) -> bool:
    """Whether the server of this machine answers; one request, cheap enough for frequent health checks."""
    try:
        return _is_ours(_get(local_base(config), "/health", _trust(config)))
    except (OSError, http.client.HTTPException, EndpointError):
        return False


def stats(config: Config) -> dict[str, Any]:
    """`/stats` of this machine's server, read with its key; empty where none answers."""
    try:
        headers = {"Authorization": f"Bearer {config.server.key}"}
        return _json(_get(local_base(config), "/stats", _trust(config), headers))
    except (OSError, http.client.HTTPException, EndpointError):
        return {}


def _is_ours(health: Reply) -> bool:
    found = _json(health)
    return health.status == 200 and found.get("status") == "ok" and "version" in found


_OTHER_PROGRAM: Final = (
    "stop it, or set another port under [server] and start the server again; "
    "if it is this server and its configuration was changed, restart it",
    "请停止它，或在 [server] 下改用其他 port 后重新启动服务器；如果它就是本服务器且配置改过，请重启它",
)


def _nothing(loaded: Loaded, base: str) -> Finding:
    """The finding for a port where nothing listens: could the server start?"""
    from ..serving import server  # imported late: it loads the whole server

    try:
        for one in server.bind(loaded.config.server, loaded.sources):
            one.close()
    except EndpointError as error:
        place = f"{error.place}: " if error.place else ""
        return Finding(
            f"nothing runs at {base}, and the server could not start",
            f"{base} 上没有程序在运行，且服务器无法启动",
            place + error.en,
            place + error.zh,
        )
    return Finding(
        f"nothing runs at {base}; the port is free",
        f"{base} 上没有程序在运行，端口空闲",
        "start the server: make run (or python main.py); if it runs elsewhere, compare [server] host and port",
        "请启动服务器：make run（或 python main.py）；若在别处运行，请核对 [server] 的 host 与 port",
    )


# The key


def _stats(config: Config, base: str) -> dict[str, Any] | Finding:
    """`/stats` read with the key, or the finding why it could not be read."""
    try:
        answer = _get(base, "/stats", _trust(config), {"Authorization": f"Bearer {config.server.key}"})
        why = f"HTTP {answer.status}"
    except (OSError, http.client.HTTPException) as error:
        answer, why = Reply(0, b""), _message(error)
    if answer.status == 401:
        return Finding(
            "wrong key: the running server has another key than this configuration",
            "密钥不符：正在运行的服务器使用的密钥与此配置不同",
            "restart the server, so that it reads the file; if it was started from another folder, run check there (--root); "
            "if it has MES_SERVER_KEY in its environment, set the same here",
            "请重启服务器以读取此文件；如果它是从其他文件夹启动的，请在那里运行 check（--root）；"
            "如果它的环境中有 MES_SERVER_KEY，请在这里设置相同的值",
        )
    found = _json(answer)
    if isinstance(found.get("endpoint_details"), list):
        return found
    return Finding(f"the server does not return its state ({why})", f"服务器没有给出状态（{why}）", *_LOOK_INTO_THE_LOG)


_LOOK_INTO_THE_LOG: Final = ("look in logs/mcp_server.log for entries of this time", "请查看 logs/mcp_server.log 中此刻的记录")


def _state(stats: Mapping[str, Any]) -> Iterator[Finding]:
    running = stats.get("version")
    if running != __version__:
        yield Finding(
            f"the running server is version {running}, installed is {__version__}",
            f"正在运行的服务器版本为 {running}，已安装的是 {__version__}",
            "restart the server",
            "请重启服务器",
            problem=False,
        )
    if stats.get("status") != "ready":
        yield Finding(
            "the server is stopping and takes no new links",
            "服务器正在停止，不再接受新连接",
            "wait until it has stopped, then start it again",
            "请等它结束后再启动",
        )


# A call through the server


def _round_trip(config: Config, base: str) -> Finding:
    began = time.monotonic()
    reason = asyncio.run(_call(config, base, base, _trust(config)))
    if reason:
        return Finding(f"a call through the server failed: {reason.en}", f"一次调用未能通过服务器：{reason.zh}", *_LOOK_INTO_THE_LOG)
    took = f"{(time.monotonic() - began) * 1000:.0f} ms"
    return Finding(f"a call went through the server and back ({took})", f"一次调用已往返通过服务器（{took}）")


async def _call(config: Config, tool_base: str, device_base: str, device_trust: ssl.SSLContext | None) -> Reason | None:
    """Why a call from a device at one base does not reach a tool at the other and return; None if it does.

    Tool and device are both played here, at a temporary endpoint. Success also proves that both bases lead to the same server.
    """
    name = PROBE + secrets.token_hex(6)
    token = TokenCodec(config.server.key).make_signed(name, expires=time.time() + TOKEN_SECONDS)
    tool_address, device_address = endpoint_addresses(tool_base, token).tool, endpoint_addresses(device_base, token).device
    request = {"jsonrpc": VERSION, "id": 1, "method": methods.TOOLS_CALL, "params": {"name": "echo", "arguments": {"text": f"你好 {name}"}}}
    result = {"content": [{"type": "text", "text": f"你好 {name}"}]}
    try:
        async with (
            asyncio.timeout(SECONDS),
            await dial(tool_address, tls=_trust(config)) as tool,
            await dial(device_address, tls=device_trust) as device,
        ):
            await device.send(json.dumps(request, ensure_ascii=False))
            answering = asyncio.ensure_future(device.recv())
            asked = asyncio.ensure_future(tool.recv())
            try:
                await asyncio.wait((asked, answering), return_when=asyncio.FIRST_COMPLETED)
                if asked.done():
                    received = json.loads(asked.result())
                    text = received["params"]["arguments"]["text"]
                    echo = {"content": [{"type": "text", "text": text}]}
                    await tool.send(json.dumps({"jsonrpc": VERSION, "id": received["id"], "result": echo}, ensure_ascii=False))
                answer = json.loads(await answering)
            finally:
                asked.cancel()
                answering.cancel()
    except NoLink as refused:
        return _no_link(refused) if device_base != tool_base else Reason(refused.en, refused.zh)
    except TimeoutError:
        return Reason(f"no answer within {SECONDS:g} s", f"{SECONDS:g} 秒内没有应答")
    except (OSError, WebSocketException, ValueError, KeyError, TypeError) as error:
        return Reason(_message(error), _message(error))
    if answer == {"jsonrpc": VERSION, "id": 1, "result": result}:
        return None
    if device_base != tool_base:
        return Reason("another server answers there, one with the same key", "在该地址应答的是另一台使用相同密钥的服务器")
    return Reason(f"unexpected answer {answer}", f"意外的应答 {answer}")


def _no_link(refused: NoLink) -> Reason:
    """The reason why an address that answers plain requests refuses a WebSocket."""
    if refused.status in (401, 403):
        return Reason(
            f"another server answers there, one with another key (HTTP {refused.status})",
            f"在该地址应答的是另一台使用其他密钥的服务器（HTTP {refused.status}）",
        )
    return Reason(
        f"{refused.en}: plain requests pass but WebSocket does not, "
        "a proxy there must forward Upgrade and Connection (nginx: proxy_set_header)",
        f"{refused.zh}：普通请求可通过但 WebSocket 不行，该处的代理需转发 Upgrade 与 Connection 头（nginx：proxy_set_header）",
    )


# The address others use


def _outside(config: Config, base: str, *, contained: bool) -> Iterator[Finding]:
    """Whether the addresses that the server prints can be used from other machines."""
    settings = config.server
    public = base_of(settings, settings.port, contained=contained)
    host = urlsplit(public).hostname or ""
    for hint in hints(settings, public, TokenCodec(settings.key).make_xiaozhi(SINGLE_MODULE), contained=contained):
        problem = is_loopback(settings.host) if contained else not is_loopback(host)
        yield Finding(f"handed-out addresses begin with {public}", f"给出的地址以 {public} 开头", hint.en, hint.zh, problem)
    if UNKNOWN_HOST in public or (is_loopback(host) and not settings.public_url):
        return
    reason = _leads_here(config, base, public)
    if reason:
        yield Finding(
            f"handed-out addresses begin with {public}, which does not lead to this server: {reason.en}",
            f"给出的地址以 {public} 开头，但它没有通到本服务器：{reason.zh}",
            "set public_url under [server] to the address others use, and let a proxy there forward to this server, WebSocket included; "
            "if others can reach it and only this machine cannot, nothing is wrong",
            "请把 [server] 的 public_url 设为其他机器使用的地址，并让该处的代理转发到本服务器（含 WebSocket）；"
            "若只是本机访问不到而其他机器可以，则没有问题",
        )
    else:
        yield Finding(
            f"handed-out addresses begin with {public}, which leads to this server", f"给出的地址以 {public} 开头，它通到本服务器"
        )


def _leads_here(config: Config, base: str, public: str) -> Reason | None:
    """Why `public` does not lead to the server at `base`; None if it does."""
    trust = ssl.create_default_context() if public.startswith("https") else None
    try:
        response = _get(public, f"{ROOM}/", trust)
        if response.status in REDIRECTS:
            return Reason(f"it redirects to {response.location}", f"它重定向到 {response.location}")
        found = _json(response).get("result")
        if response.status != 200 or not isinstance(found, dict) or "status" not in found:
            return Reason(f"another program answers there (HTTP {response.status})", f"在该地址应答的是其他程序（HTTP {response.status}）")
        reason = asyncio.run(_call(config, base, public, None))
        if reason:
            return reason
        # It is this server. Now judge as manager-api does: status 200 and the word success.
        health = _get(public, console_address("", config.server.key), trust)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Reason(f"it cannot be reached from here ({_message(error)})", f"从本机无法访问（{_message(error)}）")
    if health.status != 200 or b"success" not in health.body:
        return Reason(f"the console address does not work (HTTP {health.status})", f"智控台地址不可用（HTTP {health.status}）")
    return None


# The tools

_COPY_AGAIN: Final = (
    "copy the address again: mcp-endpoint url NAME, or from the console",
    "请重新复制地址：mcp-endpoint url 名称，或从智控台复制",
)


_MAKE_ANEW: Final = (
    "create a new one: mcp-endpoint token make NAME --signed --days N",
    "请生成新的令牌：mcp-endpoint token make 名称 --signed --days 天数",
)
_ALLOW_IT: Final = (
    "put its agent into [security] agents and restart the server, or use another agent's address",
    "请把该智能体加入 [security] agents 并重启服务器，或使用其他智能体的地址",
)
_CLOSED: Final[Mapping[str, tuple[Hint, tuple[str, str]]]] = {
    "missing": (Hint("the address contains no token", "地址中没有令牌"), _COPY_AGAIN),
    "placeholder": (Hint("it is the placeholder of an example", "它是示例里的占位符"), _COPY_AGAIN),
    "expired": (Hint("it has expired", "它已过期"), _MAKE_ANEW),
    "agent-not-allowed": (Hint("its agent is not in [security] agents", "它的智能体不在 [security] agents 中"), _ALLOW_IT),
}
_NOT_WHOLE: Final = Hint("it was made with another key, or not copied completely", "它由其他密钥生成，或没有复制完整")


def _why_closed(refused: TokenRefused) -> tuple[Hint, tuple[str, str]]:
    """Why a token is not valid here, and the remedy (English, Chinese)."""
    return _CLOSED.get(refused.why, (_NOT_WHOLE, _COPY_AGAIN))


def _tools(codec: TokenCodec, stats: Mapping[str, Any], asked: str | None) -> Iterator[Finding]:
    """Which endpoints have tools, and which lack the tools they should have."""
    details = [one for one in stats["endpoint_details"] if not one["endpoint"].startswith(PROBE)]
    gone = [{"tools": [], "devices": [], **one} for one in stats.get("left", ()) if not one["endpoint"].startswith(PROBE)]
    served = [one for one in details if one["tools"]]
    for one in served:
        for tool in one["tools"]:
            yield _tool(one["endpoint"], tool)
    wanted, free = None, False
    if asked is not None:
        try:
            wanted, free = _shown(codec, asked)
        except TokenRefused as refused:
            why, remedy = _why_closed(refused)
            yield Finding(
                f"the given token is not valid here ({refused.why}): {why.en}",
                f"给出的令牌在这里无效（{refused.why}）：{why.zh}",
                *remedy,
            )
            return
        if free:
            yield Finding(*free_form(wanted), *_COPY_AGAIN, problem=False)
    requesting = [one for one in details if one["devices"] or one.get("sessions")]
    waiting = [one for one in details if not one["tools"] and (one in requesting if wanted is None else one["endpoint"] == wanted)]
    if wanted is not None and not any(one["endpoint"] == wanted for one in details):
        unseen = {"endpoint": wanted, "tools": [], "devices": [], "free_form": free}
        waiting.append(next((one for one in gone if one["endpoint"] == wanted), unseen))
    managed = check_servers.served(stats)
    covered = {
        one["endpoint"] for one in waiting if any(fnmatchcase(one["endpoint"], pattern) for some in managed.values() for pattern in some)
    }
    waiting = [one for one in waiting if one["endpoint"] not in covered]
    elsewhere = ", ".join(sorted({one["endpoint"] for one in served} | {f"server {name}" for name in managed}))
    for one in waiting if served or managed else ():
        name = one["endpoint"]
        yield Finding(
            f"no tool at endpoint {name} ({_devices(one).en}), but tools are connected under another token, at: {elsewhere}{_left(one).en}",
            f"接入点 {name} 没有工具端（{_devices(one).zh}），但有工具用另一个令牌连到了：{elsewhere}{_left(one).zh}",
            f"give tool and device addresses of the same endpoint: mcp-endpoint url {_named(one)}",
            f"请让工具端与使用端使用同一接入点的地址：mcp-endpoint url {_named(one)}",
        )
    if not served and not managed:
        rooms = stats.get("rooms", {})
        dialled = {one["endpoint"] for one in rooms.get("dial", {}).get("targets", ())}
        unserved = wanted is not None or any(one["endpoint"] not in dialled for one in requesting)
        latest = next(iter((*waiting, *gone)), {"endpoint": SINGLE_MODULE})
        name, left = _named(latest), _left(latest)
        yield Finding(
            f"no tool is connected{left.en}",
            f"没有工具端连接{left.zh}",
            f"start one: mcp-endpoint pipe -- COMMAND, with the tool address of mcp-endpoint url {name} in MCP_ENDPOINT",
            f"请启动工具端：mcp-endpoint pipe -- 命令，MCP_ENDPOINT 设为 mcp-endpoint url {name} 给出的工具端地址",
            problem=unserved or not (dialled or "gateway" in rooms),  # tools may not be wanted where these are
        )


def _named(endpoint: Mapping[str, Any]) -> str:
    """The argument for `mcp-endpoint url`: the endpoint's name, unless a free-form token created it."""
    return "NAME" if endpoint.get("free_form") else str(endpoint["endpoint"])


def _tool(endpoint: str, tool: Mapping[str, Any]) -> Finding:
    label = tool["label"] or "tool"
    if tool["why_bare"]:
        return Finding(
            f"tool {label} at endpoint {endpoint} does not speak MCP: {tool['why_bare']}",
            f"接入点 {endpoint} 的工具端 {label} 不会 MCP 握手：{REASONS.get(tool['why_bare'], tool['why_bare'])}",
            "run its command manually and look at its output; only JSON-RPC may go to standard output",
            "请手动运行它的命令并查看输出；标准输出上只能有 JSON-RPC",
            problem=False,
        )
    if tool["doubtful"]:
        return Finding(
            f"the last call of tool {label} at endpoint {endpoint} timed out",
            f"接入点 {endpoint} 的工具端 {label} 上次调用超时",
            'restart it, or give it more time: [endpoint.tools."NAME"] timeout',
            '请重启它，或延长时限：[endpoint.tools."工具名"] timeout',
            problem=False,
        )
    functions = f": {', '.join(tool['functions'])}" if tool["functions"] else ""
    return Finding(f"tool {label} at endpoint {endpoint}{functions}", f"接入点 {endpoint} 的工具端 {label}{functions}")


def _devices(one: Mapping[str, Any]) -> Reason:
    count = len(one["devices"]) + len(one.get("sessions", ()))
    return Reason(f"devices waiting: {count}", f"等待中的使用端：{count}")


def _left(one: Mapping[str, Any]) -> Reason:
    close_reason = one.get("last_close") or one.get("last_goodbye")
    if not close_reason:
        return Reason("", "")
    found = f"{close_reason['at']}, {close_reason['code']} {close_reason['reason']}".rstrip()
    return Reason(f"; the last one left endpoint {one['endpoint']} at {found}", f"；上一个于 {found} 离开接入点 {one['endpoint']}")


def _shown(codec: TokenCodec, asked: str) -> tuple[str, bool]:
    """The printable name of the endpoint that is meant, and whether a free-form token created it. Raises TokenRefused."""
    given = asked.strip().strip("\"'")
    grant = codec.open(token_in(given), time.time()) if "://" in given else _grant_of(codec, given)
    return (given, False) if grant is None else (grant.shown, grant.kind == "opaque")


def _grant_of(codec: TokenCodec, given: str) -> Grant | None:
    """The grant of a token; None for the name of an endpoint. Raises TokenRefused for what is neither."""
    grant = codec.open(given, time.time())
    return None if grant.kind == "opaque" and NAME.fullmatch(given) else grant


# Plain requests


def _get(base: str, path: str, trust: ssl.SSLContext | None, headers: Mapping[str, str] = {}) -> Reply:
    """One GET request, without proxies of the environment and without following redirects. Raises OSError and HTTPException."""
    parts = urlsplit(base)
    host = parts.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, parts.port, timeout=SECONDS, context=trust)
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, parts.port, timeout=SECONDS)
    )
    try:
        connection.request("GET", quote(parts.path) + path, headers={"Accept": "application/json", **headers})
        response = connection.getresponse()
        return Reply(response.status, response.read(BODY_BYTES), response.getheader("Location", ""))
    finally:
        connection.close()


def _trust(config: Config) -> ssl.SSLContext | None:
    return tls.trusting(config.server.tls_cert) if config.server.tls_cert else None


def _json(answer: Reply) -> dict[str, Any]:
    """The JSON object in a response; empty if there is none."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _message(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
