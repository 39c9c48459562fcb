"""The lifetime of a reply: orphaning, time limits, silence and heartbeats, with a clock that the test moves."""

import asyncio
import itertools

import grpc
import pytest
from parley.v1 import chat_pb2

from tests.clock import until
from tests.integration.served import CANCELLED, COMPLETED, FAILED, ask, error_reason, reason, text_of
from tests.upstream import Hang, Script, Wait, comment, done, finish, role, text

CANCEL = chat_pb2.DISCONNECT_POLICY_CANCEL
HANGING = Script([role(), text("on and"), Hang()])


@pytest.fixture
async def server(serve, clock):
    """A server with a manual clock, whose provider limits are far above the times under test."""
    return await serve(clock=clock, time_limit_s=7200, provider="timeouts = { first_token = 7000, idle = 7000 }")


@pytest.fixture
async def limited(serve, clock):
    """A server with a manual clock and the default provider limits."""
    return await serve(clock=clock, time_limit_s=7200)


async def disconnect(server, watch):
    """Disconnect the reader, and wait until the server does not count it any more."""
    watch.call.cancel()
    await watch.end()
    await until(lambda: server.running[watch.reply_id].reader_count.readers == 0)


def generating(server, reply_id):
    """Whether the provider call runs: a reply whose end is being stored is also in `server.running`."""
    return not server.running[reply_id]._produced.done()


async def ended(server, reply_id):
    """The reply, once it has ended."""
    await until(lambda: reply_id not in server.running)
    return await server.get(reply_id)


@pytest.mark.parametrize(
    ("fields", "ttl_s"),
    [({}, 300), ({"orphan_ttl": 7}, 7), ({"on_disconnect": CANCEL}, 10)],
    ids=["5 min", "7 s", "CANCEL"],
)
async def test_a_reply_that_nobody_reads_is_cancelled(server, clock, upstream, fields, ttl_s):
    upstream.reply_with(HANGING)
    watch = await server.stream(**fields).until_text("on and")
    await clock.advance(3 * ttl_s)  # a reader keeps the reply
    await disconnect(server, watch)
    await clock.advance(ttl_s - 1)
    assert generating(server, watch.reply_id)
    await clock.advance(2)
    reply = await ended(server, watch.reply_id)
    end = (CANCELLED, reason("ORPHANED"), "nobody was reading")
    assert (reply.state, reply.finish_reason, reply.cancel_reason) == end
    assert (text_of(reply), reply.message.partial) == ("on and", True)
    await until(lambda: upstream.aborts)
    late = await server.resume(watch.reply_id).end()
    assert late.terminal.finished.reason == reason("ORPHANED")


async def test_zero_orphan_ttl_disables_cancellation(server, clock, upstream):
    upstream.reply_with(HANGING)
    watch = await server.stream(orphan_ttl=0).until_text("on and")
    await disconnect(server, watch)
    await server.leap(3600)
    assert generating(server, watch.reply_id)


@pytest.mark.parametrize("policy", [{}, {"on_disconnect": CANCEL}])
async def test_a_reconnect_before_the_orphan_ttl_keeps_the_reply(server, clock, upstream, policy):
    upstream.reply_with(HANGING)
    ttl_s = 10 if policy else 300
    watch = await server.stream(**policy).until_text("on and")
    for _ in range(3):
        await disconnect(server, watch)
        await clock.advance(ttl_s - 0.5)
        watch = await server.resume(watch.reply_id).until_text("on and")
        await clock.advance(5.0)
    await clock.advance(2 * ttl_s)
    assert generating(server, watch.reply_id)


