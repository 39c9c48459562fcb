"""Without a server the Python client reports that, instead of the error of the transport."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import grpc
import parley
import pytest
from parley._reach import Reach

from tests.ports import free_port
from tests.scripted_server import Abort, refusal, running

FOR_EVER = parley.Backoff(max_elapsed_s=600.0)


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


async def test_a_deadline_before_the_first_connection_means_no_server():
    async with parley.Client("parley.invalid:50051", call_timeout_s=0.001) as client:
        with pytest.raises(parley.Unavailable) as caught:
            await client.models()
    assert caught.value.message == sentence("parley.invalid:50051")


async def test_a_tls_error_names_the_certificate():
    address = f"127.0.0.1:{free_port()}"
    async with parley.Client(address, tls=True, backoff=parley.Backoff(max_elapsed_s=0.0)) as client:
        with pytest.raises(parley.Unavailable) as caught:
            await client.models()
    assert caught.value.message == sentence(address) + "; with TLS, the client must trust its certificate"


@pytest.mark.parametrize("last", [Abort(grpc.StatusCode.UNAVAILABLE), refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING")])
async def test_a_server_that_refuses_calls_counts_as_reached(last):
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


async def test_a_deadline_while_the_channel_connects_means_no_server():
    """A channel is idle both before its first attempt to connect and after it has lost a connection."""
    late = parley.Unavailable("late", code=grpc.StatusCode.DEADLINE_EXCEEDED)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
        explained = Reach(channel, "127.0.0.1:1", tls=False).explain(late)
    assert explained.message == sentence("127.0.0.1:1")
