"""Reads `[tenants]`. No fault contains a digest or the name of a certificate."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from typing import Any

from parley_server.settings.faults import did_you_mean
from parley_server.settings.issuer_shape import IssuerSettings
from parley_server.settings.tables import ACCESS_NAME, named_tables, read_table
from parley_server.settings.tenant_shape import TenantSettings

OTHERS = "*"
OPEN = "default"

_NAME = (re.compile(rf"{ACCESS_NAME[0].pattern}|\*"), f'{ACCESS_NAME[1]}, or is "*"')
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CERTIFICATE = re.compile(r"dns:[A-Za-z0-9.*_-]{1,253}|(?!dns:)[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]{1,2000}")
# What `sha256sum` prints for an empty variable, with and without the line end of `echo`.
_EMPTY_KEYS = frozenset(hashlib.sha256(empty).hexdigest() for empty in (b"", b"\n"))


def read_tenants(
    tables: Any, aliases: Collection[str], *, client_ca: bool, faults: list[str]
) -> dict[str, TenantSettings | None]:
    """The tenants by name; those with faults are None. `aliases`: the models that exist. `client_ca`: clients present
    certificates."""
    tenants: dict[str, TenantSettings | None] = {}
    owners: dict[str, str] = {}
    for name, table in named_tables(tables, "tenants", faults, name=_NAME):
        path = f"tenants.{name}"
        tenant = tenants[name] = read_table(TenantSettings, _lowered(table), path=path, faults=faults)
        if tenant is None:
            continue
        found = [*_key_faults(tenant, name, owners), *_certificate_faults(tenant, name, owners, client_ca=client_ca)]
        found += _role_faults(tenant, name, has_roles="roles" in table)
        for position, alias in enumerate(tenant.models or ()):
            if alias not in aliases:
                hint = did_you_mean(alias, aliases)
                found.append(f'models.{position}: no model has the alias "{alias}"{hint}')
        faults.extend(f"{path}.{fault}" for fault in found)
    return tenants


def unreachable_faults(
    tenants: Mapping[str, TenantSettings | None], issuers: Mapping[str, IssuerSettings | None]
) -> list[str]:
    """Faults for tenants that no caller can have, so that a forgotten credential does not leave the server open."""
    if None in tenants.values() or None in issuers.values():
        return []
    with_credential = {name for name, tenant in tenants.items() if tenant and tenant.has_credential}
    named = {issuer.tenant for issuer in issuers.values() if issuer}
    by_claim = any(issuer.tenant_claim for issuer in issuers.values() if issuer)
    reachable = with_credential | named
    if by_claim or named - {*tenants}:
        reachable.add(OTHERS)
    if not issuers and not with_credential:
        reachable.add(OPEN)
    return [
        f"tenants.{name}: no API key, certificate or [identity.NAME] leads to this tenant"
        for name in tenants
        if name not in reachable and (name == OTHERS or not by_claim)
    ]


def _lowered(table: dict[str, Any]) -> dict[str, Any]:
    digests = table.get("api_keys_sha256")
    if not isinstance(digests, list):
        return table
    return table | {"api_keys_sha256": [each.lower() if isinstance(each, str) else each for each in digests]}


def _key_faults(tenant: TenantSettings, name: str, owners: dict[str, str]) -> list[str]:
    faults = []
    for position, digest in enumerate(tenant.api_keys_sha256):
        place = f"api_keys_sha256.{position}"
        if not _DIGEST.fullmatch(digest):
            faults.append(f"{place}: must be 64 hexadecimal digits, the SHA-256 of a key")
        elif digest in _EMPTY_KEYS:
            faults.append(f"{place}: is the SHA-256 of an empty key")
        elif (owner := owners.setdefault(digest, name)) != name or digest in tenant.api_keys_sha256[:position]:
            faults.append(f"{place}: is also in tenants.{owner}")
    return faults


def _certificate_faults(tenant: TenantSettings, name: str, owners: dict[str, str], *, client_ca: bool) -> list[str]:
    faults = []
    for position, certificate in enumerate(tenant.certificates):
        place = f"certificates.{position}"
        if not _CERTIFICATE.fullmatch(certificate):
            faults.append(f'{place}: must be a URI such as "spiffe://DOMAIN/PATH", or "dns:NAME"')
        elif (owner := owners.setdefault(certificate, name)) != name or certificate in tenant.certificates[:position]:
            faults.append(f"{place}: is also in tenants.{owner}")
    if tenant.certificates and not client_ca:
        faults.append("certificates: need tls.client_ca, without which clients present no certificate")
    return faults


def _role_faults(tenant: TenantSettings, name: str, *, has_roles: bool) -> list[str]:
    if name == OTHERS and tenant.has_credential:
        return ["api_keys_sha256, certificates: need a tenant with a name"]
    if has_roles and not tenant.has_credential:
        return ["roles: are those of API keys and certificates; those of tokens belong to [identity.NAME]"]
    return []
