"""An MCP server reached by URL: found, greeted, spoken to, and looked for again when it is lost.

The life of one connection: shake hands; attach to the server's internal endpoint; carry messages; look from time to time whether it is
still there; when it is not, leave, so that no list waits for it, and try again.

    starting ──► running ──► waiting ──► starting …

Messages are carried byte for byte. The handshake is ours, before the endpoint hears of the server: what it answered is what the endpoint's
own greeting is answered with. A server that does not know our session any more is greeted anew within the connection, and the request that
found out is said once more. A server that refuses a handshake because it knows none (revision 2026-07-28) is greeted by the endpoint; its
messages get the headers that revision demands.
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
from mcp.shared.inbound import encode_header_value, mcp_param_headers, x_mcp_header_map
from msgspec import UNSET

from ... import __version__, errors
from ...core.broker import Broker
from ...core.catalog import read_page
from ...core.endpoint import LIST_CHANGED
from ...core.ledger import CANCELLED, Counters
from ...core.lifecycle import INITIALIZED, Provider, own_hello, read_welcome
from ...credentials.store import Keyring
from ...errors import Goodbye
from ...protocol import jsonrpc
from ...protocol.jsonrpc import Frame, Malformed, Part, Unreadable, parse
from ...protocol.stateless import REVISION, VERSION_KEY, fields, knows_only_stateless, objects, text
from ..backoff import LONGEST_SECONDS, Backoff
from ..mcp_json import Server, Wire, mask
from ..tool_filter import Sieve
from .connection import Ended, HttpSse, StreamableHttp, read
from .failure import BROKEN_OFF, Failure, names_lost_session, unreadable, words
from .transport import CONNECT_SECONDS, KEY_STATUSES, STREAMS, WORD_SECONDS, Carrier

HELLO_SECONDS: Final = 10.0
"""For a server to answer the handshake, connection included."""
HEALTH_SECONDS: Final = 20.0
"""After so long without a word from it, it is asked for one; it has `WORD_SECONDS` to give it."""
NOT_THIS_WIRE: Final = frozenset((400, 404, 405, 406, 415))
"""How a server that knows HTTP+SSE only refuses the other wire's first message (MCP 2025-03-26, Backwards Compatibility)."""
NO_PING: Final = frozenset((400, 405, 406, 415, 422, 501))
"""Refusals of a ping that a living server may give: the request is optional."""
LOST: Final = Goodbye(1006, "the connection to the server was lost")
"""How the endpoint hears of it; 1006 is what a link that ends without a goodbye has."""
NOTICES: Final = 64
"""Notifications and answers of ours that are under way at once; more of them are dropped."""
LISTS_REMEMBERED: Final = 1024
"""Lists a server was asked for and has not given yet."""
_HELLO: Final = b'"hello"'
_HEALTH: Final = b'"health"'
"""Ids of our own messages; the endpoint's are numbers."""

State = Literal["starting", "running", "waiting", "off"]


