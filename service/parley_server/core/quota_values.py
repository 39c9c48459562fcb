"""The values of quotas that the core and the store exchange. Costs are billionths of a US dollar."""

from __future__ import annotations

import msgspec

from parley_server.core.model import Value

USER, TENANT = "user", "tenant"


class QuotaRow(msgspec.Struct, frozen=True, array_like=True):
    """Names a row of use. `scope` is `USER` or `TENANT`; `end_user` is empty for `TENANT`, and for calls without an end
    user, which count as one. `period` is a day or a month (see `core.periods`)."""

    scope: str
    end_user: str
    period: str


class Hold(Value, frozen=True, kw_only=True):
    """What a running reply holds in each of `rows`, until its end replaces it by its charge."""

    tokens: int = 0
    cost: int = 0
    rows: tuple[QuotaRow, ...] = ()


class QuotaLimit(Value, frozen=True, kw_only=True):
    """The limits of a row. None: no limit."""

    row: QuotaRow
    tokens: int | None = None
    cost: int | None = None


class QuotaUse(Value, frozen=True, kw_only=True):
    """What a row counts: what ended replies have used, and what running ones hold."""

    row: QuotaRow
    tokens: int = 0
    cost: int = 0


class Charge(Value, frozen=True, kw_only=True):
    """What an ended reply has used."""

    tokens: int = 0
    cost: int = 0


class QuotaState(Value, frozen=True, kw_only=True):
    """One limit as callers see it, such as `tokens_per_day` or `tenant_cost_nano_usd_per_month`. The use returns to 0
    at `reset_time_us`, or gradually if that is 0."""

    name: str
    limit: int
    used: int
    reset_time_us: int = 0
