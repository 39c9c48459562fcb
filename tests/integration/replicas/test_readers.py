"""P30 to P32, P40, G1 to G3: many readers of replies of other replicas: their text is exact, and their cost bounded."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter

import pytest
import pytest_asyncio
from parley.v1 import chat_pb2, chat_pb2_grpc

from tests.cluster import LIMIT_S, Cluster
from tests.integration.process.watching import Watcher, script, words
from tests.integration.replicas.faults import seen, streams_of
from tests.integration.replicas.newer import Newer
from tests.integration.replicas.plays import Play, Repertoire
from tests.integration.served import COMPLETED, Watch, ask, text_of
from tests.processes import open_channel, until
from tests.services import RedisServer
from tests.upstream import Pause, Script, Upstream, Wait, done, finish, role, text

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B, C = ALL = range(3)
LEASE_S = 12.0
PARTS = ("ask", "publish", "subscribe")
POSTGRES_CONNECTIONS = 9
REPLIES, READERS, CHANNELS = 50, 10, 5
STORM_S = 2.0
TOKENS = 8192
MIB = 1024 * 1024
WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory, shared_postgres):
    """Three replicas on a Redis of their own."""
    folder = tmp_path_factory.mktemp("readers")
    with RedisServer(folder / "redis") as redis:
        async with Upstream() as upstream, Cluster(folder, shared_postgres, redis, upstream, lease_s=LEASE_S) as made:
            yield made


@pytest.fixture
def repertoire(cluster):
    """What the upstream answers."""
    made = Repertoire()
    cluster.upstream.reply_with(made)
    return made


@pytest_asyncio.fixture(loop_scope="module")
async def channels(cluster):
    """Some connections to each replica."""
    made = [[open_channel(cluster[index].address) for _ in range(CHANNELS)] for index in ALL]
    yield [[chat_pb2_grpc.ChatStub(channel) for channel in some] for some in made]
    await asyncio.gather(*(channel.close() for some in made for channel in some))


# --- what they cost


def redis_connections(cluster: Cluster) -> Counter[str]:
    """The replicas' connections by name."""
    return Counter(re.findall(r" name=(parley-\S+)", str(cluster.redis.command("CLIENT", "LIST"))))


async def postgres_connections(cluster: Cluster) -> dict[str, int]:
    """The replicas' connections by name."""
    counted = "SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = $1"
    query = f"{counted} AND pid <> pg_backend_pid() GROUP BY 1"
    return dict(await cluster.rows(query, cluster.database))


def followed(cluster: Cluster) -> Counter[int]:
    """The number of replies by how many replicas subscribe to them."""
    channels = cluster.redis.command("PUBSUB", "CHANNELS", "parley:{*")
    return Counter(cluster.redis.command("PUBSUB", "NUMSUB", *channels)[1::2])


async def counts_readers(cluster: Cluster, count: int) -> bool:
    """Whether all replicas together have so many."""
    return sum([(await cluster[index].metrics())["parley_readers_active"] for index in ALL]) == count


class RemoteReply(Watcher):
    """Reads a reply in the background, from where another has come to; when it had all that was said by then."""

    def __init__(self, play: Play, reply_id: str, chat: chat_pb2_grpc.ChatStub, *, at: Watcher | None = None) -> None:
        super().__init__()
        self.play = play
        self.reply_id = reply_id
        if at is not None:
            self.sequence, self.text = at.sequence, at.text
        self.served_at = 0.0
        self.reading = asyncio.create_task(self.resume(chat))

    def _take(self, chunk: chat_pb2.TokenChunk) -> None:
        super()._take(chunk)
        if not self.served_at and self.text.startswith(self.play.held_text):
            self.served_at = time.monotonic()


