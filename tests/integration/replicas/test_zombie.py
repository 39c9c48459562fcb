"""An owner that was paused or cut off for longer than its lease changes nothing when it comes back.

One that was away for a shorter time loses nothing.
"""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
import pytest_asyncio
from parley.v1 import resources_pb2

from tests.cluster import LIMIT_S, Cluster
from tests.integration.process.watching import Watcher, error_of, reason_of, text_of
from tests.integration.replicas.faults import (
    Wired,
    end_waiting,
    locked,
    seen,
    streams_of,
    waiting_for_locks,
    wired_cluster,
    within,
)
from tests.integration.replicas.plays import Play, read_on
from tests.integration.served import reason
from tests.processes import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B, C = range(3)
LEASE_S = 2.0
TAKEN_S = LEASE_S + 0.5 + 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wired(tmp_path_factory, shared_postgres):
    """Three replicas, the first with proxies on its wires."""
    async with wired_cluster(tmp_path_factory.mktemp("wired"), shared_postgres, lease_s=LEASE_S) as replicas:
        yield replicas


class Seats:
    """Readers of one play that the first replica generates: one there, one at each of the others."""

    def __init__(self, cluster: Cluster, play: Play) -> None:
        self.cluster = cluster
        self.play = play
        self.own, *self.others = Watcher(play.request()), Watcher(), Watcher()
        self.reading: list[asyncio.Task[float]] = []

    async def taken(self) -> Seats:
        """Once the reply is accepted, and all of them are there."""
        self.reading = [asyncio.create_task(read_on(self.cluster, self.own, [A]))]
        await self.now(self.own.has_accepted)
        for other, index in zip(self.others, (B, C), strict=True):
            other.reply_id = self.own.reply_id
            self.reading.append(asyncio.create_task(read_on(self.cluster, other, [index])))
        return self

    async def now(self, *events: asyncio.Event) -> None:
        """Wait for these. A reader whose call was refused, or is over, says why."""
        waiting = asyncio.gather(*(event.wait() for event in events))
        await within(LIMIT_S, asyncio.wait([waiting, *self.reading], return_when=asyncio.FIRST_COMPLETED))
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait([waiting])
            for task in self.reading:
                if task.done():
                    task.result()
        await waiting

    @property
    def reply_id(self) -> str:
        """Of the reply."""
        return self.own.reply_id

    @property
    def shown(self) -> int:
        """How many texts and snapshots the reader of the owner received."""
        return len(self.own._marks)

    async def have(self, text: str) -> None:
        """Wait until all have exactly this."""
        await seen(lambda: {each.text for each in (self.own, *self.others)} == {text}, f"all have {text!r}")

    async def ended(self) -> None:
        """Once all have the same end: it is the stored one, and no reader has other text."""
        await within(LIMIT_S, *self.reading)
        stored = await self.cluster.stored(self.reply_id)
        for each in (self.own, *self.others):
            assert each.text == stored.text
            assert each.terminal == self.own.terminal
            assert each.terminal.sequence == stored.last_sequence


async def serves_again(wired: Wired, replica: int = A) -> None:
    """It accepts and generates, as soon as it holds a lease again."""
    cluster = wired.cluster
    play = wired.repertoire.add(f"again{len(wired.repertoire.plays)}", 5)
    request = play.request()

    async def answered() -> resources_pb2.Reply | None:
        try:
            return await cluster.chat(replica).CreateReply(request, timeout=10)
        except grpc.aio.AioRpcError as status:
            if reason_of(error_of(status)) != "STORAGE_UNAVAILABLE":
                raise
            return None

    answer = await until(answered, "it accepts", limit_s=5)
    assert text_of(answer) == play.whole
    stored = await cluster.stored(answer.id)
    assert (await cluster.owner_of(answer.id), stored.epoch) == (replica, 1)


