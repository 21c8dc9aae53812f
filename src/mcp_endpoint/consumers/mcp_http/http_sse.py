"""The HTTP+SSE transport of revision 2024-11-05, for old clients: one event stream per session carries all messages to the client.

GET `/sse` starts a session; its first event names the address for POSTs; all responses arrive on the stream.
Paths, tokens and limits are those of `/mcp`, and the session is one of `sessions`: it ends with its stream. Disabled unless
`[server] legacy_sse` is set.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ... import errors
from ...protocol.jsonrpc import Malformed
from .answers import accepts, refused
from .caller import Caller
from .session import Session
from .sessions import Sessions
from .streams import Connection, EventsResponse

STREAM: Final = "/sse"
MESSAGES: Final = "/messages"
SESSION_ID: Final = "session_id"
"""The query field with the session's id."""


class HttpSse:
    """Both routes of the transport."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def answer(self, request: Request, body: bytes, caller: Caller) -> Response:
        """Answer one request of any method to either route."""
        path = request.url.path
        posted = path == MESSAGES or path.startswith(f"{MESSAGES}/")
        method = "POST" if posted else "GET"
        if request.method != method:
            return refused(405, errors.INVALID_REQUEST, f"{method} only / 只支持 {method}", headers={"allow": method})
        return self._message(request, body, caller) if posted else self._stream(request, caller)

    def _stream(self, request: Request, caller: Caller) -> Response:
        if not accepts(request)[1]:
            return refused(406, errors.INVALID_REQUEST, "Accept must have text/event-stream / Accept 必须包含 text/event-stream")
        session = self._sessions.begin(caller, sse=True)
        if isinstance(session, Response):
            return session
        # A token in the address is repeated in the message address; one in a header is sent by the client itself.
        fields = [(SESSION_ID, session.id), *(field for field in request.query_params.multi_items() if field[0] == "token")]
        rest = request.url.path.removeprefix(STREAM)
        own = session.own_stream()
        own.add(f"{MESSAGES}{quote(rest)}?{urlencode(fields)}".encode(), b"endpoint")
        connection = own.connect()
        assert connection is not None
        return _Whole(session, connection, self._sessions.limits.stalled_seconds)

    def _message(self, request: Request, body: bytes, caller: Caller) -> Response:
        session = self._sessions.sse_session(request.query_params.get(SESSION_ID, ""), caller)
        if session is None:
            return refused(404, errors.INVALID_REQUEST, "no such session: open the stream again / 会话不存在：请重新打开事件流")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return refused(415, errors.INVALID_REQUEST, "Content-Type must be application/json / 必须为 application/json")
        try:
            messages, batch = self._sessions.read(body)
        except Malformed as malformed:
            return refused(400, malformed.code, malformed.why)
        if batch:
            return refused(400, errors.INVALID_REQUEST, "this transport does not support batches / 此传输方式不支持批量")
        return session.post_sse(messages[0])


class _Whole(EventsResponse):
    """The stream of a session; the session ends with it."""

    def __init__(self, session: Session, connection: Connection, stalled_seconds: float) -> None:
        super().__init__(connection, stalled_seconds)
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._session.close(*errors.GOING_AWAY)
