"""The catalog: the models by alias, and the provider that answers for each. The only place that builds providers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx2

from parley_server.core.model import Model, Prices
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Clock, Provider, Route
from parley_server.errors import ModelNotFound, NotConfigured
from parley_server.providers.openai.provider import OpenAIProvider
from parley_server.providers.policies.observed import ObservedProvider
from parley_server.providers.policies.route import ModelRoute
from parley_server.providers.policies.time_limits import TimeLimits
from parley_server.providers.scripted.provider import ScriptedProvider
from parley_server.providers.scripted.script import read_script
from parley_server.settings import (
    BuiltInModel,
    ModelSettings,
    OpenAISettings,
    ProviderSettings,
    ScriptedSettings,
    Timeouts,
)

MAX_CANDIDATES = 8
"""Models that one reply may ask."""


class Registry:
    """The models and providers of a valid configuration. Each model's provider is wrapped in its time limits and, with
    an `observer`, in the count of its calls.

    Raises `NotConfigured`, with every fault, for what only a provider can check: its script or its URL.
    """

    def __init__(
        self,
        providers: Mapping[str, ProviderSettings],
        models: Mapping[str, ModelSettings],
        default_model: str,
        *,
        clock: Clock,
        observer: AttemptObserver | None = None,
    ) -> None:
        self._default_model = default_model
        self._providers: dict[str, Provider] = {}
        faults: list[str] = []
        for name, settings in providers.items():
            try:
                self._providers[name] = _build(name, settings, clock=clock, observer=observer)
            except NotConfigured as error:
                faults.append(error.message)
        if faults:
            raise NotConfigured("; ".join(faults))
        self._resolved: dict[str, tuple[Model, Provider]] = {}
        for alias, entry in models.items():
            provider = _limited(self._providers[entry.provider], entry, providers[entry.provider], clock=clock)
            # Outside of the time limits, so that a timeout counts as the outcome of the attempt.
            observed = ObservedProvider(provider, observer=observer) if observer is not None else provider
            self._resolved[alias] = (_model(alias, entry, is_default=alias == default_model), observed)

    def model(self, alias: str) -> Model:
        """The model of an alias (empty: the default). Raises `ModelNotFound`."""
        found = self._resolved.get(alias or self._default_model)
        if found is None:
            raise ModelNotFound("there is no model of this name", metadata={"model": alias[:128]})
        return found[0]

    def candidates(self, alias: str, fallbacks: tuple[str, ...]) -> tuple[Model, ...]:
        """See `Catalog.candidates`."""
        first = self.model(alias)
        aliases = dict.fromkeys((first.alias, *(fallbacks or first.fallback)))
        return tuple(self.model(each) for each in list(aliases)[:MAX_CANDIDATES])

    def route(self, candidates: tuple[Model, ...]) -> Route:
        """See `Catalog.route`."""
        return ModelRoute(tuple(self._resolved[model.alias] for model in candidates))

    def models(self) -> list[Model]:
        """All models, the default first."""
        return sorted((model for model, _ in self._resolved.values()), key=lambda model: not model.is_default)

    async def close(self) -> None:
        """Close every provider."""
        await asyncio.gather(*(provider.close() for provider in self._providers.values()))


def _build(name: str, settings: ProviderSettings, *, clock: Clock, observer: AttemptObserver | None) -> Provider:
    if isinstance(settings, OpenAISettings):
        try:
            return OpenAIProvider(name, settings, clock=clock, observer=observer)
        except httpx2.InvalidURL:
            raise NotConfigured(f"the base URL of the provider {name} is not valid") from None
    assert isinstance(settings, ScriptedSettings)
    try:
        return ScriptedProvider(clock=clock, script=read_script(settings.script))
    except ValueError as error:
        raise NotConfigured(f"the script of the provider {name} is wrong: {error}") from None


def _limited(provider: Provider, model: ModelSettings, settings: ProviderSettings, *, clock: Clock) -> Provider:
    timeouts = settings.timeouts if isinstance(settings, OpenAISettings) else Timeouts()
    first_token_s = timeouts.first_token_s(reasoning=model.reasoning)
    return TimeLimits(provider, first_token_s=first_token_s, idle_s=timeouts.idle, clock=clock)


def _model(alias: str, settings: ModelSettings, *, is_default: bool) -> Model:
    return Model(
        alias=alias,
        provider=settings.provider,
        name=settings.name,
        context_tokens=settings.context_tokens,
        max_output_tokens=settings.max_output_tokens,
        output_tokens=0 if isinstance(settings, BuiltInModel) else settings.max_output_tokens,
        images=settings.images,
        tools=settings.tools,
        reasoning=settings.reasoning,
        prices=Prices(
            prompt=settings.prices.prompt,
            cached_prompt=settings.prices.cached_prompt,
            completion=settings.prices.completion,
        ),
        is_default=is_default,
    )
