"""The SQL that differs between SQLite and PostgreSQL: conflicts of an INSERT, JSON parameters, the clock, and which
texts a column accepts.
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
    """An INSERT that has `on_conflict_do_nothing` and `on_conflict_do_update`; `dialect` is SQLAlchemy's name of it.

    The result's `rowcount` is the number of rows written.
    """
    statement: Insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return statement.execution_options(preserve_rowcount=True)


def json_rows(name: str, types: Sequence[type[TypeEngine[Any]]], dialect: str) -> list[ColumnElement[Any]]:
    """The columns of the rows in parameter `name`: JSON text, an array with one array per row.

    One statement writes any number of rows. `executemany` would release the GIL at each row and wait each time until
    the event loop's thread hands it back.
    """
    text = bindparam(name, type_=Text)
    if dialect == "postgresql":
        rows = func.json_array_elements(cast(text, JSON)).table_valued("value", name="given")
        return [cast(rows.c.value.op("->>")(literal_column(str(i))), kind) for i, kind in enumerate(types)]
    rows = func.json_each(text).table_valued("value", name="given")
    return [type_coerce(func.json_extract(rows.c.value, f"$[{i}]"), kind) for i, kind in enumerate(types)]


def listed(name: str, dialect: str) -> Select[Any]:
    """Selects the texts in parameter `name`, encoded by `listed_values`. The query plan is the same for any number."""
    text = bindparam(name, type_=Text)
    if dialect == "postgresql":
        return select(func.json_array_elements_text(cast(text, JSON)).column_valued("given"))
    return select(func.json_each(text).table_valued("value", name="given").c.value)


def listed_values(texts: Iterable[str]) -> str:
    """Encode the parameter of `listed`. Texts that no row can hold are left out."""
    return msgspec.json.encode([text for text in texts if holdable(text)]).decode()


def now_us(dialect: str) -> ColumnElement[int]:
    """The database server's clock in microseconds since the epoch. It advances within a transaction."""
    if dialect == "postgresql":
        return literal_column("CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)", BigInteger)
    return literal_column("CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)", BigInteger)


def utc_day(time_us: ColumnElement[int], dialect: str) -> ColumnElement[str]:
    """The day of a time in microseconds since the epoch, in UTC: `2026-11-28`."""
    seconds = time_us.op("/")(literal_column("1000000", BigInteger))
    if dialect == "postgresql":
        return func.to_char(func.timezone("UTC", func.to_timestamp(seconds)), "YYYY-MM-DD").collate("C")
    return func.date(seconds, "unixepoch")


def holdable(text: str) -> bool:
    """Whether a row can hold this text. PostgreSQL refuses NUL; both databases refuse lone surrogates."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def held(text: str) -> str:
    """The text with U+FFFD in place of each character that a row cannot hold."""
    if holdable(text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Sought(TypeDecorator[str]):
    """The type of a parameter that is only compared. A text that no row can hold is sent as NULL, which matches no
    row, because the driver would raise for it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - same in both
        """NULL for a text that no row can hold."""
        return value if value is not None and holdable(value) else None
