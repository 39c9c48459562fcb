"""The one place where the SQL of two databases differs: an INSERT that tells a conflict by its row count."""

from __future__ import annotations

from typing import Any, TypeAlias

from sqlalchemy import Row, Table
from sqlalchemy.dialects import postgresql, sqlite

AnyRow: TypeAlias = Row[*tuple[Any, ...]]
Insert: TypeAlias = sqlite.Insert | postgresql.Insert


def insert(table: Table, dialect: str) -> Insert:
    """An INSERT with `on_conflict_do_nothing` and `on_conflict_do_update`, for the dialect of this name.

    Its result's `rowcount` is how many rows were written.
    """
    statement: Insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return statement.execution_options(preserve_rowcount=True)
