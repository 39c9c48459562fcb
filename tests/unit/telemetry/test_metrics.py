"""The metrics, and the bounds of their labels."""

from __future__ import annotations

import logging

import msgspec
import pytest
from parley_server.core.model import FinishReason, Model, Reply, ReplyError, State, Usage
from parley_server.core.observer import AttemptEnded, AttemptObserver, CallEnded, CallObserver, Observer, Target
from parley_server.core.tracing import NoSpan, within
from parley_server.errors import Reason
from parley_server.telemetry.metrics import Metrics
from parley_server.telemetry.observer import Telemetry
from parley_server.telemetry.series import MAX_SERIES
from prometheus_client import generate_latest

ENDED = Reply(
    id="r1",
    tenant="shop",
    end_user="ada",
    conversation_id="c1",
    message_id="m1",
    state=State.COMPLETED,
    finish_reason=FinishReason.STOP,
    requested_model="fast",
    model="fast",
    usage=Usage(prompt_tokens=30, cached_prompt_tokens=10, completion_tokens=5, cost_nano_usd=2_500_000),
    create_time_us=1_000_000,
    end_time_us=3_000_000,
)
ATTEMPT = AttemptEnded(
    model=Model(alias="fast", provider="main", name="gpt-5"),
    target=Target(system="openai", host="api.openai.com", port=443),
    outcome="OK",
    duration_s=0.9,
    first_content_s=0.3,
    usage=Usage(prompt_tokens=30, cached_prompt_tokens=10, completion_tokens=5),
)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_reply_from_start_to_end() -> None:
    metrics = Metrics()
    metrics.reply_started()
    metrics.reply_started()
    assert value(metrics, "parley_replies_active") == 2
    metrics.first_token(0.25, "fast")
    metrics.reply_ended(ENDED, overhead_s=0.002, text_length=120)
    assert value(metrics, "parley_replies_active") == 1
    assert value(metrics, "parley_replies_total", state="COMPLETED", reason="STOP", model="fast") == 1
    assert value(metrics, "parley_first_token_seconds_sum", model="fast") == 0.25
    assert value(metrics, "parley_reply_duration_seconds_sum", state="COMPLETED") == 2.0
    assert value(metrics, "parley_reply_text_characters_sum", state="COMPLETED") == 120
    assert value(metrics, "parley_reply_overhead_seconds_sum") == 0.002
    assert value(metrics, "parley_tokens_total", kind="prompt", model="fast") == 30
    assert value(metrics, "parley_tokens_total", kind="cached_prompt", model="fast") == 10
    assert value(metrics, "parley_tokens_total", kind="completion", model="fast") == 5
    assert value(metrics, "parley_tokens_total", kind="reasoning", model="fast") is None
    assert value(metrics, "parley_cost_usd_total", model="fast") == 0.0025


def test_a_failed_reply_is_counted_by_the_reason_of_its_error() -> None:
    metrics = Metrics()
    error = ReplyError(reason=Reason.PROVIDER_TRUNCATED, message="cut")
    failed = msgspec.structs.replace(ENDED, state=State.FAILED, finish_reason=None, error=error, usage=None)
    metrics.reply_ended(failed, overhead_s=0, text_length=0)
    assert value(metrics, "parley_replies_total", state="FAILED", reason="PROVIDER_TRUNCATED", model="fast") == 1


