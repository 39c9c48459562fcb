"""Encrypted API keys of providers: the rows of `provider_key`."""

from __future__ import annotations

from functools import cache

import msgspec
from sqlalchemy import Connection, Text, bindparam, case, delete, select, tuple_, update

from parley_server.core.store_types import KeyPlace, StoredKey
from parley_server.store.engine.dialect import Insert, Sought, insert
from parley_server.store.schema import provider_key

_PLACE = (provider_key.c.provider, provider_key.c.tenant)
_THIS = (
    provider_key.c.provider == bindparam("of_provider", type_=Sought()),
    provider_key.c.tenant == bindparam("of_tenant", type_=Sought()),
)
_VERSIONS = select(*_PLACE, provider_key.c.update_time_us)
_ROWS = (
    select(provider_key)
    .where(tuple_(*_PLACE) > tuple_(bindparam("of_provider", type_=Sought()), bindparam("of_tenant", type_=Sought())))
    .order_by(*_PLACE)
)
_GET = select(provider_key).where(*_THIS)
_DELETE = delete(provider_key).where(*_THIS)
_REPLACE = (
    update(provider_key)
    .where(*_THIS, provider_key.c.token == bindparam("of_token", type_=Text))
    .values(token=bindparam("new_token", type_=Text))
    .execution_options(preserve_rowcount=True)
)


@cache
def _set(dialect: str) -> Insert:
    statement = insert(provider_key, dialect)
    given, former = statement.excluded, provider_key.c.update_time_us
    # Replicas notice a change by its time, so it must differ from the former one even if their clocks do.
    later = case((given.update_time_us > former, given.update_time_us), else_=former + 1)
    return statement.on_conflict_do_update(
        index_elements=list(_PLACE), set_={"token": given.token, "hint": given.hint, "update_time_us": later}
    )


def key_versions(connection: Connection) -> dict[KeyPlace, int]:
    """See `KeyStore`."""
    return {KeyPlace(row.provider, row.tenant): row.update_time_us for row in connection.execute(_VERSIONS)}


def list_keys(connection: Connection, after: KeyPlace, limit: int | None) -> list[StoredKey]:
    """See `KeyStore`."""
    query = _ROWS if limit is None else _ROWS.limit(limit)
    return [StoredKey(**row) for row in connection.execute(query, _of(after)).mappings()]


def set_key(connection: Connection, key: StoredKey) -> StoredKey:
    """See `KeyStore`."""
    connection.execute(_set(connection.dialect.name), msgspec.structs.asdict(key))
    return StoredKey(**connection.execute(_GET, _of(key.place)).mappings().one())


def delete_key(connection: Connection, place: KeyPlace) -> None:
    """See `KeyStore`."""
    connection.execute(_DELETE, _of(place))


def replace_token(connection: Connection, key: StoredKey, token: str) -> bool:
    """See `KeyStore`."""
    parameters = {**_of(key.place), "of_token": key.token, "new_token": token}
    return bool(connection.execute(_REPLACE, parameters).rowcount)


def _of(place: KeyPlace) -> dict[str, str]:
    return {"of_provider": place.provider, "of_tenant": place.tenant}
