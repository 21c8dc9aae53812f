"""A program of its own that holds arguments against JSON Schemas: questions on stdin, verdicts on stdout, one after the other.

`arguments.Checker` runs this file. It imports nothing of this package, so that it starts quickly and from any checkout.

A question is two lengths (4 bytes each, big-endian), then the tool's definition and the arguments, both JSON. A verdict is a length and
text in UTF-8: why the arguments do not fit, or nothing. Once it can be asked, it sends one verdict without a question.
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
"""Processor time for one question."""
AGAIN_SECONDS: Final = 0.05
"""An alarm that was raised where nothing hears it is raised again after this."""
VALIDATORS: Final = 64
"""Schemas that are kept ready; the one used longest ago is forgotten first."""
MESSAGE_CHARS: Final = 500
NICE: Final = 5
"""Where processor time is short, the server goes first."""
QUESTION: Final = struct.Struct(">II")
VERDICT: Final = struct.Struct(">I")


class _TooLong(BaseException):
    """Nobody waits for this any longer; not an Exception, so that no library takes it for one of its own."""


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
"""What comes of a schema that is none: a `$ref` may point to any place, and only the root is looked at before."""


class _Definition(msgspec.Struct):
    inputSchema: Any = None


_definition: Final = msgspec.json.Decoder(_Definition)


class Schemas:
    """Validators of the schemas asked for lately."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Any] = OrderedDict()

    def verdict(self, definition: bytes, arguments: bytes) -> str:
        """Why `arguments` do not fit the tool's schema; "" if they do, or if nothing can be said in time."""
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
        """None for a schema that is none, or takes too long to read: it is not read again with every question."""
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
    """Raise _TooLong after CHECK_SECONDS of work. Where the system has no such clock, whoever asked ends the process."""
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
    """Answer until there are no more questions."""
    schemas = Schemas()
    said = ""
    while True:
        text = said.encode("utf-8", "replace")
        verdicts.write(VERDICT.pack(len(text)) + text)
        verdicts.flush()
        head = questions.read(QUESTION.size)
        if len(head) < QUESTION.size:
            return
        lengths = QUESTION.unpack(head)
        said = schemas.verdict(questions.read(lengths[0]), questions.read(lengths[1]))


def main() -> None:
    """Be the process."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGVTALRM, _too_long)
    if hasattr(os, "nice"):
        os.nice(NICE)
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
