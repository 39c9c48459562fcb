"""The tables as SQLAlchemy Core objects. Migrations create them; a test checks that both are equal.

Times are microseconds since the epoch. An absent value is an empty string or 0; a column is nullable only where NULL
means something else. JSON is stored as text, since it is read and written whole. Large columns come last, so that scans
of the other columns do not read them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
    literal_column,
    text,
)
from sqlalchemy.types import TypeEngine

from parley_server.core.model import ACTIVE_STATES, State

metadata = MetaData()

# Collation C compares bytes, as SQLite does, so that the order of pages does not depend on the server's locale.
TEXT: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")


def _text(name: str) -> Column[str]:
    return Column(name, TEXT, nullable=False)


def _number(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def _big(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False)


def _with_default(name: str, kind: TypeEngine[Any], default: Any) -> Column[Any]:
    """A column that INSERT statements of the previous release leave out."""
    return Column(name, kind, nullable=False, server_default=default)


def _of_conversation() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["tenant", "conversation_id"], ["conversation.tenant", "conversation.id"], ondelete="CASCADE"
    )


conversation = Table(
    "conversation",
    metadata,
    _text("tenant"),
    _text("id"),
    _text("end_user"),
    _text("head_message_id"),
    _number("next_position"),
    _number("version"),
    _big("create_time_us"),
    _big("update_time_us"),
    _text("model"),
    _text("context"),
    _text("labels"),
    _text("title"),
    _text("title_folded"),
    _text("system"),
    _text("post_system"),
    PrimaryKeyConstraint("tenant", "id", name="conversation_pk"),
    Index("conversation_by_user", "tenant", "end_user", "update_time_us", "id"),
    Index("conversation_by_tenant", "tenant", "update_time_us", "id"),
)

conversation_label = Table(
    "conversation_label",
    metadata,
    _text("tenant"),
    _text("conversation_id"),
    _text("name"),
    _text("value"),
    _text("end_user"),
    PrimaryKeyConstraint("tenant", "conversation_id", "name", name="conversation_label_pk"),
    _of_conversation(),
    Index("conversation_label_by_value", "tenant", "name", "value", "conversation_id"),
    sqlite_with_rowid=False,
)

message = Table(
    "message",
    metadata,
    _text("id"),
    _text("tenant"),
    _text("end_user"),
    _text("conversation_id"),
    _text("parent_id"),
    _number("position"),
    _text("role"),
    Column("reply_id", TEXT),
    _flag("partial"),
    _flag("failed"),
    _big("create_time_us"),
    _number("size_bytes"),
    _text("parts"),
    Column("kept", TEXT),
    PrimaryKeyConstraint("id", name="message_pk"),
    _of_conversation(),
    UniqueConstraint("reply_id", name="message_reply_once"),
    UniqueConstraint("tenant", "conversation_id", "position", name="message_position_once"),
)

image = Table(
    "image",
    metadata,
    _text("id"),
    _text("tenant"),
    _text("end_user"),
    _text("conversation_id"),
    _text("mime_type"),
    _number("size_bytes"),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("id", name="image_pk"),
    _of_conversation(),
    Index("image_by_conversation", "tenant", "conversation_id"),
)

reply = Table(
    "reply",
    metadata,
    _text("id"),
    _text("tenant"),
    _text("end_user"),
    _text("conversation_id"),
    _text("request_id"),
    _text("message_id"),
    _text("parent_message_id"),
    _text("input_message_ids"),
    _number("epoch"),
    _text("state"),
    Column("finish_reason", TEXT),
    _text("provider_reason"),
    Column("usage", TEXT),
    Column("error", TEXT),
    _text("requested_model"),
    _text("model"),
    _text("provider"),
    _number("last_sequence"),
    Column("cancel_requested", TEXT),
    _text("cancel_reason"),
    _big("create_time_us"),
    _big("first_token_time_us"),
    _big("end_time_us"),
    _text("labels"),
    _with_default("owner", TEXT, text("''")),
    Column("plan", TEXT),
    PrimaryKeyConstraint("id", name="reply_pk"),
    _of_conversation(),
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
    _text("id"),
    _big("lease_until_us"),
    _big("start_time_us"),
    _with_default("version", TEXT, text("''")),
    PrimaryKeyConstraint("id", name="replica_pk"),
)
"""The times in this table come from the database's clock, not from a replica's."""

idempotency_key = Table(
    "idempotency_key",
    metadata,
    _text("tenant"),
    _text("end_user"),
    _text("kind"),
    _text("key"),
    _text("payload_hash"),
    Column("resource_id", TEXT),
    _text("cancel_reason"),
    _big("expire_time_us"),
    PrimaryKeyConstraint("tenant", "end_user", "kind", "key", name="idempotency_key_pk"),
    Index("idempotency_key_by_expiry", "expire_time_us"),
    sqlite_with_rowid=False,
)

checkpoint = Table(
    "checkpoint",
    metadata,
    _text("reply_id"),
    _number("epoch"),
    _number("from_sequence"),
    _number("to_sequence"),
    _text("tenant"),
    _text("end_user"),
    _text("entries"),
    PrimaryKeyConstraint("reply_id", "epoch", "from_sequence", name="checkpoint_pk"),
    ForeignKeyConstraint(["reply_id"], ["reply.id"], ondelete="CASCADE"),
    sqlite_with_rowid=False,
)

usage = Table(
    "usage",
    metadata,
    _text("reply_id"),
    _text("tenant"),
    _text("end_user"),
    _text("model"),
    _text("provider"),
    _text("state"),
    Column("finish_reason", TEXT),
    Column("error_reason", TEXT),
    _number("prompt_tokens"),
    _number("cached_prompt_tokens"),
    _number("completion_tokens"),
    _number("reasoning_tokens"),
    Column("cost_nano_usd", BigInteger),
    _flag("estimated"),
    _big("create_time_us"),
    _big("first_token_time_us"),
    _big("end_time_us"),
    _number("text_length"),
    _with_default("cache_write_tokens", Integer(), text("0")),
    _with_default("kind", TEXT, text("'reply'")),
    _with_default("rolled", Boolean(), false()),
    PrimaryKeyConstraint("reply_id", name="usage_pk"),
    Index("usage_by_tenant", "tenant", "create_time_us"),
    Index("usage_by_user", "tenant", "end_user", "create_time_us"),
    Index("usage_unrolled", "create_time_us", sqlite_where=text("NOT rolled"), postgresql_where=text("NOT rolled")),
)
"""One row per reply and per summary (`kind`), whose id is in `reply_id`. `rolled`: it is part of `usage_day`."""

usage_day = Table(
    "usage_day",
    metadata,
    _text("tenant"),
    _text("day"),
    _text("model"),
    _text("state"),
    _text("finish_reason"),
    _text("error_reason"),
    *map(
        _big,
        (
            "replies",
            "summaries",
            "unpriced",
            "estimated",
            "prompt_tokens",
            "cached_tokens",
            "cache_write_tokens",
            "completion_tokens",
            "reasoning_tokens",
            "cost_nano_usd",
            "first_token_count",
            "first_token_us",
            "duration_us",
            "text_length",
        ),
    ),
    PrimaryKeyConstraint("tenant", "day", "model", "state", "finish_reason", "error_reason", name="usage_day_pk"),
    Index("usage_day_by_day", "day"),
)
"""Sums of usage rows per UTC day of the acceptance, without end users."""

quota_use = Table(
    "quota_use",
    metadata,
    _text("tenant"),
    _text("scope"),
    _text("end_user"),
    _text("period"),
    *(
        _with_default(name, BigInteger(), text("0"))
        for name in ("used_tokens", "used_cost", "held_tokens", "held_cost")
    ),
    PrimaryKeyConstraint("tenant", "scope", "end_user", "period", name="quota_use_pk"),
    Index("quota_use_by_period", "period"),
)
"""What replies of a period (`2026-11-28` or `2026-11`, UTC, of the acceptance) have used and still hold. `scope` is
`user` or `tenant`; costs are billionths of a US dollar."""

provider_key = Table(
    "provider_key",
    metadata,
    _text("provider"),
    _text("tenant"),
    _text("token"),
    _text("hint"),
    _big("update_time_us"),
    PrimaryKeyConstraint("provider", "tenant", name="provider_key_pk"),
)

summary = Table(
    "summary",
    metadata,
    _text("tenant"),
    _text("conversation_id"),
    _text("message_id"),
    _text("text"),
    _text("model"),
    _big("create_time_us"),
    PrimaryKeyConstraint("tenant", "conversation_id", "message_id", name="summary_pk"),
    _of_conversation(),
)

BUILT_LATER = sorted(
    (*usage.indexes, *(each for each in reply.indexes if each.name == "reply_by_parent")),
    key=lambda each: str(each.name),
)
"""Indexes that PostgreSQL builds while the server runs, because their tables may be large."""

schema_release = Table("schema_release", metadata, Column("release", Integer, nullable=False))
