"""Retries and failover end to end: a real server, two providers on sockets, and a clock that the tests move."""

import contextlib
import socket

import pytest
from parley_server.errors import Reason

from tests.clock import until
from tests.integration.failover import MODELS
from tests.integration.served import COMPLETED, FAILED, ask, error_reason, reason, refused, text_of
from tests.upstream import (
    Close,
    Hang,
    Reset,
    Script,
    Upstream,
    answer,
    comment,
    refusal,
    role,
    text,
    usage,
)

FIRST_TOKEN_S = 30.0


@pytest.fixture
async def far():
    """The second provider."""
    async with Upstream() as server:
        server.reply_with(answer("from far"))
        yield server


@pytest.fixture
async def start(serve, upstream, far, clock):
    """Starts a server whose model `near` asks `upstream`, and falls back to `far`."""

    async def start(rules="", near=""):
        models = MODELS.format(near=near or upstream.url, far=far.url, rules=rules)
        return await serve(clock=clock, models=models)

    return start


async def end_of(server, clock, *, model="near", **fields):
    """A reply that has ended, and how many seconds of the clock it took."""
    began = clock.monotonic()
    watch = server.stream(model=model, **fields)
    await server.in_time(watch.end())
    return watch, clock.monotonic() - began


@contextlib.contextmanager
def closed_port():
    """A URL where nothing listens."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}/v1"


@pytest.mark.parametrize(
    "script",
    [
        refusal(503),
        refusal(401),
        refusal(404),
        refusal(429, retry_after="30"),
        Script(before_head=[Hang()]),
        Script([role(), comment(), Hang()]),
        Script([Reset()]),
        Script([role(), usage(1000, 0), Close()]),
        Script([b"data: {not json\n\n"]),
    ],
    ids=["503", "401", "404", "429", "no head", "no token", "reset", "cut", "garbage"],
)
async def test_the_next_model_answers_if_the_first_fails_before_a_token(start, upstream, far, clock, script):
    server = await start()
    upstream.reply_with(script)
    watch, seconds = await end_of(server, clock)
    reply = await server.get(watch.reply_id)
    finished = watch.terminal.finished
    assert (watch.chunks[0].accepted.model, watch.text, reply.state) == ("near", "from far", COMPLETED)
    assert (finished.model, finished.provider, reply.model, reply.provider) == ("far",) * 4
    assert (finished.usage.prompt_tokens, finished.usage.cost_nano_usd) == (5, 5 * 20_000 + 7 * 80_000)
    assert server.sql("select model, provider, cost_nano_usd from usage") == [("far", "far", 660_000)]
    assert [request.json["model"] for request in far.requests] == ["vendor/far-1"]
    assert seconds <= 1.5 * FIRST_TOKEN_S


async def test_the_next_model_answers_if_the_first_cannot_be_connected_to(start, clock):
    with closed_port() as url:
        server = await start(near=url)
        watch, _ = await end_of(server, clock)
    assert (watch.text, watch.terminal.finished.model) == ("from far", "far")


@pytest.mark.parametrize("end", [[Close()], [Hang()]], ids=["cut", "silence"])
async def test_a_failure_after_a_token_keeps_the_text_and_asks_no_other_model(start, upstream, far, clock, end):
    server = await start()
    upstream.reply_with(Script([role(), text("Half"), *end]))
    watch, _ = await end_of(server, clock)
    reply = await server.get(watch.reply_id)
    assert (reply.state, text_of(reply), reply.message.partial) == (FAILED, "Half", True)
    assert (watch.terminal.failed.model, watch.terminal.failed.provider) == ("near", "near")
    assert (len(upstream.requests), far.requests) == (1, [])


async def test_if_all_models_fail_the_last_error_is_shown(start, upstream, far, clock):
    server = await start()
    upstream.reply_with(refusal(401))
    far.reply_with(refusal(429, retry_after="60"))
    watch, _ = await end_of(server, clock)
    failed = watch.terminal.failed
    assert (failed.error.reason, failed.error.retry_after.seconds) == (error_reason("PROVIDER_RATE_LIMITED"), 60)
    assert (failed.model, failed.provider, failed.usage.prompt_tokens) == ("far", "far", 0)


async def test_a_request_names_its_own_fallbacks(start, upstream, far, clock):
    server = await start()
    upstream.reply_with(refusal(401))
    watch, _ = await end_of(server, clock, fallback_models=["scripted", "far"])
    assert (watch.terminal.finished.model, far.requests) == ("scripted", [])


@pytest.mark.parametrize(
    ("fallbacks", "why"), [(["far", "unknown"], Reason.MODEL_NOT_FOUND), (["far"] * 8, Reason.INPUT_TOO_LARGE)]
)
async def test_wrong_fallbacks_are_refused_before_acceptance(start, fallbacks, why):
    server = await start()
    error = await refused(server.chat.StreamReply(ask(model="near", fallback_models=fallbacks)))
    assert error.reason == why
    assert server.sql("select count(*) from reply") == [(0,)]


async def test_a_model_that_fails_again_and_again_is_refused_at_once(start, upstream, clock):
    server = await start("retries = 0")
    upstream.reply_with(refusal(500))
    for _ in range(5):
        await end_of(server, clock, model="alone")
    watch = await server.stream(model="alone").end()  # the clock stands still
    error = watch.terminal.failed.error
    assert (error.reason, len(upstream.requests)) == (error_reason("PROVIDER_UNAVAILABLE"), 5)
    assert 0 < error.retry_after.ToTimedelta().total_seconds() <= 5


async def test_a_cancel_ends_the_wait_for_a_retry_at_once(start, upstream, caplog):
    """P15: during a backoff."""
    server = await start()
    upstream.reply_with(refusal(503))
    watch = server.stream(model="alone")
    await watch.accepted()
    await until(lambda: "provider_attempt" in caplog.messages)
    await server.cancel(watch.reply_id)
    await watch.end()  # the clock stands still
    assert watch.terminal.finished.reason == reason("CANCELLED")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("answers", [True, False])
async def test_s0_3_three_retries_with_backoff_within_a_limit_of_60_s(start, upstream, clock, answers):
    server = await start("retry_silence = true\n[providers.near.timeouts]\nfirst_token = 12\nfirst_token_total = 60")
    upstream.reply_with(Script([Hang()]))
    upstream.reply_next(*[Script([Hang()])] * 3)
    if answers:
        upstream.reply_with(answer("at last"))
    watch, seconds = await end_of(server, clock, model="alone")
    assert len(upstream.requests) == 4
    assert 3 * 12 + (1 + 2 + 4) * 0.75 <= seconds <= 60
    if answers:
        assert watch.text == "at last"
    else:
        assert watch.terminal.failed.error.reason == error_reason("PROVIDER_TIMEOUT")
        assert watch.terminal.failed.usage.estimated
