"""The measurements during a soak: the process, its metrics, database rows and Redis keys. They change nothing."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import msgspec
import redis.asyncio

from benchmarks.studies import samples
from benchmarks.systems import RunningSystem
from tests.services import query_postgres

ROWS = {
    "unfinished": "SELECT count(*) FROM reply WHERE state IN ('PENDING', 'STREAMING')",
    "checkpoints": "SELECT count(*) FROM checkpoint",
    "replies": "SELECT count(*) FROM reply",
}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The gauges at one time. `keys` counts those of Redis."""

    at_s: float
    rss_mib: float
    threads: int
    tasks: int
    sockets: int
    active: int
    readers: int
    unfinished: int
    checkpoints: int
    replies: int
    keys: int


class Gauges:
    """Reads the gauges of one server."""

    def __init__(self, system: RunningSystem) -> None:
        self._system = system
        self._start = time.monotonic()

    async def sample(self) -> Sample:
        process = Path(f"/proc/{self._system.pid}")
        metrics = samples(self._system)
        rows = {name: await self._row(query) for name, query in ROWS.items()}
        return Sample(
            at_s=time.monotonic() - self._start,
            rss_mib=self._system.memory().rss_mib,
            threads=len(list((process / "task").iterdir())),
            tasks=int(metrics["parley_loop_tasks"]),
            sockets=sum(_target(entry).startswith("socket:") for entry in (process / "fd").iterdir()),
            active=int(metrics["parley_replies_active"]),
            readers=int(metrics["parley_readers_active"]),
            keys=await self._keys(),
            **rows,
        )

    async def _row(self, query: str) -> int:
        url = self._system.database_url
        if url.startswith("postgresql"):
            ((count,),) = await query_postgres(url, query)
            return int(count)
        path = url.removeprefix("sqlite+aiosqlite:///")
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        try:
            return int(connection.execute(query).fetchone()[0])
        finally:
            connection.close()

    async def _keys(self) -> int:
        if not self._system.redis_url:
            return 0
        async with redis.asyncio.Redis.from_url(self._system.redis_url) as client:
            return int(await client.dbsize())


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:
        return ""
