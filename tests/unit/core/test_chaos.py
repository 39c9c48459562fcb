"""Random faults of replicas, database and relay: all readers get the stored end and the same text."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from parley_server.core.events import Chunk, Failed, Finished, Snapshot
from parley_server.core.model import Reply
from parley_server.core.replies.log import Reader
from parley_server.core.store_types import CancelTarget, MessageFilter
from parley_server.errors import StorageUnavailable

from tests.fakes import ADA, texts_of
from tests.replicas import LEASE_S, Cluster, Replica
from tests.unit.core.running_reply import RunningReply, start_reply

SEEDS = (0, 1, 2, 27)
LATE = "!"
"""Marks text written after a cancel has returned, which no reader may get."""


@dataclass
class Watcher:
    """A reader that reconnects to random replicas and resumes at its position."""

    replicas: list[Replica]
    reply_id: str
    chance: random.Random
    chunks: list[Chunk] = field(default_factory=list)
    position: int = 0
    done: bool = False

    async def watch(self, clock) -> None:
        """Read up to the terminal chunk, over any number of connections."""
        while not self.done:
            replica = self.chance.choice(self.replicas)
            try:
                log = await replica.replies.attach(ADA, self.reply_id)
                with replica.replies.reading(log):
                    await self._follow(Reader(log, self.position))
            except StorageUnavailable:
                await clock.sleep(0.5)

    async def _follow(self, reader: Reader) -> None:
        while not reader.done:
            await reader.wait()
            for chunk in reader.take():
                assert chunk.sequence > self.position
                self.position = chunk.sequence
                self.chunks.append(chunk)
            if self.chance.random() < 0.05 and not reader.done:
                return  # the connection is lost
        self.done = True

    @property
    def text(self) -> str:
        """The text before the first snapshot."""
        kinds = [isinstance(chunk.entry, Snapshot) for chunk in self.chunks]
        return texts_of(self.chunks[: kinds.index(True)] if True in kinds else self.chunks)


class Chaos:
    """Random faults around one reply."""

    def __init__(self, cluster: Cluster, owner: Replica, reply: RunningReply, chance: random.Random) -> None:
        self.cluster = cluster
        self.owner = owner
        self.reply = reply
        self.chance = chance
        self.written = 0
        self.over = False
        self.cancelled = False
        self.cancels: list[asyncio.Task[None]] = []

    async def do_random_action(self) -> None:
        action = self.chance.choices(
            [
                self.write,
                self.advance,
                self.toggle_relay,
                self.stop_database,
                self.suspend_owner,
                self.cancel,
                self.end,
            ],
            [10, 6, 2, 1, 1, 1, 1],
        )[0]
        await action()

    async def write(self) -> None:
        self.written += 1
        await self.reply.write(f"{LATE if self.cancelled else ''}{self.written},")

    async def advance(self) -> None:
        await self.cluster.advance(self.chance.choice((0.05, 0.3, 1.0, 3.0)))

    async def toggle_relay(self) -> None:
        wire = self.cluster.network
        if wire.disconnected or wire.delivery_paused or wire.notices_lost:
            wire.notices_lost = False
            wire.reconnect()
        elif self.chance.random() < 0.5:
            wire.disconnect()
        else:
            wire.delivery_paused = wire.notices_lost = True

    async def stop_database(self) -> None:
        """Stop it for one replica, for less than a lease or until the lease has expired."""
        replica = self.chance.choice([self.owner, *self.cluster.replicas])
        replica.store.unavailable = True
        if self.chance.random() < 0.5:
            await self.cluster.advance(self.chance.uniform(0.5, LEASE_S - 1.0))
        else:
            await self.cluster.advance(LEASE_S)
            await self.cluster.expire(replica)
            if self.chance.random() < 0.5:
                await self.cancel()
            await self.cluster.advance(self.chance.uniform(0.0, 8.0))
        await self.write()
        replica.store.unavailable = False

    async def suspend_owner(self) -> None:
        """Suspend the machine of the owner. All replicas share one clock, so the others get new leases."""
        if self.chance.random() < 0.5:
            await self.cancel()
        await self.cluster.expire(self.owner)
        self.cluster.clock.suspend(2 * LEASE_S)
        others = [each for each in self.cluster.replicas if each is not self.owner]
        for other in others:
            await other.lease_keeper.begin()
            other.lease_keeper.unbroken_since = -1e9
        await others[0].sweeper.sweep()
        await self.cluster.settle()
        await self.write()

    async def cancel(self) -> None:
        replica = self.chance.choice(self.cluster.replicas)

        async def cancel() -> None:
            try:
                await replica.replies.cancel(ADA, CancelTarget(reply_id=self.reply.id), "enough")
            except StorageUnavailable:
                return
            self.cancelled = True

        self.cancels.append(asyncio.ensure_future(cancel()))

    async def end(self) -> None:
        if not self.over:
            self.over = True
            await self.reply.write(None)

    async def heal(self) -> Reply:
        """Remove all faults, and return the reply as stored 20 s later."""
        self.cluster.network.notices_lost = False
        self.cluster.network.reconnect()
        for replica in self.cluster.replicas:
            replica.store.unavailable = False
        await self.end()
        await self.cluster.advance(20.0)
        return await self.cluster.store.get_reply(ADA, self.reply.id)


@pytest.mark.parametrize("seed", SEEDS)
async def test_readers_agree_with_the_stored_end_after_random_faults(cluster, seed):
    chance = random.Random(seed)
    replicas = [await cluster.join(name, journal=True) for name in "abc"]
    await cluster.advance(LEASE_S + 1)
    for _ in range(5):
        await run_one_reply(cluster, replicas, chance)


async def run_one_reply(cluster: Cluster, replicas: list[Replica], chance: random.Random) -> None:
    owner = chance.choice(replicas)
    reply = await start_reply(owner)
    calls = owner.provider.open_calls
    watchers = [Watcher(replicas, reply.id, random.Random(chance.random())) for _ in range(4)]
    watching = [asyncio.ensure_future(each.watch(cluster.clock)) for each in watchers]
    chaos = Chaos(cluster, owner, reply, chance)
    for _ in range(chance.randrange(5, 30)):
        await chaos.do_random_action()
    stored = await chaos.heal()
    assert stored.state.terminal
    for each in watching:
        if not each.done():
            await cluster.advance(1.0)
        await asyncio.wait_for(each, 5)
    await asyncio.wait_for(asyncio.gather(*chaos.cancels), 5)
    check_readers(watchers, stored)
    page = await owner.conversations.messages(
        ADA, MessageFilter(conversation_id=reply.conversation_id, all_branches=True), 0, ""
    )
    assert [message.reply_id for message in page.messages].count(stored.id) == (stored.message is not None)
    assert owner.provider.open_calls == calls - 1
    for replica in replicas:
        assert (replica.live_replies.running, replica.recovery.ending, replica.live_replies.capacity._replies) == (
            {},
            set(),
            0,
        )
        assert replica.observer.started == len(replica.observer.ended)


def check_readers(watchers: list[Watcher], stored: Reply) -> None:
    text = "".join(part.text for part in stored.message.parts) if stored.message else ""
    assert LATE not in text
    longest = max((each.text for each in watchers), key=len)
    for watcher in watchers:
        chunks = watcher.chunks
        assert LATE not in watcher.text
        assert longest.startswith(watcher.text)
        assert [isinstance(chunk.entry, Finished | Failed) for chunk in chunks].count(True) == 1
        assert chunks[-1] == watchers[0].chunks[-1]
        assert chunks[-1].sequence == stored.last_sequence
        if isinstance(snapshot := chunks[-2].entry if len(chunks) > 1 else None, Snapshot):
            assert snapshot.reply == stored
            assert watcher.text.startswith(text) or text.startswith(watcher.text)
        else:
            assert watcher.text == text
