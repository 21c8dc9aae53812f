"""Connects a managed server's internal endpoint with another endpoint: a consumer at the first, a provider at the second.

One process or remote server serves many endpoints, each through one bridge. Frames are passed on unchanged: both sides are endpoints of
the core, which translate ids and progress tokens and route responses. A frame that one of them has parsed is not parsed again by the
other. Frames to the server are delivered in the next turn of the event loop, because a link never calls back before its `send` has
returned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import UNSET

from ..core.broker import Broker
from ..core.parties import Consumer, Provider
from ..errors import GOING_AWAY, CloseReason
from ..protocol import jsonrpc, methods
from ..protocol.jsonrpc import Frame, Part, whole


class Bridge:
    """The bridge between the endpoint `name` and the internal endpoint `inner`; attached on creation."""

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
        """`label` names the server's tools; `later` schedules a callback in the next turn of the event loop.

        `call_seconds` is the deadline of calls to its tools, None for the default. A bridge that is `held` keeps frames for the server
        until `release`, so that its initialize waits for a server that is about to start.
        """
        limits = broker.limits
        self._broker = broker
        self._clock = clock
        self._later = later
        self._frames: deque[tuple[bytes, Frame | None]] = deque()
        self._bytes = 0
        self._open = True
        self._held = held
        self._retiring = False
        # The limits of responses and deadlines are those of the other endpoint.
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
        """Detach both sides; the endpoints answer what was in flight."""
        if self._open:
            self._open = False
            self._frames.clear()
            self._broker.detach(self._provider, *close_reason)
            self._broker.detach(self._consumer, *close_reason)

    def retire(self) -> None:
        """Detach for good: first the endpoint is told that the tools are gone, so that it does not wait for their return."""
        self._retiring = True
        self.up(jsonrpc.notification(methods.TOOLS_CHANGED))
        self._later(self.close)

    def down(self, data: bytes, frame: Frame | None = None) -> None:
        """Take a frame for the server; `frame` is the parsed `data`, if it was parsed."""
        if not self._open:
            return
        if self._retiring:
            frame = frame or jsonrpc.parse(data, utf8=True)
            if frame.method == methods.TOOLS_LIST and frame.id is not UNSET:
                answer = jsonrpc.result(bytes(frame.id), b'{"tools":[]}')
                self._later(lambda: self.up(answer))
            return
        if not self._frames and not self._held:
            self._later(self._hand_on)
        self._frames.append((data, frame))
        self._bytes += len(data)

    def release(self) -> None:
        """Deliver the held frames, and later ones without delay."""
        if self._held:
            self._held = False
            self._hand_on()

    def _hand_on(self) -> None:
        now = self._clock()
        frames, self._frames = self._frames, deque()
        self._bytes = 0
        for data, frame in frames:
            if self._open:
                self._consumer.receive(self._consumer, data, now, True, frame)

    def up(self, data: bytes, frame: Frame | None = None) -> None:
        """Pass on a frame of the server; `frame` as in `down`."""
        if self._open:
            self._provider.receive(self._provider, data, self._clock(), True, frame)

    @property
    def waiting(self) -> int:
        """Bytes not delivered yet."""
        return self._bytes


class _Down:
    """The provider's link at the outer endpoint."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    @property
    def queued(self) -> int:
        return self._bridge.waiting

    def send(self, first: Part, second: Part = b"") -> None:
        self._bridge.down(whole(first, second))

    def send_frame(self, frame: Frame, first: Part, second: Part) -> None:
        self._bridge.down(whole(first, second), frame)

    def ping(self) -> None:
        """Nothing: it is not a socket and cannot be half open."""

    def close(self, code: int, reason: str) -> None:
        self._bridge.close(CloseReason(code, reason))


class _Up:
    """The consumer's link at the internal endpoint."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    @property
    def queued(self) -> int:
        return 0

    def send(self, first: Part, second: Part = b"") -> None:
        self._bridge.up(whole(first, second))

    def send_frame(self, frame: Frame, first: Part, second: Part) -> None:
        self._bridge.up(whole(first, second), frame)

    def ping(self) -> None:
        """Nothing: it is not a socket and cannot be half open."""

    def close(self, code: int, reason: str) -> None:
        self._bridge.close(CloseReason(code, reason))
