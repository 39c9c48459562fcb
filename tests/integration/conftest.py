"""Fixtures for tests of a whole server: a scripted provider, and an App on a real port with a SQLite file."""

import contextlib

import pytest

from tests.clock import ManualClock
from tests.integration.served import fresh_database, serving
from tests.upstream import Upstream


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """The bytes of a database with the schema and no rows."""
    return fresh_database(tmp_path_factory.mktemp("schema") / "parley.db")


@pytest.fixture
async def upstream():
    async with Upstream() as server:
        yield server


@pytest.fixture
async def serve(tmp_path, upstream, empty_database):
    """Starts a server: `await serve(clock=..., provider="...", models="...", max_replies=...)`. `provider`, `models`
    and `access` are lines of TOML, `environment` has further variables; others, except `encryption_keys`, go to
    [server]."""
    (tmp_path / "parley.db").write_bytes(empty_database)
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings):
            return await (await stack.enter_async_context(serving(tmp_path, upstream, **settings)))()

        yield start


@pytest.fixture
async def server(serve):
    """A running server with default settings; it is also a caller without an end user."""
    return await serve()


@pytest.fixture
def clock():
    return ManualClock()
