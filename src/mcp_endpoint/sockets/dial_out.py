"""Outbound links: dials endpoints of other services and serves them the tools of an endpoint here.

A target's life: connect; attach a consumer for the remote side; relay frames until either side ends; report why; wait; reconnect. The
address contains a token: it is never shown, and it is removed from whatever the remote side sends before that is shown.
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
from ..errors import GOING_AWAY, NOT_READING, OVER_BUDGET, TOO_MANY_FRAGMENTS, CloseReason, ConfigError, EndpointError
from ..protocol.jsonrpc import Part
from ..settings.schema import Config, DialSettings, Limits
from . import dial
from .budget import Buffered
from .dial import CLOSE_SECONDS, NoLink, readable
from .frames import FRAMES_PER_TURN

LATER_SECONDS: Final = 30.0
"""Shortest wait after close code 1013 (try again later)."""
LATER_CODE: Final = 1013
SECRET_CHARACTERS: Final = 16
"""A path segment of the address counts as a secret from this length on."""
SHORTEST_SECRET: Final = 4
"""Anything shorter is not a secret but a version number or the like."""
PIECE: Final = 8
"""This many consecutive characters of a secret are blotted out, because remote texts often quote only a part of it."""
BLOT: Final = "***"
REFUSED_EN: Final = "the token was refused: copy a new address from the console"
REFUSED_ZH: Final = "令牌被拒绝：请从控制台重新复制接入点地址"

_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

State = Literal["connecting", "connected", "waiting", "refused", "error", "stopped"]
"""`waiting` reconnects by itself; `refused` and `error` need a person who corrects the address."""
Pause = Callable[[float], Awaitable[None]]
Keep = Callable[[Buffered, int], None]
DROPPED: Final = (NOT_READING, OVER_BUDGET)
"""Ends at which what is queued is not sent any more: the remote side does not read it."""


class Ended(NamedTuple):
    """How an attempt ended, in both languages, and what that means for the next one."""

    en: str
    zh: str
    lasted: float = 0.0
    slow: bool = False
    at_least: float = 0.0


class FarSide:
    """The remote consumer, as the broker's `Link`. Its unsent output is kept here, within the limits of a device."""

    def __init__(self, limits: Limits, keep: Keep) -> None:
        """`keep` is `Budget.keep`: what waits here counts with the bytes of all connections."""
        self._keep = keep
        self._unfinished = 0
        self._most = limits.queued_bytes_per_link
        self._times = limits.overfull_times
        self._out: deque[bytes] = deque()
        self._more = asyncio.Event()
        self.queued = 0
        self.may_read = asyncio.Event()
        """Cleared while the remote side has too much unsent output: its requests are not read meanwhile."""
        self.may_read.set()
        self.gone = asyncio.Event()
        """Set when this side has ended the link."""
        self.closing: CloseReason | None = None
        """The reason, once it has."""

    def send(self, first: Part, second: Part = b"") -> None:
        """Queue one frame; it is sent without line breaks."""
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
        self._keep(self, self.kept())

    def keeps(self, size: int) -> None:
        """Count the bytes of an incomplete message of the remote side; 0 when it is complete."""
        self._unfinished = size
        self._keep(self, self.kept())

    def kept(self) -> int:
        """Bytes kept for this link: an incomplete message, and output that waits for the remote side."""
        return 0 if self.closing in DROPPED else self.queued + self._unfinished

    def pay(self) -> None:
        """The budget is exceeded, and this link uses most: close it."""
        self.closing = None  # also one that is being closed loses what it has queued
        self.close(*OVER_BUDGET)

    def close(self, code: int, reason: str) -> None:
        """End the link; what was queued is sent first, unless the remote side does not read."""
        if self.closing is None:
            self.closing = CloseReason(code, reason)
            if self.closing in DROPPED:
                self._out.clear()
            self._more.set()
            self.gone.set()

    def ping(self) -> None:
        """Nothing to do: the broker pings only providers, and the socket pings by itself."""

    async def write(self, socket: ClientConnection) -> None:
        """Send queued frames until either side has ended the link."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._more.clear()
                while self._out:
                    frame = self._out.popleft()
                    await socket.send(frame, text=True)
                    self.queued -= len(frame)
                    self._keep(self, self.kept())
                    if self.queued <= self._most:
                        self.may_read.set()
                if self.closing is not None:
                    return
                await self._more.wait()


class DialTarget:
    """One remote endpoint, dialled again and again."""

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
        keep: Keep,
    ) -> None:
        """`url` is the address, or the reason why there is none; `endpoint` gives the name and printable name of the local endpoint."""
        self._count = keep
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
        """Start dialling."""
        if self._url:
            self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Send what is queued, close with 1001 and stop dialling; takes a few seconds at most."""
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
            except Exception:  # noqa: BLE001 - the boundary of this target's task; it reconnects
                logger.exception("内部错误 / internal error", target=self._settings.name)
                ending = Ended("internal error", "内部错误")
            if self._leaving:
                return
            wait = self._backoff.wait(ending.lasted, slow=ending.slow, at_least=ending.at_least)
            self._is("refused" if ending.slow else "waiting", self._blotted(f"{ending.zh} / {ending.en}"))
            self._log("WARNING", "外连未连接 / not connected", next_attempt_seconds=round(wait, 1))
            await self._pause(wait)

    async def _link(self) -> Ended:
        """One link, from dialling to its end."""
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
        far = FarSide(self._config.limits, self._count)
        try:
            return await self._carry(socket, far)
        finally:
            self._count(far, 0)
            await socket.close(*(far.closing or GOING_AWAY))

    async def _carry(self, socket: ClientConnection, far: FarSide) -> Ended:
        """Relay frames until either side ends; the consumer is detached before the socket is closed."""
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
            if far.closing is not None and far.closing not in DROPPED:
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
            return Ended(f"this side has ended it: {why}", f"本端关闭了连接：{why}", lasted)
        return _ended(closed, lasted)

    async def _read(self, socket: ClientConnection, far: FarSide, consumer: Consumer) -> ConnectionClosed | None:
        """Pass received messages to the broker; returns how the link ended, None if this side ended it."""
        taken = 0
        try:
            while True:
                message = await _message(socket, self._config.limits.fragments, far.keeps)
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
        """The name of the target in the configuration."""
        return self._settings.name

    def describe(self) -> dict[str, Any]:
        """The target's state, ready for JSON."""
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
        """`text` with the secrets of the address, and every PIECE of one, blotted out."""
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
    """The room of all `[[dial]]` targets, each dialled independently."""

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
        keep: Keep = lambda one, size: None,
    ) -> None:
        """`tls` replaces the system's trusted certificates, `pause` waits between two attempts; the rest as for `DialTarget`."""
        self.targets = [
            DialTarget(settings, address(settings, environ), config, broker, endpoint, tls=tls, draw=draw, pause=pause, keep=keep)
            for settings in config.dial
        ]

    @property
    def routes(self) -> Sequence[Any]:
        """No HTTP routes."""
        return ()

    def refuses_pages(self, request: object) -> bool:
        """False: it has no paths."""
        return False

    async def start(self) -> None:
        """Start dialling every target, without waiting for any."""
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
    """The address of a target with its variables substituted, or the error that keeps it from being dialled."""
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
    """The secret parts of an address, longest first: values of its query, its user, and long path segments."""
    parts = urlsplit(url)
    raw = [piece.partition("=")[2] or piece for piece in parts.query.split("&")]
    path = [piece for piece in parts.path.split("/") if len(piece) >= SECRET_CHARACTERS]
    found = [*raw, *path, *(value for _, value in parse_qsl(parts.query)), parts.username or "", parts.password or ""]
    spelled = {text for piece in found for text in (piece, unquote(piece)) if len(text) >= SHORTEST_SECRET}
    return tuple(sorted(spelled, key=len, reverse=True))


