"""Validates arguments against a tool's JSON Schema in a separate process, so that a slow validation blocks nobody.

Both schema and arguments come from outside: multiplying references, catastrophic regular expressions and large enumerations can keep a
validator busy indefinitely. What is too large, cannot be decided in time, or arrives while too much waits, is left to the tool, which
validates its arguments anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

from loguru import logger

from .schema_check import QUESTION, VERDICT

PROGRAM: Final = Path(__file__).with_name("schema_check.py")
START_SECONDS: Final = 10.0
"""Time for the process to start; callers do not wait longer."""
WAIT_SECONDS: Final = 1.0
"""Time a call waits for its verdict once the process runs: several checks at their time limit."""
HANG_SECONDS: Final = 2.0
"""A process without an answer after this time is killed: its own timer (0.2 s of work) has failed."""
QUEUED: Final = 16
"""Most bytes that may wait for the process, as a multiple of `checked_bytes`."""


class InvalidArguments(Exception):
    """The arguments do not match the tool's schema."""


class _CheckRequest(NamedTuple):
    definition: bytes
    arguments: bytes
    verdict: asyncio.Future[str]

    @property
    def size(self) -> int:
        return len(self.definition) + len(self.arguments)


class Checker:
    """The validating process and its queue. It is started with the first check, and again after it was lost."""

    def __init__(self, checked_bytes: int) -> None:
        """Definitions and arguments above `checked_bytes` are not checked."""
        self._largest = checked_bytes
        self._waiting: deque[_CheckRequest] = deque()
        self._waiting_bytes = 0
        self._work: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._ready = False
        self._unable = False

    async def check(self, definition: bytes, arguments: bytes) -> None:
        """Raise InvalidArguments if `arguments` (JSON) do not match the schema in the tool's `definition` (JSON)."""
        question = _CheckRequest(definition, arguments, asyncio.get_running_loop().create_future())
        too_much = self._waiting_bytes + question.size > QUEUED * self._largest
        if self._unable or too_much or max(len(definition), len(arguments)) > self._largest:
            return
        self._waiting.append(question)
        self._waiting_bytes += question.size
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer_all())
        try:
            async with asyncio.timeout(START_SECONDS if not self._ready else WAIT_SECONDS):
                why = await question.verdict
        except TimeoutError:
            return
        if why:
            raise InvalidArguments(why)

    async def stop(self) -> None:
        """End the process; what waits is not checked."""
        self._unable = True
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait((self._work,))
        await self._end()

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                question = self._waiting.popleft()
                self._waiting_bytes -= question.size
                if not question.verdict.done():  # the call has given up waiting
                    verdict = await self._request_verdict(question)
                    if not question.verdict.done():
                        question.verdict.set_result(verdict)
        finally:
            for question in self._waiting:
                if not question.verdict.done():
                    question.verdict.set_result("")
            self._waiting.clear()
            self._waiting_bytes = 0

    async def _request_verdict(self, question: _CheckRequest) -> str:
        process = self._process or await self._started()
        if process is None or process.stdin is None:
            return ""
        try:
            async with asyncio.timeout(HANG_SECONDS):
                head = QUESTION.pack(len(question.definition), len(question.arguments))
                process.stdin.writelines((head, question.definition, question.arguments))
                await process.stdin.drain()
                return await self._verdict(process)
        except (OSError, EOFError):
            await self._end()
            return ""

    async def _started(self) -> Process | None:
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", str(PROGRAM)), stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
            )
            self._process = process
            async with asyncio.timeout(START_SECONDS):
                await self._verdict(process)
        except (OSError, EOFError) as error:  # includes TimeoutError
            await self._end()
            self._unable = not isinstance(error, TimeoutError)
            logger.warning("参数检查程序无法启动，参数由工具自己检查 / arguments are not validated here", reason=type(error).__name__)
            return None
        self._ready = True
        return process

    @staticmethod
    async def _verdict(process: Process) -> str:
        assert process.stdout is not None
        (length,) = VERDICT.unpack(await process.stdout.readexactly(VERDICT.size))
        return (await process.stdout.readexactly(length)).decode()

    async def _end(self) -> None:
        process, self._process = self._process, None
        self._ready = False
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
