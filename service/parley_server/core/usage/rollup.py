"""Adds the usage of ended replies to the sums by day, in the background of each replica.

Not at the end of each reply: the row of today, which all replies of a model share, would make them wait for each other.
"""

from __future__ import annotations

import logging

from parley_server.core.ports import Clock, Store
from parley_server.errors import StorageUnavailable

logger = logging.getLogger("parley.usage")

INTERVAL_S = 10.0
PAUSE_S = 0.1
"""Between two parts of the work, so that other writes of the database come in between."""


class UsageRollup:
    """Adds at most `rows` at a time."""

    def __init__(self, store: Store, clock: Clock, *, rows: int) -> None:
        self._store = store
        self._clock = clock
        self._rows = rows

    async def run(self) -> None:
        """Add what is new at each interval, until cancelled."""
        while True:
            full = await self._add() == self._rows
            await self._clock.sleep(PAUSE_S if full else INTERVAL_S)

    async def _add(self) -> int:
        try:
            return await self._store.roll_usage(self._rows)
        except StorageUnavailable as error:
            logger.warning("usage_rollup_postponed", extra={"fields": {"problem": error.message}})
        except Exception:  # the sums stay exact without it: only slower to ask for
            logger.exception("usage_rollup_failed")
        return 0
