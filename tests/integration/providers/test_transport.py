"""Connections to a provider: reused, dropped, closed on a cancel in every phase, over TLS, through proxies."""

import asyncio
import contextlib
import ssl
import subprocess
import time
from pathlib import Path

import httpx2
import pytest
from parley_server.errors import ProviderError, ProviderUnavailable
from parley_server.providers.http import transport
from parley_server.providers.http.transport import PushTransport, body_of, proxied

from tests.clock import until
from tests.integration.providers.recording import RecordingSink, prompt, provider_at
from tests.tools import tool
from tests.upstream import Close, Hang, Pause, Raw, Reset, Script, Upstream, answer, done, finish, text


@pytest.fixture
async def provider(upstream):
    acme = provider_at(upstream.url)
    yield acme
    await acme.close()


async def ask(provider):
    sink = RecordingSink()
    await provider.generate(prompt(), sink)
    return sink.content


def open_sockets():
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(descriptor.readlink()))
    return sum(link.startswith("socket:") for link in links)


async def test_a_connection_is_used_again(upstream, provider):
    for _ in range(5):
        assert await ask(provider) == "Hello, world"
    assert upstream.connections == 1


async def test_concurrent_requests_have_connections_of_their_own(upstream, provider):
    assert await asyncio.gather(*[ask(provider) for _ in range(50)]) == ["Hello, world"] * 50
    assert upstream.connections == 50
    await asyncio.gather(*[ask(provider) for _ in range(50)])
    assert upstream.connections == 50


@pytest.mark.parametrize("gone", [Close(), Reset()])
async def test_a_stale_connection_is_replaced_unnoticed(upstream, provider, gone):
    await ask(provider)
    upstream.reply_next(Script(before_head=[gone]))
    assert await ask(provider) == "Hello, world"
    assert (upstream.connections, len(upstream.requests)) == (2, 3)


async def test_a_request_that_ran_for_long_is_not_repeated(upstream, provider, monkeypatch):
    monkeypatch.setattr(transport, "REPEAT_WITHIN_S", 0.05)
    await ask(provider)
    upstream.reply_next(Script(before_head=[Pause(0.1), Close()]))
    with pytest.raises(ProviderUnavailable):
        await ask(provider)
    assert len(upstream.requests) == 2


async def test_a_connection_closed_while_idle_is_not_used(upstream, provider):
    upstream.reply_next(Script([text("a"), finish(), done(), Raw(b"0\r\n\r\n"), Close()]))
    await ask(provider)
    await upstream.no_connections()
    assert await ask(provider) == "Hello, world"
    assert upstream.connections == 2


async def test_a_new_connection_is_not_repeated(upstream, provider):
    upstream.reply_with(Script(before_head=[Close()]))
    with pytest.raises(ProviderUnavailable):
        await ask(provider)
    assert len(upstream.requests) == 1


async def test_a_request_that_had_part_of_an_answer_is_not_repeated(upstream, provider):
    await ask(provider)
    upstream.reply_next(Script(before_head=[Raw(b"HTTP/1.1 2"), Close()]))
    with pytest.raises(ProviderUnavailable):
        await ask(provider)
    assert len(upstream.requests) == 2


async def test_an_unsolicited_response_closes_the_connection(upstream, provider):
    unasked = Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
    upstream.reply_next(Script([text("a"), finish(), done(), Raw(b"0\r\n\r\n"), unasked, Hang()]))
    assert await ask(provider) == "a"
    await asyncio.wait_for(upstream.aborted.wait(), 2)
    assert await ask(provider) == "Hello, world"


async def test_a_second_response_in_one_read_is_discarded(upstream, provider):
    unasked = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    upstream.reply_next(Script([text("a"), finish(), done(), Raw(b"0\r\n\r\n" + unasked), Hang()]))
    assert await ask(provider) == "a"
    await asyncio.wait_for(upstream.aborted.wait(), 2)


async def test_a_connection_marked_close_is_closed_by_the_client(upstream, provider):
    headers = {"Content-Type": "text/event-stream", "Connection": "close"}
    upstream.reply_next(Script([text("a"), finish(), done(), Raw(b"0\r\n\r\n"), Hang()], headers=headers))
    assert await ask(provider) == "a"
    await asyncio.wait_for(upstream.aborted.wait(), 2)


