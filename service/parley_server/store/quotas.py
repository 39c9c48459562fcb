"""What replies hold and have used of quotas: held at acceptance, settled at the end of the reply.

Rows are locked in one order (`engine.database`): those of users before those of tenants, then by period.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Delete,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    delete,
    literal_column,
    select,
    tuple_,
    update,
)

from parley_server.core.counts import INT64_MAX
from parley_server.core.quota_values import Charge, Hold, QuotaLimit, QuotaRow, QuotaUse
from parley_server.store.engine.dialect import AnyRow, Insert, insert, json_rows
from parley_server.store.schema import quota_use

MOST_USED = 2**62
"""A sum of uses does not grow beyond this, so that no number can exceed its column and keep a reply from ending."""

_KEY = (quota_use.c.scope, quota_use.c.end_user, quota_use.c.period)
_LOCK_ORDER = (quota_use.c.scope.desc(), quota_use.c.period)
_tenant = bindparam("of_tenant", type_=Text)
_tokens, _cost = bindparam("hold_tokens", type_=BigInteger), bindparam("hold_cost", type_=BigInteger)
_used_tokens = quota_use.c.used_tokens + quota_use.c.held_tokens
_used_cost = quota_use.c.used_cost + quota_use.c.held_cost
_USE = (*_KEY, _used_tokens.label("tokens"), _used_cost.label("cost"))


@cache
def _hold(dialect: str) -> Insert:
    """Adds the hold to each row whose limits have room for it, and returns these rows."""
    columns = json_rows("limits", [Text, Text, Text, BigInteger, BigInteger], dialect)
    names = ("scope", "end_user", "period", "most_tokens", "most_cost")
    limit = select(*(column.label(name) for name, column in zip(names, columns, strict=True))).cte("quota_limit")
    rows = (
        select(_tenant, limit.c.scope, limit.c.end_user, limit.c.period, _tokens, _cost)
        .where(_tokens <= limit.c.most_tokens, _cost <= limit.c.most_cost)
        .order_by(limit.c.scope.desc(), limit.c.period)
    )
    statement = insert(quota_use, dialect).from_select(
        ["tenant", "scope", "end_user", "period", "held_tokens", "held_cost"], rows
    )
    new = statement.excluded

    def most(kind: str) -> ColumnElement[int]:
        # As text: SQLAlchemy would add the table of the columns to the subquery, which would then compare other rows.
        this = [limit.c[name] == literal_column(f"excluded.{name}", Text) for name in ("scope", "end_user", "period")]
        return select(limit.c[kind]).where(*this).scalar_subquery()

    held = statement.on_conflict_do_update(
        index_elements=[quota_use.c.tenant, *_KEY],
        set_={
            "held_tokens": quota_use.c.held_tokens + new.held_tokens,
            "held_cost": quota_use.c.held_cost + new.held_cost,
        },
        where=and_(
            _used_tokens + new.held_tokens <= most("most_tokens"), _used_cost + new.held_cost <= most("most_cost")
        ),
    )
    return held.returning(*_USE)  # type: ignore[return-value]  # an Insert that returns rows


def _these(dialect: str) -> Select[Any]:
    """Selects the rows that the parameter `rows` names, by the primary key."""
    scope, end_user, period = json_rows("rows", [Text, Text, Text], dialect)
    named = (quota_use.c.scope == scope, quota_use.c.end_user == end_user, quota_use.c.period == period)
    return select(*_USE).where(quota_use.c.tenant == _tenant, *named)


@cache
def _read(dialect: str) -> Select[Any]:
    return _these(dialect)


@cache
def _settle(dialect: str) -> Update:
    # Locked in their order first: an UPDATE alone locks the rows in the order in which it finds them.
    locked = _these(dialect).order_by(*_LOCK_ORDER).with_for_update(of=quota_use).cte("locked")
    return (
        update(quota_use)
        .where(
            quota_use.c.tenant == _tenant,
            tuple_(*_KEY).in_(select(locked.c.scope, locked.c.end_user, locked.c.period)),
        )
        .values(
            held_tokens=quota_use.c.held_tokens - _tokens,
            held_cost=quota_use.c.held_cost - _cost,
            used_tokens=_grown(quota_use.c.used_tokens, bindparam("used_tokens_more", type_=BigInteger)),
            used_cost=_grown(quota_use.c.used_cost, bindparam("used_cost_more", type_=BigInteger)),
        )
    )


@cache
def _drop_unused(dialect: str) -> Delete:
    these = _these(dialect).subquery()
    unused = [column == 0 for column in (_used_tokens, _used_cost, quota_use.c.held_tokens, quota_use.c.held_cost)]
    return delete(quota_use).where(
        quota_use.c.tenant == _tenant,
        tuple_(*_KEY).in_(select(these.c.scope, these.c.end_user, these.c.period)),
        *unused,
    )


def _grown(used: ColumnElement[int], more: ColumnElement[int]) -> ColumnElement[int]:
    return case((used < MOST_USED, used + more), else_=used)


def hold(
    connection: Connection, tenant: str, limits: Sequence[QuotaLimit], held: Hold
) -> tuple[list[QuotaUse], list[QuotaUse]]:
    """Hold it in the rows of all limits, or in none. Returns the rows with their use after the hold, and those that
    refuse it with their use without it: one of the two lists is empty."""
    dialect = connection.dialect.name
    given = [[*_key(limit.row), _most(limit.tokens), _most(limit.cost)] for limit in limits]
    parameters = {"of_tenant": tenant, "limits": _json(given), "hold_tokens": held.tokens, "hold_cost": held.cost}
    uses = [_use(row) for row in connection.execute(_hold(dialect), parameters)]
    if len(uses) == len(limits):
        return uses, []
    undo_hold(connection, tenant, msgspec.structs.replace(held, rows=tuple(use.row for use in uses)))
    taken = {use.row for use in uses}
    refusing = [limit.row for limit in limits if limit.row not in taken]
    return [], read_uses(connection, tenant, refusing)


def undo_hold(connection: Connection, tenant: str, held: Hold) -> None:
    """Take back a hold of this transaction, together with rows that it has created."""
    if held.rows:
        settle(connection, tenant, held, Charge())
        rows = {"of_tenant": tenant, "rows": _json([_key(row) for row in held.rows])}
        connection.execute(_drop_unused(connection.dialect.name), rows)


def settle(connection: Connection, tenant: str, held: Hold, charge: Charge) -> None:
    """Replace a hold by the charge. Called once per hold. A row that was erased meanwhile is left out."""
    if held.rows:
        parameters = {
            "of_tenant": tenant,
            "rows": _json([_key(row) for row in held.rows]),
            "hold_tokens": held.tokens,
            "hold_cost": held.cost,
            "used_tokens_more": charge.tokens,
            "used_cost_more": charge.cost,
        }
        connection.execute(_settle(connection.dialect.name), parameters)


def read_uses(connection: Connection, tenant: str, rows: Iterable[QuotaRow]) -> list[QuotaUse]:
    """The use of these rows; those without any use are left out."""
    parameters = {"of_tenant": tenant, "rows": _json([_key(row) for row in rows])}
    return [_use(row) for row in connection.execute(_read(connection.dialect.name), parameters)]


def _use(row: AnyRow) -> QuotaUse:
    return QuotaUse(row=QuotaRow(row.scope, row.end_user, row.period), tokens=row.tokens, cost=row.cost)


def _key(row: QuotaRow) -> list[object]:
    return [row.scope, row.end_user, row.period]


def _most(limit: int | None) -> int:
    return INT64_MAX if limit is None else limit


def _json(rows: list[list[object]]) -> str:
    return msgspec.json.encode(rows).decode()
