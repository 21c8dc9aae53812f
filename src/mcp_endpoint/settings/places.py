"""Finds the places of keys, values and tables in a TOML file."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import tomli


class TomlPlace(NamedTuple):
    """The place of a key and its value in a TOML file; lines and columns count from 1. `value` is the value's first token."""

    line: int
    column: int
    value_line: int
    value_column: int
    value: str


class Places(dict[tuple[str, ...], TomlPlace]):
    """The places of all keys and tables of a TOML file, by path."""

    def nearest(self, path: tuple[str, ...]) -> TomlPlace:
        """The place of `path`, or of its closest ancestor (keys of inline tables have no place of their own)."""
        while path and path not in self:
            path = path[:-1]
        return self.get(path, TomlPlace(1, 1, 1, 1, ""))


_TOKEN: Final = re.compile(
    r'''#[^\n]*|"""(?:\\[\s\S]|[^\\])*?"{3,5}|\x27{3}[\s\S]*?\x27{3,5}|"(?:\\.|[^"\\\n])*"|\x27[^\x27\n]*\x27|[\n=\[\]{}]|[^\s#"\x27=\[\]{}.,]+'''
)


def toml_places(text: str) -> Places:
    """Find all places in `text`, which must be valid TOML; tomli gives places for syntax errors only."""
    places = Places()
    table: tuple[str, ...] = ()
    names: list[str] = []
    first: tuple[int, int] | None = None
    value = False
    depth, line, line_start = 0, 1, 0
    brackets = 0  # open brackets of a table header: two for an array of tables
    arrays: dict[tuple[str, ...], int] = {}
    for token in _TOKEN.finditer(text):
        word = token[0]
        at = line, token.start() - line_start + 1
        if word[0] == "#" or (word == "[" and not value):
            brackets += word == "["
            continue
        if word == "\n":
            if depth == 0:
                names, first, value = [], None, False
        elif value:
            path = table + tuple(names)
            if places[path].value_line == 0:
                places[path] = places[path]._replace(value_line=at[0], value_column=at[1], value=word)
            depth += (word in ("[", "{")) - (word in ("]", "}"))
        elif word == "]":
            if not brackets:
                continue
            table = tuple(names)
            if brackets == 2:
                arrays[table] = arrays.get(table, 0) + 1
                places.setdefault(table, TomlPlace(*(first or at), *(first or at), ""))
                table = (*table, str(arrays[table]))
            brackets = 0
            places.setdefault(table, TomlPlace(*(first or at), *(first or at), ""))
        elif word == "=":
            value = True
            places[table + tuple(names)] = TomlPlace(*(first or at), 0, 0, "")
        else:
            first = first or at
            names.append(tomli.loads(f"name = {word}")["name"] if word[0] in "\"'" else word)
        breaks = word.count("\n")
        if breaks:
            line += breaks
            line_start = token.start() + word.rindex("\n") + 1
    return places