@pytest.mark.parametrize("framing", ["chunked", "length"])
async def test_a_body_that_falls_short_is_an_error(upstream, framing):
    headers = {"Content-Length": "9"} if framing == "length" else {"Transfer-Encoding": "chunked"}
    body = b"abc" if framing == "length" else b"3\r\nabc\r\n"
    upstream.reply_with(Script([Raw(body), Close()], headers=headers, framing="raw"))
    pieces = []
    client = httpx2.AsyncClient(transport=PushTransport())
    async with client, client.stream("POST", upstream.url, json={}) as response:
        with pytest.raises(httpx2.RemoteProtocolError):
            await body_of(response).push_to(pieces.append)
    assert pieces == [b"abc"]


async def test_connection_close_is_obeyed(upstream, provider):
    for script in (Script(answer("a").steps, keep_alive=False), Script(answer("a").steps, framing="close")):
        upstream.reply_with(script)
        before = upstream.connections
        assert [await ask(provider), await ask(provider)] == ["a", "a"]
        assert upstream.connections == before + 2


async def test_framings_and_interim_responses(upstream, provider):
    steps = answer("a", "b").steps
    for script in (
        Script(steps, framing="length"),
        Script(steps, framing="close"),
        Script(
            steps, before_head=[Raw(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), Raw(b"HTTP/1.1 100 C\r\n\r\n")]
        ),
    ):
        upstream.reply_with(script)
        assert await ask(provider) == "ab"


async def test_idle_connections_are_closed(upstream):
    short = PushTransport(idle_limit_s=0.05)
    async with httpx2.AsyncClient(transport=short) as client:
        await client.post(upstream.url, json={})
        assert short.open_connections == 1
        await asyncio.wait_for(upstream.no_connections(), 2)
        await client.post(upstream.url, json={})
    assert upstream.connections == 2


async def test_the_body_may_come_before_it_is_asked_for(upstream):
    upstream.reply_with(Script([b"abc", b"def"], framing="length"))
    pieces = []
    client = httpx2.AsyncClient(transport=PushTransport())
    async with client, client.stream("POST", upstream.url, json={}) as first:
        await client.post(upstream.url, json={})
        await body_of(first).push_to(pieces.append)
    assert b"".join(pieces) == b"abcdef"


async def test_a_large_body_that_nobody_takes_is_not_read(upstream):
    upstream.reply_with(Script([b"x" * 65536] * 512, framing="length"))
    sizes = []
    client = httpx2.AsyncClient(transport=PushTransport())
    async with client, client.stream("POST", upstream.url, json={}) as response:
        await asyncio.sleep(0.2)
        await body_of(response).push_to(lambda data: sizes.append(len(data)))
    assert sum(sizes) == 512 * 65536
    assert sizes[0] < 2 * 1024 * 1024  # what was held until it was asked for


# --- cancels


async def cancelled(upstream, provider, *, when, sink=None):
    """Cancel a generation; seconds until the upstream saw it."""
    task = asyncio.ensure_future(provider.generate(prompt(), sink or RecordingSink()))
    await when
    at = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(upstream.aborted.wait(), 5)
    return upstream.aborts[-1].at - at


async def answered(upstream):
    """The request has arrived, and the head of its answer has had time to travel."""
    await upstream.requested.wait()
    await asyncio.sleep(0.1)


async def test_cancel_before_the_headers(upstream, provider):
    upstream.reply_with(Script(before_head=[Hang()]))
    assert await cancelled(upstream, provider, when=upstream.requested.wait()) < 0.25
    await asyncio.wait_for(upstream.no_connections(), 2)


async def test_cancel_before_the_first_token(upstream, provider):
    upstream.reply_with(Script([Hang()]))
    assert await cancelled(upstream, provider, when=answered(upstream)) < 0.25
    await asyncio.wait_for(upstream.no_connections(), 2)


async def test_cancel_within_the_body(upstream, provider):
    upstream.reply_with(Script([text("a"), Hang()]))
    sink = RecordingSink()
    assert await cancelled(upstream, provider, when=sink.first.wait(), sink=sink) < 0.25
    await asyncio.wait_for(upstream.no_connections(), 2)


async def test_cancel_within_the_handshake(upstream):
    provider = provider_at(upstream.url.replace("http:", "https:"))
    assert await cancelled(upstream, provider, when=until(lambda: upstream.open_connections == 1)) < 0.25
    await asyncio.wait_for(upstream.no_connections(), 2)
    await provider.close()


