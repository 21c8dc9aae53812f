"""Which key of an upstream is next, which rests, which is banned, and what is known of each.

Rules of this module:

1. Keys take turns: over k·N requests each of N keys is taken k times, give or take one, however many requests are under way at a time.
2. A key rests until a time. Where the service named the time the key waits for it; every other rest ends early when no key is left.
3. A banned key is not taken, until it is lifted or `recheck_seconds` have passed: then one request tries it, and its success lifts the ban.
4. What is remembered of where a key worked is bounded: `ROUTES_OF_KEY` routes of each, `ROUTES` of all together.
5. A key is shown to nobody whole, not by `repr` either. What is remembered of a banned one is its SHA-256.

What happens to a key for an answer is decided in `rotation`.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from typing import Final, NamedTuple

from .refusals import LONGEST_REST

PREVIEW_CHARS: Final = 20
"""Characters of a key that an operator sees of it, never more than half of them."""
ROUTES: Final = 1024
"""Routes of which a pool remembers the key that worked there last; the one used longest ago is forgotten first."""
ROUTES_OF_KEY: Final = 16
"""Routes of which it is remembered that a key worked there."""


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


class Event(Enum):
    """What happens to keys, for whoever tells the operator and keeps the bans."""

    REST = "rest"
    BAN = "ban"
    LIFT = "lift"
    RESET = "reset"
    """No key was left: those that rested on our own account are taken up again."""


Tell = Callable[[Event, Credential | None, int | None], None]
"""Hears an event, its key (None for a reset) and the status that caused it (None: no answer)."""


class Counts(NamedTuple):
    """How many keys a pool has; `total` is the sum of the other three."""

    total: int
    resting: int
    banned: int
    available: int


class Figure(NamedTuple):
    """What is known of one key; times are monotonic seconds."""

    credential: Credential
    state: str
    """`available`, `resting` or `banned`."""
    requests: int
    used: float | None
    """When it was taken last."""
    status: int | None
    """What the service answered last."""
    until: float | None
    """When its rest ends."""


class Rest(NamedTuple):
    """How long a key rests, and whether the service said so."""

    until: float
    told: bool


class _Record:
    """What is known of one key that has been used."""

    __slots__ = ("requests", "status", "used", "worked")

    def __init__(self) -> None:
        self.requests = 0
        self.used: float | None = None
        self.status: int | None = None
        self.worked: OrderedDict[int, Credential] = OrderedDict()


class CredentialPool:
    """The keys of one upstream, with rest and ban. `now` is monotonic, in seconds, everywhere."""

    def __init__(
        self,
        credentials: Iterable[Credential],
        *,
        rest_seconds: float = 60.0,
        spent_seconds: float = 3600.0,
        recheck_seconds: float = 0.0,
        banned: Mapping[str, float] | None = None,
        tell: Tell = lambda event, credential, status: None,
    ) -> None:
        """`banned`: fingerprint → when it may be tried again; a key that is given twice counts once.

        A key without quota rests `spent_seconds`, any other `rest_seconds`. `recheck_seconds` of 0 lifts no ban.
        """
        self.credentials: tuple[Credential, ...] = ()
        self._known: frozenset[Credential] = frozenset()
        self.resets = 0
        """How often all that were left had to be taken up again."""
        self._rest_seconds = rest_seconds
        self._spent_seconds = spent_seconds
        self._recheck_seconds = recheck_seconds or math.inf
        self._tell = tell
        self._banned: dict[str, float] = {}
        self._resting: dict[Credential, Rest] = {}
        self._records: dict[Credential, _Record] = {}
        self._routes: OrderedDict[int, Credential] = OrderedDict()
        self._next = 0
        self._first: float | None = None
        """While every key waits for a time the service named: the first of them, so that nobody looks through all keys meanwhile."""
        self.renew(credentials, banned or {})

    def renew(self, credentials: Iterable[Credential], banned: Mapping[str, float]) -> None:
        """Take over another list of keys and bans. Of a key that stays everything else that is known stays too."""
        self._first = None
        known = {credential.secret: credential for credential in self.credentials}
        given = {credential.secret: known.get(credential.secret, credential) for credential in credentials}
        self.credentials = tuple(given.values())
        kept = self._known = frozenset(given.values())
        self._banned = {one.fingerprint: banned[one.fingerprint] for one in self.credentials if one.fingerprint in banned}
        self._resting = {credential: rest for credential, rest in self._resting.items() if credential in kept}
        self._records = {credential: record for credential, record in self._records.items() if credential in kept}

    def __contains__(self, credential: Credential) -> bool:
        """Whether it is one of its keys, and not banned."""
        return credential in self._known and credential.fingerprint not in self._banned

    # -- whose turn it is --------------------------------------------------------------------------------------------------

    def take(self, now: float, without: Collection[Credential] = ()) -> Credential | None:
        """The next key that is neither banned nor resting nor in `without`; None if there is none.

        When none is left, those that rest and were not told a time are taken up again.
        """
        if self._first is not None and now < self._first:
            return None
        found = self._scan(now, without)
        if found is None:
            ours = [credential for credential, rest in self._resting.items() if not rest.told and credential not in without]
            if ours:
                for credential in ours:
                    del self._resting[credential]
                self.resets += 1
                self._tell(Event.RESET, None, None)
                found = self._scan(now, without)
        if found is not None:
            self.use(found, now)
        return found

    def use(self, credential: Credential, now: float) -> None:
        """Count one request of a key."""
        record = self._record(credential)
        record.requests += 1
        record.used = now

    def wait(self, now: float) -> float | None:
        """The seconds until a key may be taken, where all that are left wait for a time the service named; else None."""
        if self._first is None or now >= self._first:
            rests = [self._resting.get(credential) for credential in self.credentials if credential.fingerprint not in self._banned]
            waiting = [rest.until for rest in rests if rest is not None and rest.told and rest.until > now]
            self._first = min(waiting) if waiting and len(waiting) == len(rests) else None
        return None if self._first is None else self._first - now

    def waits(self, credential: Credential, now: float) -> bool:
        """Whether a key rests until a time that the service named."""
        rest = self._resting.get(credential)
        return rest is not None and rest.told and rest.until > now

    def _scan(self, now: float, without: Collection[Credential]) -> Credential | None:
        for step in range(len(self.credentials)):
            index = (self._next + step) % len(self.credentials)
            credential = self.credentials[index]
            if credential in without or not self._may(credential, now):
                continue
            self._next = index + 1
            return credential
        return None

    def _may(self, credential: Credential, now: float) -> bool:
        rest = self._resting.get(credential)
        if rest is not None:
            if rest.until > now:
                return False
            del self._resting[credential]
        due = self._banned.get(credential.fingerprint)
        if due is None:
            return True
        if due > now:
            return False
        self._banned[credential.fingerprint] = now + self._rest_seconds  # one request at a time finds out
        return True

    # -- what becomes of it ------------------------------------------------------------------------------------------------

    def answered(self, credential: Credential, status: int | None) -> None:
        """Note what the service said last."""
        self._record(credential).status = status

    def hold(self, credential: Credential, now: float) -> Rest:
        """Let a key rest while it is not known whether it is at fault; `free` with what this gives ends it."""
        rest = Rest(now + self._rest_seconds, told=False)
        if credential in self._known and not self.waits(credential, now):
            self._resting[credential] = rest
        return rest

    def free(self, credential: Credential, rest: Rest) -> None:
        """End this rest, but no other that it has got since."""
        if self._resting.get(credential) is rest:
            self.wake(credential)

    def wake(self, credential: Credential) -> None:
        """End its rest, whoever asked for it."""
        self._first = None
        self._resting.pop(credential, None)

    def rest(self, credential: Credential, status: int | None, now: float, seconds: float | None = None, *, spent: bool = False) -> None:
        """Let it rest for as long as the service says (`seconds`), else for the pool's own time, which ends no rest the service named."""
        if credential not in self._known:  # taken out of the list meanwhile
            return
        if seconds is not None or not self.waits(credential, now):
            own = self._spent_seconds if spent else self._rest_seconds
            until = now + (own if seconds is None else min(max(seconds, 0.0), LONGEST_REST))
            self._resting[credential] = Rest(until, told=seconds is not None)
            self._first = None
        self._tell(Event.REST, credential, status)

    def ban(self, credential: Credential, status: int | None, now: float) -> None:
        """Take it no more, until its re-check."""
        if credential not in self._known:
            return
        known = credential.fingerprint in self._banned
        self._banned[credential.fingerprint] = now + self._recheck_seconds
        self._resting.pop(credential, None)
        self._first = None
        if not known:
            self._tell(Event.BAN, credential, status)

    def worked(self, credential: Credential, route: int | None) -> None:
        """The service took it for a request of this route, which lifts a ban. None: a route that cannot be told from others."""
        if self._banned.pop(credential.fingerprint, None) is not None:
            self._first = None
            self._tell(Event.LIFT, credential, None)
        if route is not None:
            _remember(self._record(credential).worked, route, credential, ROUTES_OF_KEY)
            _remember(self._routes, route, credential, ROUTES)

    def forget(self, route: int) -> None:
        """A route works no longer, as far as anybody knows."""
        self._routes.pop(route, None)

    # -- what is known -----------------------------------------------------------------------------------------------------

    def is_banned(self, credential: Credential) -> bool:
        """Whether it is banned, due for its re-check or not."""
        return credential.fingerprint in self._banned

    def has_worked(self, credential: Credential, route: int | None = None) -> bool:
        """Whether the service has taken it: on this route, unless that is forgotten, or on any."""
        record = self._records.get(credential)
        return record is not None and (bool(record.worked) if route is None else route in record.worked and route in self._routes)

    def another_worked(self, credential: Credential, route: int) -> bool:
        """Whether another key worked on this route last."""
        return self._routes.get(route, credential) is not credential

    def counts(self, now: float) -> Counts:
        """How many there are, rest, are banned, and can be taken."""
        total, banned = len(self.credentials), len(self._banned)
        resting = sum(rest.until > now and one.fingerprint not in self._banned for one, rest in self._resting.items())
        return Counts(total, resting, banned, total - resting - banned)

    def banned_credentials(self) -> list[Credential]:
        """Those of its keys that are banned."""
        return [credential for credential in self.credentials if credential.fingerprint in self._banned]

    def figures(self, now: float, most: int) -> list[Figure]:
        """The first `most` keys, one by one."""
        return [self._figure(credential, now) for credential in self.credentials[:most]]

    def _figure(self, credential: Credential, now: float) -> Figure:
        record = self._records.get(credential) or _Record()
        rest = self._resting.get(credential)
        until = rest.until if rest is not None and rest.until > now else None
        state = "banned" if credential.fingerprint in self._banned else "resting" if until is not None else "available"
        return Figure(credential, state, record.requests, record.used, record.status, until)

    def _record(self, credential: Credential) -> _Record:
        record = self._records.get(credential)
        if record is None:
            record = _Record()
            if credential in self._known:
                self._records[credential] = record
        return record


def _remember(known: OrderedDict[int, Credential], route: int, credential: Credential, most: int) -> None:
    """Put a route last, and forget the first where there are too many."""
    known[route] = credential
    known.move_to_end(route)
    if len(known) > most:
        known.popitem(last=False)
