"""The event stream of one subscription (MCP 2026-07-28)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw
from starlette.types import Receive, Scope, Send

from ... import errors
from ...protocol import jsonrpc, methods, stateless
from ...protocol.jsonrpc import Frame
from ...settings.schema import Limits
from .answers import StreamedAnswer
from .caller import Caller
from .envelope import Rejected, StatelessRequest
from .exchange import Exchange
from .streams import COMMENT, COMMENT_SECONDS, Store, event_of, hung_up

_encode: Final = msgspec.json.Encoder().encode

ANNOUNCED: Final = {
    methods.TOOLS_CHANGED: ("toolsListChanged", "tools"),
    methods.PROMPTS_CHANGED: ("promptsListChanged", "prompts"),
    methods.RESOURCES_CHANGED: ("resourcesListChanged", "resources"),
}
"""Notification → its name in the filter, and the capability it belongs to."""
RESOURCES: Final = 100
"""Most resources of one subscription."""


class Listener(StreamedAnswer):
    """The stream of one `subscriptions/listen`; its notifications are tagged with the request's id."""

    def __init__(self, asked: StatelessRequest, caller: Caller, limits: Limits, store: Store, over: Callable[[Listener], None]) -> None:
        """`over` is called when the stream has ended; `store` counts what its client has not read."""
        super().__init__(limits.stalled_seconds)
        self._store = store
        self._on_end = over
        self.owner = caller.name
        """The endpoint's name."""
        self._asked = asked
        self._exchange = Exchange(caller, limits, store, on_notification=self._on_notification)
        self._methods: set[str] = set()
        self._resources: set[str] = set()
        self._events: dict[bytes, None] = {}
        self._news = asyncio.Event()
        self._over = False

    async def open(self, wanted: Mapping[str, Any]) -> None:
        """Determine which of the wanted notifications are available, and subscribe. Raises Rejected."""
        await self._exchange.initialize()
        if not self._exchange.welcome:
            raise Rejected(stateless.INTERNAL, "the endpoint does not answer / 接入点没有应答", id=self._asked.id)
        had = capabilities_of(self._exchange)
        honored: dict[str, Any] = {}
        for method, (name, capability) in ANNOUNCED.items():
            if wanted.get(name) is True and _has(had, capability, "listChanged"):
                self._methods.add(method)
                honored[name] = True
        uris = wanted.get("resourceSubscriptions")
        if isinstance(uris, list) and _has(had, "resources", "subscribe"):
            for uri in [uri for uri in dict.fromkeys(map(str, uris)) if uri][:RESOURCES]:
                frame = await self._exchange.request(methods.SUBSCRIBE, _encode({"uri": uri}))
                if frame.error is UNSET:
                    self._resources.add(uri)
            if self._resources:
                honored["resourceSubscriptions"] = sorted(self._resources)
        acknowledged = Raw(_encode({"notifications": honored}))
        # Notifications received meanwhile are sent after the acknowledgement.
        first = stateless.tagged(methods.ACKNOWLEDGED, acknowledged, self._asked.id)
        received = list(self._events)
        self._forget()
        for event in (first, *received):
            self._keep(event)

    def _on_notification(self, method: str, frame: Frame) -> None:
        if self._over or (method not in self._methods and not (method == methods.UPDATED and self._resources)):
            return
        # Each means "read again", so an unread one covers later ones.
        self._keep(stateless.tagged(method, frame.params, self._asked.id))

    def _keep(self, event: bytes) -> None:
        if event not in self._events:
            self._events[event] = None
            self._exchange.unread += len(event)
            self._store.take(self, len(event))
            self._news.set()

    def _next(self) -> bytes:
        event = next(iter(self._events))
        del self._events[event]
        self._exchange.unread -= len(event)
        self._store.free(self, len(event))
        return event

    def _forget(self) -> None:
        self._events.clear()
        self._store.free(self, self._exchange.unread)
        self._exchange.unread = 0

    def spare(self) -> None:
        """Nothing: everything that is kept is needed."""

    def drop(self) -> None:
        """There is no room: end the subscription, so that its client knows that it missed something."""
        self._forget()
        self.end()

    def end(self) -> None:
        """End the stream properly."""
        self._over = True
        self._news.set()

    def leave(self) -> None:
        """The stream has ended."""
        self._exchange.close(*errors.GOING_AWAY)
        self._forget()
        self._on_end(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(hung_up(receive))
        leaving.add_done_callback(lambda _: self._news.set())
        try:
            await self._begin(send)
            while not leaving.done():
                if self._events:
                    await self._write(send, event_of(self._next()))
                elif self._over or self._exchange.ended:
                    tag = _encode({methods.META: {methods.SUBSCRIPTION_KEY: Raw(self._asked.id)}})
                    body = stateless.for_stateless(methods.LISTEN, tag, self._exchange.server)
                    await self._write(send, event_of(jsonrpc.result(self._asked.id, body)), more=False)
                    return
                else:
                    await self._pause(send)
        except TimeoutError:
            return
        finally:
            leaving.cancel()
            self.leave()

    async def _pause(self, send: Send) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(COMMENT_SECONDS):
                await self._news.wait()
        except TimeoutError:
            await self._write(send, COMMENT)


def capabilities_of(exchange: Exchange) -> dict[str, Any]:
    """The endpoint's capabilities; it announces changes of its tools itself, whatever its only tool declares."""
    found = stateless.objects(stateless.fields(exchange.welcome).get("capabilities", UNSET))
    tools = found.get("tools")
    return found | {"tools": tools | {"listChanged": True}} if isinstance(tools, dict) else found


def _has(capabilities: Mapping[str, Any], name: str, part: str) -> bool:
    found = capabilities.get(name)
    return isinstance(found, dict) and found.get(part) is True
