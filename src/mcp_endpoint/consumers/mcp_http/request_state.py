"""The `requestState` of a round trip: signed, bound to what it was given for, and good for a limited time.

A client sends it back as it got it (MCP 2026-07-28, multi round-trip requests), so everything in it is an attacker's word until its
signature has been checked. What it holds can be read by whoever has it: the number of a round, or the state a tool gave out itself.
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
"""What every state of ours begins with; another form of it gets another prefix, which is signed too."""
LONGEST: Final = 1_400_000
"""Characters of a state that is looked at: a request's body is at most 1 MiB, in base64."""

_MAC_BYTES: Final = 32
_TIME_BYTES: Final = 8


class Untrusted(Exception):
    """A state that is not ours, not for this request, or too old; the reason is for the log and never told to the client."""


class Seals:
    """Makes and opens the states of one server. `secret` is 32 random bytes, or derived from the server's key."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def close(self, content: bytes, bound_to: bytes, until: float) -> str:
        """A state holding `content`, good for the request that `bound_to` is the fingerprint of, until then (whole seconds, epoch)."""
        body = int(until).to_bytes(_TIME_BYTES, "big") + content
        return PREFIX + urlsafe_b64encode(self._sign(body, bound_to) + body).decode().rstrip("=")

    def open(self, state: str, bound_to: bytes, now: float) -> bytes:
        """What a state holds. Raises Untrusted."""
        if not state.startswith(PREFIX) or len(state) > LONGEST:
            raise Untrusted("not a state of this server")
        text = state[len(PREFIX) :]
        try:
            raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            raise Untrusted("not base64") from None
        if urlsafe_b64encode(raw).decode().rstrip("=") != text:
            raise Untrusted("another spelling of a state")  # the decoder passes over what is not of its alphabet
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._sign(body, bound_to)):
            raise Untrusted("the signature is wrong, or the request is another one")
        if int.from_bytes(body[:_TIME_BYTES], "big") <= now:
            raise Untrusted("too old")
        return body[_TIME_BYTES:]

    def _sign(self, body: bytes, bound_to: bytes) -> bytes:
        return hmac.digest(self._secret, PREFIX.encode() + hashlib.sha256(bound_to).digest() + body, "sha256")


def fingerprint(place: tuple[str, ...], method: str, params: dict[str, Any]) -> bytes:
    """What makes a request the same request again: who may ask, the method, and the parameters without what changes from round to round.

    Two spellings of the same parameters (order of keys, blanks, escapes) have the same fingerprint.
    """
    kept = {name: value for name, value in params.items() if name not in (methods.META, "inputResponses", "requestState")}
    return json.dumps([place, method, kept], sort_keys=True, separators=(",", ":")).encode()
