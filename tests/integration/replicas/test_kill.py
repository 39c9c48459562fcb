"""Owners of replies are killed at random moments: every reader gets the same end, in time."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Iterable

import pytest
import pytest_asyncio
from parley.v1 import resources_pb2

from tests.cluster import LIMIT_S, Cluster, Stored
from tests.integration.process.watching import Watcher, reason_of, script, text_of
from tests.integration.replicas.faults import (
    locked,
    published,
    seen,
    streams_of,
    waiting_for_locks,
    wired_cluster,
    within,
)
from tests.integration.replicas.plays import Poller, Repertoire, read_on
from tests.integration.served import ask
from tests.processes import until

pytestmark = pytest.mark.timeout(240)

A, B, C = range(3)
ALL = (A, B, C)
KILLS = 20
LEASE_S, SWEEP_S = 2.0, 0.5
MARGIN_S = 5.0
LOSS_S = 0.25
CHECKPOINTS_S = 2.0
SEED = int(os.environ.get("PARLEY_TEST_SEED", "0")) or random.randrange(1, 1 << 31)
PHASES = ("accepting", "silent", "writing", "ending", "finalising")


class Turn:
    """One message to one replica, readers of the answer at all three, and the message after it."""

    def __init__(self, drill: Drill, number: int, *, to: int, phase: str) -> None:
        self.drill = drill
        self.to = to
        self.phase = phase
        chance = drill.chance
        pace_s, length_s = chance.choice([0.003, 0.02]), 0.3 if phase in ("ending", "finalising") else 2.0
        first_s = chance.uniform(0.2, 0.5) if phase == "silent" else 0.0
        self.play = drill.repertoire.add(f"t{number}", round(length_s / pace_s), pace_s=pace_s, first_s=first_s)
        self.first = Watcher(self.play.request())
        self.others = [Watcher(), Poller()]
        self.delay_s = chance.uniform(0.0, 0.2)
        self.called = asyncio.Event()
        self.ends_s: list[float] = []
        self._orders = [[to, *_shuffled(chance, set(ALL) - {to})], *(_shuffled(chance, ALL) for _ in self.others)]

    @property
    def readers(self) -> list[Watcher]:
        """All of them."""
        return [self.first, *self.others]

    async def moment(self) -> None:
        """Return when its replica is to be killed."""
        chance = self.drill.chance
        awaited, least_s, most_s = {
            "accepting": (self.called, 0.0, 0.03),
            "silent": (self.play.requested, 0.0, 0.2),
            "writing": (self.play.spoke, 0.0, 0.5),
            "ending": (self.play.ended, 0.0, 0.004),
            "finalising": (self.play.ended, 0.002, 0.02),
        }[self.phase]
        await awaited.wait()
        await asyncio.sleep(chance.uniform(least_s, most_s))

    async def run(self, survivor: int) -> None:
        """Until every reader has the end, and the next message its answer."""
        await asyncio.sleep(self.delay_s)
        self.called.set()
        routes = zip(self.readers, self._orders, strict=True)
        following = [asyncio.create_task(self._read(reader, order)) for reader, order in routes]
        try:
            await asyncio.wait(following, return_when=asyncio.FIRST_COMPLETED)
            following.append(asyncio.create_task(self._go_on(survivor)))
            await asyncio.gather(*following)
        finally:
            for each in following:
                each.cancel()

    async def _read(self, watcher: Watcher, order: list[int]) -> None:
        if watcher is not self.first:
            await self.first.has_accepted.wait()
            watcher.reply_id = self.first.reply_id
        self.ends_s.append(await read_on(self.drill.cluster, watcher, order))

    async def _go_on(self, survivor: int) -> None:
        """After the end, the next message is accepted at once, also by another replica."""
        request = ask(script("Next.", delay_s=0), model="scripted", conversation_id=self.first.conversation_id)
        answer = await self.drill.cluster.chat(survivor).CreateReply(request, timeout=10)
        assert text_of(answer) == "Next."


class Drill:
    """Rounds of turns and kills, and what was seen over all of them."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.cluster = cluster
        self.chance = chance
        self.repertoire = Repertoire()
        cluster.upstream.reply_with(self.repertoire)
        self.numbers = itertools.count()
        self.seen: Counter[str] = Counter()
        self.kills = 0
        self.killed_s: dict[int, float] = {}
        self.takeovers_s: list[float] = []
        self.lost_s: list[float] = []

    async def round(self) -> None:
        """Kill one or two of the three, each in a phase of a reply of its own; then look at what is left."""
        victims = self.chance.sample(ALL, self.chance.choice([1, 2, 2]))
        (survivor, *_) = [each for each in ALL if each not in victims]
        leads = {victim: self._turn(victim, self.chance.choice(PHASES)) for victim in victims}
        more = [self._turn(to, self.chance.choice(PHASES)) for to in (*victims, *ALL)]
        turns = [*leads.values(), *more]
        self.killed_s = {}
        async with asyncio.TaskGroup() as work:
            for turn in turns:
                work.create_task(turn.run(survivor))
            for victim, lead in leads.items():
                work.create_task(self._kill(victim, lead))
        for turn in turns:
            await self._check(turn, await self.cluster.caller(survivor).get(turn.first.reply_id))

    def _turn(self, to: int, phase: str) -> Turn:
        return Turn(self, next(self.numbers), to=to, phase=phase)

    async def _kill(self, victim: int, lead: Turn) -> None:
        await lead.moment()
        self.killed_s[victim] = time.monotonic()
        self.kills += 1
        await self.cluster.kill9(victim)
        await self.cluster.start(victim)
        await self.cluster.caller(victim).channel.channel_ready()  # so that the next round's calls reach it

    async def _check(self, turn: Turn, shown: resources_pb2.Reply) -> None:
        stored = await self.cluster.stored(turn.first.reply_id)
        assert stored is not None
        killed_s = self.killed_s.get(turn.to)
        if stored.state == "COMPLETED":
            assert stored.text == turn.play.whole
            assert stored.epoch == 1
            self.seen[f"{turn.phase}: {'before the kill' if killed_s else 'undisturbed'}, or elsewhere"] += 1
        else:
            assert (stored.state, stored.error) == ("FAILED", "OWNER_LOST")
            assert killed_s is not None, "nobody else's reply is touched"
            assert stored.epoch > 1
            self._check_loss(turn, stored, killed_s)
        assert stored.messages == (1 if stored.text else 0)
        assert (stored.usages, stored.checkpoints) == (1, 0)
        for reader in turn.readers:
            _check_reader(reader, stored)
            assert reader.terminal == turn.first.terminal
        assert text_of(shown) == stored.text
        ended = turn.first.terminal
        assert shown.usage == (ended.finished.usage if ended.HasField("finished") else ended.failed.usage)
        assert shown.error == ended.failed.error
        self._check_asked(turn, stored)

    def _check_loss(self, turn: Turn, stored: Stored, killed_s: float) -> None:
        play = turn.play
        assert play.whole.startswith(stored.text), "nothing of another reply, nothing twice, no gap"
        if play.asked and len(stored.text) < play.length_at(killed_s):
            self.lost_s.append(killed_s - play.sent_at(len(stored.text) + 1))
        self.takeovers_s.append(max(turn.ends_s) - killed_s)
        assert self.takeovers_s[-1] < LEASE_S + SWEEP_S + MARGIN_S
        self.seen[f"{turn.phase}: lost with {'some' if stored.text else 'no'} text"] += 1

    def _check_asked(self, turn: Turn, stored: Stored) -> None:
        """Once, except if the replica of a request died before accepting it: then another one accepted it."""
        elsewhere = stored.state == "COMPLETED" and turn.play.asked == 2
        if elsewhere:
            self.seen["asked in vain before the acceptance"] += 1
            assert turn.to in self.killed_s
            assert not turn.first.replayed
        assert turn.play.asked <= (2 if elsewhere else 1)


