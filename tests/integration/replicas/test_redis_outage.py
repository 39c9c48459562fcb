"""Redis stops, loses its data, refuses commands or becomes slow during replies. Readers at the owner are not affected,
readers elsewhere have the exact text in the end, new replies are accepted, and no replica is taken for dead.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from redis import Redis

from tests.cluster import Cluster
from tests.integration.replicas.plays import Repertoire
from tests.integration.replicas.reading import Read, Reader, at, milliseconds, side_by_side
from tests.ports import free_port
from tests.proxy import Proxy
from tests.services import RedisServer
from tests.upstream import Upstream

A, B, C = range(3)
REPLICAS = (A, B, C)
SETTINGS = {"heartbeat_s": 1.0, "relay_heartbeat_s": 0.5}
LEASE_S = 6.0  # what becomes of leases is not the matter here: no burst of work on the machine is to end one
PACE_S = 0.05
ASK_EVERY_S = 0.4
SMOOTH_S = 0.5  # a wait for Redis would take a second
CAUGHT_UP_S = 5.0
AFTERWARDS_S = 1.0
MISHAP_S = 3.0  # at most, with what comes before and after
TOLD_AFTER_S = 10.0
TOLD_WITHIN_S = 15.0
ORPHAN_TTL_S = 1.0


@dataclass
class Mishap:
    """Something happens to Redis; `undo`, where there is one, makes it good after `length_s`."""

    name: str
    act: Callable[[], Awaitable[Any]]
    length_s: float = 0.0
    undo: Callable[[], Awaitable[Any]] | None = None


class Weathering:
    """Replies of every replica, read at every replica, while one mishap follows another."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.repertoire = Repertoire()
        cluster.upstream.reply_with(self.repertoire)
        self.reads: list[Read] = []
        self.kept = Reader()
        self.asked: list[float] = []
        self._stop = asyncio.Event()
        self._staying: asyncio.Task[Reader] | None = None

    async def run(self, *mishaps: Mishap) -> None:
        whole_s = sum(each.length_s + MISHAP_S for each in mishaps) + 2
        plays = [self.repertoire.add(f"long{i}", round(whole_s / PACE_S), pace_s=PACE_S) for i in REPLICAS]
        self.reads = [Read(self.cluster, play, i) for i, play in enumerate(plays)]
        await asyncio.gather(*(each.begin() for each in self.reads), self._begin_kept(round(whole_s / PACE_S)))
        asking = asyncio.create_task(self._go_on_asking())
        await asyncio.sleep(1.0)
        for mishap in mishaps:
            await self._survive(mishap)
        self._stop.set()
        assert self._staying is not None
        await asyncio.gather(asking, self._staying, *(each.end() for each in self.reads))
        for each in self.reads:
            await each.check_whole()
        assert self.kept.text == self.repertoire.plays["kept"].whole
        assert await self.cluster.rows("SELECT id FROM reply WHERE state <> 'COMPLETED' OR epoch <> 1") == []
        assert self.cluster.problems == []

    async def _begin_kept(self, count: int) -> None:
        """A reply that would be cancelled soon if its one reader, who is not at its owner, were taken for gone."""
        play = self.repertoire.add("kept", count, pace_s=PACE_S)
        created = await self.cluster.caller(A).create(play.tag, wait=0, orphan_ttl=ORPHAN_TTL_S)
        self.kept.reply_id = created.id
        self._staying = asyncio.create_task(self.kept.stay(self.cluster.chat(B)))
        await self.kept.until(lambda reader: bool(reader.text))
        watch = self.cluster.caller(A).resume(created.id)  # the count starts once a first reader has left
        await watch.accepted()
        watch.call.cancel()

    async def _go_on_asking(self) -> None:
        """A new reply every now and then, in turn at each replica."""
        while not self._stop.is_set():
            number = len(self.asked)
            play = self.repertoire.add(f"short{number}", 10, pace_s=0.0)
            reader = Reader(play.request())
            began = time.monotonic()
            await reader.start(self.cluster.chat(number % len(REPLICAS)))
            self.asked.append(time.monotonic() - began)
            assert (reader.text, reader.cuts) == (play.whole, [])
            await asyncio.sleep(ASK_EVERY_S)

    async def _survive(self, mishap: Mishap) -> None:
        began, asked = time.monotonic(), len(self.asked)
        await mishap.act()
        if mishap.undo is not None:
            await asyncio.sleep(mishap.length_s)
            if mishap.length_s > TOLD_WITHIN_S:
                self._check_told(began)
            await mishap.undo()
        back = time.monotonic()
        await asyncio.gather(*(self._catch_up(read, back) for read in self.reads))
        took_s = time.monotonic() - back
        await at(back + AFTERWARDS_S)
        lags = [lag for read in self.reads for lag in read.local.lags(read.play, since=began)]
        print(
            f"{self.name}, {mishap.name}: readers elsewhere up to date after {took_s:.2f} s; "
            f"at the owner {milliseconds(lags)}; new replies {milliseconds(self.asked[asked:])}"
        )
        assert max(lags) < SMOOTH_S
        for read in self.reads:
            assert read.local.cuts == []

    async def _catch_up(self, read: Read, back: float) -> None:
        """Everybody elsewhere gets what leaves once Redis is well again, from the log itself and not by its end."""
        await read.local.until(lambda _: read.play.sent[-1][0] > back)
        length = next(length for at, length in read.play.sent if at > back)
        for reader in read.remote.values():
            await reader.until(lambda reader: len(reader.text) >= length, limit_s=CAUGHT_UP_S)
            assert reader.snapshots == 0
            assert reader.terminal is None

    def _check_told(self, began: float) -> None:
        """A remote reader gets heartbeats, and after a while a status that asks it to retry."""
        for read in self.reads:
            for reader in read.remote.values():
                cut = next((each for each in reader.cuts if each.at > began), None)
                assert cut is not None, (self.name, read.play.tag)
                assert (cut.code, cut.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
                assert cut.retry_after_s is not None
                assert TOLD_AFTER_S <= cut.at - began < TOLD_WITHIN_S, cut.at - began
                assert any(began + TOLD_AFTER_S / 2 < beat < cut.at for beat in reader.beats)


# --- what may happen


def in_thread(work: Callable[..., Any], *arguments: Any) -> Callable[[], Awaitable[Any]]:
    return lambda: asyncio.to_thread(work, *arguments)


def commands(redis: RedisServer, *each: tuple[str | int, ...]) -> Callable[[], Awaitable[Any]]:
    return lambda: asyncio.to_thread(lambda: [redis.command(*words) for words in each])


def killed(redis: RedisServer) -> Mishap:
    return Mishap("killed, and empty after 5 s", in_thread(redis.kill9), 5.0, in_thread(redis.start))


def paused(redis: RedisServer) -> Mishap:
    return Mishap("paused for 30 s", in_thread(redis.pause), 30.0, in_thread(redis.resume))


def out_of_memory(redis: RedisServer) -> Mishap:
    full, free = ("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0)
    return Mishap("out of memory for 17 s", commands(redis, full), 17.0, commands(redis, free))


def read_only(redis: RedisServer) -> Mishap:
    """As a primary is that was made the replica of one that is not there."""
    follow, lead = ("REPLICAOF", "127.0.0.1", free_port()), ("REPLICAOF", "NO", "ONE")
    return Mishap("read-only for 17 s", commands(redis, follow), 17.0, commands(redis, lead))


def flushed(redis: RedisServer) -> Mishap:
    return Mishap("FLUSHALL", commands(redis, ("FLUSHALL",)))


def scriptless(redis: RedisServer) -> Mishap:
    return Mishap("SCRIPT FLUSH", commands(redis, ("SCRIPT", "FLUSH")))


def deaf(redis: RedisServer) -> Mishap:
    """Whoever listens loses the connection, again and again."""

    async def kill_listeners() -> None:
        for _ in range(20):
            await asyncio.to_thread(redis.command, "CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.05)

    return Mishap("pub/sub cut 20 times", kill_listeners)


def failed_over(redis: RedisServer) -> Mishap:
    """The new primary has not heard of the last second: all keys as they were."""

    async def go_back() -> None:
        keys = await asyncio.to_thread(redis.command, "KEYS", "*")
        dumps = await asyncio.to_thread(lambda: {key: _dump(redis, key) for key in keys})
        await asyncio.sleep(1.0)
        await asyncio.to_thread(_restore, redis, dumps)

    return Mishap("a second was lost", go_back)


def _dump(redis: RedisServer, key: str) -> bytes:
    with Redis(port=redis.port) as client:
        return bytes(client.dump(key) or b"")


def _restore(redis: RedisServer, dumps: dict[str, bytes]) -> None:
    with Redis(port=redis.port) as client, client.pipeline(transaction=True) as together:
        together.flushall()
        for key, dump in dumps.items():
            if dump:
                together.restore(key, 600_000, dump)
        together.execute()


@pytest.mark.timeout(150)
async def test_replies_survive_every_redis_outage(tmp_path, shared_postgres) -> None:
    one_at_a_time = asyncio.Lock()
    async with AsyncExitStack() as stack:

        async def weather(name: str, *kinds: Callable[[RedisServer], Mishap]) -> None:
            folder = tmp_path / name
            folder.mkdir()
            redis = stack.enter_context(RedisServer(folder / "redis"))
            upstream = await stack.enter_async_context(Upstream())
            cluster = Cluster(folder, shared_postgres, redis, upstream, lease_s=LEASE_S, server=SETTINGS)
            async with one_at_a_time:
                await stack.enter_async_context(cluster)
            await Weathering(cluster, name).run(*(kind(redis) for kind in kinds))

        await side_by_side(
            weather("silent", paused),
            weather("refusing", out_of_memory, read_only),
            weather("forgetful", flushed, scriptless, deaf, failed_over, killed),
        )


# --- far away

LATENCY_S = 0.1  # there, and again back
PAIRS = 20
TOKENS = 4000  # so many that what a reply waits for by chance, up to 50 ms, is little of the whole
FIRST_TOKEN_MARGIN_S = 0.005
RATE_MARGIN = 1.25
IDLE_S = 12.0
BURST_S = 3.0
LOCAL_S, REMOTE_S = 0.5, 1.5


@pytest.mark.timeout(90)
async def test_a_slow_or_silent_redis_does_not_delay_the_owner(start_cluster, own_redis) -> None:
    """P26: replies of a replica near to Redis and of one that is 200 ms away, in pairs. P29: 12 s without a token."""
    async with Proxy(own_redis.port, latency_s=LATENCY_S) as far:
        cluster = await start_cluster(redis=own_redis, lease_s=LEASE_S, server=SETTINGS, redis_ports={B: far.port})
        repertoire = Repertoire()
        cluster.upstream.reply_with(repertoire)
        silent = [Read(cluster, repertoire.add(f"silent{i}", 20, first_s=IDLE_S, pace_s=0.02), i) for i in (A, B)]
        await asyncio.gather(*(each.begin(silent=True) for each in silent))
        spoken = asyncio.gather(*(each.end() for each in silent))
        await _compare(cluster, repertoire, spoken)
        for each in silent:
            await each.check_whole()
            local, remote = each.local.lags(each.play), [lag for r in each.remote.values() for lag in r.lags(each.play)]
            print(f"after 12 s of silence: at the owner {milliseconds(local)}; elsewhere {milliseconds(remote)}")
            assert max(local) < LOCAL_S
            assert max(remote) < REMOTE_S
            assert not any(reader.cuts for reader in each.readers)
        assert not [each for each in cluster.events("relay_lost") if each["index"] != B]
        assert cluster.problems == []


async def _compare(cluster: Cluster, repertoire: Repertoire, spoken: asyncio.Future[Any]) -> None:
    """No pair runs while the silent replies are `spoken`: its bursts would delay them in this process's own loop."""
    pause_at = time.monotonic() + IDLE_S - BURST_S
    first: dict[int, list[float]] = {A: [], B: []}
    whole: dict[int, list[float]] = {A: [], B: []}
    for number in range(PAIRS):
        if time.monotonic() > pause_at:
            await spoken
        for owner in (A, B) if number % 2 else (B, A):
            play = repertoire.add(f"pair{number}-{owner}", TOKENS, first_s=0.05, pace_s=0.0)
            reader = Reader(play.request())
            await reader.start(cluster.chat(owner))
            assert reader.text == play.whole
            began, length = play.sent[0]
            first[owner].append(reader.time_of(length) - began)
            whole[owner].append(reader.time_of(len(play.whole)) - began)
    near_s, far_s = (statistics.median(first[owner]) for owner in (A, B))
    near_whole_s, far_whole_s = (statistics.median(whole[owner]) for owner in (A, B))
    print(
        f"first token {near_s * 1000:.1f} ms near, {far_s * 1000:.1f} ms far; "
        f"{TOKENS} tokens {near_whole_s:.3f} s near, {far_whole_s:.3f} s far"
    )
    assert far_s < near_s + FIRST_TOKEN_MARGIN_S
    assert far_whole_s < near_whole_s * RATE_MARGIN
