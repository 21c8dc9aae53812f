"""MCP over HTTP as revisions 2024-11-05 to 2025-11-25 know it: a session per client, and a link to the endpoint per session.

Rules of this module (MCP 2025-11-25, Transports, "Streamable HTTP"):

1. A session is a consumer of its endpoint like any device. Its id is bound to what the token opened: shown with a token of another
   endpoint it does not exist.
2. A POST that holds requests gets JSON if nothing but its answers comes within `QUICK_SECONDS`, else a stream of events. What belongs
   to a call (its progress, its log lines, what its tool asks of the user) goes down that call's stream; what belongs to none goes to the
   session's own stream, which GET opens.
3. A client that hangs up has not cancelled: its answer is kept for a resumption by `Last-Event-ID`. `notifications/cancelled` ends the
   POST with an error, because this wire ends a request with an answer only.
4. At `http_sessions` the endpoint with most sessions gives way: with the one unused for longest, and with one in use only to an endpoint
   that has at least two fewer. Else a new one is refused with 503.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from loguru import logger
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from ... import errors
from ...core.broker import Broker
from ...core.ledger import CANCELLED, number_of
from ...core.lifecycle import HANDSHAKE_REVISIONS, LATEST
from ...core.parties import Call, Consumer
from ...core.shares import Shares
from ...errors import Code
from ...protocol import jsonrpc
from ...protocol.jsonrpc import Frame, Malformed, Part, id_key, members, place_in_params
from ...protocol.stateless import INTERNAL
from ...settings.schema import Limits
from . import failures
from .caller import Seat
from .streams import Connection, Events, Store, Stream, event_of

SESSION: Final = "mcp-session-id"
VERSION: Final = "mcp-protocol-version"
LAST_EVENT: Final = "last-event-id"
QUICK_SECONDS: Final = 1.0
"""How long a POST waits for its answer before it becomes a stream; most tools are quicker, and JSON is simpler for everybody."""
BATCHES: Final = "2025-03-26"
"""The one revision that knows batches."""
PRIMED_SINCE: Final = "2025-11-25"
"""The first revision whose clients understand an event without data."""
STREAMS_KEPT: Final = 64
"""Finished streams a session keeps for a resumption."""
BACKLOG_BYTES: Final = 64 * 1024
"""What a session keeps for a client that has not opened its stream."""
LOOKED_AT: Final = 16
"""Sessions that are looked at for one nobody uses, the ones unused for longest first."""
SWEEP_SECONDS: Final = 15.0
"""How often sessions are looked at that nobody uses; less often than the shortest idle time would be too late."""
TWICE: Final = "a request with this id is in flight / 同一 id 的请求尚未完成"
LATER: Final = {"retry-after": "5"}
CANCELLED_CODE: Final = -32800
"""What the official SDK answers to a request that was cancelled (from the Language Server Protocol)."""

_EVENT_ID: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
_encode: Final = msgspec.json.Encoder().encode
_batch_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])


class _Welcome(msgspec.Struct):
    protocolVersion: str = LATEST


_welcome_decoder: Final = msgspec.json.Decoder(_Welcome)


class Message(NamedTuple):
    """One frame of a POST; `key` is what its id is compared by, empty for what expects no answer."""

    frame: Frame
    data: bytes
    key: bytes

    @property
    def method(self) -> str:
        """Its method, empty for an answer."""
        return self.frame.method if self.frame.method is not UNSET else ""


class Post:
    """One POST with requests: what it waits for, what has come, and its stream if it became one."""

    __slots__ = ("_store", "answers", "awaited", "begun", "left", "owner", "stream", "streams")

    def __init__(
        self, awaited: dict[bytes, Message], owner: str, store: Store, *, streams: bool, begun: asyncio.Future[None]
    ) -> None:
        """`owner` is the endpoint. `streams` says whether the client takes a stream; `begun` is done when there is something to send."""
        self.awaited = awaited
        self.answers: dict[bytes, bytes] = {}
        """The id of a request → its answer, until they leave together."""
        self.owner = owner
        self.left = False
        """Whether nobody is there to get the answers."""
        self._store = store
        self.streams = streams
        self.begun = begun
        self.stream: Stream | None = None

    def begin(self) -> None:
        """There is something to send."""
        if not self.begun.done():
            self.begun.set_result(None)

    def keep(self, id: bytes, answer: bytes) -> None:
        """An answer waits for the others of its batch."""
        if not self.left:
            self.answers[id] = answer
            self._store.take(self, len(answer))

    def leave(self) -> None:
        """The client gets no answer to this POST any more."""
        self.left = True
        self.take()

    def take(self) -> list[bytes]:
        """The answers, which are not kept any longer."""
        answers = list(self.answers.values())
        self._store.free(self, sum(map(len, answers)))
        self.answers.clear()
        return answers

    def spare(self) -> None:
        """Every answer is waited for."""

    def drop(self) -> None:
        """There is no room for the answers: each that is larger becomes an error that says so."""
        busy = Code(INTERNAL, "应答过多，无处保存 / No room for the answers of this batch (limits.http_replay_bytes)")
        for id, answer in self.answers.items():
            error = jsonrpc.error(id, busy)
            if len(error) < len(answer):
                self.answers[id] = error
                self._store.free(self, len(answer) - len(error))


class Session:
    """One client of one endpoint: a consumer whose link is made of HTTP requests."""

    __slots__ = (
        "_asked",
        "_last_stream",
        "_limits",
        "_own",
        "_posts",
        "_sessions",
        "_streams",
        "consumer",
        "ended",
        "id",
        "seat",
        "sse",
        "used",
        "version",
    )

    def __init__(self, sessions: Sessions, seat: Seat, id: str, now: float, *, sse: bool = False) -> None:
        """One of HTTP+SSE (`sse`) says everything by its own stream."""
        self.id = id
        self.sse = sse
        self.seat = seat
        self.used = now
        """When it was used last, on the loop's clock."""
        self.version = ""
        """The revision agreed on, empty until `initialize` is answered."""
        self.ended = False
        self._sessions = sessions
        self._limits = sessions.limits
        self._posts: dict[bytes, Post] = {}
        """Key of a request in flight → the POST it came with; the newest last."""
        self._streams: dict[int, Stream] = {}
        self._last_stream = 0
        self._own: Stream | None = None
        self._asked: dict[int, Stream] = {}
        """Number of a provider's request → where it was sent."""
        self.consumer: Consumer = seat.broker.attach_consumer(
            seat.name,
            seat.shown,
            self,
            answer_bytes=self._limits.http_answer_bytes,
            in_house=True,
            only=seat.only,
            ask_seconds=self._limits.http_ask_seconds,
        )

    @property
    def busy(self) -> bool:
        """Whether somebody waits for it or reads it."""
        return bool(self._posts) or any(stream.connected for stream in self._all_streams())

    @property
    def streams(self) -> int:
        """How many streams are being read."""
        return sum(stream.connected for stream in self._all_streams())

    def _all_streams(self) -> list[Stream]:
        return [*self._streams.values(), *([self._own] if self._own is not None else [])]

    # -- the link ----------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Bytes that wait for clients who are there but do not read."""
        return sum(stream.queued for stream in self._all_streams() if stream.connected)

    def ping(self) -> None:
        """A session lives as long as it is used; there is no socket to test."""

    def close(self, code: int, reason: str) -> None:
        """The endpoint ends the session, or the session itself does: nothing of it is left."""
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
        self.seat.broker.detach(self.consumer, code, reason)
        del self.consumer  # it holds its link, which is this: both would wait for the garbage collector

    def send(self, first: Part, second: Part = b"") -> None:
        """Take one frame of the endpoint."""
        if self.ended:
            return
        try:
            if not second and isinstance(first, bytes):
                data, frame = first, self._sessions.parsed(first)
            else:
                data = b"".join((first, second))
                frame = jsonrpc.parse(data, utf8=True)
            if frame.method is UNSET:
                self._answered(frame, data)
            elif frame.id is UNSET:
                self._told(frame.method, data)
            else:
                self._ask(number_of(bytes(frame.id)), data)
        except Malformed:
            return  # the endpoint has read it: only a frame nested to the very limit comes here

    def _answered(self, frame: Frame, data: bytes) -> None:
        if frame.id is UNSET:
            return
        key = self._key(bytes(frame.id))
        post = self._posts.get(key) if key is not None else None
        if post is None or key is None:
            return
        method = post.awaited[key].method
        if frame.error is not UNSET:
            data = failures.told(method, bytes(frame.id), frame.error) or data
        elif method == "initialize" and frame.result is not UNSET:
            try:
                self.version = _welcome_decoder.decode(frame.result).protocolVersion
            except (msgspec.DecodeError, RecursionError):
                self.version = LATEST
        self._settle(key, data)

    def _settle(self, key: bytes, answer: bytes) -> None:
        """One request has its answer."""
        post = self._posts.pop(key)
        id = post.awaited.pop(key).frame.id
        assert id is not UNSET
        self._sessions.touch(self)
        if post.stream is not None:
            post.stream.say(answer)
            if not post.awaited and post.stream is not self._own:
                post.stream.end()
        else:
            post.keep(bytes(id), answer)
        if not post.awaited:
            post.begin()

    def _ask(self, number: int, data: bytes) -> None:
        """A provider's request goes down the stream of the call it belongs to."""
        ask = self.consumer.asks.get(number)
        calls = [call for call in self.consumer.owed if ask is not None and call.provider is ask.provider]
        stream = self._stream_of(calls)
        self._asked[number] = stream
        stream.say(data)

    def _told(self, method: str, data: bytes) -> None:
        if method == "notifications/progress":
            token = self._param(data, "progressToken")
            calls = [call for call in self.consumer.owed if call.token and call.token == token]
            self._stream_of(calls).keep(self._sessions.event(data))
        elif method == CANCELLED:
            stream = self._asked.pop(number_of(self._param(data, "requestId")), None)
            (stream or self._own_to_say()).keep(self._sessions.event(data))
        elif method == "notifications/message":
            self._stream_of([call for call in self.consumer.owed if call.provider is not None]).keep(self._sessions.event(data))
        else:
            self._own_to_say().keep(self._sessions.event(data))

    @staticmethod
    def _param(data: bytes, name: str) -> bytes:
        spans = members(data)
        place = place_in_params(data, spans, name) if "params" in spans else None
        return b"" if place is None else data[place.start : place.end]

    def _key(self, id: bytes) -> bytes | None:
        return id_key(id, self._limits.integer_id_chars, self._limits.string_id_bytes)

    # -- streams -----------------------------------------------------------------------------------------------------------

    def _stream_of(self, calls: Iterable[Call]) -> Stream:
        """The stream of the newest of these calls whose client takes one, else the session's own."""
        for call in reversed(list(calls)):
            post = self._posts.get(call.key)
            if post is not None and post.streams:
                return self._begin_stream(post)
        return self._own_to_say()

    def _begin_stream(self, post: Post) -> Stream:
        if post.stream is None:
            self._last_stream += 1
            post.stream = Stream(self._last_stream, self.seat.name, self._sessions.store, primed=self.version >= PRIMED_SINCE)
            self._streams[self._last_stream] = post.stream
            for answer in post.take():
                post.stream.say(answer)
            if not post.awaited:
                post.stream.end()
            self._forget_streams()
            post.begin()
        return post.stream

    def own_stream(self) -> Stream:
        """The session's own stream."""
        if self._own is None:
            self._own = Stream(0, self.seat.name, self._sessions.store, primed=self.version >= PRIMED_SINCE)
        return self._own

    def _own_to_say(self) -> Stream:
        """The session's own stream, with room for one frame more although nobody may ever read it."""
        own = self.own_stream()
        if not own.connected and own.queued > BACKLOG_BYTES:
            own.spare()
        return own

    def _forget_streams(self) -> None:
        """Finished streams go when nothing of them is left, or when there are too many."""
        over = [number for number, stream in self._streams.items() if stream.ended and not stream.connected]
        kept = over[-STREAMS_KEPT:]
        for number in over:
            if number not in kept or self._streams[number].empty:
                self._streams.pop(number).close()

    # -- requests of the client --------------------------------------------------------------------------------------------

    def say(self, data: bytes) -> None:
        """Hand a frame to the endpoint."""
        self.consumer.says(self.consumer, data, asyncio.get_running_loop().time(), True)

    async def post(self, messages: list[Message], *, batch: bool, json: bool, stream: bool) -> Response:
        """Say the messages of one POST; the answer to it, as soon as its form is known."""
        awaited = {message.key: message for message in messages if message.key}
        twice = len(awaited) < sum(bool(message.key) for message in messages)
        if twice or any(key in self._posts for key in awaited):
            return refused(400, errors.INVALID_REQUEST, TWICE)
        post = Post(awaited, self.seat.name, self._sessions.store, streams=stream, begun=asyncio.get_running_loop().create_future())
        for key in awaited:
            self._posts[key] = post
        for message in messages:
            if not self.ended:
                self.say(message.data)
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
        return Response(body, media_type="application/json", headers={SESSION: self.id})

    def tell(self, message: Message) -> Response:
        """Say a message of HTTP+SSE; what it is answered comes by the session's own stream."""
        if message.key:
            if message.key in self._posts:
                return refused(400, errors.INVALID_REQUEST, TWICE)
            begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            post = Post({message.key: message}, self.seat.name, self._sessions.store, streams=True, begun=begun)
            post.stream = self.own_stream()
            self._posts[message.key] = post
        self.say(message.data)
        if not self.ended:
            self._after(message)
        return Response("Accepted", 202, media_type="text/plain")

    def _after(self, message: Message) -> None:
        """What follows from a message of the client once the endpoint has taken it."""
        if message.method == CANCELLED:
            for key in [key for key in self._posts if not any(call.key == key for call in self.consumer.owed)]:
                cancelled = self._posts[key].awaited[key]
                assert cancelled.frame.id is not UNSET
                self._settle(key, jsonrpc.error(bytes(cancelled.frame.id), Code(CANCELLED_CODE, "请求已取消 / Request cancelled")))
        elif not message.method and message.frame.id is not UNSET:
            self._asked.pop(number_of(bytes(message.frame.id)), None)

    def listen(self, last_event: str | None) -> Response:
        """Open the session's own stream, or come back to one after the event the client had last."""
        if last_event is None:
            return self._events(self.own_stream().connect())
        found = _EVENT_ID.fullmatch(last_event)
        number, place = (int(found[1]), int(found[2])) if found else (-1, 0)
        stream = self.own_stream() if number == 0 else self._streams.get(number)
        return self._events(stream.connect(place) if stream is not None else None)

    def _events(self, connection: Connection | None) -> Response:
        if connection is None:
            return refused(400, errors.INVALID_REQUEST, "these events are no longer kept / 这些事件已不再保存")
        return Events(connection, self._limits.stalled_seconds, {SESSION: self.id})


