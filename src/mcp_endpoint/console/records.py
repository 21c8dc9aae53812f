"""The pages of records: lists with filters, one record, and the timeline of a session.

Every question goes to the file on a thread, with a connection of its own: the file may be replaced at any time, and the loop waits for
no disk.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from ..errors import EndpointError
from ..pages import NotThere, Page, Visit
from ..recorder.export import as_json
from ..recorder.query import FACET_VALUES, FACETS, Detail, Filter, Reader, Summary, parse
from ..recorder.store import Session

ROWS: Final = 100
"""Records of one page."""
TIMELINE: Final = 500
"""Most records of a timeline, the newest of its session."""
BURST: Final = 100
"""Most records that a live list is given at once; of more it hears how many there were."""
THREADS: Final = 2
"""Questions at a time. Threads of their own: a slow one must not keep those waiting that look up names and read files."""
Found = TypeVar("Found")


class Records:
    """The pages of one file."""

    def __init__(self, path: Path, about: Callable[[], Mapping[str, Any]], *, now: Callable[[], float] = time.time) -> None:
        """`about` is what the recorder says of itself; `now` is seconds since 1970."""
        self._path = path
        self._about = about
        self._now = now
        self._threads = ThreadPoolExecutor(THREADS, "records")

    def close(self) -> None:
        """Nobody asks any more."""
        self._threads.shutdown(wait=False)

    def pages(self) -> list[Page]:
        """In the order of the navigation."""
        return [
            Page("records", "Records", "记录", "records.read", "records.html", self.records),
            Page("records/{item}", "Record", "记录", "records.read", "record.html", self.record, menu=False),
            Page("sessions", "Sessions", "会话", "records.read", "sessions.html", self.sessions),
            Page("sessions/{item}", "Session", "会话", "records.read", "session.html", self.session, menu=False),
        ]

    async def records(self, visit: Visit) -> Mapping[str, Any]:
        """The newest records of a filter, or those before one; the values that occur; and how to go on."""
        text = visit.query.get("q", "").strip()
        before = _id(visit.query.get("before", ""))
        about = self._about()
        facts: dict[str, Any] = {
            "q": text,
            "before": before,
            "records": [],
            "older": False,
            "facets": {},
            "problem": None,
            "newest": 0,
            "session": None,
            "raw": bool(about.get("raw")),
            "trouble": about.get("trouble", ""),
        }
        try:
            filter = parse(text, self._now())

            def ask(reader: Reader) -> dict[str, Any]:
                page = reader.page(filter, before=before, most=ROWS)
                # Where all that there is stands on this page, the file is not gone through again.
                facets = reader.facets(filter) if page.older or before is not None else facets_of(page.records)
                return {
                    "records": [shown(one) for one in page.records],
                    "older": page.older,
                    "facets": {name: [_facet(text, name, *one) for one in found] for name, found in facets.items() if found},
                    "newest": reader.newest(),
                }

            return facts | await self._ask(ask)
        except EndpointError as error:
            return facts | {"problem": {"en": error.en, "zh": error.zh}}

    async def record(self, visit: Visit) -> Mapping[str, Any]:
        """One record with all it holds. Raises NotThere."""
        number = _id(visit.item)
        detail = None if number is None else await self._asked(lambda reader: reader.record(number))
        if detail is None:
            raise NotThere("There is no such record, or no longer", "没有这条记录，或已删除")
        said = detail.said()
        message = said.answer if said.streamed else None
        return {**as_json(detail), **shown(detail.summary), "message": message, "copies": copies(detail), "call": _call_again(detail)}

    async def sessions(self, visit: Visit) -> Mapping[str, Any]:
        """The sessions that began last, each with how many records it has."""
        endpoint = visit.query.get("endpoint", "")
        before = _id(visit.query.get("before", ""))

        def ask(reader: Reader) -> list[dict[str, Any]]:
            found = reader.sessions(endpoint=endpoint, before=before, most=ROWS + 1)
            return [{**msgspec.to_builtins(session), "records": count} for session, count in found]

        try:
            found, problem = await self._ask(ask), None
        except EndpointError as error:
            found, problem = [], {"en": error.en, "zh": error.zh}
        return {"endpoint": endpoint, "before": before, "sessions": found[:ROWS], "older": len(found) > ROWS, "problem": problem}

    async def session(self, visit: Visit) -> Mapping[str, Any]:
        """One session and its records in their order, each with where it stands between the first and the last. Raises NotThere."""
        number = _id(visit.item)

        def ask(reader: Reader) -> tuple[Session, list[Summary], bool] | None:
            session = None if number is None else reader.session(number)
            if session is None:
                return None
            page = reader.page(Filter("session = ?", (number,)), most=TIMELINE)
            return session, page.records[::-1], page.older

        found = await self._asked(ask)
        if found is None:
            raise NotThere("There is no such session, or no longer", "没有这个会话，或已删除")
        session, records, older = found
        return {"session": msgspec.to_builtins(session), "records": timeline(records), "older": older}

    async def after(self, text: str, last: int) -> tuple[list[dict[str, Any]], int, int]:
        """Records of a filter after the id `last`, the oldest first; the id until which was looked; how many were left out.

        Raises EndpointError.
        """
        filter = parse(text, self._now())

        def ask(reader: Reader) -> tuple[list[dict[str, Any]], int, int]:
            newest = reader.newest()
            if newest < last:  # another file, which begins anew
                return [], newest, 0
            bounds = Filter(f"id > ? AND id <= ? AND {filter.where}", (last, newest, *filter.values))
            page = reader.page(bounds, most=BURST)
            missed = reader.count(bounds) - len(page.records) if page.older else 0
            return [shown(one) for one in reversed(page.records)], newest, missed

        return await self._ask(ask)

    async def _asked(self, question: Callable[[Reader], Found]) -> Found:
        """The answer to a question where a file that cannot be read has nothing to show. Raises NotThere."""
        try:
            return await self._ask(question)
        except EndpointError as error:
            raise NotThere(error.en, error.zh) from None

    async def _ask(self, question: Callable[[Reader], Found]) -> Found:
        def ask() -> Found:
            reader = Reader(self._path)
            try:
                return question(reader)
            finally:
                reader.close()

        try:
            asked = self._threads.submit(ask)
        except RuntimeError:
            raise EndpointError("the server is stopping", "服务器正在停止") from None
        return await asyncio.wrap_future(asked)


def shown(record: Summary) -> dict[str, Any]:
    """A record as a list shows it: with `what` it is called."""
    return {**msgspec.to_builtins(record), "what": record.what or record.kind}


def timeline(records: Sequence[Summary]) -> list[dict[str, Any]]:
    """Records with `offset` (ms since the first began), and `left` and `width` in thousandths of the whole time."""
    if not records:
        return []
    began = min(one.at for one in records)
    whole = max(1.0, max(one.at + (one.ms or 0.0) for one in records) - began)
    return [
        {
            **shown(one),
            "offset": one.at - began,
            "left": round(1_000 * (one.at - began) / whole, 1),
            "width": max(4.0, round(1_000 * (one.ms or 0.0) / whole, 1)),
        }
        for one in records
    ]


def copies(detail: Detail) -> list[dict[str, str]]:
    """What repeats a record elsewhere: of a call the command and the message, of an exchange a curl; each with `id` and titles."""
    summary, body = detail.summary, detail.request.body.decode("utf-8", "replace")
    if summary.kind == "exchange":
        return [{"id": "curl", "en": "curl", "zh": "curl", "text": curl(summary.method, detail.request.headers, body)}]
    found = [{"id": "message", "en": "MCP message", "zh": "MCP 消息", "text": body}] if body else []
    if summary.tool:
        given = json.dumps(_arguments(body), ensure_ascii=False)
        words = ["mcp-endpoint", "call", summary.tool, given, "-e", summary.endpoint]
        found.insert(0, {"id": "call", "en": "Command", "zh": "命令", "text": shlex.join(words)})
    return found


def curl(method: str, headers: Sequence[tuple[str, str]], body: str) -> str:
    """An HTTP request as a command; what was hidden in it is still hidden."""
    verb, _, path = method.partition(" ")
    kept = [(name, value) for name, value in headers if name.lower() not in ("content-length", "host", "connection", "accept-encoding")]
    host = next((value for name, value in headers if name.lower() == "host"), "HOST")
    words = [f"curl -X {shlex.quote(verb)} {shlex.quote(f'http://{host}{path}')}"]
    words += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in kept]
    return " \\\n  ".join([*words, *([f"--data-raw {shlex.quote(body)}"] if body else [])])


def _call_again(detail: Detail) -> dict[str, str] | None:
    """The query of the page that calls a recorded tool again."""
    if detail.summary.kind != "call" or not detail.summary.tool:
        return None
    arguments = _arguments(detail.request.body.decode("utf-8", "replace"))
    return {"endpoint": detail.summary.endpoint, "tool": detail.summary.tool, "arguments": json.dumps(arguments, ensure_ascii=False)}


def _arguments(body: str) -> Any:
    """The arguments of a recorded call."""
    try:
        return json.loads(body)["params"].get("arguments", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def facets_of(records: Sequence[Summary]) -> dict[str, list[tuple[str, int]]]:
    """What `Reader.facets` says, of these records."""
    counts = {name: Counter(value for one in records if (value := getattr(one, name))) for name in FACETS}
    return {name: sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:FACET_VALUES] for name, found in counts.items()}


def _facet(text: str, name: str, value: str, count: int) -> dict[str, Any]:
    """One value that occurs, and the filter with it."""
    if '"' in value:
        return {"value": value, "count": count, "chosen": False, "q": None}  # no filter can say it
    quoted = f'"{value}"' if any(char.isspace() for char in value) or value.startswith("//") else value
    word = f"{name}:={quoted}"
    chosen = word in text.split() or f"{word} " in f"{text} "
    rest = " ".join(f"{text} ".replace(f"{word} ", "").split()) if chosen else ""
    return {"value": value, "count": count, "chosen": chosen, "q": rest if chosen else f"{text} {word}".strip()}


def _id(text: str) -> int | None:
    """A number of a record; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
