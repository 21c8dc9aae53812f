"""What is changed in answers for clients that know less of MCP than the tools: by the revision they ask for, and by settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, cast

from ..protocol.jsonrpc import Part
from ..protocol.structured import STRUCTURED, with_text
from ..settings.schema import EndpointSettings

STRUCTURED_SINCE: Final = "2025-06-18"
"""The revision of MCP that brought `structuredContent`."""

Edit = Callable[[Part, Part, int], tuple[Part, Part]]
"""An answer in two parts, and the most bytes its consumer takes, to the parts that go out."""


def edits_for(version: str, settings: EndpointSettings) -> Mapping[str, Edit]:
    """Method → what is changed in its answers, for a client that asks for this revision of MCP; "" if it asks for none."""
    edits: dict[str, Edit] = {}
    rule = settings.structured_as_text
    if rule == "always" or (rule == "old" and version < STRUCTURED_SINCE):
        edits["tools/call"] = _text
    return edits


def _text(first: Part, second: Part, most: int) -> tuple[Part, Part]:
    """The answer to a call, with a text where it holds none; as it came where it would then be too large to be given at all."""
    if not _holds(first, STRUCTURED) and not _holds(second, STRUCTURED):
        return first, second
    told = with_text(b"".join((first, second)))
    return (told, b"") if len(told) <= most else (first, second)


def _holds(part: Part, word: bytes) -> bool:
    """Whether the word stands in a part of a frame, or in the frame it was cut from: a part that is large is not copied to look."""
    return word in (cast("bytes", part.obj) if isinstance(part, memoryview) else part)
