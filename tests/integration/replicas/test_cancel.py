"""P13, P14, P16, P17, G9: a reply of one replica is cancelled, interrupted and erased through every other."""

import asyncio
import socket
import statistics
import time
from collections import Counter
from contextlib import AsyncExitStack

import grpc
import pytest
import pytest_asyncio
from parley.v1 import chat_pb2

from tests.cluster import Cluster
from tests.integration.replicas.faults import locked, waiting_for_locks
from tests.integration.replicas.plays import Repertoire
from tests.integration.replicas.reading import aborted
from tests.integration.served import CANCELLED, COMPLETED, LIMIT_S, Refusal, ask, reason, text_of
from tests.processes import until
from tests.proxy import Proxy
from tests.services import RedisServer
from tests.upstream import Hang, Script, Upstream, answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B, C = range(3)
LEASE_S = 2.0
FAST_S = 0.25
SLOW_S = 1.0  # where the machine has something else to do for a moment
MEASURED = 20
HEARTBEAT_S = LEASE_S / 4
NOWHERE = """
[providers.nowhere]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
[models.nowhere]
provider = "nowhere"
name = "nowhere"
"""


@pytest.fixture(scope="module")
def deaf_port():
    """A port where a connection neither opens nor fails: its backlog is full."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wire(tmp_path_factory):
    """The way to a Redis of these tests' own."""
    with RedisServer(tmp_path_factory.mktemp("cancels-redis")) as redis:
        async with Proxy(redis.port) as proxy:
            proxy.redis = redis
            yield proxy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory, shared_postgres, wire, deaf_port):
    """Three replicas that all tests share."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream())
        folder, ports = tmp_path_factory.mktemp("cancels"), dict.fromkeys(range(3), wire.port)
        options = {"lease_s": LEASE_S, "redis_ports": ports, "toml": NOWHERE.format(port=deaf_port)}
        yield await stack.enter_async_context(Cluster(folder, shared_postgres, wire.redis, upstream, **options))


@pytest.fixture
def upstream(cluster):
    """The provider, limited to the calls of this test."""
    cluster.upstream.requests.clear()
    cluster.upstream.aborts.clear()
    cluster.upstream.aborted.clear()
    return cluster.upstream


@pytest.fixture
def repertoire(upstream):
    """Answers by their tags."""
    plays = Repertoire()
    upstream.reply_with(plays)
    return plays


async def begun(cluster, repertoire, tag, *, at=A, **fields):
    """A reply of this replica, which stands still within its text."""
    play = repertoire.add(tag, 6, hold=3)
    watch = await cluster.caller(at).stream(tag, **fields).until_text(play.held_text)
    return play, watch


async def test_a_cancel_through_any_replica_stops_the_provider_at_once(cluster, repertoire, upstream):
    delays = []
    kinds = ("reply_id", "conversation_id", "request_id")
    for number in range(MEASURED):
        tag, request_id = f"cut{number}", f"request-{number}"
        play, watch = await begun(cluster, repertoire, tag, request_id=request_id)
        names = {
            "reply_id": watch.reply_id,
            "conversation_id": watch.conversation_id,
            "request_id": request_id,
        }
        kind = kinds[number % 3]
        asked_at = time.monotonic()
        cancelled = await cluster.caller(B + number % 2).cancel(**{kind: names[kind]}, reason="enough")
        delays.append(await aborted(upstream, tag) - asked_at)
        assert (cancelled.state, cancelled.cancel_reason, text_of(cancelled)) == (CANCELLED, "enough", play.held_text)
        play.gate.set()
        await watch.end()
        assert watch.text == play.held_text
        assert watch.terminal.finished.reason == reason("CANCELLED")
        stored = await cluster.stored(watch.reply_id)
        assert (stored.state, stored.text, stored.messages, stored.usages) == ("CANCELLED", play.held_text, 1, 1)
        after = repertoire.add(f"after{number}", 1)
        following = await cluster.caller(C - number % 2).create(after.tag, conversation_id=watch.conversation_id)
        assert text_of(following) == after.whole
    print(f"cancel elsewhere: median {statistics.median(delays) * 1000:.1f} ms, worst {max(delays) * 1000:.1f} ms")
    assert sorted(delays)[-2] < FAST_S
    assert max(delays) < SLOW_S


@pytest_asyncio.fixture(loop_scope="module")
async def deaf(cluster, wire):
    """Nobody may subscribe, and who had is cut off."""
    verbs = ("subscribe", "psubscribe", "ssubscribe")
    wire.redis.command("ACL", "SETUSER", "default", *(f"-{verb}" for verb in verbs))
    wire.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
    yield
    wire.redis.command("ACL", "SETUSER", "default", *(f"+{verb}" for verb in verbs))
    await well_again(cluster, wire)


async def well_again(cluster, wire):
    """All replicas listen, and publish."""

    async def connected():
        clients = str(await asyncio.to_thread(wire.redis.command, "CLIENT", "LIST")).splitlines()
        listening = [each for each in clients if "name=parley-subscribe" in each and " sub=0 " not in each]
        publishing = [each for each in clients if "name=parley-publish" in each]
        return len(listening) == len(publishing) == len(cluster)

    await until(connected, "all replicas are at Redis again")


async def test_without_pubsub_the_owner_sees_a_cancel_at_its_next_append_or_heartbeat(
    cluster, upstream, repertoire, wire, deaf
):
    """Nobody may subscribe: nothing that is published is heard."""
    play, watch = await begun(cluster, repertoire, "silent")
    other = await cluster.caller(C).resume(watch.reply_id).until_text(play.held_text)  # no append is under way
    asked_at = time.monotonic()
    cancelled = await cluster.caller(B).cancel(watch.reply_id)
    by_heartbeat_s = await aborted(upstream, "silent") - asked_at
    assert (cancelled.state, text_of(cancelled)) == (CANCELLED, play.held_text)
    await asyncio.gather(watch.end(), other.end())
    assert watch.terminal == other.terminal

    flowing = repertoire.add("flowing", 2000, pace_s=0.01)
    watch = cluster.caller(A).stream("flowing")
    async with asyncio.timeout(LIMIT_S):
        await flowing.spoke.wait()
    asked_at = time.monotonic()
    await cluster.caller(B).cancel((await watch.accepted()).reply_id)
    by_append_s = await aborted(upstream, "flowing") - asked_at
    await watch.end()
    print(f"without pub/sub: {by_heartbeat_s * 1000:.0f} ms in silence, {by_append_s * 1000:.0f} ms in a flow of text")
    assert by_heartbeat_s < HEARTBEAT_S + SLOW_S
    assert by_append_s < SLOW_S


async def test_without_redis_the_owner_sees_a_cancel_at_its_lease_renewal(cluster, upstream, repertoire, wire):
    play, watch = await begun(cluster, repertoire, "alone")
    await wire.cut()
    try:
        asked_at = time.monotonic()
        cancelled = await cluster.caller(B).cancel(watch.reply_id)
        by_lease_s = await aborted(upstream, "alone") - asked_at
        assert (cancelled.state, text_of(cancelled)) == (CANCELLED, play.held_text)
        await watch.end()
        assert watch.text == play.held_text
    finally:
        await wire.restore()
        await well_again(cluster, wire)
    print(f"without Redis: {by_lease_s * 1000:.0f} ms")
    assert by_lease_s < LEASE_S / 4 + SLOW_S


async def test_a_cancel_while_the_provider_connects(cluster, repertoire):
    watch = cluster.caller(A).stream("connecting", model="nowhere")
    reply_id = (await watch.accepted()).reply_id
    asked_at = time.monotonic()
    cancelled = await cluster.caller(B).cancel(reply_id)
    assert time.monotonic() - asked_at < 1.0
    assert (cancelled.state, cancelled.HasField("message")) == (CANCELLED, False)
    await watch.end()
    assert watch.terminal.finished.reason == reason("CANCELLED")
    play = repertoire.add("connected", 3)
    assert text_of(await cluster.caller(C).create(play.tag, conversation_id=watch.conversation_id)) == play.whole


async def test_a_cancel_while_the_end_is_stored(cluster, repertoire):
    """The end has won: every cancel returns it."""
    play = repertoire.add("ending", 3, hold=3)
    watch = await cluster.caller(A).stream(play.tag).until_text(play.whole)
    async with locked(cluster, "usage"):
        play.gate.set()
        await waiting_for_locks(cluster, 1)
        cancelling = [asyncio.create_task(cluster.caller(index).cancel(watch.reply_id)) for index in (B, C, B)]
        await waiting_for_locks(cluster, 4)
    for cancelled in await asyncio.gather(*cancelling):
        assert (cancelled.state, text_of(cancelled)) == (COMPLETED, play.whole)
    await watch.end()
    assert watch.terminal.finished.reason == reason("STOP")
    stored = await cluster.stored(watch.reply_id)
    assert (stored.state, stored.messages, stored.usages) == ("COMPLETED", 1, 1)


@pytest.mark.parametrize("moment", ["before the provider answers", "before the first token", "in mid-text"])
async def test_a_cancel_in_every_phase(cluster, repertoire, upstream, moment):
    if moment == "before the provider answers":
        upstream.reply_with(Script(before_head=[Hang()]))
        watch = cluster.caller(A).stream("phase")
        await watch.accepted()
    elif moment == "before the first token":
        play = repertoire.add("phase", 3, first_s=60.0)
        watch = cluster.caller(A).stream("phase")
        await watch.accepted()
        async with asyncio.timeout(LIMIT_S):
            await play.requested.wait()
    else:
        _, watch = await begun(cluster, repertoire, "phase")
    cancelled = await cluster.caller(C).cancel((await watch.accepted()).reply_id)
    assert cancelled.state == CANCELLED
    await watch.end()
    assert watch.terminal.finished.reason == reason("CANCELLED")
    async with asyncio.timeout(5):
        await upstream.aborted.wait()
    upstream.reply_with(answer("next"))
    assert text_of(await cluster.caller(B).create("go on", conversation_id=watch.conversation_id)) == "next"


async def test_fifty_concurrent_cancels_return_the_same_result(cluster, repertoire):
    play, watch = await begun(cluster, repertoire, "many")
    answers = await asyncio.gather(
        *(cluster.caller(number % 3).cancel(watch.reply_id, reason=f"number {number}") for number in range(50))
    )
    await watch.end()
    assert len({each.SerializeToString(deterministic=True) for each in answers}) == 1
    assert (answers[0].state, text_of(answers[0])) == (CANCELLED, play.held_text)
    again = await cluster.caller(C).cancel(watch.reply_id, reason="late")
    assert again.cancel_reason == answers[0].cancel_reason


async def test_a_cancel_concurrent_with_the_end(cluster, repertoire):
    """Every caller gets the same result, whichever wins."""

    async def one(number):
        play = repertoire.add(f"race{number}", 4, pace_s=0.001, hold=2)
        watch = await cluster.caller(A).stream(play.tag).until_text(play.held_text)
        other = cluster.caller(B).resume(watch.reply_id)
        await other.accepted()
        if number < 10:
            play.gate.set()
        cancelling = asyncio.create_task(cluster.caller(C).cancel(watch.reply_id))
        await asyncio.sleep(0.002 * number)
        play.gate.set()
        cancelled = await cancelling
        await asyncio.gather(watch.end(), other.end())
        stored = await cluster.stored(watch.reply_id)
        assert watch.terminal == other.terminal
        assert watch.text == other.text == stored.text == text_of(cancelled)
        assert stored.state == ("COMPLETED" if cancelled.state == COMPLETED else "CANCELLED")
        assert (watch.terminal.sequence, stored.usages) == (stored.last_sequence, 1)
        return stored.state

    states = Counter()
    for start in range(0, 60, 10):
        states.update(await asyncio.gather(*(one(number) for number in range(start, start + 10))))
    assert set(states) == {"COMPLETED", "CANCELLED"}, states


async def test_an_interrupt_at_another_replica(cluster, repertoire, upstream):
    play, watch = await begun(cluster, repertoire, "first")
    second = repertoire.add("second", 3)
    request = ask("second", conversation_id=watch.conversation_id, concurrency=chat_pb2.CONCURRENCY_POLICY_INTERRUPT)
    created = await cluster.caller(B).chat.CreateReply(request, timeout=LIMIT_S)
    await watch.end()
    assert watch.terminal.finished.reason == reason("INTERRUPTED")
    assert (watch.text, text_of(created)) == (play.held_text, second.whole)
    shown = upstream.requests[-1].json["messages"]
    assert [each["content"] for each in shown[-3:]] == ["first", play.held_text, "second"]


async def test_a_paused_owner_that_wakes_is_cancelled_once(cluster, repertoire):
    """P16: the cancel was stored while the owner was paused, for less than its lease."""
    play, watch = await begun(cluster, repertoire, "paused")
    cluster.pause(A)
    cancelling = asyncio.create_task(cluster.caller(B).cancel(watch.reply_id, reason="while it stood still"))
    await until(lambda: _cancel_requested(cluster, watch.reply_id), "the cancel request is stored")
    cluster.resume(A)
    play.gate.set()
    cancelled = await cancelling
    await watch.end()
    stored = await cluster.stored(watch.reply_id)
    assert (cancelled.state, stored.state, stored.messages, stored.usages) == (CANCELLED, "CANCELLED", 1, 1)
    assert cancelled.cancel_reason == "while it stood still"
    assert watch.terminal.finished.reason == reason("CANCELLED")
    assert watch.text == stored.text


async def _cancel_requested(cluster, reply_id):
    return (await cluster.stored(reply_id)).cancel_requested


async def test_fifty_requests_on_one_conversation_over_all_replicas(cluster):
    """P13."""
    conversation = await cluster.caller(A).new_conversation()
    slow = '/script {"text": "mine", "first_token_delay_s": 2}'
    fields = {"conversation_id": conversation.id, "model": "scripted"}
    watches = [cluster.caller(number % 3).stream(slow, **fields) for number in range(50)]
    await asyncio.gather(*(watch.end() for watch in watches))
    refused = [watch for watch in watches if watch.error is not None]
    accepted = [watch for watch in watches if watch.error is None]
    assert (len(accepted), len(refused)) == (1, 49)
    for watch in refused:
        refusal = Refusal(watch.error)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "REPLY_IN_PROGRESS")
        assert refusal.info.metadata["reply_id"] == accepted[0].reply_id
    count = "SELECT count(*) FROM reply WHERE conversation_id = $1"
    assert await cluster.rows(count, conversation.id) == [(1,)]


async def test_one_request_fifty_times_over_all_replicas_is_generated_once(cluster, repertoire):
    play = repertoire.add("once", 20, pace_s=0.02)
    watches = [cluster.caller(number % 3).stream("once", request_id="the-same") for number in range(50)]
    await asyncio.gather(*(watch.end() for watch in watches))
    assert {watch.text for watch in watches} == {play.whole}
    assert len({watch.reply_id for watch in watches}) == 1
    assert len({watch.terminal.SerializeToString() for watch in watches}) == 1
    assert play.asked == 1


async def test_an_erasure_reaches_every_replica(cluster, repertoire, upstream):
    play, watch = await begun(cluster, repertoire, "erased")
    readers = [cluster.caller(index).resume(watch.reply_id) for index in (B, C)]
    for reader in readers:
        await reader.until_text(play.held_text)
    await cluster.caller(C).delete(watch.conversation_id)
    await aborted(upstream, "erased")
    for reader in (watch, *readers):
        await reader.end()
        assert reader.text == play.held_text
    for index in (A, B, C):

        async def gone(index=index):
            try:
                await cluster.caller(index).get(watch.reply_id)
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.NOT_FOUND
            return False

        await until(gone, "it is known nowhere")
    play.gate.set()
    assert await cluster.stored(watch.reply_id) is None

    async def no_stream():
        return cluster.redis.command("KEYS", f"*{watch.reply_id}*:log:*") == []

    await until(no_stream, "Redis has no text of it")
