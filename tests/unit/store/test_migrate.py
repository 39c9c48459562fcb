"""Migrations on SQLite, and the schema releases that the code accepts."""

import asyncio
import re
import sqlite3
import subprocess
import sys

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from parley_server.core.events import TextDelta
from parley_server.core.model import TextPart
from parley_server.core.store_types import Position
from parley_server.store import open_store
from parley_server.store.engine.location import StoreUnusable
from parley_server.store.engine.sqlite import open_engine
from parley_server.store.migrate import SCHEMA_RELEASE, _configuration, check_schema, migrate, schema_release
from parley_server.store.rows import json_text
from parley_server.store.schema import metadata

from tests.contract.store_values import ADA, finalisation


def test_an_empty_database_is_brought_up_to_the_newest_schema(path):
    url = f"sqlite+aiosqlite:///{path}"
    assert schema_release(url) is None
    assert not path.exists(), "asking makes no file"
    migrate(url)
    assert schema_release(url) == SCHEMA_RELEASE
    migrate(url)
    assert schema_release(url) == SCHEMA_RELEASE


def test_a_path_may_contain_any_characters(tmp_path):
    path = tmp_path / "100% ours #1 é.db"
    migrate(f"sqlite:///{path}")
    assert path.exists()
    assert schema_release(f"sqlite+aiosqlite:///{path}") == SCHEMA_RELEASE


def test_a_database_file_without_tables_has_no_release(path):
    path.touch()
    assert schema_release(f"sqlite:///{path}") is None


def test_the_migrations_create_the_schema_of_the_code(url, path):
    engine = open_engine(path, read_only=True)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_migrated_tables_equal_the_metadata_literally(url, path, tmp_path):
    """Compares the SQL text, because Alembic ignores checks, conditions of partial indexes and table options."""
    direct = tmp_path / "direct.db"
    engine = open_engine(direct, read_only=False)
    with engine.begin() as connection:
        metadata.create_all(connection)
    assert _definitions(path) == _definitions(direct)


def _definitions(path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {name: re.sub(r"\s+", " ", sql) for name, sql in rows if name != "alembic_version"}


def test_a_failed_migration_leaves_no_changes(path):
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE "usage" (x)')
    connection.close()
    with pytest.raises(StoreUnusable, match="usage"):
        migrate(f"sqlite:///{path}")
    assert list(_definitions(path)) == ["usage"]


@pytest.mark.parametrize(("release", "owner"), [(1, ""), (2, "them")])
async def test_rows_of_older_releases_are_kept(path, release, owner):
    """Rows as the code of that release writes them: with named columns, without those of later releases."""
    _migrate_to(path, f"{release:04}")
    url = f"sqlite:///{path}"
    assert schema_release(url) == release
    reply = OLD_REPLY | ({"owner": owner} if owner else {})
    _insert(path, *OLD_ROWS, ("reply", reply), ("checkpoint", OLD_CHECKPOINT))
    with pytest.raises(StoreUnusable, match=f"schema release {release}, and this server needs 3: run `parley migrate`"):
        await open_store(url).start()
    await asyncio.to_thread(migrate, url)
    assert schema_release(url) == SCHEMA_RELEASE

    store = open_store(url)
    await store.start()
    (left,) = await store.unfinished(10)
    assert (left.reply.id, left.reply.owner, left.entries) == ("r1", owner, (TextDelta("old text"),))
    assert (left.prompt_tokens, left.reply.ignored_settings) == (0, ())
    assert (await store.finalise(finalisation(left.reply))).won
    assert (await store.get_conversation(ADA, "c1")).head_message_id == "a1"
    turn = await store.read_turn(ADA, "c1", Position(), has_input=True)
    assert [each.id for each in turn.path] == ["m1", "a1"]
    # The older release may still write to the new schema.
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE reply SET id = 'r0'")
    _insert(path, ("reply", reply), ("usage", OLD_USAGE))
    assert [each.reply.owner for each in await store.take_over("me", 10)] == ["me"]
    await store.close()
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT reply_id, cache_write_tokens, kind, rolled FROM usage").fetchall()
    connection.close()
    assert sorted(rows) == [("r1", 0, "reply", 0), ("u1", 0, "reply", 0)]


def _insert(path, *rows) -> None:
    with sqlite3.connect(path) as connection:
        for table, row in rows:
            names = ", ".join(row)
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", [*row.values()])
    connection.close()


def _migrate_to(path, revision: str) -> None:
    configuration = _configuration()
    with open_engine(path, read_only=False).begin() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, revision)


