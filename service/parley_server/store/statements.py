"""The one place where the SQL of two databases differs: conflicts of an INSERT, and rows handed over as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from sqlalchemy import JSON, ColumnElement, Row, Table, Text, bindparam, cast, func, literal_column, type_coerce
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeEngine

AnyRow: TypeAlias = Row[*tuple[Any, ...]]
Insert: TypeAlias = sqlite.Insert | postgresql.Insert


def insert(table: Table, dialect: str) -> Insert:
    """An INSERT with `on_conflict_do_nothing` and `on_conflict_do_update`, for the dialect of this name.

    Its result's `rowcount` is how many rows were written.
    """
    statement: Insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return statement.execution_options(preserve_rowcount=True)


def json_rows(name: str, types: Sequence[type[TypeEngine[Any]]], dialect: str) -> list[ColumnElement[Any]]:
    """The columns of a set of rows that comes in the parameter `name`, as JSON text: an array of arrays.

    One statement for many rows, whatever their number: `executemany` gives up Python's lock at each row, and every
    time waits to have it back from the event loop's thread.
    """
    text = bindparam(name, type_=Text)
    if dialect == "postgresql":
        rows = func.json_array_elements(cast(text, JSON)).table_valued("value", name="given")
        return [cast(rows.c.value.op("->>")(literal_column(str(i))), kind) for i, kind in enumerate(types)]
    rows = func.json_each(text).table_valued("value", name="given")
    return [type_coerce(func.json_extract(rows.c.value, f"$[{i}]"), kind) for i, kind in enumerate(types)]
