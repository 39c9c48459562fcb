"""Shows operators the state of this process and of the database, and names what needs their attention."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TypeVar

from parley_server.core.lease import Lease
from parley_server.core.observer import LoopLoad
from parley_server.core.ports import Clock, StatusStore
from parley_server.core.quotas.rules import QuotaRules
from parley_server.core.replies.live import LiveReplies
from parley_server.core.status_values import (
    BreakerState,
    DatabaseState,
    QuotaCaps,
    QuotaSpot,
    RelayPart,
    ReplicaState,
    Status,
    StoredStatus,
    running_by_model,
)
from parley_server.errors import StorageUnavailable

T = TypeVar("T")

DATABASE_S = 3.0
"""Longest wait for each question to the database: the state of the replica is worth more than a complete answer."""
MOST_QUOTAS = 10
SWEPT_S = 60.0
"""A replica that has left without running replies is a problem only if no other one deletes its entry in this time."""
OVERDUE_S = 30.0
"""A reply that has run for so much longer than its time limit should have been ended by its owner or a takeover."""


@dataclass(frozen=True, kw_only=True)
class StatusParts:
    """What the report reads. `version`: the release of this server. `replica_id` is empty in standalone mode.
    `database`: the kind of the database. `time_limit_s`: the longest time limit of a reply."""

    version: str
    replica_id: str
    database: str
    time_limit_s: float
    clock: Clock
    store: StatusStore
    rules: QuotaRules
    live_replies: LiveReplies
    lease: Lease
    load: LoopLoad
    draining: Callable[[], bool]
    relay: Callable[[], Sequence[RelayPart]]
    breakers: Callable[[], Sequence[BreakerState]]


class StatusReports:
    """Reports the status of this process. `configuration_time_us` is when its configuration was read."""

    def __init__(self, parts: StatusParts) -> None:
        self._parts = parts
        self._started_s = parts.clock.monotonic()
        self._store = SharedReads(parts.store)
        self.configuration_time_us = parts.clock.now_us()

    async def read(self) -> Status:
        """The status. Never raises for a database or a relay that is unavailable."""
        parts = self._parts
        replica = self._replica()
        database = await database_state(self._store, parts.rules, parts.clock, kind=parts.database)
        return status_of(replica, database, time_limit_s=parts.time_limit_s)

    def _replica(self) -> ReplicaState:
        parts = self._parts
        now_us = parts.clock.now_us()
        started = [each.log.reply for each in parts.live_replies.running.values() if each.task and not each.log.over]
        return ReplicaState(
            replica_id=parts.replica_id,
            version=parts.version,
            uptime_s=parts.clock.monotonic() - self._started_s,
            configuration_time_us=self.configuration_time_us,
            lease_left_s=parts.lease.left_s,
            draining=parts.draining(),
            running=running_by_model((reply.model, (now_us - reply.create_time_us) / 1e6) for reply in started),
            followed=len(parts.live_replies.followed),
            readers=parts.live_replies.readers,
            utilisation=parts.load.utilisation,
            overloaded=parts.load.overloaded,
            relay=tuple(parts.relay()),
            breakers=tuple(parts.breakers()),
        )


class SharedReads:
    """Shares each read of a store between the calls that come while it runs. Implements `StatusStore`.

    A database continues with a read whose caller has gone. Shared, the reads of any number of callers occupy at most
    one connection, and leave the others to replies."""

    def __init__(self, store: StatusStore) -> None:
        self._store = store
        self._status: asyncio.Task[StoredStatus] | None = None
        self._quotas: asyncio.Task[list[QuotaSpot]] | None = None

    async def read_status(self) -> StoredStatus:
        """See `StatusStore`."""
        if self._status is None or self._status.done():
            self._status = _kept(self._store.read_status())
        return await asyncio.shield(self._status)

    async def quota_spots(self, caps: QuotaCaps, limit: int) -> list[QuotaSpot]:
        """See `StatusStore`. The limits are those of the call that has begun the read."""
        if self._quotas is None or self._quotas.done():
            self._quotas = _kept(self._store.quota_spots(caps, limit))
        return await asyncio.shield(self._quotas)


def _kept(read: Coroutine[None, None, T]) -> asyncio.Task[T]:
    """A task whose error is not reported as lost if no caller waits any more."""
    task = asyncio.create_task(read, name="status")
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def database_state(store: StatusStore, rules: QuotaRules, clock: Clock, *, kind: str) -> DatabaseState:
    """What the database shows; a problem if it does not answer in time."""
    try:
        async with asyncio.timeout(DATABASE_S):
            stored = await store.read_status()
    except StorageUnavailable as error:
        return DatabaseState(kind=kind, problem=error.message)
    except TimeoutError:
        return DatabaseState(kind=kind, problem=f"the database did not answer within {DATABASE_S:g} s")
    try:
        async with asyncio.timeout(DATABASE_S):
            quotas = await store.quota_spots(rules.caps(clock.now_us()), MOST_QUOTAS)
    except (StorageUnavailable, TimeoutError):  # with very many end users, the comparison may take too long
        return DatabaseState(kind=kind, stored=stored, quotas_known=False)
    return DatabaseState(kind=kind, stored=stored, quotas=tuple(quotas))


def status_of(replica: ReplicaState | None, database: DatabaseState, *, time_limit_s: float) -> Status:
    """The status with its problems."""
    problems = [*(_of_replica(replica) if replica else []), *_of_database(database, time_limit_s)]
    return Status(replica=replica, database=database, problems=tuple(problems))


def _of_replica(state: ReplicaState) -> list[str]:
    problems = []
    if state.lease_left_s == 0:
        problems.append("this replica holds no lease: its replies show no new text until it renews it")
    if lost := [part for part in state.relay if part.lost_s]:
        names = ", ".join(part.name for part in lost)
        longest_s = max(part.lost_s for part in lost)
        problems.append(f"the connection to Redis has been lost for {longest_s:.0f} s ({names})")
    problems += [
        f"requests for {each.model} at {each.provider} are stopped by its circuit breaker"
        for each in state.breakers
        if each.is_open
    ]
    if state.overloaded:
        problems.append("the event loop is late: this replica refuses new replies")
    return problems


def _of_database(state: DatabaseState, time_limit_s: float) -> list[str]:
    if state.stored is None:
        return [f"the database cannot be read: {state.problem}"]
    stored, problems = state.stored, []
    if state.kind == "PostgreSQL":
        if not any(lease.lease_left_s > 0 for lease in stored.replicas):
            problems.append("no replica holds a lease")
        problems += [
            f"the lease of replica {lease.replica_id} expired {-lease.lease_left_s:.0f} s ago; "
            f"it owns {lease.running} running replies"
            for lease in stored.replicas
            if lease.lease_left_s <= (0 if lease.running else -SWEPT_S)
        ]
        if stored.unowned:
            problems.append(f"{stored.unowned} running replies belong to replicas that have left")
    problems += [
        f"a reply of the model {each.model} has run for {each.oldest_s:.0f} s, and the time limit is {time_limit_s:g} s"
        for each in stored.running
        if each.oldest_s > time_limit_s + OVERDUE_S
    ]
    if not state.quotas_known:
        problems.append("the use of quotas could not be compared in time")
    return problems
