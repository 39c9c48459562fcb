"""Ends the replies of dead replicas, with the text that they had made durable.

A reply is never generated again: the client decides whether to start a new one.
"""

from __future__ import annotations

import asyncio
import logging
import random

from parley_server.core.cluster.lease_keeper import LeaseKeeper
from parley_server.core.lease import Lease
from parley_server.core.ports import Clock, Store
from parley_server.core.replies.recovery import Recovery
from parley_server.core.store_types import Unfinished
from parley_server.core.tasks import Tasks
from parley_server.errors import StorageUnavailable

logger = logging.getLogger("parley.sweeper")

BATCH = 50
JITTER = 0.2


class Sweeper:
    """Takes over replies of dead replicas every `interval_s`, with jitter.

    It waits for `LeaseKeeper.settled`, so that after a database outage every replica has a whole lease to come back.
    """

    def __init__(
        self,
        replica_id: str,
        *,
        store: Store,
        clock: Clock,
        tasks: Tasks,
        lease: Lease,
        lease_keeper: LeaseKeeper,
        recovery: Recovery,
        interval_s: float,
    ) -> None:
        self._replica_id = replica_id
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._lease = lease
        self._lease_keeper = lease_keeper
        self._recovery = recovery
        self._interval_s = interval_s

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - spreads load, guards nothing
            await self._clock.sleep(self._interval_s * jitter)
            try:
                await self.sweep()
            except StorageUnavailable as error:
                logger.warning("sweep_postponed", extra={"fields": {"problem": error.message}})
            except Exception:  # the sweep must go on
                logger.exception("sweep_failed")

    async def sweep(self) -> int:
        """Take over and end the replies of dead replicas. Returns their number."""
        count = 0
        while self._lease_keeper.settled and self._lease.held:
            taken = await self._take()
            endings = [self._tasks.spawn(self._recovery.end_taken_over(each), f"end-{each.reply.id}") for each in taken]
            for error in await asyncio.gather(*map(asyncio.shield, endings), return_exceptions=True):
                if error is not None:
                    logger.error("takeover_failed", exc_info=error)
            count += len(taken)
            if len(taken) < BATCH:
                break
        return count

    async def _take(self) -> list[Unfinished]:
        """Take over a batch. From then on its tasks belong to the process: cancelling the sweep does not end them."""
        self._lease_keeper.taking_over = True
        try:
            # The lease was held a moment ago, but the process may have been suspended since: the store checks again.
            sure_s = self._lease_keeper.quarter_s
            taken = await self._store.take_over(self._replica_id, BATCH, sure_s=sure_s)
            self._recovery.ending.update(each.reply.id for each in taken)
            return taken
        finally:
            self._lease_keeper.taking_over = False
