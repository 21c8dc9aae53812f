"""What a Prometheus server reads from us, gathered at the moment it asks.

Nothing here is kept up to date between two scrapes: the numbers live where they arise and are only collected, so a busy link pays
nothing for being measured. The registry is our own; two servers in one process do not share a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from .. import __version__
from ..core.figures import BOUNDS, EndpointCalls
from ..credentials.store import moment_of
from ..settings.described import RENAMED
from ..settings.schema import Limits

PREFIX: Final = "mcp_endpoint_"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""What `generate_latest` writes: the text format every scraper reads."""
LABELLED: Final = {
    "refused": ("refusals", "status", "Links and requests refused before anybody served them, by the HTTP status they got."),
    "links_closed": ("links_closed", "code", "Links that ended, by WebSocket close code; other: a code that is not ours."),
}
"""Counters whose own names end in a code: how they are called here, with the code as a label, and what they say."""
OLD_NAMES: Final = {"links_closed": "goodbyes"}
"""Family → its old name, which its deprecated metrics and the counters of `/stats` keep for one release."""
HELP: Final = {
    "endpoints": "Endpoints with somebody attached now.",
    "in_flight": "Requests that wait for their answer now.",
    "tasks": "asyncio tasks of the process now: a few for the server, none for a WebSocket link or a call.",
    "ready": "1 while new links are taken, 0 while the server drains.",
    "answers": "Answers given to devices and other consumers, errors included.",
    "answers_too_big": "Answers replaced by error -32007 because their consumer could not take them.",
    "asked": "Requests of tools (sampling, elicitation, roots) handed to a consumer.",
    "bad_frames": "Frames of consumers that are not JSON-RPC.",
    "busy": "Requests refused with -32005: too many in flight, or a queue that is full.",
    "cancelled": "Requests cancelled by the consumer that had made them.",
    "carried": "Requests handed to a tool.",
    "dropped_notifications": "Notifications for nobody, or for a link whose queue was full.",
    "late_answers": "Answers that came after their deadline or cancellation.",
    "links_accepted": "WebSocket links let in.",
    "no_provider": "Requests answered with -32001: no tool was connected.",
    "noise": "Frames of tools that are not JSON-RPC.",
    "notifications": "Notifications carried, either way.",
    "provider_gone": "Requests answered with -32003: cut off, because the tool left or the server stopped.",
    "requests": "Requests accepted from devices and other consumers.",
    "record_file_bytes": "What the file of records takes on the disk now.",
    "record_queue_bytes": "What waits for the writer of records now.",
    "records_dropped": "Records that are not in the file: no room, no writer, or a full disk.",
    "records_truncated": "Records of which only the beginning was taken.",
    "records_written": "Records that are in the file.",
    "timed_out": "Requests answered with -32006: the tool did not answer in time.",
    "unknown_answers": "Answers nobody had asked for: forged, repeated or to no request.",
    "writer_restarts": "Times the writer of records was started again.",
}


class Figures(NamedTuple):
    """Everything countable at one moment."""

    counters: Mapping[str, int]
    """Name → how often since the start."""
    links: Mapping[str, int]
    """Side (`tool`, `device`) → links open now."""
    gauges: Mapping[str, float]
    """Name → value now."""
    calls: Mapping[str, EndpointCalls] = {}
    """Printable name of an endpoint → its tool calls since the start."""
    keys: Mapping[str, Mapping[str, Any]] = {}
    """Pool → its counts by state, and under `keys` the figures of its first keys, as `/stats` shows them."""
    servers: Mapping[str, int] = {}
    """State → how many managed servers are in it now."""
    dialled: Mapping[str, bool] = {}
    """Name of a `[[dial]]` → whether its link is open now."""


