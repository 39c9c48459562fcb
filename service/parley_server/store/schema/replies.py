"""The tables of replies, of the replicas that own them, and of idempotency keys."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    literal_column,
    text,
)

from parley_server.core.model import ACTIVE_STATES, State
from parley_server.store.schema.columns import (
    TEXT,
    big_column,
    column_with_default,
    metadata,
    number_column,
    of_conversation,
    text_column,
)

reply = Table(
    "reply",
    metadata,
    text_column("id"),
    text_column("tenant"),
    text_column("end_user"),
    text_column("conversation_id"),
    text_column("request_id"),
    text_column("message_id"),
    text_column("parent_message_id"),
    text_column("input_message_ids"),
    number_column("epoch"),
    text_column("state"),
    Column("finish_reason", TEXT),
    text_column("provider_reason"),
    Column("usage", TEXT),
    Column("error", TEXT),
    text_column("requested_model"),
    text_column("model"),
    text_column("provider"),
    number_column("last_sequence"),
    Column("cancel_requested", TEXT),
    text_column("cancel_reason"),
    big_column("create_time_us"),
    big_column("first_token_time_us"),
    big_column("end_time_us"),
    text_column("labels"),
    column_with_default("owner", TEXT, text("''")),
    Column("plan", TEXT),
    PrimaryKeyConstraint("id", name="reply_pk"),
    of_conversation(),
    CheckConstraint("state IN ('PENDING', 'STREAMING', 'COMPLETED', 'CANCELLED', 'FAILED')", name="reply_state_known"),
    Index("reply_by_message", "message_id"),
    Index("reply_by_parent", "tenant", "conversation_id", "parent_message_id"),
)

# The states are literals because SQLite uses a partial index only if the query repeats its condition literally.
reply_active = reply.c.state.in_([literal_column(f"'{state}'", Text) for state in ACTIVE_STATES])
reply_pending = reply.c.state == literal_column(f"'{State.PENDING}'", Text)
_ACTIVE = text("state IN ('PENDING', 'STREAMING')")
Index(
    "reply_active_once",
    reply.c.tenant,
    reply.c.conversation_id,
    unique=True,
    sqlite_where=_ACTIVE,
    postgresql_where=_ACTIVE,
)
Index("reply_active_by_owner", reply.c.owner, sqlite_where=_ACTIVE, postgresql_where=_ACTIVE)

replica = Table(
    "replica",
    metadata,
    text_column("id"),
    big_column("lease_until_us"),
    big_column("start_time_us"),
    column_with_default("version", TEXT, text("''")),
    PrimaryKeyConstraint("id", name="replica_pk"),
)
"""The times in this table come from the database's clock, not from a replica's."""

idempotency_key = Table(
    "idempotency_key",
    metadata,
    text_column("tenant"),
    text_column("end_user"),
    text_column("kind"),
    text_column("key"),
    text_column("payload_hash"),
    Column("resource_id", TEXT),
    text_column("cancel_reason"),
    big_column("expire_time_us"),
    PrimaryKeyConstraint("tenant", "end_user", "kind", "key", name="idempotency_key_pk"),
    Index("idempotency_key_by_expiry", "expire_time_us"),
    sqlite_with_rowid=False,
)

checkpoint = Table(
    "checkpoint",
    metadata,
    text_column("reply_id"),
    number_column("epoch"),
    number_column("from_sequence"),
    number_column("to_sequence"),
    text_column("tenant"),
    text_column("end_user"),
    text_column("entries"),
    PrimaryKeyConstraint("reply_id", "epoch", "from_sequence", name="checkpoint_pk"),
    ForeignKeyConstraint(["reply_id"], ["reply.id"], ondelete="CASCADE"),
    sqlite_with_rowid=False,
)
