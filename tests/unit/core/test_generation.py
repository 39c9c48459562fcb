"""A reply ends once, and readers get the stored end, with every fault of its provider, its task and its store."""

from __future__ import annotations

import asyncio
import random

import pytest
from parley_server import errors
from parley_server.core.events import Finished, Snapshot
from parley_server.core.model import Finish, FinishReason, ReplyError, State, TextPart, Usage
from parley_server.core.replies.endings import Cancel
from parley_server.core.replies.log import TAKEOVER_GAP, Reader, terminal_of
from parley_server.core.store_types import CancelTarget, Finalisation
from parley_server.core.tasks import Tasks
from parley_server.errors import ParleyError, ProviderError, Reason

from tests.clock import settle, until
from tests.fakes import ADA, STOP, CoreHarness, texts_of

PROVIDER_ERRORS = sorted(ProviderError.__subclasses__(), key=lambda kind: kind.__name__)


def writing(*pieces: str, then=None):
    """Writes the pieces, then raises or returns `then`; without it, waits."""

    async def answer(prompt, sink):
        for piece in pieces:
            sink.text(piece)
            sink.flush()
            await asyncio.sleep(0)
        if then is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(then, BaseException):
            raise then
        return then

    return answer


def read_all(log):
    reader, chunks = Reader(log, 0), []
    while reader.ready:
        chunks += reader.take()
    return chunks


def text_of(reply) -> str:
    return "".join(part.text for part in reply.message.parts) if reply.message else ""


async def check_end(harness: CoreHarness, generation, stored=None):
    """Check that readers, log and store agree on the end, and that no capacity stays in use."""
    stored = stored or await harness.stored_end(generation)
    chunks = read_all(generation.log)
    assert chunks[-1].entry == terminal_of(stored)
    assert chunks[-1].sequence == stored.last_sequence == generation.log.last_sequence
    assert texts_of(chunks) == text_of(stored)
    assert generation.reply == generation.log.reply == stored
    assert harness.live_replies.running == {}
    assert (harness.live_replies.capacity._replies, harness.live_replies.capacity._prompt_bytes) == (0, 0)
    assert harness.observer.started == len(harness.observer.ended)
    assert harness.observer.ended[-1][0] == stored
    assert harness.observer.ended[-1][2] == len(text_of(stored))
    return stored


async def test_a_reply_completes(harness):
    generation = await harness.begin()
    stored = await check_end(harness, generation)
    assert (stored.state, stored.finish_reason, stored.provider_reason) == (State.COMPLETED, FinishReason.STOP, "stop")
    assert stored.message.parts == (TextPart(text="Hello"),)
    assert (stored.message.partial, stored.message.failed) == (False, False)
    assert stored.usage == Usage(prompt_tokens=13, completion_tokens=2, cost_nano_usd=17, estimated=True)
    assert harness.observer.first_tokens == [0.0]
    assert harness.store.calls == ["accept", "finalise", "get_reply"]


async def test_counts_of_the_provider_are_stored(harness):
    async def answer(prompt, sink):
        sink.text("x")
        sink.usage(Usage(prompt_tokens=1))
        sink.usage(Usage(prompt_tokens=10, completion_tokens=3))
        sink.flush()
        return STOP

    stored = await check_end(harness, await harness.begin(answer))
    assert stored.usage == Usage(prompt_tokens=10, completion_tokens=3, cost_nano_usd=16, prompt_bytes=2)


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        (
            Usage(prompt_tokens=10),
            Usage(prompt_tokens=10, completion_tokens=2, cost_nano_usd=14, estimated=True, prompt_bytes=2),
        ),
        (Usage(completion_tokens=9), Usage(prompt_tokens=13, completion_tokens=9, cost_nano_usd=31, estimated=True)),
        (
            Usage(prompt_tokens=10, completion_tokens=9),
            Usage(prompt_tokens=10, completion_tokens=9, cost_nano_usd=28, prompt_bytes=2),
        ),
    ],
)
async def test_missing_counts_of_the_provider_are_estimated(harness, counted, expected):
    async def answer(prompt, sink):
        sink.text("Hello")
        sink.usage(counted)
        sink.flush()
        return STOP

    stored = await check_end(harness, await harness.begin(answer))
    assert stored.usage == expected


