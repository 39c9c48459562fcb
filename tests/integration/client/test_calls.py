"""Unary calls of the Python client over a real socket: retries, deadlines, identity and closing."""

import asyncio

import grpc
import parley
import pytest
from parley import errors
from parley.v1 import catalog_pb2, resources_pb2

from tests.scripted_server import Abort, finished, refusal, running, text

BARE = Abort(grpc.StatusCode.UNAVAILABLE)
REPLY = resources_pb2.Reply(id="reply-1", state=resources_pb2.Reply.STATE_COMPLETED)


@pytest.fixture
async def server():
    async with running() as scripted:
        yield scripted


@pytest.fixture
async def client(server):
    backoff = parley.Backoff(first_s=0.001, max_s=0.01, max_elapsed_s=5.0)
    async with parley.Client(server.address, api_key="key", end_user="ada", backoff=backoff) as client:
        yield client


async def test_every_call_has_the_metadata_of_the_identity(server, client):
    server.unary["GetReply"] = [REPLY]
    server.log = [text(1, "a"), finished(2)]
    assert await client.get_reply("reply-1") == REPLY
    assert [event async for event in client.stream_reply("Hi")]
    for call in server.calls:
        assert (call.metadata["authorization"], call.metadata["x-end-user"]) == ("Bearer key", "ada")


async def test_acting_for_another_end_user_shares_the_connection(server, client):
    server.unary["GetReply"] = [REPLY]
    server.unary["GetConversation"] = [resources_pb2.Conversation(id="c")]
    server.log = [text(1, "a"), finished(2)]
    other = client.acting_for("ben")
    assert await other.get_reply("reply-1") == REPLY
    assert [event async for event in other.stream_reply("Hi")]
    await other.conversations.get("c")
    await client.get_reply("reply-1")
    callers = [(call.metadata["authorization"], call.metadata["x-end-user"]) for call in server.calls]
    assert callers == [*[("Bearer key", "ben")] * 3, ("Bearer key", "ada")]
    await other.close()
    with pytest.raises(parley.Unavailable, match="the client is closed"):
        await client.get_reply("reply-1")


async def test_a_non_ascii_end_user_is_refused():
    with pytest.raises(ValueError, match="x-end-user"):
        parley.Client("127.0.0.1:1", end_user="Zoë")
    async with parley.Client("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="x-end-user"):
            client.acting_for("Zoë")


async def test_create_reply_retries_keep_the_request_id_and_the_total_wait(server, client):
    def slow_then_answer(request):
        return BARE if len(server.calls) < 3 else REPLY

    server.unary["CreateReply"] = slow_then_answer
    assert await client.create_reply("Hi", wait_s=5) == REPLY
    requests = [call.request for call in server.calls]
    assert len({request.request_id for request in requests}) == 1
    waits = [request.wait.seconds + request.wait.nanos / 1e9 for request in requests]
    assert 5 >= waits[0] > waits[1] > waits[2] > 0


async def test_create_reply_without_wait_leaves_the_field_unset(server, client):
    server.unary["CreateReply"] = [REPLY]
    await client.create_reply("Hi")
    await client.create_reply("Hi", wait_s=0)
    first, second = (call.request for call in server.calls)
    assert not first.HasField("wait")
    assert second.HasField("wait")
    assert second.wait.ToNanoseconds() == 0


async def test_a_call_stops_retrying_after_max_elapsed(server):
    now = [0.0]

    async def sleep(delay_s):
        now[0] += delay_s

    server.unary["GetReply"] = [refusal(grpc.StatusCode.UNAVAILABLE, "OVERLOADED", retry_after_s=1.0)]
    backoff = parley.Backoff(max_elapsed_s=3.5, sleep=sleep, clock=lambda: now[0])
    async with parley.Client(server.address, backoff=backoff) as client:
        with pytest.raises(errors.Overloaded):
            await client.get_reply("reply-1")
    assert now[0] == 3.0


async def test_models_and_quotas_are_listed(server, client):
    server.unary["ListModels"] = [catalog_pb2.ListModelsResponse(models=[resources_pb2.Model(alias="fast")])]
    server.unary["GetQuota"] = [catalog_pb2.GetQuotaResponse(quotas=[resources_pb2.Quota(name="q")])]
    assert [model.alias for model in await client.models()] == ["fast"]
    assert [quota.name for quota in await client.quotas()] == ["q"]


async def test_closing_the_client_wakes_a_call_between_two_attempts(server):
    server.unary["GetReply"] = [BARE]
    pausing = asyncio.Event()

    async def sleep(delay_s):
        pausing.set()
        await asyncio.Event().wait()

    client = parley.Client(server.address, backoff=parley.Backoff(sleep=sleep))
    task = asyncio.create_task(client.acting_for("ben").get_reply("r"))
    await pausing.wait()
    await client.close()
    with pytest.raises(parley.Unavailable, match="closed"):
        await asyncio.wait_for(task, 5.0)


async def test_an_error_of_the_sleep_function_reaches_the_caller(server):
    server.unary["GetReply"] = [BARE]

    async def sleep(delay_s):
        raise LookupError("of the caller")

    async with parley.Client(server.address, backoff=parley.Backoff(sleep=sleep)) as client:
        with pytest.raises(LookupError, match="of the caller"):
            await client.get_reply("r")


async def test_cancelling_a_task_between_two_attempts_raises_cancelled(server):
    called = asyncio.Event()
    server.unary["GetReply"] = lambda request: called.set() or BARE
    async with parley.Client(server.address, backoff=parley.Backoff(first_s=30.0, max_s=30.0)) as client:
        task = asyncio.create_task(client.get_reply("r"))
        await called.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
