"""Adds the usage of ended replies to the sums by day, in the background of each replica.

Not at the end of each reply: the row of today, which all replies of a model share, would make them wait for each other.
"""

from __future__ import annotations

import logging

from parley_server.core.observer import Observer
from parley_server.core.ports import Clock, Store
from parley_server.errors import StorageUnavailable

logger = logging.getLogger("parley.usage")

INTERVAL_S = 10.0
PAUSE_S = 0.1
"""Between two parts of the work, so that other writes of the database come in between."""


class UsageRollup:
    """Adds at most `rows` at a time. Counts what is left once per interval."""

    def __init__(self, store: Store, clock: Clock, observer: Observer, *, rows: int) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer
        self._rows = rows
        self._count_at = clock.monotonic()

    async def run(self) -> None:
        """Add what is new at each interval, until cancelled."""
        while True:
            full = await self._step() == self._rows
            await self._clock.sleep(PAUSE_S if full else INTERVAL_S)

    async def _step(self) -> int:
        """Add a part. Returns the number of its rows."""
        added = 0
        try:
            added = await self._store.roll_usage(self._rows)
            if (now := self._clock.monotonic()) >= self._count_at:
                self._count_at = now + INTERVAL_S
                self._observer.usage_unrolled(await self._store.count_unrolled())
        except StorageUnavailable as error:
            logger.warning("usage_rollup_postponed", extra={"fields": {"problem": error.message}})
        except Exception:  # the sums stay exact without it: queries are only slower
            logger.exception("usage_rollup_failed")
        return added
