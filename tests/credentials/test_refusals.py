"""What an upstream's answer says of a key, by its class, its words and its times."""

from __future__ import annotations

import gzip
import zlib
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_endpoint.credentials.refusals import LONGEST_REST, LOOK_BYTES, Answer, Meaning, is_failure, meaning, plain, retry_after

NOW = 1_800_000_000.0


@pytest.mark.row("R4", "R5")
@pytest.mark.parametrize(
    ("status", "said"),
    [
        *((status, Meaning.FINE) for status in (200, 204, 301, 304, 400, 404, 405, 410, 418, 422, 451, 499)),
        *((status, Meaning.BUSY) for status in (None, 408, 425, 429, 500, 501, 502, 503, 504, *range(520, 528), 529, 530, 599)),
        (402, Meaning.SPENT),
        (401, Meaning.REFUSED),
        (403, Meaning.REFUSED),
    ],
)
def test_a_status_is_judged_by_its_class(status: int | None, said: Meaning) -> None:
    assert meaning(Answer(status)) is said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(401, challenge='Bearer error="insufficient_scope", scope="x"'), Meaning.SCOPE),
        (Answer(403, text=b'{"error":"Insufficient Scope"}'), Meaning.SCOPE),
        (Answer(401, challenge='Bearer error="invalid_token"'), Meaning.REFUSED),
        (Answer(403, text=b'{"error":{"code":"insufficient_quota"}}'), Meaning.SPENT),
        (Answer(403, text="账户余额不足".encode()), Meaning.SPENT),
        (Answer(429, text=b'{"error":{"type":"insufficient_quota"}}'), Meaning.SPENT),
        (Answer(403, text=b"API rate limit exceeded"), Meaning.BUSY),
        (Answer(401, text=b"quota"), Meaning.REFUSED),
        (Answer(403, text=b"\xff\xfe no such model"), Meaning.REFUSED),
        (Answer(404, text=b"quota"), Meaning.FINE),
    ],
)
def test_words_tell_the_request_and_the_account_from_the_key(answer: Answer, said: Meaning) -> None:
    assert meaning(answer) is said


@pytest.mark.row("R5")
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": ".25"}, 0.25),
        ({"retry-after": "99999999999"}, LONGEST_REST),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "²"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "9" * 400}, LONGEST_REST),
        ({"retry-after": formatdate(NOW + 100, usegmt=True)}, 100.0),
        ({"retry-after": formatdate(NOW - 100, usegmt=True)}, 0.0),
        ({"retry-after": formatdate(NOW + 1e7, usegmt=True)}, LONGEST_REST),
        ({"retry-after": formatdate(50, usegmt=True), "date": formatdate(20, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW + 9, usegmt=True), "date": "yesterday"}, 9.0),
        ({"retry-after": "Sun Nov  6 08:49:37 1994", "date": "Sunday, 06-Nov-94 08:49:07 GMT"}, 30.0),
        ({"retry-after": "Mon, 99 Foo 20000000000 99:99:99 GMT"}, None),
        ({"retry-after-ms": "1500", "retry-after": "60"}, 1.5),
        ({"retry-after-ms": "250.5"}, 0.2505),
        ({"retry-after-ms": "x", "retry-after": "60"}, 60.0),
        ({"retry-after-ms": "999999999999"}, LONGEST_REST),
    ],
)
def test_how_long_the_service_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == (seconds if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_header_makes_a_rest_negative_or_endless(after: str, millis: str, date: str) -> None:
    seconds = retry_after({"retry-after": after, "retry-after-ms": millis, "date": date}, NOW)
    assert seconds is None or 0 <= seconds <= LONGEST_REST


def test_a_compressed_refusal_is_read_and_a_bomb_costs_nothing() -> None:
    for packed in (gzip.compress(b"quota"), zlib.compress(b"quota")):
        assert plain(packed, " GZIP ") == b"quota"
    assert plain(b"quota", "") == plain(b"quota", "identity") == b"quota"
    assert plain(b"quota", "br") == b""
    assert len(plain(gzip.compress(b"x" * 10_000_000), "gzip")) == len(plain(b"x" * 10_000, "")) == LOOK_BYTES


@pytest.mark.parametrize(
    ("body", "failed"),
    [
        (b'{"error":{"code":"invalid_api_key"}}', True),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":-32001}}', True),
        (b'{"success":false}', True),
        (b'{"error":null,"data":1}', False),
        (b'{"error":""}', False),
        (b'{"result":{"error":"x"}}', False),
        (b'{"success":true}', False),
        (b"[]", False),
        (b'{"error', False),
        (b"", False),
        (b"[" * 100_000, False),
    ],
)
def test_an_error_under_a_good_status_is_no_success(body: bytes, failed: bool) -> None:
    assert is_failure(body) is failed
