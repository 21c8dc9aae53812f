"""What an endpoint promises about every frame, as plays: device says, tool hears.

Modes, greeting, empty endpoints, death and bounds have files of their own (test_endpoint_*.py).
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plays import INITIALIZED, Actor, Play, answer, call, failure, initialize, notification, request, tool_named, welcome

from mcp_endpoint.settings.schema import Limits

INTEGERS = [
    b"0",
    b"1",
    b"2",
    b"10",
    b"-1",
    b"-0",
    b"9007199254740992",
    b"9007199254740993",
    b"99999999999999999999",
    b"-9999999999999999999",
]
STRINGS = [b'""', b'"0"', b'"1"', b'"null"', b'"a_b"', b'"a_b_c"', b'"true"', '"你好"'.encode(), b'"\\u4f60"', b'"\\n"', b'"x\\"y"', b'" "']
NOT_IDS = [b"null", b"1.5", b"1.0", b"1e2", b"true", b"false", b"[]", b"[1]", b"{}", b'{"a":1}']


def bare_pair(limits: Limits | None = None) -> tuple[Play, Actor, Actor]:
    """A tool and a device that never heard of MCP's handshake."""
    play = Play(limits=limits)
    return play, play.tool(), play.device()


# -- exactly one answer ----------------------------------------------------------------------------------------------------


@pytest.mark.row("E2")
def test_a_request_and_its_result_pass_with_only_the_id_changed() -> None:
    """Each side hears what the other said; the ids belong to the links, everything else is as it came, unknown members too."""
    play, tool, device = bare_pair()
    device.says({**request(7, "greet", who="你"), "trace": {"deep": [1]}})
    tool.hears({**request(1, "greet", who="你"), "trace": {"deep": [1]}})
    tool.says({**answer(1, said="好"), "took": 3})
    device.hears({**answer(7, said="好"), "took": 3})
    tool.hears_nothing()
    device.hears_nothing()
    assert play.endpoint.ledger.in_flight == 0


def test_the_providers_error_is_the_one_answer() -> None:
    """An error of the provider passes as it is; it is an answer like a result."""
    play, tool, device = bare_pair()
    device.says(request("a", "greet"))
    tool.says({"jsonrpc": "2.0", "id": 1, "error": {"code": -32099, "message": "不", "data": [1]}})
    device.hears({"jsonrpc": "2.0", "id": "a", "error": {"code": -32099, "message": "不", "data": [1]}})
    assert play.counters.answers == play.counters.requests == 1


@pytest.mark.row("D10", "E27")
def test_a_repeated_answer_goes_nowhere() -> None:
    """Never two answers: the first one takes the request out of the table, the others are dropped and counted."""
    play, tool, device = bare_pair()
    device.says(request(1, "greet"))
    tool.says(answer(1, n=1), answer(1, n=2), failure(1, -1))
    device.hears(answer(1, n=1))
    device.hears_nothing()
    assert play.counters.unknown_answers == 2


@pytest.mark.row("D14")
def test_a_cancelled_request_gets_no_answer_and_the_tool_hears_its_own_id() -> None:
    """The one exception to one answer: what its consumer cancelled. The cancel is carried with the number the provider knows."""
    play, tool, device = bare_pair()
    device.says(request("first", "slow"), request("second", "slow"))
    tool.hears(request(1, "slow"), request(2, "slow"))
    device.says(notification("notifications/cancelled", requestId="second", reason="用户取消"))
    tool.hears(notification("notifications/cancelled", requestId=2, reason="用户取消"))
    tool.says(answer(2), answer(1))
    device.hears(answer("first"))
    device.hears_nothing()
    assert play.counters.late_answers == 1
    assert play.endpoint.ledger.in_flight == 0


def test_the_bytes_of_a_cancel_survive_but_for_the_number() -> None:
    """The number is spliced into a cancel, the rest is carried."""
    _, tool, device = bare_pair()
    device.says(b'{"jsonrpc":"2.0","id":5,"method":"slow"}')
    tool.hears_bytes()
    device.says(b'{ "method":"notifications/cancelled", "params": { "reason":"\\u4f60", "requestId" : 5 , "x":1.00},"jsonrpc":"2.0"}')
    tool.hears(b'{ "method":"notifications/cancelled", "params": { "reason":"\\u4f60", "requestId" : 1 , "x":1.00},"jsonrpc":"2.0"}')


@pytest.mark.parametrize(
    "params",
    [{}, {"requestId": 9}, {"requestId": "1"}, {"requestId": 1.0}, {"requestId": None}, {"requestId": [1]}, {"requestId": {}}, [1], None],
)
def test_a_cancel_that_names_no_request_of_this_consumer_does_nothing(params: Any) -> None:
    """Ids are compared by value and type, so "1" is not 1; what names nothing goes nowhere and is not answered."""
    _, tool, device = bare_pair()
    device.says(request(1, "slow"))
    tool.hears(request(1, "slow"))
    device.says({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}, notification("notifications/cancelled"))
    tool.hears_nothing()
    tool.says(answer(1))
    device.hears(answer(1))


def test_a_consumer_cannot_cancel_the_request_of_another() -> None:
    """A cancel is looked up among the requests of the consumer that said it."""
    play, tool, device = bare_pair()
    other = play.device()
    device.says(request(1, "slow"))
    tool.hears(request(1, "slow"))
    other.says(notification("notifications/cancelled", requestId=1))
    tool.hears_nothing()
    tool.says(answer(1))
    device.hears(answer(1))
    other.hears_nothing()


# -- what is carried keeps its bytes -----------------------------------------------------------------------------------------

