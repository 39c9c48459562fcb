"""Calculates the cost of a reply, and estimates tokens. Uses integers only, so that no money is lost to rounding."""

from __future__ import annotations

from parley_server.core.counts import INT64_MAX
from parley_server.core.events import utf8_size
from parley_server.core.model import Prices, Usage

PRICED_TOKENS = 1_000_000
BYTES_PER_TOKEN = 4


def cost_nano_usd(usage: Usage, prices: Prices) -> int | None:
    """The cost in billionths of a US dollar: what the provider states, else by these prices, rounded half up, at most
    2^63 - 1. None if a required price is unknown.

    Without a price of their own, cached and cache-write tokens cost as much as other prompt tokens. The last tier that
    the prompt exceeds sets the prices of the whole request.
    """
    if usage.cost_nano_usd is not None:
        return usage.cost_nano_usd
    tier = next((tier for tier in reversed(prices.tiers) if usage.prompt_tokens > tier.above), prices)
    cached = min(usage.cached_prompt_tokens, usage.prompt_tokens)
    written = min(usage.cache_write_prompt_tokens, usage.prompt_tokens - cached)
    shares = (
        (usage.prompt_tokens - cached - written, tier.prompt),
        (cached, tier.prompt if tier.cached_prompt is None else tier.cached_prompt),
        (written, tier.prompt if tier.cache_write is None else tier.cache_write),
        (usage.completion_tokens, tier.completion),
    )
    total = 0
    for tokens, price in shares:
        if not tokens:
            continue
        if price is None:
            return None
        total += tokens * price
    return min((total + PRICED_TOKENS // 2) // PRICED_TOKENS, INT64_MAX)


def estimate_tokens(text: str) -> int:
    """Estimates the tokens of a text: one per four bytes of UTF-8, rounded up."""
    return -(-utf8_size(text) // BYTES_PER_TOKEN)
