"""The model catalog: limits, abilities and prices of the vendors' current models, from `models.toml`.

The configuration wins over it, field by field; `prices` count as one field. `make catalog` writes the file.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from parley_server.core.model import Prices, PriceTier
from parley_server.providers.openai.profile import profile_of
from parley_server.settings import (
    AnthropicSettings,
    GeminiSettings,
    ModelSettings,
    OpenAISettings,
    Profile,
    ProviderSettings,
    did_you_mean,
)

NANO_USD = 1_000_000_000

_DATE = re.compile(r"[-@](\d{8}|\d{4}-\d{2}-\d{2})$")
_PROFILES: dict[Profile, str] = {
    "openai": "openai",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "xai": "xai",
    "groq": "groq",
}
# Vendors that offer OpenAI's dialect beside their own.
_HOSTS = {"api.anthropic.com": "anthropic", "generativelanguage.googleapis.com": "google"}
_OPENROUTER = {"mistralai": "mistral", "x-ai": "xai"}


class KnownTier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices of requests whose prompt has more than `above` tokens."""

    above: int
    prompt: Decimal
    cached_prompt: Decimal | None = None
    cache_write: Decimal | None = None
    completion: Decimal


class KnownPrices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars per million tokens."""

    prompt: Decimal
    cached_prompt: Decimal | None = None
    cache_write: Decimal | None = None
    completion: Decimal
    tiers: tuple[KnownTier, ...] = ()


class KnownModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of the catalog. `name` is "vendor/name". None: unknown. See `core.model.Model` for the fields."""

    name: str
    context: int | None = None
    max_output: int | None = None
    images: bool | None = None
    image_urls: bool | None = None
    tools: bool | None = None
    json_schema: bool | None = None
    prefill: bool | None = None
    sampling: bool | None = None
    reasoning: bool | None = None
    efforts: tuple[str, ...] | None = None
    thinking: str | None = None
    cache_min: int | None = None
    api: Literal["chat", "responses"] | None = None
    retires: datetime.date | None = None
    prices: KnownPrices | None = None


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    date: datetime.date
    model: tuple[KnownModel, ...]


UNKNOWN = KnownModel(name="")


@cache
def known_models() -> dict[str, KnownModel]:
    """The entries of the catalog by name."""
    text = files("parley_server.providers").joinpath("models.toml").read_text(encoding="utf-8")
    document = msgspec.convert(tomllib.loads(text, parse_float=Decimal), _Document, strict=False)
    return {model.name: model for model in document.model}


def known_model(model: ModelSettings, provider: ProviderSettings) -> KnownModel:
    """The entry of a model: of its `like`, else of its vendor and name. `UNKNOWN` if there is none.

    Raises ValueError if no entry has the name `like`.
    """
    if model.like:
        known = known_models()
        found = known.get(model.like)
        if found is None:
            raise ValueError(f'the catalog has no model "{model.like}"{did_you_mean(model.like, known)}')
        return found
    name = _catalog_name(model.name, provider)
    if not name:
        return UNKNOWN
    return known_models().get(name) or known_models().get(_DATE.sub("", name)) or UNKNOWN


def prices_of(known: KnownPrices) -> Prices:
    """The prices in billionths of a US dollar."""
    return Prices(
        prompt=_nano_usd(known.prompt),
        cached_prompt=_nano_usd(known.cached_prompt),
        cache_write=_nano_usd(known.cache_write),
        completion=_nano_usd(known.completion),
        tiers=tuple(
            PriceTier(
                above=tier.above,
                prompt=int(tier.prompt * NANO_USD),
                cached_prompt=_nano_usd(tier.cached_prompt),
                cache_write=_nano_usd(tier.cache_write),
                completion=int(tier.completion * NANO_USD),
            )
            for tier in known.tiers
        ),
    )


def _catalog_name(name: str, provider: ProviderSettings) -> str:
    """The name that the catalog would have for a provider's model; "" for an endpoint whose vendor is not known."""
    if isinstance(provider, AnthropicSettings):
        return f"anthropic/{name}"
    if isinstance(provider, GeminiSettings):
        return f"google/{name}"
    if not isinstance(provider, OpenAISettings):
        return ""
    profile = profile_of(provider)
    if profile == "openrouter":
        return _openrouter_name(name)
    vendor = _PROFILES.get(profile) or _HOSTS.get(urlsplit(provider.base_url).hostname or "")
    return f"{vendor}/{name}" if vendor else ""


def _openrouter_name(name: str) -> str:
    vendor, _, model = name.partition("/")
    if vendor == "anthropic":
        model = model.replace(".", "-")
    return f"{_OPENROUTER.get(vendor, vendor)}/{model}"


def _nano_usd(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd * NANO_USD)
