"""The text of a tool's result that holds `structuredContent` alone (MCP 2025-06-18): older clients show nothing but `content`."""

from __future__ import annotations

from typing import Final

import msgspec

from .jsonrpc import Malformed, members, splice

STRUCTURED: Final = b'"structuredContent"'
"""What stands in an answer that may need a text."""

_BLANKS: Final = b" \t\r\n"
_encode: Final = msgspec.json.Encoder().encode


def with_text(answer: bytes) -> bytes:
    """An answer to `tools/call`, with the JSON of its `structuredContent` as a text in `content` if that is empty or missing.

    Every other byte stays as it came; an answer that has a content, or cannot be read, is given back as it is.
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
