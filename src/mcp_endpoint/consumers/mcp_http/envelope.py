"""Validates one request of the stateless revision: required `_meta` members, and headers that must match the body.

MCP 2026-07-28, Transports: intermediaries route by headers and servers by bodies, so a request whose headers and body differ is refused,
whatever its method.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from ... import errors
from ...protocol import methods
from ...protocol.jsonrpc import VERSION, Frame, Malformed, id_key, members, parse
from ...protocol.stateless import HEADER_MISMATCH, UNSUPPORTED_VERSION, fields, objects, text

STATUS: Final = {
    errors.PARSE_ERROR.number: 400,
    errors.INVALID_REQUEST.number: 400,
    errors.INVALID_PARAMS.number: 400,
    errors.METHOD_NOT_FOUND.number: 404,
    HEADER_MISMATCH: 400,
    -32021: 400,
    UNSUPPORTED_VERSION: 400,
}
"""HTTP status for an error code; other errors are normal responses (200)."""

_ENCODED: Final = re.compile(r"=\?base64\?(.*)\?=")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DECIMAL: Final = re.compile(r"-?[0-9]{1,4000}(\.0+)?")
_ANNOTATION: Final = "x-mcp-header"
_schema_decoder: Final = msgspec.json.Decoder(dict[str, Any])

Headers = Sequence[tuple[bytes, bytes]]
"""Headers as in ASGI: lower-case names, repeated if they were sent repeatedly."""


class Rejected(Exception):
    """A refused request: the error it is answered with. `id` is JSON."""

    def __init__(self, code: int, message: str, data: object = UNSET, id: bytes = b"null") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.id = id


class StatelessRequest(NamedTuple):
    """One valid request of a stateless client. `id` and `params` are unchanged JSON."""

    id: bytes
    method: str
    params: bytes
    client: str
    """The client's name, "" if not given."""
    capabilities: Mapping[str, Any]
    level: str | None
    """Least urgent log level to send; None for no log messages."""
    token: bytes
    """The progress token as JSON; empty for none."""


def read(body: bytes, integer_chars: int, string_bytes: int) -> Frame:
    """Parse the one request or notification of a POST. Raises Rejected."""
    try:
        frame = parse(body)
    except Malformed as malformed:
        usable = id_key(malformed.id, integer_chars, string_bytes) is not None
        raise Rejected(malformed.code.number, malformed.why, id=malformed.id if usable else b"null") from None
    if frame.jsonrpc != VERSION or frame.method is UNSET or frame.result is not UNSET or frame.error is not UNSET:
        raise Rejected(errors.INVALID_REQUEST.number, "a body is one JSON-RPC 2.0 request or notification / 必须是一个请求或通知")
    if frame.id is not UNSET and id_key(bytes(frame.id), integer_chars, string_bytes) is None:
        raise Rejected(errors.INVALID_REQUEST.number, "an id is an integer or a string, and not longer than the limits / id 无效")
    return frame


def examine(frame: Frame, headers: Headers) -> StatelessRequest:
    """Validate a request in the order that SEP-2575 and SEP-2243 prescribe for its errors. Raises Rejected."""
    assert frame.id is not UNSET and frame.method is not UNSET
    id = bytes(frame.id)
    try:
        said = _header_values(headers)
        params = b"{}" if frame.params is UNSET else bytes(frame.params)
        kept = fields(params)
        if params[:1] == b"{":
            members(params)  # refuses duplicate keys, which the tool might read differently
        meta = fields(kept.get(methods.META, UNSET))
        missing = [key for key in (methods.VERSION_KEY, methods.CAPABILITIES_KEY) if key not in meta]
        if missing:
            raise Rejected(errors.INVALID_PARAMS.number, f"params._meta must have {' and '.join(missing)} / 缺少必需的 _meta 字段")
        version = text(meta[methods.VERSION_KEY])
        if said.get(methods.VERSION_HEADER) != version or version is None:
            raise Rejected(
                HEADER_MISMATCH, f"the header {methods.VERSION_HEADER} and {methods.VERSION_KEY} differ / 请求头与 _meta 中的协议版本不一致"
            )
        if said.get(methods.METHOD_HEADER) != frame.method:
            raise Rejected(HEADER_MISMATCH, f"the header {methods.METHOD_HEADER} and the method differ / 请求头与方法不一致")
        key = methods.NAMED_BY.get(frame.method)
        if key is not None and key in kept and decoded(said.get(methods.NAME_HEADER)) != text(kept[key]):
            raise Rejected(HEADER_MISMATCH, f"the header {methods.NAME_HEADER} and params.{key} differ / 请求头与参数 {key} 不一致")
        if version != methods.STATELESS_REVISION:
            about = {"supported": [methods.STATELESS_REVISION], "requested": version}
            raise Rejected(UNSUPPORTED_VERSION, f"without a session only {methods.STATELESS_REVISION} is spoken / 不支持的协议版本", about)
    except Rejected as refused:
        refused.id = id
        raise
    except Malformed as malformed:
        raise Rejected(errors.INVALID_PARAMS.number, malformed.why, id=id) from None
    return StatelessRequest(
        id,
        frame.method,
        params,
        (text(fields(meta.get(methods.CLIENT_KEY, UNSET)).get("name")) or "")[:128],
        objects(meta[methods.CAPABILITIES_KEY]),
        text(meta.get(methods.LEVEL_KEY)),
        bytes(meta.get(methods.PROGRESS_TOKEN, b"")),
    )


