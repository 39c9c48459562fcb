"""The names of providers and servers in traces."""

from __future__ import annotations

import pytest
from parley_server.core.observer import Target
from parley_server.providers.resolved import resolved_target
from parley_server.settings import AnthropicSettings, GeminiSettings, OpenAISettings, ProviderSettings, ScriptedSettings


@pytest.mark.parametrize(
    ("settings", "target"),
    [
        (OpenAISettings(), ("openai", "api.openai.com", 443)),
        (OpenAISettings(base_url="https://a.openai.azure.com/v1"), ("azure.ai.openai", "a.openai.azure.com", 443)),
        (OpenAISettings(base_url="https://api.mistral.ai/v1"), ("mistral_ai", "api.mistral.ai", 443)),
        (OpenAISettings(base_url="https://openrouter.ai/api/v1"), ("openrouter", "openrouter.ai", 443)),
        (OpenAISettings(base_url="http://vllm:8000/v1"), ("own", "vllm", 8000)),
        (OpenAISettings(base_url="http://vllm/v1"), ("own", "vllm", 80)),
        (OpenAISettings(base_url="http://gateway:4000/v1", profile="xai"), ("x_ai", "gateway", 4000)),
        (AnthropicSettings(), ("anthropic", "api.anthropic.com", 443)),
        (GeminiSettings(), ("gcp.gemini", "generativelanguage.googleapis.com", 443)),
        (GeminiSettings(project="p", location="eu"), ("gcp.vertex_ai", "eu-aiplatform.googleapis.com", 443)),
        (GeminiSettings(base_url="http://proxy:9000/v1"), ("gcp.gemini", "proxy", 9000)),
        (ScriptedSettings(), ("own", "", 0)),
    ],
)
def test_a_provider_has_its_name_of_the_conventions(settings: ProviderSettings, target: tuple[str, str, int]) -> None:
    system, host, port = target
    assert resolved_target("own", settings) == Target(system=system, host=host, port=port)
