"""`mcp-endpoint record`: runs an MCP server on stdin and stdout as its client would, and writes each message to a file.

The client sees the server's bytes and its exit code; a message is sent on before it is written. What cannot be written is told once, on
stderr, and the server goes on.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from types import FrameType
from typing import Final

from ..errors import EndpointError
from ..line_writer import write_all
from ..providers.process.child import LINE_BYTES, Lines
from ..recorder.files import Messages, trim
from ..recorder.records import Raw
from ..recorder.redact import Redactor
from ..settings.schema import Config

READ_BYTES: Final = 64 * 1024
SCRIPTS: Final = (".py", ".js", ".mjs", ".cjs", ".ts")
"""Endings of the argument that names a server."""

Report = Callable[[str], None]


def label_of(argv: Sequence[str]) -> str:
    """The name of a server: its script, else its program. `weather_server.py` is `weather`."""
    script = next((argument for argument in argv[1:] if argument.endswith(SCRIPTS)), argv[0])
    return PurePath(script).stem.removesuffix("_server").removesuffix("-server")


class Leg:
    """One direction: bytes are forwarded at once, and recorded line by line."""

    def __init__(self, messages: Messages, direction: str, report: Report) -> None:
        self._messages = messages
        self._direction = direction
        self._report = report
        self._lines = Lines(LINE_BYTES)
        self._writes = True

    def carry(self, read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
        """Forward until the input ends. Raises OSError if the output is closed."""
        while data := read(READ_BYTES):
            write(data)
            for line in self._lines.feed(data):
                self._write(line.data)
        for line in self._lines.last():
            self._write(line.data)

    def _write(self, line: bytes) -> None:
        if not self._writes:
            return
        try:
            self._messages.write(time.time(), self._direction, line)
        except OSError as error:
            self._writes = False
            reason = error.strerror or type(error).__name__
            self._report(f"消息不再写入文件：{reason} / messages are not written any more: {reason}")


def run(argv: Sequence[str], messages: Messages, report: Report) -> int:
    """Run the server until it ends; its exit code, or 128 and the signal that ended it. Raises EndpointError if it cannot be started."""
    try:
        child = subprocess.Popen(list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise EndpointError(f"{argv[0]!r} cannot be started: {reason}", f"无法启动 {argv[0]!r}：{reason}") from error
    assert child.stdin is not None
    assert child.stdout is not None
    _hand_on_signals(child)
    # A thread of its own, on a file object of its own: it may wait for the client when the server has ended.
    stdin = io.FileIO(sys.stdin.fileno(), closefd=False)
    threading.Thread(target=_to_server, args=(stdin, child, Leg(messages, "request", report)), daemon=True).start()
    stdout, source = sys.stdout.fileno(), child.stdout.fileno()
    with contextlib.suppress(OSError):  # the client closed its end; the server notices as it would without us
        Leg(messages, "response", report).carry(lambda most: os.read(source, most), lambda data: write_all(stdout, data))
    child.stdout.close()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _to_server(stdin: io.FileIO, child: subprocess.Popen[bytes], leg: Leg) -> None:
    assert child.stdin is not None
    target = child.stdin.fileno()
    with contextlib.suppress(OSError):  # the server closed its end
        leg.carry(lambda most: stdin.read(most) or b"", lambda data: write_all(target, data))
    with contextlib.suppress(OSError):
        child.stdin.close()


def _hand_on_signals(child: subprocess.Popen[bytes]) -> None:
    """Forward SIGTERM and SIGHUP to the server. Ctrl-C reaches it without us, and it decides what to do."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            child.send_signal(number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, hand_on)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hand_on)


def opened(root: Path, config: Config, label: str, *, raw: bool) -> Messages:
    """The file of this session, below logs/ in `root`; the oldest files are deleted. Raises EndpointError if it cannot be made."""
    logs, keep = root / "logs", config.recorder
    # Without a server key, equal secrets get the same mark within one session only.
    rules = Raw() if raw else Redactor(config.server.key.encode() or secrets.token_bytes(), keep.redact, [config.server.key])
    try:
        trim(logs, keep.keep_bytes, keep.keep_days, time.time())
        return Messages(logs, label, rules, time.time())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise EndpointError(
            f"{logs} cannot be written: {reason}; give another folder with --root",
            f"无法写入 {logs}：{reason}；请用 --root 指定其他文件夹",
        ) from error
