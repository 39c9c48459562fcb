"""Which provider answers for an alias, with which time limits and which key."""

import asyncio

import pytest
from parley_server.core.clock import SystemClock
from parley_server.core.model import Finish, FinishReason, Prompt, PromptMessage, TextPart
from parley_server.errors import (
    ModelNotFound,
    NotConfigured,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnauthenticated,
)
from parley_server.providers.registry import Registry
from parley_server.settings import ModelSettings, OpenAISettings, ScriptedSettings, Timeouts, load_settings

from tests.fakes import FixedPrompt
from tests.unit.providers.moving import MovingClock, Recorder

SCRIPTED = ScriptedSettings(script={"text": "hello", "delay_s": 0})


def model(provider="typewriter", **fields):
    return ModelSettings(provider=provider, name="m", **fields)


def registry(providers=None, models=None, default="b", **options):
    providers = providers or {"typewriter": SCRIPTED}
    return Registry(providers, models or {"a": model(), "b": model()}, default, **({"clock": MovingClock()} | options))


async def generate(catalog, sink, text="Hi"):
    """Ask the model `a`."""
    candidates = catalog.candidates("a", ())
    messages = (PromptMessage(role="user", parts=(TextPart(text=text),)),)
    return await catalog.route(candidates).generate(FixedPrompt(Prompt(model=candidates[0], messages=messages)), sink)


async def test_aliases_resolve_to_models_and_providers():
    catalog = registry()
    assert [(entry.alias, entry.is_default) for entry in catalog.models()] == [("b", True), ("a", False)]
    assert catalog.model("").alias == "b"
    assert catalog.model("a").alias == "a"
    with pytest.raises(ModelNotFound):
        catalog.model("c")
    sink = Recorder()
    assert await generate(catalog, sink) == Finish(reason=FinishReason.STOP, provider_reason="stop")
    assert sink.content == "hello"
    await catalog.close()


@pytest.mark.parametrize(("reasoning", "first_token_s"), [(False, 30), (True, 120)])
async def test_the_first_token_limit_follows_from_the_model(reasoning, first_token_s):
    clock = MovingClock()
    stalling = {"typewriter": ScriptedSettings(script={"fault": {"kind": "stall"}})}
    catalog = registry(stalling, {"a": model(reasoning=reasoning)}, "a", clock=clock)
    await expire(catalog, clock, first_token_s)


async def test_a_configured_first_token_limit_overrides_that_of_the_model():
    async def never_answer(_reader, writer):
        await asked.wait()
        writer.close()

    asked, clock = asyncio.Event(), MovingClock()
    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        silent = {"up": OpenAISettings(base_url=url, timeouts=Timeouts(first_token=7.0))}
        await expire(registry(silent, {"a": model("up", reasoning=True)}, "a", clock=clock), clock, 7)
        asked.set()


async def expire(catalog, clock, first_token_s):
    """Check that the provider of `a` times out after exactly this time."""
    task = asyncio.ensure_future(generate(catalog, Recorder()))
    await clock.advance(first_token_s - 0.1)
    assert not task.done()
    await clock.advance(0.2)
    with pytest.raises(ProviderTimeout):
        await task
    await catalog.close()


async def test_attempts_are_reported_to_the_observer():
    outcomes = []

    class Observer:
        def provider_attempt(self, attempt):
            outcomes.append((attempt.model.provider, attempt.outcome))

    catalog = registry(observer=Observer())
    await generate(catalog, Recorder())
    with pytest.raises(ProviderRejected):
        await generate(catalog, Recorder(), "/script []")
    assert outcomes == [("typewriter", "OK"), ("typewriter", "PROVIDER_REJECTED")]
    await catalog.close()


@pytest.mark.parametrize(("url", "api"), [("", "responses"), ("http://gateway.example/v1", "chat")])
async def test_the_built_in_model_is_in_the_catalog(url, api):
    settings = load_settings({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": url})
    catalog = Registry(settings.providers, settings.models, settings.server.default_model, clock=SystemClock())
    built_in = catalog.model("")
    assert (built_in.name, built_in.api, built_in.context_tokens) == ("gpt-5.6-luna", api, 1_050_000)
    assert (built_in.output_tokens, built_in.prices.prompt, built_in.retire_time_us) == (0, 200_000_000, 0)
    assert catalog.retiring() == []
    await catalog.close()


def test_all_faults_of_providers_are_reported():
    wrong = {
        "one": ScriptedSettings(script={"x": 1}),
        "two": ScriptedSettings(script={"y": 1}),
        "three": OpenAISettings(base_url="http://a\x7f/v1"),
    }
    with pytest.raises(NotConfigured) as refused:
        registry(wrong, {"b": model("one", like="openai/none")})
    assert refused.match(
        r"script of the provider one is wrong: .*`x`.*; .*two.*`y`.*; the base URL of .* three.*; models.b.like: "
    )


async def test_openai_without_a_key_is_unauthenticated():
    catalog = registry({"openai": OpenAISettings()}, {"a": model("openai")}, "a")
    with pytest.raises(ProviderUnauthenticated, match="openai"):
        await generate(catalog, Recorder())
    await catalog.close()


def test_candidates_are_the_model_then_its_fallbacks_or_those_of_the_request():
    models = {name: model() for name in "012345678"} | {"a": model(fallback=("1", "2")), "1": model(fallback=("3",))}
    catalog = registry(models=models, default="a")

    def aliases(alias, *fallbacks):
        return "".join(each.alias for each in catalog.candidates(alias, fallbacks))

    assert aliases("") == "a12"
    assert aliases("2") == "2"
    assert aliases("a", "5", "a", "5", "1") == "a51"
    assert aliases("a", *"012345678") == "a0123456"  # at most 8 in all
    for fallbacks in (("none",), (*"012345678", "none")):
        with pytest.raises(ModelNotFound):
            aliases("a", *fallbacks)
