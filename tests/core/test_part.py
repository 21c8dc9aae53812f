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
