"""The errors for a provider that refuses, fails or is unreachable."""

import asyncio
import email.utils
import socket
import time

import pytest
from parley_server.errors import (
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnauthenticated,
    ProviderUnavailable,
)
from parley_server.settings import ApiKey, OpenAISettings, Timeouts

from tests.integration.providers.recording import RecordingSink, prompt, provider_at
from tests.upstream import Close, Hang, Raw, Reset, Script, Upstream, answer, refusal

SECRET = {"error": {"message": "secret words of the prompt", "type": "invalid_request_error", "code": None}}


async def failure_of(url, **options):
    provider = provider_at(url, **options)
    try:
        with pytest.raises(Exception) as failure:  # noqa: PT011 - the caller looks at what it is
            await provider.generate(prompt(), RecordingSink())
    finally:
        await provider.close()
    return failure.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, ProviderRejected),
        (400, ProviderRejected),
        (401, ProviderUnauthenticated),
        (403, ProviderUnauthenticated),
        (404, ProviderRejected),
        (408, ProviderUnavailable),
        (409, ProviderUnavailable),
        (413, ProviderRejected),
        (422, ProviderRejected),
        (425, ProviderUnavailable),
        (429, ProviderRateLimited),
        (500, ProviderUnavailable),
        (503, ProviderUnavailable),
        (529, ProviderUnavailable),
    ],
)
async def test_statuses(upstream, status, kind):
    upstream.reply_with(refusal(status, SECRET))
    error = await failure_of(upstream.url)
    assert isinstance(error, kind)
    assert error.metadata["http_status"] == str(status)
    assert str(status) in error.message
    assert "acme" in error.message
    assert "secret" not in error.message + str(error.metadata)
    assert (error.retry_after_s, len(upstream.requests)) == (None, 1)


async def test_a_known_code_is_shown_and_an_unknown_one_is_not(upstream):
    upstream.reply_with(refusal(400, {"error": {"message": "x", "code": "context_length_exceeded"}}))
    assert (await failure_of(upstream.url)).metadata["provider_code"] == "context_length_exceeded"
    upstream.reply_with(refusal(400, {"error": {"message": "x", "code": "sk-secret"}}))
    assert "sk-" not in str(vars(await failure_of(upstream.url)))


@pytest.mark.parametrize("body", ["text", [], {"error": "text"}, {"error": {"code": {}}}, {"detail": "x"}])
async def test_error_bodies_of_other_forms(upstream, body):
    upstream.reply_with(refusal(500, body))
    assert type(await failure_of(upstream.url)) is ProviderUnavailable


async def test_retry_after(upstream):
    async def wait_of(**headers):
        upstream.reply_with(refusal(429, **headers))
        return (await failure_of(upstream.url)).retry_after_s

    assert await wait_of(Retry_After="7") == 7.0
    assert await wait_of(Retry_After="0.5") == 0.5
    assert await wait_of(Retry_After="7", retry_after_ms="250") == 0.25
    assert await wait_of(Retry_After=email.utils.formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert await wait_of(Retry_After=email.utils.formatdate(time.time() - 30, usegmt=True)) == 0.0
    assert await wait_of(Retry_After="soon") is None
    assert await wait_of(Retry_After="nan") is None
    assert await wait_of(Retry_After="-3") == 0.0


async def test_a_refused_connection_and_an_unknown_host():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = await failure_of(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert (type(error), error.message) == (ProviderUnavailable, "acme could not be connected to")
    assert type(await failure_of("http://nowhere.invalid/v1")) is ProviderUnavailable


async def test_no_connection_in_time():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        error = await failure_of(
            f"http://127.0.0.1:{address[1]}/v1", settings=OpenAISettings(timeouts=Timeouts(connect=0.05))
        )
        for filler in fillers:
            filler.close()
    assert (type(error), error.message) == (ProviderUnavailable, "acme could not be connected to in time")
    assert error.billed is False


@pytest.mark.parametrize("end", [Reset(), Close()])
async def test_a_connection_lost_before_the_headers(upstream, end):
    upstream.reply_with(Script(before_head=[end]))
    assert type(await failure_of(upstream.url)) is ProviderUnavailable
    upstream.reply_with(Script(before_head=[Raw(b"HTTP/1.1 200 OK\r\nA: b\r\n"), end]))
    assert type(await failure_of(upstream.url)) is ProviderUnavailable
    assert len(upstream.requests) == 2


async def test_a_redirect_is_not_followed(upstream):
    async with Upstream() as elsewhere:
        upstream.reply_with(refusal(307, Location=elsewhere.url + "/chat/completions"))
        assert type(await failure_of(upstream.url)) is ProviderRejected
    assert elsewhere.requests == []


@pytest.mark.parametrize("head", [b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nab", b"\0\0\0"])
async def test_a_non_http_answer_is_unavailable(upstream, head):
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    upstream.reply_with(Script(before_head=[Raw(head), Hang()]))
    assert type(await asyncio.wait_for(failure_of(upstream.url), 2)) is ProviderUnavailable
    assert complaints == []


async def test_headers_without_end_are_refused(upstream):
    upstream.reply_with(Script(before_head=[Raw(b"HTTP/1.1 200 OK\r\n"), *[Raw(b"A: " + b"b" * 9000 + b"\r\n")] * 12]))
    assert type(await failure_of(upstream.url)) is ProviderUnavailable
    upstream.reply_with(Script(before_head=[Raw(b"HTTP/1.1 200 OK\r\nA: "), *[Raw(b"b" * 9000)] * 12, Hang()]))
    assert type(await failure_of(upstream.url)) is ProviderUnavailable
    upstream.reply_with(Script(before_head=[Raw(b"HTTP/1.1 100 Continue\r\n\r\n")] * 4000))
    assert type(await failure_of(upstream.url)) is ProviderUnavailable


async def test_keys(upstream):
    provider = provider_at(upstream.url, OpenAISettings(api_key=ApiKey(" sk-from-a-file\n")))
    await provider.generate(prompt(), RecordingSink())
    assert upstream.requests[-1].headers["authorization"] == "Bearer sk-from-a-file"
    await provider.close()
    for none in (None, ApiKey("")):
        provider = provider_at(upstream.url, OpenAISettings(api_key=none))
        await provider.generate(prompt(), RecordingSink())
        assert "authorization" not in upstream.requests[-1].headers
        await provider.close()
    asked = len(upstream.requests)
    error = await failure_of(upstream.url, settings=OpenAISettings(api_key=ApiKey("sk-a\r\nX-Injected: b")))
    assert type(error) is ProviderUnauthenticated
    assert "sk-a" not in error.message
    assert len(upstream.requests) == asked


async def test_openai_is_not_called_without_a_key():
    error = await failure_of("https://api.openai.com/v1", settings=OpenAISettings())
    assert type(error) is ProviderUnauthenticated
    assert "acme" in error.message


async def test_request_headers(upstream, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    provider = provider_at(upstream.url)
    upstream.reply_with(answer("a"))
    await provider.generate(prompt(traceparent=traceparent), RecordingSink())
    await provider.generate(prompt(traceparent="no\r\nX: y"), RecordingSink())
    await provider.close()
    first, second = upstream.requests
    assert first.headers["traceparent"] == traceparent
    assert first.headers["host"] == f"127.0.0.1:{upstream.port}"
    assert "openai-organization" not in first.headers
    assert "traceparent" not in second.headers
