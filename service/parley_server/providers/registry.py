"""The catalog: the models by alias, and the provider that answers for each. The only place that builds providers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx2

from parley_server.core.model import Model
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Clock, Provider, Route
from parley_server.errors import ModelNotFound, NotConfigured
from parley_server.providers.known_models import known_model
from parley_server.providers.openai.provider import OpenAIProvider
from parley_server.providers.policies.observed import ObservedProvider
from parley_server.providers.policies.route import ModelRoute
from parley_server.providers.policies.time_limits import TimeLimits
from parley_server.providers.resolved import resolved_model, resolved_timeouts
from parley_server.providers.scripted.provider import ScriptedProvider
from parley_server.providers.scripted.script import read_script
from parley_server.settings import ModelSettings, OpenAISettings, ProviderSettings, ScriptedSettings, Timeouts

MAX_CANDIDATES = 8
"""Models that one reply may ask."""
RETIRES_SOON_US = 30 * 86_400 * 1_000_000


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
        self._clock = clock
        self._providers: dict[str, Provider] = {}
        faults: list[str] = []
        for name, settings in providers.items():
            try:
                self._providers[name] = _build(name, settings, clock=clock, observer=observer)
            except NotConfigured as error:
                faults.append(error.message)
        self._resolved: dict[str, tuple[Model, Provider]] = {}
        for alias, entry in models.items():
            settings = providers[entry.provider]
            try:
                known = known_model(entry, settings)
            except ValueError as error:
                faults.append(f"models.{alias}.like: {error}")
                continue
            model = resolved_model(alias, entry, settings, known, is_default=alias == default_model)
            if (provider := self._providers.get(entry.provider)) is not None:
                timeouts = resolved_timeouts(entry, settings, known)
                self._resolved[alias] = (model, _limited(provider, timeouts, clock=clock, observer=observer))
        if faults:
            raise NotConfigured("; ".join(faults))

    def model(self, alias: str) -> Model:
        """The model of an alias (empty: the default). Raises `ModelNotFound`."""
        found = self._resolved.get(alias or self._default_model)
        if found is None:
            raise ModelNotFound("there is no model of this name", metadata={"model": alias[:128]})
        return found[0]

    def candidates(self, alias: str, fallbacks: tuple[str, ...]) -> tuple[Model, ...]:
        """See `Catalog.candidates`."""
        first = self.model(alias)
        found = (first, *(self.model(each) for each in fallbacks or first.fallback))
        return tuple({model.alias: model for model in found}.values())[:MAX_CANDIDATES]

    def route(self, candidates: tuple[Model, ...]) -> Route:
        """See `Catalog.route`."""
        return ModelRoute(tuple(self._resolved[model.alias] for model in candidates))

    def models(self) -> list[Model]:
        """All models, the default first."""
        return sorted((model for model, _ in self._resolved.values()), key=lambda model: not model.is_default)

    def retiring(self) -> list[Model]:
        """The models that their vendors turn off within 30 days, or have turned off."""
        soon_us = self._clock.now_us() + RETIRES_SOON_US
        return [model for model in self.models() if 0 < model.retire_time_us <= soon_us]

    async def close(self) -> None:
        """Close every provider."""
        await asyncio.gather(*(provider.close() for provider in self._providers.values()))


def _build(name: str, settings: ProviderSettings, *, clock: Clock, observer: AttemptObserver | None) -> Provider:
    if isinstance(settings, OpenAISettings):
        try:
            return OpenAIProvider(name, settings, clock=clock, observer=observer)
        except httpx2.InvalidURL:
            raise NotConfigured(f"the base URL of the provider {name} is not valid") from None
    if not isinstance(settings, ScriptedSettings):
        raise NotConfigured(f"the provider {name}: this release has no providers of kind {settings.kind}")
    try:
        return ScriptedProvider(clock=clock, script=read_script(settings.script))
    except ValueError as error:
        raise NotConfigured(f"the script of the provider {name} is wrong: {error}") from None


def _limited(provider: Provider, timeouts: Timeouts, *, clock: Clock, observer: AttemptObserver | None) -> Provider:
    first_token_s = timeouts.first_token_s(reasoning=False)
    limited = TimeLimits(provider, first_token_s=first_token_s, idle_s=timeouts.idle, clock=clock)
    # Outside of the time limits, so that a timeout counts as the outcome of the attempt.
    return ObservedProvider(limited, observer=observer) if observer is not None else limited
