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
"""What stands in an answer of which `outcome_of` may say more than that it is one."""
_IS_TRUE: Final = re.compile(rb'"isError"\s*:\s*true')
_LOOKED_AT: Final = 16 * 1024
"""Bytes of parameters, and of either end of an answer, in which a name or `isError` is looked for."""
_HEAD_BYTES: Final = 512
"""Bytes at the beginning of a frame in which that is looked for."""


def tool_of(frame: Frame, data: bytes) -> str:
    """The tool that the `tools/call` in `data` names, for logs and figures; UNNAMED where that cannot be read cheaply."""
    for before in _NAME_FIRST:
        start = data.find(before, 0, _HEAD_BYTES)
        if start >= 0:
            start += len(before)
            end = data.find(b'"', start, start + TOOL_CHARS + 1)
            if end > start and BACKSLASH not in (name := data[start:end]):
                return name.decode("utf-8", "replace")
            break
    params = frame.params
    if params is UNSET or len(params) > _LOOKED_AT:
        return UNNAMED
    try:
        return _named_decoder.decode(params).name[:TOOL_CHARS] or UNNAMED
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNNAMED


def outcome_of(frame: Frame, data: bytes, *, ours: bool) -> str:
    """How a provider's answer `data` ends its call. `ours`: its errors may be those of this broker, at another endpoint."""
    if frame.error is not UNSET:
        try:
            number = _error_decoder.decode(frame.error).code
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            number = 0
        return OUTCOMES.get(number, ERROR) if ours else ERROR
    ends = data if len(data) <= 2 * _LOOKED_AT else data[:_LOOKED_AT] + data[-_LOOKED_AT:]
    if IS_ERROR not in ends or _IS_TRUE.search(ends) is None:
        return ""
    try:
        return TOOL_ERROR if frame.result is not UNSET and _result_decoder.decode(frame.result).isError else ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
