"""The configuration and where each of its values came from.

Authority: command line > environment `MES_SECTION_KEY` > `data/.mcp-endpoint-server.cfg` > the defaults below.
A mistake is one ConfigError with its place and both languages; no mistake ever turns into a default.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
import tomli

from ..access import tokens
from ..errors import ConfigError
from ..files import read_bytes, why_not
from . import ini
from .described import (
    CREDENTIALS,
    ENVIRONMENT,
    GATEWAY,
    REPEATED,
    SECTIONS,
    SETTINGS,
    TOOL,
    closest,
    environment_name,
    unknown_name,
)
from .places import Places, toml_places
from .schema import Config, CredentialSettings, GatewaySettings, ToolSettings
from .values import Found, clipped, read_value

FILE: Final = "data/.mcp-endpoint-server.cfg"
"""The live file, below the root folder; also its name in complaints and sources."""
EXAMPLE: Final = "mcp-endpoint-server.cfg"
"""The annotated example, below the root folder."""
PACKAGED: Final = Path(__file__).parents[1] / EXAMPLE
"""The annotated example of an installed package; a checkout has it in the root folder only."""
KEY_CHARS: Final = 32
"""Characters a key has at least; the original replaces shorter ones, so no token in use was made with one."""


class Loaded(NamedTuple):
    """A configuration with the origin of each value."""

    config: Config
    sources: Mapping[str, str]
    """`server.port` → `data/.mcp-endpoint-server.cfg:7`, `environment MES_SERVER_PORT`, `command line`, `memory` or `default`."""
    warnings: tuple[tuple[str, str], ...]
    """What an operator should know, each in English and Chinese."""
    path: Path
    """The live file, whether it exists or not."""


class Prepared(NamedTuple):
    """What the first start did."""

    key: str
    """A key made for this run only because it could not be written; give it to `load`. Else empty."""
    notes: tuple[tuple[str, str], ...]
    """What was created or changed on disk, each in English and Chinese."""
    warnings: tuple[tuple[str, str], ...]
    """What an operator should know, each in English and Chinese."""


_POOL: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY: Final = re.compile(r"[A-Za-z0-9._~!$'()*,;:@=?-]{1,512}")
_NOT_WRITTEN: Final = (
    f"{FILE} cannot be written: the key of this run is kept in memory and its tokens end with it;"
    " make data/ writable or set MES_SERVER_KEY",
    f"{FILE} 无法写入：本次运行的密钥只保存在内存中，重启后令牌全部失效；请让 data/ 可写，或设置环境变量 MES_SERVER_KEY",
)
_WAS_SHORT: Final = (
    f"the [server] key in {FILE} had fewer than {KEY_CHARS} characters and was replaced; make addresses again that were made with it",
    f"{FILE} 中的 [server] key 少于 {KEY_CHARS} 个字符，已更换；用它生成的接入点地址需要重新生成",
)
_ORIGIN: Final = re.compile(r"\*|null|file://|[a-z][a-z0-9+.-]*://[^/\s?#@]+")


def load(root: Path, environ: Mapping[str, str], overrides: Mapping[str, str] = {}, *, made_key: str = "") -> Loaded:
    """The configuration of the installation at `root`; reads, never writes.

    `overrides` are the command line's (`server.port` → `9000`). `made_key` is what `prepare` could not write.
    Raises ConfigError, with its place, for the first thing that is wrong in any of the sources, also where another source
    has the last word.
    """
    return load_text(read_file(root / FILE, FILE), FILE, environ, overrides, made_key, root / FILE)


def prepare(root: Path, environ: Mapping[str, str] = {}, overrides: Mapping[str, str] = {}) -> Prepared:
    """What the first start writes: the live file, copied from the annotated example, and a key, where nobody gave a usable one.

    Comments, order and every other value stay as they are. A usable key is never replaced, and nothing is written while
    anything in the configuration is wrong: that raises ConfigError as `load` does. Where the file cannot be written, the
    key lives in memory only.
    """
    path = root / FILE
    live = read_file(path, FILE)
    example = read_file(root / EXAMPLE, EXAMPLE) or read_file(PACKAGED, EXAMPLE) if live is None else None
    text = live or example or ""
    file = EXAMPLE if live is None else FILE
    key = tokens.make_key()
    loaded = load_text(text, file, environ, overrides, key, path)
    key_needed = loaded.sources["server.key"] == "memory"
    if live is not None and not key_needed:
        return Prepared("", (), ())
    keyed = _with_key(text, key) if key_needed else text
    try:
        # What was written must say what was meant; a file too unusual to be changed is left alone.
        if load_text(keyed, file, environ, overrides, "", path).config != loaded.config:
            raise OSError("unusual file")
        write(path, keyed)
    except (OSError, ConfigError):
        return Prepared(key, (), (_NOT_WRITTEN,)) if key_needed else Prepared("", (), ())
    created = ((f"created {FILE}", f"已创建 {FILE}"),) if live is None else ()
    made = ((f"made a new [server] key in {FILE}", f"已在 {FILE} 中生成新的 [server] key"),) if key_needed else ()
    short = (_WAS_SHORT,) if key_needed and live is not None and _file_key(live) else ()
    return Prepared("", created + made, short)


def write(path: Path, text: str) -> None:
    """Put `text` in the place of a file at once or not at all, readable by the owner only. Raises OSError."""
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f"{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError:
        os.unlink(beside)
        raise


def load_text(text: str | None, file: str, environ: Mapping[str, str], overrides: Mapping[str, str], made_key: str, path: Path) -> Loaded:
    warnings: list[tuple[str, str]] = []
    values: dict[str, object] = {}
    winners: dict[str, Found] = {}
    for found in (*in_file(text or "", file, warnings), *in_environment(environ, warnings), *on_command_line(overrides)):
        values[found.name] = read_value(found)
        winners[found.name] = found
    _settle_key(values, winners, made_key, file)
    _check_together(values, winners, warnings)
    parts: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    tools: dict[str, ToolSettings] = {}
    repeated: dict[str, dict[str, dict[str, Any]]] = {"credentials": {}, "gateway": {}}
    for name, value in values.items():
        if name.startswith(TOOL):
            tools[name.removeprefix(TOOL).removesuffix(".timeout")] = ToolSettings(timeout=cast(float, value))
        elif name.startswith((CREDENTIALS, GATEWAY)):
            section, table, key = name.split(".")
            repeated[section].setdefault(table, {})[key] = value
        else:
            parts[SETTINGS[name].section][SETTINGS[name].key] = value
    parts["endpoint"]["tools"] = tools
    sections: dict[str, Any] = {section: struct(**parts[section]) for section, struct in SECTIONS.items()}
    sources = {name: winners[name].source if name in winners else "default" for name in (*SETTINGS, *values)}
    credentials = {name: CredentialSettings(**given) for name, given in repeated["credentials"].items()}
    gateways = tuple(_gateway(number, given, winners, credentials) for number, given in repeated["gateway"].items())
    _check_gateways(gateways, winners)
    return Loaded(Config(**sections, credentials=credentials, gateway=gateways), sources, tuple(warnings), path)


def _gateway(
    number: str, given: dict[str, Any], winners: Mapping[str, Found], credentials: Mapping[str, CredentialSettings]
) -> GatewaySettings:
    """One `[[gateway]]`, which needs a name, a target, and a pool that exists."""
    found = next(winner for name, winner in winners.items() if name.startswith(f"{GATEWAY}{number}."))
    for key in ("name", "target"):
        if key not in given:
            raise ConfigError(f"this [[gateway]] has no {key}", f"这个 [[gateway]] 缺少 {key}", place=found.place)
    pool = given.get("credentials")
    if pool and pool not in credentials:
        guess = closest(pool, list(credentials))
        raise ConfigError(
            f"there is no [credentials.{pool}]" + (f'; did you mean "{guess}"?' if guess else ""),
            f"没有 [credentials.{pool}] 这一节" + (f'；是否想写 "{guess}"？' if guess else ""),
            place=winners[f"{GATEWAY}{number}.credentials"].place,
        )
    return GatewaySettings(**given)


def _check_gateways(gateways: tuple[GatewaySettings, ...], winners: Mapping[str, Found]) -> None:
    names: set[str] = set()
    for number, gateway in enumerate(gateways, 1):
        if gateway.name in names:
            place = winners[f"{GATEWAY}{number}.name"].place
            raise ConfigError(f'there are two gateways named "{gateway.name}"', f"有两个名为 {gateway.name} 的网关", place=place)
        names.add(gateway.name)


def convert(text: str, file: str = FILE) -> str:
    """An old INI file as TOML that loads to the same values, with its comments and in its order.

    Raises ConfigError if `text` is TOML already or if anything in it is wrong.
    """
    if not ini.recognised(text):
        raise ConfigError("this file is TOML already; there is nothing to convert", "这个文件已经是 TOML 格式，无需转换", place=file)
    return ini.convert(text, file, lambda line: _literal(line, file))


def _literal(line: ini.Line, file: str) -> str | None:
    """The TOML spelling of a line of an old file; None where this program knows no such name."""
    if line.kind == "section":
        return line.section if line.section in SECTIONS else None
    setting = SETTINGS.get(f"{line.section}.{line.key}")
    if setting is None:
        return None
    place = f"{file}:{line.number}:{line.value_column}"
    value = read_value(Found(setting.name, line.value, True, "", place))
    if setting.kind in ("text", "choice", "list", "size"):
        return _quoted(line.value)
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).lower()


def _quoted(text: str) -> str:
    """A TOML basic string: a JSON string, but DEL must be escaped too."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def _with_key(text: str, key: str) -> str:
    """`text` with `key` as its `[server] key`; all else, to the byte, as it was."""
    lines = text.split("\n")
    ending = "\r" if lines[0].endswith("\r") else ""
    if ini.recognised(text):
        parsed = [line for line in ini.read(text, FILE) if line.section == "server" and line.kind != "blank"]
        given = next(((line.number, line.value_column, line.value) for line in parsed if line.key == "key"), None)
        header = next((line.number for line in parsed if line.kind == "section"), None)
        spelling = key
    else:
        places = toml_places(text)
        place = places.get(("server", "key"))
        given = (place.value_line, place.value_column, place.value) if place else None
        header = places[("server",)].line if ("server",) in places else None
        spelling = f'"{key}"'
    if given:
        number, column, old = given
        line, start = lines[number - 1], column - 1
        gap = "" if old else " "
        lines[number - 1] = line[:start] + gap + spelling + gap + line[start + len(old) :]
    elif header:
        lines.insert(header, f"key = {spelling}{ending}")
    else:
        lines[len(lines) - (lines[-1] == "") :] = [f"[server]{ending}", f"key = {spelling}{ending}", ""]
    return "\n".join(lines)


