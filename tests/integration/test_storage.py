"""The amount of database writes, and the server's behaviour while the database is unavailable."""

import asyncio
import sqlite3

import grpc
import pytest
from parley.v1 import chat_pb2
from parley_server.store.engine.lock import StoreUnusable
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from tests.clock import until
from tests.integration.served import CANCELLED, COMPLETED, LIMIT_S, STREAMING, ask, reason, refused, text_of
from tests.upstream import Hang, Script, Wait, done, finish, role, text, usage

HANGING = Script([role(), text("on and"), Hang()])


class Outage:
    """While `on` is true, every statement of the server fails with a disk I/O error."""

    def __init__(self, server):
        self.on = True
        database = server.app.mode.store._database
        for engine in (database.writer, database.reader):
            event.listen(engine, "before_cursor_execute", self._fail)

    def _fail(self, connection, cursor, statement, parameters, context, executemany):
        if self.on:
            raise OperationalError(statement, {}, sqlite3.OperationalError("disk I/O error"))


async def test_a_running_reply_survives_a_database_outage(serve, clock, upstream):
    server = await serve(clock=clock)
    steps = [asyncio.Event() for _ in range(2)]
    upstream.reply_next(
        Script(
            [
                role(),
                text("one "),
                Wait(steps[0]),
                text("two "),
                Wait(steps[1]),
                text("three"),
                finish(),
                usage(),
                done(),
            ]
        )
    )
    watch = await server.stream().until_text("one ")
    outage = Outage(server)
    for call in (server.chat.StreamReply(ask()), server.chat.CreateReply(ask())):
        error = await refused(call)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert (error.retry_after_s, error.plain.retryable, error.initial_metadata) == (1.0, True, ())
        assert error.message == "the database is unavailable"
    await clock.advance(1.1)
    async with asyncio.timeout(LIMIT_S):
        while await server.ready() or await server.ready("parley.v1.Chat"):
            await clock.advance(1)
    assert await server.ready("liveness")
    steps[0].set()
    await watch.until_text("one two ")
    assert (await server.get(watch.reply_id)).state == STREAMING
    late = await server.resume(watch.reply_id).until_text("one two ")
    steps[1].set()
    await watch.until_text("one two three")
    await clock.advance(5)
    assert not {"finished", "failed"} & set(watch.kinds)
    outage.on = False
    await server.in_time(watch.end())
    await late.end()
    assert (watch.terminal, watch.terminal.finished.reason) == (late.terminal, reason("STOP"))
    reply = await server.get(watch.reply_id)
    assert (reply.state, text_of(reply)) == (COMPLETED, "one two three")
    assert server.sql("select state from reply") == [("COMPLETED",)]
    async with asyncio.timeout(LIMIT_S):
        while not await server.ready():
            await clock.advance(1)
    assert (await server.stream(conversation_id=watch.conversation_id).end()).text == "Hello, world"


async def test_a_cancel_during_an_outage_stops_the_provider(serve, clock, upstream):
    server = await serve(clock=clock)
    upstream.reply_with(HANGING)
    watch = await server.stream(request_id="k").until_text("on and")
    outage = Outage(server)
    error = await refused(server.chat.Cancel(chat_pb2.CancelRequest(request_id="k", reason="stop")))
    assert error.reason == "STORAGE_UNAVAILABLE"
    await until(lambda: upstream.aborts)
    outage.on = False
    await server.in_time(watch.end())
    assert (watch.terminal.finished.reason, watch.terminal.finished.cancel_reason) == (reason("CANCELLED"), "stop")
    assert (await server.get(watch.reply_id)).state == CANCELLED


