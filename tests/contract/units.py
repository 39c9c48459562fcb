"""Units of work on a table of numbers, for tests of a database engine without a store."""

from __future__ import annotations

import time

import pytest
from parley_server.errors import StorageUnavailable
from parley_server.store.engine.location import postgresql_url
from parley_server.store.engine.postgres import PostgresDatabase
from sqlalchemy import text

ONE = text("SELECT 1")
ITEM = text("INSERT INTO item (id) VALUES (:id)")
COUNT = text("SELECT count(*) FROM item")
ITEMS = "items"
"""The name of the database with the table."""
WAYS = ["read", "alone", "write", "urgent", "ping"]


async def opened(server, url: str = "") -> PostgresDatabase:
    """Open the database with the table of numbers; `url` if it is reached through a proxy."""
    database = PostgresDatabase(postgresql_url(url or server.url(ITEMS)))
    database.start()
    return database


def insert(number: int):
    def work(connection) -> int:
        connection.execute(ITEM, {"id": number})
        return number

    return work


def sleep(seconds: float):
    return lambda connection: connection.execute(text(f"SELECT pg_sleep({seconds})"))


async def count(database) -> int:
    return await database.read(lambda connection: connection.execute(COUNT).scalar_one())


async def call(database, way: str) -> None:
    """Run a query in one of `WAYS`."""

    def one(connection) -> int:
        return connection.execute(ONE).scalar_one()

    if way == "ping":
        await database.ping()
    elif way == "write":
        await database.write(one, durable=True)
    elif way == "urgent":
        await database.urgent(one)
    else:
        await database.read(one, one_state=way == "read")


async def works(calling) -> bool:
    """Whether a call succeeds; False if it raises StorageUnavailable."""
    try:
        await calling
    except StorageUnavailable:
        return False
    return True


async def refused(calling, *, within_s: float) -> StorageUnavailable:
    """The error of a call, which must raise StorageUnavailable in time."""
    began = time.monotonic()
    with pytest.raises(StorageUnavailable) as raised:
        await calling
    assert time.monotonic() - began < within_s
    return raised.value


async def that(value: bool) -> bool:
    """An awaitable constant, for `until`."""
    return value