async def test_the_last_usage_is_stored_even_without_a_log_entry(harness):
    async def answer(prompt, sink):
        for number in range(1, 100):
            sink.text("x")
            sink.usage(Usage(prompt_tokens=5, completion_tokens=number))
            sink.flush()
        return STOP

    generation = await harness.begin(answer)
    stored = await check_end(harness, generation)
    assert stored.usage.completion_tokens == 99
    assert stored.last_sequence <= 99 + 3


async def test_a_content_filter_before_the_first_token_costs_nothing(harness):
    async def answer(_prompt, _sink):
        return Finish(reason=FinishReason.CONTENT_FILTER, provider_reason="content_filter")

    stored = await check_end(harness, await harness.begin(answer))
    assert (stored.state, stored.finish_reason) == (State.COMPLETED, FinishReason.CONTENT_FILTER)
    assert (stored.message, stored.usage) == (None, Usage(cost_nano_usd=0))


@pytest.mark.parametrize("kind", PROVIDER_ERRORS)
@pytest.mark.parametrize("pieces", [(), ("par", "tial")])
async def test_a_provider_failure_keeps_the_partial_text(harness, kind, pieces):
    error = kind("failed", retry_after_s=2.0, metadata={"http": "503"})
    stored = await check_end(harness, await harness.begin(writing(*pieces, then=error)))
    assert (stored.state, stored.finish_reason) == (State.FAILED, None)
    assert stored.error == ReplyError.of(error)
    assert text_of(stored) == "".join(pieces)
    if pieces:
        assert (stored.message.partial, stored.message.failed) == (True, True)
    else:
        assert stored.message is None
    assert stored.usage.estimated is bool(pieces or kind.billed)
    assert bool(stored.usage.prompt_tokens) is bool(pieces or kind.billed)


async def cancel_itself(prompt, sink):
    sink.text("partial")
    sink.flush()
    raise asyncio.CancelledError


@pytest.mark.parametrize("answer", [writing("partial", then=RuntimeError("secret")), cancel_itself])
async def test_an_unexpected_error_is_reported_without_its_text(harness, answer, caplog):
    stored = await check_end(harness, await harness.begin(answer))
    assert stored.state is State.FAILED
    assert stored.error == ReplyError(reason=Reason.INTERNAL, message="internal error", metadata={"call_id": stored.id})
    assert "secret" not in repr(stored)
    record = next(record for record in caplog.records if record.message == "reply_task_failed")
    assert record.fields == {"reply_id": stored.id}
    assert record.exc_info


@pytest.mark.parametrize("finish", [FinishReason.CANCELLED, FinishReason.ORPHANED, FinishReason.INTERRUPTED, None])
@pytest.mark.parametrize("moment", ["before the provider", "before a token", "after a token"])
async def test_a_cancel_ends_the_reply_at_once(harness, finish, moment):
    async def cancel_early(_):
        [accepting] = harness.live_replies.running.values()
        accepting.cancel(Cancel(finish=finish, reason="because"))

    if moment == "before the provider":
        harness.store.before["accept"] = cancel_early
    generation = await harness.begin(writing(*(["text"] if moment == "after a token" else [])))
    if moment != "before the provider":
        await settle()
    generation.cancel(Cancel(finish=finish, reason="because"))
    generation.cancel(Cancel(finish=FinishReason.TIME_LIMIT))
    assert generation.log.sealed
    stored = await check_end(harness, generation)
    if finish is None:
        assert (stored.state, stored.error.reason) == (State.FAILED, Reason.OWNER_LOST)
    else:
        assert (stored.state, stored.finish_reason) == (State.CANCELLED, finish)
        assert stored.cancel_reason == "because"
    assert text_of(stored) == ("text" if moment == "after a token" else "")
    assert harness.provider.open_calls == 0
    assert len(harness.provider.prompts) == (0 if moment == "before the provider" else 1)
    assert stored.usage.estimated is (moment != "before the provider")


