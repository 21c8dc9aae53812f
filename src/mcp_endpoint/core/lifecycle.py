"""The lifecycle of a provider: new, initializing, ready or bare, gone; and its tool lists.

Rules of this module:

1. A provider is initialized once (MCP 2025-11-25, Lifecycle), by the first consumer's `initialize` or by the endpoint's own; servers with
   the SDK of early 2025 mix up calls if they are initialized twice.
2. Exactly one `notifications/initialized` is sent to it.
3. A provider that does not answer `initialize`, or answers with an error, is bare: it has no catalog and is not initialized again. A late
   result still makes it ready.
4. Every other consumer's `initialize` is answered from that one result.

        attach          initialize sent          result
    (nothing) ──► NEW ───────────────► INITIALIZING ──► READY
                   │                        │ error, timeout   ▲
                   │                        └──────► BARE ─────┘ late result
                   └── detach, from every state ──► GONE
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET

from .. import errors
from ..protocol import jsonrpc, methods, stateless
from ..protocol.definitions import ALL, hello, identity
from ..protocol.jsonrpc import Frame, Malformed, Part, members, splice
from ..settings.schema import EndpointSettings
from .catalog import Catalog, read_page
from .ledger import Ledger, number_text, outgoing
from .older_clients import edits_for
from .parties import NEVER, Call, Consumer, Provider, State, Step, Waiting, Welcome, is_open
from .roster import Roster
from .translator import Translator
from .waiting import WaitingRequests

NAME_CHARS: Final = 128
"""Characters kept of a peer's name."""
WELCOME_BYTES: Final = 64 * 1024
"""Largest result of `initialize`; it is kept and parsed for each consumer."""

_encode: Final = msgspec.json.Encoder().encode


class Hello(msgspec.Struct):
    """The used parameters of a consumer's `initialize`; malformed ones count as absent."""

    version: str
    name: str
    capabilities: frozenset[str]


class _WelcomeBody(msgspec.Struct):
    protocolVersion: str
    capabilities: msgspec.Raw = msgspec.Raw(b"{}")
    serverInfo: msgspec.Raw = msgspec.Raw(b"{}")


class _ErrorBody(msgspec.Struct):
    code: int


_error_decoder: Final = msgspec.json.Decoder(_ErrorBody)
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
    """Read the parameters of a consumer's `initialize`."""
    fields = _fields(params)
    info = _fields(fields.get("clientInfo", b""))
    declared = _object(fields.get("capabilities", b""))
    return Hello(
        version=_string(fields.get("protocolVersion", b""))[:NAME_CHARS],
        name=_string(info.get("name", b"")),
        # Some peers write `"sampling": null` for a missing capability.
        capabilities=frozenset(name for name in methods.CAPABILITIES.values() if isinstance(declared.get(name), dict)),
    )


def read_welcome(body: bytes) -> Welcome | None:
    """Read a provider's result of `initialize`; None if it is not one (MCP: `protocolVersion` is required)."""
    if len(body) > WELCOME_BYTES:
        return None
    try:
        found = _welcome_decoder.decode(body)
        members(body)
    except (msgspec.DecodeError, RecursionError, Malformed):
        return None
    name = _string(_fields(found.serverInfo).get("name", b""))
    capabilities = {name: value for name, value in _object(found.capabilities).items() if isinstance(value, dict)}
    return Welcome(body, found.protocolVersion, name[:NAME_CHARS], capabilities)


def welcome_from(welcome: Welcome, asked: str) -> bytes:
    """The result for another consumer's `initialize`: the provider's bytes, with the requested revision if it is known and not newer."""
    if asked not in methods.HANDSHAKE_REVISIONS or asked >= welcome.version:
        return welcome.body
    try:
        place = members(welcome.body)["protocolVersion"]
    except Malformed:  # nested to the parser's limit: unchanged
        return welcome.body
    return splice(welcome.body, [(place.start, place.end, _encode(asked))])


def own_welcome(asked: str, welcomes: list[Welcome], version: str) -> bytes:
    """The endpoint's own result of `initialize`: without providers, or with the union of their capabilities."""
    capabilities: dict[str, Any] = {}
    for welcome in welcomes:
        for name, value in welcome.capabilities.items():
            capabilities.setdefault(name, {}).update(value)
    capabilities.setdefault("tools", {})["listChanged"] = True
    revision = asked if asked in methods.HANDSHAKE_REVISIONS else methods.LATEST
    return _encode({"protocolVersion": revision, "capabilities": capabilities, "serverInfo": identity(version)})


