"""Stores and loads messages, and walks a branch from a leaf to the root."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    Connection,
    Integer,
    Select,
    Text,
    bindparam,
    insert,
    literal_column,
    select,
)

from parley_server.core.model import Message
from parley_server.store.engine.dialect import AnyRow, Sought, listed, listed_values
from parley_server.store.rows import MESSAGE_COLUMNS, message_of, message_values
from parley_server.store.schema import message

NO_LIMIT = 2**31 - 1

# PostgreSQL uses no index for IS NOT DISTINCT FROM. For `=`, it may read all messages of the conversation while its
# statistics are old.
IN_CONVERSATION = (
    message.c.id == bindparam("message_id", type_=Sought()),
    message.c.tenant.is_not_distinct_from(bindparam("of_tenant", type_=Text)),
    message.c.conversation_id.is_not_distinct_from(bindparam("of_conversation", type_=Text)),
)
_INSERT = insert(message)
_FIND = select(message.c.id, message.c.role, message.c.parent_id).where(*IN_CONVERSATION)
_ONE = literal_column("1", Integer)


@cache
def _load(dialect: str) -> Select[Any]:
    return select(*MESSAGE_COLUMNS).where(message.c.id.in_(listed("message_ids", dialect)))


def branch(name: str) -> CTE:
    """A recursive CTE of the messages from `message_id` up to the root: (id, parent_id, size_bytes, depth).

    It stops after `wanted` messages, so that its cost does not grow with the conversation.
    """
    above = message.alias("above")
    start = select(message.c.id, message.c.parent_id, message.c.size_bytes, _ONE.label("depth"))
    found = start.where(*IN_CONVERSATION).cte(name, recursive=True)
    return found.union_all(
        select(above.c.id, above.c.parent_id, above.c.size_bytes, found.c.depth + _ONE).where(
            above.c.id == found.c.parent_id, found.c.depth < bindparam("wanted", type_=Integer)
        )
    )


def branch_from(message_id: str, *, tenant: str, conversation_id: str, wanted: int) -> dict[str, object]:
    """The parameters of `branch`."""
    return {
        "message_id": message_id,
        "of_tenant": tenant,
        "of_conversation": conversation_id,
        "wanted": wanted,
    }


def insert_messages(
    connection: Connection,
    messages: Collection[Message],
    *,
    tenant: str,
    end_user: str,
    conversation_id: str,
    first_position: int,
    kept: str | None = None,
) -> None:
    """Store new messages at consecutive positions, starting with `first_position`; `kept` is stored with a single
    one."""
    rows = [
        message_values(each, tenant, end_user=end_user, conversation_id=conversation_id, position=position)
        for position, each in enumerate(messages, first_position)
    ]
    if len(rows) == 1:
        connection.execute(_INSERT, rows[0] | {"kept": kept})
    elif rows:
        connection.execute(_INSERT, rows)


def find_message(connection: Connection, message_id: str, *, tenant: str, conversation_id: str) -> AnyRow | None:
    """The id, role and parent of a message; None if the conversation does not have it."""
    parameters = {"message_id": message_id, "of_tenant": tenant, "of_conversation": conversation_id}
    return connection.execute(_FIND, parameters).first()


def holds_message(connection: Connection, message_id: str, *, tenant: str, conversation_id: str) -> bool:
    """Whether the message belongs to the conversation."""
    return find_message(connection, message_id, tenant=tenant, conversation_id=conversation_id) is not None


def load_messages(connection: Connection, message_ids: list[str]) -> tuple[Message, ...]:
    """The messages with these ids, in the order given. All must exist."""
    if not message_ids:
        return ()
    rows = connection.execute(_load(connection.dialect.name), {"message_ids": listed_values(message_ids)})
    found = {row.id: message_of(row) for row in rows}
    return tuple(found[message_id] for message_id in message_ids)
