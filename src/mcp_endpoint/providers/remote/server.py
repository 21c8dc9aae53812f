"""A managed server reached by URL: connects, initializes, relays messages, and reconnects when it is lost.

The life of one connection: handshake; attach to the server's internal endpoint; relay messages; check from time to time that the server
still answers; when it does not, detach, so that no list waits for it, and reconnect.

    starting ──► running ──► waiting ──► starting …

Messages are relayed byte for byte. This module does the handshake before it attaches the server; the stored response then answers the
endpoint's own `initialize`. If the server has lost the session, it is initialized again within the connection, and the request that failed
is sent once more. A server that has no handshake (revision 2026-07-28) is initialized by the endpoint; its messages get the headers of that
revision.
"""

from __future__ import annotations

import asyncio
import logging as stdlib
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx2
import msgspec
from loguru import logger
from msgspec import UNSET

from ...backoff import Backoff
from ...core.broker import Broker
from ...core.lifecycle import read_welcome
from ...credentials.store import CredentialStore
from ...errors import CloseReason
from ...protocol import jsonrpc, methods
from ...protocol.definitions import ALL, hello
from ...protocol.jsonrpc import Frame, kind_of, parse
from ...protocol.stateless import fields, knows_only_stateless, objects, text
from ..entry import ServerEntry, Wire, mask
from ..tool_filter import ToolFilter
from .connection import HttpSseConnection, NotOpened, StreamableHttpConnection
from .failure import BROKEN_OFF, Failure, excerpt, names_lost_session
from .headers import envelope, headers_of
from .link import AGAIN_SECONDS, LIST_SECONDS, Lost, ServerLink, why_no_list
from .transport import ACCEPT_SECONDS, CONNECT_SECONDS, KeyedTransport

HELLO_SECONDS: Final = 15.0
"""Timeout of the handshake; longer than a connection may take (twice CONNECT_SECONDS), so that a connection error is reported as such."""
HEALTH_SECONDS: Final = 20.0
"""A server that has sent nothing for this long is pinged, with a timeout of `ACCEPT_SECONDS`."""
NOT_THIS_WIRE: Final = frozenset((400, 404, 405, 406, 415))
"""Statuses with which an HTTP+SSE server refuses the other transport's first message (MCP 2025-03-26, Backwards Compatibility)."""
NO_PING: Final = frozenset((400, 405, 406, 415, 422, 501))
"""Statuses with which a healthy server may refuse a ping: the request is optional."""
LOST: Final = CloseReason(1006, "the connection to the server was lost")
"""The close reason for the endpoint; 1006 is that of a link without a close frame."""
NOTICES: Final = 64
"""Most concurrent notifications and responses to the server; more are dropped."""
_HELLO: Final = b'"hello"'
_LIST: Final = b'"list"'
_HEALTH: Final = b'"health"'
"""Ids of our own requests; the endpoint's are numbers."""

State = Literal["starting", "running", "waiting", "off"]


def _over(en: str, zh: str) -> Lost:
    return Lost(Failure(en, zh, None))


