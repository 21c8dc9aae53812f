"""The part of `check` about managed servers, gateways and their key pools.

The state of a running server is taken from `/stats`. Otherwise the same files are read as the server would read them: commands are looked
up, URLs are initialized as the server would do it, and what would prevent the start is reported as such. No process is started.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from os.path import basename
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from loguru import logger

from ..backoff import WORKED_SECONDS
from ..core.broker import Broker
from ..credentials.store import bans_file, read_bans, read_keys
from ..errors import EXIT_CONFIG, ConfigError, EndpointError
from ..log import escape
from ..providers import mcp_json
from ..providers.entry import ServerEntry, mask
from ..providers.managed import ManagedServer
from ..serving.rooms import imported
from ..settings.schema import Config, CredentialSettings, GatewaySettings
from ..web.page import REASONS
from .finding import Finding, Reason, reason_of, split

SECONDS: Final = 5.0
"""Timeout for servers by URL and gateway targets; all are tried at the same time."""
LOOK_SECONDS: Final = 0.05
"""Polling interval."""
STARTING_SECONDS: Final = 20.0
"""A server that starts for longer than this gets a remark."""
SCRIPT: Final = frozenset((".py", ".js", ".mjs", ".cjs", ".ts", ".sh", ".jar", ".rb"))
"""Endings of files that an interpreter is given to run."""
INTERPRETERS: Final = ("python", "node", "bun", "deno", "tsx", "java", "ruby", "sh", "bash", "zsh")


class Files(NamedTuple):
    """The findings about the files where no server runs."""

    findings: Sequence[Finding]
    fatal: bool
    """Whether the server would not start because of them."""


# Without a running server


def of_files(config: Config, root: Path, environ: Mapping[str, str]) -> Files:
    """What would be wrong with the servers of `config` if it were started now; relative files are below `root`."""
    findings: list[Finding] = []
    fatal: list[Finding] = []
    servers: Mapping[str, ServerEntry] = {}
    if config.providers.file:
        file = root / config.providers.file
        try:
            found = mcp_json.read(file, environ)
        except ConfigError as error:
            fatal.append(_no_start(file, error))
        else:
            servers = found.servers
            findings += (Finding(f"server {en}", f"服务器 {zh}") for en, zh in found.left_out)
            findings += (_unusable(name, reason_of(error), file) for name, error in found.wrong.items())
    by_url = [server for server in servers.values() if server.command is None]
    if by_url or config.gateway:
        try:
            imported(".providers.remote.server", "http")
        except EndpointError as error:
            fatal.append(_no_package(error))
            by_url = []
    failed: dict[str, ConfigError] = {}
    named = {gateway.credentials for gateway in config.gateway} | {server.credentials for server in servers.values()}
    for pool in sorted(named - {""}):
        try:
            findings += _pool_on_disk(pool, _pool(config, pool), root, environ)
        except ConfigError as error:
            failed[pool] = error
    fatal += [_no_start_for_keys(one, failed[one.credentials]) for one in config.gateway if one.credentials in failed]
    for server in servers.values():
        if server.credentials in failed:
            findings.append(_unusable(server.name, reason_of(failed[server.credentials]), root / config.providers.file))
        elif server.command is not None:
            findings.append(_command(server, root / config.providers.file))
    asked = [server for server in by_url if server.credentials not in failed]
    findings += asyncio.run(_reached(config, asked, root / config.providers.file))
    return Files([*fatal, *findings], bool(fatal))


def _no_start(file: Path, error: ConfigError) -> Finding:
    en, zh = reason_of(error)
    remedy = (
        ("correct it there", "请在该处改正")
        if file.is_file()
        else (
            'write the right path into [providers] file (or --providers), or create the file, at least {"mcpServers": {}}',
            '请在 [providers] file（或 --providers）写上正确路径，或创建该文件，至少为 {"mcpServers": {}}',
        )
    )
    return Finding(
        f"the server does not start (exit code {EXIT_CONFIG}) because of [providers] file: {en}",
        f"服务器因 [providers] file 无法启动（退出码 {EXIT_CONFIG}）：{zh}",
        f"{remedy[0]}; to start without these servers, remove file from [providers]",
        f"{remedy[1]}；若不需要这些服务器，请删除 [providers] 的 file",
    )


def _no_package(error: EndpointError) -> Finding:
    return Finding(
        "the server does not start: servers by URL and gateways need more packages",
        "服务器无法启动：URL 服务器与网关需要更多软件包",
        error.en,
        error.zh,
    )


def _no_start_for_keys(gateway: GatewaySettings, error: ConfigError) -> Finding:
    en, zh = reason_of(error)
    return Finding(
        f"the server does not start (exit code {EXIT_CONFIG}) because of the keys of gateway {gateway.name}: {en}",
        f"服务器因网关 {gateway.name} 的密钥无法启动（退出码 {EXIT_CONFIG}）：{zh}",
        f"correct [credentials.{gateway.credentials}] or its files, or remove credentials from the gateway",
        f"请改正 [credentials.{gateway.credentials}] 或其文件，或删除该网关的 credentials",
    )


def _unusable(name: str, why: Reason, file: Path | str) -> Finding:
    """The finding for an entry that cannot be used."""
    return Finding(
        f"server {name} does not run, its entry cannot be used: {why.en}",
        f"服务器 {name} 未运行，它的配置有误：{why.zh}",
        f"correct the entry in {file} (a running server reloads it within a second); "
        "a missing variable or [credentials.NAME] must be set for the server, then restart it",
        f"请在 {file} 中改正（运行中的服务器会在一秒内采用）；如缺少环境变量或 [credentials.名称]，请为服务器设置后重新启动",
    )


def _command(server: ServerEntry, file: Path) -> Finding:
    """Whether the process of a managed server could be started."""
    assert server.command is not None
    hide = mask(server)
    program = escape(hide(server.command.program))
    remedy = (
        f'correct "command", "args" or "cwd" of {server.name} in {file}',
        f'请在 {file} 中改正 {server.name} 的 "command"、"args" 或 "cwd"',
    )
    try:
        path = server.command.found()
    except EndpointError as error:
        return Finding(
            f"server {server.name} cannot be started: {hide(error.en)}", f"服务器 {server.name} 无法启动：{hide(error.zh)}", *remedy
        )
    script = _script(path, server.command.args)
    if script is not None and not (Path(server.command.cwd or "") / script).exists():
        shown = escape(hide(script))
        return Finding(
            f"server {server.name} cannot be started: there is no file {shown}, which {program} is to run",
            f"服务器 {server.name} 无法启动：{program} 要运行的文件 {shown} 不存在",
            f'{remedy[0]}; a relative path is below "cwd", or below the folder the server is started in',
            f'{remedy[1]}；相对路径从 "cwd" 算起，没有时从启动服务器的文件夹算起',
        )
    return Finding(f"server {server.name}: its command {program} exists", f"服务器 {server.name}：命令 {program} 存在")


def _script(program: str, args: Sequence[str]) -> str | None:
    """The script that an interpreter is given to run; None where that cannot be known."""
    if not basename(program).lower().startswith(INTERPRETERS):
        return None
    given = [word for word in args if not word.startswith("-")]
    return given[0] if given and PurePath(given[0]).suffix.lower() in SCRIPT and "://" not in given[0] else None


async def _reached(config: Config, servers: Sequence[ServerEntry], file: Path) -> list[Finding]:
    """Whether servers by URL and the targets of gateways answer."""
    logger.disable("mcp_endpoint")  # the findings say the same
    try:
        asked = [_greeted(config, server, file) if not server.credentials else _keyed(server, file) for server in servers]
        return await asyncio.gather(*asked, *map(_gateway, config.gateway))
    finally:
        logger.enable("mcp_endpoint")


async def _greeted(config: Config, server: ServerEntry, file: Path) -> Finding:
    """Initialize it with the code that a running server uses."""
    loop = asyncio.get_running_loop()
    broker = Broker(config.endpoint, config.limits, clock=loop.time, call_at=loop.call_at, epoch=time.time, watch=_NoWatch())
    kept: ManagedServer = imported(".providers.remote.server", "http").RemoteServer(server, broker)
    await kept.start()
    try:
        async with asyncio.timeout(SECONDS):
            while kept.describe()["state"] in ("off", "starting"):  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(LOOK_SECONDS)
        described = kept.describe()
    except TimeoutError:
        return _unreached(server.name, Reason(f"no answer within {SECONDS:g} s", f"{SECONDS:g} 秒内没有应答"), file)
    finally:
        await kept.stop()
    if described["state"] != "running":
        return _unreached(server.name, split(described["why"]), file)
    return Finding(f"server {server.name} answers at {described['host']}", f"服务器 {server.name} 在 {described['host']} 有应答")


async def _keyed(server: ServerEntry, file: Path) -> Finding:
    """Connect only: a request to a server with a key pool would use a key, or get one banned."""
    refused = await _connected(server.url)
    host = urlsplit(server.url).hostname or ""
    if refused:
        return _unreached(server.name, refused, file)
    return Finding(f"server {server.name}: {host} takes connections", f"服务器 {server.name}：{host} 可以连接")


async def _gateway(gateway: GatewaySettings) -> Finding:
    refused = await _connected(gateway.target)
    host = urlsplit(gateway.target).netloc
    if refused is None:
        return Finding(f"gateway {gateway.name}: {host} takes connections", f"网关 {gateway.name}：{host} 可以连接")
    return Finding(
        f"gateway {gateway.name} cannot reach its target: {host}: {refused.en}",
        f"网关 {gateway.name} 的目标不通：{host}：{refused.zh}",
        f"start the service there, or correct target of [[gateway]] {gateway.name}",
        f"请启动该处的服务，或改正 [[gateway]] {gateway.name} 的 target",
    )


async def _connected(url: str) -> Reason | None:
    """Why no connection to a URL is possible; None if one is."""
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        async with asyncio.timeout(SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, port)
        writer.close()
    except TimeoutError:
        return Reason(
            f"no connection within {SECONDS:g} s: check host, port and firewall", f"{SECONDS:g} 秒内未能连接：请检查主机、端口与防火墙"
        )
    except socket.gaierror:
        return Reason("this name cannot be resolved: check it, and DNS", "无法解析该域名：请检查拼写与 DNS")
    except ConnectionRefusedError:
        return Reason("connection refused, nothing listens there", "连接被拒绝，该处没有程序监听")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return Reason(why, why)
    return None


def _unreached(name: str, why: Reason, file: Path | str) -> Finding:
    """The finding for a server by URL that cannot be used."""
    return Finding(
        f"server {name} cannot be used: {why.en}",
        f"服务器 {name} 不可用：{why.zh}",
        f'start it, or correct "url" and "headers" of {name} in {file}; a running server retries automatically',
        f'请启动它，或在 {file} 中改正 {name} 的 "url" 与 "headers"；运行中的服务器会自行重试',
    )


class _NoWatch:
    """A Watch that ignores all events."""

    def tell(self, event: str, shown: str, **fields: object) -> None:
        """Ignore the event."""


def _pool(config: Config, name: str) -> CredentialSettings:
    if name not in config.credentials:
        raise ConfigError(f"there is no [credentials.{name}] in the configuration", f"配置中没有 [credentials.{name}]")
    return config.credentials[name]


def _pool_on_disk(name: str, settings: CredentialSettings, root: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The finding about a pool, from its files. Raises ConfigError as `CredentialStore` does."""
    kept = read_bans(bans_file(name, settings, root))
    keys = {credential.fingerprint for credential in read_keys(name, settings, root, environ)}
    yield _keys(name, len(keys), len(keys & kept.banned.keys()), 0)


