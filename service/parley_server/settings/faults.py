"""The faults of a configuration, as one line of text each. No line contains a secret value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

LATER = "not supported by this release"

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
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
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
        inner = shape.model_fields[str(step)].annotation
        assert isinstance(inner, type), "tables within tables are shapes"
        assert issubclass(inner, BaseModel), "tables within tables are shapes"
        shape = inner
    return shape.model_fields


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
