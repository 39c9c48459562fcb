"""Replicas: leases by the database's clock, and the ownership of replies.

A renewal and a takeover both lock the replica's row, so that one waits for the other. They lock it before any reply's
row.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Delete,
    Integer,
    Select,
    Text,
    Update,
    bindparam,
    delete,
    exists,
    literal_column,
    select,
    text,
    update,
)

from parley_server import __version__
from parley_server.core.model import FinishReason, State
from parley_server.core.store_types import Standing, Unfinished
from parley_server.store.engine.dialect import AnyRow, Insert, Sought, insert, listed, listed_values, now_us
from parley_server.store.replies import UNFINISHED_COLUMNS, unfinished_of
from parley_server.store.schema import replica, reply, reply_active

logger = logging.getLogger("parley.store")

_NAME = "parley "
_THIS = replica.c.id == bindparam("of_replica", type_=Sought())
_OTHERS = bindparam("of_replica", type_=Text)
_NEVER = literal_column("0", BigInteger)
_STANDING = select(
    reply.c.id, reply.c.owner, reply.c.epoch, reply.c.state, reply.c.cancel_requested, reply.c.cancel_reason
)
_OWNED = _STANDING.where(reply.c.owner == bindparam("of_replica", type_=Sought()), reply_active)
_RELEASE = delete(replica).where(_THIS)

# A process that hangs inside a transaction keeps its row locks while its connection lives. The server's timeouts do not
# end that, because they do not run between the driver's Parse and Bind messages. So a takeover terminates the backends
# of replicas without a lease; 500 is the number of milliseconds to wait for each.
_FREE = text(
    """
    SELECT pg_terminate_backend(activity.pid, 500)
    FROM pg_stat_activity AS activity JOIN replica ON activity.application_name = :name || replica.id
    WHERE activity.datname = current_database() AND activity.usename = current_user
        AND replica.id <> :of_replica AND to_timestamp(replica.lease_until_us / 1e6) <= clock_timestamp()
        AND activity.xact_start < greatest(
            to_timestamp(replica.lease_until_us / 1e6), clock_timestamp() - interval '10 seconds'
        )
    """
)


@cache
def _hold(dialect: str) -> Insert:
    """Creates or renews a lease. The time is read after the row is locked, since a takeover may have held it."""
    until = now_us(dialect) + bindparam("lease_us", type_=BigInteger)
    values = {
        "id": bindparam("of_replica", type_=Text),
        "lease_until_us": until,
        "start_time_us": now_us(dialect),
        "version": __version__,
    }
    return (
        insert(replica, dialect)
        .values(values)
        .on_conflict_do_update(index_elements=[replica.c.id], set_={"lease_until_us": until})
    )


@cache
def _standings(dialect: str) -> Select[Any]:
    return _STANDING.where(reply.c.id.in_(listed("reply_ids", dialect)))


@cache
def _note_unknown(dialect: str) -> Insert:
    """Inserts an expired replica row for each owner that has none, so that there is a row to lock."""
    known = exists().where(replica.c.id == reply.c.owner)
    owners = select(reply.c.owner, _NEVER, _NEVER).where(reply_active, reply.c.owner != _OTHERS, ~known).distinct()
    return (
        insert(replica, dialect).from_select(["id", "lease_until_us", "start_time_us"], owners).on_conflict_do_nothing()
    )


@cache
def _dead(dialect: str, *, sure: bool) -> Select[Any]:
    """Selects and locks replicas whose lease has expired. A row that a renewal has locked is skipped; a row that was
    renewed meanwhile is evaluated again."""
    dead = (
        select(replica.c.id)
        .where(replica.c.lease_until_us <= now_us(dialect), replica.c.id != _OTHERS)
        .order_by(replica.c.id)
        .with_for_update(skip_locked=True, of=replica)
    )
    if not sure:
        return dead
    # The caller may have been suspended since it last looked at its lease. It takes nothing over unless its own lease
    # lasts long enough to end the replies: otherwise a third replica would take them over from it at once.
    mine = replica.alias("mine")
    left_us = mine.c.lease_until_us - now_us(dialect)
    lasts = left_us >= bindparam("sure_us", type_=BigInteger)
    return dead.where(exists(select(mine.c.id).where(mine.c.id == _OTHERS, lasts)))


@cache
def _take(dialect: str) -> Update:
    theirs = (
        select(reply.c.id)
        .where(reply_active, reply.c.owner.in_(listed("dead", dialect)))
        .order_by(reply.c.create_time_us, reply.c.id)
        .limit(bindparam("rows", type_=Integer))
        .with_for_update(skip_locked=True)  # a locked reply is being ended, or left to a later sweep
        .cte("theirs")
    )
    return (
        update(reply)
        .where(reply.c.id.in_(select(theirs.c.id)))
        .values(owner=bindparam("new_owner", type_=Text), epoch=reply.c.epoch + 1)
        .returning(*UNFINISHED_COLUMNS)
    )


@cache
def _forget(dialect: str) -> Delete:
    owns = exists().where(reply.c.owner == replica.c.id, reply_active)
    return delete(replica).where(replica.c.id.in_(listed("dead", dialect)), ~owns)


def connection_name(replica_id: str) -> str:
    """The `application_name` of a replica's connections."""
    return f"{_NAME}{replica_id}".rstrip()