# With a running server


def of_stats(config: Config, stats: Mapping[str, Any]) -> Iterator[Finding]:
    """The findings about the servers of a running server."""
    rooms = stats.get("rooms", {})
    room = rooms.get("providers")
    if room is not None:
        if room["problem"]:
            yield _stale(room["file"], split(room["problem"]))
        for one in room["servers"]:
            yield _server(one, room["file"])
    elif config.providers.file:
        yield Finding(
            f"the running server has no managed servers, [providers] file is {config.providers.file}",
            f"正在运行的服务器没有托管服务器，而 [providers] file 为 {config.providers.file}",
            "restart the server, so that it reads the configuration",
            "请重启服务器以读取配置",
        )
    for name, pool in rooms.get("keys", {}).items():
        yield _keys(name, pool["total"], pool["banned"], pool["resting"])
    yield from asyncio.run(_reached(config, (), Path()))


def _stale(file: str, why: Reason) -> Finding:
    return Finding(
        f"{file} cannot be used, the earlier servers keep running; the next start would end with exit code {EXIT_CONFIG}: {why.en}",
        f"{file} 无法使用，仍用原来的服务器；下次启动会以退出码 {EXIT_CONFIG} 结束：{why.zh}",
        "correct the file; it is reloaded within a second",
        "请改正该文件，一秒内生效",
    )


