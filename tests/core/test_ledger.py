"""Requests on their way, as plays: the ids on both sides, what is owed to whom, and who is told when it ends otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from plays import INITIALIZED, Actor, Play, answer, call, failure, initialize, notification, request, welcome

from mcp_endpoint import errors
from mcp_endpoint.core.ledger import TOKEN_CHARS, id_of, number_of, number_text, outgoing
from mcp_endpoint.core.parties import MAX_ID, Call, is_open
from mcp_endpoint.protocol.jsonrpc import Frame, Malformed, parse
from mcp_endpoint.settings.schema import EndpointSettings, Limits


def pair(limits: Limits | None = None, settings: EndpointSettings | None = None) -> tuple[Play, Actor, Actor]:
    """A tool and a device, neither of which speaks MCP's handshake."""
    play = Play(settings, limits)
    return play, play.tool(), play.device()


def shaken(limits: Limits | None = None, **capabilities: Any) -> tuple[Play, Actor, Actor]:
    """A tool and a device that have shaken hands; the device declared the capabilities, and the tool's next number is 2."""
    play = Play(limits=limits)
    tool, device = play.tool(), play.device()
    device.says(initialize(0, **capabilities), INITIALIZED)
    tool.says(welcome(tool.hear()["id"]))
    tool.hears(INITIALIZED)
    device.hear()
    return play, tool, device


def a_call(consumer: Any = None) -> Call:
    return Call(consumer, b'"a"', b'"a"', "m", 0.0, 1.0)


def test_parameters_too_deep_to_be_looked_into_are_refused() -> None:
    deep = b'{"_meta":%b}' % (b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(Malformed) as refused:
        outgoing(a_call(), Frame("2.0", Raw(b"1"), "m", Raw(deep)), b'{"jsonrpc":"2.0","id":1,"method":"m","params":%b}' % deep, 1, None)
    assert refused.value.code is errors.INVALID_PARAMS


def test_a_call_is_open_until_its_answer() -> None:
    play, tool, device = pair()
    device.says(request(1, "m"))
    (owed,) = device.party.owed
    assert is_open(owed)
    tool.says(answer(1))
    assert not is_open(owed)
    assert not is_open(a_call())
    play.endpoint.ledger.answer(owed, b"a second one")
    play.endpoint.ledger.answer(a_call(), b"nobody's")
    device.hears(answer(1))
    device.hears_nothing()


# -- numbers -----------------------------------------------------------------------------------------------------------------


@pytest.mark.row("D9")
def test_a_provider_sees_small_numbers_of_its_own_counted_from_one() -> None:
    """C# clients read ids as 32-bit integers (contract 1.3); every link has its own (§3.1, rule 3)."""
    play = Play()
    one, other = play.tool("one"), play.tool("other")
    one.is_greeted("one", ["a"])
    other.is_greeted("other", ["b"])
    device = play.ready_device()
    for id in ("x" * 128, 99999999999999999999, 0, ""):
        device.says(call(id, "a"), call(id, "b"))
    assert [one.hear()["id"] for _ in range(4)] == [3, 4, 5, 6]
    assert [other.hear()["id"] for _ in range(4)] == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        (b"1", 1),
        (b"2147483647", 2147483647),
        (b"9999999999", 9999999999),
        (b"0", 0),
        (b"-1", 0),
        (b"1.0", 0),
        (b"1e0", 0),
        (b'"1"', 0),
        (b"null", 0),
        (b"99999999999", 0),
        (b"1" * 100_000, 0),
        (b"", 0),
    ],
)
def test_only_our_own_spelling_of_a_number_is_one_of_ours(raw: bytes, number: int) -> None:
    assert number_of(raw) == number


def test_a_number_is_read_as_it_is_written() -> None:
    assert [number_of(number_text(number)) for number in (1, 10, MAX_ID)] == [1, 10, MAX_ID]
    assert id_of(parse(b'{"id":"7"}')) == b'"7"'
    assert id_of(parse(b"{}")) == b"null"


# -- what is owed ------------------------------------------------------------------------------------------------------------


