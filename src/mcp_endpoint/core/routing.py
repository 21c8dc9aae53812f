"""Selects the provider of a request: the sole one, the owner of the tool's name, a bare one, or none."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET

from .. import errors
from ..errors import Code
from ..protocol import jsonrpc, methods
from ..protocol.jsonrpc import Frame, Malformed, parse
from .catalog import Shelf, is_repeatable
from .delivery import KEPT_BYTES, Delivery
from .features import SHARED, SharedFeatures
from .ledger import Rename, most_of
from .lifecycle import NAME_CHARS
from .lists import Lists, cursor_of
from .parties import Call, Provider, State

REPEATABLE: Final = "repeatable"
"""Purpose of a call that may be repeated: its tool declares itself read-only or idempotent."""

_encode: Final = msgspec.json.Encoder().encode


class _CallParams(msgspec.Struct):
    name: str


_call_decoder: Final = msgspec.json.Decoder(_CallParams)


def tool_name(frame: Frame) -> str | None:
    """The tool name in a `tools/call`."""
    try:
        return _call_decoder.decode(frame.params).name if frame.params is not UNSET else None
    except (msgspec.DecodeError, RecursionError):
        return None


def _unknown_tool(name: str) -> Code:
    """-32602 with the name of the unknown tool: devices show their user the message only."""
    shown = name[:NAME_CHARS]
    return Code(errors.INVALID_PARAMS.number, f"没有名为 {shown} 的工具 / Unknown tool: {shown}")


def _grant(call: Call, provider: Provider, seconds: float | None) -> None:
    """Set the call's deadline: per tool, else per provider, else `call_timeout`."""
    seconds = provider.call_seconds if seconds is None else seconds
    if seconds is not None:
        call.deadline = call.started + seconds


