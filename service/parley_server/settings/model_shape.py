"""The shape of a model in the configuration. None: the value of the model catalog, if it has the model."""

from __future__ import annotations

import datetime
import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from parley_server.settings.values import Items, NanoUsd, Plain, Seconds, Shape, Tokens

MAX_FALLBACKS = 7
PROMPT_FIELDS = ("model", "messages", "input", "contents", "stream")
"""The fields of a request that `extra_body` must not set."""

Api = Literal["chat", "responses"]
Word = Annotated[str, Field(min_length=1, max_length=32)]


class TierSettings(Shape):
    """Prices of a whole request whose prompt has more than `above` tokens, as in `PriceSettings`."""

    above: Annotated[Tokens, Field(gt=0)]
    prompt: NanoUsd
    cached_prompt: NanoUsd | None = None
    cache_write: NanoUsd | None = None
    completion: NanoUsd


class PriceSettings(Shape):
    """Prices of a million tokens in billionths of a US dollar; the file has US dollars. None: unknown.

    `cached_prompt` and `cache_write`: of tokens that were read from the provider's cache, and written to it (None: the
    same as `prompt`)."""

    prompt: NanoUsd | None = None
    cached_prompt: NanoUsd | None = None
    cache_write: NanoUsd | None = None
    completion: NanoUsd | None = None
    tiers: Annotated[tuple[TierSettings, ...], Items] = ()

    @field_validator("tiers")
    @classmethod
    def _check_order(cls, tiers: tuple[TierSettings, ...]) -> tuple[TierSettings, ...]:
        bounds = [tier.above for tier in tiers]
        if bounds != sorted(set(bounds)):
            raise ValueError("must be in ascending order of `above`")
        return tiers


class ModelTimeouts(Shape):
    """Time limits of a model's calls, in seconds. None: that of its provider."""

    first_token: Seconds | None = None
    first_token_total: Seconds | None = None
    idle: Seconds | None = None


class ModelSettings(Shape):
    """The model of an alias. `like`: the catalog's name of the model, where `name` is another, such as a deployment.

    0 tokens: no limit is checked. fallback: aliases to try if this model fails. efforts: levels of reasoning effort,
    lowest first. cache_min: the fewest tokens that the vendor caches. extra_body: fields to add to each request.
    docs/configuration.md describes the other abilities.
    """

    provider: str
    name: Annotated[str, Field(min_length=1, max_length=256)]
    like: Annotated[str, Field(max_length=256)] = ""
    api: Api | None = None
    fallback: Annotated[tuple[str, ...], Items, Field(max_length=MAX_FALLBACKS)] = ()
    context_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    images: bool | None = None
    image_urls: bool | None = None
    tools: bool | None = None
    json_schema: bool | None = None
    prefill: bool | None = None
    sampling: bool | None = None
    reasoning: bool | None = None
    efforts: Annotated[tuple[Word, ...], Items] | None = None
    reasoning_summary: bool = False
    thinking: Annotated[str, Field(max_length=32)] | None = None
    cache_min: Tokens | None = None
    retires: datetime.date | None = None
    extra_body: Annotated[dict[str, Any], Plain] = Field(default={})
    timeouts: ModelTimeouts = ModelTimeouts()
    prices: PriceSettings | None = None

    @field_validator("extra_body")
    @classmethod
    def _check_extra_body(cls, body: dict[str, Any]) -> dict[str, Any]:
        if reserved := [name for name in PROMPT_FIELDS if name in body]:
            raise ValueError(f"must not contain {reserved[0]}, which the server sets")
        if not _is_json(body):
            raise ValueError("must contain only what JSON can express: no dates, no infinite numbers")
        return body


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_json(inner) for inner in value.values())
    if isinstance(value, list):
        return all(_is_json(inner) for inner in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | bool | int)