@pytest.mark.row("U7", "U8")
def test_ids_that_are_used_twice_get_an_answer_each() -> None:
    """xiaozhi-server uses 1 and 2 again, also while the first is pending; the answers may come in any order."""
    play, tool, device = pair()
    device.says(request(1, "first"), request(1, "second"), request(2, "third"))
    tool.hears(request(1, "first"), request(2, "second"), request(3, "third"))
    assert play.endpoint.ledger.in_flight == 3
    tool.says(answer(2, of="second"), answer(3, of="third"), answer(1, of="first"))
    device.hears(answer(1, of="second"), answer(2, of="third"), answer(1, of="first"))
    assert play.endpoint.ledger.in_flight == 0
    assert (play.counters.requests, play.counters.answers, play.counters.carried) == (3, 3, 3)


@pytest.mark.row("D10")
def test_an_answer_nobody_asked_for_and_a_second_answer_go_nowhere() -> None:
    play, tool, device = pair()
    device.says(request(5, "m"))
    tool.hears(request(1, "m"))
    tool.says(answer(2), answer(5), answer("one"), answer(-1), answer(1.5), answer(None), answer(1, x=1), answer(1, x=2))
    device.hears(answer(5, x=1))
    device.hears_nothing()
    assert play.counters.unknown_answers == 7


@pytest.mark.row("D10")
def test_an_answer_is_looked_up_among_the_answering_links_own_calls_only() -> None:
    play = Play()
    one, other = play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    device.says(call(7, "a"))
    id = one.hear()["id"]
    other.says(answer(id, forged=True))
    device.hears_nothing()
    one.says(answer(id, good=True))
    device.hears(answer(7, good=True))
    assert play.counters.unknown_answers == 1


def test_a_tool_call_that_times_out_names_the_remedy() -> None:
    play, tool, device = pair()
    device.says(call(7, "add"))
    assert tool.hear()["method"] == "tools/call"
    play.wait(25)
    error = device.hear()["error"]
    assert error["code"] == errors.TIMED_OUT.number
    assert error["data"]["hint"].startswith("no answer within 25 s: ")
    assert '或延长时限：[endpoint.tools."工具名"] timeout' in error["data"]["hint"]


@pytest.mark.row("D6")
def test_an_answer_after_the_deadline_is_late_and_one_more_is_unknown() -> None:
    play, tool, device = pair()
    device.says(request(7, "m"))
    tool.hears(request(1, "m"))
    play.wait(25)
    device.hears_error(7, errors.TIMED_OUT.number, delivered=True, hint="no answer within 25 s / 25 秒内没有应答")
    tool.hears(notification("notifications/cancelled", requestId=1, reason="timed out"))
    assert ("timed out", {"method": "m", "seconds": "25"}) in play.told
    tool.says(answer(1), answer(1))
    device.hears_nothing()
    assert (play.counters.timed_out, play.counters.late_answers, play.counters.unknown_answers) == (1, 1, 1)


@pytest.mark.row("D14", "U8")
def test_who_cancels_gets_no_answer_and_the_provider_hears_its_own_number() -> None:
    """The newest call of a doubled id is meant (§3.1, rule 3)."""
    play, tool, device = pair()
    device.says(request("a", "first"), request("a", "second"))
    tool.hears(request(1, "first"), request(2, "second"))
    device.says(notification("notifications/cancelled", requestId="a", reason="你"))
    tool.hears(notification("notifications/cancelled", requestId=2, reason="你"))
    tool.says(answer(2), answer(1))
    device.hears(answer("a"))
    device.hears_nothing()
    assert (play.counters.cancelled, play.counters.late_answers, play.endpoint.ledger.in_flight) == (1, 1, 0)


def test_a_consumer_that_leaves_cancels_its_calls_and_no_others() -> None:
    play, tool, device = pair()
    other = play.device()
    device.says(request(1, "m"))
    other.says(request(1, "n"))
    tool.hears(request(1, "m"), request(2, "n"))
    device.leaves()
    tool.hears(notification("notifications/cancelled", requestId=1, reason="the consumer left"))
    assert play.endpoint.ledger.in_flight == 1
    tool.says(answer(1), answer(2))
    device.hears_nothing()
    other.hears(answer(1))
    assert play.counters.late_answers == 1


