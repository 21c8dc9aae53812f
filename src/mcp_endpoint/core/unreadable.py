"""Handles unreadable frames: counts them, logs some, and answers where it helps."""

from __future__ import annotations

from .. import errors
from ..protocol.jsonrpc import Malformed, Unreadable
from .ledger import Ledger, number_text
from .parties import Consumer, Provider


def bad_frame(ledger: Ledger, consumer: Consumer, malformed: Malformed) -> None:
    """Count an invalid frame of a consumer; close the link after too many."""
    consumer.bad_frames += 1
    ledger.counters.bad_frames += 1
    if consumer.bad_frames == 1:
        ledger.watch.tell("bad frame", ledger.shown, why=malformed.why)
    if consumer.bad_frames >= ledger.limits.bad_frames:
        consumer.link.close(*errors.TOO_MANY_BAD_FRAMES)


def noise(ledger: Ledger, provider: Provider, data: bytes, malformed: Malformed, now: float) -> None:
    """Count a provider's frame that is not JSON-RPC (output of a stdio server). Only a batch is answered."""
    provider.noise += 1
    ledger.counters.noise += 1
    array = malformed.code is errors.INVALID_REQUEST and data.lstrip()[:1] == b"["
    if array and provider.link.queued <= ledger.limits.queued_bytes_per_link:
        ledger.say(provider, ledger.error(b"null", malformed.code, malformed.why, delivered=False))
    if now >= provider.noise_told + 60:
        provider.noise_told = now
        start = data[:80].decode("utf-8", "backslashreplace")
        ledger.watch.tell("noise", ledger.shown, frames=provider.noise, why=malformed.why, start=start, label=provider.label)


def error_of(ledger: Ledger, provider: Provider, unreadable: Unreadable) -> bytes | None:
    """The error response that replaces an unreadable response, so that its consumer does not wait.

    Without an id it belongs to the only call in flight; with several calls none is ended (None).
    """
    calls = provider.pending.calls
    number = next(iter(calls)) if unreadable.number is None and len(calls) == 1 else unreadable.number
    return None if number is None else ledger.error(number_text(number), unreadable.code, unreadable.hint, delivered=True)
