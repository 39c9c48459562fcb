"""Decides which API key the requests of a tenant use."""

from __future__ import annotations

from parley_server.core.ports import KeyLookup
from parley_server.core.secret import Secret
from parley_server.errors import ProviderUnauthenticated
from parley_server.settings import EndpointSettings


class RequestKeys:
    """The keys of one provider: the one that is stored for the tenant, else the one that is stored for all tenants if
    the configuration says so, else the configured one. `lookup` None: no stored keys."""

    def __init__(self, provider: str, settings: EndpointSettings, lookup: KeyLookup | None = None) -> None:
        self._provider = provider
        self._configured = settings.api_key
        self.needs_stored = settings.stored_key
        """Whether a request needs a stored key."""
        self._lookup = lookup

    def stored(self, tenant: str) -> Secret | None:
        """The stored key that the tenant's requests use. Raises `ProviderUnauthenticated` if it cannot be decrypted."""
        if (key := self.own(tenant)) is not None or not self.needs_stored or self._lookup is None:
            return key
        return self._lookup.find(self._provider, "")

    def own(self, tenant: str) -> Secret | None:
        """The key that is stored for this tenant alone; raises like `stored`."""
        return self._lookup.find(self._provider, tenant) if self._lookup is not None and tenant else None

    def has_own(self, tenant: str) -> bool:
        """Whether a key is stored for this tenant alone."""
        try:
            return self.own(tenant) is not None
        except ProviderUnauthenticated:
            return True

    def of(self, tenant: str) -> str:
        """The key, empty without one; raises like `stored`."""
        if (stored := self.stored(tenant)) is not None:
            return stored.reveal()
        return self._configured.current() if self._configured is not None else ""

    def fingerprint(self, tenant: str) -> str:
        """Identifies the key without revealing it."""
        try:
            return Secret(self.of(tenant)).fingerprint
        except ProviderUnauthenticated:
            return "unreadable"
