"""Reads the providers and models of a configuration, and defines the built-in ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parley_server.settings.endpoints import base_url_fault, endpoint_faults, with_secrets
from parley_server.settings.faults import did_you_mean
from parley_server.settings.keys import ApiKey
from parley_server.settings.model_shape import ModelSettings
from parley_server.settings.shape import (
    AnthropicSettings,
    EndpointSettings,
    GeminiSettings,
    OpenAISettings,
    ProviderSettings,
    ScriptedSettings,
)
from parley_server.settings.tables import named_tables, read_table

_KINDS: dict[str, type[ProviderSettings]] = {
    "openai": OpenAISettings,
    "anthropic": AnthropicSettings,
    "gemini": GeminiSettings,
    "scripted": ScriptedSettings,
}
_OPENAI_MODEL = "gpt-5.6-luna"


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
    return base_url_fault(openai.base_url, "openai") if isinstance(openai, OpenAISettings) else None


def built_in_models(providers: Mapping[str, ProviderSettings]) -> dict[str, ModelSettings]:
    """The models of a configuration without `[models]`, the default first."""
    models = {"scripted": ModelSettings(provider="scripted", name="scripted")}
    if "openai" not in providers:
        return models
    # `like`, because OPENAI_BASE_URL may name a gateway to the same model.
    default = ModelSettings(provider="openai", name=_OPENAI_MODEL, like=f"openai/{_OPENAI_MODEL}")
    return {_OPENAI_MODEL: default, **models}


def read_providers(
    tables: Any, environment: Mapping[str, str], *, folder: Path, faults: list[str]
) -> dict[str, ProviderSettings | None]:
    """The providers of `[providers]` by name. A provider with faults is None, so that models that name it do not
    produce a second fault."""
    providers: dict[str, ProviderSettings | None] = {}
    for name, table in named_tables(tables, "providers", faults):
        path = f"providers.{name}"
        kind = table.get("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            faults.append(f"{path}.kind: {_kind_fault(kind)}")
            providers[name] = None
            continue
        has_key = "api_key" in table
        if kind != "scripted":
            table = with_secrets(table, environment, path=path, folder=folder, faults=faults)
        provider = providers[name] = read_table(_KINDS[kind], table, path=path, faults=faults)
        if isinstance(provider, EndpointSettings):
            faults.extend(f"{path}.{fault}" for fault in endpoint_faults(provider, kind, has_key=has_key))
    return providers


def read_models(
    tables: Any, providers: Mapping[str, ProviderSettings | None], faults: list[str]
) -> dict[str, ModelSettings | None]:
    """The models of `[models]` by alias. A model with faults is None."""
    found = named_tables(tables, "models", faults)
    aliases = [alias for alias, _ in found]
    models: dict[str, ModelSettings | None] = {}
    for alias, table in found:
        path = f"models.{alias}"
        model = models[alias] = read_table(ModelSettings, table, path=path, faults=faults)
        provider = table.get("provider")
        if isinstance(provider, str) and provider not in providers:
            hint = did_you_mean(provider, providers)
            faults.append(f'{path}.provider: no provider has the name "{provider}"{hint}')
        if model is not None:
            faults.extend(_fallback_faults(model, alias, aliases))
            settings = providers.get(model.provider)
            if model.api is not None and settings is not None and not isinstance(settings, OpenAISettings):
                faults.append(f'{path}.api: only models of providers of kind "openai" have a choice of API')
    return models


def _fallback_faults(model: ModelSettings, alias: str, aliases: list[str]) -> list[str]:
    faults = []
    for position, other in enumerate(model.fallback):
        if other == alias:
            faults.append(f"models.{alias}.fallback: must not contain the model itself")
        elif other not in aliases:
            hint = did_you_mean(other, aliases)
            faults.append(f'models.{alias}.fallback: no model has the alias "{other}"{hint}')
        elif other in model.fallback[:position]:
            faults.append(f'models.{alias}.fallback: contains "{other}" twice')
    return faults


def _kind_fault(kind: Any) -> str:
    if kind is None:
        return "is required"
    *others, last = (f'"{name}"' for name in _KINDS)
    return f"must be {', '.join(others)} or {last}{did_you_mean(str(kind), _KINDS)}"
