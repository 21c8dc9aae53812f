"""A managed server that runs as a child process, restarted when it exits.

The life of one process: start; attach to the server's internal endpoint; relay lines; when it exits or closes its output, log why, wait,
restart. Every process is a provider of its own, because an MCP server is initialized once in its life.

    starting ──► running ──► waiting ──► starting …
       └─ cannot be started ───┘ └─ CRASHES failures in a row ──► stopped, until its entry or the file is saved again
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Collection
from typing import Any, Final, Literal

from loguru import logger
from msgspec.structs import replace

from ...backoff import KEPT_FIRST_SECONDS, Backoff
from ...core.broker import Broker
from ...core.parties import Provider
from ...credentials.pool import Credential
from ...credentials.store import CredentialStore
from ...errors import GOING_AWAY, NOT_READING, TOOL_ENDED, CloseReason, EndpointError
from ...log import BLOT
from ...protocol import jsonrpc, methods
from ...protocol.jsonrpc import Frame, Part, Unreadable, unreadable_answer
from ..command import Command
from ..entry import ServerEntry, mask
from ..tool_filter import ToolFilter
from .child import LINE_BYTES, Child, Line, message
from .stderr import StderrTail
from .usage import Usage

CRASHES: Final = 8
"""After this many consecutive lives shorter than `backoff.WORKED_SECONDS` it is not restarted: about a minute."""
LAST_OUTPUT_SECONDS: Final = 1.0
"""Time to read the last output of a dead process, and for a process that closed its output to exit."""
SAID_SHOWN: Final = 10
"""Most lines of stderr in /stats."""

State = Literal["starting", "running", "waiting", "stopped", "off"]


class _ProcessLink:
    """The link of one process: frames from the endpoint become lines on its stdin."""

    def __init__(self, tool_filter: ToolFilter, noise: Callable[[Line, str], None], loop: asyncio.AbstractEventLoop) -> None:
        self._tool_filter = tool_filter
        self._noise = noise
        self._loop = loop
        self._child: Child | None = None
        self.provider: Provider | None = None
        self.closed = asyncio.Event()

    def connect(self, child: Child) -> None:
        """Set the process that frames are written to."""
        self._child = child

    @property
    def queued(self) -> int:
        """Bytes that the process has not read."""
        return 0 if self._child is None else self._child.queued

    def send(self, first: Part, second: Part = b"") -> None:
        """As `send_frame`, for a message that is not parsed yet."""
        self._write(first, second)

    def send_frame(self, frame: Frame, first: Part, second: Part) -> None:
        """Write one line, or answer a request that must not reach the process."""
        self._write(first, second, frame)

    def _write(self, first: Part, second: Part, frame: Frame | None = None) -> None:
        assert self._child is not None
        if self._tool_filter.open:
            self._child.write(first, second)
            return
        data, refused = self._tool_filter.checked(first, second, frame)
        if refused:
            self._loop.call_soon(self.forward, data)
        else:
            self._child.write(data)

    def receive_line(self, line: Line) -> None:
        """Handle one line of the process."""
        try:
            found = message(line)
        except Unreadable as unreadable:
            self._noise(line, f"an answer that cannot be read ({unreadable.why})")
            self.forward(unreadable_answer(unreadable))
            return
        if found is not None:
            frame, data = found
            shown = data if self._tool_filter.open else self._tool_filter.passed(data, frame)
            self.forward(shown, frame if shown is data else None)
        elif line.data.strip():
            self._noise(line, "not JSON-RPC" if line.whole else f"more than {LINE_BYTES} bytes in one line")

    def forward(self, data: bytes, frame: Frame | None = None) -> None:
        """Pass a message to the endpoint; `frame` is the parsed `data`, if it was parsed."""
        if self.provider is not None:
            self.provider.receive(self.provider, data, self._loop.time(), True, frame)

    def ping(self) -> None:
        """Nothing: its exit is noticed at once."""

    def close(self, code: int, reason: str) -> None:
        """End this process."""
        self.closed.set()


class ProcessServer:
    """A managed server as a child process. Created, started and stopped by its room."""

    def __init__(
        self, server: ServerEntry, broker: Broker, ring: CredentialStore | None = None, *, draw: Callable[[], float] = random.random
    ) -> None:
        """`ring` provides a key per process if the entry asks for one; `draw` is the random number for `Backoff`."""
        self.server = server
        self._broker = broker
        self._ring = ring
        self._draw = draw
        self._loop = asyncio.get_running_loop()
        self._key: Credential | None = None
        self._entry_mask = mask(server)
        self._tool_filter = ToolFilter(server.allow, server.deny, server.tools, server.name)
        self._stderr = StderrTail(self._mask, lambda line: logger.debug("工具进程的 stderr / its stderr: {}", line, server=server.name))
        self._task: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self._link: _ProcessLink | None = None
        self._state: State = "off"
        self._since = self._loop.time()
        self._why = ""
        self._last_error = ""
        self._starts = 0

    async def start(self) -> None:
        """Start it, without waiting until it is ready."""
        self._task = self._loop.create_task(self._keep())

    async def stop(self) -> None:
        """Stop the process within a few seconds, for good."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        self._move("off", "")

    def change_tools(self, server: ServerEntry) -> None:
        """Apply an entry that differs only in `tools`: the process continues, and its tools are listed again."""
        self.server = server
        self._tool_filter.change(server.tools)
        if self._link is not None:
            self._link.forward(jsonrpc.notification(methods.TOOLS_CHANGED))

    @property
    def session(self) -> int | None:
        """Session id of its processes, for `usage`; None without one."""
        return None if self._child is None else self._child.session

    def describe(self, used: Usage | None = None) -> dict[str, Any]:
        """Its status, ready for JSON, without secrets and without its arguments."""
        assert self.server.command is not None
        found: dict[str, Any] = {
            "state": self._state,
            "seconds": round(self._loop.time() - self._since, 1),
            "program": self._mask(os.path.basename(self.server.command.program)),
            "starts": self._starts,
            "why": self._why,
            "last_error": self._last_error,
            "said": self._stderr.last(SAID_SHOWN),
        }
        if self._tool_filter.problems:
            found["tools_not_changed"] = list(self._tool_filter.problems)
        if self._child is not None:
            found["pid"] = self._child.session
        if self._link is not None and self._link.provider is not None:
            found |= {"greeting": self._link.provider.state.value, "why_bare": self._link.provider.failed}
        if used is not None:
            found |= {"cpu_seconds": round(used.cpu_seconds, 2), "memory_bytes": used.memory_bytes, "processes": used.processes}
        return found

    def _move(self, state: State, why: str) -> None:
        self._state = state
        self._since = self._loop.time()
        self._why = why
        if state in ("waiting", "stopped"):
            self._last_error = why

    async def _keep(self) -> None:
        backoff = Backoff(self._draw, KEPT_FIRST_SECONDS)
        while True:
            self._move("starting", self._why)
            began = self._loop.time()
            try:
                en, zh = await self._live()
            except Exception as error:  # noqa: BLE001 - task boundary: a bug ends one process, not its supervision
                logger.opt(exception=error).error("监管工具进程时出错 / the supervision of its process failed", server=self.server.name)
                en, zh = f"internal error: {type(error).__name__}", f"内部错误：{type(error).__name__}"
            wait = backoff.wait(self._loop.time() - began)
            why = f"{zh} / {en}"
            said = {"last_words": lines[-1]} if (lines := self._stderr.last(1)) else {}
            if backoff.failures >= CRASHES:
                self._move("stopped", why)
                logger.error("{}；已连续失败多次，不再启动 / {}; failed repeatedly, not restarted", zh, en, server=self.server.name, **said)
                return
            self._move("waiting", why)
            logger.warning("{}，{:.1f} 秒后重启 / {}, restarted in {:.1f} s", zh, wait, en, wait, server=self.server.name, **said)
            await asyncio.sleep(wait)

    async def _live(self) -> tuple[str, str]:
        """One process, from its start to its end; returns why it ended, in English and Chinese."""
        assert self.server.command is not None
        self._tool_filter.begin()
        link = _ProcessLink(self._tool_filter, self._noise, self._loop)
        try:
            child = await Child.start(self._command(self.server.command), self._stderr.feed, link.receive_line)
        except EndpointError as error:
            return self._mask(error.en), self._mask(error.zh)
        close_reason = GOING_AWAY
        try:
            self._child, self._link = child, link
            self._starts += 1
            # The endpoint may send initialize at once, so the link needs its child before it has a provider.
            link.connect(child)
            link.provider = self._broker.attach_provider(self.server.endpoint, self.server.shown, link, server_id=self.server.label)
            self._move("running", "")
            logger.info("工具进程已启动 / started", server=self.server.name, pid=child.session)
            close_reason, (en, zh) = await self._carry(child, link)
            return en, zh
        finally:
            self._child = self._link = None
            provider, link.provider = link.provider, None
            if provider is not None:
                self._broker.detach(provider, *close_reason)
            await child.stop()

    def _command(self, command: Command) -> Command:
        """The command, with the next key in its environment if the entry asks for one. Raises EndpointError if no key is left."""
        if self._ring is None:
            return command
        self._key = self._ring.pool.take(self._loop.time())
        if self._key is None:
            _, en, zh = self._ring.none_left()
            raise EndpointError(en, zh)
        return replace(command, env={**command.env, self.server.place.removeprefix("env:"): self._key.secret})

    def _mask(self, text: str) -> str:
        """`text` without the secrets of the entry and without the current key."""
        text = self._entry_mask(text)
        return text if self._key is None else text.replace(self._key.secret, BLOT)

    async def _carry(self, child: Child, link: _ProcessLink) -> tuple[CloseReason, tuple[str, str]]:
        mute = self._loop.create_task(child.silence())
        dead = self._loop.create_task(child.exited.wait())
        closed = self._loop.create_task(link.closed.wait())
        try:
            if not await self._ends(child, {mute, dead, closed}):
                return NOT_READING, ("its process does not read its input", "工具进程没有读取发给它的数据")
            if not closed.done():
                await asyncio.wait((mute, dead), timeout=LAST_OUTPUT_SECONDS)
        finally:
            for task in (mute, dead, closed):
                task.cancel()
            await asyncio.wait((mute, dead, closed))
        if child.exited.is_set():
            ended = CloseReason(TOOL_ENDED.code, f"{TOOL_ENDED.reason} (status {child.status})")
            return ended, (f"its process ended (status {child.status})", f"工具进程已退出（状态 {child.status}）")
        return TOOL_ENDED, ("its process closed its output", "工具进程关闭了输出")

    async def _ends(self, child: Child, signs: set[asyncio.Task[Any]]) -> bool:
        """True at the first of `signs`, False if the process has read nothing for too long while its queue is full."""
        limits = self._broker.limits
        before = 0
        while True:
            seen, _ = await asyncio.wait(signs, timeout=limits.stalled_seconds, return_when=asyncio.FIRST_COMPLETED)
            if seen:
                return True
            if child.queued > limits.queued_bytes_per_link and child.queued >= before > 0:
                return False
            before = child.queued

    def _noise(self, line: Line, what: str) -> None:
        """Record a line that is not a message in the stderr tail, and do not pass it on: it may contain the server's secrets."""
        self._broker.counters.noise += 1
        self._stderr.feed(b"[stdout, %b] %b\n" % (what.encode(), line.data))


def sessions(kept: Collection[ProcessServer]) -> set[int]:
    """The session ids of the running ones, for `usage`."""
    return {one.session for one in kept if one.session is not None}
