"""Runs streams for minutes or hours, with cancels, disconnects and resumes; checks texts, memory and counts.

python -m benchmarks.soak --minutes 60 [--streams 200] [--system parley-redis] [--write-docs]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time

import msgspec
import uvloop

from benchmarks.report import number, table
from benchmarks.soak_callers import MODELS, SHORTEST_ORPHAN_S, SoakCallers
from benchmarks.soak_gauges import Gauges, Sample
from benchmarks.studies import STARTS, keep, serving
from benchmarks.systems import RunningSystem

SAMPLE_S = 10.0
# Logs of ended replies stay in memory for a minute, and in Redis for this time; neither counts as growth.
SETTINGS: dict[str, object] = {"relay_retention_s": 60}
WARM_UP_S = 120.0
AT_REST_S = 45.0
SLOPE_LIMIT_MIB_PER_H = 20.0
STEADY = ("threads", "tasks", "sockets", "active", "readers", "unfinished", "checkpoints", "keys")
FEW = 20
LEAST_SAMPLES = 5
HEAD = ["", "resident MiB", "threads", "tasks", "sockets", "replies active", "readers"]
HEAD += ["not terminal in SQL", "checkpoints", "replies stored", "Redis keys"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The results: ends by kind of caller, faults, and samples before, during and at rest after the load.

    Growth is judged only if the soak was long enough."""

    minutes: float
    streams: int
    ends: dict[str, int]
    faults: dict[str, int]
    samples: list[Sample]
    before: Sample
    rest: Sample

    def wrong(self) -> list[str]:
        """The missed expectations."""
        left = {
            "replies active": self.rest.active,
            "readers active": self.rest.readers,
            "replies not terminal in the database": self.rest.unfinished,
            "checkpoints": self.rest.checkpoints,
        }
        lines = [f"{count} x {what}" for what, count in self.faults.items()]
        lines += [f"{number(count)} {what} at rest" for what, count in left.items() if count]
        if self.rest.tasks > self.before.tasks + FEW:
            lines.append(f"{self.rest.tasks} tasks at rest, {self.before.tasks} before")
        if self.rest.threads > self.before.threads + FEW:
            lines.append(f"{self.rest.threads} threads at rest, {self.before.threads} before")
        # Connections to the provider are kept for later requests, at most one for each stream.
        if self.rest.sockets > self.before.sockets + self.streams + FEW:
            lines.append(f"{self.rest.sockets} sockets at rest, {self.before.sockets} before")
        return lines + self._grown()

    def _grown(self) -> list[str]:
        """The gauges that rise after the warm-up although the load is constant."""
        thirds = thirds_of(self.samples)
        if thirds is None:
            return []
        early, late = ([median(third, name) for name in STEADY] for third in thirds)
        lines = [
            f"{name} rise from {number(first)} to {number(last)}"
            for name, first, last in zip(STEADY, early, late, strict=True)
            if last > first * 1.25 + FEW
        ]
        slope = slope_mib_per_h(self.samples) or 0.0
        return lines + ([f"memory rises by {number(slope)} MiB an hour"] if slope > SLOPE_LIMIT_MIB_PER_H else [])


def thirds_of(samples: list[Sample]) -> tuple[list[Sample], list[Sample]] | None:
    """The first and the last third of the samples after the warm-up; None if there are too few."""
    later = [sample for sample in samples if sample.at_s >= WARM_UP_S]
    third = len(later) // 3
    return (later[:third], later[-third:]) if third >= LEAST_SAMPLES else None


def median(samples: list[Sample], name: str) -> float:
    """The median of one gauge."""
    return statistics.median(getattr(sample, name) for sample in samples)


def slope_mib_per_h(samples: list[Sample]) -> float | None:
    """The growth of memory after the warm-up, in MiB per hour; None if the soak was too short."""
    thirds = thirds_of(samples)
    if thirds is None:
        return None
    early, late = thirds
    return (median(late, "rss_mib") - median(early, "rss_mib")) / (median(late, "at_s") - median(early, "at_s")) * 3600


async def study(system: RunningSystem, options: argparse.Namespace) -> Found:
    """Sample the server while the callers run, then at rest."""
    gauges = Gauges(system)
    before = await gauges.sample()
    callers = SoakCallers(system.address, random.Random(options.seed))
    await callers.open()
    seconds = options.minutes * 60
    running = asyncio.create_task(callers.run(options.streams, seconds))
    every_s, samples = min(SAMPLE_S, seconds / 12), []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(every_s)
        samples.append(await gauges.sample())
        if len(samples) % 30 == 0:
            print(f"  {samples[-1]}", file=sys.stderr, flush=True)
    await running
    await callers.close()
    return Found(
        minutes=options.minutes,
        streams=options.streams,
        ends=callers.ends,
        faults=callers.faults,
        samples=samples,
        before=before,
        rest=await at_rest(gauges, before),
    )


async def at_rest(gauges: Gauges, before: Sample) -> Sample:
    """A sample once no reply runs; replies whose readers left are cancelled after the orphan time."""
    end = time.monotonic() + SHORTEST_ORPHAN_S + AT_REST_S
    while True:
        sample = await gauges.sample()
        busy = sample.active or sample.readers or sample.unfinished or sample.checkpoints
        busy = busy or sample.tasks > before.tasks + FEW  # this gauge is updated once per second
        if not busy or time.monotonic() > end:
            return sample
        await asyncio.sleep(0.5)


def part(found: Found, kind: str) -> str:
    """The section of docs/benchmarks.md."""
    places = [len(found.samples) * place // 4 for place in range(1, 4)]
    chosen = [("before", found.before)]
    chosen += [(f"{found.samples[place].at_s / 60:.1f} min", found.samples[place]) for place in places]
    chosen += [("end", found.samples[-1]), ("at rest", found.rest)]
    rows = [[name, *(number(round(value, 1)) for value in msgspec.structs.astuple(one)[1:])] for name, one in chosen]
    ends = ", ".join(f"{number(count)} {kind}" for kind, count in sorted(found.ends.items()))
    grown = slope_mib_per_h(found.samples)
    slope = "too short for a slope of memory"
    if grown is not None:
        slope = f"memory after a warm-up of {WARM_UP_S:.0f} s: {grown:+.1f} MiB an hour"
    wrong = [f"- **Missed**: {one}." for one in found.wrong()] or ["All expectations are met."]
    size = f"{number(found.minutes)} minutes at {found.streams} streams, system {kind}: {ends}; {slope}."
    return "\n\n".join(["\n".join(wrong), size, table(HEAD, rows)])


def main() -> int:
    """Exit status 1 if an expectation is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="seed of the callers' random choices")
    parser.add_argument("--system", default="parley-redis", choices=sorted(STARTS))
    parser.add_argument("--write-docs", action="store_true", help="write the part of docs/benchmarks.md")
    options = parser.parse_args()
    with serving(options.system, MODELS, SETTINGS if options.system == "parley-redis" else {}) as (system, _):
        found = uvloop.run(study(system, options))
    keep("soak", found, part(found, options.system), document=options.write_docs)
    return 1 if found.wrong() else 0


if __name__ == "__main__":
    sys.exit(main())
