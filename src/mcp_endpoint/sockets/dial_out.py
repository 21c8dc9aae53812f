"""Links that this server opens to endpoints of others: whoever is there asks, and an endpoint of this server answers.

The life of a target: connect; attach a consumer for the other side; carry frames both ways until either side ends; say why; wait; again.
The address carries a token: it is never shown, and whatever the other side says is shown without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from loguru import logger
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from ..backoff import Backoff
from ..core.broker import Broker
from ..core.parties import Consumer
from ..errors import GOING_AWAY, NOT_READING, TOO_MANY_FRAGMENTS, CloseReason, ConfigError, EndpointError
from ..protocol.jsonrpc import Part
from ..settings.schema import Config, DialSettings, Limits
from . import dial
from .dial import CLOSE_SECONDS, NoLink, readable
from .frames import FRAMES_PER_TURN

LATER_SECONDS: Final = 30.0
"""The least wait after 1013: the other side has too much to do and has asked to be left alone."""
LATER_CODE: Final = 1013
SECRET_CHARACTERS: Final = 16
"""A part of the address's path is taken for a secret from this length on."""
SHORTEST_SECRET: Final = 4
"""What is shorter is no secret, but a version number or the like."""
PIECE: Final = 8
"""So many characters of a secret in a row are not shown: texts of the other side are often cut."""
BLOT: Final = "***"
REFUSED_EN: Final = "the token was refused: copy a new address from the console"
REFUSED_ZH: Final = "令牌被拒绝：请从控制台重新复制接入点地址"

_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

State = Literal["connecting", "connected", "waiting", "refused", "error", "stopped"]
"""`waiting` comes back by itself; `refused` and `error` need somebody who mends the address."""
Pause = Callable[[float], Awaitable[None]]


class Ending(NamedTuple):
    """How an attempt ended, in both languages, and what that means for the next one."""

    en: str
    zh: str
    lasted: float = 0.0
    slow: bool = False
    at_least: float = 0.0


