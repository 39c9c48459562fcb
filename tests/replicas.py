"""Several replicas of the core in one process, on one store and one clock, connected by an in-memory relay.

The relay fulfils the port as the Redis relay does. Tests switch its faults on and off.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from parley_server.core.cluster.peers import ReplyOwner
from parley_server.core.events import Entry, Snapshot
from parley_server.core.model import Reply
from parley_server.core.ports import Store
from parley_server.core.replies.generate import Generation
from parley_server.core.replies.log import Log
from parley_server.cores import ClusterCore
from parley_server.journal.journals import CheckpointJournal
from parley_server.store import SqlStore

from tests.clock import ManualClock, settle
from tests.fakes import Answer, CoreHarness, say_hello

LEASE_S = 12.0


class RelayNetwork:
    """The published entries of all replicas, by reply and epoch, and the faults of their delivery.

    disconnected: no replica can publish or read. delivery_paused: entries are stored and followers do not get them.
    notices_lost: notices of cancels, ends, takeovers and erasures are dropped. takeover_hangs, takeover_fails: what
    `Peers.take_over` does.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.relays: dict[str, InMemoryRelay] = {}
        self.streams: dict[str, dict[int, list[Entry]]] = defaultdict(dict)
        self.fences: dict[str, float] = defaultdict(float)
        self.opened_at: dict[str, float] = {}
        self.last_read_at: dict[str, float] = {}
        self.disconnected_since: float | None = None
        self.delivery_paused = self.notices_lost = self.takeover_hangs = self.takeover_fails = False

    @property
    def disconnected(self) -> bool:
        return self.disconnected_since is not None

    def disconnect(self) -> None:
        self.disconnected_since = self.clock.monotonic()

    def reconnect(self) -> None:
        """End a disconnection or a pause: owners publish the missing entries, and followers read them."""
        self.disconnected_since, self.delivery_paused = None, False
        for relay in self.relays.values():
            for log in list(relay.opened.values()):
                relay.publish(log)
        self.deliver()

    def deliver(self) -> None:
        """Append all published entries to the logs of followers."""
        for relay in self.relays.values():
            for following in list(relay.following.values()):
                relay.read(following.log)

    def send_heartbeats(self) -> None:
        """Report the readers of followed logs to the owners of the replies."""
        now = self.clock.monotonic()
        for relay in self.relays.values():
            for reply_id, following in relay.following.items():
                if following.wanted():
                    self.last_read_at[reply_id] = now
        for relay in self.relays.values():
            for reply_id in relay.opened:
                if reply_id in self.last_read_at:
                    relay.owner.seen(reply_id, now - self.last_read_at[reply_id])

    def published(self, reply_id: str) -> tuple[Entry, ...]:
        """The entries of a reply in its highest epoch."""
        streams = self.streams.get(reply_id)
        return tuple(streams[max(streams)]) if streams else ()


@dataclass(frozen=True)
class FollowedLog:
    """The arguments of `Peers.follow`."""

    log: Log
    wanted: Callable[[], bool]
    look: Callable[[], None]


class InMemoryRelay(CheckpointJournal):
    """Implements `Journal` with checkpoints, and `Peers` with a `RelayNetwork`."""

    def __init__(self, network: RelayNetwork, replica_id: str, store: Store, clock: ManualClock) -> None:
        super().__init__(store, clock)
        self.network = network
        self.replica_id = replica_id
        self.owner: ReplyOwner
        self.opened: dict[str, Log] = {}
        self.following: dict[str, FollowedLog] = {}
        self.slow_idle_s: Callable[[], Awaitable[float]] | None = None
        network.relays[replica_id] = self

    def open(self, log: Log) -> None:
        super().open(log)
        schedule_checkpoint = log.on_append

        def publish_and_schedule() -> None:
            schedule_checkpoint()
            self.publish(log)

        log.on_append = publish_and_schedule
        self.opened[log.reply.id] = log
        self.network.opened_at[log.reply.id] = self.network.clock.monotonic()
        self.publish(log)

    def publish(self, log: Log, upto: float = math.inf) -> None:
        """Publish the new entries up to the number `upto`, unless another replica has taken the reply over."""
        network, reply = self.network, log.reply
        if network.disconnected:
            return
        if network.fences[reply.id] > reply.epoch:
            if not network.notices_lost and not log.over:
                self.owner.taken_over(reply.id)
            return
        stream = network.streams[reply.id].setdefault(reply.epoch, [])
        new = log.since(len(stream))
        if not log.over and not log.lease.held:
            new = []
        stream += new[: None if upto == math.inf else max(0, int(upto) - len(stream))]
        if not network.delivery_paused:
            network.deliver()

    def ended(self, log: Log) -> None:
        self.opened.pop(log.reply.id, None)
        if log.erased or self.network.disconnected:
            return
        if not any(isinstance(entry, Snapshot) for entry in log.numbered()):
            self.publish(log, upto=log.last_sequence - 1)
        self.network.fences[log.reply.id] = math.inf
        if not self.network.notices_lost:
            for relay in self.network.relays.values():
                if (following := relay.following.get(log.reply.id)) is not None:
                    following.look()

    @property
    def unreachable_s(self) -> float:
        since = self.network.disconnected_since
        return 0.0 if since is None else self.network.clock.monotonic() - since

    def follow(self, log: Log, *, wanted: Callable[[], bool], look: Callable[[], None]) -> None:
        self.following[log.reply.id] = FollowedLog(log, wanted, look)
        if not self.network.delivery_paused:
            self.read(log)

    def unfollow(self, log: Log) -> None:
        if (following := self.following.get(log.reply.id)) is not None and following.log is log:
            del self.following[log.reply.id]

    def read(self, log: Log) -> None:
        """Append the published entries of the log's epoch."""
        if not self.network.disconnected:
            for entry in self.network.streams[log.reply.id].get(log.reply.epoch, [])[log.last_sequence :]:
                log.append(entry)

    async def recall(self, reply_id: str) -> tuple[Entry, ...]:
        return () if self.network.disconnected else self.network.published(reply_id)

    async def take_over(self, reply_id: str, epoch: int, *, after: int = 0) -> tuple[Entry, ...]:
        if self.network.takeover_hangs:
            await asyncio.get_running_loop().create_future()
        if self.network.takeover_fails:
            raise RuntimeError("a programming error in the relay")
        if not self.network.disconnected:
            self.network.fences[reply_id] = max(self.network.fences[reply_id], epoch)
        return (await self.recall(reply_id))[after:]

    async def idle_s(self, reply_id: str) -> float | None:
        if self.slow_idle_s is not None:
            return await self.slow_idle_s()
        times = (self.network.opened_at, self.network.last_read_at)
        known = [each[reply_id] for each in times if reply_id in each]
        return self.network.clock.monotonic() - max(known) if known and not self.network.disconnected else None

    def publish_cancel(self, reply: Reply) -> None:
        relay = self.network.relays.get(reply.owner)
        if relay is not None and not self.network.disconnected and not self.network.notices_lost:
            relay.owner.cancel_requested(reply.id)

    def erase(self, reply_ids: tuple[str, ...]) -> None:
        for reply_id in reply_ids:
            self.network.streams.pop(reply_id, None)
            self.network.fences[reply_id] = math.inf
        if not self.network.disconnected and not self.network.notices_lost:
            for relay in self.network.relays.values():
                relay.owner.erased(reply_ids)


