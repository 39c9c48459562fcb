"""The schema on PostgreSQL: migrations, their result, and that every query uses an index."""

import asyncio
import re
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from parley_server.core.model import ContextPolicy, FinishReason, Overflow, Usage
from parley_server.core.store_types import CancelTarget, ConversationFilter, ConversationUpdate, MessageFilter, Position
from parley_server.store import open_store
from parley_server.store.engine.location import StoreUnusable
from parley_server.store.migrate import MIGRATION_LOCK, SCHEMA_RELEASE, migrate, schema_release
from parley_server.store.schema import metadata
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.contract.conftest import DATABASE
from tests.contract.store_values import (
    ADA,
    NOW_US,
    SHOP,
    acceptance,
    accepted,
    answered,
    chain,
    checkpoint,
    created,
    finalisation,
    summary,
)
from tests.contract.test_store_replicas import LONG_S, OVER_S, owned_by
from tests.ports import free_port
from tests.processes import until

DEFINITIONS = {
    "columns": """SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'""",
    "constraints": """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass""",
    "indexes": """SELECT indexname, indexdef FROM pg_indexes
        WHERE schemaname = 'public' AND tablename <> 'alembic_version'""",
}


@pytest.fixture
def database(postgres):
    """An empty database."""
    name = postgres.create_database()
    yield name
    postgres.drop_database(name)


async def run(url: str, work):
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        return await connection.run_sync(work)


async def waiting(postgres, count: int) -> bool:
    """Whether `count` migrations wait for the lock."""
    return await postgres.query("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'") == [(count,)]


async def definitions(postgres, name: str) -> dict[str, list[tuple]]:
    return {what: sorted(await postgres.query(sql, database=name), key=str) for what, sql in DEFINITIONS.items()}


def test_an_empty_database_is_brought_up_to_the_newest_schema(postgres, database):
    url = postgres.url(database)
    assert schema_release(url) is None
    migrate(url)
    assert schema_release(url) == SCHEMA_RELEASE
    migrate(url)
    assert postgres.rows("SELECT release FROM schema_release", database=database) == [(SCHEMA_RELEASE,)]


async def test_the_migrations_create_the_schema_of_the_code(postgres, database):
    differences = await run(
        postgres.url(DATABASE), lambda each: compare_metadata(MigrationContext.configure(each), metadata)
    )
    assert differences == []
    await run(postgres.url(database), metadata.create_all)
    await postgres.query("CREATE TABLE alembic_version (version_num TEXT)", database=database)
    assert await definitions(postgres, database) == await definitions(postgres, DATABASE)


