"""The base of all shapes of the configuration, and the types of their values, with bounds."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NANO_USD = 1_000_000_000


class Shape(BaseModel):
    """Immutable and strict about types. Unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, arbitrary_types_allowed=True
    )


def number(value: Any) -> Any:
    """The number as a float. TOML numbers are read as `Decimal`, which only prices need to stay exact."""
    if isinstance(value, Decimal):
        return float(value)
    return value


def plain(value: Any) -> Any:
    """The value with floats in place of `Decimal`, at any depth."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return number(value)


def nano_usd(value: Any) -> Any:
    """US dollars as an exact integer of billionths. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("must be a number of US dollars")  # noqa: TRY004 - pydantic collects only ValueError
    amount = Decimal(str(value)) * NANO_USD
    if not amount.is_finite() or amount < 0:
        raise ValueError("must be zero or more")
    if amount != int(amount):
        raise ValueError("must have at most 9 decimal places")
    return int(amount)


def _items(value: Any) -> Any:
    """An array of TOML as a tuple, which shapes hold."""
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(number)]
Seconds = Annotated[Number, Field(gt=0, le=86_400)]
NanoUsd = Annotated[int, BeforeValidator(nano_usd), Field(le=10**15)]
Count = Annotated[int, Field(gt=0)]
Tokens = Annotated[int, Field(ge=0, le=2**31 - 1)]
Items = BeforeValidator(_items)
Plain = BeforeValidator(plain)
