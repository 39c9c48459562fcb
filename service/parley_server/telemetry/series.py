"""What the metrics of all subjects share: series by label values, and exemplars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from parley_server.core.tracing import current_span

# Limit of label values of a metric. Further values are counted together as "other", so that memory stays bounded.
MAX_SERIES = 500
OTHER = "other"

Child = TypeVar("Child")


class Labelled(Generic[Child]):
    """The children of a metric by their label values, created once and limited in number."""

    # The library would look a child up under a lock, and convert and count the values, at each event.

    def __init__(self, bind: Callable[..., Child]) -> None:
        self._bind = bind
        self._children: dict[tuple[str, ...], Child] = {}

    def of(self, *values: str) -> Child:
        """The child with these values of the labels, or that of "other" if there are too many."""
        child = self._children.get(values)
        if child is None:
            if len(self._children) >= MAX_SERIES:
                values = (OTHER,) * len(values)
            child = self._bind(*values)
            self._children[values] = child
        return child


def exemplar() -> dict[str, str] | None:
    """The trace of the current operation, if it is exported: latencies show it as an example."""
    span = current_span.get()
    return {"trace_id": span.trace_id} if span.sampled else None
