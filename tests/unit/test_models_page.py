"""Each configuration of docs/models.md loads, and names models that the catalog has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from parley_server.core.clock import SystemClock
from parley_server.providers.known_models import UNKNOWN, known_model
from parley_server.providers.registry import Registry
from parley_server.settings import load_settings

PAGE = (Path(__file__).parents[2] / "docs/models.md").read_text()
BLOCKS = [
    (heading, block)
    for heading, section in re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"^```toml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
]
VENDORS = [
    "OpenAI",
    "Azure",
    "OpenRouter",
    "Gemini API",
    "Vertex AI",
    "Anthropic",
    "Mistral",
    "DeepSeek",
    "xAI",
    "Groq",
]
OWN_SERVERS = ["vLLM", "llama.cpp", "Ollama"]


def test_each_vendor_has_a_configuration():
    assert list(dict.fromkeys(heading for heading, _ in BLOCKS)) == VENDORS + OWN_SERVERS


@pytest.mark.parametrize(("heading", "block"), BLOCKS, ids=[f"{heading}-{i}" for i, (heading, _) in enumerate(BLOCKS)])
async def test_the_configuration_loads(heading, block, tmp_path):
    (tmp_path / "parley.toml").write_text(block)
    keys = dict.fromkeys(re.findall(r'"env:(\w+)"', block), "sk-of-nobody")
    settings = load_settings(keys | {"PARLEY_CONFIG": str(tmp_path / "parley.toml")})
    registry = Registry(settings.providers, settings.models, settings.server.default_model, clock=SystemClock())
    await registry.close()
    for model in settings.models.values():
        known = known_model(model, settings.providers[model.provider])
        assert (known is UNKNOWN) == (heading in OWN_SERVERS)
        assert registry.model("").context_tokens > 0


@pytest.mark.parametrize("example", sorted(set(re.findall(r"`((?:extra_body|headers|switches) = \{.*?\})`", PAGE))))
async def test_the_example_is_a_key_of_its_table(example, tmp_path):
    provider = example if example.startswith(("headers", "switches")) else ""
    model = "" if provider else example
    block = f'[providers.p]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\n{provider}\n'
    (tmp_path / "parley.toml").write_text(f'{block}[models.m]\nprovider = "p"\nname = "n"\n{model}\n')
    load_settings({"PARLEY_CONFIG": str(tmp_path / "parley.toml")})
