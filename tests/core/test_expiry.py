"""What ends by time, and what ends when the server stops."""

from __future__ import annotations

from plays import Play, call

from mcp_endpoint import errors


def test_a_call_ends_at_its_deadline_and_its_tool_hears_so() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(call(1, "a"))
    number = tool.hear()["id"]
    play.wait(play.endpoint.settings.call_timeout)
    device.hears_error(1, errors.TIMED_OUT.number, delivered=True)
    assert tool.hear()["params"]["requestId"] == number


def test_a_parked_call_is_answered_when_the_server_begins_to_stop_and_one_in_flight_at_its_end() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(call(1, "a"))
    tool.hear()
    play.endpoint.drain(play.now)
    device.says(call(2, "a"))
    device.hears_error(2, errors.BUSY.number)
    play.endpoint.finish(play.now)
    device.hears_error(1, errors.PROVIDER_GONE.number, delivered=True)