class Exposition:
    """Figures as Prometheus families: `collect` is what the registry calls at a scrape."""

    def __init__(self, limits: Limits, read: Callable[[], Figures]) -> None:
        self._limits = limits
        self._read = read
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def collect(self) -> Iterator[Metric]:
        """The families, in the order they are printed."""
        figures = self._read()
        yield InfoMetricFamily(PREFIX + "build", "The program that answers.", {"version": __version__})
        links = GaugeMetricFamily(PREFIX + "links", "Links open now, by side.", labels=["side"])
        for side, count in figures.links.items():
            links.add_metric([side], count)
        yield links
        yield from _calls(figures.calls)
        for name, value in figures.gauges.items():
            yield GaugeMetricFamily(PREFIX + name, HELP.get(name, f"{_phrase(name)} now."), value)
        yield from _counters(figures.counters)
        yield from _keys(figures.keys)
        servers = GaugeMetricFamily(PREFIX + "managed_servers", "Managed servers now, by state; only running is good.", labels=["state"])
        for state, count in figures.servers.items():
            servers.add_metric([state], count)
        yield servers
        dialled = GaugeMetricFamily(PREFIX + "dial_connected", "1 while the link to a [[dial]] target is open, else 0.", labels=["target"])
        for name, connected in figures.dialled.items():
            dialled.add_metric([name], connected)
        yield dialled
        limits = GaugeMetricFamily(PREFIX + "limit", "The bounds in force, by their name in [limits].", labels=["name"])
        for name, bound in msgspec.structs.asdict(self._limits).items():
            limits.add_metric([name], bound)
        for old, name in RENAMED.items():  # removed in the next release
            limits.add_metric([old.removeprefix("limits.")], getattr(self._limits, name.removeprefix("limits.")))
        yield limits

    def scrape(self) -> tuple[bytes, str]:
        """The page and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE


def _calls(endpoints: Mapping[str, EndpointCalls]) -> Iterator[Metric]:
    calls = CounterMetricFamily(
        PREFIX + "calls",
        "Tool calls that have ended, by endpoint, tool and outcome: ok, tool_error (isError), error, or why there was no answer.",
        labels=["endpoint", "tool", "outcome"],
    )
    durations = HistogramMetricFamily(
        PREFIX + "call_duration_seconds",
        "From a tool call's arrival to its answer or its other end, by endpoint.",
        labels=["endpoint"],
    )
    for endpoint, seen in endpoints.items():
        counts = seen.counts
        for (tool, outcome), count in counts.items():
            calls.add_metric([endpoint, tool, outcome], count)
        if counts:
            ends = [*map(str, BOUNDS), "+Inf"]
            durations.add_metric([endpoint], list(zip(ends, accumulate(seen.buckets), strict=True)), seen.seconds)
    yield calls
    yield durations


def _counters(counters: Mapping[str, int]) -> Iterator[Metric]:
    labelled = {name: CounterMetricFamily(PREFIX + new, help, labels=[label]) for name, (new, label, help) in LABELLED.items()}
    for name, count in counters.items():
        family, _, code = name.rpartition("_")
        if family in LABELLED:
            labelled[family].add_metric([code], count)
            new, label, _ = LABELLED[family]
            now = f'{PREFIX}{new}_total{{{label}="{code}"}}'
            yield CounterMetricFamily(
                PREFIX + OLD_NAMES.get(family, family) + "_" + code, f"Deprecated, removed in the next release: use {now}.", count
            )
        else:
            yield CounterMetricFamily(PREFIX + name, HELP.get(name, f"{_phrase(name)} since the start."), count)
    yield from labelled.values()


def _keys(pools: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """The keys of upstreams; one is named by the beginning of its SHA-256."""
    states = GaugeMetricFamily(PREFIX + "keys", "Keys of a pool now, by state.", labels=["pool", "state"])
    one = ["pool", "key"]
    requests = CounterMetricFamily(PREFIX + "key_requests", "Requests sent with a key since the start.", labels=one)
    status = GaugeMetricFamily(PREFIX + "key_last_status", "HTTP status of a key's last answer; 0 if there was none.", labels=one)
    used = GaugeMetricFamily(PREFIX + "key_last_use_timestamp_seconds", "When a key was used last.", labels=one)
    until = GaugeMetricFamily(PREFIX + "key_resting_until_timestamp_seconds", "When a key's rest ends.", labels=one)
    for pool, found in pools.items():
        for state in ("available", "resting", "banned"):
            states.add_metric([pool, state], found[state])
        for key in found["keys"]:
            labels = [pool, key["fingerprint"]]
            requests.add_metric(labels, key["requests"])
            if key["last_used"] is not None:
                status.add_metric(labels, key["last_status"] or 0)
                used.add_metric(labels, moment_of(key["last_used"]) or 0)
            if key["resting_until"] is not None:
                until.add_metric(labels, moment_of(key["resting_until"]) or 0)
    yield from (states, requests, status, used, until)


def _phrase(name: str) -> str:
    return name.replace("_", " ").capitalize()
