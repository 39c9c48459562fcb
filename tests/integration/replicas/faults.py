"""Faults and queries of the services behind several replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from tests.cluster import Cluster
from tests.integration.replicas.plays import Repertoire
from tests.processes import until
from tests.proxy import Proxy
from tests.services import PostgresServer, RedisServer
from tests.upstream import Upstream


class Wired:
    """Three replicas; the first has proxies before PostgreSQL and Redis."""

    def __init__(self, cluster: Cluster, *, postgres: Proxy, redis: Proxy) -> None:
        self.cluster = cluster
        self.postgres_wire = postgres
        self.redis_wire = redis
        self.repertoire = Repertoire()
        cluster.upstream.reply_with(self.repertoire)


@asynccontextmanager
async def wired_cluster(folder: Path, postgres: PostgresServer, **options: Any) -> AsyncIterator[Wired]:
    """Such replicas, on a Redis and with an upstream of their own."""
    with RedisServer(folder / "redis") as redis:
        async with Upstream() as upstream, Proxy(postgres.port) as first, Proxy(redis.port) as second:
            wires = {"postgres_ports": {0: first.port}, "redis_ports": {0: second.port}}
            async with Cluster(folder, postgres, redis, upstream, **wires, **options) as cluster:
                yield Wired(cluster, postgres=first, redis=second)


@asynccontextmanager
async def locked(cluster: Cluster, table: str) -> AsyncIterator[None]:
    """Lock a table meanwhile: every write to it waits."""
    url = cluster.postgres.url(cluster.database).replace("+asyncpg", "")
    connection = await asyncpg.connect(url, ssl=False)
    try:
        await connection.execute(f"BEGIN; LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        yield
    finally:
        connection.terminate()


async def waiting_for_locks(cluster: Cluster, count: int) -> None:
    """Return once so many of the replicas' statements wait for a lock."""

    async def so_many() -> bool:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"
        ((found,),) = await cluster.rows(waiting, cluster.database)
        return found >= count

    await until(so_many, f"{count} wait for a lock")


async def end_waiting(cluster: Cluster) -> None:
    """Close the connections whose statements wait for a lock: their transactions are undone."""
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"
    await cluster.rows(end, cluster.database)


def streams_of(cluster: Cluster, reply_id: str) -> dict[str, Any]:
    """All that Redis has of the text of a reply, by key."""
    keys = cluster.redis.command("KEYS", f"parley:{{{reply_id}}}:log:*")
    return {key: cluster.redis.command("XRANGE", key, "-", "+") for key in keys}


async def published(cluster: Cluster, reply_id: str, text: str) -> None:
    """Wait until Redis has all of this text, of the first owner: from then on it outlives that one."""

    def all_there() -> bool:
        entries = streams_of(cluster, reply_id).get(f"parley:{{{reply_id}}}:log:1", [])
        return "".join(fields["e"][1:] for _, fields in entries if fields["e"].startswith("t")) == text

    await seen(all_there, f"{text!r} is published")


async def seen(condition: Callable[[], object], what: str, *, limit_s: float = 20.0) -> None:
    """Wait until something in this process is true."""

    async def holds() -> bool:
        return bool(condition())

    await until(holds, what, limit_s=limit_s)


async def within(limit_s: float, *work: Any) -> list[Any]:
    """The results of all of these, in time."""
    async with asyncio.timeout(limit_s):
        return await asyncio.gather(*work)
