"""Calculates the cost of a reply, and estimates tokens. Uses integers only, so that no money is lost to rounding."""

from __future__ import annotations

from parley_server.core.counts import INT64_MAX
from parley_server.core.events import utf8_size
from parley_server.core.model import Prices, Usage

PRICED_TOKENS = 1_000_000
BYTES_PER_TOKEN = 4


def cost_nano_usd(usage: Usage, prices: Prices) -> int | None:
    """The cost in billionths of a US dollar, rounded half up, at most 2^63 - 1. None if a required price is unknown.

    If the model has no price for cached prompt tokens, they cost as much as other prompt tokens.
    """
    cached = min(usage.cached_prompt_tokens, usage.prompt_tokens)
    cached_price = prices.prompt if prices.cached_prompt is None else prices.cached_prompt
    shares = (
        (usage.prompt_tokens - cached, prices.prompt),
        (cached, cached_price),
        (usage.completion_tokens, prices.completion),
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
