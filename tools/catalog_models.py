"""The models of the catalog and their abilities, written by hand; `tools/catalog.py` adds the prices.

Sources, read in November 2026: the vendors' model pages (developers.openai.com/api/docs/models,
platform.claude.com/docs/en/models, ai.google.dev/gemini-api/docs/models, docs.mistral.ai/models,
api-docs.deepseek.com/quick_start/pricing, api.x.ai/v1/language-models, console.groq.com/docs/models) and the table
`model_prices_and_context_window_backup.json` of litellm 1.110.2 (MIT). What neither states is left out: unknown.
"""

from __future__ import annotations

import datetime
from typing import Any

Entry = dict[str, Any]

# Levels of reasoning effort, lowest first.
LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
SHOWS = {"images": True, "tools": True, "json_schema": True}


def _levels(first: str, last: str, *without: str) -> list[str]:
    """The levels from the first to the last."""
    found = LEVELS[LEVELS.index(first) : LEVELS.index(last) + 1]
    return [level for level in found if level not in without]


def _retires(*date: int) -> Entry:
    return {"retires": datetime.date(*date)} if date else {}


def _openai(name: str, context: int, efforts: list[str], *retires: int, **changes: Any) -> Entry:
    """A model with reasoning. It supports tools with reasoning only through the Responses API."""
    entry = {"name": f"openai/{name}", "context": context, "max_output": 128_000, **SHOWS, "reasoning": True}
    return entry | {"efforts": efforts, "sampling": False, "api": "responses"} | _retires(*retires) | changes


def _openai_before_reasoning(name: str, context: int, max_output: int) -> Entry:
    entry = {"name": f"openai/{name}", "context": context, "max_output": max_output, **SHOWS, "reasoning": False}
    return entry | {"sampling": True, "api": "chat"} | _retires(2027, 1, 14)


def _claude(name: str, cache_min: int, efforts: list[str], *, sampling: bool = False) -> Entry:
    """A model with adaptive thinking. The fewest cached tokens are those of platform.claude.com's page on caching."""
    entry = {"name": f"anthropic/claude-{name}", "context": 1_000_000, "max_output": 128_000, **SHOWS}
    entry |= {"image_urls": True, "prefill": False, "reasoning": True, "efforts": efforts, "sampling": sampling}
    return entry | {"thinking": "adaptive", "cache_min": cache_min}


def _claude_before_adaptive(name: str, cache_min: int, *retires: int) -> Entry:
    """A model that reasons only with a token budget. Parley never sends one, so the catalog has no reasoning for it."""
    entry = {"name": f"anthropic/claude-{name}", "context": 200_000, "max_output": 64_000, **SHOWS}
    entry |= {"image_urls": True, "prefill": True, "reasoning": False, "sampling": True, "cache_min": cache_min}
    return entry | _retires(*retires)


def _gemini(name: str, efforts: list[str], *retires: int, **changes: Any) -> Entry:
    """Images by URL would need Google's Files API, and a prompt must end with the user's turn."""
    entry = {"name": f"google/gemini-{name}", "context": 1_048_576, "max_output": 65_536, **SHOWS}
    entry |= {"image_urls": False, "prefill": False, "reasoning": True}
    return entry | ({"efforts": efforts} if efforts else {}) | _retires(*retires) | changes


def _other(name: str, context: int, *, images: bool, reasoning: bool, **changes: Any) -> Entry:
    entry = {"name": name, "context": context, "images": images, "tools": True, "reasoning": reasoning}
    return entry | changes


BUDGET_ONLY: list[str] = []
"""Gemini 2.5 takes a thinking budget in place of a level."""

