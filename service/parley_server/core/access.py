"""Who may do what: the caller of a call, its roles, and what is configured for its tenant."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from parley_server.core.model import Identity, Value


class AccessRole(enum.StrEnum):
    """What a credential may call: `client` conversations, replies and the catalog, `admin` the service Admin."""

    CLIENT = "client"
    ADMIN = "admin"


OPEN_TENANT = "default"
"""The tenant of all callers of a server without credentials."""
OTHER_TENANTS = "*"
"""The key of the configuration that applies to tenants without a table of their own."""

END_USER = "x-end-user"
"""The metadata key of the end user, in lower case, as HTTP/2 sends all names."""


class Principal(Value, frozen=True, kw_only=True):
    """An identified caller. `credential` names its credential in log lines without revealing it: "key:1a2b3c4d" (the
    start of the key's SHA-256), "jwt:ISSUER:SUBJECT", "cert:NAME" or "open"."""

    tenant: str
    end_user: str = ""
    roles: frozenset[AccessRole] = frozenset()
    credential: str = ""

    @property
    def identity(self) -> Identity:
        """What the store filters by."""
        return Identity(tenant=self.tenant, end_user=self.end_user)


class Credentials(Value, frozen=True, kw_only=True):
    """What a call shows about its caller. `end_user` is the value of `x-end-user`. `certificate` has the URIs and, as
    "dns:NAME", the DNS names of the client's TLS certificate. None: there is none."""

    authorization: str | None = None
    end_user: str | None = None
    certificate: tuple[str, ...] | None = None


class TenantLimits(Value, frozen=True, kw_only=True):
    """None: no limit. `messages_per_minute` is per end user, `concurrent_replies` for the whole tenant."""

    messages_per_minute: int | None = None
    concurrent_replies: int | None = None


class Quota(Value, frozen=True, kw_only=True):
    """Limits per day and per calendar month, in UTC; None: no limit. Costs are billionths of a US dollar."""

    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    cost_per_day: int | None = None
    cost_per_month: int | None = None


class TenantPolicy(Value, frozen=True, kw_only=True):
    """What is configured for a tenant. `models`: the aliases that requests may name, None: all. `quotas` are for each
    end user, `totals` for the whole tenant."""

    models: tuple[str, ...] | None = None
    require_end_user: bool = False
    limits: TenantLimits = TenantLimits()
    quotas: Quota = Quota()
    totals: Quota = Quota()


class Tenants:
    """The policies of all tenants."""

    def __init__(self, policies: Mapping[str, TenantPolicy] | None = None) -> None:
        self._policies = dict(policies or {})
        self._others = self._policies.pop(OTHER_TENANTS, None)

    def known(self, tenant: str) -> bool:
        """Whether the configuration has a table for the tenant, or one for all others."""
        return tenant in self._policies or self._others is not None

    @property
    def policies(self) -> dict[str, TenantPolicy]:
        """The configured policies by tenant; `OTHER_TENANTS` has that of all others."""
        return self._policies | ({OTHER_TENANTS: self._others} if self._others else {})

    @property
    def count_messages(self) -> bool:
        """Whether a tenant has a limit of messages per minute."""
        policies = (*self._policies.values(), self._others or TenantPolicy())
        return any(each.limits.messages_per_minute is not None for each in policies)

    def policy(self, tenant: str) -> TenantPolicy:
        """The policy of a tenant; without limits if none is configured."""
        return self._policies.get(tenant) or self._others or TenantPolicy()


def tenants_of(settings: Mapping[str, object]) -> Tenants:
    """The tenants in the attributes of the same names; the core does not import the settings."""
    return Tenants({name: msgspec.convert(each, TenantPolicy, from_attributes=True) for name, each in settings.items()})