def hold_lease(connection: Connection, replica_id: str, lease_s: float) -> list[Standing]:
    """Renew the lease, then return the running replies that the replica owns. None of them can be taken over before the
    lease expires."""
    lease_us = round(lease_s * 1_000_000)
    connection.execute(_hold(connection.dialect.name), {"of_replica": replica_id, "lease_us": lease_us})
    return [_standing(row) for row in connection.execute(_OWNED, {"of_replica": replica_id})]


def release_lease(connection: Connection, replica_id: str) -> None:
    """Delete the replica's row, so that its replies can be taken over at once."""
    connection.execute(_RELEASE, {"of_replica": replica_id})


def standings(connection: Connection, reply_ids: list[str]) -> list[Standing]:
    """The owner, epoch and state of these replies; erased ones are left out."""
    found = connection.execute(_standings(connection.dialect.name), {"reply_ids": listed_values(reply_ids)})
    return [_standing(row) for row in found]


def take_over(connection: Connection, replica_id: str, limit: int, *, sure_s: float | None = None) -> list[Unfinished]:
    """Take over replies of replicas without a lease, oldest first. Also frees the locks of those replicas, and deletes
    their rows once they own no running reply."""
    dialect, me = connection.dialect.name, {"of_replica": replica_id}
    sure = {} if sure_s is None else {"sure_us": round(sure_s * 1_000_000)}
    if dialect == "postgresql":
        _free(connection, replica_id)
    # An owner without a row has released its lease, or was never known. Without a row to lock, two replicas could take
    # over its replies.
    connection.execute(_note_unknown(dialect), me)
    dead = listed_values(connection.execute(_dead(dialect, sure=bool(sure)), me | sure).scalars())
    if dead == "[]":
        return []
    if dialect == "postgresql":
        _free(connection, replica_id)  # again, for replicas whose lease has expired since the first call
    taken = connection.execute(_take(dialect), {"dead": dead, "rows": limit, "new_owner": replica_id}).all()
    # Only those that own nothing: a limited takeover leaves the rest to the next one.
    connection.execute(_forget(dialect), {"dead": dead})
    return unfinished_of(connection, sorted(taken, key=lambda row: (row.create_time_us, row.id)))


def _free(connection: Connection, replica_id: str) -> None:
    """Terminate the transactions of replicas whose lease has expired."""
    ended = connection.execute(_FREE, {"of_replica": replica_id, "name": _NAME}).all()
    if ended:
        logger.warning("transactions_terminated", extra={"fields": {"connections": len(ended)}})


def _standing(row: AnyRow) -> Standing:
    return Standing(
        reply_id=row.id,
        owner=row.owner,
        epoch=row.epoch,
        terminal=State(row.state).terminal,
        cancel=FinishReason(row.cancel_requested) if row.cancel_requested else None,
        cancel_reason=row.cancel_reason,
    )
