"""The end of an answer: what is awaited after a finish reason, and when that reason is not final."""

import asyncio

import pytest
from parley_server.core.model import FinishReason
from parley_server.errors import ProviderTruncated, ProviderUnavailable

from tests.integration.providers.recording import RecordingSink, prompt, provider_at
from tests.upstream import Close, Pause, Reset, Script, chunk, done, finish, text, usage


class Oddities:
    def __init__(self):
        self.seen = []

    def provider_attempt(self, attempt):
        pass

    def provider_oddity(self, provider, kind):
        self.seen.append((provider, kind))


@pytest.fixture
async def provider(upstream):
    acme = provider_at(upstream.url, after_finish_s=0.05)
    yield acme
    await acme.close()


async def test_content_after_a_finish_reason_stops_the_finish_timer(upstream, provider):
    steps = [chunk({"content": "a"}, "stop"), text("b"), Pause(0.3), text("c"), Pause(0.3), text("d"), done()]
    upstream.reply_with(Script(steps))
    sink = RecordingSink()
    ended = await provider.generate(prompt(), sink)
    assert (sink.content, ended.reason) == ("abcd", FinishReason.STOP)


@pytest.mark.parametrize(("end", "kind"), [(Close(), ProviderTruncated), (Reset(), ProviderUnavailable)])
async def test_a_cut_after_content_that_followed_a_finish_reason_fails(upstream, provider, end, kind):
    upstream.reply_with(Script([chunk({"content": "a"}, "stop"), text("b"), end]))
    sink = RecordingSink()
    with pytest.raises(kind):
        await provider.generate(prompt(), sink)
    assert sink.content == "ab"


async def test_ignored_content_is_reported_to_the_observer(upstream):
    oddities = Oddities()
    provider = provider_at(upstream.url, observer=oddities)
    odd = chunk({"content": [{"type": "image_url"}]})
    upstream.reply_with(Script([text("a"), odd, finish(), usage(-1, 7), b"data: {oops\n\n", done()]))
    await asyncio.wait_for(provider.generate(prompt(), RecordingSink()), 5)
    await provider.close()
    assert oddities.seen == [("acme", "content"), ("acme", "count"), ("acme", "after_finish")]
