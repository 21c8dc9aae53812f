"""Decides what an upstream's response says about the key it was sent with.

The status decides in general. 401 and 403 may concern the key or the request, so their text is read too: a challenge of
`insufficient_scope` (RFC 6750 §3.1) concerns the request, a quota or a balance the key's account.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final, NamedTuple

import msgspec

NOT_RUN: Final = frozenset((401, 402, 403, 429, 503, 529))
"""Statuses that say that the request was not executed: it may be repeated with another key."""
LOOKED_AT: Final = frozenset((401, 403, 429))
"""Refusals whose text is read, because the status alone does not say what was refused."""
LONGEST_REST: Final = 86_400.0
"""Seconds. A longer Retry-After is taken for a mistake."""
LOOK_BYTES: Final = 8192
"""Bytes of a body that are read; an error is at the beginning."""

_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_SCOPE: Final = re.compile(r"insufficient[ _-]?scope", re.IGNORECASE)
_SPENT: Final = re.compile(r"quota|insufficient[ _-]?(?:funds|balance|credit)|billing|out of credit|额度|余额|欠费|配额", re.IGNORECASE)
_LIMITED: Final = re.compile(r"rate[ _-]?limit|too many requests|throttl|限流|频率", re.IGNORECASE)


class Meaning(Enum):
    """What a response says about the key."""

    FINE = "fine"
    """Nothing."""
    BUSY = "busy"
    """The key, or the service, is overloaded for now."""
    SPENT = "spent"
    """The account has no quota or money left."""
    REFUSED = "refused"
    """The service rejects the key, for this request or for all."""
    SCOPE = "scope"
    """The key is valid but lacks the permission."""


class Answer(NamedTuple):
    """The parts of a response that concern the key."""

    status: int | None
    """None: no response."""
    retry_after: float | None = None
    """Seconds the service asks to wait."""
    challenge: str = ""
    """`WWW-Authenticate`."""
    text: bytes = b""
    """The beginning of the body, decompressed; read only if the status is in `LOOKED_AT`."""


def meaning(answer: Answer) -> Meaning:
    """What a response says about its key."""
    status = answer.status
    if status is None or status in (408, 425) or 500 <= status <= 599:
        return Meaning.BUSY
    if status == 402:
        return Meaning.SPENT
    if status not in LOOKED_AT:
        return Meaning.FINE
    text = answer.text[:LOOK_BYTES].decode("utf-8", "replace")
    if status == 429:
        return Meaning.SPENT if _SPENT.search(text) else Meaning.BUSY
    if _SCOPE.search(answer.challenge) or _SCOPE.search(text):
        return Meaning.SCOPE
    if status == 403 and _LIMITED.search(text):
        return Meaning.BUSY
    if status == 403 and _SPENT.search(text):
        return Meaning.SPENT
    return Meaning.REFUSED


def retry_after(headers: Mapping[str, str], epoch: float) -> float | None:
    """Seconds of `Retry-After` (RFC 9110 §10.2.3: a number or a date) or `retry-after-ms`; None without either.

    Header names of `headers` are lower case. `epoch` is the current time in seconds since 1970; a date is compared with the service's own
    `Date` if there is one, because its clock may be wrong. The result is between 0 and `LONGEST_REST`.
    """
    millis = _number(headers.get("retry-after-ms", ""))
    if millis is not None:
        return min(millis / 1000, LONGEST_REST)
    text = headers.get("retry-after", "")
    seconds = _number(text)
    if seconds is None:
        until, since = _date(text), _date(headers.get("date", ""))
        if until is None:
            return None
        seconds = max(0.0, until - (epoch if since is None else since))
    return min(seconds, LONGEST_REST)


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text := text.strip()) else None


def _date(text: str) -> float | None:
    """An HTTP date in seconds since 1970; without a zone it is GMT."""
    try:
        date = parsedate_to_datetime(text.strip())
        return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def plain(body: bytes, encoding: str) -> bytes:
    """The first `LOOK_BYTES` of a body, decompressed if necessary; empty if it cannot be decompressed."""
    if encoding.strip().lower() in ("", "identity"):
        return body[:LOOK_BYTES]
    try:
        return zlib.decompressobj(47).decompress(body, LOOK_BYTES)  # gzip and deflate
    except zlib.error:
        return b""


class _ErrorFields(msgspec.Struct):
    """The members of a JSON object that signal a failure."""

    error: object = None
    success: object = None


_error_fields: Final = msgspec.json.Decoder(_ErrorFields)


def is_failure(body: bytes) -> bool:
    """Whether a complete JSON body signals a failure, whatever its status: then it does not prove that the key is valid."""
    try:
        fields = _error_fields.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return bool(fields.error) or fields.success is False
