"""A standalone program that validates arguments against JSON Schemas: requests on stdin, verdicts on stdout, in order.

`arguments.Checker` runs this file. It imports nothing of this package, so that it starts quickly and from any checkout.

A request is two lengths (4 bytes each, big-endian), the tool's definition and the arguments, both JSON. A verdict is a length and UTF-8
text: why the arguments do not match, or nothing. When it is ready, it sends one verdict without a request.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import struct
import sys
from collections import OrderedDict
from typing import Any, BinaryIO, Final

import msgspec
from jsonschema.exceptions import UnknownType
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import CannotDetermineSpecification, Unresolvable

CHECK_SECONDS: Final = 0.2
"""CPU time per check."""
AGAIN_SECONDS: Final = 0.05
"""The timer fires again after this, in case an exception handler of a library swallowed the first one."""
VALIDATORS: Final = 64
"""Compiled schemas that are cached; the least recently used is dropped first."""
MESSAGE_CHARS: Final = 500
NICE: Final = 5
"""Lower priority than the server."""
QUESTION: Final = struct.Struct(">II")
VERDICT: Final = struct.Struct(">I")


class _TooLong(BaseException):
    """The check takes too long; not an Exception, so that no library catches it."""


NO_SCHEMA: Final = (
    msgspec.DecodeError,
    Unresolvable,
    UnknownType,
    CannotDetermineSpecification,
    re.error,
    RecursionError,
    MemoryError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    _TooLong,
)
"""Exceptions caused by an invalid schema: a `$ref` may point anywhere, and only the root is validated before."""


class _Definition(msgspec.Struct):
    inputSchema: Any = None


_definition: Final = msgspec.json.Decoder(_Definition)


class Schemas:
    """A cache of compiled schemas."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Any] = OrderedDict()

    def verdict(self, definition: bytes, arguments: bytes) -> str:
        """Why `arguments` do not match the tool's schema; "" if they do, or if it cannot be decided in time."""
        try:
            with _alarm():
                validator = self._validator(definition)
                if validator is None:
                    return ""
                found = next(validator.iter_errors(msgspec.json.decode(arguments)), None)
                if found is None:
                    return ""
                where = "/".join(str(step) for step in found.absolute_path)
                return (f"{where}: {found.message}" if where else str(found.message))[:MESSAGE_CHARS]
        except NO_SCHEMA:
            return ""

    def _validator(self, definition: bytes) -> Any:
        """The validator; None for an invalid schema or one that takes too long to compile, which is remembered too."""
        if definition in self._known:
            self._known.move_to_end(definition)
            return self._known[definition]
        self._known[definition] = None
        if len(self._known) > VALIDATORS:
            self._known.popitem(last=False)
        schema = _definition.decode(definition).inputSchema
        if not isinstance(schema, dict) or not isinstance(schema.get("$schema", ""), str):
            return None
        kind = validator_for(schema, default=Draft202012Validator)
        if next(kind(kind.META_SCHEMA).iter_errors(schema), None) is None:
            # An empty registry: no reference is fetched.
            self._known[definition] = kind(schema, registry=Registry())
        return self._known[definition]


@contextlib.contextmanager
def _alarm() -> Any:
    """Raise _TooLong after CHECK_SECONDS of CPU time. Where the system has no such timer, the caller kills the process."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_VIRTUAL, CHECK_SECONDS, AGAIN_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    else:
        yield


def _too_long(number: int, frame: Any) -> None:
    raise _TooLong


def serve(questions: BinaryIO, verdicts: BinaryIO) -> None:
    """Answer until stdin ends."""
    schemas = Schemas()
    verdict = ""
    while True:
        text = verdict.encode("utf-8", "replace")
        verdicts.write(VERDICT.pack(len(text)) + text)
        verdicts.flush()
        head = questions.read(QUESTION.size)
        if len(head) < QUESTION.size:
            return
        lengths = QUESTION.unpack(head)
        verdict = schemas.verdict(questions.read(lengths[0]), questions.read(lengths[1]))


def main() -> None:
    """Run the program."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGVTALRM, _too_long)
    if hasattr(os, "nice"):
        os.nice(NICE)
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
