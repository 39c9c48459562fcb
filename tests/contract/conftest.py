"""The stores for the contract tests: a SQLite file, and a database on a private PostgreSQL server."""

from __future__ import annotations

import itertools
import shutil
import sqlite3

import pytest
from parley_server.settings import is_sqlite
from parley_server.store import open_store
from parley_server.store.migrate import migrate
from parley_server.store.schema import metadata

from tests.contract.units import ITEMS
from tests.services import PostgresServer, initdb, require_postgres

KINDS = ["sqlite", "postgresql"]
DATABASE = "contract"


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory):
    """An empty migrated database, for tests to copy, since a migration takes longer than most tests."""
    path = tmp_path_factory.mktemp("schema") / "empty.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def cluster_files(tmp_path_factory):
    """The files of a PostgreSQL cluster with a migrated database, for tests to copy, since creation takes seconds."""
    require_postgres()
    folder = tmp_path_factory.mktemp("template")
    server = PostgresServer(folder / "cluster", template=initdb(folder / "initdb")).start()
    server.create_database(DATABASE)
    migrate(server.url(DATABASE))
    server.create_database(ITEMS)
    server.rows("CREATE TABLE item (id INTEGER PRIMARY KEY, body TEXT)", database=ITEMS)
    server.stop("fast")
    return server.data


@pytest.fixture(scope="session")
def postgres(cluster_files, tmp_path_factory):
    """A server shared by all tests that do not stop it."""
    with PostgresServer(tmp_path_factory.mktemp("postgres") / "cluster", template=cluster_files) as server:
        yield server


@pytest.fixture
def own_postgres(cluster_files, tmp_path):
    """A private server for a test that stops it."""
    with PostgresServer(tmp_path / "cluster", template=cluster_files) as server:
        yield server


@pytest.fixture
def empty_database(postgres):
    yield postgres.url(DATABASE)
    tables = ", ".join(table.name for table in metadata.sorted_tables if table.name != "schema_release")
    postgres.rows(f"TRUNCATE {tables}", database=DATABASE)


@pytest.fixture(params=KINDS)
def store_url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("empty_database")
    path = tmp_path / "parley.db"
    shutil.copy(request.getfixturevalue("migrated_file"), path)
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
async def store(store_url):
    opened = open_store(store_url)
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
def query(store_url, request):
    """Runs SQL for checks that the port has no method for; `?` stands for a parameter."""

    def on_sqlite(sql: str, *parameters: object) -> list[tuple]:
        connection = sqlite3.connect(store_url.partition("///")[2])
        try:
            with connection:
                return connection.execute(sql, parameters).fetchall()
        finally:
            connection.close()

    def on_postgresql(sql: str, *parameters: object) -> list[tuple]:
        numbers = itertools.count(1)
        numbered = "".join(f"${next(numbers)}" if character == "?" else character for character in sql)
        return request.getfixturevalue("postgres").rows(numbered, *parameters, database=DATABASE)

    return on_sqlite if is_sqlite(store_url) else on_postgresql
