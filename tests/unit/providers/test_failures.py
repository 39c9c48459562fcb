"""Errors of vendors become errors of the engine: the wait that they ask for, and the sizes that they state."""

import pytest
from parley_server.errors import Failure
from parley_server.providers.reading.failures import MAX_RETRY_AFTER_S, error_in_body, error_of_status


def retry_info(delay):
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": delay}, "x", None]}}


@pytest.mark.parametrize(
    ("delay", "wait_s"),
    [("12.5s", 12.5), ("3s", 3.0), ("999999s", MAX_RETRY_AFTER_S), ("-1s", None), ("1e9s", None), (7, None)],
)
def test_the_wait_in_a_body_of_google_is_read(delay, wait_s):
    error = error_in_body("acme", retry_info(delay))
    assert (error.failure, error.retry_after_s) == (Failure.RATE, wait_s)


def test_a_header_has_priority_over_the_wait_in_the_body():
    headers = {"retry-after": "2"}
    body = b'{"error": {"details": [{"retryDelay": "9s"}]}}'
    assert error_of_status("acme", 429, headers=headers, body=body).retry_after_s == 2.0
    assert error_of_status("acme", 429, headers={}, body=body).retry_after_s == 9.0


@pytest.mark.parametrize(
    ("message", "limit", "size"),
    [
        ("prompt is too long: 210000 tokens > 200000 maximum", 200000, 210000),
        ("maximum context length is 4097 tokens, you requested 5000 tokens (4000 in the messages)", 4097, 4000),
        ("maximum context length is 128000 tokens. However, your messages resulted in 130,005 tokens.", 128000, 130005),
        ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", 1048576, 1200000),
        ("the request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it", 4096, 5000),
        ("`inputs` must have less than 1024 tokens. Given: 2000", 1024, 2000),
        ("maximum prompt length is 131072 but the request contains 140000 tokens", 131072, 140000),
        ("context_length_exceeded", None, None),
        ("prompt is too long: 99999999999999 tokens > 999999999999 maximum", None, None),
    ],
)
def test_the_sizes_that_a_refusal_of_a_long_prompt_states_are_read(message, limit, size):
    error = error_in_body("acme", {"error": {"message": message}})
    assert error.failure is Failure.TOO_LONG
    assert (error.limit_tokens, error.prompt_tokens) == (limit, size)
    assert error.metadata.get("limit") == (limit and f"{limit} tokens")


def test_the_sizes_in_fields_of_llama_cpp_are_read():
    body = {"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096}}
    error = error_in_body("acme", body)
    assert (error.limit_tokens, error.prompt_tokens) == (4096, 5000)