async def test_a_paused_owner_resumes_to_the_decided_end(wired):
    cluster, add = wired.cluster, wired.repertoire.add
    written, stopped, silent, ending = [
        await Seats(cluster, add(tag, 40, pace_s=0.001, hold=hold)).taken()
        for tag, hold in (("written", 20), ("stopped", 20), ("silent", 0), ("ending", 40))
    ]
    everyone = (written, stopped, silent, ending)
    await within(LIMIT_S, *(each.play.held.wait() for each in everyone))
    await within(LIMIT_S, *(each.have(each.play.held_text) for each in everyone))
    async with locked(cluster, "usage"):
        ending.play.gate.set()
        await waiting_for_locks(cluster, 1)
        cluster.pause(A)
        paused_s = time.monotonic()

    cancelled = await cluster.caller(C).cancel(stopped.reply_id, reason="enough")
    assert text_of(cancelled) == stopped.play.held_text
    decided = {each.reply_id: await cluster.ended(each.reply_id, limit_s=TAKEN_S) for each in everyone}
    print(f"paused: taken over after {time.monotonic() - paused_s:.2f} s")
    states = [(decided[each.reply_id].state, decided[each.reply_id].text) for each in everyone]
    assert states == [
        ("FAILED", written.play.held_text),
        ("CANCELLED", stopped.play.held_text),
        ("FAILED", ""),
        ("FAILED", ending.play.whole),
    ]
    streams = {each.reply_id: streams_of(cluster, each.reply_id) for each in everyone}
    aborts, shown = len(cluster.upstream.aborts), [each.shown for each in everyone]

    written.play.gate.set()
    await written.play.ended.wait()  # all of it lies before the owner when it wakes up
    cluster.resume(A)
    await within(LIMIT_S, *(each.ended() for each in everyone))
    for each, before in zip(everyone, shown, strict=True):
        assert (each.own.snapshots, each.shown) == (1, before + 1), "it is shown the winner's text alone"
        assert each.play.asked == 1
    for each in (written, silent, ending):
        assert reason_of(each.own.terminal.failed.error) == "OWNER_LOST"
    assert stopped.own.terminal.finished.reason == reason("CANCELLED")
    assert stopped.own.terminal.finished.cancel_reason == "enough"
    await seen(lambda: len(cluster.upstream.aborts) == aborts + 2, "the calls that still ran are closed")
    await serves_again(wired)
    for each in everyone:
        stored = await cluster.stored(each.reply_id)
        assert stored == decided[each.reply_id]
        assert (stored.epoch, stored.messages, stored.checkpoints) == (2, 1 if stored.text else 0, 0)
        assert streams_of(cluster, each.reply_id) == streams[each.reply_id]


async def test_a_paused_taker_is_treated_like_any_owner(wired):
    """It is paused in the midst of its finalisation; the first owner wakes up with a complete answer, and does not get
    in between; the third takes over from both."""
    cluster = wired.cluster
    seats = await Seats(cluster, wired.repertoire.add("passed", 20, pace_s=0.001, hold=20)).taken()
    await seats.have(seats.play.whole)
    async with locked(cluster, "usage"):
        cluster.pause(A)
        seats.play.gate.set()
        await waiting_for_locks(cluster, 1)
        taker = await cluster.owner_of(seats.reply_id)
        assert taker in (B, C)
        cluster.pause(taker)
        await end_waiting(cluster)
    try:
        # The taker's lease ends within a lease, and that is seen within a sweep. The first owner may take over itself
        # once it has been back for a lease: it comes back so much later that it is the third that does.
        await asyncio.sleep(LEASE_S / 2)
        cluster.resume(A)
        stored = await cluster.ended(seats.reply_id, limit_s=TAKEN_S)
        assert (stored.state, stored.epoch, stored.text) == ("FAILED", 3, seats.play.whole)
        assert await cluster.owner_of(seats.reply_id) not in (A, taker)
    finally:
        cluster.resume(taker)
    await seats.ended()
    for each in (A, taker):
        await serves_again(wired, each)
    assert await cluster.stored(seats.reply_id) == stored


async def test_a_pause_within_the_lease_loses_nothing(wired):
    seats = await Seats(wired.cluster, wired.repertoire.add("dozed", 100, pace_s=0.01)).taken()
    await seats.now(*(each.has_text for each in (seats.own, *seats.others)))
    wired.cluster.pause(A)
    await asyncio.sleep(LEASE_S / 3)
    wired.cluster.resume(A)
    await unharmed(seats)


