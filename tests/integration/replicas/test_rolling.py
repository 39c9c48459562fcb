"""A rolling restart by SIGTERM: users of the library do not notice it."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter

import grpc
import parley
import pytest
import pytest_asyncio
from parley.v1 import chat_pb2

from tests.cluster import LIMIT_S, Cluster
from tests.integration.process.watching import Watcher, reason_of, text_of
from tests.integration.replicas.faults import seen, within
from tests.integration.replicas.plays import Play, Repertoire, read_on
from tests.integration.served import STREAMING, duration, refused
from tests.processes import until
from tests.services import RedisServer
from tests.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B, C = range(3)
STREAMS = 100
CLIENTS = 5
GRACE_S = 8.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory, shared_postgres):
    """Three replicas with a short grace, and the lease that they have by default."""
    folder = tmp_path_factory.mktemp("rolling")
    limits = {"drain_grace_s": GRACE_S, "drain_pause_s": 0.3}
    with RedisServer(folder / "redis") as redis:
        async with (
            Upstream() as upstream,
            Cluster(folder, shared_postgres, redis, upstream, lease_s=12.0, server=limits) as replicas,
        ):
            yield replicas


@pytest.fixture
def repertoire(cluster):
    """What the upstream answers."""
    made = Repertoire()
    cluster.upstream.reply_with(made)
    return made


class Crowd:
    """Streams of the Python library: when one ends, the next begins, until `stopping` is set."""

    def __init__(self, repertoire: Repertoire) -> None:
        self.repertoire = repertoire
        self.numbers = itertools.count()
        self.stopping = False
        self.open = 0
        self.done = 0
        self.refused: Counter[str] = Counter()
        self.handed_over: Counter[str] = Counter()

    async def run(self, client: parley.Client) -> None:
        """One stream after the other."""
        while not self.stopping:
            number = next(self.numbers)
            await self._read(client, self.repertoire.add(f"s{number}", 12, pace_s=0.15 + number % 10 * 0.01))

    async def _read(self, client: parley.Client, play: Play) -> None:
        stream = client.stream_reply(play.tag)
        self.open += 1
        texts, kinds = [], []
        async for event in stream:
            kinds.append(type(event))
            if isinstance(event, parley.Text):
                texts.append(event.text)
            if isinstance(event, parley.Reconnecting):
                assert isinstance(event.error, parley.Unavailable)
                cuts = self.handed_over if stream.reply_id else self.refused
                cuts[event.error.reason or "lost"] += 1
        self.open -= 1
        self.done += 1
        assert "".join(texts) == play.whole == stream.text == stream.finished.text, "no character lost or repeated"
        assert parley.Snapshot not in kinds
        assert kinds.count(parley.Accepted) == 1
        assert stream.finished.reason == "STOP"
        assert play.asked == 1


async def test_a_rolling_restart_under_a_hundred_streams_is_not_noticed(cluster, repertoire):
    crowd, clients = Crowd(repertoire), [cluster.client() for _ in range(CLIENTS)]
    watchers: list[Watcher] = []
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as reading:
        for client in clients:
            for _ in range(STREAMS // CLIENTS):
                reading.create_task(crowd.run(client))
        for index in range(len(cluster)):
            await seen(lambda: crowd.open == STREAMS, "all streams are open")
            watchers.append(Watcher(repertoire.add(f"watched{index}", 10, pace_s=0.1).request()))
            order = [index, *({A, B, C} - {index})]
            reading.create_task(read_on(cluster, watchers[-1], order, accept=["DRAINING"]))
            await within(LIMIT_S, watchers[-1].has_text.wait())
            assert await cluster.drain(index) == 0
            problems = cluster.problems
            await cluster.start(index)
            assert problems == []
        crowd.stopping = True
    for client in clients:
        await client.close()
    print(f"{crowd.done} streams in {time.monotonic() - began_s:.1f} s", dict(crowd.refused), dict(crowd.handed_over))
    for watcher in watchers:
        assert watcher.text == repertoire.plays[watcher.request.text].whole
        assert (len(watcher.go_aways), watcher.snapshots) == (1, 0)
    assert crowd.refused["DRAINING"] > 0
    assert crowd.handed_over["DRAINING"] > STREAMS // 2
    rows = await cluster.rows("SELECT state, epoch, count(*) FROM reply GROUP BY 1, 2")
    assert rows == [("COMPLETED", 1, crowd.done + len(watchers))]
    assert cluster.calls == crowd.done + len(watchers)
    assert await cluster.rows("SELECT count(*) FROM replica") == [(3,)]
    assert cluster.problems == []


async def test_a_draining_replica_refuses_new_replies_and_serves_running_ones(cluster, repertoire):
    kept = repertoire.add("kept", 20, pace_s=0.001, hold=10)
    reader, late = Watcher(kept.request()), Watcher()
    reading = asyncio.create_task(read_on(cluster, reader, [A, B], accept=["DRAINING"]))
    await within(LIMIT_S, kept.held.wait())
    waits = [
        cluster.chat(A).CreateReply(reader.request, timeout=60),  # attaches to what the same request has started
        cluster.chat(A).PollReply(
            chat_pb2.PollReplyRequest(reply_id=reader.reply_id, after_sequence=60_000, wait=duration(50)), timeout=60
        ),
    ]
    waiting = [asyncio.ensure_future(each) for each in waits]
    await until(lambda: _readers(cluster, A, 3), "all of them wait")
    cluster.begin_drain(A)
    await within(LIMIT_S, reader.has_go_away.wait())
    assert 0 < reader.go_aways[0] <= GRACE_S
    await until(lambda: _readers(cluster, B, 1), "the reader is elsewhere, while the reply goes on here")
    standing, polled = await within(LIMIT_S, *waiting)
    assert (standing.state, text_of(standing)) == (STREAMING, kept.held_text)
    assert (polled.reply.state, list(polled.chunks)) == (STREAMING, [])

    refusal = await refused(cluster.chat(A).CreateReply(repertoire.add("refused", 3).request(), timeout=10))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert refusal.retry_after_s > 0
    repertoire.add("anywhere", 3)
    async with cluster.client(A, B) as client:
        for _ in range(4):  # in turn: at least one of these asks the draining one first
            answer = await client.create_reply("anywhere", request_id="anywhere")
            assert text_of(answer) == repertoire.plays["anywhere"].whole
            assert await cluster.owner_of(answer.id) == B
    assert (repertoire.plays["anywhere"].asked, repertoire.plays["refused"].asked) == (1, 0)

    late.reply_id = reader.reply_id
    staying = asyncio.create_task(read_on(cluster, late, [A]))
    await within(LIMIT_S, late.has_text.wait())
    kept.gate.set()
    assert await cluster[A].exited() == 0
    await within(LIMIT_S, reading, staying)
    stored = await cluster.stored(reader.reply_id)
    for each in (reader, late):
        assert (each.text, each.snapshots) == (kept.whole, 0)
        assert each.terminal.sequence == stored.last_sequence
    assert late.go_aways == [], "who comes during the drain stays"
    assert (stored.state, stored.epoch, kept.asked) == ("COMPLETED", 1, 1)
    await cluster.start(A)


async def _readers(cluster: Cluster, index: int, count: int) -> bool:
    return (await cluster[index].metrics())["parley_readers_active"] == count


async def test_a_drain_while_redis_is_away_loses_no_text(cluster, repertoire):
    """Readers who are sent away can follow it nowhere; they get the whole from the database once it has ended."""
    play = repertoire.add("alone", 100, pace_s=0.02)
    reader = Watcher(play.request())
    reading = asyncio.create_task(read_on(cluster, reader, [A, B], accept=["DRAINING"]))
    await within(LIMIT_S, reader.has_text.wait())
    await asyncio.to_thread(cluster.redis.kill9)
    began_s = time.monotonic()
    assert await cluster.drain(A) == 0
    await within(LIMIT_S, reading)
    print(f"drained without Redis in {time.monotonic() - began_s:.1f} s")
    assert reader.text == play.whole
    stored = await cluster.stored(reader.reply_id)
    assert (stored.state, stored.text, stored.last_sequence) == ("COMPLETED", play.whole, reader.terminal.sequence)
    await asyncio.to_thread(cluster.redis.start)
    await cluster.start(A)


@pytest.mark.parametrize("hurried", [False, True])
async def test_replies_longer_than_the_grace_end_with_their_text(cluster, repertoire, hurried):
    """A second signal ends the grace at once."""
    if hurried:
        plays = [repertoire.add(f"hurried{hold}", 20, pace_s=0.001, hold=hold) for hold in (0, 20)]
    else:
        plays = [repertoire.add("long", 2000, pace_s=0.02)]
    readers = [Watcher(play.request()) for play in plays]
    reading = [asyncio.create_task(read_on(cluster, each, [A, B, C], accept=["DRAINING"])) for each in readers]
    await within(LIMIT_S, *(play.requested.wait() for play in plays), *(each.has_accepted.wait() for each in readers))
    aborts, began_s = len(cluster.upstream.aborts), time.monotonic()
    cluster.begin_drain(A)
    if hurried:
        await within(LIMIT_S, *(each.has_go_away.wait() for each in readers))
        cluster[A].send(signal.SIGTERM)
    assert await cluster[A].exited() == 0
    took_s = time.monotonic() - began_s
    print(f"drained in {took_s:.1f} s")
    assert (took_s < GRACE_S) is hurried
    assert took_s < GRACE_S + 5
    active = await cluster.rows("SELECT count(*) FROM reply WHERE state IN ('PENDING', 'STREAMING')")
    assert active == [(0,)], "nothing waits for a takeover"
    await within(LIMIT_S, *reading)
    for play, each in zip(plays, readers, strict=True):
        stored = await cluster.stored(each.reply_id)
        assert (stored.state, stored.error, stored.epoch) == ("FAILED", "OWNER_LOST", 1)
        assert each.text == stored.text
        assert play.whole.startswith(stored.text)
        assert bool(stored.text) or play.tag == "hurried0"
        assert each.snapshots == 0
        assert reason_of(each.terminal.failed.error) == "OWNER_LOST"
        assert each.terminal.sequence == stored.last_sequence
        assert (stored.messages, stored.usages, stored.checkpoints) == (bool(stored.text), 1, 0)
    await seen(lambda: len(cluster.upstream.aborts) == aborts + len(plays), "the provider's calls are closed")
    await cluster.start(A)
