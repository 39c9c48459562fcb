"""Reads what the database shows of all replicas, of running replies and of the fullest quotas."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
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
def _largest(kind: str, dialect: str) -> Select[Any]:
    """Selects the rows with the largest use of each tenant, scope and period: at most `rows` of each, and of those that
    have used `least` or more. Within one of them, all rows have the same limit."""
    used = _USED[kind]
    group = (quota_use.c.tenant, quota_use.c.scope, quota_use.c.period)
    order = func.row_number().over(partition_by=group, order_by=(used.desc(), quota_use.c.end_user))
    ranked = (
        select(*group, quota_use.c.end_user, used.label("used"), order.label("place"))
        .where(quota_use.c.period.in_(listed("periods", dialect)), used >= bindparam("least", type_=BigInteger))
        .subquery()
    )
    return select(ranked).where(ranked.c.place <= bindparam("rows", type_=Integer))


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
    most = {(cap.tenant, cap.scope, cap.period, cap.kind): cap.most for cap in caps.caps}
    named, found = set(caps.named), list[QuotaSpot]()
    for kind in _USED:
        limits = [cap for cap in caps.caps if cap.kind == kind]
        if not limits:
            continue
        parameters = {
            "periods": listed_values({cap.period for cap in limits}),
            "least": min(cap.most for cap in limits) // 2,
            "rows": limit,
        }
        for row in connection.execute(_largest(kind, connection.dialect.name), parameters):
            tenant = row.tenant if row.tenant in named else OTHER_TENANTS
            cap = most.get((tenant, row.scope, row.period, kind))
            if cap is not None and row.used * 2 >= cap:
                of = QuotaRow(row.scope, row.end_user, row.period)
                found.append(QuotaSpot(tenant=row.tenant, row=of, kind=kind, most=cap, used=row.used))
    return sorted(found, key=_place)[:limit]


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
