"""The faults of the cluster during a siege: a sequence that the seed determines, and its execution."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import msgspec

from benchmarks.siege.stand import CLOCKED, JUMP_S, REPLICAS, VENDORS, Options, Skipped, Stand

SERVICES = ("postgres", "redis", "envoy")
KINDS = ("killed", "paused", "cut off", "stalled", "full", "clock")
DOWN = (0.05, 0.4)
"""The least and longest time for which a killed part is down, as shares of the time between two mishaps."""
BROKEN = (0.15, 0.85)
"""The same for all other mishaps."""


class Mishap(msgspec.Struct, frozen=True):
    """One fault: from `at_s` seconds after the start of the siege, for `seconds`. `kind`: one of `KINDS`."""

    at_s: float
    kind: str
    target: str
    seconds: float


class Done(msgspec.Struct, frozen=True):
    """A mishap with its outcome: "done", or why it was skipped. `over_s`: its end, in seconds after the start."""

    mishap: Mishap
    outcome: str
    over_s: float


def plan(options: Options) -> list[Mishap]:
    """The sequence of a seed: each kind with each kind of target once, in random order, then all of them again."""
    chosen = random.Random(options.seed)
    deck: list[tuple[str, str]] = []
    mishaps = []
    at_s = options.every
    while at_s + options.every <= options.minutes * 60:
        if not deck:
            deck = _deck(chosen)
        kind, target = deck.pop()
        least, most = DOWN if kind == "killed" else BROKEN
        seconds = chosen.uniform(least, most) * options.every
        if kind == "paused" and target.startswith("replica"):
            seconds = chosen.uniform(0.5, 1.5) * options.lease_s
        mishaps.append(Mishap(at_s, kind, target, round(seconds, 3)))
        at_s += options.every
    return mishaps


def _deck(chosen: random.Random) -> list[tuple[str, str]]:
    def replica() -> str:
        return f"replica-{chosen.randrange(REPLICAS)}"

    def vendor() -> str:
        return chosen.choice(list(VENDORS))

    processes = [(kind, target) for kind in ("killed", "paused") for target in (replica(), vendor(), *SERVICES)]
    links = [
        (kind, link)
        for kind in ("cut off", "stalled")
        for link in (
            f"{replica()} to postgres",
            f"{replica()} to redis",
            f"replicas to {vendor()}",
            f"envoy to {replica()}",
        )
    ]
    full = [("full", target) for target in ("postgres", "redis", vendor())]
    deck = [*processes, *links, *full, ("clock", f"replica-{CLOCKED}")]
    chosen.shuffle(deck)
    return deck


async def run_mishaps(stand: Stand, mishaps: list[Mishap]) -> list[Done]:
    """Run all mishaps at their times. One may begin while the cluster still recovers from another."""
    began = time.monotonic()
    done: list[Done] = []

    async def run_at_its_time(mishap: Mishap) -> None:
        await asyncio.sleep(max(0.0, began + mishap.at_s - time.monotonic()))
        try:
            await _run(stand, mishap)
            outcome = "done"
        except Skipped as reason:
            outcome = f"skipped: {reason}"
        done.append(Done(mishap, outcome, round(time.monotonic() - began, 3)))

    async with asyncio.TaskGroup() as running:
        for mishap in mishaps:
            running.create_task(run_at_its_time(mishap))
    return sorted(done, key=lambda each: each.mishap.at_s)


async def _run(stand: Stand, mishap: Mishap) -> None:
    """Break the target, and repair it after the time of the mishap."""
    acts: dict[str, Callable[[Stand, Mishap], Awaitable[None]]] = {
        "killed": _kill,
        "paused": _pause,
        "cut off": _cut,
        "stalled": _stall,
        "full": _fill,
        "clock": _jump,
    }
    await acts[mishap.kind](stand, mishap)


async def _kill(stand: Stand, mishap: Mishap) -> None:
    part = stand.parts[mishap.target]
    await part.kill9()
    await asyncio.sleep(mishap.seconds)
    await part.up()


async def _pause(stand: Stand, mishap: Mishap) -> None:
    part = stand.parts[mishap.target]
    part.pause()
    await asyncio.sleep(mishap.seconds)
    part.resume()


async def _cut(stand: Stand, mishap: Mishap) -> None:
    link = stand.links[mishap.target]
    await link.cut()
    await asyncio.sleep(mishap.seconds)
    await link.restore()


async def _stall(stand: Stand, mishap: Mishap) -> None:
    link = stand.links[mishap.target]
    link.stall()
    await asyncio.sleep(mishap.seconds)
    await link.restore()


async def _fill(stand: Stand, mishap: Mishap) -> None:
    full = stand.full[mishap.target]
    await asyncio.to_thread(full.fill)
    await asyncio.sleep(mishap.seconds)
    await asyncio.to_thread(full.clear)
    await stand.parts[mishap.target].up()  # PostgreSQL stops if it cannot write its log


async def _jump(stand: Stand, mishap: Mishap) -> None:
    stand.clocked.set_clock(JUMP_S)
    await asyncio.sleep(mishap.seconds)
    stand.clocked.set_clock(0)
