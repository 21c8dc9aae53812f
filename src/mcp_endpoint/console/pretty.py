"""Indents JSON for people to read; numbers stay as they were received."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import msgspec

MOST: Final = 256 * 1024
"""Bytes of JSON above which it is shown as it came: to put it into lines takes time that others wait."""


def pretty(value: Any) -> str:
    """A value as JSON in lines; bytes are JSON already, or shown as they are."""
    data = bytes(value) if isinstance(value, bytes | msgspec.Raw) else msgspec.json.encode(value)
    if len(data) <= MOST:
        with suppress(msgspec.DecodeError, RecursionError):  # no JSON, or nested too deep
            data = msgspec.json.format(data, indent=2)
    return data.decode("utf-8", "replace")