async def _message(socket: ClientConnection, fragments: int, keeps: Callable[[int], None]) -> bytes | None:
    """The next message, None if it has too many fragments; `keeps` is told the bytes of an incomplete one. Raises ConnectionClosed."""
    pieces: list[bytes] = []
    size = 0
    async for piece in socket.recv_streaming(decode=False):
        pieces.append(piece)
        size += len(piece)
        if len(pieces) > fragments:
            return None
        keeps(size)
    keeps(0)
    return b"".join(pieces)


def _not_reached(error: NoLink) -> Ended:
    if error.status in (401, 403):
        return Ended(f"{REFUSED_EN} (HTTP {error.status})", f"{REFUSED_ZH}（HTTP {error.status}）", slow=True, at_least=error.retry_after)
    return Ended(error.en, error.zh, slow=error.status in dial.SLOW_STATUSES, at_least=error.retry_after)


def _ended(closed: ConnectionClosed, lasted: float) -> Ended:
    """Interpret how a link ended."""
    if closed.rcvd is None:
        why = f"{closed.sent.code} {readable(closed.sent.reason)}" if closed.sent is not None else "1006"
        return Ended(f"the link broke off ({why.rstrip()})", f"连接中断（{why.rstrip()}）", lasted)
    code = closed.rcvd.code
    detail = f"{code} {readable(closed.rcvd.reason)}".rstrip()
    if code in dial.SLOW_CODES:
        return Ended(f"{REFUSED_EN} ({detail})", f"{REFUSED_ZH}（{detail}）", lasted, slow=True)
    at_least = LATER_SECONDS if code == LATER_CODE else 0.0
    return Ended(f"the other side has closed ({detail})", f"对方关闭了连接（{detail}）", lasted, at_least=at_least)
