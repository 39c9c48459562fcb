"""The model catalog: its file, how a configured model finds its entry, and what the configuration overrides."""

from __future__ import annotations

import datetime
from importlib.metadata import version

import pytest
from parley_server.core.model import Prices, PriceTier
from parley_server.providers.known_models import UNKNOWN, KnownModel, known_model, known_models, prices_of
from parley_server.providers.resolved import resolved_model, resolved_timeouts
from parley_server.settings import (
    AnthropicSettings,
    GeminiSettings,
    ModelSettings,
    ModelTimeouts,
    OpenAISettings,
    PriceSettings,
    ScriptedSettings,
    TierSettings,
    Timeouts,
)

PINNED = "0.2.3"


def at(host: str, **options: object) -> OpenAISettings:
    return OpenAISettings.model_validate({"base_url": f"https://{host}/v1"} | options)


def named(name: str, **fields: object) -> ModelSettings:
    return ModelSettings.model_validate({"provider": "p", "name": name} | fields)


def test_the_file_is_what_the_tool_writes() -> None:
    pytest.importorskip("genai_prices")
    if version("genai-prices") != PINNED:
        pytest.skip(f"the catalog has the prices of genai-prices {PINNED}")
    from tools.catalog import TARGET, catalog

    assert TARGET.read_text() == catalog()


def test_the_entries_of_the_file_are_plausible() -> None:
    models = known_models()
    assert len(models) > 60
    for model in models.values():
        assert model.prices is not None
        prices = prices_of(model.prices)
        bounds = [tier.above for tier in prices.tiers]
        assert bounds == sorted(set(bounds)), model.name
        assert prices.prompt is not None
        assert 0 < (prices.cached_prompt or 1) <= prices.prompt < 10**12, model.name


@pytest.mark.parametrize(
    ("provider", "name", "found"),
    [
        (OpenAISettings(), "gpt-5.6-luna", "openai/gpt-5.6-luna"),
        (OpenAISettings(), "gpt-5.6-luna-2026-07-09", "openai/gpt-5.6-luna"),
        (OpenAISettings(), "gpt-5.6-luna-9", ""),
        (at("gateway.example"), "gpt-5.6-luna", ""),
        (at("gateway.example", profile="openai"), "gpt-5.6-luna", "openai/gpt-5.6-luna"),
        (at("shop.openai.azure.com"), "gpt-5.6-luna", ""),
        (at("api.mistral.ai"), "mistral-large-2512", "mistral/mistral-large-2512"),
        (at("api.x.ai"), "grok-4.7", "xai/grok-4.7"),
        (at("api.groq.com"), "openai/gpt-oss-20b", "groq/openai/gpt-oss-20b"),
        (at("api.deepseek.com"), "deepseek-v4-pro", "deepseek/deepseek-v4-pro"),
        (at("generativelanguage.googleapis.com"), "gemini-3.8-flash", "google/gemini-3.8-flash"),
        (at("openrouter.ai"), "anthropic/claude-haiku-5.5", "anthropic/claude-haiku-5-5"),
        (at("openrouter.ai"), "x-ai/grok-4.7", "xai/grok-4.7"),
        (at("openrouter.ai"), "openai/gpt-5.6-luna", "openai/gpt-5.6-luna"),
        (at("openrouter.ai"), "openai/gpt-5.6-luna:free", ""),
        (AnthropicSettings(), "claude-haiku-4-5-20251001", "anthropic/claude-haiku-4-5"),
        (GeminiSettings(), "gemini-3.8-flash", "google/gemini-3.8-flash"),
        (ScriptedSettings(), "gpt-5.6-luna", ""),
    ],
)
def test_an_entry_is_found_by_vendor_and_name(provider, name: str, found: str) -> None:
    assert known_model(named(name), provider).name == found


def test_like_goes_first() -> None:
    azure = at("shop.openai.azure.com")
    assert known_model(named("chat-1", like="openai/gpt-5.6-luna"), azure).name == "openai/gpt-5.6-luna"
    assert known_model(named("gpt-5.5", like="openai/gpt-5.6-luna"), OpenAISettings()).name == "openai/gpt-5.6-luna"
    with pytest.raises(ValueError, match=r'no model "openai/gpt-5.6-lunar"; did you mean openai/gpt-5.6-luna\?'):
        known_model(named("chat-1", like="openai/gpt-5.6-lunar"), azure)


ENTRY = KnownModel(
    name="openai/x",
    context=1000,
    max_output=100,
    images=False,
    image_urls=False,
    tools=False,
    json_schema=False,
    prefill=False,
    sampling=False,
    reasoning=False,
    efforts=("low",),
    thinking="adaptive",
    cache_min=512,
    api="responses",
    retires=datetime.date(1970, 1, 2),
)
OWN = {
    "context_tokens": 7,
    "max_output_tokens": 5,
    "images": True,
    "image_urls": True,
    "tools": True,
    "json_schema": True,
    "prefill": True,
    "sampling": True,
    "reasoning": True,
    "efforts": ["high"],
    "thinking": "",
    "cache_min": 0,
    "api": "chat",
}


def resolved(settings: ModelSettings, known: KnownModel = UNKNOWN, provider=None):
    return resolved_model("a", settings, provider or OpenAISettings(), known, is_default=False)


