"""Measures the broker beside a relay in C and a relay on Starlette: `make bench`, or python benchmarks/run.py --help.

Every scenario runs in rounds; in each round every server gets a fresh process and the same load, in turn. What is compared is CPU time
of the server per round trip, as the operating system counts it: it drifts little where times of the clock drift much. Ratios are taken
within a round, and the median of the rounds is what counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cases import ALL, CASES, NAMES
from report import Results, budgets, chart, report, table
from servers import BUILD, HERE, ROOT, Kind, Missing, compiled, raise_limits

SPARE_DESCRIPTORS = 100


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", help="which to run; all without a name: " + " ".join(case.name for case in CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long one server is measured in one round")
    parser.add_argument("--servers", default=",".join(ALL), help="which servers, of: " + ",".join(ALL))
    parser.add_argument("--write", action="store_true", help="write RESULTS.md and the chart, as a full run always does")
    options = parser.parse_args()
    options.servers = options.servers.split(",")
    unknown = (set(options.scenarios) - {case.name for case in CASES}) | (set(options.servers) - set(ALL))
    if unknown:
        parser.error(f"unknown: {' '.join(sorted(unknown))}")
    return options


def measure(options: argparse.Namespace) -> Results:
    allowed = raise_limits()
    results = Results()
    for turn in range(options.rounds):
        for case in CASES:
            if options.scenarios and case.name not in options.scenarios:
                continue
            if case.links + SPARE_DESCRIPTORS > allowed:
                print(f"{case.name} left out: it needs ulimit -n {case.links + SPARE_DESCRIPTORS}, this machine allows {allowed}")
                continue
            kinds: list[Kind] = [kind for kind in case.servers if kind in options.servers]
            for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)] if kinds else []:
                row = case.measure(case, kind, options.seconds)
                results.add(case, kind, row)
                print(f"round {turn + 1}  {case.name:16} {NAMES[kind]:16} {row[case.figure]:10.2f} {case.unit}", flush=True)
    return results


def main() -> int:
    options = parse()
    if not Path("/proc/self/schedstat").exists():
        raise Missing("CPU time is read from /proc, which only Linux has / 仅支持 Linux")
    compiled("relay")
    compiled("load")
    results = measure(options)
    print("\n" + table(results) + "\n\n" + budgets(results))
    (BUILD / "results.json").write_text(json.dumps(results.rows, indent=1))
    if options.write or not (options.scenarios or set(options.servers) < set(ALL)):
        drawn = chart(results, ROOT / "docs" / "img" / "bench.png")
        (HERE / "RESULTS.md").write_text(report(results, options.rounds, options.seconds))
        print("\nwritten: benchmarks/RESULTS.md" + (", docs/img/bench.png" if drawn else "; no chart without matplotlib"))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Missing as reason:
        sys.exit(f"bench: {reason}")
