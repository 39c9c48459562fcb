"""Checks whether the CPU per token or reply has risen, compared with the bare server in many short pairs of one run.

python -m benchmarks.guard            exit status 1 where a ratio has risen by more than 25 %
python -m benchmarks.guard --write    keep the ratios of this run as those to compare with

A machine that is slow or busy slows both sides of a pair; the median of the pairs' ratios hardly moves.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.driving import LoadProcess, metrics, window
from benchmarks.load import Load
from benchmarks.report import number, table
from benchmarks.roster import Roster
from benchmarks.systems import RunningSystem, Upstream

KEPT = Path(__file__).with_name("guard.json")
SIDES = ("parley", "bare")
RISE = 1.25
LEAST_ROUNDS, MOST_ROUNDS, ROUNDS_S = 5, 12, 40.0
LIMIT_S = 300.0
# The CPU clocks are read this long after the last answer: what is left for later is little, and the same each time.
SETTLE_S = 0.1


class Guarded(msgspec.Struct, frozen=True, kw_only=True):
    """A load that is guarded: the fields of it, how many replies of it each side answers, and the metric."""

    metric: str
    load: dict[str, Any]
    replies: dict[str, int]


GUARDED = {
    "saturated": Guarded(
        # Long ones, so that what a reply costs at its ends does not hide what a token costs.
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
    """Both systems with a load that is warm for each, and the ratios that were measured so far."""

    def __init__(self, systems: dict[str, RunningSystem], upstream: Upstream) -> None:
        self._systems = systems
        self._upstream = upstream
        self._workers: dict[str, LoadProcess] = {}
        self.figures: dict[str, dict[str, list[float]]] = {name: {side: [] for side in SIDES} for name in GUARDED}

    def open(self) -> None:
        """Start the loads and let each system see every load once."""
        for side, system in self._systems.items():
            self._workers[side] = LoadProcess(Load(address=system.address, model="t20-p0", replies=1), LIMIT_S)
        for side in SIDES:
            self._workers[side].expect_ready()
            self._once("saturated", side)
            self._once("short", side)

    def close(self) -> None:
        """End the loads."""
        for worker in self._workers.values():
            worker.close()

    def round(self, number: int) -> None:
        """One more pair of each load, in an order that alternates."""
        for name in GUARDED:
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                self.figures[name][side].append(self._once(name, side))

    def ratios(self, name: str) -> list[float]:
        """Parley's figure over the bare server's, of each pair."""
        sides = self.figures[name]
        return [own / bare for own, bare in zip(sides["parley"], sides["bare"], strict=True)]

    def _once(self, name: str, side: str) -> float:
        guarded, system = GUARDED[name], self._systems[side]
        load = msgspec.convert(guarded.load | {"address": system.address, "replies": guarded.replies[side]}, Load)
        seen = window([load], [self._workers[side]], system=system, upstream=self._upstream, settle_s=SETTLE_S)
        found = metrics(seen, load)
        if found["incomplete"]:
            raise SystemExit(f"{side} did not complete {name}: {seen.seen.statuses} {seen.seen.faults}")
        return found[guarded.metric]


def measured(systems: dict[str, RunningSystem], upstream: Upstream, kept: dict[str, float]) -> Pairs:
    """Some rounds, and where they show a rise as many again: it must be there in the median of all of them."""
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
    """As many as there is time for."""
    end = time.monotonic() + ROUNDS_S
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.monotonic() > end:
            return
        pairs.round(done)


def risen(pairs: Pairs, kept: dict[str, float]) -> list[str]:
    """The loads whose ratio has risen too far."""
    return [name for name in kept if statistics.median(pairs.ratios(name)) > kept[name] * RISE]


def summary(pairs: Pairs, kept: dict[str, float]) -> str:
    """All of it as a table."""
    rows = []
    for name, guarded in GUARDED.items():
        ratio = statistics.median(pairs.ratios(name))
        own, bare = (statistics.median(pairs.figures[name][side]) for side in SIDES)
        before = f"{number(kept[name])} ({ratio / kept[name] - 1:+.0%})" if name in kept else ""
        rows.append([name, guarded.metric, number(own), number(bare), number(ratio), before])
    return table(["load", "figure", "Parley", "bare", "ratio", "kept ratio"], rows)


def main() -> int:
    """Exit status 1 where Parley has become dearer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the ratios of this run")
    options = parser.parse_args()
    kept = {} if options.write else msgspec.json.decode(KEPT.read_bytes(), type=dict[str, float])
    start = time.monotonic()
    upstream = Upstream()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="parley-guard-") as folder,
            Roster(Path(folder), upstream, MODELS) as roster,
            roster.running(list(SIDES)) as systems,
        ):
            pairs = measured(systems, upstream, kept)
    finally:
        upstream.stop()
    dearer = risen(pairs, kept)
    print(f"{summary(pairs, kept)}\n{len(pairs.ratios('short'))} pairs of each in {time.monotonic() - start:.0f} s")
    if options.write:
        ratios = {name: round(statistics.median(pairs.ratios(name)), 3) for name in GUARDED}
        KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(ratios), indent=2) + b"\n")
    if dearer:
        print(f"dearer than the kept ratios by more than {RISE - 1:.0%}: {', '.join(dearer)}")
    return 1 if dearer else 0


if __name__ == "__main__":
    sys.exit(main())