@pytest.mark.parametrize("pieces", [(), ("some",)])
async def test_the_time_limit_completes_a_reply_with_text_and_fails_one_without(harness, pieces):
    generation = await harness.begin(writing(*pieces), time_limit_s=30.0)
    await harness.clock.advance(29.9)
    assert not generation.log.sealed
    await harness.clock.advance(0.2)
    stored = await check_end(harness, generation)
    if pieces:
        assert (stored.state, stored.finish_reason) == (State.COMPLETED, FinishReason.TIME_LIMIT)
        assert text_of(stored) == "some"
    else:
        assert (stored.state, stored.error.reason) == (State.FAILED, Reason.PROVIDER_TIMEOUT)
    assert harness.clock.waiting == 0


async def test_the_size_limit_ends_with_max_tokens(make_harness):
    harness = make_harness(max_reply_bytes=10)
    generation = await harness.begin(writing("12345", "678€", "more", then=STOP))
    stored = await check_end(harness, generation)
    assert (stored.state, stored.finish_reason) == (State.COMPLETED, FinishReason.MAX_TOKENS)
    assert text_of(stored) == "12345678"
    assert not stored.message.partial


async def test_a_provider_that_returns_on_a_cancel_does_not_complete_the_reply(harness):
    async def answer(prompt, sink):
        sink.text("half")
        sink.flush()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            sink.text(" dropped")
            sink.flush()
        return STOP

    generation = await harness.begin(answer)
    await settle()
    generation.cancel(Cancel(finish=FinishReason.CANCELLED))
    stored = await check_end(harness, generation)
    assert (stored.state, text_of(stored)) == (State.CANCELLED, "half")


async def test_text_written_while_the_provider_closes_is_dropped(harness):
    async def answer(prompt, sink):
        sink.text("half")
        sink.flush()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            sink.text(" dropped")
            sink.flush()

    generation = await harness.begin(answer)
    await settle()
    generation.task.cancel()
    stored = await check_end(harness, generation)
    assert (stored.error.reason, text_of(stored)) == (Reason.OWNER_LOST, "half")


async def test_a_cancel_after_the_provider_returned_is_ignored(harness):
    done = asyncio.Event()

    async def answer(prompt, sink):
        sink.text("all")
        sink.flush()
        done.set()
        return STOP

    generation = await harness.begin(answer)
    await done.wait()
    generation.cancel(Cancel(finish=FinishReason.CANCELLED))
    assert (await check_end(harness, generation)).state is State.COMPLETED


async def test_a_provider_that_ignores_a_cancel_is_abandoned_after_5_seconds(harness, caplog):
    released = asyncio.Event()

    async def answer(prompt, sink):
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                sink.text("dropped")
        raise RuntimeError("ignored")

    generation = await harness.begin(answer)
    await settle()
    generation.cancel(Cancel(finish=FinishReason.CANCELLED))
    await harness.clock.advance(4.9)
    assert not generation.log.over
    await harness.clock.advance(0.2)
    stored = await check_end(harness, generation)
    assert stored.state is State.CANCELLED
    assert "provider_close_timed_out" in caplog.messages
    released.set()
    await until(lambda: harness.provider.open_calls == 0)


@pytest.mark.parametrize("executed", [False, True])
async def test_storing_the_end_is_retried_with_backoff_while_the_store_is_unavailable(harness, executed):
    harness.store.fail("finalise", times=6, after=executed)
    generation = await harness.begin()
    await until(lambda: harness.clock.waiting == 1)
    for attempt, delay_s in enumerate((0.1, 0.2, 0.4, 0.8, 1.6, 2.0), 1):
        await until(
            lambda attempt=attempt: harness.store.calls.count("finalise") == attempt and harness.clock.waiting == 1
        )
        assert not generation.log.over
        assert texts_of(read_all(generation.log)) == "Hello"
        await harness.clock.advance(delay_s)
    stored = await harness.stored_end(generation)
    assert (stored.state, text_of(stored)) == (State.COMPLETED, "Hello")
    last = read_all(generation.log)[-1]
    assert (last.sequence, last.entry) == (stored.last_sequence, terminal_of(stored))
    assert [type(chunk.entry) for chunk in read_all(generation.log)[-2:]][1] is Finished


