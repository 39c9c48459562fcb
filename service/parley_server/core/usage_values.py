"""A question about usage and its answer."""

from __future__ import annotations

import enum

from parley_server.core.model import Value


class UsageGroup(enum.IntEnum):
    """What usage can be grouped by. The numbers give the order in which rows are sorted by several groups."""

    TENANT = 1
    END_USER = 2
    DAY = 3
    MODEL = 4
    OUTCOME = 5


class UsageQuery(Value, frozen=True, kw_only=True):
    """Selects usage of replies that were accepted in [start_us, end_us), and how it is grouped. Empty filters select
    all. `end_us` None: until now."""

    start_us: int = 0
    end_us: int | None = None
    groups: tuple[UsageGroup, ...] = ()
    tenant: str = ""
    end_user: str = ""
    model: str = ""


class UsageKey(Value, frozen=True, kw_only=True):
    """What the replies of a row have in common. Fields that are not grouped by are empty."""

    tenant: str = ""
    end_user: str = ""
    day: str = ""
    model: str = ""
    state: str = ""
    finish_reason: str = ""
    error_reason: str = ""


class UsageSums(Value, frozen=True, kw_only=True):
    """Sums over the replies and summaries of a row. Tokens and cost are of both, all else is of replies alone.

    `unpriced` counts replies of unknown cost, which `cost_nano_usd` does not contain; `estimated` those whose tokens
    are estimates. `first_token_us` is the sum over the `first_token_count` replies that have a first token;
    `text_length` is in characters."""

    key: UsageKey = UsageKey()
    replies: int = 0
    summaries: int = 0
    unpriced: int = 0
    estimated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0
    first_token_count: int = 0
    first_token_us: int = 0
    duration_us: int = 0
    text_length: int = 0


class UsagePage(Value, frozen=True, kw_only=True):
    """A page of rows, sorted by their keys. `more`: rows follow."""

    rows: tuple[UsageSums, ...]
    more: bool


_COLUMNS = {
    UsageGroup.TENANT: ("tenant",),
    UsageGroup.END_USER: ("end_user",),
    UsageGroup.DAY: ("day",),
    UsageGroup.MODEL: ("model",),
    UsageGroup.OUTCOME: ("state", "finish_reason", "error_reason"),
}


def key_columns(query: UsageQuery) -> list[str]:
    """The fields of `UsageKey` that the query groups by, in the order by which its rows are sorted."""
    return [name for group in sorted(set(query.groups)) for name in _COLUMNS[group]]
