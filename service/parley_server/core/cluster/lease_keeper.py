"""This replica's lease: renewed well before it runs out, and what each renewal says of the replies that it covers.

A replica whose lease is about to run out shows no more text, and generates on: a database that was away fails no reply.
"""

from __future__ import annotations

import asyncio
import logging
import math

from parley_server.core.lease import Lease
from parley_server.core.observer import Observer
from parley_server.core.ports import Clock, Store
from parley_server.core.replies.endings import Cancel
from parley_server.core.replies.generate import Generation
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.recovery import Recovery
from parley_server.core.store_types import Standing
from parley_server.core.tasks import Tasks
from parley_server.errors import StorageUnavailable

logger = logging.getLogger("parley.tenure")

RENEWALS_PER_LEASE = 4


class LeaseKeeper:
    """Holds the lease of `replica_id` for `lease_s` at a time; renewed, and given up here, at each quarter.

    It is the `ReplyOwner` of the relay: what the relay reports is looked up in the store before it is believed.
    `taking_over` is to be set while the store is making this replica the owner of replies that are not in
    `Recovery.ending` yet.
    """

    def __init__(
        self,
        replica_id: str,
        *,
        store: Store,
        clock: Clock,
        observer: Observer,
        tasks: Tasks,
        lease: Lease,
        live_replies: LiveReplies,
        recovery: Recovery,
        lease_s: float,
    ) -> None:
        self._replica_id = replica_id
        self._store = store
        self._clock = clock
        self._observer = observer
        self._tasks = tasks
        self._lease = lease
        self._live_replies = live_replies
        self._recovery = recovery
        self._lease_s = lease_s
        self.quarter_s = lease_s / RENEWALS_PER_LEASE
        self._fenced = False
        self._looking: set[str] = set()
        self._reconciling: asyncio.Task[None] | None = None
        self.unbroken_since = math.inf
        self.taking_over = False

    @property
    def settled(self) -> bool:
        """Whether the database was there for one whole lease, so that any other replica could have renewed its own."""
        return self._clock.boottime() - self.unbroken_since >= self._lease_s

    async def begin(self) -> None:
        """Take the lease. Raises `StorageUnavailable`."""
        await self._renew()

    async def keep(self) -> None:
        """Renew it, until cancelled."""
        clock = self._clock
        while True:
            await clock.sleep(self.quarter_s)
            try:
                owned = await self._renew()
            except StorageUnavailable as error:
                self.unbroken_since = math.inf
                logger.warning("lease_not_renewed", extra={"fields": {"problem": error.message}})
            except Exception:  # a defect that ended this task would end the lease
                self.unbroken_since = math.inf
                logger.exception("lease_defect")
            else:
                self._reconcile(owned)
            self._tell_fenced()

    async def end(self) -> None:
        """Give it up: what this replica still owns may be taken over at once."""
        self._lease.until = -math.inf
        try:
            await self._store.release_lease(self._replica_id)
        except StorageUnavailable as error:
            logger.warning("lease_not_released", extra={"fields": {"problem": error.message}})

    def cancel_requested(self, reply_id: str) -> None:
        """See `ReplyOwner`."""
        self._look_at(reply_id)

    def taken_over(self, reply_id: str) -> None:
        """See `ReplyOwner`."""
        self._look_at(reply_id)

    def seen(self, reply_id: str, age_s: float) -> None:
        """See `ReplyOwner`."""
        if (generation := self._live_replies.running.get(reply_id)) is not None:
            generation.reader_count.seen(age_s)

    def erased(self, reply_ids: tuple[str, ...]) -> None:
        """See `ReplyOwner`. A reply that is ending here, or that another replica has ended, may still run here."""
        self._live_replies.erase(reply_ids)
        for reply_id in reply_ids:
            self._look_at(reply_id)

    async def _renew(self) -> dict[str, Standing]:
        """Renew the lease from before the database was asked, to be used up to a quarter before its end. What the
        replica owns.

        Where it had run out, what others have taken over is known before anything is shown again.
        """
        began = self._clock.boottime()
        owned = {each.reply_id: each for each in await self._store.hold_lease(self._replica_id, self._lease_s)}
        if self._lease.held:
            self._extend(began)
            await self._follow(self._started(), owned)
        else:
            followed: set[Generation] = set()
            while started := [each for each in self._started() if each not in followed]:
                await self._follow(started, owned)
                followed.update(started)
            self._revive(began)
        self._tell_fenced()
        return owned

    def _started(self) -> list[Generation]:
        return [each for each in self._live_replies.running.values() if each.task is not None and not each.log.over]

    def _extend(self, began: float) -> None:
        if self.unbroken_since == math.inf:
            self.unbroken_since = began
        self._lease.until = began + self._lease_s - self.quarter_s

    def _revive(self, began: float) -> None:
        """Show what was held back meanwhile."""
        self.unbroken_since = math.inf
        self._extend(began)
        self._lease.since = self._clock.boottime()
        if self._lease.held:
            for generation in list(self._live_replies.running.values()):
                generation.log.release()
                generation.log.wake()

    async def _follow(self, running: list[Generation], owned: dict[str, Standing]) -> None:
        """Do what the store says of these. One that is not owned may have ended, or been accepted, meanwhile."""
        missing = [each.log.reply.id for each in running if each.log.reply.id not in owned]
        others = await self._store.standings(missing) if missing else []
        standings = owned | {each.reply_id: each for each in others}
        for generation in running:
            self._follow_standing(generation, standings.get(generation.log.reply.id))

    def _follow_standing(self, generation: Generation, standing: Standing | None) -> None:
        """None: it was erased."""
        reply = generation.log.reply
        if standing is None or (standing.owner, standing.epoch) != (reply.owner, reply.epoch):
            if not generation.lost and not generation.log.over:
                logger.warning("reply_lost", extra={"fields": {"reply_id": reply.id}})
                generation.lose()
        elif standing.cancel is not None:
            generation.cancel(Cancel(finish=standing.cancel, reason=standing.cancel_reason))

    def _look_at(self, reply_id: str) -> None:
        """Ask the store how it stands, once at a time."""
        if reply_id in self._live_replies.running and reply_id not in self._looking:
            self._looking.add(reply_id)
            self._tasks.spawn(self._look(reply_id), f"look-{reply_id}")

    async def _look(self, reply_id: str) -> None:
        try:
            standings = await self._store.standings([reply_id])
        except StorageUnavailable:
            return  # the next renewal tells the same
        finally:
            self._looking.discard(reply_id)
        generation = self._live_replies.running.get(reply_id)
        if generation is None:
            if not standings:
                self._live_replies.erase((reply_id,))
        elif standings or generation.task is not None:  # else it is being accepted
            self._follow_standing(generation, standings[0] if standings else None)

    def _reconcile(self, owned: dict[str, Standing]) -> None:
        """Beside the renewals, which wait for nothing else."""
        if self.taking_over or (self._reconciling is not None and not self._reconciling.done()):
            return
        epochs = {each.reply_id: each.epoch for each in owned.values()}
        self._reconciling = self._tasks.spawn(self._recovery.reconcile_once(epochs), "reconcile")

    def _tell_fenced(self) -> None:
        """Say it when the lease runs out, and when it is held again."""
        fenced = not self._lease.held
        if fenced == self._fenced:
            return
        self._fenced = fenced
        self._observer.fenced(fenced)
        logger.log(logging.ERROR if fenced else logging.INFO, "fenced" if fenced else "lease_back")
