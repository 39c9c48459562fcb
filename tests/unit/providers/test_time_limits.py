"""Limits by tokens: when they strike, what they leave alone, and whose cancel it was."""

import asyncio

import pytest
from parley_server.core.model import Finish, FinishReason, Model, Prompt, Usage
from parley_server.errors import ProviderTimeout, ProviderTruncated
from parley_server.providers.policies.time_limits import TimeLimits

from tests.unit.providers.moving import MovingClock, Recorder, settle

PROMPT = Prompt(model=Model(alias="a", provider="acme", name="n"), messages=())
STOP = Finish(reason=FinishReason.STOP, provider_reason="stop")


class Scene:
    """A provider whose behaviour is a coroutine of the test."""

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
        limits = TimeLimits(Scene(act), first_token_s=first_token_s, idle_s=idle_s, clock=clock)
        tasks.append(asyncio.ensure_future(limits.generate(PROMPT, sink)))
        return tasks[-1], sink

    yield start
    assert clock.timers == []
    assert all(task.done() for task in tasks)


async def test_no_first_token(clock, start):
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
async def test_every_kind_of_token_starts_the_idle_limit_anew(clock, start, push):
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


async def test_what_is_no_token_starts_nothing_anew(clock, start):
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


async def test_a_quick_answer_is_left_alone(clock, start):
    async def act(sink):
        sink.text("a")
        sink.usage(Usage(prompt_tokens=1))
        sink.flush()
        return STOP

    task, sink = start(act)
    assert await task == STOP
    assert sink.events == [("text", "a"), ("usage", Usage(prompt_tokens=1)), ("flush",)]


async def test_an_error_goes_through(start):
    async def act(sink):
        raise ProviderTruncated("cut")

    task, _ = start(act)
    with pytest.raises(ProviderTruncated, match="cut"):
        await task


async def test_one_timer_however_many_tokens(clock, start):
    async def act(sink):
        for _ in range(1000):
            sink.text("a")
            assert len(clock.timers) == 1
        return STOP

    task, _ = start(act)
    await task


async def test_a_cancel_from_outside_is_a_cancel(clock, start):
    task, _ = start(lambda sink: clock.sleep(1000))
    await clock.advance(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancel_from_outside_at_the_moment_of_expiry_goes_first(clock, start):
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


async def test_a_limit_within_a_limit_of_the_caller(clock, start):
    task, _ = start(lambda sink: clock.sleep(1000))

    async def outer():
        async with asyncio.timeout(None):
            return await task

    caller = asyncio.ensure_future(outer())
    await clock.advance(31)
    with pytest.raises(ProviderTimeout):
        await caller


async def test_a_provider_that_swallows_the_cancel_is_cancelled_again_and_heard_no_more(clock, start):
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


async def test_a_provider_that_turns_the_cancel_into_an_error_timed_out(clock, start):
    async def act(sink):
        try:
            await clock.sleep(1000)
        except asyncio.CancelledError:
            raise ProviderTruncated("cut") from None

    task, _ = start(act)
    await clock.advance(31)
    with pytest.raises(ProviderTimeout):
        await task
