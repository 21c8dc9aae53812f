"""What was seen becomes records: unpacked, without secrets, in pieces, and none of it may stop the next."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from model_api import END, TOOLS, sse

from mcp_endpoint.exchanges import Exchange
from mcp_endpoint.recorder.batch import Called, Exchanged, Framed, Gap, Linked, Secrets
from mcp_endpoint.recorder.parts import whole
from mcp_endpoint.recorder.records import Raw, made, recut
from mcp_endpoint.recorder.redact import Redactor
from mcp_endpoint.recorder.store import decode_side

CANARY = b"S3cr3tCanary99"
RULES = Redactor(b"k" * 32)
NONE: Mapping[bytes, bytes] = {}
CHUNKS = [b'data: {"a":1}\n\nda', b'ta: {"token":"S3cr3t', b'Canary99"}\n\n', b"data: [DONE]\n\n"]


def called(request: bytes = b"{}", answer: bytes = b'{"result":1}', **more: Any) -> Called:
    fields: dict[str, Any] = {"endpoint": "9f86", "session": 7, "label": "house", "method": "tools/call", "tool": "who", "outcome": ""}
    fields |= {"size": 10, "truncated": False} | more
    return Called(at=1.5, ms=2.0, request=request, first=answer[:4], second=answer[4:], **fields)


def exchange(body: bytes = b"{}", chunks: list[bytes] = CHUNKS, headers: Mapping[bytes, bytes] = NONE, **more: Any) -> Exchange:
    fields: dict[str, Any] = {
        "endpoint": None,
        "label": "openrouter",
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/v1/chat?key=abcdefgh",
    }
    fields |= {"status": 200, "ending": "ok", "request_headers": [(b"Authorization", b"Bearer " + CANARY)], "request_body": body} | more
    times = [(float(number), chunk) for number, chunk in enumerate(chunks)]
    return Exchange(
        started=1.5,
        ms=20.0,
        first_ms=1.0,
        answer_headers=list(headers.items()),
        answer_chunks=times,
        seen_bytes=len(body) + sum(map(len, chunks)),
        truncated=False,
        **fields,
    )


def test_a_call_keeps_both_sides_and_none_of_its_secrets() -> None:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    request = b'{"params":{"token":"%s","_meta":{"traceparent":"%s"}}}' % (CANARY, trace)
    (record,) = made([called(request, b'{"result":{"password":"%s"}}' % CANARY)], RULES).records
    assert CANARY not in record.request + record.answer and record.trace == trace.decode()
    assert (record.at, record.kind, record.status, record.code, record.label, record.tool) == (1500, "call", "ok", None, "house", "who")


@pytest.mark.parametrize(
    ("outcome", "answer", "status", "code"),
    [
        ("", b'{"jsonrpc":"2.0","id":1,"result":{"error":{"code":5}}}', "ok", None),
        ("", b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}', "error", -32601),
        ("timed_out", b'{"jsonrpc":"2.0","id":"a","error":{"code":-32006}}', "timed_out", -32006),
        ("cancelled", b"", "cancelled", None),
        ("", b'{"jsonrpc":"2.0","id": ' + b" " * 60_000 + b'1,"result":1}', "ok", None),
        ("error", b'{"error":{"code":123456789012345678901234567890}}', "error", None),
    ],
)
def test_how_a_call_ended_is_read_from_its_answer(outcome: str, answer: bytes, status: str, code: int | None) -> None:
    (record,) = made([called(answer=answer, outcome=outcome)], RULES).records
    assert (record.status, record.code) == (status, code)


def test_frames_links_and_gaps_stand_where_they_were() -> None:
    found = made(
        [
            Linked(1.0, 7, "9f86", "device", "", "opened"),
            Framed(2.0, "9f86", 7, "lamp", "in", b'{"method":"notifications/progress","secret":"%s"}' % CANARY, 80),
            Framed(2.0, "9f86", 7, "lamp", "out", b"{}", 9_000, late=True),
            Linked(3.0, 7, "9f86", "device", "lamp", "named"),
            Gap(4.0, 5.0, 12),
            Linked(6.0, 7, "9f86", "device", "lamp", "closed", 1001, "bye"),
            Secrets(["x"]),
        ],
        RULES,
    )
    kinds = [(record.kind, record.method, record.status) for record in found.records]
    assert kinds == [
        ("link", "device opened", "ok"),
        ("frame", "notifications/progress", "ok"),
        ("frame", "", "late"),
        ("gap", "", "dropped"),
        ("link", "device closed", "ok"),
    ]
    assert found.counted == 2 and CANARY not in found.records[1].request and found.records[2].truncated
    gap, last = found.records[3], found.sessions[-1]
    assert (gap.at, gap.ms, gap.code) == (4000, 1000.0, 12)
    assert (last.id, last.name, last.ended, last.code, last.reason) == (7, "lamp", 6000, 1001, "bye")


def test_an_exchange_keeps_its_chunks_in_time_and_a_secret_that_two_of_them_share_is_gone() -> None:
    found = made([Exchanged(exchange(b'{"model":"gpt-5","api_key":"%s"}' % CANARY))], RULES)
    (record,) = found.records
    request, answer = decode_side(record.request), decode_side(record.answer)
    body = whole(answer.pieces, lambda name: b"")
    assert CANARY not in record.request + record.answer
    assert record.model == "gpt-5" and record.method.startswith("POST /v1/chat?key=***~") and request.client == "127.0.0.1"
    assert body.startswith(b'data: {"a":1}\n\ndata: {"token":"***~')
    ends = [sum(size for _, size in answer.chunks[: number + 1]) for number in range(4)]
    assert [body[:end].count(b"\n") for end in ends] == [2, 2, 4, 6] and ends[-1] == len(body)
    assert [offset for offset, _ in answer.chunks] == [0.0, 1.0, 2.0, 3.0]


def test_a_chat_is_told_by_its_model_its_tokens_and_the_tools_it_wants() -> None:
    packed = gzip.compress(sse(TOOLS, end=END))
    headers = {b"content-type": b"text/event-stream", b"content-encoding": b"gzip"}
    (record,) = made([Exchanged(exchange(chunks=[packed[:50], packed[50:]], headers=headers, path="/v1/chat/completions"))], RULES).records
    assert (record.model, record.tool) == ("gpt-x", "get_weather, now")
    assert (record.tokens_in, record.tokens_out, record.cached) == (9, 4, 8)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_compressed_body_is_read_and_searched(pack: Any) -> None:
    packed = pack(b"".join(CHUNKS))
    halves = [packed[:20], packed[20:]]
    encoding = b"gzip" if pack is gzip.compress else b"deflate"
    (record,) = made([Exchanged(exchange(chunks=halves, headers={b"Content-Encoding": encoding}))], RULES).records
    body = whole(decode_side(record.answer).pieces, lambda name: b"")
    assert b"[DONE]" in body and CANARY not in body


@pytest.mark.parametrize(
    ("headers", "chunks", "said"),
    [
        ({b"content-encoding": b"br"}, [b"\x0b\x02", b"\x80"], b"[3 bytes, Content-Encoding br: not recorded]"),
        ({b"content-encoding": b"br"}, [], b""),
        ({b"content-encoding": b"gzip", b"Content-Encoding": b"gzip"}, [b"x"], b"[1 bytes, Content-Encoding gzip: not recorded]"),
        ({b"content-encoding": b"gzip"}, [b"not gzip"], b"[not what its Content-Encoding says: not recorded]"),
        ({b"content-encoding": b"identity"}, [b"as it is"], b"as it is"),
    ],
)
def test_what_cannot_be_read_is_not_recorded(headers: dict[bytes, bytes], chunks: list[bytes], said: bytes) -> None:
    (record,) = made([Exchanged(exchange(chunks=chunks, headers=headers))], RULES).records
    assert whole(decode_side(record.answer).pieces, lambda name: b"") == said


def test_a_small_body_that_inflates_to_a_large_one_is_cut() -> None:
    packed = gzip.compress(b"x" * 20_000_000)
    (record,) = made([Exchanged(exchange(chunks=[packed, b"more"], headers={b"content-encoding": b"gzip"}))], RULES).records
    assert len(record.answer) < 9_000_000


@pytest.mark.parametrize("body", [b"no json", b"[1]", b'{"model":5}', b"[" * 5_000, b"\xff", b'{"a":"\xb8"}'])
def test_a_request_that_names_no_model_has_none(body: bytes) -> None:
    trace = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    for headers, found in (([trace], trace[1].decode()), ([(trace[0], b"no trace")], "")):
        (record,) = made([Exchanged(exchange(body, request_headers=headers, status=0, ending="broken"))], RULES).records
        assert (record.model, record.code, record.status, record.trace) == ("", None, "broken", found)


def test_tokens_are_counted_as_the_model_counts_them() -> None:
    usage = b'{"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":64}}'
    packed = gzip.compress(b'data: {"model":"gpt-5-1","choices":[],"usage":%s}' % usage + b"\n\ndata: [DONE]\n\n")
    headers = {b"content-encoding": b"gzip", b"content-type": b"text/event-stream"}
    body = b'{"model":"gpt-5","messages":[],"stream":true}'
    (record,) = made([Exchanged(exchange(body, [packed], headers, path="/v1/chat/completions"))], RULES).records
    assert (record.model, record.tokens_in, record.tokens_out, record.cached) == ("gpt-5-1", 100, 20, 64)


def test_chunks_are_one_where_lines_are_gone() -> None:
    assert recut([b"a\nb", b"c\n"], b"a\nbc\n", b"a***") == [4]
    assert recut([b"abc", b"d\n"], b"abcd\n", b"***~1\n") == [0, 6]


def test_raw_takes_nothing_out() -> None:
    items = [called(b'{"token":"%s"}' % CANARY), Framed(1.0, "a", 1, "x", "in", CANARY, 9), Exchanged(exchange(b'{"k":"%s"}' % CANARY))]
    records = made(items, Raw()).records
    assert all(CANARY in record.request for record in records)
    assert records[2].method == "POST /v1/chat?key=abcdefgh" and b"Bearer " + CANARY in records[2].request
