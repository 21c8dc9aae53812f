"""Which key of an upstream is next, which rests and which is banned.

Rules of this module:

1. Keys take turns: over k·N requests each of N keys is taken k times, give or take one, however many requests are under way at a time.
2. 401 and 403 ban a key for good: the upstream does not know it.
3. 429 and faults let it rest: until the upstream's Retry-After, else for `rest_seconds`.
4. When all that are left rest, all are taken up again: a request that might succeed is better than none.
5. A key is shown to nobody whole, not by `repr` either. What is remembered of a banned one is its SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from enum import Enum
from typing import Final, NamedTuple

BANNED_BY: Final = frozenset((401, 403))
"""What an upstream answers for a key it does not know (RFC 9110 §15.5.2, §15.5.4)."""
RESTED_BY: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
"""What it answers when the key, or itself, has had enough for now."""
REFUSED_BY: Final = frozenset((401, 403, 429, 503))
"""Of these, what says that the request was not carried out, so that it may be repeated with another key."""
PREVIEW_CHARS: Final = 20
"""Characters of a key that an operator sees of it, never more than half of them."""
LONGEST_REST: Final = 86_400.0
"""Seconds. A Retry-After beyond it is a mistake."""


class Credential:
    """One key of an upstream."""

    __slots__ = ("fingerprint", "secret", "user")

    def __init__(self, secret: str, user: str = "") -> None:
        self.secret = secret
        self.user = user
        """Whose it is, as the accounts file says; for the operator only."""
        self.fingerprint = hashlib.sha256(secret.encode()).hexdigest()

    @property
    def preview(self) -> str:
        """Its beginning, for an operator who has to find it again in a list."""
        return f"{self.secret[: min(PREVIEW_CHARS, len(self.secret) // 2)]}..."

    @property
    def shown(self) -> str:
        """What the log calls it: enough to tell two apart, nothing of the key but its last four characters."""
        return f"…{self.secret[-4:] if len(self.secret) >= 16 else ''} (sha256 {self.fingerprint[:8]})"

    def __repr__(self) -> str:
        return f"<Credential {self.shown}>"


class Verdict(Enum):
    """What an upstream's answer means for the key it was asked with."""

    FINE = "fine"
    REST = "rest"
    BAN = "ban"


class Counts(NamedTuple):
    """How many keys a pool has; `total` is the sum of the other three."""

    total: int
    resting: int
    banned: int
    available: int


class CredentialPool:
    """The keys of one upstream, with rest and ban."""

    def __init__(self, credentials: Iterable[Credential], *, rest_seconds: float = 60.0, banned: Collection[str] = ()) -> None:
        """`banned` are fingerprints; a key that is given twice counts once."""
        self.credentials = tuple({credential.secret: credential for credential in credentials}.values())
        self.banned = {credential.fingerprint for credential in self.credentials} & set(banned)
        self.resets = 0
        """How often all that were left had to be taken up again."""
        self._rest_seconds = rest_seconds
        self._resting: dict[Credential, float] = {}
        self._next = 0

    def take(self, now: float, tried: Collection[Credential] = ()) -> Credential | None:
        """The next key that is neither banned nor resting nor `tried`; None if there is none. `now` is monotonic, in seconds.

        Keys that were tried for one request are not taken up again for it.
        """
        self._wake(now)
        left = [credential for credential in self.credentials if credential.fingerprint not in self.banned]
        if left and all(credential in self._resting for credential in left) and not tried:
            self._resting.clear()
            self.resets += 1
        for step in range(len(self.credentials)):
            index = (self._next + step) % len(self.credentials)
            credential = self.credentials[index]
            if credential.fingerprint not in self.banned and credential not in self._resting and credential not in tried:
                self._next = index + 1
                return credential
        return None

    def report(self, credential: Credential, status: int | None, now: float, retry_after: float | None = None) -> Verdict:
        """What an upstream answered with a key: its HTTP status, None for no answer; and its Retry-After in seconds."""
        if status in BANNED_BY:
            self.banned.add(credential.fingerprint)
            self._resting.pop(credential, None)
            return Verdict.BAN
        if status is None or status in RESTED_BY:
            self._resting[credential] = now + (self._rest_seconds if retry_after is None else min(max(retry_after, 0.0), LONGEST_REST))
            return Verdict.REST
        return Verdict.FINE

    def counts(self, now: float) -> Counts:
        """How many there are, rest, are banned, and can be taken."""
        self._wake(now)
        total, banned = len(self.credentials), len(self.banned)
        resting = sum(credential.fingerprint not in self.banned for credential in self._resting)
        return Counts(total, resting, banned, total - resting - banned)

    def banned_credentials(self) -> list[Credential]:
        """Those of its keys that are banned."""
        return [credential for credential in self.credentials if credential.fingerprint in self.banned]

    def _wake(self, now: float) -> None:
        for credential in [credential for credential, until in self._resting.items() if until <= now]:
            del self._resting[credential]
