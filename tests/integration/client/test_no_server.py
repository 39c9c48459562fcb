"""Where no server is: the client says so at once, gives up after 5 seconds, and does not show the transport's words."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import grpc
import parley
import pytest
from parley._reach import Reach
from parley.events import Reconnecting

from tests.ports import free_port
from tests.scripted_server import Abort, finished, refusal, running, text

FOR_EVER = parley.Backoff(max_elapsed_s=600.0)
GIVES_UP_S = 5.0


def sentence(address: str) -> str:
    return f"no Parley server at {address}; start one with `parley serve`"


async def read(stream: parley.ReplyStream) -> list[parley.Event]:
    return [event async for event in stream]


async def refused() -> AsyncIterator[str]:
    yield f"127.0.0.1:{free_port()}"


async def silent() -> AsyncIterator[str]:
    """Takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


async def unknown() -> AsyncIterator[str]:
    yield "parley.invalid:50051"


@pytest.fixture(params=[refused, silent, unknown], ids=lambda made: made.__name__)
async def address(request):
    async for each in request.param():
        yield each


async def test_a_stream_says_so_and_gives_up_after_5_seconds(address):
    async with asyncio.timeout(4 * GIVES_UP_S), parley.Client(address, backoff=FOR_EVER) as client:
        stream = client.stream_reply("Hi")
        with pytest.raises(parley.Unavailable) as caught:
            await read(stream)
    assert str(caught.value) == caught.value.message == sentence(address)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "")


async def test_a_call_gives_up_after_5_seconds(address):
    async with asyncio.timeout(4 * GIVES_UP_S), parley.Client(address, backoff=FOR_EVER, call_timeout_s=60) as client:
        with pytest.raises(parley.Unavailable) as caught:
            await client.models()
    assert caught.value.message == sentence(address)


async def test_a_time_limit_that_passes_before_a_connection_is_no_server_too():
    async with parley.Client("parley.invalid:50051", call_timeout_s=0.001) as client:
        with pytest.raises(parley.Unavailable) as caught:
            await client.models()
    assert caught.value.message == sentence("parley.invalid:50051")


async def test_a_refused_connection_is_told_at_once():
    client_address = f"127.0.0.1:{free_port()}"
    async with parley.Client(client_address, backoff=FOR_EVER) as client:
        stream = client.stream_reply("Hi")
        async with asyncio.timeout(2.0):
            event = await anext(stream)
        assert isinstance(event, Reconnecting)
        assert event.error.message == sentence(client_address)
        assert event.delay_s == round(event.delay_s, 3)


async def test_with_tls_it_names_the_certificate():
    address = f"127.0.0.1:{free_port()}"
    async with parley.Client(address, tls=True, backoff=parley.Backoff(max_elapsed_s=0.0)) as client:
        with pytest.raises(parley.Unavailable) as caught:
            await client.models()
    assert caught.value.message == sentence(address) + "; with TLS, the client must trust its certificate"


async def test_a_server_that_was_reached_before_is_waited_for_as_long_as_the_backoff_says():
    now = [0.0]

    async def sleep(delay_s: float) -> None:
        now[0] += delay_s

    backoff = parley.Backoff(max_elapsed_s=30.0, sleep=sleep, clock=lambda: now[0])
    async with running() as server:
        server.log = [text(1, "Hello"), finished(2)]
        client = parley.Client(server.address, backoff=backoff)
        async for _ in client.stream_reply("Hi"):
            pass
    async with client:
        with pytest.raises(parley.Unavailable) as caught:
            await client.acting_for("ben").get_reply("reply-1")
    assert caught.value.message == f"the Parley server at {server.address} cannot be reached"
    assert 25.0 <= now[0] <= 30.0


@pytest.mark.parametrize("last", [Abort(grpc.StatusCode.UNAVAILABLE), refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING")])
async def test_a_server_that_takes_no_calls_has_been_reached(last):
    now = [0.0]

    async def sleep(delay_s: float) -> None:
        now[0] += delay_s

    backoff = parley.Backoff(max_elapsed_s=30.0, sleep=sleep, clock=lambda: now[0])
    async with running() as server, parley.Client(server.address, backoff=backoff) as client:
        server.unary["GetReply"] = [last] * 100
        with pytest.raises(parley.Unavailable) as caught:
            await client.get_reply("reply-1")
    assert "no Parley server" not in caught.value.message
    assert now[0] >= 20.0


async def test_a_time_limit_that_passes_before_the_channel_connects_is_no_server_too():
    """A channel is idle both before its first attempt to connect and after it has lost a connection."""
    late = parley.Unavailable("late", code=grpc.StatusCode.DEADLINE_EXCEEDED)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
        explained = Reach(channel, "127.0.0.1:1", tls=False).explain(late)
    assert explained.message == sentence("127.0.0.1:1")
