"""The blocking client over real sockets. The scripted server runs in the test's event loop, the client in threads."""

import asyncio
import contextlib
import gc
import threading

import grpc
import parley
import pytest
from parley._background import Core
from parley.errors import CredentialFailed
from parley.events import Finished, Reconnecting, Text
from parley.v1 import admin_pb2, catalog_pb2, conversations_pb2, resources_pb2

from tests.clock import until
from tests.scripted_server import REPLY_ID, Abort, Break, Cut, Wait, accepted, finished, running, text, texts

UNAVAILABLE = Abort(grpc.StatusCode.UNAVAILABLE)
QUICK = parley.Backoff(first_s=0.001, max_s=0.01, max_elapsed_s=10.0)
LONG = parley.Backoff(first_s=30.0, max_s=30.0, max_elapsed_s=600.0)
PIECES = [Text(piece) for piece in ("Hel", "lo ", "wor", "ld")]
REPLY = resources_pb2.Reply(id=REPLY_ID)
THREADS, STREAMS = 20, 20


@pytest.fixture
async def server():
    async with running(with_proxy=True) as scripted:
        scripted.log = [*texts("Hel", "lo ", "wor", "ld"), finished(5)]
        yield scripted


@pytest.fixture
async def client(server):
    client = parley.SyncClient(server.address, api_key="key", end_user="ada", backoff=QUICK)
    yield client
    await asyncio.to_thread(client.close)


def read(stream):
    """All events except Reconnecting."""
    return [event for event in stream if not isinstance(event, Reconnecting)]


@pytest.mark.parametrize("how", [UNAVAILABLE, Break(), None], ids=str)
async def test_a_cut_stream_resumes_without_loss(server, client, how):
    server.cuts.extend([Cut(3, how), Cut(2, how)])
    stream = client.stream_reply("Hi")
    first, *rest = await asyncio.to_thread(read, stream)
    assert (first, rest[:-1]) == (stream.accepted, PIECES)
    assert rest[-1] == stream.finished == Finished("STOP", "Hello world", "spare", "", rest[-1].usage, "typewriter")
    assert (stream.text, stream.sequence, stream.reply_id) == ("Hello world", 5, REPLY_ID)
    assert (stream.message_id, stream.conversation_id, stream.tool_calls) == ("message-2", "conversation-1", ())
    if how is None or isinstance(how, Abort):  # a broken connection may lose the acceptance, too
        assert server.methods() == ["StreamReply", "ResumeReply", "ResumeReply"]
    assert stream.request_id == server.calls[0].request.request_id


async def test_calls_and_lists_return_what_the_server_sends(server, client):
    conversation = resources_pb2.Conversation(id="c")
    pages = [resources_pb2.Conversation(id="d"), resources_pb2.Conversation(id="e")]
    row = admin_pb2.UsageRow(model="fast", replies=2)
    server.unary |= {
        "GetReply": [UNAVAILABLE, REPLY],
        "GetQuota": [catalog_pb2.GetQuotaResponse(quotas=[resources_pb2.Quota(name="q")])],
        "GetConversation": [conversation],
        "ListConversations": [
            conversations_pb2.ListConversationsResponse(conversations=pages[:1], next_page_token="more"),
            conversations_pb2.ListConversationsResponse(conversations=pages[1:]),
        ],
        "ListUsage": [admin_pb2.ListUsageResponse(rows=[row])],
    }

    def use():
        assert client.get_reply(REPLY_ID) == REPLY
        assert [quota.name for quota in client.quotas()] == ["q"]
        other = client.acting_for("ben")
        assert other.conversations.get("c") == conversation
        assert list(other.conversations.list()) == pages
        assert list(other.admin.usage(group_by=["model"])) == [row]
        with pytest.raises(ValueError, match="name exactly one"):
            client.cancel()
        with pytest.raises(ValueError, match="group_by"):
            next(client.admin.usage(group_by=["week"]))
        with pytest.raises(ValueError, match="x-end-user"):
            client.acting_for("Zoë")

    await asyncio.to_thread(use)
    assert {call.metadata["authorization"] for call in server.calls} == {"Bearer key"}
    assert [call.metadata["x-end-user"] for call in server.calls] == ["ada"] * 3 + ["ben"] * 4
    with pytest.raises(ValueError, match="x-end-user"):
        parley.SyncClient(end_user="Zoë")


async def test_streams_of_many_threads_are_complete(server, client):
    start = threading.Barrier(THREADS)

    def use(number):
        start.wait()
        caller = client.acting_for(f"user-{number}")
        return [[type(event) for event in read(caller.stream_reply("Hi"))] for _ in range(STREAMS)]

    server.log = [*texts("a", "b", "c"), finished(4)]
    found = await asyncio.gather(*(in_thread(use, number) for number in range(THREADS)))
    whole = [parley.Accepted, Text, Text, Text, Finished]
    assert found == [[whole] * STREAMS] * THREADS
    users = [call.metadata["x-end-user"] for call in server.calls]
    assert sorted(users) == sorted(f"user-{number}" for number in range(THREADS) for _ in range(STREAMS))
    assert len({call.request.request_id for call in server.calls}) == THREADS * STREAMS