class Replica(CoreHarness):
    """A harness with a lease. `serve` starts the background tasks of a replica; without it the test runs each step."""

    core: ClusterCore

    def __init__(self, cluster: Cluster, name: str, answer: Answer, **limits: Any) -> None:
        self.name = name
        self.network = cluster.network
        super().__init__(cluster.store, answer, clock=cluster.clock, **limits)
        self.lease_keeper = self.core.lease_keeper
        self.sweeper = self.core.sweeper
        self.remote_replies = self.core.remote_replies
        self.background_tasks: list[asyncio.Task[None]] = []
        self.generations: list[Generation] = []
        self.relay.owner = self.lease_keeper

    def _build(self) -> ClusterCore:
        store = cast(Store, self.store)
        self.journal = self.relay = InMemoryRelay(self.network, self.name, store, self.clock)
        return ClusterCore(
            self._parts(),
            store,
            self.relay,
            replica_id=self.name,
            lease_s=LEASE_S,
            sweep_interval_s=3.0,
            peers=self.relay,
        )

    async def serve(self, *, sweeps: bool = True) -> None:
        """Acquire the lease, then renew it, follow remote replies and sweep in the background."""
        await self.lease_keeper.begin()
        loops = [self.lease_keeper.keep(), self.remote_replies.run(), *([self.sweeper.run()] if sweeps else [])]
        self.background_tasks += [asyncio.get_running_loop().create_task(loop) for loop in loops]

    async def begin(self, answer: Answer | None = None, **fields: Any) -> Generation:
        """Start a reply."""
        generation = await super().begin(answer, **fields)
        self.generations.append(generation)
        return generation

    def freeze(self) -> None:
        """Behave as a stopped process: no access to the database and no timers, but unchanged memory."""
        self.store.unavailable = True
        for task in self.background_tasks:
            task.cancel()
        self.background_tasks.clear()

    async def quit(self) -> None:
        """Stop the background tasks, and let every reply end without a lease."""
        for task in self.background_tasks:
            task.cancel()
        await asyncio.gather(*self.background_tasks, return_exceptions=True)
        self.store.before.clear()
        self.store.after.clear()
        self.store.unavailable = False
        self.lease.until = math.inf
        for generation in self.generations:
            if not generation.log.over:  # a test may have removed it from the running replies
                self.live_replies.running[generation.log.reply.id] = generation


class Cluster:
    """Replicas on one store and one relay network."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.clock = ManualClock()
        self.network = RelayNetwork(self.clock)
        self.replicas: list[Replica] = []

    async def join(self, name: str, answer: Answer = say_hello, *, sweeps: bool = True, **limits: Any) -> Replica:
        """Start a replica."""
        replica = Replica(self, name, answer, **limits)
        self.replicas.append(replica)
        await replica.serve(sweeps=sweeps)
        return replica

    async def settle(self) -> None:
        """Return once every replica only waits for timers."""
        await settle()
        while any(replica.store.pending_calls for replica in self.replicas):
            await asyncio.sleep(0.0005)
            await settle()

    async def advance(self, seconds: float) -> None:
        """Move the clock from timer to timer, and wait between them until all replicas are idle."""
        until = self.clock.monotonic() + seconds
        await self.settle()
        while (now := self.clock.monotonic()) < until:
            await self.clock.advance(max(0.0, min(self.clock.next_due, until) - now))
            await self.settle()

    async def expire(self, replica: Replica) -> None:
        """End the lease of a replica in the database; the replica is not notified."""
        await self.store.release_lease(replica.name)

    async def kill(self, replica: Replica) -> None:
        """Remove a replica with an expired lease. Entries that it has not written are lost."""
        replica.freeze()
        self.network.relays.pop(replica.name)
        await self.expire(replica)

    async def aclose(self) -> None:
        """End all running replies, of any owner."""
        self.network.reconnect()
        self.network.takeover_hangs = self.network.takeover_fails = False
        for replica in self.replicas:
            await replica.quit()
        if self.replicas:
            await self.replicas[0].recovery.recover()
        for replica in self.replicas:
            await replica.aclose()