async def test_five_hundred_readers_at_other_replicas(cluster, repertoire, channels):
    plays = [repertoire.add(f"reply{number}", 24, pace_s=0.05, hold=12) for number in range(REPLIES)]
    created = [await cluster.caller(number % 3).create(play.tag, wait=0) for number, play in enumerate(plays)]
    before = redis_connections(cluster)
    assert sorted(before.values()) == [1] * len(ALL) * len(PARTS), before

    def everybody(away: int, former: list[RemoteReply]) -> list[RemoteReply]:
        """So many readers of each reply, at the next replica but so many."""
        seats = itertools.product(range(REPLIES), range(READERS))
        return [
            RemoteReply(
                plays[number],
                created[number].id,
                channels[(number + away) % 3][reader % CHANNELS],
                at=former[number * READERS + reader] if former and reader % 2 else None,
            )
            for number, reader in seats
        ]

    first = everybody(1, [])
    await seen(lambda: all(each.served_at for each in first), "all have what was said")
    assert (redis_connections(cluster), followed(cluster)) == (before, {1: REPLIES})
    for each in first:
        each.reading.cancel()
    await asyncio.gather(*(each.reading for each in first), return_exceptions=True)

    stormed_at = time.monotonic()
    second = everybody(2, first)
    await seen(lambda: all(each.served_at for each in second), "all have it again")
    took = sorted(each.served_at - stormed_at for each in second)
    print(f"{len(took)} come back at once: median {took[len(took) // 2]:.2f} s, worst {took[-1]:.2f} s")
    assert (redis_connections(cluster), followed(cluster)) == (before, {2: REPLIES})
    postgres = await postgres_connections(cluster)
    await until(lambda: counts_readers(cluster, len(second)), "who has left is forgotten")
    print(f"connections: {sum(before.values())} to Redis, {postgres} to PostgreSQL")
    for play in plays:
        play.gate.set()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*(each.reading for each in second))
    for number, (play, reply) in enumerate(zip(plays, created, strict=True)):
        stored = await cluster.stored(reply.id)
        assert (stored.state, stored.text) == ("COMPLETED", play.whole)
        for each in second[number * READERS : (number + 1) * READERS]:
            assert (each.text, each.snapshots) == (play.whole, 0)
            assert each.terminal == second[number * READERS].terminal
            assert each.terminal.sequence == stored.last_sequence
    assert (redis_connections(cluster), followed(cluster)) == (before, {})
    assert max(postgres.values()) <= POSTGRES_CONNECTIONS
    assert took[-1] < STORM_S
    assert cluster.problems == []


def keys_of(cluster: Cluster, reply_id: str) -> list[str]:
    """All that Redis has of a reply."""
    return sorted(cluster.redis.command("KEYS", f"parley:{{{reply_id}}}*"))


async def said(cluster: Cluster, index: int, count: int) -> str:
    """The id of a reply of so many words, which has ended here and in Redis."""
    created = await cluster.caller(index).create(script(words("word", count), delay_s=0), model="scripted")
    assert created.state == COMPLETED
    await ended_everywhere(cluster, created.id)
    return created.id


def times_to_live(cluster: Cluster, reply_id: str) -> list[float]:
    """Of all its keys, in seconds."""
    keys = keys_of(cluster, reply_id)
    assert len(keys) == 2, keys
    return [cluster.redis.command("PTTL", key) / 1000 for key in keys]


