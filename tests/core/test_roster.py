"""Who is attached: who is alone, whose frames go the short way, and when nothing is said that no peer wrote."""

from __future__ import annotations

from plays import INITIALIZED, Play, answer, call, initialize, request, welcome

from mcp_endpoint.core.roster import is_bare


def test_one_provider_is_alone_and_two_are_not() -> None:
    play = Play()
    roster = play.endpoint.roster
    assert roster.sole is None and roster.direct is None
    tool = play.tool()
    assert roster.sole is tool.party
    other = play.tool()
    assert roster.sole is None
    other.leaves()
    assert roster.sole is tool.party


def test_the_short_way_is_open_once_a_tool_has_answered_without_a_handshake() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(call(7, "a"))
    assert play.endpoint.roster.direct is None and is_bare(tool.party)
    tool.says(answer(tool.hear()["id"]))
    assert play.endpoint.roster.direct is tool.party


def test_the_short_way_is_open_once_a_tool_is_ready() -> None:
    play = Play()
    tool, device = play.tool(), play.device()
    device.says(initialize())
    tool.says(welcome(tool.hear()["id"]))
    assert play.endpoint.roster.direct is None
    device.says(INITIALIZED)
    assert play.endpoint.roster.direct is tool.party


def test_a_relay_between_peers_without_a_handshake_is_plain_until_somebody_initializes() -> None:
    play = Play()
    roster = play.endpoint.roster
    tool, device = play.tool(), play.device()
    assert roster.plain() and not roster.settling()
    device.says(request(1, "anything"))
    play.tool()
    assert roster.plain() and len(roster.providers) == 2
    device.says(initialize(2))
    assert not roster.plain() and roster.settling()
    play.wait(5)
    assert roster.bare() == roster.providers and tool.party in roster.bare()
