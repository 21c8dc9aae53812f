"""Records leave as lines of JSON and come back the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcp_endpoint.errors import EndpointError
from mcp_endpoint.recorder.export import line, lines, read, side_of
from mcp_endpoint.recorder.parts import divide
from mcp_endpoint.recorder.query import Reader
from mcp_endpoint.recorder.store import Record, Store

CHAT = '{"model":"m","messages":[{"role":"user","content":"%s"}]}' % ("how warm is it in 北京? " * 8)


def test_what_is_exported_can_be_imported_and_is_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path / "records.db", 10**9, 7)
    pieces, parts = divide(CHAT.encode())
    headers = [("host", "localhost"), ("accept", "*/*")]
    answer = side_of([b"data: a\n\n", b"data: b\n\n\xff"], headers, [(0.3, 9), (2.5, 10)])
    store.save(
        [
            Record(at=1, kind="call", ms=12.0, label="house", tool="get_weather", request=b'{"a":1}', answer='{"b":"晴"}'.encode()),
            Record(at=2, kind="exchange", model="m", truncated=True, request=side_of(pieces, headers, client="here"), answer=answer),
        ],
        parts={1: parts},
    )
    reader = Reader(store.path)
    exported = list(lines(reader))
    assert [json.loads(one)["id"] for one in exported] == [1, 2]
    assert json.loads(exported[1])["request"]["body"] == CHAT
    assert json.loads(exported[1])["answer"]["body"] == {"base64": "ZGF0YTogYQoKZGF0YTogYgoK/w=="}
    other = Store(tmp_path / "other.db", 10**9, 7)
    for one in exported:
        record, parts = read(one)
        other.save([record], parts={0: parts})
    again = Reader(other.path)
    for number in (1, 2):
        here, there = reader.record(number), again.record(number)
        assert here is not None and there is not None
        assert line(here) == line(there)


def test_a_line_that_is_no_record_is_refused() -> None:
    for wrong in (b"", b"[]", b'{"id":1}', b"\xff", b"[" * 5_000):
        with pytest.raises(EndpointError, match="no exported record"):
            read(wrong)