def _check_reader(reader: Watcher, stored: Stored) -> None:
    assert reader.text == stored.text
    assert reader.terminal is not None
    assert reader.terminal.sequence == stored.last_sequence
    if stored.state == "COMPLETED":
        assert reader.terminal.finished.reason == resources_pb2.FINISH_REASON_STOP
    else:
        assert reason_of(reader.terminal.failed.error) == "OWNER_LOST"
        assert reader.snapshots == 1


def _shuffled(chance: random.Random, among: Iterable[int]) -> list[int]:
    order = sorted(among)
    chance.shuffle(order)
    return order


async def test_all_readers_end_alike_after_a_kill_at_any_moment(start_cluster):
    print(f"PARLEY_TEST_SEED={SEED}")
    cluster = await start_cluster(lease_s=LEASE_S)
    drill = Drill(cluster, random.Random(SEED))
    began_s = time.monotonic()
    while drill.kills < KILLS:
        await drill.round()
    await until(lambda: _only_the_living(cluster), "the rows of dead replicas are gone", limit_s=10)
    rows = await cluster.rows("SELECT state, count(*) FROM reply GROUP BY 1")
    checkpoints = await cluster.rows("SELECT count(*) FROM checkpoint")
    print(f"{drill.kills} kills in {time.monotonic() - began_s:.0f} s:", dict(sorted(drill.seen.items())))
    print(f"takeover {max(drill.takeovers_s):.2f} s, lost {max(drill.lost_s, default=0):.3f} s at worst", rows)
    assert {state for state, _ in rows} == {"COMPLETED", "FAILED"}
    assert checkpoints == [(0,)]
    assert max(drill.lost_s, default=0) <= LOSS_S
    assert {phase for phase, _, _ in (each.partition(":") for each in drill.seen)} >= set(PHASES)
    assert drill.seen["writing: lost with some text"] > 0
    assert drill.seen["silent: lost with no text"] > 0
    assert [
        each for each in cluster.problems if each["event"] != "lease_expired"
    ] == []  # a busy machine may stand still


