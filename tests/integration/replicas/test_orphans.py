"""P33: a reply without readers on all replicas is cancelled; one with a reader on any replica is not.

How often a follower says that somebody reads is longer here than a reply may be without readers.
"""

from __future__ import annotations

import asyncio
import time

import pytest
import pytest_asyncio
from parley.v1 import chat_pb2

from tests.cluster import Cluster
from tests.integration.replicas.faults import seen
from tests.integration.replicas.plays import Play, Repertoire
from tests.integration.served import COMPLETED, Watch, ask, reason, text_of
from tests.services import RedisServer
from tests.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B, C = range(3)
LEASE_S = 12.0
HEARTBEAT_S = 1.3
TTL_S = 1.0
BOUND_S = TTL_S + (HEARTBEAT_S + 1.0) + TTL_S
"""Until when it ends: who reads elsewhere tells at each heartbeat, and the owner looks again after its time is up."""
SLACK_S = 1.5
WELL_BEYOND_S = 4 * TTL_S
RECALL_S = 2.0
EPSILON_S = 0.4
CANCEL = chat_pb2.DISCONNECT_POLICY_CANCEL


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory, shared_postgres):
    """Three replicas on a Redis that a test may take away."""
    folder = tmp_path_factory.mktemp("orphans")
    settings = {"relay_heartbeat_s": HEARTBEAT_S, "disconnect_cancel_s": TTL_S}
    with RedisServer(folder / "redis") as redis:
        async with (
            Upstream() as upstream,
            Cluster(folder, shared_postgres, redis, upstream, lease_s=LEASE_S, server=settings) as replicas,
        ):
            yield replicas


@pytest.fixture
def stage(cluster):
    """What the upstream answers."""
    cluster.upstream.aborts.clear()
    return Stage(cluster)


class Stage:
    """Answers that stand still after three words until their gate is opened: only readers keep them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._repertoire = Repertoire()
        cluster.upstream.reply_with(self._repertoire)

    def add(self, tag: str) -> Play:
        """An answer."""
        return self._repertoire.add(tag, 6, hold=3)

    async def read(self, play: Play, index: int, reply_id: str) -> Watch:
        """Somebody reads it at this replica."""
        return await self.cluster.caller(index).resume(reply_id).until_text(play.held_text)

    def aborted_at(self, play: Play) -> float | None:
        """When the provider's call was closed."""
        for abort in self.cluster.upstream.aborts:
            if abort.request is not None and abort.request.json["messages"][-1]["content"] == play.tag:
                return abort.at
        return None

    def runs(self, play: Play) -> bool:
        """Whether the provider's call is open."""
        return self.aborted_at(play) is None

    async def orphaned(self, play: Play, reply_id: str, *, left_at: float) -> float:
        """Check that it is cancelled for want of readers when it should be; how long after the last had left."""
        await seen(lambda: not self.runs(play), f"{play.tag} is cancelled", limit_s=3 * BOUND_S)
        took_s = (self.aborted_at(play) or 0.0) - left_at
        stored = await self.cluster.ended(reply_id)
        assert (stored.state, stored.finish_reason, stored.text) == ("CANCELLED", "ORPHANED", play.held_text)
        assert TTL_S <= took_s < BOUND_S + SLACK_S, (play.tag, took_s)
        for index in (A, B, C):
            late = await self.cluster.caller(index).resume(reply_id).end()
            assert late.terminal.finished.reason == reason("ORPHANED")
        return took_s


def key_of(reply_id: str) -> str:
    """The key of what Redis keeps of a reply."""
    return f"parley:{{{reply_id}}}"


async def leave(watch: Watch) -> float:
    """The reader goes; when."""
    at = time.monotonic()
    watch.call.cancel()
    await watch.end()
    return at


