"""The page Prometheus reads: gathered at the scrape, parseable, every limit on it."""

from __future__ import annotations

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mcp_endpoint import __version__
from mcp_endpoint.core.figures import Calls
from mcp_endpoint.core.parties import Call, Counters
from mcp_endpoint.settings.schema import Limits
from mcp_endpoint.web.metrics import HELP, LABELLED, Exposition, Figures


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


def test_the_keys_of_upstreams_are_told_by_pool_state_and_fingerprint() -> None:
    used = {"fingerprint": "1a2b3c4d", "requests": 3, "last_used": "2026-01-01T00:00:00Z", "last_status": None, "resting_until": None}
    rests = {"fingerprint": "5e6f7a8b", "requests": 0, "last_used": None, "last_status": None, "resting_until": "2026-01-01T00:01:00Z"}
    pools = {"fly": {"total": 3, "available": 1, "resting": 1, "banned": 1, "keys": [used, rests]}}
    seen = samples(Exposition(Limits(), lambda: figures()._replace(keys=pools)))
    first, second = (("key", "1a2b3c4d"), ("pool", "fly")), (("key", "5e6f7a8b"), ("pool", "fly"))
    assert seen["mcp_endpoint_keys", (("pool", "fly"), ("state", "banned"))] == 1
    assert (seen["mcp_endpoint_key_requests_total", first], seen["mcp_endpoint_key_requests_total", second]) == (3, 0)
    assert seen["mcp_endpoint_key_last_status", first] == 0
    assert seen["mcp_endpoint_key_last_use_timestamp_seconds", first] == 1_767_225_600
    assert seen["mcp_endpoint_key_resting_until_timestamp_seconds", second] == 1_767_225_660
    assert ("mcp_endpoint_key_last_use_timestamp_seconds", second) not in seen
    assert not any(name.startswith("mcp_endpoint_key") for name, _ in samples(Exposition(Limits(), figures)))


def test_every_limit_is_on_the_page_by_its_name_in_the_configuration() -> None:
    limits = Limits(bad_frames=21)
    seen = samples(Exposition(limits, figures))
    for name, bound in msgspec.structs.asdict(limits).items():
        assert seen["mcp_endpoint_limit", (("name", name),)] == bound
    assert seen["mcp_endpoint_limit", (("name", "greeting_seconds"),)] == limits.own_initialize_seconds, "an old name, for one release"


def test_two_expositions_in_one_process_share_no_number() -> None:
    first = Exposition(Limits(), lambda: figures(1))
    second = Exposition(Limits(), lambda: figures(2))
    assert samples(first)["mcp_endpoint_requests_total", ()] == 1
    assert samples(second)["mcp_endpoint_requests_total", ()] == 2


def test_calls_are_counted_by_endpoint_tool_and_outcome_and_their_time_by_endpoint() -> None:
    calls = Calls(Limits(), lambda call, seconds: None, every=False)
    for started, tool in ((0.0, "add"), (-0.2, "add"), (-100.0, "sub")):
        calls.of("kitchen").ended(Call(None, b"1", b"1", "tools/call", started, 0.0, tool=tool), 0.0)
    assert calls.of("nobody asked here").counts == {}
    seen = samples(Exposition(Limits(), lambda: figures()._replace(calls=calls.endpoints)))
    labels = (("endpoint", "kitchen"),)
    assert seen["mcp_endpoint_calls_total", (*labels, ("outcome", "ok"), ("tool", "add"))] == 2
    assert seen["mcp_endpoint_calls_total", (*labels, ("outcome", "ok"), ("tool", "sub"))] == 1
    times = {dict(key[1])["le"]: value for key, value in seen.items() if key[0] == "mcp_endpoint_call_duration_seconds_bucket"}
    assert [times[end] for end in ("0.005", "0.1", "0.25", "60.0", "+Inf")] == [1, 1, 2, 2, 3]
    assert seen["mcp_endpoint_call_duration_seconds_count", labels] == 3
    assert seen["mcp_endpoint_call_duration_seconds_sum", labels] == pytest.approx(100.2)


def test_managed_servers_are_counted_by_state() -> None:
    seen = samples(Exposition(Limits(), lambda: figures()._replace(servers={"running": 2, "stopped": 1})))
    assert seen["mcp_endpoint_managed_servers", (("state", "running"),)] == 2
    assert seen["mcp_endpoint_managed_servers", (("state", "stopped"),)] == 1


def test_targets_that_are_dialled_have_a_gauge_each() -> None:
    seen = samples(Exposition(Limits(), lambda: figures()._replace(dialled={"xiaozhi": True, "other": False})))
    assert seen["mcp_endpoint_dial_connected", (("target", "xiaozhi"),)] == 1
    assert seen["mcp_endpoint_dial_connected", (("target", "other"),)] == 0


def test_codes_are_labels_and_the_old_names_say_what_took_their_place() -> None:
    counters = {"refused_401": 3, "links_closed_1001": 2, "links_closed_other": 1}
    exposition = Exposition(Limits(), lambda: figures()._replace(counters=counters))
    seen = samples(exposition)
    assert seen["mcp_endpoint_refusals_total", (("status", "401"),)] == 3
    assert seen["mcp_endpoint_links_closed_total", (("code", "1001"),)] == 2
    assert seen["mcp_endpoint_links_closed_total", (("code", "other"),)] == 1
    assert seen["mcp_endpoint_refused_401_total", ()] == 3
    assert seen["mcp_endpoint_goodbyes_1001_total", ()] == 2
    page = exposition.scrape()[0].decode()
    assert 'Deprecated, removed in the next release: use mcp_endpoint_refusals_total{status="401"}.' in page


def test_every_figure_has_a_sentence_that_helps() -> None:
    recorder = {"record_file_bytes", "record_queue_bytes", "records_dropped", "records_truncated", "records_written", "writer_restarts"}
    assert Counters().as_dict().keys() | {"links_accepted", "endpoints", "in_flight", "tasks", "ready"} | recorder == HELP.keys()
    families = [
        family
        for family in text_string_to_metric_families(
            Exposition(Limits(), lambda: figures()._replace(counters=Counters().as_dict())).scrape()[0].decode()
        )
        if family.name.startswith("mcp_endpoint_")
    ]
    assert all(family.documentation.endswith(".") and len(family.documentation.split()) > 2 for family in families)
    assert all(family.name.endswith("_seconds") for family in families if family.type == "histogram")
    assert LABELLED.keys() == {"refused", "links_closed"}