HEADS = [
    b'{"jsonrpc":"2.0","id":@,"method":"m","params":#}',
    b'{"jsonrpc": "2.0", "id": @, "method": "m", "params": #}',
    b'{"jsonrpc":"2.0","id": @,"method":"m","params":#}',
    b'{"jsonrpc": "2.0", "id":  @, "method": "m", "params": #}',
    b'{"id":@,"jsonrpc":"2.0","method":"m","params":#}',
    b'{"id": @,"jsonrpc":"2.0","method":"m","params":#}',
    b'{"method":"m","params":#,"jsonrpc":"2.0","id":@}',
    b'{"params":#,"id":@,"method":"m","jsonrpc":"2.0"}',
    b' {\t"params" : # , "jsonrpc" : "2.0" , "method" : "m" , "id" : @ } ',
    b'{"extra":{"id":99,"x":"\\"id\\":7"},"jsonrpc":"2.0","id":@,"method":"m","params":#,"_":[{"id":1}]}',
    b'{"j\\u0073onrpc":"2.0","\\u0069d":@,"method":"m","params":#}',
]
PAYLOADS = [
    b"{}",
    b"[]",
    b'{"n":1.00,"big":1234567890123456789012345,"exp":1E+2,"z":1,"a":2}',
    '{"你":"\\u4f60 你","e":"😀\\ud83d\\ude00","s":"\\/\\b"}'.encode(),
    b'{"id":5,"jsonrpc":"1.0","method":"x","params":null,"inner":{"id":"@"}}',
    b'{"deep":' + b"[" * 200 + b"]" * 200 + b"}",
    b'{"large":"' + b"x" * 40_000 + b'"}',
]


@pytest.mark.parametrize("head", HEADS, ids=range(len(HEADS)))
@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_request_is_carried_byte_for_byte_but_for_its_id(head: bytes, payload: bytes) -> None:
    """Nothing that is only carried is written anew: spelling of numbers, order of keys, escapes and blanks survive."""
    _, tool, device = bare_pair()
    frame = head.replace(b"#", payload)
    at = head.index(b"@") + (len(payload) - 1 if head.index(b"#") < head.index(b"@") else 0)
    device.says(frame[:at] + b'"mine"' + frame[at + 1 :])
    tool.hears(frame[:at] + b"1" + frame[at + 1 :])


def test_params_are_not_looked_into_without_need() -> None:
    """Without a progress token and a translated name, a key that stands twice in `params` is the tool's to judge."""
    _, tool, device = bare_pair()
    device.says(b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"twice":1,"twice":2}}')
    tool.hears(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"twice":1,"twice":2}}')


@pytest.mark.parametrize("member", [b"result", b"error"])
@pytest.mark.parametrize("head", HEADS, ids=range(len(HEADS)))
@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_an_answer_is_carried_byte_for_byte_but_for_its_id(head: bytes, payload: bytes, member: bytes) -> None:
    """A `result` and an `error` pass as the provider wrote them, wherever the id stands in the frame."""
    _, tool, device = bare_pair()
    device.says(b'{"jsonrpc":"2.0","id":"mine","method":"m"}')
    tool.hears_bytes()
    head = head.replace(b'"method":"m",', b"").replace(b'"method": "m", ', b"").replace(b'"method" : "m" , ', b"")
    head = head.replace(b"params", member)
    frame = head.replace(b"#", payload)
    at = head.index(b"@") + (len(payload) - 1 if head.index(b"#") < head.index(b"@") else 0)
    tool.says(frame[:at] + b"1" + frame[at + 1 :])
    device.hears(frame[:at] + b'"mine"' + frame[at + 1 :])


blanks = st.text(" \t\r\n", max_size=2).map(str.encode)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=4).filter(
    lambda name: name not in ("jsonrpc", "id", "method", "params", "result", "error")
)
values = st.recursive(
    st.sampled_from([b"0", b"-1.50", b"1e3", b"true", b"null", b'""', b'"id"', b'"\\"id\\":1"', b'"\\u4f60"', '"你"'.encode()]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: b"[" + b" ,".join(items) + b"]")
        | st.dictionaries(st.sampled_from([b'"id"', b'"a"', b'"method"', b'"result"']), inner, max_size=3).map(
            lambda fields: b"{" + b", ".join(key + b" :" + value for key, value in fields.items()) + b"}"
        )
    ),
    max_leaves=6,
)


@st.composite
def frames(draw: st.DrawFn, kind: str) -> tuple[bytes, bytes]:
    """What stands before and behind the id in a frame of any spelling; `kind` is its other member, with its value's own bytes."""
    members = [(b'"jsonrpc"', b'"2.0"'), (draw(st.sampled_from([b'"id"', b'"\\u0069d"'])), b"@")]
    if kind == "method":
        members.append((b'"method"', b'"m"'))
        if draw(st.booleans()):
            members.append((b'"params"', draw(st.one_of(st.just(b"{}"), values.filter(lambda value: value[:1] in b"[{")))))
    else:
        members.append((json.dumps(kind).encode(), draw(values)))
    further = draw(st.lists(names, max_size=3, unique=True))
    members += [(json.dumps(name, ensure_ascii=draw(st.booleans())).encode(), draw(values)) for name in further]
    members = draw(st.permutations(members))
    before, behind = draw(blanks) + b"{", b""
    seen = False
    for place, (key, value) in enumerate(members):
        piece = (b"," if place else b"") + draw(blanks) + key + draw(blanks) + b":" + draw(blanks)
        if value == b"@":
            before += piece
            seen = True
            behind += draw(blanks)
        elif seen:
            behind += piece + value + draw(blanks)
        else:
            before += piece + value + draw(blanks)
    return before, behind + b"}" + draw(blanks)