def test_readers_refusals_calls_and_attempts_are_counted() -> None:
    metrics = Metrics()
    metrics.reader_joined()
    metrics.reader_joined()
    metrics.reader_left()
    metrics.refused(Reason.DRAINING)
    metrics.call_ended(CallEnded(method="/parley.v1.Chat/Cancel", code="OK", duration_s=0.5, tenant="t", end_user="u"))
    metrics.resumed()
    metrics.went_away()
    metrics.provider_attempt(msgspec.structs.replace(ATTEMPT, outcome="PROVIDER_TIMEOUT"))
    metrics.provider_retried("openai", "rate")
    metrics.failed_over("fast", "slow", "rate")
    metrics.breaker_changed("openai", "gpt-5", is_open=True)
    metrics.breaker_changed("azure", "gpt-5", is_open=True)
    metrics.breaker_changed("azure", "gpt-5", is_open=False)
    metrics.provider_oddity("openai", "count")
    metrics.loop_sampled(lag_s=0.02, utilisation=0.4)
    assert value(metrics, "parley_readers_active") == 1
    assert value(metrics, "parley_refusals_total", reason="DRAINING") == 1
    assert value(metrics, "parley_calls_total", method="/parley.v1.Chat/Cancel", code="OK") == 1
    assert value(metrics, "parley_call_duration_seconds_sum", method="/parley.v1.Chat/Cancel") == 0.5
    assert value(metrics, "parley_resumes_total") == 1
    assert value(metrics, "parley_go_away_total") == 1
    assert value(metrics, "parley_provider_attempts_total", provider="main", outcome="PROVIDER_TIMEOUT") == 1
    assert value(metrics, "parley_provider_retries_total", provider="openai", reason="rate") == 1
    assert (
        metrics.registry.get_sample_value("parley_failovers_total", {"from": "fast", "to": "slow", "reason": "rate"})
        == 1
    )
    assert value(metrics, "parley_breaker_open", provider="openai", model="gpt-5") == 1
    assert value(metrics, "parley_breaker_open", provider="azure", model="gpt-5") == 0
    assert value(metrics, "parley_provider_oddities_total", provider="openai", kind="count") == 1
    assert value(metrics, "parley_loop_lag_seconds_sum") == 0.02
    assert value(metrics, "parley_loop_utilisation") == 0.4


def test_attempts_have_the_names_of_the_genai_conventions_if_they_are_wanted() -> None:
    metrics = Metrics(genai_metrics=True)
    metrics.provider_attempt(ATTEMPT)
    failed = msgspec.structs.replace(ATTEMPT, outcome="PROVIDER_TIMEOUT", first_content_s=None, usage=None)
    metrics.provider_attempt(failed)
    labels = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai", "gen_ai_request_model": "gpt-5"}
    inference = "gen_ai_client_inference"
    assert value(metrics, f"{inference}_duration_seconds_sum", **labels, error_type="") == 0.9
    assert value(metrics, f"{inference}_duration_seconds_count", **labels, error_type="PROVIDER_TIMEOUT") == 1
    assert value(metrics, f"{inference}_duration_seconds_bucket", **labels, error_type="", le="1.28") == 1
    assert value(metrics, f"{inference}_time_to_first_chunk_seconds_sum", **labels) == 0.3
    assert value(metrics, f"{inference}_time_to_first_chunk_seconds_count", **labels) == 1
    tokens = {
        "input_tokens": 30,
        "output_tokens": 5,
        "cache_read_input_tokens": 10,
        "cache_write_input_tokens": None,
        "reasoning_output_tokens": None,
    }
    assert {name: value(metrics, f"{inference}_usage_{name}_total", **labels) for name in tokens} == tokens
    plain = Metrics()
    plain.provider_attempt(ATTEMPT)
    assert "gen_ai" not in generate_latest(plain.registry).decode()


def test_only_latencies_of_exported_traces_have_an_exemplar() -> None:
    metrics = Metrics(genai_metrics=True)

    def observe(*, sampled: bool, trace_id: str) -> None:
        span = NoSpan()
        span.sampled, span.trace_id = sampled, trace_id
        with within(span):
            metrics.first_token(0.25, "fast")
            metrics.provider_attempt(ATTEMPT)
            metrics.call_ended(CallEnded(method="m", code="OK", duration_s=0.1))
            metrics.reply_ended(ENDED, overhead_s=0.1, text_length=1)

    observe(sampled=True, trace_id="0123")
    observe(sampled=False, trace_id="4567")
    found = {
        sample.name: sample.exemplar.labels
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.exemplar is not None
    }
    histograms = (
        "parley_first_token_seconds",
        "parley_call_duration_seconds",
        "parley_reply_duration_seconds",
        "gen_ai_client_inference_duration_seconds",
        "gen_ai_client_inference_time_to_first_chunk_seconds",
    )
    assert found == {f"{name}_bucket": {"trace_id": "0123"} for name in histograms}


@pytest.mark.parametrize("outcome", ["exported", "failed", "dropped"])
def test_spans_are_counted_from_zero_so_that_an_alert_sees_the_first_lost_ones(outcome: str) -> None:
    metrics = Metrics()
    assert value(metrics, "parley_trace_spans_total", outcome=outcome) == 0
    metrics.spans_counted(outcome, 3)
    assert value(metrics, "parley_trace_spans_total", outcome=outcome) == 3


