"""API keys and names of client certificates, as the configuration has them."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from parley_server.core.access import AccessRole, Credentials, Principal
from parley_server.errors import Unauthenticated
from parley_server.settings import TenantSettings


@dataclass(frozen=True)
class Owner:
    """The tenant of an API key or a certificate."""

    tenant: str
    roles: frozenset[AccessRole]

    def principal(self, credential: str) -> Principal:
        """The caller, without an end user."""
        return Principal(tenant=self.tenant, roles=self.roles, credential=credential)


class StaticCredentials:
    """Finds the owner of an API key by its SHA-256, or of a certificate by its names."""

    def __init__(self, tenants: Mapping[str, TenantSettings]) -> None:
        self._keys: dict[str, tuple[str, Owner]] = {}
        self._certificates: dict[str, Owner] = {}
        for name, tenant in tenants.items():
            owner = Owner(name, frozenset(AccessRole(role) for role in tenant.roles))
            self._keys |= {digest: (digest, owner) for digest in tenant.api_keys_sha256}
            self._certificates |= dict.fromkeys(tenant.certificates, owner)

    def by_digest(self, digest: str) -> Principal | None:
        """The caller with the API key of this SHA-256 (hexadecimal); None if there is no such key."""
        # The time of the look-up depends on the digest alone, which reveals nothing about the keys.
        known, owner = self._keys.get(digest, ("", None))
        if owner is None or not hmac.compare_digest(known, digest):
            return None
        return owner.principal(f"key:{digest[:8]}")

    def by_certificate(self, credentials: Credentials) -> Principal:
        """The caller with one of the certificate's names. Raises `Unauthenticated`, also if the names belong to several
        tenants."""
        if not credentials.certificate or not self._certificates:
            raise Unauthenticated("missing")
        found = [name for name in credentials.certificate if name in self._certificates]
        owners = {self._certificates[name] for name in found}
        if len(owners) != 1:
            raise Unauthenticated("certificate")
        return owners.pop().principal(f"cert:{found[0]}")
