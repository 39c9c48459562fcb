"""Group commit for SQLite: writes that queue up during a commit share the next commit, and so its fsync.

A unit of work must be safe to repeat, since the units of a failed group are run again one by one. It refuses by
returning an outcome or by raising a `ParleyError`, in both cases before its first write. Any other exception fails the
group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from parley_server.errors import ParleyError
from parley_server.store.engine.driver_errors import translate

# Limits the wait of the first member in a group, and the work that is repeated if the group fails.
GROUP_SIZE = 256
SYNCHRONOUS = "synchronous"
"""Key of `Connection.info`: the value of `PRAGMA synchronous` that the next transaction needs."""


class Member(NamedTuple):
    """A unit of work, and the future that receives its result."""

    work: Callable[[Connection], Any]
    durable: bool
    answer: asyncio.Future[Any]


class UnitOutcome(NamedTuple):
    """The result for a member's caller; with `failed`, an exception to raise."""

    answer: asyncio.Future[Any]
    value: Any
    failed: bool


class UnitFailed(Exception):
    """A group failed in phase "begin", "work" or "commit". After "commit" it may nevertheless be committed."""

    def __init__(self, phase: str, error: Exception) -> None:
        super().__init__(phase)
        self.phase = phase
        self.error = error


def deliver(loop: asyncio.AbstractEventLoop, outcomes: Sequence[UnitOutcome]) -> None:
    """Hand all results to the event loop in one step. Cancelled callers are skipped."""
    try:
        loop.call_soon_threadsafe(_settle, outcomes)
    except RuntimeError:  # a process that ends has closed its loop, and nobody waits for the results
        if not loop.is_closed():
            raise


def _settle(outcomes: Sequence[UnitOutcome]) -> None:
    for answer, value, failed in outcomes:
        if answer.done():
            continue
        if failed:
            answer.set_exception(value)
        else:
            answer.set_result(value)


class SqliteThread:
    """The queue of a thread, and its connection, which is opened on first use and again after an error."""

    def __init__(self, engine: Engine, queue: SimpleQueue[Member | None], loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._queue = queue
        self._loop = loop
        self._connection: Connection | None = None

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _drop(self) -> None:
        """Close the connection and any open transaction."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()


class SqliteWriter(SqliteThread):
    """The thread that runs all writes: takes members from the queue in order, until it takes None."""

    def serve(self) -> None:
        """The thread's main function."""
        stopped = False
        while not stopped:
            group, stopped = self._next_group()
            if group:
                deliver(self._loop, self._run(group))
        self._checkpoint()
        self._drop()

    def _next_group(self) -> tuple[list[Member], bool]:
        group: list[Member] = []
        member = self._queue.get()
        while member is not None:
            group.append(member)
            if len(group) == GROUP_SIZE:
                return group, False
            try:
                member = self._queue.get_nowait()
            except Empty:
                return group, False
        return group, True

    def _run(self, group: list[Member]) -> list[UnitOutcome]:
        try:
            return self._transaction(group)
        except UnitFailed as failed:
            # Without BEGIN no member has run, and the error of a single member is its own. Otherwise one member failed
            # the group, or the commit has failed: each is run again alone.
            if failed.phase == "begin" or (failed.phase == "work" and len(group) == 1):
                return [_failed(member, failed.error) for member in group]
            return self._run_one_by_one(group, may_be_committed=failed.phase == "commit")

    def _run_one_by_one(self, group: list[Member], *, may_be_committed: bool) -> list[UnitOutcome]:
        """Run each member in its own transaction. If one cannot be begun, the rest fail too, because each attempt may
        wait seconds for a lock."""
        outcomes: list[UnitOutcome] = []
        while len(outcomes) < len(group):
            member = group[len(outcomes)]
            try:
                outcomes += self._transaction([member])
            except UnitFailed as failed:
                unknown = may_be_committed or failed.phase == "commit"
                given_up = group[len(outcomes) :] if failed.phase == "begin" else [member]
                outcomes += [_failed(each, failed.error, outcome_unknown=unknown) for each in given_up]
        return outcomes

    def _transaction(self, group: list[Member]) -> list[UnitOutcome]:
        # One fsync serves the whole group, so a member that must survive a loss of power makes all of them do so.
        connection = self._begin(durable=any(member.durable for member in group))
        phase = "work"
        try:
            outcomes = [_outcome(connection, member) for member in group]
            phase = "commit"
            connection.commit()
        except Exception as error:  # includes bugs of a member, which its caller must see
            self._roll_back(connection, keep=phase == "work")
            raise UnitFailed(phase, error) from error
        return outcomes

    def _begin(self, *, durable: bool) -> Connection:
        try:
            connection = self._connected()
            connection.info[SYNCHRONOUS] = "FULL" if durable else "NORMAL"
            connection.begin()
        except Exception as error:
            self._drop()
            raise UnitFailed("begin", error) from error
        return connection

    def _roll_back(self, connection: Connection, *, keep: bool) -> None:
        try:
            connection.rollback()
        except DBAPIError:
            keep = False
        if not keep:
            self._drop()

    def _checkpoint(self) -> None:
        """Move the write-ahead log into the database file, so that the file can be copied alone. If that fails, no data
        is lost: SQLite reads the log at the next start."""
        if self._connection is None:
            return
        with suppress(self._engine.dialect.loaded_dbapi.Error):
            cursor = self._connection.connection.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.close()


def _failed(member: Member, error: Exception, *, outcome_unknown: bool = False) -> UnitOutcome:
    return UnitOutcome(member.answer, translate(error, outcome_unknown=outcome_unknown), failed=True)


def _outcome(connection: Connection, member: Member) -> UnitOutcome:
    try:
        return UnitOutcome(member.answer, member.work(connection), failed=False)
    except ParleyError as refusal:
        return UnitOutcome(member.answer, refusal, failed=True)