def test_a_consumer_that_leaves_while_its_call_waits_for_a_provider_is_owed_nothing() -> None:
    play, tool, device = pair()
    tool.leaves()
    device.says(call(1, "x"))
    device.leaves()
    assert play.endpoint.ledger.in_flight == 0
    play.wait(5)
    device.hears_nothing()


# -- bounds ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(in_flight_per_consumer=2), Limits(in_flight_per_endpoint=2)])
def test_a_request_beyond_what_may_be_in_flight_is_refused_at_once(limits: Limits) -> None:
    play, tool, device = pair(limits)
    device.says(request(1, "a"), request(2, "b"), request(3, "c"))
    tool.hears(request(1, "a"), request(2, "b"))
    tool.hears_nothing()
    device.hears_error(3, errors.BUSY.number, delivered=False)
    tool.says(answer(1))
    device.hears(answer(1))
    device.says(request(3, "c"))
    tool.hears(request(3, "c"))
    assert (play.counters.busy, play.counters.requests) == (1, 3)


def test_one_consumers_calls_do_not_count_for_another() -> None:
    play, tool, device = pair(Limits(in_flight_per_consumer=1))
    other = play.device()
    device.says(request(1, "a"))
    other.says(request(1, "b"))
    tool.hears(request(1, "a"), request(2, "b"))


@pytest.mark.row("D23")
def test_an_answer_too_big_for_its_consumer_becomes_an_error_and_the_link_stays() -> None:
    """xiaozhi-server's socket dies of more than 1 MiB (contract 0.10)."""
    play, tool, device = pair(Limits(device_answer_bytes=1024))
    fits = answer("id", text="x" * 900)
    device.says(request("id", "m"), request("id", "m"))
    tool.says({**fits, "id": 1}, answer(2, text="x" * 1024))
    device.hears(fits)
    data = device.hears_error("id", errors.ANSWER_TOO_BIG.number, delivered=True)
    assert "the limit is 1024" in data["hint"]
    assert device.close_reason is None
    assert (play.counters.answers_too_big, play.counters.answers) == (1, 2)


def test_an_answer_of_exactly_the_limit_is_given_and_a_larger_consumer_gets_more() -> None:
    play, tool, _ = pair(Limits(device_answer_bytes=1024))
    device, gateway = play.device(), play.device(answer_bytes=4096)
    frame = answer(7, text="")
    frame["result"]["text"] = "x" * (1024 - len(json.dumps(frame, separators=(",", ":"))))
    device.says(request(7, "m"))
    gateway.says(request(7, "m"))
    tool.says({**frame, "id": 1}, answer(2, text="x" * 2048))
    device.hears(frame)
    gateway.hears(answer(7, text="x" * 2048))


def test_a_consumer_that_does_not_read_gets_a_small_error_for_each_answer() -> None:
    """Its queue is full; what is owed stays one answer, and a small one."""
    play, tool, device = pair()
    device.says(request(1, "m"))
    device.queued = play.endpoint.limits.queued_bytes_per_link + 1
    tool.says(answer(1, text="x" * 1000))
    device.hears_error(1, errors.BUSY.number, delivered=True)
    tool.leaves()
    device.says(call(2, "x"))
    play.wait(4)
    device.hears_error(2, errors.BUSY.number, delivered=False)
    assert play.counters.busy == 2


def test_notifications_that_find_no_room_are_dropped_and_counted() -> None:
    play, tool, device = pair(Limits(device_answer_bytes=1024))
    tool.says(notification("x", text="x" * 1024))
    device.queued = tool.queued = play.endpoint.limits.queued_bytes_per_link + 1
    tool.says(notification("x"))
    device.says(notification("x"))
    tool.hears_nothing()
    device.hears_nothing()
    assert (play.counters.dropped_notifications, play.counters.notifications) == (3, 0)
    device.queued = tool.queued = play.endpoint.limits.queued_bytes_per_link
    tool.says(notification("x"))
    device.says(notification("y"))
    tool.hears(notification("y"))
    device.hears(notification("x"))
    assert (play.counters.dropped_notifications, play.counters.notifications) == (3, 2)