OLD_REPLY = {
    "id": "r1",
    "tenant": "shop",
    "end_user": "ada",
    "conversation_id": "c1",
    "request_id": "q1",
    "message_id": "a1",
    "parent_message_id": "m1",
    "input_message_ids": "[]",
    "epoch": 1,
    "state": "STREAMING",
    "provider_reason": "",
    "requested_model": "fast",
    "model": "fast",
    "provider": "scripted",
    "last_sequence": 0,
    "cancel_reason": "",
    "create_time_us": 1,
    "first_token_time_us": 2,
    "end_time_us": 0,
    "labels": "{}",
}
OLD_ROWS = [
    (
        "conversation",
        {
            "tenant": "shop",
            "id": "c1",
            "end_user": "ada",
            "head_message_id": "m1",
            "next_position": 2,
            "version": 1,
            "create_time_us": 1,
            "update_time_us": 1,
            "model": "",
            "context": "{}",
            "labels": "{}",
            "title": "",
            "title_folded": "",
            "system": "[]",
            "post_system": "",
        },
    ),
    (
        "message",
        {
            "id": "m1",
            "tenant": "shop",
            "end_user": "ada",
            "conversation_id": "c1",
            "parent_id": "",
            "position": 1,
            "role": "USER",
            "partial": 0,
            "failed": 0,
            "create_time_us": 1,
            "size_bytes": 30,
            "parts": json_text((TextPart(text="hello"),)),
        },
    ),
]
OLD_CHECKPOINT = {
    "reply_id": "r1",
    "epoch": 1,
    "from_sequence": 1,
    "to_sequence": 1,
    "tenant": "shop",
    "end_user": "ada",
    "entries": json_text((TextDelta("old text"),)),
}
OLD_USAGE = {
    "reply_id": "u1",
    "tenant": "shop",
    "end_user": "ada",
    "model": "fast",
    "provider": "scripted",
    "state": "COMPLETED",
    "prompt_tokens": 1,
    "cached_prompt_tokens": 0,
    "completion_tokens": 1,
    "reasoning_tokens": 0,
    "estimated": 0,
    "create_time_us": 1,
    "first_token_time_us": 2,
    "end_time_us": 3,
    "text_length": 4,
}


@pytest.mark.parametrize("release", [SCHEMA_RELEASE, SCHEMA_RELEASE + 1])
def test_the_codes_own_release_and_the_next_are_accepted(release):
    check_schema(release)


@pytest.mark.parametrize(
    ("release", "message"),
    [
        (None, "the database has no schema, and this server needs 3: run `parley migrate`"),
        (2, "the database has schema release 2, and this server needs 3: run `parley migrate`"),
        (
            5,
            "the database has schema release 5, and this server has 3 and runs on 4 at most: start a newer server",
        ),
    ],
)
def test_other_releases_are_refused(release, message):
    with pytest.raises(StoreUnusable, match=f"^{re.escape(message)}$"):
        check_schema(release)


async def test_a_store_does_not_start_on_an_unknown_schema(url, path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_release SET release = 9")
    connection.close()
    store = open_store(url)
    with pytest.raises(StoreUnusable, match="schema release 9"):
        await store.start()
    await store.close()


async def test_a_schema_one_release_newer_is_used_unchanged(url, path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_release SET release = 4")
    connection.close()
    migrate(url)
    assert schema_release(url) == 4
    store = open_store(url)
    await store.start()
    await store.ping()
    await store.close()


async def test_a_store_does_not_start_without_a_schema(path):
    store = open_store(f"sqlite:///{path}")
    with pytest.raises(StoreUnusable, match="run `parley migrate`"):
        await store.start()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql+aiomysql://u:secret@db/parley", r"kind 'mysql\+aiomysql' is not supported"),
        ("postgresql+psycopg://u:secret@db/parley", r"kind 'postgresql\+psycopg' is not supported"),
        ("postgresql+asyncpg://u:secret@db:port/parley", "is invalid"),
        ("sqlite+aiosqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("parley.db", "is invalid"),
    ],
)
def test_the_error_for_an_invalid_url_hides_the_password(url, message):
    with pytest.raises(StoreUnusable, match=message) as refused:
        open_store(url)
    assert "secret" not in str(refused.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(StoreUnusable, match=r"folder .*missing"):
        migrate(f"sqlite:///{tmp_path}/missing/parley.db")


def test_a_file_that_is_no_database_is_refused(path):
    path.write_bytes(b"certainly no database, however long it is" * 100)
    with pytest.raises(StoreUnusable, match="file is not a database"):
        schema_release(f"sqlite:///{path}")


def test_alembic_is_not_imported_until_it_is_needed():
    code = "import sys, parley_server.store.migrate; sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
