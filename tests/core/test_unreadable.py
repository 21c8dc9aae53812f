"""What a tool says in an odd spelling, and what it says that nobody can read: the call it answers does not wait. Plays of one endpoint."""

from __future__ import annotations

import pytest
from plays import Actor, Play, answer, call, failure, initialize, request, tool_named, welcome

NOT_A_NUMBER = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[],"structuredContent":{"mean":NaN}}}'


def calling(*ids: str) -> tuple[Play, Actor, Actor]:
    """A greeted tool, and a device that calls it once per id; the tool has heard the calls as 3, 4, …"""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1))
    tool.says(welcome(tool.hear()["id"]))
    device.says(request(2, "tools/list"))
    tool.hear()  # initialized
    tool.says(answer(tool.hear()["id"], tools=[tool_named("add")]))
    device.heard.clear()
    device.says(*(call(id, "add") for id in ids))
    tool.heard.clear()
    return play, tool, device


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (NOT_A_NUMBER % 3, "JSON is malformed"),
        ('{"jsonrpc":"2.0","id":3,"result":{"text":"温度"}}'.encode("gbk"), "not UTF-8"),
        (b'{"jsonrpc":"2.0","id":3,"result":{"text":"a\tb"}}', "JSON is malformed"),
        (b'{"result":{"n":-Infinity},"jsonrpc":"2.0","id":"3"}', "JSON is malformed"),
        (b'{"jsonrpc":"2.0","result":{"n":NaN}}', "JSON is malformed"),
        (b'{"jsonrpc":"2.0","id":3}', "neither a result nor an error"),
        (b'{"jsonrpc":"2.0","id":3,"error":null}', "neither a result nor an error"),
        (b'{"jsonrpc":"2.0","id":3,"id":3,"result":{}}', "a key is repeated"),
        (b'{"jsonrpc":"2.0","id":3,"id":9,"result":{}}', "a key is repeated"),
        (b'{"id":9,"result":{},"jsonrpc":"2.0","id":3}', "a key is repeated"),
        (b'{"jsonrpc":"2.0","id":3,"result":{},"result":{}}', "a key is repeated"),
        (b'{"jsonrpc":"2.0","id":3,"error":{"code":1,"message":""},"error":{"code":2,"message":""}}', "a key is repeated"),
        (b'{"x":0,"x":1,"id":"3","jsonrpc":"2.0","result":"\\ud83d"}', "a key is repeated"),
        (b'{"jsonrpc":"2.0","id":3,"result":{},"%b":0}' % (b"k" * 1000), "a key of more than"),
        (b'{"jsonrpc":"2.0","id":3,"result":{}%b}' % b"".join(b',"%d":0' % n for n in range(600)), "members in one object"),
        (b'{"jsonrpc":"2.0","id":"3","Result":{}}', "neither a result nor an error"),
    ],
)
def test_an_answer_that_cannot_be_read_ends_its_call_at_once_with_the_reason(said: bytes, reason: str) -> None:
    play, tool, device = calling("x")
    tool.says(said)
    assert reason in device.hears_error("x", -32008, delivered=True)["hint"]
    assert play.counters.noise == 1 and play.endpoint.ledger.in_flight == 0
    tool.says(answer(3))
    device.hears_nothing()
    device.says(call("y", "add"))
    tool.says(answer(tool.hear()["id"]))
    device.hears(answer("y"))


def test_it_ends_the_call_it_names_and_no_other() -> None:
    _, tool, device = calling("x", "y")
    tool.says(NOT_A_NUMBER % 4)
    device.hears_error("y", -32008)
    tool.says(NOT_A_NUMBER % 9, NOT_A_NUMBER % 4)
    device.hears_nothing()
    tool.says(answer(3))
    device.hears(answer("x"))


@pytest.mark.parametrize(
    "said",
    [
        b'{"jsonrpc":"2.0","result":NaN}',
        b'{"jsonrpc":"2.0","id":3,"id":4,"result":NaN}',
        b'{"jsonrpc":"2.0","id":3,"id":4,"result":{}}',
        b'{"jsonrpc":"2.0","id":3,"id":9,"result":{}}',
    ],
)
def test_one_that_does_not_show_whose_it_is_ends_nobodys_of_several(said: bytes) -> None:
    _, tool, device = calling("x", "y")
    tool.says(said)
    device.hears_nothing()
    tool.says(answer(4), answer(3))
    device.hears(answer("y"), answer("x"))


