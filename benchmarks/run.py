"""Measures all systems in pairs within one run, compares the results with the targets, and writes them.

python -m benchmarks.run            full form, 5 runs of most loads: about half an hour
python -m benchmarks.run --short    smaller loads, fewer runs: at most 5 minutes
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import gauges, report, roster
from benchmarks.driving import added, measure, metrics
from benchmarks.results import Measured, Results, verdicts
from benchmarks.roster import SYSTEMS, Roster
from benchmarks.scenarios import DIRECT, SCENARIOS, Entry, Scenario
from benchmarks.systems import RunningSystem, Upstream

HERE = Path(__file__).parent
LATEST = HERE / "results" / "latest.json"
WARMUP_MODEL = "t20-p0"
PARAMETERS = ("model", "replies", "concurrency", "ramp_s", "channels", "readers")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer and smaller runs")
    parser.add_argument("--repeat", type=int, default=0, help="runs of each load; default from scenarios.py")
    parser.add_argument("--only", default="", help="loads, by name, separated by commas")
    parser.add_argument("--systems", default="", help="systems, by name, separated by commas; default all")
    parser.add_argument("--folder", type=Path, help="folder of the databases, on a real disk")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md, its charts and its JSON")
    options = parser.parse_args()
    if options.write_docs and options.only:
        parser.error("--write-docs needs the results of all loads: omit --only")
    return options


def chosen(only: str) -> list[Scenario]:
    """The requested scenarios, in the order of SCENARIOS."""
    names = only.split(",") if only else [scenario.name for scenario in SCENARIOS]
    unknown = set(names) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        raise SystemExit(f"no such load: {', '.join(sorted(unknown))}")
    return [scenario for scenario in SCENARIOS if scenario.name in names]


def available(requested: str) -> tuple[list[str], dict[str, str]]:
    """The systems to measure, and the reason for each system that is left out."""
    names = requested.split(",") if requested else list(SYSTEMS)
    if unknown := set(names) - set(SYSTEMS):
        raise SystemExit(f"no such system: {', '.join(sorted(unknown))}")
    out = {name: "not requested" for name in SYSTEMS if name not in names}
    out |= {name: missing for name in names if (missing := SYSTEMS[name].missing())}
    return [name for name in names if name not in out], out


class Bench:
    """The runs of one scenario on all its systems, and their results."""

    def __init__(
        self, scenario: Scenario, options: argparse.Namespace, upstream: Upstream, roster: Roster, names: list[str]
    ) -> None:
        self._scenario = scenario
        self._options = options
        self._upstream = upstream
        self._roster = roster
        self._entries = [
            entry for entry in scenario.entries if entry.system in (DIRECT, *names) and self._repeats(entry) > 0
        ]
        common = self._parameters(Entry(system=DIRECT))
        keys = [entry.key for entry in self._entries]
        self.measured = Measured(
            title=scenario.title,
            parameters=common,
            entries={entry.key: self._title(entry) for entry in self._entries},
            sizes={
                entry.key: own
                for entry in self._entries
                if (own := dict(self._parameters(entry).items() - common.items()))
            },
            runs={key: [] for key in keys},
            statuses={key: [] for key in keys},
            faults={key: [] for key in keys},
            disk=[],
            chart=scenario.chart,
        )

    def run(self, folder: Path) -> None:
        """Run the entries in rounds of alternating order, on newly started systems."""
        shared = [] if self._scenario.fresh else self._systems(self._entries)
        with self._roster.running(shared) as systems:
            for repeat in range(max(map(self._repeats, self._entries), default=0)):
                self.measured.disk.append(gauges.disk(folder))
                self._round([entry for entry in self._entries if repeat < self._repeats(entry)], systems, repeat)

    def _round(self, entries: list[Entry], systems: dict[str, RunningSystem], repeat: int) -> None:
        direct: dict[str, float] = {}
        for entry in entries:
            if entry.system == DIRECT:
                direct = self._once(entry, None)
        others = [entry for entry in entries if entry.system != DIRECT]
        for entry in others if repeat % 2 == 0 else others[::-1]:
            with self._roster.running([entry.system] if self._scenario.fresh else []) as own:
                found = self._once(entry, (own or systems)[entry.system])
            found |= added(found, direct)

    def _once(self, entry: Entry, system: RunningSystem | None) -> dict[str, float]:
        scenario, key = self._scenario, entry.key
        where = {"address": system.address if system else self._upstream.address, "transport": "grpc"}
        if system is None or system.headers is not None:
            where |= {"transport": "http", "headers": system.headers if system else {}}
        load = scenario.load_of(entry, short=self._options.short, **where)
        run = measure(load, system=system, upstream=self._upstream, limit_s=scenario.limit_s, idle_s=scenario.idle_s)
        found = metrics(run, load, fresh=scenario.fresh)
        self.measured.runs[key].append(found)
        self.measured.statuses[key].append(run.seen.statuses)
        self.measured.faults[key].append(run.seen.faults)
        brief = f"{found['tokens_per_s']:,.0f} tokens/s, {found.get('cpu_us_per_token', 0):.1f} us CPU per token"
        print(f"  {key}: {brief}, {run.seen.statuses} {run.seen.faults or ''}", file=sys.stderr, flush=True)
        return found

    def _repeats(self, entry: Entry) -> int:
        return entry.repeats(short=self._options.short, requested=self._options.repeat)

    def _parameters(self, entry: Entry) -> dict[str, str | int | float | bool]:
        load = self._scenario.load_of(entry, short=self._options.short, address="")
        return {name: getattr(load, name) for name in PARAMETERS}

    def _systems(self, entries: list[Entry]) -> list[str]:
        return list(dict.fromkeys(entry.system for entry in entries if entry.system != DIRECT))

    def _title(self, entry: Entry) -> str:
        return entry.title or (DIRECT if entry.system == DIRECT else SYSTEMS[entry.system].title)


def commit() -> str:
    """The measured commit, with `-dirty` if files were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    return subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout.strip()


