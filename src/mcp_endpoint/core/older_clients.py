"""Adapts responses for clients with older revisions of MCP, or as configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Final, cast

from ..protocol import methods
from ..protocol.jsonrpc import Part
from ..protocol.schemas import REFERENCE, tools_inlined
from ..protocol.structured import STRUCTURED, with_text
from ..settings.schema import EndpointSettings

_CONTENT_FIRST: Final = b'"result":{"content":[{'
_CONTENT_FIRST_SPACED: Final = b'"result": {"content": [{'
"""How nearly all results begin, in two spellings: they have content. This check is cheaper than looking for the rare case."""
_HEAD_BYTES: Final = 96

Edit = Callable[[Part, Part, int], bytes | None]
"""Edits a response (in two parts, with its consumer's size limit); returns None to leave it unchanged."""


def edits_for(name: str, version: str, settings: EndpointSettings) -> Mapping[str, Edit]:
    """Method → edit of its responses, for a client with this name and requested revision ("" for none)."""
    edits: dict[str, Edit] = {}
    rule = settings.structured_as_text
    if rule == "always" or (rule == "old" and version < methods.STRUCTURED_SINCE):
        edits[methods.TOOLS_CALL] = _text
    if any(fnmatchcase(name, pattern) for pattern in settings.inline_references_for):
        edits[methods.TOOLS_LIST] = _inline
    return edits


def _text(first: Part, second: Part, most: int) -> bytes | None:
    """The response to a call, with a text if it has none; unchanged if it would become too large."""
    if isinstance(first, bytes) and first.find(_CONTENT_FIRST, 0, _HEAD_BYTES) >= 0:
        return None  # nearly always
    frame = _frame(first, second)
    if frame.find(_CONTENT_FIRST, 0, _HEAD_BYTES) >= 0 or frame.find(_CONTENT_FIRST_SPACED, 0, _HEAD_BYTES) >= 0 or STRUCTURED not in frame:
        return None
    told = with_text(b"".join((first, second)))
    return told if len(told) <= most else None


def _inline(first: Part, second: Part, most: int) -> bytes | None:
    """A list with references in schemas resolved; unchanged if it would become too large."""
    if REFERENCE not in _frame(first, second):
        return None
    told = tools_inlined(b"".join((first, second)))
    return told if len(told) <= most else None


def _frame(first: Part, second: Part) -> bytes:
    """The whole frame, or the frame that the larger part is a view of: large frames are not copied to be searched."""
    if isinstance(first, bytes):
        return first + second if isinstance(second, bytes) else cast("bytes", second.obj)
    return cast("bytes", first.obj)
