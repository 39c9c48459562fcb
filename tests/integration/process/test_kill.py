"""After a kill -9 at a random time, the texts that readers received and the stored replies are consistent."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
import uuid
from collections import Counter
from contextlib import AsyncExitStack

import grpc
import parley
import pytest
from parley.v1 import chat_pb2, chat_pb2_grpc, errors_pb2, resources_pb2

from tests.endurance import rounds
from tests.integration.process.watching import Watcher, error_of, reason_of, script, text_of, words
from tests.lanes import LOADED
from tests.processes import ServerProcess, open_channel
from tests.upstream import Pause, Request, Script, Upstream, done, finish, text

KILLS = rounds(30, short=10)
CONVERSATIONS = 6
LOSS_S = 0.25
SEED = int(os.environ.get("PARLEY_TEST_SEED", "0")) or random.randrange(1, 1 << 31)
FAR = """
[providers.near]
kind = "scripted"
[providers.far]
kind = "openai"
profile = "openai"  # sends each message as it is
base_url = "{url}"
[models.near]
provider = "near"
name = "scripted"
[models.far]
provider = "far"
name = "far"
[server]
default_model = "near"
"""


def paced_answer(request: Request) -> Script:
    """The provider's answer to the message `TAG COUNT PACE_S`: `COUNT` words, one every `PACE_S` seconds."""
    tag, count, pace_s = request.json["messages"][-1]["content"].split()
    pieces = [text(f"{tag}.{number} ") for number in range(int(count))]
    return Script([*itertools.chain.from_iterable((piece, Pause(float(pace_s))) for piece in pieces), finish(), done()])


