"""Checks whether the CPU per token or reply has risen, compared with the code of an earlier commit in the same run.

python -m benchmarks.guard            exit status 1 if the CPU has risen by more than 25 %

Both servers run in this environment, with the same packages, and are measured in many short pairs: a slow or busy
machine slows both sides of a pair, and processors differ in what they take for Python, for gRPC and for system calls.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.driving import LoadProcess, measured_run, metrics
from benchmarks.load import Load
from benchmarks.parleys import start_embedded
from benchmarks.report import number, table
from benchmarks.systems import ROOT, RunningSystem, Upstream

REFERENCE = "ff7a40e515d090689b77ede4c5f3798b576447d8"
"""The commit to compare with. A change that needs more CPU on purpose replaces it, with the reason in its message."""
SIDES = ("parley", "reference")
RISE = 1.25
LEAST_ROUNDS, MOST_ROUNDS, ROUNDS_S = 5, 12, 25.0
LIMIT_S = 300.0
# The CPU clocks are read this long after the last answer; deferred work is small and the same in each run.
SETTLE_S = 0.1


class Guarded(msgspec.Struct, frozen=True, kw_only=True):
    """A guarded load: its fields, the number of replies, and the compared metric."""

    metric: str
    load: dict[str, Any]
    replies: int


GUARDED = {
    "saturated": Guarded(
        # Long replies, so that the cost of a token dominates the fixed cost of a reply.
        metric="cpu_us_per_token",
        load={"model": "t4000-p0", "concurrency": 8},
        replies=40,
    ),
    "paced": Guarded(metric="cpu_us_per_token", load={"model": "t100-p10", "ramp_s": 0.1}, replies=40),
    "short": Guarded(metric="cpu_ms_per_reply", load={"model": "t2-p0", "concurrency": 16}, replies=160),
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
        """The figure of this code divided by that of the reference, for each pair."""
        sides = self.figures[name]
        return [own / former for own, former in zip(sides["parley"], sides["reference"], strict=True)]

    def _once(self, name: str, side: str) -> float:
        guarded, system = GUARDED[name], self._systems[side]
        load = msgspec.convert(guarded.load | {"address": system.address, "replies": guarded.replies}, Load)
        run = measured_run(load, self._workers[side], system=system, upstream=self._upstream, settle_s=SETTLE_S)
        found = metrics(run, load)
        if found["incomplete"]:
            raise SystemExit(f"{side} did not complete {name}: {run.seen.statuses} {run.seen.faults}")
        return found[guarded.metric]


def measured(systems: dict[str, RunningSystem], upstream: Upstream) -> Pairs:
    """Measure some rounds, and the same number again if they show a rise, which must persist in the median of all."""
    pairs = Pairs(systems, upstream)
    try:
        pairs.open()
        rounds(pairs)
        if risen(pairs):
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


def risen(pairs: Pairs) -> list[str]:
    """The loads whose median ratio exceeds RISE."""
    return [name for name in GUARDED if statistics.median(pairs.ratios(name)) > RISE]


def summary(pairs: Pairs) -> str:
    """The figures and ratios as a table."""
    rows = []
    for name, guarded in GUARDED.items():
        ratio = statistics.median(pairs.ratios(name))
        own, former = (statistics.median(pairs.figures[name][side]) for side in SIDES)
        rows.append([name, guarded.metric, number(own), number(former), f"{ratio:.2f}"])
    return table(["load", "figure", "this code", f"commit {REFERENCE[:7]}", "ratio"], rows)


def unpack_reference(folder: Path) -> str:
    """The `PYTHONPATH` of the reference's code, unpacked into `folder`."""
    packed = subprocess.run(
        ["git", "archive", REFERENCE, "service", "clients/python/src"], cwd=ROOT, capture_output=True, check=False
    )
    if packed.returncode:
        raise SystemExit(f"commit {REFERENCE[:7]} is missing, as in a shallow clone: git fetch --unshallow")
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return f"{folder / 'service'}{os.pathsep}{folder / 'clients' / 'python' / 'src'}"


def start_both(folder: Path, upstream: Upstream, stack: ExitStack) -> dict[str, RunningSystem]:
    """Start the server of this code and that of the reference, each on its own SQLite file."""
    systems = {}
    for side, code in zip(SIDES, ("", unpack_reference(folder / "code")), strict=True):
        own = folder / side
        own.mkdir()
        systems[side] = start_embedded(own, upstream, MODELS, code=code)
        stack.callback(systems[side].stop)
    return systems


def main() -> int:
    """Exit status 1 if a ratio has risen."""
    start = time.monotonic()
    with ExitStack() as stack:
        upstream = stack.enter_context(closing(Upstream()))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-guard-"))
        pairs = measured(start_both(Path(folder), upstream, stack), upstream)
    exceeded = risen(pairs)
    print(f"{summary(pairs)}\n{len(pairs.ratios('short'))} pairs of each in {time.monotonic() - start:.0f} s")
    if exceeded:
        print(f"the CPU has risen by more than {RISE - 1:.0%}: {', '.join(exceeded)}")
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
