"""Who hears what nobody asked for."""

from __future__ import annotations

from plays import Play, call, notification

from mcp_endpoint import errors


def test_what_a_tool_says_to_nobody_in_particular_is_for_every_device() -> None:
    play = Play()
    tool, one, other = play.tool(), play.device(), play.device()
    said = notification("notifications/anything", x=1)
    tool.says(said)
    one.hears(said)
    other.hears(said)


def test_a_log_message_is_for_the_device_whose_call_the_tool_works_on() -> None:
    play = Play()
    tool, one, other = play.tool(), play.device(), play.device()
    one.says(call(1, "a"))
    said = notification("notifications/message", level="info", data="x")
    tool.says(said)
    one.hears(said)
    other.hears_nothing()


def test_a_notification_at_an_endpoint_without_tools_is_dropped_and_counted() -> None:
    play = Play()
    device = play.device()
    device.says(notification("notifications/anything"))
    device.hears_nothing()
    assert play.counters.dropped_notifications == 1


def test_a_notification_that_can_be_read_in_two_ways_is_a_bad_frame_and_not_answered() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(call(1, "a"))
    tool.hear()
    device.says(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1},"params":{"requestId":2}}')
    device.hears_nothing()
    tool.hears_nothing()
    assert play.counters.bad_frames == 1 and errors.INVALID_REQUEST.number == -32600
