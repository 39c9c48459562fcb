"""Reads what the database shows of all replicas, of running replies and of the fullest quotas."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Connection,
    Float,
    Integer,
    Select,
    Text,
    bindparam,
    case,
    cast,
    func,
    literal_column,
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
from parley_server.store.engine.dialect import AnyRow, json_rows, listed, listed_values, now_us
from parley_server.store.schema import quota_use, replica, reply, reply_active, schema_release

SECOND_US = 1_000_000
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
def _fullest(dialect: str) -> Select[Any]:
    """Selects the rows of use that are nearest to one of the limits in the parameter `caps`."""
    columns = json_rows("caps", [Text, Text, Text, Text, BigInteger], dialect)
    names = ("tenant", "scope", "period", "kind", "most")
    cap = select(*(column.label(name) for name, column in zip(names, columns, strict=True))).cte("cap")
    others = literal_column(f"'{OTHER_TENANTS}'", Text)
    # One comparison for equality, so that the databases join by hash or index even with many tenants.
    of_tenant = case((quota_use.c.tenant.in_(listed("named", dialect)), quota_use.c.tenant), else_=others)
    tokens = quota_use.c.used_tokens + quota_use.c.held_tokens
    cost = quota_use.c.used_cost + quota_use.c.held_cost
    used = case((cap.c.kind == literal_column("'tokens'", Text), tokens), else_=cost)
    part = cast(used, Float) / cap.c.most
    periods = quota_use.c.period.in_(listed("periods", dialect))
    joined = (cap.c.period == quota_use.c.period, cap.c.scope == quota_use.c.scope, cap.c.tenant == of_tenant)
    return (
        select(quota_use.c.tenant, quota_use.c.end_user, cap.c.scope, cap.c.period, cap.c.kind, cap.c.most)
        .add_columns(used.label("used"))
        .where(periods, used > 0, *joined)
        .order_by(part.desc(), quota_use.c.tenant, quota_use.c.end_user, cap.c.period, cap.c.kind)
        .limit(bindparam("rows", type_=Integer))
    )


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
    """The quotas of which the largest parts are used or held, at most `limit`, the fullest first."""
    if not caps.caps:
        return []
    given = [[cap.tenant, cap.scope, cap.period, cap.kind, cap.most] for cap in caps.caps]
    parameters = {
        "caps": msgspec.json.encode(given).decode(),
        "named": listed_values(caps.named),
        "periods": listed_values({cap.period for cap in caps.caps}),
        "rows": limit,
    }
    return [_spot(row) for row in connection.execute(_fullest(connection.dialect.name), parameters)]


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


def _spot(row: AnyRow) -> QuotaSpot:
    of = QuotaRow(row.scope, row.end_user, row.period)
    return QuotaSpot(tenant=row.tenant, row=of, kind=row.kind, most=row.most, used=row.used)
