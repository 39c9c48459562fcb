"""A server is killed while it sums usage: the sums are exact after each kill, and when the next server has finished."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing

import asyncpg
import pytest
from parley.v1 import admin_pb2, admin_pb2_grpc
from parley_server.core.periods import DAY_US
from parley_server.store.migrate import migrate

from benchmarks.usage import GENERATE, NUMBERS, START_US
from tests.lanes import LOADED
from tests.processes import READY_S, ServerProcess, open_channel, until
from tests.services import query_postgres
from tests.usage_sums import DIFFERENCES, OF_TENANTS, ROLLED

pytestmark = [pytest.mark.xdist_group(LOADED), pytest.mark.timeout(180)]

ROWS = 20_000
KILLS = 4
SPREAD_S = 0.15
"""The kill comes at a random time within it. It is longer than a part of the job with its pause."""
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO usage_day%'"


def generated(dialect):
    """A statement that inserts usage of two days without adding it to the sums."""
    return GENERATE.format(
        start=START_US, step=2 * DAY_US // ROWS, rolled=0, numbers=NUMBERS[dialect].format(rows=ROWS)
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request, tmp_path):
    """A server that has not been started, on a database with usage."""
    if request.param == "postgresql":
        return with_usage(tmp_path, request.getfixturevalue("postgres_url"))
    made = ServerProcess(tmp_path / "server", forked=True)
    migrate(f"sqlite+aiosqlite:///{made.database}")
    with closing(sqlite3.connect(made.database)) as connection, connection:
        connection.execute(generated("sqlite"))
    return made


def with_usage(folder, url):
    asyncio.run(query_postgres(url, generated("postgresql")))
    return ServerProcess(folder / "server", forked=True, PARLEY_DATABASE_URL=url)


async def rolled(server):
    [(count,)] = await asyncio.to_thread(server.rows, ROLLED)
    return count


async def check(server):
    assert await asyncio.to_thread(server.rows, DIFFERENCES) == []


async def finished(server):
    """Wait until all usage is in the sums; returns the sums by tenant, as the server reports them."""

    async def added():
        return await rolled(server) == ROWS

    await until(added, "all usage is in the sums", limit_s=60)
    async with open_channel(server.address) as channel:
        admin = admin_pb2_grpc.AdminStub(channel)
        by_tenant = admin_pb2.ListUsageRequest(group_by=[admin_pb2.ListUsageRequest.GROUP_BY_TENANT])
        rows = (await admin.ListUsage(by_tenant, timeout=30)).rows
    return sorted((row.tenant, row.replies, row.prompt_tokens, row.cost_nano_usd) for row in rows)


async def test_sums_are_exact_after_kills_during_the_job(server):
    chance, before = random.Random(4), 0
    for _ in range(KILLS):
        await server.launch()

        async def job_continues(before=before):
            return await rolled(server) > before

        await until(job_continues, "the next server adds", limit_s=READY_S)
        await asyncio.sleep(chance.uniform(0, SPREAD_S))  # a random moment of the job
        await server.kill9()
        await check(server)
        before = await rolled(server)
    assert before < ROWS, "the last server was killed before the end"
    await server.start()
    assert await finished(server) == sorted(await asyncio.to_thread(server.rows, OF_TENANTS))
    await check(server)
    await server.kill9()


@pytest.fixture
def waiting(tmp_path, postgres_url):
    return with_usage(tmp_path, postgres_url)


async def test_a_server_killed_within_a_transaction_of_the_job_adds_nothing(waiting, postgres_url):
    server = waiting
    blocker = await asyncpg.connect(postgres_url.replace("+asyncpg", ""), ssl=False)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("LOCK TABLE usage_day IN SHARE MODE")
    await server.launch()

    async def waits():
        [(count,)] = await query_postgres(postgres_url, WAITS)
        return count

    await until(waits, "the server has taken rows and waits to add them", limit_s=READY_S)
    await server.kill9()
    await transaction.rollback()
    await blocker.close()

    async def ended():
        return not await waits() and await rolled(server) == 0

    await until(ended, "its transaction is gone")
    await check(server)
    async with server:
        expected = sorted(await asyncio.to_thread(server.rows, OF_TENANTS))
        assert await finished(server) == expected
        await check(server)
