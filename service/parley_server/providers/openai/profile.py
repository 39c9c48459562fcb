"""Differences between servers of OpenAI's dialect: the switches of each known server, and which host it is."""

from __future__ import annotations

from typing import Any

import httpx2

from parley_server.settings import OpenAISettings, Profile, Switches


def _like_openai(**changes: Any) -> Switches:
    return Switches(system_anywhere=True, alternate=False, tool_id="long", **changes)


PROFILES: dict[Profile, Switches] = {
    "openai": _like_openai(
        max_tokens_field="max_completion_tokens", no_store=True, no_obfuscation=True, cache_key=True
    ),
    "azure": _like_openai(max_tokens_field="max_completion_tokens", cache_key=True, auth="api-key"),
    "openrouter": _like_openai(ask_usage=False, prefill=False, replay_reasoning="details"),
    "mistral": Switches(ask_usage=False, prefill=False),
    "deepseek": _like_openai(prefill=False, replay_reasoning="content"),
    "xai": _like_openai(prefill=False),
    "groq": _like_openai(prefill=False),
    "generic": Switches(),
}
_HOSTS: dict[str, Profile] = {
    "api.openai.com": "openai",
    "openrouter.ai": "openrouter",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "xai",
    "api.groq.com": "groq",
}
_AZURE = (".openai.azure.com", ".services.ai.azure.com")


def switches_of(settings: OpenAISettings) -> Switches:
    """The switches of an endpoint: those of its profile, replaced by those that its configuration sets."""
    return PROFILES[profile_of(settings)].model_copy(update=settings.switches.model_dump(exclude_unset=True))


def profile_of(settings: OpenAISettings) -> Profile:
    """The profile of an endpoint: the configured one, else that of its host."""
    if settings.profile is not None:
        return settings.profile
    host = httpx2.URL(settings.base_url).host.lower().rstrip(".")
    return "azure" if host.endswith(_AZURE) else _HOSTS.get(host, "generic")
