"""Measures the systems against the figures to reach, in one run and in pairs, and writes what it found.

python -m benchmarks.run            full form, at least 5 runs of each
python -m benchmarks.run --short    the same loads, fewer runs: at most 4 minutes
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import gauges, report
from benchmarks.driving import added, measure, metrics
from benchmarks.results import SUBJECT, Measured, Results, verdicts
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.systems import SYSTEMS, RunningSystem, Upstream, running

HERE = Path(__file__).parent
LATEST = HERE / "results" / "latest.json"
WARMUP_MODEL = "t20-p0"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer and smaller runs")
    parser.add_argument("--repeat", type=int, default=0, help="runs of each load; default 5, short 3 or 1")
    parser.add_argument("--only", default="", help="loads, by name, separated by commas")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="systems, by name, separated by commas")
    parser.add_argument("--processes", type=int, default=1, help="processes of the load")
    parser.add_argument("--folder", type=Path, help="where the databases go: a folder on a real disk")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md and docs/benchmarks.json")
    options = parser.parse_args()
    if options.write_docs and options.only:
        parser.error("--write-docs needs all loads of one run, so not --only")
    unknown = set(options.systems.split(",")) - set(SYSTEMS)
    if unknown:
        parser.error(f"no such system: {', '.join(sorted(unknown))}")
    return options


def chosen(only: str) -> list[Scenario]:
    """The scenarios that were asked for, in their own order."""
    names = only.split(",") if only else [scenario.name for scenario in SCENARIOS]
    unknown = set(names) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        raise SystemExit(f"no such load: {', '.join(sorted(unknown))}")
    return [scenario for scenario in SCENARIOS if scenario.name in names]


class Bench:
    """One scenario's runs beside one another, and what they gave."""

    def __init__(self, scenario: Scenario, options: argparse.Namespace, upstream: Upstream) -> None:
        self._scenario = scenario
        self._options = options
        self._upstream = upstream
        self._direct = scenario.short_direct and scenario.direct if options.short else scenario.direct
        load = scenario.load("", transport="grpc", short=options.short)
        names = [*(("direct",) if self._direct else ()), *options.systems.split(",")]
        fields = ("model", "replies", "concurrency", "ramp_s", "channels")
        self.measured = Measured(
            title=scenario.title,
            parameters={name: getattr(load, name) for name in fields} | {"processes": options.processes},
            runs={name: [] for name in names},
            statuses={name: [] for name in names},
            faults={name: [] for name in names},
            disk=[],
        )

    def run(self, folder: Path) -> None:
        """Start the systems afresh, and run them in pairs whose order alternates."""
        models = sorted({WARMUP_MODEL, *(scenario.model for scenario in SCENARIOS)})
        names = self._options.systems.split(",")
        repeats = self._scenario.repeats(short=self._options.short, wished=self._options.repeat)
        with running(names, folder=folder, upstream=self._upstream, models=models) as systems:
            for repeat in range(repeats):
                self.measured.disk.append(gauges.disk(folder))
                direct = self._once(None) if self._direct else {}
                for system in systems if repeat % 2 == 0 else systems[::-1]:
                    own = self._once(system)
                    own |= added(own, direct)

    def _once(self, system: RunningSystem | None) -> dict[str, float]:
        scenario, name = self._scenario, system.name if system else "direct"
        transport, address = ("grpc", system.address) if system else ("http", self._upstream.address)
        load = scenario.load(address, transport=transport, short=self._options.short)
        processes = self._options.processes
        limit_s = scenario.limit_s
        window = measure(load, system=system, upstream=self._upstream, processes=processes, limit_s=limit_s)
        found = metrics(window, load)
        self.measured.runs[name].append(found)
        self.measured.statuses[name].append(window.seen.statuses)
        self.measured.faults[name].append(window.seen.faults)
        brief = f"{found['tokens_per_s']:,.0f} tokens/s, {found.get('cpu_us_per_token', 0):.1f} us CPU per token"
        print(f"  {name}: {brief}, {window.seen.statuses} {window.seen.faults or ''}", file=sys.stderr, flush=True)
        return found


def commit() -> str:
    """The commit that was measured, and whether its files were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    return subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout.strip()


def run(options: argparse.Namespace, folder: Path) -> Results:
    """Measure everything that was asked for."""
    if gauges.file_system(folder) in gauges.MEMORY_FILE_SYSTEMS:
        raise SystemExit("the databases would lie in memory: name a folder on a real disk with --folder")
    started, start = datetime.now(UTC), time.monotonic()
    upstream = Upstream()
    scenarios: dict[str, Measured] = {}
    try:
        for scenario in chosen(options.only):
            print(f"{scenario.name}: {scenario.title}", file=sys.stderr, flush=True)
            bench = Bench(scenario, options, upstream)
            bench.run(folder / scenario.name)
            scenarios[scenario.name] = bench.measured
    finally:
        upstream.stop()
    return Results(
        command=f"python -m benchmarks.run {' '.join(sys.argv[1:])}".strip(),
        form="short" if options.short else "full",
        started=f"{started:%Y-%m-%d %H:%M} UTC",
        took_s=time.monotonic() - start,
        commit=commit(),
        systems=options.systems.split(","),
        machine=gauges.machine(folder),
        versions=gauges.versions(),
        scenarios=scenarios,
    )


def main() -> int:
    """Exit status 0 where every figure that was measured is reached, else 1."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="parley-benchmark-", dir=options.folder) as folder:
        results = run(options, Path(folder))
    LATEST.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    print(f"{report.misses(results)}\n\n{report.verdict_table(results)}")
    for name, measured in results.scenarios.items():
        print(f"\n{name}\n{report.detail_table(measured)}")
    if options.write_docs and SUBJECT in results.systems:
        report.write_document(results)
    return 1 if any(verdict.reached is False for verdict in verdicts(results)) else 0


if __name__ == "__main__":
    sys.exit(main())
