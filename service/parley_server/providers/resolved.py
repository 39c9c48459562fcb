"""Resolves a configured model: what the configuration leaves open comes from the model catalog, then from a default."""

from __future__ import annotations

import datetime
from typing import NamedTuple, TypeVar

import httpx2
import msgspec

from parley_server.core.model import Model, Prices, PriceTier
from parley_server.core.observer import Target
from parley_server.providers.gemini.provider import gemini_url
from parley_server.providers.known_models import KnownModel, prices_of
from parley_server.providers.openai.profile import profile_of
from parley_server.settings import (
    AnthropicSettings,
    EndpointSettings,
    GeminiSettings,
    ModelSettings,
    OpenAISettings,
    PriceSettings,
    Profile,
    ProviderSettings,
    ScriptedSettings,
    Timeouts,
)

T = TypeVar("T")

_WITHOUT_SAMPLING = "2026-10-21"
_RESPONSES_PROFILES = ("openai", "azure")
_SYSTEMS: dict[Profile, str] = {
    "openai": "openai",
    "azure": "azure.ai.openai",
    "openrouter": "openrouter",
    "mistral": "mistral_ai",
    "deepseek": "deepseek",
    "xai": "x_ai",
    "groq": "groq",
}
"""Values of `gen_ai.provider.name`. The conventions have no name for OpenRouter."""


def resolved_model(
    alias: str, settings: ModelSettings, provider: ProviderSettings, known: KnownModel, *, is_default: bool
) -> Model:
    """The model with its limits, abilities and prices. An ability that is unknown counts as there."""
    retires = _first(settings.retires, known.retires)
    api = settings.api or _usual_api(provider, known)
    limits = _dialect_limits(provider, api)
    return Model(
        alias=alias,
        provider=settings.provider,
        name=settings.name,
        context_tokens=_first(settings.context_tokens, known.context) or 0,
        max_output_tokens=_first(settings.max_output_tokens, known.max_output) or 0,
        # Vendors count the limit that they receive against a rate limit, so only a configured one is sent unasked.
        output_tokens=settings.max_output_tokens or 0,
        images=_there(settings.images, known.images, not isinstance(provider, ScriptedSettings)),
        image_urls=_there(settings.image_urls, known.image_urls, limits.image_urls),
        tools=_there(settings.tools, known.tools),
        json_schema=_there(settings.json_schema, known.json_schema),
        prefill=_there(settings.prefill, known.prefill),
        sampling=_there(settings.sampling, False if _refuses_sampling(provider) else known.sampling),
        reasoning=_there(settings.reasoning, known.reasoning, not isinstance(provider, ScriptedSettings)),
        efforts=_first(settings.efforts, known.efforts) or (),
        reasoning_summary=settings.reasoning_summary,
        thinking=_first(settings.thinking, known.thinking) or "",
        cache_min=_first(settings.cache_min, known.cache_min) or 0,
        api=api,
        seed=limits.seed,
        max_stop=limits.max_stop,
        dotted_names=limits.dotted_names,
        extra_body=msgspec.json.encode(settings.extra_body).decode() if settings.extra_body else "",
        retire_time_us=_midnight_us(retires) if retires is not None else 0,
        prices=_prices(settings.prices, known),
        fallback=settings.fallback,
        is_default=is_default,
    )


def resolved_timeouts(settings: ModelSettings, provider: ProviderSettings, known: KnownModel) -> Timeouts:
    """The time limits of a model's calls, with `first_token` set: the model's own, else its provider's."""
    timeouts = provider.timeouts if isinstance(provider, EndpointSettings) else Timeouts()
    timeouts = timeouts.model_copy(update=settings.timeouts.model_dump(exclude_none=True))
    # A model that may or may not reason gets the shorter limit: an endpoint that hangs is noticed early.
    reasoning = _first(settings.reasoning, known.reasoning) or False
    return timeouts.model_copy(update={"first_token": timeouts.first_token_s(reasoning=reasoning)})


def resolved_target(name: str, provider: ProviderSettings) -> Target:
    """Who is asked, in the terms of traces: the vendor's name in the GenAI conventions, or for a server that they do
    not name, that of the configured provider. `name` is the latter. Raises `httpx2.InvalidURL`."""
    if not isinstance(provider, EndpointSettings):
        return Target(system=name)
    system, base_url = name, provider.base_url
    if isinstance(provider, AnthropicSettings):
        system = "anthropic"
    elif isinstance(provider, GeminiSettings):
        system, base_url = "gcp.vertex_ai" if provider.project else "gcp.gemini", base_url or gemini_url(provider)
    elif isinstance(provider, OpenAISettings):
        system = _SYSTEMS.get(profile_of(provider), name)
    url = httpx2.URL(base_url)
    return Target(system=system, host=url.host, port=url.port or (443 if url.scheme == "https" else 80))


def _refuses_sampling(provider: ProviderSettings) -> bool:
    """Whether the API refuses sampling settings of any model, as Anthropic's does from a version on."""
    return isinstance(provider, AnthropicSettings) and provider.version >= _WITHOUT_SAMPLING


class _DialectLimits(NamedTuple):
    """What a vendor's API has no field for, or refuses, whatever the model: see `Model`."""

    seed: bool = True
    image_urls: bool = True
    max_stop: int | None = None
    dotted_names: bool = True


def _dialect_limits(provider: ProviderSettings, api: str) -> _DialectLimits:
    if isinstance(provider, AnthropicSettings):
        return _DialectLimits(seed=False, dotted_names=False)
    if isinstance(provider, GeminiSettings):
        return _DialectLimits(max_stop=5, image_urls=False)
    if api == "responses":
        return _DialectLimits(seed=False, max_stop=0, dotted_names=False)
    if isinstance(provider, OpenAISettings) and profile_of(provider) in _RESPONSES_PROFILES:
        return _DialectLimits(max_stop=4, dotted_names=False)
    return _DialectLimits()


def _usual_api(provider: ProviderSettings, known: KnownModel) -> str:
    """The vendor's API where its own endpoints are asked; gateways may only have chat completions."""
    asks_vendor = isinstance(provider, OpenAISettings) and profile_of(provider) in _RESPONSES_PROFILES
    return known.api or "chat" if asks_vendor else "chat"


def _prices(settings: PriceSettings | None, known: KnownModel) -> Prices:
    if settings is None:
        return prices_of(known.prices) if known.prices is not None else Prices()
    return Prices(
        prompt=settings.prompt,
        cached_prompt=settings.cached_prompt,
        cache_write=settings.cache_write,
        completion=settings.completion,
        tiers=tuple(PriceTier(**tier.model_dump()) for tier in settings.tiers),
    )


def _first(configured: T | None, known: T | None) -> T | None:
    return known if configured is None else configured


def _there(configured: bool | None, known: bool | None, unknown: bool = True) -> bool:
    found = _first(configured, known)
    return unknown if found is None else found


def _midnight_us(date: datetime.date) -> int:
    """The start of a day (UTC) in microseconds since the epoch."""
    return int(datetime.datetime.combine(date, datetime.time(), datetime.UTC).timestamp()) * 1_000_000
