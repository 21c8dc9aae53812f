"""What a tool filter passes, and that nobody gets around it."""

from __future__ import annotations

import json

import pytest

from mcp_endpoint.providers.tool_filter import LISTS_REMEMBERED, ToolChange, ToolFilter, shown


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
    tool_filter = ToolFilter(("get_*",), ())
    assert not tool_filter.open
    assert not tool_filter.checked(_request("tools/list", id=7)).refused
    answer = (
        b'{"jsonrpc":"2.0", "result":{"x":1.00,"tools":[{"name":"get_a","n":1.00}, {"name":"set_a"},7,{"name":"get_\xe4\xbd\xa0"}]},"id":7}'
    )
    kept = b'{"jsonrpc":"2.0", "result":{"x":1.00,"tools":[{"name":"get_a","n":1.00},{"name":"get_\xe4\xbd\xa0"}]},"id":7}'
    assert tool_filter.passed(answer) == kept
    assert tool_filter.passed(answer) == answer, "the second answer to one request is nobody's list"


def test_a_list_of_what_is_all_shown_stays_as_it_is() -> None:
    tool_filter = ToolFilter((), ("nothing",))
    tool_filter.checked(_request("tools/list", id="a"))
    answer = b'{"jsonrpc":"2.0","id":"a","result":{"tools":[ {"name":"get_a"} ]}}'
    assert tool_filter.passed(answer) is answer


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
    tool_filter = ToolFilter(("get_*",), ())
    assert tool_filter.passed(frame) is frame
    tool_filter.checked(_request("tools/list", id=7))
    assert tool_filter.passed(frame) is frame


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
    tool_filter = ToolFilter(("get_*",), ())
    answer, refused = tool_filter.checked(b'{"jsonrpc":"2.0","id":"x","method":"tools\\/call","params":%b}' % params)
    assert refused
    answer = json.loads(answer)
    assert answer["id"] == "x"
    assert answer["error"]["code"] == -32602
    assert answer["error"]["data"]["delivered"] is False


def test_a_call_without_parameters_is_refused() -> None:
    assert ToolFilter(("get_*",), ()).checked(b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}').refused


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
    assert ToolFilter(("get_*",), ()).checked(frame) == (frame, False)


def test_lists_that_are_never_given_are_forgotten() -> None:
    tool_filter = ToolFilter((), ("set_*",))
    for id in range(LISTS_REMEMBERED + 1):
        tool_filter.checked(_request("tools/list", id=id))
    answer = b'{"jsonrpc":"2.0","id":%d,"result":{"tools":[{"name":"set_a"}]}}'
    assert b"set_a" in tool_filter.passed(answer % 0)
    assert b"set_a" not in tool_filter.passed(answer % 1)


def test_without_patterns_nothing_has_to_be_looked_at() -> None:
    assert ToolFilter((), ()).open


def _listed(tool_filter: ToolFilter, *pages: bytes) -> list[bytes]:
    """A whole list as it goes on, page by page; each page is what stands in `tools`."""
    heard = []
    for number, page in enumerate(pages):
        tool_filter.checked(_request("tools/list", {"cursor": str(number)} if number else {}, id=number))
        more = b',"nextCursor":"%d"' % (number + 1) if number + 1 < len(pages) else b""
        heard.append(tool_filter.passed(b'{"id":%d,"result":{"tools":[%b]%b},"jsonrpc":"2.0"}' % (number, page, more)))
    return heard


def _called(tool_filter: ToolFilter, name: str) -> str | None:
    """The name under which the server hears of a call; None if it does not."""
    data, refused = tool_filter.checked(_request("tools/call", {"name": name, "arguments": {"n": 1.0}}))
    return None if refused else str(json.loads(data)["params"]["name"])


def test_a_tool_is_shown_and_called_under_its_new_name_and_nothing_else_of_it_changes() -> None:
    tool_filter = ToolFilter((), (), {"get_time": ToolChange(name="报时", description='说"现在"'), "plain": ToolChange(description="new")})
    assert not tool_filter.open
    page = b'{"x":1.00, "name" : "get_time","description":"old","n":1e2}, {"name":"plain","inputSchema":{}},{"name":"other" }'
    [heard] = _listed(tool_filter, page)
    assert (
        heard
        == (
            '{"id":0,"result":{"tools":[{"x":1.00, "name" : "报时","description":"说\\"现在\\"","n":1e2},'
            '{"name":"plain","description":"new","inputSchema":{}},{"name":"other" }]},"jsonrpc":"2.0"}'
        ).encode()
    )
    call = b'{"jsonrpc":"2.0", "id":1,"method":"tools/call","params":{"_meta":{"progressToken":7}, "name":"%b" ,"arguments":{"n":1.00}}}'
    assert tool_filter.checked(call % "报时".encode()) == (call % b"get_time", False)
    assert (_called(tool_filter, "plain"), _called(tool_filter, "other"), _called(tool_filter, "get_time")) == ("plain", "other", None)
    assert tool_filter.problems == ()


