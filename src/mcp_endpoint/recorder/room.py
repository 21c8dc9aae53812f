"""Keeps the writer process running, sends it the events of the queue, and counts the results.

The writer is a process of its own: on a thread, redacting and storing would take the time of the loop (measured: 2.2 times the time of a
round trip, as against 1.1). It may die, stop, or find the disk full: then records are lost and counted, and calls go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import random
import secrets
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from loguru import logger
from starlette.requests import Request
from starlette.routing import BaseRoute

from ..backoff import Backoff
from ..errors import EndpointError
from ..settings.schema import Limits
from ..settings.schema import Recorder as Settings
from .batch import BATCH_BYTES, SECRETS, Hello, Told, decode_told, frame
from .queue import Queue
from .store import Lock
from .taps import Taps

STOP_SECONDS: Final = 5.0
"""How long the writer may take at the end for what is still on its way."""
TICK_SECONDS: Final = 5.0
"""How often the writer is asked for what is due, when nothing else is said: its checkpoint, and what is too old."""
START_SECONDS: Final = 30.0
"""How long a writer may take to open its file."""
LINE_BYTES: Final = 64 * 1024


class _Pipes(asyncio.SubprocessProtocol):
    """The near ends of the writer's pipes."""

    def __init__(self, hear: Callable[[bytes], None], deaf: Callable[[], None]) -> None:
        """`deaf` is told when it reads no more."""
        self._hear = hear
        self._deaf = deaf
        self._rest = b""
        self.ended = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:LINE_BYTES]
        for line in lines:
            self._hear(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            self._deaf()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is dead, and all it said has been heard."""
        self.ended.set()


class Recorder:
    """The room."""

    name = "recorder"
    owed = 0

    def __init__(
        self,
        settings: Settings,
        limits: Limits,
        path: Path,
        key: bytes,
        known: Callable[[], Collection[str]],
        clock: Callable[[], float],
        logs: Path | None = None,
    ) -> None:
        """`path` is the file of records, `logs` the folder of log files if there are any, `key` the server's, `known` gives the secrets it
        knows now, `clock` is the broker's.
        """
        self.path = path
        self._settings = settings
        self._limits = limits
        self._logs = "" if logs is None else str(logs)
        self._key = hmac.digest(key, b"recorder", "sha256") if key else secrets.token_bytes(32)
        self._known = known
        self._loop = asyncio.get_running_loop()
        self._run_name = secrets.token_hex(8)
        self._queue = Queue(limits.record_queue_bytes, BATCH_BYTES, time.time, self._wake, self._unsent)
        self.taps = Taps(self._queue, settings.endpoints, clock, time.time, limits.record_call_bytes, limits.record_body_bytes)
        self.on_newest: Callable[[int], None] = lambda id: None
        """Is told the id of the newest record when there are new ones in the file: readers need not ask."""
        self.on_told: Callable[[], None] = lambda: None
        """Is told when the writer has said something."""
        self.newest = 0
        self.written = 0
        self.restarts = 0
        self.trouble = ""
        self.writer: int | None = None
        """The number of its process while it runs."""
        self._file_bytes = 0
        self._lock: Lock | None = None
        self._task: asyncio.Task[None] | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._ready = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._number = 0
        self._sent: deque[tuple[int, int, tuple[float, float, int] | None]] = deque()
        """What the writer has not told of: number of the batch, how many records, and the gap in it."""
        self._said: frozenset[str] = frozenset()
        self._tick: asyncio.TimerHandle | None = None
        self._stopping = asyncio.Event()

    # -- the room ----------------------------------------------------------------------------------------------------------

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """None: what was recorded is shown elsewhere."""
        return ()

    def refuses_pages(self, request: Request) -> bool:
        """It has no paths."""
        return False

    async def start(self) -> None:
        """Take the file, and start the writer; what is seen meanwhile waits. Raises EndpointError when another server has the file."""
        try:
            self._lock = Lock(self.path)
        except OSError as error:
            raise EndpointError(
                f"[recorder] file {self.path} cannot be written: {error.strerror}; set another one",
                f"[recorder] file {self.path} 无法写入：{error.strerror}；请另设一个",
            ) from error
        if self._settings.raw:
            logger.warning("记录中不隐藏任何密钥（[recorder] raw）/ records are kept with all secrets in them ([recorder] raw)")
        self._task = self._loop.create_task(self._keep_running())

    async def stop(self) -> None:
        """Hand over what waits, and let the writer finish it."""
        self._stopping.set()
        if self._stdin is not None and self._queue.has:  # it may not have opened its file yet
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), STOP_SECONDS)
        self._flush()
        for timer in (self._timer, self._tick):
            if timer is not None:
                timer.cancel()
        if self._task is not None:
            if self._stdin is None:
                self._task.cancel()
            else:
                self._stdin.close()
            done, _ = await asyncio.wait((self._task,), timeout=STOP_SECONDS)
            if not done:
                self._task.cancel()
                await asyncio.wait((self._task,))
        self._lose_sent()
        while self._queue.has:
            self._queue.forget(self._queue.take()[1])
        if self._lock is not None:
            self._lock.release()

    def describe(self) -> Mapping[str, Any]:
        """What is recorded, and what is not."""
        return {
            "file": str(self.path),
            "writer": self.writer,
            "newest": self.newest,
            "trouble": self.trouble,
            "raw": self._settings.raw,
            **self.counters(),
            **self.gauges(),
        }

    def counters(self) -> dict[str, int]:
        """Counters for `/metrics`."""
        return {
            "records_written": self.written,
            "records_dropped": self._queue.dropped,
            "records_truncated": self._queue.truncated,
            "writer_restarts": self.restarts,
        }

    def gauges(self) -> dict[str, int]:
        """Gauges for `/metrics`."""
        return {"record_queue_bytes": self._queue.bytes + self._unsent(), "record_file_bytes": self._file_bytes}

    @property
    def seen(self) -> int:
        """Records that were offered since the start: written, dropped, or on their way."""
        return self._queue.seen

    # -- the writer --------------------------------------------------------------------------------------------------------

    async def _keep_running(self) -> None:
        backoff = Backoff(random.random)
        while not self._stopping.is_set():
            began = self._loop.time()
            try:
                await self._run_one()
            except Exception:  # noqa: BLE001 - the task's boundary: the next writer may do better
                logger.exception("记录进程出错 / the writer of records failed")
            if self._stopping.is_set():
                break
            self.restarts += 1
            wait = backoff.wait(self._loop.time() - began)
            logger.warning("记录进程已退出，将重新启动 / the writer of records ended and is started again", seconds=round(wait, 1))
            await asyncio.sleep(wait)

    async def _run_one(self) -> None:
        pipes = _Pipes(self._hear, self._went_deaf)
        package = Path(__file__).parents[2]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH", ""))))}
        # A session of its own, so that Ctrl-C in a terminal is the server's alone.
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        transport, _ = await self._loop.subprocess_exec(
            lambda: pipes, sys.executable, "-P", "-m", "mcp_endpoint.recorder.writer", stderr=None, env=environment, **apart
        )
        try:
            self.writer = transport.get_pid()
            stdin = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
            self._stdin = stdin
            settings = self._settings
            hello = Hello(
                self._run_name,
                str(self.path),
                settings.keep_bytes,
                settings.keep_days,
                settings.raw,
                self._key,
                list(settings.redact),
                self._logs,
            )
            self._said = frozenset()
            stdin.writelines(frame(hello))
            waiting = asyncio.ensure_future(self._ready.wait())
            ended = asyncio.ensure_future(pipes.ended.wait())
            try:
                await asyncio.wait((waiting, ended), timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if self._ready.is_set():
                    await ended
            finally:
                waiting.cancel()
                ended.cancel()
        finally:
            self.writer = None
            self._went_deaf()
            if not pipes.ended.is_set():
                with contextlib.suppress(ProcessLookupError):
                    transport.kill()
            transport.close()

    def _went_deaf(self) -> None:
        self._ready.clear()
        self._stdin = None

    def _hear(self, line: bytes) -> None:
        try:
            told = decode_told(line)
        except msgspec.DecodeError:
            return
        self._file_bytes = told.bytes or self._file_bytes
        self._tell_trouble(told.trouble)
        if not self._ready.is_set():
            # What an earlier writer of this run had stored before it died, without having said so.
            self._settle_until(told.batch)
            self._lose_sent()
            self._ready.set()
            self._flush()
            self._schedule_tick()
        else:
            self._settle(told)
        if told.newest != self.newest:
            self.newest = told.newest
            self.on_newest(told.newest)
        self.on_told()

    def _settle(self, told: Told) -> None:
        """A batch is done with; one before it that nobody told of was not understood, and is lost."""
        while self._sent and self._sent[0][0] < told.batch:
            self._lose_batch()
        if not self._sent or self._sent[0][0] != told.batch:
            return
        _, count, gap = self._sent.popleft()
        self.written += told.stored
        self._queue.lose(count - told.stored)
        if gap is not None and told.trouble:
            self._queue.reopen(*gap)

    def _settle_until(self, number: int) -> None:
        while self._sent and self._sent[0][0] <= number:
            self.written += self._sent.popleft()[1]

    def _lose_sent(self) -> None:
        """Nobody will ever tell of what was on its way."""
        while self._sent:
            self._lose_batch()

    def _lose_batch(self) -> None:
        """The first of them."""
        _, count, gap = self._sent.popleft()
        self._queue.lose(count)
        if gap is not None:
            self._queue.reopen(*gap)

    def _tell_trouble(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            if trouble:
                logger.warning("记录未能写入，调用不受影响 / records cannot be written, calls go on: {}", trouble)
            else:
                logger.info("记录恢复写入 / records are written again")

    # -- the pipe ----------------------------------------------------------------------------------------------------------

    def _unsent(self) -> int:
        return 0 if self._stdin is None else self._stdin.get_write_buffer_size()

    def _wake(self, whole: bool) -> None:
        """Something waits: hand it on now, or a moment later."""
        if not self._ready.is_set():
            return
        if whole:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._limits.record_batch_seconds, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._ready.is_set() and self._queue.has:
            self._hand_over()

    def _hand_over(self) -> None:
        """One batch into the pipe."""
        stdin = self._stdin
        assert stdin is not None, "the writer is ready"
        known = frozenset(self._known())
        items, count, gap = self._queue.take()
        if known != self._said:
            self._said = known
            items.insert(0, (SECRETS, sorted(known)))
        self._number += 1
        try:
            parts = frame((self._number, items))
        except (UnicodeEncodeError, OverflowError, TypeError):
            logger.warning("一批记录无法传送，已丢弃 / a batch of records cannot be handed over and is dropped", records=count)
            self._queue.lose(count)
            if gap is not None:
                self._queue.reopen(*gap)
            return
        self._sent.append((self._number, count, gap))
        stdin.writelines(parts)

    def _schedule_tick(self) -> None:
        if not self._stopping.is_set():
            self._tick = self._loop.call_later(TICK_SECONDS, self._beat)

    def _beat(self) -> None:
        """Ask for what is due; a writer that does not read is not asked again and again."""
        if self._ready.is_set():
            if not self._sent:
                self._hand_over()
            self._schedule_tick()