async def test_a_full_disk_delays_ends_and_refuses_new_replies(server, upstream, caplog):
    """At SQLite's page limit, streams continue, new replies are refused, and ends are stored once there is room."""
    go = asyncio.Event()
    upstream.reply_next(Script([role(), text("x" * 30_000), Wait(go), text("y" * 30_000), finish(), usage(), done()]))
    watch = await server.stream().until(lambda watch: len(watch.text) == 30_000)
    database = server.app.mode.store._database
    full = True

    def limit(connection, _):
        pages = connection.execute("PRAGMA page_count").fetchone()[0] if full else 2**30
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(database.writer, "connect", limit)
    await database.write(lambda connection: limit(connection.connection.driver_connection, None), durable=False)
    error = await refused(server.chat.StreamReply(ask("z" * 50_000)))
    assert (error.reason, error.message) == ("STORAGE_UNAVAILABLE", "the database is unavailable")
    go.set()
    await watch.until(lambda watch: len(watch.text) == 60_000)
    await until(lambda: [record.message for record in caplog.records].count("finalisation_postponed") == 2)
    assert watch.kinds[-1] != "finished"
    full = False
    await database.write(lambda connection: limit(connection.connection.driver_connection, None), durable=False)
    await watch.end()
    assert watch.terminal.finished.reason == reason("STOP")
    assert text_of(await server.get(watch.reply_id)) == watch.text == "x" * 30_000 + "y" * 30_000
    assert server.sql("pragma integrity_check") == [("ok",)]
    assert (await server.stream("z" * 50_000).end()).text == "Hello, world"


async def test_a_commit_whose_result_was_lost_is_accepted_once(server, upstream):
    """The commit succeeds, but its result is an error: the request is accepted once."""
    lost = []

    @event.listens_for(server.app.mode.store._database.writer, "commit")
    def commit_and_forget(connection):
        if not lost:
            lost.append(True)
            connection.connection.driver_connection.execute("COMMIT")
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))

    watch = await server.stream("Ask").end()
    assert lost
    assert (watch.text, watch.chunks[0].accepted.replayed) == ("Hello, world", False)
    assert server.sql("select count(*) from reply") == [(1,)]
    assert server.sql("select count(*) from message") == [(2,)]
    assert len(upstream.requests) == 1


async def test_a_failed_commit_calls_no_provider(server, upstream):
    """The provider is called after the commit, so that a retry never bills twice."""
    failing = True

    @event.listens_for(server.app.mode.store._database.writer, "commit")
    def fail(connection):
        if failing:
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))

    error = await refused(server.chat.StreamReply(ask("Ask", request_id="r")))
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert upstream.requests == []
    failing = False
    assert (await server.stream("Ask", request_id="r").end()).text == "Hello, world"
    assert len(upstream.requests) == 1


async def test_database_writes_are_linear_in_the_text(serve, upstream):
    """P41: at most four times the text plus a constant."""
    pieces = 1000
    server = await serve(checkpoint_interval_s=0.01)
    beats = [asyncio.Event() for _ in range(10)]
    word = "0123456789abcdef" * 4
    script = [role()]
    for beat in beats:
        script += [Wait(beat), *[text(word)] * (pieces // 10)]
    upstream.reply_with(Script([*script, finish(), usage(), done()]))
    written = []

    @event.listens_for(server.app.mode.store._database.writer, "before_cursor_execute")
    def _note(connection, cursor, statement, parameters, context, executemany):
        rows = parameters if executemany else [parameters]
        values = [value for row in rows for value in (row.values() if isinstance(row, dict) else row)]
        written.append((statement, sum(len(value.encode()) for value in values if isinstance(value, str))))

    watch = server.stream()
    await watch.accepted()
    for number, beat in enumerate(beats, 1):
        beat.set()
        size = number * (pieces // 10) * len(word)
        await watch.until(lambda watch, size=size: len(watch.text) == size)
        flushed = f"select count(*) from checkpoint where to_sequence >= {watch.sequence}"
        if number < len(beats):
            async with asyncio.timeout(LIMIT_S):
                while server.sql(flushed) == [(0,)]:
                    await asyncio.sleep(0.005)
    await watch.end()
    checkpoints = [size for statement, size in written if "INTO checkpoint" in statement]
    assert len(checkpoints) >= 9
    total = sum(size for _, size in written)
    assert total <= 4 * len(watch.text) + 20_000
    assert sum(checkpoints) >= len(watch.text) / 2, "the test did not measure the checkpoints"
    assert server.sql("select count(*) from checkpoint") == [(0,)]


async def test_a_server_refuses_the_database_of_a_running_server(server):
    with pytest.raises(StoreUnusable):
        await server._start()
    assert (await server.stream().end()).text == "Hello, world"
