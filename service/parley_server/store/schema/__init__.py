"""The tables as SQLAlchemy Core objects. Migrations create them; a test checks that both are equal."""

from __future__ import annotations

from sqlalchemy import Column, Integer, Table

from parley_server.store.schema.accounts import provider_key, quota_use, usage, usage_day
from parley_server.store.schema.columns import metadata
from parley_server.store.schema.conversations import conversation, conversation_label, image, message, summary
from parley_server.store.schema.replies import checkpoint, idempotency_key, replica, reply, reply_active, reply_pending

__all__ = [
    "BUILT_LATER",
    "checkpoint",
    "conversation",
    "conversation_label",
    "idempotency_key",
    "image",
    "message",
    "metadata",
    "provider_key",
    "quota_use",
    "replica",
    "reply",
    "reply_active",
    "reply_pending",
    "schema_release",
    "summary",
    "usage",
    "usage_day",
]

BUILT_LATER = sorted(
    (*usage.indexes, *(each for each in reply.indexes if each.name == "reply_by_parent")),
    key=lambda each: str(each.name),
)
"""Indexes that PostgreSQL builds while the server runs, because their tables may be large."""

schema_release = Table("schema_release", metadata, Column("release", Integer, nullable=False))
