"""What an upstream's answer says of the key that it was asked with.

A status is judged by its class. Where 401 and 403 may speak of the key or of the request, the words beside them help: a challenge of
`insufficient_scope` (RFC 6750 §3.1) speaks of the request, a quota or a balance of the key's account.
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
"""What says that the request was not carried out, so that it may be repeated with another key."""
LOOKED_AT: Final = frozenset((401, 403, 429))
"""Refusals whose words are read, because the status alone does not say what was refused."""
LONGEST_REST: Final = 86_400.0
"""Seconds. A Retry-After beyond it is a mistake."""
LOOK_BYTES: Final = 8192
"""Of a body. An error says what it has to say at its beginning."""

_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_SCOPE: Final = re.compile(r"insufficient[ _-]?scope", re.IGNORECASE)
_SPENT: Final = re.compile(r"quota|insufficient[ _-]?(?:funds|balance|credit)|billing|out of credit|额度|余额|欠费|配额", re.IGNORECASE)
_LIMITED: Final = re.compile(r"rate[ _-]?limit|too many requests|throttl|限流|频率", re.IGNORECASE)


class Meaning(Enum):
    """What an answer says of the key."""

    FINE = "fine"
    """Nothing."""
    BUSY = "busy"
    """It, or the service, has had enough for now."""
    SPENT = "spent"
    """Its account has nothing left."""
    REFUSED = "refused"
    """The service does not take it, for this request or for any."""
    SCOPE = "scope"
    """It is known, and may not do this."""


class Answer(NamedTuple):
    """As much of an answer as speaks of the key."""

    status: int | None
    """None: there was no answer."""
    retry_after: float | None = None
    """Seconds the service asks to wait."""
    challenge: str = ""
    """`WWW-Authenticate`."""
    words: bytes = b""
    """The beginning of its body, not compressed; looked at only where the status is in `LOOKED_AT`."""


def meaning(answer: Answer) -> Meaning:
    """What an answer says of the key it was asked with."""
    status = answer.status
    if status is None or status in (408, 425) or 500 <= status <= 599:
        return Meaning.BUSY
    if status == 402:
        return Meaning.SPENT
    if status not in LOOKED_AT:
        return Meaning.FINE
    words = answer.words[:LOOK_BYTES].decode("utf-8", "replace")
    if status == 429:
        return Meaning.SPENT if _SPENT.search(words) else Meaning.BUSY
    if _SCOPE.search(answer.challenge) or _SCOPE.search(words):
        return Meaning.SCOPE
    if status == 403 and _LIMITED.search(words):
        return Meaning.BUSY
    if status == 403 and _SPENT.search(words):
        return Meaning.SPENT
    return Meaning.REFUSED


def retry_after(headers: Mapping[str, str], epoch: float) -> float | None:
    """The seconds that `Retry-After` (RFC 9110 §10.2.3: a number, or a date) or `retry-after-ms` asks to wait; None if neither does.

    `headers` are looked up in lower case. `epoch` is the time now, in seconds since 1970; a date is compared with the service's own `Date`
    where it gives one, because its clock may be wrong. Neither negative nor more than `LONGEST_REST`.
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
    """An HTTP date in seconds since 1970; it is in GMT even where it does not say so."""
    try:
        date = parsedate_to_datetime(text.strip())
        return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def plain(body: bytes, encoding: str) -> bytes:
    """The first `LOOK_BYTES` of a body that may be compressed; nothing where it cannot be read."""
    if encoding.strip().lower() in ("", "identity"):
        return body[:LOOK_BYTES]
    try:
        return zlib.decompressobj(47).decompress(body, LOOK_BYTES)  # gzip and deflate
    except zlib.error:
        return b""


class _Told(msgspec.Struct):
    """The members of a JSON object by which services say that something failed."""

    error: object = None
    success: object = None


_told: Final = msgspec.json.Decoder(_Told)


def is_failure(body: bytes) -> bool:
    """Whether a whole JSON body says that the request failed, whatever its HTTP status was: then it shows of no key that it works."""
    try:
        told = _told.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return bool(told.error) or told.success is False
