"""Reads the `mcpServers` block that Claude Desktop, Cursor, mcp_pipe and others share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ..errors import ConfigError
from .child import Command, environment

STDIO: Final = frozenset(("", "stdio"))
_VARIABLE: Final = re.compile(r"\$\{(?:env:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<otherwise>[^}]*))?\}")

Word = str | int | float


class _Entry(msgspec.Struct):
    """One server as people write it; what else stands there is somebody else's business."""

    command: str | None = None
    args: list[Word] = []
    env: dict[str, Word] | None = None
    cwd: str | None = None
    url: str | None = None
    type: str | None = None
    transport: str | None = None
    transport_type: str | None = msgspec.field(default=None, name="transportType")
    disabled: bool = False
    enabled: bool = True


class _Block(msgspec.Struct):
    servers: dict[str, msgspec.Raw] = msgspec.field(name="mcpServers")


class Found(NamedTuple):
    """What a file holds: the commands to run by name, and what was left out, said in (English, Chinese)."""

    commands: dict[str, Command]
    left_out: tuple[tuple[str, str], ...]


def read(file: Path, environ: Mapping[str, str]) -> Found:
    """The servers of `file` that run as a process of their own.

    `${VAR}`, `${env:VAR}` and `${VAR:-otherwise}` stand for variables of `environ` in `command`, `args`, `env` and `cwd`; a relative `cwd`
    starts at the file's folder. Raises ConfigError for a file that cannot be read or understood.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", f"无法读取：{error}", place=str(file)) from error
    try:
        block = msgspec.json.decode(text, type=_Block)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f'is not a JSON object with an "mcpServers" block: {error}',
            f'不是带 "mcpServers" 的 JSON 对象：{error}',
            place=_place(file, text, error),
        ) from error
    commands: dict[str, Command] = {}
    left_out: list[tuple[str, str]] = []
    for name, raw in block.servers.items():
        place = f"{file}: mcpServers.{name}"
        try:
            entry = msgspec.json.decode(raw, type=_Entry)
        except msgspec.ValidationError as error:
            raise ConfigError(f"cannot be used: {error}", f"无法使用：{error}", place=place) from error
        kind = (entry.type or entry.transport or entry.transport_type or "").lower()
        if entry.disabled or not entry.enabled:
            left_out.append((f"{name}: disabled", f"{name}：已停用"))
        elif entry.url is not None or kind not in STDIO:
            left_out.append(
                (
                    f"{name}: servers reached by URL are not supported yet, only those with a command; left out",
                    f"{name}：暂不支持以 URL 访问的服务器，只支持带 command 的，已跳过",
                )
            )
        elif not entry.command:
            raise ConfigError('has no "command"', '缺少 "command"', place=place)
        else:
            commands[name] = _command(entry, entry.command, file, environ, place)
    return Found(commands, tuple(left_out))


def _command(entry: _Entry, program: str, file: Path, environ: Mapping[str, str], place: str) -> Command:
    def filled(text: Word) -> str:
        return _VARIABLE.sub(value, str(text))

    def value(variable: re.Match[str]) -> str:
        name, otherwise = variable["name"], variable["otherwise"]
        if otherwise is not None:
            return environ.get(name) or otherwise
        if name not in environ:
            raise ConfigError(f"needs the environment variable {name}, which is not set", f"需要环境变量 {name}，但它没有设置", place=place)
        return environ[name]

    named = {key: filled(text) for key, text in (entry.env or {}).items()}
    return Command(
        program=filled(program),
        args=tuple(filled(word) for word in entry.args),
        env=environment(environ, named),
        cwd=None if entry.cwd is None else str(file.parent / filled(entry.cwd)),
    )


def _place(file: Path, text: str, error: msgspec.DecodeError) -> str:
    """`file:line:column`, from the byte that msgspec names in its message; the file alone where it names none."""
    named = re.search(r"\(byte (\d+)\)", str(error))
    if named is None:
        return str(file)
    before = text.encode()[: int(named[1])].decode("utf-8", "replace")
    return f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