# -- how a provider sees a request -------------------------------------------------------------------------------------------


@pytest.mark.row("D21")
@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b'{"jsonrpc":"2.0","id":"a","method":"m","params":null}', b'{"jsonrpc":"2.0","id":1,"method":"m"}'),
        (b'{"params" : null , "id":"a","jsonrpc":"2.0","method":"m"}', b'{"id":1,"jsonrpc":"2.0","method":"m"}'),
        (b'{"jsonrpc":"2.0","id":"a_b","method":"m","params":null}', b'{"jsonrpc":"2.0","id":1,"method":"m"}'),
        (b'{"jsonrpc":"2.0","id":"a_b","method":"m","params":[null]}', b'{"jsonrpc":"2.0","id":1,"method":"m","params":[null]}'),
        (b'{"jsonrpc":"2.0","id":"a_b","method":"m","params":true}', b'{"jsonrpc":"2.0","id":1,"method":"m","params":true}'),
        (b'{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":null}}', b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"x":null}}'),
        (b'{"jsonrpc":"2.0","id":"a","method":"m","params":[null]}', b'{"jsonrpc":"2.0","id":1,"method":"m","params":[null]}'),
        (b'{"jsonrpc":"2.0","id":"a","method":"m","params":"null"}', b'{"jsonrpc":"2.0","id":1,"method":"m","params":"null"}'),
        (b'{"jsonrpc":"2.0","id":"a","method":"m","params":1.00}', b'{"jsonrpc":"2.0","id":1,"method":"m","params":1.00}'),
        (b'{"jsonrpc":"2.0",\r\n"id":"a",\n"method":"m"}\n', b'{"jsonrpc":"2.0",  "id":1, "method":"m"} '),
    ],
)
def test_params_that_are_null_and_raw_line_breaks_do_not_reach_a_provider(said: bytes, heard: bytes) -> None:
    """manager-api sends the one, TypeScript servers drop it; stdio is framed by lines (§3.1, rule 2)."""
    _, tool, device = pair()
    device.says(said)
    tool.hears(heard)
    device.says(b'{"jsonrpc":"2.0",\n"method":"note"}')
    tool.hears(b'{"jsonrpc":"2.0", "method":"note"}')


@pytest.mark.row("D15")
def test_two_devices_with_the_same_progress_token_hear_their_own_progress() -> None:
    """A token becomes the number of its call towards the provider, and what it was towards the consumer."""
    play, tool, one = pair()
    other = play.device()
    for device, text in ((one, b'"t"'), (other, b'"t"')):
        device.says(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"x":1.00,"progressToken":%b}}}' % text)
    for number in (1, 2):
        tool.hears(b'{"jsonrpc":"2.0","id":%d,"method":"m","params":{"_meta":{"x":1.00,"progressToken":%d}}}' % (number, number))
    tool.says(b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":2,"progress":1.00}}')
    one.hears_nothing()
    other.hears(b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1.00}}')
    assert play.counters.notifications == 1


@pytest.mark.parametrize("token", ["0", '""', '"\\u4f60"', '"%s"' % ("x" * TOKEN_CHARS), "1" * TOKEN_CHARS])
def test_a_progress_token_comes_back_with_the_bytes_it_had(token: str) -> None:
    _, tool, device = pair()
    device.says(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"progressToken":%b}}}' % token.encode())
    assert tool.hear()["params"] == {"_meta": {"progressToken": 1}}
    tool.says(notification("notifications/progress", progressToken=1))
    device.hears(b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%b}}' % token.encode())


@pytest.mark.parametrize(
    "params",
    [
        b'{"_meta":{}}',
        b'{"_meta":null}',
        b'{"_meta":{"progressToken":null}}',
        b'{"_meta":{"progressToken":1.5}}',
        b'{"_meta":{"progressToken":{"a":1}}}',
        b'{"_meta":{"progressToken":"%b"}}' % (b"x" * (TOKEN_CHARS + 1)),
        b'{"progressToken":"t","arguments":{"_meta":{"progressToken":"t"}}}',
    ],
)
def test_what_is_no_progress_token_is_carried_as_it_is_and_brings_no_progress(params: bytes) -> None:
    play, tool, device = pair()
    device.says(b'{"jsonrpc":"2.0","id":7,"method":"m","params":%b}' % params)
    tool.hears(b'{"jsonrpc":"2.0","id":1,"method":"m","params":%b}' % params)
    tool.says(notification("notifications/progress", progressToken=1))
    device.hears_nothing()
    assert play.counters.dropped_notifications == 1


