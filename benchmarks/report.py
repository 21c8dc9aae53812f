"""What was measured, held against what was promised: tables, RESULTS.md, the chart."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cases import ALL, CASES, NAMES, Case, Row, beside
from servers import Kind

PACKAGES = ("uvloop", "uvicorn", "websockets", "msgspec", "starlette", "httptools", "orjson")


class Results:
    """Rows by scenario and server, in the order of the rounds."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[Kind, list[Row]]] = {}

    def add(self, case: Case, kind: Kind, row: Row) -> None:
        self.rows.setdefault(case.name, {}).setdefault(kind, []).append(row)

    def values(self, case: str, kind: Kind, figure: str) -> list[float]:
        return [row[figure] for row in self.rows.get(case, {}).get(kind, []) if figure in row]

    def median(self, case: str, kind: Kind, figure: str) -> float | None:
        values = self.values(case, kind, figure)
        return statistics.median(values) if values else None

    def ratio(self, case: str, kind: Kind, other: Kind, figure: str = "cpu_us") -> float | None:
        """The median of the rounds' ratios."""
        pairs = list(zip(self.values(case, kind, figure), self.values(case, other, figure), strict=False))
        return statistics.median(one / two for one, two in pairs) if pairs else None

    def started(self, figure: str) -> float | None:
        """The median over every start of our broker."""
        values = [row[figure] for case in self.rows.values() for row in case.get("ours", []) if figure in row]
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Budget:
    """A promise about the figures; `value` is None where they were not measured."""

    what: str
    must: float
    aim: float
    unit: str
    value: Callable[[Results], float | None]
    or_added_us: float = 0.0
    """Also met when the attackers add no more than this to p99."""


def beside_c(name: str) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(name, "ours", "c")


def flatness(results: Results) -> float | None:
    few, many = results.values("endpoints-10", "ours", "cpu_us"), results.values("endpoints-10000", "ours", "cpu_us")
    return statistics.median(b / a for a, b in zip(few, many, strict=False)) if few and many else None


BUDGETS = [
    Budget("pairs, beside the C relay", 2.0, 1.5, "×", beside_c("pairs")),
    Budget("2 KB of text, beside the C relay", 2.0, 1.5, "×", beside_c("2k")),
    Budget("2 KB of objects, beside the C relay", 2.0, 1.5, "×", beside_c("2k-rows")),
    Budget("1 MB, beside the C relay", 2.0, 1.5, "×", beside_c("1m")),
    Budget("fan-in, beside the C relay", 2.5, 1.7, "×", beside_c("fan-in")),
    Budget("64 KB, beside the C relay", 2.5, 1.7, "×", beside_c("64k")),
    Budget("16 in flight, beside the C relay", 7.0, 4.0, "×", beside_c("16-in-flight")),
    Budget("pairs, beside the Starlette relay", 0.45, 0.33, "×", lambda r: r.ratio("pairs", "ours", "starlette")),
    Budget("idle link among 10,000", 4.0, 2.5, "KiB", lambda r: r.median("idle", "ours", "kib_per_link")),
    Budget("the same, deflate offered", 4.0, 2.5, "KiB", lambda r: r.median("idle-deflate", "ours", "kib_per_link")),
    Budget("10,000 links at once, beside the Starlette relay", 0.8, 0.4, "×", lambda r: r.ratio("storm", "ours", "starlette", "connect_s")),
    Budget("idle process", 60, 45, "MiB", lambda r: r.started("idle_mib")),
    Budget("start to listening", 1.0, 1.0, "s", lambda r: r.started("start_seconds")),
    Budget("10,000 endpoints, beside 10", 1.25, 1.1, "×", flatness),
    Budget("p99 beside attackers, beside the same silent", 1.5, 1.1, "×", lambda r: r.median("attackers", "ours", "p99_ratio"), 1000),
]


def budgets(results: Results) -> str:
    lines = ["| promise | measured | must | | aim | |", "|---|---:|---:|---|---:|---|"]
    for budget in BUDGETS:
        value = budget.value(results)
        added = results.median("attackers", "ours", "p99_added_us") if budget.or_added_us else None
        limit, measured, must, aim = f"≤ {budget.must:g} {budget.unit}", "–", "not measured", ""
        if value is not None:
            met = value <= budget.must or (added is not None and added <= budget.or_added_us)
            measured, must, aim = f"{value:.2f} {budget.unit}", "met" if met else "**missed**", "met" if value <= budget.aim else ""
        if budget.or_added_us:
            limit += f" or {budget.or_added_us / 1000:+g} ms"
        if added is not None:
            measured += f", {added / 1000:+.2f} ms"
        lines.append(f"| {budget.what} | {measured} | {limit} | {must} | ≤ {budget.aim:g} {budget.unit} | {aim} |")
    return "\n".join(lines)


