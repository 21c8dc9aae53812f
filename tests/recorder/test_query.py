"""One language of filters, for the command line and the browser; every value is bound, never pasted into SQL."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from mcp_endpoint.errors import EndpointError
from mcp_endpoint.recorder.export import side_of
from mcp_endpoint.recorder.parts import divide
from mcp_endpoint.recorder.query import Reader, parse
from mcp_endpoint.recorder.store import Record, Session, Store

NOW = 1_795_700_000.0
"""The time of day, in seconds."""
LONG = "what is the weather like in 北京 today, and is it warmer than in 上海 or in 广州?"


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    store = Store(tmp_path / "records.db", 10**9, 7)
    pieces, parts = divide(('{"model":"gpt-5","messages":[{"role":"user","content":"%s"}]}' % LONG).encode())
    headers = [("host", "localhost"), ("accept", "*/*")]
    store.save(
        [
            Record(
                at=int(NOW * 1000) - 7_200_000,
                kind="call",
                ms=12.0,
                session=5,
                endpoint="9f86d0",
                label="house",
                method="tools/call",
                tool="get_weather",
                size=300,
                request=b'{"params":{"name":"get_weather","arguments":{"city":"\\u5317\\u4eac"}}}',
                answer='{"result":{"text":"晴"}}'.encode(),
            ),
            Record(
                at=int(NOW * 1000) - 60_000,
                kind="call",
                ms=900.0,
                endpoint="9f86d0",
                label="my tool",
                method="tools/call",
                tool="get_forecast_100%",
                status="timed_out",
                code=-32006,
                request=b"{}",
                answer=b"Robert'); DROP TABLE record;--",
            ),
            Record(
                at=int(NOW * 1000) - 30_000,
                kind="exchange",
                ms=2_500.0,
                first_ms=300.0,
                endpoint="",
                label="openrouter",
                method="POST /v1/chat/completions",
                model="openai/GPT-5",
                tokens_in=100,
                tokens_out=20,
                code=200,
                truncated=True,
                request=side_of(pieces, headers, client="127.0.0.1"),
                answer=side_of([b"data: a\n\n", b"data: b\n\n\xff"], headers, [(0.3, 9), (2.5, 10)]),
            ),
        ],
        [Session(id=5, kind="link", endpoint="9f86d0", side="device", name="lamp", began=1)],
        {2: parts},
    )
    return Reader(store.path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [3, 2, 1]),
        ("endpoint:9f86", [2, 1]),
        ("endpoint:9f86 tool:get_weather", [1]),
        ("tool:GET_", [2, 1]),
        ("tool:=get_", []),
        ("tool:=get_weather", [1]),
        ("tool:100%", [2]),
        ("tool:_______________________", []),
        ("-tool:get_weather", [3, 2]),
        ("status:error", [2]),
        ("status:=error", []),
        ("status:timed", [2]),
        ("status:ok", [3, 1]),
        ("model:gpt", [3]),
        ("ms:>500", [3, 2]),
        ("ms:>=900 ms:<2500", [2]),
        ("first:300", [3]),
        ("code:200", [3]),
        ("tokens:>=120", [3]),
        ("session:5", [1]),
        ("bytes:300", [1]),
        ("-ms:>500", [1]),
        ("since:1h", [3, 2]),
        ("since:45s", [3]),
        ("until:1h", [1]),
        ("since:2020-01-01 until:2020-01-02T10:00", []),
        ("北京", [3, 1]),
        ("-北京", [2]),
        ("晴", [1]),
        ('"weather like in"', [3]),
        ('label:"my tool"', [2]),
        ('"Robert\'); DROP"', [2]),
        ("/v1/chat", [3]),
        ("kind:exchange", [3]),
        ("http://nowhere", []),
        ('"tool:x"', []),
        ("method:'; -- x", []),
    ],
)
def test_a_filter_finds(reader: Reader, text: str, found: list[int]) -> None:
    condition = parse(text, NOW)
    assert [record.id for record in reader.page(condition).records] == found
    assert reader.count(condition) == len(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tol:x", "did you mean tool:?"),
        ("zzzz:x", 'no "zzzz" Known are endpoint'),
        ("ms:fast", "ms:>500"),
        ("since:yesterday", "since:1h"),
        ("since:99999999-01-01", "since:1h"),
    ],
)
def test_a_filter_that_cannot_be_meant_says_what_can(text: str, words: str) -> None:
    with pytest.raises(EndpointError) as raised:
        parse(text, NOW)
    assert words in raised.value.en


def test_pages_go_back_in_time_and_new_records_come_after_an_id(reader: Reader) -> None:
    first = reader.page(most=2)
    assert [record.id for record in first.records] == [3, 2] and first.older
    rest = reader.page(before=2, most=2)
    assert [record.id for record in rest.records] == [1] and not rest.older
    new = reader.page(after=1, most=1)
    assert [record.id for record in new.records] == [2] and new.older
    assert reader.newest() == 3


def test_facets_count_what_a_filter_leaves(reader: Reader) -> None:
    facets = reader.facets(parse("endpoint:9f86", NOW))
    assert facets["tool"] == [("get_forecast_100%", 1), ("get_weather", 1)]
    assert facets["status"] == [("ok", 1), ("timed_out", 1)] and facets["model"] == []


def test_an_exchange_is_whole_again_with_its_headers_and_its_pieces_in_time(reader: Reader) -> None:
    detail = reader.record(3)
    assert detail is not None
    assert detail.request.client == "127.0.0.1" and detail.request.headers[0] == ("host", "localhost")
    assert LONG in detail.request.body.decode()
    assert detail.answer.body == b"data: a\n\ndata: b\n\n\xff"
    assert detail.answer.chunks == [(0.3, b"data: a\n\n"), (2.5, b"data: b\n\n\xff")]
    assert detail.summary.truncated and detail.summary.tokens_in == 100


def test_a_call_is_no_exchange_with_a_model(reader: Reader) -> None:
    call, exchange = reader.record(1), reader.record(3)
    assert call is not None and exchange is not None
    assert (call.said().dialect, exchange.said().model) == ("", "gpt-5")


def test_a_question_that_takes_too_long_ends_and_says_so(reader: Reader) -> None:
    slow = Reader(reader.path, seconds=-1.0)
    store = Store(reader.path, 10**9, 7)
    store.save([Record(at=1, kind="call", request=b"x" * 100) for _ in range(3_000)])
    with pytest.raises(EndpointError, match="since:1h"):
        slow.page(parse("nowhere", NOW))


def test_a_reader_changes_nothing_and_says_when_there_is_nothing(reader: Reader, tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM record")
    with pytest.raises(EndpointError, match="no records yet"):
        Reader(tmp_path / "nothing.db")
    (tmp_path / "wreck.db").write_bytes(b"no database" * 1_000)
    with pytest.raises(EndpointError, match="damaged"):
        Reader(tmp_path / "wreck.db")
    assert reader.figures()["records"] == 3
    reader.close()
