"""What goes on when something has changed: frames that waited for a greeting, in their order."""

from __future__ import annotations

from plays import INITIALIZED, Play, answer, call, initialize, notification, welcome


def test_what_waited_for_a_greeting_goes_on_in_its_order() -> None:
    play = Play()
    tool, first, other = play.tool(), play.device(), play.device()
    first.says(initialize())
    greeting = tool.hear()
    said = notification("notifications/anything", x=1)
    other.says(call(1, "a"), said, call(2, "b"))
    tool.hears_nothing()
    tool.says(welcome(greeting["id"]))
    assert [frame.get("method") for frame in (tool.hear(), tool.hear(), tool.hear(), tool.hear())] == [
        INITIALIZED["method"],
        "tools/call",
        said["method"],
        "tools/call",
    ]


def test_a_call_whose_tool_left_goes_to_whoever_comes_next() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    tool.leaves()
    device.says(call(1, "a"))
    device.hears_nothing()
    next_tool = play.tool()
    next_tool.says(answer(next_tool.hear()["id"]))
    device.hears(answer(1))
