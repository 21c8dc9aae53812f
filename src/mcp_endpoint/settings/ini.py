"""Reads the INI configuration file of older installations line by line, and converts it to TOML.

The original server used an INI file with unquoted values, and its documentation shows comments after values, which its own parser did not
support. Therefore this parser is used instead of `configparser`:

    [section]            # or ;
    key = value          # or ; a comment begins with # or ; after a blank, also at the very start of a value
    key: value

Section and key names are compared in lower case. Errors are: a key twice, a section twice, a key before the first section, and any other
line, as in the original's parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

import tomli

from ..errors import ConfigError

_SECTION: Final = re.compile(r"(?P<indent>\s*)\[(?P<name>[^\]]*)\](?P<gap>\s*)(?P<comment>[#;].*)?")
_PAIR: Final = re.compile(r"(?P<indent>\s*)(?P<key>[^=:#;\[\s][^=:]*?)(?P<sign>\s*[=:]\s*)(?P<rest>.*)", re.DOTALL)
_INLINE: Final = re.compile(r"(?:^|(?<=\s))[#;]")
_TOML_VALUE: Final = ('"', "'", "[", "{")
_NOT_IN_COMMENT: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class IniLine(NamedTuple):
    """One line of an INI file, split into its parts; numbers and columns count from 1."""

    number: int
    kind: Literal["blank", "section", "pair"]
    text: str
    indent: str = ""
    section: str = ""
    key: str = ""
    value: str = ""
    gap: str = ""
    comment: str = ""
    column: int = 1
    value_column: int = 1


def recognised(text: str) -> bool:
    """Whether `text` is an INI file: it is not TOML, and no value looks like TOML.

    A single quoted value or array makes it a TOML file with an error, which is reported as such.
    """
    try:
        tomli.loads(text)
    except (ValueError, RecursionError):
        values = [pair["rest"] for pair in map(_PAIR.fullmatch, text.split("\n")) if pair]
        return bool(values) and not any(value.startswith(_TOML_VALUE) for value in values)
    return False


def read(text: str, file: str) -> Iterator[IniLine]:
    """All lines of an INI file in order. `file` is its name in error messages.

    Raises ConfigError, with file:line:column, for an invalid line and for a duplicate name.
    """
    section = ""
    seen: dict[tuple[str, str], int] = {}
    for number, raw in enumerate(text.split("\n"), start=1):
        line = _cut(raw.removesuffix("\r"), number, section, file)
        if line.kind != "blank":
            first = seen.setdefault((line.section, line.key), number)
            if first != number:
                name = f"{line.key}" if line.key else f"[{line.section}]"
                raise ConfigError(
                    f"{name} was already given in line {first}; keep one of the two",
                    f"{name} 在第 {first} 行已经出现过，请只保留一处",
                    place=f"{file}:{number}:{line.column}",
                )
            section = line.section
        yield line


def convert(text: str, file: str, literal: Callable[[IniLine], str | None]) -> str:
    """The same settings as TOML, with all comments and blank lines, in the same order.

    `literal` returns the TOML value of a line, or None for an unknown name: such lines become comments, because unknown names are errors in
    TOML files.
    """
    endings = ("\r" if raw.endswith("\r") else "" for raw in text.split("\n"))
    return "\n".join(_toml(line, literal) + ending for line, ending in zip(read(text, file), endings, strict=True))


def _cut(text: str, number: int, section: str, file: str) -> IniLine:
    stripped = text.strip()
    if not stripped or stripped[0] in "#;":
        return IniLine(number, "blank", text, section=section)
    if found := _SECTION.fullmatch(text):
        name = found["name"].strip().lower()
        column = len(found["indent"]) + 1
        return IniLine(number, "section", text, found["indent"], name, "", "", found["gap"], found["comment"] or "", column, column)
    found = _PAIR.fullmatch(text)
    column = len(text) - len(text.lstrip()) + 1
    if not found:
        raise ConfigError(
            'this line is neither "[section]" nor "key = value" nor a comment',
            "这一行既不是 [section]，也不是 key = value，也不是注释",
            place=f"{file}:{number}:{column}",
        )
    if not section:
        raise ConfigError(
            "this key stands before any [section]; put it under one, for example [server]",
            "这个设置项前面没有 [section]；请把它放到某一节下面，例如 [server]",
            place=f"{file}:{number}:{column}",
        )
    rest = found["rest"]
    inline = _INLINE.search(rest)
    value = rest[: inline.start()] if inline else rest
    comment = rest[inline.start() :] if inline else ""
    gap = value[len(value.rstrip()) :]
    value_column = found.start("rest") + 1
    return IniLine(number, "pair", text, found["indent"], section, found["key"].lower(), value.rstrip(), gap, comment, column, value_column)


def _toml(line: IniLine, literal: Callable[[IniLine], str | None]) -> str:
    if line.kind == "blank":
        return _indent(line.text[: len(line.text) - len(line.text.lstrip())]) + _comment(line.text.strip())
    spelling = literal(line)
    if spelling is None:
        return _comment("# " + line.text)
    body = f"[{spelling}]" if line.kind == "section" else f"{line.key} = {spelling}"
    gap = _indent(line.gap) or " "
    return _indent(line.indent) + body + (gap + _comment(line.comment) if line.comment else "")


def _comment(text: str) -> str:
    """A valid TOML comment: begins with #, control characters are written as \\xNN."""
    escaped = _NOT_IN_COMMENT.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return "#" + escaped[1:] if escaped[:1] == ";" else escaped


def _indent(text: str) -> str:
    """Valid TOML indentation: other kinds of blanks (such as full-width ones) become plain ones."""
    return re.sub(r"[^ \t]", " ", text)
