"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    _conversations()
    _messages()
    _replies()
    _free_standing()


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, TEXT, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False)


def _of_conversation() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant", "conversation_id"], ["conversation.tenant", "conversation.id"], ondelete="CASCADE"
    )


def _conversations() -> None:
    op.create_table(
        "conversation",
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
        sa.PrimaryKeyConstraint("tenant", "id", name="conversation_pk"),
    )
    op.create_index("conversation_by_user", "conversation", ["tenant", "end_user", "update_time_us", "id"])
    op.create_index("conversation_by_tenant", "conversation", ["tenant", "update_time_us", "id"])
    op.create_table(
        "conversation_label",
        _text("tenant"),
        _text("conversation_id"),
        _text("name"),
        _text("value"),
        _text("end_user"),
        sa.PrimaryKeyConstraint("tenant", "conversation_id", "name", name="conversation_label_pk"),
        _of_conversation(),
        sqlite_with_rowid=False,
    )
    op.create_index("conversation_label_by_value", "conversation_label", ["tenant", "name", "value", "conversation_id"])


def _messages() -> None:
    op.create_table(
        "message",
        _text("id"),
        _text("tenant"),
        _text("end_user"),
        _text("conversation_id"),
        _text("parent_id"),
        _number("position"),
        _text("role"),
        sa.Column("reply_id", TEXT),
        _flag("partial"),
        _flag("failed"),
        _big("create_time_us"),
        _number("size_bytes"),
        _text("parts"),
        sa.PrimaryKeyConstraint("id", name="message_pk"),
        _of_conversation(),
        sa.UniqueConstraint("reply_id", name="message_reply_once"),
        sa.UniqueConstraint("tenant", "conversation_id", "position", name="message_position_once"),
    )
    op.create_table(
        "image",
        _text("id"),
        _text("tenant"),
        _text("end_user"),
        _text("conversation_id"),
        _text("mime_type"),
        _number("size_bytes"),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="image_pk"),
        _of_conversation(),
    )
    op.create_index("image_by_conversation", "image", ["tenant", "conversation_id"])


def _replies() -> None:
    op.create_table(
        "reply",
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
        sa.Column("finish_reason", TEXT),
        _text("provider_reason"),
        sa.Column("usage", TEXT),
        sa.Column("error", TEXT),
        _text("requested_model"),
        _text("model"),
        _text("provider"),
        _number("last_sequence"),
        sa.Column("cancel_requested", TEXT),
        _text("cancel_reason"),
        _big("create_time_us"),
        _big("first_token_time_us"),
        _big("end_time_us"),
        _text("labels"),
        sa.PrimaryKeyConstraint("id", name="reply_pk"),
        _of_conversation(),
        sa.CheckConstraint(
            "state IN ('PENDING', 'STREAMING', 'COMPLETED', 'CANCELLED', 'FAILED')", name="reply_state_known"
        ),
    )
    op.create_index("reply_by_message", "reply", ["message_id"])
    op.create_index("reply_by_conversation", "reply", ["tenant", "conversation_id"])
    active = sa.text("state IN ('PENDING', 'STREAMING')")
    op.create_index(
        "reply_active_once",
        "reply",
        ["tenant", "conversation_id"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
    op.create_table(
        "checkpoint",
        _text("reply_id"),
        _number("epoch"),
        _number("from_sequence"),
        _number("to_sequence"),
        _text("tenant"),
        _text("end_user"),
        _text("entries"),
        sa.PrimaryKeyConstraint("reply_id", "epoch", "from_sequence", name="checkpoint_pk"),
        sa.ForeignKeyConstraint(["reply_id"], ["reply.id"], ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )


def _free_standing() -> None:
    op.create_table(
        "idempotency_key",
        _text("tenant"),
        _text("end_user"),
        _text("kind"),
        _text("key"),
        _text("payload_hash"),
        sa.Column("resource_id", TEXT),
        _text("cancel_reason"),
        _big("expire_time_us"),
        sa.PrimaryKeyConstraint("tenant", "end_user", "kind", "key", name="idempotency_key_pk"),
        sqlite_with_rowid=False,
    )
    op.create_index("idempotency_key_by_expiry", "idempotency_key", ["expire_time_us"])
    op.create_table(
        "usage",
        _text("reply_id"),
        _text("tenant"),
        _text("end_user"),
        _text("model"),
        _text("provider"),
        _text("state"),
        sa.Column("finish_reason", TEXT),
        sa.Column("error_reason", TEXT),
        _number("prompt_tokens"),
        _number("cached_prompt_tokens"),
        _number("completion_tokens"),
        _number("reasoning_tokens"),
        sa.Column("cost_nano_usd", sa.BigInteger),
        _flag("estimated"),
        _big("create_time_us"),
        _big("first_token_time_us"),
        _big("end_time_us"),
        _number("text_length"),
        sa.PrimaryKeyConstraint("reply_id", name="usage_pk"),
    )
    release = op.create_table("schema_release", sa.Column("release", sa.Integer, nullable=False))
    op.bulk_insert(release, [{"release": 1}])
