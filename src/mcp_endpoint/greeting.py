"""The life of a provider, from its first frame to its last: new, initializing, ready or bare, gone.

Rules of this module:

1. A provider is initialised once in its life (MCP 2025-11-25, Lifecycle), by the first consumer's `initialize` or by the endpoint's
   own; servers made with the SDK of early 2025 confuse everybody's calls when they are greeted twice.
2. Exactly one `notifications/initialized` is sent to it.
3. A provider that leaves a greeting unanswered, or answers it with an error, is bare: it has no catalog and is not greeted again.
   A result that comes late still makes it ready.
4. Every other consumer's `initialize` is answered from the one result.

        attach          initialize sent          result
    (nothing) ──► NEW ───────────────► INITIALIZING ──► READY
                   │                        │ error, silence   ▲
                   │                        └──────► BARE ─────┘ late result
                   └── detach, from every state ──► GONE
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .calls import Call, Consumer, Link, Pending, Says
from .jsonrpc import Malformed, members, splice

if TYPE_CHECKING:
    from .catalog import Tool
    from .endpoint import Endpoint

HANDSHAKE_REVISIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""The MCP revisions that begin with `initialize`, oldest first."""
LATEST: Final = HANDSHAKE_REVISIONS[-1]
CAPABILITIES_OF_ASKS: Final = {"sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots"}
"""What a provider may ask of a consumer, and the capability the consumer must have declared for it."""
CAPABILITIES_OF_METHODS: Final = {"resources": "resources", "prompts": "prompts", "completion": "completions", "logging": "logging"}
"""First part of a consumer's method, and the capability of the provider it is carried to when there are several."""

_encode: Final = msgspec.json.Encoder().encode


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


class Hello(msgspec.Struct):
    """What the endpoint needs of a consumer's `initialize` parameters; anything malformed in them counts as absent."""

    version: str
    name: str
    capabilities: frozenset[str]


class Welcome(msgspec.Struct):
    """A provider's result of `initialize`: its bytes, and what the endpoint reads in them."""

    body: bytes
    version: str
    name: str
    capabilities: dict[str, Any]


class Provider:
    """One tool process on its link, and how far its greeting has come."""

    __slots__ = (
        "carried",
        "doubtful",
        "endpoint",
        "failed",
        "greeter",
        "greeting",
        "initialized_sent",
        "label",
        "link",
        "list_changed",
        "listed",
        "listing",
        "noise",
        "noise_told",
        "order",
        "pages",
        "pending",
        "proven",
        "relist",
        "says",
        "server_id",
        "since",
        "state",
        "waiting",
        "waiting_bytes",
        "welcome",
    )
    side: Final = "tool"

    def __init__(self, endpoint: Endpoint, link: Link, server_id: str, order: int, since: float, remember: int, says: Says) -> None:
        self.endpoint = endpoint
        self.link = link
        self.server_id = server_id
        self.order = order
        self.since = since
        self.says = says
        self.state = State.NEW
        self.label = ""
        self.pending = Pending(remember)
        self.doubtful = False  # its last call timed out, and it has said nothing since
        self.carried = False  # a consumer's request went to it without any handshake
        self.proven = False  # and it answered one, so it does not insist on a handshake
        self.greeter: Consumer | None = None  # the consumer whose initialize was carried
        self.greeting: Call | None = None
        self.welcome: Welcome | None = None
        self.failed = ""  # why it is bare, for hints
        self.initialized_sent = False
        self.waiting: deque[Waiting] = deque()
        self.waiting_bytes = 0
        self.listing: Call | None = None  # the endpoint's own tools/list in flight
        self.pages: list[Tool] = []
        self.listed = False  # its shelf is complete
        self.relist = False  # its tools changed while they were being listed
        self.list_changed = False  # it said so before it was ready
        self.noise = 0
        self.noise_told = float("-inf")

    def move(self, step: Step) -> None:
        """Go on along the table above. Raises KeyError for a step that the state does not know."""
        self.state = TRANSITIONS[self.state, step]

    @property
    def settling(self) -> bool:
        """Whether it is still being greeted or listed for the first time."""
        return self.state is State.INITIALIZING or (self.listing is not None and not self.listed)


class Waiting(msgspec.Struct, gc=False):
    """A consumer's frame that waits until its provider is ready; a notification has no call."""

    consumer: Consumer
    call: Call | None
    data: bytes


class _WelcomeBody(msgspec.Struct):
    protocolVersion: str
    capabilities: msgspec.Raw = msgspec.Raw(b"{}")
    serverInfo: msgspec.Raw = msgspec.Raw(b"{}")


_welcome_decoder: Final = msgspec.json.Decoder(_WelcomeBody)
_fields_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_object_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_string_decoder: Final = msgspec.json.Decoder(str)


def _fields(raw: msgspec.Raw | bytes) -> dict[str, msgspec.Raw]:
    try:
        return _fields_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}


def _object(raw: msgspec.Raw | bytes) -> dict[str, Any]:
    try:
        return _object_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}


def _string(raw: msgspec.Raw | bytes) -> str:
    try:
        return _string_decoder.decode(raw)
    except msgspec.DecodeError:
        return ""


def read_hello(params: bytes | msgspec.Raw) -> Hello:
    """What a consumer says of itself in `initialize`."""
    fields = _fields(params)
    info = _fields(fields.get("clientInfo", b""))
    return Hello(
        version=_string(fields.get("protocolVersion", b"")),
        name=_string(info.get("name", b"")),
        capabilities=frozenset(_fields(fields.get("capabilities", b""))),
    )


def read_welcome(body: bytes) -> Welcome | None:
    """What a provider says of itself, or None if this is no result of `initialize` (MCP: `protocolVersion` is required)."""
    try:
        found = _welcome_decoder.decode(body)
        members(body)
    except (msgspec.DecodeError, Malformed):
        return None
    name = _string(_fields(found.serverInfo).get("name", b""))
    return Welcome(body, found.protocolVersion, name, _object(found.capabilities))


def welcome_from(welcome: Welcome, asked: str) -> bytes:
    """The result another consumer's `initialize` gets: the provider's bytes, with the revision asked for if it is known and not newer."""
    if asked not in HANDSHAKE_REVISIONS or asked >= welcome.version:
        return welcome.body
    place = members(welcome.body)["protocolVersion"]
    return splice(welcome.body, [(place.start, place.end, _encode(asked))])


def own_welcome(asked: str, welcomes: list[Welcome], version: str) -> bytes:
    """The endpoint's own result of `initialize`: alone, or for several providers with the union of their capabilities."""
    capabilities: dict[str, Any] = {}
    for welcome in welcomes:
        for name, value in welcome.capabilities.items():
            known = capabilities.setdefault(name, {})
            if isinstance(value, dict):
                known.update(value)
    capabilities.setdefault("tools", {})["listChanged"] = True
    return _encode(
        {
            "protocolVersion": asked if asked in HANDSHAKE_REVISIONS else LATEST,
            "capabilities": capabilities,
            "serverInfo": {"name": "mcp-endpoint-server", "version": version},
        }
    )


def own_hello(version: str) -> bytes:
    """The parameters of the endpoint's own `initialize`."""
    return _encode(
        {
            "protocolVersion": LATEST,
            "capabilities": {"sampling": {}, "elicitation": {}, "roots": {}},
            "clientInfo": {"name": "mcp-endpoint-server", "version": version},
        }
    )
