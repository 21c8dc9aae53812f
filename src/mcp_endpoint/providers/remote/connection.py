"""One connection to an MCP server by URL, over Streamable HTTP or HTTP+SSE: sends messages as POSTs, receives responses and events.

Streamable HTTP (MCP 2025-03-26 and later): the response to a POST belongs to its request, whatever id it contains.
HTTP+SSE (MCP 2024-11-05): all responses arrive on one stream, and the id selects the request.

The `mcp` package's clients are not used: they end the whole connection for one event above 1 MiB, hide the text of a refusal, and cannot
assign an unreadable response to its request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final, Protocol
from urllib.parse import urljoin

import httpx2
from msgspec import UNSET, Raw

from ... import errors
from ...backoff import Backoff
from ...protocol import jsonrpc, methods
from ...protocol.jsonrpc import VERSION, Frame, Malformed, Unreadable, kind_of, members, parse, parse_lenient
from ...protocol.sse import TAIL_BYTES, Event, Events
from ...protocol.stateless import objects
from .failure import BROKEN_OFF, NO_ANSWER, TOO_LATE, Failure, excerpt, names_lost_session, too_large, unreadable
from .transport import ANSWER_SECONDS, CONNECT_SECONDS, KEY_STATUSES, Broken, failure_of, media_type, origin

RESUMPTIONS: Final = 2
"""How often a broken response stream is resumed, if the server supports it."""
RETRY_SECONDS: Final = 1.0
"""Wait before that, unless the server sets `retry`."""
LONGEST_RETRY_SECONDS: Final = 10.0
"""Upper limit of the server's `retry`."""
NOT_EVENTS_BYTES: Final = 4096
"""Bytes that are read of a response that is not an event stream."""
_BOM: Final = b"\xef\xbb\xbf"
_SESSION_ID: Final = re.compile(r"[\x21-\x7e]{1,4096}")  # MCP 2025-03-26, Session Management: visible ASCII
_JSON: Final = frozenset(("application/json", ""))
_SENT: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
_STREAM: Final = {"accept": "text/event-stream", "cache-control": "no-store"}

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts a task with the lifetime of the connection."""


class NotOpened(Exception):
    """The connection could not be opened."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.en)
        self.failure = failure


class Receiver(Protocol):
    """Receives what arrives on a connection."""

    def received(self, data: bytes, frame: Frame | None = None) -> None:
        """A message of the server, unchanged; `frame` is the parsed `data`, if it was parsed."""

    def noise(self) -> None:
        """An event that is not a message."""

    def stream_ended(self, failure: Failure) -> None:
        """The server's stream or session has ended."""

    def changed(self) -> None:
        """Notifications may have been missed."""


