"""Each odd shape of a stream over a socket: head, body and end in one write, and each event in a write of its own."""

import re

import pytest
from parley_server.errors import ParleyError
from parley_server.settings import OpenAISettings, Switches

from tests.integration.providers.recording import RecordingSink, prompt, provider_at
from tests.shapes import SHAPES
from tests.upstream import Script

WRITES = ["at once", "event by event", "until the connection closes"]


def script_of(shape, writes):
    headers = {"Content-Type": shape.content_type}
    if writes == "event by event":
        return Script([piece for piece in re.split(rb"(?<=\n\n)", shape.body) if piece], headers=headers)
    return Script([shape.body], headers=headers, at_once=True, framing="chunked" if writes == "at once" else "close")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_shapes_over_a_socket(upstream, shape):
    settings = OpenAISettings(switches=Switches(done_is_finish=shape.done_is_finish))
    provider = provider_at(upstream.url, settings, after_finish_s=0.2)
    for writes in WRITES:
        upstream.reply_with(script_of(shape, writes))
        await check(shape, provider)
    await provider.close()


async def check(shape, provider):
    sink = RecordingSink()
    try:
        finish = await provider.generate(prompt(), sink)
    except ParleyError as error:
        end, word = error.reason, None
    else:
        end, word = finish.reason, finish.provider_reason
    assert (sink.content, sink.reasoning_content, end) == (shape.text, shape.reasoning, shape.end)
    assert shape.word in (None, word)
    calls = [event for event in sink.events if event[0] == "tool_call" and event[3]]
    assert [name for _, _, _, name, _ in calls] == [name for name, _ in shape.calls]
    counted = sink.counted[-1] if sink.counted else None
    counts = counted and (counted.prompt_tokens, counted.cached_prompt_tokens, counted.completion_tokens)
    assert counts == (shape.counts and shape.counts[:3])