async def test_the_loser_of_a_takeover_shows_the_stored_end_of_the_new_owner(harness):
    generation = await harness.begin(writing("own"))
    await settle()
    reader = Reader(generation.log, 0)
    assert texts_of(reader.take()) == "own"
    outcome = await harness.store.finalise(takeover_of(generation))
    generation.cancel(Cancel(finish=FinishReason.CANCELLED))
    stored = await harness.stored_end(generation)
    assert stored == outcome.reply
    assert [(chunk.sequence, chunk.entry) for chunk in reader.take()] == [
        (TAKEOVER_GAP, Snapshot(stored)),
        (TAKEOVER_GAP + 1, terminal_of(stored)),
    ]
    assert harness.live_replies.running == {}


async def test_an_erased_reply_is_not_found_by_its_readers(harness):
    generation = await harness.begin(writing("own"))
    await settle()
    await harness.store.finalise(takeover_of(generation))
    await harness.store.delete_conversation(ADA, generation.log.reply.conversation_id, "")
    generation.cancel(Cancel(finish=FinishReason.CANCELLED))
    await generation.task
    assert generation.log.erased
    with pytest.raises(errors.ReplyNotFound):
        await harness.replies.get(ADA, generation.log.reply.id)
    assert harness.live_replies.capacity._replies == 0
    assert harness.observer.started == len(harness.observer.ended)


def takeover_of(generation) -> Finalisation:
    reply = generation.log.reply
    return Finalisation(
        reply_id=reply.id,
        epoch=reply.epoch,
        state=State.FAILED,
        error=ReplyError(reason=Reason.OWNER_LOST, message="gone"),
        usage=Usage(),
        model=reply.model,
        provider=reply.provider,
        last_sequence=TAKEOVER_GAP + 1,
        end_time_us=reply.create_time_us + 1,
    )


class Steps:
    """Runs a coroutine and cancels its task at these steps; the `CancelledError` is raised at the next await."""

    def __init__(self, work, cancelled_at: set[int]) -> None:
        self._work = work
        self._cancelled_at = cancelled_at
        self.taken = 0

    def __await__(self):
        value, error = None, None
        while True:
            self.taken += 1
            if self.taken in self._cancelled_at:
                asyncio.current_task().cancel()
            try:
                step = self._work.throw(error) if error is not None else self._work.send(value)
            except StopIteration as end:
                return end.value
            value = error = None
            try:
                value = yield step
            except BaseException as thrown:  # noqa: BLE001 - a task throws every exception into its coroutine
                error = thrown


@pytest.mark.parametrize("ending", ["completes", "fails", "is cancelled", "store is unavailable"])
async def test_a_task_cancelled_at_any_await_leaves_a_stored_end(make_harness, monkeypatch, ending):
    cancelled_at: set[int] = set()
    steps: list[Steps] = []

    async def answer(prompt, sink):
        sink.text("text")
        sink.flush()
        for _ in range(3):
            await asyncio.sleep(0)
        if ending in ("completes", "store is unavailable"):
            return STOP
        if ending == "fails":
            raise errors.ProviderTruncated("broke off")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)

    harness = make_harness(answer)
    spawn = Tasks.spawn

    def counted(tasks, work, name):
        if not name.startswith("reply-"):
            return spawn(tasks, work, name)
        steps.append(Steps(work, set(cancelled_at)))

        async def run():
            return await steps[-1]

        return spawn(tasks, run(), name)

    monkeypatch.setattr(Tasks, "spawn", counted)

    async def once(given: set[int]) -> int:
        cancelled_at.clear()
        cancelled_at.update(given)
        if ending == "store is unavailable":
            harness.store.fail("finalise", times=2)
        generation = await harness.begin()
        if ending == "is cancelled":
            await settle()
            generation.cancel(Cancel(finish=FinishReason.CANCELLED, reason="enough"))
        while not generation.task.done():
            await asyncio.sleep(0.0005)
            await harness.clock.advance(0.5)
        taken = steps[-1].taken
        cancelled = any(step <= taken for step in given)
        assert generation.task.cancelled() is cancelled, (given, taken)
        stored = await check_end(harness, generation)
        assert stored.state.terminal
        assert text_of(stored) in ("", "text")
        return taken

    plain = await once(set())
    assert plain >= 2
    for first in range(1, plain + 3):
        await once({first})
        for second in range(first + 1, plain + 4):
            await once({first, second})


