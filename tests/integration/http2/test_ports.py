"""Where the server listens, and with whom."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess

import grpc
import pytest
from parley_server.rpc.http2.ports import bind

from tests.integration.http2.peer import Peer
from tests.processes import open_channel


def has_ipv6() -> bool:
    try:
        bind("[::1]:0", share=False)[0].close()
    except OSError:
        return False
    return True


HOSTS = {
    "127.0.0.1": ["127.0.0.1"],
    "localhost": ["127.0.0.1", "::1"],
    "0.0.0.0": ["127.0.0.1", "::1"],
    "[::]": ["127.0.0.1", "::1"],
    "[::1]": ["::1"],
}


@pytest.mark.parametrize("host", HOSTS)
async def test_addresses(serve, host):
    if host == "[::1]" and not has_ipv6():
        pytest.skip("no IPv6")
    running = await serve(address=f"{host}:0")
    for each in HOSTS[host]:
        if each == "::1" and not has_ipv6():
            continue
        target = f"[{each}]:{running.port}" if ":" in each else f"{each}:{running.port}"
        async with open_channel(target) as channel:
            assert await channel.unary_unary("/t.T/Echo")(b"a", timeout=10) == b"a"
    for each in {"127.0.0.1", "::1"} - set(HOSTS[host]):
        with pytest.raises(OSError):  # noqa: PT011 - refused, or no such family
            await asyncio.open_connection(each, running.port)


async def test_a_port_in_use(serve):
    running = await serve()
    for share in (False, True):
        with pytest.raises(OSError, match="in use"):
            bind(f"127.0.0.1:{running.port}", share=share)


async def test_a_shared_port(serve):
    first = await serve(share=True)
    second = await serve(address=f"127.0.0.1:{first.port}", share=True)
    for _ in range(200):
        peer = await Peer.greeted(first.port)
        assert (await peer.ask("/t.T/Echo", b"a")).messages == [b"a"]
        await peer.close()
        if first.services.runs and second.services.runs:
            break
    assert first.services.runs
    assert second.services.runs


async def test_an_address_that_is_none():
    for address in ("192.0.2.1:0", "no.such.host.invalid:0"):
        with pytest.raises(OSError):  # noqa: PT011 - the system's own words
            bind(address, share=False)


async def test_small_answers_do_not_wait_for_one_another(serve, connect):
    """Nagle's algorithm is off."""
    running = await serve()
    await connect(running)
    accepted = running.connection._transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# --- TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate of this machine that signs itself, and its key."""
    command, folder = shutil.which("openssl"), tmp_path_factory.mktemp("tls")
    if command is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("openssl is not installed")
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([command, *new, *names, "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def tls(certificate):
    """As the app makes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def trusting(certificate):
    """A client's context, to be told of protocols."""
    context = ssl.create_default_context(cafile=str(certificate[0]))
    context.set_alpn_protocols(["h2"])
    return context


async def test_calls_over_tls(serve, channel, tls, trusting, certificate):
    running = await serve(tls=tls)
    credentials = grpc.ssl_channel_credentials(certificate[0].read_bytes())
    opened = channel(running, credentials=credentials)
    assert await opened.unary_unary("/t.T/Echo")(bytes(3_000_000), timeout=10) == bytes(3_000_000)
    peer = await Peer.greeted(running.port, tls=trusting)
    assert (await peer.ask("/t.T/Flood", b"50 10000")).messages == [bytes((each,)) * 10_000 for each in range(50)]
    await peer.close()
    await running.until_idle()


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
async def test_no_h2_over_tls(serve, tls, certificate, protocols):
    running = await serve(tls=tls)
    context = ssl.create_default_context(cafile=str(certificate[0]))
    if protocols:
        context.set_alpn_protocols(protocols)
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        await Peer.greeted(running.port, tls=context)
    await running.until(lambda: not running.server.connections)


async def test_an_old_tls(serve, tls, trusting):
    running = await serve(tls=tls)
    trusting.minimum_version = ssl.TLSVersion.TLSv1_2
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    await (await Peer.greeted(running.port, tls=trusting)).close()
    trusting.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        trusting.minimum_version = trusting.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Peer.greeted(running.port, tls=trusting)


async def test_a_handshake_without_end(serve, tls, monkeypatch):
    """It is cut, leaves nothing behind, and is not waited for by a stop."""
    monkeypatch.setattr("parley_server.rpc.http2.server.HANDSHAKE_S", 0.2)
    running = await serve(tls=tls, greeting_s=0.1)  # the greeting's limit begins after the handshake
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    assert not running.server.connections


async def test_a_stop_during_a_handshake(serve, tls):
    running = await serve(tls=tls)
    _, writer = await asyncio.open_connection("127.0.0.1", running.port)
    async with asyncio.timeout(5):
        await running.server.stop(0.1)
    writer.close()


async def test_a_peer_that_never_reads_over_tls(serve, tls, trusting):
    running = await serve(tls=tls, keepalive_s=0.2, ping_s=0.2)
    peer = await Peer.greeted(running.port, (4, 2**31 - 1), tls=trusting)
    peer.send(bytes.fromhex("000004080000000000") + (2**30).to_bytes(4))
    for _ in range(10):
        peer.call("/t.T/Flood", b"100 1000000")
    await peer.writer.drain()
    peer.writer.transport.pause_reading()
    connection = running.connection
    await running.until(lambda: connection.flow.paused)
    assert connection._transport.get_write_buffer_size() < 1_000_000
    await running.until(lambda: not running.server.connections)
    await running.until_idle()
    await peer.close()
