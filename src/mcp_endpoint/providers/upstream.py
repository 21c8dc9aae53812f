"""An MCP server reached by URL: found, spoken to over Streamable HTTP or HTTP+SSE, and looked for again when it is lost.

The life of one connection: shake hands; attach to the server's internal endpoint; carry messages; look from time to time whether it is
still there; when it is not, leave, so that no list waits for it, and try again.

    starting ──► running ──► waiting ──► starting …

The wire is the `mcp` package's: each message of the heart goes to its transport and back. The handshake is ours, before the heart hears
of the server: what it answered is what the heart's own greeting is answered with. A server that refuses a handshake is told apart by the
heart (revision 2026-07-28 knows none); its messages get the headers that revision demands. The package reads numbers and strings into
Python's and writes them anew, so that `1.00` becomes `1.0` on this way.
"""

from __future__ import annotations

import asyncio
import logging as stdlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import httpx2
import msgspec
from loguru import logger
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.inbound import encode_header_value, mcp_param_headers, x_mcp_header_map
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import CONNECTION_CLOSED, jsonrpc_message_adapter
from msgspec import UNSET
from pydantic import ValidationError

from .. import __version__, jsonrpc
from ..broker import Broker
from ..endpoint import LIST_CHANGED
from ..eras import VERSION_KEY, fields, objects, text
from ..errors import Goodbye
from ..greeting import INITIALIZED, Provider, own_hello
from ..jsonrpc import Frame, Malformed, Part, parse
from ..keyring import Keyring
from .backoff import Backoff
from .carrier import CONNECT_SECONDS, STREAMS, WORD_SECONDS, Carrier, Failure
from .mcp_json import Server, Wire, mask
from .sieve import Sieve

HELLO_SECONDS: Final = 10.0
"""For a server to answer the handshake, connection included."""
HEALTH_SECONDS: Final = 20.0
"""After so long without a word from it, it is asked for one; it has `WORD_SECONDS` to give it."""
NOT_THIS_WIRE: Final = frozenset((400, 404, 405, 406, 415))
"""How a server that knows HTTP+SSE only refuses the other wire's first message (MCP 2025-03-26, Backwards Compatibility)."""
LOST: Final = Goodbye(1006, "the connection to the server was lost")
"""How the endpoint hears of it; 1006 is what a link that ends without a goodbye has."""
_HELLO: Final = '"hello"'
_HEALTH: Final = '"health"'
"""Ids of our own messages; the heart's are numbers."""

State = Literal["starting", "running", "waiting", "off"]


