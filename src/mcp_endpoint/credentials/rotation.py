"""Tries one request with several keys of a pool, and judges the refused keys when the request has ended.

A refusal may concern the request instead of the key. So a key that gets 401 or 403 is held until the request has ended, and then:

1. Another key got the same refusal and none succeeded: the request is at fault. No key is banned, and none rests.
2. Another key succeeded: a key that got 401 is banned. One that got 403 is banned too, unless it works elsewhere and never worked here:
   then the service knows it, and does not permit this one operation.
3. Nothing to compare: it is banned if it worked on this route before, or, as under 2, if another did; the next key refused there is not,
   until one succeeded again. Otherwise it rests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from .pool import Credential, CredentialPool, Rest
from .refusals import NOT_RUN, Answer, Meaning, meaning


class _RefusedKey(NamedTuple):
    """A key that was refused for this request."""

    credential: Credential
    status: int | None
    rest: Rest


class Rotation:
    """The keys tried for one request."""

    def __init__(self, pool: CredentialPool, route: int | None, retries: int, owner: Credential | None = None) -> None:
        """`retries`: how often the request may be sent again. `owner`: the key its session began with, tried first.

        The service may refuse a session to all other keys, which says nothing about them.
        """
        self._pool = pool
        self._route = route
        self._left = retries + 1
        self._owner = owner
        self._tried: set[Credential] = set()
        self._done: set[Credential] = set()
        """Keys that are not tried again: refused, spent or without a response."""
        self._again = False
        self._refused: list[_RefusedKey] = []

    def take(self, now: float) -> Credential | None:
        """The next key; None if all attempts are used or no key is left.

        A key that was only busy is tried once more after all others, unless the service named a time.
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
        """Record a response; returns whether the request may be sent again. `repeatable`: it is idempotent or read-only."""
        pool, status = self._pool, answer.status
        self._tried.add(credential)
        pool.answered(credential, status)
        kind = meaning(answer)
        if kind in (Meaning.REFUSED, Meaning.SPENT, Meaning.SCOPE) or status is None:
            self._done.add(credential)
        if kind is Meaning.REFUSED:
            if pool.is_banned(credential):  # this was its re-check
                pool.ban(credential, status, now)
            elif self._owner in (None, credential):
                self._refused.append(_RefusedKey(credential, status, pool.hold(credential, now)))
        elif kind in (Meaning.BUSY, Meaning.SPENT):
            pool.rest(credential, status, now, answer.retry_after, spent=kind is Meaning.SPENT)
        return kind is not Meaning.FINE and (status in NOT_RUN or repeatable)

    def worked(self, credential: Credential, now: float) -> None:
        """The request succeeded with this key; judge the keys that were refused before."""
        self._pool.worked(credential, self._route)
        for refused in self._end():
            self._judge(refused, now, another=True)

    def failed(self, now: float) -> None:
        """The request has ended without success."""
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

    def _judge(self, refused: _RefusedKey, now: float, *, another: bool) -> None:
        """Ban the key or let it rest; `another`: another key works where this one was refused."""
        pool, credential = self._pool, refused.credential
        here = self._route is not None and pool.has_worked(credential, self._route)
        if here or (another and (refused.status == 401 or not pool.has_worked(credential))):
            pool.ban(credential, refused.status, now)
        else:
            pool.rest(credential, refused.status, now)

    def _end(self) -> list[_RefusedKey]:
        refused, self._refused = self._refused, []
        return refused


class _NameOrUri(msgspec.Struct):
    name: msgspec.Raw | UnsetType = UNSET
    uri: msgspec.Raw | UnsetType = UNSET


class _Operation(msgspec.Struct):
    """The fields of a JSON body that identify the operation."""

    method: msgspec.Raw | UnsetType = UNSET
    model: msgspec.Raw | UnsetType = UNSET
    params: msgspec.Raw | UnsetType = UNSET


_operation: Final = msgspec.json.Decoder(_Operation)
_name_or_uri: Final = msgspec.json.Decoder(_NameOrUri)


def route_of(method: str, target: bytes, body: bytes | None, headers: Iterable[tuple[bytes, bytes]] = ()) -> int | None:
    """A hash that identifies the operation of a request, to recognise it later; None where the body is not known.

    `target` is path and query without the key, `headers` are those of the client, which may be the cause of a refusal. Of a JSON body only
    the operation counts (a `model`, an MCP method and its tool), so that another question to the same model is the same route; any other
    body counts as a whole.
    """
    if body is None:
        return None
    try:
        operation = _operation.decode(body)
        params = _NameOrUri() if operation.params is UNSET else _name_or_uri.decode(operation.params)
    except (msgspec.DecodeError, RecursionError):
        return hash((method, target, *headers, body))
    kind = [None if part is UNSET else bytes(part) for part in (operation.method, operation.model, params.name, params.uri)]
    return hash((method, target, *headers, *kind) if any(kind) else (method, target, *headers, body))
