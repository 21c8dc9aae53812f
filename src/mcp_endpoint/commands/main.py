"""The command line interface: defines all commands, with texts in Chinese and English."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
import msgspec
from msgspec.structs import replace

from .. import __version__, files, log
from ..access import addresses, tokens
from ..errors import EXIT_FAILURE, ConfigError, EndpointError
from ..serving.standalone import API_VARIABLES, ROOMS, target, variables, with_dot_env
from ..serving.standalone import overrides as room_overrides
from ..settings.described import REPEATED
from ..settings.first_start import convert, prepare
from ..settings.load import Loaded, load
from ..settings.schema import Config
from ..settings.sources import FILE

if TYPE_CHECKING:
    from .client import Device, ListedTool, Result
    from .finding import Finding

NAME_RULE: Final = "接入点名称须为 1 到 64 个字母、数字、_ 或 - / An endpoint is named by 1 to 64 letters, digits, _ and -"
_SET: Final = click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="如同传给 serve / As given to serve.")


def main(root: Path | None = None, arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit; a user error is printed in two sentences, never as a traceback.

    `root` is the folder with data/ and logs/, by default the current one. Exit codes: 0 success, 1 failure, 2 wrong usage,
    78 wrong configuration (sysexits.h).
    """
    _occupy_standard_descriptors()
    try:
        command.main(args=arguments, prog_name="mcp-endpoint", obj=root or Path.cwd(), standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EndpointError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of stdout has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _occupy_standard_descriptors() -> None:
    """If stdin, stdout or stderr is closed, open the null device there: no socket may get its number, because libraries write to it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one


class _CommandLine(click.Group):
    """The command group. Options of `serve` may be given without its name: `python main.py --log-level debug`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        ours = 0
        while args[ours : ours + 1] and args[ours].partition("=")[0] == "--root":
            ours += 1 if "=" in args[ours] else 2
        spellings = {spelling for option in serve.params for spelling in option.opts}
        if args[ours : ours + 1] and args[ours].partition("=")[0] in spellings:
            args = [*args[:ours], "serve", *args[ours:]]
        return super().parse_args(context, args)


@click.group(
    cls=_CommandLine,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="MCP 接入点服务器：连接设备与工具。不带命令即为 serve。\n\n"
    "The MCP endpoint server connects devices and tools. Without a command: serve.",
)
@click.version_option(__version__, "-V", "--version", message="%(version)s", help="显示版本 / Show the version.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="存放 data/ 与 logs/ 的文件夹 / The folder of data/ and logs/.",
)
@click.pass_context
def command(context: click.Context, root: Path | None) -> None:
    context.obj = (root or context.obj).resolve()
    if context.invoked_subcommand is None:
        context.invoke(serve)


@command.command(help="启动服务器 / Start the server.")
@click.option("--host", help="监听地址 / Address to listen on.")
@click.option("--port", help="监听端口 / Port to listen on.")
@click.option("--log-level", help="日志级别 / Least important lines to log: TRACE DEBUG INFO WARNING ERROR.")
@click.option("--as", "standalone", type=click.Choice(list(ROOMS)), help="只运行其中一部分 / Run only one part of it.")
@click.option("--target-url", help="大模型 API 的地址，用于 --as llm / URL of the model API, for --as llm.")
@click.option("--providers", metavar="FILE", help="由本服务器运行的 MCP 服务器 / MCP servers that it runs: a file with mcpServers.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="任一设置项 / Any setting: websocket.max_connections=2000.")
@click.pass_obj
def serve(
    root: Path,
    host: str | None,
    port: str | None,
    log_level: str | None,
    standalone: str | None,
    target_url: str | None,
    providers: str | None,
    settings: tuple[str, ...],
) -> None:
    from ..serving import server  # imported late: only this command needs it

    if target_url and standalone != "llm":
        raise click.UsageError("--target-url 需要 --as llm / --target-url needs --as llm")
    environ = variables(standalone, root, os.environ) if standalone else os.environ
    # A relative path on a command line is below the current folder.
    file = None if providers is None else str(Path(providers).absolute())
    named = {"server.host": host, "server.port": port, "server.log_level": log_level, "providers.file": file}
    overrides = (room_overrides(standalone, environ) if standalone else {}) | _overrides(settings, named)
    prepared = prepare(root, tokens.make_key, os.environ, overrides)
    loaded = _rooted(load(root, os.environ, overrides, made_key=prepared.key), root)
    if standalone:
        loaded = loaded._replace(config=ROOMS[standalone].configured(loaded.config, target_url or target(environ)))
    server.run(loaded, prepared, root, standalone or "", environ)


@command.group("config", help="查看与转换配置 / Show and convert the configuration.")
def config_group() -> None: ...


@config_group.command("show", help="每个设置的值及其来源（隐藏密钥）/ Each setting, its value and its origin; the key is hidden.")
@_SET
@click.pass_obj
def config_show(root: Path, settings: tuple[str, ...]) -> None:
    loaded = load(root, os.environ, _overrides(settings, {}))
    width = max(map(len, loaded.sources))
    for name, source in loaded.sources.items():
        click.echo(f"{name:<{width}} = {_shown(name, _value(loaded.config, name))}  # {source}")
    for en, zh in loaded.warnings:
        click.echo(f"{zh}\n{en}", err=True)


@config_group.command("convert", help="把旧 INI 配置改写为 TOML，保留顺序、注释与密钥 / Rewrite an old INI file as TOML, all kept.")
@click.option("--diff", "only_diff", is_flag=True, help="只显示差异，不改动文件 / Only show what would change.")
@click.pass_obj
def config_convert(root: Path, only_diff: bool) -> None:
    path = root / FILE
    old = _read(path)
    new = convert(old)
    if only_diff:
        secret = load(root, {}).config.server.key
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), FILE, f"{FILE} (TOML)", lineterm="")
        for line in lines:
            click.echo(line.replace(secret, "***") if secret else line)
        return
    kept = _beside(path)
    try:
        files.write(kept, old)
        files.write(path, new)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise EndpointError(f"cannot be written: {reason}", f"无法写入：{reason}", place=FILE) from error
    click.echo(f"已改写 {path}，旧文件保存为 {kept.name}\n{path} rewritten; the old file is kept as {kept.name}")


