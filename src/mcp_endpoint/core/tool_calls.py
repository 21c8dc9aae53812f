"""What the two frames of a tool call say of it: which tool, and how it ended. Arguments and contents are not looked at."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import UNSET

from .. import errors
from ..protocol.jsonrpc import BACKSLASH, Frame

TOOL_CHARS: Final = 128
"""Characters of a tool's name that a call is known by in logs and figures."""
UNNAMED: Final = "?"
"""What a call is known by there whose tool cannot be read."""
OUTCOMES: Final = {
    errors.NO_PROVIDER.number: "no_provider",
    errors.PROVIDER_GONE.number: "provider_gone",
    errors.BUSY.number: "busy",
    errors.TIMED_OUT.number: "timed_out",
    errors.ANSWER_TOO_BIG.number: "answer_too_big",
}
"""How a call ended that was answered with one of our errors; all other errors are ERROR."""
ERROR: Final = "error"
TOOL_ERROR: Final = "tool_error"
"""The tool ran and says that it failed (`isError` of MCP's CallToolResult)."""
CANCELLED_CALL: Final = "cancelled"
CONSUMER_LEFT: Final = "consumer_left"


class _Named(msgspec.Struct, gc=False):
    name: str


class _Result(msgspec.Struct, gc=False):
    isError: bool = False


class _Error(msgspec.Struct, gc=False):
    code: int


_named_decoder: Final = msgspec.json.Decoder(_Named)
_result_decoder: Final = msgspec.json.Decoder(_Result)
_error_decoder: Final = msgspec.json.Decoder(_Error)
_NAME_FIRST: Final = (b'"params":{"name":"', b'"params": {"name": "')
"""What stands before the name of a tool in the frames of nearly all clients, in the two ways JSON is spaced."""
IS_ERROR: Final = b'"isError"'
"""What stands in a result of which `says_error` may say yes."""
FOUND_QUICKLY: Final = 1024
"""Bytes of an answer up to which to look for that is cheaper than to call `says_error`."""
_IS_TRUE: Final = re.compile(rb'"isError"\s*:\s*true')
_SMALL: Final = 1024
"""Bytes of parameters up to which parsing them is the cheapest way to their name."""
_HEAD_BYTES: Final = 512
"""Bytes at the beginning of a larger frame in which the name is looked for first."""
_PARSED_BYTES: Final = 16 * 1024
"""Larger parameters are not parsed for a name."""
_END_BYTES: Final = 4 * 1024
"""Bytes at either end of an answer in which `isError` is looked for: tools write it before or behind the content."""


def tool_of(frame: Frame, data: bytes) -> str:
    """The tool that the `tools/call` in `data` names, for logs and figures; UNNAMED where that cannot be read cheaply."""
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
    """Whether `"isError": true` stands near an end of `data`."""
    size = len(data)
    for begin, end in ((max(0, size - _END_BYTES), size), (0, _END_BYTES)):
        while (end := data.rfind(IS_ERROR, begin, end)) >= 0:
            if _IS_TRUE.match(data, end):
                return True
    return False


def outcome_of(frame: Frame, data: bytes, *, ours: bool) -> str:
    """How a provider's answer `data` ends its call. `ours`: its errors may be those of this broker, at another endpoint."""
    if frame.error is UNSET:
        return TOOL_ERROR if says_error(frame, data) else ""
    try:
        number = _error_decoder.decode(frame.error).code
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        number = 0
    return OUTCOMES.get(number, ERROR) if ours else ERROR