def test_an_escaped_key_is_the_key_it_spells() -> None:
    _, tool, device = pair()
    device.says(b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"_m\\u0065ta":{"progressT\\u006fken":"t"}}}')
    tool.hears(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_m\\u0065ta":{"progressT\\u006fken":1}}}')


@pytest.mark.parametrize(
    "params", [b'{"_meta":{"progressToken":1,"progressToken":2}}', b'{"_meta":{},"_meta":{}}', b'{"a":1,"a":2,"_meta":{"progressToken":1}}']
)
def test_parameters_that_can_be_read_in_two_ways_are_refused_where_they_must_be_changed(params: bytes) -> None:
    play, tool, device = pair()
    device.says(b'{"jsonrpc":"2.0","id":7,"method":"m","params":%b}' % params)
    device.hears_error(7, errors.INVALID_PARAMS.number, delivered=False)
    tool.hears_nothing()
    assert (play.counters.carried, play.endpoint.ledger.in_flight) == (0, 0)
    device.says(request(8, "m"))
    assert tool.hear()["method"] == "m"


def test_a_tool_under_another_name_hears_its_own_and_every_other_byte() -> None:
    play = Play()
    _, two = play.merged(one=["add"], two=["add"])
    device = play.ready_device()
    device.says(b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{ "arguments":{"name":"two__add","x":1.00}, "name" : "two__add"}}')
    two.hears(b'{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{ "arguments":{"name":"two__add","x":1.00}, "name" : "add"}}')
    device.says(b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"_meta":{"progressToken":"t"},"name":"two__add"}}')
    two.hears(b'{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"_meta":{"progressToken":4},"name":"add"}}')


# -- what providers ask ------------------------------------------------------------------------------------------------------

SAMPLE = request("s-1", "sampling/createMessage", text="你")


@pytest.mark.row("D13", "U16")
def test_a_provider_asks_the_one_consumer_that_can_and_has_a_call_there() -> None:
    """Its id and the consumer's are apart, and the answer goes back with the bytes of the id it had."""
    play, tool, device = shaken(sampling={})
    device.says(request(5, "m"))
    tool.hears(request(2, "m"))
    tool.says(b'{"jsonrpc":"2.0","id":"\\u4f60","method":"sampling/createMessage","params":{"x":1.00}}')
    device.hears(b'{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"x":1.00}}')
    device.says(b'{"jsonrpc":"2.0","id":1,\n"result":{"y":2.00}}')
    tool.hears(b'{"jsonrpc":"2.0","id":"\\u4f60", "result":{"y":2.00}}')
    tool.says(SAMPLE)
    device.hears({**SAMPLE, "id": 2})
    device.says(failure(2, -1, "no"))
    tool.hears(failure("s-1", -1, "no"))
    assert play.counters.asked == 2


@pytest.mark.row("D13", "U16")
def test_what_no_consumer_can_answer_is_refused_at_once() -> None:
    """xiaozhi-server declares sampling and never answers: only who has a call there is asked, and only what it declared (§3.2)."""
    play, tool, device = shaken(sampling={})
    tool.says(SAMPLE)
    tool.hears_error("s-1", errors.METHOD_NOT_FOUND.number, hint="no consumer can be asked")
    device.says(request(5, "m"))
    tool.hears(request(2, "m"))
    for method in ("roots/list", "elicitation/create", "tools/list", "what/ever"):
        tool.says(request(4, method))
        tool.hears_error(4, errors.METHOD_NOT_FOUND.number)
    other = play.ready_device(sampling={})
    other.says(request(6, "m"))
    tool.hears(request(3, "m"))
    tool.says(SAMPLE)  # two could be meant
    tool.hears_error("s-1", errors.METHOD_NOT_FOUND.number)
    device.hears_nothing()
    other.hears_nothing()