async def test_a_caller_that_left_before_acceptance_counts_as_a_reader(server, clock, upstream):
    upstream.reply_with(HANGING)
    accept = server.app.mode.core.store.accept
    reached, go = asyncio.Event(), asyncio.Event()

    async def held(acceptance, **named):
        reached.set()
        await go.wait()
        return await accept(acceptance, **named)

    server.app.mode.core.store.accept = held
    call = server.chat.StreamReply(ask(on_disconnect=CANCEL, request_id="k"))
    reading = asyncio.create_task(call.read())
    await reached.wait()
    call.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    cancelled = {"method": "/parley.v1.Chat/StreamReply", "code": "CANCELLED"}
    await until(lambda: server.app.telemetry.registry.get_sample_value("parley_calls_total", cancelled) == 1.0)
    go.set()
    await until(lambda: any(one.reader_count._left_at is not None for one in server.running.values()))
    (reply_id,) = server.running
    await clock.advance(9)
    assert generating(server, reply_id)
    await clock.advance(2)
    assert (await ended(server, reply_id)).finish_reason == reason("ORPHANED")


async def test_a_waiting_create_reply_counts_as_a_reader(server, clock, upstream):
    upstream.reply_with(HANGING)
    call = server.chat.CreateReply(ask(on_disconnect=CANCEL))
    await until(lambda: any(one.reader_count.readers for one in server.running.values()))
    (reply_id,) = server.running
    await clock.advance(100)
    assert generating(server, reply_id)
    call.cancel()
    await until(lambda: server.running[reply_id].reader_count.readers == 0)
    await clock.advance(11)
    assert (await ended(server, reply_id)).finish_reason == reason("ORPHANED")


@pytest.mark.parametrize(("fields", "limit_s"), [({"time_limit": 20}, 20), ({}, 600)], ids=["requested", "default"])
async def test_a_time_limit_after_the_first_token(serve, clock, upstream, fields, limit_s):
    server = await serve(clock=clock, provider="timeouts = { idle = 7000 }")
    upstream.reply_with(HANGING)
    watch = await server.stream(**fields).until_text("on and")
    await clock.advance(limit_s - 1)
    assert generating(server, watch.reply_id)
    await clock.advance(2)
    await watch.end()
    assert (watch.terminal.finished.reason, await watch.code()) == (reason("TIME_LIMIT"), grpc.StatusCode.OK)
    reply = await server.get(watch.reply_id)
    assert (reply.state, text_of(reply), reply.message.partial) == (COMPLETED, "on and", False)
    await until(lambda: upstream.aborts)


async def test_a_time_limit_before_the_first_token(server, clock, upstream):
    upstream.reply_with(Script([role(), Hang()]))
    watch = server.stream(time_limit=20)
    await watch.accepted()
    await until(lambda: upstream.requests)
    await clock.advance(21)
    await watch.end()
    error = watch.terminal.failed.error
    assert (error.reason, error.retryable) == (error_reason("PROVIDER_TIMEOUT"), True)
    assert await watch.code() == grpc.StatusCode.ABORTED
    assert not (await server.get(watch.reply_id)).HasField("message")
    await until(lambda: upstream.aborts)


@pytest.mark.parametrize("what", ["nothing", "comments", "a role"])
async def test_no_first_token_in_30_s(limited, clock, upstream, what):
    server = limited
    pieces = {"nothing": [], "comments": [comment()] * 3, "a role": [role()]}[what]
    upstream.reply_with(Script([*pieces, Hang()]))
    watch = server.stream()
    await watch.accepted()
    await until(lambda: upstream.requests)
    await clock.advance(29)
    assert generating(server, watch.reply_id)
    await clock.advance(2)
    await watch.end()
    error = watch.terminal.failed.error
    assert (error.reason, error.retryable) == (error_reason("PROVIDER_TIMEOUT"), True)
    assert error.message == "up sent no first token within 30 s"
    assert (await server.get(watch.reply_id)).state == FAILED
    await until(lambda: upstream.aborts)


@pytest.mark.parametrize("what", ["nothing", "comments"])
async def test_no_progress_for_60_s(limited, clock, upstream, what):
    """P35: comments do not count as progress."""
    server = limited
    beats = [asyncio.Event() for _ in range(6)]
    pings = [step for beat in beats for step in (Wait(beat), comment())] if what == "comments" else []
    upstream.reply_with(Script([role(), text("on and"), *pings, Hang()]))
    watch = await server.stream().until_text("on and")
    for beat in beats[:5]:
        beat.set()
        await clock.advance(11)
    assert generating(server, watch.reply_id)
    await clock.advance(6)
    await watch.end()
    error = watch.terminal.failed.error
    assert (error.reason, error.message) == (error_reason("PROVIDER_TIMEOUT"), "up sent no further token within 60 s")
    reply = await server.get(watch.reply_id)
    assert (reply.state, text_of(reply), reply.message.partial) == (FAILED, "on and", True)
    await until(lambda: upstream.aborts)


