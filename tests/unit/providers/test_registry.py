"""Which provider answers for an alias, with which limits and which key."""

import asyncio
import os

import pytest
from parley_server.core.model import Finish, FinishReason, Model, Prompt, PromptMessage, TextPart
from parley_server.errors import (
    ModelNotFound,
    NotConfigured,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnauthenticated,
)
from parley_server.providers.keys import key_of
from parley_server.providers.registry import ProviderSpec, Registry

from tests.unit.providers.moving import MovingClock, Recorder

SCRIPTED = ProviderSpec(name="typewriter", kind="scripted", script={"text": "hello", "delay_s": 0})
OPENAI = ProviderSpec(name="openai", kind="openai")


def model(alias, provider="typewriter", **fields):
    return Model(alias=alias, provider=provider, name=alias, **fields)


MODELS = (model("a"), model("b"))


def registry(providers=(SCRIPTED,), models=MODELS, default="b", **options):
    return Registry(providers, models, default, **({"clock": MovingClock(), "environment": {}} | options))


def prompt(to, text="Hi"):
    return Prompt(model=to, messages=(PromptMessage(role="user", parts=(TextPart(text=text),)),))


async def test_models_and_aliases():
    catalog = registry()
    assert [(entry.alias, entry.is_default) for entry in catalog.models()] == [("b", True), ("a", False)]
    assert catalog.resolve("")[0].alias == "b"
    assert catalog.resolve("a")[0].alias == "a"
    with pytest.raises(ModelNotFound):
        catalog.resolve("c")
    sink = Recorder()
    chosen, provider = catalog.resolve("a")
    assert await provider.generate(prompt(chosen), sink) == Finish(reason=FinishReason.STOP, provider_reason="stop")
    assert sink.content == "hello"
    await catalog.close()


@pytest.mark.parametrize(
    ("spec", "reasoning", "first_token_s"),
    [({}, False, 30), ({}, True, 120), ({"first_token_s": 7}, True, 7)],
)
async def test_limits(spec, reasoning, first_token_s):
    clock = MovingClock()
    stalling = ProviderSpec(name="typewriter", kind="scripted", script={"fault": {"kind": "stall"}}, **spec)
    catalog = registry((stalling,), (model("a", reasoning=reasoning),), "a", clock=clock)
    chosen, provider = catalog.resolve("a")
    task = asyncio.ensure_future(provider.generate(prompt(chosen), Recorder()))
    await clock.advance(first_token_s - 0.1)
    assert not task.done()
    await clock.advance(0.2)
    with pytest.raises(ProviderTimeout):
        await task
    await catalog.close()


async def test_attempts_are_observed():
    outcomes = []

    class Observer:
        def provider_attempt(self, provider, outcome):
            outcomes.append((provider, outcome))

    catalog = registry(observer=Observer())
    chosen, provider = catalog.resolve("a")
    await provider.generate(prompt(chosen), Recorder())
    with pytest.raises(ProviderRejected):
        await provider.generate(prompt(chosen, "/script []"), Recorder())
    assert outcomes == [("typewriter", "OK"), ("typewriter", "PROVIDER_REJECTED")]
    await catalog.close()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"providers": (SCRIPTED, SCRIPTED)}, "several providers of the name typewriter"),
        ({"models": (model("a"), model("a")), "default": "a"}, "several models of the name a"),
        (
            {"models": (model("a", "nobody"),), "default": "a"},
            "the model a names a provider that does not exist: nobody",
        ),
        ({"default": "c"}, "the default model does not exist: c"),
        ({"providers": (SCRIPTED, ProviderSpec(name="x", kind="telepathy"))}, "the provider x is of no known kind"),
        (
            {"providers": (SCRIPTED, ProviderSpec(name="x", kind="openai", base_url="ftp://a"))},
            "not an http or https URL",
        ),
        (
            {"providers": (SCRIPTED, ProviderSpec(name="x", kind="openai", base_url="http://a:x"))},
            "not an http or https",
        ),
        ({"providers": (SCRIPTED, ProviderSpec(name="x", kind="openai", api_key="sk-1"))}, '"env:NAME" or "file:PATH"'),
        ({"providers": (SCRIPTED, ProviderSpec(name="x", kind="openai", api_key="stored"))}, "cannot store keys"),
        ({"providers": (ProviderSpec(name="typewriter", kind="scripted", script={"x": 1}),)}, "unknown field `x`"),
    ],
)
def test_a_configuration_that_does_not_hold_together(change, complaint):
    with pytest.raises(NotConfigured, match=complaint):
        registry(**change)


def test_every_fault_is_told():
    with pytest.raises(NotConfigured, match=r"nobody.*does not exist: z.*no known kind"):
        registry((ProviderSpec(name="x", kind="telepathy"),), (model("a", "nobody"),), "z")


async def test_openai_without_its_key_says_so():
    catalog = registry((OPENAI,), (model("a", "openai"),), "a")
    chosen, provider = catalog.resolve("a")
    with pytest.raises(ProviderUnauthenticated, match="openai"):
        await provider.generate(prompt(chosen), Recorder())
    await catalog.close()


def test_keys_are_found_when_they_are_asked_for(tmp_path):
    environment = {}
    key = key_of("p", "env:KEY", environment=environment)
    assert key() is None
    environment["KEY"] = "one"
    assert key() == "one"
    file = tmp_path / "key"
    key = key_of("p", f"file:{file}", environment={})
    with pytest.raises(ProviderUnauthenticated, match="of the provider p"):
        key()
    file.write_text("two\n")
    assert key() == "two"
    file.write_text("three\n")
    os.utime(file, ns=(1, 1))
    assert key() == "three"
    assert key_of("p", "", environment={})() is None
