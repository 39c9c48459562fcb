"""Calculates from measurements the processes, PostgreSQL cores and Redis cores that many streams need.

python -m benchmarks.sizing [--write-docs]

It reads docs/benchmarks.json, and compares the calculation with docs/benchmarks/capacity.json.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import msgspec

from benchmarks import report
from benchmarks.capacity import Capacity
from benchmarks.report import number, table
from benchmarks.results import Results, of, spread
from benchmarks.scenarios import IDLE, MANY, PACED, PARLEY, REDIS, SHORT

DOCUMENT = report.ROOT / "docs" / "capacity.md"
CAPACITY = report.CHARTS / "capacity.json"
BUSY = 0.6  # planned share of a core for a process, a Redis and each core of PostgreSQL
SPARE = 4 / 3  # one in four processes may be down for an update or a failure
TOKENS = 500  # tokens of a reply
STREAMS = (1_000, 10_000, 100_000)
PACES = (5, 20, 50)


class Units(msgspec.Struct, frozen=True, kw_only=True):
    """CPU per separately written token (us), CPU per reply without its tokens (ms), and memory."""

    token_us: float
    reply_ms: float
    postgres_token_us: float
    postgres_reply_ms: float
    redis_token_us: float
    redis_reply_ms: float
    base_mib: float
    stream_kib: float


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """The resources for a number of streams at one pace."""

    processes: int
    memory_gib: float
    postgres_cores: float
    commits_per_s: float
    redis_cores: float
    cells: int


def median(results: Results, scenario: str, metric: str, *, system: str = REDIS) -> float:
    """The median of a metric of one system; raises SystemExit if it was not measured."""
    found = spread(of(results.scenarios[scenario], system, metric)) if scenario in results.scenarios else None
    if found is None:
        raise SystemExit(f"{metric} of {system} in {scenario} was not measured: make bench-full ARGS=--write-docs")
    return found.median


def apart(per_token_us: float, per_reply_ms: float, *, long: int = TOKENS, short: int = 2) -> tuple[float, float]:
    """CPU per token, and CPU per reply without its tokens, from the measured CPU of long and of short replies."""
    token_us = max(0.0, (per_token_us * long - per_reply_ms * 1000) / (long - short))
    return token_us, max(0.0, per_reply_ms - short * token_us / 1000)


def units(results: Results) -> Units:
    """The costs from the benchmarks of Parley on PostgreSQL and Redis."""
    costs = {
        who: apart(
            median(results, PACED, f"{prefix}cpu_us_per_token"), median(results, SHORT, f"{prefix}cpu_ms_per_reply")
        )
        for who, prefix in (("server", ""), ("postgres", "postgres_"), ("redis", "redis_"))
    }
    return Units(
        token_us=costs["server"][0],
        reply_ms=costs["server"][1],
        postgres_token_us=costs["postgres"][0],
        postgres_reply_ms=costs["postgres"][1],
        redis_token_us=costs["redis"][0],
        redis_reply_ms=costs["redis"][1],
        base_mib=median(results, SHORT, "peak_mib"),
        stream_kib=max(median(results, IDLE, "kib_per_stream"), median(results, MANY, "kib_per_stream", system=PARLEY)),
    )


def need(unit: Units, streams: int, pace: int) -> Need:
    """The resources for `streams` of `pace` tokens per second. Cores are CPU seconds per second. A cell is one
    PostgreSQL, one Redis and their replicas; its size is limited by Redis, which has one thread."""
    tokens = streams * pace
    replies = tokens / TOKENS
    cores = (tokens * unit.token_us + replies * unit.reply_ms * 1000) / 1e6
    redis = (tokens * unit.redis_token_us + replies * unit.redis_reply_ms * 1000) / 1e6
    processes = math.ceil(cores / BUSY * SPARE)
    return Need(
        processes=processes,
        memory_gib=(processes * unit.base_mib + streams * unit.stream_kib / 1024) / 1024,
        postgres_cores=(tokens * unit.postgres_token_us + replies * unit.postgres_reply_ms * 1000) / 1e6,
        # Two per reply; per process, a checkpoint every 2 s and two commits (lease, sweep) every 3 s.
        commits_per_s=2 * replies + processes * (0.5 + 2 / 3),
        redis_cores=redis,
        cells=math.ceil(redis / BUSY),
    )


def checked(unit: Units, found: list[Capacity]) -> str:
    """The measured CPU at the capacity of one process, and the calculated CPU."""
    rows = []
    for one in found:
        if one.holds is None:
            continue
        tokens = one.holds.streams * one.pace
        calculated = tokens * unit.token_us / 1e6
        rows.append([number(one.pace), number(one.holds.streams), f"{one.holds.server_cores:.2f}", f"{calculated:.2f}"])
    return table(["tokens/s", "streams that one process held", "CPU then, cores", "calculated, cores"], rows)


def part(results: Results, found: list[Capacity]) -> str:
    """The section of docs/capacity.md."""
    unit = units(results)
    costs = [
        ["server process", number(unit.token_us), number(unit.reply_ms)],
        ["PostgreSQL", number(unit.postgres_token_us), number(unit.postgres_reply_ms)],
        ["Redis", number(unit.redis_token_us), number(unit.redis_reply_ms)],
    ]
    rows = []
    for streams in STREAMS:
        for pace in PACES:
            one = need(unit, streams, pace)
            rows.append(
                [
                    f"{streams:,}",
                    str(pace),
                    f"{streams * pace:,}",
                    number(one.processes),
                    number(round(one.memory_gib, 1)),
                    number(round(one.postgres_cores, 1)),
                    number(round(one.commits_per_s)),
                    number(round(one.redis_cores, 1)),
                    number(one.cells),
                ]
            )
    head = ["streams", "tokens/s each", "tokens/s", "processes", "their memory, GiB"]
    head += ["PostgreSQL, cores", "its commits/s", "Redis, cores", "cells"]
    memory = f"A process has {number(unit.base_mib)} MiB, and {number(unit.stream_kib)} KiB for each stream."
    return "\n\n".join(
        [
            table(["", "CPU per token that comes alone, us", "CPU per reply, ms"], costs),
            memory,
            table(head, rows),
            checked(unit, found),
            f"From the benchmarks of {results.started}, commit {results.commit}; `python -m benchmarks.sizing`.",
        ]
    )


def main() -> int:
    """Print the result, and write it into the document with --write-docs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write-docs", action="store_true", help="write the part of docs/capacity.md")
    options = parser.parse_args()
    results = msgspec.json.decode(Path(report.CANONICAL).read_bytes(), type=Results)
    found = msgspec.json.decode(CAPACITY.read_bytes(), type=list[Capacity]) if CAPACITY.exists() else []
    summary = part(results, found)
    print(summary)
    if options.write_docs:
        report.insert("sizing", summary, document=DOCUMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