async def test_concurrent_migrations_run_once(postgres, database):
    code = "import sys; from parley_server.store.migrate import migrate; migrate(sys.argv[1])"
    command = (sys.executable, "-c", code, postgres.url(database))
    async with create_async_engine(postgres.url(database), poolclass=NullPool).connect() as connection:
        await connection.exec_driver_sql(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
        processes = [await asyncio.create_subprocess_exec(*command) for _ in range(3)]
        await until(lambda: waiting(postgres, 3), "all of them wait for their turn")
    assert [await process.wait() for process in processes] == [0, 0, 0]
    assert await postgres.query("SELECT release FROM schema_release", database=database) == [(SCHEMA_RELEASE,)]
    assert await definitions(postgres, database) == await definitions(postgres, DATABASE)


async def test_a_migration_keeps_a_newer_schema_that_it_waited_for(postgres, database):
    url = postgres.url(database)
    await asyncio.to_thread(migrate, url)
    await postgres.query(f"UPDATE schema_release SET release = {SCHEMA_RELEASE - 1}", database=database)

    def newer(connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        connection.exec_driver_sql(f"UPDATE schema_release SET release = {SCHEMA_RELEASE + 1}")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'of a newer release'")

    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(newer)
        migrating = asyncio.ensure_future(asyncio.to_thread(migrate, url))
        await until(lambda: waiting(postgres, 1), "the older one waits")
        await connection.commit()
    await migrating
    assert await asyncio.to_thread(schema_release, url) == SCHEMA_RELEASE + 1
    store = open_store(url)
    await store.start()
    await created(store)
    await store.close()


def test_a_failed_migration_leaves_no_changes(postgres, database):
    postgres.rows('CREATE TABLE "usage" (x INTEGER)', database=database)
    with pytest.raises(StoreUnusable, match="usage"):
        migrate(postgres.url(database))
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert postgres.rows(tables, database=database) == [("usage",)]


async def test_an_interrupted_build_of_indexes_is_finished(postgres, database):
    url = postgres.url(database)
    await asyncio.to_thread(migrate, url)
    for damage in (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'usage_by_user'::regclass",
        "DROP INDEX usage_unrolled",
        "CREATE INDEX reply_by_conversation ON reply (tenant, conversation_id)",
    ):
        await postgres.query(damage, database=database)
    await asyncio.to_thread(migrate, url)
    assert await definitions(postgres, database) == await definitions(postgres, DATABASE)
    assert await postgres.query("SELECT count(*) FROM pg_index WHERE NOT indisvalid", database=database) == [(0,)]


async def test_indexes_are_built_while_servers_write(postgres, database):
    url = postgres.url(database)
    await asyncio.to_thread(migrate, url)
    await postgres.query("DROP INDEX usage_by_tenant", database=database)
    building = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'"

    async def waits_for_writer() -> bool:
        return await postgres.query(building, database=database) == [(1,)]

    writer = create_async_engine(url, poolclass=NullPool)
    async with writer.connect() as first, writer.connect() as second:
        await first.exec_driver_sql("DELETE FROM usage")
        migrating = asyncio.ensure_future(asyncio.to_thread(migrate, url))
        await until(waits_for_writer, "the build waits for a transaction that has written before")
        await second.exec_driver_sql("SET lock_timeout = '1s'")
        await second.exec_driver_sql("DELETE FROM usage")
        await second.commit()
        await first.commit()
    await migrating
    assert await definitions(postgres, database) == await definitions(postgres, DATABASE)


@pytest.mark.parametrize("release", [None, SCHEMA_RELEASE - 1, SCHEMA_RELEASE + 2])
async def test_a_store_does_not_start_on_an_unsupported_schema(postgres, database, release):
    url = postgres.url(database)
    if release is not None:
        await asyncio.to_thread(migrate, url)
        await postgres.query(f"UPDATE schema_release SET release = {release}", database=database)
    store = open_store(url)
    said = "start a newer server" if release == SCHEMA_RELEASE + 2 else "run `parley migrate`"
    with pytest.raises(StoreUnusable, match=said):
        await store.start()
    await store.close()


@pytest.mark.parametrize("ask", [schema_release, migrate])
def test_the_error_for_an_unreachable_server_hides_the_password(postgres, ask):
    for url, problem in (
        (postgres.url("missing").replace("parley@", "parley:secret@"), 'database "missing" does not exist'),
        (f"postgresql+asyncpg://parley:secret@127.0.0.1:{free_port()}/x", "Connect call failed"),
    ):
        with pytest.raises(StoreUnusable, match=problem) as refused:
            ask(url)
        assert "secret" not in str(refused.value)


async def test_no_query_reads_a_whole_table(postgres, cluster_files, database):
    """Checks the server's own EXPLAIN. The store's connections disable sequential scans where an index exists."""
    await asyncio.to_thread(migrate, postgres.url(database))
    for setting in (
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_nested_statements = on",
    ):
        await postgres.query(f"ALTER DATABASE {database} SET {setting}")
    start = postgres.log.stat().st_size
    store = open_store(postgres.url(database))
    await store.start()
    await everything(store)
    await store.close()
    printed = postgres.log.read_bytes()[start:].decode()
    plans = printed.count("Query Text:")
    assert plans > 40
    scanned = {table for table in re.findall(r"Seq Scan on (\w+)", printed) if not table.startswith("pg_")}
    assert scanned == {"schema_release", "replica"}


async def everything(store) -> None:
    """Call each method of the port."""
    conversation = await created(store, ADA, *chain("a", "b"), labels={"a": "b"}, request_id="c")
    running = await accepted(store, conversation)
    await store.append_checkpoints([checkpoint(running, "x")])
    await store.unfinished(10)
    await store.unfinished(10, running.id)
    await store.unfinished_ids()
    await store.standings([running.id])
    await store.request_cancel(ADA, CancelTarget(reply_id=running.id), FinishReason.CANCELLED, "", NOW_US)
    await store.request_cancel(ADA, CancelTarget(request_id="later"), FinishReason.CANCELLED, "", NOW_US)
    target = CancelTarget(conversation_id=conversation.id)
    await store.request_cancel(ADA, target, FinishReason.CANCELLED, "", NOW_US)
    await store.finalise(finalisation(running))
    current = await store.get_conversation(ADA, conversation.id)
    await answered(store, current, parent=conversation.head_message_id, request_id="again")
    await store.find_request(ADA, "again", 0)
    await store.accept(acceptance(current))
    await store.get_reply(ADA, running.id)
    await store.read_turn(ADA, conversation.id, Position(replace=running.message_id), has_input=True)
    summarized = await created(store, ADA, *chain("a", "b", "c"), context=ContextPolicy(overflow=Overflow.SUMMARIZE))
    newest = summary(summarized, summarized.head_message_id)
    await store.add_summary(newest, Usage(), usage_id="u", provider="scripted")
    for new_turn in (True, False):
        await store.read_turn(ADA, summarized.id, Position(), has_input=True, new_turn=new_turn)
    for identity in (ADA, SHOP):
        await store.list_conversations(identity, ConversationFilter(words=("a",), labels={"a": "b"}), 5)
        await store.list_conversations(identity, ConversationFilter(before=(5, "x")), 5)
    for all_branches in (False, True):
        which = MessageFilter(conversation_id=conversation.id, all_branches=all_branches)
        await store.list_messages(ADA, which, 5)
    await store.hold_lease("dead", OVER_S)
    await owned_by(store, "dead")
    await store.hold_lease("me", LONG_S)
    await store.take_over("me", 5)
    await store.release_lease("me")
    await store.update_conversation(ADA, ConversationUpdate(conversation_id=conversation.id, title="t"), NOW_US)
    await store._sweep_some(NOW_US)
    await store.delete_conversation(ADA, conversation.id, "")