async def test_threads_share_the_events_of_one_stream(server, client):
    pieces = [f"{number} " for number in range(200)]
    server.log = [*texts(*pieces), finished(201)]
    stream = client.stream_reply("Hi")
    shares = await asyncio.gather(*(in_thread(lambda: list(stream)) for _ in range(4)))
    shown = [event.text for share in shares for event in share if isinstance(event, Text)]
    assert sorted(shown) == sorted(pieces)
    assert stream.text == "".join(pieces)


async def in_thread(function, *args):
    """Run a function in a new thread: the executor of `to_thread` has too few threads."""
    loop, done = asyncio.get_running_loop(), asyncio.Future()

    def call():
        try:
            result = function(*args)
        except Exception as error:  # noqa: BLE001 - the future raises it
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    threading.Thread(target=call, daemon=True).start()
    return await done


def _break(stream):
    for event in stream:
        if isinstance(event, Text):
            break


def _leave_the_context(stream):
    with stream:
        _break(stream)


def _close(stream):
    _break(stream)
    stream.close()
    assert list(stream) == []


def _raise(stream):
    with contextlib.suppress(ZeroDivisionError), stream:
        for event in stream:
            if isinstance(event, Text):
                1 / 0  # noqa: B018 - the fault


def _time_out(stream):
    _break(stream)
    with pytest.raises(TimeoutError, match=r"no event within 0\.01 s"):
        stream.read(0.01)


@pytest.mark.parametrize("leave", [_break, _leave_the_context, _close, _raise, _time_out])
async def test_leaving_a_stream_ends_its_call_on_the_server_at_once(server, client, leave, monkeypatch):
    threads = []
    drop_call = parley.ReplyStream._drop_call

    def drop(stream):
        if stream._call is not None:
            threads.append(threading.current_thread().name)
        drop_call(stream)

    monkeypatch.setattr(parley.ReplyStream, "_drop_call", drop)
    server.scripts.append([accepted(), text(1, "Hel"), Wait(asyncio.Event())])
    gc.disable()
    try:
        await asyncio.to_thread(lambda: leave(client.stream_reply("Hi")))
        async with asyncio.timeout(1):
            await server.calls[0].cancelled.wait()
    finally:
        gc.enable()
    assert set(threads) == {"parley-sync"}, "gRPC's calls belong to the thread of their loop"


@pytest.mark.parametrize("between_attempts", [False, True])
@pytest.mark.parametrize("ends", ["stream", "client", "cancel"])
async def test_closing_the_stream_or_the_client_ends_a_waiting_thread(server, between_attempts, ends):
    client = parley.SyncClient(server.address, backoff=LONG)
    wait = UNAVAILABLE if between_attempts else Wait(asyncio.Event())
    server.scripts.append([accepted(), wait])
    server.unary["Cancel"] = [REPLY]
    stream = client.stream_reply("Hi")
    await asyncio.to_thread(next, stream)
    if between_attempts:
        assert isinstance(await asyncio.to_thread(next, stream), Reconnecting)
    reading = asyncio.create_task(in_thread(list, stream))
    await until(lambda: stream._work is not None and stream._work.is_started)
    if ends == "stream":
        await asyncio.to_thread(stream.close)
        assert await asyncio.wait_for(reading, 5.0) == []
    elif ends == "client":
        await asyncio.to_thread(client.acting_for("ben").close)
        with pytest.raises(parley.Unavailable, match="the client is closed"):
            await asyncio.wait_for(reading, 5.0)
        with pytest.raises(parley.Unavailable, match="the client is closed"):
            await asyncio.to_thread(client.models)
    else:
        assert await asyncio.to_thread(stream.cancel, "enough") == REPLY
        assert not reading.done()
    await asyncio.to_thread(client.close)
    with contextlib.suppress(parley.Unavailable):
        await asyncio.wait_for(reading, 5.0)


async def test_flow_control_stops_the_server_for_a_slow_reader(server, client):
    piece = "x" * 65536
    server.scripts.append([accepted(), *texts(*[piece] * 800), finished(801)])
    stream = client.stream_reply("Hi")
    await asyncio.to_thread(lambda: [next(stream) for _ in range(2)])
    call = server.calls[0]
    written = -1
    while written != call.written:
        written = call.written
        await asyncio.sleep(0.1)
    assert written < 400  # 25 MiB; gRPC's own window is at most some 8 MiB
    rest = await asyncio.to_thread(read, stream)
    assert rest[-1].text == piece * 800


async def test_a_read_that_timed_out_can_be_repeated_without_loss(server, client):
    server.cuts.append(Cut(2, Wait(asyncio.Event())))

    def use():
        stream = client.stream_reply("Hi")
        had = [stream.read(5.0), stream.read(5.0)]
        with pytest.raises(TimeoutError):
            stream.read(0.05)
        return [*had, *read(stream), stream.read(), stream.read(0.0)]

    events = await asyncio.to_thread(use)
    assert [type(event) for event in events] == [parley.Accepted, *[Text] * 4, Finished, type(None), type(None)]
    assert events[1:5] == PIECES


