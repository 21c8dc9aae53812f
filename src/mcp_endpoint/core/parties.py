"""The parties of an endpoint and their requests: Consumer, Provider, Call, and the provider's state table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, Protocol

import msgspec

from ..protocol.definitions import Tool
from ..protocol.jsonrpc import Frame, Part
from .links import Link
from .older_clients import Edit
from .translator import Translator


class Receive(Protocol):
    """How a link passes a frame."""

    def __call__(self, party: Any, data: bytes, now: float, utf8: bool, frame: Frame | None = None, /) -> None:
        """`utf8`: the transport has checked the encoding. `frame`: `data` as parsed already in this process, if it was."""


SendFrame = Callable[[Frame, Part, Part], None]
"""`send_frame` of a `FrameLink`."""
MAX_ID: Final = 2**31 - 1
NEVER: Final = float("inf")
LONG_AGO: Final = -NEVER
NO_EDITS: Final[Mapping[str, Edit]] = {}
EVERYTHING: Final = -1
"""Log level of a consumer that has not set one: it gets all messages."""


class Place(Protocol):
    """The endpoint of a party, as its link sees it."""

    name: str
    """Its internal name."""
    shown: str
    """Its printable name."""

    @property
    def providers(self) -> list[Provider]:
        """Its providers, in order of attaching."""

    def provider_said_too_much(self, provider: Provider, beginning: bytes, end: bytes, now: float) -> None:
        """A response above `provider_message_bytes` was discarded; only its ends are known."""

    def tool_named(self, name: str, only: str) -> Tool | None:
        """The tool with this name, for a consumer that sees `only` one label ("": all)."""


class Counters:
    """Counters since the start, for `/metrics` and `/stats`."""

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
        self.answers = 0  # sent to consumers, including errors
        self.carried = 0  # requests sent to a provider
        self.notifications = 0  # carried, either way
        self.dropped_notifications = 0  # without a receiver, or with a full queue
        self.asked = 0  # requests of providers sent to a consumer
        self.late_answers = 0
        self.unknown_answers = 0  # forged, repeated or unexpected
        self.noise = 0  # frames of providers that are not JSON-RPC
        self.bad_frames = 0  # frames of consumers that are not JSON-RPC
        self.busy = 0
        self.cancelled = 0
        self.timed_out = 0
        self.no_provider = 0
        self.provider_gone = 0
        self.answers_too_big = 0

    def as_dict(self) -> dict[str, int]:
        """The counters by name, in alphabetical order."""
        return {name: getattr(self, name) for name in self.__slots__}


class Call(msgspec.Struct, eq=False, gc=False):
    """One request in flight: its consumer and id, its provider, its deadline.

    `consumer` is None for the endpoint's own requests; `provider` and `number` are set when it was sent to one. `id` are the consumer's
    bytes and `key` is the normalized id. `data` is kept only while the request may have to be sent (again); `again` is kept while another
    replica might answer instead of those in `tried`.
    `tool` is the tool's name if calls are counted, and `outcome` how it ended ("": success). `said` is the beginning of the request, if
    there is a tap.
    Calls are not tracked by the garbage collector, there are too many: whoever keeps one must drop it when its link closes.
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
    data: bytes = b""
    again: bytes = b""
    tried: tuple[Provider, ...] = ()
    purpose: str = ""
    tool: str = ""
    outcome: str = ""
    said: bytes = b""


class Parked(msgspec.Struct, eq=False):
    """A request that waits for a change at the endpoint, at most until `until`."""

    call: Call
    data: bytes
    until: float


class ClientRequest(msgspec.Struct, eq=False):
    """A provider's request that was sent to a consumer: sampling, elicitation or roots."""

    provider: Provider
    id: bytes
    key: bytes
    capability: str
    deadline: float


NO_ASKS: Final[dict[int, ClientRequest]] = {}
_NO_LATE: Final[dict[int, None]] = {}
"""What a party has as long as it has none: never filled, so that an idle link is kept small."""


