"""Reads the file of records: filters, pages, facets, and one record with its bodies.

A filter is words: `endpoint:9f86 tool:get_weather status:error model:gpt ms:>500 since:1h 北京`. All must be true of a record.
A word without a name is looked for in what was said, letter for letter. `name:value` looks for the value anywhere in a column, whatever
its case; `name:=value` wants exactly it; a `-` before a word turns it round. Blanks stand in quotes: `"two words"`, `label:"my tool"`.
"""

from __future__ import annotations

import difflib
import json
import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from ..errors import EndpointError
from .dialects import Said, said, uncoded
from .parts import whole
from .store import COLUMNS, MIGRATIONS, Exchanged, Session, decode_side

ROWS: Final = 100
"""Records of a page where nobody says how many."""
SECONDS: Final = 5.0
"""How long one question may take; a reader that asks too much must not keep the log of the file from being emptied."""
FACETS: Final = ("endpoint", "tool", "model", "status", "kind", "label")
"""What `facets` counts."""
FACET_VALUES: Final = 20
FACET_ROWS: Final = 10_000
"""Records that `facets` counts at most, so that it takes a moment whatever the file holds."""
TEXTS: Final = ("endpoint", "tool", "model", "label", "method", "kind", "status", "trace")
NUMBERS: Final = {
    "id": "id",
    "ms": "ms",
    "first": "first_ms",
    "bytes": "bytes",
    "code": "code",
    "session": "session",
    "tokens": "coalesce(tokens_in, 0) + coalesce(tokens_out, 0)",
}
TIMES: Final = {"since": "at >= ?", "until": "at < ?"}
NAMES: Final = (*TEXTS, *NUMBERS, *TIMES)
"""Every word that may stand before a colon."""
TROUBLE: Final = "error"
"""`status:error` is every status but `ok`; `status:=error` is that word alone."""
_WORD: Final = re.compile(r'(-?)(?:([A-Za-z_]+):(=?))?("[^"]*"?|\S+)')
_NUMBER: Final = re.compile(r"(<=|>=|<|>|)(\d+(?:\.\d+)?)")
_WILD: Final = re.compile(r"[%_\\]")
_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SUMMARY: Final = tuple(name for name in COLUMNS if name not in ("request", "answer"))


class Filter(NamedTuple):
    """A condition on `record` with its values, never with a value inside the text."""

    where: str = "1"
    values: tuple[Any, ...] = ()


EVERY: Final = Filter()
"""Every record."""


def parse(text: str, now: float) -> Filter:
    """The condition of a filter; `now` is seconds since 1970, for `since:1h`. Raises EndpointError for what cannot be meant."""
    clauses: list[str] = []
    values: list[Any] = []
    for found in _WORD.finditer(text):
        minus, name, exact, value = found.groups()
        if name is None or value.startswith("//"):  # an address is looked for as it is
            clause, more = _said(found[0].removeprefix("-") if name else value)
        elif name not in NAMES:
            raise _unknown(name)
        else:
            clause, more = _named(name, value.strip('"'), bool(exact), now)
        clauses.append(f"NOT coalesce({clause}, 0)" if minus else clause)
        values += more
    return Filter(" AND ".join(f"({clause})" for clause in clauses) or "1", tuple(values))


def _named(name: str, value: str, exact: bool, now: float) -> tuple[str, list[Any]]:
    if name in TIMES:
        return TIMES[name], [_moment(name, value, now)]
    if name in NUMBERS:
        number = _NUMBER.fullmatch(value)
        if number is None:
            raise EndpointError(f"{name}:{value}: write {name}:500 or {name}:>500", f"{name}:{value}：请写 {name}:500 或 {name}:>500")
        return f"{NUMBERS[name]} {number[1] or '='} ?", [float(number[2])]
    if exact:
        return f"{name} = ?", [value]
    if name == "status" and value == TROUBLE:
        return "status <> 'ok'", []
    return f"{name} LIKE ? ESCAPE '\\'", ["%" + _WILD.sub(r"\\\g<0>", value) + "%"]


def _said(word: str) -> tuple[str, list[Any]]:
    """A text in what was said: as it is, or as JSON writes it with escapes; also in parts that were kept once."""
    text = word.strip('"')
    spellings = dict.fromkeys((text.encode("utf-8", "surrogatepass"), json.dumps(text)[1:-1].encode()))
    clauses = []
    values: list[Any] = []
    for spelling in spellings:
        clauses.append(
            "instr(request, ?) OR instr(answer, ?) OR (kind = 'exchange' AND EXISTS ("
            "WITH held AS MATERIALIZED (SELECT hash FROM part WHERE instr(data, ?)) SELECT 1 FROM held WHERE instr(request, hash)))"
        )
        values += [spelling] * 3
    clauses.append("instr(tool, ?) OR instr(method, ?)")
    values += [text] * 2
    return " OR ".join(clauses), values


