"""What the store asks of a database, and what each kind of one promises.

A unit of work is a plain function of a connection. It must be fit to run again, and refuses before it has written.
Where units run side by side, they lock rows in one order, so that they wait for one another but never in a circle:

1. the row of an idempotency key (accept, create, cancel by request);
2. the row of a replica (renewal, takeover);
3. rows of running replies: the claim on a conversation, which is an entry of a unique index (accept), or the row itself
   (finalise, cancel, checkpoints: by their ids; takeover: those that nobody has locked);
4. the row of a conversation (accept, finalise, update), then those of its messages (accept).

An erasure begins with the last, FOR UPDATE, then finds no reply running, and takes what is below: rows of replies that
have ended, which nobody keeps locked while waiting for a conversation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection, Integer, literal_column, select

_PING = select(literal_column("1", Integer))

T = TypeVar("T")


class Database(Protocol):
    """Runs units of work, each in one transaction. A caller that is cancelled while it waits does not stop its unit.

    Errors of the driver come as `StorageUnavailable`, in bounded time, with `outcome_unknown` where the commit failed.
    """

    def start(self) -> None:
        """Be ready for calls, from the running event loop."""

    async def read(self, work: Callable[[Connection], T], *, one_state: bool = True) -> T:
        """Run `work`, which changes nothing, and sees one state of the database. Without `one_state`, each of its
        statements sees a state of its own, which costs less."""

    async def write(
        self, work: Callable[[Connection], T], *, durable: bool, prepared: Callable[[T], None] | None = None
    ) -> T:
        """Run `work`, all of it or nothing. It survives a killed process; with `durable`, a loss of power.

        `prepared` is called in the event loop with the result, just before the commit, which may still fail."""

    async def urgent(self, work: Callable[[Connection], T]) -> T:
        """Run a write of a statement or two, whatever else this process is asking of the database."""

    async def ping(self) -> None:
        """Ask whether the database is there, whatever else this process is asking of it."""

    async def close(self) -> None:
        """Finish what was asked for. Later calls are refused."""


def ask(connection: Connection) -> None:
    """The unit of work that is nothing but a question."""
    connection.execute(_PING)