def test_the_catalog_fills_what_the_configuration_leaves_open() -> None:
    model = resolved(named("x"), ENTRY)
    for name in OWN.keys() - {"context_tokens", "max_output_tokens"}:
        assert getattr(model, name) == getattr(ENTRY, name), name
    assert (model.context_tokens, model.max_output_tokens, model.retire_time_us) == (1000, 100, 86_400 * 10**6)
    assert model.output_tokens == 0


@pytest.mark.parametrize("key", sorted(OWN))
def test_the_configuration_wins_field_by_field(key: str) -> None:
    model, without = resolved(named("x", **{key: OWN[key]}), ENTRY), resolved(named("x"), ENTRY)
    own = tuple(OWN[key]) if isinstance(OWN[key], list) else OWN[key]
    assert getattr(model, key) == own
    changed = {name for name in model.__struct_fields__ if getattr(model, name) != getattr(without, name)}
    assert changed == {key} | ALSO_CHANGED.get(key, set())


ALSO_CHANGED = {"max_output_tokens": {"output_tokens"}, "api": {"seed", "max_stop"}}


@pytest.mark.parametrize(
    ("provider", "api", "limits"),
    [
        (OpenAISettings(), "chat", (True, 4, False, True)),
        (OpenAISettings(), "responses", (False, 0, False, True)),
        (OpenAISettings(base_url="https://openrouter.ai/api/v1"), "chat", (True, None, True, True)),
        (AnthropicSettings(), None, (False, None, False, True)),
        (GeminiSettings(), None, (True, 5, True, False)),
    ],
)
def test_what_an_api_has_no_field_for_is_a_limit_of_its_models(provider, api, limits) -> None:
    model = resolved(named("x", **({"api": api} if api else {})), provider=provider)
    assert (model.seed, model.max_stop, model.dotted_names, model.image_urls) == limits


def test_an_unknown_ability_counts_as_there() -> None:
    model = resolved(named("x"))
    assert all((model.images, model.image_urls, model.tools, model.json_schema, model.prefill, model.sampling))
    assert (model.reasoning, model.efforts, model.api, model.context_tokens) == (True, (), "chat", 0)


def test_the_scripted_model_takes_no_images_unless_configured() -> None:
    assert not resolved(named("x"), provider=ScriptedSettings()).images
    assert resolved(named("x", images=True), provider=ScriptedSettings()).images


@pytest.mark.parametrize(
    ("version", "configured", "sampling"),
    [("2023-06-01", {}, True), ("2026-10-21", {}, False), ("2026-10-21", {"sampling": True}, True)],
)
def test_anthropics_newer_api_takes_no_sampling_settings(version: str, configured, sampling: bool) -> None:
    known = known_models()["anthropic/claude-haiku-4-5"]
    provider = AnthropicSettings(version=version)
    assert resolved(named("claude-haiku-4-5", **configured), known, provider).sampling == sampling


def test_gateways_get_chat_completions_unless_configured() -> None:
    assert resolved(named("x"), ENTRY, at("gateway.example")).api == "chat"
    assert resolved(named("x", api="responses"), ENTRY, at("gateway.example")).api == "responses"
    assert resolved(named("x"), ENTRY, at("shop.openai.azure.com")).api == "responses"


def test_extra_fields_are_kept_as_json() -> None:
    assert resolved(named("x", extra_body={"provider": {"order": ["a"]}})).extra_body == '{"provider":{"order":["a"]}}'


def test_configured_prices_replace_those_of_the_catalog_as_a_whole() -> None:
    known = known_models()["anthropic/claude-haiku-5-5"]
    assert resolved(named("x"), known).prices == Prices(
        prompt=100_000_000,
        cached_prompt=10_000_000,
        cache_write=125_000_000,
        completion=500_000_000,
        tiers=(
            PriceTier(
                above=100_000,
                prompt=500_000_000,
                cached_prompt=50_000_000,
                cache_write=625_000_000,
                completion=2_500_000_000,
            ),
        ),
    )
    tier = TierSettings.model_validate({"above": 9, "prompt": 2, "completion": 3})
    own = ModelSettings(provider="p", name="x", prices=PriceSettings.model_validate({"prompt": 1, "tiers": (tier,)}))
    assert resolved(own, known).prices == Prices(
        prompt=10**9, tiers=(PriceTier(above=9, prompt=2 * 10**9, completion=3 * 10**9),)
    )


@pytest.mark.parametrize(
    ("own", "provider", "known", "first_token_s", "idle_s"),
    [
        (ModelTimeouts(), Timeouts(), UNKNOWN, 30, 60),
        (ModelTimeouts(), Timeouts(), KnownModel(name="x", reasoning=True), 120, 60),
        (ModelTimeouts(), Timeouts(first_token=9, idle=8), KnownModel(name="x", reasoning=True), 9, 8),
        (ModelTimeouts(first_token=7, idle=6), Timeouts(first_token=9, idle=8), UNKNOWN, 7, 6),
    ],
)
def test_time_limits_are_the_models_then_the_providers(own, provider, known, first_token_s, idle_s) -> None:
    limits = resolved_timeouts(
        ModelSettings(provider="p", name="x", timeouts=own), OpenAISettings(timeouts=provider), known
    )
    assert (limits.first_token, limits.idle) == (first_token_s, idle_s)