def test_another_tools_unreadable_answer_ends_no_call_of_this_one() -> None:
    """Its numbers are its own: what it says can only end what it was asked."""
    play = Play()
    one, two = play.merged(one=["add"], two=["sub"])
    device = play.ready_device()
    device.says(call("x", "add"))
    asked = one.hear()["id"]
    two.says(*(NOT_A_NUMBER % id for id in range(10)))
    device.hears_nothing()
    one.says(answer(asked))
    device.hears(answer("x"))


@pytest.mark.parametrize(
    "said",
    [
        b'{"jsonrpc":"2.0","id":3,"id":3,"method":"m"}',
        b'{"id":3,"id":3}',
        b'{"level":"error","error":NaN}',
        b'{"jsonrpc":"2.0","id":3,"method":"m","params":[NaN]}',
        b"NaN",
        b'["result",NaN]',
        b"result: {7}",
    ],
)
def test_a_broken_line_of_a_log_ends_no_call(said: bytes) -> None:
    _, tool, device = calling("x")
    tool.says(said)
    device.hears_nothing()
    tool.says(answer(3))
    device.hears(answer("x"))


def test_an_error_without_an_id_belongs_to_the_only_call() -> None:
    """JSON-RPC 2.0 §5: the id is null where it could not be detected. Other errors without id answer notifications."""
    _, tool, device = calling("x")
    tool.says(failure(None, -32601), answer(None), b'{"jsonrpc":"2.0","id":null,"error":{"code":"odd"}}')
    device.hears_nothing()
    tool.says(failure(None, -32700, "what?"))
    device.hears(failure("x", -32700, "what?"))
    _, tool, device = calling("x", "y")
    tool.says(failure(None, -32700))
    device.hears_nothing()


def test_an_answer_above_the_limit_ends_the_call_it_names() -> None:
    """Of which only its ends were kept; a message that is no answer ends none."""
    play, tool, device = calling("x", "y")
    play.endpoint.provider_said_too_much(tool.party, b'{"result":"xx', b'xx","jsonrpc":"2.0","id":4}', play.now)
    assert "too large" in device.hears_error("y", -32007, delivered=True)["hint"]
    play.endpoint.provider_said_too_much(tool.party, b"xx", b"xx", play.now)
    device.hears_nothing()
    tool.says(answer(3))
    device.hears(answer("x"))


def test_a_greeting_that_cannot_be_read_is_not_waited_for() -> None:
    """The device's `initialize` was carried to the tool; it is answered here, and the reason is kept for the hint."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(1))
    tool.says(b'{"jsonrpc":"2.0","id":%d,"result":{"serverInfo":{"name":"\xb2\xe2"}}}' % tool.hear()["id"])
    assert device.hear()["id"] == 1
    assert tool.party.state.value == "bare"


@pytest.mark.parametrize("spelled", ['"%d"', "%d.0", '"%d.0"'])
def test_a_number_of_ours_comes_back_in_whatever_spelling(spelled: str) -> None:
    """Several SDKs turn ids into texts or fractions: the greeting, the list and the call get through."""
    play = Play()

    def says(tool: Actor, text: str) -> None:
        tool.says(text.replace("#", spelled % tool.hear()["id"]).encode())

    tool, device = play.tool(), play.device()
    device.says(initialize(1))
    says(tool, '{"jsonrpc":"2.0","id":#,"result":{"protocolVersion":"2024-11-05","capabilities":{},"serverInfo":{}}}')
    assert device.hear()["result"]["protocolVersion"] == "2024-11-05"
    device.says(call(2, "add"))
    tool.hear()  # initialized
    says(tool, '{"jsonrpc":"2.0","id":#,"result":{"n":1.00}}')
    device.hears(b'{"jsonrpc":"2.0","id":2,"result":{"n":1.00}}')


def test_what_stands_before_an_answer_and_what_is_missing_in_it_does_no_harm() -> None:
    """A mark before the first line, text without a line end, no `jsonrpc`: one rule for a socket, a pipe and a process."""
    _, tool, device = calling("a", "b", "c")
    tool.says(b"\xef\xbb\xbf" + b'{"jsonrpc":"2.0","id":3,"result":{}}', b'Loading... {"jsonrpc":"2.0","id":4,"result":{}}')
    tool.says(b'{"id":5,"result":{}}')
    device.hears(answer("a"), answer("b"), answer("c"))
