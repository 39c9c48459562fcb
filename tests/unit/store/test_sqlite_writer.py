"""Group commit: which callers a failure affects, and their errors after a failed commit."""

import asyncio
import sqlite3
import threading

import pytest
from parley_server.core.store_types import Accepted
from parley_server.errors import EtagMismatch, ReplyNotFound, StorageUnavailable
from parley_server.store.engine.location import sqlite_path
from parley_server.store.engine.sqlite import SqliteDatabase
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, OperationalError

from tests.contract.store_values import ADA, acceptance, accepted, created, finalisation

INSERT = text("INSERT INTO item (id) VALUES (:id)")
COUNT = text("SELECT count(*) FROM item")


@pytest.fixture
async def database(tmp_path):
    path = tmp_path / "group.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, body BLOB)")
    connection.close()
    opened = SqliteDatabase(path)
    opened.start()
    yield opened
    await opened.close()


class Commits:
    """Records the writer's transactions. The commits in `fail`, counted from 1, fail "before" or "after" the commit."""

    def __init__(self, database: SqliteDatabase, fail: dict[int, str] | None = None) -> None:
        self.seen: list[str] = []
        self.fail = fail or {}
        event.listen(database.writer, "begin", lambda _: self.seen.append("begin"))
        event.listen(database.writer, "commit", self._commit)
        event.listen(database.writer, "before_cursor_execute", self._execute)

    def _commit(self, connection) -> None:
        self.seen.append("commit")
        when = self.fail.get(self.seen.count("commit"))
        if when == "after":
            connection.connection.dbapi_connection.commit()
        if when is not None:
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))

    def _execute(self, _connection, _cursor, statement, *_) -> None:
        if statement.startswith("PRAGMA synchronous"):
            self.seen.append(statement.rpartition(" ")[2])


async def hold(database: SqliteDatabase) -> threading.Event:
    """Keep the writer busy until the event is set, so that the writes queued meanwhile form one group."""
    entered, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait(_) -> None:
        loop.call_soon_threadsafe(entered.set)
        assert go_on.wait(10)

    held.add(loop.create_task(database.write(wait, durable=False)))
    await entered.wait()
    return go_on


held: set[asyncio.Task] = set()


def insert(number: int):
    def work(connection) -> int:
        connection.execute(INSERT, {"id": number})
        return number

    return work


async def grouped(database, works, durable=()):
    """Run these members as one group and return their outcomes."""
    go_on = await hold(database)
    tasks = [
        asyncio.ensure_future(database.write(work, durable=number in durable)) for number, work in enumerate(works)
    ]
    await asyncio.sleep(0)
    go_on.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def count(database) -> int:
    return await database.read(lambda connection: connection.execute(COUNT).scalar_one())


async def test_writes_that_wait_share_one_commit(database):
    commits = Commits(database)
    assert await grouped(database, [insert(number) for number in range(100)]) == list(range(100))
    assert commits.seen.count("commit") == 2
    assert await count(database) == 100


async def test_a_group_is_bounded(database):
    commits = Commits(database)
    await grouped(database, [insert(number) for number in range(300)])
    assert commits.seen.count("commit") == 3


async def test_members_see_the_writes_of_earlier_members(database):
    def double(connection) -> int:
        return connection.execute(text("SELECT max(id) * 2 FROM item")).scalar_one()

    assert await grouped(database, [insert(3), double, insert(6), double]) == [3, 6, 6, 12]


async def test_one_durable_member_makes_the_group_durable(database):
    commits = Commits(database)
    await grouped(database, [insert(1), insert(2), insert(3)], durable=[1])
    await grouped(database, [insert(4)])
    assert [word for word in commits.seen if word.isupper()] == ["NORMAL", "FULL", "NORMAL"]

    def synchronous(connection) -> int:
        return connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

    assert await database.write(synchronous, durable=True) == 2
    assert await database.write(synchronous, durable=False) == 1


async def test_a_bug_is_raised_only_in_its_own_caller(database):
    def defect(connection) -> None:
        connection.execute(INSERT, {"id": 1000})
        raise ZeroDivisionError

    outcomes = await grouped(database, [insert(1), defect, insert(2), insert(1), insert(3)])
    assert isinstance(outcomes[1], ZeroDivisionError)
    assert isinstance(outcomes[3], IntegrityError)
    assert [outcomes[0], outcomes[2], outcomes[4]] == [1, 2, 3]
    assert await count(database) == 3


async def test_a_refusal_does_not_break_the_group(database):
    commits = Commits(database)

    def refuse(_) -> None:
        raise EtagMismatch("changed")

    outcomes = await grouped(database, [insert(1), refuse, insert(2)])
    assert (outcomes[0], outcomes[2]) == (1, 2)
    assert isinstance(outcomes[1], EtagMismatch)
    assert commits.seen.count("commit") == 2


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_group_whose_commit_failed_is_run_again_one_by_one(database, when):
    commits = Commits(database, {2: when})
    upsert = text("INSERT INTO item (id) VALUES (:id) ON CONFLICT DO NOTHING")

    def member(number):
        return lambda connection: connection.execute(upsert, {"id": number}) and number

    assert await grouped(database, [member(number) for number in range(5)]) == list(range(5))
    assert commits.seen.count("commit") == 7
    assert await count(database) == 5


async def test_a_group_is_given_up_at_the_first_failed_begin(database):
    commits = Commits(database, {2: "before"})

    def refuse(_) -> None:
        if commits.seen.count("commit") == 2:
            raise OperationalError("BEGIN", {}, sqlite3.OperationalError("database is locked"))

    event.listen(database.writer, "begin", refuse)
    outcomes = await grouped(database, [insert(number) for number in range(20)])
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 20
    assert all(outcome.outcome_unknown for outcome in outcomes)
    assert len(set(map(id, outcomes))) == 20, "each caller raises an error of its own"
    assert commits.seen.count("begin") == 3


