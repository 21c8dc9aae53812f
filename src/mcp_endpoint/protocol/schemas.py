"""Resolves references in tool schemas in place, for clients that do not look up `$defs`.

Rules of this module:

1. A `$ref` within the schema (`#/$defs/X`, any JSON Pointer) is replaced by a copy of its target, and `$defs` and `definitions` are
   removed. The result accepts the same instances. Keywords beside a `$ref` override the copy if they only describe (`title`, `default`),
   otherwise both apply (`allOf`); before draft 2019-09 only describing keywords apply.
2. A reference to a schema that is being copied is cut: only `type`, `title` and `description` of its target remain.
3. A schema with any other reference (another document, `$anchor`, `$dynamicRef`, an invalid one, below a second `$id`), or one that would
   exceed the limits, is left unchanged.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

import msgspec
from msgspec import Raw

from .jsonrpc import Malformed, members, splice

REFERENCE: Final = b"$ref"
"""A list of tools without this needs no change."""
DEPTH: Final = 64
"""Deepest level of the result; models do not fill in deeper ones."""
SCHEMA_BYTES: Final = 512 * 1024
"""Most bytes of JSON read for one schema, copies counted at each level. The result is never longer."""
LIST_BYTES: Final = 4 * 1024 * 1024
"""The same for all schemas of a list; later tools are left unchanged."""

_NODE_BYTES: Final = 128  # cost of one level beside its bytes
_DEFINITIONS: Final = frozenset({"$defs", "definitions"})
_ANNOTATIONS: Final = frozenset(
    {"$anchor", "$comment", "$id", "$schema", "default", "deprecated", "description", "examples", "readOnly", "title", "writeOnly"}
)
_KEPT_OF_A_CUT: Final = ("type", "title", "description")
_ARGUMENTS: Final = b'"object"'
"""The type that MCP requires at the top of a tool's schema: kept even where an old draft ignores it beside `$ref`."""
_DYNAMIC: Final = ("$dynamicRef", "$recursiveRef")
_SCHEMAS: Final = frozenset(
    {
        *("additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not"),
        *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
        *("allOf", "anyOf", "oneOf", "prefixItems"),
    }
)
"""Keywords that contain a schema or a list of schemas; other keywords contain data."""
_NAMED_SCHEMAS: Final = frozenset({"dependencies", "dependentSchemas", "patternProperties", "properties"})

_object_decoder: Final = msgspec.json.Decoder(dict[str, Raw])
_list_decoder: Final = msgspec.json.Decoder(list[Raw])
_string_decoder: Final = msgspec.json.Decoder(str)
_encode: Final = msgspec.json.Encoder().encode


class _Unable(Exception):
    """The schema is left unchanged."""


def inlined(schema: bytes, most: int = SCHEMA_BYTES) -> bytes:
    """A JSON Schema without references; unchanged if it has none or cannot be resolved. At most `most` bytes are read."""
    return _Walk(schema, most).result()


def tools_inlined(answer: bytes) -> bytes:
    """A response to `tools/list` whose `inputSchema`s have no references; all other bytes are unchanged."""
    try:
        result = members(answer)["result"]
        tools = members(answer[result.start : result.end])["tools"]
        start, end = result.start + tools.start, result.start + tools.end
        before = [bytes(tool) for tool in _list_decoder.decode(answer[start:end])]
    except (Malformed, KeyError, msgspec.DecodeError, RecursionError):
        return answer
    left = LIST_BYTES
    after = []
    for tool in before:
        if REFERENCE in tool and left > 0:
            changed, used = _tool_inlined(tool, min(left, SCHEMA_BYTES))
            left -= used
            after.append(changed)
        else:
            after.append(tool)
    return answer if after == before else splice(answer, [(start, end, b"[%b]" % b",".join(after))])


def _tool_inlined(definition: bytes, most: int) -> tuple[bytes, int]:
    """A tool's definition, and the number of bytes read for it."""
    try:
        place = members(definition).get("inputSchema")
    except (Malformed, msgspec.DecodeError):
        place = None
    if place is None:
        return definition, 0
    walk = _Walk(definition[place.start : place.end], most)
    return splice(definition, [(place.start, place.end, walk.result())]), most - walk.left


