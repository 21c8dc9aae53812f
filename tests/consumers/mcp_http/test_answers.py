"""What a client accepts, and the errors it gets."""

from __future__ import annotations

import json

import pytest
from starlette.requests import Request

from mcp_endpoint import errors
from mcp_endpoint.consumers.mcp_http.answers import LATER, accepts, error_answer, error_frame, refused


@pytest.mark.parametrize(
    ("given", "json_and_stream"),
    [
        ([], (True, False)),
        (["*/*"], (True, True)),
        (["application/json"], (True, False)),
        (["text/event-stream"], (False, True)),
        (["application/json;q=0.9, TEXT/event-stream"], (True, True)),
        (["application/*", "text/*"], (True, True)),
        (["text/html"], (False, False)),
    ],
)
def test_what_a_client_accepts_stands_in_one_or_several_headers(given: list[str], json_and_stream: tuple[bool, bool]) -> None:
    request = Request({"type": "http", "headers": [(b"accept", one.encode()) for one in given]})
    assert accepts(request) == json_and_stream


def test_an_error_is_one_of_json_rpc_with_a_status_and_never_has_a_code_of_devices() -> None:
    answer = refused(503, errors.BUSY, "full", b'"a"', headers=LATER)
    body = json.loads(answer.body)
    assert (answer.status_code, answer.headers["retry-after"], body["id"]) == (503, "5", "a")
    assert body["error"]["code"] == -32603 and body["error"]["message"].endswith(": full")
    assert json.loads(refused(400, errors.INVALID_REQUEST, "why").body)["error"]["code"] == -32600


def test_an_error_of_the_revision_without_sessions_has_the_status_of_its_code() -> None:
    assert error_frame(b"7", -32601, "no") == (b'{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"no"}}', 404)
    answer = error_answer(b"7", -32000, "no", {"a": 1})
    assert (answer.status_code, json.loads(answer.body)["error"]["data"]) == (200, {"a": 1})
