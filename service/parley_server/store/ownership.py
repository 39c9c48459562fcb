"""The tenant and end-user filter that every query uses. Rows of another owner are treated as if they did not exist."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Table, Text, and_, bindparam, literal_column, or_

from parley_server.core.model import Identity
from parley_server.store.engine.dialect import Sought

_EVERYBODY = literal_column("''", Text)


def owned(table: Table) -> ColumnElement[bool]:
    """The condition that the identity passed as `owner` parameters may see a row of `table`. An identity without an end
    user sees all rows of its tenant."""
    owner = bindparam("owner_end_user", type_=Sought())
    return and_(
        table.c.tenant == bindparam("owner_tenant", type_=Sought()),
        or_(owner == _EVERYBODY, table.c.end_user == owner),
    )


def owner(identity: Identity) -> dict[str, object]:
    """The parameters of `owned` for an identity."""
    return {"owner_tenant": identity.tenant, "owner_end_user": identity.end_user}
