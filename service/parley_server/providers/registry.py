"""The catalog: the models by alias, and the provider that answers for each. The only place that builds providers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

import httpx2

from parley_server.core.model import Finish, Model, Prompt
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Clock, KeyLookup, Provider, Route, Sink
from parley_server.core.secret import Secret
from parley_server.core.status_values import BreakerState
from parley_server.core.store_types import KeyPlace
from parley_server.core.tracing import NO_TRACER, Tracer
from parley_server.errors import InvalidRequest, ModelNotFound, NotConfigured, ProviderNotFound
from parley_server.providers.anthropic.provider import AnthropicProvider
from parley_server.providers.gemini.provider import GeminiProvider
from parley_server.providers.keys import RequestKeys
from parley_server.providers.known_models import known_model
from parley_server.providers.openai.provider import OpenAIProvider
from parley_server.providers.policies.breaker import FAILURES, Breaker, CoolDowns
from parley_server.providers.policies.retry import RetryBudget
from parley_server.providers.policies.route import Candidate, ModelRoute
from parley_server.providers.resolved import resolved_model, resolved_target, resolved_timeouts
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


class ConfiguredProvider:
    """A provider as it is configured, with the failures that this process has observed. Implements `Provider`.

    While its settings stay the same, a reload of the configuration keeps it. Otherwise it is retired: replies that were
    accepted before still ask it, and its connections close when none of its calls runs. A later call, such as the retry
    of such a reply, opens connections again until its end.

    Raises `NotConfigured` for settings that only a provider can check."""

    def __init__(
        self,
        name: str,
        settings: ProviderSettings,
        *,
        stored_keys: KeyLookup | None,
        clock: Clock,
        observer: AttemptObserver | None,
    ) -> None:
        self.settings = settings
        self.keys = RequestKeys(name, settings, stored_keys) if isinstance(settings, EndpointSettings) else None
        self.budget = RetryBudget()
        self.cool_downs = CoolDowns(clock)
        self._name = name
        self._clock = clock
        self._observer = observer
        self.breakers: dict[str, Breaker] = {}
        """By the name of the model at this provider."""
        self._calls = 0
        self._retired = False
        self._opened: Provider | None = self._open()

    @property
    def provider(self) -> Provider:
        """The provider itself, for what needs no connection."""
        self._opened = self._opened or self._open()
        return self._opened

    @property
    def is_closed(self) -> bool:
        """Whether it has no connection."""
        return self._opened is None

    async def generate(self, prompt: Prompt, sink: Sink) -> Finish:
        """See `Provider`."""
        self._calls += 1
        try:
            return await self.provider.generate(prompt, sink)
        finally:
            self._calls -= 1
            await self._close_if_unused()

    async def verify_key(self, key: Secret) -> None:
        """See `KeyRules.verify_key`."""
        self._calls += 1
        try:
            verifying = self.provider
            assert isinstance(verifying, VerifiesKeys), "check_key comes first"
            await verifying.verify_key(key)
        finally:
            self._calls -= 1
            await self._close_if_unused()

    async def retire(self) -> None:
        """Close the connections, now or after the calls that run. Later outcomes are not reported."""
        self._retired = True
        self.keep_breakers(())
        await self._close_if_unused()

    async def close(self) -> None:
        """Close the connections, also of calls that run."""
        provider, self._opened = self._opened, None
        if provider is not None:
            await provider.close()

    def breaker(self, model: str) -> Breaker:
        """The breaker that all aliases of a model share; `model` is its name at this provider."""
        if (known := self.breakers.get(model)) is not None:
            return known

        def report(is_open: bool) -> None:
            if self.breakers.get(model) is made:
                self._report(model, is_open=is_open)

        # A script's faults are intended: they are no reason to keep requests away from it.
        failures = FAILURES if isinstance(self.settings, EndpointSettings) else None
        made = self.breakers[model] = Breaker(self._clock, on_change=report, failures=failures)
        return made

    def keep_breakers(self, models: Collection[str]) -> None:
        """Forget the breakers of other models: their outcomes, by replies that still run, are not reported."""
        for model in [each for each in self.breakers if each not in models]:
            if self.breakers.pop(model).is_open:
                self._report(model, is_open=False)

    def _report(self, model: str, *, is_open: bool) -> None:
        if self._observer is not None:
            self._observer.breaker_changed(self._name, model, is_open=is_open)

    async def _close_if_unused(self) -> None:
        if self._retired and not self._calls:
            await self.close()

    def _open(self) -> Provider:
        return _build(self._name, self.settings, keys=self.keys, clock=self._clock, observer=self._observer)


class Models:
    """The models and providers of one valid configuration; it does not change. Implements `Catalog`."""

    def __init__(
        self,
        providers: Mapping[str, ConfiguredProvider],
        candidates: Mapping[str, Candidate],
        default_model: str,
        *,
        clock: Clock,
        observer: AttemptObserver | None,
        tracer: Tracer,
    ) -> None:
        self.providers = providers
        self._candidates = candidates
        self._default_model = default_model
        self._clock = clock
        self._observer = observer
        self._tracer = tracer

    def current(self) -> Models:
        """See `Catalog`."""
        return self

    def model(self, alias: str) -> Model:
        """The model of an alias (empty: the default). Raises `ModelNotFound`."""
        found = self._candidates.get(alias or self._default_model)
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
        found = tuple(self._candidates[model.alias] for model in candidates)
        return ModelRoute(found, clock=self._clock, observer=self._observer, tracer=self._tracer)

    def models(self) -> list[Model]:
        """All models, the default first."""
        return sorted(
            (candidate.model for candidate in self._candidates.values()), key=lambda model: not model.is_default
        )


class Registry:
    """The catalog of a process, and its providers. A reload of the configuration replaces what it holds: `prepare`
    builds the next catalog beside the present one, and `use` takes it. Implements `Catalog` and `KeyRules`.

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
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._clock = clock
        self._observer = observer
        self._tracer = tracer
        self._stored_keys = stored_keys
        self._retired: set[ConfiguredProvider] = set()
        self._now = Models({}, {}, default_model, clock=clock, observer=observer, tracer=tracer)
        self._now = self.prepare(providers, models, default_model)

    def prepare(
        self, providers: Mapping[str, ProviderSettings], models: Mapping[str, ModelSettings], default_model: str
    ) -> Models:
        """The catalog of this configuration, for `use`. Providers whose settings are those of the present catalog are
        shared with it. Raises `NotConfigured` like the constructor."""
        faults: list[str] = []
        built: dict[str, ConfiguredProvider] = {}
        for name, settings in providers.items():
            try:
                built[name] = self._provider(name, settings)
            except NotConfigured as error:
                faults.append(error.message)
        resolved: dict[str, tuple[Model, Timeouts]] = {}
        for alias, entry in models.items():
            settings = providers[entry.provider]
            try:
                known = known_model(entry, settings)
            except ValueError as error:
                faults.append(f"models.{alias}.like: {error}")
                continue
            model = resolved_model(alias, entry, settings, known, is_default=alias == default_model)
            resolved[alias] = model, resolved_timeouts(entry, settings, known)
        if faults:
            raise NotConfigured("; ".join(faults))
        # After the last fault: a candidate adds its circuit breaker to a provider that the present catalog may share.
        candidates = {
            alias: _candidate(model, built[model.provider], timeouts) for alias, (model, timeouts) in resolved.items()
        }
        return Models(built, candidates, default_model, clock=self._clock, observer=self._observer, tracer=self._tracer)

    def use(self, prepared: Models) -> None:
        """Use this catalog from now on. `close_retired` must follow."""
        self._retired |= {*self._now.providers.values()} - {*prepared.providers.values()}
        self._now = prepared
        for name, provider in prepared.providers.items():
            provider.keep_breakers({model.name for model in prepared.models() if model.provider == name})

    async def close_retired(self) -> None:
        """Close the connections of providers that a reload has removed or replaced: at once, or when their last call
        ends."""
        try:
            await asyncio.gather(*(each.retire() for each in self._retired))
        finally:
            self._retired = {each for each in self._retired if not each.is_closed}

    def current(self) -> Models:
        """See `Catalog`."""
        return self._now

    def model(self, alias: str) -> Model:
        """See `Models.model`."""
        return self._now.model(alias)

    def candidates(self, alias: str, fallbacks: tuple[str, ...]) -> tuple[Model, ...]:
        """See `Catalog.candidates`."""
        return self._now.candidates(alias, fallbacks)

    def route(self, candidates: tuple[Model, ...]) -> Route:
        """See `Catalog.route`."""
        return self._now.route(candidates)

    def models(self) -> list[Model]:
        """All models, the default first."""
        return self._now.models()

    def breakers(self) -> list[BreakerState]:
        """The circuit breakers, sorted by provider and model."""
        return [
            BreakerState(provider=name, model=model, is_open=breaker.is_open, next_probe_s=breaker.left_s)
            for name, provider in sorted(self._now.providers.items())
            for model, breaker in sorted(provider.breakers.items())
        ]

    def retiring(self) -> list[Model]:
        """The models that their vendors turn off within 30 days, or have turned off."""
        soon_us = self._clock.now_us() + RETIRES_SOON_US
        return [model for model in self.models() if 0 < model.retire_time_us <= soon_us]

    def body_of(self, prompt: Prompt) -> bytes | None:
        """The request that would be sent for this prompt, as JSON; None if its provider sends none."""
        provider = self._now.providers[prompt.model.provider].provider
        return provider.body_of(prompt) if isinstance(provider, BuildsBody) else None

    def check_key(self, place: KeyPlace, key: Secret) -> None:
        """See `KeyRules`."""
        configured = self._now.providers.get(place.provider)
        if configured is None:
            raise ProviderNotFound("there is no provider of this name", metadata={"provider": place.provider[:128]})
        provider = configured.provider
        if configured.keys is None or not isinstance(provider, VerifiesKeys):
            raise InvalidRequest.field("provider", "this provider takes no key")
        if not place.tenant and not configured.keys.needs_stored:
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
        await self._now.providers[provider].verify_key(key)

    async def verify(self, provider: str) -> bool:
        """Ask a provider whether it accepts the key of tenants without their own. Returns False, without a question, if
        it has no server, or if such tenants have no key because only stored keys are used.

        Raises `ProviderUnauthenticated` if the stored key cannot be decrypted, and what `verify_key` raises."""
        configured = self._now.providers[provider]
        if configured.keys is None or not isinstance(configured.provider, VerifiesKeys):
            return False
        key = Secret(configured.keys.of(""))
        if configured.keys.needs_stored and not key.reveal():
            return False
        await configured.verify_key(key)
        return True

    async def close(self) -> None:
        """Close every provider."""
        await asyncio.gather(*(each.close() for each in (*self._now.providers.values(), *self._retired)))

    def _provider(self, name: str, settings: ProviderSettings) -> ConfiguredProvider:
        present = self._now.providers.get(name)
        if present is not None and present.settings == settings:
            return present
        return ConfiguredProvider(
            name, settings, stored_keys=self._stored_keys, clock=self._clock, observer=self._observer
        )


def _candidate(model: Model, provider: ConfiguredProvider, timeouts: Timeouts) -> Candidate:
    # A script's faults are intended, so that they are not repeated.
    endpoint = provider.settings if isinstance(provider.settings, EndpointSettings) else None
    return Candidate(
        model=model,
        provider=provider,
        first_token_s=timeouts.first_token_s(reasoning=False),
        idle_s=timeouts.idle,
        first_token_total_s=timeouts.first_token_total,
        retries=endpoint.retries if endpoint else 0,
        retry_silence=endpoint.retry_silence if endpoint else False,
        breaker=provider.breaker(model.name),
        budget=provider.budget,
        cool_downs=provider.cool_downs,
        fingerprint=provider.keys.fingerprint if provider.keys else lambda _: "",
        target=resolved_target(model.provider, provider.settings),
    )


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
