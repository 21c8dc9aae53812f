"""Links, over real sockets."""

from __future__ import annotations

from sockets.stage import TOOL, linked, staged


async def test_a_message_goes_to_the_party_and_what_it_sends_comes_back() -> None:
    async with staged() as stage, linked(stage) as peer:
        peer.say("héllo")
        assert await peer.hears() == "héllo"
        party = stage.broker.parties[0]
        assert party.heard == [("héllo".encode(), True)]
        assert (party.side, party.name) == ("device", "opaque:friend")
        async with linked(stage, TOOL) as tool:
            tool.say("I am here")
            assert await tool.hears() == "I am here"
            assert stage.broker.parties[1].side == "tool"