def _file_key(text: str) -> str:
    """The key a file gives, usable or not."""
    return "".join(str(found.raw) for found in in_file(text, FILE, []) if found.name == "server.key")


def in_file(text: str, file: str, warnings: list[tuple[str, str]]) -> Iterator[Found]:
    """What a file says, in whichever of its two forms."""
    return _in_ini(text, file, warnings) if ini.recognised(text) else _in_toml(text, file)


def in_environment(environ: Mapping[str, str], warnings: list[tuple[str, str]]) -> Iterator[Found]:
    """What the environment says; names that are no settings become warnings, as they may belong to somebody else."""
    by_variable = {environment_name(setting): setting.name for setting in SETTINGS.values()}
    for variable, raw in sorted(environ.items()):
        if variable in by_variable and raw:
            source = f"environment {variable}"
            yield Found(by_variable[variable], raw, True, source, source)
        elif variable.startswith(ENVIRONMENT) and raw:
            guess = closest(variable, by_variable)
            warnings.append(
                (
                    f"environment variable {variable} is not a setting and is ignored" + (f"; did you mean {guess}?" if guess else ""),
                    f"环境变量 {variable} 不是设置项，已忽略" + (f"；是否想写 {guess}？" if guess else ""),
                )
            )


def on_command_line(overrides: Mapping[str, str]) -> Iterator[Found]:
    """What the command line says."""
    for name, raw in overrides.items():
        if name not in SETTINGS:
            raise unknown_name("command line", *name.rpartition(".")[::2])
        yield Found(name, raw, True, "command line", "command line")


