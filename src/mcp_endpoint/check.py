"""Looks at an installation as its users do, and says what is wrong together with the remedy.

Each step looks at one thing: configuration, port, key, a round trip through the running server, the addresses it hands out, the tools.
A step whose ground is missing is left out: without a server there is no key to try.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from websockets.exceptions import WebSocketException

from . import tls
from .addresses import ANYWHERE, base_of, console_address, endpoint_addresses, hints, is_loopback
from .config import Config, Loaded
from .dial import dial
from .errors import EndpointError
from .tokens import SINGLE_MODULE, Doors

SECONDS: Final = 5.0
"""For each single step."""
PROBE: Final = "mcp-endpoint-check"
"""The endpoint of the round trip: a signed name of its own, so that nobody's tool is disturbed."""
BODY_BYTES: Final = 4 * 1024 * 1024


class Finding(NamedTuple):
    """What one step saw, and what to do about it where something is to be done."""

    en: str
    zh: str
    remedy_en: str = ""
    remedy_zh: str = ""
    problem: bool = True
    """With a remedy: whether the installation is broken without it, or just could be better."""

    @property
    def mark(self) -> str:
        """How it is shown: `ok`, `note` or `PROBLEM`."""
        return "ok" if not self.remedy_en else "PROBLEM" if self.problem else "note"


