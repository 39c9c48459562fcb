"""Which model is asked when, for each class of failures, on a manual clock."""

import asyncio

import pytest
from parley_server.core.model import Finish, FinishReason, Usage
from parley_server.errors import Failure, InvalidRequest, ProviderTimeout, ProviderTruncated, ProviderUnavailable

from tests.fakes import STOP
from tests.unit.providers.moving import Recorder
from tests.unit.providers.routes import NEVER, Models, Prompts, failing

UNAVAILABLE = failing(Failure.UNAVAILABLE)


@pytest.mark.parametrize(
    ("failure", "alone", "with_next"),
    [
        (Failure.UNAVAILABLE, "aaaa", "aab"),
        (Failure.RATE, "aaaa", "aab"),
        (Failure.CREDIT, "a", "ab"),
        (Failure.SILENCE, "a", "ab"),
        (Failure.NONSENSE, "aa", "aab"),
        (Failure.KEY, "a", "ab"),
        (Failure.NO_MODEL, "a", "ab"),
        (Failure.REJECTED, "a", "a"),
        (Failure.KEPT_ITEMS, "aa", "aa"),
        (Failure.TOO_LONG, "a", "ab"),
    ],
)
async def test_each_class_of_failures_allows_its_further_tries(failure, alone, with_next):
    error = failing(failure)
    models = Models([error], contexts=(100,))
    assert await models.answer() is error
    assert models.asked == alone
    models = Models([error], ["from b"], contexts=(100, 200))
    assert await models.answer() == (STOP if "b" in with_next else error)
    assert models.asked == with_next


@pytest.mark.parametrize(
    ("jitter", "times"), [(0.0, [0, 0.75, 2.25, 5.25]), (0.5, [0, 1, 3, 7]), (1.0, [0, 1.25, 3.75, 8.75])]
)
async def test_retries_wait_one_two_and_four_seconds_with_jitter(jitter, times):
    models = Models([UNAVAILABLE], jitter=jitter)
    await models.answer()
    assert models.times == times


async def test_a_long_wait_is_kept_only_if_there_is_no_other_model():
    limited = failing(Failure.RATE, retry_after_s=30.0)
    alone = Models([limited, "after the wait"])
    assert await alone.answer() == STOP
    assert alone.times == [0, 30]
    models = Models([limited], ["from b"])
    assert await models.answer(within_s=0) == STOP
    assert models.asked == "ab"


async def test_a_wait_that_leaves_less_than_a_second_is_not_begun():
    models = Models([failing(Failure.RATE, retry_after_s=44.1)])
    assert (await models.answer(within_s=0)).retry_after_s == 44.1
    assert models.asked == "a"


async def test_a_provider_may_forbid_a_retry():
    models = Models([failing(Failure.UNAVAILABLE, retry_forbidden=True)], ["from b"])
    assert await models.answer() == STOP
    assert models.asked == "ab"


@pytest.mark.parametrize(("retries", "asked"), [(0, "ab"), (1, "aabb"), (3, "aabbbb")])
async def test_only_the_last_model_gets_all_retries(retries, asked):
    models = Models([UNAVAILABLE], [UNAVAILABLE], retries=retries)
    assert await models.answer() is UNAVAILABLE
    assert models.asked == asked


async def test_a_try_gets_what_is_left_of_the_limit_of_all_tries():
    models = Models([NEVER], [NEVER], [NEVER])
    task = models.ask()
    await models.clock.advance(44.9)
    assert (models.asked, models.times, task.done()) == ("ab", [0, 30], False)
    await models.clock.advance(0.2)
    assert task.done()
    with pytest.raises(ProviderTimeout, match="provider-b sent no first token within 15 s"):
        await task


async def test_a_configured_limit_of_all_tries_replaces_the_usual_one():
    models = Models([NEVER], ["from b"], first_token_total_s=20.0)
    assert isinstance(await models.answer(), ProviderTimeout)
    assert (models.asked, models.clock.monotonic() - 1000.0) == ("a", 20.0)


