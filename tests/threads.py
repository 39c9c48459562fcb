"""Runs work in another thread, for callers whose event loop is already running."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a new thread; returns its result or raises its error. Blocks the caller."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
