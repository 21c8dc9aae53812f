"""One MCP session over HTTP: a consumer whose link consists of HTTP requests.

Rules (MCP 2025-11-25, Transports, "Streamable HTTP"):

1. A POST with requests gets JSON if only responses arrive within `QUICK_SECONDS`, else an event stream. What belongs to a call (progress,
   log messages, requests of its tool) goes to that call's stream; everything else goes to the session's own stream, which GET opens.
2. A disconnect does not cancel: the response is kept for resumption with `Last-Event-ID`. `notifications/cancelled` ends the POST with an
   error, because in this transport only a response ends a request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from ... import errors
from ...core.ledger import id_of, number_of
from ...core.parties import Call, Consumer
from ...errors import Code
from ...protocol import jsonrpc, methods
from ...protocol.jsonrpc import Frame, Malformed, Part, id_key, kind_of, members, place_in_params, whole
from ...protocol.stateless import INTERNAL
from ...settings.schema import Limits
from . import failures
from .answers import refused
from .caller import Caller
from .streams import Connection, EventsResponse, Store, Stream

QUICK_SECONDS: Final = 1.0
"""Time a POST waits for its response before it becomes a stream; most tools are faster, and JSON is simpler."""
STREAMS_KEPT: Final = 64
"""Finished streams kept per session for resumption."""
BACKLOG_BYTES: Final = 64 * 1024
"""Bytes a session keeps for a client that has not opened its stream."""
TWICE: Final = "a request with this id is in flight / 同一 id 的请求尚未完成"
CANCELLED_CODE: Final = -32800
"""The official SDK's error code for a cancelled request (from the Language Server Protocol)."""
_EVENT_ID: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")


class _Negotiated(msgspec.Struct):
    protocolVersion: str = methods.LATEST


_negotiated_decoder: Final = msgspec.json.Decoder(_Negotiated)


class Message(NamedTuple):
    """One message of a POST; `key` is its normalized id, empty if no response is expected."""

    frame: Frame
    data: bytes
    key: bytes

    @property
    def method(self) -> str:
        """Its method, empty for a response."""
        return self.frame.method if self.frame.method is not UNSET else ""


class Post:
    """One POST with requests: pending requests, responses so far, and its stream if it became one."""

    __slots__ = ("_store", "answers", "awaited", "begun", "left", "owner", "stream", "streams")

    def __init__(self, awaited: dict[bytes, Message], owner: str, store: Store, *, streams: bool, begun: asyncio.Future[None]) -> None:
        """`owner` is the endpoint. `streams`: the client accepts a stream; `begun` is done when there is something to send."""
        self.awaited = awaited
        self.answers: dict[bytes, bytes] = {}
        """Id of a request → its response, until they are sent together."""
        self.owner = owner
        self.left = False
        """Whether the client has disconnected."""
        self._store = store
        self.streams = streams
        self.begun = begun
        self.stream: Stream | None = None

    def begin(self) -> None:
        """There is something to send."""
        if not self.begun.done():
            self.begun.set_result(None)

    def keep(self, id: bytes, answer: bytes) -> None:
        """Keep a response until the batch is complete."""
        if not self.left:
            self.answers[id] = answer
            self._store.take(self, len(answer))

    def leave(self) -> None:
        """The client has disconnected."""
        self.left = True
        self.take()

    def take(self) -> list[bytes]:
        """The responses, which are removed."""
        answers = list(self.answers.values())
        self._store.free(self, sum(map(len, answers)))
        self.answers.clear()
        return answers

    def spare(self) -> None:
        """Nothing: every response is needed."""

    def drop(self) -> None:
        """There is no room: replace each response that is larger than an error by an error."""
        busy = Code(INTERNAL, "应答过多，无处保存 / No room for the answers of this batch (limits.http_replay_bytes)")
        for id, answer in self.answers.items():
            error = jsonrpc.error(id, busy)
            if len(error) < len(answer):
                self.answers[id] = error
                self._store.free(self, len(answer) - len(error))