@pytest.mark.row("D8")
@given(asked=frames("method"), told=frames("result"), mine=st.sampled_from(INTEGERS + STRINGS))
def test_frames_of_every_spelling_pass_with_only_the_id_changed(asked: tuple[bytes, bytes], told: tuple[bytes, bytes], mine: bytes) -> None:
    """Whatever the order, the blanks and the further members of a frame: the id changes, nothing else does."""
    _, tool, device = bare_pair()
    device.says(asked[0] + mine + asked[1])
    one_line = bytes.maketrans(b"\r\n", b"  ")
    tool.hears((asked[0] + b"1" + asked[1]).translate(one_line))
    tool.says(told[0] + b"1" + told[1])
    device.hears(told[0] + mine + told[1])


@pytest.mark.row("D15")
def test_a_progress_token_is_the_links_own_and_progress_comes_back_with_the_consumers() -> None:
    """Two devices use one token; each hears only its own progress, under the token it gave, and the rest of the frame as it came."""
    play, tool, device = bare_pair()
    other = play.device()
    device.says(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"progressToken":"t","k":1.0},"progressToken":7}}')
    other.says(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"progressToken":"t"}}}')
    tool.hears(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"progressToken":1,"k":1.0},"progressToken":7}}')
    tool.hears(b'{"jsonrpc":"2.0","id":2,"method":"m","params":{"_meta":{"progressToken":2}}}')
    tool.says(b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":0.50,"progressToken":2}}')
    other.hears(b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":0.50,"progressToken":"t"}}')
    device.hears_nothing()
    tool.says(b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}')
    device.hears(b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1}}')
    other.hears_nothing()


@pytest.mark.parametrize("token", [b"0", b'""', b'"0"', b"-7", b'"\\u4f60"', b"9007199254740993"])
def test_every_progress_token_comes_back_with_its_own_bytes(token: bytes) -> None:
    """A progress token is a string or an integer; its bytes come back, like an id's."""
    _, tool, device = bare_pair()
    device.says(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"progressToken":%b}}}' % token)
    assert tool.hear()["params"]["_meta"]["progressToken"] == 1
    tool.says(b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}')
    device.hears(b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%b,"progress":1}}' % token)


@pytest.mark.parametrize(
    "params", [b'{"_meta":{"progressToken":null}}', b'{"_meta":{"progressToken":1.5}}', b'{"_meta":["progressToken"]}']
)
def test_what_is_no_progress_token_is_carried(params: bytes) -> None:
    """Only an integer or a string is a token; anything else at its place is payload."""
    _, tool, device = bare_pair()
    device.says(b'{"jsonrpc":"2.0","id":3,"method":"m","params":%b}' % params)
    tool.hears(b'{"jsonrpc":"2.0","id":1,"method":"m","params":%b}' % params)


@pytest.mark.parametrize("params", [{"progressToken": 9}, {"progressToken": "1"}, {"progressToken": None}, {}, [1], None])
def test_progress_under_a_token_nobody_gave_goes_nowhere(params: Any) -> None:
    """Nothing a provider says reaches a consumer that did not ask: progress must name a call in flight that gave a token."""
    play, tool, device = bare_pair()
    device.says(request(1, "m"))  # gives no token
    tool.hear()
    tool.says({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}, notification("notifications/progress"))
    tool.says(notification("notifications/progress", progressToken=1))
    device.hears_nothing()
    assert play.counters.dropped_notifications == 3


@pytest.mark.row("D21")
@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b'{"jsonrpc":"2.0","id":2,"method":"m","params":null}', b'{"jsonrpc":"2.0","id":1,"method":"m"}'),
        (b'{"params":null,"jsonrpc":"2.0","id":2,"method":"m"}', b'{"jsonrpc":"2.0","id":1,"method":"m"}'),
        (b'{"jsonrpc":"2.0", "params" : null, "id":2,"method":"m"}', b'{"jsonrpc":"2.0", "id":1,"method":"m"}'),
        (b'{"jsonrpc":"2.0","params":null,"method":"n"}', b'{"jsonrpc":"2.0","method":"n"}'),
    ],
)
def test_null_params_are_taken_out(said: bytes, heard: bytes) -> None:
    """manager-api writes `"params": null`, and servers made with the TypeScript SDK drop such a frame without a word."""
    _, tool, device = bare_pair()
    device.says(said)
    tool.hears(heard)


def test_line_breaks_between_tokens_become_blanks_for_a_provider_only() -> None:
    """Stdio servers are framed by lines, so a provider hears one line; a consumer hears the line breaks a provider wrote."""
    _, tool, device = bare_pair()
    device.says(b'{"jsonrpc":"2.0",\r\n"id":1,\n"method":"m","params":{"text":"a\\nb"}}\n')
    tool.hears(b'{"jsonrpc":"2.0",  "id":1, "method":"m","params":{"text":"a\\nb"}} ')
    device.says(b'{"jsonrpc":"2.0",\n"method":"note"}\n')
    tool.hears(b'{"jsonrpc":"2.0", "method":"note"} ')
    tool.says(b'{"jsonrpc":"2.0",\n"id":1,\n"result":{"text":"a\\nb"}}\n')
    device.hears(b'{"jsonrpc":"2.0",\n"id":1,\n"result":{"text":"a\\nb"}}\n')


# -- ids -------------------------------------------------------------------------------------------------------------------


@pytest.mark.row("U7", "D7", "D8", "D9")
@pytest.mark.parametrize("id", INTEGERS + STRINGS)
def test_an_id_comes_back_with_its_type_and_bytes(id: bytes) -> None:
    """The tool sees a small integer, the device gets back exactly the id it sent: also 0, "", "null", 2^53 and escapes."""
    _, tool, device = bare_pair()
    device.says(b'{"jsonrpc":"2.0","id":%b,"method":"m"}' % id)
    tool.hears(b'{"jsonrpc":"2.0","id":1,"method":"m"}')
    tool.says(b'{"jsonrpc":"2.0","id":1,"result":{}}')
    device.hears(b'{"jsonrpc":"2.0","id":%b,"result":{}}' % id)


