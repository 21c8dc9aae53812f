"""Our errors as HTTP consumers hear them: a failed tool is a result that says so, and no code of ours lies where MCP has its own.

MCP 2026-07-28 keeps -32000 to -32019 free of new meanings and gives codes above to itself, and language models see a tool's failure
only in a result (MCP, Tools, "Error Handling"). So -32001 to -32008, which devices know, do not leave over HTTP.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ...protocol import jsonrpc, methods
from ...protocol.stateless import INTERNAL

_encode: Final = msgspec.json.Encoder().encode


class Failure(msgspec.Struct):
    """An error object of the broker's own."""

    code: int
    message: str
    data: dict[str, Any]


_decoder: Final = msgspec.json.Decoder(Failure)


def ours(error: bytes | msgspec.Raw) -> Failure | None:
    """The error object if it is one of the broker's own with a code that may not leave over HTTP; None for all others."""
    if b'"broker"' not in bytes(error):
        return None
    try:
        found = _decoder.decode(error)
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if found.data.get("source") == "broker" and -32099 <= found.code <= -32000 else None


def told(method: str, id: bytes, error: bytes | msgspec.Raw) -> bytes | None:
    """The frame that stands for an error answer to `method` over HTTP, or None if it may leave as it is. `id` is JSON."""
    found = ours(error)
    if found is None:
        return None
    try:
        return _told(method, id, found)
    except RecursionError:  # a tool made it look like ours, and as deep as it could be read
        return _told(method, id, Failure(found.code, found.message, {"source": "broker"}))


def _told(method: str, id: bytes, found: Failure) -> bytes:
    if method == methods.TOOLS_CALL:
        return jsonrpc.result(id, failed_tool(found))
    return jsonrpc.failure(id, _encode({"code": INTERNAL, "message": found.message, "data": found.data | {"code": found.code}}))


def failed_tool(found: Failure) -> bytes:
    """The result of a tool call that failed on the way."""
    hint = found.data.get("hint")
    text = f"{found.message}: {hint}" if hint else found.message
    about = {methods.FAILURE_KEY: {"code": found.code, "message": found.message, "data": found.data}}
    return _encode({"content": [{"type": "text", "text": text}], "isError": True, methods.META: about})
