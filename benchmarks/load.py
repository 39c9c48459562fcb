"""The load process: warms up, prints "ready", then runs each Load that it reads from stdin and prints its results.

Loads and results are lines of JSON. It measures at the reader, so it must never share an event loop with the measured
system.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gc
import resource
import sys
import time
from collections.abc import Callable
from typing import Literal

import msgspec
import uvloop

from benchmarks.callers import Caller, GrpcCaller, HttpCaller
from benchmarks.tokens import Transcript, shape


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The replies to request: by `concurrency` callers, each one reply after another, or if 0, all within `ramp_s`.

    Each reply has `readers` readers including its caller, and is by one of `end_users` (0: none is named). With
    `tell_accepted` the process prints "accepted" when all replies are accepted."""

    transport: Literal["grpc", "http"] = "grpc"
    address: str
    headers: dict[str, str] = {}
    model: str
    replies: int
    concurrency: int = 0
    ramp_s: float = 0.0
    channels: int = 4
    readers: int = 1
    end_users: int = 0
    deadline_s: float = 60.0
    warmup_model: str = "t20-p0"
    warmup_replies: int = 100
    warmup_concurrency: int = 8
    tell_accepted: bool = False


class Seen(msgspec.Struct, kw_only=True):
    """The results of a load, replies in the order of their calls. Times are in microseconds.

    `tokens` counts those of callers only; `messages` and `late_us` include all readers."""

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
    """One reply as its caller and its other readers received it, with the status and the end of the call."""

    transcript: Transcript
    status: str
    end_us: int
    others: list[Transcript]


class Replies:
    """Requests the replies of one load and checks each of them for each reader."""

    def __init__(self, load: Load, caller: Caller) -> None:
        self._load = load
        self._caller = caller
        self._expected = shape(load.model).tokens
        self._accepted = 0

    async def run(self) -> list[Call]:
        """Make all calls; returns them in the order of the requests."""
        load = self._load
        if load.concurrency:
            return await self._closed_loop(load.replies, load.concurrency)
        return await self._open_loop(load.replies, load.ramp_s)

    async def _closed_loop(self, replies: int, concurrency: int) -> list[Call]:
        """`concurrency` callers that make the next call when their reply has ended."""
        calls: dict[int, Call] = {}
        left = iter(range(replies))

        async def ask() -> None:
            for index in left:
                calls[index] = await self._one()

        await asyncio.gather(*(ask() for _ in range(min(concurrency, replies))))
        return [calls[index] for index in sorted(calls)]

    async def _open_loop(self, replies: int, ramp_s: float) -> list[Call]:
        """Calls that start evenly over `ramp_s`, independently of the ends of earlier calls."""
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def ask(index: int) -> Call:
            if ramp_s > 0:
                await asyncio.sleep(start + ramp_s * index / replies - loop.time())
            return await self._one()

        return list(await asyncio.gather(*(ask(index) for index in range(replies))))

    async def _one(self) -> Call:
        others: list[tuple[Transcript, asyncio.Task[str]]] = []

        def accepted(reply_id: str) -> None:
            for offset in range(1, self._load.readers):
                other = Transcript(self._expected)
                other.channel = transcript.channel + offset
                others.append((other, asyncio.create_task(self._caller.follow(reply_id, other))))
            self._count_accepted()

        transcript = Transcript(self._expected, accepted)
        status = await self._caller.reply(self._load.model, transcript)
        end_us = time.monotonic_ns() // 1000
        transcript.fault = fault(transcript, status)
        for other, reading in others:
            ended = await reading
            wrong = fault(other, ended) or (ended if ended != "OK" else "")
            transcript.fault = transcript.fault or (wrong and f"another reader: {wrong}")
        return Call(transcript, status, end_us, [other for other, _ in others])

    def _count_accepted(self) -> None:
        self._accepted += 1
        if self._load.tell_accepted and self._accepted == self._load.replies:
            print("accepted", flush=True)


def fault(transcript: Transcript, status: str) -> str:
    """The fault of a transcript, including a missing end; empty if there is none."""
    missing = "OK without an end" if status == "OK" and not transcript.ended else ""
    return transcript.fault or missing


def own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(load: Load, caller: Caller) -> Seen:
    """Run the load once."""
    before_s, cpu_s = time.monotonic(), own_cpu_s()
    calls = await Replies(load, caller).run()
    wall_s, cpu_s = time.monotonic() - before_s, own_cpu_s() - cpu_s
    good = [call for call in calls if call.status == "OK" and not call.transcript.fault]
    readers = (
        [reader for call in good for reader in (call.transcript, *call.others)] if shape(load.model).pace_ms else []
    )

    def all_of(times: Callable[[Transcript], list[int]]) -> list[int]:
        return [value for reader in readers for value in times(reader)]

    return Seen(
        wall_s=wall_s,
        load_cpu_s=cpu_s,
        statuses=dict(collections.Counter(call.status for call in calls)),
        faults=dict(collections.Counter(call.transcript.fault for call in calls if call.transcript.fault)),
        replies=len(good),
        tokens=sum(len(call.transcript.seen_us) for call in calls),
        messages=sum(reader.messages for call in calls for reader in (call.transcript, *call.others)),
        first_token_us=[call.transcript.first_token_us() for call in good],
        reply_us=[call.end_us - call.transcript.started_us for call in good],
        late_us=all_of(Transcript.late_us),
        gaps_us=all_of(Transcript.gaps_us),
        gap_changes_us=all_of(Transcript.gap_changes_us),
    )


def caller_of(load: Load) -> Caller:
    """The client for a load. Over HTTP/1.1 each running call needs a separate connection."""
    if load.transport == "grpc":
        return GrpcCaller(
            load.address,
            channels=load.channels,
            deadline_s=load.deadline_s,
            headers=load.headers,
            end_users=load.end_users,
        )
    connections = min(load.concurrency or load.replies, 1000)
    return HttpCaller(load.address, channels=connections, deadline_s=load.deadline_s, headers=load.headers)


async def warm_up(load: Load, caller: Caller) -> None:
    if load.warmup_replies:
        few = {"model": load.warmup_model, "replies": load.warmup_replies, "concurrency": load.warmup_concurrency}
        await Replies(msgspec.structs.replace(load, **few, readers=1, tell_accepted=False), caller).run()
    gc.collect()
    gc.freeze()


async def run(load: Load) -> None:
    """Warm up, then run each load from stdin until its end."""
    caller = caller_of(load)
    await caller.open()
    await warm_up(load, caller)
    print("ready", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        seen = await measure(msgspec.json.decode(line, type=Load), caller)
        print(msgspec.json.encode(seen).decode(), flush=True)
    await caller.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", help="a Load as JSON, for the connections and the warm-up")
    uvloop.run(run(msgspec.json.decode(parser.parse_args().load, type=Load)))
