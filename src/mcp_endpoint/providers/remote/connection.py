"""One connection to an MCP server by URL, over either of MCP's HTTP wires: messages go out as POSTs, answers and events come back.

Streamable HTTP (MCP 2025-03-26 and later): the answer of a POST belongs to its request, whatever id it names.
HTTP+SSE (MCP 2024-11-05): every answer comes on one stream, and its id says whose it is.

The wires are read here and not by the `mcp` package, because its clients end the whole connection for one event above 1 MiB, keep the
words of a refusal to themselves, and cannot say whose an unreadable answer is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final, Protocol
from urllib.parse import urljoin

import httpx2
from msgspec import UNSET

from ... import errors
from ...backoff import Backoff
from ...protocol import jsonrpc, methods
from ...protocol.jsonrpc import Frame, Malformed, Unreadable, members, parse, parse_lenient
from ...protocol.sse import TAIL_BYTES, Event, Events
from ...protocol.stateless import objects
from .failure import BROKEN_OFF, NO_ANSWER, TOO_LATE, Failure, names_lost_session, too_large, unreadable, words
from .transport import ANSWER_SECONDS, CONNECT_SECONDS, KEY_STATUSES, Broken, failure_of, media_type, origin

RESUMPTIONS: Final = 2
"""So often an answer whose stream broke off is asked for once more, where the stream can be resumed."""
RETRY_SECONDS: Final = 1.0
"""Before that, unless the server says otherwise."""
LONGEST_RETRY_SECONDS: Final = 10.0
"""However long it says."""
REFUSED_WORDS_BYTES: Final = 4096
"""So much is read of what came in place of a stream of events."""
_BOM: Final = b"\xef\xbb\xbf"
_SESSION_ID: Final = re.compile(r"[\x21-\x7e]{1,4096}")  # MCP 2025-03-26, Session Management: visible ASCII
_JSON: Final = frozenset(("application/json", ""))
_SENT: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
_STREAM: Final = {"accept": "text/event-stream", "cache-control": "no-store"}

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts what runs as long as the connection."""


