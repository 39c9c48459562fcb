"""What an application sees of faults in three replicas and their services through the Python library, with its defaults
except a shorter backoff.
"""

from __future__ import annotations

import asyncio
import time

import parley
import pytest
import pytest_asyncio
from parley import Accepted, Finished, Reconnecting, Snapshot, Text
from parley.v1 import resources_pb2

from tests.cluster import LIMIT_S, QUICK, Cluster
from tests.integration.process.watching import reason_of, script, text_of
from tests.integration.replicas.faults import locked, published, seen, waiting_for_locks, within
from tests.integration.replicas.plays import Play, Repertoire
from tests.services import PostgresServer, RedisServer
from tests.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B, C = range(3)
ENDED_S = 2.0 + 0.5 + 5.0
POSTGRES_OUTAGE_S = 5.0
LATE_S = 1.2  # within the one lease for which everybody else waits
REDIS_OUTAGE_S = 2.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory, postgres_template):
    """Three replicas on services of their own, which a test may take away."""
    folder = tmp_path_factory.mktemp("client")
    with (
        PostgresServer(folder / "postgres", template=postgres_template) as postgres,
        RedisServer(folder / "redis") as redis,
    ):
        async with Upstream() as upstream, Cluster(folder, postgres, redis, upstream) as replicas:
            yield replicas


@pytest.fixture
def repertoire(cluster):
    """What the upstream answers."""
    made = Repertoire()
    cluster.upstream.reply_with(made)
    return made


def client_of(cluster: Cluster, *indices: int) -> parley.Client:
    """A client that prefers the first of these replicas, by nothing but their addresses."""
    return parley.Client("ipv4:" + ",".join(cluster[index].address for index in indices), backoff=QUICK)


class Application:
    """Reads one stream, and keeps what it saw."""

    def __init__(self, stream: parley.ReplyStream) -> None:
        self.stream = stream
        self.events: list[parley.Event] = []
        self.failure: parley.ReplyFailed | None = None
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for event in self.stream:
                self.events.append(event)
        except parley.ReplyFailed as failure:
            self.failure = failure

    @property
    def kinds(self) -> list[type[parley.Event]]:
        """Of its events, in order; what repeats counts once."""
        kinds = [type(event) for event in self.events]
        return [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] is not kind]

    @property
    def pieces(self) -> str:
        """All the texts."""
        return "".join(event.text for event in self.events if isinstance(event, Text))

    @property
    def reasons(self) -> set[str]:
        """Of its cuts."""
        return {event.error.reason for event in self.events if isinstance(event, Reconnecting)}

    async def ended(self) -> None:
        """The end, in whatever way."""
        await within(LIMIT_S, self.task)


def whole(application: Application, play: Play, *, cut: bool = False) -> None:
    """It saw an exact text, in which nothing was lost or repeated, and an end."""
    expected = [Accepted, Text, Reconnecting, Text, Finished] if cut else [Accepted, Text, Finished]
    kinds = [kind for kind in application.kinds if kind is not parley.UsageUpdate]
    assert kinds == expected, kinds
    assert application.pieces == application.stream.text == application.stream.finished.text == play.whole
    assert application.stream.finished.reason == "STOP"
    assert play.asked == 1


async def have_text(*applications: Application) -> None:
    await seen(lambda: all(each.pieces for each in applications), "they have text")


