"""Writes the configuration file: creates it with a key at the first start, and converts an old INI file to TOML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from .. import files
from ..errors import ConfigError
from . import ini
from .described import RENAMED, SECTIONS, SETTINGS
from .load import KEY_CHARS, load_text
from .places import toml_places
from .sources import FILE, in_file, read_file
from .values import Found, read_value

EXAMPLE: Final = "mcp-endpoint-server.cfg"
"""The annotated example, relative to the root folder."""
PACKAGED: Final = Path(__file__).parents[1] / EXAMPLE
"""The annotated example in an installed package."""
CHECKOUT: Final = Path(__file__).parents[3] / EXAMPLE
"""The example of a checkout, for a package that is installed from it as editable."""


class Prepared(NamedTuple):
    """The result of the first start."""

    key: str
    """A key for this run only, because it could not be written; pass it to `load`. Otherwise empty."""
    notes: tuple[tuple[str, str], ...]
    """Created or changed files, in English and Chinese."""
    warnings: tuple[tuple[str, str], ...]
    """Warnings for the operator, in English and Chinese."""


_NOT_WRITTEN: Final = (
    f"{FILE} cannot be written: the key of this run is kept in memory and its tokens end with it;"
    " make data/ writable or set MES_SERVER_KEY",
    f"{FILE} 无法写入：本次运行的密钥只保存在内存中，重启后令牌全部失效；请让 data/ 可写，或设置环境变量 MES_SERVER_KEY",
)
_WAS_SHORT: Final = (
    f"the [server] key in {FILE} had fewer than {KEY_CHARS} characters and was replaced; make addresses again that were made with it",
    f"{FILE} 中的 [server] key 少于 {KEY_CHARS} 个字符，已更换；用它生成的接入点地址需要重新生成",
)


def prepare(root: Path, make_key: Callable[[], str], environ: Mapping[str, str] = {}, overrides: Mapping[str, str] = {}) -> Prepared:
    """Create the configuration file from the annotated example, and add a key if there is no usable one.

    Comments, order and all other values are kept. A usable key is never replaced, and nothing is written if the configuration has an
    error: that raises ConfigError as `load` does. If the file cannot be written, the key is only returned. `make_key` makes a key whose
    tokens every client accepts.
    """
    path = root / FILE
    live = read_file(path, FILE)
    places = (root / EXAMPLE, PACKAGED, CHECKOUT) if live is None else ()
    example = next(filter(None, (read_file(place, EXAMPLE) for place in places)), None)
    text = live or example or ""
    file = EXAMPLE if live is None else FILE
    key = make_key()
    loaded = load_text(text, file, environ, overrides, key, path)
    key_needed = loaded.sources["server.key"] == "memory"
    if live is not None and not key_needed:
        return Prepared("", (), ())
    keyed = _with_key(text, key) if key_needed else text
    try:
        # The written text must load to the same values; otherwise the file is left unchanged.
        if load_text(keyed, file, environ, overrides, "", path).config != loaded.config:
            raise OSError("unusual file")
        files.write(path, keyed)
    except (OSError, ConfigError):
        return Prepared(key, (), (_NOT_WRITTEN,)) if key_needed else Prepared("", (), ())
    created = ((f"created {FILE}", f"已创建 {FILE}"),) if live is None else ()
    made = ((f"made a new [server] key in {FILE}", f"已在 {FILE} 中生成新的 [server] key"),) if key_needed else ()
    short = (_WAS_SHORT,) if key_needed and live is not None and _file_key(live) else ()
    return Prepared("", created + made, short)


def convert(text: str, file: str = FILE) -> str:
    """Convert an old INI file to TOML with the same values, comments and order.

    Raises ConfigError if `text` is already TOML or contains an error.
    """
    if not ini.recognised(text):
        raise ConfigError("this file is TOML already; there is nothing to convert", "这个文件已经是 TOML 格式，无需转换", place=file)
    return ini.convert(text, file, lambda line: _literal(line, file))


def _literal(line: ini.IniLine, file: str) -> str | None:
    """The TOML value (or section name) of a line of an INI file; None for an unknown name."""
    if line.kind == "section":
        return line.section if line.section in SECTIONS else None
    name = f"{line.section}.{line.key}"
    setting = SETTINGS.get(RENAMED.get(name, name))
    if setting is None:
        return None
    place = f"{file}:{line.number}:{line.value_column}"
    value = read_value(Found(setting.name, line.value, True, "", place))
    if setting.kind in ("text", "choice", "list", "size"):
        return _quoted(line.value)
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).lower()


def _quoted(text: str) -> str:
    """A TOML basic string: a JSON string with DEL escaped."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def _with_key(text: str, key: str) -> str:
    """`text` with `key` as its `[server] key`; everything else is unchanged."""
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
    """The key in a file, usable or not."""
    return "".join(str(found.raw) for found in in_file(text, FILE, []) if found.name == "server.key")
