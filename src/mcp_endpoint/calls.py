"""Requests on their way: the ids on both sides, the deadlines, and what is owed to whom.

Rules of this module:

1. Every link has its own ids. What a provider sees is a small positive integer, counted per provider, because one of the fleet's
   tool clients reads ids as 32-bit integers (contract: verdure-mcp).
2. An answer is looked up in the answering link's own table only, and leaves the table with its first answer.
3. What was pending and is no more (expired, cancelled) is remembered for a while, so that a late answer is not taken for a forged one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from .jsonrpc import Part

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .greeting import Provider

Says = Callable[[Any, bytes, float, bool], None]
"""How a link hands a frame in: the party, the frame, the time, and whether the wire has checked that it is UTF-8."""

MAX_ID: Final = 2**31 - 1
NEVER: Final = float("inf")


class Link(Protocol):
    """What the heart needs of whatever attaches: a socket, a child process, an HTTP session."""

    def send(self, first: Part, second: Part = b"") -> None:
        """Take one frame, `first` followed by `second`. Never waits, never raises; does nothing on a link that is closing."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake (RFC 6455 §7), once."""

    def ping(self) -> None:
        """Ask for a sign of life now, so that a half-open socket is found within the ping timeout."""

    @property
    def queued(self) -> int:
        """Bytes taken by `send` that the peer has not taken yet."""


class Counters:
    """What happened since the start, as plain numbers; `/metrics` and `/stats` read them."""

    __slots__ = (
        "answers",
        "answers_too_big",
        "asked",
        "bad_frames",
        "busy",
        "cancelled",
        "carried",
        "dropped_notifications",
        "late_answers",
        "no_provider",
        "noise",
        "notifications",
        "provider_gone",
        "requests",
        "timed_out",
        "unknown_answers",
    )

    def __init__(self) -> None:
        self.requests = 0  # accepted from consumers
        self.answers = 0  # given to consumers, errors included
        self.carried = 0  # requests handed to a provider
        self.notifications = 0  # carried, either way
        self.dropped_notifications = 0  # for nobody, or for a link whose queue is full
        self.asked = 0  # requests of providers handed to a consumer
        self.late_answers = 0
        self.unknown_answers = 0  # forged, repeated or never asked for
        self.noise = 0  # frames of providers that are not JSON-RPC
        self.bad_frames = 0  # frames of consumers that are not JSON-RPC
        self.busy = 0
        self.cancelled = 0
        self.timed_out = 0
        self.no_provider = 0
        self.provider_gone = 0
        self.answers_too_big = 0

    def as_dict(self) -> dict[str, int]:
        """Name and value of each counter, in alphabetical order."""
        return {name: getattr(self, name) for name in self.__slots__}


class Call(msgspec.Struct, eq=False, gc=False):
    """One request on its way: who asked, under which id, who answers, until when.

    `consumer` is None for the endpoint's own requests; `provider` and `number` are set once it was handed to one. `id` are the
    consumer's bytes and `key` what ids are compared by. `data` is kept only while the request may have to be said (again).
    """

    consumer: Consumer | None
    id: bytes
    key: bytes
    method: str
    started: float
    deadline: float
    provider: Provider | None = None
    number: int = 0
    token: bytes = b""
    label: str = ""
    data: bytes = b""
    purpose: str = ""


class Ask(msgspec.Struct, eq=False, gc=False):
    """A request of a provider that was handed to a consumer: sampling, elicitation or roots."""

    provider: Provider
    id: bytes
    key: bytes
    capability: str
    deadline: float


class Consumer:
    """Whoever asks, on its link: a device, the server that speaks for it, an MCP client."""

    __slots__ = (
        "answer_bytes",
        "asked_version",
        "asks",
        "bad_frames",
        "capabilities",
        "endpoint",
        "initialized",
        "last_ask",
        "link",
        "name",
        "owed",
        "says",
        "seen",
        "since",
    )
    side: Final = "device"

    def __init__(self, endpoint: Endpoint, link: Link, answer_bytes: int, since: float, says: Says) -> None:
        self.endpoint = endpoint
        self.link = link
        self.answer_bytes = answer_bytes
        self.since = since
        self.says = says
        self.owed: dict[Call, None] = {}
        self.asks: dict[int, Ask] = {}
        self.last_ask = 0
        self.name = ""
        self.asked_version = ""
        self.capabilities: set[str] = set()
        self.initialized = False
        self.bad_frames = 0
        self.seen = b""  # the list it was given or told of, as a fingerprint


class Pending:
    """The requests one link still has to answer, by the number they have there."""

    __slots__ = ("_last", "_late", "_late_order", "_remember", "calls")

    def __init__(self, remember: int) -> None:
        self.calls: dict[int, Call] = {}
        self._last = 0
        self._late: set[int] = set()
        self._late_order: deque[int] = deque()
        self._remember = remember

    def add(self, call: Call) -> int:
        """Give the call a number that nothing pending has, and keep it."""
        number = self._last + 1
        calls = self.calls
        while number > MAX_ID or number in calls:
            number = 1 if number >= MAX_ID else number + 1
        self._last = number
        call.number = number
        calls[number] = call
        return number

    def give_up(self, number: int) -> None:
        """Take a call out without an answer; one that comes later is late, not unknown."""
        if self.calls.pop(number, None) is None:
            return
        self._late.add(number)
        self._late_order.append(number)
        if len(self._late_order) > self._remember:
            self._late.discard(self._late_order.popleft())

    def was_late(self, number: int) -> bool:
        """Whether this answers a call that was given up; true once per call."""
        if number not in self._late:
            return False
        self._late.discard(number)
        return True


def is_open(call: Call) -> bool:
    """Whether a consumer still waits for this call's answer."""
    return call.consumer is not None and call in call.consumer.owed


def number_text(number: int) -> bytes:
    """A number of ours as it stands in a frame."""
    return b"%d" % number


def number_of(raw: bytes) -> int:
    """The number an id of ours stands for, or 0 if these bytes cannot be one (another type, spelling or range)."""
    if len(raw) <= 10 and raw.isdigit():
        return int(raw)
    return 0
