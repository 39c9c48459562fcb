"""Verdicts: which figures are compared, and when one is hit, missed or not measured."""

from __future__ import annotations

import msgspec

from benchmarks import guard
from benchmarks.gauges import Disk
from benchmarks.results import Measured, Spread, verdict
from benchmarks.scenarios import Target

RATIO = Target(scenario="s", what="w", metric="cost", unit="x", limit=1 / 10, over="other")


def measured(**runs: list[dict[str, float]]) -> Measured:
    return Measured(
        title="t",
        parameters={},
        entries={name: name for name in runs},
        sizes={},
        runs=runs,
        statuses={},
        faults={},
        disk=[Disk(fsync_ms=0.2, sqlite_commit_ms=0.3)],
    )


def costs(*values: float, incomplete: float = 0) -> list[dict[str, float]]:
    return [{"cost": value, "incomplete": incomplete} for value in values]


def test_a_ratio_is_the_median_of_the_pairs_and_not_of_the_sides() -> None:
    found = verdict(RATIO, measured(parley=costs(1, 4, 9), other=costs(100, 20, 100)))
    assert found.found == Spread(0.09, 0.01, 0.2)
    assert found.reached is True


def test_a_side_that_ran_less_often_is_paired_with_the_first_runs() -> None:
    found = verdict(RATIO, measured(parley=costs(2, 100, 100), other=costs(10)))
    assert found.found == Spread(0.2, 0.2, 0.2)
    assert found.reached is False


def test_a_figure_that_was_not_measured_is_neither_hit_nor_missed() -> None:
    assert verdict(RATIO, measured(parley=costs(1))).reached is None
    assert verdict(RATIO, measured(parley=costs(1), other=[])).reached is None


def test_a_difference_may_be_negative() -> None:
    more = msgspec.structs.replace(RATIO, more=True, limit=5)
    assert verdict(more, measured(parley=costs(1, 1, 9), other=costs(2, 2, 2))).found == Spread(-1, -1, 7)
    assert verdict(more, measured(parley=costs(8), other=costs(2))).reached is False


def test_the_disk_is_added_to_the_limit() -> None:
    beyond = Target(scenario="s", what="w", metric="cost", unit="ms", limit=3, beyond_fsync=True)
    assert verdict(beyond, measured(parley=costs(3.15))).reached is True
    assert verdict(beyond, measured(parley=costs(3.25))).reached is False


def test_a_run_that_lost_a_reply_reaches_nothing() -> None:
    absolute = Target(scenario="s", what="w", metric="cost", unit="us", limit=3)
    assert verdict(absolute, measured(parley=costs(1, 1, incomplete=1))).reached is False


def test_for_forbidden_events_the_worst_run_counts() -> None:
    lost = Target(scenario="s", what="w", metric="shed", unit="calls", limit=0)
    runs = [{"shed": 0.0}, {"shed": 0.0}, {"shed": 1.0}]
    assert verdict(lost, measured(parley=runs)).reached is False
    assert verdict(lost, measured(parley=runs[:2])).reached is True


def test_the_guard_sees_a_rise_of_the_median_alone() -> None:
    pairs = guard.Pairs({}, None)  # type: ignore[arg-type]
    for name in guard.GUARDED:
        pairs.figures[name] = {"parley": [1.0, 1.3, 9.0], "reference": [1.0, 1.0, 1.0]}
    pairs.figures["short"]["parley"][1] = guard.RISE
    assert guard.risen(pairs) == ["saturated", "paced"]
