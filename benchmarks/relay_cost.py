"""What the relay costs per token: CPU of this process and of Redis, for what is published and for what is followed.

    python benchmarks/relay_cost.py [--replies 100] [--rate 20] [--seconds 10]

Each row is the same load of paced tokens, on its own: logs alone, with the embedded relay, with Redis, and with Redis
and a second replica that follows every reply, in the same process. The store takes whatever it is given.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
import uvloop
from parley_server.core.clock import SystemClock
from parley_server.core.events import TextDelta
from parley_server.core.model import Reply
from parley_server.core.replies.log import Log
from parley_server.core.store_types import Checkpoint
from parley_server.journal.journals import CheckpointJournal
from parley_server.relay.redis import RedisRelay

TOKEN = TextDelta(" token")
TICK_S = 0.005


class Shelves:
    """A store that takes checkpoints for nothing."""

    async def append_checkpoints(self, checkpoints: list[Checkpoint]) -> None:
        """Done."""


class Nobody:
    """An owner that is told things and does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@asynccontextmanager
async def redis_server() -> AsyncIterator[str]:
    """A private Redis, or Valkey, on loopback."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        raise SystemExit("Redis is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        words = (binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        try:
            async with redis.asyncio.Redis(port=port) as client:
                for _ in range(200):
                    try:
                        await client.ping()
                        break
                    except redis.exceptions.ConnectionError:
                        await asyncio.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait()


async def server_cpu_s(url: str) -> float:
    """What Redis has used so far."""
    async with redis.asyncio.Redis.from_url(url) as client:
        used: dict[str, Any] = await client.info("cpu")
    return float(used["used_cpu_sys"]) + float(used["used_cpu_user"])


async def pace(logs: list[Log], *, rate: float, seconds: float) -> int:
    """Append `rate` tokens a second to each, spread evenly over the ticks of one task; how many it were."""
    said, started = 0, time.monotonic()
    total = int(len(logs) * rate * seconds)
    while said < total:
        due = min(total, int((time.monotonic() - started) * rate * len(logs)))
        for number in range(said, due):
            logs[number % len(logs)].append(TOKEN)
        said = due
        await asyncio.sleep(TICK_S)
    return said


async def measure(
    name: str, url: str, *, rate: float, seconds: float, logs: list[Log], close: Callable[[], Any]
) -> tuple[float, float]:
    """Microseconds of CPU per token, of this process and of Redis."""
    await pace(logs, rate=rate, seconds=0.5)
    served_s, used_s = await server_cpu_s(url), time.process_time()
    tokens = await pace(logs, rate=rate, seconds=seconds)
    used_s, served_s = time.process_time() - used_s, await server_cpu_s(url) - served_s
    await close()
    own, servers = used_s / tokens * 1e6, served_s / tokens * 1e6
    print(f"{name:34} {own:8.1f} us/token here {servers:8.1f} us/token in Redis")
    return own, servers


def new_logs(count: int, prefix: str) -> list[Log]:
    """Logs of running replies."""
    fields = {"tenant": "shop", "conversation_id": "c", "message_id": "m", "owner": "a"}
    return [Log(Reply(id=f"{prefix}-{time.time_ns()}-{number:04}", **fields)) for number in range(count)]


async def run(options: argparse.Namespace, url: str) -> None:
    """All rows."""
    store, clock = Shelves(), SystemClock()
    load = {"rate": options.rate, "seconds": options.seconds}

    async def nothing() -> None:
        """Nothing is open."""

    alone = await measure("logs alone", url, logs=new_logs(options.replies, "alone"), close=nothing, **load)

    embedded = CheckpointJournal(store, clock)
    embedded.start()
    logs = new_logs(options.replies, "embedded")
    for log in logs:
        embedded.open(log)
    base = await measure("embedded relay", url, logs=logs, close=embedded.stop, **load)

    owner = RedisRelay(url, store, clock, replica_id="a")
    await owner.start(Nobody())
    logs = new_logs(options.replies, "redis")
    for log in logs:
        owner.open(log)
    published = await measure("redis relay, nobody elsewhere", url, logs=logs, close=nothing, **load)

    reader = RedisRelay(url, store, clock, replica_id="b")
    await reader.start(Nobody())
    logs = new_logs(options.replies, "followed")
    followed = [Log(log.reply) for log in logs]
    for log, copy in zip(logs, followed, strict=True):
        owner.open(log)
        reader.follow(copy, wanted=lambda: True, look=lambda: None)
    both = await measure("redis relay, all followed elsewhere", url, logs=logs, close=nothing, **load)
    await asyncio.sleep(0.2)
    assert [log.last_sequence for log in followed] == [log.last_sequence for log in logs]
    await reader.stop()
    await owner.stop()

    own, more = published[0] - alone[0], published[0] - base[0]
    print(f"publishing costs {own:.1f} us/token ({more:+.1f} to the embedded relay)")
    print(f"following costs {both[0] - published[0]:.1f} us/token")


async def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=100)
    parser.add_argument("--rate", type=float, default=20.0, help="tokens a second and reply")
    parser.add_argument("--seconds", type=float, default=10.0)
    async with redis_server() as url:
        await run(parser.parse_args(), url)


if __name__ == "__main__":
    uvloop.run(main())
