"""Time limits between tokens: when they expire, and how they differ from a cancel by the caller."""

import asyncio

import pytest
from parley_server.core.model import Finish, FinishReason, Model, Prompt, Usage
from parley_server.errors import ProviderTimeout, ProviderTruncated
from parley_server.providers.policies.attempt import Attempt

from tests.unit.providers.moving import MovingClock, Recorder, settle

PROMPT = Prompt(model=Model(alias="a", provider="acme", name="n"), messages=())
STOP = Finish(reason=FinishReason.STOP, provider_reason="stop")


class Scene:
    """A provider that runs a coroutine of the test."""

    def __init__(self, act):
        self.act = act

    async def generate(self, prompt, sink):
        return await self.act(sink)

    async def close(self):
        pass


@pytest.fixture
def clock():
    return MovingClock()


@pytest.fixture
def start(clock):
    tasks = []

    def start(act, *, first_token_s=30, idle_s=60):
        sink = Recorder()

        async def run():
            attempt = Attempt(sink, first_token_s=first_token_s, idle_s=idle_s, clock=clock)
            return await attempt.run(Scene(act), PROMPT)

        tasks.append(asyncio.ensure_future(run()))
        return tasks[-1], sink

    yield start
    assert clock.timers == []
    assert all(task.done() for task in tasks)


async def test_a_missing_first_token_times_out(clock, start):
    task, _ = start(lambda sink: clock.sleep(1000))
    await clock.advance(29.9)
    assert not task.done()
    await clock.advance(0.2)
    with pytest.raises(ProviderTimeout, match="acme sent no first token within 30 s") as failure:
        await task
    assert failure.value.billed
    assert task.cancelling() == 0


@pytest.mark.parametrize(
    "push",
    [
        lambda sink: sink.text("a"),
        lambda sink: sink.reasoning("a"),
        lambda sink: sink.tool_call(0, "c", "f", ""),
    ],
)
async def test_every_kind_of_token_restarts_the_idle_limit(clock, start, push):
    async def act(sink):
        for _ in range(5):
            await clock.sleep(29)
            push(sink)
        await clock.sleep(1000)

    task, sink = start(act)
    await clock.advance(5 * 29 + 59.9)
    assert not task.done()
    await clock.advance(0.2)
    with pytest.raises(ProviderTimeout, match="no further token within 60 s"):
        await task
    assert len(sink.events) == 5


async def test_pushes_without_tokens_do_not_restart_the_idle_limit(clock, start):
    async def act(sink):
        while True:
            await clock.sleep(1)
            sink.text("")
            sink.reasoning("")
            sink.usage(Usage())
            sink.flush()

    task, _ = start(act)
    await clock.advance(31)
    with pytest.raises(ProviderTimeout):
        await task


async def test_an_answer_in_time_is_unchanged(clock, start):
    async def act(sink):
        sink.text("a")
        sink.usage(Usage(prompt_tokens=1))
        sink.flush()
        return STOP

    task, sink = start(act)
    assert await task == STOP
    assert sink.events == [("text", "a"), ("usage", Usage(prompt_tokens=1)), ("flush",)]


async def test_an_error_is_passed_on(start):
    async def act(sink):
        raise ProviderTruncated("cut")

    task, _ = start(act)
    with pytest.raises(ProviderTruncated, match="cut"):
        await task


async def test_tokens_set_no_further_timers(clock, start):
    async def act(sink):
        for _ in range(1000):
            sink.text("a")
            assert len(clock.timers) == 1
        return STOP

    task, _ = start(act)
    await task


async def test_a_cancel_by_the_caller_is_passed_on(clock, start):
    task, _ = start(lambda sink: clock.sleep(1000))
    await clock.advance(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancel_by_the_caller_takes_precedence_over_expiry(clock, start):
    async def act(sink):
        try:
            await clock.sleep(1000)
        finally:
            await settle()

    task, _ = start(act)
    await clock.advance(29.9)
    clock.call_at(clock.now + 0.1, task.cancel)
    await clock.advance(0.2)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_limits_work_within_a_timeout_of_the_caller(clock, start):
    task, _ = start(lambda sink: clock.sleep(1000))

    async def outer():
        async with asyncio.timeout(None):
            return await task

    caller = asyncio.ensure_future(outer())
    await clock.advance(31)
    with pytest.raises(ProviderTimeout):
        await caller


async def test_a_provider_that_ignores_the_cancel_is_cancelled_again_and_its_pushes_dropped(clock, start):
    swallowed = 0

    async def act(sink):
        nonlocal swallowed
        while swallowed < 3:
            try:
                await clock.sleep(1000)
            except asyncio.CancelledError:
                swallowed += 1
                sink.text("too late")
        return STOP

    task, sink = start(act)
    await clock.advance(40)
    with pytest.raises(ProviderTimeout):
        await task
    assert (sink.events, swallowed, task.cancelling()) == ([], 3, 0)


async def test_a_provider_that_raises_an_error_at_the_cancel_has_timed_out(clock, start):
    async def act(sink):
        try:
            await clock.sleep(1000)
        except asyncio.CancelledError:
            raise ProviderTruncated("cut") from None

    task, _ = start(act)
    await clock.advance(31)
    with pytest.raises(ProviderTimeout):
        await task
