"""Checks a request with the types of a vendor's SDK."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import TypeAdapter


def typed(body: Any, kind: Any) -> Any:
    """The body as this type reads it: without fields that the type does not have. Raises `pydantic.ValidationError`."""
    return _whole(_adapter(kind).validate_python(body))


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Stays in memory, because the lazy iterators use it."""
    return TypeAdapter(kind)


def _whole(value: Any) -> Any:
    """The value with lists in place of pydantic's lazy iterators, which check their items as they are read."""
    if isinstance(value, dict):
        return {name: _whole(field) for name, field in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_whole(item) for item in value]
    return value
