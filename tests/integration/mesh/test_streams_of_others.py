"""Behind a proxy, callers share connections to a server. A misbehaving caller does not affect the streams of others."""

from __future__ import annotations

import contextlib
import signal

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from parley.v1 import chat_pb2, chat_pb2_grpc

from tests.integration.mesh.callers import LIMIT_S, LONG, RESUME_REPLY, STREAMS, Mesh
from tests.integration.mesh.peer import Peer
from tests.integration.mesh.proxies import Envoy
from tests.integration.process.watching import script
from tests.lanes import LOADED
from tests.processes import open_channel, until

pytestmark = [pytest.mark.xdist_group(LOADED), pytest.mark.timeout(60)]
STREAM_REPLY = "/parley.v1.Chat/StreamReply"
BIG_FIELDS_BYTES = 40_000
LONG_PATH_CHARACTERS = 25_000
FLOODS, CALLS_OF_A_FLOOD = 4, 400
"""Envoy ends a caller's connection on which more than 500 calls were reset within a second of their start."""
SLOW_READERS = 32
"""More than the connection window holds at 64 KiB each, where it is 1 MiB."""


def shares_connections(mesh: Mesh) -> None:
    """All calls of the test go over one connection from Envoy to the server."""
    if isinstance(mesh.proxy, Envoy):
        assert mesh.proxy.stat("cluster.parley.upstream_cx_http2_total") == 1
        assert mesh.proxy.stat("cluster.parley.upstream_rq_active") >= STREAMS


async def refusal(call: grpc.aio.UnaryUnaryCall) -> grpc.StatusCode:
    """The status of a call that is too large. gRPC enforces its limit once the peer has acknowledged it, so that the
    first call over a new connection may reach the servicer."""
    try:
        await call
    except grpc.aio.AioRpcError as status:
        return status.code()
    raise AssertionError("it was not refused")


async def test_40_kb_of_headers_end_only_their_own_call(mesh: Mesh) -> None:
    async with mesh.streams(), open_channel(mesh.address) as channel:
        shares_connections(mesh)
        chat = chat_pb2_grpc.ChatStub(channel)
        for _ in range(3):
            call = chat.GetReply(
                chat_pb2.GetReplyRequest(reply_id="nobody"),
                metadata=(("x-large", "a" * BIG_FIELDS_BYTES),),
                timeout=LIMIT_S,
            )
            assert await refusal(call) in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.NOT_FOUND)
        await mesh.answers()
        shares_connections(mesh)


async def test_a_path_of_25_000_characters_ends_only_its_own_call(mesh: Mesh) -> None:
    path = f"/parley.v1.Chat/{'a' * LONG_PATH_CHARACTERS}"
    async with mesh.streams(), open_channel(mesh.address) as channel:
        shares_connections(mesh)
        call = channel.unary_unary(path, request_serializer=Empty.SerializeToString)
        for _ in range(3):
            code = await refusal(call(Empty(), timeout=LIMIT_S))
            assert code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED)
        await mesh.answers()
        shares_connections(mesh)


async def test_a_flood_of_cancelled_calls_ends_no_other_stream(mesh: Mesh) -> None:
    async with mesh.streams():
        shares_connections(mesh)
        request = chat_pb2.ReplyRequest(text=script("Never read."), model="scripted")
        for _ in range(FLOODS):
            async with Peer(mesh.port) as peer:
                for _ in range(CALLS_OF_A_FLOOD):
                    peer.cancel(peer.call(STREAM_REPLY, request))
                with contextlib.suppress(ConnectionResetError):  # Envoy disconnects callers that reset young streams
                    await peer.drain()
                await mesh.answers()
        if isinstance(mesh.proxy, Envoy):
            envoy = mesh.proxy

            async def passed_on() -> bool:
                return envoy.stat("cluster.parley.upstream_rq_tx_reset") >= FLOODS * CALLS_OF_A_FLOOD // 2

            await until(passed_on, "Envoy has reset calls at the server", limit_s=LIMIT_S)
        await mesh.answers()
        shares_connections(mesh)


async def test_stalled_readers_delay_no_other_stream(mesh: Mesh) -> None:
    async with open_channel(mesh.address) as channel, Peer(mesh.port) as peer:
        chat = chat_pb2_grpc.ChatStub(channel)
        made = await chat.CreateReply(chat_pb2.ReplyRequest(text=LONG), timeout=LIMIT_S)
        async with mesh.streams():
            for _ in range(SLOW_READERS):
                peer.call(RESUME_REPLY, chat_pb2.ResumeReplyRequest(reply_id=made.id))
            await peer.drain()
            await mesh.readers(STREAMS + SLOW_READERS)
            if isinstance(mesh.proxy, Envoy):
                envoy = mesh.proxy

                async def held_up() -> bool:
                    return envoy.stat("cluster.parley.upstream_flow_control_paused_reading_total") >= SLOW_READERS

                await until(held_up, "Envoy reads no more of what nobody takes", limit_s=LIMIT_S)
            await mesh.answers()
            shares_connections(mesh)


async def test_a_drain_of_the_server_lets_streams_end(mesh: Mesh) -> None:
    async with mesh.streams() as watchers:
        shares_connections(mesh)
        mesh.server.send(signal.SIGTERM)

        async def draining() -> bool:
            return await mesh.server.health() == "NOT_SERVING"

        await until(draining, "the server drains", limit_s=LIMIT_S)
        for watcher in watchers:
            await watcher.has_go_away.wait()
    assert await mesh.server.exited() == 0
    assert {len(watcher.go_aways) for watcher in watchers} == {1}
