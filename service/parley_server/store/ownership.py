"""The condition that makes somebody else's rows not exist, the same in every query."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Table, Text, and_, bindparam, literal_column, or_

from parley_server.core.model import Identity
from parley_server.store.engine.dialect import Sought

_EVERYBODY = literal_column("''", Text)


def owned(table: Table) -> ColumnElement[bool]:
    """Rows of `table` that the identity in the parameters of `owner` may see."""
    owner = bindparam("owner_end_user", type_=Sought())
    return and_(
        table.c.tenant == bindparam("owner_tenant", type_=Sought()),
        or_(owner == _EVERYBODY, table.c.end_user == owner),
    )


def owner(identity: Identity) -> dict[str, object]:
    """The parameters of `owned`."""
    return {"owner_tenant": identity.tenant, "owner_end_user": identity.end_user}
