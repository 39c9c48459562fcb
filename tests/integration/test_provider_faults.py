"""The outcome of a reply for every kind of provider failure, end to end."""

import contextlib
import socket

import grpc
import pytest

from tests.integration.served import COMPLETED, FAILED, error_reason, text_of
from tests.upstream import (
    Close,
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
    refusal,
    role,
    text,
    tool_call,
    usage,
)

SECRET = "vendor-internal-SECRET"
QUOTING = {"error": {"message": SECRET, "type": "x", "code": None}}


async def failed(server, script):
    """The error, the streamed text and the stored reply of a reply that fails with this script of the provider."""
    server.upstream.reply_with(script)
    watch = await server.stream("Ask").end()
    reply = await server.get(watch.reply_id)
    error = watch.terminal.failed.error
    assert (reply.state, reply.error) == (FAILED, error)
    assert await watch.code() == grpc.StatusCode.ABORTED
    assert error.code == grpc.StatusCode.ABORTED.value[0]
    assert watch.terminal.failed.usage == reply.usage
    assert text_of(reply) == watch.text
    assert reply.HasField("message") == bool(watch.text)
    assert not reply.HasField("message") or reply.message.partial
    assert not (await server.conversation(watch.conversation_id)).active_reply_id
    assert SECRET not in str(watch.chunks) + str(watch.error) + str(reply)
    return error, watch.text, reply


@pytest.mark.parametrize("count", [2**31, 2**64 - 1, 10**30, -1])
async def test_an_impossible_token_count_does_not_block_the_conversation(server, upstream, count):
    created = await server.new_conversation()
    upstream.reply_next(Script([role(), text("text"), finish(), usage(count, 7), done()]))
    watch = await server.stream("Ask", conversation_id=created.id).end()
    reply = await server.get(watch.reply_id)
    assert (reply.state, reply.usage.estimated, watch.terminal.finished.usage) == (COMPLETED, True, reply.usage)
    assert 0 <= reply.usage.cost_nano_usd < 1_000_000
    assert (await server.resume(watch.reply_id).end()).text == "text"
    assert len((await server.messages(created.id)).messages) == 2
    assert (await server.stream("Again", conversation_id=created.id).end()).text == "Hello, world"


