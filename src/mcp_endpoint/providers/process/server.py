"""A server that runs as a process of ours: started, spoken to on stdin and stdout, and started again when it ends.

The life of one process: start; attach to the server's internal endpoint; carry lines; when it ends or closes its output, say why, wait,
again. Every process is a provider of its own, because an MCP server is initialised once in its life.

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
from ...protocol.jsonrpc import Part, Unreadable, unreadable_answer
from ..mcp_json import Server, mask
from ..tool_filter import ToolFilter
from .child import LINE_BYTES, Child, Command, Line, message
from .stderr import StderrTail
from .usage import Usage

CRASHES: Final = 8
"""So many lives in a row that were shorter than `backoff.WORKED_SECONDS` end the attempts: after about a minute."""
LAST_WORDS_SECONDS: Final = 1.0
"""For what a dead process had still written to be read, and for one that closed its output to be dead."""
SAID_SHOWN: Final = 10
"""Lines of stderr in /stats."""

State = Literal["starting", "running", "waiting", "stopped", "off"]


class _Lifeline:
    """The link of one process: what the endpoint sends becomes lines on its stdin."""

    def __init__(self, tool_filter: ToolFilter, noise: Callable[[Line, str], None], loop: asyncio.AbstractEventLoop) -> None:
        self._tool_filter = tool_filter
        self._noise = noise
        self._loop = loop
        self._child: Child | None = None
        self.provider: Provider | None = None
        self.closed = asyncio.Event()

    def joins(self, child: Child) -> None:
        """From now on frames have somewhere to go."""
        self._child = child

    @property
    def queued(self) -> int:
        """Bytes that the process has not read yet."""
        return 0 if self._child is None else self._child.queued

    def send(self, first: Part, second: Part = b"") -> None:
        """One line, or an answer from here if the process must not see the request."""
        assert self._child is not None
        if self._tool_filter.open:
            self._child.write(first, second)
            return
        data, refused = self._tool_filter.checked(first, second)
        if refused:
            self._loop.call_soon(self.say, data)
        else:
            self._child.write(data)

    def hear(self, line: Line) -> None:
        """One line of the process."""
        try:
            data = message(line)
        except Unreadable as unreadable:
            self._noise(line, f"an answer that cannot be read ({unreadable.why})")
            data = unreadable_answer(unreadable)
        if data is not None:
            self.say(data if self._tool_filter.open else self._tool_filter.passed(data))
        elif line.data.strip():
            self._noise(line, "not JSON-RPC" if line.whole else f"more than {LINE_BYTES} bytes in one line")

    def say(self, data: bytes) -> None:
        """A message to the endpoint, of the server or in its name."""
        if self.provider is not None:
            self.provider.receive(self.provider, data, self._loop.time(), True)

    def ping(self) -> None:
        """Its death is seen at once; there is nothing to ask."""

    def close(self, code: int, reason: str) -> None:
        """End this process."""
        self.closed.set()


class Managed:
    """One server that is kept running. Made, started and stopped by its room; knows of no endpoint but its own."""

    def __init__(
        self, server: Server, broker: Broker, ring: CredentialStore | None = None, *, draw: Callable[[], float] = random.random
    ) -> None:
        """`ring` gives a key for each process where the entry asks for one; `draw` gives the lot of `Backoff`."""
        self.server = server
        self._broker = broker
        self._ring = ring
        self._draw = draw
        self._loop = asyncio.get_running_loop()
        self._key: Credential | None = None
        self._entry_mask = mask(server)
        self._tool_filter = ToolFilter(server.allow, server.deny, server.tools, server.name)
        self._words = StderrTail(self._mask, lambda line: logger.debug("工具进程的 stderr / its stderr: {}", line, server=server.name))
        self._task: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self._link: _Lifeline | None = None
        self._state: State = "off"
        self._since = self._loop.time()
        self._why = ""
        self._last_error = ""
        self._starts = 0

    async def start(self) -> None:
        """Begin; does not wait for the server."""
        self._task = self._loop.create_task(self._keep())

    async def stop(self) -> None:
        """End the process, within a few seconds; it is not started again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        self._move("off", "")

    def change_tools(self, server: Server) -> None:
        """Its entry is now `server`, which differs in `tools` alone: the process goes on, and its list is asked for anew."""
        self.server = server
        self._tool_filter.change(server.tools)
        if self._link is not None:
            self._link.say(jsonrpc.notification(methods.TOOLS_CHANGED))

    @property
    def session(self) -> int | None:
        """The session of its processes, for `usage`; None while there is none."""
        return None if self._child is None else self._child.session

    def describe(self, used: Usage | None = None) -> dict[str, Any]:
        """What an operator may know of it, ready for JSON; no secret is in it, and none of its arguments."""
        assert self.server.command is not None
        found: dict[str, Any] = {
            "state": self._state,
            "seconds": round(self._loop.time() - self._since, 1),
            "program": self._mask(os.path.basename(self.server.command.program)),
            "starts": self._starts,
            "why": self._why,
            "last_error": self._last_error,
            "said": self._words.last(SAID_SHOWN),
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
            except Exception as error:  # noqa: BLE001 - a fault of ours ends one life of the process, never its supervision
                logger.opt(exception=error).error("监管工具进程时出错 / the supervision of its process failed", server=self.server.name)
                en, zh = f"internal error: {type(error).__name__}", f"内部错误：{type(error).__name__}"
            wait = backoff.wait(self._loop.time() - began)
            why = f"{zh} / {en}"
            said = {"last_words": words[-1]} if (words := self._words.last(1)) else {}
            if backoff.failures >= CRASHES:
                self._move("stopped", why)
                logger.error(
                    "{}；已连续失败多次，不再启动 / {}; failed again and again, left alone", zh, en, server=self.server.name, **said
                )
                return
            self._move("waiting", why)
            logger.warning("{}，{:.1f} 秒后重启 / {}, started again in {:.1f} s", zh, wait, en, wait, server=self.server.name, **said)
            await asyncio.sleep(wait)

    async def _live(self) -> tuple[str, str]:
        """One process from its start to its end; why it ended, in English and Chinese."""
        assert self.server.command is not None
        self._tool_filter.begin()
        link = _Lifeline(self._tool_filter, self._noise, self._loop)
        try:
            child = await Child.start(self._command(self.server.command), self._words.hear, link.hear)
        except EndpointError as error:
            return self._mask(error.en), self._mask(error.zh)
        close_reason = GOING_AWAY
        try:
            self._child, self._link = child, link
            self._starts += 1
            # It may be greeted at once, and so needs its child before there is a provider.
            link.joins(child)
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
        """What to start, with the next key in its environment where the entry asks for one. Raises EndpointError if there is none left."""
        if self._ring is None:
            return command
        self._key = self._ring.pool.take(self._loop.time())
        if self._key is None:
            _, en, zh = self._ring.none_left()
            raise EndpointError(en, zh)
        return replace(command, env={**command.env, self.server.place.removeprefix("env:"): self._key.secret})

    def _mask(self, text: str) -> str:
        """`text` without the secrets of the entry, and without the key of this life."""
        text = self._entry_mask(text)
        return text if self._key is None else text.replace(self._key.secret, BLOT)

    async def _carry(self, child: Child, link: _Lifeline) -> tuple[CloseReason, tuple[str, str]]:
        mute = self._loop.create_task(child.silence())
        dead = self._loop.create_task(child.exited.wait())
        closed = self._loop.create_task(link.closed.wait())
        try:
            if not await self._ends(child, {mute, dead, closed}):
                return NOT_READING, ("its process does not read what it is sent", "工具进程没有读取发给它的数据")
            if not closed.done():
                await asyncio.wait((mute, dead), timeout=LAST_WORDS_SECONDS)
        finally:
            for task in (mute, dead, closed):
                task.cancel()
            await asyncio.wait((mute, dead, closed))
        if child.exited.is_set():
            ended = CloseReason(TOOL_ENDED.code, f"{TOOL_ENDED.reason} (status {child.status})")
            return ended, (f"its process ended (status {child.status})", f"工具进程已退出（状态 {child.status}）")
        return TOOL_ENDED, ("its process closed its output", "工具进程关闭了输出")

    async def _ends(self, child: Child, signs: set[asyncio.Task[Any]]) -> bool:
        """Returns True with the first of the signs, False when the process has not read anything for too long with its queue full."""
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
        """What is no message is not handed on: what a server prints may hold its secrets, and the endpoint knows none of them."""
        self._broker.counters.noise += 1
        self._words.hear(b"[stdout, %b] %b\n" % (what.encode(), line.data))


def sessions(kept: Collection[Managed]) -> set[int]:
    """The sessions whose `usage` is worth knowing."""
    return {one.session for one in kept if one.session is not None}
