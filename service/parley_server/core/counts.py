"""Which counts of a provider can be true, and the range of numbers that the contract and the store can hold.

A count that cannot be true is not counted, so that it is never billed. Clamping comes after that, where values are
stored and shown, so that a number from elsewhere (an older release, another replica) can be read as well.
"""

from __future__ import annotations

from parley_server.core.model import Usage

MOST_TOKENS = 100_000_000
"""More than any reply has. A count above it is an error of the provider."""
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


def credible(usage: Usage) -> bool:
    """Whether each count is from 0 to `MOST_TOKENS`."""
    counts = (usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens, usage.reasoning_tokens)
    return all(0 <= count <= MOST_TOKENS for count in counts)


def holdable_usage(usage: Usage) -> Usage:
    """The usage with its counts clamped to 0 .. 2^31 - 1, and its cost in billionths of a US dollar to 0 .. 2^63 - 1:
    what the fields of the contract and the columns of the store hold."""
    if credible(usage) and (usage.cost_nano_usd is None or 0 <= usage.cost_nano_usd <= INT64_MAX):
        return usage
    return Usage(
        prompt_tokens=clamped(usage.prompt_tokens),
        cached_prompt_tokens=clamped(usage.cached_prompt_tokens),
        completion_tokens=clamped(usage.completion_tokens),
        reasoning_tokens=clamped(usage.reasoning_tokens),
        cost_nano_usd=None if usage.cost_nano_usd is None else clamped(usage.cost_nano_usd, INT64_MAX),
        estimated=usage.estimated,
    )


def clamped(value: int, most: int = INT32_MAX) -> int:
    """The nearest number from 0 to `most`."""
    return max(0, min(value, most))
