"""The keys of one upstream: which is next, which rests, which is banned.

Rules:

1. Round robin: over k·N requests each of N keys is taken k times, give or take one, however many requests are concurrent.
2. A key rests until a time. If the service named the time, the key waits for it; any other rest ends early when no key is left.
3. A banned key is not taken until the ban is lifted or `recheck_seconds` have passed: then one request tries it, and success lifts the ban.
4. The memory of where a key worked is bounded: `ROUTES_OF_KEY` routes per key, `ROUTES` in total.
5. A key is never shown whole, not even by `repr`. Only the SHA-256 of a banned key is stored.

`rotation` decides what a response means for a key.
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
"""Most characters of a key that an operator sees, and never more than half of it."""
ROUTES: Final = 1024
"""Routes for which the last working key is remembered; the least recently used is dropped first."""
ROUTES_OF_KEY: Final = 16
"""Routes per key where it is remembered to work."""


class Credential:
    """One key of an upstream."""

    __slots__ = ("fingerprint", "secret", "user")

    def __init__(self, secret: str, user: str = "") -> None:
        self.secret = secret
        self.user = user
        """The user in the accounts file, for the operator only."""
        self.fingerprint = hashlib.sha256(secret.encode()).hexdigest()

    @property
    def preview(self) -> str:
        """The beginning of the key, so that an operator can find it in a list."""
        return f"{self.secret[: min(PREVIEW_CHARS, len(self.secret) // 2)]}..."

    @property
    def shown(self) -> str:
        """The key's name in the log: its last four characters at most, and a part of its hash."""
        return f"…{self.secret[-4:] if len(self.secret) >= 16 else ''} (sha256 {self.fingerprint[:8]})"

    def __repr__(self) -> str:
        return f"<Credential {self.shown}>"


class KeyEvent(Enum):
    """Events of keys, for the log and the file of bans."""

    REST = "rest"
    BAN = "ban"
    LIFT = "lift"
    RESET = "reset"
    """No key was left, so all rests that the service did not ask for were ended."""


OnEvent = Callable[[KeyEvent, Credential | None, int | None], None]
"""Called with an event, its key (None for a reset) and the status that caused it (None: no response)."""


class KeyCounts(NamedTuple):
    """Numbers of keys; `total` is the sum of the other three."""

    total: int
    resting: int
    banned: int
    available: int


class Figure(NamedTuple):
    """The state of one key; times are monotonic seconds."""

    credential: Credential
    state: str
    """`available`, `resting` or `banned`."""
    requests: int
    used: float | None
    """Time of its last use."""
    status: int | None
    """Status of its last response."""
    until: float | None
    """End of its rest."""


class Rest(NamedTuple):
    """A rest, and whether the service asked for it."""

    until: float
    by_service: bool


class _Record:
    """Statistics of one used key."""

    __slots__ = ("requests", "status", "used", "worked")

    def __init__(self) -> None:
        self.requests = 0
        self.used: float | None = None
        self.status: int | None = None
        self.worked: OrderedDict[int, Credential] = OrderedDict()