async def test_the_time_limit_of_a_read_includes_the_wait_for_another_thread(server, client):
    go_on, (first, second) = asyncio.Event(), texts("Hel", "lo ")
    server.scripts.append([accepted(), first, Wait(go_on), second, finished(3)])
    stream = client.stream_reply("Hi")
    await asyncio.to_thread(lambda: [next(stream) for _ in range(2)])
    reading = asyncio.create_task(in_thread(next, stream))
    await until(lambda: stream._work is not None and stream._work.is_started)
    with pytest.raises(TimeoutError, match=r"no event within 0\.05 s"):
        await asyncio.wait_for(in_thread(stream.read, 0.05), 10.0)
    assert not reading.done(), "the other thread still waits in its call"
    go_on.set()
    assert await asyncio.wait_for(reading, 10.0) == PIECES[1]


async def test_a_thread_with_a_running_event_loop_can_wait(server, client):
    async def cell():
        return [event for event in client.stream_reply("Hi") if isinstance(event, Text)]

    assert await asyncio.to_thread(asyncio.run, cell()) == PIECES


async def test_a_function_for_the_credential_may_block(server):
    server.unary["GetReply"] = [REPLY]
    called, go_on = threading.Event(), threading.Event()
    tokens = iter(["token-1", "token-2", None])

    def give():
        token = next(tokens)
        if token == "token-1":
            called.set()
            assert go_on.wait(10)
        if token is None:
            raise LookupError("secret")
        return token

    with parley.SyncClient(server.address, api_key=give, backoff=QUICK) as client:
        first = asyncio.create_task(in_thread(client.get_reply, REPLY_ID))
        await asyncio.to_thread(called.wait, 10)
        assert await asyncio.to_thread(client.get_reply, REPLY_ID) == REPLY
        go_on.set()
        assert await first == REPLY
        with pytest.raises(CredentialFailed, match="failed with LookupError"):
            await asyncio.to_thread(client.get_reply, REPLY_ID)
        await asyncio.to_thread(client.close)
    assert [call.metadata["authorization"] for call in server.calls] == ["Bearer token-2", "Bearer token-1"]


async def test_an_asynchronous_function_for_the_credential_is_awaited(server):
    server.unary["GetReply"] = [REPLY]

    async def give():
        await asyncio.sleep(0)
        return "token"

    client = parley.SyncClient(server.address, api_key=give)
    await asyncio.to_thread(client.get_reply, REPLY_ID)
    await asyncio.to_thread(client.close)
    assert server.calls[0].metadata["authorization"] == "Bearer token"


async def test_a_call_ends_at_its_time_limit(server):
    server.unary["GetReply"] = lambda _: Abort(grpc.StatusCode.DEADLINE_EXCEEDED)
    client = parley.SyncClient(server.address, call_timeout_s=0.05)
    server.scripts.append([accepted(), Wait(asyncio.Event())])
    silent = parley.SyncClient(server.address, silence_s=0.5, backoff=parley.Backoff(max_elapsed_s=0.0))

    def use():
        with pytest.raises(parley.errors.DeadlineExceeded):
            client.get_reply(REPLY_ID)
        with pytest.raises(parley.ConnectionLost, match="silent for"):
            read(silent.stream_reply("Hi"))

    await asyncio.to_thread(use)
    for each in (client, silent):
        await asyncio.to_thread(each.close)


async def test_a_garbage_collected_client_closes_its_connection(server, monkeypatch):
    threads = []
    close = parley.Client.close

    def record(client):
        threads.append(threading.current_thread().name)
        return close(client)

    monkeypatch.setattr(parley.Client, "close", record)

    def use():
        client = parley.SyncClient(server.address)
        stream = client.stream_reply("Hi")
        del client
        return read(stream)[-1].text

    assert await asyncio.to_thread(use) == "Hello world"
    await until(lambda: not server.proxy._writers)
    assert threads == ["parley-sync"]


async def test_a_client_without_a_call_opens_no_connection(server):
    with parley.SyncClient(server.address) as client:
        client.acting_for("ben")
    assert server.proxy.accepted == 0
    with pytest.raises(parley.Unavailable, match="the client is closed"):
        client.models()
    client.close()


async def test_a_close_during_the_first_call_of_another_thread_closes_the_client(server):
    opening, may_open = threading.Event(), threading.Event()

    def make():
        opening.set()
        may_open.wait(10.0)
        return parley.Client(server.address)

    core = Core(make)
    calling = asyncio.create_task(in_thread(core.client))
    await asyncio.to_thread(opening.wait, 10.0)
    core.close()
    may_open.set()
    with pytest.raises(parley.Unavailable, match="the client is closed"):
        await asyncio.wait_for(calling, 10.0)
    assert core._client._connection._ended.is_set()
