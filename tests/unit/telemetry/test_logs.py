"""Log lines: their format, and the data that they never contain."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from parley_server.core.model import FinishReason, Reply, ReplyError, State, Usage
from parley_server.core.observer import CallEnded
from parley_server.core.secret import Secret
from parley_server.core.store_types import KeyPlace
from parley_server.core.tracing import NoSpan, within
from parley_server.errors import Reason
from parley_server.secrets.fernet import FernetCipher, new_encryption_key
from parley_server.telemetry.logs import configure_logging, log_call, log_reply, redact

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
    provider="openai",
    usage=Usage(prompt_tokens=3, completion_tokens=5),
    create_time_us=1_000_000,
    first_token_time_us=1_250_000,
    end_time_us=3_000_500,
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def lines() -> Callable[[], list[dict[str, Any]]]:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_call_is_one_line(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log_call(
        CallEnded(method="/parley.v1.Chat/StreamReply", code="OK", duration_s=0.0123456, tenant="shop", call_id="k")
    )
    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "event": "call",
        "method": "/parley.v1.Chat/StreamReply",
        "code": "OK",
        "duration_ms": 12.346,
        "tenant": "shop",
        "call_id": "k",
    }


def test_a_reply_is_one_line(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log_reply(ENDED, overhead_s=0.0021, text_length=42)
    (line,) = lines()
    del line["time"]
    assert line == {
        "level": "info",
        "event": "reply",
        "reply_id": "r1",
        "conversation_id": "c1",
        "tenant": "shop",
        "end_user": "ada",
        "state": "COMPLETED",
        "reason": "STOP",
        "model": "fast",
        "provider": "openai",
        "duration_ms": 2000.5,
        "first_token_ms": 250.0,
        "overhead_ms": 2.1,
        "text_length": 42,
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "usage_estimated": False,
    }


@pytest.mark.parametrize(("reason", "level"), [(Reason.INTERNAL, "error"), (Reason.PROVIDER_TIMEOUT, "warning")])
def test_the_level_of_a_failed_reply_follows_its_reason(
    lines: Callable[[], list[dict[str, Any]]], reason: Reason, level: str
) -> None:
    failed = Reply(
        id="r",
        tenant="t",
        conversation_id="c",
        message_id="m",
        state=State.FAILED,
        error=ReplyError(reason=reason, message="the text of the error"),
    )
    log_reply(failed, overhead_s=0, text_length=0)
    (line,) = lines()
    assert (line["level"], line["reason"], line["first_token_ms"]) == (level, reason.value, None)


DEFECT = """Bearer abc.def-123 and sk-proj-abcdef123456
[SQL: INSERT]
[parameters: ('a prompt
of [two] lines',)]
(end)"""


def fail() -> None:
    raise ValueError(DEFECT)


def test_an_exception_is_one_field_without_keys_and_quoted_values(lines: Callable[[], list[dict[str, Any]]]) -> None:
    try:
        fail()
    except ValueError:
        logging.getLogger("parley_server.x").exception("defect", extra={"fields": {"call_id": "k"}})
    (line,) = lines()
    assert (line["event"], line["level"], line["call_id"]) == ("defect", "error", "k")
    assert "ValueError: [redacted] and [redacted]\n[SQL: INSERT]\n[values left out]\n(end)" in line["exception"]
    for secret in ("abc.def", "abcdef123456", "a prompt", "two"):
        assert secret not in line["exception"]


def test_lines_of_libraries_have_an_event(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logging.getLogger("library").warning("Something %s with sk-abcdef12345", "odd")
    logging.getLogger("parley_server.x").warning("loop_late")
    first, second = lines()
    assert (first["event"], first["logger"], first["message"]) == ("log", "library", "Something odd with [redacted]")
    assert (second["event"], second["logger"]) == ("loop_late", "parley_server.x")


def test_fields_do_not_override_time_level_and_event(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logging.getLogger("x").info("word", extra={"fields": {"event": "other", "time": 0, "level": "none", "a": {1}}})
    (line,) = lines()
    assert (line["event"], line["level"]) == ("word", "info")
    assert line["a"] == [1]


@pytest.mark.parametrize("name", ["httpx2", "sqlalchemy.engine.Engine"])
def test_libraries_that_log_content_are_silent_even_at_debug(name: str) -> None:
    stream = io.StringIO()
    configure_logging("debug", "json", stream)
    logging.getLogger(name).info("a prompt")
    assert stream.getvalue() == ""


def test_text_format() -> None:
    stream = io.StringIO()
    configure_logging("info", "text", stream)
    logging.getLogger("x").info("started", extra={"fields": {"listen": "127.0.0.1:1", "why": 'two "words"', "no": ""}})
    assert re.fullmatch(r'\S+Z info    started listen=127\.0\.0\.1:1 why="two \\"words\\""\n', stream.getvalue())


def test_a_field_with_line_breaks_stays_on_one_line() -> None:
    stream = io.StringIO()
    configure_logging("info", "text", stream)
    logging.getLogger("x").info("word", extra={"fields": {"end_user": "a\n2026-01-01 error forged"}})
    assert len(stream.getvalue().splitlines()) == 1


def test_lines_below_the_level_are_dropped() -> None:
    stream = io.StringIO()
    configure_logging("warning", "json", stream)
    log_call(CallEnded(method="m", code="OK", duration_s=0))
    assert stream.getvalue() == ""
    log_call(CallEnded(method="m", code="INTERNAL", duration_s=0))
    assert json.loads(stream.getvalue())["level"] == "error"


def test_lines_of_a_worker_contain_its_number() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream, worker=0)
    log_call(CallEnded(method="m", code="OK", duration_s=0))
    assert json.loads(stream.getvalue())["worker"] == 0
    configure_logging("info", "text", stream, worker=3)
    logging.getLogger("library").warning("Something odd.")
    assert stream.getvalue().endswith(" worker=3\n")


def test_a_second_configuration_replaces_the_first() -> None:
    former, stream = io.StringIO(), io.StringIO()
    configure_logging("info", "json", former)
    configure_logging("info", "json", stream)
    logging.getLogger("x").info("word")
    assert (former.getvalue(), len(stream.getvalue().splitlines())) == ("", 1)


def test_lines_are_cheap() -> None:
    """A line takes a few tens of microseconds of CPU. The bound leaves room for slow machines but detects I/O or a
    regex."""
    configure_logging("info", "json", io.StringIO())
    count = 2000
    started = time.thread_time()
    for _ in range(count):
        log_reply(ENDED, overhead_s=0.001, text_length=5)
    assert (time.thread_time() - started) / count < 100e-6


TOKEN = FernetCipher([new_encryption_key()]).encrypt(KeyPlace("up", ""), Secret("k"))


@pytest.mark.parametrize(
    "key",
    ["sk-ant-api03-abc123", "AIzaSyAbc-123_x", "xai-abc123def", TOKEN],
    ids=["anthropic", "google", "xai", "fernet"],
)
def test_keys_of_all_vendors_are_redacted(key: str) -> None:
    assert redact(f"refused: {key}, twice") == "refused: [redacted], twice"


def test_lines_within_an_operation_have_its_trace_until_it_has_ended(lines: Callable[[], list[dict[str, Any]]]) -> None:
    span = NoSpan()
    span.trace_id, span.span_id = "0af7", "b7ad"
    logger = logging.getLogger("parley.test")
    with within(span):
        logger.info("one", extra={"fields": {"a": 1}})
        logger.info("Free text of a library")
        span.ended = True  # a background task that the operation has started goes on
        logger.info("two")
    logger.info("three")
    found = [(line["event"], line.get("trace_id"), line.get("span_id")) for line in lines()]
    assert found == [("one", "0af7", "b7ad"), ("log", "0af7", "b7ad"), ("two", None, None), ("three", None, None)]
