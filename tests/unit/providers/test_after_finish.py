"""The wait after a finish reason, within the time limits of the reply, on a manual clock."""

import asyncio

import pytest
from parley_server.core.model import FinishReason
from parley_server.errors import ProviderTimeout
from parley_server.providers.policies.attempt import Attempt
from parley_server.settings import OpenAISettings, Timeouts

from tests.clock import ManualClock, until
from tests.integration.providers.recording import RecordingSink, prompt, provider_at
from tests.upstream import Hang, Script, Upstream, Wait, chunk, finish, role, text, usage


@pytest.fixture
async def upstream():
    async with Upstream() as server:
        yield server


class Limited:
    """A reply with time limits on a manual clock."""

    def __init__(self, upstream, steps, *, first_token_s=30.0, idle_s=30.0):
        self.clock = ManualClock()
        self.sink = RecordingSink()
        settings = OpenAISettings(timeouts=Timeouts(first_token=first_token_s, idle=idle_s))
        self.provider = provider_at(upstream.url, settings, clock=self.clock)
        upstream.reply_with(Script(steps))
        self.reply = asyncio.ensure_future(self._ask(first_token_s, idle_s))

    async def _ask(self, first_token_s, idle_s):
        attempt = Attempt(self.sink, first_token_s=first_token_s, idle_s=idle_s, clock=self.clock)
        return await attempt.run(self.provider, prompt())

    async def finish_word(self):
        """Wait until the finish reason was read. Then its timer runs in addition to that of the limits."""
        await until(lambda: self.clock.waiting == 2)

    async def end(self):
        """Wait for the reply without a further move of the clock."""
        try:
            return await asyncio.wait_for(self.reply, 10)
        finally:
            await self.provider.close()


async def test_a_short_idle_limit_does_not_fail_a_finished_reply(upstream):
    limited = Limited(upstream, [text("a"), finish(), Hang()], idle_s=4.0)
    await limited.finish_word()
    await limited.clock.advance(1.9)
    assert not limited.reply.done()  # half of the limit is waited
    await limited.clock.advance(0.2)
    assert (await limited.end()).reason is FinishReason.STOP


async def test_a_finish_reason_shortly_before_the_idle_limit_is_in_time(upstream):
    late = asyncio.Event()
    limited = Limited(upstream, [text("a"), Wait(late), finish(), Hang()], idle_s=4.0)
    await limited.sink.flushed.wait()
    await limited.clock.advance(3.9)
    late.set()
    await limited.finish_word()
    await limited.clock.advance(0.06)
    assert (await limited.end()).reason is FinishReason.STOP


async def test_a_finish_without_a_token_ends_before_the_first_token_limit(upstream):
    limited = Limited(upstream, [role(), finish(), Hang()], first_token_s=4.0)
    await limited.finish_word()
    await limited.clock.advance(2.1)
    assert (await limited.end()).reason is FinishReason.STOP


async def test_the_wait_for_usage_lasts_at_most_five_seconds(upstream):
    late = asyncio.Event()
    limited = Limited(upstream, [text("a"), finish(), Wait(late), usage(), Hang()])
    await limited.finish_word()
    await limited.clock.advance(4.9)
    late.set()
    await until(lambda: bool(limited.sink.counted))
    await limited.clock.advance(0.2)
    assert (await limited.end()).reason is FinishReason.STOP


async def test_the_idle_limit_applies_after_content_that_follows_a_finish_reason(upstream):
    more = asyncio.Event()
    limited = Limited(upstream, [chunk({"content": "a"}, "stop"), Wait(more), text("b"), Hang()], idle_s=4.0)
    await limited.finish_word()
    more.set()
    await until(lambda: limited.sink.content == "ab")
    assert limited.clock.waiting == 1  # the limit's own timer
    await limited.clock.advance(4.1)
    with pytest.raises(ProviderTimeout):
        await limited.end()
