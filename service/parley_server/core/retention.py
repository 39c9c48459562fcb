"""Erases what is older than the configuration allows, in the background of each replica."""

from __future__ import annotations

import logging
from collections.abc import Callable

from parley_server.core.observer import Observer
from parley_server.core.periods import DAY_US, day_of
from parley_server.core.ports import Clock, ErasureStore
from parley_server.errors import StorageUnavailable

logger = logging.getLogger("parley.retention")

INTERVAL_S = 60.0
PAUSE_S = 0.1
"""Between two parts of the work, so that other writes of the database come in between."""
CONVERSATIONS_PER_PART = 100
USAGE_PER_PART = 500
QUOTA_DAYS = 400
"""Quotas are per day and per month, and the last year is enough for any question about them."""


class Retention:
    """`conversations_days`: since the last activity, `usage_days`: since the day of the acceptance; 0: for ever.
    `on_erased` is called with the ids of erased replies."""

    def __init__(
        self,
        store: ErasureStore,
        clock: Clock,
        observer: Observer,
        *,
        conversations_days: int,
        usage_days: int,
        on_erased: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer
        self._conversations_days = conversations_days
        self._usage_days = usage_days
        self._on_erased = on_erased

    async def run(self) -> None:
        """Erase what is too old at each interval, until cancelled."""
        while True:
            await self._clock.sleep(INTERVAL_S)
            try:
                await self._erase()
            except StorageUnavailable as error:
                logger.warning("retention_postponed", extra={"fields": {"problem": error.message}})
            except Exception:  # the server works without it, and the next round may succeed
                logger.exception("retention_failed")

    async def _erase(self) -> None:
        now_us = self._clock.now_us()
        await self._store.delete_quota_use(day_of(now_us - QUOTA_DAYS * DAY_US))
        if not self._conversations_days and not self._usage_days:
            return
        for tenant in await self._store.tenants():
            if self._conversations_days:
                await self._erase_conversations(tenant, now_us - self._conversations_days * DAY_US)
            if self._usage_days:
                # Whole days, because the sums by day take the place of the rows.
                today_us = now_us - now_us % DAY_US
                await self._delete_usage(tenant, today_us - self._usage_days * DAY_US)

    async def _erase_conversations(self, tenant: str, before_us: int) -> None:
        while True:
            erased = await self._store.erase_idle(tenant, before_us, CONVERSATIONS_PER_PART)
            if erased.count:
                self._on_erased(erased.reply_ids)
                self._observer.conversations_erased("retention", erased.count)
            if erased.count < CONVERSATIONS_PER_PART:
                return
            await self._clock.sleep(PAUSE_S)

    async def _delete_usage(self, tenant: str, before_us: int) -> None:
        while await self._store.delete_usage(tenant, before_us, USAGE_PER_PART) == USAGE_PER_PART:
            await self._clock.sleep(PAUSE_S)
