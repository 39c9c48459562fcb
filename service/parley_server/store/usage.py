"""Rows of the usage table: one for each reply and each summary."""

from __future__ import annotations

from parley_server.core.model import Usage

REPLY = "reply"
SUMMARY = "summary"


def usage_values(counted: Usage) -> dict[str, object]:
    """The columns of a usage row that hold counts; the usage must be within the range of the columns."""
    return {
        "prompt_tokens": counted.prompt_tokens,
        "cached_prompt_tokens": counted.cached_prompt_tokens,
        "cache_write_tokens": counted.cache_write_prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "reasoning_tokens": counted.reasoning_tokens,
        "cost_nano_usd": counted.cost_nano_usd,
        "estimated": counted.estimated,
    }
