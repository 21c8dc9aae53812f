"""What a Prometheus server reads from us, gathered at the moment it asks.

Nothing here is kept up to date between two scrapes: the numbers live where they arise and are only collected, so a busy link pays
nothing for being measured. The registry is our own; two servers in one process do not share a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from .. import __version__
from ..settings.load import Limits

PREFIX: Final = "mcp_endpoint_"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""What `generate_latest` writes: the text format every scraper reads."""


class Figures(NamedTuple):
    """Everything countable at one moment."""

    counters: Mapping[str, int]
    """Name → how often since the start."""
    links: Mapping[str, int]
    """Side (`tool`, `device`) → links open now."""
    gauges: Mapping[str, float]
    """Name → value now."""


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
        for name, value in figures.gauges.items():
            yield GaugeMetricFamily(PREFIX + name, f"{_words(name)} now.", value)
        for name, count in figures.counters.items():
            yield CounterMetricFamily(PREFIX + name, f"{_words(name)} since the start.", count)
        limits = GaugeMetricFamily(PREFIX + "limit", "The bounds in force, by their name in [limits].", labels=["name"])
        for name, bound in msgspec.structs.asdict(self._limits).items():
            limits.add_metric([name], bound)
        yield limits

    def scrape(self) -> tuple[bytes, str]:
        """The page and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
