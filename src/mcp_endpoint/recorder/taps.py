"""Receives all events of the endpoints, and puts them into the queue.

This is the part of recording that calls pay for: a tuple with references to what was said. Nothing is read, copied or redacted here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from ..core.parties import Call, Consumer, Provider
from ..core.taps import ATTACHED, Direction, Linking
from ..exchanges import Exchange
from ..protocol.jsonrpc import Part
from .batch import CALL, EXCHANGE, FRAME, LINK
from .queue import Queue

SESSIONS: Final = 1_000_000
"""Sessions of one run of the server before their ids could be those of a later one."""


class _Attached:
    """State of an attached party."""

    __slots__ = ("endpoint", "id", "named")

    def __init__(self, id: int, endpoint: str) -> None:
        self.id = id
        self.endpoint = endpoint
        self.named = False


class Taps:
    """The tap of a broker, and who takes exchanges."""

    def __init__(
        self,
        queue: Queue,
        endpoints: Sequence[str],
        clock: Callable[[], float],
        epoch: Callable[[], float],
        call_bytes: int,
        body_bytes: int,
    ) -> None:
        """`endpoints` are patterns of printed names. `clock` is the broker's, `epoch` seconds since 1970. Of a call's request and answer
        `call_bytes` are kept each, of an exchange's bodies `body_bytes`.
        """
        self._queue = queue
        self._patterns = tuple(endpoints)
        self._offset = epoch() - clock()
        self._call_bytes = call_bytes
        self._attached: dict[Consumer | Provider, _Attached] = {}
        self._session = int(epoch()) * SESSIONS
        self.exchanges = Exchanges(queue, body_bytes)

    @property
    def body_bytes(self) -> int:
        """What is kept of a request while its call is in flight."""
        return self._call_bytes

    def answered(self, call: Call, first: Part, second: Part, now: float) -> None:
        """One call, one record."""
        assert call.consumer is not None
        attached = self._attached.get(call.consumer)
        if attached is None:
            return
        if not attached.named and call.consumer.name:
            self._name(call.consumer, attached, now)
        said = call.said
        size = len(said) + len(first) + len(second)
        most = self._call_bytes
        truncated = len(said) >= most
        if len(first) + len(second) > most:
            first, second = bytes(first[:most]), bytes(second[: max(0, most - len(first))])
            truncated = True
        provider = call.provider
        self._queue.put(
            (
                CALL,
                self._offset + call.started,
                (now - call.started) * 1000,
                attached.endpoint,
                attached.id,
                "" if provider is None else provider.label or provider.server_id,
                call.method,
                call.tool,
                call.outcome,
                said,
                first,
                second,
                size,
                truncated,
            ),
            len(said) + len(first) + len(second),
            truncated=truncated,
        )

    def ended(self, call: Call, why: str, now: float) -> None:
        """A call without an answer."""
        call.outcome = why
        self.answered(call, b"", b"", now)

    def late(self, provider: Provider, number: int, data: bytes, now: float) -> None:
        """An answer that nobody waits for any more."""
        self._frame(provider, "in", data, now, late=True)

    def told(self, party: Provider | Consumer, direction: Direction, data: bytes, now: float) -> None:
        """Any other frame."""
        self._frame(party, direction, data, now)

    def _frame(self, party: Provider | Consumer, direction: Direction, data: bytes, now: float, *, late: bool = False) -> None:
        attached = self._attached.get(party)
        if attached is None:
            return
        size = len(data)
        if size > self._call_bytes:
            data = data[: self._call_bytes]
        self._queue.put(
            (FRAME, self._offset + now, attached.endpoint, attached.id, _name_of(party), direction, data, size, late),
            len(data),
            truncated=size > len(data),
        )

    def linked(self, party: Provider | Consumer, event: Linking, code: int, reason: str, now: float) -> None:
        """A session begins or ends."""
        if event == ATTACHED:
            shown = party.endpoint.shown
            if any(fnmatchcase(shown, pattern) for pattern in self._patterns):
                self._session += 1
                attached = self._attached[party] = _Attached(self._session, shown)
                self._link(party, attached, "opened", now)
        elif party in self._attached:
            self._link(party, self._attached.pop(party), "closed", now, code, reason)

    def _name(self, party: Consumer, attached: _Attached, now: float) -> None:
        attached.named = True
        self._link(party, attached, "named", now)

    def _link(
        self, party: Provider | Consumer, attached: _Attached, event: str, now: float, code: int | None = None, reason: str = ""
    ) -> None:
        self._queue.note((LINK, self._offset + now, attached.id, attached.endpoint, party.side, _name_of(party), event, code, reason))


class Exchanges:
    """Who takes exchanges, for rooms that know nothing of endpoints."""

    def __init__(self, queue: Queue, body_bytes: int) -> None:
        self._queue = queue
        self.body_bytes = body_bytes

    def exchange(self, exchange: Exchange) -> None:
        """One exchange, one record."""
        size = len(exchange.request_body) + sum(len(chunk) for _, chunk in exchange.answer_chunks)
        self._queue.put((EXCHANGE, exchange), size, truncated=exchange.truncated)


def _name_of(party: Provider | Consumer) -> str:
    return party.name if isinstance(party, Consumer) else party.label or party.server_id
