"""The metadata of all tables, and their kinds of columns.

Times are microseconds since the epoch. An absent value is an empty string or 0; a column is nullable only where NULL
means something else. JSON is stored as text, since it is read and written whole. Large columns come last, so that scans
of the other columns do not read them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, ForeignKeyConstraint, Integer, MetaData, Text
from sqlalchemy.types import TypeEngine

metadata = MetaData()

# Collation C compares bytes, as SQLite does, so that the order of pages does not depend on the server's locale.
TEXT: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")


def text_column(name: str) -> Column[str]:
    """Text of any length, compared by its bytes."""
    return Column(name, TEXT, nullable=False)


def number_column(name: str) -> Column[int]:
    """A whole number of 32 bits."""
    return Column(name, Integer, nullable=False)


def big_column(name: str) -> Column[int]:
    """A whole number of 64 bits: times, money, sums."""
    return Column(name, BigInteger, nullable=False)


def flag_column(name: str) -> Column[bool]:
    """True or false; 0 or 1 on SQLite."""
    return Column(name, Boolean, nullable=False)


def column_with_default(name: str, kind: TypeEngine[Any], default: Any) -> Column[Any]:
    """A column that INSERT statements of the previous release leave out."""
    return Column(name, kind, nullable=False, server_default=default)


def of_conversation() -> ForeignKeyConstraint:
    """The rows of a conversation are deleted with it."""
    return ForeignKeyConstraint(
        ["tenant", "conversation_id"], ["conversation.tenant", "conversation.id"], ondelete="CASCADE"
    )