class Ended(Exception):
    """The connection cannot be opened."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.en)
        self.failure = failure


class Ears(Protocol):
    """Whoever the connection is for."""

    def heard(self, data: bytes) -> None:
        """A message of the server, as it came."""

    def noise(self) -> None:
        """An event that is no message."""

    def broke(self, failure: Failure) -> None:
        """The stream of the server is over, or its session."""

    def changed(self) -> None:
        """Announcements may have been missed."""


class StreamableHttp:
    """MCP 2025-03-26 and later."""

    def __init__(self, url: str, http: httpx2.AsyncClient, most: int, ears: Ears, spawn: Spawn, backoff: Backoff) -> None:
        """`most` bounds one event in bytes; `backoff` is for the stream of announcements."""
        self._url = url
        self._http = http
        self._most = most
        self._ears = ears
        self._spawn = spawn
        self._backoff = backoff
        self._session = ""
        self._listening: asyncio.Task[None] | None = None
        self.version = ""
        """The revision the server chose, for the headers of what is no message of the endpoint."""

    async def open(self) -> None:
        """Begin without a session."""
        self._session = ""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()

    def listen(self) -> None:
        """Open the stream of announcements, where the server has sessions."""
        if self._session:
            self._listening = self._spawn(self._listen())

    async def close(self) -> None:
        """Say goodbye."""
        if self._session:
            await (await self._send("DELETE", b"", {})).aclose()

    async def post(self, data: bytes, frame: Frame, headers: Mapping[str, str]) -> Failure | None:
        """Say one message. For a request its answer has been heard when this returns None."""
        id = None if frame.method is UNSET or frame.id is UNSET else bytes(frame.id)
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
        """The one answer that the body is, whatever type it says to be of."""
        body = await response.aread()
        if not body.strip():
            return NO_ANSWER
        kind = media_type(response)
        try:
            return self._answer(id, *read(body))
        except Malformed as malformed:
            return unreadable(malformed.why, body, "" if kind in _JSON else kind)

    def _answer(self, id: bytes, frame: Frame, data: bytes) -> Failure | None:
        """What came in answer to the request `id`, as its answer. Raises Malformed for what is no answer."""
        answer = answer_to(id, frame, data)
        if isinstance(answer, Failure):
            return answer
        self._ears.heard(answer)
        return None

    async def _in_events(self, id: bytes, response: httpx2.Response) -> Failure | None:
        """The answer among the events of a stream, which is resumed where it breaks off."""
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
                        self._ears.noise()
                        continue
                    try:
                        frame, data = read(event.data)
                        if frame.method is UNSET:
                            return self._answer(id, frame, data)
                    except Malformed as malformed:
                        return unreadable(malformed.why, event.data)
                    self._ears.heard(data)
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
        """The stream of announcements, opened again whenever it ends; a server may have none."""
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
                        self._ears.broke(failure)
                        return
                    if 300 <= failure.status < 500 and failure.status not in KEY_STATUSES:
                        return
                    asked = failure.retry_seconds or 0.0
                elif media_type(response) != "text/event-stream":
                    return
                else:
                    if opened and not last:
                        self._ears.changed()
                    opened = True
                    async for event in _events(response, self._most):
                        last = last if event.id is None else event.id
                        asked = asked if event.retry_seconds is None else min(event.retry_seconds, LONGEST_RETRY_SECONDS)
                        _pass(event, self._ears, self._most)
            except Broken:
                pass
            finally:
                await response.aclose()
            await asyncio.sleep(self._backoff.wait(loop.time() - began, at_least=asked))


class HttpSse:
    """MCP 2024-11-05."""

    def __init__(self, url: str, http: httpx2.AsyncClient, most: int, ears: Ears, spawn: Spawn) -> None:
        """`most` bounds one event in bytes."""
        self._url = url
        self._http = http
        self._most = most
        self._ears = ears
        self._spawn = spawn
        self._stream: httpx2.Response | None = None
        self._reading: asyncio.Task[None] | None = None
        self._address = ""
        self.version = ""
        """As for the other wire; no header says it here."""

    async def open(self) -> None:
        """Open the stream and wait for the address of messages. Raises Ended."""
        await self.close()
        request = self._http.build_request("GET", self._url, headers=_STREAM)
        response = self._stream = await self._http.send(request, stream=True)
        failure = failure_of(response)
        if failure is not None:
            raise Ended(failure)
        if media_type(response) != "text/event-stream":
            raise Ended(unreadable("no stream of events", await _beginning(response), media_type(response)))
        events = _events(response, self._most)
        try:
            async for event in events:
                if event.kind == "endpoint":
                    self._address = self._address_of(event, str(response.extensions.get("url", self._url)))
                    self._reading = self._spawn(self._read(events))
                    return
        except Broken as broken:
            raise Ended(broken.failure) from None
        raise Ended(
            Failure("the server ended its stream before it named an address for messages", "服务器在给出消息地址之前结束了事件流", False)
        )

    def _address_of(self, event: Event, base: str) -> str:
        """Where messages go: on the same server, as the entry's key goes along (MCP 2024-11-05, HTTP with SSE)."""
        try:
            address = httpx2.URL(urljoin(base, event.data.decode("ascii").strip()))
            if origin(address) == origin(httpx2.URL(self._url)) and not address.userinfo:
                return str(address)
            shown = words(str(address.copy_with(userinfo=b"", query=None, fragment=None)).encode())
        except (httpx2.InvalidURL, ValueError):
            shown = words(event.data.partition(b"?")[0])
        raise Ended(
            Failure(
                f"the server names an address of another origin for messages ({shown}), which is not used: "
                "let it name a relative address, or its public one",
                f"服务器给出的消息地址不同源（{shown}），未使用：请让它给出相对地址或其公开地址",
                False,
            )
        )

    async def _read(self, events: AsyncIterator[Event]) -> None:
        failure = Failure("the server ended its stream", "服务器结束了事件流", None)
        try:
            async for event in events:
                _pass(event, self._ears, self._most)
        except Broken as broken:
            failure = broken.failure
        self._ears.broke(failure)

    def listen(self) -> None:
        """Nothing: there is one stream for everything."""

    async def close(self) -> None:
        """End the stream: this wire has no other goodbye."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait((reading,))
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None

    async def post(self, data: bytes, frame: Frame, headers: Mapping[str, str]) -> Failure | None:
        """Say one message; an answer comes on the stream, or here from a server that mixes the wires."""
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
                    self._ears.heard(body)
            return None
        except Broken as broken:
            return broken.failure
        finally:
            await response.aclose()


async def _beginning(response: httpx2.Response) -> bytes:
    """What came in place of a stream of events, in a moment."""
    body = b""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) >= REFUSED_WORDS_BYTES:
                    break
    except (TimeoutError, httpx2.HTTPError, httpx2.StreamError):
        pass
    return body[:REFUSED_WORDS_BYTES]


async def _events(response: httpx2.Response, most: int) -> AsyncIterator[Event]:
    """The events of a stream. Raises Broken when it does not end as it should."""
    events = Events(most)
    try:
        async for chunk in response.aiter_raw():
            for event in events.feed(chunk):
                yield event
    except httpx2.TransportError as error:
        raise Broken(BROKEN_OFF) from error


def _pass(event: Event, ears: Ears, most: int) -> None:
    """One event of a stream that carries whatever the server has to say."""
    if event.kind != "message" or not event.data:
        return
    if event.whole:
        ears.heard(event.data)
    elif (unreadable := jsonrpc.too_large(event.data, event.data[-TAIL_BYTES:], most)) is not None:
        ears.heard(jsonrpc.unreadable_answer(unreadable))
    else:
        ears.noise()


def looks_like_message(data: bytes) -> bool:
    """Whether data was meant as JSON-RPC, and is no word that keeps a connection alive."""
    return data.removeprefix(_BOM).lstrip()[:1] in (b"{", b"[")


def read(data: bytes) -> tuple[Frame, bytes]:
    """A message of a server and its bytes, also one that names no request. Raises Malformed."""
    try:
        return parse_lenient(data)
    except Unreadable:
        raise
    except Malformed:
        data = data.removeprefix(_BOM)
        return parse(data), data


def answer_to(id: bytes, frame: Frame, data: bytes) -> bytes | Failure:
    """The answer `data` under the id of its request; a Failure where it says that the session is not known.

    Raises Malformed for what is no answer.
    """
    kind = "result" if frame.error is UNSET or bytes(frame.error) == b"null" else "error"
    body = getattr(frame, kind)
    if frame.method is not UNSET or body is UNSET:
        raise Malformed(errors.INVALID_REQUEST, "neither a result nor an error", id)
    if kind == "error" and names_lost_session(told := objects(body)):
        said = words(str(told.get("message")).encode())
        return Failure(f"the server does not know the session: {said}", f"服务器不认识此会话：{said}", False, session_lost=True)
    raw = bytes(body)
    if b"\\ufffd" in raw:  # half a surrogate pair, which the parser does not take, stays in the bytes
        place = members(data)[kind]
        raw = data[place.start : place.end]
    return jsonrpc.result(id, raw) if kind == "result" else jsonrpc.failure(id, raw)
