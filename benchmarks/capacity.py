"""Measures how many streams one process holds until the first token of a new call takes longer than a second.

python -m benchmarks.capacity [--paces 5,20,50] [--system parley] [--budget-s 180] [--write-docs]
python -m benchmarks.capacity --paces 20 --streams 900 [--connections 16]

Each trial starts a server, opens N streams over a ramp, and makes further calls for short replies (the newcomers)
while all streams run. N is doubled until a trial fails; then the interval is halved while there is time. `--streams`
tries only one size. The streams use one half of the connections, the newcomers the other.
"""

from __future__ import annotations

import argparse
import sys
import time

import msgspec

from benchmarks.driving import LoadProcess, measured_run, metrics, quantile
from benchmarks.load import Load, Seen
from benchmarks.report import number, table
from benchmarks.studies import STARTS, keep, serving
from benchmarks.systems import RunningSystem, Upstream

START = {5: 500, 20: 200, 50: 100}
STARTS_PER_S = 100
LEAST_RAMP_S = 3.0
PROBES, PROBES_S = 100, 4.0
# The streams end this long after the probes.
AFTER_S = 2.0
FIRST_TOKEN_LIMIT_S = 1.0
MOST = 12_000
CONNECTIONS = 16
NARROW = 1.15  # ratio of the sizes at which the search ends
FULL_CORE = 0.93


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one size. `broke` is the reason of a failure, or empty."""

    streams: int
    broke: str
    first_token_p50_ms: float
    first_token_p99_ms: float
    late_p999_ms: float
    server_cores: float
    load_cores: float
    upstream_cores: float
    peak_mib: float


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one pace, in tokens per second and stream: the largest size held and the smallest that failed."""

    pace: int
    holds: Trial | None
    breaks: Trial | None
    trials: list[Trial]


def model(pace: int, seconds: float) -> str:
    """The name of a model whose reply has this pace and lasts `seconds`."""
    return f"t{max(2, round(pace * seconds))}-p{round(1000 / pace)}"


