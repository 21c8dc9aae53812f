"""Whether arguments fit a tool's own JSON Schema; whatever cannot be said in a short time is left to the tool.

Schema and arguments are both from outside, and while they are looked at everybody waits. So nothing is fetched, no regular expression is
tried (a few characters can keep one busy for ever), and a check that takes too long ends. The tool looks at its arguments anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from jsonschema.exceptions import UnknownType, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, extend, validator_for
from referencing import Registry
from referencing.exceptions import CannotDetermineSpecification, Unresolvable

CHECK_SECONDS: Final = 0.2
"""Processor time for one look at a schema, and for one at arguments."""
UNIQUE_ITEMS: Final = 200
"""Longest list that is searched for doubles: it takes the square of its length."""
LEFT: Final = ("pattern", "patternProperties", "unevaluatedProperties", "unevaluatedItems")
"""Keywords left to the tool: they try regular expressions, or search without an end that could be watched."""
MESSAGE_CHARS: Final = 500

Keyword = Callable[[Any, Any, Any, Any], Any]


class Wrong(Exception):
    """The arguments are not what the tool's schema asks for."""


class _TooLong(Exception):
    """Nobody may wait for this."""


NO_SCHEMA: Final = (
    msgspec.DecodeError,
    Unresolvable,
    UnknownType,
    CannotDetermineSpecification,
    RecursionError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    _TooLong,
)
"""What the library raises on the way through something that is no schema: a `$ref` may point to any place, and only the root is looked at
before."""


class _Definition(msgspec.Struct):
    inputSchema: Any = None


class Shape:
    """What one tool takes."""

    def __init__(self, definition: bytes) -> None:
        """`definition` is the tool as its provider described it. A schema that is none takes anything."""
        self._until = 0.0
        self._validator = self._read(definition)

    def check(self, arguments: dict[str, Any]) -> None:
        """Raises Wrong if the arguments do not fit."""
        if self._validator is None:
            return
        try:
            found = self._first_error(self._validator, arguments)
        except NO_SCHEMA:
            return
        if found is not None:
            where = "/".join(str(step) for step in found.absolute_path)
            raise Wrong(f"{where}: {found.message}"[:MESSAGE_CHARS] if where else found.message[:MESSAGE_CHARS])

    def _read(self, definition: bytes) -> Validator | None:
        try:
            schema = msgspec.json.decode(definition, type=_Definition).inputSchema
            if not isinstance(schema, dict) or not isinstance(schema.get("$schema", ""), str):
                return None
            kind: Any = validator_for(schema, default=Draft202012Validator)
            bounded = self._bounded(kind)
            if self._first_error(bounded(kind.META_SCHEMA), schema) is not None:
                return None
            found: Validator = bounded(schema, registry=Registry())
        except NO_SCHEMA:
            return None
        return found

    def _first_error(self, validator: Validator, instance: Any) -> ValidationError | None:
        self._until = time.thread_time() + CHECK_SECONDS
        return next(iter(validator.iter_errors(instance)), None)

    def _bounded(self, kind: Any) -> Any:
        """The rules of a dialect, each of which looks at the time."""
        rules: dict[str, Keyword] = {name: self._watched(rule) for name, rule in kind.VALIDATORS.items()}
        rules |= dict.fromkeys(LEFT, _left)
        bounded: Any = extend(kind, rules)
        bounded.evolve = _without_dialects(bounded.evolve)
        return bounded

    def _watched(self, rule: Keyword) -> Keyword:
        def look(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
            if time.thread_time() > self._until:
                raise _TooLong
            if rule.__name__ == "additionalProperties" and "patternProperties" in schema:
                return None
            if rule.__name__ == "uniqueItems" and isinstance(instance, list) and len(instance) > UNIQUE_ITEMS:
                return None
            return rule(validator, value, instance, schema)

        return look


def _left(validator: Any, value: Any, instance: Any, schema: Any) -> None:
    """The tool looks at it itself."""


def _without_dialects(evolve: Callable[..., Any]) -> Callable[..., Any]:
    """By itself a validator takes other rules, which nobody watches, for a part of the schema that names its own `$schema`."""

    def evolved(validator: Any, **changes: Any) -> Any:
        part = changes.get("schema", validator.schema)
        if isinstance(part, dict) and "$schema" in part:
            changes["schema"] = {name: value for name, value in part.items() if name != "$schema"}
        return evolve(validator, **changes)

    return evolved
