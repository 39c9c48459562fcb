"""A stop signal starts a drain: new replies are refused, running ones may end, and the others keep their text."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import parley
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from parley.v1 import chat_pb2, chat_pb2_grpc, resources_pb2

from tests.integration.process.watching import Watcher, error_of, reason_of, script, text_of, words
from tests.processes import ServerProcess, open_channel

LONG = words("long", 3000)
SHORT = words("short", 130)
STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT]


def limits(*, pause_s: float, grace_s: float) -> str:
    return f"[server]\ndrain_pause_s = {pause_s}\ndrain_grace_s = {grace_s}\n"


def reader_of(text: str, delay_s: float = 0.02) -> chat_pb2.ReplyRequest:
    return chat_pb2.ReplyRequest(text=script(text, delay_s=delay_s))


@asynccontextmanager
async def watching(chat: chat_pb2_grpc.ChatStub, *requests: chat_pb2.ReplyRequest) -> AsyncIterator[list[Watcher]]:
    """Start replies and wait until each has text; the exit waits until each call has ended."""
    watchers = [Watcher(request) for request in requests]
    async with asyncio.TaskGroup() as calls:
        for watcher in watchers:
            calls.create_task(watcher.start(chat))
        async with asyncio.timeout(10):
            await asyncio.gather(*(watcher.has_text.wait() for watcher in watchers))
        yield watchers


def nothing_running(server: ServerProcess) -> bool:
    active = server.rows("SELECT count(*) FROM reply WHERE state IN ('PENDING', 'STREAMING')")
    return active == [(0,)] == server.rows("SELECT count(*) FROM checkpoint")


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_replies_may_end_within_the_grace_and_the_rest_keep_their_text(tmp_path, number) -> None:
    grace_s = 5.0
    async with (
        ServerProcess(tmp_path, toml=limits(pause_s=1.0, grace_s=grace_s), forked=True) as server,
        open_channel(server.address) as channel,
    ):
        chat = chat_pb2_grpc.ChatStub(channel)
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        first_request = reader_of(SHORT)
        first_request.request_id = "known-before-the-drain"
        requests = (first_request, reader_of(SHORT), reader_of(LONG), reader_of(LONG))
        async with watching(chat, *requests) as (short, other, long, stopped):
            server.send(number)
            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            health.cancel()
            late = await chat.CreateReply(reader_of("Just in time.", 0))
            assert text_of(late) == "Just in time.", "in the pause, new replies are still accepted"
            await asyncio.gather(*(each.has_go_away.wait() for each in (short, other, long, stopped)))
            for call in (chat.CreateReply(reader_of("x")), chat.StreamReply(reader_of("x")).read()):
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await call
                error = error_of(refusal.value)
                assert error is not None
                assert (refusal.value.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
                assert error.retryable
                assert error.retry_after.ToMilliseconds() > 0
            await check_other_calls(chat, long, stopped, first_request)
        status_code = await server.exited(limit_s=grace_s + 8)
        assert status_code == 0
        assert "Traceback" not in server.output
        for ended in (short, other):
            assert (ended.text, ended.status) == (SHORT, grpc.StatusCode.OK)
            assert ended.terminal.finished.reason == resources_pb2.FINISH_REASON_STOP
        assert reason_of(long.terminal.failed.error) == "OWNER_LOST"
        assert long.status is grpc.StatusCode.ABORTED
        assert 0 < len(long.text) < len(LONG)
        assert LONG.startswith(long.text)
        for reader in (short, other, long):
            assert len(reader.go_aways) == 1
            assert 0 < reader.go_aways[0] <= grace_s
        assert nothing_running(server)
        await server.start()
        async with parley.Client(server.address) as client:
            for each in (short, other, long, stopped):
                reply = await client.get_reply(each.reply_id)
                assert (text_of(reply), reply.last_sequence) == (each.text, each.terminal.sequence)


async def check_other_calls(
    chat: chat_pb2_grpc.ChatStub, long: Watcher, stopped: Watcher, accepted: chat_pb2.ReplyRequest
) -> None:
    """All calls except new replies are served during the drain."""
    resumed = Watcher()
    resumed.reply_id = long.reply_id
    resuming = asyncio.create_task(resumed.resume(chat))
    await resumed.has_text.wait()
    request = chat_pb2.PollReplyRequest(reply_id=long.reply_id)
    request.wait.FromSeconds(5)
    polled = await chat.PollReply(request)
    assert "".join(chunk.text for chunk in polled.chunks)
    assert text_of(await chat.GetReply(chat_pb2.GetReplyRequest(reply_id=long.reply_id)))
    retry = chat_pb2.ReplyRequest()
    retry.CopyFrom(accepted)
    retry.wait.FromMilliseconds(0)
    assert (await chat.CreateReply(retry)).request_id == accepted.request_id, "a retry of an accepted request attaches"
    cancelled = await chat.Cancel(chat_pb2.CancelRequest(reply_id=stopped.reply_id, reason="no time"))
    assert (cancelled.state, cancelled.cancel_reason) == (resources_pb2.Reply.STATE_CANCELLED, "no time")
    await resuming
    assert resumed.text == long.text
    assert resumed.terminal == long.terminal
    assert stopped.terminal.finished.reason == resources_pb2.FINISH_REASON_CANCELLED


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("pause_s", [0, 600])
async def test_a_second_signal_skips_the_pause_and_the_grace(tmp_path, number, pause_s) -> None:
    async with (
        ServerProcess(tmp_path, toml=limits(pause_s=pause_s, grace_s=600), forked=True) as server,
        open_channel(server.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        async with watching(chat_pb2_grpc.ChatStub(channel), reader_of(LONG)) as (long,):
            server.send(number)
            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            health.cancel()
            if not pause_s:
                await long.has_go_away.wait()
            server.send(number)
        assert await server.exited(limit_s=10) == 0
        assert reason_of(long.terminal.failed.error) == "OWNER_LOST"
        assert server.rows("SELECT state FROM reply") == [("FAILED",)]
        assert nothing_running(server)


async def test_a_server_without_work_stops_at_once(tmp_path) -> None:
    async with ServerProcess(tmp_path, toml=limits(pause_s=0, grace_s=600), forked=True) as server:
        began_s = time.monotonic()
        assert await server.terminate() == 0
        assert time.monotonic() - began_s < 5
        assert [each["event"] for each in server.events()][-1] == "stopped"
