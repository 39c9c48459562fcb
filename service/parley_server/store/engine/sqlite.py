"""The engine on a SQLite file: one writer thread with group commit and two reader threads.

A unit of work runs whole in one thread, so that each transaction, or group of them, costs one hop to the thread and one
back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from parley_server.errors import StorageUnavailable
from parley_server.store.engine.database import ask
from parley_server.store.engine.driver_errors import translate
from parley_server.store.engine.sqlite_writer import (
    SYNCHRONOUS,
    Member,
    SqliteThread,
    SqliteWriter,
    UnitOutcome,
    deliver,
)

BUSY_TIMEOUT_MS = 5_000
# While one thread is busy with a long listing, the other one answers short reads.
READERS = 2

T = TypeVar("T")


class SqliteDatabase:
    """Runs reads in parallel with writes, and writes in the order of their calls."""

    def __init__(self, path: Path) -> None:
        self.writer = open_engine(path, read_only=False)
        self.reader = open_engine(path, read_only=True)
        self._writes: SimpleQueue[Member | None] = SimpleQueue()
        self._reads: SimpleQueue[Member | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._open = False

    def start(self) -> None:
        """Start the threads, which deliver results to the running event loop."""
        loop = asyncio.get_running_loop()
        readers = [SqliteReader(self.reader, self._reads, loop) for _ in range(READERS)]
        self._threads = [
            Thread(target=SqliteWriter(self.writer, self._writes, loop).serve, name="store-writer", daemon=True),
            *[Thread(target=reader.serve, name="store-reader", daemon=True) for reader in readers],
        ]
        for thread in self._threads:
            thread.start()
        self._open = True

    async def read(self, work: Callable[[Connection], T], *, one_state: bool = True) -> T:  # noqa: ARG002 - same cost
        return await self._ask(self._reads, work, durable=False)

    async def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Run `work`; the transaction may be shared: `sqlite_writer` has the rules for `work`."""
        return await self._ask(self._writes, work, durable=durable)

    async def urgent(self, work: Callable[[Connection], T]) -> T:
        """Run `work` as an ordinary write: the one writer's queue is short."""
        return await self.write(work, durable=False)

    async def ping(self) -> None:
        await self.read(ask)

    async def close(self) -> None:
        if not self._open:
            return
        self._open = False
        # The writer ends last, because it empties the write-ahead log, which an open read would prevent.
        writer, *readers = self._threads
        for _ in readers:
            self._reads.put(None)
        for reader in readers:
            await asyncio.to_thread(reader.join)
        self._writes.put(None)
        await asyncio.to_thread(writer.join)

    async def _ask(self, queue: SimpleQueue[Member | None], work: Callable[[Connection], T], *, durable: bool) -> T:
        if not self._open:
            raise StorageUnavailable("the database is closed")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        queue.put(Member(work, durable, answer))
        return await answer


def open_engine(path: Path, *, read_only: bool) -> Engine:
    """An engine that begins transactions itself instead of the driver: BEGIN IMMEDIATE for the writer, BEGIN for
    readers."""
    # No pool: each thread opens one connection and keeps it.
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def _connected(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        # The driver would begin a transaction only at the first write. Two transactions that have read before it would
        # overwrite each other's changes, or fail because the database is locked.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA foreign_keys = ON")  # off by default; erasures delete by foreign keys
        cursor.execute("PRAGMA query_only = ON" if read_only else "PRAGMA journal_mode = WAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if read_only:
            connection.exec_driver_sql("BEGIN")
            return
        _set_synchronous(connection)
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _set_synchronous(connection: Connection) -> None:
    """Set the durability of the next transaction. SQLite ignores this pragma inside a transaction."""
    level = connection.info.get(SYNCHRONOUS, "FULL")
    if connection.info.get("synchronous_is") != level:
        connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
        connection.info["synchronous_is"] = level


class SqliteReader(SqliteThread):
    """Runs reads from the queue in its own thread, until it takes None."""

    def serve(self) -> None:
        """The thread's main function."""
        while (member := self._queue.get()) is not None:
            deliver(self._loop, [self._outcome(member)])
        self._drop()

    def _outcome(self, member: Member) -> UnitOutcome:
        try:
            connection = self._connected()
            with connection.begin():
                return UnitOutcome(member.answer, member.work(connection), failed=False)
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            translated = translate(error)
            if translated is not error:
                self._drop()
            return UnitOutcome(member.answer, translated, failed=True)
