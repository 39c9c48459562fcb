"""What a transaction of six statements costs: one thread hop per statement (aiosqlite) against one per transaction.

Both run the same SQLAlchemy Core statements on the same schema, with BEGIN IMMEDIATE, WAL and synchronous = FULL.

    pip install aiosqlite greenlet
    python benchmarks/store_hops.py
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import sqlalchemy
import uvloop
from parley_server.core.model import Conversation, Identity, Message, Reply, Role, State, TextPart
from parley_server.core.store_types import NewConversation
from parley_server.store.conversations import create_conversation
from parley_server.store.engine.sqlite import SqliteDatabase
from parley_server.store.migrate import migrate
from parley_server.store.rows import message_values, reply_values
from parley_server.store.schema import conversation, idempotency_key, message, reply
from sqlalchemy import Connection, bindparam, event, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

TRANSACTIONS = 2_000
CONCURRENCY = (1, 32)
RUNS = 5
NOW_US = 1_800_000_000_000_000

FIND = select(conversation).where(conversation.c.tenant == bindparam("t"), conversation.c.id == bindparam("c"))
MOVE = (
    update(conversation)
    .where(conversation.c.tenant == bindparam("t"), conversation.c.id == bindparam("c"))
    .values(next_position=conversation.c.next_position + 1, head_message_id=bindparam("head"))
    .returning(conversation.c.next_position)
)
READ_BACK = select(reply).where(reply.c.id == bindparam("r"))

numbers = itertools.count(1)
Transaction = Callable[[], Awaitable[None]]


def statements(conversation_id: str, number: int) -> list[tuple[object, dict[str, object]]]:
    """An acceptance of a reply that has ended already, so that the conversation can take the next one."""
    place = {"tenant": "t", "end_user": "u", "conversation_id": conversation_id}
    ended = State.COMPLETED
    asked = Reply(id=f"r{number}", **place, message_id=f"a{number}", request_id=f"q{number}", state=ended)
    said = Message(id=f"m{number}", role=Role.USER, parts=(TextPart(text="hello " * 20),), create_time_us=NOW_US)
    key = {"tenant": "t", "end_user": "u", "kind": "reply", "key": f"q{number}", "payload_hash": "h" * 64}
    return [
        (insert(idempotency_key), key | {"resource_id": asked.id, "cancel_reason": "", "expire_time_us": NOW_US}),
        (FIND, {"t": "t", "c": conversation_id}),
        (insert(reply), reply_values(asked)),
        (MOVE, {"t": "t", "c": conversation_id, "head": said.id}),
        (insert(message), message_values(said, position=number, **place)),
        (READ_BACK, {"r": asked.id}),
    ]


def per_transaction(database: SqliteDatabase, names: list[str]) -> Transaction:
    async def run() -> None:
        number = next(numbers)
        batch = statements(names[number % len(names)], number)

        def work(connection: Connection) -> None:
            for statement, parameters in batch:
                result = connection.execute(statement, parameters)
                if result.returns_rows:
                    result.all()

        await database.write(work, durable=True)

    return run


def per_statement(connection: AsyncConnection, names: list[str]) -> Transaction:
    turn = asyncio.Lock()

    async def run() -> None:
        number = next(numbers)
        batch = statements(names[number % len(names)], number)
        async with turn, connection.begin():
            for statement, parameters in batch:
                result = await connection.execute(statement, parameters)
                if result.returns_rows:
                    result.all()

    return run


async def measure(run: Transaction, concurrency: int) -> tuple[float, float, float, float]:
    """Microseconds per transaction: CPU of the process, CPU of the event loop's thread, and latency (p50, p99)."""
    latencies: list[float] = []

    async def worker(count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            await run()
            latencies.append(time.perf_counter() - began)

    await worker(100)
    latencies.clear()
    cpu, loop_cpu = time.process_time(), time.thread_time()
    await asyncio.gather(*(worker(TRANSACTIONS // concurrency) for _ in range(concurrency)))
    count = len(latencies)
    cpu, loop_cpu = time.process_time() - cpu, time.thread_time() - loop_cpu
    p50, p99 = (statistics.quantiles(latencies, n=100)[rank] for rank in (49, 98))
    return cpu / count * 1e6, loop_cpu / count * 1e6, p50 * 1e6, p99 * 1e6


def fill(path: Path) -> list[str]:
    """A database with 100 conversations; their ids."""
    migrate(f"sqlite:///{path}")
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    names = [f"c{number}" for number in range(100)]
    with engine.begin() as connection:
        for name in names:
            made = Conversation(id=name, tenant="t", end_user="u", create_time_us=NOW_US)
            owner = Identity(tenant="t", end_user="u")
            create_conversation(connection, NewConversation(identity=owner, conversation=made, now_us=NOW_US))
    engine.dispose()
    return names


async def run_store(path: Path, concurrency: int) -> tuple[float, float, float, float]:
    names = fill(path)
    database = SqliteDatabase(path)
    database.start()
    try:
        return await measure(per_transaction(database, names), concurrency)
    finally:
        await database.close()


async def run_aiosqlite(path: Path, concurrency: int) -> tuple[float, float, float, float]:
    names = fill(path)
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")

    @event.listens_for(engine.sync_engine, "connect")
    def _connected(connection, _) -> None:  # noqa: ANN001 - the driver's own types
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", "foreign_keys = ON", "synchronous = FULL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection) -> None:  # noqa: ANN001 - the driver's own types
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    async with engine.connect() as connection:
        result = await measure(per_statement(connection, names), concurrency)
    await engine.dispose()
    return result


def main() -> None:
    print(f"Python {sys.version.split()[0]}, SQLAlchemy {sqlalchemy.__version__}, SQLite {sqlite3.sqlite_version}")
    print("microseconds per transaction of 6 statements, median of runs:  CPU  CPU of the loop  p50  p99")
    for concurrency in CONCURRENCY:
        for name, run in (("a hop per statement", run_aiosqlite), ("a hop per transaction", run_store)):
            results = []
            for _ in range(RUNS):
                with tempfile.TemporaryDirectory() as folder:
                    results.append(uvloop.run(run(Path(folder) / "hops.db", concurrency)))
            medians = (statistics.median(column) for column in zip(*results, strict=True))
            print(f"{concurrency:>3} at once, {name:<22}", *(f"{value:>8.0f}" for value in medians), flush=True)


if __name__ == "__main__":
    main()