class FarSide:
    """The consumer at the other end; what the broker knows as a `Link`. What it has not taken is kept, within the bounds of a device."""

    def __init__(self, limits: Limits) -> None:
        self._most = limits.queued_bytes_per_link
        self._times = limits.overfull_times
        self._out: deque[bytes] = deque()
        self._more = asyncio.Event()
        self.queued = 0
        self.may_read = asyncio.Event()
        """Whether more may be read of it: not while it has too much left to read itself."""
        self.may_read.set()
        self.gone = asyncio.Event()
        """Whether we have ended it."""
        self.closing: CloseReason | None = None
        """Why."""

    def send(self, first: Part, second: Part = b"") -> None:
        """Take one frame; it leaves as one line."""
        if self.closing is not None:
            return
        frame = b"".join((first, second)).translate(_ONE_LINE)
        self._out.append(frame)
        self.queued += len(frame)
        self._more.set()
        if self.queued > self._most * self._times:
            self.close(*NOT_READING)
        elif self.queued > self._most:
            self.may_read.clear()

    def close(self, code: int, reason: str) -> None:
        """What was sent before goes out first, unless it is what nobody reads."""
        if self.closing is None:
            self.closing = CloseReason(code, reason)
            if self.closing == NOT_READING:
                self._out.clear()
            self._more.set()
            self.gone.set()

    def ping(self) -> None:
        """Only providers are asked for a sign of life; here the pings of the socket suffice."""

    async def write(self, socket: ClientConnection) -> None:
        """Send what comes until the link has ended, on either side."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._more.clear()
                while self._out:
                    frame = self._out.popleft()
                    await socket.send(frame, text=True)
                    self.queued -= len(frame)
                    if self.queued <= self._most:
                        self.may_read.set()
                if self.closing is not None:
                    return
                await self._more.wait()


class Target:
    """One endpoint of somebody else, dialled again and again."""

    def __init__(
        self,
        settings: DialSettings,
        url: str | EndpointError,
        config: Config,
        broker: Broker,
        endpoint: Callable[[str], tuple[str, str]],
        *,
        tls: ssl.SSLContext | None,
        draw: Callable[[], float],
        pause: Pause,
    ) -> None:
        """`url` is the address, or why there is none; `endpoint` gives name and printable name of the endpoint here."""
        self._settings = settings
        self._url = "" if isinstance(url, EndpointError) else url
        self._config = config
        self._broker = broker
        self._endpoint = endpoint
        self._tls = tls
        self._backoff = Backoff(draw)
        self._pause = pause
        self._far: FarSide | None = None
        self._leaving = False
        self._task: asyncio.Task[None] | None = None
        self._clock = asyncio.get_running_loop().time
        self._connections = 0
        self._secrets = secrets(self._url)
        self._host = urlsplit(self._url).netloc.rpartition("@")[2]
        self.state: State = "connecting"
        self._since = datetime.now(UTC)
        self._reason = ""
        if isinstance(url, EndpointError):
            self._is("error", f"{url.zh} / {url.en}")
            self._log("ERROR", "外连未启动 / not dialled")

    # -- its life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to dial."""
        if self._url:
            self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Let what is queued go out, close with 1001 and dial no more; takes a few seconds at most."""
        self._leaving = True
        if self._task is None:
            return
        if self._far is None:
            self._task.cancel()
        else:
            self._far.close(*GOING_AWAY)
        _, late = await asyncio.wait((self._task,), timeout=3 * CLOSE_SECONDS)
        for task in late:
            task.cancel()
            await asyncio.wait((task,))
        self._is("stopped", "")

    async def _keep(self) -> None:
        """Reconnect until the server stops."""
        while not self._broker.draining:
            try:
                ending = await self._link()
            except Exception:  # noqa: BLE001 - the boundary of this target: the others go on, and so does it
                logger.exception("内部错误 / internal error", target=self._settings.name)
                ending = Ending("internal error", "内部错误")
            if self._leaving:
                return
            wait = self._backoff.wait(ending.lasted, slow=ending.slow, at_least=ending.at_least)
            self._is("refused" if ending.slow else "waiting", self._blotted(f"{ending.zh} / {ending.en}"))
            self._log("WARNING", "外连未连接 / not connected", next_attempt_seconds=round(wait, 1))
            await self._pause(wait)

    async def _link(self) -> Ending:
        """One life of one link."""
        pings = self._config.websocket
        try:
            socket = await dial.dial(
                self._url,
                tls=self._tls,
                most=self._config.limits.consumer_message_bytes,
                ping_interval=pings.ping_interval,
                ping_timeout=pings.ping_timeout,
            )
        except NoLink as error:
            return _not_reached(error)
        far = FarSide(self._config.limits)
        try:
            return await self._carry(socket, far)
        finally:
            await socket.close(*(far.closing or GOING_AWAY))

    async def _carry(self, socket: ClientConnection, far: FarSide) -> Ending:
        """Carry frames until either side ends; then the consumer is gone, and the socket is to be closed."""
        since = self._clock()
        name, shown = self._endpoint(self._settings.endpoint)
        consumer = self._broker.attach_consumer(name, shown, far, asks_once=True)
        self._far = far
        self._connections += 1
        self._is("connected", "")
        self._log("INFO", "外连已连接 / connected")
        reading = asyncio.create_task(self._read(socket, far, consumer))
        writing = asyncio.create_task(far.write(socket))
        gone = asyncio.create_task(far.gone.wait())
        tasks = (reading, writing, gone)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if far.closing is not None and far.closing != NOT_READING:
                await asyncio.wait((writing,), timeout=CLOSE_SECONDS)
        finally:
            self._far = None
            self._broker.detach(consumer, *(far.closing or GOING_AWAY))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        lasted = self._clock() - since
        closed = None if reading.cancelled() else reading.result()
        if far.closing is not None or closed is None:
            why = "{} {}".format(*(far.closing or GOING_AWAY))
            return Ending(f"this side has ended it: {why}", f"本端关闭了连接：{why}", lasted)
        return _ended(closed, lasted)

    async def _read(self, socket: ClientConnection, far: FarSide, consumer: Consumer) -> ConnectionClosed | None:
        """Hand on what the other side says; gives how it ended, None if that was our doing."""
        taken = 0
        try:
            while True:
                message = await _message(socket, self._config.limits.fragments)
                if message is None:
                    far.close(*TOO_MANY_FRAGMENTS)
                if far.closing is not None or message is None:
                    return None
                consumer.receive(consumer, message, self._clock(), False)
                taken += 1
                if not taken % FRAMES_PER_TURN:
                    await asyncio.sleep(0)
                await far.may_read.wait()
        except ConnectionClosed as closed:
            return closed

    # -- looking in ------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What it is called here."""
        return self._settings.name

    def describe(self) -> dict[str, Any]:
        """What an operator may know of it, ready for JSON."""
        return {
            "name": self.name,
            "host": self._host,
            "endpoint": self._settings.endpoint,
            "state": self.state,
            "since": self._since.isoformat(timespec="seconds"),
            "reason": self._reason,
            "reconnects": max(0, self._connections - 1),
        }

    def _is(self, state: State, reason: str) -> None:
        if state != self.state:
            self._since = datetime.now(UTC)
        self.state, self._reason = state, reason

    def _log(self, level: str, text: str, **more: object) -> None:
        why = {"reason": self._reason} if self._reason else {}
        logger.log(level, text, target=self.name, host=self._host, endpoint=self._settings.endpoint, **why, **more)

    def _blotted(self, text: str) -> str:
        """`text` without what is secret in the address, nor a piece of it."""
        for secret in self._secrets:
            text = text.replace(secret, BLOT)
        pieces = {secret[at : at + PIECE] for secret in self._secrets for at in range(len(secret) - PIECE + 1)}
        shown, at = "", 0
        while at < len(text):
            end = at
            while text[end : end + PIECE] in pieces:
                end += 1
            shown += BLOT if end > at else text[at]
            at = end + PIECE - 1 if end > at else at + 1
        return shown