class Turn:
    """A message in a conversation, two readers of its reply, and sometimes a cancel."""

    def __init__(self, chance: random.Random, number: int, conversation_id: str) -> None:
        self.model = chance.choice(["near", "far"])
        tag = f"t{number}"
        count, pace_s = chance.choice([(3, 0.005), (40, 0.01), (400, 0.003), (400, 0.02)])
        self.whole = words(tag, count)
        payload = script(self.whole, delay_s=pace_s) if self.model == "near" else f"{tag} {count} {pace_s}"
        self.request = chat_pb2.ReplyRequest(
            request_id=str(uuid.UUID(int=chance.getrandbits(128))),
            conversation_id=conversation_id,
            text=payload,
            model=self.model,
        )
        self.watcher = Watcher(self.request)
        self.second = Watcher()
        self.cancelled: resources_pb2.Reply | None = None
        self.cancel_tried = False
        self.cancel_refusal: errors_pb2.ReplyError | None = None
        self._delay_s = chance.uniform(0.0, 0.3)
        self._join_after_s = chance.uniform(0.0, 0.2)
        self._cancel_after_s = chance.uniform(0.0, 0.3) if chance.random() < 0.25 else None

    @property
    def readers(self) -> list[Watcher]:
        """The readers that have received the id of the reply."""
        return [each for each in (self.watcher, self.second) if each.reply_id]

    async def run(self, chat: chat_pb2_grpc.ChatStub) -> None:
        """Make all calls; returns when each has ended."""
        await asyncio.sleep(self._delay_s)
        calls = [asyncio.create_task(self.watcher.start(chat))]
        accepted = asyncio.create_task(self.watcher.has_accepted.wait())
        await asyncio.wait({*calls, accepted}, return_when=asyncio.FIRST_COMPLETED)
        accepted.cancel()
        if self.watcher.reply_id:
            calls.append(asyncio.create_task(self._join(chat)))
            if self._cancel_after_s is not None:
                calls.append(asyncio.create_task(self._cancel(chat, self._cancel_after_s)))
        await asyncio.gather(*calls)

    async def _join(self, chat: chat_pb2_grpc.ChatStub) -> None:
        await asyncio.sleep(self._join_after_s)
        self.second.reply_id = self.watcher.reply_id
        await self.second.resume(chat)

    async def _cancel(self, chat: chat_pb2_grpc.ChatStub, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.cancel_tried = True
        try:
            self.cancelled = await chat.Cancel(chat_pb2.CancelRequest(reply_id=self.watcher.reply_id, reason="enough"))
        except grpc.aio.AioRpcError as status:
            self.cancel_refusal = error_of(status)


class KillTest:
    """The conversations, the current turn of each, and the counts over all kills."""

    def __init__(self, server: ServerProcess, chance: random.Random) -> None:
        self.server = server
        self.chance = chance
        self.conversations: list[str] = []
        self.turns: list[Turn] = []
        self.numbers = itertools.count()
        self.seen: Counter[str] = Counter()
        self.kills = 0
        self.killed_s = 0.0
        self.start_s: list[float] = []
        self.lost_s: list[float] = []

    async def open_conversations(self) -> None:
        async with open_channel(self.server.address) as channel:
            chat = chat_pb2_grpc.ChatStub(channel)
            for _ in range(CONVERSATIONS):
                reply = await chat.CreateReply(chat_pb2.ReplyRequest(text=script("Hello.", delay_s=0)))
                assert reply.state == resources_pb2.Reply.STATE_COMPLETED
                self.conversations.append(reply.conversation_id)

    async def stream_and_kill(self) -> None:
        """Send the next message of every conversation, and kill the server at a random time."""
        self.turns = [Turn(self.chance, next(self.numbers), each) for each in self.conversations]
        async with open_channel(self.server.address) as channel:
            chat = chat_pb2_grpc.ChatStub(channel)
            running = [asyncio.create_task(turn.run(chat)) for turn in self.turns]
            await asyncio.sleep(self.chance.uniform(0.0, 0.7))
            self.killed_s = time.monotonic()
            await self.server.kill9()
            self.kills += 1
            await asyncio.gather(*running)

    async def restart(self) -> None:
        """Start the server; sometimes kill it once more during the start."""
        if self.chance.random() < 0.15:
            await self.server.launch()
            await asyncio.sleep(self.chance.uniform(0.0, 0.5))
            await self.server.kill9()
            self.kills += 1
        began_s = time.monotonic()
        await self.server.start()
        self.start_s.append(time.monotonic() - began_s)

    async def check(self) -> None:
        """Check what a restart guarantees, for each reader."""
        states = self.server.rows("SELECT count(*) FROM reply WHERE state IN ('PENDING', 'STREAMING')")
        assert states == [(0,)], "every reply is terminal before the server is ready"
        assert self.server.rows("SELECT count(*) FROM checkpoint") == [(0,)]
        async with open_channel(self.server.address) as channel:
            chat = chat_pb2_grpc.ChatStub(channel)
            await asyncio.gather(*(self._check_turn(chat, turn) for turn in self.turns))

    async def _check_turn(self, chat: chat_pb2_grpc.ChatStub, turn: Turn) -> None:
        assert not [each.error for each in turn.readers if each.terminal is None and each.error is not None]
        if not turn.readers:
            assert turn.watcher.error is None, "the message was refused, so the conversation is blocked"
            self.seen["acceptance unknown to the caller"] += 1
            await self._check_unknown(chat, turn)
            return
        reply = await chat.GetReply(chat_pb2.GetReplyRequest(reply_id=turn.watcher.reply_id))
        self._check_state(turn, reply)
        for reader in turn.readers:
            self._check_text(turn, reader, text_of(reply))
            await self._check_resumed(chat, reader, reply)
        await self._check_retry(chat, turn, reply)

    def _check_state(self, turn: Turn, reply: resources_pb2.Reply) -> None:
        states = resources_pb2.Reply.State
        assert turn.cancel_refusal is None, "a kill must only break the connection"
        known_end = any(each.terminal is not None for each in turn.readers)
        if turn.cancelled is not None:
            assert reply == turn.cancelled, "the stored reply differs from the result of Cancel"
            known_end = True
        if reply.state == states.STATE_FAILED:
            assert not known_end, "an end that a reader received was replaced"
            assert reason_of(reply.error) == "OWNER_LOST"
        elif reply.state == states.STATE_CANCELLED:
            assert turn.cancel_tried
            assert reply.cancel_reason == "enough"
        else:
            assert reply.state == states.STATE_COMPLETED
            assert text_of(reply) == turn.whole
        self.seen[f"{states.Name(reply.state)}, {'seen' if known_end else 'not seen'} before the kill"] += 1

    def _check_text(self, turn: Turn, reader: Watcher, stored: str) -> None:
        assert turn.whole.startswith(reader.text)
        assert turn.whole.startswith(stored), "the stored text is not a prefix of the reply"
        must_be_stored = reader.length_at(self.killed_s - LOSS_S)
        assert len(stored) >= must_be_stored, f"lost: {reader.text[len(stored) : must_be_stored]!r}"
        if len(stored) < len(reader.text):
            self.lost_s.append(self.killed_s - reader.time_of(len(stored) + 1))

    async def _check_resumed(self, chat: chat_pb2_grpc.ChatStub, reader: Watcher, reply: resources_pb2.Reply) -> None:
        """A resume gets a snapshot with a higher sequence and the terminal chunk; the next resume only the latter."""
        cursor, snapshots, ended = reader.sequence, reader.snapshots, reader.terminal is not None
        if ended:
            assert (reader.text, reader.sequence) == (text_of(reply), reply.last_sequence)
        await reader.resume(chat)
        assert reader.text == text_of(reply)
        self._check_terminal(reader, reply)
        if ended:
            assert (reader.sequence, reader.snapshots) == (cursor, snapshots)
        else:
            assert reader.snapshots == snapshots + (cursor < reply.last_sequence - 1)
        if reply.state == resources_pb2.Reply.STATE_FAILED:
            assert reader.snapshots == snapshots + 1
            assert reply.last_sequence - 1 > cursor
        last, snapshots = reader.sequence, reader.snapshots
        await reader.resume(chat)
        assert (reader.sequence, reader.snapshots) == (last, snapshots), "more than the terminal chunk"
        self._check_terminal(reader, reply)

    def _check_terminal(self, watcher: Watcher, reply: resources_pb2.Reply) -> None:
        assert watcher.terminal is not None
        assert watcher.terminal.sequence == reply.last_sequence
        if reply.state == resources_pb2.Reply.STATE_FAILED:
            assert watcher.terminal.failed.error == reply.error
            assert watcher.terminal.failed.usage == reply.usage
            assert watcher.status is grpc.StatusCode.ABORTED
            assert watcher.error is not None
            assert reason_of(watcher.error) == reason_of(reply.error)
        else:
            assert watcher.terminal.finished.reason == reply.finish_reason
            assert watcher.terminal.finished.usage == reply.usage
            assert watcher.status is grpc.StatusCode.OK

    async def _check_retry(self, chat: chat_pb2_grpc.ChatStub, turn: Turn, reply: resources_pb2.Reply) -> None:
        retry = Watcher(turn.request)
        await retry.start(chat)
        assert (retry.reply_id, retry.replayed) == (reply.id, True)
        assert retry.text == text_of(reply)
        self._check_terminal(retry, reply)

    async def _check_unknown(self, chat: chat_pb2_grpc.ChatStub, turn: Turn) -> None:
        """The caller cannot know whether it was accepted: a retry returns the reply, or starts the only one."""
        request = chat_pb2.ReplyRequest()
        request.CopyFrom(turn.request)
        request.wait.FromMilliseconds(0)
        first = await chat.CreateReply(request)
        ended = await chat.Cancel(chat_pb2.CancelRequest(reply_id=first.id))
        states = resources_pb2.Reply.State
        assert ended.state in (states.STATE_CANCELLED, states.STATE_FAILED, states.STATE_COMPLETED)
        self.seen["of these, accepted"] += ended.state == resources_pb2.Reply.STATE_FAILED
        turn.watcher.reply_id = first.id
        await self._check_retry(chat, turn, ended)


@pytest.mark.xdist_group(LOADED)
@pytest.mark.timeout(240)
async def test_readers_and_database_agree_after_a_kill_at_any_moment(tmp_path) -> None:
    chance = random.Random(SEED)
    print(f"PARLEY_TEST_SEED={SEED}")
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream())
        upstream.reply_with(paced_answer)
        server = ServerProcess(tmp_path, toml=FAR.format(url=upstream.url), forked=True)
        await stack.enter_async_context(server)
        test = KillTest(server, chance)
        await test.open_conversations()
        accepted = {}
        while test.kills < KILLS:
            await test.stream_and_kill()
            await test.restart()
            await test.check()
            accepted |= {turn.request.request_id: turn.watcher.reply_id for turn in test.turns}
        generated = Counter(request.json["messages"][-1]["content"] for request in upstream.requests)
        stored = server.rows("SELECT request_id, id FROM reply")
        messages = server.rows("SELECT reply_id, count(*) FROM message WHERE reply_id IS NOT NULL GROUP BY 1")
        usage = server.rows("SELECT count(*) FROM usage")
        problems = [each for each in server.events() if each["level"] == "error"]
        assert await server.terminate() == 0
    print(test.kills, dict(test.seen), f"start {max(test.start_s):.2f} s, lost {max(test.lost_s, default=0):.3f} s")
    assert max(generated.values()) == 1, "a reply was generated twice"
    assert len(stored) == len(accepted) + CONVERSATIONS
    assert accepted.items() <= dict(stored).items(), "an accepted reply was lost"
    assert all(count == 1 for _, count in messages)
    assert usage == [(len(stored),)]
    assert test.seen["STATE_FAILED, not seen before the kill"] > KILLS
    assert test.seen["STATE_COMPLETED, seen before the kill"] > 0
    assert test.seen["STATE_CANCELLED, seen before the kill"] > 0
    assert problems == []