async def test_a_pause_of_all_replicas_loses_nothing(wired):
    """Whoever comes back first gives the others a whole lease in which to come back, too."""
    seats = await Seats(wired.cluster, wired.repertoire.add("suspended", 100, pace_s=0.01)).taken()
    await seats.now(*(each.has_text for each in (seats.own, *seats.others)))
    for index in (A, B, C):
        wired.cluster.pause(index)
    await asyncio.sleep(LEASE_S * 1.2)
    for index in (C, B):
        wired.cluster.resume(index)
    await asyncio.sleep(LEASE_S * 0.4)
    wired.cluster.resume(A)
    await unharmed(seats)


@pytest.mark.parametrize("fault", ["cut", "stall", "isolated"])
async def test_an_owner_without_a_database_shows_nothing_beyond_its_lease(wired, fault):
    cluster = wired.cluster
    seats = await Seats(cluster, wired.repertoire.add(fault, 600, pace_s=0.02)).taken()
    await seats.now(*(each.has_text for each in (seats.own, *seats.others)))
    (incarnation,) = cluster[A].replicas
    aborts = len(cluster.upstream.aborts)
    if fault == "stall":
        wired.postgres_wire.stall()
    else:
        await wired.postgres_wire.cut()
    if fault == "isolated":
        await wired.redis_wire.cut()
    broken_s = time.monotonic()
    ((until_us,),) = await cluster.rows("SELECT lease_until_us FROM replica WHERE id = $1", incarnation)
    expires_s = time.monotonic() + until_us / 1e6 - time.time()
    stored = await cluster.ended(seats.reply_id, limit_s=TAKEN_S)
    taken_s = time.monotonic()
    had, shown = seats.own.text, seats.shown
    assert (stored.state, stored.error, stored.epoch) == ("FAILED", "OWNER_LOST", 2)
    assert seats.play.whole.startswith(stored.text)
    shown_s = seats.own.time_of(len(had))
    print(f"{fault}: shown for {shown_s - broken_s:.2f} s, lease for {expires_s - broken_s:.2f} s more")
    assert broken_s + LEASE_S / 4 < shown_s < expires_s < taken_s
    assert not seats.reading[0].done(), "its own reader waits"
    streams = streams_of(cluster, seats.reply_id)
    assert len(cluster.upstream.aborts) == aborts, "it generates on"

    await wired.postgres_wire.restore()
    await wired.redis_wire.restore()
    await seats.ended()
    assert (seats.own.snapshots, seats.shown) == (1, shown + 1), "it is shown the winner's text alone"
    assert had.startswith(stored.text) or stored.text.startswith(had)
    assert fault != "isolated" or len(stored.text) < len(had), "that text was lost"
    await seen(lambda: len(cluster.upstream.aborts) == aborts + 1, "its call is closed")
    await serves_again(wired)
    assert await cluster.stored(seats.reply_id) == stored
    assert streams_of(cluster, seats.reply_id) == streams


@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_a_database_that_was_away_for_less_than_the_lease_costs_nothing(wired, fault):
    """One reply goes on over it, the other ends meanwhile."""
    cluster, wire = wired.cluster, wired.postgres_wire
    going = await Seats(cluster, wired.repertoire.add(f"going-{fault}", 100, pace_s=0.02)).taken()
    ending = await Seats(cluster, wired.repertoire.add(f"short-{fault}", 20, pace_s=0.001, hold=10)).taken()
    await ending.have(ending.play.held_text)
    if fault == "stall":
        wire.stall()
    else:
        await wire.cut()
    ending.play.gate.set()
    await asyncio.sleep(LEASE_S / 3)
    await wire.restore()
    for seats in (going, ending):
        await unharmed(seats)
    await serves_again(wired)


async def unharmed(seats: Seats) -> None:
    """It ends as if nothing had been."""
    await seats.ended()
    stored = await seats.cluster.stored(seats.reply_id)
    assert (stored.state, stored.epoch, stored.text) == ("COMPLETED", 1, seats.play.whole)
    assert [each.snapshots for each in (seats.own, *seats.others)] == [0, 0, 0]
    assert (stored.messages, stored.usages, stored.checkpoints, seats.play.asked) == (1, 1, 0, 1)
