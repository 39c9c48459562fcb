"""Credentials from a function, and how the Python client handles refusals of identity and limits."""

import asyncio

import grpc
import parley
import pytest
from parley._connection import CREDENTIAL_S
from parley.errors import CredentialFailed, Forbidden, IdentityUnavailable, QuotaExceeded, RateLimited, Unauthenticated
from parley.v1 import catalog_pb2, resources_pb2

from tests.scripted_server import REPLY_ID, Abort, Cut, accepted, finished, refusal, running, text, texts

BARE = Abort(grpc.StatusCode.UNAVAILABLE)
BACKOFF = parley.Backoff(first_s=0.001, max_s=0.01, max_elapsed_s=5.0)
REPLY = resources_pb2.Reply(id=REPLY_ID)
LIMITED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")


@pytest.fixture
async def server():
    async with running() as scripted:
        yield scripted


@pytest.fixture
async def client_with(server):
    clients = []

    def make(api_key="key", backoff=BACKOFF):
        clients.append(parley.Client(server.address, api_key=api_key, end_user="ada", backoff=backoff))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


def numbered():
    """A function that returns token-1, token-2 and so on."""
    numbers = iter(range(1, 100))
    return lambda: f"token-{next(numbers)}"


def asynchronous(function):
    async def give():
        await asyncio.sleep(0)
        return function()

    return give


def credentials(server):
    return [call.metadata.get("authorization") for call in server.calls]


@pytest.mark.parametrize("kind", [lambda function: function, asynchronous], ids=["direct", "awaitable"])
async def test_each_attempt_of_a_call_and_of_a_stream_has_a_new_credential(server, client_with, kind):
    client = client_with(kind(numbered()))
    answers = [BARE, REPLY]
    server.unary["GetReply"] = answers
    assert await client.get_reply(REPLY_ID) == REPLY
    server.log = [*texts("a", "b"), finished(3)]
    server.cuts.extend([Cut(2, BARE), Cut(2, BARE)])
    stream = client.acting_for("ben").stream_reply("Hi")
    async for _ in stream:
        pass
    assert stream.text == "ab"
    assert credentials(server) == [f"Bearer token-{number}" for number in range(1, len(server.calls) + 1)]
    assert server.methods() == ["GetReply", "GetReply", "StreamReply", "ResumeReply", "ResumeReply"]
    assert {call.metadata["x-end-user"] for call in server.calls[2:]} == {"ben"}


async def raises():
    raise LookupError("secret")


async def is_cancelled():
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("function", "message", "cause"),
    [
        (raises, "failed with LookupError", LookupError),
        (is_cancelled, "failed with RuntimeError", RuntimeError),
        (lambda: "", "failed with ValueError", ValueError),
        (lambda: "Zoë", "failed with ValueError", ValueError),
        (lambda: None, "failed with TypeError", TypeError),
    ],
)
async def test_no_call_is_sent_if_the_credential_function_fails(server, client_with, function, message, cause):
    client = client_with(function)
    for attempt in (client.get_reply(REPLY_ID), anext(client.stream_reply("Hi"))):
        with pytest.raises(CredentialFailed, match=message) as failure:
            await attempt
        assert isinstance(failure.value.__cause__, cause)
        assert "secret" not in str(failure.value)
    assert server.calls == []


async def test_a_hanging_credential_function_is_cancelled_at_its_time_limit(server, client_with, monkeypatch):
    monkeypatch.setattr("parley._connection.CREDENTIAL_S", 0.05)
    cancelled = asyncio.Event()

    async def hang():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(CredentialFailed, match=r"did not return within 0\.05 s"):
        await client_with(hang).get_reply(REPLY_ID)
    assert cancelled.is_set()


@pytest.mark.parametrize("end", ["client", "stream"])
async def test_closing_ends_the_wait_for_a_credential(client_with, end):
    function_called = asyncio.Event()

    async def hang():
        function_called.set()
        await asyncio.Event().wait()

    client = client_with(hang)
    stream = client.stream_reply("Hi")
    reading = asyncio.create_task(anext(stream, "ended"))
    await function_called.wait()
    await (client.close() if end == "client" else stream.aclose())
    async with asyncio.timeout(CREDENTIAL_S / 2):  # before the time limit of the function
        if end == "stream":
            assert await reading == "ended"
        else:
            with pytest.raises(parley.Unavailable, match="the client is closed"):
                await reading