class CredentialPool:
    """The keys of one upstream. `now` is monotonic seconds everywhere."""

    def __init__(
        self,
        credentials: Iterable[Credential],
        *,
        rest_seconds: float = 60.0,
        spent_seconds: float = 3600.0,
        recheck_seconds: float = 0.0,
        banned: Mapping[str, float] | None = None,
        on_event: OnEvent = lambda event, credential, status: None,
    ) -> None:
        """`banned`: fingerprint → when it may be tried again. A duplicate key counts once.

        A key without quota rests `spent_seconds`, any other `rest_seconds`. `recheck_seconds` of 0 lifts no ban.
        """
        self.credentials: tuple[Credential, ...] = ()
        self._known: frozenset[Credential] = frozenset()
        self.resets = 0
        """How often all resting keys were taken up again because none was left."""
        self._rest_seconds = rest_seconds
        self._spent_seconds = spent_seconds
        self._recheck_seconds = recheck_seconds or math.inf
        self._on_event = on_event
        self._banned: dict[str, float] = {}
        self._resting: dict[Credential, Rest] = {}
        self._records: dict[Credential, _Record] = {}
        self._routes: OrderedDict[int, Credential] = OrderedDict()
        self._next = 0
        self._first: float | None = None
        """While every key waits for a time that the service named: the earliest of them; saves scanning all keys."""
        self.renew(credentials, banned or {})

    def renew(self, credentials: Iterable[Credential], banned: Mapping[str, float]) -> None:
        """Replace the list of keys and bans; the other state of a remaining key is kept."""
        self._first = None
        known = {credential.secret: credential for credential in self.credentials}
        given = {credential.secret: known.get(credential.secret, credential) for credential in credentials}
        self.credentials = tuple(given.values())
        kept = self._known = frozenset(given.values())
        self._banned = {one.fingerprint: banned[one.fingerprint] for one in self.credentials if one.fingerprint in banned}
        self._resting = {credential: rest for credential, rest in self._resting.items() if credential in kept}
        self._records = {credential: record for credential, record in self._records.items() if credential in kept}

    def __contains__(self, credential: Credential) -> bool:
        """Whether it is a key of this pool, and not banned."""
        return credential in self._known and credential.fingerprint not in self._banned

    # -- selection ---------------------------------------------------------------------------------------------------------

    def take(self, now: float, without: Collection[Credential] = ()) -> Credential | None:
        """The next key that is not banned, not resting and not in `without`; None if there is none.

        If none is left, rests that the service did not ask for are ended.
        """
        if self._first is not None and now < self._first:
            return None
        found = self._scan(now, without)
        if found is None:
            ours = [credential for credential, rest in self._resting.items() if not rest.by_service and credential not in without]
            if ours:
                for credential in ours:
                    del self._resting[credential]
                self.resets += 1
                self._on_event(KeyEvent.RESET, None, None)
                found = self._scan(now, without)
        if found is not None:
            self.use(found, now)
        return found

    def use(self, credential: Credential, now: float) -> None:
        """Count a request with this key."""
        record = self._record(credential)
        record.requests += 1
        record.used = now

    def wait(self, now: float) -> float | None:
        """Seconds until a key may be taken, if all keys that are not banned wait for a time the service named; else None."""
        if self._first is None or now >= self._first:
            rests = [self._resting.get(credential) for credential in self.credentials if credential.fingerprint not in self._banned]
            waiting = [rest.until for rest in rests if rest is not None and rest.by_service and rest.until > now]
            self._first = min(waiting) if waiting and len(waiting) == len(rests) else None
        return None if self._first is None else self._first - now

    def waits(self, credential: Credential, now: float) -> bool:
        """Whether a key rests until a time the service named."""
        rest = self._resting.get(credential)
        return rest is not None and rest.by_service and rest.until > now

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
        self._banned[credential.fingerprint] = now + self._rest_seconds  # only one request at a time tries it
        return True

    # -- outcomes ----------------------------------------------------------------------------------------------------------

    def answered(self, credential: Credential, status: int | None) -> None:
        """Record the status of the last response."""
        self._record(credential).status = status

    def hold(self, credential: Credential, now: float) -> Rest:
        """Let a key rest until it is known whether it is at fault; end it with `free`."""
        rest = Rest(now + self._rest_seconds, by_service=False)
        if credential in self._known and not self.waits(credential, now):
            self._resting[credential] = rest
        return rest

    def free(self, credential: Credential, rest: Rest) -> None:
        """End this rest, but not a newer one."""
        if self._resting.get(credential) is rest:
            self.wake(credential)

    def wake(self, credential: Credential) -> None:
        """End its rest, whatever the cause."""
        self._first = None
        self._resting.pop(credential, None)

    def rest(self, credential: Credential, status: int | None, now: float, seconds: float | None = None, *, spent: bool = False) -> None:
        """Let it rest for `seconds` as the service asked, else for the pool's own time, unless it already rests as the service asked."""
        if credential not in self._known:  # removed from the list meanwhile
            return
        if seconds is not None or not self.waits(credential, now):
            own = self._spent_seconds if spent else self._rest_seconds
            until = now + (own if seconds is None else min(max(seconds, 0.0), LONGEST_REST))
            self._resting[credential] = Rest(until, by_service=seconds is not None)
            self._first = None
        self._on_event(KeyEvent.REST, credential, status)

    def ban(self, credential: Credential, status: int | None, now: float) -> None:
        """Do not take it again until its re-check."""
        if credential not in self._known:
            return
        known = credential.fingerprint in self._banned
        self._banned[credential.fingerprint] = now + self._recheck_seconds
        self._resting.pop(credential, None)
        self._first = None
        if not known:
            self._on_event(KeyEvent.BAN, credential, status)

    def worked(self, credential: Credential, route: int | None) -> None:
        """The service accepted it for a request of this route: lifts a ban. None: the route cannot be identified."""
        if self._banned.pop(credential.fingerprint, None) is not None:
            self._first = None
            self._on_event(KeyEvent.LIFT, credential, None)
        if route is not None:
            _remember(self._record(credential).worked, route, credential, ROUTES_OF_KEY)
            _remember(self._routes, route, credential, ROUTES)

    def forget(self, route: int) -> None:
        """Forget which key works on this route."""
        self._routes.pop(route, None)

    # -- reports -----------------------------------------------------------------------------------------------------------

    def is_banned(self, credential: Credential) -> bool:
        """Whether it is banned, even if its re-check is due."""
        return credential.fingerprint in self._banned

    def has_worked(self, credential: Credential, route: int | None = None) -> bool:
        """Whether the service has accepted it: on this route (unless forgotten), or on any."""
        record = self._records.get(credential)
        return record is not None and (bool(record.worked) if route is None else route in record.worked and route in self._routes)

    def another_worked(self, credential: Credential, route: int) -> bool:
        """Whether another key was the last to work on this route."""
        return self._routes.get(route, credential) is not credential

    def counts(self, now: float) -> KeyCounts:
        """Numbers of keys by state."""
        total, banned = len(self.credentials), len(self._banned)
        resting = sum(rest.until > now and one.fingerprint not in self._banned for one, rest in self._resting.items())
        return KeyCounts(total, resting, banned, total - resting - banned)

    def banned_credentials(self) -> list[Credential]:
        """The banned keys."""
        return [credential for credential in self.credentials if credential.fingerprint in self._banned]

    def figures(self, now: float, most: int) -> list[Figure]:
        """The states of the first `most` keys."""
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
    """Append a route; drop the oldest if there are too many."""
    known[route] = credential
    known.move_to_end(route)
    if len(known) > most:
        known.popitem(last=False)