class _Walk:
    """Resolves one schema; `left` is the number of bytes that may still be read."""

    def __init__(self, schema: bytes, most: int) -> None:
        self._root = schema
        self._targets: dict[str, bytes] = {}
        self._old = False
        self.left = most

    def result(self) -> bytes:
        """The resolved schema."""
        if REFERENCE not in self._root:
            return self._root
        try:
            self._old = b"json-schema.org/draft-0" in bytes(self._fields(self._root).get("$schema", b""))
            return self._schema(self._root, frozenset({"#"}), 0)
        except (_Unable, msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return self._root

    def _fields(self, text: bytes) -> dict[str, Raw]:
        """The members of an object; counts the bytes read."""
        self.left -= len(text) + _NODE_BYTES
        if self.left < 0:
            raise _Unable
        return _object_decoder.decode(text)

    def _schema(self, text: bytes, copying: frozenset[str], depth: int) -> bytes:
        """A schema without references; `copying` are the references on the path to it."""
        if depth and b"$" not in text and b"\\u" not in text:
            return text  # already counted with its parent
        resolved = self._resolved(text, copying, depth)
        return text if resolved is None else _object(resolved)

    def _resolved(self, text: bytes, copying: frozenset[str], depth: int) -> dict[str, bytes] | None:
        """The members of a schema without references; None for `true` or `false`."""
        if text[:1] != b"{":
            return None
        if depth > DEPTH:
            raise _Unable
        fields = self._fields(text)
        if any(name in fields for name in _DYNAMIC) or (depth and "$id" in fields):
            raise _Unable
        own = {name: bytes(value) for name, value in fields.items() if name not in _DEFINITIONS}
        reference = own.pop("$ref", None)
        if reference is None:
            return {name: self._keyword(name, value, copying, depth) for name, value in own.items()}
        target = self._copy(_string_decoder.decode(reference), copying, depth)
        kind = own.get("type")
        if kind is not None and (kind == target.get("type") or (self._old and not depth and kind == _ARGUMENTS and "type" not in target)):
            target["type"] = own.pop("type")
        described = {name: value for name, value in own.items() if name in _ANNOTATIONS}
        if self._old or len(described) == len(own):
            return target | described
        both = _list_decoder.decode(self._keyword("allOf", own.pop("allOf", b"[]"), copying, depth))
        rest = {name: self._keyword(name, value, copying, depth) for name, value in own.items()}
        return {"allOf": b"[%b]" % b",".join([_object(target), *map(bytes, both)]), **rest}

    def _keyword(self, name: str, value: bytes, copying: frozenset[str], depth: int) -> bytes:
        if name in _SCHEMAS:
            if value[:1] == b"[":
                return b"[%b]" % b",".join(self._schema(bytes(one), copying, depth + 1) for one in _list_decoder.decode(value))
            return self._schema(value, copying, depth + 1)
        if name in _NAMED_SCHEMAS and value[:1] == b"{":
            return _object({key: self._schema(bytes(one), copying, depth + 1) for key, one in self._fields(value).items()})
        return value

    def _copy(self, reference: str, copying: frozenset[str], depth: int) -> dict[str, bytes]:
        """The target of a reference, resolved."""
        text = self._target(reference)
        if reference in copying:
            cut = self._fields(text) if text[:1] == b"{" else {}
            return {name: bytes(cut[name]) for name in _KEPT_OF_A_CUT if name in cut}
        resolved = self._resolved(text, copying | {reference}, depth + 1)
        if resolved is not None:
            return resolved
        return {"not": b"{}"} if text == b"false" else {}

    def _target(self, reference: str) -> bytes:
        """The target of a reference (RFC 6901), as JSON text."""
        found = self._targets.get(reference)
        if found is None:
            head, *keys = unquote(reference).split("/")
            if head != "#":
                raise _Unable
            found = self._root
            for key in keys:
                found = self._step(found, key.replace("~1", "/").replace("~0", "~"))
            self._targets[reference] = found
        return found

    def _step(self, text: bytes, key: str) -> bytes:
        if text[:1] == b"[" and key.isascii() and key.isdigit():
            self.left -= len(text)
            values = _list_decoder.decode(text)
            number = int(key[:9])
            if number < len(values):
                return bytes(values[number])
        elif text[:1] == b"{" and (value := self._fields(text).get(key)) is not None:
            return bytes(value)
        raise _Unable


def _object(fields: dict[str, bytes]) -> bytes:
    return b"{%b}" % b",".join(b"%b:%b" % (_encode(name), value) for name, value in fields.items())
