"""The parts of an endpoint share what they work on: there is one of each."""

from __future__ import annotations

from plays import Play

from mcp_endpoint.core.part import EndpointPart


def test_all_parts_of_an_endpoint_work_on_the_same() -> None:
    endpoint = Play().endpoint
    parts = [endpoint.features, endpoint.lists, endpoint.notifications, endpoint.changes, endpoint.endings]
    for part in parts:
        assert isinstance(part, EndpointPart)
        assert part.roster is endpoint.roster and part.waiting is endpoint.waiting and part.lifecycle is endpoint.lifecycle
        assert part.ledger is endpoint.ledger and part.catalog is endpoint.catalog and part.settings is endpoint.settings


def test_what_an_idle_endpoint_has_not_used_it_shares_with_all_others() -> None:
    """Most endpoints are idle, and there are many: an empty dict of its own for each thing that may come would be a third of them."""

    def empties(play: Play) -> dict[str, object]:
        endpoint, tool, device = play.endpoint, play.tool().party, play.device().party
        parts = {name: getattr(endpoint, name) for name in ("waiting", "catalog", "features", "lists", "lifecycle")}
        parts |= {"tool": tool, "device": device, "pending": tool.pending}
        found = {f"{part}.{name}": getattr(one, name) for part, one in parts.items() for name in type(one).__slots__}
        return {name: value for name, value in found.items() if isinstance(value, dict | list | tuple) and not value}

    one, other = empties(Play()), empties(Play())
    used_by_every_link = {"catalog.shelves", "device.owed", "pending.calls"}
    assert {name for name, value in one.items() if value is not other[name]} == used_by_every_link
    assert len(one) > 15
