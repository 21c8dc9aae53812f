"""A server of the house at one more endpoint: provider there, consumer at the server's own.

One process or upstream serves many endpoints over one bridge each. Frames are handed over as they are: both sides are endpoints of the
heart, which keep ids, progress tokens and whose answer is whose apart. Towards the server they are handed on in the next turn of the
loop, because a link never answers before its `send` has returned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import UNSET

from ..core.broker import Broker
from ..core.parties import Consumer, Provider
from ..errors import GOING_AWAY, CloseReason
from ..protocol import jsonrpc, methods
from ..protocol.jsonrpc import Part


class Bridge:
    """Between the endpoint `name` and the endpoint of a server; open as soon as it is made."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        shown: str,
        *,
        inner: str,
        inner_shown: str,
        label: str,
        call_seconds: float | None = None,
        held: bool = False,
        clock: Callable[[], float],
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        """`inner` is the server's endpoint and `label` what its tools go by; `later` calls back in the next turn of the loop.

        `call_seconds` is how long a call of its tools may take, where it is not as everywhere. A bridge that is `held` keeps what is for
        the server until `release`: its greeting then waits for one that is about to start.
        """
        limits = broker.limits
        self._broker = broker
        self._clock = clock
        self._later = later
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._open = True
        self._held = held
        self._retiring = False
        # What the far side may take in one answer, and how long it may think, is that endpoint's business.
        self._consumer: Consumer = broker.attach_consumer(
            inner,
            inner_shown,
            _Up(self),
            answer_bytes=limits.provider_message_bytes,
            ask_seconds=limits.progress_seconds,
            in_process=True,
            patient=True,
        )
        self._consumer.relays = True
        self._provider: Provider = broker.attach_provider(
            name, shown, _Down(self), server_id=label, managed=True, call_seconds=call_seconds
        )
        self._provider.behind = self._consumer.endpoint

    def close(self, close_reason: CloseReason = GOING_AWAY) -> None:
        """Leave both endpoints; what was on its way is answered by them."""
        if self._open:
            self._open = False
            self._frames.clear()
            self._broker.detach(self._provider, *close_reason)
            self._broker.detach(self._consumer, *close_reason)

    def retire(self) -> None:
        """Leave for good: the endpoint first hears that there are no tools any more, and does not wait for their return."""
        self._retiring = True
        self.up(jsonrpc.notification(methods.TOOLS_CHANGED))
        self._later(self.close)

    def down(self, data: bytes) -> None:
        """A frame for the server."""
        if not self._open:
            return
        if self._retiring:
            frame = jsonrpc.parse(data, utf8=True)
            if frame.method == methods.TOOLS_LIST and frame.id is not UNSET:
                answer = jsonrpc.result(bytes(frame.id), b'{"tools":[]}')
                self._later(lambda: self.up(answer))
            return
        if not self._frames and not self._held:
            self._later(self._hand_on)
        self._frames.append(data)
        self._bytes += len(data)

    def release(self) -> None:
        """Hand on what was held, and from now on everything."""
        if self._held:
            self._held = False
            self._hand_on()

    def _hand_on(self) -> None:
        now = self._clock()
        frames, self._frames = self._frames, deque()
        self._bytes = 0
        for data in frames:
            if self._open:
                self._consumer.receive(self._consumer, data, now, True)

    def up(self, data: bytes) -> None:
        """A frame of the server."""
        if self._open:
            self._provider.receive(self._provider, data, self._clock(), True)

    @property
    def waiting(self) -> int:
        """Bytes that have not been handed on yet."""
        return self._bytes


class _Down:
    """What the endpoint sees: a provider's link."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    @property
    def queued(self) -> int:
        return self._bridge.waiting

    def send(self, first: Part, second: Part = b"") -> None:
        self._bridge.down(_whole(first, second))

    def ping(self) -> None:
        """It is no socket, and cannot be half open."""

    def close(self, code: int, reason: str) -> None:
        self._bridge.close(CloseReason(code, reason))


class _Up:
    """What the server's own endpoint sees: a consumer's link."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    @property
    def queued(self) -> int:
        return 0

    def send(self, first: Part, second: Part = b"") -> None:
        self._bridge.up(_whole(first, second))

    def ping(self) -> None:
        """It is no socket, and cannot be half open."""

    def close(self, code: int, reason: str) -> None:
        self._bridge.close(CloseReason(code, reason))


def _whole(first: Part, second: Part) -> bytes:
    return first if not second and isinstance(first, bytes) else b"".join((first, second))
