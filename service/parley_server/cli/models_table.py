"""The models of a configuration as a table for a terminal: limits, abilities, prices and retirements."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from decimal import Decimal

from parley_server.cli.columns import aligned
from parley_server.core.model import Model, Prices, PriceTier

NANO_USD = 1_000_000_000
HEAD = ("model", "of", "context", "output", "takes", "US dollars per million tokens")


def table_of(models: Iterable[Model]) -> list[str]:
    """The lines of the table, columns aligned."""
    return aligned([HEAD, *(row for model in models for row in _rows(model))])


def retirement_of(model: Model, now_us: int) -> str:
    """One line about a model that retires soon or has retired."""
    date = datetime.datetime.fromtimestamp(model.retire_time_us / 1e6, datetime.UTC).date()
    verb = "was to be turned off" if model.retire_time_us <= now_us else "will be turned off"
    return f"warning: {model.alias}: {model.name} {verb} by its vendor on {date}"


def _rows(model: Model) -> Iterator[tuple[str, ...]]:
    """A row of the model, then one for each price tier."""
    limits = (str(model.context_tokens or "-"), str(model.max_output_tokens or "-"))
    yield (model.alias, f"{model.provider}: {model.name}", *limits, _abilities(model), _prices(model.prices))
    for tier in model.prices.tiers:
        yield ("", "", "", "", "", f"above {tier.above} tokens: {_prices(tier)}")


def _abilities(model: Model) -> str:
    names = ("images", "tools", "json_schema", "sampling", "reasoning")
    return ", ".join(name for name in names if getattr(model, name)) or "text"


def _prices(prices: Prices | PriceTier) -> str:
    named = {
        "prompt": prices.prompt,
        "cached": prices.cached_prompt,
        "written": prices.cache_write,
        "completion": prices.completion,
    }
    return ", ".join(f"{name} {_usd(price)}" for name, price in named.items() if price is not None) or "not known"


def _usd(nano_usd: int) -> str:
    return f"{(Decimal(nano_usd) / NANO_USD).normalize():f}"