async def test_what_redis_keeps_of_a_reply(cluster, shared_postgres, tmp_path):
    reply_id = await said(cluster, A, TOKENS)
    assert all(590 < left_s <= 600 for left_s in times_to_live(cluster, reply_id))
    taken = sum(cluster.redis.command("MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys_of(cluster, reply_id))
    (entries,) = streams_of(cluster, reply_id).values()
    print(f"{taken} bytes of Redis' memory for {TOKENS} tokens in {len(entries)} entries")
    assert taken < MIB
    server = {"relay_retention_s": 60}
    async with Cluster(
        tmp_path, shared_postgres, cluster.redis, cluster.upstream, replicas=1, lease_s=LEASE_S, server=server
    ) as brief:
        reply_id = await said(brief, A, 10)
        assert all(55 < left_s <= 60 for left_s in times_to_live(brief, reply_id))


async def test_traffic_to_redis_grows_linearly_with_the_text(cluster):
    def received() -> int:
        return int(cluster.redis.command("INFO", "stats")["total_net_input_bytes"])

    sent = []
    for count in (4000, 8000):
        before = received()
        await said(cluster, A, count)
        sent.append((received() - before) / len(words("word", count)))
    print("bytes to Redis per byte of text:", [round(each, 2) for each in sent])
    assert sent[1] <= 1.15 * sent[0]
    assert max(sent) < 4


# --- where a reader may come in


async def test_polls_through_alternating_replicas_add_up(cluster, repertoire):
    play = repertoire.add("polled", 100, pace_s=0.01)
    created = await cluster.caller(A).create("polled", wait=0)

    async def poll(turns: tuple[int, ...]) -> str:
        whole, cursor = "", 0
        for index in itertools.cycle(turns):
            polled = await cluster.caller(index).poll(created.id, after=cursor, wait=5, gather=0.05)
            assert all(chunk.sequence > cursor for chunk in polled.chunks)
            whole += "".join(chunk.text for chunk in polled.chunks)
            cursor = polled.after_sequence
            if polled.reply.state == COMPLETED:
                return whole
        raise AssertionError

    async with asyncio.timeout(LIMIT_S):
        texts = await asyncio.gather(*(poll(turns) for turns in itertools.permutations(ALL)), poll((B, C)), poll((C,)))
    assert set(texts) == {play.whole}


class Truth:
    """What each cursor has left to read of a reply, by what its owner has published: one entry for each number."""

    def __init__(self, cluster: Cluster, reply_id: str, whole: str) -> None:
        (entries,) = streams_of(cluster, reply_id).values()
        values = [fields["e"] for _, fields in entries]
        self.last = len(values)
        self._lengths = [0, *itertools.accumulate(len(value) - 1 if value[:1] == "t" else 0 for value in values)]
        self._whole = whole

    def after(self, cursor: int) -> str:
        """The text behind a cursor."""
        return self._whole[self._lengths[min(cursor, self.last)] :]


async def ended_everywhere(cluster: Cluster, reply_id: str) -> None:
    """Wait until its end is in Redis."""
    await seen(lambda: cluster.redis.command("HGET", f"parley:{{{reply_id}}}", "ended"), "its end is in Redis")


async def check_tails(cluster: Cluster, reply_id: str, whole: str, *indices: int) -> None:
    """Through these replicas, every cursor has its exact tail, without a snapshot."""
    truth, stored = Truth(cluster, reply_id, whole), await cluster.stored(reply_id)
    assert truth.last == stored.last_sequence - 1
    turns = itertools.product(indices, range(stored.last_sequence + 1))
    tails = [(cursor, cluster.caller(index).resume(reply_id, after=cursor)) for index, cursor in turns]
    for cursor, tail in tails:
        await tail.end()
        assert (tail.text, "snapshot" in tail.kinds) == (truth.after(cursor), False)
        assert tail.terminal.sequence == stored.last_sequence


async def test_resuming_at_any_cursor_through_any_replica(cluster, repertoire):
    play = repertoire.add("running", 12, hold=8)
    first = await cluster.caller(A).stream("running").until_text(play.held_text)
    reply_id, standing = first.reply_id, first.sequence
    await seen(lambda: Truth(cluster, reply_id, "").last == standing, "all that was said is published")
    truth = Truth(cluster, reply_id, play.held_text)
    turns = itertools.product(ALL, range(standing + 3))
    tails = [(cursor, cluster.caller(index).resume(reply_id, after=cursor)) for index, cursor in turns]
    for cursor, tail in tails:
        await tail.until(lambda watch, cursor=cursor: watch.chunks and watch.text == truth.after(cursor))
    play.gate.set()
    await first.end()
    await ended_everywhere(cluster, reply_id)
    truth = Truth(cluster, reply_id, play.whole)
    for cursor, tail in tails:
        await tail.end()
        assert (tail.text, "snapshot" in tail.kinds) == (truth.after(cursor), False)
        assert tail.terminal == first.terminal
    await check_tails(cluster, reply_id, play.whole, *ALL)


async def test_resuming_after_the_end_at_a_replica_that_never_read_it(cluster, repertoire):
    play = repertoire.add("over", 12)
    first = await cluster.caller(A).stream("over").end()
    await ended_everywhere(cluster, first.reply_id)
    await check_tails(cluster, first.reply_id, play.whole, B, C)
    for index in ALL:
        beyond = await cluster.caller(index).resume(first.reply_id, after=1000).end()
        assert (beyond.kinds, beyond.text) == (["accepted", "snapshot", "finished"], play.whole)


async def test_resuming_after_redis_has_forgotten(cluster, repertoire):
    play = repertoire.add("forgotten", 12)
    first = await cluster.caller(A).stream("forgotten").end()
    await ended_everywhere(cluster, first.reply_id)
    cluster.redis.command("DEL", *keys_of(cluster, first.reply_id))
    last = first.terminal.sequence
    for index, cursor in itertools.product((B, C), range(last + 1)):
        late = await cluster.caller(index).resume(first.reply_id, after=cursor).end()
        end = first.terminal
        assert late.terminal == end
        assert late.kinds[1:-1] == (["snapshot"] if cursor < last - 1 else [])
        assert late.text == (play.whole if cursor < last - 1 else "")


async def test_a_slow_remote_reader_delays_no_other(cluster):
    piece, count, bursts, start = "0123456789abcde " * 32, 100, 30, asyncio.Event()
    whole = piece * count * bursts
    burst = [*[text(piece) for _ in range(count)], Pause(0.06)]  # longer than what is published together
    cluster.upstream.reply_with(Script([role(), Wait(start), *burst * bursts, finish(), done()]))
    first = cluster.caller(A).stream("at length")
    reply_id = (await first.accepted()).reply_id
    async with open_channel(cluster[B].address, options=WINDOW) as channel:
        slow = chat_pb2_grpc.ChatStub(channel).ResumeReply(chat_pb2.ResumeReplyRequest(reply_id=reply_id))
        assert (await slow.read()).HasField("accepted")
        quick = [cluster.caller(index).resume(reply_id) for index in (B, C)]
        await asyncio.gather(*(each.accepted() for each in quick))
        before = cluster[B].rss_bytes()
        start.set()
        ended = []
        for each in (first, *quick):
            await each.end()
            ended.append(time.monotonic())
            assert each.text == whole
        more = (cluster[B].rss_bytes() - before) / MIB
        print(f"the others end within {max(ended) - min(ended):.2f} s; {more:.1f} MiB more at the slow one's replica")
        assert max(ended) - min(ended) < 2.0
        assert more < 32
        chunks = []
        while not chunks or not chunks[-1].HasField("finished"):
            chunks.append(await asyncio.wait_for(slow.read(), LIMIT_S))
    assert "".join(chunk.text for chunk in chunks) == whole
    assert chunks[-1] == first.terminal
    print(f"{len(chunks)} chunks for the slow one, {len(quick[0].log)} for another")
    assert len(chunks) < len(quick[0].log) / 2


# --- a newer release

STRANGE = ('{"type":"video","url":"x"}', "zcompressed", "")


async def test_entries_of_a_newer_release_are_skipped(cluster, repertoire):
    repertoire.add("an older one", 3)
    request = ask("an older one")
    former = (await Watch(cluster.caller(A).chat.StreamReply(request)).end()).reply_id
    newer = Newer(cluster, former)
    await newer.own(request.request_id)
    newer.say("tOne ", "ttwo ")
    streamed = Watch(cluster.caller(B).chat.StreamReply(request))
    resumed = cluster.caller(C).resume(newer.reply_id)
    for each in (streamed, resumed):
        await each.until_text("One two ")
    newer.say(*STRANGE)
    newer.say(*STRANGE, silently=True)
    for index in ALL:

        async def passed(index=index) -> bool:
            """A poll that waits for text is given none, and leads past them."""
            polled = await cluster.caller(index).poll(newer.reply_id, after=2, wait=0.3)
            assert not polled.chunks
            return polled.after_sequence == 8

        await until(passed, "the cursor advances")
    newer.say("tthree ")
    for each in (streamed, resumed):
        await each.until_text("One two three ")
        assert each.sequence == 9
    amid = cluster.caller(A).resume(newer.reply_id, after=5)
    await amid.until_text("three ")
    newer.say("tfour", *STRANGE)
    await newer.end("One two three four")
    for each, expected in ((streamed, "One two three four"), (resumed, "One two three four"), (amid, "three four")):
        await each.end()
        assert (each.text, "snapshot" in each.kinds, each.terminal.sequence) == (expected, False, 14)
    assert streamed.chunks[0].accepted.replayed
    await check_tails(cluster, newer.reply_id, "One two three four", *ALL)
    polled = await cluster.caller(B).poll(newer.reply_id, after=8)
    assert ("".join(chunk.text for chunk in polled.chunks), polled.after_sequence) == ("three four", 14)
    assert (polled.reply.state, text_of(polled.reply)) == (COMPLETED, "One two three four")
    assert cluster.problems == []
