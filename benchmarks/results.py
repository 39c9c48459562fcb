"""The results as values: what is written as JSON, and the verdict on each figure to reach."""

from __future__ import annotations

import statistics

import msgspec

from benchmarks.gauges import Disk
from benchmarks.scenarios import SCENARIOS, TARGETS, Target

# Metrics that count what went wrong, and so are figures even of a run in which something did.
COUNTS = {"incomplete", "shed", "faults"}


class Spread(msgspec.Struct, frozen=True):
    """The median of several runs, and the lowest and highest of them."""

    median: float
    low: float
    high: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario: its parameters, and every run of every entry, in pairs by their place in the lists.

    `entries` are titles by name, `sizes` the parameters that an entry has of its own, `chart` the metric to draw."""

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
    """Everything that one command measured; `left_out` are systems that were not, and why."""

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
    """A figure to reach and what came of it; `reached` is None where it was not measured.

    `found` is a ratio or a difference where the target compares; then `own` and `other` are what was compared."""

    target: Target
    limit: float
    found: Spread | None
    own: Spread | None
    other: Spread | None
    reached: bool | None


def spread(values: list[float]) -> Spread | None:
    """The spread of some runs, if there were any."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def of(measured: Measured, system: str, metric: str) -> list[float]:
    """One metric of one system in each run that has it."""
    return [run[metric] for run in measured.runs.get(system, ()) if metric in run]


def verdicts(results: Results) -> list[Verdict]:
    """The verdict on every target of the scenarios that were run, in the order of the targets."""
    names = [scenario.name for scenario in SCENARIOS if scenario.name in results.scenarios]
    return [verdict(target, results.scenarios[name]) for name in names for target in TARGETS if target.scenario == name]


def verdict(target: Target, measured: Measured) -> Verdict:
    """Compare the median with the limit; a ratio or a difference is the median of those of the pairs."""
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
    """The pairs' differences or ratios; a pair whose other side has nothing to divide by has none."""
    pairs = list(zip(own, other, strict=False))
    if target.more:
        return [mine - theirs for mine, theirs in pairs]
    return [mine / theirs for mine, theirs in pairs if theirs > 0]


def _reached(target: Target, measured: Measured, limit: float, found: Spread | None) -> bool | None:
    """A run that lost a reply has no figures to show, and where nothing may be lost the worst run counts."""
    sides = (target.subject, target.over) if target.over else (target.subject,)
    if not all(measured.runs.get(side) for side in sides):
        return None
    if target.metric in COUNTS:
        return found is not None and found.high <= limit
    whole = not any(of(measured, target.subject, "incomplete"))
    return whole and found is not None and found.median <= limit
