"""Units of work on PostgreSQL: isolation, waits and their limits, and failures."""

import asyncio

import asyncpg
import pytest
from parley_server.errors import StorageUnavailable
from parley_server.store import open_store
from parley_server.store.engine import postgres as limits
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import await_only

from tests.contract.units import COUNT, ITEM, ITEMS, ONE, call, count, insert, opened, refused, sleep, that
from tests.processes import until


@pytest.fixture
async def server(postgres):
    """The shared server, with an empty table of numbers."""
    yield postgres
    await postgres.query("TRUNCATE item", database=ITEMS)


@pytest.fixture
async def database(server):
    made = await opened(server)
    yield made
    await made.close()


async def test_a_slow_statement_is_ended_by_the_server_and_the_connection_stays(database, monkeypatch, server):
    monkeypatch.setattr(limits, "STATEMENT_S", 0.3)
    quick = await opened(server)
    await quick.write(insert(1), durable=True)
    before = await pids(server)
    assert not (await refused(quick.write(sleep(5), durable=True), within_s=3)).outcome_unknown
    await quick.write(insert(2), durable=True)
    assert await pids(server) == before
    await quick.close()


async def test_a_wait_for_a_lock_ends_at_the_limit(server, monkeypatch):
    monkeypatch.setattr(limits, "STATEMENT_S", 0.3)
    database = await opened(server)
    held, go_on = asyncio.Event(), asyncio.Event()
    holder = asyncio.ensure_future(_hold_table(server, held, go_on))
    await held.wait()
    await refused(database.write(insert(1), durable=True), within_s=3)
    go_on.set()
    await holder
    await database.write(insert(1), durable=True)
    await database.close()


async def _hold_table(server, held: asyncio.Event, go_on: asyncio.Event) -> None:
    connection = await asyncpg.connect(server.url(ITEMS).replace("+asyncpg", ""))
    async with connection.transaction():
        await connection.execute("LOCK TABLE item")
        held.set()
        await go_on.wait()
    await connection.close()


async def test_locks_of_a_hanging_process_are_freed(server, monkeypatch):
    monkeypatch.setattr(limits, "IDLE_IN_TRANSACTION_S", 1)
    frozen = await opened(server)
    other = await opened(server)
    await other.write(insert(1), durable=True)

    async with frozen._pool.connect() as connection:
        await connection.execute(text("DELETE FROM item"))
        await other.write(lambda each: each.execute(text("UPDATE item SET body = 'mine' WHERE id = 1")), durable=True)
        with pytest.raises(DBAPIError):
            await connection.execute(ONE)
    assert await count(other) == 1
    await frozen.write(insert(2), durable=True)
    await frozen.close()
    await other.close()


@pytest.mark.parametrize("way", ["write", "read"])
async def test_cancelling_a_caller_affects_neither_unit_nor_connection(database, way):
    entered = asyncio.Event()

    def work(connection) -> None:
        entered.set()
        connection.execute(text("SELECT pg_sleep(0.2)"))
        if way == "write":
            connection.execute(ITEM, {"id": 1})

    for _ in range(2):
        entered.clear()
        calling = asyncio.ensure_future(database.write(work, durable=True) if way == "write" else database.read(work))
        await entered.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert database._pool.pool.checkedout() > 0
    await until(lambda: that(database._pool.pool.checkedout() == 0), "connections are back")
    assert await count(database) == (1 if way == "write" else 0)
    assert database._pool.pool.checkedin() <= 2


async def test_close_waits_for_pending_units(database):
    asked = [asyncio.ensure_future(database.write(insert(number), durable=True)) for number in range(30)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(database.close())
    await asyncio.sleep(0)
    assert (await refused(database.write(insert(99), durable=True), within_s=3)).message == "the database is closed"
    await closing
    assert await asyncio.gather(*asked) == list(range(30))


async def test_a_bug_is_raised_in_its_caller_and_is_no_outage(database):
    await database.write(insert(1), durable=True)

    def divide(connection) -> None:
        connection.execute(ITEM, {"id": 2})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(divide, durable=True)
    for number in (1, 2**40, "text"):
        with pytest.raises(DBAPIError):
            await database.write(insert(number), durable=True)
    with pytest.raises(DBAPIError):
        await database.write(lambda connection: connection.execute(text("SELECT nonsense")), durable=True)
    assert await count(database) == 1
    assert database._pool.pool.checkedin() == 1, "all of them had the same connection"


async def test_leases_and_pings_do_not_use_the_pool(empty_database):
    store = open_store(empty_database)
    await store.start()
    slow = [asyncio.ensure_future(store._database.write(sleep(1.5), durable=True)) for _ in range(limits.POOL_SIZE)]
    await until(lambda: that(store._database._pool.pool.checkedout() == limits.POOL_SIZE), "the pool is empty")
    await store.ping()
    assert await store.hold_lease("me", 12.0) == []
    await store.release_lease("me")
    assert not any(each.done() for each in slow)
    await asyncio.gather(*slow)
    await store.close()


async def test_a_wait_for_a_connection_ends_at_the_limit(server, monkeypatch):
    monkeypatch.setattr(limits, "POOL_WAIT_S", 0.2)
    database = await opened(server)
    slow = [asyncio.ensure_future(database.write(sleep(2), durable=True)) for _ in range(limits.POOL_SIZE)]
    await until(lambda: that(database._pool.pool.checkedout() == limits.POOL_SIZE), "the pool is empty")
    await refused(call(database, "write"), within_s=1.5)
    await asyncio.gather(*slow)
    await database.close()


async def test_a_deadlocked_unit_is_run_again(database, caplog):
    caplog.set_level("INFO", "parley.store")
    await database.write(insert(1), durable=True)
    await database.write(insert(2), durable=True)
    update = text("UPDATE item SET body = coalesce(body, '') || :by WHERE id = :id")
    arrived = {"a": asyncio.Event(), "b": asyncio.Event()}

    def both(first: int, second: int, *, by: str, other: str):
        def work(connection) -> None:
            connection.execute(update, {"id": first, "by": by})
            arrived[by].set()
            await_only(arrived[other].wait())
            connection.execute(update, {"id": second, "by": by})

        return work

    await asyncio.gather(
        database.write(both(1, 2, by="a", other="b"), durable=True),
        database.write(both(2, 1, by="b", other="a"), durable=True),
    )
    bodies = await database.read(lambda connection: connection.execute(text("SELECT body FROM item")).scalars().all())
    assert [sorted(body) for body in bodies] == [["a", "b"], ["a", "b"]]
    assert [record.message for record in caplog.records] == ["transaction_retried"]


async def test_a_read_sees_one_snapshot(database):
    await database.write(insert(1), durable=True)
    counted = asyncio.Event()

    def twice(connection) -> tuple[int, int]:
        first = connection.execute(COUNT).scalar_one()
        counted.set()
        connection.execute(text("SELECT pg_sleep(0.3)"))
        return first, connection.execute(COUNT).scalar_one()

    reading = asyncio.ensure_future(database.read(twice))
    await counted.wait()
    await database.write(insert(2), durable=True)
    assert await count(database) == 2
    assert await reading == (1, 1)
    with pytest.raises(StorageUnavailable):
        await database.read(insert(3))


async def pids(server) -> list[tuple]:
    """The number of store connections to the table's database."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'parley' AND datname = $1"
    return await server.query(query, ITEMS)
