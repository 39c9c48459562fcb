"""Kept wire items, plans of replies, summaries, usage per day, quotas and provider keys.

On PostgreSQL, `migrate.build_indexes` builds the indexes of tables that may be large, after this transaction.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    _columns()
    _tables()
    if op.get_bind().dialect.name == "sqlite":
        _indexes()
    op.execute("UPDATE schema_release SET release = 3")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, TEXT, nullable=False)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _columns() -> None:
    empty, zero = sa.text("''"), sa.text("0")
    op.add_column("message", sa.Column("kept", TEXT))
    op.add_column("reply", sa.Column("plan", TEXT))
    op.add_column("replica", sa.Column("version", TEXT, nullable=False, server_default=empty))
    op.add_column("usage", sa.Column("cache_write_tokens", sa.Integer, nullable=False, server_default=zero))
    op.add_column("usage", sa.Column("kind", TEXT, nullable=False, server_default=sa.text("'reply'")))
    op.add_column("usage", sa.Column("rolled", sa.Boolean, nullable=False, server_default=sa.false()))


def _tables() -> None:
    op.create_table(
        "summary",
        _text("tenant"),
        _text("conversation_id"),
        _text("message_id"),
        _text("text"),
        _text("model"),
        _big("create_time_us"),
        sa.PrimaryKeyConstraint("tenant", "conversation_id", "message_id", name="summary_pk"),
        sa.ForeignKeyConstraint(
            ["tenant", "conversation_id"], ["conversation.tenant", "conversation.id"], ondelete="CASCADE"
        ),
    )
    op.create_table(
        "provider_key",
        _text("provider"),
        _text("tenant"),
        _text("token"),
        _text("hint"),
        _big("update_time_us"),
        sa.PrimaryKeyConstraint("provider", "tenant", name="provider_key_pk"),
    )
    held = ("used_tokens", "used_cost", "held_tokens", "held_cost")
    op.create_table(
        "quota_use",
        _text("tenant"),
        _text("scope"),
        _text("end_user"),
        _text("period"),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")) for name in held),
        sa.PrimaryKeyConstraint("tenant", "scope", "end_user", "period", name="quota_use_pk"),
    )
    op.create_index("quota_use_by_period", "quota_use", ["period"])
    group = ("tenant", "day", "model", "state", "finish_reason", "error_reason")
    sums = (
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
    )
    op.create_table(
        "usage_day", *map(_text, group), *map(_big, sums), sa.PrimaryKeyConstraint(*group, name="usage_day_pk")
    )
    op.create_index("usage_day_by_day", "usage_day", ["day"])


def _indexes() -> None:
    op.create_index("usage_by_tenant", "usage", ["tenant", "create_time_us"])
    op.create_index("usage_by_user", "usage", ["tenant", "end_user", "create_time_us"])
    op.create_index("usage_unrolled", "usage", ["create_time_us"], sqlite_where=sa.text("NOT rolled"))
    op.create_index("reply_by_parent", "reply", ["tenant", "conversation_id", "parent_message_id"])
    op.drop_index("reply_by_conversation", "reply")
