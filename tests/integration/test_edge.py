"""The gRPC transport over real sockets: limits, counted refusals, pings and the age of connections."""

from __future__ import annotations

import asyncio
import socket
import time

import grpc
import pytest
from parley.v1 import chat_pb2

from tests.clock import until
from tests.integration.served import LIMIT_S, Watch, ask
from tests.upstream import Hang, Script, role, text

MIB = 1024 * 1024
HANGING = Script([role(), text("on and"), Hang()])
STREAM, GET = "/parley.v1.Chat/StreamReply", "/parley.v1.Chat/GetReply"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + bytes(8)
GOAWAY, NO_ERROR, ENHANCE_YOUR_CALM = 7, 0, 11


def counted(server, method, code):
    """How many calls of a method have ended with a code."""
    labels = {"method": method, "code": code}
    return server.app.telemetry.registry.get_sample_value("parley_calls_total", labels) or 0.0


async def failed(call):
    """The error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, LIMIT_S)
    return caught.value


def raw(server, path, *, streaming=False):
    """A method whose messages are bytes."""
    channel = server.channel
    return channel.stream_unary(path) if streaming else channel.unary_unary(path)


# --- refused calls, while others on the same connection continue


async def test_a_request_over_8_mib_is_refused_and_counted(server, upstream):
    upstream.reply_with(HANGING)
    watch = await server.stream().until_text("on and")
    error = await failed(raw(server, STREAM)(bytes(8 * MIB + 1), timeout=LIMIT_S))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"({8 * MIB + 1} vs. {8 * MIB})" in error.details()
    await until(lambda: counted(server, STREAM, "CANCELLED") == 1.0)
    await server.cancel(watch.reply_id)
    assert await watch.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("metadata", "path"),
    [((("x-large", "x" * 40_000),), GET), ((), "/parley.v1.Chat/" + "x" * 25_000)],
    ids=["40 kB of header fields", "a path of 25,000 characters"],
)
async def test_large_header_fields_end_only_their_own_call(server, upstream, metadata, path):
    upstream.reply_with(HANGING)
    watch = await server.stream().until_text("on and")
    error = await failed(raw(server, path)(b"", metadata=metadata, timeout=LIMIT_S))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await server.cancel(watch.reply_id)
    assert await watch.code() is grpc.StatusCode.OK


async def test_header_fields_up_to_the_limit_are_accepted(serve):
    server = await serve(metadata_bytes=64 * 1024)
    error = await failed(server.chat.GetReply(chat_pb2.GetReplyRequest(reply_id="x"), metadata=(("x", "x" * 50_000),)))
    assert error.code() is grpc.StatusCode.NOT_FOUND


# --- calls that end before they reach a servicer


async def test_an_unknown_method_is_refused_and_counted_without_its_name(server):
    for name in ("One", "Two"):
        error = await failed(raw(server, f"/parley.v1.Chat/{name}")(b"x", timeout=LIMIT_S))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.details() == f"there is no method /parley.v1.Chat/{name}"
    await until(lambda: counted(server, "unknown", "UNIMPLEMENTED") == 2.0)


@pytest.mark.parametrize(
    ("requests", "details"),
    [([b"\xff\xff\xff"], "the request is not a message of its method's type"), ([], "the call has no request")],
)
async def test_a_call_without_a_valid_request_is_refused_and_counted(server, requests, details):
    error = await failed(raw(server, GET, streaming=True)(iter(requests), timeout=LIMIT_S))
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, details)
    await until(lambda: counted(server, GET, "INVALID_ARGUMENT") == 1.0)


async def test_calls_cancelled_before_their_request_are_counted(server):
    call = raw(server, GET, streaming=True)()
    await call.wait_for_connection()
    call.cancel()
    late = raw(server, GET, streaming=True)(timeout=0.2)
    assert (await failed(late)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: counted(server, GET, "CANCELLED") == 1.0)
    await until(lambda: counted(server, GET, "DEADLINE_EXCEEDED") == 1.0)


# --- calls that end within a servicer


async def test_an_exceeded_deadline_is_counted_as_deadline_exceeded(server, upstream):
    upstream.reply_with(HANGING)
    watch = Watch(server.chat.StreamReply(ask(), timeout=0.5))
    assert await watch.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: counted(server, STREAM, "DEADLINE_EXCEEDED") == 1.0)
    assert counted(server, STREAM, "CANCELLED") == 0.0


async def test_a_disconnect_before_the_deadline_is_counted_as_cancelled(server, upstream):
    upstream.reply_with(HANGING)
    call = server.chat.StreamReply(ask(), timeout=60)
    await call.read()
    call.cancel()
    await until(lambda: counted(server, STREAM, "CANCELLED") == 1.0)
    assert counted(server, STREAM, "DEADLINE_EXCEEDED") == 0.0


# --- connections


async def test_all_servers_of_the_port_report_the_same_readiness(server):
    callers = [server.caller() for _ in range(40)]  # the kernel spreads their connections over the servers
    assert all([await caller.ready() for caller in callers])
    await server.app._server.refuse()
    assert not any([await caller.ready() for caller in callers])


CALLS = 48
ITERATION_S = 0.01  # gRPC's threads finish their part of an iteration in this time


async def iterations(server, connections):
    """The number of slowed event loop iterations until simultaneous calls over these connections are answered."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(f"127.0.0.1:{server.app.port}", options=options) for _ in range(connections)]
    calls = [channel.unary_unary(GET) for channel in channels]
    for call in calls:
        answer = call.future(b"")
        await asyncio.to_thread(answer.exception)
    answers = [call.future(b"") for call in calls for _ in range(CALLS // connections)]
    needed = 0
    while not all(answer.done() for answer in answers):
        await asyncio.sleep(0)
        time.sleep(ITERATION_S)
        needed += 1
    for channel in channels:
        channel.close()
    return needed


async def test_more_connections_accept_more_calls_per_loop_iteration(server):
    one, sixteen = await iterations(server, 1), await iterations(server, 16)
    print(f"{CALLS} calls: {one} iterations of the event loop over one connection, {sixteen} over 16")
    assert sixteen < one / 2


def goaway_after(server, sent):
    """The error code and the text of the GOAWAY that the server sends to a client that sends only these bytes."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.app.port), timeout=LIMIT_S) as connection:
        connection.sendall(PREFACE + sent)
        while data := connection.recv(65536):
            received += data
            at = 0
            while len(received) >= at + 9 + int.from_bytes(received[at : at + 3]):
                size = int.from_bytes(received[at : at + 3])
                if received[at + 3] == GOAWAY:
                    payload = received[at + 9 : at + 9 + size]
                    return int.from_bytes(payload[4:8]), payload[8:]
                at += 9 + size
    raise AssertionError("the connection ended without GOAWAY")


async def test_pings_more_often_than_the_setting_allows_end_the_connection(serve):
    server = await serve(least_ping_interval_s=60.0)

    goaway = await asyncio.to_thread(goaway_after, server, PING * 6)
    assert goaway == (ENHANCE_YOUR_CALM, b"too_many_pings")


async def test_pings_as_often_as_the_setting_allows_are_answered(serve):
    server = await serve(least_ping_interval_s=0.1)

    def ping():
        with socket.create_connection(("127.0.0.1", server.app.port), timeout=LIMIT_S) as connection:
            connection.sendall(PREFACE)
            for number in range(8):
                payload = bytes([*b"number ", number])
                connection.sendall(PING[:9] + payload)
                received = b""
                while payload not in received:
                    data = connection.recv(65536)
                    assert data, "the connection was closed"
                    received += data
                time.sleep(0.15)

    await asyncio.to_thread(ping)


async def test_an_old_connection_gets_goaway_and_its_streams_continue(serve, upstream):
    upstream.reply_with(HANGING)
    server = await serve(connection_age_s=10.0)

    watch = await server.stream().until_text("on and")
    # The age varies by a tenth, so this silent connection ends at about the same time as that of the stream.
    assert await asyncio.to_thread(goaway_after, server, b"") == (NO_ERROR, b"max_age")
    await server.cancel(watch.reply_id)
    assert await watch.code() is grpc.StatusCode.OK
