"""PostgreSQL is stopped, killed, paused, restarted or cut off: calls fail within bounded time, and work again
afterwards without a restart.
"""

import asyncio
import time

import asyncpg
import pytest
from parley_server.core.store_types import Accepted, ConversationFilter
from parley_server.errors import ReplyNotFound, StorageUnavailable
from parley_server.store import open_store
from parley_server.store.engine import postgres
from parley_server.store.engine.location import StoreUnusable
from sqlalchemy import event, text

from tests.contract.conftest import DATABASE
from tests.contract.store_values import ADA, acceptance, accepted, created, finalisation
from tests.contract.units import ITEM, ITEMS, WAYS, call, count, opened, refused, that, works
from tests.processes import until
from tests.proxy import Proxy
from tests.services import PostgresServer


async def opened_store(url):
    store = open_store(url)
    await store.start()
    return store


@pytest.fixture
async def store(own_postgres):
    opened = await opened_store(own_postgres.url(DATABASE))
    yield opened
    await opened.close()


@pytest.fixture
async def database(own_postgres):
    made = await opened(own_postgres)
    yield made
    await made.close()


@pytest.mark.parametrize("way", WAYS)
async def test_an_absent_server_is_reported_at_once_and_used_when_it_returns(database, own_postgres, way):
    for stop in (own_postgres.stop, own_postgres.kill9):
        await call(database, way)
        stop()
        for _ in range(3):
            assert not (await refused(call(database, way), within_s=3)).outcome_unknown
        own_postgres.start()
        await call(database, way)


async def test_after_a_restart_no_call_fails(database, own_postgres):
    for restart in (own_postgres.restart, lambda: (own_postgres.kill9(), own_postgres.start())):
        await asyncio.gather(*(call(database, way) for way in WAYS for _ in range(10)))
        restart()
        await asyncio.gather(*(call(database, way) for way in WAYS for _ in range(10)))


async def test_a_connection_that_breaks_before_the_commit_is_retried(database, own_postgres):
    tries: list[int] = []

    def work(connection) -> None:
        connection.execute(ITEM, {"id": 1})
        tries.append(1)
        if len(tries) == 1:
            own_postgres.restart()
        connection.execute(ITEM, {"id": 2})

    await database.write(work, durable=True)
    assert len(tries) == 2
    assert await count(database) == 2


async def test_a_connection_that_keeps_breaking_is_given_up(database):
    def work(connection) -> None:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    assert not (await refused(database.write(work, durable=True), within_s=3)).outcome_unknown
    await call(database, "write")


async def test_a_stop_under_load_raises_storage_unavailable_and_keeps_acknowledged_writes(store, own_postgres):
    """A returned outcome is stored. A failed call is stored completely or not at all, and may be repeated."""
    accepted: list[str] = []
    unsure: list = []
    going = True

    async def talk() -> None:
        while going:
            conversation = None
            try:
                conversation = await created(store)
                asked = acceptance(conversation)
                outcome = await store.accept(asked)
                assert isinstance(outcome, Accepted)
                accepted.append(outcome.reply.id)
            except StorageUnavailable as error:
                if conversation is not None and error.outcome_unknown:
                    unsure.append(asked)
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as talking:
        for _ in range(12):
            talking.create_task(talk())
        for stop in (own_postgres.stop, own_postgres.kill9, lambda: own_postgres.stop("immediate")):
            before = len(accepted)
            await until(lambda before=before: that(len(accepted) > before + 20), "acceptances go on")
            await asyncio.to_thread(stop)
            await asyncio.sleep(0.05)
            await asyncio.to_thread(own_postgres.start)
        before = len(accepted)
        await until(lambda: that(len(accepted) > before + 20), "acceptances go on")
        going = False
    assert set(accepted) <= set(await store.unfinished_ids())
    for asked in unsure:
        assert isinstance(await store.accept(asked), Accepted)


async def test_calls_on_a_paused_server_fail_within_the_limit(database, own_postgres, monkeypatch):
    """With the real limits, for a running statement, calls that open a connection, and calls that wait for one."""
    await asyncio.gather(*(call(database, "write") for _ in range(postgres.POOL_SIZE)), call(database, "ping"))
    await asyncio.to_thread(own_postgres.pause)
    limit_s = max(postgres.POOL_WAIT_S, postgres.STATEMENT_S) + 2.5
    calls = [refused(call(database, "write"), within_s=limit_s) for _ in range(3 * postgres.POOL_SIZE)]
    calls += [refused(call(database, "ping"), within_s=postgres.URGENT_S + 2.5)]
    assert not any(error.outcome_unknown for error in await asyncio.gather(*calls))
    await asyncio.to_thread(own_postgres.resume)
    await asyncio.gather(*(call(database, way) for way in WAYS for _ in range(10)))


async def test_close_does_not_wait_for_a_paused_server(database, own_postgres):
    await asyncio.gather(*(call(database, "write") for _ in range(postgres.POOL_SIZE)), call(database, "ping"))
    await asyncio.to_thread(own_postgres.pause)
    began = time.monotonic()
    await database.close()
    assert time.monotonic() - began < postgres.CLOSE_S + 2


# --- commits