def trial(kind: str, pace: int, streams: int, connections: int) -> Trial:
    """Try one size on a new server."""
    ramp_s = max(LEAST_RAMP_S, streams / STARTS_PER_S)
    long, short = model(pace, ramp_s + PROBES_S + AFTER_S), model(pace, 0.5)
    with serving(kind, ["t20-p0", long, short], {"max_replies": 4 * MOST}) as (system, upstream):
        limit_s = 3 * (ramp_s + PROBES_S + AFTER_S) + 60
        common = {"address": system.address, "deadline_s": limit_s / 2, "channels": max(1, connections // 2)}
        filling = Load(model=long, replies=streams, ramp_s=ramp_s, **common)
        probing = Load(model=short, replies=PROBES, ramp_s=PROBES_S, **common)
        filler, prober = LoadProcess(filling, limit_s), LoadProcess(probing, limit_s)
        try:
            filler.expect_ready()
            prober.expect_ready()
            return judged(filling, filler, probing, prober, ramp_s=ramp_s, system=system, upstream=upstream)
        finally:
            filler.close()
            prober.close()


def judged(
    filling: Load,
    filler: LoadProcess,
    probing: Load,
    prober: LoadProcess,
    *,
    ramp_s: float,
    system: RunningSystem,
    upstream: Upstream,
) -> Trial:
    """Open the streams, make the newcomers' calls and judge both. CPU is measured while all streams run."""
    filler.begin(filling)
    time.sleep(ramp_s)
    full = measured_run(probing, prober, system=system, upstream=upstream)
    held = filler.seen()
    seen, probed = full.seen, metrics(full, probing)
    return Trial(
        streams=filling.replies,
        broke=broke(held, filling, seen, probing, probed),
        first_token_p50_ms=probed.get("first_token_p50_ms", 0.0),
        first_token_p99_ms=probed.get("first_token_p99_ms", 0.0),
        late_p999_ms=quantile(held.late_us, 0.999) / 1e3 if held.late_us else 0.0,
        server_cores=full.server_cpu_s / full.wall_s,
        load_cores=held.load_cpu_s / held.wall_s,
        upstream_cores=full.upstream_cpu_s / full.wall_s,
        peak_mib=probed["peak_mib"],
    )


def broke(held: Seen, filling: Load, seen: Seen, probing: Load, probed: dict[str, float]) -> str:
    """The first failure with the processes at a full core; empty if there was none."""
    wrong = ""
    if seen.replies < probing.replies:
        wrong = f"newcomers: {bad(seen)}"
    elif probed["first_token_p99_ms"] > FIRST_TOKEN_LIMIT_S * 1000:
        wrong = f"first token p99 {number(probed['first_token_p99_ms'])} ms"
    elif held.replies < filling.replies:
        wrong = f"running streams: {bad(held)}"
    if not wrong:
        return ""
    cores = {"server": probed.get("cpu_share", 0.0), "load": held.load_cpu_s / held.wall_s}
    full = [name for name, share in cores.items() if share > FULL_CORE]
    return f"{wrong} ({' and '.join(full) or 'no process'} at a full core)"


def bad(seen: Seen) -> str:
    """The counts of the statuses and faults of incomplete calls."""
    ends = {status: count for status, count in seen.statuses.items() if status != "OK"} | seen.faults
    return ", ".join(f"{count} {end}" for end, count in sorted(ends.items(), key=lambda item: -item[1]))


def search(options: argparse.Namespace, pace: int) -> Capacity:
    """Double the size until a trial fails, then halve the interval until it is narrow or the time is over.

    With `--streams`, try only that size."""
    end = time.monotonic() + options.budget_s
    holds: Trial | None = None
    breaks: Trial | None = None
    trials: list[Trial] = []
    streams = options.streams or options.start or START.get(pace, 100)
    while streams <= MOST and (time.monotonic() < end or not trials):
        tried = trial(options.system, pace, streams, options.connections)
        trials.append(tried)
        print(f"  {pace} tokens/s, {streams} streams: {tried.broke or 'held'}", file=sys.stderr, flush=True)
        holds, breaks = (holds, tried) if tried.broke else (tried, breaks)
        if options.streams or (holds and breaks and breaks.streams <= holds.streams * NARROW):
            break
        streams = following(holds, breaks)
    return Capacity(pace=pace, holds=holds, breaks=breaks, trials=trials)


def following(holds: Trial | None, breaks: Trial | None) -> int:
    """The next size to try."""
    if breaks is None:
        return 2 * (holds.streams if holds else 1)
    return max(1, ((holds.streams if holds else 0) + breaks.streams) // 2)


def part(found: list[Capacity], kind: str) -> str:
    """The section of docs/benchmarks.md."""
    rows = []
    for one in found:
        best = one.holds
        rows.append(
            [
                f"{one.pace}",
                number(best.streams) if best else "",
                number(best.streams * one.pace) if best else "",
                f"{number(best.first_token_p50_ms)} / {number(best.first_token_p99_ms)}" if best else "",
                number(best.late_p999_ms) if best else "",
                number(round(best.server_cores, 2)) if best else "",
                number(round(best.peak_mib)) if best else "",
                f"{number(one.breaks.streams)}: {one.breaks.broke}"
                if one.breaks
                else "nothing, as far as it was tried",
            ]
        )
    head = ["tokens/s of a stream", "streams held", "tokens/s in all", "first token p50 / p99, ms", "late p99.9, ms"]
    head += ["CPU, cores", "peak MiB", "what broke, and where"]
    note = "One process; calls that come while all streams run get their first token within a second at p99."
    return f"{note} System: {kind}.\n\n{table(head, rows)}"


def main() -> int:
    """Measure each pace, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paces", default="5,20,50", help="tokens per second and stream, separated by commas")
    parser.add_argument("--start", type=int, default=0, help="streams to begin with")
    parser.add_argument("--streams", type=int, default=0, help="try only this size")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="of streams and newcomers together")
    parser.add_argument("--budget-s", type=float, default=180.0, help="time for each pace, plus the last trial")
    parser.add_argument("--system", default="parley", choices=sorted(STARTS))
    parser.add_argument("--write-docs", action="store_true", help="write the part of docs/benchmarks.md")
    options = parser.parse_args()
    found = [search(options, pace) for pace in map(int, options.paces.split(","))]
    keep("capacity", found, part(found, options.system), document=options.write_docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