@pytest.mark.row("U7")
@pytest.mark.parametrize("id", [*NOT_IDS, b"1" * 21, b"-" + b"1" * 20, b'"' + b"x" * 129 + b'"', b'"' + "你".encode() * 43 + b'"'])
def test_what_may_not_be_an_id_is_refused_with_id_null(id: bytes) -> None:
    """null, fractions, true, arrays and objects are no ids, nor are integers over 20 characters and strings over 128 bytes: -32600."""
    _, tool, device = bare_pair()
    device.says(b'{"jsonrpc":"2.0","id":%b,"method":"m"}' % id)
    device.hears_error(None, -32600, delivered=False)
    tool.hears_nothing()


@pytest.mark.parametrize("id", [b"9" * 20, b"-" + b"9" * 19, b'"' + b"x" * 128 + b'"', b'"' + "你".encode() * 42 + b'"'])
def test_the_longest_ids_still_pass(id: bytes) -> None:
    """Integers up to 20 characters and strings up to 128 bytes are ids."""
    _, tool, device = bare_pair()
    device.says(b'{"jsonrpc":"2.0","id":%b,"method":"m"}' % id)
    tool.hear()
    tool.says(answer(1))
    device.hears(b'{"jsonrpc":"2.0","id":%b,"result":{}}' % id)


@pytest.mark.row("D9")
def test_each_provider_link_counts_for_itself() -> None:
    """Ids are counted per provider link from 1, whatever the consumers call them."""
    play = Play()
    for_one, for_other = play.merged(one=["a"], other=["b"])
    device = play.ready_device()
    device.says(call("x", "a"), call("x", "b"), call("x", "a"))
    assert [for_one.hear()["id"], for_one.hear()["id"]] == [3, 4]  # 1 and 2 were its greeting
    assert for_other.hear()["id"] == 3
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(*(request(10**15 + n, "m") for n in range(200)))
    assert [tool.hear()["id"] for _ in range(200)] == list(range(1, 201))


@pytest.mark.row("U8", "D6")
def test_ids_one_and_two_are_used_again_also_while_pending() -> None:
    """xiaozhi-server uses 1 and 2 for the handshake and again for calls, also when the first is still open: each gets its answer."""
    _, tool, device = bare_pair()
    device.says(request(1, "m", n=1), request(2, "m", n=2), request(1, "m", n=3), request(2, "m", n=4), request(1, "m", n=5))
    asked = [tool.hear() for _ in range(5)]
    assert sorted(frame["id"] for frame in asked) == [1, 2, 3, 4, 5]
    for frame in reversed(asked):
        tool.says(answer(frame["id"], n=frame["params"]["n"]))
    device.hears(answer(1, n=5), answer(2, n=4), answer(1, n=3), answer(2, n=2), answer(1, n=1))
    device.says(request(1, "m", n=6))
    tool.hears(request(6, "m", n=6))
    tool.says(answer(6, n=6))
    device.hears(answer(1, n=6))
    device.hears_nothing()


def test_a_cancel_of_a_doubled_id_means_the_newest_call() -> None:
    """Of two open calls with one id, `cancelled` means the later; a second cancel then means the earlier."""
    _, tool, device = bare_pair()
    device.says(request("1", "m"), request(1, "m"), request(1, "m"), request("\u0031", "m"))
    for n in (1, 2, 3, 4):
        tool.hears(request(n, "m"))
    device.says(notification("notifications/cancelled", requestId=1))
    tool.hears(notification("notifications/cancelled", requestId=3))
    device.says(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"\\u0031"}}')
    tool.hears(notification("notifications/cancelled", requestId=4))
    device.says(notification("notifications/cancelled", requestId=1))
    tool.hears(notification("notifications/cancelled", requestId=2))
    tool.says(answer(1), answer(2), answer(3), answer(4))
    device.hears(answer("1"))
    device.hears_nothing()


@pytest.mark.row("U8", "D6")
def test_fifty_devices_with_the_same_ids_get_only_their_own_answers() -> None:
    """Several devices at one endpoint: ids do not clash, and nobody hears what another asked for."""
    play = Play()
    tool = play.tool()
    devices = [play.device() for _ in range(50)]
    for round_ in range(2):
        for number, device in enumerate(devices):
            device.says(request(1, "m", of=number, round=round_), request(2, "m", of=number, round=round_))
    asked = [tool.hear() for _ in range(200)]
    for frame in asked[::2] + asked[1::2]:
        tool.says(answer(frame["id"], **frame["params"]))
    for number, device in enumerate(devices):
        heard = [device.hear() for _ in range(4)]
        device.hears_nothing()
        assert all(frame["result"]["of"] == number for frame in heard)
        assert sorted((frame["id"], frame["result"]["round"]) for frame in heard) == [(1, 0), (1, 1), (2, 0), (2, 1)]


# -- answers are matched in the answering link's own table -------------------------------------------------------------------


@pytest.mark.row("D10", "E31")
def test_a_provider_cannot_answer_for_another_link_or_another_endpoint() -> None:
    """Only the link that was asked can answer: a forged number goes nowhere, at this endpoint and at others."""
    play, elsewhere = Play(), Play()
    one, other = play.merged(one=["a"], other=["b"])
    stranger, bystander = elsewhere.tool(), elsewhere.device()
    device = play.ready_device()
    device.says(call(1, "a"))
    asked = one.hear()["id"]
    forged = [answer(id, forged=True) for id in (asked, 1, 2, 3, 4, 5, 0, -1, "1", 1.0, None)]
    other.says(*forged)
    stranger.says(*forged)
    device.hears_nothing()
    bystander.hears_nothing()
    one.says(answer(asked, honest=True))
    device.hears(answer(1, honest=True))


