"""Without a server, the error of the Python client reports this and how to start one."""

from __future__ import annotations

import grpc
import parley
import pytest
from parley._reach import Reach

from tests.ports import free_port
from tests.scripted_server import Abort, refusal, running


def no_server(address: str) -> str:
    return f"no Parley server at {address}; start one with `parley serve`"


async def test_a_deadline_before_the_first_connection_reports_a_missing_server():
    async with parley.Client("parley.invalid:50051", call_timeout_s=0.001) as client:
        with pytest.raises(parley.Unavailable) as caught:
            await client.models()
    assert caught.value.message == no_server("parley.invalid:50051")


async def test_a_tls_error_names_the_certificate():
    address = f"127.0.0.1:{free_port()}"
    async with parley.Client(address, tls=True, backoff=parley.Backoff(max_elapsed_s=0.0)) as client:
        with pytest.raises(parley.Unavailable) as caught:
            await client.models()
    assert caught.value.message == no_server(address) + "; with TLS, the client must trust its certificate"


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


async def test_a_deadline_while_the_channel_connects_reports_a_missing_server():
    """gRPC reports IDLE both before the first connection attempt and after a lost connection."""
    late = parley.Unavailable("late", code=grpc.StatusCode.DEADLINE_EXCEEDED)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
        explained = Reach(channel, "127.0.0.1:1", tls=False).explain(late)
    assert explained.message == no_server("127.0.0.1:1")
