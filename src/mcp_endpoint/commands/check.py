"""Looks at an installation as its users do, and says what is wrong together with the remedy.

Each step looks at one thing: configuration, port, key, the servers it brings itself, a round trip through the running server, the address
others use, the tools.
A step whose ground is missing is left out: without a server there is no key to try. The key is shown to the server of this machine, and
to a public address only after a call has proved that it leads to the same server.
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
"""For each single step."""
TOKEN_SECONDS: Final = 60.0
"""How long the token of a round trip opens."""
BODY_BYTES: Final = 64 * 1024 * 1024
"""Most of an answer that is read; the largest, /stats of a full server, is a few MB."""
REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))


class Answer(NamedTuple):
    """What came back from a plain request."""

    status: int
    body: bytes
    location: str = ""


def local_base(config: Config) -> str:
    """`http(s)://host:port` of a server of `config`, seen from its own machine. Raises EndpointError where nobody can know it."""
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
    """The addresses of an endpoint at the server of this machine; `given` is its name or a token. Raises EndpointError."""
    if not config.server.key:
        raise EndpointError(
            "there is no key here: run this in the server's folder (--root), or give the endpoint's address",
            "这里没有密钥：请在服务器所在文件夹运行（--root），或给出接入点的地址",
        )
    codec = TokenCodec(config.server.key)
    try:
        opened = _opened(codec, given)
    except TokenRefused as refused:
        zh, _, en = PLACEHOLDER.partition(" / ")
        if refused.why != "placeholder":
            why, (remedy_en, remedy_zh) = _why_closed(refused)
            en = f"this token opens nothing here: {refused.why}: {why.en}; {remedy_en}"
            zh = f"此令牌在这里无效：{refused.why}：{why.zh}；{remedy_zh}"
        raise EndpointError(en, zh) from refused
    return endpoint_addresses(local_base(config), codec.make_xiaozhi(given) if opened is None else given)


def mistake(error: ConfigError) -> Finding:
    """A configuration that cannot be read."""
    return Finding(*reason_of(error), f"edit the configuration, {error.place or 'see above'}", "请修改配置")


def findings(
    loaded: Loaded, asked: str | None, *, contained: bool, root: Path = Path(), environ: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Everything there is to say about the installation of `loaded`, in the order it was looked at.

    `asked` is the endpoint that should have tools: its name, a token or an address; None looks at all of them. Relative files of the
    configuration start at `root`, and `${VAR}` in them stands for variables of `environ`. Raises ConfigError for a certificate that cannot
    be read.
    """
    config = loaded.config
    yield from _configuration(loaded)
    if not config.server.key:
        yield from check_servers.of_files(config, root, environ).findings
        yield Finding(
            "there is no key yet, so no token can be made",
            "还没有密钥，无法制作令牌",
            "start the server once, it makes one: make run (or python main.py)",
            "启动一次服务器即会自动生成：make run（或 python main.py）",
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
                remedy_en=f"mend first what the server does not start with, see above; then: {missing.remedy_en}",
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
    """What is wrong where the server should be; None if it is there."""
    config = loaded.config
    parts = urlsplit(base)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), SECONDS).close()
    except OSError:
        return _nothing(loaded, base)
    try:
        health = _ask(base, "/health", _trust(config))
    except (OSError, http.client.HTTPException) as error:
        why = _words(error)
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
    """Whether the server of this machine answers; nothing more is asked, so that it can be looked at often."""
    try:
        return _is_ours(_ask(local_base(config), "/health", _trust(config)))
    except (OSError, http.client.HTTPException, EndpointError):
        return False


def stats(config: Config) -> dict[str, Any]:
    """What the server of this machine says to whoever has its key; empty where none answers."""
    try:
        headers = {"Authorization": f"Bearer {config.server.key}"}
        return _json(_ask(local_base(config), "/stats", _trust(config), headers))
    except (OSError, http.client.HTTPException, EndpointError):
        return {}


def _is_ours(health: Answer) -> bool:
    told = _json(health)
    return health.status == 200 and told.get("status") == "ok" and "version" in told


_OTHER_PROGRAM: Final = (
    "stop it, or set another port under [server] and start the server again; "
    "if it is this server and its configuration was changed, restart it",
    "请停止它，或在 [server] 下改用其他 port 后重新启动服务器；如果它就是本服务器且配置改过，请重启它",
)


def _nothing(loaded: Loaded, base: str) -> Finding:
    """Nobody listens: would the server be able to?"""
    from ..serving import server  # only who tries to listen needs the whole house

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
    """What the holder of the key is told, or why this key's holder is not."""
    try:
        answer = _ask(base, "/stats", _trust(config), {"Authorization": f"Bearer {config.server.key}"})
        why = f"HTTP {answer.status}"
    except (OSError, http.client.HTTPException) as error:
        answer, why = Answer(0, b""), _words(error)
    if answer.status == 401:
        return Finding(
            "wrong key: the running server has another key than this configuration",
            "密钥不符：正在运行的服务器使用的密钥与此配置不同",
            "restart the server, so that it reads the file; if it was started from another folder, run check there (--root); "
            "if it has MES_SERVER_KEY in its environment, set the same here",
            "请重启服务器以读取此文件；如果它是从其他文件夹启动的，请在那里运行 check（--root）；"
            "如果它的环境中有 MES_SERVER_KEY，请在这里设置相同的值",
        )
    told = _json(answer)
    if isinstance(told.get("endpoint_details"), list):
        return told
    return Finding(f"the server does not tell its state ({why})", f"服务器没有给出状态（{why}）", *_LOOK_INTO_THE_LOG)