@pytest.mark.parametrize("id", [b"-1", b"0", b"null", b"true", b"[1]", b"2147483648", b"10000000000000000000000", b"1e0"])
def test_an_answer_under_another_number_is_unknown(id: bytes) -> None:
    """What names no number of ours is dropped and counted, and the request stays open."""
    play, tool, device = bare_pair()
    device.says(request("x", "m"))
    tool.says(b'{"jsonrpc":"2.0","id":%b,"result":{}}' % id)
    device.hears_nothing()
    assert play.counters.unknown_answers + play.counters.noise == 1
    tool.says(answer(1))
    device.hears(answer("x"))


def test_late_answers_are_told_from_unknown_ones_for_the_last_thousand() -> None:
    """Answers to calls that expired or were cancelled are late; only the last 1,024 are remembered, and each once."""
    play = Play(limits=Limits(in_flight_per_consumer=4096))
    tool, device = play.tool(), play.device()
    device.says(*(request(n, "m") for n in range(1030)))
    device.says(*(notification("notifications/cancelled", requestId=n) for n in range(1029)))
    play.wait(25)
    device.hears_error(1029, -32006)
    device.hears_nothing()
    tool.says(*(answer(n) for n in range(1, 1031)))
    assert (play.counters.unknown_answers, play.counters.late_answers) == (6, 1024)
    tool.says(answer(1030))
    assert (play.counters.unknown_answers, play.counters.late_answers) == (7, 1024)
    device.hears_nothing()


# -- errors, notifications, batches --------------------------------------------------------------------------------------


@pytest.mark.row("D11", "U9")
def test_our_errors_say_what_where_and_why_and_have_no_result() -> None:
    """xiaozhi-server takes an answer with a `result` key for success, so an error has none; its data says whose error it is."""
    play = Play()
    device = play.device()
    device.says(call(5, "a"))
    frame = device.hear()
    assert frame.keys() == {"jsonrpc", "id", "error"}
    assert frame["error"].keys() == {"code", "message", "data"}
    assert "工具端未连接" in frame["error"]["message"] and "No tool" in frame["error"]["message"]
    assert frame["error"]["data"].keys() == {"source", "agent_id", "delivered", "hint"}


@pytest.mark.row("D11")
def test_an_error_with_a_result_beside_it_loses_the_result() -> None:
    """A provider that writes `"result": null` beside its error (as the original server did) does not pass for success."""
    _, tool, device = bare_pair()
    device.says(request(0, "m"), request("b", "m"))
    tool.says(b'{"jsonrpc":"2.0","result":null,"error":{"code":1,"message":"no"},"id":1}')
    device.hears(b'{"jsonrpc":"2.0","error":{"code":1,"message":"no"},"id":0}')
    tool.says(b'{"jsonrpc":"2.0","id":2,"error":{"code":1,"message":"no"},"result":{"x":1}}')
    device.hears(b'{"jsonrpc":"2.0","id":"b","error":{"code":1,"message":"no"}}')


@pytest.mark.parametrize(
    ("told", "heard"),
    [
        (b'{"jsonrpc":"2.0","id":1,"result":{"x":1.00},"error":null}', b'{"jsonrpc":"2.0","id":0,"result":{"x":1.00}}'),
        (b'{"jsonrpc":"2.0","id":1,"error": null,"result":null}', b'{"jsonrpc":"2.0","id":0,"result":null}'),
    ],
)
def test_an_error_that_is_null_is_none(told: bytes, heard: bytes) -> None:
    """Servers in the manner of JSON-RPC 1 write both keys on every answer; manager-api takes an answer with an `error` key for none."""
    _, tool, device = bare_pair()
    device.says(request(0, "m"))
    tool.says(told)
    device.hears(heard)


def test_a_notification_that_makes_no_sense_counts_and_is_not_answered() -> None:
    """It is a bad frame like others, but nobody answers a notification."""
    play, tool, device = bare_pair()
    device.says(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"requestId":2}}')
    device.hears_nothing()
    tool.hears_nothing()
    assert play.counters.bad_frames == 1


@pytest.mark.row("E23", "D16")
@pytest.mark.parametrize("tools", [0, 1, 2])
def test_notifications_are_never_answered(tools: int) -> None:
    """No notification gets a reply of any kind, with no tool, one or several; also none that make no sense."""
    play = Play()
    actors = [play.tool(f"s{n}") for n in range(tools)]
    if tools == 2:
        for actor in actors:
            actor.is_greeted("s", ["a"])
    device = play.device()
    device.says(
        INITIALIZED,
        notification("notifications/roots/list_changed"),
        notification("notifications/cancelled", requestId=77),
        notification("notifications/progress", progressToken=5, progress=1),
        notification("tools/call", name="a"),
        notification("ping"),
        notification("你好"),
        b'{"jsonrpc":"2.0","method":"notifications/initialized","params":null}',
        b'{"jsonrpc":"2.0","method":"notifications/initialized","params":[]}',
    )
    device.hears_nothing()
    assert device.close_reason is None