class _Lost(Exception):
    """The connection is over."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.en)
        self.failure = failure


def _over(en: str, zh: str) -> _Lost:
    return _Lost(Failure(en, zh, None))


class _Link:
    """One connection as the endpoint's link: what the endpoint says waits here for the transport."""

    def __init__(
        self, sieve: Sieve, loop: asyncio.AbstractEventLoop, draw: Callable[[], float], mask: Callable[[str], str], counters: Counters
    ) -> None:
        """`draw` gives the lot of `Backoff`; `mask` takes the entry's secrets out of a text."""
        self.sieve = sieve
        self._loop = loop
        self._mask = mask
        self._counters = counters
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue()
        self._queued = 0
        self.provider: Provider | None = None
        self.welcome = b""
        """The server's answer to the handshake, without an id of the endpoint's."""
        self.version = ""
        self.tools: dict[str, Any] = {}
        """Name → which arguments a call shows in headers too."""
        self.own: dict[bytes, asyncio.Future[tuple[bytes, Frame]]] = {}
        """The requests of ours that wait for an answer."""
        self.asked: dict[bytes, tuple[asyncio.Task[None], bool]] = {}
        """The endpoint's requests that are under way; True for those of the stateless revision."""
        self.notices = 0
        self.generation = 0
        """How often it was greeted anew."""
        self.renewing: asyncio.Task[bool] | None = None
        self.lost_session: Callable[[], object] = lambda: None
        self.why_list = ""
        """Why the last list did not come, in both languages."""
        self._lists: dict[bytes, None] = {}
        self._list_backoff = Backoff(draw)
        self._list_timer: asyncio.TimerHandle | None = None
        self._listens: dict[bytes, bytes] = {}
        """Id → the request that opened the stream of announcements (MCP 2026-07-28)."""
        self._listened = 0.0
        self._backoff = Backoff(draw)
        self.over: asyncio.Future[Failure] = loop.create_future()
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
        id = b"" if frame.id is UNSET else bytes(frame.id)
        if frame.method == "initialize" and id and self.welcome:
            reply = parse(self.welcome, utf8=True)
            self._loop.call_soon(self.say, b"".join(jsonrpc.with_id(self.welcome, reply, id)))
        elif frame.method == INITIALIZED and self.version:
            return  # said already
        elif frame.method == STREAMS:
            self._listens = {id: data}
            self._listened = self._loop.time()
            self._put(data)
        elif (refusal := self.sieve.refused(data)) is not None:
            self._loop.call_soon(self.say, refusal)
        else:
            if frame.method == "tools/list" and id:
                self._lists[id] = None
                if len(self._lists) > LISTS_REMEMBERED:
                    del self._lists[next(iter(self._lists))]
            self._put(data)

    def ping(self) -> None:
        """Whether it is there is looked at anyway."""

    def close(self, code: int, reason: str) -> None:
        """End this connection."""
        self.lost(Failure(f"closed by the endpoint: {reason}", f"接入点已关闭连接：{reason}", None))

    def _put(self, data: bytes) -> None:
        self._queued += len(data)
        self._waiting.put_nowait(data)

    async def next(self) -> bytes:
        """The next message for the server."""
        data = await self._waiting.get()
        self._queued -= len(data)
        return data

    def say(self, data: bytes) -> None:
        """A message to the endpoint, of the server or in its name."""
        if self.provider is not None:
            self.provider.says(self.provider, data, self._loop.time(), False)

    def lost(self, failure: Failure) -> None:
        """The server is not there any more."""
        if not self.over.done():
            self.over.set_result(failure)

    def leave(self) -> None:
        """Nothing is asked again."""
        if self._list_timer is not None:
            self._list_timer.cancel()

    # -- what comes (see `connection.Ears`) --------------------------------------------------------------------------------

    def heard(self, data: bytes) -> None:
        """A message of the server."""
        self.spoke = self._loop.time()
        try:
            frame, data = read(data)
        except Malformed as malformed:
            if isinstance(malformed, Unreadable) and not malformed.number and self.own:
                for waiting in self.own.values():  # there is never more than one
                    waiting.set_exception(_Lost(unreadable(malformed.why, data)))
                self.own.clear()
            else:
                self.say(data)  # the endpoint finds out whose it was
            return
        id = b"" if frame.id is UNSET else bytes(frame.id)
        if frame.method is UNSET:
            if (own := self.own.pop(id, None)) is not None:
                if not own.done():
                    own.set_result((data, frame))
                return
            if id in self._lists:
                self._list_came(id, frame)
        _remember_tools(self, frame)
        self.say(self.sieve.passed(data))

    def noise(self) -> None:
        """An event that is no message."""
        self._counters.noise += 1

    def failed(self, id: bytes, failure: Failure) -> None:
        """A request that is not answered."""
        refused = 400 <= failure.status < 500 and failure.status not in KEY_STATUSES
        if id in self._listens and not refused:
            wait = self._backoff.wait(self._loop.time() - self._listened)
            self._loop.call_later(wait, self._listen, id)
            return
        error = Failure(self._mask(failure.en), self._mask(failure.zh), failure.delivered, failure.code).error()
        self.heard(b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id, msgspec.json.encode(error)))

    def broke(self, failure: Failure) -> None:
        """The stream of the server is over, or its session."""
        if failure.session_lost:
            self.lost_session()
        else:
            self.lost(failure)

    def changed(self) -> None:
        """What changed meanwhile was announced to nobody."""
        self.say(jsonrpc.notification(LIST_CHANGED))

    def _listen(self, id: bytes) -> None:
        if id in self._listens and not self.over.done():
            self._listened = self._loop.time()
            self._put(self._listens[id])
            self.changed()

    def _list_came(self, id: bytes, frame: Frame) -> None:
        """A list that did not come is asked for again later: the endpoint takes an error for a server without tools."""
        del self._lists[id]
        error = objects(frame.error)
        if error.get("code") == errors.METHOD_NOT_FOUND.number:
            return
        if frame.error is UNSET and frame.result is not UNSET and read_page(frame.result, 1) is not None:
            self.why_list = ""
            self._list_backoff.failures = 0
            return
        told_by = error.get("data")
        said = told_by.get("hint") if isinstance(told_by, dict) and told_by.get("source") == "broker" else None
        if not isinstance(said, str):
            said = words(f"{error.get('code')} {error.get('message')}".encode()) if error else "no list / 不是列表"
        self.why_list = self._mask(f"tools/list 失败 / tools/list failed: {said}")
        if self._list_timer is None:
            self._list_timer = self._loop.call_later(self._list_backoff.wait(0.0), self._ask_list_again)

    def _ask_list_again(self) -> None:
        self._list_timer = None
        self.changed()


