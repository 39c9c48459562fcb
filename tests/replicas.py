"""Several replicas of the core in one process: on one store, with one clock, and a relay that is a few dictionaries.

The relay keeps the port's promises as the real one does, and has its faults when a test says so.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, cast

from parley_server.core.cluster.peers import ReplyOwner
from parley_server.core.events import Entry, Snapshot
from parley_server.core.model import Reply
from parley_server.core.ports import Store
from parley_server.core.replies.generate import Generation
from parley_server.core.replies.log import Log
from parley_server.journal.journals import CheckpointJournal
from parley_server.modes import ClusterCore
from parley_server.store import SqlStore

from tests.clock import ManualClock, settle
from tests.fakes import Act, World, say_hello

LEASE_S = 12.0


class Wire:
    """What replicas have published. While it is `down`, nothing goes either way. `deaf`: nothing that is published is
    heard; `mute`: nobody is told of wishes, ends and takeovers. `hangs` and `broken` are a takeover's."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.relays: dict[str, WireRelay] = {}
        self.streams: dict[str, dict[int, list[Entry]]] = defaultdict(dict)
        self.fences: dict[str, float] = defaultdict(float)
        self.since: dict[str, float] = {}
        self.seen: dict[str, float] = {}
        self.down_since: float | None = None
        self.deaf = self.mute = self.hangs = self.broken = False

    @property
    def down(self) -> bool:
        """Whether it is away."""
        return self.down_since is not None

    def cut(self) -> None:
        """It is away from now on."""
        self.down_since = self.clock.monotonic()

    def mend(self) -> None:
        """It is back: owners publish what is missing, and followers read on."""
        self.down_since, self.deaf = None, False
        for relay in self.relays.values():
            for log in list(relay.opened.values()):
                relay.publish(log)
        self.deliver()

    def deliver(self) -> None:
        """Followers read on in what was published."""
        for relay in self.relays.values():
            for following in list(relay.following.values()):
                relay.read(following.log)

    def beat(self) -> None:
        """Followers tell that they read; owners hear of readers."""
        now = self.clock.monotonic()
        for relay in self.relays.values():
            for reply_id, following in relay.following.items():
                if following.wanted():
                    self.seen[reply_id] = now
        for relay in self.relays.values():
            for reply_id in relay.opened:
                if reply_id in self.seen:
                    relay.owned.seen(reply_id, now - self.seen[reply_id])

    def kept(self, reply_id: str) -> tuple[Entry, ...]:
        """What the last writer of a reply has published."""
        streams = self.streams.get(reply_id)
        return tuple(streams[max(streams)]) if streams else ()


class RemoteLogCursor:
    """A log that a relay fills."""

    def __init__(self, log: Log, wanted: Callable[[], bool], look: Callable[[], None]) -> None:
        self.log = log
        self.wanted = wanted
        self.look = look


class WireRelay(CheckpointJournal):
    """Implements `Journal` with checkpoints, and `Peers` on a wire."""

    def __init__(self, wire: Wire, replica_id: str, store: Store, clock: ManualClock) -> None:
        super().__init__(store, clock)
        self.wire = wire
        self.replica_id = replica_id
        self.owned: ReplyOwner
        self.opened: dict[str, Log] = {}
        self.following: dict[str, RemoteLogCursor] = {}
        self.slow_idle_s: Callable[[], Awaitable[float]] | None = None
        wire.relays[replica_id] = self

    def open(self, log: Log) -> None:
        super().open(log)
        mark = log.on_append

        def grown() -> None:
            mark()
            self.publish(log)

        log.on_append = grown
        self.opened[log.reply.id] = log
        self.wire.since[log.reply.id] = self.wire.clock.monotonic()
        self.publish(log)

    def publish(self, log: Log, upto: float = math.inf) -> None:
        """Append what is new, unless another replica has the log."""
        wire, reply = self.wire, log.reply
        if wire.down:
            return
        if wire.fences[reply.id] > reply.epoch:
            if not wire.mute and not log.over:
                self.owned.taken_over(reply.id)
            return
        stream = wire.streams[reply.id].setdefault(reply.epoch, [])
        new = log.since(len(stream))
        if not log.over and not log.lease.held:
            new = []
        stream += new[: None if upto == math.inf else max(0, int(upto) - len(stream))]
        if not wire.deaf:
            wire.deliver()

    def ended(self, log: Log) -> None:
        self.opened.pop(log.reply.id, None)
        if log.erased or self.wire.down:
            return
        if not any(isinstance(entry, Snapshot) for entry in log.numbered()):
            self.publish(log, upto=log.last_sequence - 1)
        self.wire.fences[log.reply.id] = math.inf
        if not self.wire.mute:
            for relay in self.wire.relays.values():
                if (following := relay.following.get(log.reply.id)) is not None:
                    following.look()

    @property
    def unreachable_s(self) -> float:
        down_since = self.wire.down_since
        return 0.0 if down_since is None else self.wire.clock.monotonic() - down_since

    def follow(self, log: Log, *, wanted: Callable[[], bool], look: Callable[[], None]) -> None:
        self.following[log.reply.id] = RemoteLogCursor(log, wanted, look)
        if not self.wire.deaf:
            self.read(log)

    def unfollow(self, log: Log) -> None:
        if (following := self.following.get(log.reply.id)) is not None and following.log is log:
            del self.following[log.reply.id]

    def read(self, log: Log) -> None:
        """Append what was published of its epoch."""
        if not self.wire.down:
            for entry in self.wire.streams[log.reply.id].get(log.reply.epoch, [])[log.last_sequence :]:
                log.append(entry)

    async def recall(self, reply_id: str) -> tuple[Entry, ...]:
        return () if self.wire.down else self.wire.kept(reply_id)

    async def take_over(self, reply_id: str, epoch: int, *, after: int = 0) -> tuple[Entry, ...]:
        if self.wire.hangs:
            await asyncio.get_running_loop().create_future()
        if self.wire.broken:
            raise RuntimeError("a defect of the relay")
        if not self.wire.down:
            self.wire.fences[reply_id] = max(self.wire.fences[reply_id], epoch)
        return (await self.recall(reply_id))[after:]

    async def idle_s(self, reply_id: str) -> float | None:
        if self.slow_idle_s is not None:
            return await self.slow_idle_s()
        known = [times[reply_id] for times in (self.wire.since, self.wire.seen) if reply_id in times]
        return self.wire.clock.monotonic() - max(known) if known and not self.wire.down else None

    def publish_cancel(self, reply: Reply) -> None:
        owner = self.wire.relays.get(reply.owner)
        if owner is not None and not self.wire.down and not self.wire.mute:
            owner.owned.cancel_requested(reply.id)

    def erase(self, reply_ids: tuple[str, ...]) -> None:
        for reply_id in reply_ids:
            self.wire.streams.pop(reply_id, None)
            self.wire.fences[reply_id] = math.inf
        if not self.wire.down and not self.wire.mute:
            for relay in self.wire.relays.values():
                relay.owned.erased(reply_ids)


