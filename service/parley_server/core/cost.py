"""What a reply costs, and about how many tokens a text has. Integers only: money must never be a float."""

from __future__ import annotations

from parley_server.core.counts import INT64_MAX
from parley_server.core.model import Prices, Usage
from parley_server.core.replies.events import utf8_size

PRICED_TOKENS = 1_000_000
BYTES_PER_TOKEN = 4


def cost_nano_usd(usage: Usage, prices: Prices) -> int | None:
    """Billionths of a US dollar, rounded half up and at most 2^63 - 1; None where a price that is needed is not known.

    Cached prompt tokens without a price of their own cost what other prompt tokens do.
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
    """About how many tokens a text has, never less than one for any text: four bytes of UTF-8 to the token."""
    return -(-utf8_size(text) // BYTES_PER_TOKEN)
