"""Converts records to and from JSON lines: one object per line, oldest first."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ..errors import EndpointError
from .parts import divide
from .query import EVERY, Detail, Filter, Reader, Side, Summary
from .store import Exchanged, Record, encode_side

STEP: Final = 50
"""Records read at a time; an export of any size takes little memory."""

_encode: Final = msgspec.json.Encoder().encode


def lines(reader: Reader, filter: Filter = EVERY) -> Iterator[bytes]:
    """Each record of a filter as a line without its end."""
    after = 0
    while found := reader.records(filter, after=after, most=STEP):
        for detail in found:
            yield line(detail)
        after = found[-1].summary.id


def line(detail: Detail) -> bytes:
    """One record: what `query.Summary` has, with `request` and `answer`."""
    return _encode(as_json(detail))


def as_json(detail: Detail) -> dict[str, Any]:
    """One record, ready for JSON. A body is a text, or `{"base64": …}` where it is none."""
    found: dict[str, Any] = msgspec.to_builtins(detail.summary)
    return found | {
        "request": _side(detail.request),
        "answer": _side(detail.answer),
        "joins": msgspec.to_builtins(detail.joins),
        "session_info": msgspec.to_builtins(detail.session),
    }


def _side(side: Side) -> dict[str, Any]:
    found: dict[str, Any] = {"body": _text(side.body)}
    if side.headers:
        found["headers"] = [list(pair) for pair in side.headers]
    if side.chunks:
        found["chunks"] = [[offset, _text(chunk)] for offset, chunk in side.chunks]
    if side.client:
        found["client"] = side.client
    return found


def _text(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


class _Base64(msgspec.Struct):
    base64: bytes


class _Side(msgspec.Struct):
    body: str | _Base64 = ""
    headers: list[tuple[str, str]] = []
    chunks: list[tuple[float, str | _Base64]] = []
    client: str = ""


class _Line(Summary, kw_only=True):
    request: _Side
    answer: _Side


_decoder: Final = msgspec.json.Decoder(_Line)


def read(data: bytes) -> tuple[Record, dict[bytes, bytes]]:
    """The record of a line, as one of no session here, and the parts of its bodies. Raises EndpointError for another kind of line."""
    try:
        found = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EndpointError(f"this is no exported record: {error}", f"这不是导出的记录：{error}") from error
    names = [name for name in Record.__struct_fields__ if name not in ("request", "answer", "session", "parent")]
    record = Record(**{name: getattr(found, name) for name in names})
    if record.kind != "exchange":
        record.request, record.answer = _bytes(found.request.body), _bytes(found.answer.body)
        return record, {}
    pieces, parts = divide(_bytes(found.request.body))
    record.request = side_of(pieces, found.request.headers, client=found.request.client)
    chunks = [(offset, _bytes(chunk)) for offset, chunk in found.answer.chunks]
    record.answer = side_of([_bytes(found.answer.body)], found.answer.headers, [(offset, len(chunk)) for offset, chunk in chunks])
    return record, parts


def side_of(pieces: Sequence[Any], headers: Sequence[tuple[str, str]], chunks: Sequence[tuple[float, int]] = (), client: str = "") -> bytes:
    """One side of an exchange as the file holds it."""
    return encode_side(Exchanged(headers, pieces, chunks, client))


def _bytes(text: str | _Base64) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text.base64
