"""The same words in both eras of MCP: the one that begins with a handshake (up to 2025-11-25) and the stateless one (2026-07-28).

The inner language of the house is the handshake era's. Rules of this module:

1. A consumer of the stateless era says with each request who it is (`_meta`). That envelope is taken off at the door; where a tool speaks
   the era too it travels along under a key of ours (`ASKER`) and is put back in front of that tool, so that two peers of one era hear
   each other's own words: their questions, their answers and their states pass as they came.
2. A tool that knows the stateless era only gets a translator (`core/translator`) between its link and the core.
3. Bytes of payloads are carried here too: members are put in or taken out at their places.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .. import errors
from . import methods
from .jsonrpc import Malformed, members, notification, splice, without

ROUNDS: Final = 10
"""Most times one request is repeated with answers; the SDKs end there too."""
MOST_SENT: Final = 4096
"""Most requests a translator remembers; the heart allows half as many in flight."""

HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
INTERNAL: Final = -32603
"""JSON-RPC 2.0 §5.1: an internal error, and what an error without a code counts as."""
_UNKNOWN_TO_MCP_1: Final = (errors.INVALID_PARAMS.number, "Invalid request parameters")
_RESOURCE_MISSING: Final = -32002  # handshake era; the stateless one says invalid params

_encode: Final = msgspec.json.Encoder().encode
_fields_decoder: Final = msgspec.json.Decoder(dict[str, Raw])
_object_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_strings_decoder: Final = msgspec.json.Decoder(list[str])
_EMPTY: Final = Raw(b"{}")
_CONFIRMED: Final = b"{}"


class Error(msgspec.Struct):
    """A JSON-RPC error object; what is no such object counts as an internal error without words."""

    code: int = INTERNAL
    message: str = ""
    data: Raw | UnsetType = UNSET


_error_decoder: Final = msgspec.json.Decoder(Error)


def read_error(raw: bytes | Raw) -> Error:
    """The error object of an answer; never raises."""
    try:
        return _error_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return Error()


def fields(raw: bytes | Raw | UnsetType) -> dict[str, Raw]:
    """The members of a JSON object, {} if it is none."""
    try:
        return {} if raw is UNSET else _fields_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}


def objects(raw: bytes | Raw | UnsetType) -> dict[str, Any]:
    """A JSON object as Python values, {} if it is none."""
    try:
        return {} if raw is UNSET else _object_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}


def text(raw: bytes | Raw | None) -> str | None:
    """A JSON string's value, None if it is none."""
    try:
        value = None if raw is None else msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, str) else None


# == consumers of the stateless era ========================================================================================


def inward(params: bytes, *, asker: bool) -> bytes:
    """Parameters without the envelope of the stateless era; with `asker` it travels along under our key.

    Raises Malformed when a key stands twice in `params`.
    """
    spans = members(params)
    if methods.META not in spans:
        return params
    place = spans[methods.META]
    meta = fields(params[place.start : place.end])
    envelope = {name: meta.pop(name) for name in methods.ENVELOPE if name in meta}
    meta.pop(methods.ASKER, None)
    if asker:
        meta[methods.ASKER] = Raw(_encode(envelope))
    edit = (place.start, place.end, _encode(meta)) if meta else without(params, methods.META, spans)
    return splice(params, [edit])


def outward(method: str, result: bytes, server: bytes) -> bytes:
    """A result as the stateless era wants it: `resultType`, how long it may be kept, who says so (`server`, JSON).

    What the tool said of it is left as it is. Lists are good for this moment and this consumer: any tool may come or go at any time.
    """
    try:
        spans = members(result)
    except Malformed:
        return result
    added: list[bytes] = []
    if "resultType" not in spans:
        added.append(b'"resultType":"complete"')
    if method in methods.CACHEABLE and not asks(result):
        added += [b'"ttlMs":0'] if "ttlMs" not in spans else []
        added += [b'"cacheScope":"private"'] if "cacheScope" not in spans else []
    edits: list[tuple[int, int, bytes]] = []
    if methods.META not in spans:
        added.append(_encode({methods.META: {methods.SERVER_KEY: Raw(server)}})[1:-1])
    else:
        place = spans[methods.META]
        meta = fields(result[place.start : place.end])
        if methods.SERVER_KEY not in meta:
            meta[methods.SERVER_KEY] = Raw(server)
            edits.append((place.start, place.end, _encode(meta)))
    if added:
        opening = result.index(b"{") + 1
        edits.append((opening, opening, b",".join(added) + (b"," if spans else b"")))
    return splice(result, edits)


def asks(result: bytes | Raw) -> bool:
    """Whether a result says that input is required."""
    return text(fields(result).get("resultType")) == "input_required"


def error_outward(method: str, params: bytes, raw: bytes) -> bytes:
    """An error object as the stateless era wants it, also from a handshake tool.

    A missing resource counts as a wrong parameter, and a method that tools made with `mcp` 1.x do not know is said not to be there.
    """
    error = read_error(raw)
    if method not in methods.STATELESS and (error.code, error.message) == _UNKNOWN_TO_MCP_1:
        return _encode(Error(errors.METHOD_NOT_FOUND.number, errors.METHOD_NOT_FOUND.message))
    if error.code != _RESOURCE_MISSING:
        return raw
    about: dict[str, Any] = {}
    uri = text(fields(params).get("uri"))
    if uri is not None:
        about["uri"] = uri
    about.update(objects(error.data))
    return _encode(Error(errors.INVALID_PARAMS.number, error.message, Raw(_encode(about))))


def log_wanted(level: str | None, params: bytes | Raw | UnsetType) -> bool:
    """Whether a log message is at least as urgent as the level a request asked for (None: it asked for none)."""
    said = text(fields(params).get("level"))
    return level in methods.LEVELS and said in methods.LEVELS and methods.LEVELS.index(said) >= methods.LEVELS.index(level)


def tagged(method: str, params: bytes | Raw | UnsetType, subscription: bytes) -> bytes:
    """A notification for a stream of `subscriptions/listen`, with the id of the request that opened it (JSON)."""
    kept = fields(params)
    meta = fields(kept.get(methods.META, UNSET))
    meta[methods.SUBSCRIPTION_KEY] = Raw(subscription)
    kept[methods.META] = Raw(_encode(meta))
    return notification(method, kept)


# == providers of the stateless era ========================================================================================


def knows_only_stateless(raw: bytes | Raw) -> bool:
    """Whether an error in answer to `initialize` may come from a server that has given the handshake up."""
    return read_error(raw).code in (UNSUPPORTED_VERSION, errors.METHOD_NOT_FOUND.number)