def _header_values(headers: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw, value in headers:
        name = raw.decode("latin-1")
        if name in (methods.VERSION_HEADER, methods.METHOD_HEADER, methods.NAME_HEADER):
            if name in found:
                raise Rejected(HEADER_MISMATCH, f"the header {name} is repeated / 请求头重复")
            found[name] = value.decode("latin-1").strip(" \t")  # optional whitespace (RFC 9110 §5.5)
    return found


def decoded(value: str | None) -> str | None:
    """A header's value, with `=?base64?…?=` decoded. None if absent or wrongly encoded."""
    found = _ENCODED.fullmatch(value) if value is not None else None
    if found is None:
        return value
    try:
        raw = b64decode(found[1], validate=True)
        return raw.decode() if b64encode(raw).decode() == found[1] else None
    except (binascii.Error, ValueError):
        return None


# == parameters that are mirrored in headers ===============================================================================


def check_params(definition: bytes, params: bytes, headers: Headers) -> None:
    """Compare the `Mcp-Param-…` headers that a tool's schema asks for with the call's arguments. Raises Rejected (without id).

    An invalid annotation in the schema means that no headers are required: clients do not send them either.
    """
    if _ANNOTATION.encode() not in definition:
        return
    try:
        wanted = _wanted(_schema_decoder.decode(definition).get("inputSchema"), definition)
    except (msgspec.DecodeError, RecursionError):
        return
    arguments = objects(fields(params).get("arguments", UNSET))
    for path, (token, kind) in wanted.items():
        values = [value.decode("latin-1") for name, value in headers if name.decode("latin-1") == methods.PARAM_HEADERS + token.lower()]
        argument: Any = arguments
        for step in path:
            argument = argument.get(step) if isinstance(argument, dict) else None
        expected = _as_header(argument)
        if len(values) > 1 or (expected is None) != (not values):
            raise Rejected(HEADER_MISMATCH, f"the header Mcp-Param-{token} and the argument {'.'.join(path)} differ / 请求头与参数不一致")
        if expected is not None and not _same(decoded(values[0]), expected, argument, kind):
            raise Rejected(HEADER_MISMATCH, f"the header Mcp-Param-{token} and the argument {'.'.join(path)} differ / 请求头与参数不一致")


def _wanted(schema: Any, definition: bytes) -> dict[tuple[str, ...], tuple[str, str]]:
    """Annotated properties: path → (header name, type). {} if any annotation is invalid."""
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    todo: list[tuple[tuple[str, ...], Any]] = [((), schema)]
    while todo:
        path, node = todo.pop()
        if not isinstance(node, dict):
            continue
        if path and _ANNOTATION in node:
            token, kind = node[_ANNOTATION], node.get("type")
            if not isinstance(token, str) or not _TOKEN.fullmatch(token) or kind not in ("string", "integer", "boolean"):
                return {}
            found[path] = token, kind
        properties = node.get("properties")
        if isinstance(properties, dict):
            todo += [((*path, name), inner) for name, inner in properties.items()]
    # An annotation elsewhere (in an array's items, for example) makes the whole schema invalid for this purpose.
    unambiguous = len({token.lower() for token, _ in found.values()}) == len(found)
    return found if unambiguous and definition.count(b'"%b"' % _ANNOTATION.encode()) == len(found) else {}


def _as_header(argument: Any) -> str | None:
    if isinstance(argument, bool):
        return "true" if argument else "false"
    return str(argument) if isinstance(argument, str | int | float) else None


def _same(said: str | None, expected: str, argument: Any, kind: str) -> bool:
    if kind == "integer" and isinstance(argument, int | float) and said is not None and _DECIMAL.fullmatch(said):
        return int(said.partition(".")[0]) == argument
    return said == expected
