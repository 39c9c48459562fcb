"""Reads tables of the TOML file, and tables of tables by name."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from parley_server.settings.faults import lines_of

CATALOG_NAME = (re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}"), "1 to 128 letters, digits and . _ : / @ -")
ACCESS_NAME = (re.compile(r"[A-Za-z0-9._-]{1,64}"), "1 to 64 letters, digits and . _ -")

T = TypeVar("T", bound=BaseModel)


def read_table(shape: type[T], table: Any, *, path: str, faults: list[str]) -> T | None:
    """Validate a table against its shape. Returns None, and appends to `faults`, if it does not fit."""
    try:
        return shape.model_validate(table)
    except ValidationError as error:
        faults.extend(lines_of(error, path, shape))
        return None


def named_tables(
    tables: Any, path: str, faults: list[str], *, name: tuple[re.Pattern[str], str] = CATALOG_NAME
) -> list[tuple[str, dict[str, Any]]]:
    """The tables in the table at `path`, by name. `name`: the pattern of a name, and its description for faults."""
    pattern, description = name
    if not isinstance(tables, dict) or not tables:
        faults.append(f"{path}: must be a table of one or more tables")
        return []
    for key, table in tables.items():
        if not isinstance(table, dict):
            faults.append(f"{path}.{key}: must be a table")
        elif not pattern.fullmatch(key):
            faults.append(f"{path}.{key}: a name has {description}")
    return [(key, table) for key, table in tables.items() if isinstance(table, dict)]
