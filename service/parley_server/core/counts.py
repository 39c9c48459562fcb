"""Checks token counts of providers, and clamps numbers to the range of the contract and the store.

An implausible count is dropped, so that it is not billed. Values are also clamped when they are stored and shown,
because they may come from an older release or another replica.
"""

from __future__ import annotations

from parley_server.core.model import Usage

MOST_TOKENS = 100_000_000
"""The upper bound of a plausible token count."""
MOST_COST = 10**15
"""The upper bound of the cost of one reply, in billionths of a US dollar: a million dollars. Sums of thousands of such
costs are within the range of a column."""
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


def credible(usage: Usage) -> bool:
    """Whether each token count is from 0 to `MOST_TOKENS`."""
    counts = (
        usage.prompt_tokens,
        usage.cached_prompt_tokens,
        usage.cache_write_prompt_tokens,
        usage.completion_tokens,
        usage.reasoning_tokens,
    )
    return all(0 <= count <= MOST_TOKENS for count in counts)


def holdable_usage(usage: Usage) -> Usage:
    """The usage with token counts clamped to 0 .. 2^31 - 1 and cost to 0 .. `MOST_COST`: within the ranges of the
    contract's fields and the store's columns."""
    if credible(usage) and (usage.cost_nano_usd is None or 0 <= usage.cost_nano_usd <= MOST_COST):
        return usage
    return Usage(
        prompt_tokens=clamped(usage.prompt_tokens),
        cached_prompt_tokens=clamped(usage.cached_prompt_tokens),
        cache_write_prompt_tokens=clamped(usage.cache_write_prompt_tokens),
        completion_tokens=clamped(usage.completion_tokens),
        reasoning_tokens=clamped(usage.reasoning_tokens),
        cost_nano_usd=None if usage.cost_nano_usd is None else clamped(usage.cost_nano_usd, MOST_COST),
        estimated=usage.estimated,
        prompt_bytes=clamped(usage.prompt_bytes),
    )


def clamped(value: int, most: int = INT32_MAX) -> int:
    """The nearest number from 0 to `most`."""
    return max(0, min(value, most))
