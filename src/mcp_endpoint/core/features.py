"""Server features besides tools, shared by several providers: prompts, resources, completion, log levels, subscriptions.

Rules of this module:

1. Lists are requested on demand: prompts, resources and templates are listed at the first request that needs them, once per provider, and
   again after it announced a change. A provider is asked only for what it has declared.
2. Names of prompts and URIs are assigned like names of tools (see `catalog`).
3. A URI that is in no list belongs to the template it matches, else to the newest provider with resources.
4. Subscriptions and log levels are sent to a provider for all consumers together: it gets the first subscribe and the last unsubscribe,
   and the lowest requested level. Each consumer gets what it has requested.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import UNSET

from .. import errors
from ..protocol import jsonrpc, methods
from ..protocol.definitions import Tool
from ..protocol.jsonrpc import Frame, members, place_in_params, splice
from .catalog import PROMPTS, RESOURCES, TEMPLATES, Catalog, Kind, read_page
from .delivery import Delivery
from .ledger import Rename, most_of, number_text
from .part import EndpointPart
from .parties import EVERYTHING, Call, Consumer, Provider, State

KINDS: Final = {kind.method: kind for kind in (PROMPTS, RESOURCES, TEMPLATES)}
CHANGED: Final = {
    methods.PROMPTS_CHANGED: (PROMPTS,),
    methods.RESOURCES_CHANGED: (RESOURCES, TEMPLATES),
}
SHARED: Final = frozenset((methods.SUBSCRIBE, methods.UNSUBSCRIBE, methods.SET_LEVEL))
"""Requests of one consumer that affect all consumers of a provider."""
ABOUT: Final[dict[str, tuple[Kind, ...]]] = {
    **{method: (kind,) for method, kind in KINDS.items()},
    methods.PROMPTS_GET: (PROMPTS,),
    methods.RESOURCES_READ: (RESOURCES, TEMPLATES),
    methods.SUBSCRIBE: (RESOURCES, TEMPLATES),
    methods.UNSUBSCRIBE: (RESOURCES, TEMPLATES),
    methods.COMPLETE: (),
    methods.SET_LEVEL: (),
}
"""The methods handled here, and which lists they need."""


_EXPRESSION: Final = re.compile(r"\{[^{}]*\}")
_encode: Final = msgspec.json.Encoder().encode


class _Ref(msgspec.Struct):
    type: str = ""
    name: str | None = None
    uri: str | None = None


class _FeatureParams(msgspec.Struct):
    """The parameters that decide the routing."""

    name: str | None = None
    uri: str | None = None
    level: str | None = None
    cursor: str | None = None
    ref: _Ref | None = None


_decoder: Final = msgspec.json.Decoder(_FeatureParams)


def _read(frame: Frame) -> _FeatureParams:
    try:
        return _decoder.decode(frame.params) if frame.params is not UNSET else _FeatureParams()
    except (msgspec.DecodeError, RecursionError):
        return _FeatureParams()


def fits(template: str, uri: str) -> bool:
    """Whether `uri` may be an expansion of `template` (RFC 6570), for any values. Linear time."""
    first, *rest = _EXPRESSION.split(template)
    if not rest:
        return uri == template
    *between, last = rest
    if len(uri) < len(first) + len(last) or not uri.startswith(first) or not uri.endswith(last):
        return False
    at, end = len(first), len(uri) - len(last)
    for literal in between:
        found = uri.find(literal, at, end)
        if found < 0:
            return False
        at = found + len(literal)
    return True


class _FeatureListing:
    """A listing in progress, with its entries so far."""

    __slots__ = ("again", "call", "found")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.found: list[Tool] = []
        self.again = False  # it changed meanwhile


_NO_CATALOGS: Final[dict[Kind, Catalog]] = {}
_NO_LISTED: Final[dict[tuple[Provider, Kind], None]] = {}
_NO_LISTINGS: Final[dict[tuple[Provider, Kind], _FeatureListing]] = {}
_NO_SUBSCRIBERS: Final[dict[tuple[Provider, str], dict[Consumer, str]]] = {}
"""Shared empty values of an endpoint that does not use them; never filled."""


class SharedFeatures(EndpointPart):
    """The features of one endpoint's providers besides tools, and their subscribers."""

    __slots__ = ("catalogs", "listed", "listings", "subscribers")

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(delivery)
        self.forget()

    def forget(self) -> None:
        """Drop all state."""
        self.catalogs: dict[Kind, Catalog] = _NO_CATALOGS
        self.listed: dict[tuple[Provider, Kind], None] = _NO_LISTED
        self.listings: dict[tuple[Provider, Kind], _FeatureListing] = _NO_LISTINGS
        self.subscribers: dict[tuple[Provider, str], dict[Consumer, str]] = _NO_SUBSCRIBERS
        """(provider, its URI) → subscribed consumers, with the URI that each knows."""

    @property
    def used(self) -> bool:
        """Whether anything besides tools was requested."""
        return bool(self.catalogs)

    def _use(self) -> None:
        """Create the state on first use: an idle endpoint stays small."""
        if not self.catalogs:
            limits = self.ledger.limits
            self.catalogs = {kind: Catalog(limits.tools_per_endpoint, limits.list_page_bytes, kind) for kind in KINDS.values()}
            self.listed, self.listings, self.subscribers = {}, {}, {}

    # -- requests ----------------------------------------------------------------------------------------------------------

    def route(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> bool:
        """Route a request at an endpoint with several providers; False if it is not handled here."""
        self._use()
        kinds = ABOUT.get(call.method)
        if kinds is None:
            return False
        params = _read(frame)
        ref = params.ref or _Ref()
        if call.method == methods.COMPLETE:
            kinds = (PROMPTS,) if ref.name is not None else (RESOURCES, TEMPLATES)
        if self._wait_for(kinds, call, data, now, patient):
            return True
        if call.method in KINDS:
            self._answer_list(KINDS[call.method], call, params.cursor, frame, data)
        elif call.method == methods.SET_LEVEL:
            self._set_level(call, params.level, frame, data, now)
        elif call.method != methods.COMPLETE:
            kind = kinds[0]
            self._to_owner(kind, params.name if kind is PROMPTS else params.uri, (kind.key,), call, frame, data)
        elif ref.name is not None:
            self._to_owner(PROMPTS, ref.name, ("ref", "name"), call, frame, data)
        else:
            self._to_owner(TEMPLATES, ref.uri, ("ref", "uri"), call, frame, data)
        return True

    def share(self, provider: Provider, call: Call, frame: Frame, data: bytes, now: float) -> None:
        """Route a request of `SHARED` at an endpoint with one provider: carry it, unless other consumers would be affected."""
        assert call.consumer is not None
        self._use()
        params = _read(frame)
        if call.method == methods.SET_LEVEL:
            self._set_level(call, params.level, frame, data, now)
        elif params.uri is None:
            self.delivery.carry(provider, call, frame, data)
        else:
            self._subscribe(provider, params.uri, params.uri, call, frame, data, None)

    def _wait_for(self, kinds: tuple[Kind, ...], call: Call, data: bytes, now: float, patient: bool) -> bool:
        """Request missing lists and let the request wait for them; False if it need not wait."""
        for kind in kinds:
            for provider in self._having(kind.capability):
                if (provider, kind) not in self.listed:
                    self._list(provider, kind, now)
        if not patient or not (self.roster.settling() or any(kind in kinds for _, kind in self.listings)):
            return False
        self.waiting.until_settled(call, data, now)
        return True

    def _having(self, capability: str) -> list[Provider]:
        """The ready providers with a capability, in order of attaching."""
        ready = (provider for provider in self.roster.providers if provider.state is State.READY)
        return [provider for provider in ready if provider.welcome is not None and capability in provider.welcome.capabilities]

    def _answer_list(self, kind: Kind, call: Call, cursor: str | None, frame: Frame, data: bytes) -> None:
        if self._having(kind.capability):
            missing = [provider.label for provider, other in self.listings if other is kind]
            self.ledger.answer(call, jsonrpc.result(call.id, self.catalogs[kind].page(cursor, missing, most_of(call))))
        else:
            self.delivery.to_bare(call, frame, data, errors.METHOD_NOT_FOUND)

    def _to_owner(self, kind: Kind, name: str | None, path: tuple[str, ...], call: Call, frame: Frame, data: bytes) -> None:
        """Carry a request to the owner of a name or URI, under the owner's own name for it."""
        found = None if name is None else self._owner(kind, name)
        if found is None or name is None:
            having = self._having(kind.capability if path[0] != "ref" else "completions")
            if having and kind is not PROMPTS and name is not None:
                found = having[-1], name
            else:
                code = errors.INVALID_PARAMS if having else errors.METHOD_NOT_FOUND
                self.delivery.to_bare(call, frame, data, code)
                return
        provider, own = found
        rename = None if own == name else (path, _encode(own))
        if call.method in SHARED:
            assert name is not None
            self._subscribe(provider, own, name, call, frame, data, rename)
        else:
            self.delivery.carry(provider, call, frame, data, rename=rename)

    def _owner(self, kind: Kind, name: str) -> tuple[Provider, str] | None:
        """The provider of a name, and its own name for it."""
        catalog = self.catalogs[kind]
        catalog.settle()
        owner = catalog.owners.get(name)
        if owner is not None:
            catalog.called[name] = None
            shelves = catalog.replicas(*owner)
            return (shelves[0].provider, owner[1]) if shelves else None
        if kind is RESOURCES:
            templates = self.catalogs[TEMPLATES]
            templates.settle()
            for exported, (label, template) in templates.owners.items():
                shelves = templates.replicas(label, template)
                if shelves and fits(exported, name):
                    # An exported template is `label+template`, and so are its expansions.
                    return shelves[0].provider, name[len(exported) - len(template) :]
        return None

    # -- subscriptions ---------------------------------------------------------------------------------------------------------

    def _subscribe(self, provider: Provider, own: str, name: str, call: Call, frame: Frame, data: bytes, rename: Rename | None) -> None:
        consumer = call.consumer
        assert consumer is not None
        known = self.subscribers.get((provider, own), {})
        if call.method == methods.SUBSCRIBE:
            subscriptions = sum(consumer in others for others in self.subscribers.values())
            if consumer not in known and subscriptions >= self.ledger.limits.tools_per_endpoint:
                self.ledger.counters.busy += 1
                self.ledger.fail(call, errors.BUSY, "too many subscriptions / 订阅过多", delivered=False)
                return
            self.subscribers.setdefault((provider, own), {})[consumer] = name
        elif consumer in known and len(known) > 1:
            del known[consumer]
            self.ledger.answer(call, jsonrpc.result(call.id, b"{}"))
            return
        else:
            self.subscribers.pop((provider, own), None)
        self.delivery.carry(provider, call, frame, data, rename=rename)

    def updated(self, provider: Provider, data: bytes) -> bool:
        """Notify the subscribers of a changed resource; False if there are none."""
        spans = members(data)
        place = place_in_params(data, spans, "uri") if "params" in spans else None
        if place is None:
            return False
        try:
            own = msgspec.json.decode(data[place.start : place.end], type=str)
        except msgspec.DecodeError:
            return False
        known = self.subscribers.get((provider, own))
        if known is None:
            return False
        for consumer, name in known.items():
            frame = data if name == own else splice(data, [(place.start, place.end, _encode(name))])
            self.ledger.tell_consumer(consumer, frame)
        return True

    # -- levels --------------------------------------------------------------------------------------------------------------

    def _set_level(self, call: Call, level: str | None, frame: Frame, data: bytes, now: float) -> None:
        consumer = call.consumer
        assert consumer is not None
        logging = self._having("logging")
        if level in methods.LEVELS:
            consumer.level = methods.LEVELS.index(level)
        if self.roster.sole is not None and (level not in methods.LEVELS or not logging or len(self.roster.consumers) == 1):
            self.delivery.carry(self.roster.sole, call, frame, data)
            return
        if level not in methods.LEVELS or not logging:
            # An invalid level is answered by a provider.
            if logging:
                self.delivery.carry(logging[-1], call, frame, data)
            else:
                self.delivery.to_bare(call, frame, data, errors.METHOD_NOT_FOUND)
            return
        for provider in logging:
            self._tell_level(provider, now)
        self.ledger.answer(call, jsonrpc.result(call.id, b"{}"))

    def _tell_level(self, provider: Provider, now: float) -> None:
        """Send the lowest level that any consumer has requested."""
        levels = [consumer.level for consumer in self.roster.consumers if consumer.level != EVERYTHING]
        if levels:
            self._tell(provider, methods.SET_LEVEL, {"level": methods.LEVELS[min(levels)]}, now)

    def ready(self, provider: Provider, now: float) -> None:
        """A new provider gets the log level of the others."""
        if provider in self._having("logging"):
            self._tell_level(provider, now)

    # -- providers and consumers -----------------------------------------------------------------------------------------------

    def _tell(self, provider: Provider, method: str, params: dict[str, Any], now: float) -> None:
        """Send a request of the endpoint whose response is ignored."""
        if provider.link.queued > self.ledger.limits.queued_bytes_per_link:
            return
        call = Call(None, b"null", b"", method, now, now + self.ledger.limits.list_seconds, provider, purpose="told")
        self.lifecycle.finish_handshake(provider)
        self.ledger.say(provider, jsonrpc.request(number_text(provider.pending.add(call)), method, _encode(params)))
        self.waiting.wake_at(call.deadline)

    def _list(self, provider: Provider, kind: Kind, now: float) -> None:
        listing = self.listings.get((provider, kind))
        if listing is not None:
            return
        call = Call(None, b"null", b"", kind.method, now, now + self.ledger.limits.list_seconds, provider, purpose="offers")
        self.listings[provider, kind] = _FeatureListing(call)
        self.lifecycle.finish_handshake(provider)
        self._ask_page(provider, call, b"{}")

    def _ask_page(self, provider: Provider, call: Call, params: bytes) -> None:
        self.waiting.wake_at(call.deadline)
        self.ledger.say(provider, jsonrpc.request(number_text(provider.pending.add(call)), call.method, params))

    def page_answered(self, provider: Provider, call: Call, frame: Frame) -> bool:
        """Handle one page of a list; returns whether it was the last. An error means an empty list."""
        kind = KINDS[call.method]
        listing = self.listings[provider, kind]
        limits = self.ledger.limits
        page = None
        if frame.error is UNSET and frame.result is not UNSET:
            page = read_page(frame.result, limits.tools_per_endpoint + 1, kind)
        if page is not None:
            listing.found += page[0]
            size = sum(len(item.definition) for item in listing.found)
            if page[1] is not None and len(listing.found) < limits.tools_per_endpoint and size < limits.provider_message_bytes:
                self._ask_page(provider, call, _encode({"cursor": page[1]}))
                return False
        self.listing_ended(provider, kind)
        return True

    def listing_ended(self, provider: Provider, kind: Kind) -> None:
        """A listing has ended, with or without success: put its entries on the shelf."""
        listing = self.listings.pop((provider, kind))
        self.catalogs[kind].put(provider, provider.label, provider.order, listing.found)
        if not listing.again:
            self.listed[provider, kind] = None

    def changed(self, provider: Provider, method: str) -> None:
        """A provider announced a changed list."""
        for kind in CHANGED[method]:
            self.listed.pop((provider, kind), None)
            listing = self.listings.get((provider, kind))
            if listing is not None:
                listing.again = True

    def provider_left(self, provider: Provider, now: float) -> None:
        """Remove a provider's entries; their names keep their meaning."""
        for kind, catalog in self.catalogs.items():
            catalog.leave(provider, now)
            catalog.sweep(now)
            self.listed.pop((provider, kind), None)
            self.listings.pop((provider, kind), None)
        for key in [key for key in self.subscribers if key[0] is provider]:
            del self.subscribers[key]

    def consumer_left(self, consumer: Consumer, now: float) -> None:
        """End the subscriptions of a consumer."""
        for (provider, own), known in list(self.subscribers.items()):
            if known.pop(consumer, None) is not None and not known:
                del self.subscribers[provider, own]
                self._tell(provider, methods.UNSUBSCRIBE, {"uri": own}, now)

    def hearers(self, data: bytes, consumers: list[Consumer]) -> list[Consumer]:
        """Those of the consumers that want a log message of this level."""
        if all(consumer.level == EVERYTHING for consumer in consumers):
            return consumers
        spans = members(data)
        place = place_in_params(data, spans, "level") if "params" in spans else None
        text = "" if place is None else data[place.start : place.end].decode("ascii", "replace").strip('"')
        level = methods.LEVELS.index(text) if text in methods.LEVELS else len(methods.LEVELS)
        return [consumer for consumer in consumers if consumer.level <= level]