class Routing:
    """Routes requests that cannot be carried directly."""

    __slots__ = ("catalog", "delivery", "features", "ledger", "lifecycle", "lists", "roster", "settings", "waiting")

    def __init__(self, delivery: Delivery, lists: Lists, features: SharedFeatures) -> None:
        self.delivery = delivery
        self.lists = lists
        self.features = features
        self.roster = delivery.roster
        self.waiting = delivery.waiting
        self.lifecycle = delivery.lifecycle
        self.ledger = delivery.ledger
        self.catalog = delivery.lifecycle.catalog
        self.settings = delivery.lifecycle.settings

    def route(self, call: Call, frame: Frame, data: bytes, now: float, *, patient: bool = True) -> None:
        """Route a request. `patient` is False if it has already waited for the catalog."""
        assert call.consumer is not None
        if call.method == methods.INITIALIZE:
            self.lifecycle.initialize(call, frame, data, now)
        elif call.consumer.only:
            self._to_label(call.consumer.only, call, frame, data, now, patient)
        elif call.method == methods.TOOLS_LIST and self.roster.providers and self.lists.waits_for_tools(call, frame, now):
            self.lifecycle.learn(now)
            self.waiting.hold(call)
            self.lists.answer_held(now)
        elif self.roster.sole is not None:
            self._to_one(self.roster.sole, call, frame, data, now, patient)
        elif self.roster.providers:
            self._among(call, frame, data, now, patient)
        else:
            self._to_none(call, frame, data, now)

    def again(self, call: Call, data: bytes, now: float, *, patient: bool = True) -> None:
        """Route a request that has waited."""
        try:
            self.route(call, parse(data, utf8=True), data, now, patient=patient)
        except Malformed as malformed:
            self.ledger.fail(call, malformed.code, malformed.why, delivered=False)

    def _to_none(self, call: Call, frame: Frame, data: bytes, now: float) -> None:
        assert call.consumer is not None
        if call.method == methods.PING:
            self.ledger.answer(call, jsonrpc.result(call.id, b"{}"))
        elif call.method == methods.TOOLS_LIST:
            if self.catalog.shelves:
                self.lists.answer(call, frame, data)
            elif self.lists.holds_for(call.consumer) and not (call.consumer.patient or call.consumer.asks_once):
                self.waiting.hold(call)
            else:
                call.consumer.knows(self.catalog.fingerprint())
                self.ledger.answer(call, jsonrpc.result(call.id, b'{"tools":[]}'))
        elif self.delivery.lately(now):
            self.delivery.park(call, data, now)
        else:
            self.delivery.nobody(call)

    def _to_one(self, provider: Provider, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        assert call.consumer is not None
        if provider.state is State.INITIALIZING and provider.greeter is not call.consumer:
            self.lifecycle.keep(provider, call.consumer, call, data)
        elif call.method == methods.TOOLS_LIST and self.lists.is_ours(provider):
            self.lists.answer_when_settled(call, frame, data, now, patient)
        elif call.method == methods.TOOLS_CALL:
            self._call_tool(call, frame, data, now, patient)
        elif call.method in SHARED and provider.state is State.READY:
            self.features.share(provider, call, frame, data, now)
        else:
            self.delivery.carry(provider, call, frame, data)

    def _among(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        if call.method == methods.TOOLS_LIST:
            self.lists.answer_when_settled(call, frame, data, now, patient)
        elif self.roster.plain():
            self.delivery.carry(self.roster.providers[-1], call, frame, data)
        elif call.method == methods.PING:
            self.ledger.answer(call, jsonrpc.result(call.id, b"{}"))
        elif call.method == methods.TOOLS_CALL:
            self._call_tool(call, frame, data, now, patient)
        elif not self.features.route(call, frame, data, now, patient):
            self._to_bare(call, frame, data, now, patient, errors.METHOD_NOT_FOUND)

    def _to_label(self, label: str, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        """Route a request of a consumer that sees one label only, whose tools have their own names there."""
        self.lifecycle.learn(now)
        if patient and self.roster.settling():
            self.waiting.until_settled(call, data, now)
            return
        here = [provider for provider in self.roster.providers if provider.label == label and provider.state is not State.NEW]
        if call.method == methods.PING:
            self.ledger.answer(call, jsonrpc.result(call.id, b"{}"))
        elif call.method == methods.TOOLS_LIST and not any(provider.state is State.BARE for provider in here):
            self.ledger.answer(call, jsonrpc.result(call.id, self.catalog.page_of(label, cursor_of(frame), most_of(call))))
        elif call.method == methods.TOOLS_CALL:
            name = tool_name(frame)
            if name is not None and self._to_replica(label, name, call, frame, data, None):
                pass
            elif here:
                _grant(call, here[-1], None)
                self.delivery.carry(here[-1], call, frame, data)
            elif any(shelf.label == label for shelf in self.catalog.shelves):
                self.delivery.park(call, data, now)
            else:
                self.delivery.nobody(call)
        elif not here:
            self.delivery.nobody(call)
        elif call.method in SHARED and here[-1].state is State.READY:
            self.features.share(here[-1], call, frame, data, now)
        else:
            self.delivery.carry(here[-1], call, frame, data)

    def _call_tool(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool) -> None:
        """Route a `tools/call` to the tool that owns the name."""
        name = tool_name(frame)
        settings = self.settings.tools.get(name) if name is not None else None
        seconds = None if settings is None else settings.timeout
        if name is not None and name not in self.catalog.owners and not self.roster.settling():
            self.catalog.settle()
        owner = self.catalog.owners.get(name) if name is not None else None
        if owner is None:
            if self.roster.sole is not None:
                _grant(call, self.roster.sole, seconds)
                self.delivery.carry(self.roster.sole, call, frame, data)
            else:
                self._to_bare(call, frame, data, now, patient, errors.INVALID_PARAMS if name is None else _unknown_tool(name))
            return
        assert name is not None
        self.catalog.called[name] = None
        label, tool = owner
        if self._to_replica(label, tool, call, frame, data, seconds, None if tool == name else (("name",), _encode(tool))):
            pass
        elif any(provider.label == label and provider.listed for provider in self.roster.providers):
            self.ledger.fail(call, _unknown_tool(name), "the provider no longer has this tool / 工具端已不再提供此工具", delivered=False)
        elif any(shelf.label == label for shelf in self.catalog.shelves) or (patient and self.roster.settling()):
            self.delivery.park(call, data, now)
        else:
            self.delivery.nobody(call)

    def _to_replica(
        self, label: str, tool: str, call: Call, frame: Frame, data: bytes, seconds: float | None, rename: Rename | None = None
    ) -> bool:
        """Carry it to the first replica that was not tried; False if the tool has none and none was tried."""
        replicas = [shelf for shelf in self.catalog.replicas(label, tool) if shelf.provider not in call.tried]
        if replicas:
            _grant(call, replicas[0].provider, seconds)
            self._keep_for_replicas(call, data, replicas, tool)
            self.delivery.carry(replicas[0].provider, call, frame, data, rename=rename)
        elif call.tried:
            self.ledger.counters.provider_gone += 1
            self.ledger.fail(call, errors.PROVIDER_GONE, "every replica was tried / 所有副本都已尝试", delivered=None)
        return bool(replicas or call.tried)

    def _keep_for_replicas(self, call: Call, data: bytes, replicas: list[Shelf], tool: str) -> None:
        """Keep the request's bytes while it may be retried at another replica."""
        chosen = replicas[0]
        repeatable = len(replicas) > 1 and len(data) <= KEPT_BYTES and is_repeatable(chosen.tools[tool])
        call.purpose = REPEATABLE if repeatable else ""
        call.again = data if repeatable or (chosen.provider.managed and len(replicas) > 1 and len(data) <= KEPT_BYTES) else b""
        if call.again:
            call.tried = (*call.tried, chosen.provider)

    def _to_bare(self, call: Call, frame: Frame, data: bytes, now: float, patient: bool, otherwise: Code) -> None:
        """Carry a request that the catalog cannot route to the newest bare provider."""
        if patient and self.roster.settling():
            self.waiting.until_settled(call, data, now)
        else:
            self.delivery.to_bare(call, frame, data, otherwise)
