"""Answers in every dialect: content, counts, finish reasons, and how they end."""

import asyncio
import json

import pytest
from parley_server.core.model import FinishReason, Usage
from parley_server.errors import ProviderError, ProviderTruncated, ProviderUnavailable

from tests.dialects.speakers import Call, Counts, Reasoning, Text, unescaped
from tests.integration.providers.recording import RecordingSink
from tests.upstream import Close, Reset, Wait

FEATURES = "👩‍👩‍👧 e\u0301 Größe 日本 \U0001f1e9\U0001f1ea"
WEATHER = Call("call_1", "weather", ('{"city":', ' "Rome', '"}'))
TIME = Call("call_2", "time")


async def read(speaker, provider, upstream, script):
    sink = RecordingSink()
    upstream.reply_with(script)
    return sink, await provider.generate(speaker.prompt(), sink)


async def failed(speaker, provider, upstream, script):
    sink = RecordingSink()
    upstream.reply_with(script)
    with pytest.raises(ProviderError) as failure:
        await provider.generate(speaker.prompt(), sink)
    return sink, failure.value


def calls_of(sink):
    """Id, name and arguments by index."""
    calls = {}
    for kind, *pushed in sink.events:
        if kind == "tool_call":
            index, call_id, name, arguments = pushed
            known = calls.setdefault(index, (call_id, name, ""))
            calls[index] = (*known[:2], known[2] + arguments)
    return [calls[index] for index in sorted(calls)]


def writes_of(speaker, spoken):
    """The same answer in several ways of writing it to the socket."""
    return [
        speaker.scripted(spoken.events),
        speaker.scripted([spoken.body], at_once=True),
        speaker.scripted([bytes([byte]) for byte in spoken.body]),
        speaker.scripted([unescaped(spoken.body)], framing="close"),
    ]


async def test_text_reasoning_and_counts(speaker, provider, upstream):
    spoken = speaker.speak(Reasoning("hm"), Text("Hel"), Text(FEATURES))
    for script in writes_of(speaker, spoken):
        sink, finish = await read(speaker, provider, upstream, script)
        assert (sink.reasoning_content, sink.content) == ("hm", "Hel" + FEATURES)
        assert next(kind for kind, *_ in sink.events if kind != "usage") == "reasoning"
        assert finish.reason is FinishReason.STOP
        assert sink.counted[-1] == Usage(prompt_tokens=50, completion_tokens=7)


async def test_several_tool_calls(speaker, provider, upstream):
    spoken = speaker.speak(Text("Let me see."), WEATHER, TIME)
    for script in writes_of(speaker, spoken):
        sink, finish = await read(speaker, provider, upstream, script)
        assert finish.reason is FinishReason.TOOL_CALLS
        assert sink.content == "Let me see."
        read_calls = calls_of(sink)
        assert [(name, json.loads(arguments)) for _, name, arguments in read_calls] == [
            ("weather", {"city": "Rome"}),
            ("time", {}),
        ]
        ids = [call_id for call_id, _, _ in read_calls]
        assert ids == ["call_1", "call_2"] if speaker.shows_call_ids else len(set(ids) - {""}) == 2


async def test_finish_words(speaker, provider, upstream):
    for word, reason in speaker.words.items():
        _, finish = await read(speaker, provider, upstream, speaker.script(Text("a"), word=word))
        assert (finish.reason, finish.provider_reason) == (reason, word)


async def test_counts(speaker, provider, upstream):
    for counts in speaker.counts:
        sink, _ = await read(speaker, provider, upstream, speaker.script(Text("a"), counts=counts))
        assert sink.counted[-1] == Usage(
            prompt_tokens=counts.prompt,
            cached_prompt_tokens=counts.cached,
            cache_write_prompt_tokens=counts.written,
            completion_tokens=counts.completion,
            reasoning_tokens=counts.reasoning,
        )


@pytest.mark.parametrize("count", [2**64 - 1, -1, 10**8 + 1])
async def test_an_implausible_count_is_ignored(speaker, provider, upstream, count):
    script = speaker.script(Text("a"), counts=Counts(prompt=50, completion=count))
    sink, finish = await read(speaker, provider, upstream, script)
    assert finish.reason is FinishReason.STOP
    assert sink.counted[-1].completion_tokens == 0
    assert sink.counted[-1].estimated


@pytest.mark.parametrize(("end", "kind"), [(Close(), ProviderTruncated), (Reset(), ProviderUnavailable)])
async def test_a_cut_before_the_answer_is_complete_fails(speaker, provider, upstream, end, kind):
    spoken = speaker.speak(Reasoning("hm"), Text("Hello"), WEATHER)
    for place in range(spoken.last):
        _, error = await failed(speaker, provider, upstream, speaker.scripted([*spoken.events[:place], end]))
        assert type(error) is kind, place


async def test_a_body_that_ends_before_the_answer_is_complete_is_truncated(speaker, provider, upstream):
    spoken = speaker.speak(Text("Hello"), Text("there"))
    for place in range(1, spoken.last):
        _, error = await failed(speaker, provider, upstream, speaker.scripted(spoken.events[:place]))
        assert type(error) is ProviderTruncated, place


@pytest.mark.parametrize("end", [Close(), Reset(), b"data: {oops\n\n", b"\xff\x00"])
async def test_what_follows_a_complete_answer_changes_nothing(speaker, provider, upstream, end):
    spoken = speaker.speak(Text("Hello"))
    steps = [*spoken.events[: spoken.last + 1], end]
    sink, finish = await read(speaker, provider, upstream, speaker.scripted(steps))
    assert (sink.content, finish.reason) == ("Hello", FinishReason.STOP)


async def test_p36_each_piece_arrives_before_the_next_one_is_sent(speaker, provider, upstream):
    sink = RecordingSink()
    spoken = speaker.speak(Text("a"), Text("b"), Text("c"))
    steps = []
    waits = []
    for piece in spoken.events:
        waits.append(asyncio.Event())
        steps += [piece, Wait(waits[-1])]
    upstream.reply_with(speaker.scripted(steps))
    reading = asyncio.ensure_future(provider.generate(speaker.prompt(), sink))
    for wait in waits:
        sink.flushed.clear()
        await asyncio.wait({asyncio.ensure_future(sink.flushed.wait()), reading}, return_when=asyncio.FIRST_COMPLETED)
        wait.set()
    await reading
    assert [event for event in sink.events if event[0] == "text"] == [("text", letter) for letter in "abc"]


async def test_p37_a_surrogate_pair_in_two_pieces(speaker, provider, upstream):
    spoken = speaker.speak(Reasoning("\ud83d"), Reasoning("\ude00"), Text("a\ud83d"), Text("\ude00b\ud83d"))
    sink, _ = await read(speaker, provider, upstream, speaker.scripted(spoken.events))
    assert (sink.reasoning_content, sink.content) == ("😀", "a😀b\ufffd")