class Sessions:
    """All sessions of one server."""

    def __init__(self, broker: Broker, limits: Limits, store: Store | None = None) -> None:
        """`store` is what other eras keep their bytes in too."""
        self.limits = limits
        self.store = store or Store.of(limits)
        self.opened = 0
        """How many there were since the start."""
        self._broker = broker
        self._open: dict[str, Session] = {}
        """By id."""
        self._shares: Shares[Session] = Shares()
        """By endpoint; the one used last is last."""
        self._sweep: asyncio.TimerHandle | None = None
        self._stopped = False
        self._told = b""
        """What was read last in this turn of the loop, empty if nothing was."""
        self._frame = Frame()
        self._event = b""

    def __len__(self) -> int:
        return len(self._open)

    def parsed(self, data: bytes) -> Frame:
        """A frame that all sessions of an endpoint may be told in one turn: it is read once. Raises Malformed."""
        if data is not self._told:
            frame = jsonrpc.parse(data, utf8=True)
            if not self._told:
                asyncio.get_running_loop().call_soon(self._forget_told)
            self._told, self._frame, self._event = data, frame, b""
        return self._frame

    def event(self, data: bytes) -> bytes:
        """The same frame as an event, made once, so that all who keep it keep the same bytes."""
        if data is not self._told:
            return event_of(data)
        self._event = self._event or event_of(data)
        return self._event

    def _forget_told(self) -> None:
        self._told, self._frame, self._event = b"", Frame(), b""

    # -- the door's side ---------------------------------------------------------------------------------------------------

    async def answer(self, request: Request, body: bytes, seat: Seat) -> Response:
        """The answer to one request of any method."""
        if request.method == "POST":
            return await self._post(request, body, seat)
        if request.method not in ("GET", "DELETE"):
            return refused(405, errors.INVALID_REQUEST, "POST, GET or DELETE", headers={"allow": "POST, GET, DELETE"})
        if request.method == "GET" and not accepts(request)[1]:
            return refused(406, errors.INVALID_REQUEST, "GET opens a stream: Accept must have text/event-stream / GET 只用于事件流")
        session = self._session(request, seat)
        if isinstance(session, Response):
            return session
        if request.method == "DELETE":
            session.close(*errors.GOING_AWAY)
            return Response(status_code=204)
        return session.listen(request.headers.get(LAST_EVENT))

    async def stop(self) -> None:
        """Every session ends."""
        self._stopped = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for session in list(self._open.values()):
            session.close(*errors.RESTARTING)

    def describe(self) -> Mapping[str, Any]:
        """Numbers of sessions and streams."""
        sessions = self._open.values()
        return {
            "sessions": len(self._open),
            "sessions_opened": self.opened,
            "streams": sum(session.streams for session in sessions),
            "kept_bytes": self.store.used,
        }

    async def _post(self, request: Request, body: bytes, seat: Seat) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return refused(415, errors.INVALID_REQUEST, "Content-Type must be application/json / 必须为 application/json")
        json, stream = accepts(request)
        if not json and not stream:
            return refused(406, errors.INVALID_REQUEST, "Accept must have application/json and text/event-stream / Accept 必须包含两者")
        try:
            messages, batch = self.read(body)
        except Malformed as malformed:
            usable = self._key(malformed.id) is not None
            return refused(400, malformed.code, malformed.why, malformed.id if usable else b"null")
        begins = [message for message in messages if message.method == "initialize"]
        if begins and (batch or not begins[0].key):
            return refused(400, errors.INVALID_REQUEST, "initialize is a request and comes alone / initialize 必须是单独的请求")
        # A client that outlived its session may still send the id of it: `initialize` begins one anyhow. A live one is greeted again.
        fresh = begins and not self._known(request, seat)
        session = self.begin(seat) if fresh else self._session(request, seat, begins=bool(begins))
        if isinstance(session, Response):
            return session
        if batch and session.version != BATCHES:
            return refused(400, errors.INVALID_REQUEST, f"only revision {BATCHES} knows batches / 只有 {BATCHES} 修订版支持批量")
        response = await session.post(messages, batch=batch, json=json, stream=stream)
        if begins and not session.version and not session.busy:
            session.close(*errors.GOING_AWAY)  # its initialize was answered with an error
        return response

    def _key(self, id: bytes) -> bytes | None:
        return id_key(id, self.limits.integer_id_chars, self.limits.string_id_bytes)

    def read(self, body: bytes) -> tuple[list[Message], bool]:
        """The messages of a POST, and whether they came as a batch. Raises Malformed."""
        if body.lstrip()[:1] != b"[":
            return [self._message(body)], False
        try:
            batch = _batch_decoder.decode(body)
        except (msgspec.DecodeError, RecursionError) as why:
            raise Malformed(errors.PARSE_ERROR, str(why)) from None
        if not batch or len(batch) > self.limits.in_flight_per_consumer:
            raise Malformed(errors.INVALID_REQUEST, f"a batch has 1 to {self.limits.in_flight_per_consumer} messages")
        return [self._message(bytes(one)) for one in batch], True

    def _message(self, data: bytes) -> Message:
        frame = jsonrpc.parse(data)
        if frame.jsonrpc != "2.0":
            raise Malformed(errors.INVALID_REQUEST, '"jsonrpc" must be "2.0"')
        if frame.method is UNSET:
            if frame.id is UNSET or (frame.result is UNSET) == (frame.error is UNSET):
                raise Malformed(errors.INVALID_REQUEST, "neither a request nor an answer")
            return Message(frame, data, b"")
        if frame.id is UNSET:
            return Message(frame, data, b"")
        key = self._key(bytes(frame.id))
        if key is None:
            raise Malformed(errors.INVALID_REQUEST, "an id is an integer or a string, and not longer than the limits")
        if frame.result is not UNSET or frame.error is not UNSET:
            raise Malformed(errors.INVALID_REQUEST, "a request has no result and no error", bytes(frame.id))
        return Message(frame, data, key)

    # -- the book of sessions ----------------------------------------------------------------------------------------------

    def _known(self, request: Request, seat: Seat) -> Session | None:
        """The open session of this seat that a request names."""
        session = self._open.get(request.headers.get(SESSION, ""))
        return session if session is not None and not session.sse and session.seat.place == seat.place else None

    def _session(self, request: Request, seat: Seat, *, begins: bool = False) -> Session | Response:
        """The session a request names, if it is this seat's."""
        if SESSION not in request.headers:
            return refused(
                400,
                errors.INVALID_REQUEST,
                "begin with initialize and send the Mcp-Session-Id it is answered with / 请先 initialize，并带上其返回的会话标识",
            )
        session = self._known(request, seat)
        if session is None:
            return refused(404, errors.INVALID_REQUEST, "no such session: begin with initialize / 会话不存在：请重新 initialize")
        version = request.headers.get(VERSION)
        if version is not None and version not in HANDSHAKE_REVISIONS and not begins:
            known = ", ".join(HANDSHAKE_REVISIONS)
            return refused(400, errors.INVALID_REQUEST, f"unknown MCP-Protocol-Version; sessions know {known} / 未知的协议版本")
        self.touch(session)
        return session

    def sse_session(self, id: str, seat: Seat) -> Session | None:
        """The open session of HTTP+SSE with this id, if it is this seat's."""
        session = self._open.get(id)
        if session is None or not session.sse or session.seat.place != seat.place:
            return None
        self.touch(session)
        return session

    def begin(self, seat: Seat, *, sse: bool = False) -> Session | Response:
        """A new session, of HTTP+SSE or of Streamable HTTP, or why there is none."""
        if self._stopped or self._broker.draining:
            return refused(503, errors.BUSY, "the server is restarting / 服务器正在重启", headers=LATER)
        if len(self._open) >= self.limits.http_sessions:
            crowded = self._gives_way(seat.name)
            if crowded is None:
                return refused(503, errors.BUSY, "too many sessions (limits.http_sessions) / 会话过多", headers=LATER)
            crowded.close(*errors.GOING_AWAY)
        loop = asyncio.get_running_loop()
        session = Session(self, seat, secrets.token_urlsafe(32), loop.time(), sse=sse)
        self._open[session.id] = session
        self._shares.add(seat.name, session)
        self.opened += 1
        if self._sweep is None:
            self._sweep = loop.call_later(SWEEP_SECONDS, self._end_unused)
        logger.debug("会话已建立 / session opened", endpoint=seat.shown, peer=seat.address, sessions=len(self._open))
        return session

    def _gives_way(self, name: str) -> Session | None:
        """What ends so that one more session of this endpoint may begin: one of the endpoint with most, if possible one nobody uses."""
        for _ in range(LOOKED_AT):
            largest = self._shares.largest(name)
            session = next(iter(largest), None)
            if session is None or not session.busy:
                return session
            self.touch(session)
        return self._shares.gives_way(name)

    def touch(self, session: Session) -> None:
        """It is in use."""
        session.used = asyncio.get_running_loop().time()
        self._shares.touch(session.seat.name, session)

    def forget(self, session: Session, reason: str) -> None:
        """It has ended."""
        self._open.pop(session.id, None)
        self._shares.remove(session.seat.name, session)
        logger.debug("会话已结束 / session ended", endpoint=session.seat.shown, reason=reason, sessions=len(self._open))

    def _end_unused(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for session in list(self._open.values()):
            if session.busy:
                session.used = now
            elif now - session.used >= self.limits.http_idle_seconds:
                session.close(*errors.GOING_AWAY)
        self._sweep = loop.call_later(SWEEP_SECONDS, self._end_unused) if self._open else None


def accepts(request: Request) -> tuple[bool, bool]:
    """Whether the client takes JSON, and whether it takes a stream of events; one that does not say takes JSON."""
    kinds = {kind.partition(";")[0].strip().lower() for kind in ",".join(request.headers.getlist("accept")).split(",")}
    anything = "*/*" in kinds or kinds == {""}
    return anything or bool(kinds & {"application/json", "application/*"}), "*/*" in kinds or bool(kinds & {"text/event-stream", "text/*"})


def refused(status: int, code: Code, why: str, id: bytes = b"null", *, headers: Mapping[str, str] | None = None) -> Response:
    """An HTTP error with a JSON-RPC error for a body, as clients of MCP read it; never with a code that only devices know."""
    number = code.number if code.number < -32099 else INTERNAL
    body = b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id, _encode({"code": number, "message": f"{code.message}: {why}"}))
    return Response(body, status, headers, media_type="application/json")
