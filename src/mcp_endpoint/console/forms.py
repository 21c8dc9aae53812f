"""Renders a tool's JSON Schema as a form, and converts the form's fields to arguments.

Rules of this module:

1. Each property of the schema is one input: a text, a number, a choice, yes or no, a date. What is none of these (an object, a list,
   several types) is written as JSON.
2. An optional input that is left empty is left out, and never sent as null or "".
3. All of it may be written as JSON instead, which is taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ..protocol.schemas import inlined

PREFIX: Final = "arg."
"""What the names of the inputs begin with, so that no property can be taken for another field of the form."""
MOST: Final = 200
"""Inputs of one form; of a larger schema the rest is written as JSON."""
RAW: Final = "raw"
"""The field with all arguments as JSON."""
_KINDS: Final = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}
_object: Final = msgspec.json.Decoder(dict[str, Any])


class Wrong(Exception):
    """What was filled in is no arguments; why, in both languages."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(f"{zh} / {en}")
        self.en = en
        self.zh = zh


def schema_of(definition: bytes) -> dict[str, Any]:
    """The `inputSchema` in a tool's definition (JSON), its references resolved; empty if it cannot be read."""
    try:
        parts = msgspec.json.decode(definition, type=dict[str, msgspec.Raw])
        schema = _object.decode(inlined(bytes(parts["inputSchema"])))
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return schema


def inputs(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The inputs of a form, in the schema's order: `name`, `kind`, `required`, and what else is known of each."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return []
    needed = set(map(str, required)) if isinstance(required, list) else set()
    return [_input(name, part if isinstance(part, dict) else {}, name in needed) for name, part in list(properties.items())[:MOST]]


def arguments(schema: Mapping[str, Any], fields: Mapping[str, str]) -> bytes:
    """The arguments (a JSON object) that a filled-in form means. Raises Wrong."""
    raw = fields.get(RAW, "").strip()
    if raw:
        return _raw(raw)
    found: dict[str, Any] = {}
    for one in inputs(schema):
        text = fields.get(PREFIX + one["name"], "")
        if text != "" or (one["required"] and one["kind"] == "text"):
            found[one["name"]] = _value(one, text)
    return msgspec.json.encode(found)


def _raw(text: str) -> bytes:
    try:
        _object.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise Wrong("The arguments are not a JSON object", "参数不是 JSON 对象") from None
    return text.encode()


def _input(name: str, part: Mapping[str, Any], required: bool) -> dict[str, Any]:
    merged = _without_null(part)
    kind = merged.get("type")
    known = _KINDS.get(kind, "json") if isinstance(kind, str) else "json"
    choices = merged.get("enum", [merged["const"]] if "const" in merged else None)
    found: dict[str, Any] = {"name": name, "kind": known, "required": required}
    if isinstance(choices, list) and choices:
        found |= {"kind": "choice", "choices": [_text(choice) for choice in choices]}
    elif known == "text" and merged.get("format") == "date":
        found["kind"] = "date"
    for key in ("title", "description"):
        text = part.get(key, merged.get(key))
        if isinstance(text, str):
            found[key] = text
    for key in ("minimum", "maximum"):
        bound = merged.get(key)
        if isinstance(bound, int | float) and not isinstance(bound, bool):
            found[key] = bound
    default = part.get("default", merged.get("default"))
    if default is not None:
        found["default"] = default if known == "text" and isinstance(default, str) and found["kind"] != "choice" else _text(default)
    return found


def _without_null(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A property without the null that only says that it is optional."""
    kind = part.get("type")
    if isinstance(kind, list) and len(rest := [one for one in kind if one != "null"]) == 1:
        return {**part, "type": rest[0]}
    for word in ("anyOf", "oneOf"):
        branches = part.get(word)
        if isinstance(branches, list):
            left = [one for one in branches if isinstance(one, dict) and one.get("type") != "null"]
            if len(left) == 1:
                return {**part, **left[0]}
    return part


def _text(value: Any) -> str:
    """A value as JSON: what a choice sends, and what an input shows."""
    return msgspec.json.encode(value).decode()


def _value(one: Mapping[str, Any], text: str) -> Any:
    name, kind = one["name"], one["kind"]
    if kind in ("text", "date"):
        return text
    try:
        value = msgspec.json.decode(text.strip())
    except (msgspec.DecodeError, RecursionError):
        value = _NONE
    fits = {
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": isinstance(value, bool),
        "choice": text in one.get("choices", ()),
    }
    if value is _NONE or not fits.get(kind, True):
        en, zh = _WANTED[kind]
        raise Wrong(f"{name} is not {en}", f"{name} 不是{zh}")
    return value


_NONE: Final = object()
_WANTED: Final = {
    "integer": ("a whole number", "整数"),
    "number": ("a number", "数字"),
    "boolean": ("true or false", " true 或 false"),
    "choice": ("one of its choices", "可选的值"),
    "json": ("JSON (a text needs quotation marks)", " JSON（文字要加引号）"),
}
"""Kind of an input → what it takes."""
