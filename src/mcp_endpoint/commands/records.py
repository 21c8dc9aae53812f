"""`mcp-endpoint tail` and `mcp-endpoint records`: read the file of records, also while a server writes to it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from ..errors import EndpointError
from ..log import escape
from ..recorder.export import line, lines, read
from ..recorder.query import Filter, Reader, Side, Summary, parse
from ..recorder.store import Damaged, Record, Store
from ..settings.schema import Config

LOOK_SECONDS: Final = 0.2
"""Seconds between two reads of `tail`."""
FOREVER_SECONDS: Final = 600.0
"""Timeout of one read of an export; longer than that of a page."""
IMPORTED: Final = 200
"""Records imported in one transaction."""
STAMP: Final = "%Y-%m-%d %H:%M:%S"


def filter_of(words: Sequence[str]) -> Filter:
    """The filter of a command line; an argument with blanks stays one term. Raises EndpointError."""
    quoted = []
    for word in words:
        if " " in word and '"' not in word:
            name, colon, value = word.rpartition(":") if word.partition(":")[0].strip("-").isalpha() else ("", "", word)
            word = f'{name}{colon}"{value}"'
        quoted.append(word)
    return parse(" ".join(quoted), time.time())


def path_of(config: Config, root: Path) -> Path:
    """The path of the file of records."""
    return root / config.recorder.file


def tail(path: Path, words: Sequence[str], count: int, *, as_json: bool, wait: Callable[[float], object] = time.sleep) -> Iterator[str]:
    """Yield the last records of a filter, then new ones as they are written."""
    condition = filter_of(words)
    reader = Reader(path)
    shown = 0
    page = reader.page(condition, most=count) if count else None
    for summary in reversed(page.records if page else []):
        yield _shown(reader, summary, as_json)
    shown = reader.newest()
    seen = reader.changes()
    while True:
        wait(LOOK_SECONDS)
        now = reader.changes()
        if now == seen:
            continue
        seen = now
        newest = reader.newest()
        while records := reader.page(condition, after=shown).records:
            for summary in reversed(records):
                yield _shown(reader, summary, as_json)
            shown = records[0].id
        shown = max(shown, newest)


def listed(path: Path, words: Sequence[str], count: int, *, as_json: bool) -> Iterator[str]:
    """The newest records of a filter in order of time."""
    condition = filter_of(words)
    reader = Reader(path, seconds=FOREVER_SECONDS)
    for summary in reversed(reader.page(condition, most=count).records):
        yield _shown(reader, summary, as_json)


def shown(path: Path, number: int, *, as_json: bool) -> Iterator[str]:
    """One record with its bodies. Raises EndpointError if there is none with this id."""
    detail = Reader(path).record(number)
    if detail is None:
        raise EndpointError(f"there is no record {number}; it may have been too old", f"没有记录 {number}；可能已过期")
    if as_json:
        yield line(detail).decode()
        return
    yield summary_line(detail.summary)
    if detail.session is not None:
        yield f"会话 / session {detail.session.id}  {detail.session.side}  {escape(detail.session.name)}"
    for title, side in (("请求 / request", detail.request), ("应答 / answer", detail.answer)):
        yield ""
        yield f"-- {title}"
        yield from _said(side)
    message = detail.said()
    if message.streamed and message.answer is not None:
        yield ""
        yield "-- 合成的消息 / the message of the stream"
        yield escape(msgspec.json.encode(message.answer).decode())


def exported(path: Path, words: Sequence[str]) -> Iterator[bytes]:
    """Yield each record of a filter as a line of JSON, oldest first."""
    condition = filter_of(words)
    for one in lines(Reader(path, seconds=FOREVER_SECONDS), condition):
        yield one + b"\n"


def imported(config: Config, root: Path, source: Iterable[bytes]) -> int:
    """Import exported records as new ones; return their number. Raises EndpointError with the number of the line."""
    store = _store(config, root)
    records: list[Record] = []
    parts = {}
    count = 0
    try:
        for number, data in enumerate(source, 1):
            if not data.strip():
                continue
            try:
                record, of_it = read(data)
            except EndpointError as error:
                raise EndpointError(f"line {number}: {error.en}", f"第 {number} 行：{error.zh}") from error
            parts[len(records)] = of_it
            records.append(record)
            count += 1
            if len(records) == IMPORTED:
                store.save(records, parts=parts)
                records, parts = [], {}
        store.save(records, parts=parts)
    finally:
        store.close()
    return count


def deleted(config: Config, root: Path, words: Sequence[str]) -> int:
    """Delete the records of a filter (all if it is empty); return their number. Raises EndpointError."""
    condition = filter_of(words)
    Reader(path_of(config, root)).close()  # raises for a damaged file
    store = _store(config, root)
    try:
        return store.delete(condition.where, condition.values)
    finally:
        store.close()


def figures(path: Path) -> Iterator[str]:
    """Size of the file, number of records, their period, and counts by facet."""
    reader = Reader(path, seconds=FOREVER_SECONDS)
    found = reader.figures()
    yield f"文件 / file  {path}  {path.stat().st_size} bytes"
    yield f"记录 / records  {found['records']}"
    if found["records"]:
        yield f"从 / from  {_stamp(found['oldest'])}  到 / to  {_stamp(found['newest'])}"
        for name, values in reader.facets().items():
            for value, count in values:
                yield f"{name}  {escape(value)}  {count}"


def _store(config: Config, root: Path) -> Store:
    path = path_of(config, root)
    try:
        return Store(path, config.recorder.keep_bytes, config.recorder.keep_days)
    except (OSError, Damaged) as error:
        raise EndpointError(f"{path} cannot be written: {error}", f"无法写入 {path}：{error}") from error


def _shown(reader: Reader, summary: Summary, as_json: bool) -> str:
    if not as_json:
        return summary_line(summary)
    detail = reader.record(summary.id)
    return "{}" if detail is None else line(detail).decode()


def summary_line(summary: Summary) -> str:
    """One record on one line, safe for a terminal."""
    took = "" if summary.ms is None else f"{summary.ms:.0f} ms"
    tells = summary.status != "ok" or summary.kind == "link"
    code = f" ({summary.code})" if tells and summary.code is not None else ""
    head = f"{summary.id:>7}  {_stamp(summary.at)}  {summary.kind:<8}"
    return "  ".join(
        (head, *(escape(text) for text in (summary.endpoint, summary.what, summary.label, took, summary.status + code) if text))
    )


def _stamp(at: int) -> str:
    return datetime.fromtimestamp(at / 1000).strftime(STAMP)


def _said(side: Side) -> Iterator[str]:
    for name, value in side.headers:
        yield f"{escape(name)}: {escape(value)}"
    if side.headers:
        yield ""
    text = side.body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    yield from map(escape, text.split("\n"))