class Consumer:
    """A consumer and its link: a device, the server that acts for it, an MCP client."""

    __slots__ = (
        "answer_bytes",
        "ask_seconds",
        "asked_version",
        "asks",
        "asks_once",
        "bad_frames",
        "capabilities",
        "edits",
        "endpoint",
        "in_process",
        "initialized",
        "last_ask",
        "level",
        "link",
        "name",
        "only",
        "owed",
        "patient",
        "receive",
        "relays",
        "seen",
        "send_frame",
        "since",
        "thinking",
    )
    side: Final = "device"

    def __init__(self, endpoint: Place, link: Link, answer_bytes: int, ask_seconds: float, since: float, receive: Receive) -> None:
        self.endpoint = endpoint
        self.link = link
        self.send_frame: SendFrame | None = getattr(link, "send_frame", None)
        self.answer_bytes = answer_bytes
        self.ask_seconds = ask_seconds  # its time to answer a provider's request
        self.in_process = False  # its initialize is answered by the endpoint, never carried
        self.patient = False  # its lists wait for a starting provider without limit
        self.asks_once = False  # it lists tools once: its list waits for starting ones
        self.only = ""  # the one label it sees, "" for all
        self.relays = False  # it relays calls of another endpoint, where they are counted
        self.level = EVERYTHING  # its lowest log level, as an index of `LEVELS`
        self.since = since
        self.receive = receive
        self.owed: dict[Call, None] = {}
        self.asks = NO_ASKS
        self.last_ask = 0
        self.name = ""
        self.asked_version = ""
        self.capabilities: frozenset[str] = frozenset()
        self.edits: Mapping[str, Edit] = NO_EDITS  # method → edit of its responses
        self.initialized = False
        self.bad_frames = 0
        self.thinking = False  # its tools wait for its answers
        self.seen = b""  # fingerprint of its last list; empty without one

    def introduce(self, name: str, edits: Mapping[str, Edit]) -> None:
        """Set its name, and the changes that clients of this name need in responses."""
        self.name = name
        self.edits = edits

    def declare(self, capabilities: frozenset[str]) -> None:
        """Set the client capabilities that it has."""
        self.capabilities = capabilities

    def knows(self, fingerprint: bytes) -> None:
        """Remember the fingerprint of the list that it was sent or notified of."""
        self.seen = fingerprint


class Pending:
    """The pending requests of one link, by their number there."""

    __slots__ = ("_last", "_late", "_remember", "calls")

    def __init__(self, remember: int) -> None:
        self.calls: dict[int, Call] = {}
        self._last = 0
        self._late = _NO_LATE  # oldest first
        self._remember = remember

    def add(self, call: Call) -> int:
        """Give the call a free number and keep it."""
        number = self._last + 1
        calls = self.calls
        while number > MAX_ID or number in calls:
            number = 1 if number >= MAX_ID else number + 1
        self._last = number
        call.number = number
        calls[number] = call
        return number

    def give_up(self, number: int) -> None:
        """Remove a call without a response; a later response counts as late, not unknown."""
        del self.calls[number]
        if not self._late:
            self._late = {}
        self._late[number] = None
        if len(self._late) > self._remember:
            del self._late[next(iter(self._late))]

    def was_late(self, number: int) -> bool:
        """Whether this number was given up; true once per call."""
        return self._late.pop(number, self) is None


def is_open(call: Call) -> bool:
    """Whether a consumer still waits for this call."""
    return call.consumer is not None and call in call.consumer.owed


class State(Enum):
    """The lifecycle state of a provider."""

    NEW = "new"
    INITIALIZING = "initializing"
    READY = "ready"
    BARE = "bare"
    GONE = "gone"


class Step(Enum):
    """The transitions of a provider."""

    GREET = "greet"
    RESULT = "result"
    FAIL = "fail"
    LEAVE = "leave"