@pytest.mark.row("D16", "E27")
@pytest.mark.parametrize(
    "batch", [b"[]", b"[1]", b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', b" [ ] ", b'[{"jsonrpc":"2.0","id":1,"result":{}}]']
)
def test_an_array_is_refused_on_both_sides(batch: bytes) -> None:
    """Nobody sends batches on the WebSocket: -32600 with id null, on every WebSocket, and nothing of it is carried."""
    _, tool, device = bare_pair()
    device.says(request("pending", "m"))
    tool.hear()
    device.says(batch)
    device.hears_error(None, -32600)
    tool.says(batch)
    tool.hears_error(None, -32600)
    device.hears_nothing()
    tool.hears_nothing()


@pytest.mark.row("D16", "E27")
@pytest.mark.parametrize(
    ("frame", "id", "code"),
    [
        (b"", None, -32700),
        (b"not json", None, -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"m"', None, -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"m"} trailing', None, -32700),
        (b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"m"}', None, -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', None, -32700),
        (b'{"jsonrpc":"2.0","id":01,"method":"m"}', None, -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"x":NaN}}', None, -32700),
        (b'{"a":' * 100_000, None, -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, -32700),
        (b"5", None, -32600),
        (b'"text"', None, -32600),
        (b"null", None, -32600),
        (b"true", None, -32600),
        (b"{}", None, -32600),
        (b'{"jsonrpc":"2.0"}', None, -32600),
        (b'{"id":4,"method":"m"}', 4, -32600),
        (b'{"jsonrpc":"1.0","id":"x","method":"m"}', "x", -32600),
        (b'{"jsonrpc":2.0,"id":"x","method":"m"}', "x", -32600),
        (b'{"jsonrpc":"2.0","id":4,"method":5}', 4, -32600),
        (b'{"jsonrpc":"2.0","id":4,"method":null}', 4, -32600),
        (b'{"jsonrpc":"2.0","id":4,"method":{}}', 4, -32600),
        (b'{"jsonrpc":"2.0","id":[4],"method":{}}', None, -32600),
        (b'{"jsonrpc":"2.0","id":4}', 4, -32600),
        (b'{"jsonrpc":"2.0","id":4,"result":1,"error":{}}', 4, -32600),
        (b'{"jsonrpc":"2.0","id":4,"method":"m","result":1}', 4, -32600),
        (b'{"jsonrpc":"2.0","id":4,"method":"m","error":1}', 4, -32600),
        (b'{"jsonrpc":"2.0","id":4,"id":5,"method":"m"}', 5, -32600),
        (b'{"jsonrpc":"2.0","id":4,"\\u0069d":5,"method":"m"}', 5, -32600),
        (b'{"jsonrpc":"2.0","id":4,"method":"m","method":"n"}', 4, -32600),
        (b'{"jsonrpc":"2.0","id":4,"method":"m","params":{"_meta":{"progressToken":1,"progressToken":2}}}', 4, -32602),
    ],
    ids=range(31),
)
def test_what_is_no_message_is_answered_clearly_and_not_carried(frame: bytes, id: Any, code: int) -> None:
    """Garbage, wrong types, bad UTF-8, lone surrogates, endless nesting, repeated keys: an error at once, and the tool hears nothing."""
    _, tool, device = bare_pair()
    device.says(frame)
    device.hears_error(id, code)
    device.hears_nothing()
    tool.hears_nothing()
    device.says(request(1, "m"))
    assert tool.hear()["method"] == "m"


@pytest.mark.row("U13", "E27", "D16")
@pytest.mark.parametrize(
    "noise",
    [
        b"Starting server...\n",
        b"\x1b[31mred\x1b[0m",
        b"\xff\xfe",
        b"{}",
        b"5",
        b'"text"',
        b'{"level":"info","msg":"x"}',
        b'{"jsonrpc":"2.0"}',
        b'{"jsonrpc":"2.0","result":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":5}',
        b"",
    ],
)
def test_what_a_stdio_server_prints_is_dropped_and_counted(noise: bytes) -> None:
    """Noise of a provider reaches nobody, is not answered and answers nothing; it is counted and told with its beginning."""
    play, tool, device = bare_pair()
    device.says(request(7, "m"))
    tool.hear()
    tool.says(noise)
    device.hears_nothing()
    tool.hears_nothing()
    assert tool.close_reason is None and play.counters.noise == 1
    (event, fields) = play.told[-1]
    assert event == "noise" and fields["frames"] == 1
    tool.says(b'{"jsonrpc":"2.0","id":1,"result":{}}\n')
    device.hears(b'{"jsonrpc":"2.0","id":7,"result":{}}\n')


@pytest.mark.row("U13")
def test_a_structured_log_line_is_noise_though_it_has_a_method() -> None:
    """A web server inside a tool may log `"method": "GET"` as JSON on stdout: without `"jsonrpc": "2.0"` no device hears it."""
    play, tool, device = bare_pair()
    tool.says(b'{"level":"info","method":"GET","path":"/x"}', b'{"jsonrpc":"1.0","method":"n"}', b'{"id":1,"method":"ping"}')
    device.hears_nothing()
    tool.hears_nothing()
    assert play.counters.noise == 3


def test_noise_is_told_once_a_minute_with_its_first_eighty_bytes() -> None:
    """A chatty stdio server does not fill the log: one line a minute with the number of frames and the start of the latest."""
    play, tool, _ = bare_pair()
    tool.says(b"x" * 500)
    play.wait(59)
    tool.says(b"y", b"z")
    assert [event for event, _ in play.told] == ["noise"]
    assert play.told[0][1]["start"] == "x" * 80
    play.wait(2)
    tool.says(b"\xff again")
    assert [(fields["frames"], fields["start"]) for _, fields in play.told[1:]] == [(4, "\\xff again")]


def test_a_first_bad_frame_of_a_consumer_is_told_the_others_only_counted() -> None:
    """An operator learns that a device says nonsense, once per device."""
    play, _, device = bare_pair()
    device.says(b"x", b"y")
    assert [event for event, _ in play.told] == ["bad frame"]
    assert play.counters.bad_frames == 2


# -- order, and who is slow ------------------------------------------------------------------------------------------------


def test_order_is_kept_in_both_directions() -> None:
    """Requests and notifications of a link arrive in the order in which it said them, and so do answers and notifications back."""
    _, tool, device = bare_pair()
    device.says(request(1, "m", n=1), notification("n", n=2), request(2, "m", n=3), notification("n", n=4))
    assert [tool.hear()["params"]["n"] for _ in range(4)] == [1, 2, 3, 4]
    tool.says(answer(2, n=1), notification("n", n=2), answer(1, n=3), notification("n", n=4))
    heard = [device.hear() for _ in range(4)]
    assert [frame.get("result", frame.get("params"))["n"] for frame in heard] == [1, 2, 3, 4]