async def test_a_kill_in_mid_text_shows_as_a_cut_a_snapshot_and_a_failure(cluster, repertoire):
    play = repertoire.add("killed", 400, pace_s=0.02)
    async with client_of(cluster, A, B, C) as client:
        application = Application(client.stream_reply(play.tag))
        await have_text(application)
        assert await cluster.owner_of(application.stream.reply_id) == A
        polling = asyncio.create_task(polled(client, application.stream.reply_id))
        killed_s = time.monotonic()
        await cluster.kill9(A)
        await application.ended()
        took_s = time.monotonic() - killed_s
        print(f"killed: reported after {took_s:.2f} s")
        assert took_s < ENDED_S
        stored = await cluster.stored(application.stream.reply_id)
        failure = application.failure
        assert application.kinds in (
            [Accepted, Text, Reconnecting, Snapshot],
            [Accepted, Text, Reconnecting, Text, Snapshot],  # what was on its way elsewhere when the owner died
        )
        assert (failure.reason, failure.retryable) == ("OWNER_LOST", True)
        assert failure.text == application.stream.text == application.events[-1].text == stored.text
        assert play.whole.startswith(stored.text)
        assert stored.state == "FAILED"
        ((texts, last),) = await within(LIMIT_S, polling)
        assert texts == stored.text
        assert reason_of(last.error) == "OWNER_LOST"
        again = client.stream_reply(
            "", replace_message_id=failure.message_id, conversation_id=application.stream.conversation_id
        )
        repertoire.plays[play.tag] = short = Play(play.tag, 3)
        retried = Application(again)
        await retried.ended()
        whole(retried, short)
    await cluster.start(A)


async def polled(client: parley.Client, reply_id: str) -> tuple[str, resources_pb2.Reply]:
    """What an application has that polls: the text, and the reply with the end."""
    texts = ""
    async for answer in client.polls(reply_id, wait_s=5):
        for chunk in answer.chunks:
            texts = text_of(chunk.snapshot) if chunk.HasField("snapshot") else texts + chunk.text
    return texts, answer.reply


async def test_a_kill_before_the_acceptance_shows_as_a_cut(cluster, repertoire):
    play = repertoire.add("unaccepted", 10)
    async with client_of(cluster, A, B, C) as client:
        async with locked(cluster, "conversation"):
            application = Application(client.stream_reply(play.tag))
            await waiting_for_locks(cluster, 1)
            await cluster.kill9(A)
            await seen(lambda: application.events, "it has noticed")
        await application.ended()
        assert application.kinds == [Reconnecting, Accepted, Text, parley.UsageUpdate, Finished]
        assert application.stream.text == play.whole
        assert play.asked == 1
        assert await cluster.owner_of(application.stream.reply_id) == B
        count = await cluster.rows("SELECT count(*) FROM reply WHERE request_id = $1", application.stream.request_id)
        assert count == [(1,)]
    await cluster.start(A)


async def test_a_kill_while_a_reply_is_waited_for_is_an_answer(cluster, repertoire):
    play = repertoire.add("waited", 20, pace_s=0.001, hold=20)
    async with client_of(cluster, A, B, C) as client:
        waiting = asyncio.create_task(client.create_reply(play.tag))
        await within(LIMIT_S, play.held.wait())
        ((reply_id,),) = await cluster.rows("SELECT id FROM reply WHERE end_time_us = 0")
        await published(cluster, reply_id, play.whole)
        await cluster.kill9(A)
        (reply,) = await within(LIMIT_S, waiting)
        assert reply.state == resources_pb2.Reply.STATE_FAILED
        assert reason_of(reply.error) == "OWNER_LOST"
        assert text_of(reply) == play.whole
        assert play.asked == 1
    await cluster.start(A)


async def test_a_drain_shows_as_a_cut_within_the_text(cluster, repertoire):
    plays = [repertoire.add(f"drained{number}", 100, pace_s=0.02) for number in range(5)]
    async with client_of(cluster, A, B, C) as client:
        applications = [Application(client.stream_reply(play.tag)) for play in plays]
        await have_text(*applications)
        draining = asyncio.create_task(cluster.drain(A))
        await seen(lambda: all(each.reasons for each in applications), "they are sent away")
        late = Application(client.stream_reply(repertoire.add("late", 10).tag))
        await within(LIMIT_S, *(each.ended() for each in (*applications, late)))
        assert await draining == 0
        for each, play in zip(applications, plays, strict=True):
            whole(each, play, cut=True)
            assert "DRAINING" in each.reasons
        assert late.kinds == [Reconnecting, Accepted, Text, parley.UsageUpdate, Finished]
        assert late.pieces == repertoire.plays["late"].whole
        assert await cluster.owner_of(late.stream.reply_id) in (B, C)
    await cluster.start(A)


