"""The profile of an endpoint follows from its host or its configuration."""

import pytest
from parley_server.providers.openai.profile import PROFILES, switches_of
from parley_server.settings import OpenAISettings, Switches


@pytest.mark.parametrize(
    ("host", "profile"),
    [
        ("api.openai.com", "openai"),
        ("API.OpenAI.com.", "openai"),
        ("r.openai.azure.com", "azure"),
        ("r.services.ai.azure.com", "azure"),
        ("openrouter.ai", "openrouter"),
        ("api.mistral.ai", "mistral"),
        ("api.deepseek.com", "deepseek"),
        ("api.x.ai", "xai"),
        ("api.groq.com", "groq"),
        ("127.0.0.1", "generic"),
        ("eu.api.openai.com.example.org", "generic"),
        ("openai.azure.com.example.org", "generic"),
    ],
)
def test_the_profile_follows_from_the_host(host, profile):
    assert switches_of(OpenAISettings(base_url=f"https://{host}/v1")) == PROFILES[profile]


def test_a_configured_profile_and_switches_override_the_host():
    assert switches_of(OpenAISettings(profile="mistral")) == PROFILES["mistral"]
    changed = switches_of(OpenAISettings(switches=Switches(alternate=True)))
    assert (changed.alternate, changed.max_tokens_field) == (True, "max_completion_tokens")


def test_an_unknown_endpoint_gets_only_widely_supported_fields():
    generic = PROFILES["generic"]
    assert (generic.max_tokens_field, generic.alternate, generic.tool_id) == ("max_tokens", True, "short")
    assert (generic.no_store, generic.no_obfuscation, generic.cache_key) == (False, False, False)
