"""Translates between the two eras of MCP: with a handshake (up to 2025-11-25) and stateless (2026-07-28).

Inside this program the handshake revisions are used. Rules of this module:

1. A stateless client identifies itself in the `_meta` of each request. That envelope is removed at the entrance; for a stateless tool it is
   passed on under our own key (`ASKER`) and restored before the tool, so that two stateless peers exchange their requests, answers and
   states unchanged.
2. A tool that is only stateless gets a translator (`core/translator`) between its link and the core.
3. Payloads keep their bytes: members are inserted or removed in place.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .. import errors
from . import methods
from .jsonrpc import Malformed, members, notification, splice, without

ROUNDS: Final = 10
"""Most rounds of one request; the SDKs have the same limit."""
MOST_SENT: Final = 4096
"""Most requests that a translator remembers; the core allows half as many in flight."""

HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
INTERNAL: Final = -32603
"""JSON-RPC 2.0 §5.1: internal error; also the code of an error without one."""
_UNKNOWN_TO_MCP_1: Final = (errors.INVALID_PARAMS.number, "Invalid request parameters")
_RESOURCE_MISSING: Final = -32002  # handshake revisions; the stateless one uses invalid params

_encode: Final = msgspec.json.Encoder().encode
_fields_decoder: Final = msgspec.json.Decoder(dict[str, Raw])
_object_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_strings_decoder: Final = msgspec.json.Decoder(list[str])
_EMPTY: Final = Raw(b"{}")
_CONFIRMED: Final = b"{}"


class Error(msgspec.Struct):
    """A JSON-RPC error object; anything else is read as an internal error without a message."""

    code: int = INTERNAL
    message: str = ""
    data: Raw | UnsetType = UNSET


_error_decoder: Final = msgspec.json.Decoder(Error)


def read_error(raw: bytes | Raw) -> Error:
    """The error object of a response; never raises."""
    try:
        return _error_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return Error()


def fields(raw: bytes | Raw | UnsetType) -> dict[str, Raw]:
    """The members of a JSON object; {} for anything else."""
    try:
        return {} if raw is UNSET else _fields_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}


def objects(raw: bytes | Raw | UnsetType) -> dict[str, Any]:
    """A JSON object as Python values; {} for anything else."""
    try:
        return {} if raw is UNSET else _object_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}


def text(raw: bytes | Raw | None) -> str | None:
    """The value of a JSON string; None for anything else."""
    try:
        value = None if raw is None else msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, str) else None


# == stateless consumers ===================================================================================================


def without_envelope(params: bytes, *, asker: bool) -> bytes:
    """Parameters without the stateless envelope; with `asker` it is passed on under our own key.

    Raises Malformed for a repeated key in `params`.
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


def for_stateless(method: str, result: bytes, server: bytes) -> bytes:
    """A result in stateless form: with `resultType`, caching time and `serverInfo` (`server`, JSON).

    What the tool set itself is kept. Lists are valid now and for this client only: tools may come or go at any time.
    """
    try:
        spans = members(result)
    except Malformed:
        return result
    added: list[bytes] = []
    if "resultType" not in spans:
        added.append(b'"resultType":"complete"')
    if method in methods.CACHEABLE and not requires_input(result):
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


def requires_input(result: bytes | Raw) -> bool:
    """Whether a result is `input_required`."""
    return text(fields(result).get("resultType")) == "input_required"


def error_for_stateless(method: str, params: bytes, raw: bytes) -> bytes:
    """An error object in stateless form.

    A missing resource becomes invalid params; "Invalid request parameters" of `mcp` 1.x for an unknown method becomes method not found.
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
    """Whether a log message is urgent enough for the requested level (None: no messages requested)."""
    said = text(fields(params).get("level"))
    return level in methods.LEVELS and said in methods.LEVELS and methods.LEVELS.index(said) >= methods.LEVELS.index(level)


def tagged(method: str, params: bytes | Raw | UnsetType, subscription: bytes) -> bytes:
    """A notification for a `subscriptions/listen` stream, with the id (JSON) of its request."""
    kept = fields(params)
    meta = fields(kept.get(methods.META, UNSET))
    meta[methods.SUBSCRIPTION_KEY] = Raw(subscription)
    kept[methods.META] = Raw(_encode(meta))
    return notification(method, kept)


# == stateless providers ===================================================================================================


def knows_only_stateless(raw: bytes | Raw) -> bool:
    """Whether an error response to `initialize` may come from a server without a handshake."""
    return read_error(raw).code in (UNSUPPORTED_VERSION, errors.METHOD_NOT_FOUND.number)