class SessionRegistry(Protocol):
    """What a session needs of `Sessions`."""

    limits: Limits
    store: Store

    def parsed(self, data: bytes) -> Frame:
        """A parsed frame of the endpoint. Raises Malformed."""
        ...

    def event(self, data: bytes) -> bytes:
        """The frame as an event."""
        ...

    def touch(self, session: Session) -> None:
        """The session is in use."""
        ...

    def forget(self, session: Session, reason: str) -> None:
        """The session has ended."""
        ...


class Session:
    """A consumer of one endpoint whose link consists of HTTP requests."""

    __slots__ = (
        "_asked",
        "_last_stream",
        "_limits",
        "_own",
        "_posts",
        "_sessions",
        "_streams",
        "caller",
        "consumer",
        "ended",
        "id",
        "sse",
        "used",
        "version",
    )

    def __init__(self, sessions: SessionRegistry, caller: Caller, id: str, now: float, *, sse: bool = False) -> None:
        """`sse`: a session of HTTP+SSE, which sends everything on its own stream."""
        self.id = id
        self.sse = sse
        self.caller = caller
        self.used = now
        """Time of the last use, on the event loop's clock."""
        self.version = ""
        """The negotiated revision, empty until `initialize` is answered."""
        self.ended = False
        self._sessions = sessions
        self._limits = sessions.limits
        self._posts: dict[bytes, Post] = {}
        """Key of a request in flight → its POST; the newest last."""
        self._streams: dict[int, Stream] = {}
        self._last_stream = 0
        self._own: Stream | None = None
        self._asked: dict[int, Stream] = {}
        """Number of a provider's request → the stream it was sent on."""
        self.consumer: Consumer = caller.broker.attach_consumer(
            caller.name,
            caller.shown,
            self,
            answer_bytes=self._limits.http_answer_bytes,
            in_process=True,
            only=caller.only,
            ask_seconds=self._limits.http_ask_seconds,
        )

    @property
    def busy(self) -> bool:
        """Whether a request is pending or a stream is connected."""
        return bool(self._posts) or any(stream.connected for stream in self._all_streams())

    @property
    def streams(self) -> int:
        """Number of connected streams."""
        return sum(stream.connected for stream in self._all_streams())

    def _all_streams(self) -> list[Stream]:
        return [*self._streams.values(), *([self._own] if self._own is not None else [])]

    # -- the link ----------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Bytes waiting for connected clients that do not read."""
        return sum(stream.queued for stream in self._all_streams() if stream.connected)

    def ping(self) -> None:
        """Nothing: a session lives while it is used; there is no socket to test."""

    def close(self, code: int, reason: str) -> None:
        """End the session: nothing of it is kept."""
        if self.ended:
            return
        self.ended = True
        self._sessions.forget(self, reason)
        for key, post in list(self._posts.items()):
            message = post.awaited[key]
            assert message.frame.id is not UNSET
            gone = Code(errors.INVALID_REQUEST.number, "会话已结束 / The session has ended")
            self._settle(key, jsonrpc.error(bytes(message.frame.id), gone))
        for stream in self._all_streams():
            stream.close()
        self._streams.clear()
        self._asked.clear()
        self.caller.broker.detach(self.consumer, code, reason)
        del self.consumer  # breaks a reference cycle

    def send(self, first: Part, second: Part = b"") -> None:
        """As `send_frame`, for a frame that is not parsed yet."""
        if self.ended:
            return
        data = whole(first, second)
        try:
            frame = self._sessions.parsed(data)
        except Malformed:
            return  # nested to the parser's limit, which depends on the stack
        self._take(frame, data)

    def send_frame(self, frame: Frame, first: Part, second: Part) -> None:
        """Handle one frame of the endpoint."""
        if not self.ended:
            self._take(frame, whole(first, second))

    def _take(self, frame: Frame, data: bytes) -> None:
        kind = kind_of(frame)
        if kind == "answer":
            self._answered(frame, data)
        elif kind == "notification":
            with suppress(Malformed):  # as above
                self._notified(str(frame.method), data)
        else:
            self._on_request(number_of(id_of(frame)), data)

    def _answered(self, frame: Frame, data: bytes) -> None:
        if frame.id is UNSET:
            return
        key = self._key(bytes(frame.id))
        post = self._posts.get(key) if key is not None else None
        if post is None or key is None:
            return
        method = post.awaited[key].method
        if frame.error is not UNSET:
            data = failures.for_http(method, bytes(frame.id), frame.error) or data
        elif method == methods.INITIALIZE and frame.result is not UNSET:
            try:
                self.version = _negotiated_decoder.decode(frame.result).protocolVersion
            except (msgspec.DecodeError, RecursionError):
                self.version = methods.LATEST
        self._settle(key, data)

    def _settle(self, key: bytes, answer: bytes) -> None:
        """A request has its response."""
        post = self._posts.pop(key)
        id = post.awaited.pop(key).frame.id
        assert id is not UNSET
        self._sessions.touch(self)
        if post.stream is not None:
            post.stream.add(answer)
            if not post.awaited and post.stream is not self._own:
                post.stream.end()
        else:
            post.keep(bytes(id), answer)
        if not post.awaited:
            post.begin()

    def _on_request(self, number: int, data: bytes) -> None:
        """Send a provider's request on the stream of the call it belongs to."""
        request = self.consumer.asks.get(number)
        calls = [call for call in self.consumer.owed if request is not None and call.provider is request.provider]
        stream = self._stream_of(calls)
        self._asked[number] = stream
        stream.add(data)

    def _notified(self, method: str, data: bytes) -> None:
        if method == methods.PROGRESS:
            token = self._param(data, methods.PROGRESS_TOKEN)
            calls = [call for call in self.consumer.owed if call.token and call.token == token]
            self._stream_of(calls).keep(self._sessions.event(data))
        elif method == methods.CANCELLED:
            stream = self._asked.pop(number_of(self._param(data, "requestId")), None)
            (stream or self._own_writable()).keep(self._sessions.event(data))
        elif method == methods.MESSAGE:
            self._stream_of([call for call in self.consumer.owed if call.provider is not None]).keep(self._sessions.event(data))
        else:
            self._own_writable().keep(self._sessions.event(data))

    @staticmethod
    def _param(data: bytes, name: str) -> bytes:
        spans = members(data)
        place = place_in_params(data, spans, name) if "params" in spans else None
        return b"" if place is None else data[place.start : place.end]

    def _key(self, id: bytes) -> bytes | None:
        return id_key(id, self._limits.integer_id_chars, self._limits.string_id_bytes)

    # -- streams -----------------------------------------------------------------------------------------------------------

    def _stream_of(self, calls: Iterable[Call]) -> Stream:
        """The stream of the newest of these calls whose client accepts one, else the session's own."""
        for call in reversed(list(calls)):
            post = self._posts.get(call.key)
            if post is not None and post.streams:
                return self._begin_stream(post)
        return self._own_writable()

    def _begin_stream(self, post: Post) -> Stream:
        if post.stream is None:
            self._last_stream += 1
            post.stream = Stream(self._last_stream, self.caller.name, self._sessions.store, primed=self.version >= methods.LATEST)
            self._streams[self._last_stream] = post.stream
            for answer in post.take():
                post.stream.add(answer)
            if not post.awaited:
                post.stream.end()
            self._forget_streams()
            post.begin()
        return post.stream

    def own_stream(self) -> Stream:
        """The session's own stream."""
        if self._own is None:
            self._own = Stream(0, self.caller.name, self._sessions.store, primed=self.version >= methods.LATEST)
        return self._own

    def _own_writable(self) -> Stream:
        """The session's own stream, with room for another frame even if nobody reads it."""
        own = self.own_stream()
        if not own.connected and own.queued > BACKLOG_BYTES:
            own.spare()
        return own

    def _forget_streams(self) -> None:
        """Drop finished streams that are empty, and the oldest if there are too many."""
        over = [number for number, stream in self._streams.items() if stream.ended and not stream.connected]
        kept = over[-STREAMS_KEPT:]
        for number in over:
            if number not in kept or self._streams[number].empty:
                self._streams.pop(number).close()

    # -- requests of the client --------------------------------------------------------------------------------------------

    def forward(self, message: Message) -> None:
        """Pass a frame to the endpoint."""
        self.consumer.receive(self.consumer, message.data, asyncio.get_running_loop().time(), True, message.frame)

    async def post(self, messages: list[Message], *, batch: bool, json: bool, stream: bool) -> Response:
        """Process the messages of one POST; returns its response as soon as its form is known."""
        awaited = {message.key: message for message in messages if message.key}
        twice = len(awaited) < sum(bool(message.key) for message in messages)
        if twice or any(key in self._posts for key in awaited):
            return refused(400, errors.INVALID_REQUEST, TWICE)
        post = Post(awaited, self.caller.name, self._sessions.store, streams=stream, begun=asyncio.get_running_loop().create_future())
        for key in awaited:
            self._posts[key] = post
        for message in messages:
            if not self.ended:
                self.forward(message)
            if not self.ended:
                self._after(message)
        if not post.awaited and not post.answers and post.stream is None:
            return Response(status_code=202)
        if not json:
            self._begin_stream(post)
        elif post.awaited:
            patience = asyncio.get_running_loop().call_later(QUICK_SECONDS, post.begin) if stream else None
            try:
                await post.begun
            except asyncio.CancelledError:
                post.leave()
                raise
            finally:
                if patience is not None:
                    patience.cancel()
            if post.awaited:
                self._begin_stream(post)
        if post.stream is not None:
            return self._events(post.stream.connect())
        answers = post.take()
        body = b"[%b]" % b",".join(answers) if batch else answers[0]
        return Response(body, media_type="application/json", headers={methods.SESSION_HEADER: self.id})

    def post_sse(self, message: Message) -> Response:
        """Process a message of HTTP+SSE; the response is sent on the session's own stream."""
        if message.key:
            if message.key in self._posts:
                return refused(400, errors.INVALID_REQUEST, TWICE)
            begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            post = Post({message.key: message}, self.caller.name, self._sessions.store, streams=True, begun=begun)
            post.stream = self.own_stream()
            self._posts[message.key] = post
        self.forward(message)
        if not self.ended:
            self._after(message)
        return Response("Accepted", 202, media_type="text/plain")

    def _after(self, message: Message) -> None:
        """Bookkeeping after the endpoint has taken a client's message."""
        if message.method == methods.CANCELLED:
            for key in [key for key in self._posts if not any(call.key == key for call in self.consumer.owed)]:
                cancelled = self._posts[key].awaited[key]
                assert cancelled.frame.id is not UNSET
                self._settle(key, jsonrpc.error(bytes(cancelled.frame.id), Code(CANCELLED_CODE, "请求已取消 / Request cancelled")))
        elif not message.method and message.frame.id is not UNSET:
            self._asked.pop(number_of(bytes(message.frame.id)), None)

    def listen(self, last_event: str | None) -> Response:
        """Open the session's own stream, or resume a stream after the client's last event."""
        if last_event is None:
            return self._events(self.own_stream().connect())
        found = _EVENT_ID.fullmatch(last_event)
        number, place = (int(found[1]), int(found[2])) if found else (-1, 0)
        stream = self.own_stream() if number == 0 else self._streams.get(number)
        return self._events(stream.connect(place) if stream is not None else None)

    def _events(self, connection: Connection | None) -> Response:
        if connection is None:
            return refused(400, errors.INVALID_REQUEST, "these events are no longer kept / 这些事件已不再保存")
        return EventsResponse(connection, self._limits.stalled_seconds, {methods.SESSION_HEADER: self.id})
