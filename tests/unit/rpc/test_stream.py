"""A stream stops when the lease ends, even between two chunks, and then continues without a repetition or a gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from parley_server.auth.authenticator import OpenAccess
from parley_server.core.access import Tenants
from parley_server.core.replies.log import MAX_MESSAGE_BYTES
from parley_server.core.replies.service import Replies
from parley_server.errors import Draining, Reason
from parley_server.rpc.call import CallEnvironment, ReplyFailed
from parley_server.rpc.stream import Stream

from tests.clock import settle
from tests.fakes import RecordingObserver
from tests.replicas import LEASE_S, Cluster, Replica
from tests.unit.core.running_reply import RunningReply, start_reply

RENEWAL_S = LEASE_S / 4
HEARTBEAT_S = 5.0


class Client:
    """The client of a call: the messages that it received. `before` is called with each message before it is added."""

    def __init__(self) -> None:
        self.sent: list = []
        self.before: Callable[[object], None] = lambda _: None
        self.blocked: asyncio.Event | None = None

    async def write(self, message) -> None:
        """See `grpc.aio.ServicerContext`."""
        self.before(message)
        if self.blocked is not None and message.WhichOneof("event") == "text":
            await self.blocked.wait()
        self.sent.append(message)

    @property
    def kinds(self) -> list[str]:
        return [message.WhichOneof("event") for message in self.sent]

    @property
    def text(self) -> str:
        return "".join(message.text for message in self.sent)

    @property
    def sequences(self) -> list[int]:
        return [message.sequence for message in self.sent]


class Edges(RecordingObserver):
    """An observer of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.away = 0

    def went_away(self) -> None:
        """See `CallObserver`."""
        self.away += 1


class Streams:
    """The streams of one replica, each with its client."""

    def __init__(self, replica: Replica, replies: Replies) -> None:
        self.replies = replies
        self.observer = Edges()
        self._environment = CallEnvironment(
            authenticator=OpenAccess(frozenset(), Tenants()), observer=self.observer, clock=replica.clock
        )
        self.running: list[asyncio.Task[None]] = []

    def open(self, log, *, after: int = 0, reasoning: bool = False) -> tuple[Client, asyncio.Task[None]]:
        client = Client()
        stream = Stream(client, log, self._environment, after=after, heartbeat_s=HEARTBEAT_S, reasoning=reasoning)
        self.running.append(asyncio.ensure_future(stream.run(self.replies, replayed=False)))
        return client, self.running[-1]

    async def close(self) -> None:
        for stream in self.running:
            stream.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)


@pytest.fixture
async def a(cluster: Cluster) -> Replica:
    return await cluster.join("a", sweeps=False)


@pytest.fixture
async def streams(a: Replica) -> AsyncIterator[Streams]:
    made = Streams(a, a.replies)
    yield made
    await made.close()


@pytest.fixture
async def reply(a: Replica) -> RunningReply:
    return await start_reply(a, "one ")


async def test_a_stream_stops_between_two_chunks_and_continues_there(cluster, a, streams):
    """A batch has chunks of several kinds. The lease expires while the first of them is written."""
    reply = await start_reply(a)
    client, _ = streams.open(reply.log, reasoning=True)
    await settle()
    client.blocked = asyncio.Event()
    await reply.write("one ")
    await reply.write("two ", "(hm)", "three ", "(well)", "four ")
    assert client.kinds == ["accepted"]
    cluster.clock.suspend(LEASE_S)
    client.blocked.set()
    await settle()
    assert client.kinds == ["accepted", "text"]
    await reply.write("five ")
    await settle()
    assert client.text == "one "
    await cluster.advance(RENEWAL_S)
    await reply.write("six", None)
    await a.stored_end(reply.generation)
    await settle()
    assert client.kinds == ["accepted", "text", "text", "reasoning", "text", "reasoning", "text", "text", "finished"]
    assert client.text == "one two three four five six"
    assert client.sequences == [0, 1, 2, 3, 4, 5, 7, 8, 9]