async def _only_the_living(cluster: Cluster) -> bool:
    living = {name for index in ALL for name in cluster[index].replicas}
    return {name for (name,) in await cluster.rows("SELECT id FROM replica")} == living


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wired(tmp_path_factory, shared_postgres):
    """Three replicas, the first with proxies on its wires."""
    async with wired_cluster(tmp_path_factory.mktemp("wired"), shared_postgres, lease_s=LEASE_S) as replicas:
        yield replicas


@pytest.mark.asyncio(loop_scope="module")
async def test_a_reader_that_saw_lost_text_gets_a_snapshot(wired):
    """Redis takes nothing from the owner for a while, so that its own reader is ahead of all that is durable."""
    cluster, wire, play = wired.cluster, wired.redis_wire, wired.repertoire.add("lost", 400, pace_s=0.02)
    ahead, behind = Watcher(play.request()), Watcher()
    reading = asyncio.create_task(read_on(cluster, ahead, [A, B, C]))
    await within(LIMIT_S, ahead.has_text.wait())
    behind.reply_id = ahead.reply_id
    following = asyncio.create_task(read_on(cluster, behind, [C, B]))
    await within(LIMIT_S, behind.has_text.wait())
    wire.stall()
    await seen(lambda: len(ahead.text) > len(behind.text) + 100, "the owner's reader is ahead")
    had, cursor, killed_s = ahead.text, ahead.sequence, time.monotonic()
    await cluster.kill9(A)
    ended_s, _ = await asyncio.gather(reading, following)
    stored = await cluster.stored(ahead.reply_id)
    for reader in (ahead, behind):
        _check_reader(reader, stored)
    assert had.startswith(stored.text)
    assert len(stored.text) < len(had)
    assert stored.last_sequence - 1 > cursor
    lost_s = killed_s - play.sent_at(len(stored.text) + 1)
    print(f"without Redis: lost {lost_s:.2f} s, ended after {ended_s - killed_s:.2f} s")
    assert lost_s < CHECKPOINTS_S + LOSS_S

    kept, forwarded = streams_of(cluster, ahead.reply_id), wire.bytes["to_target"]
    await wire.restore()
    await seen(lambda: not wire.connections, "the dead owner's last words have arrived")
    assert wire.bytes["to_target"] > forwarded
    assert streams_of(cluster, ahead.reply_id) == kept, "and are not taken"
    late = Watcher()
    late.reply_id, late.sequence, late.text = ahead.reply_id, cursor, had
    await read_on(cluster, late, [B])
    assert (late.text, late.snapshots, late.terminal) == (stored.text, 1, ahead.terminal)
    await cluster.start(A)


