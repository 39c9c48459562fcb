"""Loads a whole configuration and reports all of its faults at once."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parley_server.settings.catalog import (
    built_in_models,
    built_in_providers,
    built_in_url_fault,
    read_models,
    read_providers,
)
from parley_server.settings.faults import SettingsError, did_you_mean
from parley_server.settings.files import is_file
from parley_server.settings.issuer_shape import IssuerSettings
from parley_server.settings.issuers import read_issuers
from parley_server.settings.keys import variable_of
from parley_server.settings.model_shape import ModelSettings
from parley_server.settings.shape import (
    EndpointSettings,
    ProviderSettings,
    RetentionSettings,
    ServerSettings,
    Settings,
    TlsSettings,
)
from parley_server.settings.sources import (
    SCALARS,
    check_variables,
    read_document,
    read_scalars,
)
from parley_server.settings.tables import read_table
from parley_server.settings.tenant_shape import TenantSettings
from parley_server.settings.tenants import read_tenants, unreachable_faults
from parley_server.settings.tracing import read_tracing

_SECTIONS = ("providers", "models", "server", "tls", "tenants", "identity", "retention")


def load_settings(environment: Mapping[str, str], arguments: Mapping[str, Any] | None = None) -> Settings:
    """Read the arguments, then the environment, then the TOML file that `config` or PARLEY_CONFIG names; the first
    source that has a value wins.

    Arguments have the names of the scalars; None means not given. Relative paths in the file start at its folder.
    Raises SettingsError with every fault.
    """
    faults: list[str] = []
    given = arguments or {}
    path = str(given.get("config") or environment.get("PARLEY_CONFIG") or "")
    document = read_document(path, faults)
    folder = Path(path).parent if path else Path()
    _check_keys(document, faults)
    check_variables(environment, _variables_named_by(document), faults)
    scalars = read_scalars(document, environment, arguments=given, faults=faults)
    tls = _read_tls(document.get("tls"), folder, faults)
    providers, models, server = _read_catalog(document, environment, folder=folder, faults=faults)
    faults.extend(stored_key_faults(scalars, providers))
    retention = read_table(RetentionSettings, document.get("retention", {}), path="retention", faults=faults)
    tenants, issuers = _read_access(document, environment, models, folder=folder, faults=faults)
    # Credentials with faults are credentials all the same: only the faults themselves need to be reported.
    has_credentials = bool(issuers) or any(tenant is None or tenant.has_credential for tenant in tenants.values())
    faults.extend(exposure_faults(scalars, has_tls="tls" in document, has_credentials=has_credentials))
    tracing = read_tracing(environment, faults)
    if faults:
        raise SettingsError(faults)
    return Settings(
        **scalars,
        tracing=tracing,
        tls=tls,
        providers=providers,
        models=models,
        server=server,
        retention=retention or RetentionSettings(),
        tenants={name: tenant for name, tenant in tenants.items() if tenant is not None},
        identity={name: issuer for name, issuer in issuers.items() if issuer is not None},
    )


def _check_keys(document: Mapping[str, Any], faults: list[str]) -> None:
    known = (*_SECTIONS, *SCALARS)
    unknown = [key for key in document if key not in known]
    faults.extend(f"{key}: unknown key{did_you_mean(key, known)}" for key in unknown)


def _variables_named_by(document: Mapping[str, Any]) -> set[str]:
    """The variables that hold secrets: keys and headers of providers, secrets of issuers. They may begin with
    PARLEY_."""
    references: list[Any] = []
    for section in ("providers", "identity"):
        tables = document.get(section)
        for table in tables.values() if isinstance(tables, dict) else ():
            if isinstance(table, dict):
                headers = table.get("headers")
                references += [table.get("api_key"), table.get("secret")]
                references += headers.values() if isinstance(headers, dict) else ()
    return {variable for reference in references if (variable := variable_of(reference))}


def _read_catalog(
    document: Mapping[str, Any], environment: Mapping[str, str], *, folder: Path, faults: list[str]
) -> tuple[dict[str, ProviderSettings], dict[str, ModelSettings], ServerSettings]:
    """Providers, models and the table `[server]`. Providers and models with faults are left out."""
    providers: dict[str, ProviderSettings | None] = {**built_in_providers(environment)}
    if "providers" in document:
        providers = read_providers(document["providers"], environment, folder=folder, faults=faults)
    elif (fault := built_in_url_fault(providers)) is not None:
        faults.append(f"OPENAI_BASE_URL: {fault}")
    sound = {name: provider for name, provider in providers.items() if provider is not None}
    models: dict[str, ModelSettings | None] = {}
    if "models" in document:
        models = read_models(document["models"], providers, faults)
    elif "providers" in document:
        faults.append("models: [providers] requires at least one [models.ALIAS]")
    else:
        models = {**built_in_models(sound)}
    # Faults are collected up to the end, so defaults replace an invalid table here.
    server = read_table(ServerSettings, document.get("server", {}), path="server", faults=faults) or ServerSettings()
    server = _with_models_checked(server, list(models), choose="models" not in document, faults=faults)
    return sound, {alias: model for alias, model in models.items() if model is not None}, server


def stored_key_faults(scalars: Mapping[str, Any], providers: Mapping[str, ProviderSettings]) -> list[str]:
    """The faults of providers whose key is stored, where none can be."""
    if scalars["encryption_keys"]:
        return []
    needed = [name for name, each in providers.items() if isinstance(each, EndpointSettings) and each.stored_key]
    problem = '"stored" needs PARLEY_ENCRYPTION_KEYS; the command `parley encryption-key` makes one'
    return [f"providers.{name}.api_key: {problem}" for name in needed]


def _read_access(
    document: Mapping[str, Any],
    environment: Mapping[str, str],
    models: Mapping[str, ModelSettings],
    *,
    folder: Path,
    faults: list[str],
) -> tuple[dict[str, TenantSettings | None], dict[str, IssuerSettings | None]]:
    """Tenants and issuers; those with faults are None."""
    tenants: dict[str, TenantSettings | None] = {}
    issuers: dict[str, IssuerSettings | None] = {}
    if "tenants" in document:
        tls = document.get("tls")
        client_ca = isinstance(tls, dict) and "client_ca" in tls
        # A model with faults has an alias all the same, whose absence would be a second fault.
        aliases = document["models"] if isinstance(document.get("models"), dict) else models
        tenants = read_tenants(document["tenants"], aliases, client_ca=client_ca, faults=faults)
    if "identity" in document:
        issuers = read_issuers(document["identity"], tenants, environment, folder=folder, faults=faults)
    faults.extend(unreachable_faults(tenants, issuers))
    return tenants, issuers


def exposure_faults(scalars: Mapping[str, Any], *, has_tls: bool, has_credentials: bool) -> list[str]:
    """The faults of addresses that other machines can reach."""
    faults = []
    listen = scalars["listen"]
    if not listen.is_loopback and not has_credentials and not scalars["insecure"]:
        faults.append(
            f"listen: {listen} is not loopback and there are no credentials; configure [tenants], "
            "or to allow every caller, set PARLEY_INSECURE=1"
        )
    if not listen.is_loopback and has_credentials and not has_tls and not scalars["plaintext"]:
        faults.append(
            f"listen: {listen} is not loopback, and without TLS others can read the credentials of callers; configure "
            "[tls], or behind a proxy that ends TLS, set PARLEY_PLAINTEXT=1"
        )
    return [*faults, *_page_faults(scalars, has_credentials=has_credentials)]


def _page_faults(scalars: Mapping[str, Any], *, has_credentials: bool) -> list[str]:
    """The faults of a chat page that other machines can reach."""
    listen = scalars["ui_listen"]
    if listen is None or listen.is_loopback:
        return []
    faults = []
    if not has_credentials:  # PARLEY_INSECURE is no way out: any website that a user visits could call the page
        faults.append(f"ui_listen: {listen} is not loopback and there are no credentials; configure [tenants]")
    elif not scalars["plaintext"]:
        faults.append(
            f"ui_listen: {listen} is not loopback, and others can read the API keys that browsers send there; behind "
            "a proxy that ends TLS, set PARLEY_PLAINTEXT=1"
        )
    if not scalars["ui_hosts"]:
        faults.append(
            f"ui_hosts: is required, because {listen} is not loopback: the names in the addresses of the page"
        )
    return faults


def _with_models_checked(
    server: ServerSettings, aliases: list[str], *, choose: bool, faults: list[str]
) -> ServerSettings:
    """`[server]` with a default model. Appends a fault if there is none, or for a model that does not exist."""
    default = server.default_model
    if not default and aliases and (choose or len(aliases) == 1):
        server = server.model_copy(update={"default_model": aliases[0]})
    elif not default and aliases:
        faults.append("server.default_model: is required if there are several models")
    for name, alias in (("default_model", default), ("summary_model", server.summary_model)):
        if alias and alias not in aliases:
            faults.append(f'server.{name}: no model has the alias "{alias}"{did_you_mean(alias, aliases)}')
    return server


def _read_tls(table: Any, folder: Path, faults: list[str]) -> TlsSettings | None:
    if table is None:
        return None
    if isinstance(table, dict):
        table = {key: folder / value if isinstance(value, str) else value for key, value in table.items()}
    tls = read_table(TlsSettings, table, path="tls", faults=faults)
    if tls is None:
        return None
    files = {"certificate": tls.certificate, "key": tls.key, "client_ca": tls.client_ca}
    missing = [
        f"tls.{name}: the file {path} does not exist" for name, path in files.items() if path and not is_file(path)
    ]
    faults.extend(missing)
    if not missing:
        _check_pem(tls, faults)
    return tls


def _check_pem(tls: TlsSettings, faults: list[str]) -> None:
    """Load the files with OpenSSL, so that a wrong file stops the start instead of the first handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without this function, OpenSSL prompts for a password on the terminal.
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
    except (OSError, ValueError):
        faults.append("tls.certificate, tls.key: must be a PEM certificate and its own key, without a password")
    if tls.client_ca is None:
        return
    try:
        context.load_verify_locations(tls.client_ca)
    except OSError:
        faults.append("tls.client_ca: must be PEM certificates")
