"""Writes the model catalog, `service/parley_server/providers/models.toml`: prices from the package genai-prices,
abilities from `catalog_models.py`. To run: `make catalog`."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from genai_prices.data import providers
from genai_prices.types import ModelPrice, TieredPrices

from tools.catalog_models import MODELS

DATE = datetime.date(2026, 11, 29)
# Prices are those of a day in the next month, since a release is used mostly after announced changes. The time is noon
# in UTC, so that the surcharges of peak hours (DeepSeek) do not apply.
PRICED_AT = datetime.datetime.combine(DATE, datetime.time(12), datetime.UTC) + datetime.timedelta(days=30)

TARGET = Path(__file__).parents[1] / "service" / "parley_server" / "providers" / "models.toml"
HEAD = f"""\
# Written by `make catalog`: change tools/catalog_models.py, not this file. Prices are US dollars per million tokens,
# from genai-prices; the sources of the abilities are named there. An ability that is not stated is not known.
date = {DATE}
"""
VENDORS = {"xai": "x-ai"}
FIELDS = {
    "prompt": "input_mtok",
    "cached_prompt": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "completion": "output_mtok",
}


def catalog() -> str:
    """The text of the catalog. Raises LookupError for a model without prices."""
    return HEAD + "".join(_entry(model) for model in MODELS)


def _entry(model: dict[str, Any]) -> str:
    lines = [f"{key} = {_value(value)}" for key, value in model.items()]
    return "\n[[model]]\n" + "\n".join([*lines, f"prices = {_prices(model['name'])}"]) + "\n"


def _prices(name: str) -> str:
    vendor, _, model = name.partition("/")
    provider = next(each for each in providers if each.id == VENDORS.get(vendor, vendor))
    found = provider.find_model(model)
    if found is None:
        raise LookupError(f"genai-prices has no prices of {name}")
    prices = found.get_prices(PRICED_AT)
    bounds = sorted({tier.start for field in FIELDS.values() for tier in _tiers(prices, field)})
    parts = _parts(prices, above=0)
    if bounds:
        tiers = [_value({"above": bound} | _parts(prices, above=bound)) for bound in bounds]
        return _value(parts)[:-2] + f", tiers = [{', '.join(tiers)}] }}"
    return _value(parts)


def _parts(prices: ModelPrice, *, above: int) -> dict[str, Any]:
    """The price of each field for prompts of more than `above` tokens, without unknown ones."""
    found = {}
    for name, field in FIELDS.items():
        price = getattr(prices, field)
        if isinstance(price, TieredPrices):
            price = next((tier.price for tier in reversed(price.tiers) if tier.start <= above), price.base)
        if price is not None:
            found[name] = price
    return found


def _tiers(prices: ModelPrice, field: str) -> list[Any]:
    price = getattr(prices, field)
    return price.tiers if isinstance(price, TieredPrices) else []


def _value(value: Any) -> str:
    """A value in TOML. Strings are plain words."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_value(inner)}' for key, inner in value.items())} }}"
    return str(value)


if __name__ == "__main__":
    TARGET.write_text(catalog(), encoding="utf-8")
