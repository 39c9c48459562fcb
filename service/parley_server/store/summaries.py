"""Stores and loads summaries of branches."""

from __future__ import annotations

from functools import cache

from sqlalchemy import BigInteger, Connection, bindparam, select

from parley_server.core.counts import holdable_usage
from parley_server.core.model import FinishReason, State, Usage
from parley_server.core.store_types import Summary
from parley_server.store.engine.dialect import Insert, held, insert
from parley_server.store.messages import IN_CONVERSATION
from parley_server.store.schema import message, summary, usage
from parley_server.store.usage import SUMMARY, usage_values

_OWNER = select(message.c.end_user).where(*IN_CONVERSATION)
_FIND = select(summary).where(
    summary.c.tenant == bindparam("of_tenant"),
    summary.c.conversation_id == bindparam("of_conversation"),
    summary.c.message_id == bindparam("of_message"),
    summary.c.create_time_us < bindparam("before_us", type_=BigInteger),
)


@cache
def _store(dialect: str) -> Insert:
    statement = insert(summary, dialect)
    written = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[summary.c.tenant, summary.c.conversation_id, summary.c.message_id],
        set_={name: written[name] for name in ("text", "model", "create_time_us")},
    )


@cache
def _charge(dialect: str) -> Insert:
    return insert(usage, dialect).on_conflict_do_nothing()


def find_summary(
    connection: Connection, message_id: str, *, tenant: str, conversation_id: str, before_us: int
) -> Summary | None:
    """The summary up to this message, if there is one that was made before `before_us`."""
    parameters = {
        "of_tenant": tenant,
        "of_conversation": conversation_id,
        "of_message": message_id,
        "before_us": before_us,
    }
    row = connection.execute(_FIND, parameters).first()
    return None if row is None else Summary(**row._asdict())


def add_summary(connection: Connection, made: Summary, counted: Usage, *, usage_id: str, provider: str) -> bool:
    """See `Store.add_summary`. On PostgreSQL, an erasure that comes between the statements makes the foreign key fail,
    and the unit is run again."""
    place = {"message_id": made.message_id, "of_tenant": made.tenant, "of_conversation": made.conversation_id}
    owner = connection.execute(_OWNER, place).first()
    if owner is None:
        return False
    dialect = connection.dialect.name
    row = {
        "tenant": made.tenant,
        "conversation_id": made.conversation_id,
        "message_id": made.message_id,
        "text": held(made.text),
        "model": made.model,
        "create_time_us": made.create_time_us,
    }
    connection.execute(_store(dialect), row)
    charged = usage_values(holdable_usage(counted)) | {
        "reply_id": usage_id,
        "tenant": made.tenant,
        "end_user": owner.end_user,
        "model": made.model,
        "provider": provider,
        "state": State.COMPLETED.value,
        "finish_reason": FinishReason.STOP.value,
        "error_reason": None,
        "create_time_us": made.create_time_us,
        "first_token_time_us": 0,
        "end_time_us": made.create_time_us,
        "text_length": len(made.text),
        "kind": SUMMARY,
    }
    connection.execute(_charge(dialect), charged)
    return True