async def test_cancel_within_an_error_body(upstream, provider):
    upstream.reply_with(Script([b"{", Hang()], status=500))
    assert await cancelled(upstream, provider, when=answered(upstream)) < 0.25


async def test_five_hundred_cancels_leak_no_socket(upstream, provider):
    await ask(provider)
    before = open_sockets()
    scripts = [Script(before_head=[Hang()]), Script([Hang()]), Script([text("a"), Hang()])]
    upstream.reply_with(lambda request: scripts[len(upstream.requests) % 3])
    for _ in range(10):
        tasks = [asyncio.ensure_future(provider.generate(prompt(), RecordingSink())) for _ in range(50)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)
    await asyncio.wait_for(upstream.no_connections(), 5)
    assert provider.endpoint.transport.open_connections == 0
    async with asyncio.timeout(5):
        while open_sockets() >= before:  # both ends of the idle connection are gone as well
            await asyncio.sleep(0.01)
    upstream.reply_with(answer("still there"))
    assert await ask(provider) == "still there"


async def test_close_ends_busy_connections(upstream):
    provider = provider_at(upstream.url)
    upstream.reply_with(Script([text("a"), Hang()]))
    sink = RecordingSink()
    task = asyncio.ensure_future(provider.generate(prompt(), sink))
    await sink.first.wait()
    await provider.close()
    with pytest.raises(ProviderError):
        await task


# --- TLS and proxies


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([tool("openssl"), *command.split(), *files], check=True, capture_output=True)
    return folder


@pytest.fixture
async def tls_upstream(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    async with Upstream(ssl_context=context) as server:
        yield server


async def test_tls_with_an_authority_from_the_environment(tls_upstream, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    provider = provider_at(tls_upstream.url)
    assert [await ask(provider), await ask(provider)] == ["Hello, world"] * 2
    assert tls_upstream.connections == 1
    tls_upstream.reply_with(Script([text("a"), Hang()]))
    sink = RecordingSink()
    assert await cancelled(tls_upstream, provider, when=sink.first.wait(), sink=sink) < 0.25
    await provider.close()


async def test_tls_with_an_unknown_authority_is_refused(tls_upstream):
    provider = provider_at(tls_upstream.url)
    with pytest.raises(ProviderUnavailable):
        await ask(provider)
    await provider.close()
    assert tls_upstream.requests == []


async def test_tls_for_another_host_is_refused(tls_upstream, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    provider = provider_at(tls_upstream.url.replace("127.0.0.1", "localhost"))
    with pytest.raises(ProviderUnavailable):
        await ask(provider)
    await provider.close()


async def test_a_proxy_of_the_environment_is_used(upstream, monkeypatch):
    monkeypatch.setenv("http_proxy", upstream.url.removesuffix("/v1"))
    provider = provider_at("http://model.example/v1", after_finish_s=0.1)
    assert provider.endpoint.transport is None
    assert await ask(provider) == "Hello, world"
    assert upstream.requests[0].path == "http://model.example/v1/chat/completions"
    for steps in ([text("a"), finish(), done(), Hang()], [text("a"), finish(), Hang()], [text("a"), finish(), Reset()]):
        upstream.reply_with(Script(steps))
        assert await asyncio.wait_for(ask(provider), 2) == "a"
    upstream.reply_with(Script([text("a"), Pause(30)]))
    sink = RecordingSink()
    assert await cancelled(upstream, provider, when=sink.first.wait(), sink=sink) < 0.25
    await provider.close()


@pytest.mark.parametrize(
    ("variables", "url", "expected"),
    [
        ({}, "https://a.example", False),
        ({"https_proxy": "http://p:1"}, "https://a.example", True),
        ({"https_proxy": "http://p:1"}, "http://a.example", False),
        ({"ALL_PROXY": "http://p:1"}, "http://a.example", True),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "b.example,a.example"}, "http://a.example", False),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": ".example"}, "http://a.example:81", False),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*"}, "http://a.example", False),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "127.0.0.1"}, "http://127.0.0.1:80/v1", False),
    ],
)
def test_which_addresses_are_behind_a_proxy(monkeypatch, variables, url, expected):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxied(httpx2.URL(url)) is expected
