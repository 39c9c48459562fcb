"""Reads `[identity]`, the issuers of tokens. No fault contains a secret."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from parley_server.settings.files import is_stream, read_limited
from parley_server.settings.issuer_shape import IssuerSettings
from parley_server.settings.keys import find_key
from parley_server.settings.tables import ACCESS_NAME, named_tables, read_table
from parley_server.settings.tenants import OTHERS

LEAST_SECRET_BYTES = 32
_MAC = "HS256"


def read_issuers(
    tables: Any, tenants: Collection[str], environment: Mapping[str, str], *, folder: Path, faults: list[str]
) -> dict[str, IssuerSettings | None]:
    """The issuers by name; those with faults are None. `tenants`: the names in `[tenants]`."""
    issuers: dict[str, IssuerSettings | None] = {}
    for name, table in named_tables(tables, "identity", faults, name=ACCESS_NAME):
        path = f"identity.{name}"
        found: list[str] = []
        issuer = issuers[name] = read_table(
            IssuerSettings, _resolved(table, environment, folder, found), path=path, faults=faults
        )
        if issuer is not None:
            found += [*_key_faults(issuer, table), *_claim_faults(issuer, table, tenants)]
            if any(other and other.issuer == issuer.issuer for key, other in issuers.items() if key != name):
                found.append("issuer: is that of another [identity.NAME], too")
        faults.extend(f"{path}.{fault}" for fault in found)
    return issuers


def _resolved(table: dict[str, Any], environment: Mapping[str, str], folder: Path, faults: list[str]) -> dict[str, Any]:
    resolved = {key: value for key, value in table.items() if key not in ("jwks", "secret")}
    try:
        if "jwks" in table:
            resolved["jwks"] = _jwks(table["jwks"], folder)
    except ValueError as error:
        faults.append(f"jwks: {error}")
    try:
        if "secret" in table:
            resolved["secret"] = find_key(table["secret"], environment, folder)
            resolved.setdefault("algorithms", [_MAC])
            if len(resolved["secret"].current().encode()) < LEAST_SECRET_BYTES:
                faults.append(f"secret: must have at least {LEAST_SECRET_BYTES} bytes")
    except ValueError as error:
        faults.append(f"secret: {error}")
    return resolved


def _jwks(reference: Any, folder: Path) -> str | Path:
    if not isinstance(reference, str):
        raise ValueError("must be a string")  # noqa: TRY004 - the caller collects ValueError
    if reference.startswith("file:"):
        file = folder / reference.removeprefix("file:")
        _check_key_set(file)
        return file
    try:
        parts = urlsplit(reference)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError('must be an https URL, or "file:PATH"') from None
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise ValueError('must be an https URL (http only on loopback), or "file:PATH"')
    if "@" in parts.netloc:
        raise ValueError("must not contain a user or a password")
    return reference


def _check_key_set(file: Path) -> None:
    if is_stream(file):
        raise ValueError(f"the file {file.name} must be a regular file")
    try:
        content = json.loads(read_limited(file))
    except OSError:
        raise ValueError(f"the file {file.name} cannot be read") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("keys"), list) or not content["keys"]:
        raise ValueError(f'the file {file.name} must be a JSON object with "keys", an array of one or more keys')


def _key_faults(issuer: IssuerSettings, table: Mapping[str, Any]) -> list[str]:
    if ("jwks" in table) == ("secret" in table):
        return ["jwks, secret: exactly one of the two is required"]
    by_secret = "secret" in table
    if any((algorithm == _MAC) != by_secret for algorithm in issuer.algorithms):
        return [f"algorithms: {_MAC} is for a secret, RS256 and ES256 are for a JWKS"]
    return []


def _claim_faults(issuer: IssuerSettings, table: Mapping[str, Any], tenants: Collection[str]) -> list[str]:
    faults = []
    if bool(issuer.tenant) == bool(issuer.tenant_claim):
        faults.append("tenant, tenant_claim: exactly one of the two is required")
    if issuer.tenant and not ACCESS_NAME[0].fullmatch(issuer.tenant):
        faults.append(f"tenant: has {ACCESS_NAME[1]}")
    elif issuer.tenant and issuer.tenant not in tenants and OTHERS not in tenants:
        faults.append(f'tenant: there is neither [tenants.{issuer.tenant}] nor [tenants."{OTHERS}"]')
    if issuer.tenant_claim and not tenants:
        faults.append(f'tenant_claim: needs the tenants in [tenants], or [tenants."{OTHERS}"]')
    if issuer.roles_claim and "roles" in table:
        faults.append("roles: must not be set together with roles_claim")
    if "admin" in issuer.roles and not issuer.allow_admin:
        faults.append("roles: admin needs allow_admin = true")
    return faults


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