@pytest.mark.row("D2")
def test_one_slow_peer_delays_no_other_link() -> None:
    """A tool that does not read and a device that does not read cost the others nothing: not at once, not later."""
    play = Play()
    slow, quick = play.merged(slow=["a"], quick=["b"])
    deaf, device = play.ready_device(), play.ready_device()
    slow.queued = deaf.queued = 10**9
    deaf.says(call(1, "b"))
    device.says(call(1, "a"), call(2, "b"))
    device.hears_error(1, -32005)
    frames = [quick.hear(), quick.hear()]
    quick.says(*(answer(frame["id"]) for frame in frames))
    device.hears(answer(2))


# -- one provider is a wire ------------------------------------------------------------------------------------------------


def test_two_bare_peers_see_a_pure_relay() -> None:
    """Peers that never heard of MCP get each other's frames and nothing the endpoint made up, also when time passes."""
    play, tool, device = bare_pair()
    device.says(request(1, "turn", deg=90), notification("hurry"))
    tool.hears(request(1, "turn", deg=90), notification("hurry"))
    tool.says(notification("turning"), answer(1))
    device.hears(notification("turning"), answer(1))
    play.wait(600)
    device.says(request(2, "tools/list"), request(3, "ping"), request(4, "resources/list"), request(5, "tools/call", name="x"))
    tool.hears(request(2, "tools/list"), request(3, "ping"), request(4, "resources/list"), request(5, "tools/call", name="x"))
    tool.says(answer(2, tools=[]), answer(3), answer(4), answer(5))
    device.hears(answer(2, tools=[]), answer(3), answer(4), answer(5))
    play.wait(600)
    tool.hears_nothing()
    device.hears_nothing()
    assert tool.pings == 0


def test_a_bare_pair_stays_one_when_the_tool_reconnects_while_its_old_socket_hangs() -> None:
    """The new socket is a second provider for a while; requests go to it, the old one is only pinged, and nobody is greeted."""
    play, old, device = bare_pair()
    device.says(request(1, "turn"))
    old.hears(request(1, "turn"))
    old.says(answer(1))
    device.hears(answer(1))
    new = play.tool()
    assert (old.pings, new.pings) == (1, 0)
    assert old.close_reason is None
    device.says(request(2, "turn", deg=90), notification("hurry"))
    new.hears(request(1, "turn", deg=90), notification("hurry"))
    new.says(answer(1, ok=True))
    device.hears(answer(2, ok=True))
    play.wait(10)
    old.leaves(1011, "keepalive ping timeout")
    device.says(request(3, "turn"))
    new.hears(request(2, "turn"))
    new.says(answer(2))
    device.hears(answer(3))
    play.wait(600)
    for actor in (old, new, device):
        actor.hears_nothing()


@pytest.mark.row("D12")
def test_notifications_of_a_lone_tool_reach_every_consumer() -> None:
    """Notifications that belong to nobody in particular go to all consumers of the endpoint; a log line to the one that is asking."""
    play, tool, device = bare_pair()
    other = play.device()
    tool.says(b'{"jsonrpc":"2.0","method":"weather","params":{"t":1.00}}')
    for actor in (device, other):
        actor.hears(b'{"jsonrpc":"2.0","method":"weather","params":{"t":1.00}}')
    message = notification("notifications/message", level="info", data="x")
    tool.says(message)
    device.hears(message)
    other.hears(message)
    device.says(request(1, "m"))
    tool.says(message)
    device.hears(message)
    other.hears_nothing()
    other.says(request(1, "m"))
    tool.says(message)
    device.hears(message)
    other.hears(message)


@pytest.mark.row("D12")
def test_a_bare_providers_list_changed_is_carried_as_it_is() -> None:
    """In wire mode a provider that works without a handshake announces for itself."""
    play, tool, device = bare_pair()
    device.says(request(1, "turn"))
    tool.says(answer(1))
    device.hears(answer(1))
    changed = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"x":1.0}}'
    tool.says(changed, changed)
    device.hears(changed, changed)
    tool.heard.clear()
    play.wait(60)
    tool.hears_nothing()


@pytest.mark.parametrize("method", ["initialize", "server/discover", "tools/list", "tools/call", "prompts/get", "resources/read"])
def test_a_device_at_the_address_of_tools_hears_where_it_should_be(method: str) -> None:
    _, tool, device = bare_pair()
    tool.says(request(7, method))
    error = tool.hear()["error"]
    assert error["code"] == -32601
    assert "这是工具端的地址" in error["message"] and "tool address; a device uses /mcp_endpoint/call/" in error["message"]
    tool.says(request(8, "sampling/createMessage"))
    assert "address" not in tool.hear()["error"]["message"]
    device.hears_nothing()


@pytest.mark.row("D13", "U16")
def test_requests_of_a_provider_are_answered_here_unless_one_consumer_can() -> None:
    """`ping` is answered here; anything else is refused at once when no consumer with a call in flight declared the capability."""
    play, tool, device = bare_pair()
    tool.says(request(5, "ping"), request("x", "ping"))
    tool.hears(answer(5), answer("x"))
    for method in ("sampling/createMessage", "elicitation/create", "roots/list", "tools/list", "你"):
        tool.says(request(0, method))
        tool.hears_error(0, -32601)
    device.says(request(1, "m"))
    tool.hears(request(1, "m"))
    tool.says(request(9, "sampling/createMessage"))
    tool.hears_error(9, -32601)
    tool.says(b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}')
    tool.hears_nothing()
    device.hears_nothing()
    assert play.counters.noise == 1


def asking_pair(**capabilities: Any) -> tuple[Play, Actor, Actor]:
    """A greeted tool and a device that declared what it can be asked, with one call in flight."""
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize(**capabilities))
    tool.says(welcome(tool.hear()["id"]))
    device.hear()
    device.says(INITIALIZED, request("call", "tools/call", name="a"))
    tool.heard.clear()
    return play, tool, device


