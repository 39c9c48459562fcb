"""Sums of usage, in pages: from the sums by day, and from rows that these do not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    Text,
    and_,
    func,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.sql.selectable import Subquery

from parley_server.core.periods import DAY_US, day_of
from parley_server.core.usage_values import UsageGroup, UsageKey, UsagePage, UsageQuery, UsageSums, key_columns
from parley_server.store.engine.dialect import holdable, json_rows
from parley_server.store.schema import usage, usage_day
from parley_server.store.usage import AMOUNTS, UNROLLED, usage_keys

_USER = (usage.c.tenant, usage.c.end_user)
LOCK_WAIT = text("SET LOCAL lock_timeout = '2s'")
"""Below the limit of a statement, so that a table that is locked is not mistaken for a range that takes too long."""
COST_UNIT = 1_000_000_000
"""Sums of costs are made of two parts, in this unit and below it: SQLite fails where a sum exceeds 64 bits."""
LATEST_US = 253_402_214_400_000_000
"""The start of the last day that has a name, 9999-12-31."""


def list_usage(connection: Connection, query: UsageQuery, after: Sequence[str], limit: int) -> UsagePage:
    """At most `limit` rows, sorted by their keys, after the one with the values `after` of the columns of the groups.

    All statements must see one state of the database: a row moves from one part of the sum to the other."""
    if not all(map(holdable, (query.tenant, query.end_user, query.model, *after))):
        return UsagePage(rows=(), more=False)
    names = key_columns(query)
    if connection.dialect.name == "postgresql":
        connection.execute(LOCK_WAIT)
    source = _source(connection, query, after, limit)
    keys = [source.c[name] for name in names]
    amounts: dict[str, ColumnElement[Any]] = {name: source.c[name] for name in AMOUNTS if name != "cost_nano_usd"}
    amounts |= {"cost_units": source.c.cost_nano_usd // COST_UNIT, "cost_rest": source.c.cost_nano_usd % COST_UNIT}
    sums = [func.sum(amount, type_=BigInteger).label(name) for name, amount in amounts.items()]
    rows = select(*keys, *sums).group_by(*keys).order_by(*keys).limit(limit + 1)
    if after:
        rows = rows.where(tuple_(*keys) > tuple_(*after))
    found = [_sums(row, names) for row in connection.execute(rows) if row.replies is not None]
    return UsagePage(rows=tuple(found[:limit]), more=len(found) > limit)


def _sums(row: Row[Any], names: Sequence[str]) -> UsageSums:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's name of a public attribute
    key = UsageKey(**{name: values.pop(name) for name in names})
    cost = int(values.pop("cost_units")) * COST_UNIT + int(values.pop("cost_rest"))
    return UsageSums(key=key, cost_nano_usd=cost, **{name: int(value) for name, value in values.items()})


def _source(connection: Connection, query: UsageQuery, after: Sequence[str], limit: int) -> Subquery:
    """The rows to add up."""
    dialect = connection.dialect.name
    start_us = min(query.start_us, LATEST_US)
    end_us = LATEST_US if query.end_us is None else min(query.end_us, LATEST_US)
    if not query.end_user and UsageGroup.END_USER not in query.groups:
        return union_all(*_parts(query, start_us, end_us, dialect)).subquery("part")
    rows = _rows(dialect, usage.c.end_user).where(*_filters(query, usage), _accepted(start_us, end_us))
    if not query.end_user and (query.tenant or UsageGroup.TENANT in query.groups):
        # The users are to be read in the order of an index, up to the end of the page: an index by time, which the sum
        # keeps the database from using, would read the rows of all users.
        accepted = _accepted(start_us, end_us, usage.c.create_time_us + 0)
        users = _next_users(connection, query, after, limit, accepted)
        pairs = json_rows("users", [Text, Text], dialect)
        rows = rows.where(tuple_(*_USER).in_(select(*pairs))).params(users=msgspec.json.encode(users).decode())
    return rows.subquery("part")


def _next_users(
    connection: Connection, query: UsageQuery, after: Sequence[str], limit: int, accepted: ColumnElement[bool]
) -> list[tuple[str, ...]]:
    """The users of the page. Each has a row at least, so that no more of them are needed than the page has rows."""
    users = select(*_USER).distinct().where(*_filters(query, usage), accepted)
    if after and UsageGroup.TENANT in query.groups:
        users = users.where(tuple_(*_USER) >= tuple_(*after[:2]))
    elif after:
        users = users.where(usage.c.end_user >= after[0])
    return [tuple(row) for row in connection.execute(users.order_by(*_USER).limit(limit + 1))]


def _parts(query: UsageQuery, start_us: int, end_us: int, dialect: str) -> list[Select[Any]]:
    """Rows that are not in the sums by day yet, rows of days that the query cuts, and the sums of whole days."""
    rows = _rows(dialect).where(*_filters(query, usage))
    # The new rows are few and have an index. One by tenant, by which all rows of a tenant would be read, is ruled out.
    new = _rows(dialect).where(UNROLLED, _accepted(start_us, end_us), *_filters(query, usage, indexed=False))
    parts = [new]
    first_us, last_us = -(-start_us // DAY_US) * DAY_US, end_us // DAY_US * DAY_US
    cuts = [(start_us, first_us), (last_us, end_us)] if first_us <= last_us else [(start_us, end_us)]
    for from_us, until_us in cuts:
        if from_us < until_us:
            # A row that is in the sums has its tenant there on this day, by which an index finds the row.
            tenants = select(usage_day.c.tenant).where(usage_day.c.day == day_of(from_us))
            parts.append(
                rows.where(usage.c.rolled.is_(True), _accepted(from_us, until_us), usage.c.tenant.in_(tenants))
            )
    if first_us < last_us:
        days = select(*[usage_day.c[name] for name in (*usage_keys(dialect), *AMOUNTS)])
        range_ = (usage_day.c.day >= day_of(first_us), usage_day.c.day < day_of(last_us))
        parts.append(days.where(*_filters(query, usage_day), *range_))
    return parts


def _rows(dialect: str, *more: ColumnElement[str]) -> Select[Any]:
    labels: list[ColumnElement[Any]] = [key.label(name) for name, key in usage_keys(dialect).items()]
    labels += [amount.label(name) for name, amount in AMOUNTS.items()]
    return select(*labels, *more)


def _filters(query: UsageQuery, table: Table, *, indexed: bool = True) -> list[ColumnElement[bool]]:
    filters = {"tenant": query.tenant, "end_user": query.end_user, "model": query.model}
    given = [(table.c[name], value) for name, value in filters.items() if value]
    return [(column if indexed else func.coalesce(column, "")) == value for column, value in given]


def _accepted(start_us: int, end_us: int, time_us: ColumnElement[int] = usage.c.create_time_us) -> ColumnElement[bool]:
    return and_(time_us >= start_us, time_us < end_us)
