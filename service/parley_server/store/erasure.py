"""Erases old rows, and everything about one end user, in parts that are short enough for one transaction each."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Delete,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    delete,
    exists,
    func,
    select,
    update,
)

from parley_server.core.model import Identity
from parley_server.core.store_types import ErasedConversations
from parley_server.store.engine.dialect import Sought, listed, listed_values
from parley_server.store.schema import conversation, idempotency_key, quota_use, reply, reply_active, usage

_RUNNING = exists().where(
    reply.c.tenant == conversation.c.tenant, reply.c.conversation_id == conversation.c.id, reply_active
)
_TENANT = bindparam("of_tenant", type_=Sought())
_USER = bindparam("of_user", type_=Sought())
_BEFORE = bindparam("before_us", type_=BigInteger)
_OLD = (conversation.c.tenant == _TENANT, conversation.c.update_time_us < _BEFORE)
_OF_USER = (conversation.c.tenant == _TENANT, conversation.c.end_user == _USER)
_USERS_REPLIES = select(reply.c.id).where(reply.c.tenant == _TENANT, reply.c.end_user == _USER, reply_active)
_USERS_CONVERSATIONS = select(conversation.c.id).where(*_OF_USER)
_ENDED_REPLIES = select(reply.c.id).where(
    reply.c.tenant == _TENANT, reply.c.conversation_id.in_(_USERS_CONVERSATIONS), ~reply_active
)
_USERS_KEYS = delete(idempotency_key).where(idempotency_key.c.tenant == _TENANT, idempotency_key.c.end_user == _USER)
_USERS_QUOTAS = delete(quota_use).where(
    quota_use.c.tenant == _TENANT, quota_use.c.scope == "user", quota_use.c.end_user == _USER
)
_OLD_QUOTAS = delete(quota_use).where(quota_use.c.period < bindparam("before_period", type_=Text))


@cache
def _of_tenant(dialect: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return conversation.c.tenant == _TENANT, conversation.c.id.in_(listed("ids", dialect))


@cache
def _replies(dialect: str) -> Select[Any]:
    return select(reply.c.id).where(reply.c.tenant == _TENANT, reply.c.conversation_id.in_(listed("ids", dialect)))


@cache
def _tenants(table: Table) -> Select[Any]:
    """The tenants of a table, by one look into its index for each of them."""
    found = select(func.min(table.c.tenant).label("tenant")).cte("found", recursive=True)
    after = select(func.min(table.c.tenant)).where(table.c.tenant > found.c.tenant).scalar_subquery()
    found = found.union_all(select(after).where(found.c.tenant.is_not(None)))
    return select(found.c.tenant).where(found.c.tenant.is_not(None))


def tenants(connection: Connection) -> list[str]:
    """The tenants that have conversations or usage."""
    found = {tenant for table in (conversation, usage) for tenant in connection.execute(_tenants(table)).scalars()}
    return sorted(found)


def erase_idle(connection: Connection, tenant: str, before_us: int, limit: int) -> ErasedConversations:
    """See `ErasureStore`."""
    return _erase(connection, _OLD, {"of_tenant": tenant, "before_us": before_us}, limit=limit, running=False)


def erase_conversations(
    connection: Connection, identity: Identity, limit: int, *, running: bool
) -> ErasedConversations:
    """See `ErasureStore`."""
    return _erase(connection, _OF_USER, _user(identity), limit=limit, running=running)


def running_of(connection: Connection, identity: Identity) -> list[str]:
    """See `ErasureStore`."""
    return list(connection.execute(_USERS_REPLIES, _user(identity)).scalars())


def ended_of(connection: Connection, identity: Identity) -> list[str]:
    """See `ErasureStore`."""
    return list(connection.execute(_ENDED_REPLIES, _user(identity)).scalars())


def forget_user(connection: Connection, identity: Identity) -> tuple[int, int]:
    """See `ErasureStore`."""
    keys = connection.execute(_USERS_KEYS, _user(identity)).rowcount
    return keys, connection.execute(_USERS_QUOTAS, _user(identity)).rowcount


def rename_user(connection: Connection, identity: Identity, name: str, limit: int) -> int:
    """See `ErasureStore`."""
    return connection.execute(_rename(limit), {**_user(identity), "new_name": name}).rowcount


def delete_usage(connection: Connection, tenant: str, before_us: int, limit: int) -> int:
    """See `ErasureStore`."""
    return connection.execute(_old_usage(limit), {"of_tenant": tenant, "before_us": before_us}).rowcount


def delete_quota_use(connection: Connection, before_period: str) -> int:
    """See `ErasureStore`."""
    return connection.execute(_OLD_QUOTAS, {"before_period": before_period}).rowcount


@cache
def _rename(limit: int) -> Update:
    some = select(usage.c.reply_id).where(usage.c.tenant == _TENANT, usage.c.end_user == _USER).limit(limit)
    return update(usage).where(usage.c.reply_id.in_(some)).values(end_user=bindparam("new_name", type_=Text))


@cache
def _old_usage(limit: int) -> Delete:
    old = (usage.c.tenant == _TENANT, usage.c.create_time_us < _BEFORE, usage.c.rolled)
    return delete(usage).where(usage.c.reply_id.in_(select(usage.c.reply_id).where(*old).limit(limit)))


def _erase(
    connection: Connection,
    which: tuple[ColumnElement[bool], ...],
    parameters: dict[str, str | int],
    *,
    limit: int,
    running: bool,
) -> ErasedConversations:
    """Erase at most `limit` conversations that no other transaction has locked; with `running`, also those with a
    running reply."""
    dialect = connection.dialect.name
    idle = which if running else (*which, ~_RUNNING)
    lock = select(conversation.c.id).where(*idle).limit(limit).with_for_update(skip_locked=True)
    found = {"ids": listed_values(connection.execute(lock, parameters).scalars())}
    # The lock may have come after a new reply, which the first query could not see.
    again = select(conversation.c.id).where(*idle, *_of_tenant(dialect))
    ids = list(connection.execute(again, {**parameters, **found}).scalars())
    place = {"of_tenant": parameters["of_tenant"], "ids": listed_values(ids)}
    reply_ids = tuple(connection.execute(_replies(dialect), place).scalars())
    connection.execute(delete(conversation).where(*_of_tenant(dialect)), place)
    return ErasedConversations(count=len(ids), reply_ids=reply_ids)


def _user(identity: Identity) -> dict[str, str | int]:
    return {"of_tenant": identity.tenant, "of_user": identity.end_user}
