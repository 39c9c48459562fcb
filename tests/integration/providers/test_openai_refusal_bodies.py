"""Refusals are classified by status and body, in all forms that servers use."""

import asyncio
import gzip
import json
import time

import pytest
from parley_server.core.model import Finish, FinishReason
from parley_server.errors import ProviderError

from tests.integration.providers.recording import RecordingSink, prompt, provider_at
from tests.upstream import Hang, Pause, Script, error_event, refusal

AZURE_FILTER = {
    "error": {
        "message": "secret",
        "type": None,
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"jailbreak": {"filtered": True}},
        },
    }
}
OPENROUTER_FILTER = {
    "error": {"code": 403, "message": "secret", "metadata": {"reasons": ["violence"], "flagged_input": "secret"}}
}
OPENROUTER_RAW = {"error": {"code": 400, "message": "x", "metadata": {"raw": '{"code":"context_length_exceeded"}'}}}
PER_DAY = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}]}


def error(**fields):
    return {"error": {"message": "secret"} | fields}


def body_script(status, content, **headers):
    return Script([content], status=status, headers=headers, framing="length")


async def outcome_of(upstream, script):
    """The finish, or the error, which quotes nothing."""
    upstream.reply_with(script)
    provider = provider_at(upstream.url)
    try:
        outcome = await provider.generate(prompt(), RecordingSink())
    except ProviderError as failure:
        outcome = failure
    await provider.close()
    assert "secret" not in str(getattr(outcome, "__dict__", ""))
    return outcome


OVERFLOWS = [
    (400, error(code="context_length_exceeded")),
    (400, error(type="exceed_context_size_error", n_ctx=4096)),
    (500, error(message="the request exceeds the available context size, try increasing it")),
    (
        400,
        {"object": "error", "message": "This model's maximum context length is 2048 tokens. However, you", "code": 400},
    ),
    (422, {"detail": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"}),
    (400, error(message="prompt is too long: 210000 tokens > 200000 maximum")),
    (400, error(message="This model's maximum prompt length is 131072 but the request contains 140000 tokens.")),
    (413, {"message": "Please reduce the length of the messages or completion."}),
    (400, OPENROUTER_RAW),
]
TABLE = [
    (429, error(code="insufficient_quota"), "PROVIDER_RATE_LIMITED", "credit"),
    (429, error(code="rate_limit_exceeded"), "PROVIDER_RATE_LIMITED", "rate"),
    (402, error(code=402), "PROVIDER_RATE_LIMITED", "credit"),
    (400, error(message="Your credit balance is too low to access the API"), "PROVIDER_RATE_LIMITED", "credit"),
    (429, {"error": {"status": "RESOURCE_EXHAUSTED", "details": [PER_DAY]}}, "PROVIDER_RATE_LIMITED", "credit"),
    (409, error(), "PROVIDER_UNAVAILABLE", "unavailable"),
    (425, error(), "PROVIDER_UNAVAILABLE", "unavailable"),
    (529, error(type="overloaded_error"), "PROVIDER_UNAVAILABLE", "unavailable"),
    (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": []}}], "PROVIDER_REJECTED", "rejected"),
    (400, error(code="API_KEY_INVALID"), "PROVIDER_UNAUTHENTICATED", "key"),
    (400, error(status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}]), "PROVIDER_UNAUTHENTICATED", "key"),
    (403, error(), "PROVIDER_UNAUTHENTICATED", "key"),
    (403, error(code="unsupported_country_region_territory"), "PROVIDER_REJECTED", "rejected"),
    (403, error(message="Country, region, or territory not supported"), "PROVIDER_REJECTED", "rejected"),
    (403, {"detail": "not available in your region"}, "PROVIDER_REJECTED", "rejected"),
    (404, error(code="DeploymentNotFound"), "PROVIDER_REJECTED", "no_model"),
    (404, error(), "PROVIDER_REJECTED", "no_model"),
    (403, error(code="model_not_found"), "PROVIDER_REJECTED", "no_model"),
    (400, error(code="invalid_encrypted_content"), "PROVIDER_REJECTED", "kept_items"),
    (400, error(message="messages.1: Invalid `signature` in `thinking` block"), "PROVIDER_REJECTED", "kept_items"),
    (400, error(message="Function call is missing a thought_signature"), "PROVIDER_REJECTED", "kept_items"),
    (422, error(message="Invalid `signature` in `thinking` block"), "PROVIDER_REJECTED", "rejected"),
    *[(status, body, "PROVIDER_CONTEXT_TOO_LARGE", "too_long") for status, body in OVERFLOWS],
]


@pytest.mark.parametrize(("status", "body", "reason", "failure"), TABLE)
async def test_refusals(upstream, status, body, reason, failure):
    refused = await outcome_of(upstream, refusal(status, body))
    assert (refused.reason, refused.failure) == (reason, failure)
    assert refused.retryable == (failure in ("rate", "unavailable"))
    assert refused.metadata["http_status"] == str(status)


@pytest.mark.parametrize(("header", "forbidden"), [("false", True), ("true", False), ("", False)])
async def test_a_provider_may_forbid_a_retry(upstream, header, forbidden):
    refused = await outcome_of(upstream, refusal(503, x_should_retry=header))
    assert refused.retry_forbidden is forbidden


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, AZURE_FILTER),
        (403, OPENROUTER_FILTER),
        (400, error(code="content_policy_violation")),
        (400, error(code="data_inspection_failed")),
        (400, error(message="Content Exists Risk")),
    ],
)
async def test_a_filter_s_refusal_before_any_token_is_a_finish(upstream, status, body):
    finish = await outcome_of(upstream, refusal(status, body))
    assert isinstance(finish, Finish)
    assert finish.reason is FinishReason.CONTENT_FILTER


