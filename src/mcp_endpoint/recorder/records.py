"""Makes records of events: decompressed, without secrets, and in parts."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from ..exchanges import Exchange
from .batch import Called, Exchanged, Framed, Gap, Item, Linked
from .dialects import said, uncoded
from .export import side_of
from .parts import divide
from .store import Record, Session

INFLATED: Final = 8 * 1024 * 1024
"""Bytes of the longest body after its compression was taken off; what is beyond is not recorded."""
NAME_CHARS: Final = 128
"""Characters of a model's name, and of the names of the tools it wants."""
CODES: Final = 500
"""Bytes at the beginning of an answer in which the number of its error is looked for."""
_CODE: Final = re.compile(rb'"code"\s*:\s*(-?\d{1,9})(?!\d)')
_ERROR: Final = re.compile(rb'\s*\{(?:\s*"(?:jsonrpc|id)"\s*:[^,{}\[\]]*,)*\s*"error"\s*:\s*\{')
_METHOD: Final = re.compile(rb'"method"\s*:\s*"([A-Za-z_/$.-]{1,64})"')
_TRACE: Final = re.compile(rb'"traceparent"\s*:\s*"([0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})"')


class Rules(Protocol):
    """What may be written; `redact.Redactor`, or `Raw`."""

    def short(self, text: str, /) -> str:
        """Of a name."""

    def body(self, data: bytes, /) -> bytes:
        """Of a body."""

    def bodies(self, bodies: Sequence[bytes], /) -> Sequence[bytes]:
        """Of many short ones."""

    def headers(self, headers: Sequence[tuple[str, str]], /) -> list[tuple[str, str]]:
        """Of headers."""

    def path(self, path: str, /) -> str:
        """Of a path with its query."""


class Raw:
    """Everything as it is: `[recorder] raw`."""

    def short(self, text: str, /) -> str:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def body(self, data: bytes, /) -> bytes:
        return data

    def bodies(self, bodies: Sequence[bytes], /) -> Sequence[bytes]:
        return bodies

    def headers(self, headers: Sequence[tuple[str, str]], /) -> list[tuple[str, str]]:
        return list(headers)

    def path(self, path: str, /) -> str:
        return path


class Made(msgspec.Struct):
    """What a batch becomes."""

    records: list[Record]
    sessions: list[Session]
    parts: dict[int, Mapping[bytes, bytes]]
    """By the place of their record."""
    counted: int
    """Records that were seen as such: gaps and links are told, not seen."""


def made(items: Sequence[Item], rules: Rules) -> Made:
    """The records of a batch, in its order."""
    bodies = iter(rules.bodies([body for item in items if isinstance(item, Called) for body in (item.request, item.first + item.second)]))
    made = Made([], [], {}, 0)
    for item in items:
        match item:
            case Called():
                made.records.append(_call(item, next(bodies), next(bodies), rules))
                made.counted += 1
            case Exchanged():
                record, parts = _exchange(item.exchange, rules)
                made.parts[len(made.records)] = parts
                made.records.append(record)
                made.counted += 1
            case Framed():
                made.records.append(_frame(item, rules))
                made.counted += 1
            case Linked():
                made.sessions.append(_session(item, rules))
                if item.event != "named":
                    made.records.append(_link(item, rules))
            case Gap():
                since = int(item.since * 1000)
                lasted = (item.until - item.since) * 1000
                made.records.append(Record(at=since, ms=lasted, kind="gap", status="dropped", code=item.count))
    return made


def _call(call: Called, request: bytes, answer: bytes, rules: Rules) -> Record:
    trace = _TRACE.search(request) if b"traceparent" in request else None
    status = call.outcome or ("error" if _ERROR.match(answer, 0, CODES) else "ok")
    code = None if status == "ok" else _CODE.search(answer, 0, CODES)
    return Record(
        at=int(call.at * 1000),
        ms=call.ms,
        kind="call",
        session=call.session,
        endpoint=call.endpoint,
        label=rules.short(call.label),
        method=call.method,
        tool=rules.short(call.tool),
        status=status,
        code=None if code is None else int(code[1]),
        trace="" if trace is None else trace[1].decode(),
        size=call.size,
        truncated=call.truncated,
        request=request,
        answer=answer,
    )


def _frame(frame: Framed, rules: Rules) -> Record:
    method = _METHOD.search(frame.data)
    data = rules.body(frame.data)
    heard = frame.direction == "in"
    return Record(
        at=int(frame.at * 1000),
        kind="frame",
        session=frame.session,
        endpoint=frame.endpoint,
        label=rules.short(frame.label),
        method="" if method is None else method[1].decode(),
        status="late" if frame.late else "ok",
        size=frame.size,
        truncated=frame.size > len(frame.data),
        request=data if heard else b"",
        answer=b"" if heard else data,
    )


