"""The one place where the SQL of two databases differs: conflicts of an INSERT, values handed over as JSON, the time,
and what a text can hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Dialect,
    Row,
    Select,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    type_coerce,
)
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


def listed(name: str, dialect: str) -> Select[Any]:
    """The texts that come in the parameter `name`, as `listed_values` makes it: one plan, whatever their number."""
    text = bindparam(name, type_=Text)
    if dialect == "postgresql":
        return select(func.json_array_elements_text(cast(text, JSON)).column_valued("given"))
    return select(func.json_each(text).table_valued("value", name="given").c.value)


def listed_values(texts: Iterable[str]) -> str:
    """The parameter of `listed`. A text that no row can hold is left out."""
    return msgspec.json.encode([text for text in texts if holdable(text)]).decode()


def now_us(dialect: str) -> ColumnElement[int]:
    """The database's own clock at this moment, in microseconds since the epoch, which moves on within a transaction."""
    if dialect == "postgresql":
        return literal_column("CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)", BigInteger)
    return literal_column("CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)", BigInteger)


def holdable(text: str) -> bool:
    """Whether a row can hold this text: PostgreSQL refuses NUL, and both of them half a surrogate pair."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def held(text: str) -> str:
    """The text as a row can hold it: with U+FFFD for what cannot be."""
    if holdable(text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Sought(TypeDecorator[str]):
    """The type of a parameter that is only looked up: what no row can hold equals nothing, and no driver sees it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - same in both
        """None equals nothing."""
        return value if value is not None and holdable(value) else None
