"""Measures Admin.ListUsage over millions of rows of usage, and the job that sums them, on both databases.

python -m benchmarks.usage [ROWS]    exit status 1 if a page takes longer than 100 ms, or the job holds SQLite's writer
                                     for longer than 10 ms

The rows are generated: replies of 20 tenants with 1,500 users each over 69 days. The newest 5,000 are not in the sums
by day, which is more than the job leaves in normal operation.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parley_server.core.periods import DAY_US
from parley_server.core.usage_values import UsageGroup, UsageQuery
from parley_server.modes import POSTGRES_ROLLUP_ROWS, SQLITE_ROLLUP_ROWS
from parley_server.store import SqlStore, open_store
from parley_server.store.migrate import migrate
from parley_server.store.schema import usage, usage_day
from parley_server.store.usage import AMOUNTS, usage_keys
from sqlalchemy import Dialect, func, select
from sqlalchemy.dialects import postgresql, sqlite

from benchmarks.report import number, table
from tests.services import PostgresServer, initdb

ROWS = 3_000_000
NEW_ROWS = 5_000
DAYS = 69
START_US = 20_400 * DAY_US
PAGE = 50
RUNS = 15
PAGE_LIMIT_MS, JOB_LIMIT_MS = 100.0, 10.0
HALF_DAY_US = DAY_US // 2

NUMBERS = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n + 1 < {rows}) SELECT n FROM s)",
    "postgresql": "(SELECT n FROM generate_series(0::bigint, {rows} - 1) AS n)",
}
GENERATE = """
INSERT INTO usage (reply_id, tenant, end_user, model, provider, state, finish_reason, error_reason, prompt_tokens,
    cached_prompt_tokens, completion_tokens, reasoning_tokens, cost_nano_usd, estimated, create_time_us,
    first_token_time_us, end_time_us, text_length, rolled)
SELECT 'reply-' || n, 'tenant-' || (n % 20), 'user-' || (n % 30000), CASE n % 3 WHEN 0 THEN 'cheap' ELSE 'fast' END,
    'up', CASE n % 7 WHEN 0 THEN 'CANCELLED' ELSE 'COMPLETED' END, CASE n % 7 WHEN 0 THEN 'ORPHANED' ELSE 'STOP' END,
    NULL, n % 5000, n % 100, n % 700, n % 10, n % 100000, n % 50 = 0, {start} + n * {step},
    {start} + n * {step} + 500000,
    {start} + n * {step} + 9000000, n % 3000, n < {rolled}
FROM {numbers} AS series
"""
TENANT = "tenant-7"
QUERIES = {
    "all tenants, by day": UsageQuery(groups=(UsageGroup.DAY,)),
    "all tenants, from the middle of a day, by tenant": UsageQuery(
        groups=(UsageGroup.TENANT,), start_us=START_US + HALF_DAY_US
    ),
    "a tenant, by day": UsageQuery(groups=(UsageGroup.DAY,), tenant=TENANT),
    "a tenant, two days cut at both ends, by model and outcome": UsageQuery(
        groups=(UsageGroup.MODEL, UsageGroup.OUTCOME),
        start_us=START_US + 20 * DAY_US + HALF_DAY_US,
        end_us=START_US + 22 * DAY_US + HALF_DAY_US,
        tenant=TENANT,
    ),
    "a tenant, by end user": UsageQuery(groups=(UsageGroup.END_USER,), tenant=TENANT),
    "a tenant, by end user and day": UsageQuery(groups=(UsageGroup.END_USER, UsageGroup.DAY), tenant=TENANT),
    "all tenants, by tenant and end user": UsageQuery(groups=(UsageGroup.TENANT, UsageGroup.END_USER)),
    "one end user, by day": UsageQuery(groups=(UsageGroup.DAY,), end_user="user-27", tenant=TENANT),
}


def main() -> int:
    """Print the median time of each query and of the job in milliseconds."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parley.db"
        url = f"sqlite+aiosqlite:///{path}"
        migrate(url)
        _fill(_on_sqlite(path), "sqlite", rows)
        embedded = asyncio.run(_measure(url, SQLITE_ROLLUP_ROWS))
        path.unlink()
        with PostgresServer(Path(folder) / "postgres", template=initdb(Path(folder) / "initdb")) as server:
            database = server.create_database()
            migrate(server.url(database))
            _fill(lambda sql: server.rows(sql, database=database), "postgresql", rows)
            shared = asyncio.run(_measure(server.url(database), POSTGRES_ROLLUP_ROWS))
    lines = [[name, number(embedded[name]), number(shared[name])] for name in embedded]
    print(table(["ms", "SQLite", "PostgreSQL"], lines))
    pages = [times[name] for times in (embedded, shared) for name in QUERIES]
    return int(max(pages) > PAGE_LIMIT_MS or embedded["job"] > JOB_LIMIT_MS)


def _on_sqlite(path: Path) -> Callable[[str], Any]:
    def run(sql: str) -> None:
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(sql)
        connection.close()

    return run


def _fill(run: Callable[[str], Any], dialect: str, rows: int) -> None:
    step, numbers = DAYS * DAY_US // rows, NUMBERS[dialect].format(rows=rows)
    run(GENERATE.format(start=START_US, step=step, rolled=rows - NEW_ROWS, numbers=numbers))
    keys = usage_keys(dialect)
    sums = select(*keys.values(), *map(func.sum, AMOUNTS.values())).where(usage.c.rolled).group_by(*keys.values())
    kind: Dialect = postgresql.dialect() if dialect == "postgresql" else sqlite.dialect()  # type: ignore[no-untyped-call]
    query = sums.compile(dialect=kind, compile_kwargs={"literal_binds": True})
    run(f"INSERT INTO {usage_day.name} ({', '.join([*keys, *AMOUNTS])}) {query}")
    run("ANALYZE")


async def _measure(url: str, job_rows: int) -> dict[str, float]:
    store = open_store(url)
    await store.start()
    times = {name: await _page_ms(store, query) for name, query in QUERIES.items()}
    jobs = []
    while True:
        began = time.perf_counter()
        if await store.roll_usage(job_rows) < job_rows:
            break
        jobs.append((time.perf_counter() - began) * 1000)
    await store.close()
    return times | {"job": statistics.median(jobs)}


async def _page_ms(store: SqlStore, query: UsageQuery) -> float:
    taken = []
    for _ in range(RUNS):
        began = time.perf_counter()
        page = await store.list_usage(query, (), PAGE)
        taken.append((time.perf_counter() - began) * 1000)
        if not page.rows:
            raise AssertionError(f"no rows: {query}")
    return statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
