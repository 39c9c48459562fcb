"""The faults of a configuration, as one line of text each. No line contains a secret value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# String values are shown only for these keys: the value of any other key may be a password.
SHOWN_STRINGS = frozenset(
    {
        "kind",
        "provider",
        "profile",
        "max_tokens_field",
        "tool_id",
        "auth",
        "log_level",
        "log_format",
        "default_model",
        "summary_model",
        "api",
        "like",
        "thinking",
        "location",
        "version",
    }
)

_SENTENCES = {
    "missing": "is required",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "tuple_type": "must be an array",
    "date_type": "must be a date, such as 2027-01-31",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} item",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "value_error": "{error}",
}


class SettingsError(Exception):
    """The configuration is not valid. `faults` holds every fault, one line each."""

    def __init__(self, faults: list[str]) -> None:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"the configuration has {count}:", *(f"  {fault}" for fault in faults)]))
        self.faults = faults


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint to append to a fault; empty if no known word is similar."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def lines_of(error: ValidationError, path: str, shape: type[BaseModel]) -> list[str]:
    """The faults that pydantic found when it validated the table at `path` against `shape`."""
    return [_line(details, path, shape) for details in error.errors(include_url=False)]


def _line(details: ErrorDetails, path: str, shape: type[BaseModel]) -> str:
    place = ".".join([path, *map(str, details["loc"])])
    if details["type"] == "extra_forbidden":
        return f"{place}: unknown key{did_you_mean(str(details['loc'][-1]), _keys_at(shape, details['loc'][:-1]))}"
    template = _SENTENCES.get(details["type"], "is not valid")
    sentence = template.format(**{name: _plain(value) for name, value in details.get("ctx", {}).items()})
    return f"{place}: {sentence}{_got(details)}"


def _keys_at(shape: type[BaseModel], steps: tuple[int | str, ...]) -> Iterable[str]:
    for step in steps:
        if isinstance(step, str):
            shape = _shape_of(shape.model_fields[step].annotation)
    return shape.model_fields


def _shape_of(annotation: Any) -> type[BaseModel]:
    """The shape of a table, which may be optional, or an item of an array."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [argument for argument in get_args(annotation) if argument not in (type(None), ...)]
    assert inner, "tables within tables are shapes"
    return _shape_of(inner[0])


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _got(details: ErrorDetails) -> str:
    value = details["input"]
    if details["type"] in ("missing", "value_error"):
        return ""
    if isinstance(value, bool):
        return f" (got {str(value).lower()})"
    if isinstance(value, int | float | Decimal):
        return f" (got {value})"
    if isinstance(value, str) and details["loc"] and details["loc"][-1] in SHOWN_STRINGS:
        return f' (got "{value}")'
    return ""