@pytest.mark.parametrize(
    ("script", "why", "retryable"),
    [
        (refusal(401, QUOTING), "PROVIDER_UNAUTHENTICATED", False),
        (refusal(403, QUOTING), "PROVIDER_UNAUTHENTICATED", False),
        (refusal(400, QUOTING), "PROVIDER_REJECTED", False),
        (refusal(404, QUOTING), "PROVIDER_REJECTED", False),
        (refusal(429, QUOTING), "PROVIDER_RATE_LIMITED", True),
        (refusal(500, QUOTING), "PROVIDER_UNAVAILABLE", True),
        (refusal(503, QUOTING), "PROVIDER_UNAVAILABLE", True),
        (Script([b"<html>" + SECRET.encode()], status=502, framing="length"), "PROVIDER_UNAVAILABLE", True),
        (Script([Reset()]), "PROVIDER_UNAVAILABLE", True),
        (Script([], before_head=[Close()]), "PROVIDER_UNAVAILABLE", True),
        (Script([], before_head=[Raw(b"SSH-2.0-x\r\n\r\n"), Close()]), "PROVIDER_UNAVAILABLE", True),
        (Script([error_event(SECRET)]), "PROVIDER_UNAVAILABLE", True),
        (Script([error_event(SECRET, kind="rate_limit_error", code=429)]), "PROVIDER_RATE_LIMITED", True),
        (Script([b"data: {not json\n\n"]), "PROVIDER_MALFORMED", True),
        (Script([done()]), "PROVIDER_TRUNCATED", True),
        (Script([role()]), "PROVIDER_TRUNCATED", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_failure_before_the_first_token(server, script, why, retryable):
    error, kept, reply = await failed(server, script)
    assert (error.reason, error.retryable, kept) == (error_reason(why), retryable, "")
    page = await server.messages(reply.conversation_id)
    assert [text_of(message) for message in page.messages] == ["Ask"]


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ([], "PROVIDER_TRUNCATED"),
        ([done()], "PROVIDER_TRUNCATED"),
        ([Close()], "PROVIDER_TRUNCATED"),
        ([b'data: {"choices"'], "PROVIDER_TRUNCATED"),
        ([error_event(SECRET)], "PROVIDER_UNAVAILABLE"),
        ([error_event(SECRET, code="rate_limit_exceeded")], "PROVIDER_RATE_LIMITED"),
        ([event({"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]})], "PROVIDER_UNAVAILABLE"),
        ([b"data: {not json\n\n"], "PROVIDER_MALFORMED"),
        ([b"data: 42\n\n"], "PROVIDER_MALFORMED"),
    ],
    ids=range(9),
)
async def test_a_failure_within_the_answer_keeps_its_text(server, end, why):
    error, kept, reply = await failed(server, Script([role(), text("Half "), text("an answer"), *end]))
    assert (error.reason, kept, error.retryable) == (error_reason(why), "Half an answer", True)
    assert reply.usage.estimated
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (13, 4)
    page = await server.messages(reply.conversation_id)
    shown = [(text_of(message), message.partial) for message in page.messages]
    assert shown == [("Half an answer", True), ("Ask", False)]


async def test_a_provider_that_refuses_connections_is_unavailable(serve):
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        server = await serve(url=url)
        error, _, reply = await failed(server, answer("x"))
    assert (error.reason, error.message) == (error_reason("PROVIDER_UNAVAILABLE"), "up could not be connected to")
    assert reply.usage.estimated is False


@pytest.mark.parametrize(
    ("header", "seconds"), [({"retry_after": "7"}, 7.0), ({"retry_after_ms": "250"}, 0.25), ({}, None)]
)
async def test_the_retry_delay_of_a_429_is_passed_on(server, header, seconds):
    error, _, _ = await failed(server, refusal(429, **header))
    retry_after_s = error.retry_after.ToTimedelta().total_seconds() if error.HasField("retry_after") else None
    assert retry_after_s == seconds
    assert dict(error.metadata) == {"http_status": "429"}


async def test_code_points_split_anywhere(server, upstream):
    """P37: emoji, combining marks, a surrogate pair in two JSON strings, bytes cut anywhere."""
    whole = "né🎉👩‍👩‍👧 e\u0301 ✓"
    pieces = [text(whole), chunk({"content": "HIGH"}), chunk({"content": "LOW"}), finish(), done()]
    body = b"".join([role(), *pieces]).replace(b"HIGH", b"\\ud83d").replace(b"LOW", b"\\ude00!")
    raw = f'data: {{"choices":[{{"index":0,"delta":{{"content":"{whole}"}}}}]}}\n\n'.encode()
    upstream.reply_with(Script([bytes([byte]) for byte in raw] + [body]))
    watch = await server.stream().end()
    assert watch.text == whole + whole + "😀!"
    reply = await server.get(watch.reply_id)
    assert text_of(reply) == watch.text
    for each in watch.chunks:
        each.text.encode()  # no lone surrogate
    assert server.sql("select text_length from usage") == [(len(watch.text),)]


async def test_a_megabyte_in_one_read_is_passed_on_in_chunks_below_the_limit(server, upstream):
    big = "x" * 1_000_000
    upstream.reply_with(Script([b"".join([role(), text(big), text("y"), finish(), usage(), done()])]))
    watch = await server.stream().end()
    assert watch.text == big + "y"
    assert text_of(await server.get(watch.reply_id)) == watch.text
    late = await server.resume(watch.reply_id).end()
    assert (late.text, late.terminal) == (watch.text, watch.terminal)
    assert max(each.ByteSize() for each in late.chunks) < 1_100_000


async def test_missing_usage_is_estimated(server, upstream):
    upstream.reply_with(Script([role(), text("twelve chars"), finish(), done()]))
    watch = await server.stream("8 chars!").end()
    count = watch.terminal.finished.usage
    assert (count.estimated, count.prompt_tokens, count.completion_tokens) == (True, 14, 3)
    assert count.cost_nano_usd == 14 * 2_000 + 3 * 8_000


async def test_cached_and_reasoning_tokens_are_counted_and_priced(server, upstream):
    upstream.reply_with(
        Script([role(), reasoning("hm"), text("x"), finish(), usage(100, 50, cached=40, reasoning_tokens=30), done()])
    )
    count = (await server.stream().end()).terminal.finished.usage
    columns = ("prompt_tokens", "cached_prompt_tokens", "completion_tokens", "reasoning_tokens", "cost_nano_usd")
    expected = (100, 40, 50, 30, 60 * 2_000 + 40 * 500 + 50 * 8_000)
    assert tuple(getattr(count, column) for column in columns) == expected
    assert server.sql(f"select {', '.join(columns)} from usage") == [expected]


async def test_without_a_price_the_cost_is_unset(server):
    watch = await server.stream(model="plain").end()
    assert not watch.terminal.finished.usage.HasField("cost_nano_usd")
    assert not (await server.get(watch.reply_id)).usage.HasField("cost_nano_usd")


async def test_a_failure_before_any_text_has_zero_exact_usage(server):
    _, _, reply = await failed(server, refusal(500))
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.estimated) == (0, 0, False)
    assert server.sql("select state, error_reason, prompt_tokens from usage") == [("FAILED", "PROVIDER_UNAVAILABLE", 0)]


async def test_incomplete_tool_calls_are_not_stored(server):
    error, _, reply = await failed(server, Script([role(), tool_call(0, '{"a":', call_id="c", name="f"), Close()]))
    assert error.reason == error_reason("PROVIDER_TRUNCATED")
    assert not reply.HasField("message")


async def test_failed_requests_leave_the_connection_pool_usable(server, upstream):
    for _ in range(20):
        # Two of five requests fail, which is too few for the breaker to open.
        upstream.reply_next(refusal(500), Script([role(), text("x"), Reset()]), *[answer("fine")] * 3)
        watches = [await server.stream().end() for _ in range(5)]
        assert watches[-1].text == "fine"
    assert upstream.open_connections <= 2
