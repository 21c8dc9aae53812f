"""Signs and verifies the `requestState` of multi round-trip requests (MCP 2026-07-28).

The client returns it unchanged, so its content is untrusted until the signature was verified. It is not encrypted: it contains the number
of a round, or the state that a tool gave out. It is bound to its request and expires.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final

from ...protocol import methods

PREFIX: Final = "mep-round-1."
"""Prefix of every state, also signed; another format gets another prefix."""
LONGEST: Final = 1_400_000
"""Longest state in characters: a request body is at most 1 MiB, base64 makes it longer."""

_MAC_BYTES: Final = 32
_TIME_BYTES: Final = 8


class Untrusted(Exception):
    """A state that is not ours, not for this request, or expired; the reason is for the log only."""


class Seals:
    """Signs and verifies the states of one server. `secret` is 32 random bytes, or derived from the server's key."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def close(self, content: bytes, bound_to: bytes, until: float) -> str:
        """A state with `content`, valid for the request with the fingerprint `bound_to`, until `until` (seconds since 1970)."""
        body = int(until).to_bytes(_TIME_BYTES, "big") + content
        return PREFIX + urlsafe_b64encode(self._sign(body, bound_to) + body).decode().rstrip("=")

    def open(self, state: str, bound_to: bytes, now: float) -> bytes:
        """The content of a state. Raises Untrusted."""
        if not state.startswith(PREFIX) or len(state) > LONGEST:
            raise Untrusted("not a state of this server")
        text = state[len(PREFIX) :]
        try:
            raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            raise Untrusted("not base64") from None
        if urlsafe_b64encode(raw).decode().rstrip("=") != text:
            raise Untrusted("another spelling of a state")  # the decoder ignores other characters
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._sign(body, bound_to)):
            raise Untrusted("the signature is wrong, or the request is another one")
        if int.from_bytes(body[:_TIME_BYTES], "big") <= now:
            raise Untrusted("too old")
        return body[_TIME_BYTES:]

    def _sign(self, body: bytes, bound_to: bytes) -> bytes:
        return hmac.digest(self._secret, PREFIX.encode() + hashlib.sha256(bound_to).digest() + body, "sha256")


def fingerprint(place: tuple[str, ...], method: str, params: dict[str, Any]) -> bytes:
    """Identifies a request over several rounds: place, method, and the parameters that stay the same.

    Different JSON spellings of the same parameters have the same fingerprint.
    """
    kept = {name: value for name, value in params.items() if name not in (methods.META, "inputResponses", "requestState")}
    return json.dumps([place, method, kept], sort_keys=True, separators=(",", ":")).encode()
