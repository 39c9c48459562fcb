"""Reads what the database shows of all replicas, of running replies and of the fullest quotas."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
    Text,
    bindparam,
    case,
    func,
    select,
)

from parley_server.core.access import OTHER_TENANTS
from parley_server.core.quota_values import QuotaRow
from parley_server.core.status_values import (
    AGES_S,
    QuotaCaps,
    QuotaSpot,
    ReplicaLease,
    RunningReplies,
    StoredStatus,
)
from parley_server.store.engine.dialect import AnyRow, listed, listed_values, now_us
from parley_server.store.schema import quota_use, replica, reply, reply_active, schema_release

SECOND_US = 1_000_000
_USED = {
    "tokens": quota_use.c.used_tokens + quota_use.c.held_tokens,
    "cost_nano_usd": quota_use.c.used_cost + quota_use.c.held_cost,
}
"""What is used and held, by the kind of a limit."""
MOST_REPLICAS = 1000
"""More are not shown: the rows of dead replicas are deleted within seconds."""

MOST_PASSES = 8
"""How often all rows of a period are read, for as many different limits. More limits are compared in one pass."""

_ROW = (quota_use.c.tenant, quota_use.c.scope, quota_use.c.period, quota_use.c.end_user)
_rows = bindparam("rows", type_=Integer)
_REPLICAS = select(replica).order_by(replica.c.id).limit(MOST_REPLICAS)


@cache
def _now(dialect: str) -> Select[Any]:
    return select(schema_release.c.release, now_us(dialect).label("now_us"))


def _running() -> Select[Any]:
    """Counts running replies by owner and model, those beyond each age, and finds the oldest."""
    age_us = bindparam("at_us", type_=BigInteger) - reply.c.create_time_us
    older = [func.count().filter(age_us > age_s * SECOND_US).label(f"over_{age_s}") for age_s in AGES_S]
    model = case((reply.c.model == "", reply.c.requested_model), else_=reply.c.model)
    return (
        select(reply.c.owner, model.label("model"), func.count().label("replies"), *older)
        .add_columns(func.max(age_us).label("oldest_us"))
        .where(reply_active)
        .group_by(reply.c.owner, model)
    )


_RUNNING = _running()


@cache
def _largest_of(kind: str, dialect: str, *, named: bool) -> Select[Any]:
    """Selects the `rows` rows with the largest use among the tenants of the parameter `tenants`, or among all others,
    in one scope and period, if it is `least` or more. The database keeps only the first rows while it sorts: a million
    end users take a tenth of the time of `_largest`, and no file on the disk."""
    used, row = _USED[kind], quota_use.c
    these = row.tenant.in_(listed("tenants", dialect))
    return (
        select(*_ROW, used.label("used"))
        .where(these if named else ~these, row.scope == bindparam("of_scope", type_=Text))
        .where(row.period == bindparam("of_period", type_=Text), used >= bindparam("least", type_=BigInteger))
        .order_by(used.desc(), row.tenant, row.end_user)
        .limit(_rows)
    )


@cache
def _largest(kind: str, dialect: str) -> Select[Any]:
    """Selects the rows with the largest use of each tenant, scope and period: at most `rows` of each, and of those that
    have used `least` or more. Within one of them, all rows have the same limit. One pass serves any number of
    limits."""
    used = _USED[kind]
    group = (quota_use.c.tenant, quota_use.c.scope, quota_use.c.period)
    order = func.row_number().over(partition_by=group, order_by=(used.desc(), quota_use.c.end_user))
    ranked = (
        select(*group, quota_use.c.end_user, used.label("used"), order.label("place"))
        .where(quota_use.c.period.in_(listed("periods", dialect)), used >= bindparam("least", type_=BigInteger))
        .subquery()
    )
    return select(ranked).where(ranked.c.place <= _rows)


def read_status(connection: Connection) -> StoredStatus:
    """The leases of all replicas, and the running replies of each and by model."""
    release, at_us = connection.execute(_now(connection.dialect.name)).one()
    rows = connection.execute(_RUNNING, {"at_us": at_us}).all()
    owned: Counter[str] = Counter()
    by_model: defaultdict[str, list[AnyRow]] = defaultdict(list)
    for row in rows:
        owned[row.owner] += row.replies
        by_model[row.model].append(row)
    leases = [_lease(row, at_us, owned[row.id]) for row in connection.execute(_REPLICAS)]
    return StoredStatus(
        schema_release=release,
        replicas=tuple(leases),
        running=tuple(_sum(model, some) for model, some in sorted(by_model.items())),
        unowned=owned.total() - sum(lease.running for lease in leases),
    )


def quota_spots(connection: Connection, caps: QuotaCaps, limit: int) -> list[QuotaSpot]:
    """The quotas of which at least half is used or held: at most `limit`, the fullest first."""
    found = list[QuotaSpot]()
    for kind in _USED:
        # Tenants with equal limits share a statement.
        groups: defaultdict[tuple[bool, str, str, int], list[str]] = defaultdict(list)
        for cap in caps.caps:
            if cap.kind == kind:
                groups[cap.tenant != OTHER_TENANTS, cap.scope, cap.period, cap.most].append(cap.tenant)
        if len(groups) > MOST_PASSES:
            found += _spots_in_one_pass(connection, kind, caps, limit)
            continue
        for (named, scope, period, most), tenants in groups.items():
            parameters = {
                "tenants": listed_values(tenants if named else caps.named),
                "of_scope": scope,
                "of_period": period,
                "least": _least(most),
                "rows": limit,
            }
            statement = _largest_of(kind, connection.dialect.name, named=named)
            found += [_spot(row, kind, most) for row in connection.execute(statement, parameters)]
    return sorted(found, key=_place)[:limit]


def _spots_in_one_pass(connection: Connection, kind: str, caps: QuotaCaps, limit: int) -> Iterator[QuotaSpot]:
    most = {(cap.tenant, cap.scope, cap.period): cap.most for cap in caps.caps if cap.kind == kind}
    named = set(caps.named)
    parameters = {
        "periods": listed_values({period for _, _, period in most}),
        "least": _least(min(most.values())),
        "rows": limit,
    }
    for row in connection.execute(_largest(kind, connection.dialect.name), parameters):
        tenant = row.tenant if row.tenant in named else OTHER_TENANTS
        cap = most.get((tenant, row.scope, row.period))
        if cap is not None and row.used >= _least(cap):
            yield _spot(row, kind, cap)


def _least(most: int) -> int:
    """Half of a limit: the use from which on it is shown."""
    return (most + 1) // 2


def _spot(row: AnyRow, kind: str, most: int) -> QuotaSpot:
    of = QuotaRow(row.scope, row.end_user, row.period)
    return QuotaSpot(tenant=row.tenant, row=of, kind=kind, most=most, used=row.used)


def _place(spot: QuotaSpot) -> tuple[float, str, str, str, str]:
    return -spot.used / spot.most, spot.tenant, spot.row.end_user, spot.row.period, spot.kind


def _lease(row: AnyRow, at_us: int, running: int) -> ReplicaLease:
    return ReplicaLease(
        replica_id=row.id,
        version=row.version,
        start_time_us=row.start_time_us,
        lease_left_s=(row.lease_until_us - at_us) / SECOND_US,
        running=running,
    )


def _sum(model: str, rows: list[AnyRow]) -> RunningReplies:
    first, second, third = (sum(getattr(row, f"over_{age_s}") for row in rows) for age_s in AGES_S)
    return RunningReplies(
        model=model,
        replies=sum(row.replies for row in rows),
        older=(first, second, third),
        oldest_s=max(0.0, max(row.oldest_us for row in rows) / SECOND_US),
    )
