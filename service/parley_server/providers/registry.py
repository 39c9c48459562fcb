"""The catalog: the models by alias, and the provider that answers for each. The only place that builds providers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import httpx2

from parley_server.core.model import Model, Prompt
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Clock, KeyLookup, Provider, Route
from parley_server.core.secret import Secret
from parley_server.core.status_values import BreakerState
from parley_server.core.store_types import KeyPlace
from parley_server.errors import InvalidRequest, ModelNotFound, NotConfigured, ProviderNotFound
from parley_server.providers.anthropic.provider import AnthropicProvider
from parley_server.providers.gemini.provider import GeminiProvider
from parley_server.providers.keys import RequestKeys
from parley_server.providers.known_models import known_model
from parley_server.providers.openai.provider import OpenAIProvider
from parley_server.providers.policies.breaker import FAILURES, Breaker, CoolDowns
from parley_server.providers.policies.retry import RetryBudget
from parley_server.providers.policies.route import Candidate, ModelRoute
from parley_server.providers.resolved import resolved_model, resolved_timeouts
from parley_server.providers.scripted.provider import ScriptedProvider
from parley_server.providers.scripted.script import read_script
from parley_server.settings import (
    AnthropicSettings,
    EndpointSettings,
    GeminiSettings,
    ModelSettings,
    OpenAISettings,
    ProviderSettings,
    ScriptedSettings,
    Timeouts,
)

MAX_CANDIDATES = 8
"""Models that one reply may ask."""
MAX_DOCUMENT = 16_384
"""Characters of the JSON of a service account."""
_KEY = re.compile(r"[\x21-\x7e]{8,4096}")
RETIRES_SOON_US = 30 * 86_400 * 1_000_000


@runtime_checkable
class BuildsBody(Protocol):
    """A provider that sends a request."""

    def body_of(self, prompt: Prompt) -> bytes:
        """The body of the request for this prompt, as JSON. It contains no key."""


@runtime_checkable
class VerifiesKeys(Protocol):
    """A provider that sends a key."""

    async def verify_key(self, key: Secret) -> None:
        """See `KeyRules.verify_key`. An empty key: that of the configuration, or none."""


@runtime_checkable
class TakesDocuments(Protocol):
    """A provider that also takes keys of another form."""

    def check_key(self, key: Secret) -> None:
        """Raises `InvalidRequest` for an invalid key."""


class Registry:
    """The models and providers of a valid configuration, and what the process knows about their failures.

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
        stored_keys: KeyLookup | None = None,
    ) -> None:
        self._default_model = default_model
        self._providers: dict[str, Provider] = {}
        faults: list[str] = []
        self._keys = {
            name: RequestKeys(name, settings, stored_keys)
            for name, settings in providers.items()
            if isinstance(settings, EndpointSettings)
        }
        for name, settings in providers.items():
            try:
                keys = self._keys.get(name)
                self._providers[name] = _build(name, settings, keys=keys, clock=clock, observer=observer)
            except NotConfigured as error:
                faults.append(error.message)
        self._clock = clock
        self._observer = observer
        self._cool_downs = CoolDowns(clock)
        self._budgets = {name: RetryBudget() for name in providers}
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._resolved: dict[str, Candidate] = {}
        for alias, entry in models.items():
            settings = providers[entry.provider]
            try:
                known = known_model(entry, settings)
            except ValueError as error:
                faults.append(f"models.{alias}.like: {error}")
                continue
            model = resolved_model(alias, entry, settings, known, is_default=alias == default_model)
            if entry.provider in self._providers:
                self._resolved[alias] = self._candidate(model, settings, resolved_timeouts(entry, settings, known))
        if faults:
            raise NotConfigured("; ".join(faults))

    def model(self, alias: str) -> Model:
        """The model of an alias (empty: the default). Raises `ModelNotFound`."""
        found = self._resolved.get(alias or self._default_model)
        if found is None:
            raise ModelNotFound(alias)
        return found.model

    def candidates(self, alias: str, fallbacks: tuple[str, ...]) -> tuple[Model, ...]:
        """See `Catalog.candidates`."""
        first = self.model(alias)
        found = (first, *(self.model(each) for each in fallbacks or first.fallback))
        return tuple({model.alias: model for model in found}.values())[:MAX_CANDIDATES]

    def route(self, candidates: tuple[Model, ...]) -> Route:
        """See `Catalog.route`."""
        found = tuple(self._resolved[model.alias] for model in candidates)
        return ModelRoute(found, clock=self._clock, observer=self._observer)

    def models(self) -> list[Model]:
        """All models, the default first."""
        return sorted(
            (candidate.model for candidate in self._resolved.values()), key=lambda model: not model.is_default
        )

    def breakers(self) -> list[BreakerState]:
        """The circuit breakers, sorted by provider and model."""
        return [
            BreakerState(provider=provider, model=model, is_open=breaker.is_open, next_probe_s=breaker.left_s)
            for (provider, model), breaker in sorted(self._breakers.items())
        ]

    def retiring(self) -> list[Model]:
        """The models that their vendors turn off within 30 days, or have turned off."""
        soon_us = self._clock.now_us() + RETIRES_SOON_US
        return [model for model in self.models() if 0 < model.retire_time_us <= soon_us]

    def body_of(self, prompt: Prompt) -> bytes | None:
        """The request that would be sent for this prompt, as JSON; None if its provider sends none."""
        provider = self._providers[prompt.model.provider]
        return provider.body_of(prompt) if isinstance(provider, BuildsBody) else None

    def check_key(self, place: KeyPlace, key: Secret) -> None:
        """See `KeyRules`."""
        provider = self._providers.get(place.provider)
        if provider is None:
            raise ProviderNotFound("there is no provider of this name", metadata={"provider": place.provider[:128]})
        if not isinstance(provider, VerifiesKeys):
            raise InvalidRequest.field("provider", "this provider takes no key")
        if not place.tenant and not self._keys[place.provider].needs_stored:
            raise NotConfigured(
                'the key for all tenants comes from the configuration: set api_key = "stored" there, or name a tenant'
            )
        if isinstance(provider, TakesDocuments) and key.reveal().startswith("{"):
            if len(key.reveal()) > MAX_DOCUMENT:
                raise InvalidRequest.field("api_key", f"must be at most {MAX_DOCUMENT} characters")
            provider.check_key(key)
        elif not _KEY.fullmatch(key.reveal()):
            raise InvalidRequest.field("api_key", "must be 8 to 4096 printable ASCII characters without spaces")

    async def verify_key(self, provider: str, key: Secret) -> None:
        """See `KeyRules`."""
        verifying = self._providers[provider]
        assert isinstance(verifying, VerifiesKeys), "check_key comes first"
        await verifying.verify_key(key)

    async def verify(self, provider: str) -> bool:
        """Ask a provider whether it accepts the key of tenants without their own. Returns False, without a question, if
        it has no server, or if such tenants have no key because only stored keys are used.

        Raises `ProviderUnauthenticated` if the stored key cannot be decrypted, and what `verify_key` raises."""
        verifying = self._providers[provider]
        if not isinstance(verifying, VerifiesKeys):
            return False
        keys = self._keys[provider]
        key = Secret(keys.of(""))
        if keys.needs_stored and not key.reveal():
            return False
        await verifying.verify_key(key)
        return True

    async def close(self) -> None:
        """Close every provider."""
        await asyncio.gather(*(provider.close() for provider in self._providers.values()))

    def _candidate(self, model: Model, settings: ProviderSettings, timeouts: Timeouts) -> Candidate:
        # A script's faults are intended: they are neither repeated nor a reason to keep requests away from it.
        endpoint = settings if isinstance(settings, EndpointSettings) else None
        return Candidate(
            model=model,
            provider=self._providers[model.provider],
            first_token_s=timeouts.first_token_s(reasoning=False),
            idle_s=timeouts.idle,
            first_token_total_s=timeouts.first_token_total,
            retries=endpoint.retries if endpoint else 0,
            retry_silence=endpoint.retry_silence if endpoint else False,
            breaker=self._breaker(model, failures=FAILURES if endpoint else None),
            budget=self._budgets[model.provider],
            cool_downs=self._cool_downs,
            fingerprint=self._keys[model.provider].fingerprint if endpoint else lambda _: "",
        )

    def _breaker(self, model: Model, *, failures: int | None) -> Breaker:
        """The breaker that all aliases of a model at a provider share."""

        def report(is_open: bool) -> None:
            if self._observer is not None:
                self._observer.breaker_changed(model.provider, model.name, is_open=is_open)

        breaker = Breaker(self._clock, on_change=report, failures=failures)
        return self._breakers.setdefault((model.provider, model.name), breaker)


def _build(
    name: str,
    settings: ProviderSettings,
    *,
    keys: RequestKeys | None,
    clock: Clock,
    observer: AttemptObserver | None,
) -> Provider:
    if isinstance(settings, ScriptedSettings):
        try:
            return ScriptedProvider(clock=clock, script=read_script(settings.script))
        except ValueError as error:
            raise NotConfigured(f"the script of the provider {name} is wrong: {error}") from None
    try:
        return _endpoint(name, settings, keys=keys, clock=clock, observer=observer)
    except httpx2.InvalidURL:
        raise NotConfigured(f"the base URL of the provider {name} is not valid") from None


def _endpoint(
    name: str,
    settings: OpenAISettings | AnthropicSettings | GeminiSettings,
    *,
    keys: RequestKeys | None,
    clock: Clock,
    observer: AttemptObserver | None,
) -> Provider:
    if isinstance(settings, OpenAISettings):
        return OpenAIProvider(name, settings, keys=keys, clock=clock, observer=observer)
    if isinstance(settings, AnthropicSettings):
        return AnthropicProvider(name, settings, keys=keys, clock=clock, observer=observer)
    return GeminiProvider(name, settings, keys=keys, clock=clock, observer=observer)