async def test_redis_away_for_a_while_shows_as_a_pause_elsewhere_and_not_at_all_at_the_owner(cluster, repertoire):
    plays = [
        repertoire.add("redis", 200, pace_s=0.02),
        repertoire.add("over", 40, pace_s=0.02),  # ends while it is away
    ]
    async with client_of(cluster, A) as near, client_of(cluster, B) as far:
        own = [Application(near.stream_reply(play.tag)) for play in plays]
        await have_text(*own)
        others = [Application(far.resume(each.stream.reply_id)) for each in own]
        await have_text(*others)
        await asyncio.to_thread(cluster.redis.kill9)
        away_s = time.monotonic()
        during = Application(far.stream_reply(repertoire.add("during", 5).tag))
        await within(LIMIT_S, during.ended(), own[1].ended(), others[1].ended())
        whole(during, repertoire.plays["during"])
        assert others[0].pieces != own[0].pieces
        await asyncio.sleep(max(0.0, away_s + REDIS_OUTAGE_S - time.monotonic()))
        await asyncio.to_thread(cluster.redis.start)
        await within(LIMIT_S, own[0].ended(), others[0].ended())
        for each, play in zip(own, plays, strict=True):
            whole(each, play)
        whole(others[0], plays[0])
        assert others[1].kinds[-2:] == [Snapshot, Finished], "its text is whole in the database"
        assert others[1].stream.text == plays[1].whole
        assert not others[1].reasons


async def test_postgresql_away_for_5_s_shows_as_a_pause(cluster, repertoire):
    """Also where the owner is the last to find it again."""
    plays = [
        repertoire.add("going", 400, pace_s=0.02),
        repertoire.add("ending", 100, pace_s=0.02),  # ends while it is away
    ]
    async with client_of(cluster, A, B, C) as client, client_of(cluster, B) as far:
        applications = [Application(client.stream_reply(play.tag)) for play in plays]
        await have_text(*applications)
        applications += [Application(far.resume(each.stream.reply_id)) for each in applications]
        await have_text(*applications)
        await asyncio.to_thread(cluster.postgres.kill9)
        away_s = time.monotonic()
        new = Application(client.stream_reply(repertoire.add("new", 10).tag))
        known = asyncio.create_task(client.get_reply(applications[0].stream.reply_id))
        created = asyncio.create_task(client.create_reply(script("Here.", delay_s=0), model="scripted"))
        await seen(lambda: new.events, "a new request is refused")
        await asyncio.sleep(max(0.0, away_s + POSTGRES_OUTAGE_S - time.monotonic()))
        assert not any(each.task.done() for each in (new, *applications))
        cluster.pause(A)
        await asyncio.to_thread(cluster.postgres.start)
        back_s = time.monotonic()
        await asyncio.sleep(LATE_S)
        cluster.resume(A)
        await within(LIMIT_S, *(each.ended() for each in (new, *applications)))
        for each, play in zip(applications, [*plays, *plays], strict=True):
            whole(each, play)
        assert new.reasons == {"STORAGE_UNAVAILABLE"}
        assert new.kinds == [Reconnecting, Accepted, Text, parley.UsageUpdate, Finished]
        assert (new.stream.text, repertoire.plays["new"].asked) == (repertoire.plays["new"].whole, 1)
        reply, answer = await within(LIMIT_S, known, created)
        assert reply.id == applications[0].stream.reply_id
        assert text_of(answer) == "Here."
        print(f"all had ended {time.monotonic() - back_s:.1f} s after it was back")
    for each in applications:
        stored = await cluster.stored(each.stream.reply_id)
        assert (stored.state, stored.epoch, stored.messages) == ("COMPLETED", 1, 1)