class StreamableHttpConnection:
    """MCP 2025-03-26 and later."""

    def __init__(self, url: str, http: httpx2.AsyncClient, most: int, receiver: Receiver, spawn: Spawn, backoff: Backoff) -> None:
        """`most` is the limit of one event in bytes; `backoff` is for the stream of notifications."""
        self._url = url
        self._http = http
        self._most = most
        self._receiver = receiver
        self._spawn = spawn
        self._backoff = backoff
        self._session = ""
        self._listening: asyncio.Task[None] | None = None
        self.version = ""
        """The negotiated revision, for the headers of requests that are not messages of the endpoint."""

    async def open(self) -> None:
        """Reset to the state without a session."""
        self._session = ""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()

    def listen(self) -> None:
        """Open the stream of notifications, if the server has given a session."""
        if self._session:
            self._listening = self._spawn(self._listen())

    async def close(self) -> None:
        """Delete the session."""
        if self._session:
            await (await self._send("DELETE", b"", {})).aclose()

    async def post(self, data: bytes, frame: Frame, headers: Mapping[str, str]) -> Failure | None:
        """Send one message. For a request, its response has been received when this returns None."""
        id = bytes(frame.id) if kind_of(frame) == "request" and frame.id is not UNSET else None
        hello = frame.method == methods.INITIALIZE
        response = await self._send("POST", data, {**_SENT, **headers}, named=not hello)
        endless = frame.method == methods.LISTEN
        try:
            failure = failure_of(response)
            if failure is not None:
                return failure
            given = response.headers.get(methods.SESSION_HEADER, "")
            if hello and _SESSION_ID.fullmatch(given):
                self._session = given
            if id is None:
                return None
            if media_type(response) != "text/event-stream":
                return await self._in_body(id, response)
            async with asyncio.timeout(None if endless else ANSWER_SECONDS):
                return await self._in_events(id, response)
        except Broken as broken:
            return broken.failure
        except TimeoutError:
            return TOO_LATE
        finally:
            await response.aclose()

    async def _send(self, method: str, data: bytes, headers: dict[str, str], *, named: bool = True) -> httpx2.Response:
        if named and self._session:
            headers[methods.SESSION_HEADER] = self._session
        if self.version and named:
            headers.setdefault(methods.VERSION_HEADER, self.version)
        request = self._http.build_request(method, self._url, headers=headers, content=data or None)
        return await self._http.send(request, stream=True)

    async def _in_body(self, id: bytes, response: httpx2.Response) -> Failure | None:
        """Handle a body that is a single response, whatever its content type."""
        body = await response.aread()
        if not body.strip():
            return NO_ANSWER
        kind = media_type(response)
        try:
            return self._answer(id, *read(body))
        except Malformed as malformed:
            return unreadable(malformed.why, body, "" if kind in _JSON else kind)

    def _answer(self, id: bytes, frame: Frame, data: bytes) -> Failure | None:
        """Deliver the response to the request `id`. Raises Malformed if it is not a response."""
        answer = answer_to(id, frame, data)
        if isinstance(answer, Failure):
            return answer
        self._receiver.received(*answer)
        return None

    async def _in_events(self, id: bytes, response: httpx2.Response) -> Failure | None:
        """Read an event stream up to the response; resume it if it breaks."""
        last = ""
        retry = RETRY_SECONDS
        resumptions = 0
        while True:
            failure = BROKEN_OFF
            try:
                async for event in _events(response, self._most):
                    if event.retry_seconds is not None:
                        retry = min(event.retry_seconds, LONGEST_RETRY_SECONDS)
                    if event.id:
                        last, resumptions = event.id, 0
                    if event.kind != "message" or not event.data:
                        continue
                    if not event.whole:
                        return too_large(self._most)
                    if not looks_like_message(event.data):
                        self._receiver.noise()
                        continue
                    try:
                        frame, data = read(event.data)
                        if kind_of(frame) == "answer":
                            return self._answer(id, frame, data)
                    except Malformed as malformed:
                        return unreadable(malformed.why, event.data)
                    self._receiver.received(data, frame)
            except Broken as broken:
                failure = broken.failure
                if failure is not BROKEN_OFF:
                    return failure
            finally:
                await response.aclose()
            if not last or resumptions >= RESUMPTIONS:
                return failure
            resumptions += 1
            await asyncio.sleep(retry)
            response = await self._send("GET", b"", {**_STREAM, methods.LAST_EVENT_HEADER: last})
            refused = failure_of(response)
            if refused is not None:
                return refused if not refused.unreachable else failure

    async def _listen(self) -> None:
        """Read the stream of notifications, and reopen it when it ends; the server may not have one."""
        last = ""
        opened = False
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            asked = 0.0
            response = await self._send("GET", b"", _STREAM | ({methods.LAST_EVENT_HEADER: last} if last else {}))
            try:
                failure = failure_of(response)
                if failure is not None:
                    if failure.session_lost:
                        self._receiver.stream_ended(failure)
                        return
                    if 300 <= failure.status < 500 and failure.status not in KEY_STATUSES:
                        return
                    asked = failure.retry_seconds or 0.0
                elif media_type(response) != "text/event-stream":
                    return
                else:
                    if opened and not last:
                        self._receiver.changed()
                    opened = True
                    async for event in _events(response, self._most):
                        last = last if event.id is None else event.id
                        asked = asked if event.retry_seconds is None else min(event.retry_seconds, LONGEST_RETRY_SECONDS)
                        _pass(event, self._receiver, self._most)
            except Broken:
                pass
            finally:
                await response.aclose()
            await asyncio.sleep(self._backoff.wait(loop.time() - began, at_least=asked))


