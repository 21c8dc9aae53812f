"""Loads the configuration and the source of each value.

Precedence: command line > environment `MES_SECTION_KEY` > `data/.mcp-endpoint-server.cfg` > the defaults of `schema`.
An error is one ConfigError with its place and both languages; no invalid value is replaced by a default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from ..errors import ConfigError
from .described import GATEWAY, IN_REPEATED, REPEATED, SECTIONS, SETTINGS, TOOL, closest
from .schema import Config, CredentialSettings, DialSettings, GatewaySettings, Server, ToolSettings
from .sources import FILE, in_environment, in_file, on_command_line, read_file
from .values import Found, clipped, read_value

KEY_CHARS: Final = 32
"""Fewest characters of a key; the original replaces shorter ones, so no token in use was made with one."""

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
"""Hosts that nobody reaches from another machine."""


class Loaded(NamedTuple):
    """A configuration with the source of each value."""

    config: Config
    sources: Mapping[str, str]
    """`server.port` → `data/.mcp-endpoint-server.cfg:7`, `environment MES_SERVER_PORT`, `command line`, `memory` or `default`."""
    warnings: tuple[tuple[str, str], ...]
    """Warnings for the operator, in English and Chinese."""
    path: Path
    """The configuration file, whether it exists or not."""


_KEY: Final = re.compile(r"[A-Za-z0-9._~!$'()*,;:@=?-]{1,512}")
_ORIGIN: Final = re.compile(r"\*|null|file://|[a-z][a-z0-9+.-]*://[^/\s?#@]+")


def load(root: Path, environ: Mapping[str, str], overrides: Mapping[str, str] = {}, *, made_key: str = "") -> Loaded:
    """Load the configuration of the installation at `root`, without writing.

    `overrides` are those of the command line (`server.port` → `9000`). `made_key` is a key that `prepare` could not write.
    Raises ConfigError, with its place, for the first error in any source, even if another source overrides the value.
    """
    return load_text(read_file(root / FILE, FILE), FILE, environ, overrides, made_key, root / FILE)


def load_text(text: str | None, file: str, environ: Mapping[str, str], overrides: Mapping[str, str], made_key: str, path: Path) -> Loaded:
    """Load a configuration from the text of the file at `path`, which is called `file` in error messages."""
    warnings: list[tuple[str, str]] = []
    values: dict[str, object] = {}
    winners: dict[str, Found] = {}
    for found in (*in_file(text or "", file, warnings), *in_environment(environ, warnings), *on_command_line(overrides, warnings)):
        values[found.name] = read_value(found)
        winners[found.name] = found
    _settle_key(values, winners, made_key, file)
    _check_together(values, winners, warnings)
    parts: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    tools: dict[str, ToolSettings] = {}
    repeated: dict[str, dict[str, dict[str, Any]]] = {section: {} for section in REPEATED}
    for name, value in values.items():
        if name.startswith(TOOL):
            tools[name.removeprefix(TOOL).removesuffix(".timeout")] = ToolSettings(timeout=cast(float, value))
        elif name.startswith(IN_REPEATED):
            section, table, key = name.split(".")
            repeated[section].setdefault(table, {})[key] = value
        else:
            parts[SETTINGS[name].section][SETTINGS[name].key] = value
    parts["endpoint"]["tools"] = tools
    sections: dict[str, Any] = {section: struct(**parts[section]) for section, struct in SECTIONS.items()}
    sources = {name: winners[name].source if name in winners else "default" for name in (*SETTINGS, *values)}
    credentials = {name: CredentialSettings(**given) for name, given in repeated["credentials"].items()}
    gateways = tuple(_gateway(number, given, winners, credentials) for number, given in repeated["gateway"].items())
    _check_names("gateway", gateways, ("gateways", "网关"), winners)
    for number, given in repeated["dial"].items():
        _check_given("dial", number, given, ("name", "url"), winners)
    dials = tuple(DialSettings(**given) for given in repeated["dial"].values())
    _check_names("dial", dials, ("[[dial]]", "[[dial]]"), winners)
    return Loaded(Config(**sections, credentials=credentials, gateway=gateways, dial=dials), sources, tuple(warnings), path)


def _gateway(
    number: str, given: dict[str, Any], winners: Mapping[str, Found], credentials: Mapping[str, CredentialSettings]
) -> GatewaySettings:
    """One `[[gateway]]`: it needs a name, a target, and an existing pool."""
    _check_given("gateway", number, given, ("name", "target"), winners)
    pool = given.get("credentials")
    if pool and pool not in credentials:
        guess = closest(pool, list(credentials))
        raise ConfigError(
            f"there is no [credentials.{pool}]" + (f'; did you mean "{guess}"?' if guess else ""),
            f"没有 [credentials.{pool}] 这一节" + (f'；是否想写 "{guess}"？' if guess else ""),
            place=winners[f"{GATEWAY}{number}.credentials"].place,
        )
    return GatewaySettings(**given)


def _check_given(section: str, number: str, given: Mapping[str, Any], keys: Sequence[str], winners: Mapping[str, Found]) -> None:
    """Check that a table of an array has its required keys. Raises ConfigError."""
    found = next(winner for name, winner in winners.items() if name.startswith(f"{section}.{number}."))
    for key in keys:
        if key not in given:
            raise ConfigError(f"this [[{section}]] has no {key}", f"这个 [[{section}]] 缺少 {key}", place=found.place)


def _check_names(
    section: str, tables: Sequence[GatewaySettings | DialSettings], nouns: tuple[str, str], winners: Mapping[str, Found]
) -> None:
    """Check that the tables of an array have different names; `nouns` name them in the message. Raises ConfigError."""
    names: set[str] = set()
    for number, table in enumerate(tables, 1):
        if table.name in names:
            place = winners[f"{section}.{number}.name"].place
            raise ConfigError(f'there are two {nouns[0]} named "{table.name}"', f"有两个名为 {table.name} 的{nouns[1]}", place=place)
        names.add(table.name)


def _settle_key(values: dict[str, object], winners: dict[str, Found], made_key: str, file: str) -> None:
    """Use `made_key` if no usable key was given; reject a key that cannot be part of an address."""
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
    """Check combinations of values; warn about values that are valid but will surprise."""
    cert, key = bool(values.get("server.tls_cert")), bool(values.get("server.tls_key"))
    if cert != key:
        raise ConfigError(
            "server.tls_cert and server.tls_key go together: give both or neither",
            "server.tls_cert 与 server.tls_key 必须同时设置或同时留空",
            place=winners["server.tls_cert" if cert else "server.tls_key"].place,
        )
    host = str(values.get("server.host", Server().host))
    if values.get("recorder.on") and values.get("recorder.raw") and host not in LOOPBACK:
        raise ConfigError(
            "recorder.raw keeps secrets in the records: it is for a server that listens on 127.0.0.1 only",
            "recorder.raw 会把密钥写入记录，仅限只监听 127.0.0.1 的服务器",
            place=winners["recorder.raw"].place,
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
