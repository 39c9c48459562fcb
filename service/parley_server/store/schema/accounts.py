"""The tables of usage, quotas and provider keys. They have no foreign keys, so that an erasure keeps them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    false,
    text,
)

from parley_server.store.schema.columns import (
    TEXT,
    big_column,
    column_with_default,
    flag_column,
    metadata,
    number_column,
    text_column,
)

usage = Table(
    "usage",
    metadata,
    text_column("reply_id"),
    text_column("tenant"),
    text_column("end_user"),
    text_column("model"),
    text_column("provider"),
    text_column("state"),
    Column("finish_reason", TEXT),
    Column("error_reason", TEXT),
    number_column("prompt_tokens"),
    number_column("cached_prompt_tokens"),
    number_column("completion_tokens"),
    number_column("reasoning_tokens"),
    Column("cost_nano_usd", BigInteger),
    flag_column("estimated"),
    big_column("create_time_us"),
    big_column("first_token_time_us"),
    big_column("end_time_us"),
    number_column("text_length"),
    column_with_default("cache_write_tokens", Integer(), text("0")),
    column_with_default("kind", TEXT, text("'reply'")),
    column_with_default("rolled", Boolean(), false()),
    PrimaryKeyConstraint("reply_id", name="usage_pk"),
    Index("usage_by_tenant", "tenant", "create_time_us"),
    Index("usage_by_user", "tenant", "end_user", "create_time_us"),
    Index("usage_unrolled", "create_time_us", sqlite_where=text("NOT rolled"), postgresql_where=text("NOT rolled")),
)
"""One row per reply and per summary (`kind`), whose id is in `reply_id`. `rolled`: it is part of `usage_day`."""

usage_day = Table(
    "usage_day",
    metadata,
    text_column("tenant"),
    text_column("day"),
    text_column("model"),
    text_column("state"),
    text_column("finish_reason"),
    text_column("error_reason"),
    *map(
        big_column,
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
    text_column("tenant"),
    text_column("scope"),
    text_column("end_user"),
    text_column("period"),
    *(
        column_with_default(name, BigInteger(), text("0"))
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
    text_column("provider"),
    text_column("tenant"),
    text_column("token"),
    text_column("hint"),
    big_column("update_time_us"),
    PrimaryKeyConstraint("provider", "tenant", name="provider_key_pk"),
)