async def test_a_filter_s_refusal_in_the_stream_before_any_token_is_a_finish(upstream):
    event = error_event("secret", code="content_filter")
    for script in (Script([event]), Script([event], at_once=True), Script([event.rstrip()])):
        finish = await outcome_of(upstream, script)
        assert finish == Finish(reason=FinishReason.CONTENT_FILTER, provider_reason="content_filter")


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"detail": {"code": "context_length_exceeded", "message": "secret"}}).encode(),
        json.dumps({"message": "secret", "code": "context_length_exceeded"}).encode(),
        json.dumps({"object": "error", "message": "secret", "type": "context_length_exceeded"}).encode(),
        json.dumps({"error": "secret", "code": "context_length_exceeded"}).encode(),
        json.dumps([error(code="context_length_exceeded")]).encode(),
        b'error: {"code": "context_length_exceeded", "message": "secret"}\n\n',
        b"event: error\n" + error_event("secret", code="context_length_exceeded"),
        b"secret, since the maximum context length is 4096",
    ],
)
async def test_error_bodies_of_all_forms_give_their_reason(upstream, content):
    failure = await outcome_of(upstream, body_script(400, content))
    assert failure.reason == "PROVIDER_CONTEXT_TOO_LARGE"


async def test_a_compressed_refusal_gives_its_reason(upstream):
    content = gzip.compress(json.dumps(error(code="insufficient_quota")).encode())
    failure = await outcome_of(upstream, body_script(429, content, **{"Content-Encoding": "gzip"}))
    assert failure.metadata["provider_code"] == "insufficient_quota"
    failure = await outcome_of(upstream, body_script(429, b"\x1f\x8bno", **{"Content-Encoding": "br"}))
    assert failure.reason == "PROVIDER_RATE_LIMITED"


async def test_a_hanging_error_body_is_given_up_after_two_seconds(upstream):
    begun = time.monotonic()
    failure = await asyncio.wait_for(outcome_of(upstream, Script([Hang()], status=429)), 10)
    assert (failure.reason, failure.retryable) == ("PROVIDER_RATE_LIMITED", True)
    assert time.monotonic() - begun >= 1.9


async def test_the_received_part_of_a_hanging_error_body_is_used(upstream):
    content = json.dumps(error(code="insufficient_quota")).encode()
    failure = await asyncio.wait_for(outcome_of(upstream, Script([content, Pause(30)], status=429)), 10)
    assert (failure.reason, failure.retryable) == ("PROVIDER_RATE_LIMITED", False)


async def test_a_trickling_error_body_is_read_for_a_limited_time(upstream):
    steps = [step for _ in range(1000) for step in (b" ", Pause(0.05))]
    failure = await asyncio.wait_for(outcome_of(upstream, Script(steps, status=503)), 10)
    assert failure.reason == "PROVIDER_UNAVAILABLE"