def test_two_tools_may_change_their_names_with_each_other() -> None:
    tool_filter = ToolFilter((), (), {"a": ToolChange(name="b"), "b": ToolChange(name="a")})
    assert [tool["name"] for tool in json.loads(_listed(tool_filter, b'{"name":"a"},{"name":"b"}')[0])["result"]["tools"]] == ["b", "a"]
    assert (_called(tool_filter, "a"), _called(tool_filter, "b")) == ("b", "a")


def test_what_is_switched_off_is_not_shown_and_gives_its_name_away() -> None:
    tool_filter = ToolFilter((), (), {"a": ToolChange(enabled=False, name="x"), "b": ToolChange(name="a"), "c": ToolChange(enabled=True)})
    heard = json.loads(_listed(tool_filter, b'{"name":"a"},{"name":"b"},{"name":"c"},{"name":"x"}')[0])
    assert [tool["name"] for tool in heard["result"]["tools"]] == ["a", "c", "x"]
    assert [_called(tool_filter, name) for name in "abcx"] == ["b", None, "c", "x"]


def test_allow_and_deny_mean_the_names_the_server_gives() -> None:
    tool_filter = ToolFilter(
        ("get_*",), ("get_b",), {"get_a": ToolChange(name="a"), "get_b": ToolChange(name="b"), "set": ToolChange(name="x")}
    )
    heard = json.loads(_listed(tool_filter, b'{"name":"get_a"},{"name":"get_b"},{"name":"set"},{"name":"b"}')[0])
    assert [tool["name"] for tool in heard["result"]["tools"]] == ["a"]
    assert [_called(tool_filter, name) for name in ("a", "b", "x", "get_b", "set")] == ["get_a", None, None, None, None]


def test_a_given_name_hides_another_tool_that_bears_it_and_the_operator_hears_of_it() -> None:
    tool_filter = ToolFilter((), (), {"a": ToolChange(name="b")})
    pages = _listed(tool_filter, b'{"name":"b"}', b'{"name":"a"}')
    assert [json.loads(page)["result"]["tools"] for page in pages] == [[], [{"name": "b"}]]
    assert _called(tool_filter, "b") == "a"
    assert len(tool_filter.problems) == 1
    assert "tools.a.name: the server has another tool named b" in tool_filter.problems[0]


def test_a_change_of_a_tool_that_is_not_there_is_told_when_the_last_page_is_seen_and_forgotten_when_it_comes() -> None:
    tool_filter = ToolFilter((), (), {"a": ToolChange(name="x"), "b": ToolChange(name="y")})
    tool_filter.checked(_request("tools/list", {"cursor": "3"}, id=9))
    tool_filter.passed(b'{"jsonrpc":"2.0","id":9,"result":{"tools":[]}}')
    assert tool_filter.problems == (), "the end of a list nobody saw the beginning of"
    _listed(tool_filter, b'{"name":"b"}', b'{"name":"c"}')
    assert [problem.partition(" / ")[2] for problem in tool_filter.problems] == [
        "tools.a: the server has no tool of this name; correct or remove the name"
    ]
    _listed(tool_filter, b'{"name":"a"},{"name":"b"}')
    assert tool_filter.problems == ()


def test_new_changes_count_at_once_and_what_an_earlier_life_was_asked_is_forgotten() -> None:
    tool_filter = ToolFilter((), (), {"a": ToolChange(name="x")})
    tool_filter.change({"a": ToolChange(name="y")})
    assert [_called(tool_filter, name) for name in "axy"] == [None, "x", "a"]
    tool_filter.checked(_request("tools/list", id=7))
    tool_filter.begin()
    answer = b'{"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"a"}]}}'
    assert tool_filter.passed(answer) is answer
    tool_filter.change({})
    assert tool_filter.open


@pytest.mark.parametrize("broken", [b'{"name":"a","x":1,"x":2}', b'{"name":7}', b"7"])
def test_a_tool_that_cannot_be_changed_is_left_out(broken: bytes) -> None:
    """Threat: it would be shown under the name that the operator took from it."""
    tool_filter = ToolFilter((), (), {"a": ToolChange(name="x")})
    assert json.loads(_listed(tool_filter, broken + b',{"name":"b"}')[0])["result"]["tools"] == [{"name": "b"}]


def test_a_list_with_an_odd_cursor_is_filtered_all_the_same() -> None:
    tool_filter = ToolFilter((), ("hidden",))
    tool_filter.checked(b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":7}}')
    assert b"hidden" not in tool_filter.passed(b'{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"hidden"}],"nextCursor":7}}')
