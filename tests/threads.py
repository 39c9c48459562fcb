"""Work that needs an event loop of its own, for a caller who may have one running."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> T:
    """Its result, or its error; the caller's thread is blocked meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
