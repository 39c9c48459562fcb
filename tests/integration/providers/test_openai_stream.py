"""Streams of a provider in many forms are read correctly over a real socket."""

import asyncio
import json

import pytest
from parley_server.core.model import Finish, FinishReason, Usage
from parley_server.errors import (
    ProviderMalformed,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTruncated,
    ProviderUnavailable,
)

from tests.integration.providers.recording import RecordingSink, prompt, provider_at
from tests.upstream import (
    Close,
    Hang,
    Raw,
    Reset,
    Script,
    answer,
    chunk,
    done,
    error_event,
    event,
    finish,
    reasoning,
    role,
    text,
    tool_call,
)

NAME = {"response_id": "chatcmpl-1", "response_model": "test"}
STOP = Finish(reason=FinishReason.STOP, provider_reason="stop", **NAME)


@pytest.fixture
async def provider(upstream):
    acme = provider_at(upstream.url, after_finish_s=0.2)
    yield acme
    await acme.close()


@pytest.fixture
def ask(upstream, provider):
    async def ask(*steps, sink=None, **fields):
        sink = sink or RecordingSink()
        upstream.reply_with(Script(list(steps), **fields))
        return sink, await provider.generate(prompt(), sink)

    return ask


async def test_a_whole_answer(upstream, provider):
    upstream.reply_with(answer("Hel", "lo"))
    sink = RecordingSink()
    assert await provider.generate(prompt("Who?"), sink) == STOP
    assert sink.events == [
        ("text", "Hel"),
        ("text", "lo"),
        ("usage", Usage(prompt_tokens=5, completion_tokens=7)),
    ]
    assert upstream.requests[0].path == "/v1/chat/completions"
    assert upstream.requests[0].headers["authorization"] == "Bearer sk-secret"
    assert upstream.requests[0].headers["accept-encoding"] == "identity"
    assert upstream.requests[0].json == {
        "model": "acme-1",
        "messages": [{"role": "user", "content": "Who?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_one_read_is_one_text_and_one_flush(ask):
    sink, _ = await ask(text("a") + text("b") + text("c"), finish() + done())
    assert sink.events == [("text", "abc")]
    assert sink.flushes == 3  # each read, and the end


async def test_kinds_keep_their_order_within_a_read(ask):
    sink, _ = await ask(reasoning("hm") + text("a") + text("b") + reasoning("ah") + text("c") + finish() + done())
    assert sink.events == [("reasoning", "hm"), ("text", "ab"), ("reasoning", "ah"), ("text", "c")]


async def test_a_surrogate_pair_split_in_reasoning_and_arguments(ask):
    sink, _ = await ask(
        reasoning("x").replace(b'"x"', rb'"\ud83d"'),
        reasoning("x").replace(b'"x"', rb'"\ude00"'),
        tool_call(0, "x", call_id="c", name="f").replace(b'"x"', rb'"{\"a\":\"\ud83d"'),
        tool_call(0, "x").replace(b'"x"', rb'"\ude00\"}"'),
        finish("tool_calls"),
    )
    assert sink.reasoning_content == "😀"
    assert sink.events[1:] == [("tool_call", 0, "c", "f", '{"a":"'), ("tool_call", 0, "", "", '😀"}')]


async def test_broken_utf8_in_an_event_does_not_lose_the_answer(ask):
    sink, _ = await ask(text("a"), text("x").replace(b"x", b"\xf0\x9f"), text("b"), finish())
    assert sink.content == "a\ufffdb"


@pytest.mark.parametrize(
    "odd",
    [
        chunk({"content": None}),
        chunk({"content": ""}),
        chunk(None),
        event({"choices": []}),
        event({"choices": None}),
        event({}),
        event({"choices": [{"index": 0, "delta": None}]}),
        event({"choices": [{"index": 1, "delta": {"content": "another answer"}, "finish_reason": "length"}]}),
        b": nothing\n\n",
        b"data\n\n",
        b"data: \n\n",
        b"event: ping\n\n",
    ],
)
async def test_chunks_without_content_are_ignored(ask, odd):
    sink, ended = await ask(role(), odd, text("a"), odd, finish(), odd)
    assert (sink.events, ended) == ([("text", "a")], STOP)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.MAX_TOKENS),
        ("tool_calls", FinishReason.TOOL_CALLS),
        ("function_call", FinishReason.TOOL_CALLS),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("eos_token", FinishReason.OTHER),
    ],
)
async def test_finish_reasons(ask, word, reason):
    call = [tool_call(0, "{}", call_id="c", name="f")] if reason is FinishReason.TOOL_CALLS else []
    _, ended = await ask(text("a"), *call, finish(word), done())
    assert ended == Finish(reason=reason, provider_reason=word, **NAME)


