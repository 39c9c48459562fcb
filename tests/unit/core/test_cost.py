"""Costs of usage and estimates of token counts."""

import pytest
from parley_server.core.cost import cost_nano_usd, estimate_tokens
from parley_server.core.model import Prices, Usage

PRICES = Prices(prompt=250_000_000, cached_prompt=25_000_000, completion=2_000_000_000)


def test_prompt_cached_and_completion_tokens_have_separate_prices():
    usage = Usage(prompt_tokens=1000, cached_prompt_tokens=400, completion_tokens=50)
    assert cost_nano_usd(usage, PRICES) == 600 * 250 + 400 * 25 + 50 * 2000


def test_cached_tokens_fall_back_to_the_prompt_price():
    usage = Usage(prompt_tokens=1000, cached_prompt_tokens=400)
    assert cost_nano_usd(usage, Prices(prompt=250_000_000)) == 250_000


def test_cached_tokens_above_the_prompt_tokens_cost_nothing():
    assert cost_nano_usd(Usage(prompt_tokens=10, cached_prompt_tokens=30), PRICES) == 250


@pytest.mark.parametrize(
    ("usage", "prices"),
    [
        (Usage(prompt_tokens=1), Prices(completion=1)),
        (Usage(completion_tokens=1), Prices(prompt=1)),
        (Usage(prompt_tokens=1, cached_prompt_tokens=1), Prices(completion=1)),
    ],
)
def test_a_missing_price_of_counted_tokens_makes_the_cost_unknown(usage, prices):
    assert cost_nano_usd(usage, prices) is None


def test_a_missing_price_of_uncounted_tokens_is_ignored():
    assert cost_nano_usd(Usage(prompt_tokens=4), Prices(prompt=1_000_000)) == 4
    assert cost_nano_usd(Usage(), Prices()) == 0


@pytest.mark.parametrize(("price", "nano"), [(499_999, 0), (500_000, 1), (1_499_999, 1), (1_500_000, 2)])
def test_costs_are_rounded_half_up(price, nano):
    assert cost_nano_usd(Usage(prompt_tokens=1), Prices(prompt=price)) == nano


def test_costs_of_large_counts_are_exact():
    usage = Usage(prompt_tokens=10**12 + 1, completion_tokens=0)
    assert cost_nano_usd(usage, Prices(prompt=75_000_000_000)) == (10**12 + 1) * 75_000


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("日本語", 3), ("😀", 1)])
def test_estimated_tokens_have_four_bytes(text, tokens):
    assert estimate_tokens(text) == tokens
