"""The framing and encoding of a body do not change the delivered content."""

import asyncio
import gzip
import zlib

import pytest
from parley_server.core.model import FinishReason
from parley_server.errors import ProviderMalformed, ProviderTruncated

from tests.integration.providers.recording import RecordingSink, prompt, provider_at
from tests.upstream import Close, Hang, Raw, Script, answer, done, error_event, finish, text

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
BODY = text("a") + text("b") + finish() + done()


def chunked(*pieces, end=b"0\r\n\r\n"):
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + end


def one_write(*parts, then=()):
    return Script(before_head=[Raw(b"".join(parts)), *(then or [Hang()])])


@pytest.fixture
async def provider(upstream):
    acme = provider_at(upstream.url, after_finish_s=0.2)
    yield acme
    await acme.close()


@pytest.fixture
def ask(upstream, provider):
    async def ask(script):
        upstream.reply_with(script)
        sink = RecordingSink()
        await provider.generate(prompt(), sink)
        return sink.content

    return ask


async def test_an_error_that_comes_with_head_and_end_is_raised(upstream, provider):
    upstream.reply_with(Script([error_event(code="context_length_exceeded")], at_once=True))
    with pytest.raises(Exception, match="context_length_exceeded"):
        await provider.generate(prompt(), RecordingSink())


async def test_content_before_invalid_http_is_read(ask):
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    assert await ask(one_write(head, chunked(BODY, end=b""), b"this is no chunk\r\n")) == "ab"
    with pytest.raises(ProviderTruncated):
        await ask(one_write(head, chunked(text("a"), end=b""), b"this is no chunk\r\n"))


async def test_a_second_response_is_not_part_of_the_body(upstream, ask):
    first = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(text("a") + finish())
    assert await ask(one_write(first, HEAD, b"Content-Length: %d\r\n\r\n" % len(text("b")), text("b"))) == "a"
    assert await ask(answer("next")) == "next"
    assert upstream.connections == 2


async def test_chunks_win_over_a_content_length_beside_them(upstream, ask):
    head = HEAD + b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert await ask(one_write(head, chunked(text("a"), text("b"), finish()), then=[])) == "ab"
    assert await ask(answer("next")) == "next"
    assert upstream.connections == 2  # a connection with two lengths is not used again


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("encoding", "squeeze"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_answer_is_read_although_identity_was_requested(ask, encoding, squeeze, at_once):
    body = squeeze(BODY)
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": encoding}
    assert await ask(Script([body[:20], body[20:]], headers=headers, at_once=at_once)) == "ab"


async def test_compressed_events_are_read_as_they_come(upstream, provider):
    squeezer = zlib.compressobj(wbits=31)
    first = squeezer.compress(text("a")) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    upstream.reply_with(Script([first, Hang()], headers={"Content-Encoding": "gzip"}))
    sink = RecordingSink()
    task = asyncio.ensure_future(provider.generate(prompt(), sink))
    await sink.first.wait()
    assert sink.content == "a"
    task.cancel()


async def test_garbage_within_a_compressed_answer(ask):
    headers = {"Content-Encoding": "gzip"}
    squeezer = zlib.compressobj(wbits=31)
    whole = squeezer.compress(text("a") + finish()) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    assert await ask(Script([whole, b"\xff" * 100], headers=headers)) == "a"
    squeezer = zlib.compressobj(wbits=31)
    part = squeezer.compress(text("a")) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(ProviderMalformed):
        await ask(Script([part, b"\xff" * 100], headers=headers))
    with pytest.raises(ProviderTruncated):
        await ask(Script([part, Close()], headers=headers))


async def test_an_encoding_that_is_not_known_is_malformed_at_once(upstream, ask):
    with pytest.raises(ProviderMalformed, match="encoding"):
        await ask(Script([BODY, Hang()], headers={"Content-Encoding": "br"}))


async def test_one_event_of_two_megabytes_all_escaped(upstream, provider):
    size = 2 * 1024 * 1024
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + rb"\u0061" * size + b'"}}]}\n\n'
    upstream.reply_with(Script([event, finish("length"), done()]))
    sink = RecordingSink()
    ended = await provider.generate(prompt(), sink)
    assert (len(sink.content), ended.reason) == (size, FinishReason.MAX_TOKENS)
