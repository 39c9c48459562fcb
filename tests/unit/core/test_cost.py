"""Costs of usage and estimates of token counts."""

import pytest
from parley_server.core.cost import cost_nano_usd, estimate_tokens
from parley_server.core.model import Prices, PriceTier, Usage

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


TIERED = Prices(
    prompt=1_000_000,
    cached_prompt=100_000,
    cache_write=1_250_000,
    completion=5_000_000,
    tiers=(
        PriceTier(above=100, prompt=10_000_000, cached_prompt=1_000_000, cache_write=12_500_000, completion=50_000_000),
        PriceTier(above=200, prompt=100_000_000, completion=500_000_000),
    ),
)


@pytest.mark.parametrize(
    ("prompt_tokens", "nano"),
    [(99, 99 + 10), (100, 100 + 10), (101, 1010 + 100), (200, 2000 + 100), (201, 20_100 + 1000), (999, 99_900 + 1000)],
)
def test_the_tier_that_the_prompt_exceeds_prices_the_whole_request(prompt_tokens, nano):
    assert cost_nano_usd(Usage(prompt_tokens=prompt_tokens, completion_tokens=2), TIERED) == nano


@pytest.mark.parametrize(
    ("prompt_tokens", "cached", "written", "nano"),
    [
        (100, 40, 20, 40 * 1 + 40 * 0.1 + 20 * 1.25),
        (101, 40, 20, 41 * 10 + 40 * 1 + 20 * 12.5),
        (201, 40, 20, 201 * 100),  # without their own prices, cached tokens have the price of the prompt
        (100, 80, 40, 80 * 0.1 + 20 * 1.25),  # a token that is both cached and written is charged once
        (100, 120, 40, 100 * 0.1),
    ],
)
def test_cache_reads_and_writes_have_the_prices_of_their_tier(prompt_tokens, cached, written, nano):
    usage = Usage(prompt_tokens=prompt_tokens, cached_prompt_tokens=cached, cache_write_prompt_tokens=written)
    assert cost_nano_usd(usage, TIERED) == nano


@pytest.mark.parametrize("stated", [0, 7])
def test_the_provider_s_own_cost_replaces_the_computed_cost(stated):
    usage = Usage(prompt_tokens=1000, completion_tokens=50, cost_nano_usd=stated)
    assert cost_nano_usd(usage, PRICES) == cost_nano_usd(usage, Prices()) == stated


def test_a_cost_has_an_upper_bound():
    usage = Usage(prompt_tokens=2**64 - 1, completion_tokens=2**64 - 1)
    assert cost_nano_usd(usage, PRICES) == 2**63 - 1


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("日本語", 3), ("😀", 1)])
def test_four_bytes_are_estimated_as_one_token(text, tokens):
    assert estimate_tokens(text) == tokens