@pytest.mark.parametrize("first_token_at", [0, 45, 100])
async def test_the_idle_limit_applies_from_the_first_token_on(serve, clock, upstream, first_token_at):
    server = await serve(clock=clock, provider="timeouts = { first_token = 120, idle = 60 }")
    go = asyncio.Event()
    upstream.reply_with(Script([role(), Wait(go), text("on and"), Hang()]))
    watch = server.stream()
    await watch.accepted()
    await until(lambda: upstream.requests)
    await clock.advance(first_token_at)
    go.set()
    await watch.until_text("on and")
    await clock.advance(59)
    assert generating(server, watch.reply_id)
    await clock.advance(2)
    await watch.end()
    assert watch.terminal.failed.error.message == "up sent no further token within 60 s"


async def test_an_hour_of_slow_progress_survives(limited, clock, upstream):
    """P35."""
    server = limited
    beats = [asyncio.Event() for _ in range(72)]
    steps = [step for number, beat in enumerate(beats) for step in (Wait(beat), text(f"{number} "))]
    upstream.reply_with(Script([role(), *steps, finish(), done()]))
    watch = server.stream(time_limit=7200)
    await watch.accepted()
    await until(lambda: upstream.requests)
    await clock.advance(20)
    for number, beat in enumerate(beats):
        beat.set()
        await watch.until(lambda watch, number=number: watch.text.endswith(f"{number} "))
        await server.leap(50)
    await watch.end()
    assert (watch.text, watch.terminal.finished.reason) == ("".join(f"{n} " for n in range(72)), reason("STOP"))


async def test_a_pause_of_120_s_is_bridged_by_heartbeats(server, clock, upstream):
    """P11."""
    go = asyncio.Event()
    upstream.reply_with(Script([role(), text("before "), Wait(go), text("after"), finish(), done()]))
    watch = await server.stream().until_text("before ")
    for beats in range(1, 9):
        await until(lambda: clock.has_timer_in(15))  # of the next heartbeat, which the server starts after sending one
        await clock.advance(15)
        await watch.until(lambda watch, beats=beats: watch.kinds.count("heartbeat") == beats)
    go.set()
    await watch.end()
    assert watch.kinds == ["accepted", "text", *["heartbeat"] * 8, "text", "finished"]
    times = [chunk.heartbeat.time.ToNanoseconds() for chunk in watch.chunks if chunk.HasField("heartbeat")]
    assert [later - sooner for sooner, later in itertools.pairwise(times)] == [15 * 10**9] * 7
    assert {chunk.sequence for chunk in watch.chunks if chunk.HasField("heartbeat")} == {1}


async def test_text_postpones_the_heartbeat(server, clock, upstream):
    steps = [asyncio.Event() for _ in range(5)]
    pieces = [piece for step in steps for piece in (Wait(step), text("x"))]
    upstream.reply_with(Script([role(), text("x"), *pieces, Hang()]))
    watch = await server.stream().until_text("x")
    for number, step in enumerate(steps, 2):
        await clock.advance(14)
        step.set()
        await watch.until_text("x" * number)
    assert "heartbeat" not in watch.kinds
    await clock.advance(16)
    await watch.until(lambda watch: "heartbeat" in watch.kinds)


async def test_a_reader_over_the_limit_is_refused_and_not_counted(serve, clock, upstream):
    server = await serve(clock=clock, max_readers_per_reply=1)
    upstream.reply_with(HANGING)
    watch = await server.stream(on_disconnect=CANCEL).until_text("on and")
    other = await server.resume(watch.reply_id).end()
    assert await other.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.running[watch.reply_id].reader_count.readers == 1
    await clock.advance(30)
    assert generating(server, watch.reply_id)
