"""One request's way through the keys of a pool: which it is tried with, and what their refusals say.

A refusal of the request is no refusal of the key. A key that gets 401 or 403 is set aside until the request has ended, and then:

1. Another key got the same refusal and none got through: the request is at fault. No key is banned, and none rests.
2. Another key got through: a key that got 401 is banned. One that got 403 is banned too, unless it works elsewhere and never worked here:
   then the service knows it, and keeps this one thing from it.
3. Nothing to compare: it is banned if it worked on this route before, or, as under 2, if another did; and the next to be refused there is
   not, until one got through again. Else it rests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from .pool import Credential, CredentialPool, Rest
from .refusals import NOT_RUN, Answer, Meaning, meaning


class _Refused(NamedTuple):
    """A key that this request was refused with."""

    credential: Credential
    status: int | None
    rest: Rest


class Rotation:
    """The keys of one request."""

    def __init__(self, pool: CredentialPool, route: int | None, retries: int, owner: Credential | None = None) -> None:
        """`retries`: how often it may be sent again. `owner`: the key that its session was begun with, which is asked first.

        The service may refuse a session to every other key, which says nothing of them.
        """
        self._pool = pool
        self._route = route
        self._left = retries + 1
        self._owner = owner
        self._tried: set[Credential] = set()
        self._done: set[Credential] = set()
        """Keys that are not asked twice: refused, spent or silent."""
        self._again = False
        self._refused: list[_Refused] = []

    def take(self, now: float) -> Credential | None:
        """The next key; None if it has been sent often enough, or if no key is left.

        A key that was only busy has a second turn after all others, unless the service told it a time.
        """
        if not self._left:
            return None
        self._left -= 1
        owner = self._owner
        if owner is not None and not self._tried and not self._pool.waits(owner, now):
            self._pool.use(owner, now)
            return owner
        found = self._pool.take(now, self._tried)
        if found is None and self._tried and not self._again:
            self._again = True
            self._tried = set(self._done)
            found = self._pool.take(now, self._tried)
        return found

    def answered(self, credential: Credential, answer: Answer, now: float, *, repeatable: bool) -> bool:
        """Whether the request may be sent again after this answer; `repeatable`: doing it twice is doing it once."""
        pool, status = self._pool, answer.status
        self._tried.add(credential)
        pool.answered(credential, status)
        said = meaning(answer)
        if said in (Meaning.REFUSED, Meaning.SPENT, Meaning.SCOPE) or status is None:
            self._done.add(credential)
        if said is Meaning.REFUSED:
            if pool.is_banned(credential):  # its re-check
                pool.ban(credential, status, now)
            elif self._owner in (None, credential):
                self._refused.append(_Refused(credential, status, pool.hold(credential, now)))
        elif said in (Meaning.BUSY, Meaning.SPENT):
            pool.rest(credential, status, now, answer.retry_after, spent=said is Meaning.SPENT)
        return said is not Meaning.FINE and (status in NOT_RUN or repeatable)

    def worked(self, credential: Credential, now: float) -> None:
        """A key got through: the request is done, and whoever was refused before is judged."""
        self._pool.worked(credential, self._route)
        for refused in self._end():
            self._judge(refused, now, another=True)

    def failed(self, now: float) -> None:
        """The request has ended, and no key got through."""
        refused = self._end()
        times = Counter(one.status for one in refused)
        for one in refused:
            if times[one.status] > 1:
                self._pool.free(one.credential, one.rest)
            else:
                another = self._route is not None and self._pool.another_worked(one.credential, self._route)
                self._judge(one, now, another=another)
        if refused and self._route is not None:
            self._pool.forget(self._route)

    def _judge(self, refused: _Refused, now: float, *, another: bool) -> None:
        """`another`: whether another key works where this one was refused."""
        pool, credential = self._pool, refused.credential
        here = self._route is not None and pool.has_worked(credential, self._route)
        if here or (another and (refused.status == 401 or not pool.has_worked(credential))):
            pool.ban(credential, refused.status, now)
        else:
            pool.rest(credential, refused.status, now)

    def _end(self) -> list[_Refused]:
        refused, self._refused = self._refused, []
        return refused


class _Named(msgspec.Struct):
    name: msgspec.Raw | UnsetType = UNSET
    uri: msgspec.Raw | UnsetType = UNSET


class _Asked(msgspec.Struct):
    """What a JSON body asks for, whatever it says about it."""

    method: msgspec.Raw | UnsetType = UNSET
    model: msgspec.Raw | UnsetType = UNSET
    params: msgspec.Raw | UnsetType = UNSET


_asked: Final = msgspec.json.Decoder(_Asked)
_named: Final = msgspec.json.Decoder(_Named)


def route_of(method: str, target: bytes, body: bytes | None, headers: Iterable[tuple[bytes, bytes]] = ()) -> int | None:
    """A number for what a request asks for, to know the same question again; None where its body is not known.

    `target` is its path and query without a key, `headers` are those of the client, which may be what is disliked. Of a JSON body counts
    what it asks for (a `model`, an MCP method and its tool), so that another question to the same model is the same route; every other
    body counts as it is.
    """
    if body is None:
        return None
    try:
        asked = _asked.decode(body)
        params = _Named() if asked.params is UNSET else _named.decode(asked.params)
    except (msgspec.DecodeError, RecursionError):
        return hash((method, target, *headers, body))
    said = [None if part is UNSET else bytes(part) for part in (asked.method, asked.model, params.name, params.uri)]
    return hash((method, target, *headers, *said) if any(said) else (method, target, *headers, body))
