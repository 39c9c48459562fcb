"""What a question about usage is answered that PostgreSQL cannot answer within the limit of a statement."""

from __future__ import annotations

import asyncpg
import pytest
from parley_server.core.usage_values import UsageGroup, UsageQuery
from parley_server.errors import InvalidRequest, StorageUnavailable
from parley_server.store import open_store

from tests.contract.conftest import DATABASE
from tests.contract.store_values import ADA, NOW_US, answered, created

SLOW = """
ALTER TABLE usage RENAME TO usage_rows;
CREATE VIEW usage AS SELECT usage_rows.* FROM usage_rows CROSS JOIN LATERAL (SELECT pg_sleep(6)) AS slow;
"""
QUERIES = [UsageQuery(groups=(UsageGroup.DAY,)), UsageQuery(groups=(UsageGroup.END_USER,), tenant="shop")]


@pytest.fixture
async def store(own_postgres):
    """A store with one row of usage."""
    opened = open_store(own_postgres.url(DATABASE))
    await opened.start()
    await answered(opened, await created(opened, ADA), now_us=NOW_US)
    yield opened
    await opened.close()


@pytest.fixture
async def beside(own_postgres):
    """A connection beside the store."""
    connection = await asyncpg.connect(own_postgres.url(DATABASE).replace("+asyncpg", ""), ssl=False)
    yield connection
    await connection.close()


@pytest.mark.parametrize("query", QUERIES, ids=["sums", "rows"])
async def test_a_sum_that_takes_too_long_asks_for_a_shorter_range(store, beside, query):
    await beside.execute(SLOW)
    with pytest.raises(InvalidRequest) as refused:
        await store.list_usage(query, (), 10)
    assert [field for field, _ in refused.value.violations] == ["start_time"]
    assert not refused.value.retryable


@pytest.mark.parametrize("query", QUERIES, ids=["sums", "rows"])
async def test_a_table_that_is_locked_is_unavailable_for_a_while(store, beside, query):
    lock = beside.transaction()
    await lock.start()
    await beside.execute("LOCK TABLE usage IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(StorageUnavailable) as refused:
        await store.list_usage(query, (), 10)
    assert refused.value.retryable
    await lock.rollback()
    [row] = (await store.list_usage(query, (), 10)).rows
    assert row.replies == 1