async def read_to_failure(stream: parley.ReplyStream) -> tuple[list[parley.Event], parley.ReplyFailed]:
    events: list[parley.Event] = []
    try:
        async for event in stream:
            events.append(event)  # noqa: PERF401 - the events before the error are returned
    except parley.ReplyFailed as failure:
        return events, failure
    raise AssertionError("the reply did not fail")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("texts", "first_token_s"), [(40, 0.0), (1, 0.0), (0, 30.0)])
async def test_the_client_recovers_from_a_kill(tmp_path, texts: int, first_token_s: float) -> None:
    """The kill comes within the text, right after the first text, and before it."""
    whole = words("w", 400)
    quick = parley.Backoff(first_s=0.05, max_s=0.2)
    async with ServerProcess(tmp_path, forked=True) as server, parley.Client(server.address, backoff=quick) as client:
        stream = client.stream_reply(script(whole, delay_s=0.01, first_token_delay_s=first_token_s))
        assert isinstance(await anext(stream), parley.Accepted)
        for _ in range(texts):
            assert isinstance(await anext(stream), parley.Text)
        had = stream.text
        await server.kill9()
        restarting = asyncio.create_task(server.start())
        events, failure = await read_to_failure(stream)
        await restarting
        assert (failure.reason, failure.retryable) == ("OWNER_LOST", True)
        kinds = [type(event) for event in events if not isinstance(event, parley.Text)]
        assert kinds == [parley.Reconnecting] * (len(kinds) - 1) + [parley.Snapshot]
        assert len(kinds) > 1
        reply = await client.get_reply(stream.reply_id)
        assert failure.text == stream.text == text_of(reply)
        assert whole.startswith(failure.text)
        assert failure.text.startswith(had) or had.startswith(failure.text)
        assert bool(failure.text) or texts < 40
        retried = await client.create_reply(script("Here.", delay_s=0), conversation_id=stream.conversation_id)
        assert text_of(retried) == "Here."


async def test_the_client_starts_a_reply_after_a_restart_of_its_server(tmp_path) -> None:
    async with ServerProcess(tmp_path, forked=True) as server, parley.Client(server.address) as client:
        await client.models()  # the client retries longer than 5 s only if it has reached the server before
        await server.kill9()
        stream = client.stream_reply(script("Late.", delay_s=0))
        reconnecting = await anext(stream)
        assert isinstance(reconnecting, parley.Reconnecting)
        await server.start()
        async for _ in stream:
            pass
        assert (stream.text, stream.finished.reason) == ("Late.", "STOP")
        assert server.rows("SELECT count(*) FROM reply") == [(1,)]
