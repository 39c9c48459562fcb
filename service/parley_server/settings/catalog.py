"""Reads the providers and models of a configuration, and defines the built-in ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from parley_server.settings.faults import LATER, did_you_mean, lines_of
from parley_server.settings.keys import ApiKey, find_key
from parley_server.settings.shape import (
    BuiltInModel,
    ModelSettings,
    OpenAISettings,
    PriceSettings,
    ProviderSettings,
    ScriptedSettings,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_KINDS: dict[str, type[OpenAISettings | ScriptedSettings]] = {
    "openai": OpenAISettings,
    "scripted": ScriptedSettings,
}
_ENDPOINTS = ("/chat/completions", "/completions", "/responses", "/embeddings", "/messages")
_OPENAI_MODEL = BuiltInModel(
    provider="openai",
    name="gpt-5-mini",
    context_tokens=400_000,
    max_output_tokens=128_000,
    images=True,
    reasoning=True,
    prices=PriceSettings.model_validate({"prompt": 0.25, "cached_prompt": 0.025, "completion": 2.00}),
)

T = TypeVar("T", bound=BaseModel)


def read_table(shape: type[T], table: Any, *, path: str, faults: list[str]) -> T | None:
    """Validate a table against its shape. Returns None, and appends to `faults`, if it does not fit."""
    try:
        return shape.model_validate(table)
    except ValidationError as error:
        faults.extend(lines_of(error, path, shape))
        return None


def built_in_providers(environment: Mapping[str, str]) -> dict[str, ProviderSettings]:
    """The providers of a configuration without `[providers]`: the scripted one, and OpenAI if its key is in the
    environment."""
    providers: dict[str, ProviderSettings] = {"scripted": ScriptedSettings()}
    if environment.get("OPENAI_API_KEY"):
        base_url = environment.get("OPENAI_BASE_URL") or OpenAISettings().base_url
        providers["openai"] = OpenAISettings(base_url=base_url, api_key=ApiKey(environment["OPENAI_API_KEY"]))
    return providers


def built_in_url_fault(providers: Mapping[str, ProviderSettings | None]) -> str | None:
    """The fault of the base URL that the environment sets for the built-in OpenAI provider; None if it has none."""
    openai = providers.get("openai")
    return base_url_fault(openai.base_url) if isinstance(openai, OpenAISettings) else None


def built_in_models(providers: Mapping[str, ProviderSettings]) -> dict[str, ModelSettings]:
    """The models of a configuration without `[models]`, the default first."""
    models = {"scripted": ModelSettings(provider="scripted", name="scripted")}
    return {_OPENAI_MODEL.name: _OPENAI_MODEL, **models} if "openai" in providers else models


def read_providers(
    tables: Any, environment: Mapping[str, str], *, folder: Path, faults: list[str]
) -> dict[str, ProviderSettings | None]:
    """The providers of `[providers]` by name. A provider with faults is None, so that models that name it do not
    produce a second fault."""
    providers: dict[str, ProviderSettings | None] = {}
    for name, table in _tables(tables, "providers", faults):
        path = f"providers.{name}"
        kind = table.get("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            faults.append(f"{path}.kind: {_kind_fault(kind)}")
            providers[name] = None
            continue
        table = _with_key(table, environment, path=path, folder=folder, faults=faults)
        provider = read_table(_KINDS[kind], table, path=path, faults=faults)
        if isinstance(provider, OpenAISettings) and (fault := base_url_fault(provider.base_url)) is not None:
            faults.append(f"{path}.base_url: {fault}")
        providers[name] = provider
    return providers


def read_models(
    tables: Any, providers: Mapping[str, ProviderSettings | None], faults: list[str]
) -> dict[str, ModelSettings | None]:
    """The models of `[models]` by alias. A model with faults is None."""
    models: dict[str, ModelSettings | None] = {}
    for alias, table in _tables(tables, "models", faults):
        if "fallback" in table:
            faults.append(f"models.{alias}.fallback: {LATER}")
            table = {key: value for key, value in table.items() if key != "fallback"}
        models[alias] = read_table(ModelSettings, table, path=f"models.{alias}", faults=faults)
        provider = table.get("provider")
        if isinstance(provider, str) and provider not in providers:
            hint = did_you_mean(provider, providers)
            faults.append(f'models.{alias}.provider: no provider has the name "{provider}"{hint}')
    return models


def _tables(tables: Any, path: str, faults: list[str]) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(tables, dict) or not tables:
        faults.append(f"{path}: must be a table of one or more tables")
        return []
    for name, table in tables.items():
        if not isinstance(table, dict):
            faults.append(f"{path}.{name}: must be a table")
        elif not _NAME.fullmatch(name):
            faults.append(f"{path}.{name}: a name has 1 to 128 letters, digits and . _ : / @ -")
    return [(name, table) for name, table in tables.items() if isinstance(table, dict)]


def _kind_fault(kind: Any) -> str:
    if kind is None:
        return "is required"
    known = " or ".join(f'"{name}"' for name in _KINDS)
    return f"must be {known}{did_you_mean(str(kind), _KINDS)}"


def _with_key(
    table: dict[str, Any], environment: Mapping[str, str], *, path: str, folder: Path, faults: list[str]
) -> dict[str, Any]:
    """The table with its key resolved, or without the key if that failed."""
    if "api_key" not in table or table.get("kind") == "scripted":
        return table
    rest = {key: value for key, value in table.items() if key != "api_key"}
    try:
        return {**rest, "api_key": find_key(table["api_key"], environment, folder)}
    except ValueError as error:
        faults.append(f"{path}.api_key: {error}")
        return rest


def base_url_fault(base_url: str) -> str | None:
    """The fault of a provider's base URL; None if it has none. The text never contains the URL, which may hold a
    secret."""
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        return "must be an http or https URL with a host"
    if "@" in parts.netloc:
        return "must not contain a user or a password; put the key into api_key"
    if "?" in base_url or "#" in base_url:
        return "must not have a query or a fragment"
    path = parts.path.rstrip("/").lower()
    if named := next((each for each in _ENDPOINTS if path.endswith(each)), None):
        return f"must end before {named}, which the server appends"
    return None
