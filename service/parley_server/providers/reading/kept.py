"""Collects the wire items of an answer that the vendor requires unchanged in the next request of the tool turn."""

from __future__ import annotations

from parley_server.core.ports import Sink

MAX_KEPT_BYTES = 512 * 1024
"""Items beyond this size are not collected, because the engine stores no larger ones."""


class KeptItems:
    """The items of one answer, until its end shows whether they are needed: only if it consists of tool calls."""

    def __init__(self) -> None:
        self._items: list[str] = []
        self._size_bytes = 0

    @property
    def any(self) -> bool:
        """Whether there are any items."""
        return bool(self._items)

    def add(self, item: str) -> None:
        """Add a finished item (JSON)."""
        if self._size_bytes <= MAX_KEPT_BYTES:
            self._items.append(item)
            self._size_bytes += len(item)

    def push(self, sink: Sink, origin: str) -> None:
        """Pass all items to the sink, which drops them if they are too large."""
        for item in self._items:
            sink.keep(origin, item)
