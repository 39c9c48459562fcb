"""The branch that a prompt is built from, walked from its newest message upwards as far as a prompt needs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    exists,
    literal_column,
    null,
    or_,
    select,
)

from parley_server.core.model import Role, Value
from parley_server.store.engine.dialect import AnyRow, Sought
from parley_server.store.messages import IN_CONVERSATION, NO_LIMIT
from parley_server.store.rows import MESSAGE_COLUMNS
from parley_server.store.schema import message, reply, summary

NO_BYTES_LIMIT = 2**62
LATEST_US = 2**62
USAGE_DEPTH = 4
"""The usage of a reply is read if its message is among so many newest messages."""
POSITION = len(MESSAGE_COLUMNS)
KEPT = POSITION + 1

_ZERO = literal_column("0", Integer)
_ONE = literal_column("1", Integer)
_NO_TIME = literal_column("0", BigInteger)
_BY_USER = literal_column(f"'{Role.USER}'", Text)


class PathLimits(Value, frozen=True, kw_only=True):
    """Where a path ends: see `Store.read_turn`. `summarized`: also at a usable summary."""

    messages: int = NO_LIMIT
    size_bytes: int = NO_BYTES_LIMIT
    summarized: bool = False


def read_path(
    connection: Connection,
    leaf: str,
    *,
    tenant: str,
    conversation_id: str,
    continued: str,
    new_turn: bool,
    limits: PathLimits,
) -> Sequence[AnyRow]:
    """Rows from the oldest message to `leaf`: `MESSAGE_COLUMNS`, position, and if known kept items (JSON), model and
    usage (JSON).

    Partial texts of failed replies are left out, except the message `continued`."""
    parameters = {
        "message_id": leaf,
        "of_tenant": tenant,
        "of_conversation": conversation_id,
        "continued": continued,
        "new_turn_us": LATEST_US if new_turn else 0,
        "wanted": limits.messages,
        "wanted_bytes": limits.size_bytes,
    }
    return connection.execute(_path(summarized=limits.summarized), parameters).all()


@cache
def _path(*, summarized: bool) -> Select[Any]:
    branch = _branch(summarized=summarized)
    kept = case((branch.c.turn_us == _NO_TIME, message.c.kept), else_=null()).label("kept")
    # No join: PostgreSQL may then read all replies, to hash them.
    recent = branch.c.depth < literal_column(str(USAGE_DEPTH), Integer)
    model, usage = (
        case((recent, select(column).where(reply.c.id == message.c.reply_id).scalar_subquery()), else_=null())
        for column in (reply.c.model, reply.c.usage)
    )
    return (
        select(*MESSAGE_COLUMNS, message.c.position, kept, model.label("model"), usage.label("usage"))
        .join_from(branch, message, message.c.id == branch.c.id)
        .where(or_(message.c.failed.is_(False), message.c.id == bindparam("continued", type_=Sought())))
        .order_by(branch.c.depth.desc())
    )


def _branch(*, summarized: bool) -> CTE:
    """Selects the ids of the messages from `message_id` upwards, with what has been counted up to each.

    Partial messages of failed replies count as nothing. `turn_us` is the time of the turn's USER message: 0 until it is
    reached, and `LATEST_US` if it is part of the input."""
    above = message.alias("above")
    below = select(*_counts(message, None)).where(*IN_CONVERSATION).cte("branch", recursive=True)
    further = [
        above.c.id == below.c.parent_id,
        below.c.counted < bindparam("wanted", type_=Integer),
        or_(below.c.turn_us == _NO_TIME, below.c.size_bytes < bindparam("wanted_bytes", type_=BigInteger)),
    ]
    if summarized:
        further.append(~_covered(below))
    return below.union_all(select(*_counts(above, below)).where(*further))


def _counts(each: FromClause, below: CTE | None) -> list[ColumnElement[Any]]:
    counts = [_ZERO, _ZERO, _NO_TIME, bindparam("new_turn_us", type_=BigInteger)]
    depth, counted, size_bytes, turn_us = (
        counts if below is None else [below.c.depth + _ONE, below.c.counted, below.c.size_bytes, below.c.turn_us]
    )
    starts_turn = and_(turn_us == _NO_TIME, each.c.role == _BY_USER)
    return [
        each.c.id,
        each.c.parent_id,
        depth.label("depth"),
        (counted + case((each.c.failed, _ZERO), else_=_ONE)).label("counted"),
        (size_bytes + case((each.c.failed, _NO_TIME), else_=cast(each.c.size_bytes, BigInteger))).label("size_bytes"),
        case((starts_turn, each.c.create_time_us), else_=turn_us).label("turn_us"),
    ]


def _covered(below: CTE) -> ColumnElement[bool]:
    """A summary of the branch up to this message is older than the turn."""
    return exists().where(
        summary.c.tenant == bindparam("of_tenant", type_=Text),
        summary.c.conversation_id == bindparam("of_conversation", type_=Text),
        summary.c.message_id == below.c.id,
        summary.c.create_time_us < below.c.turn_us,
    )