def test_no_label_contains_a_person_or_an_id() -> None:
    metrics = Metrics()
    metrics.reply_ended(ENDED, overhead_s=0, text_length=0)
    metrics.call_ended(
        CallEnded(method="m", code="OK", duration_s=0, tenant="shop", end_user="ada", reply_id="r1", call_id="k1")
    )
    text = generate_latest(metrics.registry).decode()
    for secret in ("ada", "shop", "r1", "k1"):
        assert f'"{secret}"' not in text


def test_series_are_bounded() -> None:
    metrics = Metrics()
    for number in range(MAX_SERIES + 50):
        metrics.first_token(0.1, f"model-{number}")
    assert value(metrics, "parley_first_token_seconds_count", model="other") == 50
    metrics.first_token(0.1, "model-3")
    assert value(metrics, "parley_first_token_seconds_count", model="model-3") == 2
    assert generate_latest(metrics.registry).decode().count("parley_first_token_seconds_count") == MAX_SERIES + 1


def test_telemetry_implements_every_observer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    telemetry = Telemetry()
    observer: Observer = telemetry
    calls: CallObserver = telemetry
    attempts: AttemptObserver = telemetry
    observer.reply_started()
    observer.reply_ended(ENDED, overhead_s=0.001, text_length=1)
    calls.call_ended(CallEnded(method="m", code="OK", duration_s=0.1, call_id="k"))
    attempts.provider_attempt(ATTEMPT)
    assert [record.getMessage() for record in caplog.records] == ["reply", "call"]
    assert value(telemetry, "parley_replies_active") == 0
    assert value(telemetry, "parley_calls_total", method="m", code="OK") == 1


def test_two_servers_in_a_process_do_not_share_counts() -> None:
    first, second = Metrics(), Metrics()
    first.reply_started()
    assert value(second, "parley_replies_active") == 0


def test_the_state_of_the_relay_is_read_at_each_scrape() -> None:
    metrics = Metrics()
    lost_s = [0.0]
    metrics.watch_relay(lambda: lost_s[0], lambda: 7)
    value = metrics.registry.get_sample_value
    assert value("parley_relay_lost_seconds") == 0.0
    lost_s[0] = 31.5
    assert value("parley_relay_lost_seconds") == 31.5
    assert value("parley_replies_followed") == 7


def test_the_times_of_retirement_are_read_at_each_scrape() -> None:
    metrics = Metrics()
    models = [
        Model(alias="old", provider="p", name="n", retire_time_us=5_000_000),
        Model(alias="a", provider="p", name="m"),
    ]
    metrics.watch_models(lambda: models)
    name = "parley_model_retire_timestamp_seconds"
    assert (value(metrics, name, model="old"), value(metrics, name, model="a")) == (5, None)
    models.clear()
    assert value(metrics, name, model="old") is None


def test_the_ends_of_certificates_are_read_at_each_scrape() -> None:
    metrics = Metrics()
    ends_s = {"certificate": 7.0}
    metrics.watch_certificates(lambda: ends_s)
    name = "parley_certificate_end_timestamp_seconds"
    assert (value(metrics, name, file="certificate"), value(metrics, name, file="client_ca")) == (7, None)
    ends_s["certificate"] = 9.0
    assert value(metrics, name, file="certificate") == 9


def test_warnings_and_errors_of_the_log_are_counted_by_event() -> None:
    metrics = Metrics()
    logger = logging.getLogger("tests.metrics")
    logger.addHandler(metrics.log_line_counter)
    try:
        logger.info("serving")
        logger.warning("checkpoints_delayed", extra={"fields": {"replies": 2}})
        logger.error("relay_task_failed")
        logger.error("free text of a library")
    finally:
        logger.removeHandler(metrics.log_line_counter)
    counted = {
        (sample.labels["level"], sample.labels["event"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "parley_log_lines_total" and sample.value
    }
    assert counted == {
        ("warning", "checkpoints_delayed"): 1,
        ("error", "relay_task_failed"): 1,
        ("error", "log"): 1,
    }
