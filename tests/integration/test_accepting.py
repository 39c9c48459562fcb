"""How calls are taken: many of a busy method in a turn of the event loop, and all else as grpc.aio does it."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import pytest
from parley_server.rpc import accepting

CALLS = 100
TURN_S = 0.01  # gRPC's own threads do their part of a turn in it
SERVICE = "test.Test"


class Served:
    """A server with a busy method and another one, on a loop whose turns can be made long."""

    def __init__(self) -> None:
        self.started = 0
        self.server = accepting.server([("grpc.so_reuseport", 0)], busy=[f"/{SERVICE}/Busy"])
        handler = grpc.unary_unary_rpc_method_handler(self._handle)
        self.server.add_registered_method_handlers(SERVICE, {"Busy": handler, "Other": handler})
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    async def _handle(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.started += 1
        if request == b"refuse":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if request == b"wait":
            await asyncio.Event().wait()
        return request + b"!"

    async def turns(self, method: str) -> int:
        """How many turns of the loop it takes to take many calls that are there."""
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        await asyncio.to_thread(call, b"first")
        self.started, turns = 0, 0
        calls: list[object] = []  # one that nobody has is cancelled
        sending = threading.Thread(target=lambda: calls.extend(call.future(b"x") for _ in range(CALLS)))
        sending.start()
        sending.join()
        while self.started < CALLS:
            await asyncio.sleep(0)
            time.sleep(TURN_S)
            turns += 1
        channel.close()
        return turns


@pytest.fixture
async def served():
    made = Served()
    await made.server.start()
    yield made
    await made.server.stop(0)


def test_the_installed_grpc_is_one_whose_insides_are_known():
    """If not: do the other tests of this file pass with it added to TESTED?"""
    assert accepting.supported()


async def test_calls_of_a_busy_method_do_not_wait_for_one_another(served):
    busy, other = await served.turns("Busy"), await served.turns("Other")
    print(f"{CALLS} calls: taken in {busy} turns of the loop, in {other} otherwise")
    assert other > CALLS, "else grpc.aio does it by itself now, and this is not needed any more"
    assert busy < other / 4


@pytest.mark.parametrize("method", ["Busy", "Other"])
async def test_a_call_is_answered_refused_and_cancelled_as_ever(served, method):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        assert await call(b"hello") == b"hello!"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"refuse")
        assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await call(b"wait", timeout=0.2)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call(b"again") == b"again!"


async def test_a_stop_leaves_nothing(served):
    before = asyncio.all_tasks()
    other = Served()
    await other.server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{other.port}") as channel:
        assert await channel.unary_unary(f"/{SERVICE}/Busy")(b"hello") == b"hello!"
    await other.server.stop(0)
    while asyncio.all_tasks() - before:
        await asyncio.sleep(0.001)


async def test_another_release_of_grpc_takes_them_as_it_does(monkeypatch, caplog):
    monkeypatch.setattr(accepting, "TESTED", ("0.1.",))
    made = Served()
    await made.server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{made.port}") as channel:
        assert await channel.unary_unary(f"/{SERVICE}/Busy")(b"hello") == b"hello!"
    await made.server.stop(0)
    assert "accepts_one_at_a_time" in caplog.messages
