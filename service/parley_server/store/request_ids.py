"""Idempotency keys (request ids), and the marks of Cancel calls that arrive before their request.

A key has no foreign key, because it outlives the erasure of its resource. Its row is the first that a unit locks.
"""

from __future__ import annotations

from functools import cache

import msgspec
from sqlalchemy import Connection, and_, bindparam, delete, select, tuple_, update

from parley_server.core.model import Value
from parley_server.store.engine.dialect import Insert, Sought, insert
from parley_server.store.schema import idempotency_key as table

REPLY = "reply"
CONVERSATION = "conversation"
# A retry after a longer time starts a new reply. A mark only serves a Cancel that arrives shortly before its request.
KEY_LIFE_US = 24 * 3600 * 1_000_000
MARK_LIFE_US = 60 * 1_000_000
SWEEP_ROWS = 500


class Key(Value, frozen=True, kw_only=True):
    """A caller's request id, unique within tenant, end user and kind."""

    tenant: str
    end_user: str
    kind: str
    key: str


class Known(Value, frozen=True, kw_only=True):
    """The resource that an unexpired key has created."""

    payload_hash: str
    resource_id: str


class Made(Value, frozen=True, kw_only=True):
    """The resource that a request creates under its key if it is accepted."""

    payload_hash: str
    resource_id: str
    now_us: int


class Claim(Value, frozen=True, kw_only=True):
    """A key that the request may use. `fresh`: its row is new. `mark`: the reason of a Cancel that arrived before."""

    fresh: bool
    mark: str | None = None


_WHERE = and_(
    table.c.tenant == bindparam("of_tenant", type_=Sought()),
    table.c.end_user == bindparam("of_end_user", type_=Sought()),
    table.c.kind == bindparam("of_kind"),
    table.c.key == bindparam("of_key", type_=Sought()),
)
_READ = select(table.c.payload_hash, table.c.resource_id, table.c.cancel_reason, table.c.expire_time_us).where(_WHERE)
_LOCK = _READ.with_for_update()
_OVERWRITE = (
    update(table)
    .where(_WHERE)
    .values(
        payload_hash=bindparam("new_payload_hash"),
        resource_id=bindparam("new_resource_id"),
        cancel_reason=bindparam("new_cancel_reason"),
        expire_time_us=bindparam("new_expire_time_us"),
    )
)
_REMOVE = delete(table).where(_WHERE)
_EXPIRED = (
    select(table.c.tenant, table.c.end_user, table.c.kind, table.c.key)
    .where(table.c.expire_time_us <= bindparam("now_us"))
    .order_by(table.c.expire_time_us)
    .limit(SWEEP_ROWS)
    .with_for_update(skip_locked=True)  # an acceptance that reuses the key must not be waited for
    .cte("expired")
)
_SWEEP = delete(table).where(tuple_(table.c.tenant, table.c.end_user, table.c.kind, table.c.key).in_(select(_EXPIRED)))


@cache
def _claim(dialect: str) -> Insert:
    return insert(table, dialect).on_conflict_do_nothing()


def claim(connection: Connection, key: Key, made: Made) -> Claim | Known:
    """Insert the key, or return the resource that it has created. An expired row or a mark stays until `keep`."""
    if connection.execute(_claim(connection.dialect.name), msgspec.structs.asdict(key) | _kept(made)).rowcount:
        return Claim(fresh=True)
    row = connection.execute(_LOCK, _where(key)).first()
    if row is None:  # swept between the two statements
        return claim(connection, key, made)
    # The row is overwritten only by `keep`, after all refusals, so that a refused request changes nothing.
    if row.expire_time_us <= made.now_us:
        return Claim(fresh=False)
    if row.resource_id is None:
        return Claim(fresh=False, mark=row.cancel_reason)
    return Known(payload_hash=row.payload_hash, resource_id=row.resource_id)


def keep(connection: Connection, key: Key, made: Made, claimed: Claim) -> None:
    """Bind the key of an accepted request to its resource for 24 hours."""
    if not claimed.fresh:
        _overwrite(connection, key, _kept(made))


def release(connection: Connection, key: Key, claimed: Claim) -> None:
    """Undo the claim of a refused request."""
    if claimed.fresh:
        connection.execute(_REMOVE, _where(key))


def find(connection: Connection, key: Key, now_us: int) -> Known | None:
    """The resource of the key; None if the key is unknown, expired or a mark."""
    row = connection.execute(_READ, _where(key)).first()
    if row is None or row.resource_id is None or row.expire_time_us <= now_us:
        return None
    return Known(payload_hash=row.payload_hash, resource_id=row.resource_id)


def mark(connection: Connection, key: Key, reason: str, now_us: int) -> Known | None:
    """Mark an unknown key as cancelled for a minute, and return None; the first mark's reason is kept. Returns the
    resource if the key is known."""
    expire_time_us = now_us + MARK_LIFE_US
    values = msgspec.structs.asdict(key) | _values("", None, cancel_reason=reason, expire_time_us=expire_time_us)
    if connection.execute(_claim(connection.dialect.name), values).rowcount:
        return None
    row = connection.execute(_LOCK, _where(key)).first()
    if row is None:
        return mark(connection, key, reason, now_us)
    if row.expire_time_us > now_us:
        if row.resource_id is not None:
            return Known(payload_hash=row.payload_hash, resource_id=row.resource_id)
        reason = row.cancel_reason
    _overwrite(connection, key, _values("", None, cancel_reason=reason, expire_time_us=expire_time_us))
    return None


def sweep(connection: Connection, now_us: int) -> int:
    """Delete at most `SWEEP_ROWS` expired rows, oldest first, and return their number."""
    return connection.execute(_SWEEP, {"now_us": now_us}).rowcount


def _overwrite(connection: Connection, key: Key, values: dict[str, object]) -> None:
    connection.execute(_OVERWRITE, _where(key) | {f"new_{name}": value for name, value in values.items()})


def _kept(made: Made) -> dict[str, object]:
    expire_time_us = made.now_us + KEY_LIFE_US
    return _values(made.payload_hash, made.resource_id, cancel_reason="", expire_time_us=expire_time_us)


def _values(
    payload_hash: str, resource_id: str | None, *, cancel_reason: str, expire_time_us: int
) -> dict[str, object]:
    return {
        "payload_hash": payload_hash,
        "resource_id": resource_id,
        "cancel_reason": cancel_reason,
        "expire_time_us": expire_time_us,
    }


def _where(key: Key) -> dict[str, object]:
    return {"of_tenant": key.tenant, "of_end_user": key.end_user, "of_kind": key.kind, "of_key": key.key}
