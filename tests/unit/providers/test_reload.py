"""What a reload of the configuration keeps of the providers, and when the connections of removed ones close."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from parley_server.core.model import Prompt, PromptMessage, TextPart
from parley_server.core.store_types import KeyPlace
from parley_server.errors import ModelNotFound, NotConfigured, ProviderError, ProviderNotFound, ProviderUnavailable
from parley_server.providers.registry import Registry
from parley_server.settings import ModelSettings, OpenAISettings, ScriptedSettings

from tests.fakes import FixedPrompt
from tests.unit.providers.moving import MovingClock, Recorder
from tests.upstream import Script, Upstream, Wait, answer, done, finish, refusal, role, text

SCRIPTED = {"typewriter": ScriptedSettings()}


class Breakers:
    """The breakers that were reported as open."""

    def __init__(self) -> None:
        self.open: set[tuple[str, str]] = set()

    def provider_attempt(self, attempt: object) -> None: ...

    def provider_retried(self, provider: str, reason: str) -> None: ...

    def breaker_changed(self, provider: str, model: str, *, is_open: bool) -> None:
        (self.open.add if is_open else self.open.discard)((provider, model))


def of(upstream: Upstream, **settings: Any) -> OpenAISettings:
    return OpenAISettings(base_url=upstream.url, **{"retries": 0, **settings})


def model(provider: str = "up", name: str = "m", **settings: Any) -> ModelSettings:
    return ModelSettings(provider=provider, name=name, **settings)


def registry(providers: dict[str, Any], **options: Any) -> Registry:
    return Registry(providers, {"a": model()}, "a", **{"clock": MovingClock(), **options})


def reload(catalog: Registry, providers: dict[str, Any], **models: ModelSettings) -> None:
    catalog.use(catalog.prepare(providers, models or {"a": model()}, "a"))


async def ask(catalog: Any, sink: Recorder | None = None) -> str:
    """Ask the model `a`; the text of its answer."""
    sink = sink or Recorder()
    candidates = catalog.candidates("a", ())
    prompt = Prompt(model=candidates[0], messages=(PromptMessage(role="user", parts=(TextPart(text="Hi"),)),))
    await catalog.route(candidates).generate(FixedPrompt(prompt), sink)
    return sink.content


async def fail(catalog: Any, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ProviderError):
            await ask(catalog)


async def test_a_provider_whose_settings_stay_keeps_connections_and_breakers() -> None:
    async with Upstream() as upstream:
        observer = Breakers()
        catalog = registry({"up": of(upstream)}, observer=observer)
        await ask(catalog)
        upstream.reply_with(refusal(503))
        await fail(catalog, 5)
        assert observer.open == {("up", "m")}
        asked = len(upstream.requests)
        reload(catalog, {"up": of(upstream), **SCRIPTED}, a=model(context_tokens=7))
        await catalog.close_retired()
        assert catalog.model("a").context_tokens == 7
        with pytest.raises(ProviderUnavailable, match="is not asked at present"):
            await ask(catalog)
        assert (len(upstream.requests), upstream.connections) == (asked, 1)
        assert observer.open == {("up", "m")}
        await catalog.close()


async def test_a_changed_provider_starts_anew() -> None:
    async with Upstream() as upstream:
        observer = Breakers()
        catalog = registry({"up": of(upstream)}, observer=observer)
        upstream.reply_with(refusal(503))
        await fail(catalog, 5)
        upstream.reply_with(answer("again"))
        reload(catalog, {"up": of(upstream, account="another")})
        await catalog.close_retired()
        assert observer.open == set(), "nobody would close the breaker of the former provider"
        assert await ask(catalog) == "again"
        await catalog.close()


async def test_the_breaker_of_a_removed_model_is_no_longer_reported() -> None:
    async with Upstream() as upstream:
        observer = Breakers()
        catalog = registry({"up": of(upstream)}, observer=observer)
        upstream.reply_with(refusal(503))
        former = catalog.current()
        await fail(former, 4)
        reload(catalog, {"up": of(upstream)}, a=model(name="other"))
        await fail(former, 1)
        assert observer.open == set(), "a reply that was accepted before has opened the former breaker"
        await fail(catalog, 5)
        assert observer.open == {("up", "other")}
        reload(catalog, {"up": of(upstream)}, a=model(name="third"))
        assert observer.open == set()
        await catalog.close()


async def test_idle_connections_of_a_removed_provider_close_at_once() -> None:
    async with Upstream() as upstream:
        catalog = registry({"up": of(upstream)})
        await ask(catalog)
        assert upstream.open_connections == 1
        reload(catalog, SCRIPTED, a=model("typewriter", "scripted"))
        await catalog.close_retired()
        await asyncio.wait_for(upstream.no_connections(), 5)
        await catalog.close()


async def test_running_answers_of_a_removed_provider_end_and_then_its_connections_close() -> None:
    async with Upstream() as upstream:
        release = asyncio.Event()
        upstream.reply_with(Script([role(), text("before "), Wait(release), text("after"), finish(), done()]))
        catalog = registry({"up": of(upstream)})
        sinks = [Recorder(), Recorder()]
        running = [asyncio.create_task(ask(catalog, sink)) for sink in sinks]
        await _until(lambda: all(sink.content == "before " for sink in sinks))
        reload(catalog, SCRIPTED, a=model("typewriter", "scripted"))
        await catalog.close_retired()
        assert upstream.open_connections == 2
        release.set()
        assert await asyncio.gather(*running) == ["before after", "before after"]
        await asyncio.wait_for(upstream.no_connections(), 5)
        await catalog.close()


async def test_a_reply_that_was_accepted_before_asks_the_removed_provider_and_leaves_no_connection() -> None:
    async with Upstream() as upstream:
        catalog = registry({"up": of(upstream)})
        former = catalog.current()
        for _ in range(2):
            reload(catalog, SCRIPTED, a=model("typewriter", "scripted"))
            await catalog.close_retired()
            assert await ask(former) == "Hello, world"
            await asyncio.wait_for(upstream.no_connections(), 5)
        await catalog.close()


async def test_a_retry_after_the_removal_asks_the_former_provider() -> None:
    async with Upstream() as upstream:
        clock, failing = MovingClock(), asyncio.Event()
        upstream.reply_next(Script(before_head=[Wait(failing)], status=503), answer("second try"))
        catalog = registry({"up": of(upstream, retries=1)}, clock=clock)
        reply = asyncio.create_task(ask(catalog))
        await _until(lambda: len(upstream.requests) == 1)
        reload(catalog, SCRIPTED, a=model("typewriter", "scripted"))
        await catalog.close_retired()
        failing.set()
        await asyncio.wait_for(upstream.no_connections(), 5)
        while not reply.done():
            await clock.advance(0.5)
            await asyncio.sleep(0.001)
        assert await reply == "second try"
        await asyncio.wait_for(upstream.no_connections(), 5)
        await catalog.close()


async def test_the_catalog_at_a_time_does_not_change() -> None:
    catalog = registry({"up": OpenAISettings(base_url="http://127.0.0.1:9/v1")})
    former = catalog.current()
    reload(catalog, SCRIPTED, b=model("typewriter", "scripted"))
    assert [each.alias for each in former.models()] == ["a"]
    assert [each.alias for each in catalog.models()] == ["b"]
    with pytest.raises(ModelNotFound):
        catalog.model("a")
    assert former.route(former.candidates("a", ()))
    with pytest.raises(ProviderNotFound):
        catalog.check_key(KeyPlace("up", "shop"), None)
    await catalog.close_retired()
    await catalog.close()


async def test_a_faulty_catalog_is_not_used() -> None:
    catalog = registry({"up": OpenAISettings(base_url="http://127.0.0.1:9/v1")})
    wrong = {"up": ScriptedSettings(script={"pieces": "?"}), "x": OpenAISettings(base_url="http://[::1/v1")}
    with pytest.raises(NotConfigured, match=r"the script of the provider up .*; the base URL of the provider x"):
        reload(catalog, wrong)
    assert catalog.model("a").provider == "up"
    await catalog.close()


async def test_a_faulty_catalog_leaves_no_circuit_breaker_behind() -> None:
    catalog = registry({"up": OpenAISettings(base_url="http://127.0.0.1:9/v1")})
    before = catalog.breakers()
    with pytest.raises(NotConfigured):
        reload(
            catalog,
            {"up": OpenAISettings(base_url="http://127.0.0.1:9/v1")},
            a=model(name="new"),
            b=model(name="n", like="no-such-model"),
        )
    assert catalog.breakers() == before
    await catalog.close()


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
