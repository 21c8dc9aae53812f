"""Endpoint consumer for one request of the sessionless MCP revision (2026-07-28).

An exchange attaches like any consumer and initializes in-process. While its request is in flight, it collects what belongs to it:
notifications, requests of the tool to the client, the response. If the tool asks the client something, the HTTP request ends but the call
stays in flight: the exchange is *parked*, and the client's next request resumes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from ... import errors
from ...core.ledger import number_of
from ...core.older_clients import edits_for
from ...core.parties import Consumer
from ...core.translator import Translator
from ...protocol import definitions, jsonrpc, methods, stateless
from ...protocol.jsonrpc import VERSION, Frame, Malformed, Part, kind_of, whole
from ...settings.schema import Limits
from .caller import Caller
from .envelope import StatelessRequest
from .streams import Store

TOGETHER_SECONDS: Final = 0.02
"""Time an exchange waits for more requests of the tool after one, so that parallel ones reach the client in one round."""

_encode: Final = msgspec.json.Encoder().encode
_HELLO: Final = _encode(definitions.hello(definitions.ALL, part="/http"))
_LEFT: Final = Raw(_encode({"code": stateless.INTERNAL, "message": "接入点已关闭此连接 / The endpoint ended this link"}))
_TOO_MUCH: Final = Raw(
    _encode({"code": stateless.INTERNAL, "message": "应答无处保存 / No room for this answer (limits.http_replay_bytes)"})
)
# Which capabilities the client has is known only with its request: the exchange itself refuses for it.
_NOT_DECLARED: Final = errors.Code(errors.METHOD_NOT_FOUND.number, "使用端未声明此能力 / The client did not declare this capability")


class Question(msgspec.Struct):
    """A request of the tool to the client; `id` is the endpoint's."""

    id: bytes
    method: str
    params: Raw