async def test_a_batch_stops_at_the_first_chunk_after_the_fence(cluster, a, streams):
    big = "x" * (MAX_MESSAGE_BYTES // 4)
    reply = await start_reply(a, "one ", "(hm)", big, "(well)", "five")
    client, _ = streams.open(reply.log, reasoning=False)
    seen = 0

    def fence_at_the_second_text(message) -> None:
        nonlocal seen
        seen += message.WhichOneof("event") == "text"
        if seen == 2:
            cluster.clock.suspend(LEASE_S)
            client.before = lambda _: None

    client.before = fence_at_the_second_text
    await settle()
    assert client.sequences == [0, 1, 3]
    await cluster.advance(RENEWAL_S)
    assert client.sequences == [0, 1, 3, 5]
    assert client.text == "one " + big + "five"


async def test_a_fenced_stream_sends_only_heartbeats(cluster, a, streams, reply):
    client, _ = streams.open(reply.log)
    await settle()
    a.store.unavailable = True
    await cluster.advance(LEASE_S)
    await reply.write("two ", "(hm)")
    before = len(client.sent)
    await cluster.advance(3 * HEARTBEAT_S)
    assert client.kinds[before:] == ["heartbeat"] * 3
    assert client.sequences[before:] == [1, 1, 1]
    a.store.unavailable = False
    await cluster.advance(RENEWAL_S)
    assert (client.kinds[-1], client.text) == ("text", "one two ")


async def test_the_sequence_of_heartbeats_never_decreases(cluster, a, streams):
    """Chunks that the reader did not request have sequence numbers as well."""
    reply = await start_reply(a, "one ", "(hm)", "(hm)")
    client, _ = streams.open(reply.log)
    await cluster.advance(HEARTBEAT_S)
    assert client.sequences == [0, 1, 3]

    def fence(message) -> None:
        if message.WhichOneof("event") == "text":
            cluster.clock.suspend(LEASE_S)

    client.before = fence
    await reply.write("four ")
    client.blocked = asyncio.Event()
    await reply.write("five ", "(hm)", "seven ")
    client.blocked.set()
    await settle()
    a.store.unavailable = True
    await cluster.advance(2 * HEARTBEAT_S)
    assert client.sequences == sorted(client.sequences)


async def test_the_stream_of_a_lost_reply_ends_as_the_reply_is_stored(cluster, a, streams, reply):
    client, stream = streams.open(reply.log)
    await settle()
    a.store.unavailable = True
    await cluster.advance(LEASE_S)
    await reply.write("zombie")
    await cluster.expire(a)
    b = Replica(cluster, "b", a.provider.answer)
    cluster.replicas.append(b)
    await cluster.store.hold_lease("b", 3600.0)
    (taken,) = await cluster.store.take_over("b", 10)
    a.store.unavailable = False
    await cluster.advance(RENEWAL_S)
    assert client.text == "one "
    await b.recovery.end_taken_over(taken)
    await cluster.advance(3.0)
    with pytest.raises(ReplyFailed) as failed:
        await stream
    assert failed.value.reason is Reason.OWNER_LOST
    shown = [kind for kind in client.kinds if kind != "heartbeat"]
    assert shown == ["accepted", "text", "snapshot", "failed"]
    stored = await a.stored(reply.id)
    assert client.sequences[-2:] == [stored.last_sequence - 1, stored.last_sequence]


# --- drain


async def test_a_drain_with_other_replicas_redirects_readers(cluster, a, reply):
    streams = Streams(a, a.replies)
    before, leaving = streams.open(reply.log)
    await settle()
    draining = asyncio.ensure_future(streams.replies.drain(20.0))
    await settle()
    with pytest.raises(Draining) as away:
        await leaving
    assert away.value.retry_after_s == 0.0
    assert before.kinds == ["accepted", "text", "go_away"]
    assert before.sent[-1].go_away.time_left.ToTimedelta().total_seconds() == 20.0
    assert before.sent[-1].sequence == 1
    assert streams.observer.away == 1
    during, staying = streams.open(reply.log, after=1)
    await reply.write("two", None)
    await asyncio.wait_for(staying, 5)
    assert during.kinds == ["accepted", "text", "finished"]
    await draining
    await streams.close()


async def test_a_drain_without_other_replicas_only_sends_a_notice(cluster, a, streams, reply):
    a.replies.hands_over = False
    client, stream = streams.open(reply.log)
    await settle()
    draining = asyncio.ensure_future(streams.replies.drain(20.0))
    await settle()
    assert client.kinds == ["accepted", "text", "go_away"]
    await reply.write("two", None)
    await asyncio.wait_for(stream, 5)
    assert client.kinds == ["accepted", "text", "go_away", "text", "finished"]
    await draining
