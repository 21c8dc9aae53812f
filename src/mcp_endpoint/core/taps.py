"""Who may listen to all that happens at the endpoints, without a part in it.

Where nobody listens, the core asks `if tap is not None` and nothing else. A tap is called in the middle of the work: it takes what it
is given and returns. It must not wait, raise, change a call, or call back into the core.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

from ..protocol.jsonrpc import Part
from .parties import Call, Consumer, Provider

Direction = Literal["in", "out"]
"""As the broker sees it: `in` came from the party, `out` was sent to it."""
IN: Final = "in"
OUT: Final = "out"
Linking = Literal["attached", "detached"]
ATTACHED: Final = "attached"
DETACHED: Final = "detached"


class Tap(Protocol):
    """Five events. `now` is the broker's clock in seconds, as in `Call.started`.

    A request of a consumer is a `Call`. Each ends in exactly one of `answered` and `ended`; everything else that is said is `told`. A call
    names what belongs to it: its `consumer` and `provider` (both know their endpoint, its `name` and `shown`; `provider` is None for a
    call that reached nobody), `method`, `tool`, `id`, `number` (its id at the provider), `started`, `outcome` (of a tool call), and `said`,
    the first `body_bytes` bytes of the request. A call of a consumer that `relays` came in at another endpoint, and is told there alone.
    """

    @property
    def body_bytes(self) -> int:
        """Bytes of a request that are kept in `Call.said` as long as the call is in flight."""

    def answered(self, call: Call, first: Part, second: Part, now: float) -> None:
        """The consumer was sent `first` followed by `second`, which may be one of our errors."""

    def ended(self, call: Call, why: str, now: float) -> None:
        """The call gets no answer: `why` is CANCELLED_CALL or CONSUMER_LEFT of `tool_calls`."""

    def late(self, provider: Provider, number: int, data: bytes, now: float) -> None:
        """`data` answers the call that had this `number` there, and that was given up: it timed out, or was cancelled."""

    def told(self, party: Provider | Consumer, direction: Direction, data: bytes, now: float) -> None:
        """A frame that is neither a consumer's request nor the answer to one: notifications, what the endpoint or a provider asks and
        the answers to that, what nobody asked for, and what cannot be read (of a frame that is too large, the beginning)."""

    def linked(self, party: Provider | Consumer, event: Linking, code: int, reason: str, now: float) -> None:
        """A party attached (0, "") or detached (how its link closed)."""