def models() -> list[str]:
    """The upstream's models that the scenarios use."""
    loads = [
        scenario.load_of(entry, short=short, address="")
        for scenario in SCENARIOS
        for entry in scenario.entries
        for short in (True, False)
    ]
    return sorted({WARMUP_MODEL, *(load.model for load in loads)})


def run(options: argparse.Namespace, folder: Path) -> Results:
    """Measure all requested scenarios."""
    if gauges.file_system(folder) in gauges.MEMORY_FILE_SYSTEMS:
        raise SystemExit("the databases would be in memory: set --folder to a folder on a real disk")
    names, left_out = available(options.systems)
    for name, reason in left_out.items():
        print(f"left out: {SYSTEMS[name].title}: {reason}", file=sys.stderr, flush=True)
    started, start = datetime.now(UTC), time.monotonic()
    scenarios: dict[str, Measured] = {}
    with closing(Upstream()) as upstream, Roster(folder, upstream, models()) as systems:
        for scenario in chosen(options.only):
            print(f"{scenario.name}: {scenario.title}", file=sys.stderr, flush=True)
            bench = Bench(scenario, options, upstream, systems, names)
            bench.run(folder)
            scenarios[scenario.name] = bench.measured
    return Results(
        command=f"python -m benchmarks.run {' '.join(sys.argv[1:])}".strip(),
        form="short" if options.short else "full",
        started=f"{started:%Y-%m-%d %H:%M} UTC",
        took_s=time.monotonic() - start,
        commit=commit(),
        left_out={SYSTEMS[name].title: reason for name, reason in left_out.items()},
        machine=gauges.machine(folder),
        versions=gauges.versions() | roster.versions(names),
        scenarios=scenarios,
    )


def main() -> int:
    """Exit status 0 if every measured target is met, else 1."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="parley-benchmark-", dir=options.folder) as folder:
        results = run(options, Path(folder))
    for path in (LATEST, report.CANONICAL) if options.write_docs else (LATEST,):
        path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    print(report.summary(results))
    if options.write_docs:
        report.write_document(results)
    return 1 if any(verdict.reached is False for verdict in verdicts(results)) else 0


if __name__ == "__main__":
    sys.exit(main())
