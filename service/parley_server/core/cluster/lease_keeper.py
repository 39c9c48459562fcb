"""Renews the lease of this replica, and applies what the store says about its replies at each renewal.

Shortly before the lease expires, the replica stops showing text but keeps generating, so that a database outage does
not fail replies.
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

logger = logging.getLogger("parley.lease")

RENEWALS_PER_LEASE = 4


class LeaseKeeper:
    """Holds the lease of `replica_id` for `lease_s`, and renews it each quarter of that time.

    Implements `ReplyOwner`: it checks reports of other replicas in the store before it acts on them. `taking_over` is
    set while the store may assign replies to this replica that are not in `Recovery.ending` yet.
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
        self._checking: set[str] = set()
        self._reconciling: asyncio.Task[None] | None = None
        self.unbroken_since = math.inf
        self.taking_over = False

    @property
    def settled(self) -> bool:
        """Whether the database has been available for a whole lease, so that every live replica could renew its own."""
        return self._clock.boottime() - self.unbroken_since >= self._lease_s

    async def begin(self) -> None:
        """Take the lease. Raises `StorageUnavailable`."""
        await self._renew()

    async def keep(self) -> None:
        """Renew the lease until cancelled."""
        clock = self._clock
        while True:
            await clock.sleep(self.quarter_s)
            try:
                owned = await self._renew()
            except StorageUnavailable as error:
                self.unbroken_since = math.inf
                logger.warning("lease_renewal_postponed", extra={"fields": {"problem": error.message}})
            except Exception:  # the lease would end with this task
                self.unbroken_since = math.inf
                logger.exception("lease_renewal_failed")
            else:
                self._reconcile(owned)
            self._report_fenced()

    async def end(self) -> None:
        """Release the lease, so that others may take over at once what this replica still owns."""
        self._lease.until = -math.inf
        try:
            await self._store.release_lease(self._replica_id)
        except StorageUnavailable as error:
            logger.warning("lease_release_failed", extra={"fields": {"problem": error.message}})

    def cancel_requested(self, reply_id: str) -> None:
        """See `ReplyOwner`."""
        self._check_soon(reply_id)

    def taken_over(self, reply_id: str) -> None:
        """See `ReplyOwner`."""
        self._check_soon(reply_id)

    def seen(self, reply_id: str, age_s: float) -> None:
        """See `ReplyOwner`."""
        if (generation := self._live_replies.running.get(reply_id)) is not None:
            generation.reader_count.seen(age_s)

    def erased(self, reply_ids: tuple[str, ...]) -> None:
        """See `ReplyOwner`. Such a reply may still run here; the store decides."""
        self._live_replies.erase(reply_ids)
        for reply_id in reply_ids:
            self._check_soon(reply_id)

    async def _renew(self) -> dict[str, Standing]:
        """Renew the lease, and return what the replica owns.

        The lease counts from before the request, and is used until a quarter before its end. If it had expired, replies
        that were taken over are found before anything is shown again.
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
        self._report_fenced()
        return owned

    def _started(self) -> list[Generation]:
        return [each for each in self._live_replies.running.values() if each.task is not None and not each.log.over]

    def _extend(self, began: float) -> None:
        if self.unbroken_since == math.inf:
            self.unbroken_since = began
        self._lease.until = began + self._lease_s - self.quarter_s

    def _revive(self, began: float) -> None:
        """Show the text that was held back while the lease had expired."""
        self.unbroken_since = math.inf
        self._extend(began)
        self._lease.since = self._clock.boottime()
        if self._lease.held:
            for generation in list(self._live_replies.running.values()):
                generation.log.release()
                generation.log.wake()

    async def _follow(self, running: list[Generation], owned: dict[str, Standing]) -> None:
        """Apply the store's state to these replies. One that is not in `owned` may have ended meanwhile."""
        missing = [each.log.reply.id for each in running if each.log.reply.id not in owned]
        others = await self._store.standings(missing) if missing else []
        standings = owned | {each.reply_id: each for each in others}
        for generation in running:
            self._follow_standing(generation, standings.get(generation.log.reply.id))

    def _follow_standing(self, generation: Generation, standing: Standing | None) -> None:
        """Cancel the reply if requested; give it up if this replica does not own it (None: it was erased)."""
        reply = generation.log.reply
        if standing is None or (standing.owner, standing.epoch) != (reply.owner, reply.epoch):
            if not generation.lost and not generation.log.over:
                logger.warning("reply_ownership_lost", extra={"fields": {"reply_id": reply.id}})
                generation.lose()
        elif standing.cancel is not None:
            generation.cancel(Cancel(finish=standing.cancel, reason=standing.cancel_reason))

    def _check_soon(self, reply_id: str) -> None:
        """Check a reply in the store, unless a check is already running."""
        if reply_id in self._live_replies.running and reply_id not in self._checking:
            self._checking.add(reply_id)
            self._tasks.spawn(self._check(reply_id), f"look-{reply_id}")

    async def _check(self, reply_id: str) -> None:
        try:
            standings = await self._store.standings([reply_id])
        except StorageUnavailable:
            return  # the next renewal brings the same information
        finally:
            self._checking.discard(reply_id)
        generation = self._live_replies.running.get(reply_id)
        if generation is None:
            if not standings:
                self._live_replies.erase((reply_id,))
        elif standings or generation.task is not None:  # otherwise it is being accepted
            self._follow_standing(generation, standings[0] if standings else None)

    def _reconcile(self, owned: dict[str, Standing]) -> None:
        """End replies without a task, in a task of its own, so that renewals do not wait for it."""
        if self.taking_over or (self._reconciling is not None and not self._reconciling.done()):
            return
        epochs = {each.reply_id: each.epoch for each in owned.values()}
        self._reconciling = self._tasks.spawn(self._recovery.reconcile_once(epochs), "reconcile")

    def _report_fenced(self) -> None:
        """Log and count the change when the lease expires, and when it is held again."""
        fenced = not self._lease.held
        if fenced == self._fenced:
            return
        self._fenced = fenced
        self._observer.fenced(fenced)
        logger.log(logging.ERROR if fenced else logging.INFO, "lease_expired" if fenced else "lease_restored")
