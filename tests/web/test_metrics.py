"""The page Prometheus reads: gathered at the scrape, parseable, every limit on it."""

from __future__ import annotations

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mcp_endpoint import __version__
from mcp_endpoint.settings.load import Limits
from mcp_endpoint.web.metrics import Exposition, Figures


def samples(exposition: Exposition) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page, content_type = exposition.scrape()
    assert content_type.startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(page.decode())
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def figures(requests: int = 0) -> Figures:
    return Figures(counters={"requests": requests, "late_answers": 2}, links={"tool": 1, "device": 3}, gauges={"in_flight": 7})


@pytest.mark.row("E4")
def test_the_numbers_are_those_of_the_moment_of_the_scrape() -> None:
    requests = 0
    exposition = Exposition(Limits(), lambda: figures(requests))
    assert samples(exposition)["mcp_endpoint_requests_total", ()] == 0
    requests = 5
    seen = samples(exposition)
    assert seen["mcp_endpoint_requests_total", ()] == 5
    assert seen["mcp_endpoint_late_answers_total", ()] == 2
    assert seen["mcp_endpoint_links", (("side", "tool"),)] == 1
    assert seen["mcp_endpoint_links", (("side", "device"),)] == 3
    assert seen["mcp_endpoint_in_flight", ()] == 7
    assert seen["mcp_endpoint_build_info", (("version", __version__),)] == 1


def test_every_limit_is_on_the_page_by_its_name_in_the_configuration() -> None:
    limits = Limits(bad_frames=21)
    seen = samples(Exposition(limits, figures))
    for name, bound in msgspec.structs.asdict(limits).items():
        assert seen["mcp_endpoint_limit", (("name", name),)] == bound


def test_two_expositions_in_one_process_share_no_number() -> None:
    first = Exposition(Limits(), lambda: figures(1))
    second = Exposition(Limits(), lambda: figures(2))
    assert samples(first)["mcp_endpoint_requests_total", ()] == 1
    assert samples(second)["mcp_endpoint_requests_total", ()] == 2