@pytest.mark.row("D13", "U16")
@pytest.mark.parametrize(
    ("capability", "method"), [("sampling", "sampling/createMessage"), ("elicitation", "elicitation/create"), ("roots", "roots/list")]
)
def test_a_consumer_that_declared_it_is_asked(capability: str, method: str) -> None:
    """The one consumer with a call in flight there is asked if it declared the capability; ids are the links' own, bytes are kept."""
    _, tool, device = asking_pair(**{capability: {}})
    tool.says(b'{"jsonrpc":"2.0","id":"q","method":"%b","params":{"x":1.00}}' % method.encode())
    device.hears(b'{"jsonrpc":"2.0","id":1,"method":"%b","params":{"x":1.00}}' % method.encode())
    device.says(b'{"jsonrpc":"2.0","id":1,\n"result":{"y":2.00}}')
    tool.hears(b'{"jsonrpc":"2.0","id":"q", "result":{"y":2.00}}')
    tool.says(request(0, method))
    device.hears(request(2, method))
    device.says(failure(2, -1, "declined"), answer(2), answer(1))
    tool.hears(failure(0, -1, "declined"))
    tool.hears_nothing()
    device.hears_nothing()


def test_nobody_is_asked_when_it_is_not_clear_whom() -> None:
    """With two consumers asking at once, none is asked; with another capability, none is asked."""
    play, tool, device = asking_pair(sampling={})
    tool.says(request(1, "roots/list"))
    tool.hears_error(1, -32601)
    other = play.ready_device(sampling={})
    other.says(request(1, "m"))
    tool.heard.clear()
    tool.says(request(2, "sampling/createMessage"))
    tool.hears_error(2, -32601)
    device.hears_nothing()
    other.hears_nothing()


def test_a_consumer_that_lets_a_question_expire_counts_as_not_able() -> None:
    """After 10 s the provider hears an error; the same capability of that consumer is not asked again, others are."""
    play, tool, device = asking_pair(sampling={}, roots={})
    tool.says(request("q", "sampling/createMessage"))
    device.hears(request(1, "sampling/createMessage"))
    play.wait(9.9)
    tool.hears_nothing()
    play.wait(0.2)
    tool.hears_error("q", -32006)
    device.hears(notification("notifications/cancelled", requestId=1, reason="timed out"))
    tool.says(request("r", "sampling/createMessage"))
    tool.hears_error("r", -32601)
    device.says(answer(1))
    tool.hears_nothing()
    tool.says(request("s", "roots/list"))
    device.hears(request(2, "roots/list"))


def test_a_question_ends_with_the_provider_or_the_consumer() -> None:
    """Whoever of the two leaves, the other hears that the question is over."""
    _, tool, device = asking_pair(sampling={}, roots={})
    tool.says(request("q", "sampling/createMessage"))
    device.hear()
    device.leaves()
    tool.hears(notification("notifications/cancelled", requestId=2, reason="the consumer left"))
    tool.hears_error("q", -32601)
    _, tool, device = asking_pair(roots={})
    tool.says(request("q", "roots/list"))
    device.hear()
    tool.leaves()
    device.hears(notification("notifications/cancelled", requestId=1, reason="the provider left"))
    device.hears_error("call", -32003)


def test_a_provider_withdraws_its_question() -> None:
    """A provider's `cancelled` reaches the consumer that was asked, with the number it knows; of anything else, nobody."""
    _, tool, device = asking_pair(roots={})
    tool.says(request("q", "roots/list"))
    device.hears(request(1, "roots/list"))
    tool.says(notification("notifications/cancelled", requestId="other"), notification("notifications/cancelled"))
    tool.says(notification("notifications/cancelled", requestId=1), notification("notifications/cancelled", requestId="call"))
    device.hears_nothing()
    tool.says(notification("notifications/cancelled", requestId="q", reason="enough"))
    device.hears(notification("notifications/cancelled", requestId=1, reason="enough"))
    device.says(answer(1))
    tool.hears_nothing()


def test_the_progress_of_a_question_goes_to_who_asked() -> None:
    """A consumer's progress goes to the provider whose question it works on, and not before there is one."""
    _, tool, device = asking_pair(sampling={})
    tool.says(request("q", "sampling/createMessage", _meta={"progressToken": "p"}))
    assert device.hear()["params"] == {"_meta": {"progressToken": "p"}}
    device.says(notification("notifications/progress", progressToken="p", progress=1))
    tool.hears(notification("notifications/progress", progressToken="p", progress=1))


# -- looking in ------------------------------------------------------------------------------------------------------------


def test_an_endpoint_tells_an_operator_who_is_there() -> None:
    """Who is attached, in which state, with what, since when, and the last close: ready for JSON, without a secret."""
    play = Play()
    calc, weather = play.merged(calc=["add"], weather=["add", "rain"])
    bare, device = play.tool(), play.ready_device("robot")
    play.wait(6)
    device.says(call(1, "add"))
    bare.heard.clear()
    found = play.endpoint.describe(play.now)
    json.dumps(found)
    assert found["endpoint"] == "kitchen" and found["in_flight"] == 1
    assert [(tool["label"], tool["state"], tool["functions"]) for tool in found["tools"]] == [
        ("calc", "ready", ["add"]),
        ("weather", "ready", ["weather__add", "rain"]),
        ("tool", "bare", []),
    ]
    assert found["devices"] == [{"client": "robot", "initialized": True, "connected_seconds": 6.0, "in_flight": 1}]
    assert "last_close" not in found
    weather.leaves(1006, "gone")
    assert play.endpoint.describe(play.now)["last_close"] == {"at": "2023-11-14T22:30:06+00:00", "code": 1006, "reason": "gone"}
    assert calc.close_reason is None
    assert tool_named("x")["name"] == "x"
