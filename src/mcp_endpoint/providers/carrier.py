"""What every request to an upstream MCP server passes through: its key goes in, its answer is bounded, and its failure becomes words.

The client of the `mcp` package speaks HTTP through this. A failure becomes a JSON-RPC error that says whether the server may have run the
request: only where it cannot have (no connection, 401, 403, 429, 503) may another replica be asked. Redirects are left to the client,
which follows none to another origin; addresses come from the configuration alone.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Final
from urllib.parse import quote, unquote_plus

import httpx2
import msgspec
from msgspec import UNSET, UnsetType

from .. import errors
from ..credentials import REFUSED_BY, Credential
from ..keyring import ALL_GONE, Keyring, retry_after

CONNECT_SECONDS: Final = 10.0
"""For a server to take a connection, and for one to become free."""
WORD_SECONDS: Final = 10.0
"""For a server to take what needs no answer."""
ANSWER_SECONDS: Final = 310.0
"""For the head of an answer, and for the whole of it: longer than any call may take."""
GOODBYE_SECONDS: Final = 2.0
"""For a server to hear that its session is over."""
STREAMS: Final = "subscriptions/listen"
"""The request whose answer is a stream without an end (MCP 2026-07-28); the handshake era opens its stream with GET."""
KEPT_CONNECTIONS: Final = 20
MOST_CONNECTIONS: Final = 1000
KEPT_SECONDS: Final = 30.0

_encode: Final = msgspec.json.Encoder().encode


class _Message(msgspec.Struct):
    method: str | UnsetType = UNSET
    id: msgspec.Raw | UnsetType = UNSET


_decoder: Final = msgspec.json.Decoder(_Message)


class Failure(msgspec.Struct):
    """Why a request was not answered; `delivered` is False only if the server cannot have run it."""

    en: str
    zh: str
    delivered: bool | None

    def error(self) -> dict[str, object]:
        """As the error of a JSON-RPC answer."""
        code = errors.NO_PROVIDER if self.delivered is False else errors.PROVIDER_GONE
        hint = f"{self.zh} / {self.en}"
        return {"code": code.number, "message": code.message, "data": {"source": "broker", "delivered": self.delivered, "hint": hint}}


class Carrier(httpx2.AsyncBaseTransport):
    """One server's way."""

    def __init__(
        self,
        ring: Keyring | None,
        place: str,
        most: int,
        lost: Callable[[str, str], None],
        answered: Callable[[bytes, Failure], None] | None = None,
    ) -> None:
        """`most` bounds the bytes of one answer. `lost` is told, in English and Chinese, that the server is not there.

        `answered` takes the failure of a request by its id, for the wire whose answers do not come back with the request (HTTP+SSE).
        """
        limits = httpx2.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=KEPT_SECONDS)
        # A stream may be silent for hours; the kernel notices when its other end is gone.
        alive = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False, limits=limits, socket_options=alive)
        self._ring = ring
        self._place = place
        self._most = most
        self._lost = lost
        self._answered = answered
        self.status = 0
        """What the server answered last."""

    async def aclose(self) -> None:
        """Close its connections."""
        await self._inner.aclose()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it, with one key after the other until one is taken."""
        message = _message(request)
        endless = request.method == "GET" or (message is not None and message.method == STREAMS)
        patience = GOODBYE_SECONDS if request.method == "DELETE" else ANSWER_SECONDS
        if message is not None and (message.id is UNSET or message.method is UNSET):
            patience = WORD_SECONDS
        request.extensions["timeout"] = {**request.extensions.get("timeout", {}), "read": None if endless else patience}
        # What is not compressed cannot swell behind the count of its bytes.
        request.headers["accept-encoding"] = "identity"
        tried: tuple[Credential, ...] = ()
        key = self._ring.take(_now()) if self._ring is not None else None
        if self._ring is not None and key is None:
            banned = Failure("every key of its pool is banned", f"凭据池中的密钥均已停用（{ALL_GONE}）", False)
            return self._failed(request, message, banned)
        while True:
            try:
                response = await self._answer(self._keyed(request, key), patience)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
                self._lost("the server cannot be reached", "无法连接服务器")
                return self._failed(request, message, Failure("the server cannot be reached", "无法连接服务器", False))
            except httpx2.TransportError as error:
                if message is None:
                    raise
                name = type(error).__name__
                return self._failed(request, message, Failure(f"the server did not answer: {name}", f"服务器没有应答：{name}", None))
            self.status = response.status_code
            following = None
            if self._ring is not None and key is not None:
                self._ring.report(key, response.status_code, _now(), retry_after(response.headers.get("retry-after")))
                tried = (*tried, key)
                if response.status_code in REFUSED_BY and len(tried) <= self._ring.settings.retries:
                    following = self._ring.take(_now(), tried)
            if following is None:
                break
            await response.aclose()
            key = following
        if message is not None:
            failure = self._refusal(request, response)
            if failure is not None:
                await response.aclose()
                return self._failed(request, message, failure)
            if not (endless and _type(response) == "text/event-stream"):
                response.stream = _Bounded(response.stream, self._most, _now() + ANSWER_SECONDS)
        return response

    async def _answer(self, request: httpx2.Request, patience: float) -> httpx2.Response:
        """The head of the answer, in time however slowly it drips."""
        try:
            async with asyncio.timeout(patience):
                response = await self._inner.handle_async_request(request)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("the head of the answer did not end", request=request) from error
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.aclose()
            raise httpx2.RemoteProtocolError("the answer is compressed, which was not asked for", request=request)
        return response

    def _refusal(self, request: httpx2.Request, response: httpx2.Response) -> Failure | None:
        """What a status says of a message that was sent; None if its body has more to say."""
        status = response.status_code
        if status == 404 and "mcp-session-id" in request.headers:
            self._lost("the server has ended the session", "服务器已结束会话")
            return Failure("the server has ended the session", "服务器已结束会话", False)
        spoken = _type(response) == "application/json"
        if status in REFUSED_BY and not spoken:
            return Failure(f"the server answered HTTP {status}", f"服务器应答 HTTP {status}", False)
        if status >= 500 and not spoken:
            return Failure(f"the server answered HTTP {status}", f"服务器应答 HTTP {status}", None)
        return None

    def _failed(self, request: httpx2.Request, message: _Message | None, failure: Failure) -> httpx2.Response:
        """An answer in the server's place."""
        if message is None:
            return httpx2.Response(502, request=request)
        if message.id is UNSET or message.method is UNSET:
            return httpx2.Response(202, request=request)
        if self._answered is not None:
            self._answered(bytes(message.id), failure)
            return httpx2.Response(202, request=request)
        body = b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (bytes(message.id), _encode(failure.error()))
        return httpx2.Response(502, headers={"content-type": "application/json"}, content=body, request=request)

    def _keyed(self, request: httpx2.Request, key: Credential | None) -> httpx2.Request:
        """The request with a key at its place; nothing else is changed."""
        if key is None:
            return request
        headers = request.headers.copy()
        url = request.url
        kind, _, name = self._place.partition(":")
        if kind == "query":
            path, _, query = url.raw_path.partition(b"?")
            fields = [field for field in query.decode().split("&") if field and unquote_plus(field.partition("=")[0]) != name]
            fields.append(f"{quote(name, safe='')}={quote(key.secret, safe='')}")
            url = url.copy_with(raw_path=path + b"?" + "&".join(fields).encode())
        else:
            headers["authorization" if kind == "bearer" else name] = f"Bearer {key.secret}" if kind == "bearer" else key.secret
        return httpx2.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)


class _Bounded(httpx2.AsyncByteStream):
    """A body that ends: after so many bytes, and at a time. Its failures are of the kind that the client takes for one answer's."""

    def __init__(self, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream, most: int, until: float) -> None:
        self._stream = stream
        self._most = most
        self._until = until

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._stream, httpx2.AsyncByteStream)
        left = self._most
        try:
            async for chunk in self._stream:
                left -= len(chunk)
                if left < 0:
                    raise httpx2.StreamError(f"the answer is larger than {self._most} bytes")
                if _now() > self._until:
                    raise httpx2.StreamError(f"the answer did not end within {ANSWER_SECONDS:g} s")
                yield chunk
        except httpx2.TransportError as error:
            raise httpx2.StreamError(f"the answer broke off: {type(error).__name__}") from error

    async def aclose(self) -> None:
        assert isinstance(self._stream, httpx2.AsyncByteStream)
        await self._stream.aclose()


def _type(response: httpx2.Response) -> str:
    """The media type of an answer."""
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _message(request: httpx2.Request) -> _Message | None:
    """The JSON-RPC message of a POST."""
    if request.method != "POST":
        return None
    try:
        return _decoder.decode(request.content)
    except (msgspec.DecodeError, RecursionError):
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