class Upstream:
    """One server that is kept in reach. Made, started and stopped by its room."""

    def __init__(self, server: Server, broker: Broker, ring: Keyring | None = None, *, draw: Callable[[], float] = random.random) -> None:
        """`ring` gives a key for each request where the entry asks for one; `draw` gives the lot of `Backoff`."""
        for name in ("httpx2", "httpcore2"):
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
        self._link: _Link | None = None

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
            "why": self._why or (self._link.why_list if self._link is not None else ""),
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
        told = ""
        while True:
            self._move("starting", self._why)
            self._attempts += 1
            began = self._loop.time()
            try:
                lost = await self._live()
            except Exception as error:  # noqa: BLE001 - a fault of ours ends one connection, never its supervision
                logger.opt(exception=error).error(
                    "连接上游服务器时出错 / the supervision of the connection failed", server=self.server.name
                )
                lost = Failure(f"internal error: {type(error).__name__}", f"内部错误：{type(error).__name__}", None)
            wait = backoff.wait(self._loop.time() - began, at_least=min(lost.retry_seconds or 0.0, LONGEST_SECONDS))
            en, zh = self._mask(lost.en), self._mask(lost.zh)
            if self._state == "running" or en != told:
                logger.warning("{}，{:.1f} 秒后重试 / {}, tried again in {:.1f} s", zh, wait, en, wait, server=self.server.name)
                told = en
            self._move("waiting", f"{zh} / {en}")
            await asyncio.sleep(wait)

    async def _live(self) -> Failure:
        """One connection from its handshake to its end; why it ended."""
        wires: tuple[Wire, ...] = ("http", "sse") if self.server.wire == "any" else (self.server.wire,)
        if self.server.wire == "any" and urlsplit(self.server.url).path.rstrip("/").endswith("/sse"):
            wires = ("sse", "http")
        lost: list[Failure] = []
        for wire in wires:
            self._wire = wire
            most = self._broker.limits.provider_message_bytes
            carrier = Carrier(self._ring, self.server.place or "bearer", most)
            try:
                lost.append(await self._converse(carrier, wire))
            finally:
                await carrier.aclose()
            if self._state == "running" or carrier.status not in NOT_THIS_WIRE:
                break
        if len(lost) == 1 or self._state == "running" or lost[0].en == lost[1].en:
            return lost[-1]
        # Neither wire is spoken there: what each of them was told may be the one that helps.
        names = ["HTTP+SSE" if one == "sse" else "Streamable HTTP" for one in wires]
        en, zh = (
            "; ".join(f"{name}: {one}" for name, one in zip(names, said, strict=True))
            for said in ([one.en for one in lost], [one.zh for one in lost])
        )
        return Failure(en, zh, None, retry_seconds=max((one.retry_seconds or 0.0 for one in lost), default=0.0))

    async def _converse(self, carrier: Carrier, wire: Wire) -> Failure:
        """Connect, shake hands, attach, carry; gives why it ended."""
        link = _Link(Sieve(self.server.allow, self.server.deny), self._loop, self._draw, self._mask, self._broker.counters)
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
        timeout = httpx2.Timeout(CONNECT_SECONDS)  # how long an answer may take, the carrier knows
        async with httpx2.AsyncClient(transport=carrier, headers=dict(self.server.headers), timeout=timeout, trust_env=False) as http:
            way: HttpSse | StreamableHttp
            if wire == "sse":
                way = HttpSse(self.server.url, http, most, link, spawn)
            else:
                way = StreamableHttp(self.server.url, http, most, link, spawn, Backoff(self._draw))
            link.lost_session = lambda: spawn(self._renewed(link, way, link.generation))
            try:
                await self._shake_hands(link, way)
                link.provider = self._broker.attach_provider(
                    self.server.endpoint, self.server.shown, link, server_id=self.server.label, house=True
                )
                self._link = link
                self._move("running", "")
                logger.info("已连接上游服务器 / connected", server=self.server.name, wire=self._wire)
                spawn(self._write(link, way, spawn))
                if self._ring is None:  # a question would cost a key's turn
                    spawn(self._look_after(link, way))
                return await link.over
            except _Lost as lost:
                return lost.failure
            finally:
                self._leave(link)
                left = [task for task in (*tasks, link.renewing) if task is not None]
                for task in left:
                    task.cancel()
                if left:
                    await asyncio.wait(left)
                await way.close()

    def _leave(self, link: _Link) -> None:
        provider, link.provider = link.provider, None
        link.leave()
        if self._link is link:
            self._link = None
        if provider is not None:
            self._broker.detach(provider, *LOST)

    # -- what we ask it ourselves ----------------------------------------------------------------------------------------------

    async def _ask(
        self, link: _Link, way: HttpSse | StreamableHttp, id: bytes, method: str, params: bytes, seconds: float
    ) -> tuple[bytes, Frame]:
        """One request of our own and its answer. Raises _Lost for none."""
        data = jsonrpc.request(id, method, params)
        frame = parse(data, utf8=True)
        answer: asyncio.Future[tuple[bytes, Frame]] = self._loop.create_future()
        link.own[id] = answer
        saying = self._loop.create_task(way.post(data, frame, _headers(frame, link)))
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wait((answer, saying, link.over), return_when=asyncio.FIRST_COMPLETED)
                if saying.done() and (failure := saying.result()) is not None:
                    raise _Lost(failure)
                await asyncio.wait((answer, link.over), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise _over(f"it did not answer {method} within {seconds:g} s", f"{seconds:g} 秒内没有应答 {method}") from None
        finally:
            link.own.pop(id, None)
            saying.cancel()
            await asyncio.wait((saying,))
        if not answer.done():
            raise _Lost(link.over.result())
        return answer.result()

    async def _shake_hands(self, link: _Link, way: HttpSse | StreamableHttp) -> None:
        """Introduce ourselves. Raises _Lost for a server that does not answer as one does."""
        link.version = way.version = ""
        began = self._loop.time()
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                await way.open()
        except Ended as ended:
            raise _Lost(ended.failure) from None
        except TimeoutError:
            raise _over(f"it did not open a stream within {HELLO_SECONDS:g} s", f"{HELLO_SECONDS:g} 秒内没有打开事件流") from None
        data, frame = await self._ask(link, way, _HELLO, "initialize", own_hello(__version__), HELLO_SECONDS)
        if frame.error is not UNSET:
            if not knows_only_stateless(frame.error):
                error = objects(frame.error)
                said = words(f"{error.get('code')} {error.get('message', '')}".encode())
                raise _over(f"it answered initialize with an error: {said}", f"它以错误应答 initialize：{said}")
        elif frame.result is UNSET or read_welcome(bytes(frame.result)) is None:
            said = words(data)
            raise _over(f"its answer to initialize is no result of MCP: {said}", f"它对 initialize 的应答不是 MCP 结果：{said}")
        self._milliseconds = (self._loop.time() - began) * 1000
        link.welcome = data
        if frame.result is not UNSET:
            link.version = way.version = text(fields(frame.result).get("protocolVersion")) or ""
            notice = jsonrpc.notification(INITIALIZED)
            failure = await way.post(notice, parse(notice, utf8=True), {})
            if failure is not None and failure.session_lost:
                raise _Lost(failure)
            way.listen()

    async def _renew(self, link: _Link, way: HttpSse | StreamableHttp, generation: int) -> bool:
        """Greet it anew, once for all who found out that their session, that of `generation`, is lost."""
        if link.over.done():
            return False
        if link.generation == generation and link.renewing is None:
            link.renewing = self._loop.create_task(self._greet_anew(link, way))
        return link.renewing is None or await asyncio.shield(link.renewing)

    async def _renewed(self, link: _Link, way: HttpSse | StreamableHttp, generation: int) -> None:
        await self._renew(link, way, generation)

    async def _greet_anew(self, link: _Link, way: HttpSse | StreamableHttp) -> bool:
        logger.info("会话已失效，重新握手 / the session is lost, greeted anew", server=self.server.name)
        if isinstance(way, HttpSse) and link.provider is not None:
            # What was taken on the old stream and is not answered yet, will not be.
            for id in [b"%d" % number for number in link.provider.pending.calls]:
                if id not in link.asked:
                    link.failed(id, BROKEN_OFF)
        try:
            await self._shake_hands(link, way)
        except _Lost as lost:
            link.lost(lost.failure)
            return False
        finally:
            link.renewing = None
        link.generation += 1
        link.changed()
        return True

    async def _look_after(self, link: _Link, way: HttpSse | StreamableHttp) -> None:
        """Ask a silent server for a word; one that has none is lost."""
        while True:
            silent = self._loop.time() - link.spoke
            if silent < HEALTH_SECONDS:
                await asyncio.sleep(HEALTH_SECONDS - silent)
                continue
            began = self._loop.time()
            generation = link.generation
            meta = b"" if link.version else b'{"_meta":%b}' % msgspec.json.encode(_envelope())
            failure: Failure | None = None
            try:
                method = "ping" if link.version else "server/discover"
                _, frame = await self._ask(link, way, _HEALTH, method, meta or b"{}", WORD_SECONDS)
                if names_lost_session(objects(frame.error)):
                    failure = Failure("the server does not know the session", "服务器不认识此会话", False, session_lost=True)
            except _Lost as lost:
                failure = lost.failure
            if failure is None or (failure.status in NO_PING and not failure.session_lost):
                link.spoke = self._loop.time()  # an error is a word too
                self._milliseconds = (link.spoke - began) * 1000
            elif not failure.session_lost:
                link.lost(Failure(f"it did not answer a ping: {failure.en}", f"没有应答 ping：{failure.zh}", None))
            elif not await self._renew(link, way, generation):
                return

    # -- messages ------------------------------------------------------------------------------------------------------------

    async def _write(
        self, link: _Link, way: HttpSse | StreamableHttp, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    ) -> None:
        while True:
            data = await link.next()
            frame = parse(data, utf8=True)
            headers = _headers(frame, link)
            if frame.method is not UNSET and frame.id is not UNSET:
                id = bytes(frame.id)
                task = spawn(self._say(link, way, data, frame, headers))
                link.asked[id] = task, headers.get("mcp-protocol-version") == REVISION
                task.add_done_callback(lambda task, id=id: link.asked.pop(id, None))  # type: ignore[misc]
            elif frame.method == CANCELLED and (asked := link.asked.get(bytes(fields(frame.params).get("requestId", b"")))) and asked[1]:
                asked[0].cancel()  # in this revision that is how a request is cancelled (MCP 2026-07-28, Streamable HTTP)
            elif link.notices >= NOTICES:
                self._broker.counters.dropped_notifications += 1
            else:
                link.notices += 1
                task = spawn(self._say(link, way, data, frame, headers))
                task.add_done_callback(lambda task: setattr(link, "notices", link.notices - 1))

    async def _say(self, link: _Link, way: HttpSse | StreamableHttp, data: bytes, frame: Frame, headers: dict[str, str]) -> None:
        """One message, said once more if the server did not know our session and therefore has not run it."""
        generation = link.generation
        failure = await way.post(data, frame, headers)
        if failure is not None and failure.session_lost and await self._renew(link, way, generation):
            failure = await way.post(data, frame, _headers(frame, link))
        if failure is None:
            return
        if failure.unreachable:
            link.lost(failure)
        if frame.method is not UNSET and frame.id is not UNSET:
            link.failed(bytes(frame.id), failure)


def _envelope() -> dict[str, Any]:
    """What a message of revision 2026-07-28 says of its sender."""
    prefix = VERSION_KEY.rpartition("/")[0]
    about = {"name": "mcp-endpoint-server", "version": __version__}
    return {VERSION_KEY: "2026-07-28", f"{prefix}/clientInfo": about, f"{prefix}/clientCapabilities": {}}


def _headers(frame: Frame, link: _Link) -> dict[str, str]:
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


def _remember_tools(link: _Link, frame: Frame) -> None:
    """Which arguments a tool wants in headers, from a list of tools."""
    if frame.result is UNSET or b"x-mcp-header" not in bytes(frame.result):
        return
    for tool in objects(frame.result).get("tools") or ():
        if isinstance(tool, dict) and isinstance(tool.get("name"), str):
            link.tools[tool["name"]] = x_mcp_header_map(tool.get("inputSchema"))
