"""The results, which are written as JSON, and the verdict on each target."""

from __future__ import annotations

import statistics

import msgspec

from benchmarks.gauges import Disk
from benchmarks.scenarios import SCENARIOS, TARGETS, Target

# Metrics that count failures, and so are valid also for a run with failures.
COUNTS = {"incomplete", "shed", "faults"}


class Spread(msgspec.Struct, frozen=True):
    """The median, the lowest and the highest of several runs."""

    median: float
    low: float
    high: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario with all runs of its entries; runs with the same index form a pair.

    `entries` has titles by name, `sizes` the parameters in which an entry differs; `chart` is the metric to draw."""

    title: str
    parameters: dict[str, str | int | float | bool]
    entries: dict[str, str]
    sizes: dict[str, dict[str, str | int | float | bool]]
    runs: dict[str, list[dict[str, float]]]
    statuses: dict[str, list[dict[str, int]]]
    faults: dict[str, list[dict[str, int]]]
    disk: list[Disk]
    chart: str = ""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one command; `left_out` has the reasons for the systems that were not measured."""

    command: str
    form: str
    started: str
    took_s: float
    commit: str
    left_out: dict[str, str]
    machine: dict[str, str]
    versions: dict[str, str]
    scenarios: dict[str, Measured]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A target with its result; `reached` is None if it was not measured.

    If the target compares two systems, `found` is the ratio or the difference of `own` and `other`."""

    target: Target
    limit: float
    found: Spread | None
    own: Spread | None
    other: Spread | None
    reached: bool | None


def spread(values: list[float]) -> Spread | None:
    """The spread of the values, or None if there are none."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def of(measured: Measured, system: str, metric: str) -> list[float]:
    """One metric of one system in each run that has it."""
    return [run[metric] for run in measured.runs.get(system, ()) if metric in run]


def verdicts(results: Results) -> list[Verdict]:
    """The verdicts on all targets of the measured scenarios, in the order of SCENARIOS and TARGETS."""
    names = [scenario.name for scenario in SCENARIOS if scenario.name in results.scenarios]
    return [verdict(target, results.scenarios[name]) for name in names for target in TARGETS if target.scenario == name]


def verdict(target: Target, measured: Measured) -> Verdict:
    """Compare the median with the limit; for a comparison, the median of the pairs' ratios or differences."""
    own, other = of(measured, target.subject, target.metric), of(measured, target.over, target.metric)
    limit = target.limit
    if target.beyond_fsync:
        limit += statistics.median(disk.fsync_ms for disk in measured.disk)
    found = spread(compared(target, own, other) if target.over else own)
    return Verdict(
        target=target,
        limit=limit,
        found=found,
        own=spread(own),
        other=spread(other),
        reached=_reached(target, measured, limit, found),
    )


def compared(target: Target, own: list[float], other: list[float]) -> list[float]:
    """The differences or ratios of the pairs; a ratio to 0 is omitted."""
    pairs = list(zip(own, other, strict=False))
    if target.more:
        return [mine - theirs for mine, theirs in pairs]
    return [mine / theirs for mine, theirs in pairs if theirs > 0]


def _reached(target: Target, measured: Measured, limit: float, found: Spread | None) -> bool | None:
    """Whether the target is met. A lost reply misses every target; for counts of failures, the worst run decides."""
    sides = (target.subject, target.over) if target.over else (target.subject,)
    if not all(measured.runs.get(side) for side in sides):
        return None
    if target.metric in COUNTS:
        return found is not None and found.high <= limit
    whole = not any(of(measured, target.subject, "incomplete"))
    return whole and found is not None and found.median <= limit