class RemoteServer:
    """A managed server reached by URL. Created, started and stopped by its room."""

    def __init__(
        self, server: ServerEntry, broker: Broker, ring: CredentialStore | None = None, *, draw: Callable[[], float] = random.random
    ) -> None:
        """`ring` provides a key per request if the entry asks for one; `draw` is the random number for `Backoff`."""
        for name in ("httpx2", "httpcore2"):
            # This module logs instead, without addresses and headers that may contain a secret.
            stdlib.getLogger(name).setLevel(stdlib.CRITICAL + 1)
        self.server = server
        self._broker = broker
        self._ring = ring
        self._draw = draw
        self._mask = mask(server)
        self._tool_filter = ToolFilter(server.allow, server.deny, server.tools, server.name)
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._state: State = "off"
        self._since = self._loop.time()
        self._why = ""
        self._last_error = ""
        self._attempts = 0
        self._wire: Wire = server.wire
        self._milliseconds: float | None = None
        self._link: ServerLink | None = None

    async def start(self) -> None:
        """Start it, without waiting for the connection."""
        self._task = self._loop.create_task(self._keep())
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Disconnect within a few seconds, for good."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        self._move("off", "")

    def change_tools(self, server: ServerEntry) -> None:
        """Apply an entry that differs only in `tools`: the connection continues, and the tools are listed again."""
        self.server = server
        self._tool_filter.change(server.tools)
        if self._link is not None:
            self._link.changed()

    def describe(self) -> dict[str, Any]:
        """Its status, ready for JSON; the address is reduced to its host."""
        found: dict[str, Any] = {
            "state": self._state,
            "seconds": round(self._loop.time() - self._since, 1),
            "host": urlsplit(self.server.url).netloc.rpartition("@")[2],
            "wire": self._wire,
            "attempts": self._attempts,
            "why": self._why or (self._link.why_list if self._link is not None else ""),
            "last_error": self._last_error,
        }
        if self._tool_filter.problems:
            found["tools_not_changed"] = list(self._tool_filter.problems)
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
        if state in ("waiting", "stopped"):
            self._last_error = why

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._move("waiting", type(task.exception()).__name__)
            logger.opt(exception=task.exception()).error("不再尝试连接 / not reconnected", server=self.server.name)

    # -- lifecycle -----------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        backoff = Backoff(self._draw)
        answered = ""
        while True:
            self._move("starting", self._why)
            self._attempts += 1
            began = self._loop.time()
            try:
                lost = await self._live()
            except Exception as error:  # noqa: BLE001 - task boundary: a bug ends one connection
                logger.opt(exception=error).error(
                    "连接上游服务器时出错 / the supervision of the connection failed", server=self.server.name
                )
                lost = Failure(f"internal error: {type(error).__name__}", f"内部错误：{type(error).__name__}", None)
            wait = min(backoff.wait(self._loop.time() - began, at_least=lost.retry_seconds or 0.0), AGAIN_SECONDS)
            en, zh = self._mask(lost.en), self._mask(lost.zh)
            if self._state == "running" or en != answered:
                logger.warning("{}，{:.1f} 秒后重试 / {}, retried in {:.1f} s", zh, wait, en, wait, server=self.server.name)
                answered = en
            self._move("waiting", f"{zh} / {en}")
            await asyncio.sleep(wait)

    async def _live(self) -> Failure:
        """One connection, from its handshake to its end; returns why it ended."""
        wires: tuple[Wire, ...] = ("http", "sse") if self.server.wire == "any" else (self.server.wire,)
        if self.server.wire == "any" and urlsplit(self.server.url).path.rstrip("/").endswith("/sse"):
            wires = ("sse", "http")
        lost: list[Failure] = []
        for wire in wires:
            self._wire = wire
            most = self._broker.limits.provider_message_bytes
            transport = KeyedTransport(self._ring, self.server.place or "bearer", most)
            try:
                lost.append(await self._converse(transport, wire))
            finally:
                await transport.aclose()
            if self._state == "running" or transport.status not in NOT_THIS_WIRE:
                break
        if len(lost) == 1 or self._state == "running" or lost[0].en == lost[1].en:
            return lost[-1]
        # Both transports failed: report both reasons, either may be the helpful one.
        names = ["HTTP+SSE" if one == "sse" else "Streamable HTTP" for one in wires]
        en, zh = (
            "; ".join(f"{name}: {one}" for name, one in zip(names, said, strict=True))
            for said in ([one.en for one in lost], [one.zh for one in lost])
        )
        return Failure(en, zh, None, retry_seconds=max((one.retry_seconds or 0.0 for one in lost), default=0.0))

    async def _converse(self, transport: KeyedTransport, wire: Wire) -> Failure:
        """Connect, initialize, attach, relay; returns why it ended."""
        self._tool_filter.begin()
        link = ServerLink(self._tool_filter, self._loop, self._draw, self._mask, self._broker.counters)
        tasks: set[asyncio.Task[Any]] = set()

        def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            task = self._loop.create_task(work)
            tasks.add(task)
            task.add_done_callback(ended)
            return task

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.opt(exception=error).error("连接中出错 / a part of the connection failed", server=self.server.name)
                link.lost(Failure(f"internal error: {type(error).__name__}", f"内部错误：{type(error).__name__}", None))

        most = self._broker.limits.provider_message_bytes
        timeout = httpx2.Timeout(CONNECT_SECONDS)  # the transport bounds the response
        async with httpx2.AsyncClient(transport=transport, headers=dict(self.server.headers), timeout=timeout, trust_env=False) as http:
            way: HttpSseConnection | StreamableHttpConnection
            if wire == "sse":
                way = HttpSseConnection(self.server.url, http, most, link, spawn)
            else:
                way = StreamableHttpConnection(self.server.url, http, most, link, spawn, Backoff(self._draw))
            link.lost_session = lambda: spawn(self._renewed(link, way, link.generation))
            try:
                await self._initialize(link, way)
                await self._first_list(link, way)
                link.provider = self._broker.attach_provider(
                    self.server.endpoint, self.server.shown, link, server_id=self.server.label, managed=True
                )
                self._link = link
                way.listen()
                self._move("running", "")
                logger.info("已连接上游服务器 / connected", server=self.server.name, wire=self._wire)
                spawn(self._write(link, way, spawn))
                if self._ring is None:  # a ping would use a key
                    spawn(self._monitor(link, way))
                return await link.over
            except Lost as lost:
                return lost.failure
            finally:
                self._leave(link)
                left = [task for task in (*tasks, link.renewing) if task is not None]
                for task in left:
                    task.cancel()
                if left:
                    await asyncio.wait(left)
                await way.close()

    def _leave(self, link: ServerLink) -> None:
        provider, link.provider = link.provider, None
        link.leave()
        if self._link is link:
            self._link = None
        if provider is not None:
            self._broker.detach(provider, *LOST)

    # -- our own requests ----------------------------------------------------------------------------------------------------

    async def _request(
        self, link: ServerLink, way: HttpSseConnection | StreamableHttpConnection, id: bytes, method: str, params: bytes, seconds: float
    ) -> tuple[bytes, Frame]:
        """Send one request of our own and return its response. Raises Lost."""
        data = jsonrpc.request(id, method, params)
        frame = parse(data, utf8=True)
        answer: asyncio.Future[tuple[bytes, Frame]] = self._loop.create_future()
        link.own[id] = answer
        saying = self._loop.create_task(way.post(data, frame, headers_of(frame, link.version, link.tools)))
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wait((answer, saying, link.over), return_when=asyncio.FIRST_COMPLETED)
                if saying.done() and (failure := saying.result()) is not None:
                    raise Lost(failure)
                await asyncio.wait((answer, link.over), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise _over(f"it did not answer {method} within {seconds:g} s", f"{seconds:g} 秒内没有应答 {method}") from None
        finally:
            link.own.pop(id, None)
            saying.cancel()
            await asyncio.wait((saying,))
        if not answer.done():
            raise Lost(link.over.result())
        return answer.result()

    async def _initialize(self, link: ServerLink, way: HttpSseConnection | StreamableHttpConnection) -> None:
        """Do the MCP handshake. Raises Lost if the server does not complete it."""
        link.version = way.version = ""
        began = self._loop.time()
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                await way.open()
        except NotOpened as ended:
            raise Lost(ended.failure) from None
        except TimeoutError:
            raise _over(f"it did not open a stream within {HELLO_SECONDS:g} s", f"{HELLO_SECONDS:g} 秒内没有打开事件流") from None
        data, frame = await self._request(link, way, _HELLO, methods.INITIALIZE, msgspec.json.encode(hello(ALL)), HELLO_SECONDS)
        if frame.error is not UNSET:
            refused: msgspec.Raw | msgspec.UnsetType = frame.error
            if knows_only_stateless(frame.error):
                meta = msgspec.json.encode({methods.META: envelope()})
                _, answered = await self._request(link, way, _HELLO, methods.DISCOVER, meta, HELLO_SECONDS)
                refused = answered.error
            if refused is not UNSET:
                error = objects(frame.error)
                said = excerpt(f"{error.get('code')} {error.get('message', '')}".encode())
                raise _over(f"it answered initialize with an error: {said}", f"它以错误应答 initialize：{said}")
        elif frame.result is UNSET or read_welcome(bytes(frame.result)) is None:
            said = excerpt(data)
            raise _over(f"its answer to initialize is not a valid result: {said}", f"它对 initialize 的应答不是 MCP 结果：{said}")
        self._milliseconds = (self._loop.time() - began) * 1000
        link.welcome = data
        if frame.result is not UNSET:
            link.version = way.version = text(fields(frame.result).get("protocolVersion")) or ""
            notice = jsonrpc.notification(methods.INITIALIZED)
            failure = await way.post(notice, parse(notice, utf8=True), {})
            if failure is not None and failure.session_lost:
                raise Lost(failure)

    async def _first_list(self, link: ServerLink, way: HttpSseConnection | StreamableHttpConnection) -> None:
        """List the tools before attaching: a server that cannot list them yet is not ready. Raises Lost."""
        welcome = read_welcome(bytes(fields(link.welcome).get("result", b"")))
        if welcome is None or "tools" not in welcome.capabilities:
            return
        try:
            data, frame = await self._request(link, way, _LIST, methods.TOOLS_LIST, b"{}", LIST_SECONDS)
        except Lost as lost:
            en, zh = f"tools/list failed: {lost.failure.en}", f"tools/list 失败：{lost.failure.zh}"
            raise Lost(Failure(en, zh, None, retry_seconds=lost.failure.retry_seconds)) from None
        why = why_no_list(frame)
        if why:
            raise _over(f"tools/list failed: {why}", f"tools/list 失败：{why}")
        link.first_list, link.listed = data, self._loop.time()

    async def _renew(self, link: ServerLink, way: HttpSseConnection | StreamableHttpConnection, generation: int) -> bool:
        """Initialize again, once for all requests that found the session of `generation` lost."""
        if link.over.done():
            return False
        if link.generation == generation and link.renewing is None:
            link.renewing = self._loop.create_task(self._reinitialize(link, way))
        return link.renewing is None or await asyncio.shield(link.renewing)

    async def _renewed(self, link: ServerLink, way: HttpSseConnection | StreamableHttpConnection, generation: int) -> None:
        await self._renew(link, way, generation)

    async def _reinitialize(self, link: ServerLink, way: HttpSseConnection | StreamableHttpConnection) -> bool:
        logger.info("会话已失效，重新握手 / the session is lost, initializing again", server=self.server.name)
        if isinstance(way, HttpSseConnection) and link.provider is not None:
            # Requests that were accepted on the old stream will not be answered any more.
            for id in [b"%d" % number for number in link.provider.pending.calls]:
                if id not in link.in_flight:
                    link.failed(id, BROKEN_OFF)
        try:
            await self._initialize(link, way)
        except Lost as lost:
            link.lost(lost.failure)
            return False
        finally:
            link.renewing = None
        link.generation += 1
        way.listen()
        link.changed()
        return True

    async def _monitor(self, link: ServerLink, way: HttpSseConnection | StreamableHttpConnection) -> None:
        """Ping a silent server; one that does not answer is lost."""
        while True:
            silent = self._loop.time() - link.last_received
            if silent < HEALTH_SECONDS:
                await asyncio.sleep(HEALTH_SECONDS - silent)
                continue
            began = self._loop.time()
            generation = link.generation
            meta = b"" if link.version else msgspec.json.encode({methods.META: envelope()})
            failure: Failure | None = None
            try:
                method = methods.PING if link.version else methods.DISCOVER
                _, frame = await self._request(link, way, _HEALTH, method, meta or b"{}", ACCEPT_SECONDS)
                if names_lost_session(objects(frame.error)):
                    failure = Failure("the server does not know the session", "服务器不认识此会话", False, session_lost=True)
            except Lost as lost:
                failure = lost.failure
            if failure is None or (failure.status in NO_PING and not failure.session_lost):
                link.last_received = self._loop.time()  # an error proves that it is alive
                self._milliseconds = (link.last_received - began) * 1000
            elif not failure.session_lost:
                link.lost(Failure(f"it did not answer a ping: {failure.en}", f"没有应答 ping：{failure.zh}", None))
            elif not await self._renew(link, way, generation):
                return

    # -- messages ------------------------------------------------------------------------------------------------------------

    async def _write(
        self,
        link: ServerLink,
        way: HttpSseConnection | StreamableHttpConnection,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        while True:
            data, frame = await link.next()
            headers = headers_of(frame, link.version, link.tools)
            if kind_of(frame) == "request" and frame.id is not UNSET:
                id = bytes(frame.id)
                task = spawn(self._forward(link, way, data, frame, headers))
                link.in_flight[id] = task, headers.get(methods.VERSION_HEADER) == methods.STATELESS_REVISION
                task.add_done_callback(lambda task, id=id: link.in_flight.pop(id, None))  # type: ignore[misc]
            elif (
                frame.method == methods.CANCELLED
                and (in_flight := link.in_flight.get(bytes(fields(frame.params).get("requestId", b""))))
                and in_flight[1]
            ):
                in_flight[0].cancel()  # closing the stream cancels the request (MCP 2026-07-28, Streamable HTTP)
            elif link.notices >= NOTICES:
                self._broker.counters.dropped_notifications += 1
            else:
                link.notices += 1
                task = spawn(self._forward(link, way, data, frame, headers))
                task.add_done_callback(lambda task: setattr(link, "notices", link.notices - 1))

    async def _forward(
        self, link: ServerLink, way: HttpSseConnection | StreamableHttpConnection, data: bytes, frame: Frame, headers: dict[str, str]
    ) -> None:
        """Send one message, once more if the server had lost the session and therefore has not executed it."""
        generation = link.generation
        failure = await way.post(data, frame, headers)
        if failure is not None and failure.session_lost and await self._renew(link, way, generation):
            failure = await way.post(data, frame, headers_of(frame, link.version, link.tools))
        if failure is None:
            return
        self._last_error = f"{self._mask(failure.zh)} / {self._mask(failure.en)}"
        if failure.unreachable:
            link.lost(failure)
        if kind_of(frame) == "request" and frame.id is not UNSET:
            link.failed(bytes(frame.id), failure)