def _moment(name: str, value: str, now: float) -> int:
    """Milliseconds since 1970 of `1h` ago, or of a time of day or a date, which are local where they name no zone."""
    ago = _AGO.fullmatch(value)
    if ago is not None:
        return int((now - float(ago[1]) * _UNITS[ago[2]]) * 1000)
    try:
        return int(datetime.fromisoformat(value).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise EndpointError(
            f"{name}:{value}: write {name}:1h (s, m, h, d) or {name}:2026-11-26T18:00",
            f"{name}:{value}：请写 {name}:1h（s、m、h、d）或 {name}:2026-11-26T18:00",
        ) from None


def _unknown(name: str) -> EndpointError:
    guess = difflib.get_close_matches(name, NAMES, 1)
    en, zh = (f"; did you mean {guess[0]}:?", f"；是否想写 {guess[0]}:？") if guess else ("", "")
    known = ", ".join(NAMES)
    return EndpointError(
        f'a record has no "{name}"{en} Known are {known}; for a text with a colon write quotes around it',
        f"记录没有“{name}”{zh} 可用：{known}；若要查找带冒号的文字，请加引号",
    )


class Summary(msgspec.Struct, kw_only=True):
    """A record without what was said; see `store.Record`."""

    id: int
    at: int
    ms: float | None
    first_ms: float | None
    kind: str
    session: int | None
    parent: int | None
    endpoint: str
    label: str
    method: str
    tool: str
    model: str
    status: str
    code: int | None
    tokens_in: int | None
    tokens_out: int | None
    cached: int | None
    trace: str
    size: int = msgspec.field(name="bytes")
    truncated: bool

    @property
    def what(self) -> str:
        """What a list calls it: the tool or the method; of an exchange the model, and the tools it wants to call."""
        names = (self.model, self.tool) if self.kind == "exchange" else (self.tool, self.model)
        return " → ".join(name for name in names if name) or self.method


class Side(msgspec.Struct):
    """What one side said."""

    body: bytes
    headers: Sequence[tuple[str, str]] = ()
    """Of an exchange only."""
    chunks: Sequence[tuple[float, bytes]] = ()
    """The body in the pieces in which it came, each with the seconds since the start; only where there were several."""
    client: str = ""


class Join(msgspec.Struct):
    """Another record that belongs to one, and why."""

    other: int
    why: str
    sure: bool


class Detail(msgspec.Struct):
    """One record, whole."""

    summary: Summary
    request: Side
    answer: Side
    joins: list[Join] = []
    session: Session | None = None

    def said(self) -> Said:
        """What an exchange with a model said, a stream as one message; empty for another record."""
        if self.summary.kind != "exchange":
            return Said()
        headers = [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in self.answer.headers]
        path = self.summary.method.partition(" ")[2]
        return said(path, (), self.request.body, uncoded(headers), self.answer.body)


class Page(msgspec.Struct):
    """Records of one page, the newest first; `older` says whether there are more."""

    records: list[Summary]
    older: bool


class Reader:
    """The reading side of one file; for one thread at a time."""

    def __init__(self, path: Path, *, seconds: float = SECONDS) -> None:
        """Raises EndpointError when there is no such file, or it is of another version or damaged."""
        if not path.exists():
            raise EndpointError(
                f"there are no records yet at {path}: set [recorder] on = true and start the server",
                f"{path} 中尚无记录：请设置 [recorder] on = true 并启动服务器",
            )
        self.path = path
        self._seconds = seconds
        self._until = 0.0
        self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0, check_same_thread=False)
        self._connection.set_progress_handler(self._is_over, 10_000)
        try:
            found = int(self._run("PRAGMA user_version")[0][0])
        except EndpointError:
            self._connection.close()
            raise
        if found != len(MIGRATIONS):
            self._connection.close()
            raise EndpointError(
                f"{path} is of version {found}, this program reads {len(MIGRATIONS)}: start the server once, or use a newer program",
                f"{path} 的版本为 {found}，本程序读取 {len(MIGRATIONS)}：请先启动一次服务器，或使用更新的程序",
            )

    def page(self, filter: Filter = EVERY, *, before: int | None = None, after: int | None = None, most: int = ROWS) -> Page:
        """The newest records of a filter, `before` an id or `after` one; of those after one, the oldest `most` are given."""
        bounds, values = _bounds(before, after)
        order = "ASC" if after is not None and before is None else "DESC"
        rows = self._run(
            f"SELECT id, {', '.join(_SUMMARY)} FROM record WHERE {bounds} AND {filter.where} ORDER BY id {order} LIMIT ?",
            (*values, *filter.values, most + 1),
        )
        records = [_summary(row) for row in rows[:most]]
        return Page(records if order == "DESC" else records[::-1], len(rows) > most)

    def count(self, filter: Filter = EVERY) -> int:
        """How many records a filter has."""
        return int(self._run(f"SELECT count(*) FROM record WHERE {filter.where}", filter.values)[0][0])

    def facets(self, filter: Filter = EVERY) -> dict[str, list[tuple[str, int]]]:
        """For each column of FACETS its most frequent values among the newest FACET_ROWS of a filter, with how often they are there."""
        count = "SELECT * FROM (SELECT '{0}', {0}, count(*) FROM found WHERE {0} <> '' GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT {1})"
        found = f"SELECT {', '.join(FACETS)} FROM record WHERE {filter.where} ORDER BY id DESC LIMIT {FACET_ROWS}"
        counts = " UNION ALL ".join(count.format(name, FACET_VALUES) for name in FACETS)
        rows = self._run(f"WITH found AS MATERIALIZED ({found}) {counts}", filter.values)
        facets: dict[str, list[tuple[str, int]]] = {name: [] for name in FACETS}
        for name, value, count in rows:
            facets[name].append((value, count))
        return facets

    def record(self, id: int) -> Detail | None:
        """One record with all it holds, None where it is not there (any more)."""
        rows = self._run(f"SELECT id, {', '.join(_SUMMARY)}, request, answer FROM record WHERE id = ?", (id,))
        if not rows:
            return None
        *head, request, answer = rows[0]
        summary = _summary(head)
        joins = [Join(other, why, bool(sure)) for other, why, sure in self._run(_JOINS, (id, id))]
        session = None if summary.session is None else self.session(summary.session)
        if summary.kind != "exchange":
            return Detail(summary, Side(request), Side(answer), joins, session)
        return Detail(summary, self._side(decode_side(request)), self._side(decode_side(answer)), joins, session)

    def records(self, filter: Filter = EVERY, *, after: int = 0, most: int = ROWS) -> list[Detail]:
        """Records with all they hold, the oldest first: one step of an export."""
        page = self.page(filter, after=after, most=most)
        found = (self.record(summary.id) for summary in reversed(page.records))
        return [detail for detail in found if detail is not None]

    def session(self, id: int) -> Session | None:
        """One session."""
        rows = self._run(f"SELECT {', '.join(Session.__struct_fields__)} FROM session WHERE id = ?", (id,))
        return Session(**dict(zip(Session.__struct_fields__, rows[0], strict=True))) if rows else None

    def sessions(self, *, endpoint: str = "", before: int | None = None, most: int = ROWS) -> list[tuple[Session, int]]:
        """Sessions with how many records they have, the one that began last first; `before` is an id, `endpoint` a whole name."""
        where = "(?1 = '' OR endpoint = ?1) AND (?2 IS NULL OR id < ?2)"
        names = Session.__struct_fields__
        rows = self._run(
            f"SELECT {', '.join(names)}, (SELECT count(*) FROM record WHERE record.session = session.id) FROM session "
            f"WHERE {where} ORDER BY id DESC LIMIT ?3",
            (endpoint, before, most),
        )
        return [(Session(**dict(zip(names, row[:-1], strict=True))), row[-1]) for row in rows]

    def newest(self) -> int:
        """The id of the newest record, 0 without any."""
        return int(self._run("SELECT coalesce(max(id), 0) FROM record")[0][0])

    def figures(self) -> Mapping[str, int]:
        """How much there is, and from when to when (milliseconds since 1970)."""
        names = ("records", "oldest", "newest", "seen_bytes")
        row = self._run("SELECT count(*), coalesce(min(at), 0), coalesce(max(at), 0), coalesce(sum(bytes), 0) FROM record")[0]
        return dict(zip(names, map(int, row), strict=True))

    def changes(self) -> int:
        """A number that is another one after somebody else has written."""
        return int(self._run("PRAGMA data_version")[0][0])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _side(self, side: Exchanged) -> Side:
        body = whole(side.pieces, self._part)
        chunks: list[tuple[float, bytes]] = []
        start = 0
        for offset, size in side.chunks:
            chunks.append((offset, body[start : start + size]))
            start += size
        return Side(body, side.headers, chunks, side.client)

    def _part(self, name: bytes) -> bytes:
        rows = self._run("SELECT data FROM part WHERE hash = ?", (name,))
        return bytes(rows[0][0]) if rows else b"null"  # its record is older than the file remembers

    def _run(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        self._until = time.monotonic() + self._seconds
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            if self._is_over():
                raise EndpointError(
                    f"this takes more than {self._seconds:g} s: ask for less, such as since:1h",
                    f"查询超过 {self._seconds:g} 秒：请缩小范围，例如 since:1h",
                ) from error
            raise EndpointError(f"{self.path} cannot be read: {error}", f"无法读取 {self.path}：{error}") from error
        except sqlite3.DatabaseError as error:
            raise EndpointError(f"{self.path} is damaged: {error}", f"{self.path} 已损坏：{error}") from error

    def _is_over(self) -> bool:
        return time.monotonic() > self._until


_JOINS: Final = """
SELECT other, why, sure FROM "join" WHERE record = ? UNION SELECT record, why, sure FROM "join" WHERE other = ? ORDER BY 1
"""


def _bounds(before: int | None, after: int | None) -> tuple[str, list[Any]]:
    clauses, values = ["1"], []
    if before is not None:
        clauses.append("id < ?")
        values.append(before)
    if after is not None:
        clauses.append("id > ?")
        values.append(after)
    return " AND ".join(clauses), values


def _summary(row: Sequence[Any]) -> Summary:
    fields = dict(zip(("id", *_SUMMARY), row, strict=True))
    fields["size"] = fields.pop("bytes")
    fields["truncated"] = bool(fields["truncated"])
    return Summary(**fields)