def read_file(path: Path, file: str) -> str | None:
    """The file's text without a byte order mark; None if there is no file."""
    try:
        raw = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        en, zh = why_not(error)
        raise ConfigError(f"cannot be read: {en}", f"无法读取：{zh}", place=file) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ConfigError(
            "this is not UTF-8; save the file as UTF-8", "这里不是 UTF-8 编码，请将文件另存为 UTF-8", place=f"{file}:{line}:{column}"
        ) from error


def _in_ini(text: str, file: str, warnings: list[tuple[str, str]]) -> Iterator[Found]:
    """What an old INI file says; names it does not know become warnings."""
    warnings.append(
        (
            f"{file} is in the old INI form; it works, and `mcp-endpoint config convert` rewrites it as TOML",
            f"{file} 是旧的 INI 格式，仍可使用；运行 `mcp-endpoint config convert` 可改写为 TOML",
        )
    )
    for line in ini.read(text, file):
        name = f"{line.section}.{line.key}"
        if line.kind != "pair":
            continue
        if name in SETTINGS:
            yield Found(name, line.value, True, f"{file}:{line.number}", f"{file}:{line.number}:{line.value_column}")
        else:
            error = unknown_name(f"{file}:{line.number}:{line.column}", line.section, line.key)
            warnings.append((f"{error.place}: {error.en} (ignored)", f"{error.place}: {error.zh}（已忽略）"))