def is_missing(provider: Provider) -> bool:
    """Whether a list must do without this provider's tools."""
    return provider.state is State.INITIALIZING or (provider.state is State.READY and not provider.listed)


def insists(call: Call, frame: Frame) -> bool:
    """Whether a response to a request without handshake looks like that of a server that requires one."""
    if frame.error is UNSET:
        return False
    if call.method == methods.TOOLS_LIST:
        return True
    try:
        return _error_decoder.decode(frame.error).code == errors.INVALID_PARAMS.number
    except (msgspec.DecodeError, RecursionError):
        return False


class Lifecycle:
    """Initializes the providers of one endpoint, lists their tools, and answers consumers' `initialize`."""

    __slots__ = ("catalog", "ledger", "limits", "roster", "settings", "version", "waiting")

    def __init__(
        self, roster: Roster, waiting: WaitingRequests, catalog: Catalog, ledger: Ledger, settings: EndpointSettings, version: str
    ) -> None:
        self.roster = roster
        self.waiting = waiting
        self.catalog = catalog
        self.ledger = ledger
        self.settings = settings
        self.limits = ledger.limits
        self.version = version

    def initialize(self, call: Call, frame: Frame, data: bytes, now: float) -> None:
        """Handle a consumer's `initialize`; the first one is carried to a sole new provider."""
        consumer = call.consumer
        assert consumer is not None
        hello = read_hello(frame.params if frame.params is not UNSET else b"")
        name = hello.name[:NAME_CHARS]
        consumer.introduce(name, consumer.edits if consumer.relays else edits_for(name, hello.version, self.settings))
        consumer.asked_version = hello.version
        consumer.declare(hello.capabilities)
        provider = self.roster.sole
        if provider is not None and provider.state is State.NEW and self.settings.greet == "consumer" and not consumer.in_process:
            greeting = Call(None, call.id, call.key, methods.INITIALIZE, now, call.deadline, provider, purpose="greeting")
            number = provider.pending.add(greeting)
            try:
                first, second = outgoing(call, frame, data, number, None)
            except Malformed:
                del provider.pending.calls[number]
                raise
            provider.move(Step.GREET)
            provider.greeting = greeting
            provider.greeter = consumer
            provider.greeted = now
            self.ledger.say(provider, first, second)
        elif provider is None or provider.state is State.NEW:
            self.learn(now)
        self.waiting.await_welcome(call)
        self.settle()

    def learn(self, now: float) -> None:
        """Initialize new providers, and list the tools of ready ones."""
        for provider in self.roster.providers:
            if provider.state is State.NEW:
                self.greet(provider, now)
            elif provider.state is State.READY and not provider.listed and not provider.settling:
                self.list_tools(provider, now)

    def translate(self, provider: Provider, refused: bytes = b"") -> None:
        """Put a translator before a stateless provider; `refused` is its error to a handshake, if any."""
        receive = provider.receive
        provider.send_frame = None  # what it sends is put in other words
        provider.translator = provider.link = Translator(
            provider.link,
            lambda frame, now: receive(provider, frame, now, True),
            lambda: self.waiting.wake_at(0.0),
            self.version,
            refused=refused,
        )

    def greet(self, provider: Provider, now: float) -> None:
        """Send the endpoint's own `initialize`."""
        provider.move(Step.GREET)
        deadline = now + self.limits.own_initialize_seconds
        provider.greeting = Call(None, b"null", b"", methods.INITIALIZE, now, deadline, provider, purpose="greeting")
        number = provider.pending.add(provider.greeting)
        provider.greeted = now
        self.waiting.wake_at(deadline)
        self.ledger.say(provider, jsonrpc.request(number_text(number), methods.INITIALIZE, _encode(hello(ALL, self.version))))

    def answered(self, provider: Provider, call: Call, frame: Frame, first: Part, second: Part, now: float) -> bool:
        """A provider has answered `initialize`; `first` and `second` are its response with the id of the consumer it was carried for.

        Returns whether the handshake has ended.
        """
        provider.greeting = None
        if frame.error is not UNSET and provider.translator is None and stateless.knows_only_stateless(frame.error):
            self._greet_stateless(provider, call, bytes(frame.error))
            return False
        welcome = read_welcome(bytes(frame.result)) if frame.error is UNSET and frame.result is not UNSET else None
        in_time = provider.state is State.INITIALIZING
        if welcome is not None:
            provider.move(Step.RESULT)
            provider.failed = ""
            provider.welcome = welcome
            provider.label = self.catalog.label_for(provider.server_id, welcome.name)
        elif in_time:
            self.fail(provider, "it answered initialize with an error" if frame.error is not UNSET else "it sent no result")
        greeter = provider.greeter
        if greeter is not None and in_time:
            # The consumer whose initialize was carried gets the provider's own response.
            for waiting in self.waiting.welcomes_for(greeter):
                greeter.initialized = greeter.initialized or welcome is not None
                if waiting.call.id == call.id:
                    self.ledger.answer(waiting.call, first, second)
                else:
                    self.welcome(waiting.call)
        needed = greeter is None or not in_time or provider.list_changed or len(self.roster.providers) > 1 or bool(self.waiting.held)
        if welcome is not None and needed:
            self.list_tools(provider, now)
        return True

    def _greet_stateless(self, provider: Provider, call: Call, refused: bytes) -> None:
        """The provider supports no handshake: initialize it by the stateless revision (MCP 2026-07-28)."""
        self.translate(provider, refused)
        provider.greeting = call
        self.ledger.say(
            provider, jsonrpc.request(number_text(provider.pending.add(call)), methods.INITIALIZE, _encode(hello(ALL, self.version)))
        )

    def fail(self, provider: Provider, why: str) -> None:
        """The handshake has failed: the provider is bare."""
        provider.move(Step.FAIL)
        provider.failed = why
        provider.label = self.catalog.label_for(provider.server_id, "")
        self.ledger.watch.tell("bare", self.ledger.shown, label=provider.label, why=why)

    def finish_handshake(self, provider: Provider) -> None:
        """Send the one `initialized`, if the first consumer has not."""
        if provider.state is State.READY:
            self.end_handshake(provider, jsonrpc.notification(methods.INITIALIZED))

    def end_handshake(self, provider: Provider, data: bytes) -> None:
        """Send `data`, an `initialized`, unless one was sent; also to a provider whose queue is full."""
        if not provider.initialized_sent:
            provider.initialized_sent = True
            self.ledger.say(provider, data)
            self.roster.update_direct()

    def keep(self, provider: Provider, consumer: Consumer, call: Call | None, data: bytes) -> None:
        """Keep a frame until its provider is initialized; refuse it if there is no room."""
        full = provider.waiting_bytes + len(data) > self.limits.queued_bytes_per_link
        if full or len(provider.waiting) >= self.limits.in_flight_per_endpoint:
            if call is None:
                self.ledger.counters.dropped_notifications += 1
            else:
                self.ledger.counters.busy += 1
                self.ledger.fail(call, errors.BUSY, "too much waits for this tool's initialize / 等待工具端握手的数据过多", delivered=False)
            return
        provider.waiting_bytes += len(data)
        provider.waiting = (*provider.waiting, Waiting(consumer, call, data))
        if call is not None:
            self.waiting.wake_at(call.deadline)

    def consumer_left(self, consumer: Consumer) -> None:
        """Drop its waiting requests; a handshake it started continues without it."""
        for provider in self.roster.providers:
            if provider.greeter is consumer:
                provider.greeter = None
        self.forget_closed()

    def provider_left(self, provider: Provider) -> tuple[Waiting, ...]:
        """Take out the frames that wait for a provider. Calls refer to their provider: break the reference cycle."""
        provider.greeting = provider.listing = None
        return self.take_waiting(provider)

    def take_waiting(self, provider: Provider) -> tuple[Waiting, ...]:
        """Remove and return the frames that wait for a provider."""
        waiting, provider.waiting = provider.waiting, ()
        provider.waiting_bytes = 0
        return waiting

    def expire_waiting(self, provider: Provider, now: float) -> None:
        """Answer calls that waited for a handshake until their deadline."""
        kept = [waiting for waiting in provider.waiting if waiting.call is None or waiting.call.deadline > now]
        expired = [waiting.call for waiting in provider.waiting if waiting.call is not None and waiting.call.deadline <= now]
        if expired:
            provider.waiting = tuple(kept)
            provider.waiting_bytes = sum(len(waiting.data) for waiting in kept)
        for call in expired:
            self.ledger.timed_out(call, delivered=False)

    def forget_closed(self) -> None:
        """Drop cancelled requests, and frames of consumers that left, from every waiting queue."""
        self.waiting.forget_closed()
        for provider in self.roster.providers:
            if provider.waiting:
                kept = [frame for frame in provider.waiting if frame.consumer in self.roster.consumers]
                kept = [frame for frame in kept if frame.call is None or is_open(frame.call)]
                provider.waiting = tuple(kept)
                provider.waiting_bytes = sum(len(frame.data) for frame in kept)

    def settle(self) -> None:
        """Answer waiting `initialize`s as soon as possible."""
        if not self.waiting.initializes:
            return
        states = [provider.state for provider in self.roster.providers]
        if State.INITIALIZING in states and State.READY not in states:
            return
        for parked in self.waiting.take("initializes"):
            self.welcome(parked.call)

    def welcome(self, call: Call) -> None:
        """Answer one `initialize` from one provider's result, several providers', or the endpoint's own."""
        consumer = call.consumer
        assert consumer is not None
        ready = [provider for provider in self.roster.providers if provider.state is State.READY]
        if consumer.only:
            ready = [provider for provider in ready if provider.label == consumer.only]
        welcomes = [provider.welcome for provider in ready if provider.welcome is not None]
        if len(welcomes) == 1 and (consumer.only or self.roster.sole is not None):
            body = welcome_from(welcomes[0], consumer.asked_version)
        else:
            body = own_welcome(consumer.asked_version, welcomes, self.version)
        consumer.initialized = True
        # Do not assign names while an older provider may still bring its tools.
        consumer.knows(b"" if self.roster.settling() else self.catalog.fingerprint())
        self.roster.update_direct()
        self.ledger.answer(call, jsonrpc.result(call.id, body))

    def list_tools(self, provider: Provider, now: float) -> None:
        """Request a provider's tools when it is ready; during a listing only remember that another one is needed.

        An overdue first list is requested once more, and the first response counts.
        """
        if provider.state is not State.READY:
            provider.list_changed = True
            return
        if provider.listing is not None:
            if provider.listing.deadline < NEVER:
                provider.relist = True
                return
            self._give_up_lists(provider, provider.listing)
        self.finish_handshake(provider)
        provider.list_changed = False
        provider.pages = ()
        provider.paged = False
        provider.listing = Call(None, b"null", b"", methods.TOOLS_LIST, now, now + self.limits.list_seconds, provider, purpose="list")
        self._ask_page(provider, provider.listing, b"{}")

    @staticmethod
    def _give_up_lists(provider: Provider, kept: Call) -> None:
        """Stop waiting for responses to list requests except `kept`."""
        for other in [call for call in provider.pending.calls.values() if call.purpose == "list" and call is not kept]:
            provider.pending.give_up(other.number)

    def _ask_page(self, provider: Provider, call: Call, params: bytes) -> None:
        self.waiting.wake_at(call.deadline)
        self.ledger.say(provider, jsonrpc.request(number_text(provider.pending.add(call)), methods.TOOLS_LIST, params))

    def page_answered(self, provider: Provider, call: Call, frame: Frame, now: float) -> bool:
        """Handle one page of tools; returns whether it was the last. An error of a server without tools means an empty list."""
        page = None
        if not provider.paged:
            provider.paged = True
            provider.listing = call
            self._give_up_lists(provider, call)
        if frame.error is UNSET and frame.result is not UNSET:
            page = read_page(frame.result, self.limits.tools_per_endpoint + 1)
        if page is None:
            self.ledger.watch.tell("no list", self.ledger.shown, label=provider.label)
        else:
            provider.pages = (*provider.pages, *page[0])
            # An endless list ends at the limit of tools or bytes, and at the deadline of its first page.
            size = sum(len(tool.definition) for tool in provider.pages)
            room = len(provider.pages) < self.limits.tools_per_endpoint and size < self.limits.provider_message_bytes
            if page[1] is not None and room:
                if call.deadline == NEVER:  # the first page was late; give the others the usual time
                    call.deadline = now + self.limits.list_seconds
                self._ask_page(provider, call, _encode({"cursor": page[1]}))
                return False
        left_out = self.catalog.put(provider, provider.label, provider.order, provider.pages)
        if left_out:
            self.ledger.watch.tell("too many tools", self.ledger.shown, label=provider.label, left_out=left_out)
        first_time, count = not provider.listed, len(provider.pages)  # listing_ended may start the next one
        provider.listed = True
        self.listing_ended(provider, now)
        if first_time:
            self.ledger.watch.tell("tools", self.ledger.shown, label=provider.label, tools=count)
        return True

    def overhear(self, provider: Provider, consumer: Consumer, result: bytes) -> None:
        """Learn a provider's tools from a whole list that was carried."""
        page = read_page(result, self.limits.tools_per_endpoint + 1)
        if page is not None and page[1] is None:
            self.catalog.put(provider, provider.label, provider.order, page[0])
            self.catalog.settle()
            provider.listed = True
            consumer.knows(self.catalog.fingerprint())
            self.roster.update_direct()

    def listing_ended(self, provider: Provider, now: float) -> None:
        """A listing has ended, with or without success."""
        provider.listing = None
        if provider.relist:
            provider.relist = False
            self.list_tools(provider, now)
