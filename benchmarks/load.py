"""The load, in a process of its own: warms up, says "ready", waits for "go", and prints what it saw as JSON.

It measures at the reader; it must never share an event loop with what it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gc
import resource
import sys
import time
from typing import Literal

import msgspec
import uvloop

from benchmarks.callers import Caller, GrpcCaller, HttpCaller
from benchmarks.tokens import Transcript, shape


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask for: `concurrency` callers with one reply after another, or where it is 0 all within `ramp_s`."""

    transport: Literal["grpc", "http"] = "grpc"
    address: str
    model: str
    replies: int
    concurrency: int = 0
    ramp_s: float = 0.0
    channels: int = 4
    deadline_s: float = 60.0
    warmup_model: str = "t20-p0"
    warmup_replies: int = 100
    warmup_concurrency: int = 8
    latencies: bool = True


class Seen(msgspec.Struct, kw_only=True):
    """What one process of the load saw. Times are in microseconds."""

    wall_s: float
    load_cpu_s: float
    statuses: dict[str, int]
    faults: dict[str, int]
    replies: int
    tokens: int
    messages: int
    first_token_us: list[int]
    reply_us: list[int]
    late_us: list[int]
    gaps_us: list[int]
    gap_changes_us: list[int]


class Call(msgspec.Struct):
    """One reply that was asked for, and how its call ended."""

    transcript: Transcript
    status: str
    end_us: int


async def one(caller: Caller, model: str, expected: int) -> Call:
    """Ask for one reply and check it."""
    transcript = Transcript(expected)
    status = await caller.reply(model, transcript)
    if status == "OK" and not transcript.ended:
        transcript.fault = transcript.fault or "OK without an end"
    return Call(transcript, status, time.monotonic_ns() // 1000)


async def closed_loop(caller: Caller, model: str, *, replies: int, concurrency: int) -> list[Call]:
    """`concurrency` callers that ask again as soon as they have their reply, until there are `replies`."""
    expected, _ = shape(model)
    calls: list[Call] = []
    left = iter(range(replies))

    async def ask() -> None:
        calls.extend([await one(caller, model, expected) for _ in left])

    await asyncio.gather(*(ask() for _ in range(min(concurrency, replies))))
    return calls


async def open_loop(caller: Caller, model: str, *, replies: int, ramp_s: float) -> list[Call]:
    """`replies` calls that start evenly over `ramp_s`, whatever becomes of those before."""
    expected, _ = shape(model)
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def ask(index: int) -> Call:
        if ramp_s > 0:
            await asyncio.sleep(start + ramp_s * index / replies - loop.time())
        return await one(caller, model, expected)

    return list(await asyncio.gather(*(ask(index) for index in range(replies))))


def own_cpu_s() -> float:
    """CPU time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(load: Load, caller: Caller) -> Seen:
    """Run the load once."""
    before_s, cpu_s = time.monotonic(), own_cpu_s()
    if load.concurrency:
        calls = await closed_loop(caller, load.model, replies=load.replies, concurrency=load.concurrency)
    else:
        calls = await open_loop(caller, load.model, replies=load.replies, ramp_s=load.ramp_s)
    wall_s, cpu_s = time.monotonic() - before_s, own_cpu_s() - cpu_s
    _, pace_ms = shape(load.model)
    good = [call for call in calls if call.status == "OK" and not call.transcript.fault]
    paced = good if load.latencies and pace_ms else []
    return Seen(
        wall_s=wall_s,
        load_cpu_s=cpu_s,
        statuses=dict(collections.Counter(call.status for call in calls)),
        faults=dict(collections.Counter(call.transcript.fault for call in calls if call.transcript.fault)),
        replies=len(good),
        tokens=sum(len(call.transcript.seen_us) for call in calls),
        messages=sum(call.transcript.messages for call in calls),
        first_token_us=[call.transcript.first_token_us() for call in good],
        reply_us=[call.end_us - call.transcript.started_us for call in good],
        late_us=[late for call in paced for late in call.transcript.late_us()],
        gaps_us=[gap for call in paced for gap in call.transcript.gaps_us()],
        gap_changes_us=[change for call in paced for change in call.transcript.gap_changes_us()],
    )


def warm_connections(load: Load) -> int:
    """Connections to open before the load; over HTTP/1.1 each running call needs its own."""
    return load.channels if load.transport == "grpc" else min(load.concurrency or load.replies, 1000)


async def run(load: Load) -> None:
    """Warm up, wait for the word, measure, print."""
    kind = GrpcCaller if load.transport == "grpc" else HttpCaller
    caller = kind(load.address, channels=warm_connections(load), deadline_s=load.deadline_s)
    await caller.open()
    warm = load.warmup_replies
    await closed_loop(caller, load.warmup_model, replies=warm, concurrency=load.warmup_concurrency)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    word = await asyncio.to_thread(sys.stdin.readline)
    if word.strip() != "go":
        raise SystemExit("not told to go")
    seen = await measure(load, caller)
    print(msgspec.json.encode(seen).decode(), flush=True)
    await caller.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", help="a Load as JSON")
    uvloop.run(run(msgspec.json.decode(parser.parse_args().load, type=Load)))
