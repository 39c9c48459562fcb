"""Measures an overload: three times as many callers as the server's `max_replies`, for a minute.

python -m benchmarks.overload --capacity 300 [--connections 16] [--seconds 60] [--system parley] [--write-docs]

`--capacity` is `max_replies`: at most the result of `benchmarks.capacity` for 20 tokens/s. Refused callers retry after
the delay of their RetryInfo. grpc.aio accepts one call per connection and event loop iteration, so the number of
connections that callers share limits the rate of new calls (ADR 11).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time

import msgspec
import uvloop

from benchmarks.callers import GrpcCaller
from benchmarks.driving import quantile
from benchmarks.load import fault
from benchmarks.report import number, table
from benchmarks.studies import STARTS, keep, serving
from benchmarks.systems import RunningSystem
from benchmarks.tokens import Transcript, shape

PACE_MS = 50
# Several lengths of at most 5 s, so that replies end all the time.
RUNNING = [f"t{tokens}-p{PACE_MS}" for tokens in (40, 60, 80, 100)]
SHORT = f"t2-p{PACE_MS}"
TIMES = 3
CALM_S = 5.0
PROBE_EVERY_S = 0.1
GOOD_PROBES = 10
WATCHED_S = 15.0
RECOVERY_LIMIT_S = 5.0
PACE_LIMIT = 1.2
# A refused caller retries after the delay of its RetryInfo and up to this much jitter.
JITTER_S = 0.25
REFUSAL = "/OVERLOADED"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The results. `pace` is the time of a reply from its first to its last token, divided by the provider's time."""

    capacity: int
    callers: int
    connections: int
    seconds: float
    calm_first_token_p99_ms: float
    completed: int
    pace_p50: float
    pace_p999: float
    slow: int
    first_token_p99_ms: float
    late_p999_ms: float
    refused: int
    refused_without_retry: int
    refusal_p99_ms: float
    other_ends: dict[str, int]
    recovery_s: float
    server_cores: float
    peak_mib: float

    def faults(self) -> list[str]:
        """The missed expectations."""
        wrong = {
            "replies more than 20 % slower than their pace": self.slow,
            "refusals without RetryInfo": self.refused_without_retry,
            "calls that neither completed nor were refused as OVERLOADED": sum(self.other_ends.values()),
            "no refusals, so there was no overload": not self.refused,
            "not normal again within 5 s": self.recovery_s > RECOVERY_LIMIT_S,
        }
        return [f"{what}: {count}" if count is not True else what for what, count in wrong.items() if count]


class Callers:
    """Callers of one server, with their completed replies, their refusals and other ends."""

    def __init__(self, caller: GrpcCaller) -> None:
        self._caller = caller
        self.done: list[Transcript] = []
        self.refused: list[tuple[float, float | None]] = []
        self.others: dict[str, int] = {}

    async def crowd(self, count: int, seconds: float) -> None:
        """`count` callers that request replies for `seconds`; the last replies are read to their end."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._ask_until(end) for _ in range(count)))

    async def _ask_until(self, end: float) -> None:
        await asyncio.sleep(random.random())
        while time.monotonic() < end:
            retry_s = await self._ask()
            if retry_s is not None:
                await asyncio.sleep(retry_s + random.random() * JITTER_S)

    async def _ask(self) -> float | None:
        """Request one reply; returns the seconds until a retry if it did not complete."""
        model, begun = random.choice(RUNNING), time.monotonic()
        transcript = Transcript(shape(model).tokens)
        status = await self._caller.reply(model, transcript)
        if status.endswith(REFUSAL):
            self.refused.append(((time.monotonic() - begun) * 1000, transcript.retry_s))
            return transcript.retry_s if transcript.retry_s is not None else 1.0
        wrong = fault(transcript, status) or (status if status != "OK" else "")
        if wrong:
            self.others[wrong] = self.others.get(wrong, 0) + 1
            return 1.0
        self.done.append(transcript)
        return None


async def probe(caller: GrpcCaller) -> float | None:
    """The first-token time of a short reply in milliseconds; None if it did not complete."""
    transcript = Transcript(shape(SHORT).tokens)
    status = await caller.reply(SHORT, transcript)
    return None if status != "OK" or fault(transcript, status) else transcript.first_token_us() / 1e3


async def recovery_s(caller: GrpcCaller, normal_ms: float) -> float:
    """Seconds from now to the first of GOOD_PROBES successive probes whose first-token time is normal."""
    start, good = time.monotonic(), 0
    since = normal_since = 0.0
    while good < GOOD_PROBES and since < WATCHED_S:
        since = time.monotonic() - start
        found = await probe(caller)
        normal = found is not None and found <= normal_ms
        good, normal_since = (good + 1, normal_since if good else since) if normal else (0, since)
        await asyncio.sleep(max(0.0, start + since + PROBE_EVERY_S - time.monotonic()))
    return normal_since


def pace(transcript: Transcript) -> float:
    """The time from the first to the last token, divided by the provider's time."""
    took_us = transcript.seen_us[-1] - transcript.seen_us[0]
    return took_us / ((transcript.expected - 1) * PACE_MS * 1000)