class DialOut:
    """The room of all targets: each is dialled by itself, and none disturbs another."""

    name = "dial"
    owed = 0

    def __init__(
        self,
        config: Config,
        broker: Broker,
        endpoint: Callable[[str], tuple[str, str]],
        environ: Mapping[str, str],
        *,
        tls: ssl.SSLContext | None = None,
        draw: Callable[[], float] = random.random,
        pause: Pause = asyncio.sleep,
    ) -> None:
        """`tls` replaces the machine's list of trusted certificates, `pause` waits between two attempts; the rest as for `Target`."""
        self.targets = [
            Target(settings, address(settings, environ), config, broker, endpoint, tls=tls, draw=draw, pause=pause)
            for settings in config.dial
        ]

    @property
    def routes(self) -> Sequence[Any]:
        """None: nobody comes to it."""
        return ()

    def refuses_pages(self, request: object) -> bool:
        """It has no paths."""
        return False

    async def start(self) -> None:
        """Begin to dial; waits for none of them."""
        for target in self.targets:
            target.start()

    async def stop(self) -> None:
        """End every link."""
        await asyncio.gather(*(target.stop() for target in self.targets))

    def describe(self) -> Mapping[str, Any]:
        """Every target with its state."""
        return {"targets": [target.describe() for target in self.targets]}

    def connected(self) -> Mapping[str, bool]:
        """Target → whether its link is open."""
        return {target.name: target.state == "connected" for target in self.targets}


def address(settings: DialSettings, environ: Mapping[str, str]) -> str | EndpointError:
    """Where a target is, with the variables its url names; or why it cannot be dialled."""
    missing = [name for name in _VARIABLE.findall(settings.url) if not environ.get(name)]
    if missing:
        return ConfigError(
            f"the environment variable {missing[0]} is not set: set it where the server starts, or write the address into [[dial]] url",
            f"环境变量 {missing[0]} 没有设置：请在启动服务器的环境中设置它，或把地址写入 [[dial]] 的 url",
        )
    try:
        return dial.checked(_VARIABLE.sub(lambda named: environ[named[1]].strip(), settings.url))
    except ConfigError as error:
        return error


def secrets(url: str) -> tuple[str, ...]:
    """What of an address may not be shown, the longest first: what its query says, a user, and long parts of its path."""
    parts = urlsplit(url)
    raw = [piece.partition("=")[2] or piece for piece in parts.query.split("&")]
    path = [piece for piece in parts.path.split("/") if len(piece) >= SECRET_CHARACTERS]
    found = [*raw, *path, *(value for _, value in parse_qsl(parts.query)), parts.username or "", parts.password or ""]
    spelled = {text for piece in found for text in (piece, unquote(piece)) if len(text) >= SHORTEST_SECRET}
    return tuple(sorted(spelled, key=len, reverse=True))


async def _message(socket: ClientConnection, fragments: int) -> bytes | None:
    """The next message, None for one of too many fragments. Raises ConnectionClosed."""
    pieces: list[bytes] = []
    async for piece in socket.recv_streaming(decode=False):
        pieces.append(piece)
        if len(pieces) > fragments:
            return None
    return b"".join(pieces)


def _not_reached(error: NoLink) -> Ending:
    if error.status in (401, 403):
        return Ending(f"{REFUSED_EN} (HTTP {error.status})", f"{REFUSED_ZH}（HTTP {error.status}）", slow=True, at_least=error.retry_after)
    return Ending(error.en, error.zh, slow=error.status in dial.SLOW_STATUSES, at_least=error.retry_after)


def _ended(closed: ConnectionClosed, lasted: float) -> Ending:
    """What it means how a link ended."""
    if closed.rcvd is None:
        why = f"{closed.sent.code} {readable(closed.sent.reason)}" if closed.sent is not None else "1006"
        return Ending(f"the link broke off ({why.rstrip()})", f"连接中断（{why.rstrip()}）", lasted)
    code = closed.rcvd.code
    told = f"{code} {readable(closed.rcvd.reason)}".rstrip()
    if code in dial.SLOW_CODES:
        return Ending(f"{REFUSED_EN} ({told})", f"{REFUSED_ZH}（{told}）", lasted, slow=True)
    at_least = LATER_SECONDS if code == LATER_CODE else 0.0
    return Ending(f"the other side has closed ({told})", f"对方关闭了连接（{told}）", lasted, at_least=at_least)
