"""Time limits on a real stream: keep-alive comments of a provider do not count as tokens."""

import asyncio

import pytest
from parley_server.core.clock import SystemClock
from parley_server.errors import ProviderTimeout
from parley_server.providers.policies.attempt import Attempt

from tests.integration.providers.recording import RecordingSink, prompt, provider_at
from tests.upstream import Hang, Pause, Script, comment, done, finish, role, text

ALIVE = [piece for _ in range(100) for piece in (comment(), role(), Pause(0.02))]


@pytest.fixture
async def limited(upstream):
    provider = provider_at(upstream.url)

    async def limited(sink):
        attempt = Attempt(sink, first_token_s=0.3, idle_s=0.15, clock=SystemClock())
        return await attempt.run(provider, prompt())

    yield limited
    await provider.close()


@pytest.mark.parametrize(
    "script",
    [Script(before_head=[Hang()]), Script([Hang()]), Script([role(), Hang()]), Script(ALIVE)],
)
async def test_no_first_token(upstream, limited, script):
    upstream.reply_with(script)
    sink = RecordingSink()
    with pytest.raises(ProviderTimeout, match=r"no first token within 0.3 s"):
        await limited(sink)
    assert sink.events == []
    await asyncio.wait_for(upstream.aborted.wait(), 2)


@pytest.mark.parametrize("rest", [[Hang()], ALIVE])
async def test_comments_do_not_count_as_progress(upstream, limited, rest):
    upstream.reply_with(Script([text("a"), *rest]))
    sink = RecordingSink()
    with pytest.raises(ProviderTimeout, match=r"no further token within 0.15 s"):
        await limited(sink)
    assert sink.content == "a"
    await asyncio.wait_for(upstream.aborted.wait(), 2)


async def test_a_slow_but_steady_answer_completes(upstream, limited):
    pieces = [piece for number in range(8) for piece in (text(str(number)), Pause(0.08))]
    upstream.reply_with(Script([*pieces, finish(), done()]))
    sink = RecordingSink()
    await limited(sink)
    assert sink.content == "01234567"
