"""Makes a provider that is stateless only (MCP 2026-07-28) look like one with a handshake.

`initialize` becomes `server/discover`, each request gets the envelope, and `subscriptions/listen` replaces unsolicited notifications. A
result `input_required` becomes the requests it contains; their answers are sent with the repeated request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from ..errors import UNREADABLE_ANSWER
from ..protocol import jsonrpc, methods
from ..protocol.definitions import ALL, identity
from ..protocol.jsonrpc import Frame, Malformed, Part, Unreadable, id_key, kind_of, members, parse, splice, whole
from ..protocol.stateless import INTERNAL, MISSING_CAPABILITY, MOST_SENT, ROUNDS, Error, fields, objects, read_error, requires_input, text
from .links import Link

_CONFIRMED: Final = b"{}"
_EMPTY: Final = Raw(b"{}")
_encode: Final = msgspec.json.Encoder().encode
_strings_decoder: Final = msgspec.json.Decoder(list[str])


class _Sent(msgspec.Struct, eq=False):
    """One request of the core in progress at a stateless provider."""

    number: bytes
    """Its id in the core."""
    id: bytes
    """Its id at the provider, as from `id_key`; b"" while its consumer is asked."""
    method: str
    params: bytes
    own: bool
    """The consumer is stateless too: requests of the tool are passed to it unchanged."""
    rounds: int = 0
    waits_for: dict[bytes, str] = {}
    answers: dict[str, Raw] = {}
    state: Raw | None = None


class Translator:
    """The link to a stateless provider; the core sees a provider with a handshake.

    `send` takes frames of the core, `hear` those of the provider; frames for the core go to `receive`. The core is never called from within
    `send`: such frames wait for `flush`, which `owes` requests.
    """

    def __init__(
        self, link: Link, receive: Callable[[bytes, float], None], owes: Callable[[], None], version: str, *, refused: bytes = b""
    ) -> None:
        """`version` is this program's; `refused` is the error (JSON) with which the provider refused a handshake.

        Without `refused` it falls back to the handshake if the provider does not support `server/discover`.
        """
        self.link = link
        self._says = receive
        self._owes = owes
        self._due: list[bytes] = []
        self._sending = False
        self.speaking = False
        """Whether the frame being passed to the core is already translated."""
        self._now = 0.0
        self._envelope: dict[str, Raw] = {
            methods.VERSION_KEY: Raw(_encode(methods.STATELESS_REVISION)),
            methods.CLIENT_KEY: Raw(_encode(identity(version))),
            methods.CAPABILITIES_KEY: Raw(_encode(ALL | {"elicitation": {"form": {}, "url": {}}})),
        }
        self._hello = b""
        self._refused = refused
        self.plain = False
        """The provider supports the handshake: everything is passed unchanged."""
        self._sent: dict[bytes, _Sent] = {}
        self._asked: dict[bytes, _Sent] = {}
        self._questions = 0
        self._announces: dict[str, bool] = {}
        self._resources: dict[str, None] = {}
        self._listening = b""
        self._listens = 0

    # -- the link ----------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Bytes the provider has not read."""
        return self.link.queued

    def close(self, code: int, reason: str) -> None:
        """Close the link."""
        self.link.close(code, reason)

    def ping(self) -> None:
        """Ping the link."""
        self.link.ping()

    def send(self, first: Part, second: Part = b"") -> None:
        """Handle a frame of the core."""
        if self.plain:
            self.link.send(first, second)
            return
        data = whole(first, second)
        frame = parse(data, utf8=True)
        self._sending = True
        try:
            kind = kind_of(frame)
            if kind == "request":
                self._ask(frame, data)
            elif kind == "notification":
                self._tell(frame, data)
            else:
                self._answered(frame)
        finally:
            self._sending = False

    def flush(self, now: float) -> None:
        """Pass on the frames that could not be passed from within `send`."""
        self._now = now
        due, self._due = self._due, []
        for frame in due:
            self._say(frame)

    def give_up(self) -> bool:
        """`server/discover` was not answered; returns whether a handshake is tried instead."""
        if self._refused or not self._hello:
            return False
        self.plain = True
        self.link.send(self._hello)
        self._hello = b""
        return True

    def _say(self, frame: bytes) -> None:
        if self._sending:
            if not self._due:
                self._owes()
            self._due.append(frame)
            return
        self.speaking = True
        try:
            self._says(frame, self._now)
        finally:
            self.speaking = False

    def number_of(self, question: bytes) -> int:
        """The core's number of the call for which the provider sent the request `question` (its id); 0 if unknown."""
        sent = self._asked.get(question)
        return 0 if sent is None else int(sent.number)

    # -- from the core -----------------------------------------------------------------------------------------------------

    def _ask(self, frame: Frame, data: bytes) -> None:
        assert frame.id is not UNSET and frame.method is not UNSET
        number, method = bytes(frame.id), frame.method
        if method == methods.INITIALIZE:
            self._hello = data
            self._request(_Sent(number, number, methods.DISCOVER, b"{}", own=False))
        elif method == methods.PING:
            self._say(jsonrpc.result(number, _CONFIRMED))
        elif method == methods.SET_LEVEL:
            level = text(fields(frame.params).get("level"))
            if level is not None:
                self._envelope[methods.LEVEL_KEY] = Raw(_encode(level))
            self._say(jsonrpc.result(number, _CONFIRMED))
        elif method in (methods.SUBSCRIBE, methods.UNSUBSCRIBE):
            uri = text(fields(frame.params).get("uri"))
            if uri is not None:
                if method == methods.SUBSCRIBE:
                    self._resources[uri] = None
                else:
                    self._resources.pop(uri, None)
                self._listen()
            self._say(jsonrpc.result(number, _CONFIRMED))
        else:
            params = b"{}" if frame.params is UNSET else bytes(frame.params)
            params = params if params[:1] == b"{" else b"{}"
            own = methods.ASKER in fields(fields(params).get(methods.META, UNSET))
            self._request(_Sent(number, number, method, params, own))

    def _request(self, sent: _Sent) -> None:
        """Send a request under its present id, with the envelope and its answers."""
        if len(self._sent) >= MOST_SENT:
            self._forget(next(iter(self._sent.values())))
        self._sent[sent.id] = sent
        kept = fields(sent.params)
        meta = fields(kept.get(methods.META, UNSET))
        asker = meta.pop(methods.ASKER, None)
        meta.update(self._envelope if asker is None else fields(asker))
        kept[methods.META] = Raw(_encode(meta))
        if sent.rounds:
            if sent.answers:
                kept["inputResponses"] = Raw(_encode(sent.answers))
            if sent.state is not None:
                kept["requestState"] = sent.state
        self.link.send(jsonrpc.request(sent.id, sent.method, _encode(kept)))

    def _tell(self, frame: Frame, data: bytes) -> None:
        """Handle a notification: the stateless revision has only cancellation."""
        if frame.method == methods.INITIALIZED:
            self._listen()
        elif frame.method == methods.CANCELLED:
            number = bytes(fields(frame.params).get("requestId", Raw(b"")))
            for sent in [sent for sent in (*self._sent.values(), *self._asked.values()) if sent.number == number]:
                if sent.id:
                    place = jsonrpc.place_in_params(data, members(data), "requestId")
                    assert place is not None
                    self.link.send(splice(data, [(place.start, place.end, sent.id)]))
                self._withdraw(sent)
                break

    def _answered(self, frame: Frame) -> None:
        """A consumer has answered one of the provider's requests."""
        question = b"" if frame.id is UNSET else bytes(frame.id)
        sent = self._asked.pop(question, None)
        if sent is None:
            return
        key = sent.waits_for.pop(question)
        if frame.result is UNSET:
            refused = read_error(b"" if frame.error is UNSET else frame.error)
            self._withdraw(sent)
            self._fail(sent, MISSING_CAPABILITY, "the tool asks what this consumer does not answer / 工具端的提问未得到回答", refused)
            return
        sent.answers[key] = frame.result
        if not sent.waits_for:
            self._repeat(sent)

    def _repeat(self, sent: _Sent) -> None:
        sent.id = b'"%b.%d"' % (sent.number, sent.rounds)
        self._request(sent)

    # -- from the provider -------------------------------------------------------------------------------------------------

    def hear(self, data: bytes, now: float, *, utf8: bool = False) -> None:
        """Handle a frame of the provider. Anything that is not a message is passed on: the core counts noise."""
        self._now = now
        if self.plain:
            self._say(data)
            return
        try:
            frame = parse(data, utf8=utf8)
        except Malformed:
            self._say(data)
            return
        kind = kind_of(frame)
        if kind != "answer":
            if kind == "request" or not self._heard_on_stream(frame):
                self._say(data)
            return
        key = None if frame.id is UNSET else id_key(bytes(frame.id), 20, 128)
        if key is not None and key == self._listening:
            self._listening = b""  # no subscriptions, or this one has ended
            return
        sent = self._sent.pop(key, None) if key is not None else None
        if sent is None:
            self._say(data)
        elif sent.method == methods.DISCOVER and self._hello:
            self._discovered(sent, frame)
        elif frame.result is not UNSET and not sent.own and sent.method in methods.ASKING and requires_input(frame.result):
            self._required(sent, fields(frame.result))
        elif sent.id == sent.number:
            self._say(data)
        else:
            try:
                place = members(data)["id"]
            except Malformed as malformed:
                unreadable = Unreadable(UNREADABLE_ANSWER, malformed.why, int(sent.number))
                self._say(jsonrpc.unreadable_answer(unreadable))
            else:
                self._say(splice(data, [(place.start, place.end, sent.number)]))

    def _discovered(self, sent: _Sent, frame: Frame) -> None:
        hello, self._hello = self._hello, b""
        found = {} if frame.result is UNSET else fields(frame.result)
        try:
            served = methods.STATELESS_REVISION in _strings_decoder.decode(found.get("supportedVersions", b"[]"))
        except msgspec.DecodeError:
            served = False
        if not served:
            self.plain = True  # it supports neither, or only the handshake
            if self._refused:
                self._say(jsonrpc.failure(sent.number, self._refused))
            else:
                self.link.send(hello)
            return
        capabilities = found.get("capabilities", _EMPTY)
        for name, value in objects(capabilities).items():
            if isinstance(value, dict):
                self._announces[name] = value.get("listChanged") is True
        server = (
            fields(found.get(methods.META, UNSET)).get(methods.SERVER_KEY) or found.get("serverInfo") or Raw(b'{"name":"","version":""}')
        )
        welcome = {"protocolVersion": Raw(_encode(methods.LATEST)), "capabilities": capabilities, "serverInfo": server}
        if "instructions" in found:
            welcome["instructions"] = found["instructions"]
        self._say(jsonrpc.result(sent.number, _encode(welcome)))

    def _required(self, sent: _Sent, result: dict[str, Raw]) -> None:
        """The tool needs input: send its requests to the consumer, or repeat at once if there are none."""
        sent.rounds += 1
        sent.state = result.get("requestState")
        sent.answers = {}
        sent.waits_for = {}
        questions = fields(result.get("inputRequests", UNSET))
        if sent.rounds > ROUNDS:
            self._fail(sent, INTERNAL, f"the tool asked more than {ROUNDS} times / 工具端提问超过 {ROUNDS} 次")
            return
        frames: list[tuple[bytes, bytes]] = []
        for key, raw in questions.items():
            question = fields(raw)
            method = text(question.get("method"))
            if method not in methods.CAPABILITIES:
                self._fail(sent, INTERNAL, "the tool asks what cannot be asked / 工具端的提问无法识别")
                return
            self._questions += 1
            id = b'"ask-%d"' % self._questions
            sent.waits_for[id] = key
            frames.append((id, jsonrpc.request(id, method, bytes(question.get("params", _EMPTY)))))
        if not frames:
            self._repeat(sent)
            return
        sent.id = b""
        self._asked.update(dict.fromkeys(sent.waits_for, sent))
        for id, frame in frames:
            if id in sent.waits_for:  # else an earlier one was refused
                self._say(frame)

    def _heard_on_stream(self, frame: Frame) -> bool:
        """Handle a notification of our own `subscriptions/listen`: pass it on without its tag."""
        params = fields(frame.params)
        if methods.SUBSCRIPTION_KEY not in fields(params.get(methods.META, UNSET)):
            return False
        assert frame.method is not UNSET
        if frame.method != methods.ACKNOWLEDGED:
            meta = fields(params.pop(methods.META))
            del meta[methods.SUBSCRIPTION_KEY]
            if meta:
                params[methods.META] = Raw(_encode(meta))
            self._say(jsonrpc.notification(frame.method, params) if params else jsonrpc.notification(frame.method))
        return True

    # -- both ways ---------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Open the stream of notifications that the provider supports, in place of an older one."""
        wanted: dict[str, Any] = {f"{name}ListChanged": True for name, told in self._announces.items() if told}
        if self._resources:
            wanted["resourceSubscriptions"] = list(self._resources)
        before, self._listening = self._listening, b""
        if wanted:
            self._listens += 1
            self._listening = b'"listen-%d"' % self._listens
            params = {methods.META: self._envelope, "notifications": wanted}
            self.link.send(jsonrpc.request(self._listening, methods.LISTEN, _encode(params)))
        if before:
            self.link.send(jsonrpc.notification(methods.CANCELLED, {"requestId": Raw(before)}))

    def _fail(self, sent: _Sent, code: int, message: str, why: Error | None = None) -> None:
        data = {} if why is None else {"data": Raw(_encode({"answered": why}))}
        body = _encode({"code": code, "message": message, **data})
        self._say(jsonrpc.failure(sent.number, body))

    def _withdraw(self, sent: _Sent) -> None:
        """Withdraw a request's open questions, and forget it."""
        self._forget(sent)
        for question in sent.waits_for:
            del self._asked[question]
            self._say(jsonrpc.notification(methods.CANCELLED, {"requestId": Raw(question), "reason": "no longer wanted"}))
        sent.waits_for = {}

    def _forget(self, sent: _Sent) -> None:
        self._sent.pop(sent.id, None)