class Replica(World):
    """A world with a lease. `serve` begins all that a running replica does; else the test does it by hand."""

    core: ClusterCore

    def __init__(self, cluster: Cluster, name: str, act: Act, **limits: Any) -> None:
        self.name = name
        self.wire = cluster.wire
        super().__init__(cluster.store, act, clock=cluster.clock, **limits)
        self.lease_keeper = self.core.lease_keeper
        self.sweeper = self.core.sweeper
        self.remote_replies = self.core.remote_replies
        self.works: list[asyncio.Task[None]] = []
        self.begun: list[Generation] = []
        self.wire_relay.owned = self.lease_keeper

    def _build(self) -> ClusterCore:
        store = cast(Store, self.store)
        self.journal = self.wire_relay = WireRelay(self.wire, self.name, store, self.clock)
        return ClusterCore(
            self._parts(),
            store,
            self.wire_relay,
            replica_id=self.name,
            lease_s=LEASE_S,
            sweep_interval_s=3.0,
            peers=self.wire_relay,
        )

    async def serve(self, *, sweeps: bool = True) -> None:
        """Hold the lease, follow, and sweep."""
        await self.lease_keeper.begin()
        works = [self.lease_keeper.keep(), self.remote_replies.run(), *([self.sweeper.run()] if sweeps else [])]
        self.works += [asyncio.get_running_loop().create_task(work) for work in works]

    async def begin(self, act: Act | None = None, **fields: Any) -> Generation:
        """A new reply, running."""
        begun = await super().begin(act, **fields)
        self.begun.append(begun)
        return begun

    def freeze(self) -> None:
        """As a process that gets no turn: its database and its timers are gone, its memory stays."""
        self.store.away = True
        for work in self.works:
            work.cancel()
        self.works.clear()

    async def quit(self) -> None:
        """Do nothing by itself any more."""
        for work in self.works:
            work.cancel()
        await asyncio.gather(*self.works, return_exceptions=True)
        self.store.before.clear()
        self.store.after.clear()
        self.store.away = False
        self.lease.until = math.inf
        for generation in self.begun:
            if not generation.log.over:  # a test may have taken it off the shelf
                self.live_replies.running[generation.log.reply.id] = generation


class Cluster:
    """Replicas on one store."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.clock = ManualClock()
        self.wire = Wire(self.clock)
        self.replicas: list[Replica] = []

    async def join(self, name: str, act: Act = say_hello, *, sweeps: bool = True, **limits: Any) -> Replica:
        """A replica that serves."""
        replica = Replica(self, name, act, **limits)
        self.replicas.append(replica)
        await replica.serve(sweeps=sweeps)
        return replica

    async def rest(self) -> None:
        """Return once nobody does anything but wait for time to pass."""
        await settle()
        while any(replica.store.under_way for replica in self.replicas):
            await asyncio.sleep(0.0005)
            await settle()

    async def advance(self, seconds: float) -> None:
        """Move the clock, from timer to timer, and let everybody come to rest between them."""
        until = self.clock.monotonic() + seconds
        await self.rest()
        while (now := self.clock.monotonic()) < until:
            await self.clock.advance(max(0.0, min(self.clock.next_due, until) - now))
            await self.rest()

    async def expire(self, replica: Replica) -> None:
        """By the database's clock, its lease has run out."""
        await self.store.release_lease(replica.name)

    async def kill(self, replica: Replica) -> None:
        """It is gone, and its lease has run out; what it did not write is lost."""
        replica.freeze()
        self.wire.relays.pop(replica.name)
        await self.expire(replica)

    async def aclose(self) -> None:
        """End what still runs, whoever owns it."""
        self.wire.mend()
        self.wire.hangs = self.wire.broken = False
        for replica in self.replicas:
            await replica.quit()
        if self.replicas:
            await self.replicas[0].recovery.recover()
        for replica in self.replicas:
            await replica.aclose()
