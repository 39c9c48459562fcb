"""The interface of a database engine, and the order in which units of work lock rows.

A unit of work is a plain function of a connection. The engine may run it more than once, so it must be safe to repeat,
and it must refuse before its first write. Units run concurrently on PostgreSQL. All of them lock rows in this order, so
that they cannot deadlock:

1. the row of an idempotency key (accept, create, cancel by request);
2. the row of a replica (renewal, takeover);
3. rows of running replies: the claim on a conversation, which is an entry of a unique index (accept), or the row itself
   (finalise, cancel, checkpoints: ordered by id; takeover: skips locked rows);
4. rows of quotas: of users before those of tenants, then by period (accept holds, finalise settles);
5. the row of a conversation (accept, finalise, update), then the rows of its messages (accept) or of a summary.

An erasure locks the conversation's row first (FOR UPDATE), checks that no reply is running, then deletes the rows below
it. The order is safe: those are rows of replies that have ended, and no unit keeps one of them locked while it waits
for a conversation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection, Integer, literal_column, select

_PING = select(literal_column("1", Integer))

T = TypeVar("T")


class Database(Protocol):
    """Runs units of work, each in one transaction. Cancelling a caller does not stop its unit.

    Driver errors are raised as `StorageUnavailable` within bounded time, with `outcome_unknown` if the commit failed.
    """

    def start(self) -> None:
        """Accept calls from the running event loop."""

    async def read(self, work: Callable[[Connection], T], *, one_state: bool = True) -> T:
        """Run `work`, which only reads.

        With `one_state` all its statements see the same snapshot of the database. Without it each statement sees its
        own snapshot, which is cheaper."""

    async def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Run `work`, all of it or nothing. It survives a killed process; with `durable`, a loss of power."""

    async def urgent(self, work: Callable[[Connection], T]) -> T:
        """Run a short write (one or two statements) without queueing behind this process's other calls."""

    async def ping(self) -> None:
        """Check that the database answers, without queueing behind this process's other calls."""

    async def close(self) -> None:
        """Finish the pending units, then close. Later calls raise `StorageUnavailable`."""


def ask(connection: Connection) -> None:
    """The unit of work of `ping`: the cheapest query."""
    connection.execute(_PING)