def _session(link: Linked, rules: Rules) -> Session:
    at = int(link.at * 1000)
    closed = link.event == "closed"
    return Session(
        id=link.session,
        kind="link",
        endpoint=link.endpoint,
        side=link.side,
        name=rules.short(link.name),
        began=at,
        ended=at if closed else None,
        code=link.code,
        reason=rules.short(link.reason),
    )


def _link(link: Linked, rules: Rules) -> Record:
    return Record(
        at=int(link.at * 1000),
        kind="link",
        session=link.session,
        endpoint=link.endpoint,
        label=rules.short(link.name),
        method=f"{link.side} {link.event}",
        code=link.code,
        answer=rules.short(link.reason).encode(),
    )


def _exchange(exchange: Exchange, rules: Rules) -> tuple[Record, Mapping[bytes, bytes]]:
    request_headers, answer_headers = _headers(exchange.request_headers), _headers(exchange.answer_headers)
    request = b"".join(_unpacked([exchange.request_body], request_headers))
    pieces, parts = divide(rules.body(request))
    chunks = list(_unpacked([chunk for _, chunk in exchange.answer_chunks], answer_headers))
    joined = b"".join(chunks)
    answer = rules.body(joined)
    offsets = [offset for offset, _ in exchange.answer_chunks]
    sizes = [len(chunk) for chunk in chunks] if answer is joined else recut(chunks, joined, answer)
    trace = dict(request_headers).get("traceparent", "")
    told = said(exchange.path, (), request, uncoded(exchange.answer_headers), joined)
    record = Record(
        at=int(exchange.started * 1000),
        ms=exchange.ms,
        first_ms=exchange.first_ms,
        kind="exchange",
        endpoint=exchange.endpoint or "",
        label=rules.short(exchange.label),
        method=f"{exchange.method} {rules.path(exchange.path)}",
        tool=rules.short(", ".join(dict.fromkeys(call.name for call in told.calls))[:NAME_CHARS]),
        model=rules.short(told.model[:NAME_CHARS]),
        tokens_in=told.tokens_in,
        tokens_out=told.tokens_out,
        cached=told.cached,
        status=exchange.ending,
        code=exchange.status or None,
        trace=trace if _TRACE.fullmatch(b'"traceparent":"%s"' % trace.encode("utf-8", "replace")) else "",
        size=exchange.seen_bytes,
        truncated=exchange.truncated,
        request=side_of(pieces, rules.headers(request_headers), client=rules.short(exchange.client)),
        answer=side_of([answer], rules.headers(answer_headers), [*zip(offsets, sizes, strict=False)] if len(sizes) > 1 else ()),
    )
    return record, parts


def recut(chunks: Sequence[bytes], joined: bytes, clean: bytes) -> list[int]:
    """The sizes of the same chunks in a body of which secrets were taken: each ends at the last line end that it holds.

    One that was split by two chunks stands in the text of the later one. Where lines are gone there is one chunk.
    """
    if joined.count(b"\n") != clean.count(b"\n"):
        return [len(clean)]
    sizes: list[int] = []
    end = 0
    for chunk in chunks[:-1]:
        start = end
        for _ in range(chunk.count(b"\n")):
            end = clean.index(b"\n", end) + 1
        sizes.append(end - start)
    return [*sizes, len(clean) - end]


def _headers(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _unpacked(chunks: Sequence[bytes], headers: Sequence[tuple[str, str]]) -> Iterator[bytes]:
    """The chunks without their compression. What cannot be read is not recorded: nobody could say what is in it."""
    encodings = [value.strip().lower() for name, value in headers if name.lower() == "content-encoding"]
    encoding = encodings[0] if encodings else "identity"
    if encoding in ("identity", ""):
        yield from chunks
        return
    if len(encodings) > 1 or encoding not in ("gzip", "x-gzip", "deflate"):
        size = sum(map(len, chunks))
        yield f"[{size} bytes, Content-Encoding {encoding[:32]}: not recorded]".encode() if size else b""
        return
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, as its head says
    room = INFLATED
    try:
        for chunk in chunks:
            plain = inflate.decompress(chunk, room) if room else b""
            room -= len(plain)
            yield plain
    except zlib.error:
        yield b"[not what its Content-Encoding says: not recorded]"
