"""Two eras of one protocol: what is said in one is heard in the other, and between two peers of one era nothing is changed."""

from __future__ import annotations

import json

import pytest
from plays import notification

from mcp_endpoint.protocol import methods, stateless
from mcp_endpoint.protocol.methods import (
    ASKER,
    CAPABILITIES_KEY,
    CLIENT_KEY,
    LEVEL_KEY,
    SERVER_KEY,
    SUBSCRIPTION_KEY,
    VERSION_KEY,
)
from mcp_endpoint.protocol.methods import (
    STATELESS_REVISION as REVISION,
)

SERVER = b'{"name":"us","version":"1"}'
ENVELOPE = {VERSION_KEY: REVISION, CLIENT_KEY: {"name": "c", "version": "1"}, CAPABILITIES_KEY: {"elicitation": {}}}
DEEP = b'{"_meta":' * 600 + b"1" + b"}" * 600


# == what a stateless consumer says and hears ==============================================================================


def test_the_envelope_is_taken_off_first() -> None:
    """What is left is what a tool of the handshake era knows, byte for byte."""
    params = b'{"name": "a",\t"arguments": {"x": 1.00, "y": "\\u4f60"}, "_meta": %b}' % json.dumps(ENVELOPE).encode()
    assert stateless.without_envelope(params, asker=False) == b'{"name": "a",\t"arguments": {"x": 1.00, "y": "\\u4f60"}}'


def test_what_else_stands_in_meta_stays() -> None:
    """Progress tokens and traces are the tool's business; a key of ours is nobody's but ours."""
    params = json.dumps({"_meta": {**ENVELOPE, "progressToken": 7, "traceparent": "00-1", ASKER: {"forged": 1}}}).encode()
    assert json.loads(stateless.without_envelope(params, asker=False)) == {"_meta": {"progressToken": 7, "traceparent": "00-1"}}


def test_the_envelope_travels_along_for_a_tool_of_the_same_era() -> None:
    params = json.dumps({"name": "a", "_meta": {**ENVELOPE, LEVEL_KEY: "info", "progressToken": 7}}).encode()
    without_envelope = json.loads(stateless.without_envelope(params, asker=True))
    assert without_envelope == {"name": "a", "_meta": {"progressToken": 7, ASKER: {**ENVELOPE, LEVEL_KEY: "info"}}}


def test_parameters_without_meta_are_left_alone() -> None:
    assert stateless.without_envelope(b'{"name":"a"}', asker=True) == b'{"name":"a"}'


def test_a_result_says_what_kind_it_is_and_who_says_it() -> None:
    result = stateless.for_stateless("tools/call", b'{"content":[],"x":1.00}', SERVER)
    assert result == b'{"resultType":"complete","_meta":{"%b":%b},"content":[],"x":1.00}' % (SERVER_KEY.encode(), SERVER)
    assert stateless.for_stateless("tools/call", b"{}", SERVER) == b'{"resultType":"complete","_meta":{"%b":%b}}' % (
        SERVER_KEY.encode(),
        SERVER,
    )


@pytest.mark.parametrize("method", sorted(methods.CACHEABLE))
def test_lists_and_resources_say_how_long_they_may_be_kept(method: str) -> None:
    """Not at all, and by this consumer only: a tool may come or go at any time, and another token sees other tools."""
    found = json.loads(stateless.for_stateless(method, b"{}", SERVER))
    assert (found["ttlMs"], found["cacheScope"]) == (0, "private")


def test_what_a_tool_says_itself_is_not_said_again() -> None:
    said = {"resultType": "complete", "ttlMs": 5, "cacheScope": "public", "_meta": {SERVER_KEY: {"name": "tool"}, "a": 1}}
    assert json.loads(stateless.for_stateless("tools/list", json.dumps(said).encode(), SERVER)) == said


def test_a_results_own_meta_gets_the_servers_name_added() -> None:
    found = json.loads(stateless.for_stateless("tools/call", b'{"_meta":{"a":1},"resultType":"complete"}', SERVER))
    assert found == {"_meta": {"a": 1, SERVER_KEY: json.loads(SERVER)}, "resultType": "complete"}