def _in_toml(text: str, file: str) -> Iterator[Found]:
    """What a TOML file says."""
    try:
        data = tomli.loads(text)
    except (ValueError, RecursionError) as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        reason = getattr(error, "msg", "") or "numbers or nesting out of bounds"
        raise ConfigError(
            f"not valid TOML: {reason}; text values need quotes",
            f"TOML 语法错误：{reason}；文字类的值要加引号",
            place=f"{file}:{line}:{column}",
        ) from error
    places = toml_places(text)

    def found(name: str, raw: object, *path: str) -> Found:
        place = places.nearest(path)
        return Found(name, raw, False, f"{file}:{place.value_line}", f"{file}:{place.value_line}:{place.value_column}")

    for section, table in data.items():
        at = places.nearest((section,))
        here = f"{file}:{at.line}:{at.column}"
        if section in REPEATED:
            yield from _repeated(section, table, file, found, places)
            continue
        if section not in SECTIONS:
            raise unknown_name(here, "", section)
        if not isinstance(table, dict):
            raise ConfigError(
                f"{section} is a section: write [{section}] on its own line", f"{section} 是一个节，请单独一行写 [{section}]", place=here
            )
        for key, raw in table.items():
            if (section, key) == ("endpoint", "tools"):
                yield from _tools(raw, file, found, places)
            elif f"{section}.{key}" in SETTINGS:
                yield found(f"{section}.{key}", raw, section, key)
            else:
                at = places.nearest((section, key))
                raise unknown_name(f"{file}:{at.line}:{at.column}", section, key)


def _repeated(section: str, raw: object, file: str, found: Callable[..., Found], places: Places) -> Iterator[Found]:
    """What `[credentials.NAME]` or `[[gateway]]` says; gateways are numbered from 1."""
    array = section == "gateway"
    tables: dict[str, object] = {}
    if array and isinstance(raw, list):
        tables = {str(number): table for number, table in enumerate(raw, 1)}
    elif not array and isinstance(raw, dict):
        tables = dict(raw)
    right = "[[gateway]]" if array else "[credentials.NAME]"
    for name, table in tables.items() or {"": raw}.items():
        at = places.nearest((section, name))
        place = f"{file}:{at.line}:{at.column}"
        if not isinstance(table, dict) or not _POOL.fullmatch(name):
            raise ConfigError(
                f"write {right} on its own line and its keys below" + ("" if array else "; NAME is letters, digits, _ and -"),
                f"请单独一行写 {right}，下面写各设置项" + ("" if array else "；NAME 由字母、数字、_ 和 - 组成"),
                place=place,
            )
        if not table:
            raise ConfigError(f"this {right} is empty", f"这个 {right} 是空的", place=place)
        for key, value in table.items():
            if key not in REPEATED[section]:
                at = places.nearest((section, name, key))
                raise unknown_name(f"{file}:{at.line}:{at.column}", section, key)
            yield found(f"{section}.{name}.{key}", value, section, name, key)