class _Lost(Exception):
    """The connection is over, for a reason in English and Chinese."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en)
        self.en = en
        self.zh = zh


class _Wire:
    """One connection as the heart's link: what the heart says waits here for the transport."""

    def __init__(self, sieve: Sieve, loop: asyncio.AbstractEventLoop, backoff: Backoff) -> None:
        """`backoff` is for its stream of announcements."""
        self.sieve = sieve
        self._loop = loop
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue()
        self._queued = 0
        self.provider: Provider | None = None
        self.welcome = b""
        """The server's answer to the handshake, without an id of the heart's."""
        self.version = ""
        self.tools: dict[str, Any] = {}
        """Name → which arguments a call shows in headers too."""
        self._listens: dict[bytes, bytes] = {}
        """Id → the request that opened the stream of announcements (MCP 2026-07-28)."""
        self._listened = 0.0
        self._backoff = backoff
        self.over: asyncio.Future[_Lost] = loop.create_future()
        self.spoke = loop.time()

    # -- the link ----------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Bytes that the transport has not taken yet."""
        return self._queued

    def send(self, first: Part, second: Part = b"") -> None:
        """Put a message in the queue, or answer it from here."""
        data = b"".join((first, second))
        frame = parse(data, utf8=True)
        if frame.method == "initialize" and frame.id is not UNSET and self.welcome:
            reply = parse(self.welcome, utf8=True)
            self._loop.call_soon(self.hears, b"".join(jsonrpc.with_id(self.welcome, reply, bytes(frame.id))))
        elif frame.method == INITIALIZED and self.version:
            return  # said already
        elif frame.method == STREAMS:
            self._listens = {b"" if frame.id is UNSET else bytes(frame.id): data}
            self._listened = self._loop.time()
            self.put(data)
        elif (refusal := self.sieve.refused(data)) is not None:
            self._loop.call_soon(self.hears, refusal)
        else:
            self.put(data)

    def ping(self) -> None:
        """Whether it is there is looked at anyway."""

    def close(self, code: int, reason: str) -> None:
        """End this connection."""
        self.lost(f"closed by the endpoint: {reason}", f"接入点已关闭连接：{reason}")

    # -- the transport's side ----------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Let a message wait for the transport."""
        self._queued += len(data)
        self._waiting.put_nowait(data)

    async def next(self) -> bytes:
        """The next message for the server."""
        data = await self._waiting.get()
        self._queued -= len(data)
        return data

    def hears(self, data: bytes) -> None:
        """A message of the server, or one in its name."""
        if self.provider is not None:
            self.provider.says(self.provider, data, self._loop.time(), True)

    def listens_again(self, frame: Frame) -> bool:
        """Whether this is the end of a stream of announcements, which is opened again, and nothing the heart should hear of."""
        if frame.id is UNSET or frame.error is UNSET or bytes(frame.id) not in self._listens:
            return False
        failure = objects(frame.error)
        told_by = failure.get("data")
        if failure.get("code") != CONNECTION_CLOSED and not (isinstance(told_by, dict) and told_by.get("source") == "broker"):
            return False  # it takes no subscriptions
        wait = self._backoff.wait(self._loop.time() - self._listened)
        self._loop.call_later(wait, self._listen, bytes(frame.id))
        return True

    def _listen(self, id: bytes) -> None:
        if id in self._listens and not self.over.done():
            self._listened = self._loop.time()
            self.put(self._listens[id])
            self.hears(jsonrpc.notification(LIST_CHANGED))  # what changed meanwhile was announced to nobody

    def failed(self, id: bytes, failure: Failure) -> None:
        """A request that was not answered."""
        self._loop.call_soon(self.hears, b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id, msgspec.json.encode(failure.error())))

    def lost(self, en: str, zh: str) -> None:
        """The server is not there any more."""
        if not self.over.done():
            self.over.set_result(_Lost(en, zh))