class Exchange:
    """A consumer of an endpoint for one request at a time."""

    def __init__(
        self, caller: Caller, limits: Limits, store: Store | None = None, *, on_notification: Callable[[str, Frame], None] | None = None
    ) -> None:
        """Attach to the endpoint. `on_notification` gets every notification, instead of collecting those of a request.

        What waits for the client is counted in `store`.
        """
        self.caller = caller
        self.owner = caller.name
        """The endpoint's name."""
        self.unread = 0
        """Bytes that the user of `on_notification` keeps for the client."""
        self.welcome: bytes = b""
        """The endpoint's result of `initialize`."""
        self.server: bytes = _encode(definitions.identity())
        """`serverInfo` as JSON, of the endpoint or its only tool."""
        self.notes: deque[bytes] = deque()
        """Notifications of the request that were not sent yet."""
        self.answer: Frame | None = None
        self.questions: dict[str, Question] = {}
        self.undeclared: dict[str, dict[str, Any]] = {}
        """Capabilities that the tool needed but the client has not declared."""
        self.ended = False
        self.parked = False
        self._on_notification = on_notification
        self._asked: StatelessRequest | None = None
        self._token = b""
        self._store = store or Store.of(limits)
        self._queued = 0
        self._answered_bytes = 0
        self._last = 0
        self._round = 0
        self._waiting: asyncio.Future[None] | None = None
        self._replies: dict[int, asyncio.Future[Frame]] = {}
        self._together: asyncio.TimerHandle | None = None
        self._all_asked = False
        self._loop = asyncio.get_running_loop()
        self.consumer: Consumer = caller.broker.attach_consumer(
            caller.name,
            caller.shown,
            self,
            answer_bytes=limits.http_answer_bytes,
            in_process=True,
            only=caller.only,
            ask_seconds=limits.http_ask_seconds,
        )

    # -- the link ----------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Bytes of notifications that the client has not read."""
        return self._queued + self.unread

    def spare(self) -> None:
        """Nothing: everything that is kept is needed."""

    def drop(self) -> None:
        """There is no room: drop the notifications, and replace a large response by an error."""
        self._forget_notes()
        if self.answer is not None and self._answered_bytes > len(_TOO_MUCH):
            self.answer = Frame(error=_TOO_MUCH)
            self._forget_answer()

    def _forget_notes(self) -> None:
        self.notes.clear()
        self._store.free(self, self._queued)
        self._queued = 0

    def _forget_answer(self) -> None:
        self._store.free(self, self._answered_bytes)
        self._answered_bytes = 0

    def rest(self) -> None:
        """The request has ended: keep nothing."""
        self._forget_notes()
        self._forget_answer()
        self.answer = None

    def ping(self) -> None:
        """Nothing: it is part of the process."""

    def close(self, code: int, reason: str) -> None:
        """Detach; a request in flight is cancelled."""
        if self.ended:
            return
        self.ended = True
        if self._together is not None:
            self._together.cancel()
        self.caller.broker.detach(self.consumer, code, reason)
        self._forget_notes()
        self._forget_answer()
        lost, self._replies = self._replies, {}
        for reply in lost.values():
            if not reply.done():
                reply.set_result(Frame(error=_LEFT))
        self._wake()

    def send(self, first: Part, second: Part = b"") -> None:
        """As `send_frame`, for a frame that is not parsed yet."""
        try:
            self.send_frame(jsonrpc.parse(whole(first, second), utf8=True), first, second)
        except Malformed:
            return  # nested to the parser's limit, which depends on the stack

    def send_frame(self, frame: Frame, first: Part, second: Part) -> None:
        """Handle one frame of the endpoint."""
        if self.ended:
            return
        kind = kind_of(frame)
        if kind == "answer":
            self._answered(frame)
        elif kind == "notification":
            self._notified(frame)
        else:
            self._on_request(frame)

    def _answered(self, frame: Frame) -> None:
        number = number_of(b"" if frame.id is UNSET else bytes(frame.id))
        reply = self._replies.pop(number, None)
        if reply is not None:
            if not reply.done():
                reply.set_result(frame)
        elif number == self._last:
            self.answer = frame
            self._answered_bytes = 0 if frame.result is UNSET else len(frame.result)
            self._store.take(self, self._answered_bytes)
            self._wake()

    def _notified(self, frame: Frame) -> None:
        assert frame.method is not UNSET
        if frame.method == methods.CANCELLED:
            number = bytes(stateless.fields(frame.params).get("requestId", Raw(b"")))
            self.questions = {key: question for key, question in self.questions.items() if question.id != number}
        elif self._on_notification is not None:
            self._on_notification(frame.method, frame)
        elif self._asked is not None and not self.parked:
            note = self._note(self._asked, frame)
            if note:
                self._queued += len(note)
                self.notes.append(note)
                self._store.take(self, len(note))
                self._wake()

    def _note(self, asked: StatelessRequest, frame: Frame) -> bytes:
        """A notification as the client of this request gets it; empty if it does not."""
        if frame.method == methods.MESSAGE:
            if frame.params is not UNSET and stateless.log_wanted(asked.level, frame.params):
                return jsonrpc.notification(methods.MESSAGE, frame.params)
        elif frame.method == methods.PROGRESS and asked.token:
            params = stateless.fields(frame.params)
            if bytes(params.get(methods.PROGRESS_TOKEN, Raw(b""))) == self._token:
                params[methods.PROGRESS_TOKEN] = Raw(asked.token)  # each round has its own token
                return jsonrpc.notification(methods.PROGRESS, params)
        return b""

    def _on_request(self, frame: Frame) -> None:
        assert frame.id is not UNSET and frame.method is not UNSET
        capability = methods.CAPABILITIES[frame.method]
        declared = {} if self._asked is None else self._asked.capabilities
        params = Raw(b"{}") if frame.params is UNSET else frame.params
        mode = (stateless.text(stateless.fields(params).get("mode")) or "form") if capability == "elicitation" else ""
        if not _declares(declared, capability, mode):
            self.undeclared[capability] = {mode: {}} if mode == "url" else {}
            self.forward(jsonrpc.error(bytes(frame.id), _NOT_DECLARED))
            return
        self._round += 1
        self.questions[f"{capability}-{self._round}"] = Question(bytes(frame.id), frame.method, params)
        self._soon()

    def _soon(self) -> None:
        if self._together is not None:
            self._together.cancel()
        self._together = self._loop.call_later(TOGETHER_SECONDS, self._are_all)

    def _are_all(self) -> None:
        self._all_asked = True
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # -- requests ----------------------------------------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether the tool waits for the client, and all its requests are collected."""
        return self._all_asked and bool(self.questions) and self.answer is None

    @property
    def clean(self) -> bool:
        """Whether nothing of a request is left, so that the exchange can be reused."""
        return not self.ended and not self.consumer.owed and not self.consumer.asks

    def forward(self, data: bytes, frame: Frame | None = None) -> None:
        """Pass a frame to the endpoint; `frame` is the parsed `data`, if it is known."""
        if not self.ended:
            self.consumer.receive(self.consumer, data, self._loop.time(), True, frame)

    def _request(self, method: str, params: bytes) -> None:
        id = b"%d" % self._last
        self.forward(jsonrpc.request(id, method, params), Frame(VERSION, Raw(id), method, Raw(params)))

    async def initialize(self) -> Frame:
        """Do the handshake with the endpoint, once; returns its response."""
        frame = await self.request(methods.INITIALIZE, _HELLO)
        if frame.result is not UNSET:
            self.welcome = bytes(frame.result)
            self.server = bytes(stateless.fields(frame.result).get("serverInfo", Raw(self.server)))
            self.forward(jsonrpc.notification(methods.INITIALIZED))
        return frame

    async def request(self, method: str, params: bytes) -> Frame:
        """Send a request of our own and return its response."""
        self._last += 1
        reply: asyncio.Future[Frame] = self._loop.create_future()
        self._replies[self._last] = reply
        self._request(method, params)
        return await reply

    def begin(self, asked: StatelessRequest) -> None:
        """Send a client's request."""
        self._asked = asked
        self._token = asked.token
        self._names(asked.client)
        self.rest()
        self.questions.clear()
        self.undeclared = {}
        self._all_asked = False
        self._last += 1
        asker = any(isinstance(provider.link, Translator) for provider in self.consumer.endpoint.providers)
        self._request(asked.method, stateless.without_envelope(asked.params, asker=asker))

    def _names(self, client: str) -> None:
        """Take over the client's name, which may differ with each request."""
        self.consumer.introduce(client, edits_for(client, methods.STATELESS_REVISION, self.caller.broker.settings))

    def park(self) -> None:
        """The client gets the tool's requests; later notifications are not for this HTTP request."""
        self.parked = self.consumer.thinking = True
        self._forget_notes()

    def go_on(self, asked: StatelessRequest, answers: Mapping[str, Raw]) -> None:
        """Resume a parked request: pass the client's answers to the tool. Unanswered requests are sent to the client again."""
        self._asked = asked
        self.parked = self.consumer.thinking = False
        self._all_asked = False
        self._names(asked.client)
        for key in [key for key in self.questions if bytes(answers.get(key, Raw(b"")))[:1] == b"{"]:
            question = self.questions.pop(key)
            self.forward(jsonrpc.result(question.id, bytes(answers[key])))
        if self.questions:
            self._soon()

    def note(self) -> bytes:
        """The next notification, empty if there is none."""
        if not self.notes:
            return b""
        note = self.notes.popleft()
        self._queued -= len(note)
        self._store.free(self, len(note))
        return note

    async def news(self, seconds: float) -> None:
        """Wait until something has changed, at most `seconds`."""
        if self.notes or self.answer is not None or self.waits or self.ended:
            return
        self._waiting = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None


def _declares(declared: Mapping[str, Any], capability: str, mode: str) -> bool:
    """Whether a client has a capability; elicitation without a mode means forms (MCP 2025-06-18)."""
    found = declared.get(capability)
    return isinstance(found, dict) and (not mode or mode in found or (mode == "form" and "url" not in found))
