"""The catalog: which aliases there are, and which provider answers for each. The only place that builds providers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import httpx2
import msgspec

from parley_server.core.model import Model, Value
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Clock, Provider
from parley_server.errors import ModelNotFound, NotConfigured
from parley_server.providers.keys import Key, key_of
from parley_server.providers.openai.profile import switches_of
from parley_server.providers.openai.provider import OPENAI_URL, OpenAIProvider
from parley_server.providers.policies.observed import ObservedProvider
from parley_server.providers.policies.time_limits import TimeLimits
from parley_server.providers.scripted.provider import ScriptedProvider
from parley_server.providers.scripted.script import read_script

FIRST_TOKEN_S = 30.0
REASONING_FIRST_TOKEN_S = 120.0


class ProviderSpec(Value, frozen=True, kw_only=True):
    """A provider to build: `kind` is "openai" or "scripted".

    `api_key` is "env:NAME", "file:PATH", or a function that returns the key; without it there is none, but for OpenAI
    itself, where it is the environment's OPENAI_API_KEY. Limits are seconds: to connect, to the first token (None: 30,
    or 120 where the model reasons), and between two tokens. `profile` (None: the host's) and `switches` say what an
    OpenAI-dialect endpoint takes (`openai_profile`). `script` holds a scripted provider's own fields.
    """

    name: str
    kind: str
    base_url: str = OPENAI_URL
    api_key: str | Callable[[], str | None] | None = None
    connect_s: float = 5.0
    first_token_s: float | None = None
    idle_s: float = 60.0
    profile: str | None = None
    switches: dict[str, Any] = msgspec.field(default_factory=dict)
    script: Mapping[str, Any] = {}


class Registry:
    """Models by alias, each with its provider, kept to the time limits. Raises `NotConfigured`, with every fault, for
    a configuration that does not hold together."""

    def __init__(
        self,
        providers: Sequence[ProviderSpec],
        models: Sequence[Model],
        default_model: str,
        *,
        clock: Clock,
        environment: Mapping[str, str],
        observer: AttemptObserver | None = None,
    ) -> None:
        faults = list(_faults(providers, models, default_model))
        self._providers: dict[str, Provider] = {}
        for spec in providers:
            try:
                self._providers[spec.name] = _build(spec, clock=clock, environment=environment, observer=observer)
            except NotConfigured as error:
                faults.append(error.message)
        if faults:
            raise NotConfigured("; ".join(faults))
        specs = {spec.name: spec for spec in providers}
        named = [msgspec.structs.replace(model, is_default=model.alias == default_model) for model in models]
        self._models = sorted(named, key=lambda model: not model.is_default)
        self._default_model = default_model
        self._resolved: dict[str, tuple[Model, Provider]] = {}
        for model in self._models:
            provider = _limited(self._providers[model.provider], model, specs[model.provider], clock=clock)
            observed = ObservedProvider(provider, observer=observer) if observer is not None else provider
            self._resolved[model.alias] = (model, observed)

    def resolve(self, alias: str) -> tuple[Model, Provider]:
        """The model of an alias (empty: the default) and what answers for it. Raises `ModelNotFound`."""
        found = self._resolved.get(alias or self._default_model)
        if found is None:
            raise ModelNotFound("there is no model of this name", metadata={"model": alias[:128]})
        return found

    def models(self) -> list[Model]:
        """All of them, the default first."""
        return list(self._models)

    async def close(self) -> None:
        """Close every provider."""
        await asyncio.gather(*(provider.close() for provider in self._providers.values()))


def _build(
    spec: ProviderSpec, *, clock: Clock, environment: Mapping[str, str], observer: AttemptObserver | None
) -> Provider:
    if spec.kind == "scripted":
        return ScriptedProvider(clock=clock, script=_script(spec))
    if spec.kind == "openai":
        url = _checked_url(spec)
        return OpenAIProvider(
            spec.name,
            url,
            api_key=_key(spec, environment),
            connect_s=spec.connect_s,
            first_token_s=FIRST_TOKEN_S if spec.first_token_s is None else spec.first_token_s,
            idle_s=spec.idle_s,
            clock=clock,
            observer=observer,
            switches=switches_of(httpx2.URL(url).host, spec.profile, spec.switches),
        )
    raise NotConfigured(f'the provider {spec.name} is of no known kind: "openai" or "scripted"')


def _script(spec: ProviderSpec) -> Any:
    try:
        return read_script(spec.script)
    except ValueError as error:
        raise NotConfigured(f"the script of the provider {spec.name} is wrong: {error}") from None


def _key(spec: ProviderSpec, environment: Mapping[str, str]) -> Key:
    if callable(spec.api_key):
        return spec.api_key
    default = "env:OPENAI_API_KEY" if httpx2.URL(spec.base_url).host == httpx2.URL(OPENAI_URL).host else ""
    return key_of(spec.name, spec.api_key or default, environment=environment)


def _checked_url(spec: ProviderSpec) -> str:
    try:
        url = httpx2.URL(spec.base_url)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in {"http", "https"} or not url.host:
        raise NotConfigured(f"the base URL of the provider {spec.name} is not an http or https URL")
    return spec.base_url


def _limited(provider: Provider, model: Model, spec: ProviderSpec, *, clock: Clock) -> Provider:
    usual_s = REASONING_FIRST_TOKEN_S if model.reasoning else FIRST_TOKEN_S
    first_token_s = usual_s if spec.first_token_s is None else spec.first_token_s
    return TimeLimits(provider, first_token_s=first_token_s, idle_s=spec.idle_s, clock=clock)


def _faults(providers: Sequence[ProviderSpec], models: Sequence[Model], default_model: str) -> Iterable[str]:
    names = {spec.name for spec in providers}
    for name in _repeated([spec.name for spec in providers]):
        yield f"there are several providers of the name {name}"
    for alias in _repeated([model.alias for model in models]):
        yield f"there are several models of the name {alias}"
    for model in models:
        if model.provider not in names:
            yield f"the model {model.alias} names a provider that does not exist: {model.provider}"
    if default_model not in {model.alias for model in models}:
        yield f"the default model does not exist: {default_model}"


def _repeated(names: list[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