def table(results: Results) -> str:
    """All figures, in Markdown."""
    heads = ["scenario", "unit", *(NAMES[kind] for kind in ALL), "ours / C", "ours / Starlette", "ours p50", "ours p99", "ours longest"]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for case in CASES:
        if case.name not in results.rows:
            continue
        figures = [results.median(case.name, kind, case.figure) for kind in ALL]
        ratios = [None if case.measure is beside else results.ratio(case.name, "ours", other, case.figure) for other in ("c", "starlette")]
        times = [results.median(case.name, "ours", name) for name in ("p50_us", "p99_us", "max_us")]
        cells = [f"{case.name}: {case.title}", case.unit, *(shown(value, ".2f") for value in figures)]
        cells += [shown(value, ".2f") for value in ratios] + [shown(value, ".0f", " µs") for value in times]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "processor")
    compiler = subprocess.run([os.environ.get("CC", "cc"), "--version"], capture_output=True, text=True, check=False).stdout
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{os.cpu_count()} × {model}, {platform.system()} {platform.release()}; Python {platform.python_version()}; {packages};\n"
        f"{compiler.splitlines()[0]}, -O2."
    )


def report(results: Results, rounds: int, seconds: float) -> str:
    """The text of RESULTS.md."""
    return f"""# Benchmarks · 基准测试

Written by `make bench` (`python benchmarks/run.py`). 本页由 `make bench` 生成。

{machine()}

{rounds} interleaved rounds of {seconds:g} s, medians; the load and the server share these cores. Everything is switched on as shipped:
catalog, deadlines, bounds, counters, log. Every answer's id, nonce and payload was compared byte for byte.

## Promises · 承诺

{budgets(results)}

Measured by programs of their own, each beside a direct call in the same run: MCP over HTTP (`mcp_over_http.py`), the gateway
(`gateway.py`), managed servers (`providers.py`), sessions opened and dropped (`sessions.py`).

## Figures · 数据

CPU is the server's, per round trip (device → broker → tool → broker → device); messages are 150 B where nothing else is said.

{table(results)}

![CPU per round trip beside a relay in C](../docs/img/bench.png)

## How to read this · 如何阅读

- *C relay* (`relay.c`): epoll, one thread; checks the JSON, swaps the ids, nothing else. That is what the kernel and the work itself cost;
  a program with a catalog, deadlines and bounds cannot be there. *Starlette relay* (`starlette_relay.py`): the same, straightforward.
- CPU is what the scheduler counts for all threads of the server process, so it holds where the load is the slower side. With few links in
  flight each turn of the loop carries little and the kernel's share is large.
- In the storm the C relay only compares texts; the two others open the tokens.
- Attackers: a device that asks as fast as its socket takes and never reads; a tool that sends unasked answers and notifications as fast as
  its socket takes and never reads, beside a device that keeps asking it and does not read either; 200 sockets that begin a handshake and
  never end it. Whoever is shut out comes back half a second later. The figure is p99 of 32 busy pairs, beside p99 with the same
  sockets silent.
"""


def chart(results: Results, path: Path) -> bool:
    """Draw the ratios and the memory; False when matplotlib is not installed or nothing was measured."""
    shown_cases = [case for case in CASES if case.measure.__name__ == "calls" and results.ratio(case.name, "ours", "c")]
    shown_cases = [case for case in shown_cases if not case.name.startswith("endpoints")]
    try:
        import matplotlib
    except ImportError:
        return False
    if not shown_cases:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter

    kinds: list[tuple[float, Kind, str]] = [(-0.2, "ours", "#2458a6"), (0.2, "starlette", "#c9a227")]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 1.4 + 0.52 * len(shown_cases)), width_ratios=(2.4, 1), layout="constrained")
    for offset, kind, color in kinds:
        values = [results.ratio(case.name, kind, "c") or 0 for case in shown_cases]
        bars = left.barh([y + offset for y in range(len(values))], values, 0.38, color=color, label=NAMES[kind])
        left.bar_label(bars, [f" {value:.1f}" for value in values], fontsize=9)
    left.axvline(1, color="#444", linewidth=1)
    left.text(1, -0.85, "relay in C = 1", ha="center", fontsize=9, color="#444")
    left.set(xscale="log", yticks=range(len(shown_cases)), yticklabels=[case.title for case in shown_cases])
    left.set_xlim(0.8, 2 * max(results.ratio(case.name, "starlette", "c") or 1 for case in shown_cases))
    left.invert_yaxis()
    left.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set_title("Server CPU per round trip (less is better)", fontsize=11, pad=18)
    left.legend(loc="upper right", frameon=False)
    memory = [case for case in CASES if case.figure == "kib_per_link" and case.name in results.rows]
    labels = {"idle": "plain", "idle-deflate": "client offers deflate"}
    for offset, kind, color in kinds:
        values = [results.median(case.name, kind, "kib_per_link") or 0 for case in memory]
        bars = right.bar([x + offset for x in range(len(values))], values, 0.38, color=color)
        right.bar_label(bars, [f"{value:.1f}" for value in values], fontsize=9)
    right.set(xticks=range(len(memory)), xticklabels=[labels[case.name] for case in memory])
    right.set_title("KiB per idle link, 10,000 links", fontsize=11, pad=18)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return True