def test_a_question_may_not_be_kept() -> None:
    assert "ttlMs" not in json.loads(stateless.for_stateless("resources/read", b'{"resultType":"input_required"}', SERVER))


@pytest.mark.parametrize("result", [b'{"a":1,"a":2}', b'{"_meta":{},"_meta":{}}'])
def test_a_result_with_a_key_twice_is_left_as_it_is(result: bytes) -> None:
    assert stateless.for_stateless("tools/call", result, SERVER) == result


def test_a_missing_resource_is_a_wrong_parameter_in_the_stateless_era() -> None:
    """-32002 was given up, and the address of what is missing belongs to the error (SEP-2164)."""
    told = json.loads(stateless.error_for_stateless("resources/read", b'{"uri":"a:b"}', b'{"code":-32002,"message":"no such"}'))
    assert told == {"code": -32602, "message": "no such", "data": {"uri": "a:b"}}
    told = json.loads(stateless.error_for_stateless("resources/read", b"{}", b'{"code":-32002,"message":"no such","data":{"uri":"c:d"}}'))
    assert told == {"code": -32602, "message": "no such", "data": {"uri": "c:d"}}


@pytest.mark.parametrize("error", [b'{"code":-32602,"message":"x"}', b'{"code":7}', b'"odd"', b"null"])
def test_other_errors_are_told_as_they_are(error: bytes) -> None:
    assert stateless.error_for_stateless("resources/read", b"{}", error) == error


def test_a_method_that_mcp_1_does_not_know_is_said_not_to_be_there() -> None:
    """Its servers answer every unknown method with -32602 and these words; a known method with them is told as it is."""
    error = b'{"code":-32602,"message":"Invalid request parameters","data":""}'
    assert json.loads(stateless.error_for_stateless("unknown/method", b"{}", error))["code"] == -32601
    assert stateless.error_for_stateless("tools/call", b"{}", error) == error
    assert stateless.error_for_stateless("unknown/method", b"{}", b'{"code":-32602,"message":"own"}') == b'{"code":-32602,"message":"own"}'


@pytest.mark.parametrize(
    ("level", "said", "told"),
    [("info", "info", True), ("info", "error", True), ("error", "info", False), (None, "error", False), ("odd", "error", False)],
)
def test_a_log_message_is_told_if_the_request_asked_for_its_level(level: str | None, said: str, told: bool) -> None:
    assert stateless.log_wanted(level, json.dumps({"level": said}).encode()) is told


def test_a_log_message_without_a_level_is_told_to_nobody() -> None:
    assert not stateless.log_wanted("debug", b"{}")


def test_a_notification_of_a_stream_carries_its_id() -> None:
    frame = json.loads(stateless.tagged("notifications/resources/updated", b'{"uri":"a","_meta":{"b":1}}', b'"x"'))
    assert frame == notification("notifications/resources/updated", uri="a", _meta={"b": 1, SUBSCRIPTION_KEY: "x"})
    assert json.loads(stateless.tagged("m", stateless.UNSET, b"7"))["params"] == {"_meta": {SUBSCRIPTION_KEY: 7}}


def test_what_cannot_be_read_counts_as_nothing() -> None:
    assert stateless.fields(DEEP[:-1]) == {} and stateless.fields(b"[]") == {} and stateless.fields(stateless.UNSET) == {}
    assert stateless.objects(b"1") == {} and stateless.objects(stateless.UNSET) == {}
    assert stateless.text(None) is None and stateless.text(b"7") is None and stateless.text(b"{") is None and stateless.text(b'"a"') == "a"
    assert stateless.read_error(b"[]").code == -32603


@pytest.mark.parametrize(("code", "only"), [(-32022, True), (-32601, True), (-32602, False), (-32603, False)])
def test_an_error_to_initialize_may_mean_the_other_era(code: int, only: bool) -> None:
    assert stateless.knows_only_stateless(b'{"code":%d,"message":""}' % code) is only
