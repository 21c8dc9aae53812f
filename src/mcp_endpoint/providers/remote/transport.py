"""The httpx transport of a server by URL: inserts the key, bounds the response, and turns errors into a Failure.

A Failure says whether the server may have executed the request: only if it cannot have (no connection, 401, 402, 403, 429, 503, 529) may
another replica be tried. A redirect is followed, with method and body, only within the same scheme, host and port. Proxy settings of the
environment are ignored.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Final

import httpx2
from msgspec import UNSET

from ...credentials.lookahead import answer_of, worked
from ...credentials.placement import as_header, in_query
from ...credentials.pool import Credential
from ...credentials.refusals import Answer, retry_after
from ...credentials.rotation import Rotation, route_of
from ...credentials.store import CredentialStore
from ...log import BLOT
from ...protocol import methods
from ...protocol.jsonrpc import Frame, Malformed, kind_of, parse
from ...protocol.stateless import fields, objects
from .failure import BROKEN_OFF, TOO_LATE, Failure, compressed, elsewhere, excerpt, in_circles, refused, too_large, unanswered, unreachable

CONNECT_SECONDS: Final = 5.0
"""Timeout for a connection, for its TLS handshake, and for a free place in the pool, each."""
ACCEPT_SECONDS: Final = 10.0
"""Timeout for a message that needs no response."""
ANSWER_SECONDS: Final = 310.0
"""Timeout of a response head, and of the whole response: longer than any call may take."""
CLOSE_SECONDS: Final = 2.0
"""Timeout for deleting a session."""
RECEIVED_BYTES: Final = 128 * 1024
"""Receive buffer of a socket: bounds what the kernel holds of an answer. uvloop reads all of it at once, and Linux would let it grow to
megabytes."""
KEPT_CONNECTIONS: Final = 20
MOST_CONNECTIONS: Final = 1000
KEPT_SECONDS: Final = 30.0

REDIRECTS: Final = 5
"""Most redirects that are followed for one request."""
REFUSAL_BYTES: Final = 64 * 1024
"""Bytes that are read of a refusal's body."""
STREAM_ANSWERS: Final = 4
"""The events of one response stream may have this many times the largest response in total."""
KEY_STATUSES: Final = frozenset((401, 402, 403, 407, 429))
"""Statuses about the client's credentials: their body is text for people, not a JSON-RPC response."""
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_PORTS: Final = {"http": 80, "https": 443}


class Broken(httpx2.StreamError):
    """The body of a response ended for a known reason; raised while it is read."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.en)
        self.failure = failure


class KeyedTransport(httpx2.AsyncBaseTransport):
    """The transport of one server. It never raises: without a response of the server it returns one with a `Failure`, see `failure_of`."""

    def __init__(self, ring: CredentialStore | None, place: str, most: int) -> None:
        """`most` is the limit of one response in bytes."""
        limits = httpx2.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=KEPT_SECONDS)
        # A stream may be silent for hours: TCP keepalive detects a lost peer.
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED_BYTES)]
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False, limits=limits, socket_options=options)
        self._ring = ring
        self._place = place
        self._most = most
        self.status = 0
        """Status of the last response."""

    async def aclose(self) -> None:
        """Close its connections."""
        await self._inner.aclose()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request with one key after the other until one is accepted."""
        message = _message(request)
        endless = request.method == "GET" or (message is not None and message.method == methods.LISTEN)
        patience = CLOSE_SECONDS if request.method == "DELETE" else ANSWER_SECONDS
        if message is not None and kind_of(message) != "request":
            patience = ACCEPT_SECONDS
        request.extensions["timeout"] = {**request.extensions.get("timeout", {}), "read": None if endless else patience}
        # Without compression, counting the received bytes bounds the size.
        request.headers["accept-encoding"] = "identity"
        rotation, key = None, None
        if self._ring is not None:
            rotation = self._ring.rotation(route_of(request.method, str(request.url).encode(), request.content))
            key = rotation.take(_now())
            if key is None:
                _, en, zh = self._ring.none_left()
                return _failed(request, Failure(en, zh, False))
        response = await self._rotated(request, rotation, key, patience)
        if failure_of(response) is not None:
            return response
        events = media_type(response) == "text/event-stream"
        if response.status_code >= 300:
            return await self._refusal(request, response)
        if not (endless and events):
            most = self._most * (STREAM_ANSWERS if events else 1)
            response.stream = _BoundedBody(response.stream, self._most, most, _now() + ANSWER_SECONDS)
        return response

    async def _rotated(
        self, request: httpx2.Request, rotation: Rotation | None, key: Credential | None, patience: float
    ) -> httpx2.Response:
        """The response to the last key that was tried; the outcome of all tried keys has been recorded."""
        while True:
            response = await self._answer(request, key, patience)
            failure = failure_of(response)
            if failure is None:
                self.status = response.status_code
                response.extensions["key"] = key
            if rotation is None or key is None:
                return response
            if failure is not None:
                if not (failure.unreachable or failure.status):
                    rotation.answered(key, Answer(None), _now(), repeatable=False)
                rotation.failed(_now())
                return response
            again = rotation.answered(key, await answer_of(response), _now(), repeatable=False)
            following = rotation.take(_now()) if again else None
            if following is None:
                break
            await response.aclose()
            key = following
        if await worked(response):
            rotation.worked(key, _now())
        else:
            rotation.failed(_now())
        return response

    async def _answer(self, request: httpx2.Request, key: Credential | None, patience: float) -> httpx2.Response:
        """The response head, within `patience` seconds in total, after redirects within the same origin."""
        target = request
        try:
            async with asyncio.timeout(patience):
                for _ in range(REDIRECTS + 1):
                    response = await self._inner.handle_async_request(self._keyed(target, key))
                    location = response.headers.get("location") if response.status_code in _REDIRECTS else None
                    if location is None:
                        break
                    await response.aclose()
                    target = _moved(target, response.status_code, location)
                else:
                    return _failed(request, in_circles(response.status_code, REDIRECTS))
        except _Elsewhere as error:
            self.status = error.failure.status
            return _failed(request, error.failure)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            return _failed(request, unreachable(error, request.url.host, CONNECT_SECONDS))
        except httpx2.TransportError as error:
            return _failed(request, unanswered(error, patience))
        except TimeoutError:
            return _failed(request, unanswered(httpx2.ReadTimeout(""), patience))
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            await response.aclose()
            if response.status_code < 300:
                return _failed(request, compressed(encoding))
            # Its body cannot be read; its status can.
            response = httpx2.Response(response.status_code, headers=response.headers, content=b"")
            del response.headers["content-encoding"]
        response.extensions["url"] = str(target.url)
        return response

    async def _refusal(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """The failure for an error status; a JSON-RPC error in the body is passed on as the response it is."""
        status = response.status_code
        body = b""
        try:
            async with asyncio.timeout(ACCEPT_SECONDS):
                async for chunk in response.stream:  # type: ignore[union-attr]
                    body += chunk
                    if len(body) > REFUSAL_BYTES:
                        break
        except (httpx2.HTTPError, httpx2.StreamError, TimeoutError):
            pass
        finally:
            await response.aclose()
        key = response.extensions.get("key")
        if isinstance(key, Credential):
            body = body.replace(key.secret.encode(), BLOT.encode())
        wait = retry_after(response.headers, time.time())
        failure = refused(status, body[:REFUSAL_BYTES], retry_seconds=wait, session=methods.SESSION_HEADER in request.headers)
        known = objects(fields(body).get("error", UNSET)) if status not in KEY_STATUSES else {}
        if "code" in known and not failure.session_lost:
            return httpx2.Response(status, headers={"content-type": "application/json"}, content=body, extensions=response.extensions)
        return _failed(request, failure)

    def _keyed(self, request: httpx2.Request, key: Credential | None) -> httpx2.Request:
        """The request with the key inserted."""
        if key is None:
            return request
        headers = request.headers.copy()
        url = request.url
        bears = as_header(self._place, key.secret)
        if bears is not None:
            headers[bears[0]] = bears[1]
        else:
            path, _, query = url.raw_path.partition(b"?")
            url = url.copy_with(raw_path=path + b"?" + in_query(query, self._place, key.secret))
        return httpx2.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)