MODELS: list[Entry] = [
    _openai("gpt-6.1-sol", 1_050_000, _levels("low", "max")),
    _openai("gpt-6.1-terra", 1_050_000, _levels("none", "max", "minimal")),
    _openai("gpt-6-astra", 1_050_000, _levels("low", "max")),
    _openai("gpt-6-sol", 1_050_000, _levels("none", "max", "minimal")),
    _openai("gpt-6-luna", 1_050_000, _levels("none", "max", "minimal")),
    _openai("gpt-5.6-sol", 1_050_000, _levels("none", "xhigh", "minimal")),
    _openai("gpt-5.6-terra", 1_050_000, _levels("none", "xhigh", "minimal")),
    _openai("gpt-5.6-luna", 1_050_000, _levels("none", "xhigh", "minimal")),
    _openai("gpt-5.5", 1_050_000, _levels("none", "xhigh", "minimal")),
    _openai("gpt-5.5-pro", 1_050_000, _levels("medium", "xhigh"), json_schema=False),
    _openai("gpt-5.4", 1_050_000, _levels("none", "xhigh", "minimal")),
    _openai("gpt-5.4-pro", 1_050_000, _levels("low", "xhigh"), json_schema=False),
    _openai("gpt-5.4-mini", 400_000, _levels("none", "xhigh", "minimal")),
    _openai("gpt-5.4-nano", 400_000, _levels("none", "xhigh", "minimal"), 2027, 4, 1),
    _openai("gpt-5.3-codex", 400_000, _levels("none", "xhigh", "minimal"), 2027, 4, 1),
    _openai("gpt-5.2", 400_000, _levels("none", "xhigh", "minimal")),
    _openai("gpt-5.1", 400_000, _levels("none", "high", "minimal"), 2027, 4, 1),
    _openai("gpt-5", 400_000, _levels("minimal", "high"), 2026, 12, 11),
    _openai("gpt-5-mini", 400_000, _levels("minimal", "high"), 2026, 12, 11),
    _openai("gpt-5-nano", 400_000, _levels("minimal", "high"), 2026, 12, 11),
    _openai("o3", 200_000, _levels("low", "high"), 2026, 12, 11, max_output=100_000),
    _openai_before_reasoning("gpt-4.1", 1_047_576, 32_768),
    _openai_before_reasoning("gpt-4.1-mini", 1_047_576, 32_768),
    _openai_before_reasoning("gpt-4o", 128_000, 16_384),
    _openai_before_reasoning("gpt-4o-mini", 128_000, 16_384),
    _claude("fable-5-2", 512, _levels("low", "max")),
    _claude("fable-5-1", 512, _levels("low", "max")),
    _claude("fable-5", 512, _levels("low", "max")),
    _claude("opus-5-5", 512, _levels("low", "max")),
    _claude("opus-5", 512, _levels("low", "max")),
    _claude("opus-4-8", 1024, _levels("low", "max")),
    _claude("opus-4-7", 2048, _levels("low", "max")),
    _claude("opus-4-6", 4096, _levels("low", "max", "xhigh"), sampling=True),
    _claude("sonnet-5-5", 512, _levels("low", "max")),
    _claude("sonnet-5", 1024, _levels("low", "max")),
    _claude("sonnet-4-6", 1024, _levels("low", "max", "xhigh"), sampling=True),
    _claude("haiku-5-5", 512, _levels("low", "max")),
    _claude_before_adaptive("opus-4-5", 4096),
    _claude_before_adaptive("sonnet-4-5", 1024, 2026, 11, 30),
    _claude_before_adaptive("haiku-4-5", 4096),
    _gemini("4-argon", _levels("low", "high"), max_output=1_048_576),
    _gemini("3.8-flash", _levels("low", "high"), sampling=False),
    _gemini("3.7-flash", _levels("low", "high"), sampling=False),
    _gemini("3.6-flash", _levels("minimal", "high"), sampling=False),
    _gemini("3.5-flash", _levels("minimal", "high")),
    _gemini("3.5-flash-lite", _levels("minimal", "high"), sampling=False),
    _gemini("3.1-pro-preview", _levels("low", "high")),
    _gemini("3.1-flash-lite", _levels("minimal", "high"), 2027, 5, 7),
    _gemini("3-flash-preview", _levels("minimal", "high")),
    _gemini("2.5-pro", BUDGET_ONLY, 2026, 12, 1),
    _gemini("2.5-flash", BUDGET_ONLY, 2026, 12, 1),
    _gemini("2.5-flash-lite", BUDGET_ONLY, reasoning=False),  # it reasons only with a budget, which Parley never sends
    _other("mistral/mistral-large-4", 1_048_576, images=True, reasoning=True, efforts=["none", "high"]),
    _other("mistral/mistral-large-2512", 262_144, images=True, reasoning=False, **_retires(2027, 4, 30)),
    _other("mistral/mistral-medium-3-5", 262_144, images=True, reasoning=True, **_retires(2027, 4, 30)),
    _other("mistral/mistral-medium-latest", 262_144, images=True, reasoning=True),
    _other("mistral/mistral-small-2603", 262_144, images=True, reasoning=True),
    _other("mistral/mistral-small-latest", 262_144, images=True, reasoning=True),
    _other("mistral/codestral-2508", 128_000, images=False, reasoning=False),
    _other("mistral/ministral-14b-2512", 262_144, images=True, reasoning=False),
    _other("mistral/ministral-8b-2512", 262_144, images=True, reasoning=False),
    _other("deepseek/deepseek-v4-pro", 1_000_000, images=False, reasoning=True, max_output=393_216),
    _other("deepseek/deepseek-v4-flash", 1_000_000, images=True, reasoning=True, max_output=393_216),
    _other("deepseek/deepseek-flash", 1_000_000, images=True, reasoning=True, max_output=393_216),
    _other("xai/grok-4.7", 500_000, images=True, reasoning=True),
    _other("xai/grok-4.6", 500_000, images=True, reasoning=True),
    _other("xai/grok-4.5", 500_000, images=True, reasoning=True),
    _other("xai/grok-4.3", 1_000_000, images=True, reasoning=True),
    _other("xai/grok-build-0.1", 256_000, images=True, reasoning=True),
    _other("groq/openai/gpt-oss-120b", 131_072, images=False, reasoning=True, max_output=65_536),
    _other("groq/openai/gpt-oss-20b", 131_072, images=False, reasoning=True, max_output=65_536),
    _other("groq/qwen/qwen3.8-27b", 131_072, images=True, reasoning=True, max_output=16_384),
]