class Local(NamedTuple):
    """How this machine reaches the server of a configuration."""

    host: str
    port: int
    certificate: str

    @property
    def base(self) -> str:
        """`http(s)://host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificate else 'http'}://{host}:{self.port}"


def local_of(config: Config) -> Local:
    """Where a server of `config` listens, seen from its own machine."""
    host = config.server.host
    return Local({"::": "::1"}.get(host, "127.0.0.1") if host in ANYWHERE else host, config.server.port, config.server.tls_cert)


def answers(local: Local) -> bool:
    """Whether a server of ours answers there."""
    try:
        return _is_ours(_get(local, "/health"))
    except (OSError, http.client.HTTPException):
        return False


def findings(loaded: Loaded, endpoint: str, *, contained: bool) -> Iterator[Finding]:
    """Everything there is to say about the installation of `loaded` and the tools at `endpoint`, in the order it was looked at."""
    config = loaded.config
    yield from _configuration(loaded)
    if not config.server.key:
        yield Finding(
            "there is no key yet, so no token can be made",
            "还没有密钥，无法制作令牌",
            "start the server once, it makes one: make run",
            "启动一次服务器即会自动生成：make run",
        )
        return
    local = local_of(config)
    try:
        health = _get(local, "/health")
    except ConnectionRefusedError:
        yield Finding(
            f"nothing runs at {local.base}",
            f"{local.base} 上没有程序在运行",
            "start the server: make run (or python main.py); if it runs elsewhere, compare [server] host and port",
            "请启动服务器：make run（或 python main.py）；若在别处运行，请核对 [server] 的 host 与 port",
        )
        return
    except (OSError, http.client.HTTPException) as error:
        health = (0, (str(error) or type(error).__name__).encode())
    if not _is_ours(health):
        yield Finding(
            f"another program has the port: {local.base} does not answer like this server",
            f"端口被其他程序占用：{local.base} 的应答不是本服务器",
            "stop it, or set another port under [server] and start the server again",
            "请停止它，或在 [server] 下改用其他 port 后重新启动服务器",
        )
        return
    yield Finding(f"the server runs at {local.base}", f"服务器运行于 {local.base}")
    stats = _stats(config)
    if stats is None:
        yield Finding(
            "the running server has another key than this configuration",
            "正在运行的服务器使用的密钥与此配置不同",
            "restart the server; if it was started from another folder, run check there (--root)",
            "请重启服务器；如果它是从其他文件夹启动的，请在那里运行 check（--root）",
        )
        return
    yield asyncio.run(_round_trip(config))
    yield from _outside(config, contained=contained)
    yield _tools(stats, endpoint)


def _configuration(loaded: Loaded) -> Iterator[Finding]:
    yield Finding(f"configuration read: {loaded.path}", f"配置已读取：{loaded.path}")
    for en, zh in loaded.warnings:
        here, there = en.partition("; "), zh.partition("；")
        yield Finding(here[0], there[0], here[2] or "edit the configuration", there[2] or "请修改配置", problem=False)


async def _round_trip(config: Config) -> Finding:
    """A request from a device to a tool and its answer back, both played here."""
    local = local_of(config)
    pair = endpoint_addresses(local.base, Doors(config.server.key).make_signed(PROBE))
    context = tls.trusting(local.certificate) if local.certificate else None
    reason = ""
    try:
        async with asyncio.timeout(SECONDS), await dial(pair.tool, tls=context) as tool, await dial(pair.device, tls=context) as device:
            await device.send('{"jsonrpc":"2.0","id":1,"method":"check/there"}')
            asked = json.loads(await tool.recv())
            await tool.send(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {"back": True}}))
            answer = json.loads(await device.recv())
            if answer != {"jsonrpc": "2.0", "id": 1, "result": {"back": True}}:
                reason = f"unexpected answer {answer}"
    except (OSError, WebSocketException, EndpointError, ValueError, KeyError, TypeError) as error:
        reason = error.en if isinstance(error, EndpointError) else str(error) or type(error).__name__
    if reason:
        return Finding(
            f"a call did not come through the server: {reason}",
            f"一次调用未能通过服务器：{reason}",
            "look into logs/mcp_server.log for the line of this moment",
            "请查看 logs/mcp_server.log 中此刻的记录",
        )
    return Finding("a call went through the server and back", "一次调用已往返通过服务器")


def _outside(config: Config, *, contained: bool) -> Iterator[Finding]:
    """Whether the addresses it hands out can be used by others."""
    settings = config.server
    base = base_of(settings, settings.port, contained=contained)
    doors = Doors(settings.key)
    found = hints(settings, base, doors.make_xiaozhi(SINGLE_MODULE), contained=contained)
    for hint in found:
        problem = contained or not is_loopback(urlsplit(base).hostname or "")
        yield Finding(f"handed-out addresses begin with {base}", f"给出的地址以 {base} 开头", hint.en, hint.zh, problem)
    if not settings.public_url:
        if not found:
            yield Finding(f"handed-out addresses begin with {base}", f"给出的地址以 {base} 开头")
        return
    reason = _public(console_address(base, settings.key))
    if reason:
        yield Finding(
            f"public_url {base} does not lead to this server: {reason}",
            f"public_url {base} 没有通到本服务器：{reason}",
            "set public_url under [server] to the address others use, and let a proxy there forward to this server, WebSocket included",
            "请把 [server] 的 public_url 设为其他机器使用的地址，并让该处的代理转发到本服务器（含 WebSocket）",
        )
    else:
        yield Finding(f"public_url {base} leads to this server", f"public_url {base} 通到本服务器")


def _tools(stats: dict[str, Any], endpoint: str) -> Finding:
    """Whether the endpoint has tools, and where the others are if it has none."""
    here = [one for one in stats["endpoint_details"] if one["endpoint"] == endpoint and one["tools"]]
    if here:
        names = [name for tool in here[0]["tools"] for name in tool["functions"]]
        labels = ", ".join(tool["label"] or "tool" for tool in here[0]["tools"])
        known = f": {', '.join(names)}" if names else ""
        return Finding(f"tools at endpoint {endpoint}: {labels}{known}", f"接入点 {endpoint} 的工具端：{labels}{known}")
    elsewhere = sorted({one["endpoint"] for one in stats["endpoint_details"] if one["tools"]})
    if elsewhere:
        others = ", ".join(elsewhere)
        return Finding(
            f"no tool at endpoint {endpoint}, but tools are connected under another token, at: {others}",
            f"接入点 {endpoint} 没有工具端，但有工具用另一个令牌连到了：{others}",
            f"give tool and device addresses of the same endpoint: mcp-endpoint url {endpoint}",
            f"请让工具端与使用端使用同一接入点的地址：mcp-endpoint url {endpoint}",
        )
    return Finding(
        "no tool is connected",
        "没有工具端连接",
        f"start one: mcp-endpoint pipe -- COMMAND, with the tool address of mcp-endpoint url {endpoint}",
        f"请启动工具端：mcp-endpoint pipe -- 命令，地址见 mcp-endpoint url {endpoint}",
    )


def _stats(config: Config) -> dict[str, Any] | None:
    """What the holder of the key is told; None if this key is not the server's."""
    status, body = _get(local_of(config), "/stats", config.server.key)
    if status != 200:
        return None
    told: dict[str, Any] = json.loads(body)
    return told


def _is_ours(answer: tuple[int, bytes]) -> bool:
    status, body = answer
    try:
        told = json.loads(body)
    except ValueError:
        return False
    return status == 200 and isinstance(told, dict) and told.get("status") == "ok" and "version" in told


def _get(local: Local, path: str, key: str = "") -> tuple[int, bytes]:
    """One request to the server on this machine, past any HTTP proxy of the environment."""
    connection: http.client.HTTPConnection
    if local.certificate:
        connection = http.client.HTTPSConnection(local.host, local.port, timeout=SECONDS, context=tls.trusting(local.certificate))
    else:
        connection = http.client.HTTPConnection(local.host, local.port, timeout=SECONDS)
    return _ask(connection, path, {"Authorization": f"Bearer {key}"} if key else {})


def _public(address: str) -> str:
    """Why the console address does not work from here; empty if it does. Judged as manager-api judges: 200 and the word success."""
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        status, body = _ask(connection, f"{parts.path}?{parts.query}", {})
    except (OSError, http.client.HTTPException) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    if status != 200 or b"success" not in body:
        return f"HTTP {status}"
    return ""


def _ask(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(BODY_BYTES)
    finally:
        connection.close()