async def study(system: RunningSystem, capacity: int, connections: int, seconds: float) -> Found:
    """Measure a light load, then the overload, then the recovery."""
    caller = GrpcCaller(system.address, channels=connections, deadline_s=seconds + 60)
    await caller.open()
    calm = Callers(caller)
    await calm.crowd(max(1, capacity // 10), CALM_S)
    calm_ms = quantile([one.first_token_us() for one in calm.done], 0.99) / 1e3
    crowd = Callers(caller)
    system.reset_peak()
    start, cpu_s = time.monotonic(), system.cpu_s()
    crowding = asyncio.create_task(crowd.crowd(TIMES * capacity, seconds))
    await asyncio.sleep(seconds)
    cores = (system.cpu_s() - cpu_s) / (time.monotonic() - start)
    normal_after_s = await recovery_s(caller, max(2 * calm_ms, 100.0))
    await crowding
    await caller.close()
    paces = sorted(map(pace, crowd.done))
    return Found(
        capacity=capacity,
        callers=TIMES * capacity,
        connections=connections,
        seconds=seconds,
        calm_first_token_p99_ms=calm_ms,
        completed=len(crowd.done),
        pace_p50=paces[len(paces) // 2],
        pace_p999=paces[int(len(paces) * 0.999)],
        slow=sum(one > PACE_LIMIT for one in paces),
        first_token_p99_ms=quantile([one.first_token_us() for one in crowd.done], 0.99) / 1e3,
        late_p999_ms=quantile([late for one in crowd.done for late in one.late_us()], 0.999) / 1e3,
        refused=len(crowd.refused),
        refused_without_retry=sum(retry is None for _, retry in crowd.refused),
        refusal_p99_ms=quantile([int(took * 1000) for took, _ in crowd.refused], 0.99) / 1e3 if crowd.refused else 0.0,
        other_ends=crowd.others,
        recovery_s=normal_after_s,
        server_cores=cores,
        peak_mib=system.memory().peak_mib,
    )


def part(found: Found) -> str:
    """The section of docs/benchmarks.md."""
    calm = number(found.calm_first_token_p99_ms)
    rows = {
        "callers, each asking again and again": f"{found.callers}, for a server that takes {found.capacity} replies",
        "connections that they share": number(found.connections),
        "replies completed": number(found.completed),
        "their pace, p50 and p99.9 (1 is the provider's)": f"{found.pace_p50:.3f}, {found.pace_p999:.3f}",
        "slower than 1.2": number(found.slow),
        "their first token, p99": f"{number(found.first_token_p99_ms)} ms, in calm {calm} ms",
        "their tokens late by, p99.9": f"{number(found.late_p999_ms)} ms",
        "refused as OVERLOADED": f"{number(found.refused)}, {number(found.refused_without_retry)} without RetryInfo",
        "a refusal takes, p99": f"{number(found.refusal_p99_ms)} ms",
        "any other end": number(sum(found.other_ends.values())),
        "normal again after": f"{number(found.recovery_s)} s",
        "CPU meanwhile, peak memory": f"{found.server_cores:.2f} cores, {number(round(found.peak_mib))} MiB",
    }
    wrong = [f"- **Missed**: {one}." for one in found.faults()] or ["All expectations are met."]
    rows_table = table(["", "measured"], [list(row) for row in rows.items()])
    return "\n\n".join(["\n".join(wrong), rows_table])


def main() -> int:
    """Exit status 1 if an expectation is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=int, required=True, help="max_replies of the server")
    parser.add_argument("--connections", type=int, default=16, help="connections that the callers share")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--system", default="parley", choices=sorted(STARTS))
    parser.add_argument("--write-docs", action="store_true", help="write the part of docs/benchmarks.md")
    options = parser.parse_args()
    with serving(options.system, [*RUNNING, SHORT], {"max_replies": options.capacity}) as (system, _):
        found = uvloop.run(study(system, options.capacity, options.connections, options.seconds))
    keep("overload", found, part(found), document=options.write_docs)
    return 1 if found.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
