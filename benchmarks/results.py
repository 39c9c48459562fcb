"""The results as values: what is written as JSON, and the verdict on each figure to reach."""

from __future__ import annotations

import statistics

import msgspec

from benchmarks.gauges import Disk
from benchmarks.scenarios import SCENARIOS, TARGETS, Target

SUBJECT = "parley"
# Metrics that count what went wrong, and so are figures even of a run in which something did.
COUNTS = {"incomplete", "shed", "faults"}


class Spread(msgspec.Struct, frozen=True):
    """The median of several runs, and the lowest and highest of them."""

    median: float
    low: float
    high: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario: every run of every system, in pairs by their place in the lists."""

    title: str
    parameters: dict[str, str | int | float]
    runs: dict[str, list[dict[str, float]]]
    statuses: dict[str, list[dict[str, int]]]
    faults: dict[str, list[dict[str, int]]]
    disk: list[Disk]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one command measured."""

    command: str
    form: str
    started: str
    took_s: float
    commit: str
    systems: list[str]
    machine: dict[str, str]
    versions: dict[str, str]
    scenarios: dict[str, Measured]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A figure to reach and what came of it; `reached` is None where it was not measured."""

    target: Target
    limit: float
    systems: dict[str, Spread]
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
    """Compare the median with the limit; a ratio is the median of the pairs' ratios."""
    limit = target.limit
    if target.beyond_fsync:
        limit += statistics.median(disk.fsync_ms for disk in measured.disk)
    if target.over:
        pairs = zip(of(measured, SUBJECT, target.metric), of(measured, target.over, target.metric), strict=False)
        systems = {SUBJECT: spread([own / other for own, other in pairs if other])}
    else:
        systems = {name: spread(of(measured, name, target.metric)) for name in measured.runs}
    known = {name: value for name, value in systems.items() if value is not None}
    return Verdict(target=target, limit=limit, systems=known, reached=_reached(target, measured, limit, known))


def _reached(target: Target, measured: Measured, limit: float, known: dict[str, Spread]) -> bool | None:
    """A run that lost a reply has no figures to show, and where nothing may be lost the worst run counts."""
    if SUBJECT not in measured.runs or (target.over and target.over not in measured.runs):
        return None
    whole = target.metric in COUNTS or not any(of(measured, SUBJECT, "incomplete"))
    if SUBJECT not in known or not whole:
        return False
    own = known[SUBJECT]
    return (own.high if target.metric in COUNTS else own.median) <= limit