async def test_silence_is_tried_again_only_if_configured():
    models = Models([NEVER, NEVER, "at last"], first_token_s=10.0, first_token_total_s=60.0, retry_silence=True)
    assert await models.answer() == STOP
    assert models.times == [0, 11, 23]


async def test_a_failed_try_leaves_nothing_in_the_reply():
    async def counted(sink):
        sink.usage(Usage(prompt_tokens=7))
        sink.keep("origin", "item")
        sink.flush()
        raise UNAVAILABLE

    async def right(sink):
        sink.usage(Usage(prompt_tokens=8))
        sink.keep("origin", "other")
        sink.text("b")
        return STOP

    sink = Recorder()
    await Models([counted], [right]).answer(sink=sink)
    assert sink.events == [("usage", Usage(prompt_tokens=8)), ("keep", "origin", "other"), ("text", "b")]
    assert sink.asked == ["a", "b"]
    failed = Recorder()
    await Models([counted], retries=0).answer(sink=failed)
    assert failed.events == [("usage", Usage(prompt_tokens=7))]  # of the last try, if all have failed


async def test_after_a_token_nothing_is_tried_again():
    async def cut(sink):
        sink.text("Half")
        raise ProviderTruncated("cut")

    models, sink = Models([cut], ["from b"]), Recorder()
    assert isinstance(await models.answer(sink=sink), ProviderTruncated)
    assert (models.asked, sink.content) == ("a", "Half")


async def test_a_filter_before_a_token_ends_the_reply():
    filtered = Finish(reason=FinishReason.CONTENT_FILTER)

    async def refuse(_):
        return filtered

    models = Models([refuse], ["from b"])
    assert await models.answer() == filtered
    assert models.asked == "a"


async def test_refused_kept_items_are_left_out_once():
    refused = failing(Failure.KEPT_ITEMS)
    models, prompts = Models([refused, "a"]), Prompts()
    assert await models.answer(prompts, within_s=0) == STOP
    assert prompts.built == [("a", True), ("a", False)]


async def test_a_prompt_that_is_too_long_is_shortened_once():
    too_long = failing(Failure.TOO_LONG, limit_tokens=80, prompt_tokens=90)
    models, prompts = Models([too_long]), Prompts(shorter=5)
    assert await models.answer(prompts, within_s=0) is too_long
    assert (models.asked, prompts.limits) == ("aa", [("a", 80, 90)])


async def test_after_a_prompt_that_was_too_long_only_larger_models_are_asked():
    models = Models([failing(Failure.TOO_LONG)], ["b"], ["c"], contexts=(100, 100, 101))
    assert await models.answer() == STOP
    assert models.asked == "ac"


async def test_a_model_that_cannot_take_the_request_is_skipped():
    models = Models([UNAVAILABLE], ["b"], ["c"], retries=0)
    assert await models.answer(Prompts(refused=("b",))) == STOP
    assert models.asked == "ac"
    models = Models(["a"])
    assert isinstance(await models.answer(Prompts(refused=("a",))), InvalidRequest)


async def test_a_thousand_failing_replies_cost_a_tenth_more_and_ten():
    models = Models([failing(Failure.RATE)], jitter=0)
    for _ in range(1000):
        await models.answer(within_s=20)
    assert 1100 <= len(models.calls) <= 1110


async def test_a_model_whose_breaker_is_open_is_passed_over():
    models = Models([UNAVAILABLE], ["b"], retries=0)
    for _ in range(6):
        assert await models.answer(within_s=0) == STOP
    assert models.asked == "ab" * 5 + "b"
    assert models.events.failovers[-2:] == [("a", "b", "unavailable"), ("a", "b", "breaker")]


async def test_the_only_model_is_refused_at_once_while_its_breaker_is_open():
    models, sink = Models([UNAVAILABLE] * 5 + ["a"], retries=0), Recorder()
    for _ in range(5):
        await models.answer()
    await models.clock.advance(2.0)
    error = await models.answer(sink=sink, within_s=0)
    assert isinstance(error, ProviderUnavailable)
    assert (len(models.calls), error.retry_after_s, sink.asked) == (5, 3.0, ["a"])
    await models.clock.advance(3.0)
    assert await models.answer() == STOP


