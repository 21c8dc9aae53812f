"""What is changed in answers for clients that know less of MCP than the tools: by the revision they ask for, and by settings."""

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
"""How nearly all results begin, in the two ways JSON is spaced: they have a content. To look for this costs less than for what is rare."""
_HEAD_BYTES: Final = 96

Edit = Callable[[Part, Part, int], bytes | None]
"""An answer in two parts, and the most bytes its consumer takes, to what goes out instead; None for the answer as it came."""


def edits_for(name: str, version: str, settings: EndpointSettings) -> Mapping[str, Edit]:
    """Method → what is changed in its answers, for the client of this name that asks for this revision of MCP; "" if it asks for none."""
    edits: dict[str, Edit] = {}
    rule = settings.structured_as_text
    if rule == "always" or (rule == "old" and version < methods.STRUCTURED_SINCE):
        edits[methods.TOOLS_CALL] = _text
    if any(fnmatchcase(name, pattern) for pattern in settings.inline_references_for):
        edits[methods.TOOLS_LIST] = _inline
    return edits


def _text(first: Part, second: Part, most: int) -> bytes | None:
    """The answer to a call, with a text where it holds none; as it came where it would then be too large to be given at all."""
    if isinstance(first, bytes) and first.find(_CONTENT_FIRST, 0, _HEAD_BYTES) >= 0:
        return None  # nearly always
    frame = _frame(first, second)
    if frame.find(_CONTENT_FIRST, 0, _HEAD_BYTES) >= 0 or frame.find(_CONTENT_FIRST_SPACED, 0, _HEAD_BYTES) >= 0 or STRUCTURED not in frame:
        return None
    told = with_text(b"".join((first, second)))
    return told if len(told) <= most else None


def _inline(first: Part, second: Part, most: int) -> bytes | None:
    """A list whose schemas have no references; as it came where it would then be too large."""
    if REFERENCE not in _frame(first, second):
        return None
    told = tools_inlined(b"".join((first, second)))
    return told if len(told) <= most else None


def _frame(first: Part, second: Part) -> bytes:
    """What stands in the two parts, or the frame that the larger one was cut from: what is large is not copied to look at it."""
    if isinstance(first, bytes):
        return first + second if isinstance(second, bytes) else cast("bytes", second.obj)
    return cast("bytes", first.obj)
