"""Rows of the usage table: one for each reply and each summary; and their sums by day.

`usage_day` has the sums of all rows that are marked as `rolled`. Each row is added and marked in one transaction, so
that the table and the unmarked rows together are exact at any moment, also if a row is committed long after its day.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Text,
    Update,
    bindparam,
    case,
    func,
    literal_column,
    not_,
    select,
    text,
    update,
)

from parley_server.core.counts import MOST_COST
from parley_server.core.model import Usage
from parley_server.store.engine.dialect import Insert, insert, listed, listed_values, utc_day
from parley_server.store.schema import usage, usage_day

REPLY = "reply"
SUMMARY = "summary"
MOST_SUM = 2**62
"""A sum does not grow beyond this. What the rows of one call add to it is less than the rest of the column's range: a
number out of that range would make the job fail at the same rows for ever."""
ROLLUP_LOCK = 0x5061726C657B
"""The key of the advisory lock that lets one replica at a time add sums."""

# The text of the partial index's condition: SQLite would not use the index for `rolled = 0`, as SQLAlchemy writes it.
UNROLLED = text("NOT usage.rolled")
_is_reply = usage.c.kind == literal_column(f"'{REPLY}'", Text)
_has_first_token = _is_reply & (usage.c.first_token_time_us > 0)


def _if(condition: ColumnElement[bool], value: Any = 1) -> ColumnElement[int]:
    return case((condition, value), else_=0)


AMOUNTS: dict[str, ColumnElement[int]] = {
    "replies": _if(_is_reply),
    "summaries": _if(not_(_is_reply)),
    "unpriced": _if(_is_reply & usage.c.cost_nano_usd.is_(None)),
    "estimated": _if(_is_reply & usage.c.estimated),
    "prompt_tokens": usage.c.prompt_tokens,
    "cached_tokens": usage.c.cached_prompt_tokens,
    "cache_write_tokens": usage.c.cache_write_tokens,
    "completion_tokens": usage.c.completion_tokens,
    "reasoning_tokens": usage.c.reasoning_tokens,
    # Rows of earlier releases may have more, of which two could exceed the range of a sum.
    "cost_nano_usd": case(
        (usage.c.cost_nano_usd > MOST_COST, MOST_COST), else_=func.coalesce(usage.c.cost_nano_usd, 0)
    ),
    "first_token_count": _if(_has_first_token),
    "first_token_us": _if(_has_first_token, usage.c.first_token_time_us - usage.c.create_time_us),
    "duration_us": _if(_is_reply, usage.c.end_time_us - usage.c.create_time_us),
    "text_length": _if(_is_reply, usage.c.text_length),
}
"""What one row adds to each sum."""


def usage_keys(dialect: str) -> dict[str, ColumnElement[str]]:
    """What a row is grouped by, without its end user."""
    return {
        "tenant": usage.c.tenant,
        "day": utc_day(usage.c.create_time_us, dialect),
        "model": usage.c.model,
        "state": usage.c.state,
        "finish_reason": func.coalesce(usage.c.finish_reason, ""),
        "error_reason": func.coalesce(usage.c.error_reason, ""),
    }


_LOCK = select(func.pg_try_advisory_xact_lock(ROLLUP_LOCK))
_TAKE = (
    select(usage.c.reply_id)
    .where(UNROLLED)
    .order_by(usage.c.create_time_us)
    .limit(bindparam("rows", type_=Integer))
    .with_for_update(skip_locked=True)
)

_UNROLLED_COUNT = select(func.count()).select_from(usage).where(UNROLLED)


@cache
def _add(dialect: str) -> Insert:
    keys = usage_keys(dialect)
    sums = [func.sum(amount) for amount in AMOUNTS.values()]
    rows = select(*keys.values(), *sums).where(usage.c.reply_id.in_(listed("reply_ids", dialect)))
    statement = insert(usage_day, dialect).from_select([*keys, *AMOUNTS], rows.group_by(*keys.values()))
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[usage_day.c[name] for name in keys],
        set_={name: _grown(usage_day.c[name], new[name]) for name in AMOUNTS},
    )


def _grown(total: ColumnElement[int], more: ColumnElement[int]) -> ColumnElement[int]:
    return case((total < MOST_SUM, total + more), else_=total)


@cache
def _mark(dialect: str) -> Update:
    return update(usage).where(usage.c.reply_id.in_(listed("reply_ids", dialect))).values(rolled=True)


def roll_usage(connection: Connection, limit: int) -> int:
    """Add at most `limit` rows to the sums by day, the oldest first. Returns how many; 0 also while another replica
    does it."""
    dialect = connection.dialect.name
    if dialect == "postgresql" and not connection.execute(_LOCK).scalar_one():
        return 0
    taken = {"reply_ids": listed_values(connection.execute(_TAKE, {"rows": limit}).scalars())}
    if taken["reply_ids"] == "[]":
        return 0
    connection.execute(_add(dialect), taken)
    return connection.execute(_mark(dialect), taken).rowcount


def count_unrolled(connection: Connection) -> int:
    """See `Store`."""
    return connection.execute(_UNROLLED_COUNT).scalar_one()


def usage_values(counted: Usage) -> dict[str, object]:
    """The columns of a usage row that hold counts; the usage must be within the range of the columns."""
    return {
        "prompt_tokens": counted.prompt_tokens,
        "cached_prompt_tokens": counted.cached_prompt_tokens,
        "cache_write_tokens": counted.cache_write_prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "reasoning_tokens": counted.reasoning_tokens,
        "cost_nano_usd": counted.cost_nano_usd,
        "estimated": counted.estimated,
    }