def _server(one: Mapping[str, Any], file: str) -> Finding:
    """The finding about one managed server of /stats."""
    name, state, by_url = one["name"], one["state"], one["wire"] != "stdio"
    why = split(one["why"] or one.get("last_error", ""))
    failing = state in ("waiting", "stopped") or (
        bool(why.en) and (state == "starting" or (not by_url and one["seconds"] < WORKED_SECONDS))
    )
    if state == "error":
        return _unusable(name, why, file)
    if failing and by_url:
        return _unreached(name, why, file)
    if failing:
        return _ended(one, why, file)
    if state != "running":
        slow = one["seconds"] > STARTING_SECONDS
        remedy = ("wait, and look in the log if it does not start", "请稍候；若一直没有，请查看日志") if slow else ("", "")
        en, zh = f"server {name} is being started, for {one['seconds']:.0f} s", f"服务器 {name} 正在启动，已 {one['seconds']:.0f} 秒"
        return Finding(en, zh, *remedy, problem=False)
    if bare := one.get("why_bare"):
        return Finding(
            f"server {name} runs and does not speak MCP: {bare}{_last_output(one).en}",
            f"服务器 {name} 在运行，但不会 MCP 握手：{REASONS.get(bare, bare)}{_last_output(one).zh}",
            f"run its command manually and look at its output: only JSON-RPC may go to standard output; its entry is in {file}",
            f"请手动运行它的命令并查看输出：标准输出上只能有 JSON-RPC；它的配置在 {file}",
        )
    if not one["tools"]:
        return Finding(
            f"server {name} runs and has no tools yet{why.en and f': {why.en}'}",
            f"服务器 {name} 在运行，但还没有工具{why.zh and f'：{why.zh}'}",
            f'if it should have some, look at "allow" and "deny" of its entry in {file}, and the log',
            f"如应有工具，请检查 {file} 中的 allow 与 deny，并查看日志",
            problem=False,
        )
    tools = ", ".join(one["tools"])
    if by_url and why.en:
        return Finding(
            f"server {name} runs ({tools}); last error: {why.en}",
            f"服务器 {name} 正在运行（{tools}）；最近的问题：{why.zh}",
            f"if it still fails, do what this says, or correct its entry in {file}",
            f"如仍失败，请按其说明处理，或在 {file} 中改正",
            problem=False,
        )
    return Finding(f"server {name} runs: {tools}", f"服务器 {name} 正在运行：{tools}")


