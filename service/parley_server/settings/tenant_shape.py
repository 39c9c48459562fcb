"""The shapes of `[tenants]`: who calls, and how much each may use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from parley_server.settings.values import Items, Shape, nano_usd

MOST_TOKENS = 10**15
MOST_NANO_USD = 10**18

RoleName = Literal["client", "admin"]
Roles = Annotated[tuple[RoleName, ...], Items, Field(min_length=1)]
TokenLimit = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
CostLimit = Annotated[int, BeforeValidator(nano_usd), Field(ge=1, le=MOST_NANO_USD)]


class TenantLimitSettings(Shape):
    """`messages_per_minute` is for each end user, `concurrent_replies` for the whole tenant. None: no limit."""

    messages_per_minute: Annotated[int, Field(ge=1, le=600)] | None = None
    concurrent_replies: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class QuotaSettings(Shape):
    """Tokens, and US dollars as billionths, per day and per calendar month in UTC. None: no limit."""

    tokens_per_day: TokenLimit | None = None
    tokens_per_month: TokenLimit | None = None
    cost_per_day: CostLimit | None = None
    cost_per_month: CostLimit | None = None


class TenantSettings(Shape):
    """A tenant with its credentials. The digests are in lower case. `roles` are those of its API keys and certificates.

    models: the aliases that its requests may name (None: all). quotas: for each end user. totals: for the whole tenant.
    """

    api_keys_sha256: Annotated[tuple[str, ...], Items] = ()
    certificates: Annotated[tuple[Annotated[str, Field(max_length=2048)], ...], Items] = ()
    roles: Roles = ("client",)
    models: Annotated[tuple[str, ...], Items, Field(min_length=1)] | None = None
    require_end_user: bool = False
    limits: TenantLimitSettings = TenantLimitSettings()
    quotas: QuotaSettings = QuotaSettings()
    totals: QuotaSettings = QuotaSettings()

    @property
    def has_credential(self) -> bool:
        """Whether an API key or a certificate names this tenant."""
        return bool(self.api_keys_sha256 or self.certificates)