async def test_retries_end_when_the_breaker_opens():
    models = Models([UNAVAILABLE])
    await models.answer()
    models.calls.clear()
    await models.answer(within_s=0)
    assert models.asked == "a"  # the fifth failure in a row


async def test_the_rate_limit_of_one_tenant_excludes_no_other():
    models = Models([failing(Failure.RATE, retry_after_s=30.0), "a"], ["b"])
    await models.answer(Prompts(tenant="shop"))
    await models.answer(Prompts(tenant="shop"))
    assert models.asked == "abb"
    await models.answer(Prompts(tenant="school"))
    assert models.asked == "abba"


@pytest.mark.parametrize("failure", [failing(Failure.CREDIT), failing(Failure.RATE, retry_after_s=86_400.0)])
async def test_a_cool_down_lasts_at_most_a_minute(failure):
    models = Models([failure, "a"], ["b"])
    await models.answer()
    await models.clock.advance(59.9)
    await models.answer(within_s=0)
    assert models.asked == "abb"
    await models.clock.advance(0.2)
    await models.answer(within_s=0)
    assert models.asked == "abba"


@pytest.mark.parametrize("at_s", [0.0, 0.5, 1.5, 30.0, 31.5, 34.0])
async def test_a_cancel_at_any_await_ends_the_search_at_once(at_s):
    """P34, P15: in a call, in a wait, in a retry, in the calls and waits of the next model."""
    silent = failing(Failure.SILENCE)
    models = Models([UNAVAILABLE, NEVER], [UNAVAILABLE, silent, NEVER], retry_silence=True, first_token_total_s=60.0)
    models.candidates[0].breaker._failures = None
    task = models.ask()
    await models.clock.advance(at_s)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert models.clock.waiting == 0
    assert all(each.provider.open_calls == 0 for each in models.candidates)


async def test_a_cancelled_probe_frees_its_slot():
    models = Models([UNAVAILABLE] * 5 + [NEVER, "a"], retries=0)
    for _ in range(5):
        await models.answer()
    await models.clock.advance(5.0)
    task = models.ask()
    await models.clock.advance(1.0)
    assert isinstance(await models.answer(within_s=0), ProviderUnavailable)  # one probe at a time
    task.cancel()
    await models.clock.advance(0.0)
    assert await models.answer() == STOP


async def test_the_first_token_of_a_probe_closes_the_breaker():
    async def begin(sink):
        sink.text("a")
        await asyncio.get_running_loop().create_future()

    models = Models([UNAVAILABLE] * 5 + [begin, "a"], retries=0)
    for _ in range(5):
        await models.answer()
    await models.clock.advance(5.0)
    probe = models.ask()
    await models.clock.advance(0.0)
    assert await models.answer(within_s=0) == STOP
    assert not probe.done()
    probe.cancel()


async def test_tries_are_observed_and_logged(caplog):
    models = Models([failing(Failure.UNAVAILABLE, metadata={"http_status": "503"})], [failing(Failure.KEY)], ["c"])
    await models.answer()
    assert models.events.retries == [("provider-a", "unavailable")]
    assert models.events.failovers == [("a", "b", "unavailable"), ("b", "c", "key")]
    assert [provider for provider, _ in models.events.attempts] == [
        "provider-a",
        "provider-a",
        "provider-b",
        "provider-c",
    ]
    assert models.events.attempts[-1] == ("provider-c", "OK")
    lines = [(record.levelname, record.getMessage(), record.fields) for record in caplog.records]
    usual = {"reply_id": "reply-1", "model": "a", "provider": "provider-a", "class": "unavailable", "status": "503"}
    assert lines[0] == ("WARNING", "provider_attempt", usual | {"try": 1, "wait_s": 1.0})
    assert lines[1] == ("WARNING", "provider_attempt", usual | {"try": 2, "wait_s": None})
    assert [(level, fields["class"], fields["try"]) for level, _, fields in lines[2:]] == [("ERROR", "key", 3)]