TRANSITIONS: Final[dict[tuple[State, Step], State]] = {
    (State.NEW, Step.GREET): State.INITIALIZING,
    (State.INITIALIZING, Step.RESULT): State.READY,
    (State.INITIALIZING, Step.FAIL): State.BARE,
    (State.BARE, Step.RESULT): State.READY,
    (State.NEW, Step.LEAVE): State.GONE,
    (State.INITIALIZING, Step.LEAVE): State.GONE,
    (State.READY, Step.LEAVE): State.GONE,
    (State.BARE, Step.LEAVE): State.GONE,
}


class Welcome(msgspec.Struct):
    """A provider's result of `initialize`: its bytes, and the parsed parts."""

    body: bytes
    version: str
    name: str
    capabilities: dict[str, dict[str, Any]]


class Provider:
    """A provider (tool process) and its link, with the state of its handshake."""

    __slots__ = (
        "behind",
        "call_seconds",
        "carried",
        "doubtful",
        "endpoint",
        "failed",
        "greeted",
        "greeter",
        "greeting",
        "initialized_sent",
        "label",
        "link",
        "list_changed",
        "listed",
        "listing",
        "managed",
        "noise",
        "noise_told",
        "order",
        "paged",
        "pages",
        "pending",
        "proven",
        "receive",
        "relist",
        "send_frame",
        "server_id",
        "since",
        "state",
        "translator",
        "waiting",
        "waiting_bytes",
        "welcome",
    )
    side: Final = "tool"

    def __init__(self, endpoint: Place, link: Link, server_id: str, order: int, since: float, remember: int, receive: Receive) -> None:
        self.endpoint = endpoint
        self.link = link
        self.send_frame: SendFrame | None = getattr(link, "send_frame", None)
        self.server_id = server_id
        self.order = order
        self.since = since
        self.receive = receive
        self.state = State.NEW
        self.call_seconds: float | None = None  # deadline of calls to its tools, None for the default
        self.behind: Place | None = None  # the internal endpoint of its managed server
        self.managed = False  # attached by this server itself
        self.label = ""
        self.pending = Pending(remember)
        self.doubtful = False  # its last call timed out, and it sent nothing since
        self.carried = False  # it got a request without a handshake
        self.proven = False  # and answered one, so it needs no handshake
        self.greeter: Consumer | None = None  # the consumer whose initialize was carried
        self.greeted = LONG_AGO  # when its handshake began
        self.greeting: Call | None = None  # until it is answered, however late
        self.welcome: Welcome | None = None
        self.failed = ""  # why it is bare, for hints
        self.initialized_sent = False
        self.waiting: tuple[Waiting, ...] = ()
        self.waiting_bytes = 0
        self.listing: Call | None = None  # the endpoint's own tools/list in flight
        self.pages: tuple[Tool, ...] = ()
        self.paged = False  # the first page of this listing has come
        self.listed = False  # its first list is complete
        self.relist = False  # its tools changed while they were being listed
        self.list_changed = False  # announced before it was ready
        self.noise = 0
        self.noise_told = LONG_AGO
        self.translator: Translator | None = None  # before its link, if it is stateless only

    def move(self, step: Step) -> None:
        """Apply a transition. Raises KeyError for an invalid one."""
        self.state = TRANSITIONS[self.state, step]

    def doubt(self) -> None:
        """A call to it timed out: its replicas are preferred until it answers."""
        self.doubtful = True

    def trust(self) -> None:
        """It has answered."""
        self.doubtful = False

    @property
    def settling(self) -> bool:
        """Whether its handshake or its first list is in progress, and not overdue."""
        return self.state is State.INITIALIZING or (self.listing is not None and not self.listed and self.listing.deadline < NEVER)

    @property
    def answered(self) -> bool:
        """Whether its handshake and its first list have ended with a response; not for one that is bare because it was silent."""
        return self.listed or (self.state is State.BARE and self.greeting is None)


class Waiting(msgspec.Struct, eq=False):
    """A consumer's frame that waits until its provider is ready; a notification has no call."""

    consumer: Consumer
    call: Call | None
    data: bytes
