"""Adds a text to tool results that contain only `structuredContent` (MCP 2025-06-18), for clients that show only `content`."""

from __future__ import annotations

from typing import Final

import msgspec

from .jsonrpc import Malformed, members, splice

STRUCTURED: Final = b'"structuredContent"'
"""A response without this needs no text."""

_BLANKS: Final = b" \t\r\n"
_encode: Final = msgspec.json.Encoder().encode


def with_text(answer: bytes) -> bytes:
    """A response to `tools/call` with its `structuredContent` as JSON text in `content`, if that is empty or missing.

    All other bytes are unchanged; a response with content, or an unreadable one, is returned as it is.
    """
    try:
        result = members(answer).get("result")
        body = b"" if result is None else answer[result.start : result.end]
        if result is None or body[:1] != b"{":
            return answer
        places = members(body)
        structured, content = places.get("structuredContent"), places.get("content")
        if structured is None or (json := body[structured.start : structured.end]) == b"null":
            return answer
        text = b'[{"type":"text","text":%b}]' % _encode(json.decode())
    except (Malformed, msgspec.DecodeError, UnicodeDecodeError):
        return answer
    if content is None:
        at = result.start + structured.key
        return splice(answer, [(at, at, b'"content":%b,' % text)])
    if body[content.start : content.end].translate(None, _BLANKS) not in (b"[]", b"null"):
        return answer
    return splice(answer, [(result.start + content.start, result.start + content.end, text)])
