"""MCP over HTTP for revisions 2024-11-05 to 2025-11-25: all sessions, each with its own consumer at the endpoint.

Rules (MCP 2025-11-25, Transports, "Streamable HTTP"); those of one session are in `session`:

1. A session's id is bound to the endpoint of its token: with a token of another endpoint it does not exist.
2. At `http_sessions`, the endpoint with most sessions loses one: the least recently used idle one, or a busy one if the new session's
   endpoint has at least two fewer. Otherwise the new session is refused with 503.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from loguru import logger
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from ... import errors
from ...core.broker import Broker
from ...core.ledger import id_of
from ...core.shares import Shares
from ...protocol import jsonrpc, methods
from ...protocol.jsonrpc import VERSION, WRONG_VERSION, Frame, Malformed, id_key, kind_of
from ...settings.schema import Limits
from .answers import LATER, accepts, refused
from .caller import Caller
from .session import Message, Session
from .streams import Store, event_of

LOOKED_AT: Final = 16
"""Sessions examined to find an idle one, least recently used first."""
SWEEP_SECONDS: Final = 15.0
"""Sweep interval for idle sessions; must stay below the smallest http_idle_seconds."""

_batch_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Sessions:
    """All sessions of one server."""

    def __init__(self, broker: Broker, limits: Limits, store: Store | None = None) -> None:
        """`store` counts the kept bytes, shared with the other era."""
        self.limits = limits
        self.store = store or Store.of(limits)
        self.opened = 0
        """Sessions created since the start."""
        self._broker = broker
        self._open: dict[str, Session] = {}
        """By id."""
        self._shares: Shares[Session] = Shares()
        """By endpoint, least recently used first."""
        self._sweep: asyncio.TimerHandle | None = None
        self._stopped = False
        self._last_data = b""
        """The frame parsed last in this turn of the event loop, empty if none."""
        self._frame = Frame()
        self._event = b""

    def __len__(self) -> int:
        return len(self._open)

    def parsed(self, data: bytes) -> Frame:
        """Parse a frame, once per turn even if all sessions of an endpoint get it. Raises Malformed."""
        if data is not self._last_data:
            frame = jsonrpc.parse(data, utf8=True)
            if not self._last_data:
                asyncio.get_running_loop().call_soon(self._forget_last)
            self._last_data, self._frame, self._event = data, frame, b""
        return self._frame

    def event(self, data: bytes) -> bytes:
        """The frame as an event, encoded once, so that all sessions share the bytes."""
        if data is not self._last_data:
            return event_of(data)
        self._event = self._event or event_of(data)
        return self._event

    def _forget_last(self) -> None:
        self._last_data, self._frame, self._event = b"", Frame(), b""

    # -- requests ----------------------------------------------------------------------------------------------------------

    async def answer(self, request: Request, body: bytes, caller: Caller) -> Response:
        """Answer one request of any method."""
        if request.method == "POST":
            return await self._post(request, body, caller)
        if request.method not in ("GET", "DELETE"):
            return refused(405, errors.INVALID_REQUEST, "POST, GET or DELETE", headers={"allow": "POST, GET, DELETE"})
        if request.method == "GET" and not accepts(request)[1]:
            return refused(406, errors.INVALID_REQUEST, "GET opens a stream: Accept must have text/event-stream / GET 只用于事件流")
        session = self._session(request, caller)
        if isinstance(session, Response):
            return session
        if request.method == "DELETE":
            session.close(*errors.GOING_AWAY)
            return Response(status_code=204)
        return session.listen(request.headers.get(methods.LAST_EVENT_HEADER))

    async def stop(self) -> None:
        """End every session."""
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

    async def _post(self, request: Request, body: bytes, caller: Caller) -> Response:
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
        begins = [message for message in messages if message.method == methods.INITIALIZE]
        if begins and (batch or not begins[0].key):
            return refused(400, errors.INVALID_REQUEST, "initialize is a request and comes alone / initialize 必须是单独的请求")
        # A client may still send the id of an expired session: `initialize` starts a new one. In a live session it is processed again.
        fresh = begins and not self._known(request, caller)
        session = self.begin(caller) if fresh else self._session(request, caller, begins=bool(begins))
        if isinstance(session, Response):
            return session
        if batch and session.version != methods.BATCHES_IN:
            return refused(
                400, errors.INVALID_REQUEST, f"only revision {methods.BATCHES_IN} knows batches / 只有 {methods.BATCHES_IN} 修订版支持批量"
            )
        response = await session.post(messages, batch=batch, json=json, stream=stream)
        if begins and not session.version and not session.busy:
            session.close(*errors.GOING_AWAY)  # its initialize failed
        return response

    def _key(self, id: bytes) -> bytes | None:
        return id_key(id, self.limits.integer_id_chars, self.limits.string_id_bytes)

    def read(self, body: bytes) -> tuple[list[Message], bool]:
        """The messages of a POST, and whether they are a batch. Raises Malformed."""
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
        if frame.jsonrpc != VERSION:
            raise Malformed(errors.INVALID_REQUEST, WRONG_VERSION)
        kind = kind_of(frame)
        if kind == "answer" and (frame.id is UNSET or (frame.result is UNSET) == (frame.error is UNSET)):
            raise Malformed(errors.INVALID_REQUEST, "neither a request nor an answer")
        if kind != "request":
            return Message(frame, data, b"")
        key = self._key(id_of(frame))
        if key is None:
            raise Malformed(errors.INVALID_REQUEST, "an id is an integer or a string, and not longer than the limits")
        if frame.result is not UNSET or frame.error is not UNSET:
            raise Malformed(errors.INVALID_REQUEST, "a request has no result and no error", id_of(frame))
        return Message(frame, data, key)

    # -- bookkeeping -------------------------------------------------------------------------------------------------------

    def _known(self, request: Request, caller: Caller) -> Session | None:
        """The open session named by a request, if it belongs to this caller."""
        session = self._open.get(request.headers.get(methods.SESSION_HEADER, ""))
        return session if session is not None and not session.sse and session.caller.place == caller.place else None

    def _session(self, request: Request, caller: Caller, *, begins: bool = False) -> Session | Response:
        """The session named by a request, or the error response."""
        if methods.SESSION_HEADER not in request.headers:
            return refused(
                400,
                errors.INVALID_REQUEST,
                "begin with initialize and send the Mcp-Session-Id it is answered with / 请先 initialize，并带上其返回的会话标识",
            )
        session = self._known(request, caller)
        if session is None:
            return refused(404, errors.INVALID_REQUEST, "no such session: begin with initialize / 会话不存在：请重新 initialize")
        version = request.headers.get(methods.VERSION_HEADER)
        if version is not None and version not in methods.HANDSHAKE_REVISIONS and not begins:
            known = ", ".join(methods.HANDSHAKE_REVISIONS)
            return refused(400, errors.INVALID_REQUEST, f"unknown MCP-Protocol-Version; sessions know {known} / 未知的协议版本")
        self.touch(session)
        return session

    def sse_session(self, id: str, caller: Caller) -> Session | None:
        """The open HTTP+SSE session with this id, if it belongs to this caller."""
        session = self._open.get(id)
        if session is None or not session.sse or session.caller.place != caller.place:
            return None
        self.touch(session)
        return session

    def begin(self, caller: Caller, *, sse: bool = False) -> Session | Response:
        """A new session, or the error response if there is no room."""
        if self._stopped or self._broker.draining:
            return refused(503, errors.BUSY, "the server is restarting / 服务器正在重启", headers=LATER)
        if len(self._open) >= self.limits.http_sessions:
            crowded = self._gives_way(caller.name)
            if crowded is None:
                return refused(503, errors.BUSY, "too many sessions (limits.http_sessions) / 会话过多", headers=LATER)
            crowded.close(*errors.GOING_AWAY)
        loop = asyncio.get_running_loop()
        session = Session(self, caller, secrets.token_urlsafe(32), loop.time(), sse=sse)
        self._open[session.id] = session
        self._shares.add(caller.name, session)
        self.opened += 1
        if self._sweep is None:
            self._sweep = loop.call_later(SWEEP_SECONDS, self._end_unused)
        logger.debug("会话已建立 / session opened", endpoint=caller.shown, peer=caller.address, sessions=len(self._open))
        return session

    def _gives_way(self, name: str) -> Session | None:
        """The session to end for a new one of this endpoint: of the endpoint with most sessions, an idle one if possible."""
        for _ in range(LOOKED_AT):
            largest = self._shares.largest(name)
            session = next(iter(largest), None)
            if session is None or not session.busy:
                return session
            self.touch(session)
        return self._shares.gives_way(name)

    def touch(self, session: Session) -> None:
        """The session is in use."""
        session.used = asyncio.get_running_loop().time()
        self._shares.touch(session.caller.name, session)

    def forget(self, session: Session, reason: str) -> None:
        """The session has ended."""
        self._open.pop(session.id, None)
        self._shares.remove(session.caller.name, session)
        logger.debug("会话已结束 / session ended", endpoint=session.caller.shown, reason=reason, sessions=len(self._open))

    def _end_unused(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for session in list(self._open.values()):
            if session.busy:
                session.used = now
            elif now - session.used >= self.limits.http_idle_seconds:
                session.close(*errors.GOING_AWAY)
        self._sweep = loop.call_later(SWEEP_SECONDS, self._end_unused) if self._open else None
