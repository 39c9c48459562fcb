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
    """The policies of all tenants. A reload of the configuration replaces them."""

    def __init__(self, policies: Mapping[str, TenantPolicy] | None = None) -> None:
        self._policies = dict(policies or {})

    def replace(self, other: Tenants) -> None:
        """Use the policies of `other` from now on."""
        self._policies = other._policies

    def known(self, tenant: str) -> bool:
        """Whether the configuration has a table for the tenant, or one for all others."""
        return tenant in self._policies or OTHER_TENANTS in self._policies

    @property
    def policies(self) -> dict[str, TenantPolicy]:
        """The configured policies by tenant; `OTHER_TENANTS` has that of all others."""
        return dict(self._policies)

    @property
    def count_messages(self) -> bool:
        """Whether a tenant has a limit of messages per minute."""
        return any(each.limits.messages_per_minute is not None for each in self._policies.values())

    def policy(self, tenant: str) -> TenantPolicy:
        """The policy of a tenant; without limits if none is configured. It does not change: a call that needs it after
        a wait keeps it."""
        policies = self._policies
        return policies.get(tenant) or policies.get(OTHER_TENANTS) or TenantPolicy()


def tenants_of(settings: Mapping[str, object]) -> Tenants:
    """The tenants in the attributes of the same names; the core does not import the settings."""
    return Tenants({name: msgspec.convert(each, TenantPolicy, from_attributes=True) for name, each in settings.items()})
