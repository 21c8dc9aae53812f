"""Translates the broker's own errors for HTTP: a failed tool call becomes a result with isError, and reserved codes are replaced.

MCP 2026-07-28 allows no new meanings for -32000 to -32019 and reserves the codes above, and language models see a tool's failure only in
a result (MCP, Tools, "Error Handling"). So -32001 to -32008, which devices know, are not sent over HTTP.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ...protocol import jsonrpc, methods
from ...protocol.stateless import INTERNAL

_encode: Final = msgspec.json.Encoder().encode


class BrokerError(msgspec.Struct):
    """An error object of the broker."""

    code: int
    message: str
    data: dict[str, Any]


_decoder: Final = msgspec.json.Decoder(BrokerError)


def ours(error: bytes | msgspec.Raw) -> BrokerError | None:
    """The error object, if it is the broker's own with a code that must not be sent over HTTP; else None."""
    if b'"broker"' not in bytes(error):
        return None
    try:
        found = _decoder.decode(error)
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if found.data.get("source") == "broker" and -32099 <= found.code <= -32000 else None


def for_http(method: str, id: bytes, error: bytes | msgspec.Raw) -> bytes | None:
    """The frame to send over HTTP in place of an error response to `method`, or None to send it unchanged. `id` is JSON."""
    found = ours(error)
    if found is None:
        return None
    try:
        return _for_http(method, id, found)
    except RecursionError:  # an error of a tool that looks like ours, nested to the parser's limit
        return _for_http(method, id, BrokerError(found.code, found.message, {"source": "broker"}))


def _for_http(method: str, id: bytes, found: BrokerError) -> bytes:
    if method == methods.TOOLS_CALL:
        return jsonrpc.result(id, failed_tool(found))
    return jsonrpc.failure(id, _encode({"code": INTERNAL, "message": found.message, "data": found.data | {"code": found.code}}))


def failed_tool(found: BrokerError) -> bytes:
    """The result for a tool call that failed in the broker."""
    hint = found.data.get("hint")
    text = f"{found.message}: {hint}" if hint else found.message
    about = {methods.FAILURE_KEY: {"code": found.code, "message": found.message, "data": found.data}}
    return _encode({"content": [{"type": "text", "text": text}], "isError": True, methods.META: about})
