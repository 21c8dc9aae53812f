"""Our errors as HTTP consumers hear them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_endpoint import errors
from mcp_endpoint.consumers.mcp_http.failures import for_http
from mcp_endpoint.protocol import jsonrpc

OURS = {"source": "broker", "agent_id": "home", "delivered": False, "hint": "never connected"}


def error(code: int, data: Any) -> bytes:
    return json.dumps({"code": code, "message": "工具端未连接 / none", "data": data}).encode()


def test_a_call_that_failed_on_the_way_is_a_result_a_model_can_read() -> None:
    """Design §3.3: on HTTP our errors become isError results for tools/call."""
    frame = for_http("tools/call", b'"x"', error(-32001, OURS))
    assert frame is not None
    result = json.loads(frame)["result"]
    assert json.loads(frame)["id"] == "x" and result["isError"] is True
    assert result["content"] == [{"type": "text", "text": "工具端未连接 / none: never connected"}]
    assert result["_meta"]["mcp-endpoint-server/error"]["code"] == -32001


def test_a_failure_without_a_hint_says_what_it_has() -> None:
    frame = for_http("tools/call", b"1", error(-32005, {"source": "broker"}))
    assert frame is not None and json.loads(frame)["result"]["content"][0]["text"] == "工具端未连接 / none"


def test_an_error_that_a_tool_nests_to_the_parsers_limit_is_told_or_left_alone() -> None:
    """What can just be read cannot always be written: it must not raise into the way of who sent it."""
    deep = b'{"code":-32003,"message":"m","data":{"source":"broker","x":%b}}'
    frames = [for_http("tools/call", b"1", deep % (b"[" * depth + b"]" * depth)) for depth in range(1_010, 850, -1)]
    assert frames[0] is None and frames[-1] is not None
    assert any(frame is not None and len(frame) < 500 for frame in frames)


@pytest.mark.parametrize("code", [code for code in vars(errors).values() if isinstance(code, errors.Code)])
@pytest.mark.parametrize("method", ["tools/list", "prompts/get", "initialize"])
def test_no_code_of_ours_leaves_in_the_range_that_mcp_keeps(code: errors.Code, method: str) -> None:
    """Design §3.3: never codes in -32000…-32099."""
    body = json.loads(jsonrpc.error(b"1", code, OURS))["error"]
    frame = for_http(method, b"1", json.dumps(body).encode())
    if code.number < -32099:
        assert frame is None
    else:
        assert frame is not None
        changed = json.loads(frame)["error"]
        assert changed["code"] == -32603 and changed["data"]["code"] == code.number and changed["data"]["hint"] == "never connected"


@pytest.mark.parametrize(
    "body",
    [
        error(-32602, OURS),
        error(-32001, {"source": "elsewhere", "note": "broker"}),
        error(-32001, "broker"),
        error(-31999, OURS),
        error(-32100, OURS),
        b'{"code": -32001, "message": "mine"}',
        b'{"code": "x", "message": "\\"broker\\""}',
        b'"broker"',
    ],
)
def test_what_a_tool_says_itself_passes_as_it_is(body: bytes) -> None:
    assert for_http("tools/call", b"1", body) is None