@pytest.mark.asyncio(loop_scope="module")
async def test_without_redis_no_more_is_lost_than_a_checkpoint_holds(wired):
    """It dies together with the owner, and has kept nothing when it is back."""
    cluster, play = wired.cluster, wired.repertoire.add("checkpointed", 400, pace_s=0.02)
    own, other = Watcher(play.request()), Watcher()
    reading = [asyncio.create_task(read_on(cluster, own, [A, B, C]))]
    await within(LIMIT_S, own.has_text.wait())
    other.reply_id = own.reply_id
    reading.append(asyncio.create_task(read_on(cluster, other, [B])))
    checkpoints = "SELECT 1 FROM checkpoint WHERE reply_id = $1"
    await until(lambda: cluster.rows(checkpoints, own.reply_id), "there is a checkpoint")
    await asyncio.sleep(CHECKPOINTS_S / 2)
    killed_s = time.monotonic()
    await asyncio.gather(asyncio.to_thread(cluster.redis.kill9), cluster.kill9(A))
    await asyncio.to_thread(cluster.redis.start)
    ends_s = await asyncio.gather(*reading)
    stored = await cluster.stored(own.reply_id)
    for reader in (own, other):
        _check_reader(reader, stored)
        assert len(stored.text) < reader.length_at(killed_s)
    lost_s = killed_s - play.sent_at(len(stored.text) + 1)
    print(f"Redis lost with the owner: lost {lost_s:.2f} s, ended after {max(ends_s) - killed_s:.2f} s")
    assert stored.error == "OWNER_LOST"
    assert stored.text
    assert lost_s < CHECKPOINTS_S + LOSS_S
    assert max(ends_s) - killed_s < LEASE_S + SWEEP_S + MARGIN_S
    await cluster.start(A)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_replica_that_dies_after_a_takeover_is_replaced(wired):
    """Finalisation is blocked: the owner dies during that, and so does the first replica that takes over."""
    cluster = wired.cluster
    plays = [wired.repertoire.add(f"taken{number}", 20, pace_s=0.001, hold=20) for number in range(5)]
    readers = [Watcher(play.request()) for play in plays]
    reading = asyncio.gather(*(read_on(cluster, each, [A, B, C]) for each in readers))
    await within(LIMIT_S, *(each.has_accepted.wait() for each in readers))
    await within(
        LIMIT_S, *(published(cluster, each.reply_id, play.whole) for each, play in zip(readers, plays, strict=True))
    )
    async with locked(cluster, "usage"):
        plays[0].gate.set()
        await waiting_for_locks(cluster, 1)
        await cluster.kill9(A)
        taken = await until(lambda: _taken_over(cluster), "they are taken over", limit_s=LEASE_S + MARGIN_S)
        assert len(taken) == len(plays), "with the one that the dead owner's transaction had locked"
        (taker,) = {await cluster.owner_of(reply_id) for reply_id in taken}
        await waiting_for_locks(cluster, len(taken))
        killed_s = time.monotonic()
        await cluster.kill9(taker)
    ends_s = await reading
    print(f"taken over twice: ended {max(ends_s) - killed_s:.2f} s after the second kill")
    assert max(ends_s) - killed_s < LEASE_S + SWEEP_S + MARGIN_S
    for play, reader in zip(plays, readers, strict=True):
        stored = await cluster.stored(reader.reply_id)
        _check_reader(reader, stored)
        assert (stored.state, stored.error, stored.epoch) == ("FAILED", "OWNER_LOST", 3)
        assert (stored.text, stored.messages, stored.usages, stored.checkpoints) == (play.whole, 1, 1, 0)
        assert play.asked == 1
    await asyncio.gather(cluster.start(A), cluster.start(taker))


async def _taken_over(cluster: Cluster) -> list[str]:
    return [reply_id for (reply_id,) in await cluster.rows("SELECT id FROM reply WHERE epoch = 2 AND end_time_us = 0")]


async def test_a_takeover_with_the_default_lease_takes_less_than_20_s(start_cluster, upstream):
    repertoire = Repertoire()
    upstream.reply_with(repertoire)
    cluster = await start_cluster(replicas=2, lease_s=12.0)
    play = repertoire.add("real", 20, pace_s=0.001, hold=20)
    own, other = Watcher(play.request()), Watcher()
    reading = [asyncio.create_task(read_on(cluster, own, [A, B]))]
    await within(LIMIT_S, play.held.wait())
    other.reply_id = own.reply_id
    reading.append(asyncio.create_task(read_on(cluster, other, [B])))
    await seen(lambda: other.text == play.whole, "all of it is elsewhere, too")
    killed_s = time.monotonic()
    await cluster.kill9(A)
    ends_s = await asyncio.gather(*reading)
    stored = await cluster.stored(own.reply_id)
    for reader in (own, other):
        _check_reader(reader, stored)
    assert (stored.error, stored.text) == ("OWNER_LOST", play.whole)
    print(f"with the real lease: {max(ends_s) - killed_s:.2f} s")
    assert max(ends_s) - killed_s < 20