class Wire:
    """A store behind a proxy. The next commit reaches the server, and its answer is lost."""

    def __init__(self, server, proxy: Proxy) -> None:
        self._server = server
        self._proxy = proxy

    async def lose_answer(self, store, asked, how: str) -> StorageUnavailable:
        event.listen(store._database._pool.sync_engine, "commit", lambda _: self._slow_down(), once=True)
        task = asyncio.ensure_future(store.accept(asked))
        await until(lambda: self._stored(asked.reply.id), "committed")
        if how == "reset":
            await self._proxy.reset()
        else:
            self._proxy.stall()
        with pytest.raises(StorageUnavailable) as raised:
            await task
        self._proxy.latency_s = 0
        await self._proxy.restore()
        return raised.value

    def _slow_down(self) -> None:
        self._proxy.latency_s = 0.4

    async def _stored(self, reply_id: str) -> bool:
        return bool(await self._server.query("SELECT 1 FROM reply WHERE id = $1", reply_id, database=DATABASE))


@pytest.mark.parametrize("how", ["reset", "stall"])
async def test_a_commit_whose_answer_is_lost_has_an_unknown_outcome(postgres_behind_proxy, monkeypatch, how):
    server, proxy = postgres_behind_proxy
    monkeypatch.setattr(postgres, "STATEMENT_S", 1.0)
    store = await opened_store(server.url(DATABASE, port=proxy.port))
    asked = acceptance(await created(store))
    problem = await Wire(server, proxy).lose_answer(store, asked, how)
    assert problem.outcome_unknown
    assert await store.get_reply(ADA, asked.reply.id) == asked.reply
    assert await store.accept(asked) == Accepted(reply=asked.reply)
    await store.close()


@pytest.fixture
async def postgres_behind_proxy(own_postgres):
    async with Proxy(own_postgres.port) as proxy:
        yield own_postgres, proxy


async def test_a_commit_that_never_reached_the_server_has_an_unknown_outcome_too(store, own_postgres):
    asked = acceptance(await created(store))
    event.listen(store._database._pool.sync_engine, "commit", lambda _: own_postgres.restart(), once=True)
    with pytest.raises(StorageUnavailable) as raised:
        await store.accept(asked)
    assert raised.value.outcome_unknown
    with pytest.raises(ReplyNotFound):
        await store.get_reply(ADA, asked.reply.id)
    assert await store.accept(asked) == Accepted(reply=asked.reply)


async def test_a_finalisation_whose_commit_was_lost_may_be_repeated(store, own_postgres):
    reply = await accepted(store, await created(store))
    await store._sweep  # its commit would also be counted
    event.listen(store._database._pool.sync_engine, "commit", lambda _: own_postgres.restart(), once=True)
    with pytest.raises(StorageUnavailable) as raised:
        await store.finalise(finalisation(reply))
    assert raised.value.outcome_unknown
    assert (await store.finalise(finalisation(reply))).won


# --- a server that refuses


async def test_only_the_first_call_after_a_silent_loss_fails(postgres_behind_proxy, monkeypatch):
    """The connections are lost without a FIN: the first call that times out drops them all, the next one opens a new
    one."""
    server, proxy = postgres_behind_proxy
    monkeypatch.setattr(postgres, "STATEMENT_S", 0.5)
    monkeypatch.setattr(postgres, "CONNECT_S", 0.5)
    database = await opened(server, server.url(ITEMS, port=proxy.port))
    await asyncio.gather(*(call(database, "write") for _ in range(postgres.POOL_SIZE)))
    proxy.stall()
    await refused(call(database, "write"), within_s=3)
    silent = proxy.accepted
    await proxy.restore()
    await asyncio.gather(*(call(database, "write") for _ in range(postgres.POOL_SIZE)))
    assert proxy.accepted - silent >= postgres.POOL_SIZE, "none of the old ones was trusted again"
    await database.close()


async def test_too_many_connections_is_storage_unavailable(cluster_files, tmp_path):
    settings = {"max_connections": "6", "superuser_reserved_connections": "0", "max_wal_senders": "0"}
    with PostgresServer(tmp_path / "small", template=cluster_files, settings=settings) as server:
        database = await opened(server)
        hogs = [await asyncpg.connect(server.url().replace("+asyncpg", "")) for _ in range(6)]
        assert not (await refused(call(database, "write"), within_s=3)).outcome_unknown
        await hogs.pop().close()
        await until(lambda: works(call(database, "write")), "a connection is free")
        await asyncio.gather(*(each.close() for each in hogs))
        await database.close()


async def test_a_standby_is_unavailable_until_it_is_promoted(database, own_postgres):
    upsert = text("INSERT INTO item (id) VALUES (1) ON CONFLICT DO NOTHING")

    async def write() -> None:
        await database.write(lambda connection: connection.execute(upsert), durable=True)

    async def is_refused() -> bool:
        return not await works(write())

    await write()
    await _set_read_only(own_postgres, "on")
    await until(is_refused, "writes are refused")
    assert not (await refused(write(), within_s=3)).outcome_unknown
    await call(database, "read")
    await _set_read_only(own_postgres, "off")
    await until(lambda: works(write()), "writes are accepted")


async def _set_read_only(server, word: str) -> None:
    await server.query(f"ALTER SYSTEM SET default_transaction_read_only = {word}")
    await server.query("SELECT pg_reload_conf()")


async def test_a_database_that_does_not_exist_is_unavailable(own_postgres):
    database = await opened(own_postgres, own_postgres.url("missing"))
    await refused(call(database, "write"), within_s=3)
    await database.close()


async def test_a_store_does_not_start_while_its_server_is_unreachable(own_postgres):
    own_postgres.stop()
    store = open_store(own_postgres.url(DATABASE))
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        await store.start()
    own_postgres.start()
    await store.start()
    assert (await store.list_conversations(ADA, ConversationFilter(), 5)).conversations == ()
    await store.close()
