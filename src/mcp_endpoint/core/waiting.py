"""What waits at an endpoint, for what, and until when: four queues of requests, and the time of the next deadline.

    `initializes`  an initialize, until a provider is ready      `initialize_seconds`
    `unsettled`    the catalog is being learned                  `merged_list_seconds`
    `parked`       the call's provider just left                 `grace_call_seconds`
    `held`         a list of a client that asks only once        until the providers have told their tools, or the drain

What waits for one provider's greeting is in `Provider.waiting`. A request waits in exactly one place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

from .. import errors
from ..protocol import jsonrpc, methods
from .ledger import Ledger
from .parties import NEVER, Call, Consumer, Parked, is_open

ROUND_SECONDS: Final = 0.02
"""Seconds between two looks at the deadlines at least, so that a flood of staggered deadlines costs a bounded number of rounds."""

Queue = Literal["initializes", "unsettled", "parked", "held"]
QUEUES: Final[tuple[Queue, ...]] = ("initializes", "unsettled", "parked", "held")
Owner = TypeVar("Owner")


class WaitingRequests:
    """The requests of one endpoint that nobody works on yet."""

    __slots__ = ("_arm", "_owner", "draining", "held", "initializes", "ledger", "parked", "unsettled", "wake")

    def __init__(self, ledger: Ledger, arm: Callable[[Owner], None], owner: Owner, *, draining: bool) -> None:
        """`arm` is told of the `owner` when `wake` has moved to an earlier time."""
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
        """See to it that `expire` is called at `when`, or earlier."""
        if when < self.wake:
            self.wake = when
            self._arm(self._owner)

    def until_settled(self, call: Call, data: bytes, now: float) -> None:
        """Let a request wait until what it is about is known, `merged_list_seconds` at most."""
        self._postpone("unsettled", call, data, now, min(call.started + self.ledger.limits.merged_list_seconds, call.deadline))

    def _postpone(self, queue: Queue, call: Call, data: bytes, now: float, until: float) -> None:
        """Let a request wait in a queue; together they may hold as many bytes as a link's queue.

        Only what has just come is weighed: what waited before has been, and is put back often.
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
        """Let a `tools/list` wait until the providers have told their tools, however long."""
        call.provider = None
        call.deadline = NEVER
        self._put("held", Parked(call, jsonrpc.request(b"0", methods.TOOLS_LIST, b"{}"), NEVER))

    def keep_holding(self, parked: Parked) -> None:
        """Put back a list whose time has not come."""
        self._put("held", parked)

    def park(self, call: Call, data: bytes, now: float, until: float) -> None:
        """Let a call wait for its provider to come back."""
        self._postpone("parked", call, data, now, until)

    def await_welcome(self, call: Call) -> None:
        """Let an `initialize` wait until there is something to say."""
        self._put("initializes", Parked(call, b"", call.deadline))
        self.wake_at(call.deadline)

    def welcomes_for(self, consumer: Consumer) -> list[Parked]:
        """Take out the `initialize`s of one consumer."""
        found = [parked for parked in self.initializes if parked.call.consumer is consumer]
        self.initializes = tuple(parked for parked in self.initializes if parked.call.consumer is not consumer)
        return found

    def forget_closed(self) -> None:
        """Drop cancelled requests from every waiting queue, so that ask-and-cancel cannot fill them."""
        for queue in QUEUES:
            setattr(self, queue, tuple(parked for parked in getattr(self, queue) if is_open(parked.call)))

    def drain(self) -> None:
        """Nothing is parked or held any more."""
        self.draining = True

    def begin_round(self) -> None:
        """The deadlines are being looked at: what comes up meanwhile asks for its own."""
        self.wake = NEVER

    def end_round(self, earliest: float, now: float) -> None:
        """The deadlines have been looked at; the next is `earliest`, which is what is asked for."""
        queues = (self.initializes, self.unsettled, self.parked)
        times = [parked.until for queue in queues for parked in queue]
        self.wake = max(min(earliest, self.wake, *times), now + ROUND_SECONDS)