async def test_a_write_of_a_cancelled_caller_is_committed(database):
    go_on = await hold(database)
    cancelled = asyncio.ensure_future(database.write(insert(1), durable=False))
    other = asyncio.ensure_future(database.write(insert(2), durable=False))
    await asyncio.sleep(0)
    cancelled.cancel()
    go_on.set()
    assert await other == 2
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await count(database) == 2


async def test_close_finishes_pending_writes(tmp_path, database):
    go_on = await hold(database)
    tasks = [asyncio.ensure_future(database.write(insert(number), durable=True)) for number in range(10)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(database.close())
    await asyncio.sleep(0)
    with pytest.raises(StorageUnavailable):
        await database.write(insert(99), durable=False)
    go_on.set()
    await closing
    assert await asyncio.gather(*tasks) == list(range(10))
    wal = tmp_path / "group.db-wal"
    assert not wal.exists() or wal.stat().st_size == 0
    with pytest.raises(StorageUnavailable):
        await database.read(lambda connection: connection.execute(COUNT).scalar_one())


async def test_readers_cannot_write(database):
    with pytest.raises(StorageUnavailable):
        await database.read(insert(1))
    assert await count(database) == 0


async def test_a_read_sees_one_snapshot(database):
    await database.write(insert(1), durable=False)
    loop, counted, written = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def twice(connection) -> tuple[int, int]:
        first = connection.execute(COUNT).scalar_one()
        loop.call_soon_threadsafe(counted.set)
        assert written.wait(10)
        return first, connection.execute(COUNT).scalar_one()

    reading = asyncio.ensure_future(database.read(twice))
    await counted.wait()
    await database.write(insert(2), durable=False)
    assert await count(database) == 2, "a slow reader holds up neither the writer nor the other reader"
    written.set()
    assert await reading == (1, 1)


async def test_writes_work_again_after_a_full_disk(database):
    await database.write(insert(1), durable=True)

    def limit(pages: int):
        return lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar_one()

    def big(connection) -> None:
        connection.execute(text("INSERT INTO item (body) VALUES (zeroblob(1000000))"))

    await database.write(limit(1), durable=False)
    outcomes = await grouped(database, [insert(2), big, insert(3)])
    assert (outcomes[0], outcomes[2]) == (2, 3)
    assert isinstance(outcomes[1], StorageUnavailable)
    assert not outcomes[1].outcome_unknown
    with pytest.raises(StorageUnavailable):
        await database.write(big, durable=True)
    await database.write(limit(1_000_000), durable=False)
    await database.write(big, durable=True)
    assert await count(database) == 4


async def test_a_locked_database_is_unavailable(tmp_path, database):
    def impatient(connection) -> None:
        connection.exec_driver_sql("PRAGMA busy_timeout = 20")

    await database.write(impatient, durable=False)
    intruder = sqlite3.connect(tmp_path / "group.db", isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailable) as refused:
        await database.write(insert(1), durable=True)
    assert not refused.value.outcome_unknown
    intruder.execute("ROLLBACK")
    intruder.close()
    assert await database.write(insert(1), durable=True) == 1


# --- an acceptance whose commit fails


async def test_an_acceptance_whose_commit_failed_once_is_accepted(store):
    for when in ("before", "after"):
        asked = acceptance(await created(store))
        Commits(store._database, {1: when})
        assert await store.accept(asked) == Accepted(reply=asked.reply)
        assert await store.get_reply(ADA, asked.reply.id) == asked.reply


@pytest.mark.parametrize("fail", [("before", "before"), ("after", "before"), ("before", "after")])
async def test_an_acceptance_whose_commit_fails_again_has_an_unknown_outcome(store, fail):
    asked = acceptance(await created(store))
    Commits(store._database, dict(enumerate(fail, 1)))
    with pytest.raises(StorageUnavailable) as unknown:
        await store.accept(asked)
    assert unknown.value.outcome_unknown
    if "after" in fail:
        assert await store.get_reply(ADA, asked.reply.id) == asked.reply
    else:
        with pytest.raises(ReplyNotFound):
            await store.get_reply(ADA, asked.reply.id)
    assert await store.accept(asked) == Accepted(reply=asked.reply)


async def test_an_acceptance_that_cannot_be_repeated_has_an_unknown_outcome(store):
    asked = acceptance(await created(store))
    commits = Commits(store._database, {1: "after"})

    def refuse(_) -> None:
        if "commit" in commits.seen:
            raise OperationalError("BEGIN", {}, sqlite3.OperationalError("database is locked"))

    event.listen(store._database.writer, "begin", refuse)
    with pytest.raises(StorageUnavailable) as unknown:
        await store.accept(asked)
    assert unknown.value.outcome_unknown
    event.remove(store._database.writer, "begin", refuse)
    assert await store.accept(asked) == Accepted(reply=asked.reply)


async def test_a_repeated_finalisation_finds_its_own_text(store):
    reply = await accepted(store, await created(store))
    Commits(store._database, {1: "after"})
    outcome = await store.finalise(finalisation(reply, "mine"))
    assert outcome.reply.message.parts[0].text == "mine"
    assert await store.get_reply(ADA, reply.id) == outcome.reply


async def test_a_corrupt_database_is_unavailable(tmp_path):
    path = tmp_path / "broken.db"
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 100)
    database = SqliteDatabase(sqlite_path(f"sqlite:///{path}"))
    database.start()
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            await database.read(lambda connection: connection.execute(COUNT).scalar_one())
        with pytest.raises(StorageUnavailable):
            await database.write(insert(1), durable=True)
    await database.close()
