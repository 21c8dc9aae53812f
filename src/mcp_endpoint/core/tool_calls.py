"""Reads the tool name and the outcome of a tool call from its frames; arguments and contents are not examined."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import UNSET

from .. import errors
from ..protocol.jsonrpc import BACKSLASH, Frame

TOOL_CHARS: Final = 128
"""Characters of a tool's name in logs and figures."""
UNNAMED: Final = "?"
"""The name in logs and figures if it cannot be read."""
OUTCOMES: Final = {
    errors.NO_PROVIDER.number: "no_provider",
    errors.PROVIDER_GONE.number: "provider_gone",
    errors.BUSY.number: "busy",
    errors.TIMED_OUT.number: "timed_out",
    errors.ANSWER_TOO_BIG.number: "answer_too_big",
}
"""The outcome for our own error codes; ERROR for all others."""
ERROR: Final = "error"
TOOL_ERROR: Final = "tool_error"
"""The tool ran and reports a failure (`isError` of MCP's CallToolResult)."""
CANCELLED_CALL: Final = "cancelled"
CONSUMER_LEFT: Final = "consumer_left"


class _CalledName(msgspec.Struct, gc=False):
    name: str


class _IsError(msgspec.Struct, gc=False):
    isError: bool = False


class _ErrorNumber(msgspec.Struct, gc=False):
    code: int


_named_decoder: Final = msgspec.json.Decoder(_CalledName)
_result_decoder: Final = msgspec.json.Decoder(_IsError)
_error_decoder: Final = msgspec.json.Decoder(_ErrorNumber)
_NAME_FIRST: Final = (b'"params":{"name":"', b'"params": {"name": "')
"""What precedes the tool's name in nearly all frames, in two spellings."""
IS_ERROR: Final = b'"isError"'
"""A result without this has no `isError`."""
FOUND_QUICKLY: Final = 1024
"""Responses up to this many bytes are searched for it before `says_error` is called: that is cheaper."""
_IS_TRUE: Final = re.compile(rb'"isError"\s*:\s*true')
_SMALL: Final = 1024
"""Parameters up to this many bytes are parsed for the name: that is the cheapest way."""
_HEAD_BYTES: Final = 512
"""Bytes at the beginning of a larger frame that are searched for the name first."""
_PARSED_BYTES: Final = 16 * 1024
"""Larger parameters are not parsed for a name."""
_END_BYTES: Final = 4 * 1024
"""Bytes at either end of an answer in which `isError` is looked for: tools write it before or behind the content."""


def tool_of(frame: Frame, data: bytes) -> str:
    """The tool name in the `tools/call` in `data`, for logs and figures; UNNAMED if it cannot be read cheaply."""
    params = frame.params
    if params is UNSET:
        return UNNAMED
    size = len(params)
    if size > _SMALL:
        for before in _NAME_FIRST:
            start = data.find(before, 0, _HEAD_BYTES)
            if start >= 0:
                start += len(before)
                end = data.find(b'"', start, start + TOOL_CHARS + 1)
                if end > start and BACKSLASH not in (name := data[start:end]):
                    return name.decode("utf-8", "replace")
                break
        if size > _PARSED_BYTES:
            return UNNAMED
    try:
        return _named_decoder.decode(params).name[:TOOL_CHARS] or UNNAMED
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNNAMED


def says_error(frame: Frame, data: bytes) -> bool:
    """Whether the answer `data` of a tool has a result with `"isError": true` (MCP's CallToolResult)."""
    if frame.result is UNSET or not _claims_error(data):
        return False
    try:
        return _result_decoder.decode(frame.result).isError
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _claims_error(data: bytes) -> bool:
    """Whether `"isError": true` occurs near an end of `data`."""
    size = len(data)
    for begin, end in ((max(0, size - _END_BYTES), size), (0, _END_BYTES)):
        while (end := data.rfind(IS_ERROR, begin, end)) >= 0:
            if _IS_TRUE.match(data, end):
                return True
    return False


def outcome_of(frame: Frame, data: bytes, *, ours: bool) -> str:
    """The outcome of a call from its response `data`. `ours`: its errors may be those of this broker, at another endpoint."""
    if frame.error is UNSET:
        return TOOL_ERROR if says_error(frame, data) else ""
    try:
        number = _error_decoder.decode(frame.error).code
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        number = 0
    return OUTCOMES.get(number, ERROR) if ours else ERROR
