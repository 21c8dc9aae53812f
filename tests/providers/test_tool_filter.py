"""What a sieve lets through, and that nobody gets around it."""

from __future__ import annotations

import json

import pytest

from mcp_endpoint.providers.tool_filter import LISTS_REMEMBERED, Sieve, shown


@pytest.mark.parametrize(
    ("allow", "deny", "passes"),
    [
        ((), (), {"get_time", "get_weather", "set_time", "查天气"}),
        (("get_*",), (), {"get_time", "get_weather"}),
        (("get_*", "查*"), ("*_weather",), {"get_time", "查天气"}),
        ((), ("*",), set()),
        (("[gs]et_tim?",), (), {"get_time", "set_time"}),
        (("GET_*",), (), set()),
    ],
)
def test_allow_names_what_is_shown_and_deny_takes_away(allow: tuple[str, ...], deny: tuple[str, ...], passes: set[str]) -> None:
    assert {name for name in ("get_time", "get_weather", "set_time", "查天气") if shown(name, allow, deny)} == passes


def _request(method: str, params: object = None, id: object = 1) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}).encode()


def test_a_list_has_only_what_is_shown_and_keeps_its_bytes() -> None:
    sieve = Sieve(("get_*",), ())
    assert not sieve.open
    assert sieve.refused(_request("tools/list", id=7)) is None
    answer = (
        b'{"jsonrpc":"2.0", "result":{"x":1.00,"tools":[{"name":"get_a","n":1.00}, {"name":"set_a"},7,{"name":"get_\xe4\xbd\xa0"}]},"id":7}'
    )
    kept = b'{"jsonrpc":"2.0", "result":{"x":1.00,"tools":[{"name":"get_a","n":1.00},{"name":"get_\xe4\xbd\xa0"}]},"id":7}'
    assert sieve.passed(answer) == kept
    assert sieve.passed(answer) == answer, "the second answer to one request is nobody's list"


def test_a_list_of_what_is_all_shown_stays_as_it_is() -> None:
    sieve = Sieve((), ("nothing",))
    sieve.refused(_request("tools/list", id="a"))
    answer = b'{"jsonrpc":"2.0","id":"a","result":{"tools":[ {"name":"get_a"} ]}}'
    assert sieve.passed(answer) is answer


@pytest.mark.parametrize(
    "frame",
    [
        b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"no"}}',
        b'{"jsonrpc":"2.0","id":7,"result":{"tools":3}}',
        b'{"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"set"}],"tools":[{"name":"set"}]}}',
        b'{"jsonrpc":"2.0","id":8,"result":{}}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping"}',
        b'{"jsonrpc":"2.0","method":"notifications/message"}',
        b"noise",
    ],
)
def test_everything_else_of_a_server_passes(frame: bytes) -> None:
    sieve = Sieve(("get_*",), ())
    assert sieve.passed(frame) is frame
    sieve.refused(_request("tools/list", id=7))
    assert sieve.passed(frame) is frame


@pytest.mark.parametrize(
    "params",
    [
        b'{"name":"set_time"}',
        b'{"n\\u0061me":"set_time"}',
        b'{"name":"get_time","name":"set_time"}',
        b'{"name":"set_time","name":"get_time"}',
        b'{"name":7}',
        b"{}",
        b"null",
    ],
)
def test_what_is_not_shown_cannot_be_called_in_any_spelling(params: bytes) -> None:
    """Threat: a device guesses the name of a tool that its operator has taken away."""
    sieve = Sieve(("get_*",), ())
    refusal = sieve.refused(b'{"jsonrpc":"2.0","id":"x","method":"tools\\/call","params":%b}' % params)
    assert refusal is not None
    answer = json.loads(refusal)
    assert answer["id"] == "x"
    assert answer["error"]["code"] == -32602
    assert answer["error"]["data"]["delivered"] is False


def test_a_call_without_parameters_is_refused() -> None:
    assert Sieve(("get_*",), ()).refused(b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}') is not None


@pytest.mark.parametrize(
    "frame",
    [
        _request("tools/call", {"name": "get_time", "arguments": {}}),
        _request("resources/read", {"uri": "x"}),
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}',
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        b"noise",
    ],
)
def test_everything_else_goes_to_the_server(frame: bytes) -> None:
    assert Sieve(("get_*",), ()).refused(frame) is None


def test_lists_that_are_never_given_are_forgotten() -> None:
    sieve = Sieve((), ("set_*",))
    for id in range(LISTS_REMEMBERED + 1):
        sieve.refused(_request("tools/list", id=id))
    answer = b'{"jsonrpc":"2.0","id":%d,"result":{"tools":[{"name":"set_a"}]}}'
    assert b"set_a" in sieve.passed(answer % 0)
    assert b"set_a" not in sieve.passed(answer % 1)


def test_without_patterns_nothing_has_to_be_looked_at() -> None:
    assert Sieve((), ()).open
