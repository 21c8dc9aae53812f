"""What an operator may know of an endpoint: how far its tools are, and the names their functions have outside."""

from __future__ import annotations

from plays import Play, tool_named

from mcp_endpoint.core.report import describe_consumers, describe_tools


def test_a_tool_is_told_with_its_state_and_the_names_of_its_functions() -> None:
    play = Play()
    play.merged(one=["a"], other=["a", tool_named("b")])
    device = play.ready_device()
    play.endpoint.catalog.settle()
    told = describe_tools(play.endpoint.roster, play.endpoint.catalog, play.now)
    assert [(tool["label"], tool["state"], tool["functions"]) for tool in told] == [
        ("one", "ready", ["a"]),
        ("other", "ready", ["other__a", "b"]),
    ]
    (described,) = describe_consumers(play.endpoint.roster, play.now, in_process=False)
    assert described == {"client": "someone", "initialized": True, "connected_seconds": 0.0, "in_flight": 0}
    assert describe_consumers(play.endpoint.roster, play.now, in_process=True) == []
    assert device.party in play.endpoint.consumers


def test_a_tool_that_stands_for_a_managed_server_is_no_further_than_that_server() -> None:
    play, inner = Play(), Play()
    tool = play.tool()
    play.device().says({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}})
    play.wait(play.endpoint.limits.initialize_seconds)
    assert tool.party.state.value == "bare"
    tool.party.behind = inner.endpoint

    def state() -> str:
        (told,) = describe_tools(play.endpoint.roster, play.endpoint.catalog, play.now)
        return str(told["state"])

    assert state() == "down"
    inside = inner.tool()
    assert state() == "initializing"
    inner.device().says({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}})
    inner.wait(inner.endpoint.limits.initialize_seconds)
    assert inside.party.state.value == "bare"
    assert state() == "bare"


def test_a_name_means_the_tool_that_whoever_asks_would_reach() -> None:
    play = Play()
    play.merged(one=["a"], other=["a"])
    endpoint = play.endpoint
    found = endpoint.tool_named("other__a", "")
    assert found is not None and found.name == "a"
    assert endpoint.tool_named("a", "other") == found
    assert endpoint.tool_named("nothing", "") is None
