"""Limits the size of a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

PAGE_BYTES = 1 << 20

T = TypeVar("T")


def fill(rows: Iterable[T], limit: int, *, size_bytes: Callable[[T], int]) -> tuple[list[T], T | None]:
    """Split off the first page: at most `limit` rows and `PAGE_BYTES`, but at least one row.

    Returns the page and the row that follows it, if any."""
    taken: list[T] = []
    room = PAGE_BYTES
    for row in rows:
        room -= size_bytes(row)
        # The first row is always taken: a page without rows would send the caller back to the same place forever.
        if taken and (len(taken) >= limit or room < 0):
            return taken, row
        taken.append(row)
    return taken, None