@command.group("token", help="制作与查看令牌 / Make and read tokens.")
def token_group() -> None: ...


@token_group.command("make", help="为接入点 ENDPOINT 制作令牌 / Make a token for ENDPOINT.")
@click.argument("endpoint")
@click.option("--signed", is_flag=True, help="签名令牌，可限角色与期限 / A signed token, which may be limited to a role and a time.")
@click.option("--role", type=click.Choice(["tool", "device", "both"]), default="both", help="仅用于签名令牌 / Signed tokens only.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="有效天数，仅用于签名令牌 / Days it lasts; signed tokens only.")
@click.pass_obj
def token_make(root: Path, endpoint: str, signed: bool, role: tokens.Role, days: float | None) -> None:
    if not signed and (role != "both" or days is not None):
        raise click.UsageError("--role 与 --days 需要 --signed / --role and --days need --signed")
    codec = _codec(root)
    expires = None if days is None else time.time() + days * 86_400
    try:
        made = codec.make_signed(endpoint, role, expires) if signed else codec.make_xiaozhi(endpoint)
    except ValueError as error:
        raise click.UsageError(NAME_RULE) from error
    click.echo(made)


@token_group.command("jwt", help="为 HTTP API 制作 JWT 令牌 / Make a JSON Web Token for the HTTP API.")
@click.option("--user", default="user", show_default=True, help="令牌中的 user_id / The user_id in it.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="有效天数 / Days it lasts.")
@click.option("--tool", "tools", multiple=True, metavar="PATTERN", help="允许的工具，可重复；默认全部 / A tool it permits; default: all.")
@click.option("--server", "servers", multiple=True, metavar="PATTERN", help="允许的服务器，可重复；默认全部 / The same for servers.")
@click.pass_obj
def token_jwt(root: Path, user: str, days: float, tools: tuple[str, ...], servers: tuple[str, ...]) -> None:
    from ..serving.rooms import imported

    environ = with_dot_env(root, os.environ)
    given = {setting: environ[variable] for variable, setting in API_VARIABLES.items() if environ.get(variable)}
    api = load(root, os.environ, given).config.api
    bearers = imported(".consumers.http_api.jwt", "api").Bearers(
        api.secret, api.algorithm, old_secrets=api.old_secrets, issuer=api.issuer, audience=api.audience
    )
    click.echo(bearers.make(user, days * 86_400, tools or None, servers or None))


@token_group.command("read", help="令牌或地址能打开什么，默认读标准输入 / What a token or an address opens; default: standard input.")
@click.argument("text", metavar="[TOKEN|URL]", required=False)
@click.pass_obj
def token_read(root: Path, text: str | None) -> None:
    given = addresses.token_in(text if text is not None else sys.stdin.readline())
    try:
        grant = _codec(root).open(given, time.time())
    except tokens.TokenRefused as refused:
        raise EndpointError(f"this token opens nothing here: {refused.why}", f"此令牌在这里无效：{refused.why}") from refused
    click.echo(f"接入点 / endpoint: {grant.shown}\n类型 / kind: {grant.kind}\n角色 / role: {grant.role}")


@command.group("keys", help="查看凭据池，让密钥休息，恢复停用的密钥 / Look at the keys of pools, let them rest, lift their bans.")
def keys_group() -> None: ...


@keys_group.command("list", help="列出密钥及其状态；只显示末尾与指纹 / List keys with their state, by their end and their fingerprint.")
@click.argument("pool", required=False)
@_SET
@click.pass_obj
def keys_list(root: Path, pool: str | None, settings: tuple[str, ...]) -> None:
    from . import keys  # imported late: only these commands need it

    for line in keys.listed(_keys_config(root, settings), root, os.environ, pool):
        click.echo(log.escape(line))


@keys_group.command("rest", help="让 POOL 中的密钥休息；KEY 为指纹的开头 / Let keys of POOL rest; KEY is how a fingerprint begins.")
@click.argument("pool")
@click.argument("key", nargs=-1, required=True)
@click.option("--seconds", type=click.FloatRange(min=0), default=3600.0, show_default=True, help="多久，0 为结束 / How long; 0 ends it.")
@_SET
@click.pass_obj
def keys_rest(root: Path, pool: str, key: tuple[str, ...], seconds: float, settings: tuple[str, ...]) -> None:
    from . import keys

    for line in keys.rest(_keys_config(root, settings), root, os.environ, pool, key, seconds):
        click.echo(line)


@keys_group.command("unban", help="恢复 POOL 中停用的密钥；KEY 为指纹的开头 / Lift bans of POOL; KEY is how a fingerprint begins.")
@click.argument("pool")
@click.argument("key", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="全部 / All of them.")
@_SET
@click.pass_obj
def keys_unban(root: Path, pool: str, key: tuple[str, ...], everyone: bool, settings: tuple[str, ...]) -> None:
    from . import keys

    if bool(key) == everyone:
        raise click.UsageError("需要 KEY 或 --all 之一 / give either KEY or --all")
    for line in keys.unban(_keys_config(root, settings), root, os.environ, pool, key):
        click.echo(line)


def _keys_config(root: Path, settings: tuple[str, ...]) -> Config:
    return _rooted(load(root, os.environ, _overrides(settings, {})), root).config


_FILTER: Final[dict[str, Any]] = {"ignore_unknown_options": True, "help_option_names": ["--help"]}
"""A word of a filter may begin with a minus sign, and have any letter in it."""
_words = click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[FILTER]...")


@command.command(
    context_settings=_FILTER,
    help="显示调用记录，并随新记录更新 / Show records of calls as they come. FILTER: tool:NAME status:error ms:>500 since:1h 北京",
)
@_words
@click.option("--lines", type=click.IntRange(0, 10_000), default=10, show_default=True, help="先显示最近几条 / How many of before.")
@click.option("--json", "as_json", is_flag=True, help="每行一个 JSON / JSON, one record a line.")
@click.pass_obj
def tail(root: Path, words: tuple[str, ...], lines: int, as_json: bool) -> None:
    from . import records

    for line in records.tail(records.path_of(load(root, os.environ).config, root), words, lines, as_json=as_json):
        click.echo(line)


@command.group("records", help="查看、导出与删除调用记录 / Look at records of calls, export and delete them.")
def records_group() -> None: ...


@records_group.command("list", context_settings=_FILTER, help="列出记录 / List records. FILTER: tool:NAME status:error since:1h 北京")
@_words
@click.option("--lines", type=click.IntRange(1, 100_000), default=100, show_default=True, help="最近几条 / How many of the newest.")
@click.option("--json", "as_json", is_flag=True, help="每行一个 JSON / JSON, one record a line.")
@click.pass_obj
def records_list(root: Path, words: tuple[str, ...], lines: int, as_json: bool) -> None:
    from . import records

    for line in records.listed(records.path_of(load(root, os.environ).config, root), words, lines, as_json=as_json):
        click.echo(line)


@records_group.command("show", help="显示一条记录的全部内容 / Show all of one record.")
@click.argument("number", type=int)
@click.option("--json", "as_json", is_flag=True, help="JSON 格式 / As JSON.")
@click.pass_obj
def records_show(root: Path, number: int, as_json: bool) -> None:
    from . import records

    for line in records.shown(records.path_of(load(root, os.environ).config, root), number, as_json=as_json):
        click.echo(line)


@records_group.command("export", context_settings=_FILTER, help="导出到标准输出，每行一个 JSON / Write records to stdout as lines of JSON.")
@_words
@click.pass_obj
def records_export(root: Path, words: tuple[str, ...]) -> None:
    from . import records

    for line in records.exported(records.path_of(load(root, os.environ).config, root), words):
        sys.stdout.buffer.write(line)


@records_group.command("import", help='导入导出的记录，"-" 为标准输入 / Read exported records; "-" is stdin.')
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.pass_obj
def records_import(root: Path, file: Path) -> None:
    from . import records

    config = load(root, os.environ).config
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as source:
            count = records.imported(config, root, source)
    except OSError as error:
        raise EndpointError(f"{file} cannot be read: {error.strerror}", f"无法读取 {file}：{error.strerror}") from error
    click.echo(f"已导入 {count} 条记录 / {count} records imported")


@records_group.command("delete", context_settings=_FILTER, help="删除记录并覆盖其内容 / Delete records, and overwrite what they were.")
@_words
@click.option("--all", "everything", is_flag=True, help="全部 / All of them.")
@click.pass_obj
def records_delete(root: Path, words: tuple[str, ...], everything: bool) -> None:
    from . import records

    if bool(words) == everything:
        raise click.UsageError("需要 FILTER 或 --all 之一 / give either FILTER or --all")
    count = records.deleted(load(root, os.environ).config, root, words)
    click.echo(f"已删除 {count} 条记录 / {count} records deleted")


@records_group.command("stats", help="记录的数量、大小与时间 / How many records, of what, and since when.")
@click.pass_obj
def records_stats(root: Path) -> None:
    from . import records

    for line in records.figures(records.path_of(load(root, os.environ).config, root)):
        click.echo(line)


@command.command(help="打印接入点 ENDPOINT 的工具端与使用端地址 / Print the addresses of ENDPOINT for tools and devices.")
@click.argument("endpoint", default=tokens.SINGLE_MODULE)
@click.pass_obj
def url(root: Path, endpoint: str) -> None:
    loaded = _with_key(root)
    settings = loaded.config.server
    contained = addresses.in_container(os.environ)
    base = addresses.base_of(settings, settings.port, contained=contained)
    made = _token(settings.key, endpoint)
    pair = addresses.endpoint_addresses(base, made)
    click.echo(f"工具端 / tool:   {pair.tool}\n使用端 / device: {pair.device}")
    for hint in addresses.hints(settings, base, made, contained=contained):
        click.echo(f"{hint.zh}\n{hint.en}", err=True)


@command.command(help="检查安装，指出问题与解决办法 / Look for what is wrong, and say what to do about it.")
@click.argument("endpoint", metavar="[URL|TOKEN|NAME]", required=False)
@click.option("--providers", metavar="FILE", help="如同传给 serve / As given to serve.")
@_SET
@click.option("--alive", is_flag=True, help="只看服务器是否应答，用于容器健康检查 / Only whether the server answers; for health checks.")
@click.pass_obj
def check(root: Path, endpoint: str | None, providers: str | None, settings: tuple[str, ...], alive: bool) -> None:
    from . import check as looks  # imported late: only this command needs it

    file = None if providers is None else str(Path(providers).absolute())

    def found() -> Iterator[Finding]:
        try:
            loaded = _rooted(load(root, os.environ, _overrides(settings, {"providers.file": file})), root)
            if alive:
                sys.exit(0 if looks.answers(loaded.config) else EXIT_FAILURE)
            yield from looks.findings(loaded, endpoint, contained=addresses.in_container(os.environ), root=root)
        except ConfigError as mistake:
            yield looks.mistake(mistake)

    problems = 0
    for finding in found():
        click.echo(f"[{finding.mark}] {log.escape(finding.zh)}\n{' ' * (len(finding.mark) + 3)}{log.escape(finding.en)}")
        if finding.remedy_en:
            click.echo(f"    → {log.escape(finding.remedy_zh)}\n    → {log.escape(finding.remedy_en)}")
        problems += finding.mark == "PROBLEM"
    if problems:
        sys.exit(EXIT_FAILURE)


_endpoint = click.option(
    "--endpoint",
    "-e",
    envvar="MCP_ENDPOINT",
    metavar="URL|TOKEN|NAME",
    default=tokens.SINGLE_MODULE,
    help="接入点：地址，或本机服务器上的令牌或名称；默认取 MCP_ENDPOINT，再取 single_module / "
    "The endpoint: an address, or a token or a name at the server of this machine; default: MCP_ENDPOINT, then single_module.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="原样输出 JSON / Print the JSON as it came.")


@command.command("list", help="列出接入点的工具 / List the tools of an endpoint.")
@_endpoint
@_as_json
@click.pass_obj
def list_tools(root: Path, endpoint: str, as_json: bool) -> None:
    async def look() -> list[ListedTool]:
        async with _attached(root, endpoint) as attached:
            return await attached.tools()

    tools = asyncio.run(look())
    if as_json:
        _print_json('{"tools":[' + ",".join(tool.raw for tool in tools) + "]}")
        return
    for tool in tools:
        first = tool.description.strip().partition("\n")[0]
        click.echo(log.escape(f"{tool.name}({', '.join(tool.arguments)})" + (f" - {first}" if first else "")))
    if not tools:
        click.echo("没有工具（运行 mcp-endpoint check 可查明原因）/ no tools (mcp-endpoint check says why)", err=True)
        sys.exit(EXIT_FAILURE)


@command.command(
    help="调用工具 TOOL，参数为 JSON 对象，- 表示从标准输入读取；Ctrl-C 取消调用。\n\n"
    "Call TOOL with a JSON object of arguments; - reads it from standard input. Ctrl-C cancels the call."
)
@click.argument("tool")
@click.argument("arguments", metavar="[JSON]", default="{}")
@_endpoint
@_as_json
@click.pass_obj
def call(root: Path, tool: str, arguments: str, endpoint: str, as_json: bool) -> None:
    try:
        given = json.loads(sys.stdin.read() if arguments == "-" else arguments)
    except ValueError as error:
        raise click.UsageError(f"参数不是 JSON / the arguments are not JSON: {error}") from error
    if not isinstance(given, dict):
        raise click.UsageError('参数须为 JSON 对象 / the arguments must be a JSON object, such as {"city": "北京"}')

    async def ask() -> Result:
        async with _attached(root, endpoint) as attached:
            return await attached.call(tool, given)

    try:
        result = asyncio.run(ask())
    finally:
        if sys.stderr.isatty():
            click.echo("\r\x1b[K", err=True, nl=False)  # clear the progress line
    if as_json:
        _print_json(result.raw)
    else:
        click.echo("\n".join(map(log.escape, result.text.split("\n"))) if sys.stdout.isatty() else result.text)
    if result.failed:
        sys.exit(EXIT_FAILURE)


@command.command(help="把接入点的工具作为标准输入输出上的 MCP 服务器 / The endpoint's tools as an MCP server on stdin and stdout.")
@_endpoint
@click.pass_obj
def stdio(root: Path, endpoint: str) -> None:
    from . import stdio as room
    from .pipe import reporter

    with reporter() as report:
        room.run(room.Where(*_device_side(root, endpoint)), report)


@asynccontextmanager
async def _attached(root: Path, endpoint: str) -> AsyncIterator[Device]:
    """A device at an endpoint of any server, given its address, or of this installation's server."""
    from ..sockets.dial import NoLink
    from . import client as device

    address, certificate = _device_side(root, endpoint)
    try:
        async with device.attached(address, certificate, _show_progress) as attached:
            if attached.note:
                click.echo(f"{attached.note.zh}\n{attached.note.en}", err=True)
            yield attached
    except NoLink as error:
        raise EndpointError(f"{error.en}; mcp-endpoint check shows the cause", f"{error.zh}；运行 mcp-endpoint check 可查明原因") from error


def _device_side(root: Path, endpoint: str) -> tuple[str, str]:
    """The device address of an endpoint, and the certificate to trust: of a given address, or of this installation's server."""
    from . import check as looks

    address = endpoint.strip().strip("\"'")
    if "://" in address:
        return addresses.device_side(address), ""
    loaded = _rooted(load(root, os.environ), root)
    return looks.local_addresses(loaded.config, address).device, loaded.config.server.tls_cert


def _print_json(text: str) -> None:
    """Print JSON as received; on a terminal, control characters inside its strings are escaped, which does not change its meaning."""
    if sys.stdout.isatty():
        text = "".join(letter if letter in "\t\n\r" or log.escape(letter) == letter else json.dumps(letter)[1:-1] for letter in text)
    click.echo(text)


def _show_progress(seconds: float, text: str) -> None:
    """On a terminal a line that the call still runs; elsewhere only the tool's progress."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K… {seconds:.0f} s {log.escape(text)}", err=True, nl=bool(text))
    elif text:
        click.echo(f"… {seconds:.0f} s {log.escape(text)}", err=True)


@command.command(
    context_settings={"allow_interspersed_args": False},
    help="把标准输入输出上的 MCP 服务器接到接入点 / Bring an MCP server that speaks on stdin and stdout to an endpoint.",
)
@click.option("--endpoint", metavar="URL", help="工具端地址，默认取环境变量 MCP_ENDPOINT / Tool address; default: MCP_ENDPOINT.")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="运行 mcpServers 中的全部服务器 / Run all servers of an mcpServers block."
)
@click.option("--name", default="", help="此服务器的名称（server_id）/ The server's name (server_id).")
@click.option("--env", "named", multiple=True, metavar="NAME[=VALUE]", help="传给服务器的环境变量 / A variable the server gets.")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND [ARGS]...")
def pipe(endpoint: str | None, file: Path | None, name: str, named: tuple[str, ...], argv: tuple[str, ...]) -> None:
    from . import pipe as brings  # imported late: only this command needs it

    if bool(argv) == bool(file):
        raise click.UsageError("需要 -- COMMAND 或 --config FILE 之一 / give either -- COMMAND or --config FILE")
    if file and (name or named):
        raise click.UsageError("--name 与 --env 请写在文件中 / with --config, names and variables stand in the file")
    address = brings.endpoint_address(endpoint, os.environ)
    commands = brings.block_of_commands(file, os.environ) if file else brings.one_command(argv, name, named, os.environ)
    brings.run(brings.Options(address, commands))


@command.command(
    context_settings={"allow_interspersed_args": False},
    help="运行标准输入输出上的 MCP 服务器，每条消息写入 logs/ / Run an MCP server on stdin and stdout; each message goes into logs/.",
)
@click.option("--name", default="", help="写入 logs/mcp_NAME；默认取自命令 / Into logs/mcp_NAME; default: from the command.")
@click.option("--raw", is_flag=True, help="不隐藏密钥 / Take no secret out.")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND [ARGS]...")
@click.pass_obj
def record(root: Path, name: str, raw: bool, argv: tuple[str, ...]) -> None:
    from . import record as records  # imported late: only this command needs it

    messages = records.opened(root, load(root, os.environ).config, name or records.label_of(argv), raw=raw)
    sys.exit(records.run(argv, messages, lambda line: click.echo(line, err=True)))


def _token(key: str, endpoint: str) -> str:
    """The xiaozhi token of an endpoint. Raises UsageError for an invalid name."""
    try:
        return tokens.TokenCodec(key).make_xiaozhi(endpoint)
    except ValueError as error:
        raise click.UsageError(NAME_RULE) from error


def _overrides(settings: tuple[str, ...], named: Mapping[str, str | None]) -> dict[str, str]:
    """The settings of the command line by full name; named options take precedence."""
    found: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise click.UsageError(f"--set {setting}: 应为 名称=值 / expected NAME=VALUE")
        found[name.strip()] = value.strip()
    return found | {name: value for name, value in named.items() if value is not None}


def _with_key(root: Path) -> Loaded:
    """The configuration with a persistent key. Raises ConfigError where none can be stored."""
    prepared = prepare(root, tokens.make_key, os.environ)
    if prepared.key:
        raise ConfigError(
            "there is no key yet and none can be written here, so a token would not be valid: make this file writable",
            "尚无密钥且此处无法写入，制作的令牌无法使用：请让此文件可写",
            place=FILE,
        )
    return _rooted(load(root, os.environ), root)


def _rooted(loaded: Loaded, root: Path) -> Loaded:
    """The configuration with its relative paths below `root`, whatever the current folder."""
    server, logging = loaded.config.server, loaded.config.logging
    tls = {name: str(root / path) for name in ("tls_cert", "tls_key") if (path := getattr(server, name))}
    log_file = logging.log_file and str(root / logging.log_file)
    rooted = replace(loaded.config, server=replace(server, **tls), logging=replace(logging, log_file=log_file))
    return loaded._replace(config=rooted)


def _codec(root: Path) -> tokens.TokenCodec:
    settings = _with_key(root).config
    return tokens.TokenCodec(settings.server.key, agents=settings.security.agents)


def _value(loaded: Config, name: str) -> object:
    """The value of a setting by its full name."""
    if name.startswith("endpoint.tools."):
        return loaded.endpoint.tools[name.removeprefix("endpoint.tools.").removesuffix(".timeout")].timeout
    section, _, key = name.partition(".")
    if section in REPEATED:
        table, _, key = key.partition(".")
        tables: Any = getattr(loaded, section)
        return getattr(tables[table] if section == "credentials" else tables[int(table) - 1], key)
    return getattr(getattr(loaded, section), key)


def _shown(name: str, value: object) -> str:
    if name in ("server.key", "api.secret"):
        return '"***"' if value else '""'
    if name == "api.old_secrets":
        return json.dumps(["***"] * len(tuple(value))) if isinstance(value, tuple) else "[]"
    if name == "api.urls" and isinstance(value, tuple):
        value = [addresses.without_secrets(url) for url in value]
    if (name.startswith("gateway.") and name.endswith(".target")) or (name.startswith("dial.") and name.endswith(".url")):
        # The query may contain a key or token.
        value = re.sub(r"\?.*", "?***", str(value))
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=False)


def _read(path: Path) -> str:
    try:
        return files.read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError("there is no such file, so nothing to convert", "没有这个文件，无需转换", place=FILE) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read as UTF-8: {error}", f"无法按 UTF-8 读取：{error}", place=FILE) from error


def _beside(path: Path) -> Path:
    """A free name for the backup of the old file."""
    name = path.with_name(f"{path.name}.ini")
    number = 1
    while name.exists():
        number += 1
        name = path.with_name(f"{path.name}.ini.{number}")
    return name