def _tools(raw: object, file: str, found: Callable[..., Found], places: Places) -> Iterator[Found]:
    """What `[endpoint.tools."NAME"]` says."""
    for tool, table in raw.items() if isinstance(raw, dict) else [("", None)]:
        if not isinstance(table, dict):
            at = places.nearest(("endpoint", "tools", tool))
            raise ConfigError(
                'write [endpoint.tools."NAME"] and below it timeout = 60',
                '请写 [endpoint.tools."工具名"]，下面一行写 timeout = 60',
                place=f"{file}:{at.line}:{at.column}",
            )
        for key, value in table.items():
            if key != "timeout":
                at = places.nearest(("endpoint", "tools", tool, key))
                raise unknown_name(f"{file}:{at.line}:{at.column}", "endpoint.tools", key)
            yield found(f"{TOOL}{tool}.timeout", value, "endpoint", "tools", tool, key)


def _settle_key(values: dict[str, object], winners: dict[str, Found], made_key: str, file: str) -> None:
    """Put `made_key` where no usable key was given; refuse a key that manager-api cannot carry in an address."""
    key = str(values.get("server.key", ""))
    if len(key) < KEY_CHARS and made_key and ("server.key" not in winners or winners["server.key"].source.startswith(f"{file}:")):
        values["server.key"] = made_key
        winners["server.key"] = Found("server.key", made_key, True, "memory", "")
    elif key and len(key) < KEY_CHARS:
        raise ConfigError(
            f"server.key has fewer than {KEY_CHARS} characters; remove it from the file and the next start makes a good one",
            f"server.key 少于 {KEY_CHARS} 个字符；请从文件中删除它，下次启动会自动生成",
            place=winners["server.key"].place,
        )
    elif key and not _KEY.fullmatch(key):
        raise ConfigError(
            "server.key holds a character that breaks the addresses made with it, such as / + & % # or a blank;"
            " use letters and digits. Tokens made with the old key have to be made again",
            "server.key 中有会破坏接入点地址的字符，例如 / + & % # 或空格；请只用字母和数字。用旧密钥生成的令牌需要重新生成",
            place=winners["server.key"].place,
        )


def _check_together(values: dict[str, object], winners: dict[str, Found], warnings: list[tuple[str, str]]) -> None:
    """What only shows when values are seen together, and what works but will surprise."""
    cert, key = bool(values.get("server.tls_cert")), bool(values.get("server.tls_key"))
    if cert != key:
        raise ConfigError(
            "server.tls_cert and server.tls_key go together: give both or neither",
            "server.tls_cert 与 server.tls_key 必须同时设置或同时留空",
            place=winners["server.tls_cert" if cert else "server.tls_key"].place,
        )
    url = str(values.get("server.public_url", "")).lower()
    if "key" in url or "call" in url:
        warnings.append(
            (
                'server.public_url contains "key" or "call": a xiaozhi-server in single-module mode refuses such addresses',
                "server.public_url 中含有 key 或 call：单模块部署的 xiaozhi-server 会拒绝这样的地址",
            )
        )
    warnings.extend(
        (
            f"security.allowed_origins: {clipped(origin)} matches no browser; write it as https://host or https://host:port",
            f"security.allowed_origins：{clipped(origin)} 不会匹配任何浏览器；请写成 https://主机 或 https://主机:端口",
        )
        for origin in cast("tuple[str, ...]", values.get("security.allowed_origins", ()))
        if not _ORIGIN.fullmatch(origin)
    )