@pytest.mark.row("D13")
def test_a_providers_ping_is_answered_here() -> None:
    _, tool, device = pair()
    tool.says(request(0, "ping"), request("p", "ping"))
    tool.hears(answer(0), answer("p"))
    device.hears_nothing()


def test_a_provider_whose_id_is_none_has_said_noise() -> None:
    play, tool, device = pair()
    tool.says(request(None, "ping"), request(1.5, "ping"), request([1], "ping"))
    tool.hears_nothing()
    device.hears_nothing()
    assert play.counters.noise == 3


def test_a_provider_that_does_not_read_is_not_answered() -> None:
    play, tool, _ = pair()
    tool.queued = play.endpoint.limits.queued_bytes_per_link + 1
    tool.says(request(1, "ping"), request(2, "sampling/createMessage"))
    tool.hears_nothing()
    assert play.counters.busy == 2


def test_no_consumer_is_asked_more_than_it_may_ask_itself() -> None:
    _, tool, device = shaken(Limits(in_flight_per_consumer=2), sampling={})
    device.says(request(5, "m"))
    tool.hear()
    tool.says(*(request(n, "sampling/createMessage") for n in range(3)))
    assert [device.hear()["id"] for _ in range(2)] == [1, 2]
    tool.hears_error(2, errors.METHOD_NOT_FOUND.number)


def test_a_question_that_names_its_id_twice_is_noise_and_nobody_is_asked() -> None:
    play, tool, device = shaken(sampling={})
    device.says(request(5, "m"))
    tool.hear()
    tool.says(b'{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","id":2}')
    device.hears_nothing()
    assert (play.counters.noise, play.counters.asked) == (1, 0)
    tool.says(SAMPLE)
    device.hears({**SAMPLE, "id": 1})


def test_a_consumer_that_lets_a_question_expire_is_not_asked_that_again() -> None:
    play, tool, device = shaken(sampling={}, roots={})
    device.says(request(5, "m"))
    tool.hear()
    tool.says(SAMPLE)
    device.hear()
    play.wait(9.9)
    device.hears_nothing()
    play.wait(0.2)
    tool.hears_error("s-1", errors.TIMED_OUT.number)
    device.hears(notification("notifications/cancelled", requestId=1, reason="timed out"))
    tool.says(SAMPLE)
    tool.hears_error("s-1", errors.METHOD_NOT_FOUND.number)
    tool.says(request(8, "roots/list"))
    device.hears(request(2, "roots/list"))
    device.says(answer(1))
    assert play.counters.unknown_answers == 1
    tool.hears_nothing()


def test_an_answer_to_a_question_is_told_once_and_only_by_who_was_asked() -> None:
    play, tool, device = shaken(sampling={})
    other = play.ready_device()
    device.says(request(5, "m"))
    tool.hear()
    tool.says(SAMPLE)
    device.hear()
    other.says(answer(1, forged=True))
    device.says(answer(1), answer(1), answer("1"))
    tool.hears(answer("s-1"))
    tool.hears_nothing()
    assert play.counters.unknown_answers == 3


@pytest.mark.parametrize(
    "frame",
    [
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"id":1}',
    ],
)
def test_what_is_neither_a_request_nor_an_answer_is_a_bad_frame_and_the_question_stands(frame: bytes) -> None:
    play, tool, device = shaken(sampling={})
    device.says(request(5, "m"))
    tool.hear()
    tool.says(SAMPLE)
    device.hear()
    device.says(frame)
    assert device.hear()["error"]["code"] == errors.INVALID_REQUEST.number
    assert play.counters.bad_frames == 1
    device.says(answer(1, good=True))
    tool.hears(answer("s-1", good=True))


