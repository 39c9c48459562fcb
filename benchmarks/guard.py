"""Checks whether the CPU per token or reply has risen, compared with the bare server in many short pairs of one run.

python -m benchmarks.guard            exit status 1 if a ratio has risen by more than 25 %
python -m benchmarks.guard --write    write the ratios of this run to guard.json, as the reference of later runs

A slow or busy machine slows both sides of a pair, so the median of the pairs' ratios changes little.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.driving import LoadProcess, measured_run, metrics
from benchmarks.load import Load
from benchmarks.report import number, table
from benchmarks.roster import Roster
from benchmarks.systems import RunningSystem, Upstream

KEPT = Path(__file__).with_name("guard.json")
SIDES = ("parley", "bare")
RISE = 1.25
LEAST_ROUNDS, MOST_ROUNDS, ROUNDS_S = 5, 12, 40.0
LIMIT_S = 300.0
# The CPU clocks are read this long after the last answer; deferred work is small and the same in each run.
SETTLE_S = 0.1


class Guarded(msgspec.Struct, frozen=True, kw_only=True):
    """A guarded load: its fields, the number of replies for each side, and the compared metric."""

    metric: str
    load: dict[str, Any]
    replies: dict[str, int]


GUARDED = {
    "saturated": Guarded(
        # Long replies, so that the cost of a token dominates the fixed cost of a reply.
        metric="cpu_us_per_token",
        load={"model": "t4000-p0", "concurrency": 8},
        replies={"parley": 40, "bare": 8},
    ),
    "paced": Guarded(
        metric="cpu_us_per_token", load={"model": "t100-p10", "ramp_s": 0.1}, replies={"parley": 40, "bare": 40}
    ),
    "short": Guarded(
        metric="cpu_ms_per_reply", load={"model": "t2-p0", "concurrency": 16}, replies={"parley": 160, "bare": 640}
    ),
}
MODELS = sorted({"t20-p0", *(guarded.load["model"] for guarded in GUARDED.values())})


class Pairs:
    """Both systems, each with a warm load process, and the figures measured so far."""

    def __init__(self, systems: dict[str, RunningSystem], upstream: Upstream) -> None:
        self._systems = systems
        self._upstream = upstream
        self._workers: dict[str, LoadProcess] = {}
        self.figures: dict[str, dict[str, list[float]]] = {name: {side: [] for side in SIDES} for name in GUARDED}

    def open(self) -> None:
        """Start the load processes, and run two loads on each system as a warm-up."""
        for side, system in self._systems.items():
            self._workers[side] = LoadProcess(Load(address=system.address, model="t20-p0", replies=1), LIMIT_S)
        for side in SIDES:
            self._workers[side].expect_ready()
            self._once("saturated", side)
            self._once("short", side)

    def close(self) -> None:
        """End the load processes."""
        for worker in self._workers.values():
            worker.close()

    def round(self, number: int) -> None:
        """Measure one more pair of each load; the order of the sides alternates."""
        for name in GUARDED:
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                self.figures[name][side].append(self._once(name, side))

    def ratios(self, name: str) -> list[float]:
        """Parley's figure divided by the bare server's, for each pair."""
        sides = self.figures[name]
        return [own / bare for own, bare in zip(sides["parley"], sides["bare"], strict=True)]

    def _once(self, name: str, side: str) -> float:
        guarded, system = GUARDED[name], self._systems[side]
        load = msgspec.convert(guarded.load | {"address": system.address, "replies": guarded.replies[side]}, Load)
        run = measured_run(load, self._workers[side], system=system, upstream=self._upstream, settle_s=SETTLE_S)
        found = metrics(run, load)
        if found["incomplete"]:
            raise SystemExit(f"{side} did not complete {name}: {run.seen.statuses} {run.seen.faults}")
        return found[guarded.metric]


def measured(systems: dict[str, RunningSystem], upstream: Upstream, kept: dict[str, float]) -> Pairs:
    """Measure some rounds, and the same number again if they show a rise, which must persist in the median of all."""
    pairs = Pairs(systems, upstream)
    try:
        pairs.open()
        rounds(pairs)
        if risen(pairs, kept):
            rounds(pairs)
    finally:
        pairs.close()
    return pairs


def rounds(pairs: Pairs) -> None:
    """Measure rounds for ROUNDS_S seconds, within their least and greatest number."""
    end = time.monotonic() + ROUNDS_S
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.monotonic() > end:
            return
        pairs.round(done)


def risen(pairs: Pairs, kept: dict[str, float]) -> list[str]:
    """The loads whose median ratio exceeds the kept ratio by more than RISE allows."""
    return [name for name in kept if statistics.median(pairs.ratios(name)) > kept[name] * RISE]


def summary(pairs: Pairs, kept: dict[str, float]) -> str:
    """The figures and ratios as a table."""
    rows = []
    for name, guarded in GUARDED.items():
        ratio = statistics.median(pairs.ratios(name))
        own, bare = (statistics.median(pairs.figures[name][side]) for side in SIDES)
        before = f"{number(kept[name])} ({ratio / kept[name] - 1:+.0%})" if name in kept else ""
        rows.append([name, guarded.metric, number(own), number(bare), number(ratio), before])
    return table(["load", "figure", "Parley", "bare", "ratio", "kept ratio"], rows)


def main() -> int:
    """Exit status 1 if a ratio has risen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the ratios of this run to guard.json")
    options = parser.parse_args()
    kept = {} if options.write else msgspec.json.decode(KEPT.read_bytes(), type=dict[str, float])
    start = time.monotonic()
    with (
        closing(Upstream()) as upstream,
        tempfile.TemporaryDirectory(prefix="parley-guard-") as folder,
        Roster(Path(folder), upstream, MODELS) as roster,
        roster.running(list(SIDES)) as systems,
    ):
        pairs = measured(systems, upstream, kept)
    exceeded = risen(pairs, kept)
    print(f"{summary(pairs, kept)}\n{len(pairs.ratios('short'))} pairs of each in {time.monotonic() - start:.0f} s")
    if options.write:
        ratios = {name: round(statistics.median(pairs.ratios(name)), 3) for name in GUARDED}
        KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(ratios), indent=2) + b"\n")
    if exceeded:
        print(f"the ratio has risen by more than {RISE - 1:.0%}: {', '.join(exceeded)}")
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
