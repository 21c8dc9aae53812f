"""Reads the values of each source of settings: the file in either format, the environment, the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import tomli

from ..errors import ConfigError
from ..files import read_bytes, why_not
from . import ini
from .described import ENVIRONMENT, RENAMED, REPEATED, SECTIONS, SETTINGS, TOOL, closest, environment_name, unknown_name
from .places import Places, toml_places
from .values import Found

FILE: Final = "data/.mcp-endpoint-server.cfg"
"""The configuration file, relative to the root folder; also its name in messages and sources."""
_POOL: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def in_file(text: str, file: str, warnings: list[tuple[str, str]]) -> Iterator[Found]:
    """What a file says, in whichever of its two forms."""
    return _renamed(_in_ini(text, file, warnings) if ini.recognised(text) else _in_toml(text, file), warnings)


def in_environment(environ: Mapping[str, str], warnings: list[tuple[str, str]]) -> Iterator[Found]:
    """The values of MES_* variables; an unknown name is a warning, because it may belong to another program."""
    return _renamed(_in_environment(environ, warnings), warnings)


def _in_environment(environ: Mapping[str, str], warnings: list[tuple[str, str]]) -> Iterator[Found]:
    by_variable = {environment_name(setting): setting.name for setting in SETTINGS.values()}
    by_variable |= {f"{ENVIRONMENT}{old.replace('.', '_')}".upper(): old for old in RENAMED}
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


def on_command_line(overrides: Mapping[str, str], warnings: list[tuple[str, str]]) -> Iterator[Found]:
    """The values of the command line."""
    return _renamed(_on_command_line(overrides), warnings)


def _on_command_line(overrides: Mapping[str, str]) -> Iterator[Found]:
    for name, raw in overrides.items():
        if name not in SETTINGS and name not in RENAMED:
            raise unknown_name("command line", *name.rpartition(".")[::2])
        yield Found(name, raw, True, "command line", "command line")


def _renamed(source: Iterator[Found], warnings: list[tuple[str, str]]) -> Iterator[Found]:
    """The values of one source under the present names. Raises ConfigError if it has an old name and the present one."""
    given: set[str] = set()
    for found in source:
        old, name = found.name, RENAMED.get(found.name, found.name)
        if name in given:
            raise ConfigError(
                f"{name} is given twice, once under an old name; keep {name} only",
                f"{name} 以新旧两个名称重复给出；请只保留 {name}",
                place=found.place,
            )
        given.add(name)
        if name != old:
            warnings.append(
                (
                    f"{old} is now called {name}; the old name works until the next release",
                    f"{old} 已改名为 {name}；旧名称在下一版本前仍可使用",
                )
            )
        yield found._replace(name=name)


def read_file(path: Path, file: str) -> str | None:
    """The text of a file without byte order mark; None if it does not exist."""
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
    """The values of an INI file; unknown names are warnings."""
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
        if name in SETTINGS or name in RENAMED:
            yield Found(name, line.value, True, f"{file}:{line.number}", f"{file}:{line.number}:{line.value_column}")
        else:
            error = unknown_name(f"{file}:{line.number}:{line.column}", line.section, line.key)
            warnings.append((f"{error.place}: {error.en} (ignored)", f"{error.place}: {error.zh}（已忽略）"))


def _in_toml(text: str, file: str) -> Iterator[Found]:
    """The values of a TOML file."""
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
            elif f"{section}.{key}" in SETTINGS or f"{section}.{key}" in RENAMED:
                yield found(f"{section}.{key}", raw, section, key)
            else:
                at = places.nearest((section, key))
                raise unknown_name(f"{file}:{at.line}:{at.column}", section, key)


def _repeated(section: str, raw: object, file: str, found: Callable[..., Found], places: Places) -> Iterator[Found]:
    """The values of `[credentials.NAME]`, `[[gateway]]` or `[[dial]]`; tables of an array are numbered from 1."""
    array = section != "credentials"
    tables: dict[str, object] = {}
    if array and isinstance(raw, list):
        tables = {str(number): table for number, table in enumerate(raw, 1)}
    elif not array and isinstance(raw, dict):
        tables = dict(raw)
    right = f"[[{section}]]" if array else "[credentials.NAME]"
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
    """The values of `[endpoint.tools."NAME"]`."""
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