@pytest.mark.row("D13")
def test_a_provider_may_withdraw_its_question_and_the_consumer_hears_its_own_number() -> None:
    play, tool, device = shaken(sampling={})
    device.says(request(5, "m"))
    tool.hear()
    tool.says(SAMPLE, {**SAMPLE, "id": "s-2"})
    device.hears({**SAMPLE, "id": 1}, {**SAMPLE, "id": 2})
    tool.says(notification("notifications/cancelled", requestId="s-2", reason="你"))
    device.hears(notification("notifications/cancelled", requestId=2, reason="你"))
    device.says(answer(2), answer(1))
    tool.hears(answer("s-1"))
    tool.hears_nothing()
    assert play.counters.unknown_answers == 1


@pytest.mark.parametrize(
    "frame",
    [
        notification("notifications/cancelled"),
        notification("notifications/cancelled", requestId="other"),
        notification("notifications/cancelled", x=1),
    ],
)
def test_a_withdrawal_that_names_no_question_changes_nothing(frame: dict[str, Any]) -> None:
    _, tool, device = shaken(sampling={})
    device.says(request(5, "m"))
    tool.hear()
    tool.says(SAMPLE)
    device.hear()
    tool.says(frame)
    device.hears_nothing()
    device.says(answer(1))
    tool.hears(answer("s-1"))


def test_one_provider_cannot_withdraw_what_another_asked() -> None:
    play = Play()
    one, other = play.merged(one=["a"], other=["b"])
    device = play.ready_device(sampling={})
    device.says(call(1, "a"))
    one.hear()
    one.says(SAMPLE)
    device.hear()
    other.says(notification("notifications/cancelled", requestId="s-1"))
    device.hears_nothing()
    device.says(answer(1))
    one.hears(answer("s-1"))


def test_a_question_ends_with_either_side() -> None:
    play, tool, device = shaken(sampling={})
    device.says(request(5, "m"))
    tool.hear()
    tool.says(SAMPLE)
    device.hear()
    device.leaves()
    tool.hears(notification("notifications/cancelled", requestId=2, reason="the consumer left"))
    tool.hears_error("s-1", errors.METHOD_NOT_FOUND.number, hint="the consumer left")
    second = play.device()
    second.says(initialize(0, sampling={}))
    second.hear()
    second.says(request(5, "m"))
    tool.hear()
    tool.says(SAMPLE)
    second.hear()
    tool.leaves()
    second.hears(notification("notifications/cancelled", requestId=1, reason="the provider left"))
    second.hears_error(5, errors.PROVIDER_GONE.number, delivered=True)
    second.says(answer(1))
    second.hears_nothing()
    assert play.counters.unknown_answers == 1


def test_a_provider_that_leaves_takes_only_its_own_questions_with_it() -> None:
    play = Play()
    one, other = play.merged(one=["a"], other=["b"])
    device = play.ready_device(sampling={})
    device.says(call(1, "a"), call(2, "b"))
    for tool in (one, other):
        tool.hear()
        tool.says(SAMPLE)
    device.hear()
    device.hear()
    one.leaves()
    device.hears(notification("notifications/cancelled", requestId=1, reason="the provider left"))
    device.hears_error(1, errors.PROVIDER_GONE.number)
    device.says(answer(2))
    other.hears(answer("s-1"))


# -- the whole ---------------------------------------------------------------------------------------------------------------


@pytest.mark.row("U8", "D10")
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 2, "", "0", "a_b", -1])), max_size=12), st.data())
def test_however_ids_repeat_and_answers_are_ordered_each_device_gets_its_own(asked: list[tuple[int, Any]], data: st.DataObject) -> None:
    play = Play()
    tool = play.tool()
    devices = [play.device() for _ in range(3)]
    for place, (who, id) in enumerate(asked):
        devices[who].says(request(id, "m", place=place))
    numbers = []
    for place in range(len(asked)):
        frame = tool.hear()
        assert frame["params"] == {"place": place}
        numbers.append(frame["id"])
    assert len(set(numbers)) == len(numbers)
    assert all(type(number) is int and 0 < number <= MAX_ID for number in numbers)
    for place in data.draw(st.permutations(range(len(asked)))):
        who, id = asked[place]
        tool.says(answer(numbers[place], place=place))
        devices[who].hears(answer(id, place=place))
        for device in devices:
            device.hears_nothing()
    assert play.endpoint.ledger.in_flight == 0