def _ended(one: Mapping[str, Any], why: Reason, file: str) -> Finding:
    """The finding for a process that cannot be started or exits repeatedly."""
    name, said, starts = one["name"], _last_output(one), one.get("starts", 0)
    gone_en, gone_zh = ("given up after many attempts", "多次失败后已放弃") if one["state"] == "stopped" else ("tried again", "正在重试")
    again_en, again_zh = (
        ("; it is started again when the file is saved", "；保存该文件后会再次启动") if one["state"] == "stopped" else ("", "")
    )
    if not starts:
        return Finding(
            f"server {name} cannot be started ({gone_en}): {why.en}{said.en}",
            f"服务器 {name} 无法启动（{gone_zh}）：{why.zh}{said.zh}",
            f'correct "command", "args" or "cwd" of {name} in {file}{again_en}',
            f'请在 {file} 中改正 {name} 的 "command"、"args" 或 "cwd"{again_zh}',
        )
    return Finding(
        f"server {name} exits repeatedly (started {starts} times, {gone_en}): {why.en}{said.en}",
        f"服务器 {name} 反复退出（已启动 {starts} 次，{gone_zh}）：{why.zh}{said.zh}",
        f"run its command manually, look at its output, and correct its entry in {file}: files, arguments, variables{again_en}",
        f"请手动运行它的命令并查看输出，然后在 {file} 中改正：文件、参数、变量{again_zh}",
    )


def _last_output(one: Mapping[str, Any]) -> Reason:
    """The last line of its stderr."""
    said = one.get("said")
    return Reason(f"; its last output: {said[-1]}", f"；最后的输出：{said[-1]}") if said else Reason("", "")


def _keys(name: str, total: int, banned: int, resting: int) -> Finding:
    """The finding about a pool of keys."""
    counted = Reason(f"{total} keys, {banned} banned, {resting} resting", f"密钥 {total} 个，停用 {banned}，休息 {resting}")
    if banned == total:
        return Finding(
            f"no key of pool {name} can be used, all are banned: the service refused them ({counted.en})",
            f"凭据池 {name} 没有可用的密钥，均已停用：服务拒绝了它们（{counted.zh}）",
            f"mcp-endpoint keys list {name} shows them; give the pool other keys, or lift the bans: mcp-endpoint keys unban {name} --all",
            f"用 mcp-endpoint keys list {name} 查看；请换上其他密钥，或恢复：mcp-endpoint keys unban {name} --all",
        )
    if banned + resting == total:
        return Finding(
            f"every key of pool {name} rests or is banned ({counted.en})",
            f"凭据池 {name} 的密钥都在休息或停用（{counted.zh}）",
            f"wait: mcp-endpoint keys list {name} shows until when; or add keys to the pool",
            f"请等待：mcp-endpoint keys list {name} 显示到何时；也可为它增加密钥",
        )
    return Finding(f"pool {name}: {counted.en}", f"凭据池 {name}：{counted.zh}")


def served(stats: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Name → endpoint patterns of each managed server that runs and has tools."""
    room = stats.get("rooms", {}).get("providers") or {"servers": ()}
    return {one["name"]: one["serves"] for one in room["servers"] if one["state"] == "running" and one["tools"]}