async def test_one_failure_of_the_credential_function_does_not_end_an_accepted_stream(server, client_with):
    given = iter(["token-1", None, "token-3"])
    client = client_with(lambda: next(given))
    server.log = [*texts("a", "b"), finished(3)]
    server.cuts.append(Cut(2, BARE))
    events = [event async for event in client.stream_reply("Hi")]
    errors = [type(event.error) for event in events if isinstance(event, parley.Reconnecting)]
    assert errors == [parley.Unavailable, CredentialFailed]
    assert (events[-1].text, credentials(server)) == ("ab", ["Bearer token-1", "Bearer token-3"])


async def test_lasting_failures_of_the_credential_function_raise_connection_lost_with_the_cursor(server, client_with):
    given = iter(["token-1"])

    async def token_once():
        return next(given, "")

    client = client_with(token_once, parley.Backoff(first_s=0.001, max_s=0.01, max_elapsed_s=0.05))
    server.scripts.append([accepted(), text(1, "a"), BARE])
    with pytest.raises(parley.ConnectionLost) as lost:
        async for _ in client.stream_reply("Hi"):
            pass
    assert (lost.value.reply_id, lost.value.sequence, lost.value.text) == (REPLY_ID, 1, "a")


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN", Forbidden),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", QuotaExceeded),
    ],
)
async def test_permanent_refusals_are_not_retried(server, client_with, code, reason, kind):
    server.unary["CreateReply"] = [refusal(code, reason, retry_after_s=0.001)]
    server.scripts.append([refusal(code, reason, retry_after_s=0.001)])
    client = client_with()
    for attempt in (client.create_reply("Hi"), anext(client.stream_reply("Hi"))):
        with pytest.raises(kind):
            await attempt
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("code", "reason"), [LIMITED, (grpc.StatusCode.UNAVAILABLE, "IDENTITY_UNAVAILABLE")], ids=["rate", "identity"]
)
async def test_temporary_refusals_are_retried_after_their_delay(server, client_with, code, reason):
    waits = []

    async def sleep(delay_s):
        waits.append(delay_s)

    client = client_with(backoff=parley.Backoff(max_elapsed_s=60.0, sleep=sleep))
    refused = refusal(code, reason, retryable=True, retry_after_s=7.5)
    server.unary["CreateReply"] = [refused, REPLY]
    assert await client.create_reply("Hi") == REPLY
    server.log = [text(1, "a"), finished(2)]
    server.scripts.append([refused])
    assert [type(event) for event in [event async for event in client.stream_reply("Hi")]][:2] == [
        parley.Reconnecting,
        parley.Accepted,
    ]
    assert waits == [7.5, 7.5]
    assert len({call.request.request_id for call in server.calls}) == 2


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (refusal(*LIMITED, retryable=True, retry_after_s=6.0, metadata={"limit": "messages_per_minute"}), RateLimited),
        (
            refusal(grpc.StatusCode.UNAVAILABLE, "IDENTITY_UNAVAILABLE", retryable=True, retry_after_s=6.0),
            IdentityUnavailable,
        ),
    ],
)
async def test_a_retry_delay_above_max_elapsed_is_not_waited_for(server, client_with, refused, kind):
    server.unary["CreateReply"] = [refused]
    with pytest.raises(kind) as failure:
        await client_with().create_reply("Hi")
    assert (failure.value.retry_after_s, len(server.calls)) == (6.0, 1)


async def test_the_accepted_event_has_the_quota(server, client_with):
    quota = resources_pb2.Quota(name="tokens_per_day", limit=200_000, used=150_000)
    first = accepted()
    first.accepted.quota.CopyFrom(quota)
    server.scripts += [[first, finished(1)], [accepted(), finished(1)]]
    client = client_with()
    shown = [await anext(client.stream_reply("Hi")) for _ in range(2)]
    assert [event.quota for event in shown] == [quota, None]
    server.unary["GetQuota"] = [catalog_pb2.GetQuotaResponse(quotas=[quota])]
    assert await client.quotas() == [quota]
