"""Logging: one line per event to the console and a rotating file, without secrets; logging never blocks the caller.

Peers control much of what is logged. So control characters, line breaks and bidirectional characters are escaped, long texts are cut, and
whatever looks like a token, a key or a password is masked as a last safeguard.
Positional arguments belong to the message; keyword arguments and `logger.bind` become fields after it (text) or keys (json). Only
`[server] debug` adds lines: tracebacks, each line with a prefix that no peer can write at the start of a line.
"""

from __future__ import annotations

import json
import logging as stdlib
import re
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from loguru import logger

from .line_writer import LineWriter, RotatingFile, Sink, StreamSink
from .settings.schema import Logging, Server

if TYPE_CHECKING:
    from loguru import Record

TEXT_CHARS: Final = 8_192
"""Most characters of a message and of a field; the rest is cut and counted."""
BLOT: Final = "***"
CUT_SHORT: Final = "ASGI callable returned without completing response."
"""An error in uvicorn's view that this server causes on purpose: the connection is closed so that no client takes half a response for
a whole one. Its cause has been logged."""
CUT_OFF: Final = "Cancel %s running task(s), timeout graceful shutdown exceeded"
"""The same: a connection that did not finish its closing handshake in time is cut."""
WHOSE_DEBUG: Final = ("uvicorn", "asyncio")
"""Libraries whose debug lines are taken. Those of HTTP and WebSocket libraries hold headers and frames, with the secrets in them."""
LINES_A_MINUTE: Final = 10
"""Most lines per minute about one subject, such as an event of one endpoint."""
THINGS_COUNTED: Final = 4096
"""Most subjects that are counted at a time; the oldest is dropped first."""

# Line breaks, C0, DEL, C1, Unicode line ends, direction marks and overrides, byte order mark, lone surrogates.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_SECRETS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"(\bauthorization[\"']?\s{0,4}(?:[=:]|%3d)\s{0,4}[\"']?)(?:(?:bearer|basic)\s{1,4})?[^\s\"',;]+", rf"\1{BLOT}"),
        (r"(\bbearer\s{1,4})[^\s\"',;]+", rf"\1{BLOT}"),
        (
            r"((?<![A-Za-z0-9_-])[A-Za-z0-9_-]{0,32}(?:token|key|secret|password|jwt)[\"']?\s{0,4}(?:[=:]|%3d)\s{0,4}[\"']?)[^\s\"'&,;<>)}\]]+",
            rf"\1{BLOT}",
        ),
        (r"\bmep1\.[A-Za-z0-9_.%=-]+", f"mep1.{BLOT}"),
        (r"\bsk-[A-Za-z0-9_-]{8,}", f"sk-{BLOT}"),
        (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?", BLOT),
        # The shape of a xiaozhi token; hexadecimal hashes are not secret.
        (r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]{43}=|(?![0-9A-Fa-f]+(?![A-Za-z0-9+/]))[A-Za-z0-9+/]{64,}={0,2})", BLOT),
    )
)
_QUERY: Final = re.compile(r"(?<=\S)\?[^\s\"']+")


def setup(logging: Logging, server: Server, stream: TextIO | None) -> Callable[[], None]:
    """Route the logs of loguru, uvicorn, asyncio and the standard library to `stream` and the log file.

    Returns a function that undoes it and waits briefly for the last lines to be written. A log file that cannot be opened is only a warning
    on `stream`; without a `stream` (closed) only the file is used.
    """
    level = "DEBUG" if server.debug and logger.level(server.log_level).no > logger.level("DEBUG").no else server.log_level
    as_json = logging.format == "json"
    logger.remove()
    undo: list[Callable[[], object]] = []

    def add(sink: Sink, zh: str, en: str) -> None:
        writer = lines_to(sink, logging, zh, en, _missing(as_json))
        undo.append(writer.close)
        form = _form(as_json, server)
        handler = logger.add(writer.write, level=level, format=form, colorize=False, backtrace=False, diagnose=False)
        undo.append(lambda: logger.remove(handler))

    # The console first, and ended last: errors of the file are logged there.
    if stream is not None:
        add(StreamSink(stream), "控制台", "the console")
    if logging.log_file:
        try:
            add(RotatingFile(Path(logging.log_file), logging.max_file_size, logging.backup_count), "日志文件", "the log file")
        except OSError as error:
            _report_to_log("日志文件", "the log file")(error)
    undo.append(_take_over(logger.level(level).no))

    def end() -> None:
        while undo:
            undo.pop()()

    return end


def lines_to(sink: Sink, logging: Logging, zh: str, en: str, missing: Callable[[int], str] = lambda lines: "") -> LineWriter:
    """A line writer that logs its errors; `zh` and `en` name its target, `missing` makes the line that replaces lost lines."""
    return LineWriter(sink, logging.queue_size, missing, _report_to_log(zh, en))


