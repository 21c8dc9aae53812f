"""The interface of a tap: an observer of all events at the endpoints.

Without a tap, the core only checks `if tap is not None`. A tap is called in the middle of processing: it must not wait, raise, change a
call, or call back into the core.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

from ..protocol.jsonrpc import Part
from .parties import Call, Consumer, Provider

Direction = Literal["in", "out"]
"""From the broker's point of view: `in` was received from the party, `out` was sent to it."""
IN: Final = "in"
OUT: Final = "out"
Linking = Literal["attached", "detached"]
ATTACHED: Final = "attached"
DETACHED: Final = "detached"


class Tap(Protocol):
    """Five events. `now` is the broker's clock in seconds, as in `Call.started`.

    A request of a consumer is a `Call`. Each ends with exactly one of `answered` and `ended`; all other frames are passed to `told`. A
    call has `consumer` and `provider` (both with their endpoint and its `name` and `shown`; `provider` is None if the call reached none),
    `method`, `tool`, `id`, `number` (its id at the provider), `started`, `outcome` (of a tool call), and `said`, the first `body_bytes`
    bytes of the request. Calls of a consumer that `relays` are reported only at the endpoint where they came in.
    """

    @property
    def body_bytes(self) -> int:
        """Bytes of a request that are kept in `Call.said` while the call is in flight."""

    def answered(self, call: Call, first: Part, second: Part, now: float) -> None:
        """The consumer was sent `first` followed by `second`, possibly one of our errors."""

    def ended(self, call: Call, why: str, now: float) -> None:
        """The call gets no response: `why` is CANCELLED_CALL or CONSUMER_LEFT of `tool_calls`."""

    def late(self, provider: Provider, number: int, data: bytes, now: float) -> None:
        """`data` is the response to a call with this `number` that timed out or was cancelled."""

    def told(self, party: Provider | Consumer, direction: Direction, data: bytes, now: float) -> None:
        """A frame that is neither a consumer's request nor its response: notifications, requests of the endpoint or a provider and their
        responses, unexpected and unreadable frames (the beginning of one that is too large)."""

    def linked(self, party: Provider | Consumer, event: Linking, code: int, reason: str, now: float) -> None:
        """A party attached (0, "") or detached (close code and reason)."""
