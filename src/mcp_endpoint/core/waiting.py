"""The waiting requests of an endpoint: four queues, and the next deadline.

    `initializes`  an initialize, until a provider is ready      `initialize_seconds`
    `unsettled`    the catalog is not complete yet               `merged_list_seconds`
    `parked`       the call's provider has just left             `grace_call_seconds`
    `held`         a list of a client that lists once only       until the tools are known, or the drain

Frames that wait for one provider's handshake are in `Provider.waiting`. A request waits in exactly one place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

from .. import errors
from ..protocol import jsonrpc, methods
from .ledger import Ledger
from .parties import NEVER, Call, Consumer, Parked, is_open

ROUND_SECONDS: Final = 0.02
"""Shortest time between two expiry rounds, so that many staggered deadlines cost a bounded number of rounds."""

Queue = Literal["initializes", "unsettled", "parked", "held"]
QUEUES: Final[tuple[Queue, ...]] = ("initializes", "unsettled", "parked", "held")
Owner = TypeVar("Owner")


class WaitingRequests:
    """The requests of one endpoint that are not at a provider."""

    __slots__ = ("_arm", "_owner", "draining", "held", "initializes", "ledger", "parked", "unsettled", "wake")

    def __init__(self, ledger: Ledger, arm: Callable[[Owner], None], owner: Owner, *, draining: bool) -> None:
        """`arm` is called with the `owner` when `wake` has become earlier."""
        self.ledger = ledger
        self._arm: Callable[[Any], None] = arm
        self._owner = owner
        self.draining = draining
        self.wake = NEVER
        # Tuples: an empty one takes no memory, and in most endpoints nothing ever waits.
        self.initializes: tuple[Parked, ...] = ()
        self.unsettled: tuple[Parked, ...] = ()
        self.parked: tuple[Parked, ...] = ()
        self.held: tuple[Parked, ...] = ()

    def take(self, queue: Queue, until: float = NEVER) -> list[Parked]:
        """Take out of a queue what waits until `until` or less, all by default: what is put in meanwhile stays."""
        waiting: tuple[Parked, ...] = getattr(self, queue)
        setattr(self, queue, tuple(parked for parked in waiting if parked.until > until))
        return [parked for parked in waiting if parked.until <= until]

    def _put(self, queue: Queue, parked: Parked) -> None:
        setattr(self, queue, (*getattr(self, queue), parked))

    def wake_at(self, when: float) -> None:
        """Make sure that `expire` is called at `when` or earlier."""
        if when < self.wake:
            self.wake = when
            self._arm(self._owner)

    def until_settled(self, call: Call, data: bytes, now: float) -> None:
        """Let a request wait until the catalog is complete, `merged_list_seconds` at most."""
        self._postpone("unsettled", call, data, now, min(call.started + self.ledger.limits.merged_list_seconds, call.deadline))

    def _postpone(self, queue: Queue, call: Call, data: bytes, now: float, until: float) -> None:
        """Let a request wait in a queue; together they are limited to the bytes of a link's queue.

        Only new requests are checked: earlier ones are put back often.
        """
        if call.started >= now and self._bytes() + len(data) > self.ledger.limits.queued_bytes_per_link:
            self.ledger.counters.busy += 1
            self.ledger.fail(call, errors.BUSY, "too much waits for this endpoint's tools / 等待此接入点工具的数据过多", delivered=False)
            return
        self._put(queue, Parked(call, data, until))
        self.wake_at(until)

    def _bytes(self) -> int:
        return sum(len(parked.data) for parked in (*self.unsettled, *self.parked))

    def hold(self, call: Call) -> None:
        """Hold a `tools/list` until the tools are known, without limit."""
        call.provider = None
        call.deadline = NEVER
        self._put("held", Parked(call, jsonrpc.request(b"0", methods.TOOLS_LIST, b"{}"), NEVER))

    def keep_holding(self, parked: Parked) -> None:
        """Put back a list that is not due."""
        self._put("held", parked)

    def park(self, call: Call, data: bytes, now: float, until: float) -> None:
        """Let a call wait for its provider to return."""
        self._postpone("parked", call, data, now, until)

    def await_welcome(self, call: Call) -> None:
        """Let an `initialize` wait until it can be answered."""
        self._put("initializes", Parked(call, b"", call.deadline))
        self.wake_at(call.deadline)

    def welcomes_for(self, consumer: Consumer) -> list[Parked]:
        """Remove and return the `initialize`s of one consumer."""
        found = [parked for parked in self.initializes if parked.call.consumer is consumer]
        self.initializes = tuple(parked for parked in self.initializes if parked.call.consumer is not consumer)
        return found

    def forget_closed(self) -> None:
        """Drop cancelled requests from every waiting queue, so that ask-and-cancel cannot fill them."""
        for queue in QUEUES:
            setattr(self, queue, tuple(parked for parked in getattr(self, queue) if is_open(parked.call)))

    def drain(self) -> None:
        """From now on nothing is parked or held."""
        self.draining = True

    def begin_round(self) -> None:
        """An expiry round begins: new deadlines set `wake` again."""
        self.wake = NEVER

    def end_round(self, earliest: float, now: float) -> None:
        """An expiry round has ended; `earliest` is the next deadline outside the queues."""
        queues = (self.initializes, self.unsettled, self.parked)
        times = [parked.until for queue in queues for parked in queue]
        self.wake = max(min(earliest, self.wake, *times), now + ROUND_SECONDS)