class LineQuota:
    """Limits the log lines about one subject to a number per minute."""

    def __init__(self, clock: Callable[[], float], lines: int = LINES_A_MINUTE) -> None:
        """`clock` returns seconds."""
        self._clock = clock
        self._most = lines
        self._minutes: dict[tuple[str, ...], tuple[float, int]] = {}
        """Subject → start of its minute, and number of events since."""

    def take(self, *thing: str) -> dict[str, int] | None:
        """Count an event; returns extra fields for its line (how many lines were left out before), or None if it must be left out."""
        now = self._clock()
        began, times = self._minutes.get(thing, (now, 0))
        left_out = 0
        if now - began >= 60:
            left_out = max(0, times - self._most)
            began, times = now, 0
        if thing not in self._minutes and len(self._minutes) >= THINGS_COUNTED:
            del self._minutes[next(iter(self._minutes))]
        self._minutes[thing] = began, times + 1
        if times >= self._most:
            return None
        return {"not_told": left_out} if left_out else {}


def escape(text: str) -> str:
    """`text` on one line; characters that could control a terminal are escaped as `\\n`, `\\x1b`, `\\u202e`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def redact(text: str, key: str = "") -> str:
    """`text` with `key` and everything that looks like a token, key, password or Authorization header masked."""
    if key:
        text = text.replace(key, BLOT)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _form(as_json: bool, server: Server) -> Callable[[Record], str]:
    """loguru's formatter: stores the finished line in `extra` and refers to it, so that braces in it have no effect."""

    def clean(text: str) -> str:
        cut = f"{text[:TEXT_CHARS]}…(+{len(text) - TEXT_CHARS})" if len(text) > TEXT_CHARS else text
        return escape(redact(cut, server.key))

    def form(record: Record) -> str:
        # A field's name and value are masked together, so that `token=…` is recognised.
        fields = {name: clean(f"{name}={value}") for name, value in record["extra"].items() if name != "line"}
        time = record["time"].isoformat(timespec="milliseconds")
        level, message = record["level"].name, clean(record["message"])
        trace = [clean(line) for line in _trace(record, server.debug)]
        if as_json:
            event: dict[str, object] = {"time": time, "level": level, "message": message}
            for name, text in fields.items():
                value = record["extra"][name]
                event[name] = value if isinstance(value, int) else text.partition("=")[2]
            record["extra"]["line"] = json.dumps(event | ({"exception": trace} if trace else {}), ensure_ascii=False)
        else:
            head = " ".join((f"{time} {level:<8} {message}", *fields.values()))
            record["extra"]["line"] = "\n    | ".join((head, *trace)) if server.debug else ": ".join((head, *trace))
        return "{extra[line]}\n"

    return form


def _trace(record: Record, debug: bool) -> list[str]:
    """The lines of an exception: the whole traceback in debug mode, else type, message and place."""
    error = record["exception"]
    if error is None or error.value is None:
        return []
    if debug:
        return "".join(traceback.format_exception(error.value)).splitlines()
    frames = traceback.extract_tb(error.traceback)[-1:]
    said = "".join(traceback.format_exception_only(error.value)).strip()
    return [said + "".join(f" ({frame.filename}:{frame.lineno})" for frame in frames)]


def _missing(as_json: bool) -> Callable[[int], str]:
    """Returns a function that makes the line in place of lost lines."""

    def line(lines: int) -> str:
        time = datetime.now().astimezone().isoformat(timespec="milliseconds")
        message = f"{lines} 行日志未能写入 / {lines} lines were not written"
        if as_json:
            return json.dumps({"time": time, "level": "WARNING", "message": message, "lines": lines}, ensure_ascii=False) + "\n"
        return f"{time} {'WARNING':<8} {message}\n"

    return line


def _report_to_log(zh: str, en: str) -> Callable[[Exception], None]:
    return lambda error: logger.warning("{}无法写入 / {} cannot be written: {}", zh, en, error)


class _Intake(stdlib.Handler):
    """Passes records of the standard library to loguru."""

    def emit(self, record: stdlib.LogRecord) -> None:
        if record.levelno < stdlib.INFO and record.name.partition(".")[0] not in WHOSE_DEBUG:
            return
        message = record.getMessage()
        if record.name.startswith("uvicorn"):
            message = _QUERY.sub("", message)
        try:
            level: str | int = "DEBUG" if record.msg in (CUT_SHORT, CUT_OFF) else logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.opt(exception=record.exc_info).log(level, "{}: {}", record.name, message)


def _take_over(level: int) -> Callable[[], None]:
    """Attach to the root logger of the standard library and let uvicorn's loggers propagate to it; returns a function that undoes it."""
    root, intake = stdlib.getLogger(), _Intake()
    before = root.level
    children = [(child, child.handlers, child.propagate) for child in map(stdlib.getLogger, ("uvicorn", "uvicorn.error", "uvicorn.access"))]
    root.addHandler(intake)
    root.setLevel(level)
    for child, _, _ in children:
        child.handlers, child.propagate = [], True

    def back() -> None:
        root.removeHandler(intake)
        root.setLevel(before)
        for child, handlers, propagate in children:
            child.handlers, child.propagate = handlers, propagate

    return back
