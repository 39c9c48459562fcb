"""Ends the replies of replicas that are dead, with the text they had made durable. It never generates one again: a new
attempt is a new reply, and the client's to choose.
"""

from __future__ import annotations

import asyncio
import logging
import random

import msgspec

from parley_server.core.endings import Stop, ending_of_stop
from parley_server.core.engine import Engine
from parley_server.core.log import Log
from parley_server.core.records import Finalised, Unfinished
from parley_server.core.recovery import end_unfinished
from parley_server.core.tenure import Tenure
from parley_server.errors import StorageUnavailable

log = logging.getLogger("parley.sweeper")

BATCH = 50
JITTER = 0.2
RETRY_S = 0.5


class Sweeper:
    """Sweeps every `interval_s`, with jitter, while the tenure is settled: after an outage of the database everybody
    first has one whole lease in which to come back."""

    def __init__(self, engine: Engine, tenure: Tenure, *, interval_s: float) -> None:
        self._engine = engine
        self._tenure = tenure
        self._interval_s = interval_s

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - spreads load, guards nothing
            await self._engine.clock.sleep(self._interval_s * jitter)
            try:
                await self.sweep()
            except StorageUnavailable as error:
                log.warning("sweep_later", extra={"fields": {"problem": error.message}})
            except Exception:  # a defect that ended this task would leave the dead unburied
                log.exception("sweep_defect")

    async def sweep(self) -> int:
        """Take over what dead replicas own, and end it; how many replies there were."""
        count = 0
        while self._tenure.settled and self._engine.lease.held:
            taken = await self._engine.store.take_over(self._engine.replica_id, BATCH)
            endings = [self._engine.spawn(self._end(each), f"take-over-{each.reply.id}") for each in taken]
            self._engine.ending.update(each.reply.id for each in taken)
            await asyncio.gather(*[asyncio.shield(ending) for ending in endings])
            count += len(taken)
            if len(taken) < BATCH:
                break
        return count

    async def _end(self, unfinished: Unfinished) -> None:
        """Owned by the process: a sweep that is cancelled leaves no reply half taken over."""
        engine, reply = self._engine, unfinished.reply
        try:
            published = await engine.relay.take_over(reply.id, reply.epoch)
            if len(published) > unfinished.durable_sequence:
                unfinished = msgspec.structs.replace(unfinished, entries=published, durable_sequence=len(published))
            outcome = await self._stored(unfinished)
        finally:
            engine.ending.discard(reply.id)
        log.warning("taken_over", extra={"fields": {"reply_id": reply.id, "sequence": unfinished.durable_sequence}})
        engine.observer.reply_taken_over()
        if outcome is not None and outcome.reply.state.terminal:
            engine.relay.ended(Log.of_ended(outcome.reply))

    async def _stored(self, unfinished: Unfinished) -> Finalised | None:
        stop = Stop(finish=unfinished.cancel, reason=unfinished.reply.cancel_reason)
        while True:
            try:
                return await end_unfinished(self._engine, unfinished, ending_of_stop(stop, started=True))
            except StorageUnavailable:
                await self._engine.clock.sleep(RETRY_S)
