"""Fixtures for real PostgreSQL and Redis servers.

Shared servers start at their first use; tests that break a server use one of their own.
"""

import gc
import os
import signal

import pytest
from parley_server.store.migrate import migrate

from tests.lanes import lanes_of
from tests.needs import skipped_of
from tests.services import PostgresServer, RedisServer, initdb, require_postgres, require_redis

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in background jobs of a shell; child processes would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each server that a test starts would compile its modules again


def pytest_configure(config):
    """Limit which tests run at the same time in a parallel run; at the end, say what was skipped."""
    if skipped := skipped_of(config):
        config.pluginmanager.register(skipped, "parley-skipped")
    if lanes := lanes_of(config):
        config.pluginmanager.register(lanes, "parley-lanes")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect tests without garbage collection, which would look through 7,000 tests and all modules again and again:
    a second of CPU in each process of a parallel run. Later collections leave them out as well."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    """Write the report of a test without garbage collection.

    A report of a failure parses source code. CPython 3.11 fails with "AST constructor recursion depth mismatch" if a
    finaliser logs a traceback meanwhile, and pytest then ends the whole run.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="session")
def postgres_template(tmp_path_factory):
    """Files of a new cluster, for `PostgresServer(folder, template=postgres_template)`."""
    require_postgres()
    return initdb(tmp_path_factory.mktemp("postgres-template"))


@pytest.fixture(scope="session")
def shared_postgres(tmp_path_factory, postgres_template):
    """A PostgreSQL for tests that only create databases of their own."""
    with PostgresServer(tmp_path_factory.mktemp("postgres"), template=postgres_template) as server:
        yield server


@pytest.fixture(scope="session")
def _migrated_template(shared_postgres):
    name = shared_postgres.create_database("migrated")
    migrate(shared_postgres.url(name))
    return name


@pytest.fixture
def empty_postgres_url(shared_postgres):
    """A database without tables."""
    name = shared_postgres.create_database()
    yield shared_postgres.url(name)
    shared_postgres.drop_database(name)


@pytest.fixture
def postgres_url(shared_postgres, _migrated_template):
    """A database with the schema and no rows."""
    name = shared_postgres.create_database(template=_migrated_template)
    yield shared_postgres.url(name)
    shared_postgres.drop_database(name)


@pytest.fixture
def own_postgres(tmp_path, postgres_template):
    """A PostgreSQL to stop, pause and kill."""
    with PostgresServer(tmp_path / "postgres", template=postgres_template) as server:
        yield server


@pytest.fixture(scope="session")
def _shared_redis(tmp_path_factory):
    require_redis()
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def shared_redis(_shared_redis):
    """An empty Redis for tests that leave it running."""
    _shared_redis.clear()
    return _shared_redis


@pytest.fixture
def own_redis(tmp_path):
    """A Redis to stop, pause, kill and configure."""
    require_redis()
    with RedisServer(tmp_path / "redis") as server:
        yield server