class _Elsewhere(Exception):
    """A redirect that must not be followed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.en)
        self.failure = failure


def origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    """Scheme, host and port (explicit or default)."""
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme)


def _moved(request: httpx2.Request, status: int, location: str) -> httpx2.Request:
    """The request at its new location. Raises _Elsewhere for another origin, and if the message would be lost."""
    try:
        url = request.url.join(location)
        shown = excerpt(str(url.copy_with(userinfo=b"", query=None, fragment=None)).encode())
    except (httpx2.InvalidURL, ValueError):
        raise _Elsewhere(elsewhere(status, excerpt(location.partition("?")[0].encode()))) from None
    keeps = status in (307, 308) or request.method == "GET"
    if not keeps or origin(url) != origin(request.url) or (url.userinfo and url.userinfo != request.url.userinfo):
        raise _Elsewhere(elsewhere(status, shown))
    return httpx2.Request(request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions)


class _BoundedBody(httpx2.AsyncByteStream):
    """A response body bounded in bytes and time. Raises Broken."""

    def __init__(self, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream, shown: int, most: int, until: float) -> None:
        """`shown` is the configured limit, for the message; `most` is the limit of this kind of body."""
        self._stream = stream
        self._shown = shown
        self._most = most
        self._until = until

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._stream, httpx2.AsyncByteStream)
        left = self._most
        try:
            async for chunk in self._stream:
                left -= len(chunk)
                if left < 0:
                    raise Broken(too_large(self._shown))
                if _now() > self._until:
                    raise Broken(TOO_LATE)
                yield chunk
        except httpx2.TransportError as error:
            raise Broken(BROKEN_OFF) from error

    async def aclose(self) -> None:
        assert isinstance(self._stream, httpx2.AsyncByteStream)
        await self._stream.aclose()


def failure_of(response: httpx2.Response) -> Failure | None:
    """Why there is no response of the server; None if there is one."""
    found = response.extensions.get("failure")
    return found if isinstance(found, Failure) else None


def _failed(request: httpx2.Request, failure: Failure) -> httpx2.Response:
    """A response in place of the server's."""
    return httpx2.Response(failure.status or 502, request=request, extensions={"failure": failure})


def media_type(response: httpx2.Response) -> str:
    """The media type of a response, in lower case."""
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _message(request: httpx2.Request) -> Frame | None:
    """The JSON-RPC message in a POST."""
    if request.method != "POST":
        return None
    try:
        return parse(request.content, utf8=True)
    except Malformed:
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