# --- ends


async def test_a_broken_connection_after_the_finish_is_complete(ask):
    for end in (Reset(), Close()):
        _, ended = await ask(text("a"), finish(), end)
        assert ended == STOP


async def test_a_server_silent_after_the_finish_is_not_waited_for(ask):
    _, ended = await ask(text("a"), finish(), Hang())
    assert ended == STOP


async def test_a_server_that_stays_open_after_done_is_not_waited_for(upstream, provider):
    upstream.reply_with(Script([text("a"), finish(), done(), Hang()]))
    assert await asyncio.wait_for(provider.generate(prompt(), RecordingSink()), 0.15) == STOP


async def test_a_connection_closed_within_the_body_is_truncated(ask):
    with pytest.raises(ProviderTruncated):
        await ask(text("a"), Close())


async def test_a_connection_reset_within_the_body(ask):
    sink = RecordingSink()
    with pytest.raises(ProviderUnavailable) as failure:
        await ask(text("a"), Reset(), sink=sink)
    assert (sink.content, failure.value.billed) == ("a", True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (error_event("secret", kind="rate_limit_error"), ProviderRateLimited),
        (error_event("secret", kind="x", code="rate_limit_exceeded"), ProviderRateLimited),
        (error_event("secret", kind="", code=429), ProviderRateLimited),
        (error_event("secret", kind="server_error"), ProviderUnavailable),
        (error_event("secret", kind="", code=502), ProviderUnavailable),
        (error_event("secret", kind="", code="400"), ProviderRejected),
        (error_event("secret", kind="invalid_request_error"), ProviderRejected),
        (event({"error": "secret"}), ProviderUnavailable),
        (
            event({"error": {"message": "secret"}, "choices": [{"index": 0, "finish_reason": "error"}]}),
            ProviderUnavailable,
        ),
        (finish("error"), ProviderUnavailable),
    ],
)
async def test_an_error_within_the_stream(ask, error, kind):
    sink = RecordingSink()
    with pytest.raises(kind, match="acme") as failure:
        await ask(text("a"), text("b") + error, sink=sink)
    assert sink.content == "ab"
    assert type(failure.value) is kind
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("bad", [b"data: {oops}\n\n", b"data: 7\n\n", b"data: [1]\n\n", b'data: {"choices": 7}\n\n'])
async def test_an_event_that_is_not_a_chunk_is_malformed(ask, bad):
    sink = RecordingSink()
    with pytest.raises(ProviderMalformed):
        await ask(text("a") + bad, sink=sink)
    assert sink.content == "a"


async def test_one_json_document_instead_of_a_stream(ask):
    headers = {"Content-Type": "application/json; charset=utf-8"}
    with pytest.raises(ProviderMalformed):
        await ask(b'{"choices": []}', headers=headers)
    with pytest.raises(ProviderRateLimited):
        await ask(b'{"error": {"code": 429, "message": "secret"}}', headers=headers)
    with pytest.raises(ProviderMalformed):
        await ask(b"<html>", headers=headers)


async def test_a_non_http_server_is_unavailable(upstream, provider):
    upstream.reply_with(Script(before_head=[Raw(b"SSH-2.0-OpenSSH\r\n")]))
    with pytest.raises(ProviderUnavailable):
        await provider.generate(prompt(), RecordingSink())


async def test_a_megabyte_in_one_read_and_in_one_event(ask):
    pieces = [json.dumps(number) for number in range(20000)]
    sink, _ = await ask(b"".join([text(piece + " ") for piece in pieces]), finish())
    assert sink.content.split() == pieces
    sink, _ = await ask(text("x" * 1_000_000), finish())
    assert len(sink.content) == 1_000_000


async def test_an_event_without_end_is_refused(ask):
    with pytest.raises(ProviderMalformed):
        await ask(b"data: " + b"x" * (13 * 1024 * 1024))
