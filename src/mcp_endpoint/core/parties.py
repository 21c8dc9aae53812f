"""Who meets at an endpoint, and what is on its way between them: consumers, providers and their requests."""

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
    """How a link hands a frame in."""

    def __call__(self, party: Any, data: bytes, now: float, utf8: bool, frame: Frame | None = None, /) -> None:
        """`utf8`: the wire has checked that it is. `frame` is what `data` says, where somebody in this process has read it already."""


SendFrame = Callable[[Frame, Part, Part], None]
"""`send_frame` of a `FrameLink`."""
MAX_ID: Final = 2**31 - 1
NEVER: Final = float("inf")
LONG_AGO: Final = -NEVER
NO_EDITS: Final[Mapping[str, Edit]] = {}
EVERYTHING: Final = -1
"""The log level of a consumer that asked for none: it hears all there is."""


class Place(Protocol):
    """The endpoint at which a party is attached, as its link and its room see it."""

    name: str
    """What a token opens to."""
    shown: str
    """How it may be printed."""

    @property
    def providers(self) -> list[Provider]:
        """Who answers there, in the order of attaching."""

    def provider_said_too_much(self, provider: Provider, beginning: bytes, end: bytes, now: float) -> None:
        """An answer above `provider_message_bytes` came, of which only the ends were kept."""

    def tool_named(self, name: str, only: str) -> Tool | None:
        """The tool that a name means there, for a consumer that sees `only` one label ("": all)."""


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
    consumer's bytes and `key` what ids are compared by. `data` is kept only while the request may have to be said (again); `again` is it
    for as long as another replica might answer instead of those it was `tried` with.
    `tool` is its tool's name where somebody is told of its end, and `outcome` how it ended ("": answered well). `said` is the beginning
    of what the consumer said, as long as a tap listens.
    The garbage collector does not look at calls, there are too many: whoever keeps one lets go of it when its link leaves.
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
    """A request that waits for something the endpoint will know at `until` at the latest."""

    call: Call
    data: bytes
    until: float


class ClientRequest(msgspec.Struct, eq=False):
    """A request of a provider that was handed to a consumer: sampling, elicitation or roots."""

    provider: Provider
    id: bytes
    key: bytes
    capability: str
    deadline: float


NO_ASKS: Final[dict[int, ClientRequest]] = {}
_NO_LATE: Final[dict[int, None]] = {}
"""What a party has as long as it has none: never filled, so that an idle link is kept small."""


class Consumer:
    """Whoever asks, on its link: a device, the server that speaks for it, an MCP client."""

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
        self.ask_seconds = ask_seconds  # how long it may think about a provider's question
        self.in_process = False  # its initialize is answered here, never carried
        self.patient = False  # its lists wait for a provider that still starts, however long
        self.asks_once = False  # it may never ask for its tools again: its list waits for tools that still start
        self.only = ""  # the one label it sees, "" for all
        self.relays = False  # it hands on what came in at another endpoint, where its calls are counted
        self.level = EVERYTHING  # the least important log messages it wants, as an index of `LEVELS`
        self.since = since
        self.receive = receive
        self.owed: dict[Call, None] = {}
        self.asks = NO_ASKS
        self.last_ask = 0
        self.name = ""
        self.asked_version = ""
        self.capabilities: frozenset[str] = frozenset()
        self.edits: Mapping[str, Edit] = NO_EDITS  # method → what is changed in the answers to it
        self.initialized = False
        self.bad_frames = 0
        self.thinking = False  # all that its tools ask for its calls has been asked, and they wait
        self.seen = b""  # the list it was given or told of, as a fingerprint; empty as long as it knows none


class Pending:
    """The requests one link still has to answer, by the number they have there."""

    __slots__ = ("_last", "_late", "_remember", "calls")

    def __init__(self, remember: int) -> None:
        self.calls: dict[int, Call] = {}
        self._last = 0
        self._late = _NO_LATE  # in the order in which they were given up
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
        del self.calls[number]
        if not self._late:
            self._late = {}
        self._late[number] = None
        if len(self._late) > self._remember:
            del self._late[next(iter(self._late))]

    def was_late(self, number: int) -> bool:
        """Whether this answers a call that was given up; true once per call."""
        return self._late.pop(number, self) is None


def is_open(call: Call) -> bool:
    """Whether a consumer still waits for this call's answer."""
    return call.consumer is not None and call in call.consumer.owed


class State(Enum):
    """Where a provider is in its life."""

    NEW = "new"
    INITIALIZING = "initializing"
    READY = "ready"
    BARE = "bare"
    GONE = "gone"


class Step(Enum):
    """What moves a provider on."""

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
    """A provider's result of `initialize`: its bytes, and what the endpoint reads in them."""

    body: bytes
    version: str
    name: str
    capabilities: dict[str, dict[str, Any]]


class Provider:
    """One tool process on its link, and how far its greeting has come."""

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
        self.call_seconds: float | None = None  # how long a call of its tools may take, where it is not as everywhere
        self.behind: Place | None = None  # the endpoint of the managed server it stands for
        self.managed = False  # brought by the house itself: a process it keeps, a server it reached
        self.label = ""
        self.pending = Pending(remember)
        self.doubtful = False  # its last call timed out, and it has said nothing since
        self.carried = False  # a consumer's request went to it without any handshake
        self.proven = False  # and it answered one, so it does not insist on a handshake
        self.greeter: Consumer | None = None  # the consumer whose initialize was carried
        self.greeted = LONG_AGO  # when its greeting began
        self.greeting: Call | None = None  # until it is answered, however late
        self.welcome: Welcome | None = None
        self.failed = ""  # why it is bare, for hints
        self.initialized_sent = False
        self.waiting: tuple[Waiting, ...] = ()
        self.waiting_bytes = 0
        self.listing: Call | None = None  # the endpoint's own tools/list in flight
        self.pages: tuple[Tool, ...] = ()
        self.paged = False  # the first page of this listing has come
        self.listed = False  # its shelf is complete
        self.relist = False  # its tools changed while they were being listed
        self.list_changed = False  # it said so before it was ready
        self.noise = 0
        self.noise_told = LONG_AGO
        self.translator: Translator | None = None  # stands before its link if it knows the stateless era only

    def move(self, step: Step) -> None:
        """Go on along the table above. Raises KeyError for a step that the state does not know."""
        self.state = TRANSITIONS[self.state, step]

    @property
    def settling(self) -> bool:
        """Whether it is still being greeted or listed for the first time, and in time."""
        return self.state is State.INITIALIZING or (self.listing is not None and not self.listed and self.listing.deadline < NEVER)

    @property
    def answered(self) -> bool:
        """Whether it has answered its greeting and its first list, well or not; one that is bare because it was silent has not."""
        return self.listed or (self.state is State.BARE and self.greeting is None)


class Waiting(msgspec.Struct, eq=False):
    """A consumer's frame that waits until its provider is ready; a notification has no call."""

    consumer: Consumer
    call: Call | None
    data: bytes