class Upstream:
    """One server that is kept in reach. Made, started and stopped by its room."""

    def __init__(self, server: Server, broker: Broker, ring: Keyring | None = None, *, draw: Callable[[], float] = random.random) -> None:
        """`ring` gives a key for each request where the entry asks for one; `draw` gives the lot of `Backoff`."""
        for name in ("mcp", "httpx2", "httpcore2"):
            # What they log is told by us, without addresses and headers that may hold a secret.
            stdlib.getLogger(name).setLevel(stdlib.CRITICAL + 1)
        self.server = server
        self._broker = broker
        self._ring = ring
        self._draw = draw
        self._mask = mask(server)
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._state: State = "off"
        self._since = self._loop.time()
        self._why = ""
        self._attempts = 0
        self._wire: Wire = server.wire
        self._milliseconds: float | None = None
        self._link: _Wire | None = None

    async def start(self) -> None:
        """Begin; does not wait for the server."""
        self._task = self._loop.create_task(self._keep())
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Leave, within a few seconds; it is not looked for again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        self._move("off", "")

    def describe(self) -> dict[str, Any]:
        """What an operator may know of it, ready for JSON; of its address no more than the host."""
        found: dict[str, Any] = {
            "state": self._state,
            "seconds": round(self._loop.time() - self._since, 1),
            "host": urlsplit(self.server.url).netloc.rpartition("@")[2],
            "wire": self._wire,
            "attempts": self._attempts,
            "why": self._why,
        }
        if self._milliseconds is not None:
            found["milliseconds"] = round(self._milliseconds, 1)
        if self._link is not None and self._link.provider is not None:
            provider = self._link.provider
            found |= {"greeting": provider.state.value, "why_bare": provider.failed, "revision": self._link.version}
        if self._ring is not None:
            found["keys"] = self._ring.pool.counts(self._loop.time())._asdict()
        return found

    def _move(self, state: State, why: str) -> None:
        self._state = state
        self._since = self._loop.time()
        self._why = why

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._move("waiting", type(task.exception()).__name__)
            logger.opt(exception=task.exception()).error("不再尝试连接 / no longer looked for", server=self.server.name)

    # -- its life ------------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        backoff = Backoff(self._draw)
        while True:
            self._move("starting", self._why)
            self._attempts += 1
            began = self._loop.time()
            lost = await self._live()
            wait = backoff.wait(self._loop.time() - began)
            en, zh = self._mask(lost.en), self._mask(lost.zh)
            if self._state == "running" or backoff.failures == 1:
                logger.warning("{}，{:.1f} 秒后重试 / {}, tried again in {:.1f} s", zh, wait, en, wait, server=self.server.name)
            self._move("waiting", f"{zh} / {en}")
            await asyncio.sleep(wait)

    async def _live(self) -> _Lost:
        """One connection from its handshake to its end; why it ended."""
        wires: tuple[Wire, ...] = ("http", "sse") if self.server.wire == "any" else (self.server.wire,)
        if self.server.wire == "any" and urlsplit(self.server.url).path.rstrip("/").endswith("/sse"):
            wires = ("sse", "http")
        lost = _Lost("", "")
        for wire in wires:
            self._wire = wire
            link = _Wire(Sieve(self.server.allow, self.server.deny), self._loop, Backoff(self._draw))
            carrier = Carrier(
                self._ring,
                self.server.place or "bearer",
                self._broker.limits.provider_message_bytes,
                link.lost,
                link.failed if wire == "sse" else None,
            )
            try:
                async with self._transport(wire, carrier, link) as (read, write):
                    lost = await self._converse(link, read, write)
            except* (httpx2.HTTPError, httpx2.SSEError, httpx2.StreamError, OSError, ValueError, RuntimeError) as group:
                name = type(_first(group)).__name__
                status = f" (HTTP {carrier.status})" if carrier.status >= 300 else ""
                lost = _Lost(f"the connection failed: {name}{status}", f"连接失败：{name}{status}")
                lost = link.over.result() if link.over.done() else lost
            except* _Lost as group:
                lost = cast(_Lost, _first(group))
            finally:
                self._leave(link)
                await carrier.aclose()
            if self._state == "running" or carrier.status not in NOT_THIS_WIRE:
                break
        return lost

    @asynccontextmanager
    async def _transport(self, wire: Wire, carrier: Carrier, link: _Wire) -> AsyncIterator[tuple[Any, Any]]:
        """The streams of messages to and from the server."""
        most = self._broker.limits.provider_message_bytes
        timeout = httpx2.Timeout(CONNECT_SECONDS)  # how long an answer may take, the carrier knows
        headers = dict(self.server.headers)

        def client(headers: dict[str, str] | None = None, timeout: Any = timeout, auth: httpx2.Auth | None = None) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(transport=carrier, headers=headers, timeout=timeout, trust_env=False)

        opened: Any
        async with AsyncExitStack() as stack:
            if wire == "sse":
                opened = sse_client(self.server.url, headers, httpx_client_factory=client)
                async with asyncio.timeout(HELLO_SECONDS):
                    streams = await stack.enter_async_context(opened)
            else:
                http = await stack.enter_async_context(client(headers))
                opened = streamable_http_client(self.server.url, http_client=http, max_sse_event_size=most)
                streams = await stack.enter_async_context(opened)
            yield streams

    async def _converse(self, link: _Wire, read: Any, write: Any) -> _Lost:
        """Shake hands, attach, carry; gives why it ended."""
        told: asyncio.Queue[tuple[str, bytes, Frame]] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = [
            self._loop.create_task(self._read(link, read, told)),
            self._loop.create_task(self._write(link, write)),
        ]
        try:
            await self._shake_hands(link, told)
            link.provider = self._broker.attach_provider(
                self.server.endpoint, self.server.shown, link, server_id=self.server.label, house=True
            )
            self._link = link
            self._move("running", "")
            logger.info("已连接上游服务器 / connected", server=self.server.name, wire=self._wire)
            if self._ring is None:  # a question would cost a key's turn
                tasks.append(self._loop.create_task(self._look_after(link, told)))
            ends: list[asyncio.Future[Any]] = [link.over, *tasks]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return link.over.result() if link.over.done() else _Lost("the server ended the connection", "服务器已断开连接")
        finally:
            self._leave(link)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled() and task.exception() is not None and not link.over.done():
                    link.lost(f"the connection failed: {type(task.exception()).__name__}", f"连接失败：{type(task.exception()).__name__}")

    def _leave(self, link: _Wire) -> None:
        provider, link.provider = link.provider, None
        if self._link is link:
            self._link = None
        if provider is not None:
            self._broker.detach(provider, *LOST)

    async def _shake_hands(self, link: _Wire, told: asyncio.Queue[tuple[str, bytes, Frame]]) -> None:
        """Introduce ourselves. An error is an answer too: what it means, the heart finds out. Raises _Lost for none."""
        began = self._loop.time()
        link.put(jsonrpc.request(_HELLO.encode(), "initialize", own_hello(__version__)))
        answering = self._loop.create_task(told.get())
        either: tuple[asyncio.Future[Any], ...] = (answering, link.over)
        done, _ = await asyncio.wait(either, timeout=HELLO_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if answering not in done:
            answering.cancel()
            raise link.over.result() if link.over.done() else _Lost("it did not answer the handshake", "没有应答握手")
        _, data, frame = answering.result()
        if frame.error is not UNSET:
            failure = objects(frame.error)
            told_by = failure.get("data")
            if isinstance(told_by, dict) and told_by.get("source") == "broker":
                en = str(told_by.get("hint", "")).rpartition(" / ")
                raise _Lost(en[2], en[0])
            if failure.get("message") in ("Not Found", "Server returned an error response"):
                raise _Lost("it does not speak MCP at this address", "此地址不是 MCP 服务")
        self._milliseconds = (self._loop.time() - began) * 1000
        link.welcome = data
        if frame.result is not UNSET:
            link.version = text(fields(frame.result).get("protocolVersion")) or ""
            link.put(jsonrpc.notification(INITIALIZED))

    async def _look_after(self, link: _Wire, told: asyncio.Queue[tuple[str, bytes, Frame]]) -> None:
        """Ask a silent server for a word; one that has none is lost."""
        while True:
            silent = self._loop.time() - link.spoke
            if silent < HEALTH_SECONDS:
                await asyncio.sleep(HEALTH_SECONDS - silent)
                continue
            began = self._loop.time()
            meta = b"" if link.version else b'{"_meta":%b}' % msgspec.json.encode(_envelope())
            link.put(jsonrpc.request(_HEALTH.encode(), "ping" if link.version else "server/discover", meta or b"{}"))
            try:
                _, _, frame = await asyncio.wait_for(told.get(), WORD_SECONDS)
            except TimeoutError:
                link.lost("it did not answer a ping", "没有应答 ping")
                return
            if frame.error is not UNSET and isinstance(data := objects(frame.error).get("data"), dict) and data.get("source") == "broker":
                link.lost("it did not answer a ping", "没有应答 ping")
                return
            self._milliseconds = (self._loop.time() - began) * 1000

    # -- messages ------------------------------------------------------------------------------------------------------------

    async def _write(self, link: _Wire, write: Any) -> None:
        while True:
            data = await link.next()
            try:
                message = jsonrpc_message_adapter.validate_json(data, by_name=False)
                headers = _headers(parse(data, utf8=True), link)
            except (ValidationError, Malformed):
                self._unsendable(link, data)
                continue
            await write.send(SessionMessage(message, ClientMessageMetadata(headers=headers) if headers else None))

    def _unsendable(self, link: _Wire, data: bytes) -> None:
        """What the package takes for no message, such as a request whose parameters are a list."""
        frame = parse(data, utf8=True)
        if frame.method is UNSET or frame.id is UNSET:
            self._broker.counters.dropped_notifications += 1
            return
        error = {"code": -32602, "message": "parameters have to be an object / 参数须为对象"}
        link.hears(b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (bytes(frame.id), msgspec.json.encode(error)))

    async def _read(self, link: _Wire, read: Any, told: asyncio.Queue[tuple[str, bytes, Frame]]) -> None:
        async for item in read:
            if isinstance(item, ValidationError):
                self._broker.counters.noise += 1  # an event that is no message
                continue
            if isinstance(item, Exception):
                link.lost(f"the connection failed: {type(item).__name__}", f"连接失败：{type(item).__name__}")
                return
            data = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
            link.spoke = self._loop.time()
            try:
                frame = parse(data, utf8=True)
            except Malformed:
                self._broker.counters.noise += 1
                continue
            id = "" if frame.id is UNSET else bytes(frame.id).decode()
            if frame.method is UNSET and id in (_HELLO, _HEALTH):
                told.put_nowait((id, data, frame))
            elif link.listens_again(frame):
                continue
            elif _broke_off(frame):
                link.failed(id.encode(), Failure("the answer broke off", "应答中断", None))
            else:
                _remember_tools(link, frame)
                link.hears(link.sieve.passed(data))


def _broke_off(frame: Frame) -> bool:
    """Whether the package says that no answer will come, in place of the server."""
    if frame.method is not UNSET or frame.error is UNSET:
        return False
    failure = objects(frame.error)
    return failure.get("code") == CONNECTION_CLOSED and str(failure.get("message")).startswith("SSE stream ")


def _envelope() -> dict[str, Any]:
    """What a message of revision 2026-07-28 says of its sender."""
    prefix = VERSION_KEY.rpartition("/")[0]
    about = {"name": "mcp-endpoint-server", "version": __version__}
    return {VERSION_KEY: "2026-07-28", f"{prefix}/clientInfo": about, f"{prefix}/clientCapabilities": {}}


def _headers(frame: Frame, link: _Wire) -> dict[str, str]:
    """The headers that repeat what stands in a message (MCP 2025-06-18 and 2026-07-28, Streamable HTTP)."""
    if frame.method is UNSET or frame.method == "initialize":
        return {"mcp-protocol-version": link.version} if link.version and frame.method is UNSET else {}
    params = fields(frame.params)
    version = text(fields(params.get("_meta", UNSET)).get(VERSION_KEY))
    if version is None:
        return {"mcp-protocol-version": link.version} if link.version else {}
    headers = {"mcp-protocol-version": version, "mcp-method": frame.method}
    name = text(params.get("name")) if frame.method in ("tools/call", "prompts/get") else text(params.get("uri"))
    if name is not None:
        headers["mcp-name"] = encode_header_value(name)
    if frame.method == "tools/call" and name in link.tools:
        headers |= mcp_param_headers(link.tools[name], objects(params.get("arguments", UNSET)))
    return headers


def _remember_tools(link: _Wire, frame: Frame) -> None:
    """Which arguments a tool wants in headers, from a list of tools."""
    if frame.result is UNSET or b"x-mcp-header" not in bytes(frame.result):
        return
    for tool in objects(frame.result).get("tools") or ():
        if isinstance(tool, dict) and isinstance(tool.get("name"), str):
            link.tools[tool["name"]] = x_mcp_header_map(tool.get("inputSchema"))


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The innermost of the first of them."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
