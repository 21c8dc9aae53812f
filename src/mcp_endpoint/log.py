"""The log: one line per event, to the console and to a rotating file, with no secret in it.

Peers choose much of what is logged, so every control character, line break and change of writing direction is written
as an escape, long texts are cut, and whatever looks like a token, a key or a password is blotted out as a last net.
Positional arguments belong into the message; keyword arguments and `logger.bind` become fields behind it (text) or keys
of their own (json). Only `[server] debug` adds lines: tracebacks, each behind a bar that no peer can write at a line's start.
"""

from __future__ import annotations

import json
import logging as stdlib
import re
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TextIO

from loguru import logger

from mcp_endpoint.config import Logging, Server

if TYPE_CHECKING:
    from loguru import Message, Record

TEXT_CHARS: Final = 8_192
"""Longest message, and longest text of one field, in characters; what is beyond is cut and counted."""
BLOT: Final = "***"

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
        # The shape of a xiaozhi token standing alone; hashes in hex are no secret.
        (r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]{43}=|(?![0-9A-Fa-f]+(?![A-Za-z0-9+/]))[A-Za-z0-9+/]{64,}={0,2})", BLOT),
    )
)
_QUERY: Final = re.compile(r"(?<=\S)\?[^\s\"']+")


def setup(logging: Logging, server: Server, stream: TextIO) -> Callable[[], None]:
    """Send loguru's lines, and those of uvicorn, asyncio and other users of the standard library, to `stream` and the log file.

    Gives back what undoes it. A log file that cannot be opened is a warning on `stream`, not an end.
    """
    level = "DEBUG" if server.debug and logger.level(server.log_level).no > logger.level("DEBUG").no else server.log_level
    logger.remove()
    undo: list[Callable[[], object]] = []

    def add(sink: Any, **options: Any) -> None:
        form = _form(logging.format == "json", server)
        handler = logger.add(sink, level=level, format=form, colorize=False, backtrace=False, diagnose=False, **options)
        undo.append(lambda: logger.remove(handler))

    add(stream)
    if logging.log_file:
        # loguru reads braces in a path as a format
        path = logging.log_file.replace("{", "{{").replace("}", "}}")
        try:
            add(path, rotation=_full(logging.max_file_size), retention=logging.backup_count, encoding="utf-8")
        except OSError as error:
            logger.warning("日志文件无法写入 / the log file cannot be written: {}", error)
    undo.append(_take_over(logger.level(level).no))

    def end() -> None:
        while undo:
            undo.pop()()

    return end


def escape(text: str) -> str:
    """`text` on one line, without anything that moves a terminal's cursor: such characters become `\\n`, `\\x1b`, `\\u202e`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def redact(text: str, key: str = "") -> str:
    """`text` with `key` and whatever looks like a token, a key, a password or an Authorization header blotted out."""
    if key:
        text = text.replace(key, BLOT)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _form(as_json: bool, server: Server) -> Callable[[Record], str]:
    """loguru's formatter: puts the finished line into `extra` and names it, so that no brace in it means anything."""

    def clean(text: str) -> str:
        cut = f"{text[:TEXT_CHARS]}…(+{len(text) - TEXT_CHARS})" if len(text) > TEXT_CHARS else text
        return escape(redact(cut, server.key))

    def form(record: Record) -> str:
        # A field's name and value are read together, so that `token=…` is seen for what it is.
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
    """The lines of an exception: all of the traceback when debugging, else what it was and where."""
    error = record["exception"]
    if error is None or error.value is None:
        return []
    if debug:
        return "".join(traceback.format_exception(error.value)).splitlines()
    frames = traceback.extract_tb(error.traceback)[-1:]
    said = "".join(traceback.format_exception_only(error.value)).strip()
    return [said + "".join(f" ({frame.filename}:{frame.lineno})" for frame in frames)]


def _full(size: int) -> Callable[[Message, TextIO], bool]:
    """Whether the next line would make the file bigger than `size` bytes (loguru's own rule counts characters)."""
    return lambda message, file: file.seek(0, 2) + len(message.encode()) > size


class _Intake(stdlib.Handler):
    """Hands the standard library's records to loguru."""

    def emit(self, record: stdlib.LogRecord) -> None:
        message = record.getMessage()
        if record.name.startswith("uvicorn"):
            message = _QUERY.sub("", message)
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.opt(exception=record.exc_info).log(level, "{}: {}", record.name, message)


def _take_over(level: int) -> Callable[[], None]:
    """Make the standard library's root logger ours, and uvicorn's loggers its children; gives back what undoes it."""
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