class HttpSseConnection:
    """MCP 2024-11-05."""

    def __init__(self, url: str, http: httpx2.AsyncClient, most: int, receiver: Receiver, spawn: Spawn) -> None:
        """`most` is the limit of one event in bytes."""
        self._url = url
        self._http = http
        self._most = most
        self._receiver = receiver
        self._spawn = spawn
        self._stream: httpx2.Response | None = None
        self._reading: asyncio.Task[None] | None = None
        self._address = ""
        self.version = ""
        """As for Streamable HTTP; this transport has no header for it."""

    async def open(self) -> None:
        """Open the stream and wait for the message address. Raises NotOpened."""
        await self.close()
        request = self._http.build_request("GET", self._url, headers=_STREAM)
        response = self._stream = await self._http.send(request, stream=True)
        failure = failure_of(response)
        if failure is not None:
            raise NotOpened(failure)
        if media_type(response) != "text/event-stream":
            raise NotOpened(unreadable("no stream of events", await _beginning(response), media_type(response)))
        events = _events(response, self._most)
        try:
            async for event in events:
                if event.kind == "endpoint":
                    self._address = self._address_of(event, str(response.extensions.get("url", self._url)))
                    self._reading = self._spawn(self._read(events))
                    return
        except Broken as broken:
            raise NotOpened(broken.failure) from None
        raise NotOpened(
            Failure("the server ended its stream before it named an address for messages", "服务器在给出消息地址之前结束了事件流", False)
        )

    def _address_of(self, event: Event, base: str) -> str:
        """The message address; it must be on the same server, because the entry's key is sent there (MCP 2024-11-05, HTTP with SSE)."""
        try:
            address = httpx2.URL(urljoin(base, event.data.decode("ascii").strip()))
            if origin(address) == origin(httpx2.URL(self._url)) and not address.userinfo:
                return str(address)
            shown = excerpt(str(address.copy_with(userinfo=b"", query=None, fragment=None)).encode())
        except (httpx2.InvalidURL, ValueError):
            shown = excerpt(event.data.partition(b"?")[0])
        raise NotOpened(
            Failure(
                f"the server gave a message address of another origin ({shown}), which is not used: "
                "it must give a relative address or its public one",
                f"服务器给出的消息地址不同源（{shown}），未使用：请让它给出相对地址或其公开地址",
                False,
            )
        )

    async def _read(self, events: AsyncIterator[Event]) -> None:
        failure = Failure("the server ended its stream", "服务器结束了事件流", None)
        try:
            async for event in events:
                _pass(event, self._receiver, self._most)
        except Broken as broken:
            failure = broken.failure
        self._receiver.stream_ended(failure)

    def listen(self) -> None:
        """Nothing: notifications arrive on the same stream."""

    async def close(self) -> None:
        """End the stream; there is no other way to end this transport's session."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait((reading,))
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None

    async def post(self, data: bytes, frame: Frame, headers: Mapping[str, str]) -> Failure | None:
        """Send one message; its response arrives on the stream, or here from a server that mixes both transports."""
        request = self._http.build_request("POST", self._address, headers=_SENT, content=data)
        response = await self._http.send(request, stream=True)
        try:
            failure = failure_of(response)
            if failure is not None:
                failure.session_lost = failure.session_lost or failure.status in (404, 410)
                return failure
            if media_type(response) == "application/json":
                body = await response.aread()
                if frame.id is not UNSET and looks_like_message(body):
                    self._receiver.received(body)
            return None
        except Broken as broken:
            return broken.failure
        finally:
            await response.aclose()


async def _beginning(response: httpx2.Response) -> bytes:
    """The beginning of a response that is not an event stream."""
    body = b""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) >= NOT_EVENTS_BYTES:
                    break
    except (TimeoutError, httpx2.HTTPError, httpx2.StreamError):
        pass
    return body[:NOT_EVENTS_BYTES]


async def _events(response: httpx2.Response, most: int) -> AsyncIterator[Event]:
    """The events of a stream. Raises Broken if it ends abnormally."""
    events = Events(most)
    try:
        async for chunk in response.aiter_raw():
            for event in events.feed(chunk):
                yield event
    except httpx2.TransportError as error:
        raise Broken(BROKEN_OFF) from error


def _pass(event: Event, receiver: Receiver, most: int) -> None:
    """Deliver one event of a stream of messages."""
    if event.kind != "message" or not event.data:
        return
    if event.whole:
        receiver.received(event.data)
    elif (unreadable := jsonrpc.too_large(event.data, event.data[-TAIL_BYTES:], most)) is not None:
        receiver.received(jsonrpc.unreadable_answer(unreadable))
    else:
        receiver.noise()


def looks_like_message(data: bytes) -> bool:
    """Whether the data is meant as JSON-RPC, and not a keep-alive text."""
    return data.removeprefix(_BOM).lstrip()[:1] in (b"{", b"[")


def read(data: bytes) -> tuple[Frame, bytes]:
    """Parse a message; lenient about responses without a usable id. Raises Malformed."""
    try:
        return parse_lenient(data)
    except Unreadable:
        raise
    except Malformed:
        data = data.removeprefix(_BOM)
        return parse(data), data


def answer_to(id: bytes, frame: Frame, data: bytes) -> tuple[bytes, Frame] | Failure:
    """The response with the id of its request; a Failure if it says that the session is unknown.

    Raises Malformed if it is not a response.
    """
    kind = "result" if frame.error is UNSET or bytes(frame.error) == b"null" else "error"
    body = getattr(frame, kind)
    if kind_of(frame) != "answer" or body is UNSET:
        raise Malformed(errors.INVALID_REQUEST, "neither a result nor an error", id)
    if kind == "error" and names_lost_session(known := objects(body)):
        said = excerpt(str(known.get("message")).encode())
        return Failure(f"the server does not know the session: {said}", f"服务器不认识此会话：{said}", False, session_lost=True)
    answer = Frame(VERSION, Raw(id))
    setattr(answer, kind, body)
    raw = bytes(body)
    if b"\\ufffd" in raw:  # a lone surrogate, which the parser replaces: use the raw bytes
        place = members(data)[kind]
        raw = data[place.start : place.end]
    return (jsonrpc.result(id, raw) if kind == "result" else jsonrpc.failure(id, raw)), answer
