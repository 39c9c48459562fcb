"""The tables of conversations: what an erasure deletes, except replies."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
)

from parley_server.store.schema.columns import (
    TEXT,
    big_column,
    flag_column,
    metadata,
    number_column,
    of_conversation,
    text_column,
)

conversation = Table(
    "conversation",
    metadata,
    text_column("tenant"),
    text_column("id"),
    text_column("end_user"),
    text_column("head_message_id"),
    number_column("next_position"),
    number_column("version"),
    big_column("create_time_us"),
    big_column("update_time_us"),
    text_column("model"),
    text_column("context"),
    text_column("labels"),
    text_column("title"),
    text_column("title_folded"),
    text_column("system"),
    text_column("post_system"),
    PrimaryKeyConstraint("tenant", "id", name="conversation_pk"),
    Index("conversation_by_user", "tenant", "end_user", "update_time_us", "id"),
    Index("conversation_by_tenant", "tenant", "update_time_us", "id"),
)

conversation_label = Table(
    "conversation_label",
    metadata,
    text_column("tenant"),
    text_column("conversation_id"),
    text_column("name"),
    text_column("value"),
    text_column("end_user"),
    PrimaryKeyConstraint("tenant", "conversation_id", "name", name="conversation_label_pk"),
    of_conversation(),
    Index("conversation_label_by_value", "tenant", "name", "value", "conversation_id"),
    sqlite_with_rowid=False,
)

message = Table(
    "message",
    metadata,
    text_column("id"),
    text_column("tenant"),
    text_column("end_user"),
    text_column("conversation_id"),
    text_column("parent_id"),
    number_column("position"),
    text_column("role"),
    Column("reply_id", TEXT),
    flag_column("partial"),
    flag_column("failed"),
    big_column("create_time_us"),
    number_column("size_bytes"),
    text_column("parts"),
    Column("kept", TEXT),
    PrimaryKeyConstraint("id", name="message_pk"),
    of_conversation(),
    UniqueConstraint("reply_id", name="message_reply_once"),
    UniqueConstraint("tenant", "conversation_id", "position", name="message_position_once"),
)

image = Table(
    "image",
    metadata,
    text_column("id"),
    text_column("tenant"),
    text_column("end_user"),
    text_column("conversation_id"),
    text_column("mime_type"),
    number_column("size_bytes"),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("id", name="image_pk"),
    of_conversation(),
    Index("image_by_conversation", "tenant", "conversation_id"),
)

summary = Table(
    "summary",
    metadata,
    text_column("tenant"),
    text_column("conversation_id"),
    text_column("message_id"),
    text_column("text"),
    text_column("model"),
    big_column("create_time_us"),
    PrimaryKeyConstraint("tenant", "conversation_id", "message_id", name="summary_pk"),
    of_conversation(),
)
