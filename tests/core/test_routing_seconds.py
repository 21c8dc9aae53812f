"""How long a call may take: as everywhere, as set for its tool, or as set for its provider."""

from __future__ import annotations

import pytest
from plays import Actor, Play, answer, call, initialize

from mcp_endpoint.settings.schema import EndpointSettings, ToolSettings


def _tool(play: Play, seconds: float | None, server_id: str = "") -> Actor:
    actor = Actor(play)
    actor.party = play.endpoint.attach_provider(actor, play.now, server_id=server_id, call_seconds=seconds)
    return actor


@pytest.mark.parametrize(("seconds", "lasts"), [(None, 25.0), (60.0, 60.0), (2.0, 2.0)])
@pytest.mark.parametrize("known", [True, False])
def test_a_provider_may_have_a_time_of_its_own_for_its_calls(seconds: float | None, lasts: float, known: bool) -> None:
    play = Play()
    device = play.ready_device()
    tool = _tool(play, seconds)
    tool.is_greeted("slow", ["think"] if known else [])
    device.heard.clear()
    device.says(call("a", "think"))
    tool.hear()
    play.wait(lasts - 0.1)
    device.hears_nothing()
    play.wait(0.2)
    device.hears_error("a", -32006, delivered=True)


@pytest.mark.parametrize("known", [True, False])
def test_to_somebody_who_sees_one_label_it_is_the_same(known: bool) -> None:
    play = Play()
    device = play.device(in_process=True, only="slow")
    tool = _tool(play, 60.0, "slow")
    device.says(initialize("i"))
    tool.is_greeted("slow", ["think"] if known else [])
    device.heard.clear()
    device.says(call("a", "think"))
    tool.hear()
    play.wait(59.9)
    device.hears_nothing()
    play.wait(0.2)
    device.hears_error("a", -32006, delivered=True)


def test_among_several_each_has_its_own() -> None:
    play = Play(EndpointSettings(tools={"mull": ToolSettings(timeout=5.0)}))
    device = play.ready_device()
    slow, quick = _tool(play, 60.0, "slow"), _tool(play, None, "quick")
    slow.is_greeted("slow", ["think", "mull"])
    quick.is_greeted("quick", ["blink"])
    device.heard.clear()
    device.says(call("a", "think"), call("b", "mull"), call("c", "blink"))
    number = slow.hear()["id"]
    play.wait(5.1)
    device.hears_error("b", -32006)  # what is set for a tool by its name goes before
    play.wait(20.0)
    device.hears_error("c", -32006)
    slow.says(answer(number, done=True))
    device.hears(answer("a", done=True))
