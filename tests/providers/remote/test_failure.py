"""What is told of a request that got no usable answer."""

from __future__ import annotations

import socket
import ssl

import httpx2
import pytest

from mcp_endpoint import errors
from mcp_endpoint.providers.remote.failure import (
    EXCERPT_CHARS,
    compressed,
    excerpt,
    names_lost_session,
    refused,
    unanswered,
    unreachable,
    unreadable,
)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"error":{"message":"no credit left","code":402}}', "no credit left"),
        (b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no session"}}', "no session"),
        (b'{"error":"invalid_token","error_description":"The token expired"}', "The token expired"),
        ('{"detail":"余额不足"}'.encode(), "余额不足"),
        (b'{"detail":[1]}', '{"detail":[1]}'),
        (b"<html><head><title>503 Back&nbsp;soon</title><style>a{}</style></head>\n<body><!-- x --><p>Sorry</p>", "503 Back soon Sorry"),
        (b"a\nb\x1b[31mc\r\n", "a b\\x1b[31mc"),
        (b"\xff\xfe", "��"),
        (b"", ""),
        (b"word " * 1000, ("word " * 100)[: EXCERPT_CHARS - 1] + "…"),
        (b"[" * 100_000, "[" * (EXCERPT_CHARS - 1) + "…"),
    ],
)
def test_the_first_words_are_one_short_line(body: bytes, shown: str) -> None:
    assert excerpt(body) == shown


def test_no_secret_stands_in_the_words() -> None:
    assert "sk-aaaa" not in excerpt(b'{"error":{"message":"Incorrect API key provided: sk-aaaaaaaaaaaaaaaaaaaaaaaa"}}')
    assert "hushhush" not in excerpt(b"x" * (EXCERPT_CHARS - 10) + b" Authorization: Bearer hushhushhushhush")


@pytest.mark.parametrize(
    ("status", "en", "zh", "delivered"),
    [
        (400, "check url and type", "请检查 url 与 type", None),
        (401, "its key is missing or wrong", "密钥缺失或错误", False),
        (402, "no credit", "余额不足", False),
        (403, "the key may not do this", "没有权限", False),
        (404, "not found: check url", "请检查 url", False),
        (418, "HTTP 418: why", "HTTP 418：why", None),
        (429, "send fewer", "请求过多", False),
        (500, "server error", "出错", None),
        (503, "in maintenance", "维护中", False),
        (520, "server error", "出错", None),
        (529, "server error", "出错", False),
    ],
)
def test_a_refusal_names_its_status_its_words_and_the_remedy(status: int, en: str, zh: str, delivered: bool | None) -> None:
    failure = refused(status, b"why")
    assert f"HTTP {status}" in failure.en and en in failure.en and failure.en.endswith("why")
    assert f"HTTP {status}" in failure.zh and zh in failure.zh and failure.zh.endswith("why")
    assert (failure.delivered, failure.status, failure.session_lost) == (delivered, status, False)


def test_a_refusal_says_when_to_come_back() -> None:
    assert "after 30 s" in refused(503, b"", retry_seconds=30).en
    assert "30 秒" in refused(503, b"", retry_seconds=30).zh


@pytest.mark.parametrize(
    ("status", "said", "session", "lost"),
    [
        (404, "", True, True),
        (404, "Not Found", False, False),
        (404, "Session not found", False, True),
        (410, "", True, True),
        (400, "Bad Request: No valid session ID provided", True, True),
        (400, "Bad Request: Mcp-Session-Id header is required", False, True),
        (400, "Invalid session id", True, True),
        (400, "Bad Request: Server not initialized", True, True),
        (400, "session 4711 has expired", True, True),
        (400, "会话已过期", True, True),
        (400, "the argument `session` is a string", True, False),
        (400, "bad arguments", True, False),
        (500, "Session not found", True, False),
    ],
)
def test_a_lost_session_is_known_by_its_status_or_its_words(status: int, said: str, session: bool, lost: bool) -> None:
    failure = refused(status, said.encode(), session=session)
    assert failure.session_lost is lost
    assert not lost or failure.delivered is False


def test_a_lost_session_is_known_by_the_error_of_an_answer() -> None:
    assert names_lost_session({"code": -32001, "message": "Session not found"})
    assert not names_lost_session({"code": -32603, "message": "Method not supported: ping"})
    assert not names_lost_session({"code": -32001, "message": "Request timed out"})
    assert not names_lost_session({})


def _caused(error: httpx2.TransportError, cause: BaseException) -> httpx2.TransportError:
    """As the HTTP client does it; what TLS waited for before it failed is only its context."""
    cause.__context__ = ssl.SSLWantReadError(2, "want read")
    error.__cause__ = ConnectionError(cause)
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_caused(httpx2.ConnectError(""), ConnectionRefusedError(111, "no")), "connection refused, nothing listens there"),
        (_caused(httpx2.ConnectError(""), socket.gaierror(-2, "no")), "the name far.example cannot be resolved: check url and DNS"),
        (_caused(httpx2.ConnectError(""), ssl.SSLError(1, "[SSL: X] x")), "TLS failed"),
        (_caused(httpx2.ConnectError(""), ssl.SSLCertVerificationError(1, "self-signed")), "its TLS certificate is not accepted"),
        (_caused(httpx2.ConnectError(""), OSError(101, "Network is unreachable")), "Network is unreachable"),
        (_caused(httpx2.ConnectTimeout(""), TimeoutError()), "no connection within 10 s"),
        (httpx2.PoolTimeout(""), "too many concurrent requests"),
    ],
)
def test_who_cannot_be_reached_is_told_why(error: httpx2.TransportError, words: str) -> None:
    failure = unreachable(error, "far.example", 10.0)
    assert failure.en.startswith("the server cannot be reached: ") and words in failure.en
    assert failure.zh.startswith("无法连接服务器：")
    assert failure.unreachable and failure.delivered is False


def test_what_was_sent_and_not_answered_may_have_been_run() -> None:
    assert unanswered(httpx2.ReadTimeout(""), 310.0).en == "the server did not answer within 310 s"
    assert "not answer in HTTP" in unanswered(httpx2.RemoteProtocolError("illegal status line"), 1.0).en
    assert "closed the connection" in unanswered(httpx2.RemoteProtocolError("Server disconnected without sending a response."), 1.0).en
    assert unanswered(httpx2.ReadError(""), 1.0).delivered is None


@pytest.mark.parametrize(
    ("status", "number", "words"),
    [
        (401, -32001, "did not take the request"),
        (429, -32001, "did not take the request"),
        (418, -32008, "refused the request"),
        (500, -32003, "has no result"),
        (503, -32001, "did not take the request"),
    ],
)
def test_the_message_of_a_refusal_is_true_for_a_server_that_is_there(status: int, number: int, words: str) -> None:
    """Nothing has left, something is connected, and the answer can be read: the words for tools that dial in would be wrong."""
    found = refused(status, b"busy").error()
    assert found["code"] == number
    assert words in str(found["message"])
    for wrong in ("left", "断开", "No tool is connected", "cannot be read"):
        assert wrong not in str(found["message"])


def test_a_failure_becomes_the_error_of_an_answer() -> None:
    found = unreadable("not UTF-8", b"abc", "text/html").error()
    assert found["code"] == errors.UNREADABLE_ANSWER.number
    assert found["data"] == {
        "source": "broker",
        "delivered": True,
        "hint": "应答（text/html）无法解析：not UTF-8：abc（这是网页：请检查 url） / "
        "the answer (text/html) cannot be read: not UTF-8: abc (a web page: check url)",
    }
    assert "compressed (gzip)" in compressed("gzip").en
