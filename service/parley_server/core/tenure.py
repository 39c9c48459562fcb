"""This replica's lease: renewed well before it runs out, and what each renewal says of the replies that it covers.

A replica whose lease is about to run out shows no more text, and generates on: a database that was away fails no reply.
"""

from __future__ import annotations

import logging
import math

from parley_server.core.endings import Stop
from parley_server.core.engine import Engine
from parley_server.core.generation import Generation
from parley_server.core.records import Standing
from parley_server.core.recovery import reconcile
from parley_server.errors import StorageUnavailable

log = logging.getLogger("parley.tenure")

RENEWALS_PER_LEASE = 4


class Tenure:
    """Holds the lease of `engine.replica_id` for `lease_s` at a time; renewed, and given up here, at each quarter.

    It is the `Owned` of the relay: what that one hears is looked up in the store before it is believed.
    """

    def __init__(self, engine: Engine, *, lease_s: float) -> None:
        self._engine = engine
        self._lease_s = lease_s
        self._quarter_s = lease_s / RENEWALS_PER_LEASE
        self._fenced = False
        self.unbroken_since = math.inf

    @property
    def settled(self) -> bool:
        """Whether the database was there for one whole lease, so that any other replica could have renewed its own."""
        return self._engine.clock.boottime() - self.unbroken_since >= self._lease_s

    async def begin(self) -> None:
        """Take the lease. Raises `StorageUnavailable`."""
        await self._renew()

    async def keep(self) -> None:
        """Renew it, until cancelled."""
        clock = self._engine.clock
        while True:
            await clock.sleep(self._quarter_s)
            try:
                await self._renew()
            except StorageUnavailable as error:
                self.unbroken_since = math.inf
                log.warning("lease_not_renewed", extra={"fields": {"problem": error.message}})
            except Exception:  # a defect that ended this task would end the lease
                self.unbroken_since = math.inf
                log.exception("lease_defect")
            self._tell_fenced()

    async def end(self) -> None:
        """Give it up: what this replica still owns may be taken over at once."""
        self._engine.lease.until = -math.inf
        try:
            await self._engine.store.release_lease(self._engine.replica_id)
        except StorageUnavailable as error:
            log.warning("lease_not_released", extra={"fields": {"problem": error.message}})

    def cancel_wished(self, reply_id: str) -> None:
        """See `Owned`."""
        if reply_id in self._engine.shelf.running:
            self._engine.spawn(self._look(reply_id), f"wish-{reply_id}")

    def taken_over(self, reply_id: str) -> None:
        """See `Owned`."""
        if reply_id in self._engine.shelf.running:
            self._engine.spawn(self._look(reply_id), f"lost-{reply_id}")

    def seen(self, reply_id: str, age_s: float) -> None:
        """See `Owned`."""
        if (generation := self._engine.shelf.running.get(reply_id)) is not None:
            generation.audience.seen(age_s)

    def erased(self, reply_ids: tuple[str, ...]) -> None:
        """See `Owned`."""
        self._engine.shelf.erase(reply_ids)

    async def _renew(self) -> None:
        """The lease runs from before the database was asked, and is used up to a quarter before its end. What others
        have taken over is known before anything is shown again."""
        engine = self._engine
        began = engine.clock.boottime()
        running = [each for each in engine.shelf.running.values() if each.task is not None and not each.log.sealed]
        standings = await engine.store.hold_lease(engine.replica_id, self._lease_s)
        owned = {each.reply_id: each for each in standings}
        await self._find_lost([each for each in running if each.log.reply.id not in owned])
        for generation in running:
            if (standing := owned.get(generation.log.reply.id)) is not None:
                self._follow_standing(generation, standing)
        lapsed = not engine.lease.held
        if self.unbroken_since == math.inf or lapsed:
            self.unbroken_since = began
        engine.lease.until = began + self._lease_s - self._quarter_s
        if lapsed and engine.lease.held:
            for generation in list(engine.shelf.running.values()):
                generation.log.release()
                generation.log.wake()
        self._tell_fenced()
        await reconcile(engine, owned)

    async def _find_lost(self, missing: list[Generation]) -> None:
        if not missing:
            return
        reply_ids = [each.log.reply.id for each in missing]
        standings = {each.reply_id: each for each in await self._engine.store.standings(reply_ids)}
        for generation in missing:
            self._follow_standing(generation, standings.get(generation.log.reply.id))

    def _follow_standing(self, generation: Generation, standing: Standing | None) -> None:
        """None: it was erased."""
        reply = generation.log.reply
        if standing is None or (standing.owner, standing.epoch) != (reply.owner, reply.epoch):
            if not generation.log.over:
                log.warning("reply_lost", extra={"fields": {"reply_id": reply.id}})
            generation.lose()
        elif standing.cancel is not None:
            generation.stop(Stop(finish=standing.cancel, reason=standing.cancel_reason))

    async def _look(self, reply_id: str) -> None:
        try:
            standings = await self._engine.store.standings([reply_id])
        except StorageUnavailable:
            return  # the next renewal tells the same
        generation = self._engine.shelf.running.get(reply_id)
        if generation is not None:
            self._follow_standing(generation, standings[0] if standings else None)

    def _tell_fenced(self) -> None:
        """Say it when the lease runs out, and when it is held again."""
        fenced = not self._engine.lease.held
        if fenced == self._fenced:
            return
        self._fenced = fenced
        self._engine.observer.fenced(fenced)
        log.log(logging.ERROR if fenced else logging.INFO, "fenced" if fenced else "lease_back")