async def test_a_remote_reader_keeps_a_reply_and_the_last_to_leave_ends_it(cluster, stage):
    async def moved(tag: str, **fields: object) -> float:
        """Its first reader leaves its owner, and another one reads through another replica."""
        play = stage.add(tag)
        first = await cluster.caller(A).stream(tag, **fields).until_text(play.held_text)
        other = await stage.read(play, B, first.reply_id)
        await leave(first)
        await asyncio.sleep(WELL_BEYOND_S)
        assert stage.runs(play)
        return await stage.orphaned(play, first.reply_id, left_at=await leave(other))

    async def two_elsewhere(tag: str) -> float:
        play = stage.add(tag)
        created = await cluster.caller(A).create(tag, wait=0, orphan_ttl=TTL_S)
        one, two = [await stage.read(play, index, created.id) for index in (B, C)]
        await leave(one)
        await asyncio.sleep(WELL_BEYOND_S)
        assert stage.runs(play)
        return await stage.orphaned(play, created.id, left_at=await leave(two))

    async def first_read_elsewhere(tag: str) -> float:
        play = stage.add(tag)
        created = await cluster.caller(A).create(tag, wait=0, orphan_ttl=TTL_S)
        await asyncio.sleep(WELL_BEYOND_S)
        assert stage.runs(play)
        return await stage.orphaned(play, created.id, left_at=await leave(await stage.read(play, C, created.id)))

    async def waited_for_elsewhere(tag: str) -> float:
        play, request = stage.add(tag), ask(tag, orphan_ttl=TTL_S)
        first = await Watch(cluster.caller(A).chat.StreamReply(request)).until_text(play.held_text)
        waiting = cluster.caller(C).chat.CreateReply(request)
        await seen(
            lambda: cluster.redis.command("HGET", key_of(first.reply_id), "seen"),
            "the owner has counted the waiting call",
        )
        await leave(first)
        await asyncio.sleep(WELL_BEYOND_S)
        assert stage.runs(play)
        left_at = time.monotonic()
        waiting.cancel()
        return await stage.orphaned(play, first.reply_id, left_at=left_at)

    never_read = stage.add("unread")
    unread = await cluster.caller(A).create("unread", wait=0, orphan_ttl=TTL_S)
    took = await asyncio.gather(
        moved("moved", orphan_ttl=TTL_S),
        moved("policy", on_disconnect=CANCEL),
        two_elsewhere("two"),
        first_read_elsewhere("background"),
        waited_for_elsewhere("waited"),
    )
    print("orphaned", [f"{seconds:.2f} s" for seconds in took], f"after the last had left; {TTL_S:g} s at least")
    never_read.gate.set()
    finished = await cluster.caller(B).resume(unread.id).end()
    assert finished.text == never_read.whole
    assert finished.terminal.finished.reason == reason("STOP")
    assert cluster.problems == []


async def test_a_reader_that_changes_replica_in_time_keeps_the_reply(cluster, stage):
    async def wander(tag: str, *turns: int, **fields: object) -> float:
        play = stage.add(tag)
        watch = await cluster.caller(A).stream(tag, **fields).until_text(play.held_text)
        for index in turns:
            left_at = await leave(watch)
            await asyncio.sleep(left_at + TTL_S - EPSILON_S - time.monotonic())
            watch = await stage.read(play, index, watch.reply_id)
            await asyncio.sleep(0.1)
        return await stage.orphaned(play, watch.reply_id, left_at=await leave(watch))

    await asyncio.gather(
        wander("round", B, A, C, A, B, orphan_ttl=TTL_S),
        wander("faithful", B, B, B, B, B, orphan_ttl=TTL_S),
        wander("policy", C, B, C, C, B, on_disconnect=CANCEL),
    )


async def test_a_poll_at_another_replica_counts_as_a_reader(cluster, stage):
    """For a minute, which the unit tests have; here, for far longer than a reply without readers would live."""

    async def asked(how: str) -> None:
        play = stage.add(how)
        created = await cluster.caller(A).create(how, wait=0, orphan_ttl=TTL_S)
        if how == "poll":
            await cluster.caller(B).poll(created.id, wait=0, gather=0)
        else:
            await cluster.caller(B).get(created.id)
        await asyncio.sleep(BOUND_S + SLACK_S)
        assert stage.runs(play)
        play.gate.set()
        polled = await cluster.caller(B).poll(created.id, wait=10)
        while polled.reply.state != COMPLETED:
            polled = await cluster.caller(B).poll(created.id, after=polled.after_sequence, wait=10)
        assert text_of(polled.reply) == play.whole

    await asyncio.gather(asked("poll"), asked("get"))


@pytest.mark.parametrize("how", ["paused", "stopped"])
async def test_no_reply_is_orphaned_while_redis_is_away(cluster, stage, how):
    """Without Redis the readers are unknown; when it is back, they have time to report themselves."""
    unread, read = stage.add("unread"), stage.add("read")
    left = await cluster.caller(A).stream("unread", orphan_ttl=TTL_S).until_text(unread.held_text)
    created = await cluster.caller(A).create("read", wait=0, orphan_ttl=TTL_S)
    reader = await stage.read(read, B, created.id)
    if how == "paused":
        cluster.redis.pause()
    else:
        await asyncio.to_thread(cluster.redis.stop, "immediate")
    await leave(left)
    await asyncio.sleep(TTL_S + RECALL_S + 1.0)
    assert stage.runs(unread)
    assert stage.runs(read)
    back_at = time.monotonic()
    if how == "paused":
        cluster.redis.resume()
    else:
        await asyncio.to_thread(cluster.redis.start)
    took_s = await stage.orphaned(unread, left.reply_id, left_at=back_at)
    print(f"{how}: orphaned {took_s:.2f} s after Redis was back")
    assert stage.runs(read)
    read.gate.set()
    assert (await reader.end()).text == read.whole