async def test_a_task_cancelled_before_its_first_step_leaves_a_stored_end(harness):
    generation = await harness.begin(writing("text"))
    generation.task.cancel()
    stored = await check_end(harness, generation)
    assert (stored.state, stored.error.reason) == (State.FAILED, Reason.OWNER_LOST)
    assert harness.provider.prompts == []
    assert generation.task.cancelled()
    assert not generation.dead


async def test_a_cancel_by_the_user_is_kept_when_the_task_is_cancelled(harness):
    generation = await harness.begin(writing("text"))
    await settle()
    generation.cancel(Cancel(finish=FinishReason.CANCELLED, reason="user"))
    generation.task.cancel()
    stored = await check_end(harness, generation)
    assert (stored.state, stored.cancel_reason) == (State.CANCELLED, "user")


@pytest.mark.parametrize("block", range(4))
async def test_racing_ends_leave_one_stored_end(make_harness, block):
    for seed in range(block * 40, block * 40 + 40):
        await _race(make_harness(max_reply_bytes=40), random.Random(seed))


async def _race(harness: CoreHarness, chance: random.Random) -> None:
    async def answer(prompt, sink):
        for _ in range(chance.randrange(6)):
            sink.text("0123456789"[: chance.randrange(1, 11)])
            if chance.random() < 0.8:
                sink.flush()
            await asyncio.sleep(0)
        if chance.random() < 0.3:
            raise chance.choice(PROVIDER_ERRORS)("broke")
        return STOP

    async def later(work) -> None:
        for _ in range(chance.randrange(14)):
            await asyncio.sleep(0)
        result = work()
        if asyncio.iscoroutine(result):
            await result

    if chance.random() < 0.3:
        unknown = errors.StorageUnavailable(outcome_unknown=True)
        harness.store.fail("finalise", times=1, after=chance.random() < 0.5, error=unknown)
    generation = await harness.begin(answer)
    reply_id = generation.log.reply.id
    actions = [
        lambda: harness.replies.cancel(ADA, CancelTarget(reply_id=reply_id), "race"),
        lambda: generation.cancel(Cancel(finish=FinishReason.TIME_LIMIT)),
        lambda: generation.cancel(Cancel(finish=FinishReason.ORPHANED)),
        generation.task.cancel,
        harness.replies.hurry,
    ]
    reader, seen = Reader(generation.log, 0), []

    async def read() -> None:
        while not reader.done:
            await reader.wait()
            seen.extend(reader.take())

    async def tick() -> None:
        while not generation.log.over:
            await asyncio.sleep(0.0005)
            await harness.clock.advance(0.1)

    racing = [later(action) for action in chance.sample(actions, chance.randrange(len(actions)))]
    await asyncio.gather(read(), tick(), *racing)
    stored = await harness.stored_end(generation)
    terminals = [chunk for chunk in seen if chunk.entry == terminal_of(stored)]
    assert terminals == seen[-1:]
    assert seen[-1].sequence == stored.last_sequence
    snapshots = [chunk for chunk in seen if isinstance(chunk.entry, Snapshot)]
    assert snapshots or texts_of(seen) == text_of(stored)
    assert text_of(stored).startswith(texts_of(seen))
    assert harness.live_replies.running == {}
    assert harness.provider.open_calls == 0


def test_all_8_provider_errors_are_tested():
    assert len(PROVIDER_ERRORS) == 8
    assert all(issubclass(kind, ParleyError) for kind in PROVIDER_ERRORS)
