"""Failures in every dialect: refusals, errors within a stream, filters, and cancels in each phase."""

import asyncio
import socket

import pytest
from parley_server.core.model import Finish, FinishReason
from parley_server.errors import Failure, ProviderError

from tests.clock import until
from tests.dialects.speakers import Text
from tests.integration.providers.recording import RecordingSink
from tests.upstream import Hang, Script

REPORTED = [failure for failure in Failure if failure not in (Failure.SILENCE, Failure.NONSENSE)]


async def outcome_of(speaker, provider, upstream, script):
    """The sink, and the finish or the error, which quotes nothing."""
    sink = RecordingSink()
    upstream.reply_with(script)
    try:
        outcome = await provider.generate(speaker.prompt(), sink)
    except ProviderError as error:
        outcome = error
    assert "secret" not in str(getattr(outcome, "__dict__", ""))
    return sink, outcome


@pytest.mark.parametrize("failure", REPORTED)
async def test_refusals(speaker, provider, upstream, failure):
    script = speaker.refusal(failure)
    if script is None:
        return
    _, error = await outcome_of(speaker, provider, upstream, script)
    assert error.failure is failure
    assert error.metadata["http_status"] == str(script.status)
    assert not error.billed


@pytest.mark.parametrize("failure", REPORTED)
async def test_errors_within_a_stream(speaker, provider, upstream, failure):
    event = speaker.error(failure)
    if event is None:
        return
    started = speaker.speak(Text("Hello"), Text("there"))
    before = started.events[: started.last]
    for steps, text in ((before, "Hellothere"), ([], "")):
        for at_once in (True, False):
            script = speaker.scripted([*steps, event], at_once=at_once)
            sink, error = await outcome_of(speaker, provider, upstream, script)
            assert (error.failure, error.billed, sink.content) == (failure, True, text)


NESTED = b"[" * 5000 + b"]" * 5000
NONSENSE = {
    "broken": b"data: {oops}\n\n",
    "a number": b"data: 7\n\n",
    "a list": b"data: [1]\n\n",
    "a page": b"<html>\n",
    "nested": b'data: {"usage": %s}\n\n' % NESTED,
    "nested outside of an event": NESTED,
}


@pytest.mark.parametrize("bad", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense(speaker, provider, upstream, bad):
    _, error = await outcome_of(speaker, provider, upstream, speaker.scripted([bad]))
    assert error.failure is Failure.NONSENSE


async def test_a_filter_before_any_token_finishes_the_answer(speaker, provider, upstream):
    for script in speaker.filtered():
        sink, finish = await outcome_of(speaker, provider, upstream, script)
        assert isinstance(finish, Finish)
        assert (finish.reason, sink.content) == (FinishReason.CONTENT_FILTER, "")


async def test_an_answer_without_content_that_a_filter_ended(speaker, provider, upstream):
    word = next(word for word, reason in speaker.words.items() if reason is FinishReason.CONTENT_FILTER)
    _, finish = await outcome_of(speaker, provider, upstream, speaker.script(word=word))
    assert finish.reason is FinishReason.CONTENT_FILTER


def phases(speaker):
    """Where an answer may hang: before its head, before its first event, between pieces, after its finish word."""
    spoken = speaker.speak(Text("Hello"), Text("there"))
    return [
        Script(before_head=[Hang()]),
        *[speaker.scripted([*spoken.events[:place], Hang()]) for place in range(spoken.last)],
    ]


async def test_a_cancel_in_each_phase_closes_the_connection(speaker, provider, upstream):
    for number, script in enumerate(phases(speaker), 1):
        upstream.reply_with(script)
        upstream.aborted.clear()
        asked = asyncio.ensure_future(provider.generate(speaker.prompt(), RecordingSink()))
        await until(lambda number=number: len(upstream.requests) == number)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.wait_for(upstream.aborted.wait(), 10)
        await asyncio.wait_for(upstream.no_connections(), 10)


async def test_a_cancel_while_connecting(speaker):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        provider = speaker.provider(f"http://127.0.0.1:{full.getsockname()[1]}/v1")
        asked = asyncio.ensure_future(provider.generate(speaker.prompt(), RecordingSink()))
        for _ in range(10):
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await provider.close()
        for filler in fillers:
            filler.close()


async def test_p34_a_cancel_at_every_turn_of_the_loop(speaker, upstream):
    """Cancelled after each number of turns, the call ends, and no connection stays open."""
    upstream.reply_with(speaker.script(Text("Hello"), Text("there")))
    turns = 0
    finished = False
    while not finished:
        provider = speaker.provider(upstream.url)
        asked = asyncio.ensure_future(provider.generate(speaker.prompt(), RecordingSink()))
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = asked.done()
        for _ in range(2):  # a second cancel while the first one is processed
            asked.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({asked}, timeout=10)
        assert asked.done()
        assert finished or asked.cancelled() or asked.exception() is None
        await provider.close()
        await asyncio.wait_for(upstream.no_connections(), 10)
        turns += 1