_LOOK_INTO_THE_LOG: Final = ("look into logs/mcp_server.log for the lines of this moment", "请查看 logs/mcp_server.log 中此刻的记录")


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
            "wait until it is gone, then start it again",
            "请等它结束后再启动",
        )


# A call through the server


def _round_trip(config: Config, base: str) -> Finding:
    began = time.monotonic()
    reason = asyncio.run(_call(config, base, base, _trust(config)))
    if reason:
        return Finding(f"a call did not come through the server: {reason.en}", f"一次调用未能通过服务器：{reason.zh}", *_LOOK_INTO_THE_LOG)
    took = f"{(time.monotonic() - began) * 1000:.0f} ms"
    return Finding(f"a call went through the server and back ({took})", f"一次调用已往返通过服务器（{took}）")


async def _call(config: Config, tool_base: str, device_base: str, device_trust: ssl.SSLContext | None) -> Reason | None:
    """Why a call from a device at one base does not reach a tool at the other and come back.

    Both are played here, at an endpoint of their own. None if it works, which also proves that both bases lead to the same server.
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
                    heard = json.loads(asked.result())
                    text = heard["params"]["arguments"]["text"]
                    echo = {"content": [{"type": "text", "text": text}]}
                    await tool.send(json.dumps({"jsonrpc": VERSION, "id": heard["id"], "result": echo}, ensure_ascii=False))
                answer = json.loads(await answering)
            finally:
                asked.cancel()
                answering.cancel()
    except NoLink as refused:
        return _no_link(refused) if device_base != tool_base else Reason(refused.en, refused.zh)
    except TimeoutError:
        return Reason(f"no answer within {SECONDS:g} s", f"{SECONDS:g} 秒内没有应答")
    except (OSError, WebSocketException, ValueError, KeyError, TypeError) as error:
        return Reason(_words(error), _words(error))
    if answer == {"jsonrpc": VERSION, "id": 1, "result": result}:
        return None
    if device_base != tool_base:
        return Reason("another server answers there, one with the same key", "在该地址应答的是另一台使用相同密钥的服务器")
    return Reason(f"unexpected answer {answer}", f"意外的应答 {answer}")


def _no_link(refused: NoLink) -> Reason:
    """What it means that an address which answers plain requests takes no link."""
    if refused.status in (401, 403):
        return Reason(
            f"another server answers there, one with another key (HTTP {refused.status})",
            f"在该地址应答的是另一台使用其他密钥的服务器（HTTP {refused.status}）",
        )
    return Reason(
        f"{refused.en}: plain requests pass but WebSocket does not, "
        "a proxy there must hand on Upgrade and Connection (nginx: proxy_set_header)",
        f"{refused.zh}：普通请求可通过但 WebSocket 不行，该处的代理需转发 Upgrade 与 Connection 头（nginx：proxy_set_header）",
    )


# The address others use


def _outside(config: Config, base: str, *, contained: bool) -> Iterator[Finding]:
    """Whether the addresses it hands out can be used by others."""
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
            "if only this machine cannot reach it while others can, it is well",
            "请把 [server] 的 public_url 设为其他机器使用的地址，并让该处的代理转发到本服务器（含 WebSocket）；"
            "若只是本机访问不到而其他机器可以，则没有问题",
        )
    else:
        yield Finding(
            f"handed-out addresses begin with {public}, which leads to this server", f"给出的地址以 {public} 开头，它通到本服务器"
        )


def _leads_here(config: Config, base: str, public: str) -> Reason | None:
    """Why `public` is not an address of the server at `base`; None if it is."""
    trust = ssl.create_default_context() if public.startswith("https") else None
    try:
        greeting = _ask(public, f"{ROOM}/", trust)
        if greeting.status in REDIRECTS:
            return Reason(f"it redirects to {greeting.location}", f"它重定向到 {greeting.location}")
        told = _json(greeting).get("result")
        if greeting.status != 200 or not isinstance(told, dict) or "status" not in told:
            return Reason(f"another program answers there (HTTP {greeting.status})", f"在该地址应答的是其他程序（HTTP {greeting.status}）")
        reason = asyncio.run(_call(config, base, public, None))
        if reason:
            return reason
        # Now it is known to be this server: judged as manager-api judges it, 200 and the word success.
        health = _ask(public, console_address("", config.server.key), trust)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Reason(f"it cannot be reached from here ({_words(error)})", f"从本机无法访问（{_words(error)}）")
    if health.status != 200 or b"success" not in health.body:
        return Reason(f"the console address does not work (HTTP {health.status})", f"智控台地址不可用（HTTP {health.status}）")
    return None


# The tools

_COPY_AGAIN: Final = (
    "copy the address again: mcp-endpoint url NAME, or from the console",
    "请重新复制地址：mcp-endpoint url 名称，或从智控台复制",
)


_MAKE_ANEW: Final = (
    "make a new one: mcp-endpoint token make NAME --signed --days N",
    "请制作新的令牌：mcp-endpoint token make 名称 --signed --days 天数",
)
_ALLOW_IT: Final = (
    "put its agent into [security] agents and restart the server, or use another agent's address",
    "请把该智能体加入 [security] agents 并重启服务器，或使用其他智能体的地址",
)
_CLOSED: Final[Mapping[str, tuple[Hint, tuple[str, str]]]] = {
    "missing": (Hint("the address has no token in it", "地址中没有令牌"), _COPY_AGAIN),
    "placeholder": (Hint("it is the placeholder of an example", "它是示例里的占位符"), _COPY_AGAIN),
    "expired": (Hint("its time is over", "它已过期"), _MAKE_ANEW),
    "agent-not-allowed": (Hint("its agent is not in [security] agents", "它的智能体不在 [security] agents 中"), _ALLOW_IT),
}
_NOT_WHOLE: Final = Hint("it was made with another key, or was not copied whole", "它是用其他密钥制作的，或没有复制完整")


def _why_closed(refused: TokenRefused) -> tuple[Hint, tuple[str, str]]:
    """Why a token opens nothing here, and what to do about it (English, Chinese)."""
    return _CLOSED.get(refused.why, (_NOT_WHOLE, _COPY_AGAIN))


def _tools(codec: TokenCodec, stats: Mapping[str, Any], asked: str | None) -> Iterator[Finding]:
    """Which endpoints have tools, and which should have and do not."""
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
                f"the token given opens nothing here ({refused.why}): {why.en}",
                f"给出的令牌在这里无效（{refused.why}）：{why.zh}",
                *remedy,
            )
            return
        if free:
            yield Finding(*free_form(wanted), *_COPY_AGAIN, problem=False)
    asking = [one for one in details if one["devices"] or one.get("sessions")]
    waiting = [one for one in details if not one["tools"] and (one in asking if wanted is None else one["endpoint"] == wanted)]
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
        latest = next(iter((*waiting, *gone)), {"endpoint": SINGLE_MODULE})
        name, left = _named(latest), _left(latest)
        yield Finding(
            f"no tool is connected{left.en}",
            f"没有工具端连接{left.zh}",
            f"start one: mcp-endpoint pipe -- COMMAND, with the tool address of mcp-endpoint url {name} in MCP_ENDPOINT",
            f"请启动工具端：mcp-endpoint pipe -- 命令，MCP_ENDPOINT 设为 mcp-endpoint url {name} 给出的工具端地址",
        )


def _named(endpoint: Mapping[str, Any]) -> str:
    """What `mcp-endpoint url` is to be asked for: the endpoint, unless a token of free choice has made it."""
    return "NAME" if endpoint.get("free_form") else str(endpoint["endpoint"])


def _tool(endpoint: str, tool: Mapping[str, Any]) -> Finding:
    label = tool["label"] or "tool"
    if tool["why_bare"]:
        return Finding(
            f"tool {label} at endpoint {endpoint} does not speak MCP: {tool['why_bare']}",
            f"接入点 {endpoint} 的工具端 {label} 不会 MCP 握手：{REASONS.get(tool['why_bare'], tool['why_bare'])}",
            "run its command by hand and look at what it prints; only JSON-RPC may go to its standard output",
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
    told = f"{close_reason['at']}, {close_reason['code']} {close_reason['reason']}".rstrip()
    return Reason(f"; the last one left endpoint {one['endpoint']} at {told}", f"；上一个于 {told} 离开接入点 {one['endpoint']}")


def _shown(codec: TokenCodec, asked: str) -> tuple[str, bool]:
    """The printable name of the endpoint that is meant, and whether a token of free choice has made it. Raises Refused."""
    given = asked.strip().strip("\"'")
    opened = codec.open(token_in(given), time.time()) if "://" in given else _opened(codec, given)
    return (given, False) if opened is None else (opened.shown, opened.kind == "opaque")


def _opened(codec: TokenCodec, given: str) -> Grant | None:
    """What a token opens; None for the name of an endpoint. Raises Refused for what is neither."""
    opened = codec.open(given, time.time())
    return None if opened.kind == "opaque" and NAME.fullmatch(given) else opened


# Plain requests


def _ask(base: str, path: str, trust: ssl.SSLContext | None, headers: Mapping[str, str] = {}) -> Answer:
    """One GET, past any HTTP proxy of the environment and following no redirect. Raises OSError and HTTPException."""
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
        return Answer(response.status, response.read(BODY_BYTES), response.getheader("Location", ""))
    finally:
        connection.close()


def _trust(config: Config) -> ssl.SSLContext | None:
    return tls.trusting(config.server.tls_cert) if config.server.tls_cert else None


def _json(answer: Answer) -> dict[str, Any]:
    """The JSON object of an answer; empty if there is none."""
    try:
        told = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
